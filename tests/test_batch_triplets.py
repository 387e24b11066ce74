"""Triplet losses on a labelled batch against loops, autograd in float64, and another library."""

import math

import pytest
import torch
from pytorch_metric_learning import distances, losses, miners, reducers
from torch.nn import functional as F

import siameselib as sl
from siameselib.functional import batch_hard_triplet_loss, semi_hard_triplet_loss, triplet_loss


def clusters(n=48, d=8, images=4, seed=0, dtype=torch.float64, spread=1.0):
    """P×K embeddings near their identity's centre, shuffled."""
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(n // images, d, generator=g).repeat_interleave(images, 0)
    x = F.normalize(centres + spread * torch.randn(n, d, generator=g)).to(dtype)
    shuffle = torch.randperm(n, generator=g)
    return x[shuffle].requires_grad_(), (torch.arange(n) // images)[shuffle]


def naive_distance(metric, a, b):
    if metric == "cosine":
        lengths = math.hypot(*a) * math.hypot(*b)
        return 1 - sum(p * q for p, q in zip(a, b, strict=True)) / lengths
    return math.dist(a, b) ** (2 if metric == "sqeuclidean" else 1)


def naive_losses(x, labels, margin, metric, soft, kind):
    """One value a valid anchor (hard) or pair (semi), by loops over lists of floats."""
    x, labels = x.tolist(), labels.tolist()
    values = []
    for i, (a, label) in enumerate(zip(x, labels, strict=True)):
        d = [naive_distance(metric, a, b) for b in x]
        positives = [d[j] for j in range(len(x)) if labels[j] == label and j != i]
        negatives = [d[j] for j in range(len(x)) if labels[j] != label]
        if not positives or not negatives:
            continue
        for ap in [max(positives)] if kind == "hard" else positives:
            farther = [an for an in negatives if an > ap]
            an = min(negatives) if kind == "hard" else min(farther, default=max(negatives))
            values.append(math.log1p(math.exp(ap - an)) if soft else max(0.0, ap - an + margin))
    return values


LOSSES = {"hard": batch_hard_triplet_loss, "semi": semi_hard_triplet_loss}


@pytest.mark.parametrize("backend", ["reference", "streaming"])
@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean", "cosine"])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("kind", LOSSES)
def test_against_loops(kind, soft, metric, backend):
    x, labels = clusters(spread=0.45)
    labels[:3] = torch.tensor([97, 98, 99])  # three anchors without a positive
    expected = naive_losses(x, labels, 0.3, metric, soft, kind)

    def loss(reduction):
        keywords = {"margin": 0.3, "metric": metric, "soft": soft, "backend": backend}
        return LOSSES[kind](x, labels, reduction=reduction, **keywords).detach()

    active = [value for value in expected if value > 0]
    assert active and (soft or len(active) < len(expected))
    assert abs(loss("mean") - sum(expected) / len(expected)) < 1e-12
    assert abs(loss("sum") - sum(expected)) < 1e-11
    assert abs(loss("mean_active") - sum(active) / len(active)) < 1e-12
    each = loss("none")
    assert sorted(each[each > 0].tolist()) == pytest.approx(sorted(active), abs=1e-12)
    assert len(each) == (len(labels) if kind == "hard" else len(expected))


@pytest.mark.parametrize("kind", LOSSES)
def test_gradient_only_through_the_chosen_pairs(kind):
    x, labels = clusters()
    make = sl.BatchHardMiner if kind == "hard" else sl.SemiHardMiner
    t = make()(x, labels)
    plain = triplet_loss(x[t.anchor], x[t.positive], x[t.negative], valid=t.valid)
    ours = LOSSES[kind](x, labels)
    torch.testing.assert_close(plain, ours, rtol=1e-13, atol=0)
    grads = [torch.autograd.grad(each, x)[0] for each in (plain, ours)]
    torch.testing.assert_close(*grads, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("backend", ["reference", "streaming"])
def test_batch_hard_against_pml(soft, backend):
    x, labels = clusters(120, images=5)
    metric = distances.LpDistance(normalize_embeddings=False)
    mine = miners.BatchHardMiner(distance=metric)
    their = losses.TripletMarginLoss(
        0.2, smooth_loss=soft, distance=metric, reducer=reducers.MeanReducer()
    )
    if soft:
        their.margin = 0.0  # theirs adds the margin inside the logarithm
    theirs = their(x, labels, mine(x, labels))
    ours = batch_hard_triplet_loss(x, labels, soft=soft, backend=backend)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=0)
    grads = [torch.autograd.grad(each, x)[0] for each in (ours, theirs)]
    torch.testing.assert_close(*grads, rtol=1e-8, atol=1e-12)


def test_semi_hard_as_in_tensorflow_addons():
    """Their algorithm, dense: squared distances, all positive pairs, the farthest as fallback."""
    x, labels = clusters(40, spread=1.5)
    d = (x[:, None] - x).square().sum(-1)
    same = labels[:, None] == labels
    total, count = 0.0, 0
    for a in range(40):
        for p in range(40):
            if a != p and same[a, p]:
                outside = ~same[a] & (d[a] > d[a, p])
                an = d[a][outside].min() if outside.any() else d[a][~same[a]].max()
                total, count = total + F.relu(1.0 + d[a, p] - an), count + 1
    ours = semi_hard_triplet_loss(x, labels, margin=1.0, metric="sqeuclidean")
    torch.testing.assert_close(ours, total / count, rtol=1e-12, atol=0)
    grads = [torch.autograd.grad(each, x)[0] for each in (ours, total / count)]
    torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-14)


def test_what_the_stats_say():
    x = torch.tensor([[0.0], [1.0], [3.0], [3.0], [9.0]])
    labels = torch.tensor([0, 0, 1, 1, 2])
    criterion = sl.BatchHardTripletLoss(margin=1.5)
    loss = criterion(x, labels)
    # (d_ap, d_an) of the four anchors with a positive: (1, 3), (1, 2), (0, 2), (0, 2)
    assert loss == 0.5 / 4
    assert criterion.stats.valid == 4 and criterion.stats.active == 0.25
    assert criterion.stats.positive_distance == 0.5 and criterion.stats.negative_distance == 2.25
    assert criterion.stats.trivial == 1.5
    criterion = sl.SemiHardTripletLoss(soft=True, fallback="skip")
    criterion(x, labels)
    assert criterion.stats.valid == 4
    assert criterion.stats.trivial == pytest.approx(math.log(2))


def test_singletons_do_not_dilute_the_mean():
    x, labels = clusters(16)
    alone = batch_hard_triplet_loss(x, labels)
    far = 1e3 + torch.arange(4.0, dtype=torch.float64)[:, None].expand(4, 8)
    more = torch.cat([labels, torch.arange(100, 104)])
    torch.testing.assert_close(batch_hard_triplet_loss(torch.cat([x, far]), more), alone)


@pytest.mark.parametrize("kind", LOSSES)
def test_no_negatives_pull_nothing_together(kind):
    x, _ = clusters(8)
    with pytest.warns(UserWarning, match="no anchor of this batch"):
        loss = LOSSES[kind](x, torch.zeros(8, dtype=torch.long))
    loss.backward()
    assert loss == 0 and not x.grad.any()


@pytest.mark.parametrize("kind", LOSSES)
def test_gradient_reaches_the_reference_set(kind):
    x, labels = clusters(12)
    ref, ref_labels = clusters(20, seed=1)
    loss = LOSSES[kind](x, labels, margin=2.0, ref=ref, ref_labels=ref_labels)
    loss.backward()
    assert x.grad.any() and ref.grad.any()
    ours = LOSSES[kind](x, labels, margin=2.0)
    memory = torch.cat([ref[:7], x]).detach()
    memory_labels = torch.cat([torch.full((7,), -1), labels])
    far = memory.clone()
    far[:7] += 1e3  # too far to be the nearest negative of anything
    past = LOSSES[kind](x, labels, margin=2.0, ref=far, ref_labels=memory_labels, ref_offset=7)
    torch.testing.assert_close(ours, past, rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("trouble", ["none", "duplicates", "far from the origin", "collapsed"])
def test_float32_is_as_good_as_float64(kind, trouble):
    x, labels = clusters(600, 32)
    x = x.detach()
    if trouble == "duplicates":
        x = x[torch.randint(0, 300, (600,), generator=torch.Generator().manual_seed(0))]
    elif trouble == "far from the origin":
        x = x + 30
    elif trouble == "collapsed":
        x = x[:1] + 1e-5 * x
    narrow = x.float().requires_grad_()
    wide = narrow.detach().double().requires_grad_()
    ours = LOSSES[kind](narrow, labels, backend="streaming")
    truth = LOSSES[kind](wide, labels, backend="reference")
    assert abs(ours / truth - 1) <= 1e-6
    ours.backward()
    truth.backward()
    error = (narrow.grad - wide.grad).abs().max() / wide.grad.abs().max()
    assert error <= 1e-5
