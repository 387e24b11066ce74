"""The loss of all triplets against loops over them, another library, and float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning import distances, losses, miners, reducers
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import siameselib as sl
from siameselib.functional import batch_all_triplet_loss, unit_rows
from siameselib.kernels import blocks, sweep, thresholds, triplet_sum, wide

KINDS = {"hinge": {}, "window": {"window": "semi-hard"}, "soft": {"soft": True}}


def clusters(n=40, d=6, images=4, seed=0, dtype=torch.float64, spread=0.7):
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(n // images, d, generator=g).repeat_interleave(images, 0)
    x = F.normalize(centres + spread * torch.randn(n, d, generator=g)).to(dtype)
    shuffle = torch.randperm(n, generator=g)
    return x[shuffle].requires_grad_(), (torch.arange(n) // images)[shuffle]


def naive_distance(metric, a, b):
    if metric == "cosine":
        lengths = math.hypot(*a) * math.hypot(*b)
        return 1 - (sum(p * q for p, q in zip(a, b, strict=True)) / lengths if lengths else 0)
    return math.dist(a, b) ** (2 if metric == "sqeuclidean" else 1)


def naive_terms(x, labels, y, y_labels, offset, metric, margin, kind):
    """The losses of all triplets, one list for each anchor."""
    every = []
    for i, a in enumerate(x):
        d = [naive_distance(metric, a, b) for b in y]
        terms = []
        for p in range(len(y)):
            if y_labels[p] != labels[i] or (offset is not None and p == offset + i):
                continue
            for n in range(len(y)):
                if y_labels[n] == labels[i]:
                    continue
                term = max(0.0, d[p] - d[n] + margin)
                if kind == "soft":
                    term = math.log1p(math.exp(d[p] - d[n]))
                elif kind == "window" and d[n] <= d[p]:
                    term = 0.0
                terms.append(term)
        every.append(terms)
    return every


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles and blocks small enough for a batch to have several."""
    monkeypatch.setattr(sweep, "_HEIGHT", 64)
    monkeypatch.setattr(sweep, "_WIDTH", 128)
    monkeypatch.setattr(wide, "_BLOCK", 1 << 10)
    monkeypatch.setattr(thresholds, "_LINES", 1 << 8)
    monkeypatch.setattr(blocks, "DIFFERENCES", 1 << 8)


@pytest.fixture(params=["reference", "comparing", "sorting"])
def way(request, monkeypatch):
    """Each way to sum; returns the backend to ask for."""
    if request.param == "sorting":
        monkeypatch.setattr(triplet_sum, "FEW", -1)
    return "reference" if request.param == "reference" else "streaming"


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean", "cosine"])
@pytest.mark.parametrize("kind", KINDS)
def test_against_loops(kind, metric, way):
    x, labels = clusters()
    x = x.detach() * torch.linspace(0, 2, 40)[:, None]
    x[5] = 0
    labels[:3] = torch.tensor([97, 98, 99])
    every = naive_terms(x.tolist(), labels, x.tolist(), labels, 0, metric, 0.3, kind)
    flat = [term for terms in every for term in terms]
    active = [term for term in flat if term > 0]
    assert active and (kind == "soft" or len(active) < len(flat))

    def loss(reduction):
        keywords = {"margin": 0.3, "metric": metric, "backend": way, **KINDS[kind]}
        return batch_all_triplet_loss(x, labels, reduction=reduction, **keywords)

    assert loss("mean") == pytest.approx(sum(flat) / len(flat), rel=1e-12)
    assert loss("mean_active") == pytest.approx(sum(active) / len(active), rel=1e-12)
    assert loss("sum") == pytest.approx(sum(flat), rel=1e-12)
    assert loss("none").tolist() == pytest.approx([sum(t) for t in every], rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_reference_set_against_loops(kind, way):
    x, labels = clusters(20)
    y, y_labels = clusters(28, seed=1)
    for offset in (None, 4):
        if offset is not None:
            y, y_labels = (
                torch.cat([y[:4], x, y[4:]]),
                torch.cat([y_labels[:4], labels, y_labels[4:]]),
            )
        every = naive_terms(
            x.tolist(), labels, y.tolist(), y_labels, offset, "euclidean", 0.2, kind
        )
        loss = batch_all_triplet_loss(
            x,
            labels,
            reduction="sum",
            backend=way,
            ref=y,
            ref_labels=y_labels,
            ref_offset=offset,
            **KINDS[kind],
        )
        assert loss.item() == pytest.approx(sum(map(sum, every)), rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("given_set", [False, True])
def test_gradient(kind, given_set, way):
    x, labels = clusters(16, 3)
    ref, ref_labels = clusters(12, 3, seed=1) if given_set else (None, None)
    for reduction in ("mean", "none"):
        keywords = {"reduction": reduction, "backend": way, **KINDS[kind]}
        assert torch.autograd.gradcheck(
            lambda x, ref, keywords=keywords: batch_all_triplet_loss(
                x, labels, ref=ref, ref_labels=ref_labels, **keywords
            ),
            (x, ref),
        )


def test_published_counts():
    """Triplets n (i - 1)(n - i); 12 for labels 0 0 1 1 2."""
    x, criterion = torch.randn(12, 2), sl.BatchAllTripletLoss()
    for images in (2, 3, 4, 6):
        criterion(x, torch.arange(12) // images)
        assert criterion.stats.valid == 12 * (images - 1) * (12 - images)
    criterion(x[:5], torch.tensor([0, 0, 1, 1, 2]))
    assert criterion.stats.valid == 12


def test_stats():
    x = torch.tensor([[0.0], [1.0], [3.0], [3.5], [9.0]])
    criterion = sl.BatchAllTripletLoss(margin=1.5)
    criterion(x, torch.tensor([0, 0, 1, 1, 2]))
    stats = criterion.stats
    # anchor: positive; negatives. 0: 1; 3 3.5 9. 1: 1; 2 2.5 8. 3: .5; 3 2 6. 3.5: .5; 3.5 2.5 5.5
    assert stats.valid == 12 and stats.active == torch.tensor(1 / 12)
    assert stats.positive_distance == 0.75 and stats.trivial == 1.5
    negatives = (3 + 3.5 + 9) + (2 + 2.5 + 8) + (3 + 2 + 6) + (3.5 + 2.5 + 5.5)
    assert stats.negative_distance == pytest.approx(negatives / 12)


# another library


@pytest.mark.parametrize("backend", ["reference", "streaming"])
def test_against_pml(backend):
    x, labels = clusters(120, 8)
    metric = distances.LpDistance(normalize_embeddings=False)
    for keywords, mined, reducer in (
        ({}, None, reducers.MeanReducer()),
        ({"reduction": "mean_active"}, None, reducers.AvgNonZeroReducer()),
        (
            {"reduction": "mean_active", "window": "semi-hard"},
            miners.TripletMarginMiner(0.2, type_of_triplets="semihard", distance=metric),
            reducers.MeanReducer(),
        ),
    ):
        their = losses.TripletMarginLoss(0.2, distance=metric, reducer=reducer)
        theirs = their(x, labels, mined(x, labels) if mined else None)
        ours = batch_all_triplet_loss(x, labels, backend=backend, **keywords)
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=0)
        grads = [torch.autograd.grad(each, x)[0] for each in (ours, theirs)]
        torch.testing.assert_close(*grads, rtol=1e-8, atol=1e-12)


# numbers


def compared(x, labels, kind, metric="euclidean", y=None, y_labels=None, offset=0, margin=0.2):
    """Loss, counts and gradients of both backends, with weights for the anchors."""
    found = []
    for backend in ("reference", "streaming"):
        leaves = [each.clone().requires_grad_() for each in (x, y) if each is not None]
        rows = [unit_rows(each) if metric == "cosine" else each for each in leaves]
        sums = triplet_sum.triplet_sum(
            rows[0],
            labels,
            rows[1] if len(rows) > 1 else None,
            labels if y_labels is None else y_labels,
            offset,
            metric=metric,
            margin=margin,
            kind=kind,
            backend=backend,
        )
        found.append((sums, torch.autograd.grad(sums.loss, leaves)))
    return found


@settings(max_examples=60, deadline=None)
@given(
    st.integers(2, 150),
    st.integers(2, 20),
    st.integers(1, 40),
    st.sampled_from([torch.float32, torch.float64]),
    st.sampled_from(list(KINDS)),
    st.sampled_from(["euclidean", "sqeuclidean", "cosine"]),
    st.sampled_from(["plain", "duplicates", "whole", "zero rows", "near", "apart"]),
    st.integers(0, 10**6),
)
def test_backends_agree(n, d, classes, dtype, kind, metric, shape, seed):
    g = torch.Generator().manual_seed(seed)
    x, labels = (
        torch.randn(n, d, generator=g, dtype=dtype),
        torch.randint(classes, (n,), generator=g),
    )
    y, y_labels, offset, margin = None, None, 0, 0.5
    if shape == "duplicates":
        x = x[torch.randint(0, (n + 1) // 2, (n,), generator=g)]
    elif shape == "whole":
        x = x.round()
    elif shape == "zero rows":
        x[::3] = 0
    elif shape == "near":
        x = x[torch.randint(0, (n + 1) // 2, (n,), generator=g)] + 1e-5 * x
    elif shape == "apart":
        y, y_labels, offset = torch.randn(30, d, generator=g, dtype=dtype), torch.arange(30), None
    (truth, grads), (ours, our_grads) = compared(
        x, labels, kind, metric, y, y_labels, offset, margin
    )
    loose = 3e-6 if dtype == torch.float32 else 1e-11
    span = truth.distances.abs().max()
    assert torch.equal(truth.active, ours.active)  # to the last triplet
    torch.testing.assert_close(ours.distances, truth.distances, rtol=loose, atol=0)
    size = max(1, int(truth.active.max())) * float(span)
    assert abs(ours.loss - truth.loss) <= loose * max(truth.loss, 1e-2 * size)
    for a, b in zip(our_grads, grads, strict=True):
        assert (a - b).abs().max() <= 5 * loose * max(b.abs().max(), 1e-2)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [63, 64, 65, 200, 300])
def test_several_tiles(n, kind):
    g = torch.Generator().manual_seed(n)
    x, labels = torch.randn(n, 5, generator=g).double(), torch.randint(n // 5, (n,), generator=g)
    for y, y_labels, offset in ((None, None, 0), (torch.cat([x[7:9], x, x[:90]]), None, 2)):
        if y is not None:
            y_labels = torch.cat([labels[7:9], labels, labels[:90]])
        (truth, grads), (ours, our_grads) = compared(
            x, labels, kind, "euclidean", y, y_labels, offset
        )
        assert torch.equal(truth.active, ours.active)
        torch.testing.assert_close(ours.loss, truth.loss, rtol=1e-12, atol=0)
        torch.testing.assert_close(our_grads, grads, rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("kind", ["hinge", "window"])
@pytest.mark.parametrize("duplicates", [False, True])
def test_sorting_agrees_over_several_blocks(kind, duplicates, monkeypatch):
    monkeypatch.setattr(triplet_sum, "FEW", -1)
    g = torch.Generator().manual_seed(0)
    x, labels = torch.randn(150, 5, generator=g), torch.randint(4, (150,), generator=g)
    if duplicates:
        x = x[torch.randint(0, 80, (150,), generator=g)]
    for y, offset in ((None, 0), (x.flip(0)[:90], None)):
        y_labels = None if y is None else labels[:90]
        (truth, grads), (ours, our_grads) = compared(
            x, labels, kind, "euclidean", y, y_labels, offset
        )
        assert torch.equal(truth.active, ours.active)
        torch.testing.assert_close(ours.loss, truth.loss, rtol=1e-6, atol=0)
        torch.testing.assert_close(our_grads, grads, rtol=1e-5, atol=1e-4)


def test_thresholds_are_decided_in_float64():
    """Negatives a hair inside and outside the margin, closer than float32 tells apart."""
    base = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    angles = torch.linspace(0.1, 3, 200, dtype=torch.float64)
    ring = 1.25 * torch.stack([angles.cos(), angles.sin()], 1)
    x = torch.cat([base, ring.float()])
    labels = torch.cat([torch.zeros(2, dtype=torch.long), torch.arange(1, 201)])
    inside = (ring.float().double().square().sum(1).sqrt() < 1.25).sum()
    assert 20 < inside < 180
    for backend in ("reference", "streaming"):
        sums = triplet_sum.triplet_sum(
            x,
            labels,
            None,
            labels,
            0,
            metric="euclidean",
            margin=0.25,
            kind="hinge",
            backend=backend,
        )
        assert sums.active[0] == inside


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("trouble", ["none", "duplicates", "far from the origin", "collapsed"])
def test_float32_is_as_good_as_float64(kind, trouble):
    x, labels = clusters(400, 64, dtype=torch.float32)
    x = x.detach()
    if trouble == "duplicates":
        x = x[torch.randint(0, 200, (400,), generator=torch.Generator().manual_seed(0))]
    elif trouble == "far from the origin":
        x += 30
    elif trouble == "collapsed":
        x = x[:1] + 1e-4 * x
    (truth, (gradient,)), (ours, (our_gradient,)) = compared(x, labels, kind)
    assert abs(ours.loss.double() / truth.loss.double() - 1) <= 1e-6
    assert (our_gradient - gradient).abs().max() <= 1e-5 * gradient.abs().max()


class Largest(TorchDispatchMode):
    """Keeps the number of bytes of the largest tensor that any operation returned."""

    size = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for each in result if isinstance(result, tuple | list) else [result]:
            if isinstance(each, torch.Tensor):
                self.size = max(self.size, each.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("images", [4, 1024])
def test_never_holds_the_matrix(images):
    x, labels = torch.randn(2048, 4, requires_grad=True), 1 + torch.arange(2048) // images
    with Largest() as largest:
        batch_all_triplet_loss(x, labels).backward()
    assert largest.size <= 4 * 2048 * 2048 / 3


def test_operators_are_well_formed():
    x, labels = torch.randn(12, 3, requires_grad=True), torch.arange(12) // 3
    problem = (labels, labels, 0, "euclidean", 0.2, "hinge", None)
    torch.library.opcheck(torch.ops.siameselib.triplet_sum_each.default, (x, None, *problem))
    fixed = x.detach()
    torch.library.opcheck(
        torch.ops.siameselib.triplet_sum.default, (fixed, fixed + 1, *problem, None, True)
    )
    arguments = (torch.tensor(1.0), [x], [fixed])
    torch.library.opcheck(torch.ops.siameselib.given.default, arguments)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean", "cosine"])
@pytest.mark.parametrize("scale", [1e-18, 1e18])
def test_scale_is_no_matter(kind, metric, scale):
    g = torch.Generator().manual_seed(0)
    x, labels = scale * torch.randn(40, 5, generator=g), torch.arange(40) // 4
    unit = {"euclidean": scale, "sqeuclidean": scale**2, "cosine": 1.0}[metric]
    found = []
    for backend in ("reference", "streaming"):
        inputs = x.clone().requires_grad_()
        words = KINDS[kind] | {"metric": metric, "backend": backend}
        loss = batch_all_triplet_loss(inputs, labels, margin=0.2 * unit, **words)
        loss.backward()
        found.append((loss.detach(), inputs.grad))
    (true, slope), (loss, gradient) = found
    torch.testing.assert_close(loss, true)
    # the reference's own squares, 1e-36, leave little for the gradient
    torch.testing.assert_close(gradient, slope, rtol=1e-4, atol=1e-6 * float(slope.abs().max()))


def test_window_and_soft_exclude_each_other():
    x, labels = clusters()
    with pytest.raises(ValueError, match="window must be None when soft"):
        batch_all_triplet_loss(x, labels, soft=True, window="semi-hard")
    with pytest.raises(ValueError, match="window must be one of None, 'semi-hard', got 'hard'"):
        batch_all_triplet_loss(x, labels, window="hard")
