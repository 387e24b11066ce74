"""The doctor beside loops that know nothing of this library, and the tables about it."""

import json

import pytest
import torch
from torch import nn

import siameselib as sl
from benchmarks.doctor import battery, cost
from benchmarks.doctor.script import TRAIN, people, small_net

PAGE = "docs/doctor.md"


def triplet_loop(root_seed=0, lr=2e-3, margin=1.0, steps=150, wrong=False):
    """Plain PyTorch: triplets drawn by hand, nn.TripletMarginLoss."""
    torch.manual_seed(root_seed)
    images, labels = people("gaussian", root_seed)
    net, criterion = small_net("gaussian"), nn.TripletMarginLoss(margin=margin)
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    doctor = sl.Doctor(net, criterion)
    per = int((labels == 0).sum())
    for _ in range(steps):
        who = torch.randint(TRAIN, (64,))
        other = (who + torch.randint(1, TRAIN, (64,))) % TRAIN
        first = torch.randint(per, (64,))
        second = (first + torch.randint(1, per, (64,))) % per
        a, p, n = who * per + first, who * per + second, other * per + second
        fa, fp, fn = net(images[torch.cat([a, p, n])]).chunk(3)
        if wrong:
            fa, fp, fn = (torch.sigmoid(f) for f in (fa, fp, fn))
        loss = criterion(fa, fp, fn)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        doctor.step((fa, fp, fn), None, loss)
    return doctor.report()


def pml_loop(labels_of=lambda labels: labels, steps=150):
    """pytorch-metric-learning as its readme shows it: a miner, a loss, an M-per-class batch."""
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    miners = pytest.importorskip("pytorch_metric_learning.miners")
    torch.manual_seed(0)
    images, labels = people("gaussian", 0)
    net, criterion = small_net("gaussian"), losses.TripletMarginLoss(margin=0.2)
    miner = miners.MultiSimilarityMiner()
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    doctor = sl.Doctor(net, criterion)
    rows = torch.nonzero(labels < TRAIN).flatten()
    per = int((labels == 0).sum())
    for _ in range(steps):
        chosen = torch.randperm(TRAIN)[:12]
        batch = (chosen[:, None] * per + torch.rand(12, per).argsort(1)[:, :4]).flatten()
        assert torch.isin(batch, rows).all()
        target = labels_of(labels[batch])
        f = net(images[batch])
        loss = criterion(f, target, miner(f, target))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        doctor.step(f, target, loss)
    return doctor.report()


def test_a_plain_pytorch_loop():
    assert triplet_loop().healthy
    assert triplet_loop(lr=0.0).findings[0].code == "weights-not-moving"
    assert triplet_loop(margin=30.0, wrong=True).findings[0].code == "margin-unsatisfiable"


def test_a_loop_of_pytorch_metric_learning():
    assert pml_loop().healthy
    finding = pml_loop(lambda labels: labels % 2).findings[0]
    assert finding.code == "pair-labels-as-identities"


def test_the_tables_in_the_docs_are_the_measured_ones(request):
    root = request.config.rootpath
    page, results = (root / PAGE).read_text("utf-8"), root / "benchmarks" / "results" / "doctor"
    found = json.loads((results / "battery.json").read_text())
    assert battery.table(found) in page
    assert found["sensitivity"] >= 0.95 and found["false_alarms"] <= 0.05
    assert len({row["fault"] for row in found["faults"]}) >= 25 <= len(found["healthy"])
    costs = json.loads((results / "cost.json").read_text())["rows"]
    assert cost.table(costs) in page
    assert all(cost.cheap(row) for row in costs) and any(row["step_ms"] > 1 for row in costs)


def test_the_cost_is_measured():
    row = cost.measure(cost.NETS[0], rounds=2)
    assert 0 < row["share"] < 1 and row["step_ms"] > 0
