"""The doctor in several processes: each sees its own rows, and none waits for another."""

import sys
import tempfile
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

import siameselib as sl
from siameselib.diagnostics import Report

PROCESSES, STEPS = 2, 60
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="gloo's file store")


class Gathering(nn.Module):
    """Somebody's loss that fetches everybody's rows by itself."""

    def __init__(self):
        super().__init__()
        self.loss = nn.MSELoss()

    def forward(self, f, labels):
        parts = [torch.empty_like(f) for _ in range(PROCESSES)]
        dist.all_gather(parts, f.detach())
        return self.loss(f, torch.stack(parts).mean(0))


class Together(nn.Module):
    """A net that fetches everybody's statistics in training, as SyncBatchNorm does on GPUs."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        f = self.layer(x)
        if self.training:
            mean = f.detach().mean(0)
            dist.all_reduce(mean)
            f = f - mean / PROCESSES
        return f


class TripletsOfSomebody(nn.Module):
    """A batch loss that the doctor has to try out."""

    def __init__(self):
        super().__init__()
        self.margin = 0.2

    def forward(self, f, labels):
        d = torch.cdist(f.float(), f.float())
        same = labels[:, None] == labels
        terms = d[:, :, None] - d[:, None, :] + self.margin
        return terms[same[:, :, None] & ~same[:, None, :]].relu().mean()


def criteria():
    return {
        "healthy": sl.CrossProcessLoss(sl.SupConLoss()),
        "still": TripletsOfSomebody(),
        "one has 0 and 1": sl.SupConLoss(),
        "gathering": Gathering(),
        "together": sl.SupConLoss(),
    }


def net(name):
    torch.manual_seed(1)
    if name == "together":
        return Together()
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 8))


def train(name, criterion, rank, watched=True):
    """A loop as a user writes it; process 0 asks for reports on its own, process 1 at the end."""
    model = nn.parallel.DistributedDataParallel(net(name))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0 if name == "still" else 1e-2)
    doctor = sl.Doctor(model, criterion)
    centres = torch.randn(12, 8, generator=torch.Generator().manual_seed(5))
    noise = torch.Generator().manual_seed(rank)
    labels = torch.arange(48) // 4
    if name == "one has 0 and 1" and rank == 1:
        labels = labels % 2
    for step in range(STEPS):
        x = centres[torch.arange(48) // 4] + 0.5 * torch.randn(48, 8, generator=noise)
        with torch.autocast("cpu", torch.bfloat16):
            f = model(x)
            loss = criterion(f, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if watched:
            doctor.step(f, labels, loss, images=x)
            if rank == 0 and step % 25 == 9:
                doctor.report()
    parameters = torch.cat([p.detach().flatten() for p in model.module.parameters()])
    return doctor.report().as_dict(), parameters


def work(rank, folder):
    limit = timedelta(seconds=30)  # a report that waits for the others is an error, not a hang
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=PROCESSES, timeout=limit
    )
    found = {name: train(name, criterion, rank) for name, criterion in criteria().items()}
    found["unwatched"] = train("healthy", criteria()["healthy"], rank, watched=False)
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found():
    context = torch.multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        workers = [context.Process(target=work, args=(r, folder)) for r in range(PROCESSES)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(120)
        assert [worker.exitcode for worker in workers] == [0] * PROCESSES
        yield [torch.load(Path(folder) / f"{rank}.pt") for rank in range(PROCESSES)]


def reports(found, name):
    return [Report.from_dict(each[name][0]) for each in found]


def test_a_healthy_training_is_healthy_in_every_process(found):
    for report in reports(found, "healthy"):
        assert report.healthy and not report.findings, str(report)
        assert "train-eval-gap" in report.looked_at
        assert "few-positives" not in report.looked_at  # they may be in the other process


def test_training_goes_as_without_the_doctor(found):
    parameters = [each[name][1] for each in found for name in ("healthy", "unwatched")]
    assert all(torch.equal(each, parameters[0]) for each in parameters)


def test_what_is_wrong_everywhere_is_on_every_card(found):
    for report in reports(found, "still"):
        assert report.findings[0].code == "weights-not-moving"
        assert "all of them" in report.findings[0].seen
        assert "of a net that has learnt nothing 0.2" in report.vitals["loss"]


def test_what_is_wrong_in_one_process_is_on_its_card_only(found):
    well, ill = reports(found, "one has 0 and 1")
    assert "pair-labels-as-identities" in [finding.code for finding in ill.findings]
    assert "pair-labels-as-identities" not in [finding.code for finding in well.findings]


def test_what_calls_on_the_others_is_not_tried_out(found):
    for report in reports(found, "gathering"):
        assert "unknown (it wants the batches of other processes)" in report.vitals["loss"]
    for report in reports(found, "together"):
        assert "train-eval-gap" not in report.looked_at
        assert "loss-at-trivial" in report.looked_at
