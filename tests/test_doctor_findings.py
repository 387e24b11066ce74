"""Every finding: a case in which it must be made, and one in which it must keep quiet."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import siameselib as sl
from siameselib.diagnostics.findings import CHECKS

N, D = 48, 16


class Fixed(nn.Module):
    """A net without parameters, for findings that are about embeddings only."""

    def __init__(self, head=None):
        super().__init__()
        self.head = head


def labels_of(step):
    """Twelve identities of 40, four rows each."""
    g = torch.Generator().manual_seed(step)
    return torch.randperm(40, generator=g)[:12].repeat_interleave(4)


def clustered(labels, noise=0.3, width=D):
    """Embeddings that know the identity."""
    centres = torch.randn(40, width, generator=torch.Generator().manual_seed(7))
    return centres[labels % 40] + noise * torch.randn(len(labels), width)


def batches(embed=clustered, labels=labels_of, criterion=None, steps=70, loss=None, **kwargs):
    doctor = sl.Doctor(Fixed(), criterion, **kwargs)
    for step in range(steps):
        y = labels(step)
        doctor.step(embed(y), y, 1 / (1 + step) if loss is None else loss(step))
    return doctor.report()


def same_of(step, n=64):
    return (torch.arange(n) + step) % 2


def pair(same, noise=0.4):
    f1 = torch.randn(len(same), D)
    other = torch.randn(len(same), D)
    return f1, torch.where(same[:, None] > 0, f1 + noise * other, other)


def pairs(
    embed=pair, same=same_of, criterion=None, logits=None, head=None, steps=70, loss=None, **kwargs
):
    doctor = sl.Doctor(Fixed(head), criterion, **kwargs)
    for step in range(steps):
        y = same(step)
        f1, f2 = embed(y.flatten())
        z = None if logits is None else logits(f1, f2)
        doctor.step((f1, f2), y, 1 / (1 + step) if loss is None else loss(step), logits=z)
    return doctor.report()


def triplets(embed, criterion, steps=70):
    doctor = sl.Doctor(Fixed(), criterion)
    for _ in range(steps):
        doctor.step(embed(), None, 0.01)
    doctor.validation(torch.arange(100.0), torch.arange(100) % 2)
    return doctor.report()


def similarity(f1, f2):
    return 4 - (f1 - f2).norm(dim=1)


def train(net=None, lr=0.1, steps=70, criterion=None, embed=None, noise=False, optimizer=None):
    """Really train, on points around centres."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(D, 32), nn.ReLU(), nn.Linear(32, 8)) if net is None else net
    criterion = sl.SupConLoss() if criterion is None else criterion
    trainable = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trainable, lr=lr) if optimizer is None else optimizer(net)
    doctor = sl.Doctor(net, criterion)
    for step in range(steps):
        y = labels_of(step)
        x = clustered(y, 1.0)
        f = (net if embed is None else embed)(x)
        loss = criterion(f, y[torch.randperm(len(y))] if noise else y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        doctor.step(f, y, loss)
    return doctor.report()


def validated(scores, same, threshold=None, train_noise=0.3, steps=20):
    doctor = sl.Doctor(Fixed())
    for step in range(steps):
        y = labels_of(step)
        doctor.step(clustered(y, train_noise), y, 1.0)
    doctor.validation(scores, same, threshold)
    return doctor.report()


ONE = torch.arange(200) % 2
GOOD = ONE + 0.4 * torch.randn(200, generator=torch.Generator().manual_seed(0))
POOR = ONE + 4.0 * torch.randn(200, generator=torch.Generator().manual_seed(0))


def dead_layer():
    net = nn.Sequential(nn.Linear(D, 32), nn.ReLU(), nn.Linear(32, 8))
    with torch.no_grad():
        net[0].bias[:24] = -100.0
    return net


def half_frozen(frozen):
    trunk = nn.Sequential(nn.Linear(D, 32), nn.BatchNorm1d(32))
    return nn.Sequential(frozen(trunk), nn.Linear(32, 8))


def sigmoids(depth):
    parts = [part for _ in range(depth) for part in (nn.Linear(D, D), nn.Sigmoid())]
    return nn.Sequential(*parts, nn.Linear(D, D))


def detached(net):
    return lambda x: net[2](net[1](net[0](x)).detach())


def modes(momentum):
    net = nn.Sequential(nn.Linear(D, 32), nn.BatchNorm1d(32, momentum=momentum), nn.ReLU())
    net[1].running_mean.fill_(30.0)
    doctor = sl.Doctor(net)
    for step in range(60):
        y = labels_of(step)
        x = clustered(y)
        with torch.no_grad():
            f = net(x)
        doctor.step(f, y, 1.0, images=x)
    return doctor.report()


def exploding(f, y):
    return torch.cdist(f, f).square().mean()


def growing(net):
    return torch.optim.SGD(net.parameters(), lr=0.05, maximize=True)


CASES = {
    "non-finite": (
        lambda: batches(loss=lambda step: float("nan") if step > 40 else 1.0),
        batches,
    ),
    "labels-as-column": (lambda: pairs(same=lambda s: same_of(s)[:, None]), pairs),
    "labels-inverted": (lambda: pairs(embed=lambda y: pair(1 - y)), pairs),
    "pair-labels-as-identities": (
        lambda: batches(labels=lambda step: torch.arange(N) % 2),
        batches,
    ),
    "one-vs-rest": (
        lambda: batches(labels=lambda step: torch.where(torch.arange(N) < 16, step % 20, 30)),
        batches,
    ),
    "one-kind-of-pair": (lambda: pairs(same=lambda step: torch.full((64,), step % 2)), pairs),
    "few-positives": (lambda: batches(labels=lambda step: torch.arange(N) + step), batches),
    "few-identities": (
        lambda: batches(labels=lambda step: torch.full((N,), step % 20)),
        batches,
    ),
    "sigmoid-twice": (
        lambda: pairs(
            criterion=nn.BCEWithLogitsLoss(), logits=lambda a, b: similarity(a, b).sigmoid()
        ),
        lambda: pairs(criterion=nn.BCEWithLogitsLoss(), logits=similarity),
    ),
    "sigmoid-before-margin": (
        lambda: pairs(margin=2.0, logits=lambda a, b: 1 - similarity(a, b).sigmoid()),
        lambda: pairs(margin=2.0, logits=lambda a, b: (a - b).norm(dim=1)),
    ),
    "head-additive": (
        lambda: pairs(criterion=nn.BCEWithLogitsLoss(), head=sl.ConcatHead(D)),
        lambda: pairs(criterion=nn.BCEWithLogitsLoss(), head=sl.InteractionHead(D)),
    ),
    "head-asymmetric": (
        lambda: pairs(criterion=nn.BCEWithLogitsLoss(), head=sl.ConcatHead(D)),
        lambda: pairs(criterion=nn.BCEWithLogitsLoss(), head=sl.DistanceHead()),
    ),
    "logits-starved": (
        lambda: pairs(
            criterion=sl.BCEPairLoss(),
            embed=lambda y: tuple(F.normalize(f, p=1) for f in pair(y)),
            logits=lambda a, b: 0.001 * similarity(a, b),
        ),
        lambda: pairs(criterion=sl.BCEPairLoss(), logits=similarity),
    ),
    "no-gradient": (
        lambda: train(
            net := nn.Sequential(nn.Linear(D, 32), nn.ReLU(), nn.Linear(32, 8)), embed=detached(net)
        ),
        train,
    ),
    "weights-not-moving": (lambda: train(lr=0.0), train),
    "learning-rate-too-low": (lambda: train(lr=1e-6), train),
    "learning-rate-too-high": (
        lambda: train(
            criterion=sl.BatchHardTripletLoss(),
            optimizer=lambda net: torch.optim.Adam(net.parameters(), lr=3.0),
            embed=None,
            noise=True,
        ),
        train,
    ),
    "gradients-explode": (
        lambda: train(criterion=exploding, optimizer=growing, steps=80),
        train,
    ),
    "gradients-vanish": (lambda: train(sigmoids(12)), train),
    "dead-units": (lambda: train(dead_layer(), noise=True), lambda: train(noise=True)),
    "margin-inactive": (
        lambda: pairs(
            embed=lambda y: [30 * f for f in pair(y, 3.0)], criterion=sl.ContrastiveLoss(margin=1.0)
        ),
        lambda: pairs(embed=lambda y: pair(y, 1.0), criterion=sl.ContrastiveLoss(margin=6.0)),
    ),
    "margin-unsatisfiable": (
        lambda: batches(
            embed=lambda y: F.normalize(clustered(y)), criterion=nn.TripletMarginLoss(margin=3.0)
        ),
        lambda: batches(
            embed=lambda y: F.normalize(clustered(y)), criterion=nn.TripletMarginLoss(margin=0.3)
        ),
    ),
    "zero-rows": (lambda: batches(lambda y: clustered(y) * (torch.rand(N, 1) < 0.7)), batches),
    "total-collapse": (lambda: batches(lambda y: 5 + 0.001 * clustered(y)), batches),
    "dimensional-collapse": (
        lambda: batches(lambda y: clustered(y)[:, :1] * torch.arange(1.0, D + 1)),
        batches,
    ),
    "dead-dimensions": (
        lambda: batches(lambda y: F.pad(clustered(y)[:, :6], (0, 10))),
        batches,
    ),
    "duplicates-in-pairs": (
        lambda: pairs(embed=lambda y: (f := pair(y)[0], torch.where(y[:, None] > 0, f, f.flip(0)))),
        pairs,
    ),
    "duplicates-across-identities": (
        lambda: pairs(embed=lambda y: (f := pair(y)[0], torch.where(y[:, None] > 0, f.flip(0), f))),
        pairs,
    ),
    "loss-at-trivial": (
        lambda: pairs(
            embed=lambda y: pair(y * 0),
            criterion=nn.BCEWithLogitsLoss(),
            loss=lambda step: 0.6931 + 0.001 * (step % 3),
        ),
        lambda: pairs(criterion=nn.BCEWithLogitsLoss()),
    ),
    "loss-above-trivial": (
        lambda: batches(criterion=nn.TripletMarginLoss(margin=0.2), loss=lambda step: 5.0),
        lambda: batches(criterion=nn.TripletMarginLoss(margin=0.2), loss=lambda step: 0.3),
    ),
    "nothing-active": (
        lambda: triplets(
            lambda: (a := torch.randn(64, D), a + 0.01 * torch.randn(64, D), a.flip(0)),
            nn.TripletMarginLoss(margin=0.2),
        ),
        lambda: triplets(
            lambda: (a := torch.randn(64, D), a + torch.randn(64, D), a.flip(0)),
            nn.TripletMarginLoss(margin=2.0),
        ),
    ),
    "threshold-error": (
        lambda: validated(GOOD, ONE, -1.0),
        lambda: validated(GOOD, ONE, 0.5),
    ),
    "overfitting": (
        lambda: validated(POOR, ONE),
        lambda: validated(GOOD, ONE),
    ),
    "unfinished": (
        lambda: batches(
            lambda y: clustered(y, 1.2), steps=200, loss=lambda step: 0.99**step + 0.1 * (step % 2)
        ),
        lambda: batches(
            lambda y: clustered(y, 1.2), steps=200, loss=lambda step: 0.5 + 0.1 * (step % 2)
        ),
    ),
    "near-chance": (
        lambda: validated(POOR, ONE, train_noise=3.0, steps=200),
        lambda: validated(GOOD, ONE, steps=200),
    ),
    "frozen-but-moving": (
        lambda: train(half_frozen(lambda trunk: trunk.requires_grad_(False))),
        lambda: train(half_frozen(sl.freeze)),
    ),
    "train-eval-gap": (lambda: modes(0.0), lambda: modes(0.2)),
}


def code_of(check):
    return check.__name__.replace("_", "-")


def test_every_finding_has_a_case():
    assert {code_of(check) for check in CHECKS} == set(CASES)


@pytest.mark.parametrize("code", CASES)
def test_found_where_planted(code):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the losses themselves warn of some of these
        report = CASES[code][0]()
    assert code in [finding.code for finding in report.findings], str(report)
    (finding,) = [finding for finding in report.findings if finding.code == code]
    assert report.healthy == (finding.severity == "note")
    assert finding.page == f"docs/doctor.md#{code}"
    for text in (finding.seen, finding.why, finding.do):
        assert text[-1] in ".)" and not text[0].islower() and " nan" not in text, text


@pytest.mark.parametrize("code", CASES)
def test_quiet_where_all_is_well(code):
    report = CASES[code][1]()
    assert code in report.looked_at
    assert code not in [finding.code for finding in report.findings], str(report)


def test_margins_that_are_told_to_use_are_of_the_measured_scale():
    (finding,) = [f for f in CASES["margin-inactive"][0]().findings if f.code == "margin-inactive"]
    told = float(finding.do.split("about ")[1].split(",")[0])
    expected = np.median(
        [30 * np.linalg.norm(np.random.default_rng(k).normal(size=D) * 2**0.5) for k in range(500)]
    )
    assert told == pytest.approx(expected, rel=0.15)


def test_thresholds_that_are_told_to_use_work():
    (finding,) = [f for f in validated(GOOD, ONE, -1.0).findings if f.code == "threshold-error"]
    told = float(finding.do.split("threshold ")[1].split(" ")[0])
    assert ((told <= GOOD) == ONE.bool()).float().mean() > 0.85


class L1(nn.Module):
    """|f1 - f2| of L1-normalised embeddings into one linear layer."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.scale, self.dense = scale, nn.Linear(1024, 1)

    def forward(self, f1, f2):
        f1, f2 = (self.scale * F.normalize(f, p=1) for f in (f1, f2))
        return self.dense((f1 - f2).abs()).flatten()


@pytest.mark.parametrize(("scale", "starved"), [(1.0, True), (1024.0, False)])
def test_a_head_that_creeps_is_starved(scale, starved):
    """The weights have grown until the logits differ by more than rounding, yet answer nothing."""
    head = L1(scale)
    nn.init.normal_(head.dense.weight, std=3.0 / scale)

    def embed(same):  # of positive entries, told apart by a little
        f1, other = torch.rand(2, len(same), 1024)
        return f1, torch.where(same[:, None] > 0, 0.97 * other + 0.03 * f1, other)

    with torch.no_grad():
        report = pairs(
            embed=embed,
            criterion=nn.BCEWithLogitsLoss(),
            head=head,
            logits=head,
            loss=lambda step: 0.688 + 0.002 * (step % 2),
        )
    spread = float(torch.cat([head(*embed(same_of(0))).detach() for _ in range(4)]).std())
    assert 0.02 < spread < 0.5
    assert ("logits-starved" in [f.code for f in report.findings]) == starved, str(report)
