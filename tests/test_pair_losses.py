import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from siameselib.functional import bce_pair_loss, contrastive_loss, mean_square_distance
from siameselib.losses import BCEPairLoss, ContrastiveLoss


def pairs(n=9, d=4, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, n, d, generator=generator, dtype=torch.float64) * 0.4
    same = torch.rand(n, generator=generator) < 0.5
    return x[0].to(dtype), x[1].to(dtype), same


def naive_contrastive(x1, x2, same, margin):
    losses = []
    for a, b, y in zip(x1.tolist(), x2.tolist(), same.tolist(), strict=True):
        distance = math.dist(a, b)
        losses.append(y * distance**2 + (1 - y) * max(0, margin - distance) ** 2)
    return losses


@given(
    n=st.integers(1, 20),
    seed=st.integers(0, 10_000),
    margin=st.floats(0.1, 5),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
@settings(max_examples=50, deadline=None)
def test_contrastive_is_its_formula(n, seed, margin, dtype):
    x1, x2, same = pairs(n, seed=seed, dtype=dtype)
    expected = naive_contrastive(x1, x2, same, margin)
    tolerance = {"rtol": 1e-12 if dtype == torch.float64 else 2e-6, "atol": 1e-7}
    none = contrastive_loss(x1, x2, same, margin=margin, reduction="none")
    np.testing.assert_allclose(none.numpy(), expected, **tolerance)
    mean = contrastive_loss(x1, x2, same, margin=margin)
    np.testing.assert_allclose(mean.item(), np.mean(expected), **tolerance)
    total = contrastive_loss(x1, x2, same, margin=margin, reduction="sum")
    np.testing.assert_allclose(total.item(), np.sum(expected), **tolerance)
    above = [loss for loss in expected if loss > 0]
    active = contrastive_loss(x1, x2, same, margin=margin, reduction="mean_active")
    np.testing.assert_allclose(active.item(), np.mean(above) if above else 0, **tolerance)


def test_same_means_pull_together():
    x1, x2 = torch.zeros(2, 1), torch.full((2, 1), 0.5)
    x2.requires_grad_()
    contrastive_loss(x1, x2, torch.tensor([1, 0]), reduction="sum").backward()
    assert x2.grad.tolist() == [[1.0], [-1.0]]  # descent moves the positive nearer


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.uint8, torch.float32])
def test_same_may_be_bool_int_or_float(dtype):
    x1, x2, same = pairs()
    expected = contrastive_loss(x1, x2, same)
    assert contrastive_loss(x1, x2, same.to(dtype)) == expected
    assert bce_pair_loss(x1[:, 0], same.to(dtype)) == bce_pair_loss(x1[:, 0], same)


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean", "cosine", "manhattan"])
def test_contrastive_gradcheck(metric):
    x1, x2, same = pairs()
    assert torch.autograd.gradcheck(
        lambda a, b: contrastive_loss(a, b, same, metric=metric),
        (x1.requires_grad_(), x2.requires_grad_()),
    )


def test_equal_negatives_cost_the_margin_squared_without_a_gradient():
    x = torch.ones(3, 2, requires_grad=True)
    loss = contrastive_loss(x, x.detach(), torch.zeros(3), margin=2.0)
    loss.backward()
    assert loss.item() == 4 and (x.grad == 0).all()


def test_far_pairs_stay_finite_in_the_gradient():
    x1 = torch.full((2, 3), 1e20, requires_grad=True)  # squared, it overflows float32
    contrastive_loss(x1, -x1.detach(), torch.tensor([0, 0])).backward()
    assert (x1.grad == 0).all()


@given(share=st.sampled_from([0.25, 0.5, 0.75]), margin=st.floats(0.2, 3))
@settings(max_examples=9, deadline=None)
def test_trivial_contrastive_is_the_best_constant_distance(share, margin):
    same = torch.arange(8) < 8 * share
    criterion = ContrastiveLoss(margin=margin, metric=lambda a, b: b[:, 0])

    def loss(distance):
        value = torch.full((8, 1), distance, dtype=torch.float64)
        return criterion(torch.zeros_like(value), value, same).item()

    best = min(loss(k / 100 * margin) for k in range(101))
    assert criterion.stats.trivial.item() == pytest.approx(best, rel=1e-5)
    if share == 0.5:
        assert best == pytest.approx(margin**2 / 4, rel=1e-5)


@given(share=st.sampled_from([0.25, 0.5, 1.0]), weight=st.sampled_from([None, 0.5, 3.0]))
@settings(max_examples=9, deadline=None)
def test_trivial_bce_is_the_best_constant_logit(share, weight):
    same = torch.arange(8) < 8 * share
    criterion = BCEPairLoss(pos_weight=weight)
    logits = torch.linspace(-8, 8, 161, dtype=torch.float64)
    best = min(criterion(z.expand(8), same).item() for z in logits)
    assert criterion.stats.trivial.item() == pytest.approx(best, abs=2e-3)
    if share == 0.5 and weight is None:
        assert best == pytest.approx(math.log(2))


@pytest.mark.parametrize("weight", [None, 0.3, 4.0])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_bce_agrees_with_torch(weight, reduction):
    logits = torch.tensor([-300.0, -30.0, -1.0, 0.0, 2.0, 25.0, 300.0], dtype=torch.float64)
    same = torch.tensor([1, 0, 1, 0, 1, 0, 1])
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss = bce_pair_loss(ours, same, pos_weight=weight, reduction=reduction)
    expected = F.binary_cross_entropy_with_logits(
        theirs,
        same.double(),
        pos_weight=None if weight is None else torch.tensor(weight, dtype=torch.float64),
        reduction=reduction,
    )
    torch.testing.assert_close(loss, expected, rtol=1e-14, atol=1e-14)
    loss.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-13, atol=1e-14)


def test_half_precision_logits_are_judged_in_float32():
    logits = torch.tensor([3.0, -2.0], dtype=torch.bfloat16, requires_grad=True)
    loss = bce_pair_loss(logits, torch.tensor([1, 0]))
    loss.backward()
    assert loss.dtype == torch.float32 and logits.grad.dtype == torch.bfloat16


def test_stats():
    x1 = torch.zeros(4, 1)
    x2 = torch.tensor([[0.0], [3.0], [0.5], [7.0]])
    criterion = ContrastiveLoss()
    criterion(x1, x2, torch.tensor([1, 1, 0, 0]))
    assert [value.item() for value in criterion.stats] == [4, 0.5, 1.5, 3.75, 0.25]
    criterion = BCEPairLoss()
    criterion(torch.tensor([1.0, -3.0, 2.0]), torch.tensor([1, 1, 0]))
    assert criterion.stats.positive_distance.item() == 1
    assert criterion.stats.negative_distance.item() == -2


def test_no_pairs():
    x = torch.zeros(0, 3, requires_grad=True)
    criterion = ContrastiveLoss()
    loss = criterion(x, x, torch.zeros(0))
    loss.backward()
    assert loss.item() == 0 and x.grad.shape == (0, 3)
    assert criterion.stats.valid == 0 and criterion.stats.positive_distance.isnan()
    z = torch.zeros(0, requires_grad=True)
    bce_pair_loss(z, torch.zeros(0)).backward()
    assert z.grad.shape == (0,)


def test_mean_square_distance_is_a_metric_of_its_own():
    x1, x2, same = pairs()
    loss = contrastive_loss(x1, x2, same, metric=mean_square_distance, reduction="none")
    distance = np.mean((x1.numpy() - x2.numpy()) ** 2, axis=1)
    expected = np.where(same, distance**2, np.maximum(0, 1 - distance) ** 2)
    np.testing.assert_allclose(loss.numpy(), expected, rtol=1e-13)


@pytest.mark.parametrize(
    ("same", "keywords", "error", "message"),
    [
        (torch.ones(3, 1), {}, ValueError, r"same must have shape \(n,\) = \(3,\), got \(3, 1\)"),
        (torch.ones(1), {}, ValueError, r"same must .* got \(1,\)"),
        (torch.tensor([1, 0, 2]), {}, ValueError, "same must hold only 1 .* got 2"),
        (torch.tensor([1, -1, 1]), {}, ValueError, "same must hold only 1 .* got -1"),
        (torch.tensor([1, 0.5, 1]), {}, ValueError, "same must hold only 1 .* got 0.5"),
        (torch.tensor([1, math.nan, 1]), {}, ValueError, "same must hold only 1 .* got nan"),
        ([1, 0, 1], {}, TypeError, "same must be a torch.Tensor, got list"),
        (torch.ones(3), {"margin": 0.0}, ValueError, "margin must be positive"),
        (torch.ones(3), {"reduction": "avg"}, ValueError, "reduction must be one of"),
    ],
)
def test_contrastive_refuses(same, keywords, error, message):
    with pytest.raises(error, match=f"contrastive_loss: {message}"):
        contrastive_loss(torch.zeros(3, 2), torch.zeros(3, 2), same, **keywords)


@pytest.mark.parametrize(
    ("logits", "keywords", "error", "message"),
    [
        (torch.zeros(3, 1), {}, ValueError, r"logits must have shape \(n,\), got \(3, 1\)"),
        (torch.zeros(3).int(), {}, TypeError, "logits must be floating point"),
        (torch.zeros(2), {}, ValueError, r"same must have shape \(n,\) = \(2,\), got \(3,\)"),
        (torch.zeros(3), {"pos_weight": -1.0}, ValueError, "pos_weight must be positive"),
    ],
)
def test_bce_refuses(logits, keywords, error, message):
    with pytest.raises(error, match=f"bce_pair_loss: {message}"):
        bce_pair_loss(logits, torch.ones(3), **keywords)
