"""Losses on all pairs of a batch against loops, dense formulas, and another library."""

import math
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning import distances, losses, reducers
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import siameselib as sl
from siameselib.functional import (
    batch_bce_pair_loss,
    batch_contrastive_loss,
    pair_loss,
    unit_rows,
)
from siameselib.kernels import blocks, pair_sum, pair_total, sweep, wide
from siameselib.kernels.pair_terms import TERMS, differentiated

METRICS = ["euclidean", "sqeuclidean", "cosine"]
NUMBERS = torch.tensor([0.2, 1.1], dtype=torch.float64)


def clusters(n=40, d=6, images=4, seed=0, dtype=torch.float64, spread=0.7):
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(-(-n // images), d, generator=g).repeat_interleave(images, 0)[:n]
    x = F.normalize(centres + spread * torch.randn(n, d, generator=g)).to(dtype)
    shuffle = torch.randperm(n, generator=g)
    return x[shuffle].requires_grad_(), (torch.arange(n) // images)[shuffle]


def naive_distance(metric, a, b):
    if metric == "cosine":
        lengths = math.hypot(*a) * math.hypot(*b)
        return 1 - (sum(p * q for p, q in zip(a, b, strict=True)) / lengths if lengths else 0)
    return math.dist(a, b) ** (2 if metric == "sqeuclidean" else 1)


def naive_terms(x, labels, y, y_labels, offset, metric, positive, negative):
    """For each anchor the losses of its positive and of its negative pairs."""
    every = []
    for i, a in enumerate(x):
        kinds = [], []
        for j, b in enumerate(y):
            same = bool(labels[i] == y_labels[j])
            if not (same and offset is not None and j == offset + i):
                d = naive_distance(metric, a, b)
                kinds[not same].append((positive if same else negative)(d))
        every.append(kinds)
    return every


def naive_reductions(every, balanced):
    """What the four reductions are, from the losses of all pairs."""
    kinds = [[v for row in every for v in row[k]] for k in (0, 1)]
    active = [[v for v in kind if v > 0] for kind in kinds]
    n = sum(map(len, kinds))
    weights = [n / (2 * len(kind)) if balanced else 1 for kind in kinds]
    each = [sum(w * sum(kind) for w, kind in zip(weights, row, strict=True)) for row in every]
    means = [sum(kind) / max(1, len(kind)) for kind in active]
    both = sum(map(len, active))
    return {
        "none": each,
        "sum": sum(each),
        "mean": sum(each) / n,
        "mean_active": sum(means) / 2 if balanced else sum(map(sum, active)) / both,
    }


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles and blocks small enough for a batch to have several."""
    monkeypatch.setattr(sweep, "_HEIGHT", 64)
    monkeypatch.setattr(sweep, "_WIDTH", 128)
    monkeypatch.setattr(blocks, "DIFFERENCES", 1 << 8)
    monkeypatch.setattr(pair_total, "DIFFERENCES", 1 << 8)
    monkeypatch.setattr(wide, "_BLOCK", 1 << 10)


@pytest.fixture(params=["reference", "one by one", "tiles", "wide"])
def way(request, monkeypatch):
    """Each way to sum; returns the backend to ask for."""
    if request.param in {"tiles", "wide"}:
        monkeypatch.setattr(pair_sum, "FEW", -1)
    if request.param == "wide":
        monkeypatch.setattr(pair_total, "Sweep", wide.Wide)
    return "reference" if request.param == "reference" else "streaming"


def hinges(squared, q=0.2, m=1.1):
    power = 2 if squared else 1
    return lambda d: max(0.0, d - q) ** power, lambda d: max(0.0, m - d) ** power


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("squared", [True, False])
def test_contrastive_against_loops(metric, squared, way):
    x, labels = clusters()
    x = x.detach() * torch.linspace(0, 2, 40)[:, None]
    x[5] = 0
    labels[:3] = torch.tensor([97, 98, 99])
    every = naive_terms(x.tolist(), labels, x.tolist(), labels, 0, metric, *hinges(squared))
    keywords = {"metric": metric, "squared": squared, "margin": 1.1, "positive_margin": 0.2}
    for balanced in (True, False):
        for reduction, expected in naive_reductions(every, balanced).items():
            loss = batch_contrastive_loss(
                x, labels, reduction=reduction, balanced=balanced, backend=way, **keywords
            )
            assert loss.tolist() == pytest.approx(expected, rel=1e-12, abs=1e-12)
    flat = [v for row in every for kind in row for v in kind]
    criterion = sl.BatchContrastiveLoss(backend=way, **keywords)
    criterion(x, labels)
    assert criterion.stats.valid == 40 * 39 == len(flat)
    assert criterion.stats.active * len(flat) == pytest.approx(sum(v > 0 for v in flat))


@pytest.mark.parametrize("offset", [None, 4])
def test_reference_set_against_loops(offset, way):
    x, labels = clusters(20)
    y, y_labels = clusters(28, seed=1)
    if offset is not None:
        y = torch.cat([y[:4], x, y[4:]])
        y_labels = torch.cat([y_labels[:4], labels, y_labels[4:]])
    sides = x.tolist(), labels, y.tolist(), y_labels, offset
    expected = naive_reductions(naive_terms(*sides, "euclidean", *hinges(True)), True)
    for reduction in ("mean", "none"):
        loss = batch_contrastive_loss(
            x,
            labels,
            margin=1.1,
            positive_margin=0.2,
            reduction=reduction,
            backend=way,
            ref=y,
            ref_labels=y_labels,
            ref_offset=offset,
        )
        assert loss.tolist() == pytest.approx(expected[reduction], rel=1e-12)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("given_set", [False, True])
def test_gradient(metric, given_set, way):
    x, labels = clusters(9, 2)
    ref, ref_labels = clusters(6, 2, seed=1) if given_set else (None, None)
    for reduction in ("mean", "none", "mean_active"):
        keywords = {"reduction": reduction, "metric": metric, "backend": way, "margin": 1.3}
        assert torch.autograd.gradcheck(
            lambda x, ref, keywords=keywords: batch_contrastive_loss(
                x, labels, ref=ref, ref_labels=ref_labels, **keywords
            ),
            (x, ref),
        )


# SigLIP


def dense_siglip(x, labels, log_scale, bias):
    """The formula of the paper on the whole matrix; all ordered pairs of different rows."""
    cosine = F.normalize(x) @ F.normalize(x).T
    sign = torch.where(labels[:, None] == labels, 1, -1)
    terms = -F.logsigmoid(sign * (log_scale.exp() * cosine + bias))
    return terms[~torch.eye(len(x), dtype=torch.bool)].mean()


def test_bce_is_siglip(way):
    x, labels = clusters(50)
    x = (3 * x).detach().requires_grad_()
    inputs = x, torch.tensor(1.5).double().requires_grad_(), torch.tensor(-3.0, requires_grad=True)
    ours = batch_bce_pair_loss(x, labels, *inputs[1:], backend=way)
    theirs = dense_siglip(x, labels, *inputs[1:])
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    grads = [torch.autograd.grad(each, inputs) for each in (ours, theirs)]
    torch.testing.assert_close(*grads, rtol=1e-7, atol=1e-14)
    assert grads[0][1].shape == () and grads[0][2].dtype == torch.float32


def test_images_and_texts_as_in_the_paper(way):
    images, texts = (F.normalize(clusters(12, seed=seed)[0]) for seed in (0, 1))
    logits = math.exp(math.log(10)) * images @ texts.T - 10
    sign = 2 * torch.eye(12) - 1
    expected = -F.logsigmoid(sign * logits).sum() / 12
    ids = torch.arange(12)
    ours = batch_bce_pair_loss(images, ids, reduction="sum", ref=texts, ref_labels=ids, backend=way)
    torch.testing.assert_close(ours / 12, expected, rtol=1e-12, atol=0)


def test_bce_gradcheck_of_scale_and_bias(way):
    x, labels = clusters(7, 2, 3)
    scale, bias = (torch.tensor(v).double().requires_grad_() for v in (1.0, -1.0))
    for balanced in (True, False):
        for reduction in ("mean", "none"):
            keywords = {"balanced": balanced, "reduction": reduction, "backend": way}
            assert torch.autograd.gradcheck(
                lambda *inputs, keywords=keywords: batch_bce_pair_loss(
                    inputs[0], labels, *inputs[1:], **keywords
                ),
                (x, scale, bias),
            )


def test_bce_learns_its_scale_and_bias():
    criterion = sl.BatchBCEPairLoss()
    assert list(criterion.state_dict()) == ["log_scale", "bias"]
    assert criterion.bias == -10 and criterion.log_scale.exp().item() == pytest.approx(10)
    x, labels = clusters(100, 8, dtype=torch.float32, spread=0.3)
    optimizer = torch.optim.Adam(criterion.parameters(), lr=0.2)
    for _ in range(30):
        optimizer.zero_grad()
        loss = criterion(x.detach(), labels)
        loss.backward()
        optimizer.step()
    assert loss < 0.6 * criterion.stats.trivial
    twin = sl.BatchBCEPairLoss()
    twin.load_state_dict(criterion.state_dict())
    assert twin(x, labels) == criterion(x, labels)


# another library


@pytest.mark.parametrize("positive_margin", [0.0, 0.3])
def test_against_pml(positive_margin, way):
    x, labels = clusters(120, 8)
    labels[:5] = torch.arange(100, 105)  # single images
    metric = distances.LpDistance(normalize_embeddings=False)
    for reduction, reducer in (
        ("mean", reducers.MeanReducer()),
        ("mean_active", reducers.AvgNonZeroReducer()),
    ):
        their = losses.ContrastiveLoss(positive_margin, 1.0, distance=metric, reducer=reducer)
        ours = 2 * batch_contrastive_loss(
            x,
            labels,
            positive_margin=positive_margin,
            squared=False,
            reduction=reduction,
            backend=way,
        )
        theirs = their(x, labels)
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=0)
        grads = [torch.autograd.grad(each, x)[0] for each in (ours, theirs)]
        torch.testing.assert_close(*grads, rtol=1e-8, atol=1e-12)


# what the stats say


def test_stats():
    x = torch.tensor([[0.0], [1.0], [3.0], [3.5], [9.0]])
    criterion = sl.BatchContrastiveLoss(margin=2.5)
    criterion(x, torch.tensor([0, 0, 1, 1, 2]))
    stats = criterion.stats
    # positive distances 1 and .5; negative ones 3 3.5 9, 2 2.5 8, 6, 5.5
    assert stats.valid == 20 and stats.active == torch.tensor((2 + 1) / 10)
    assert stats.positive_distance == 0.75 and stats.negative_distance == 39.5 / 8
    assert stats.trivial == 2.5**2 / 4


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("balanced", [True, False])
def test_trivial_is_the_best_of_all_constants(squared, balanced):
    keywords = {"squared": squared, "balanced": balanced, "positive_margin": 0.2, "margin": 0.9}
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    best = math.inf
    for c in torch.linspace(0, 1, 401).tolist():
        x = torch.eye(6, dtype=torch.float64) * c / math.sqrt(2)  # all c apart
        best = min(best, batch_contrastive_loss(x, labels, **keywords).item())
    criterion = sl.BatchContrastiveLoss(**keywords)
    criterion(x, labels)
    assert criterion.stats.trivial.item() == pytest.approx(best, rel=1e-4)


@pytest.mark.parametrize("balanced", [True, False])
def test_trivial_answer_of_bce(balanced):
    labels, x = torch.tensor([0, 0, 0, 1, 1, 2]), clusters(6)[0].detach()
    nothing = torch.tensor(-torch.inf)  # scale 0: one answer for all
    every = [
        batch_bce_pair_loss(x, labels, nothing, torch.tensor(b), balanced=balanced).item()
        for b in torch.linspace(-3, 3, 601).tolist()
    ]
    criterion = sl.BatchBCEPairLoss(balanced=balanced)
    criterion(x, labels)
    assert criterion.stats.trivial.item() == pytest.approx(min(every), rel=1e-4)


def test_balanced_and_not_weigh_what_they_say():
    x, labels = torch.zeros(6, 2), torch.tensor([0, 0, 0, 1, 1, 1])  # only negatives cost: m²
    assert batch_contrastive_loss(x, labels) == 0.5
    assert batch_contrastive_loss(x, labels, balanced=False) == pytest.approx(18 / 30)


# numbers


def compared(
    x, labels, terms, metric="euclidean", y=None, y_labels=None, offset=0, numbers=NUMBERS
):
    """Sums and gradients of both backends."""
    found = []
    for backend in ("reference", "streaming"):
        leaves = [each.clone().requires_grad_() for each in (x, y) if each is not None]
        rows = [unit_rows(each) if metric == "cosine" else each for each in leaves]
        learnt = numbers.clone().requires_grad_()
        sums = pair_sum.pair_sum(
            rows[0],
            labels,
            rows[1] if len(rows) > 1 else None,
            labels if y_labels is None else y_labels,
            offset,
            metric=metric,
            positive=terms[0],
            negative=terms[1],
            numbers=learnt,
            backend=backend,
        )
        loss = sums.loss[0] + 0.3 * sums.loss[1]
        grads = torch.autograd.grad(loss, [*leaves, learnt], materialize_grads=True)
        found.append((sums, grads))
    return found


def smooth(d, a, b):
    return (a * d).tanh() + b


def smooth_far(d, a, b):
    return torch.exp(-b * d / (1 + d)) * a


KINDS = {
    "squared": ("above squared", "below squared"),
    "logistic": ("same", "different"),
    "own": (differentiated(smooth, True), differentiated(smooth_far, True)),
}


@settings(max_examples=60, deadline=None)
@given(
    st.integers(2, 150),
    st.integers(2, 20),
    st.integers(1, 40),
    st.sampled_from([torch.float32, torch.float64]),
    st.sampled_from(list(KINDS)),
    st.sampled_from(METRICS),
    st.sampled_from(["plain", "duplicates", "whole", "zero rows", "near", "apart"]),
    st.integers(0, 10**6),
)
def test_backends_agree(n, d, classes, dtype, kind, metric, shape, seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=g, dtype=dtype)
    labels = torch.randint(classes, (n,), generator=g)
    y, y_labels, offset = None, None, 0
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
    problem = KINDS[kind], metric, y, y_labels, offset
    (truth, grads), (ours, our_grads) = compared(x, labels, *problem)
    loose = 3e-6 if dtype == torch.float32 else 1e-11
    torch.testing.assert_close(ours.loss, truth.loss, rtol=loose, atol=loose)
    torch.testing.assert_close(ours.distances, truth.distances, rtol=loose, atol=0)
    if kind != "squared":  # a pair on the very margin is active or not
        assert torch.equal(ours.active, truth.active)
    lengths = x.norm(dim=1)  # a cosine's gradient goes with 1 / length
    least = 0.02 / lengths[lengths > 0].min().clamp(max=1) if lengths.any() else 0.02
    for a, b in zip(our_grads, grads, strict=True):
        assert (a - b).abs().max() <= 5 * loose * max(b.abs().max(), least)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("few", [32, -1])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [63, 64, 65, 300])
def test_several_tiles(n, kind, few, monkeypatch):
    monkeypatch.setattr(pair_sum, "FEW", few)
    g = torch.Generator().manual_seed(n)
    x = torch.randn(n, 5, generator=g).double()
    for classes in (n // 5, 2):  # few in each; bands wider than a tile
        labels = torch.randint(classes, (n,), generator=g)
        for y, y_labels, offset in ((None, None, 0), (torch.cat([x[7:9], x, x[:90]]), None, 2)):
            if y is not None:
                y_labels = torch.cat([labels[7:9], labels, labels[:90]])
            problem = KINDS[kind], "euclidean", y, y_labels, offset
            (truth, grads), (ours, our_grads) = compared(x, labels, *problem)
            torch.testing.assert_close(ours, truth, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(our_grads, grads, rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("given_set", [False, True])
def test_weights_of_rows_over_several_tiles(given_set, way):
    x, labels = clusters(150, 5)
    ref, ref_labels = clusters(140, 5, seed=1) if given_set else (None, None)
    slope = torch.linspace(-1, 2, 150, dtype=torch.float64)
    found = []
    for backend in ("reference", way):
        loss = batch_contrastive_loss(
            x, labels, reduction="none", backend=backend, ref=ref, ref_labels=ref_labels
        )
        leaves = [x] if ref is None else [x, ref]
        found.append((loss, torch.autograd.grad((slope * loss).sum(), leaves)))
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("scale", [1e-20, 1e-12, 1.0, 1e12, 1e18])
@pytest.mark.parametrize("metric", METRICS)
def test_margins_keep_their_scale(scale, metric):
    x, labels = clusters(100, dtype=torch.float32)
    unit = {"euclidean": scale, "sqeuclidean": scale**2, "cosine": 1}[metric]
    if not 1e-37 < unit < 1e36:
        pytest.skip("beyond float32")
    plain = batch_contrastive_loss(x, labels, metric=metric, squared=False, backend="streaming")
    scaled = (scale * x.detach()).requires_grad_()
    ours = batch_contrastive_loss(
        scaled, labels, metric=metric, margin=unit, squared=False, backend="streaming"
    )
    torch.testing.assert_close(ours / unit, plain, rtol=2e-6, atol=0)
    gradient, expected = torch.autograd.grad(ours, scaled)[0], torch.autograd.grad(plain, x)[0]
    torch.testing.assert_close(gradient * (scale / unit), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("loss", [batch_contrastive_loss, batch_bce_pair_loss])
@pytest.mark.parametrize("trouble", ["none", "duplicates", "far from the origin", "collapsed"])
@pytest.mark.parametrize("images", [4, 100])
def test_float32_is_as_good_as_float64(loss, trouble, images):
    if loss is batch_bce_pair_loss and trouble == "collapsed":
        pytest.skip("float32 rows of length 1 have no digits for such angles")
    x, labels = clusters(400, 64, images, dtype=torch.float32)
    x = x.detach()
    if trouble == "duplicates":
        x = x[torch.randint(0, 200, (400,), generator=torch.Generator().manual_seed(0))]
    elif trouble == "far from the origin":
        x += 30
    elif trouble == "collapsed":
        x = x[:1] + 1e-4 * x
    narrow, wider = x.clone().requires_grad_(), x.double().requires_grad_()
    ours = loss(narrow, labels, backend="streaming")
    truth = loss(wider, labels, backend="reference")
    ours.backward()
    truth.backward()
    assert abs(ours.double() / truth - 1) <= 1e-6
    assert (narrow.grad - wider.grad).abs().max() <= 1e-5 * wider.grad.abs().max()


def test_written_slopes_are_those_of_autograd():
    d = torch.rand(7, 9, dtype=torch.float64) * 2
    role = torch.rand(7, 9, dtype=torch.float64)
    for name, term in TERMS.items():
        numbers = torch.tensor([3.0, 0.7] if name in {"same", "different"} else [0.7, 1.2]).double()
        expected = differentiated(term.value, True).sweep(d, role, numbers)
        found = term.sweep(d, role, numbers)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


class Largest(TorchDispatchMode):
    """Keeps the number of bytes of the largest tensor that any operation returned."""

    size = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for each in result if isinstance(result, tuple | list) else [result]:
            if isinstance(each, torch.Tensor):
                self.size = max(self.size, each.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("images", [4, 2048])
def test_never_holds_the_matrix(images):
    x, labels = torch.randn(4096, 4, requires_grad=True), 1 + torch.arange(4096) // images
    with Largest() as largest:
        batch_contrastive_loss(x, labels).backward()
        pair_loss(x, labels, torch.square, torch.reciprocal).backward()
    assert largest.size <= 4 * 4096 * 4096 / 16


def test_operators_are_well_formed():
    x, labels = torch.randn(12, 3, requires_grad=True), torch.arange(12) // 3
    numbers = NUMBERS.clone().requires_grad_()
    problem = (labels, labels, 0, "cosine", None, "same", "different")
    each = torch.ops.siameselib.pair_sum_each.default
    torch.library.opcheck(each, (x, None, numbers, *problem))
    torch.library.opcheck(each, (x, x.detach() + 1, numbers, *problem))
    fixed = x.detach(), x.detach() + 1, NUMBERS
    torch.library.opcheck(torch.ops.siameselib.pair_sum.default, (*fixed, *problem, None, True))


# a loss of one's own


def test_own_loss_is_the_dense_formula(way):
    x, labels = clusters(60)
    width = torch.tensor(1.7, dtype=torch.float64, requires_grad=True)
    ours = pair_loss(
        x, labels, smooth, smooth_far, parameters=[width, 0.4], balanced=False, backend=way
    )
    off = ~torch.eye(60, dtype=torch.bool)
    d = (x[:, None] - x)[off].norm(dim=-1)
    same = (labels[:, None] == labels)[off]
    dense = torch.where(same, smooth(d, width, 0.4), smooth_far(d, width, 0.4)).mean()
    torch.testing.assert_close(ours, dense, rtol=1e-12, atol=0)
    grads = [torch.autograd.grad(each, (x, width)) for each in (ours, dense)]
    torch.testing.assert_close(*grads, rtol=1e-8, atol=1e-14)


def test_built_in_losses_are_own_losses():
    x, labels = clusters(80)
    ours = pair_loss(x, labels, lambda d: d.square(), lambda d: F.relu(1 - d).square())
    torch.testing.assert_close(ours, batch_contrastive_loss(x, labels), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "formulas",
    [
        (torch.zeros_like, torch.zeros_like),  # no slope at all
        (lambda d: d, lambda d: -d),  # not a copy
        (lambda d: d.float(), lambda d: d.float().neg()),  # another dtype
        (torch.log, lambda d: (d - 1).reciprocal()),  # not for every distance
        (torch.sqrt, lambda d: 1 - d.sqrt()),
    ],
)
def test_any_formula(formulas, way):
    x, labels = clusters(30)
    found = []
    for backend in ("reference", way):
        loss = pair_loss(x, labels, *formulas, backend=backend)
        gradient = torch.autograd.grad(loss, x)[0]
        assert gradient.isfinite().all()
        found.append((loss, gradient))
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-9)


def test_slopes_at_equal_rows_are_zero_whatever_the_formula(way):
    x, labels = clusters(30)
    x = x.detach()[torch.arange(30) // 2 * 2].requires_grad_()
    pair_loss(x, labels, torch.sqrt, lambda d: d.sqrt().neg(), backend="streaming").backward()
    assert x.grad.isfinite().all()


def test_own_loss_refuses():
    x, labels = clusters(8)
    learnt = torch.ones((), requires_grad=True)
    for formula, kind, message in (
        (lambda d: d.mean(), ValueError, r"what negative returns must .* \(2, 3\), got \(\)"),
        (lambda d: d > 0, ValueError, "what negative returns must be floating point"),
        (lambda d: 1.0, TypeError, "what negative returns must be a torch.Tensor, got float"),
        (lambda d: d * learnt, ValueError, "negative must take tensors that are learnt as param"),
    ):
        with pytest.raises(kind, match=message):
            pair_loss(x, labels, torch.square, formula)
    with pytest.raises(ValueError, match=r"parameters\[0\] must be a number or 0-d, got \(3,\)"):
        pair_loss(x, labels, smooth, smooth_far, parameters=[torch.ones(3), 1])


def test_own_loss_compiles_in_its_dense_form():
    x, labels = clusters(20)

    def loss(x, backend):
        return pair_loss(x, labels, smooth, smooth_far, parameters=[1.0, 0.4], backend=backend)

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, "reference"), loss(x, "reference"))
    with pytest.raises(RuntimeError, match="takes only backend 'reference'"):
        compiled(x, "streaming")


def test_the_loss_of_the_docs_at_its_size():
    """The page's loss runs at B = 32,768 (test_docs runs it); here it is the dense formula."""
    page = (Path(__file__).parents[1] / "docs" / "own_loss.md").read_text("utf-8")
    first = re.search(r"^```python\n(.*?)^```$", page, re.M | re.S)[1]
    lines = first[first.index("def pull") : first.index("embeddings = ")].strip().splitlines()
    assert "32768" in first and len([line for line in lines if line]) <= 15
    namespace = {"pair_loss": pair_loss, "softplus": F.softplus}
    exec("\n".join(lines), namespace)
    x, labels = clusters(200)
    d = torch.cdist(x.detach(), x.detach(), compute_mode="donot_use_mm_for_euclid_dist")
    same = labels[:, None] == labels
    positive = d[same & ~torch.eye(200, dtype=torch.bool)].square().mean()
    negative = F.softplus(10 * (1 - d[~same])).square().mean()
    expected = (positive + negative) / 2
    torch.testing.assert_close(namespace["my_loss"](x, labels), expected, rtol=1e-12, atol=0)


def test_refuses_margins():
    x, labels = clusters(8)
    with pytest.raises(ValueError, match="margin must be positive and finite, got 0"):
        batch_contrastive_loss(x, labels, margin=0)
    with pytest.raises(ValueError, match="positive_margin must be finite and at least 0, got -1"):
        batch_contrastive_loss(x, labels, positive_margin=-1)
    with pytest.raises(ValueError, match=r"log_scale must be a number or 0-d, got \(2,\)"):
        batch_bce_pair_loss(x, labels, torch.ones(2))
