"""Multi-similarity, circle and lifted structure against loops, formulas and another library."""

import math
import resource
import warnings

import pytest
import pytorch_metric_learning.distances
import pytorch_metric_learning.losses
import pytorch_metric_learning.miners
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from siameselib.functional import (
    circle_loss,
    lifted_structure_loss,
    multi_similarity_loss,
    paired_distance,
)
from siameselib.kernels import distance_logsumexp as distance_file
from siameselib.kernels import distance_sums
from siameselib.losses import CircleLoss, LiftedStructureLoss, MultiSimilarityLoss

BACKENDS = ["reference", "streaming"]
backends = pytest.mark.parametrize("backend", BACKENDS)
seeds = st.integers(0, 10_000)
sizes = st.integers(2, 14)
identities = st.integers(2, 8)


def batch(n=14, d=4, identities=5, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return x.to(dtype), torch.randint(identities, (n,), generator=generator)


def pairs_of(labels, i):
    others = [j for j in range(len(labels)) if j != i]
    positives = [j for j in others if labels[j] == labels[i]]
    return positives, [j for j in others if labels[j] != labels[i]]


def log_sum(values):
    top = max(values, default=-math.inf)
    return top + math.log(sum(math.exp(v - top) for v in values)) if values else -math.inf


def log1p_sum(values):
    return log_sum([0.0, *values])


def naive_multi_similarity(x, labels, alpha, beta, base, epsilon):
    unit, losses = F.normalize(x.double()), []
    for i in range(len(x)):
        positives, negatives = pairs_of(labels, i)
        near = [float(unit[i] @ unit[j]) for j in range(len(x))]
        loss = None
        if positives and negatives:
            if epsilon is not None:
                nearest = max(near[n] for n in negatives)
                farthest = min(near[p] for p in positives)
                positives = [p for p in positives if near[p] < nearest + epsilon]
                negatives = [n for n in negatives if near[n] > farthest - epsilon]
            loss = log1p_sum([-alpha * (near[p] - base) for p in positives]) / alpha
            loss += log1p_sum([beta * (near[n] - base) for n in negatives]) / beta
        losses.append(loss)
    return losses


def naive_circle(x, labels, margin, gamma):
    unit, losses = F.normalize(x.double()), []
    for i in range(len(x)):
        positives, negatives = pairs_of(labels, i)
        near = [float(unit[i] @ unit[j]) for j in range(len(x))]
        pairs = [
            gamma * max(near[n] + margin, 0) * (near[n] - margin)
            - gamma * max(1 + margin - near[p], 0) * (near[p] - (1 - margin))
            for p in positives
            for n in negatives
        ]
        losses.append(log1p_sum(pairs) if pairs else None)
    return losses


def naive_lifted(x, labels, margin, metric):
    losses = []
    for i in range(len(x)):
        positives, negatives = pairs_of(labels, i)
        far = paired_distance(x[i].expand_as(x), x, metric).tolist()
        loss = None
        if positives and negatives:
            loss = log_sum([far[p] for p in positives])
            loss = max(loss + log_sum([margin - far[n] for n in negatives]), 0.0)
        losses.append(loss)
    return losses


def check(loss, x, labels, expected, **keywords):
    valid = [each for each in expected if each is not None]
    # what cancels in a small loss is as large as the largest
    close = 1e-12 + 1e-15 * max(map(abs, valid), default=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error" if valid else "ignore")
        mean = loss(x, labels, **keywords)
        none = loss(x, labels, reduction="none", **keywords)
        active = loss(x, labels, reduction="mean_active", **keywords)
    assert mean.item() == pytest.approx(sum(valid) / max(len(valid), 1), rel=1e-11, abs=close)
    assert none.tolist() == pytest.approx([each or 0.0 for each in expected], rel=1e-11, abs=close)
    positive = (none > 0).sum().item()
    assert active.item() == pytest.approx(sum(valid) / max(positive, 1), rel=1e-11, abs=close)


@given(
    n=sizes,
    identities=identities,
    seed=seeds,
    alpha=st.sampled_from([1.0, 2.0, 40.0]),
    beta=st.sampled_from([2.0, 50.0, 100.0]),
    base=st.sampled_from([0.0, 0.5, 0.9]),
    epsilon=st.sampled_from([None, 0.01, 0.1, 1.0]),
    backend=st.sampled_from(BACKENDS),
)
@settings(max_examples=80)
def test_multi_similarity_is_its_equation(n, identities, seed, alpha, beta, base, epsilon, backend):
    x, labels = batch(n, identities=identities, seed=seed)
    keywords = {"alpha": alpha, "beta": beta, "base": base, "epsilon": epsilon}
    expected = naive_multi_similarity(x, labels, **keywords)
    check(multi_similarity_loss, x, labels, expected, backend=backend, **keywords)


@given(
    n=sizes,
    identities=identities,
    seed=seeds,
    margin=st.sampled_from([0.1, 0.25, 0.4]),
    gamma=st.sampled_from([1.0, 32.0, 80.0, 256.0]),
    backend=st.sampled_from(BACKENDS),
)
@settings(max_examples=60)
def test_circle_is_its_equation(n, identities, seed, margin, gamma, backend):
    x, labels = batch(n, identities=identities, seed=seed)
    expected = naive_circle(x, labels, margin, gamma)
    check(circle_loss, x, labels, expected, margin=margin, gamma=gamma, backend=backend)


@given(
    n=sizes,
    identities=identities,
    seed=seeds,
    margin=st.sampled_from([0.2, 1.0, 3.0]),
    metric=st.sampled_from(["euclidean", "sqeuclidean", "cosine"]),
    scale=st.sampled_from([1e-3, 1.0, 100.0]),
    backend=st.sampled_from(BACKENDS),
)
@settings(max_examples=60)
def test_lifted_structure_is_its_equation(n, identities, seed, margin, metric, scale, backend):
    x, labels = batch(n, identities=identities, seed=seed)
    x[: n // 3] = x[0]  # duplicates, within and across
    expected = naive_lifted(scale * x, labels, margin, metric)
    keywords = {"margin": margin, "metric": metric, "backend": backend}
    check(lifted_structure_loss, scale * x, labels, expected, **keywords)


def theirs_mined(x, labels):
    pairs = pytorch_metric_learning.miners.MultiSimilarityMiner(epsilon=0.1)(x, labels)
    return pytorch_metric_learning.losses.MultiSimilarityLoss()(x, labels, pairs)


LP = pytorch_metric_learning.distances.LpDistance
SAME_DEFINITION = {
    "multi-similarity": (
        MultiSimilarityLoss(epsilon=None),
        pytorch_metric_learning.losses.MultiSimilarityLoss(alpha=2, beta=50, base=0.5),
    ),
    "multi-similarity, mined": (MultiSimilarityLoss(), theirs_mined),
    "circle": (CircleLoss(), pytorch_metric_learning.losses.CircleLoss(m=0.25, gamma=256)),
    "circle, as they set it": (
        CircleLoss(margin=0.4, gamma=80.0),
        pytorch_metric_learning.losses.CircleLoss(),
    ),
    "lifted structure": (
        LiftedStructureLoss(),
        pytorch_metric_learning.losses.GeneralizedLiftedStructureLoss(
            neg_margin=1, distance=LP(normalize_embeddings=False)
        ),
    ),
    "lifted structure, squared": (
        LiftedStructureLoss(metric="sqeuclidean", margin=0.5),
        pytorch_metric_learning.losses.GeneralizedLiftedStructureLoss(
            neg_margin=0.5, distance=LP(normalize_embeddings=False, power=2)
        ),
    ),
}


@pytest.mark.parametrize("name", SAME_DEFINITION)
@pytest.mark.parametrize("n", [24, 300])
@backends
def test_agrees_with_pytorch_metric_learning(name, n, backend):
    ours, theirs = SAME_DEFINITION[name]
    ours.backend = backend
    x, _ = batch(n, 8)
    labels = torch.randperm(n) % (n // 4)
    x.requires_grad_()
    value, expected = ours(x, labels), theirs(x, labels)
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=0)
    gradients = [torch.autograd.grad(v, x)[0] for v in (value, expected)]
    largest = gradients[1].abs().max()
    assert (gradients[0] - gradients[1]).abs().max() <= 1e-9 * largest


@backends
def test_the_gradient_of_circle_takes_its_weights_as_constants(backend):
    x, labels = batch(20)
    x.requires_grad_()
    unit = F.normalize(x)
    near = unit @ unit.T
    same = labels[:, None] == labels
    positive = same & ~torch.eye(20, dtype=torch.bool)
    with torch.no_grad():
        pull, push = (1.4 - near).relu(), (near + 0.4).relu()
    p = (-80 * pull * (near - 0.6)).masked_fill(~positive, -torch.inf).logsumexp(1)
    n = (80 * push * (near - 0.4)).masked_fill(same, -torch.inf).logsumexp(1)
    valid = positive.any(1) & ~same.all(1)
    expected = F.softplus(p + n, threshold=40)[valid].mean()
    value = circle_loss(x, labels, margin=0.4, gamma=80.0, backend=backend)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    gradients = [torch.autograd.grad(v, x)[0] for v in (value, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-11)


CASES = {
    "multi-similarity": MultiSimilarityLoss(epsilon=None),
    "multi-similarity, mined": MultiSimilarityLoss(),
    "circle": CircleLoss(),
    "lifted structure": LiftedStructureLoss(),
    "lifted structure, cosine": LiftedStructureLoss(metric="cosine"),
}
cases = pytest.mark.parametrize("name", CASES)


@cases
def test_float32_against_float64(name):
    criterion = CASES[name]
    generator = torch.Generator().manual_seed(0)
    labels = torch.randperm(600, generator=generator) % 75
    wide = torch.randn(75, 32, generator=generator, dtype=torch.float64)[labels]
    wide = wide + 0.7 * torch.randn(600, 32, generator=generator, dtype=torch.float64)
    wide[1::50] = wide[0]  # duplicates, mostly across identities
    narrow = wide.float().requires_grad_()
    wide = narrow.detach().double().requires_grad_()
    criterion.backend = "reference"
    expected = criterion(wide, labels)
    criterion.backend = "streaming"
    value = criterion(narrow, labels)
    expected.backward()
    value.backward()
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    error = (narrow.grad - wide.grad).abs().max() / wide.grad.abs().max()
    assert error <= (1e-4 if name == "circle" else 1e-5)  # a score of 240 has an error of 1e-5


@cases
@backends
def test_collapse_costs_the_trivial_loss(name, backend):
    criterion = CASES[name]
    criterion.backend = backend
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    value = criterion(torch.ones(6, 3), labels)
    assert value.item() == pytest.approx(criterion.stats.trivial.item(), rel=1e-6)
    assert criterion.stats.valid == 5 and criterion.stats.active == 1


@cases
def test_stats(name):
    criterion = CASES[name]
    x, labels = batch(20, identities=6)
    criterion(x, labels)
    distance = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    if name != "lifted structure":
        unit = F.normalize(x)
        distance = 1 - unit @ unit.T
    same = labels[:, None] == labels
    positive = same & ~torch.eye(20, dtype=torch.bool)
    anchors = positive.any(1)
    assert criterion.stats.valid == anchors.sum()
    assert criterion.stats.positive_distance.item() == pytest.approx(distance[positive].mean())
    expected = distance[anchors][~same[anchors]].mean().item()
    assert criterion.stats.negative_distance.item() == pytest.approx(expected)


@cases
@backends
def test_a_part_of_the_batch_against_all_of_it(name, backend):
    criterion = CASES[name]
    criterion.backend = backend
    x, labels = batch(30, identities=8)
    criterion.reduction = "none"
    whole = criterion(x, labels)
    part = criterion(x[4:9], labels[4:9], x, labels, 4)
    criterion.reduction = "mean"
    torch.testing.assert_close(part, whole[4:9], rtol=1e-11, atol=1e-12)


@cases
def test_the_matrix_is_never_there(name):
    n = 6_000  # 144 MB in float32
    criterion = CASES[name]
    criterion.backend = "auto"
    x = torch.randn(n, 4).requires_grad_()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    criterion(x, torch.arange(n) // 4).backward()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


@pytest.mark.parametrize(
    ("loss", "change", "message"),
    [
        (multi_similarity_loss, {"alpha": 0.0}, "alpha must be positive"),
        (multi_similarity_loss, {"beta": -1.0}, "beta must be positive"),
        (multi_similarity_loss, {"base": 1.5}, r"base must lie in \[-1, 1\], got 1.5"),
        (multi_similarity_loss, {"epsilon": 0.0}, "epsilon must be positive"),
        (circle_loss, {"margin": 1.0}, r"margin must lie in \(0, 1\), got 1.0"),
        (circle_loss, {"gamma": math.inf}, "gamma must be positive"),
        (lifted_structure_loss, {"margin": 0.0}, "margin must be positive"),
        (lifted_structure_loss, {"metric": "manhattan"}, "metric must be one of"),
    ],
)
def test_refuses(loss, change, message):
    with pytest.raises(ValueError, match=f"{loss.__name__}: {message}"):
        loss(torch.zeros(4, 2), torch.tensor([0, 0, 1, 1]), **change)


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean", "cosine"])
@pytest.mark.parametrize("way", ["cpu", "as on a device"])
@pytest.mark.parametrize("ref", [False, True])
def test_lifted_structure_by_blocks(metric, way, ref, monkeypatch):
    monkeypatch.setattr(distance_sums, "_ENTRIES", 200)  # several blocks, and a lower last one
    monkeypatch.setattr(distance_sums, "SMALL", 0)
    if way != "cpu":
        monkeypatch.setattr(distance_sums, "_swept", distance_sums._blocked)
        monkeypatch.setattr(distance_sums, "_pull_swept", distance_sums._pull_blocked)
    x, labels = batch(70, identities=9)
    x[10:14], x[20] = x[0], 0
    y, y_labels = batch(81, identities=9, seed=1) if ref else (None, None)
    inputs = [each.requires_grad_() for each in (x, y) if each is not None]
    slope = torch.linspace(0, 1, 70, dtype=torch.float64)
    found = []
    for backend in BACKENDS:
        criterion = LiftedStructureLoss(metric=metric, reduction="none", backend=backend)
        value = criterion(x, labels, y, y_labels)
        gradients = torch.autograd.grad((slope * value).sum(), inputs)
        found.append((value, *gradients, *criterion.stats))
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-11)


def test_the_operation_is_sound():
    x, labels = batch(9)
    y, y_labels = batch(12, seed=1)
    x.requires_grad_()
    y.requires_grad_()
    problem = (x, y, labels, y_labels, None, "euclidean")
    torch.library.opcheck(distance_file._forward, problem)
