import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.losses import TripletMarginLoss
from torch.nn import functional as F

from siameselib.functional import mean_square_distance, triplet_loss
from siameselib.losses import TripletLoss


def triplets(n=9, d=4, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return tuple((torch.randn(3, n, d, generator=generator, dtype=torch.float64) * 0.4).to(dtype))


@given(
    n=st.integers(1, 20),
    seed=st.integers(0, 10_000),
    margin=st.floats(0.05, 2),
    swap=st.booleans(),
    reduction=st.sampled_from(["mean", "sum", "none"]),
)
@settings(max_examples=50, deadline=None)
def test_agrees_with_torch(n, seed, margin, swap, reduction):
    ours = [x.requires_grad_() for x in triplets(n, seed=seed)]
    theirs = [x.detach().clone().requires_grad_() for x in ours]
    loss = triplet_loss(*ours, margin=margin, swap=swap, reduction=reduction)
    expected = F.triplet_margin_loss(*theirs, margin=margin, swap=swap, reduction=reduction, eps=0)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-13)
    loss.sum().backward()
    expected.sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("swap", [False, True])
def test_mean_active_is_the_default_of_pytorch_metric_learning(swap):
    anchor, positive, negative = (F.normalize(x) for x in triplets(dtype=torch.float32))
    n = len(anchor)
    embeddings = torch.cat([anchor, positive, negative])
    indices = (torch.arange(n), torch.arange(n) + n, torch.arange(n) + 2 * n)
    expected = TripletMarginLoss(margin=0.2, swap=swap)(embeddings, indices_tuple=indices)
    loss = triplet_loss(anchor, positive, negative, swap=swap, reduction="mean_active")
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)


def naive(anchor, positive, negative, metric, margin, soft):
    def cosine(a, b):
        return 1 - np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b)

    distance = {
        "euclidean": lambda a, b: np.linalg.norm(a - b),
        "sqeuclidean": lambda a, b: np.sum((a - b) ** 2),
        "manhattan": lambda a, b: np.sum(np.abs(a - b)),
        "cosine": cosine,
        mean_square_distance: lambda a, b: np.mean((a - b) ** 2),
    }[metric]
    losses = []
    for a, p, n in zip(anchor.numpy(), positive.numpy(), negative.numpy(), strict=True):
        x = distance(a, p) - distance(a, n)
        losses.append(math.log1p(math.exp(x)) if soft else max(0, x + margin))
    return losses


@pytest.mark.parametrize(
    "metric", ["euclidean", "sqeuclidean", "cosine", "manhattan", mean_square_distance]
)
@pytest.mark.parametrize("soft", [False, True])
def test_every_metric_and_the_soft_margin(metric, soft):
    x = triplets()
    loss = triplet_loss(*x, metric=metric, soft=soft, reduction="none")
    np.testing.assert_allclose(loss.numpy(), naive(*x, metric, 0.2, soft), rtol=1e-12, atol=1e-14)
    assert torch.autograd.gradcheck(
        lambda *x: triplet_loss(*x, metric=metric, soft=soft),
        tuple(tensor.requires_grad_() for tensor in x),
    )


@given(seed=st.integers(0, 10_000), reduction=st.sampled_from(["mean", "sum", "mean_active"]))
@settings(max_examples=30, deadline=None)
def test_invalid_triplets_count_nowhere(seed, reduction):
    x = [tensor.requires_grad_() for tensor in triplets(seed=seed)]
    valid = torch.rand(9, generator=torch.Generator().manual_seed(seed)) < 0.6
    loss = triplet_loss(*x, valid=valid, reduction=reduction)
    expected = triplet_loss(*(tensor[valid] for tensor in x), reduction=reduction)
    torch.testing.assert_close(loss, expected, rtol=1e-13, atol=1e-15)
    loss.backward()
    assert all((tensor.grad[~valid] == 0).all() for tensor in x)


def test_none_valid_is_a_differentiable_zero():
    x = [tensor.requires_grad_() for tensor in triplets()]
    criterion = TripletLoss()
    loss = criterion(*x, valid=torch.zeros(9, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0 and all((tensor.grad == 0).all() for tensor in x)
    assert criterion.stats.valid == 0 and criterion.stats.active.isnan()
    none = triplet_loss(*x, valid=torch.zeros(9, dtype=torch.bool), reduction="none")
    assert (none == 0).all()


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean", "cosine", mean_square_distance])
@pytest.mark.parametrize("soft", [False, True])
def test_collapse_costs_the_trivial_loss_and_has_no_gradient(metric, soft):
    x = torch.ones(3, 4, 5, requires_grad=True)
    criterion = TripletLoss(margin=0.3, metric=metric, soft=soft)
    loss = criterion(*x)
    loss.backward()
    assert loss.item() == pytest.approx(criterion.stats.trivial.item(), rel=1e-6)
    assert criterion.stats.trivial.item() == pytest.approx(math.log(2) if soft else 0.3)
    assert (x.grad == 0).all()


def test_stats():
    anchor = torch.zeros(3, 1)
    positive = torch.tensor([[1.0], [2.0], [9.0]])
    negative = torch.tensor([[3.0], [1.0], [9.0]])
    criterion = TripletLoss(margin=0.5)
    criterion(anchor, positive, negative, valid=torch.tensor([True, True, False]))
    assert [value.item() for value in criterion.stats] == [2, 0.5, 1.5, 2, 0.5]


def test_half_precision_and_autocast():
    x = [tensor.requires_grad_() for tensor in triplets(dtype=torch.bfloat16)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = triplet_loss(*x)
    loss.backward()
    expected = triplet_loss(*(tensor.detach().double() for tensor in x))
    assert loss.dtype == torch.float32 and x[0].grad.dtype == torch.bfloat16
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"positive": torch.zeros(3, 1)}, ValueError, r"positive must .*\(3, 2\), got \(3, 1\)"),
        ({"negative": torch.zeros(1, 2)}, ValueError, r"negative must .*\(3, 2\), got \(1, 2\)"),
        ({"anchor": torch.zeros(3)}, ValueError, r"anchor must have shape \(n, d\), got \(3,\)"),
        ({"valid": torch.ones(3, 1) > 0}, ValueError, r"valid must .* got \(3, 1\)"),
        ({"valid": torch.ones(3)}, TypeError, "valid must be boolean, got torch.float32"),
        ({"margin": -1.0}, ValueError, "margin must be positive"),
        ({"reduction": "max"}, ValueError, "reduction must be one of"),
    ],
)
def test_refuses(change, error, message):
    arguments = {name: torch.zeros(3, 2) for name in ("anchor", "positive", "negative")} | change
    with pytest.raises(error, match=f"triplet_loss: {message}"):
        triplet_loss(**arguments)
