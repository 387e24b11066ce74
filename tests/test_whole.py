"""Losses on a matrix held whole are those on its tiles: values, gradients, stats."""

import contextlib

import pytest
import torch

import siameselib as sl
from siameselib.kernels import whole

LOSSES = {
    "SupCon": lambda: sl.SupConLoss(backend="streaming", reduction="none"),
    "SupCon, cold": lambda: sl.SupConLoss(temperature=0.001, backend="streaming", reduction="none"),
    "NT-Xent": lambda: sl.NTXentLoss(backend="streaming", reduction="none"),
    "NT-Xent, cold": lambda: sl.NTXentLoss(
        temperature=0.001, backend="streaming", reduction="none"
    ),
    "multi-similarity": lambda: sl.MultiSimilarityLoss(backend="streaming", reduction="none"),
    "multi-similarity, all pairs": lambda: sl.MultiSimilarityLoss(
        epsilon=None, backend="streaming", reduction="none"
    ),
    "multi-similarity, steep": lambda: sl.MultiSimilarityLoss(
        alpha=300.0, beta=700.0, backend="streaming", reduction="none"
    ),
    "circle": lambda: sl.CircleLoss(backend="streaming", reduction="none"),
    "circle, steep": lambda: sl.CircleLoss(
        margin=0.9, gamma=1000.0, backend="streaming", reduction="none"
    ),
}
DISTANCES = {
    "contrastive": sl.BatchContrastiveLoss,
    "contrastive, linear": lambda **k: sl.BatchContrastiveLoss(
        squared=False, positive_margin=0.3, balanced=False, reduction="mean_active", **k
    ),
    "contrastive, squares": lambda **k: sl.BatchContrastiveLoss(
        metric="sqeuclidean", margin=3.0, **k
    ),
    "contrastive, cosine": lambda **k: sl.BatchContrastiveLoss(metric="cosine", margin=0.9, **k),
    "BCE pairs": lambda **k: sl.BatchBCEPairLoss(**k).double(),
    "lifted structure": sl.LiftedStructureLoss,
    "lifted structure, squares": lambda **k: sl.LiftedStructureLoss(
        metric="sqeuclidean", margin=9.0, **k
    ),
}


def batch(n, m=0, *, identities=5, seed=0):
    """Clusters with duplicates, zero rows, singletons, and labels of any size."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(identities, (n + m,), generator=g)
    labels[:2] = torch.tensor([77, -78])
    centres = torch.randn(identities, 4, generator=g, dtype=torch.float64)
    x = centres[labels % identities] + torch.randn(n + m, 4, generator=g, dtype=torch.float64)
    x[3], x[4], x[5] = x[2], 0, x[6]
    return x.split([n, m] if m else [n]), labels.split([n, m] if m else [n])


def results(monkeypatch, run, *inputs):
    """Value, gradients and stats: tiles first."""
    found = []
    for size in (0, whole.WHOLE):
        monkeypatch.setattr(whole, "WHOLE", size)
        leaves = [each.clone().requires_grad_() for each in inputs]
        values, stats = run(*leaves)
        weight = torch.linspace(-1, 2, values.numel(), dtype=values.dtype).view_as(values)
        gradients = torch.autograd.grad((weight * values).sum(), leaves)
        found.append((values.detach(), gradients, tuple(stats)))
    return found


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("large", [0, 2**40])
def test_as_in_tiles(name, large, monkeypatch):
    (x,), (labels,) = batch(40)
    criterion = LOSSES[name]()
    labels = labels + large  # so that they are no float32 numbers
    tiles, at_once = results(monkeypatch, lambda x: (criterion(x, labels), criterion.stats), x)
    torch.testing.assert_close(at_once, tiles, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("offset", [None, 0, 7])
def test_as_in_tiles_with_a_reference_set(name, offset, monkeypatch):
    (x, more), (labels, other) = batch(20, 31)
    criterion = LOSSES[name]()

    def run(x, more):
        ref, ref_labels = more, other
        if offset is not None:
            ref = torch.cat([more[:offset], x, more[offset:]])
            ref_labels = torch.cat([other[:offset], labels, other[offset:]])
        return criterion(x, labels, ref, ref_labels, offset), criterion.stats

    tiles, at_once = results(monkeypatch, run, x, more)
    torch.testing.assert_close(at_once, tiles, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("temperature", [0.1, 0.001])
def test_info_nce_as_in_tiles(labelled, temperature, monkeypatch):
    (x, y), (labels, _) = batch(30, 30)
    monkeypatch.setattr("siameselib.kernels._TINY", 0)  # no reference: it takes no backend
    criterion = sl.InfoNCELoss(temperature=temperature, reduction="none")
    run = lambda x, y: (criterion(x, y, labels if labelled else None), criterion.stats)  # noqa: E731
    tiles, at_once = results(monkeypatch, run, x, y)
    torch.testing.assert_close(at_once, tiles, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", LOSSES)
def test_waits_for_no_device(name, monkeypatch):
    # The device "meta" has no values, and no autocast.
    monkeypatch.setattr(torch, "autocast", lambda *args, **keywords: contextlib.nullcontext())
    x = torch.empty(100, 4, device="meta", requires_grad=True)
    labels = torch.empty(100, dtype=torch.long, device="meta")
    LOSSES[name]()(x, labels).sum().backward()
    assert x.grad.shape == (100, 4)


# distances


@pytest.mark.parametrize("name", DISTANCES)
@pytest.mark.parametrize("offset", [None, 0, 7, "alone"])
def test_distances_as_in_tiles(name, offset, monkeypatch):
    (x, more), (labels, other) = batch(20, 31)
    criterion = DISTANCES[name](backend="streaming")
    own = list(criterion.parameters())

    def run(x, more, *parameters):
        ref, ref_labels = more, other
        if offset == "alone":
            both = torch.cat([x, more]), torch.cat([labels, other])
            return _called(criterion, parameters, *both)
        if offset is not None:
            ref = torch.cat([more[:offset], x, more[offset:]])
            ref_labels = torch.cat([other[:offset], labels, other[offset:]])
        return _called(criterion, parameters, x, labels, ref, ref_labels, offset)

    parameters = [each.detach() for each in own]
    tiles, at_once = results(monkeypatch, run, x, more, *parameters)
    torch.testing.assert_close(at_once, tiles, rtol=1e-9, atol=1e-11)


def _called(criterion, parameters, *args):
    names = [name for name, _ in criterion.named_parameters()]
    given = dict(zip(names, parameters, strict=True))
    value = torch.func.functional_call(criterion, given, args)
    return value, criterion.stats


@pytest.mark.parametrize("name", DISTANCES)
@pytest.mark.parametrize("spread", [1.0, 0.4, 0.25, 1e-3])
@pytest.mark.parametrize("shift", [0.0, 30.0])
def test_float32_is_as_good_as_float64(name, spread, shift):
    """Clusters that are close together, and a batch that is far from the origin."""
    g = torch.Generator().manual_seed(3)
    labels = torch.arange(96) % 12
    x = torch.randn(12, 40, generator=g)[labels] + spread * torch.randn(96, 40, generator=g)
    x = (x + shift).requires_grad_()
    criterion = DISTANCES[name](backend="streaming")
    wide = DISTANCES[name](backend="reference")(x.double(), labels)
    value = criterion.to(x.dtype)(x, labels)
    torch.testing.assert_close(value.double(), wide, rtol=1e-6, atol=1e-9)
    found, true = (torch.autograd.grad(each, x)[0].double() for each in (value, wide))
    assert (found - true).abs().max() <= 1e-5 * true.abs().max()
