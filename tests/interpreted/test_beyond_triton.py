"""Semi-hard mining by the Triton kernel, in Triton's interpreter, against the dense reference."""

import pytest
import torch

import siameselib as sl
from siameselib.kernels import extremes
from siameselib.kernels.blocks import squared

pytestmark = pytest.mark.usefixtures("poisoned")


def batch(kind, n=50, d=9):
    x, labels = torch.randn(n, d), torch.randint(0, 12, (n,))
    if kind == "whole":  # every difference is exact, and many are equal
        x = torch.randint(-2, 3, (n, d)).float()
    elif kind == "duplicates":
        x = x[torch.randint(0, n // 3, (n,))]
    elif kind == "zero rows":
        x[::3] = 0
    elif kind == "collapsed":
        x = x[:1].expand(n, d).contiguous()
    elif kind == "one class":
        labels = torch.zeros(n).long()
    elif kind == "singletons":
        labels = torch.randperm(n)
    return x, labels


KINDS = ["plain", "whole", "duplicates", "zero rows", "collapsed", "one class", "singletons"]


def both(x, labels, y, y_labels, offset, width=None, easy=False):
    found = extremes.beyond(x, labels, y, y_labels, offset, width, "triton", easy)
    wide, others = x.double(), y.double() if y is not x else None
    columns = wide if others is None else others
    expected = extremes.beyond(wide, labels, columns, y_labels, offset, width, "reference", easy)
    assert all(
        a.shape == b.shape and a.dtype == b.dtype for a, b in zip(found, expected, strict=True)
    )
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
    return found, expected


@pytest.mark.parametrize(("width", "easy"), [(None, False), (2, False), (7, False), (None, True)])
@pytest.mark.parametrize("kind", KINDS)
def test_finds_what_the_reference_finds(kind, width, easy):
    x, labels = batch(kind)
    found, expected = both(x, labels, x, labels, 0, width, easy)
    assert torch.equal(found[3], expected[3])
    if kind in ("whole", "collapsed", "one class"):
        assert torch.equal(found[2], expected[2])
    different = found[2] != expected[2]
    a, b = (squared(x[found[0]], x[index])[different] for index in (found[2], expected[2]))
    assert ((a - b).abs() < 1e-6 * b).all() and different.sum() < 4


@pytest.mark.parametrize("offset", [None, 4])
def test_rows_and_columns_differ(offset):
    x, labels = batch("whole", 20)
    y, y_labels = batch("whole", 70)
    if offset is not None:
        y[offset : offset + 20], y_labels[offset : offset + 20] = x, labels
    found, expected = both(x, labels, y, y_labels, offset, 9)
    assert all(map(torch.equal, found, expected))


def test_an_equal_vector_of_another_class_is_not_farther():
    x = torch.randn(40, 13)
    x[20:] = x[:20]
    labels = torch.arange(40) // 2  # the copy of each positive is a negative
    row, positive, negative, farther = extremes.beyond(x, labels, x, labels, 0, 1, "triton")
    assert torch.equal(positive, torch.arange(40) ^ 1)
    # Where nothing is farther, the copy is as far as the farthest: the lowest of such.
    assert farther.sum() >= 30 and torch.equal(farther, negative % 20 != positive % 20)
    further = squared(x[row], x[negative]) > squared(x[row], x[positive])
    assert torch.equal(farther, further)


def test_nan_is_found():
    x, labels = torch.randn(20, 4), torch.arange(20) // 5
    x[7] = torch.nan
    row, _, negative, farther = extremes.beyond(x, labels, x, labels, 0, None, "triton")
    other = (row < 5) | (row > 9)
    assert farther[other].all() and (negative[other] == 7).all()
    assert sl.SemiHardTripletLoss(backend="triton")(x, labels).isnan()


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_loss(metric):
    labels = torch.arange(40) // 4
    losses, gradients = [], []
    for backend in ("reference", "triton"):
        x = torch.randn(40, 32, generator=torch.Generator().manual_seed(3)).requires_grad_()
        loss = sl.SemiHardTripletLoss(metric=metric, backend=backend)(x, labels)
        loss.backward()
        losses.append(loss.detach())
        gradients.append(x.grad)
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*gradients)
