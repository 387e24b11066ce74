import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from siameselib.functional import info_nce_loss
from siameselib.losses import InfoNCELoss


def matches(n=9, d=4, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, n, d, generator=generator, dtype=torch.float64)
    return x[0].to(dtype), (x[0] + 0.3 * x[1]).to(dtype)


def naive_info_nce(x1, x2, labels, temperature):
    a, b = F.normalize(x1.double()), F.normalize(x2.double())
    losses = []
    for i in range(len(a)):
        others = [j for j in range(len(a)) if labels[j] != labels[i]]
        if not others:
            continue
        match = float(a[i] @ b[i]) / temperature
        for scores in ([float(a[i] @ b[j]) for j in others], [float(a[j] @ b[i]) for j in others]):
            logits = [match, *(score / temperature for score in scores)]
            top = max(logits)
            losses.append(top + math.log(sum(math.exp(z - top) for z in logits)) - match)
    return sum(losses) / len(losses) if losses else 0.0


@pytest.mark.parametrize("temperature", [0.01, 0.1, 1.0])
def test_info_nce_is_symmetric_cross_entropy(temperature):
    x1, x2 = (x.requires_grad_() for x in matches())
    loss = info_nce_loss(x1, x2, temperature=temperature)
    gradient = torch.autograd.grad(loss, x1)[0]
    logits = F.normalize(x1) @ F.normalize(x2).T / temperature
    own = torch.arange(9)
    expected = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    torch.testing.assert_close(loss, expected, rtol=1e-13, atol=1e-13)
    expected = torch.autograd.grad(expected, x1)[0]
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12)


@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 12),
    identities=st.integers(1, 6),
    temperature=st.sampled_from([0.01, 0.1, 0.7]),
)
@settings(max_examples=40, deadline=None)
def test_info_nce_leaves_out_rows_of_one_identity(seed, n, identities, temperature):
    x1, x2 = matches(n, seed=seed)
    labels = torch.randint(identities, (n,), generator=torch.Generator().manual_seed(seed))
    loss = info_nce_loss(x1, x2, labels, temperature=temperature)
    expected = naive_info_nce(x1, x2, labels, temperature)
    assert loss.item() == pytest.approx(expected, rel=1e-11, abs=1e-13)


def test_info_nce_gradcheck():
    x1, x2 = (x.requires_grad_() for x in matches())
    labels = torch.tensor([0, 1, 2, 2, 1, 0, 3, 4, 4])
    assert torch.autograd.gradcheck(lambda a, b: info_nce_loss(a, b, labels), (x1, x2))


def test_info_nce_of_a_collapsed_model_is_trivial():
    criterion = InfoNCELoss()
    x = torch.ones(6, 3)
    assert criterion(x, x).item() == pytest.approx(math.log(6), rel=1e-6)
    assert criterion.stats.trivial.item() == pytest.approx(math.log(6), rel=1e-6)
    loss = criterion(x, x, torch.tensor([0, 0, 0, 0, 1, 1]))
    assert loss.item() == pytest.approx((4 * math.log(3) + 2 * math.log(5)) / 6, rel=1e-6)
    assert criterion.stats.trivial.item() == pytest.approx(loss.item(), rel=1e-6)


@pytest.mark.parametrize(
    ("n", "labels"), [(0, None), (1, None), (4, torch.zeros(4, dtype=torch.int64))]
)
def test_info_nce_without_negatives_is_a_differentiable_zero(n, labels):
    x1, x2 = (x.requires_grad_() for x in matches(n))
    criterion = InfoNCELoss()
    loss = criterion(x1, x2, labels)
    loss.backward()
    assert loss.item() == 0 and (x1.grad == 0).all() and (x2.grad == 0).all()
    assert criterion.stats.valid == 0


def test_info_nce_stats():
    x1 = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 2.0]])
    x2 = torch.tensor([[0.0, 3.0], [0.0, 1.0], [1.0, 0.0]])
    criterion = InfoNCELoss()
    criterion(x1, x2, torch.tensor([7, 8, 8]))
    assert criterion.stats.valid == 3
    assert criterion.stats.positive_distance.item() == pytest.approx(2 / 3)
    assert criterion.stats.negative_distance.item() == pytest.approx(1 / 4)


def test_info_nce_is_finite_on_zero_rows_and_any_scale():
    x1, x2 = matches(dtype=torch.float32)
    expected = info_nce_loss(x1, x2)
    torch.testing.assert_close(info_nce_loss(x1 * 1e20, x2 * 1e-20), expected)
    x1[3] = 0
    x1.requires_grad_()
    info_nce_loss(x1, x2).backward()
    assert x1.grad.isfinite().all() and (x1.grad[3] == 0).all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x2": torch.zeros(3, 1)}, ValueError, r"x2 must .*\(3, 2\), got \(3, 1\)"),
        ({"labels": torch.zeros(3, 1).long()}, ValueError, r"labels must .* got \(3, 1\)"),
        ({"labels": torch.zeros(3)}, TypeError, "labels must be integers"),
        ({"temperature": 0.0}, ValueError, "temperature must be positive"),
        ({"reduction": "max"}, ValueError, "reduction must be one of"),
    ],
)
def test_info_nce_refuses(change, error, message):
    with pytest.raises(error, match=f"info_nce_loss: {message}"):
        info_nce_loss(**{"x1": torch.zeros(3, 2), "x2": torch.zeros(3, 2)} | change)
