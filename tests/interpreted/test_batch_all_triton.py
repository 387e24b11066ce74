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


def crowded(name):
    """Classes that there is no room for."""
    labels = {
        "one": torch.zeros(150),
        "two": torch.arange(150) // 75 + 5,
        "some large": torch.arange(290).sub(190).clamp(min=0) // 4,
    }[name]
    return torch.randn(len(labels), 5), labels[torch.randperm(len(labels))]


def same_as_the_reference(x, arguments, **keywords):
    given = []
    for backend in ("triton", "reference"):
        inputs = (x.double() if backend == "reference" else x).clone().requires_grad_()
        loss = sl.BatchAllTripletLoss(backend=backend, **keywords)(*arguments(inputs))
        (loss * torch.arange(1, 1 + loss.numel())).sum().backward()
        given.append((loss.detach(), inputs.grad))
    for one, other in zip(*given, strict=True):
        assert (one - other).norm() <= 1e-5 * other.norm()


@pytest.fixture
def little_room(monkeypatch):
    monkeypatch.setattr(triplet_sum_triton, "_ROOM", 3)
    monkeypatch.setattr(triplet_sum_triton, "_LEAST_ROOM", 0)


@pytest.mark.usefixtures("little_room")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("labels", ["one", "two", "some large"])
def test_more_positives_than_there_is_room_for(labels, kind):
    x, labels = crowded(labels)
    x[:20], x[20:40] = x[40:60], 0
    found, expected = agree(x, labels, kind, margin=0.3)
    assert torch.equal(found.active, expected.active)


@pytest.mark.usefixtures("little_room")
@pytest.mark.parametrize("metric", ["sqeuclidean", "cosine"])
def test_no_room_and_other_metrics(metric):
    x, labels = crowded("two")
    x = torch.nn.functional.normalize(x)
    x[:3] = 0
    same_as_the_reference(x, lambda x: (x, labels), margin=0.3, metric=metric)


@pytest.mark.usefixtures("little_room")
def test_no_room_with_a_larger_set_and_for_each():
    x, labels = crowded("some large")

    def arguments(x):
        return x[:140], labels[:140], x, labels, 0

    same_as_the_reference(x, arguments, reduction="none")


def test_room_for_some_anchors_only(monkeypatch):
    # Small classes come first, and fit.
    labels = torch.cat([torch.arange(130) // 2, torch.full((110,), 99), torch.full((20,), 100)])
    x, order = torch.randn(260, 5), torch.randperm(260)
    monkeypatch.setattr(triplet_sum_triton, "_ROOM", 1)
    monkeypatch.setattr(triplet_sum_triton, "_LEAST_ROOM", 0)
    seen = []
    launch = triplet_sum_triton.crowds_triton.add.run

    def look(*args, **keywords):
        seen.append(int(args[8]))
        return launch(*args, **keywords)

    monkeypatch.setattr(triplet_sum_triton.crowds_triton.add, "run", look)
    agree(x, labels[order], "hinge")
    assert seen == [128, 128]
    labels[130:] = torch.arange(130) // 2 + 200
    agree(x, labels[order], "hinge")
    assert seen[2:] == [384, 384]


@pytest.mark.usefixtures("little_room")
@pytest.mark.filterwarnings("ignore:All-NaN")  # says NumPy
def test_nan_is_found_without_room():
    x, labels = crowded("two")
    x[7] = torch.nan
    for keywords in ({}, {"soft": True}, {"window": "semi-hard"}):
        assert sl.BatchAllTripletLoss(backend="triton", **keywords)(x, labels).isnan()


def test_more_rows_than_can_be_counted(monkeypatch):
    monkeypatch.setattr(triplet_sum_triton, "_COUNTED", 100)
    with pytest.raises(ValueError, match="up to 100 negatives, here are 128 rows or columns"):
        sl.BatchAllTripletLoss(backend="triton")(torch.randn(40, 3), torch.arange(40) // 4)


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
