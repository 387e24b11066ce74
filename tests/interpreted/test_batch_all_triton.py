"""Batch-all on Triton's kernels, in Triton's interpreter: what other dense losses do not have."""

import pytest
import torch

import siameselib as sl
from siameselib.kernels import triplet_sum_triton
from siameselib.kernels.triplet_sum import triplet_sum

pytestmark = pytest.mark.usefixtures("poisoned")
KINDS = ["hinge", "window", "soft"]


def uneven(n, d):
    """Classes of 1 to some 40, in any order."""
    labels = (torch.rand(n).square() * 20).long()
    labels[: n // 4] = 0
    order = torch.randperm(n)
    return torch.randn(n, d)[order], labels[order]


def sums(x, labels, backend, kind, metric="euclidean", margin=1.0):
    wide = x.double() if backend == "reference" else x
    inputs = wide.clone().requires_grad_()
    found = triplet_sum(
        inputs,
        labels,
        None,
        labels,
        0,
        metric=metric,
        margin=margin,
        kind=kind,
        backend=backend,
    )
    found.loss.backward()
    return found, inputs.grad


def agree(x, labels, kind, **keywords):
    (found, gradient), (expected, exact) = (
        sums(x, labels, backend, kind, **keywords) for backend in ("triton", "reference")
    )
    assert (found.loss - expected.loss).abs() <= 1e-5 * (1 + expected.loss)
    assert (gradient - exact).norm() <= 1e-5 * exact.norm()
    torch.testing.assert_close(found.distances.double(), expected.distances, rtol=1e-5, atol=1e-5)
    return found, expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("d", [3, 140])
def test_uneven_classes(kind, d, monkeypatch):
    monkeypatch.setattr(triplet_sum_triton, "processors", lambda device: 8)  # columns in parts
    x, labels = uneven(170, d)
    found, expected = agree(x, labels, kind)
    assert torch.equal(found.active, expected.active)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_vectors_of_other_classes(kind):
    # Of as many classes as rows are needed for a tile: far ones and near ones.
    x, labels = torch.randn(260, 7), torch.arange(260) // 2
    x[130:] = x[:130]
    order = torch.randperm(260)
    labels = labels[order]
    found, expected = agree(x[order], labels, kind)
    assert torch.equal(found.active, expected.active)
    # Each row's own copy is one, and where the positive is copied that is as far as the positive.
    assert expected.active.sum() > 260


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("labels", ["one", "singletons", "collapsed", "a row"])
def test_batches_with_little_in_them(kind, labels):
    x = torch.randn(40, 5)
    if labels == "collapsed":
        x = x[:1].expand(40, 5).contiguous()
    ids = {"one": torch.zeros(40), "singletons": torch.randperm(40), "a row": torch.zeros(1)}
    found, _ = agree(
        x[:1] if labels == "a row" else x, ids.get(labels, torch.arange(40) // 4), kind
    )
    assert labels == "collapsed" or found.loss == 0


def test_nan_is_found():
    x, labels = torch.randn(20, 4), torch.arange(20) // 5
    x[7] = torch.nan
    for keywords in ({}, {"soft": True}, {"window": "semi-hard"}):
        assert sl.BatchAllTripletLoss(backend="triton", **keywords)(x, labels).isnan()


@pytest.mark.parametrize("size", [1e-20, 1e20])
@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean"])
def test_sizes_out_of_the_range_of_squares(size, metric):
    x, labels = size * torch.randn(40, 5), torch.arange(40) // 4
    found, gradient = sums(x, labels, "triton", "hinge", metric)
    expected, exact = sums(x, labels, "reference", "hinge", metric)
    if metric == "euclidean" or size < 1:
        assert abs(found.loss - expected.loss) <= 1e-5 * expected.loss
    else:
        assert found.loss.isinf()
    assert (gradient / size - exact / size).norm() <= 1e-5 * (exact / size).norm()


def test_more_positives_than_there_is_room_for(monkeypatch):
    monkeypatch.setattr(triplet_sum_triton, "_ROOM", 2)
    monkeypatch.setattr(triplet_sum_triton, "_LEAST_ROOM", 0)
    x, labels = torch.randn(40, 3), torch.arange(40) // 4
    with pytest.raises(RuntimeError, match="take backend='streaming'"):
        sl.BatchAllTripletLoss(backend="triton")(x, labels)
    agree(x, torch.arange(40) // 3, "hinge")
    monkeypatch.setattr(triplet_sum_triton, "_COUNTED", 100)
    with pytest.raises(ValueError, match="up to 100 negatives, here are 128 rows or columns"):
        sl.BatchAllTripletLoss(backend="triton")(x, labels)


@pytest.mark.parametrize("precision", ["tf32", "fast"])
def test_precisions(precision):
    x, labels = uneven(150, 20)
    exact = sums(x, labels, "reference", "hinge")[1]
    with sl.use_backend("triton", precision=precision):
        gradient = sums(x, labels, "auto", "hinge")[1]
    assert 0 < (gradient - exact).norm() < 5e-3 * exact.norm()


def test_mean_over_what_is_active():
    x, labels = uneven(150, 20)
    for reduction in ("mean", "mean_active"):
        found, expected = (
            sl.BatchAllTripletLoss(reduction=reduction, backend=backend)
            for backend in ("triton", "reference")
        )
        loss = found(x, labels)
        assert loss.item() == pytest.approx(expected(x.double(), labels).item(), rel=1e-5)
        assert list(map(float, found.stats)) == pytest.approx(list(map(float, expected.stats)))
