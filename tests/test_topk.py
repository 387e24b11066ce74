"""The k nearest columns of other identities, against loops and sorts over all of them."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from siameselib.kernels import topk as kernel
from siameselib.kernels.blocks import in_range
from siameselib.kernels.topk import topk


def naive(x, labels, y, y_labels, k):
    found = []
    for a, label in zip(x, labels, strict=True):
        other = [j for j in range(len(y)) if y_labels[j] != label]
        other.sort(key=lambda j: math.dist(a, y[j]))  # stable: ties by the lowest index
        found.append((other + [-1] * k)[:k])
    return found


def problem(seed, n, d, classes, kind):
    """Small whole numbers, so that equal distances are common and exact in every arithmetic."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(-2, 3, (n, d), generator=g).double()
    labels = torch.randint(0, classes, (n,), generator=g)
    if kind == "self":
        return x, labels, x, labels, 0
    if kind == "part":
        return x, labels, torch.cat([x[:3], x]), torch.cat([labels[:3], labels]), len(x[:3])
    y = torch.randint(-2, 3, (n // 2 + 1, d), generator=g).double()
    return x, labels, y, torch.randint(0, classes, (n // 2 + 1,), generator=g), None


@pytest.mark.parametrize("backend", ["reference", "streaming"])
@pytest.mark.parametrize("kind", ["self", "part", "apart"])
@pytest.mark.parametrize(("classes", "k"), [(1, 2), (2, 1), (6, 3), (6, 100), (60, 7)])
def test_finds_what_the_loops_find(backend, kind, classes, k):
    x, labels, y, y_labels, offset = problem(classes, 40, 3, classes, kind)
    found = topk(x, labels, y, y_labels, offset, k, backend)
    assert found.shape == (40, k)
    assert found.tolist() == naive(x.tolist(), labels.tolist(), y.tolist(), y_labels.tolist(), k)


@pytest.mark.parametrize("backend", ["reference", "streaming"])
def test_of_all_others(backend):
    """Every label once: the nearest neighbours, whatever their identity."""
    x = torch.randn(90, 4)
    index = torch.arange(90)
    found = topk(x, index, x, index, 0, 5, backend)
    distance = torch.cdist(x.double(), x.double()).fill_diagonal_(torch.inf)
    assert torch.equal(found, distance.topk(5, largest=False).indices)


SHAPES = ["plain", "duplicates", "shifted", "near", "whole", "outlier", "zero rows", "one point"]


@given(
    st.integers(1, 150),
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from([1, 2, 9, 70, 200]),
    st.sampled_from([torch.float32, torch.float64]),
    st.sampled_from([1e-20, 1e-3, 1.0, 1e20]),
    st.sampled_from(SHAPES),
    st.integers(0, 10**6),
)
def test_backends_agree_to_the_last_index(n, d, classes, k, dtype, scale, shape, seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=g, dtype=dtype)
    if shape == "duplicates":
        x = x[torch.randint(0, (n + 1) // 2, (n,), generator=g)]
    elif shape == "shifted":
        x += 100
    elif shape == "near":
        x = x[:1] + 1e-6 * x
    elif shape == "whole":
        x = x.round()
    elif shape == "outlier":
        x[0] *= 1e4
    elif shape == "zero rows":
        x[::2] = 0
    elif shape == "one point":
        x = x[:1].expand(n, -1)
    x, labels = x * scale, torch.randint(0, classes, (n,), generator=g)
    x, _ = in_range(x, x)
    found = kernel.streaming_topk(x, x, labels, labels, 0, k)
    assert torch.equal(found, kernel.reference_topk(x, x, labels, labels, 0, k))


@pytest.mark.parametrize("classes", [2, 30, 300])
def test_backends_agree_over_several_blocks(classes):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(1100, 8, generator=g)
    labels = torch.randint(0, classes, (1100,), generator=g)
    exact = kernel.reference_topk(x, x, labels, labels, 0, 80)
    for k in (1, 12, 80):
        for static in (False, True):
            found = kernel.streaming_topk(x, x, labels, labels, 0, k, static)
            assert torch.equal(found, exact[:, :k])


def test_streaming_never_holds_the_matrix(largest_tensor):
    x, labels = torch.randn(2048, 16), torch.arange(2048) % 100
    with largest_tensor() as largest:
        kernel.streaming_topk(x, x, labels, labels, 0, 10)
    assert largest.entries <= 2048 * 2048 / 3


def test_nan_is_found():
    x, labels = torch.randn(20, 4), torch.arange(20) // 5
    x[7] = torch.nan
    for backend in ("reference", "streaming"):
        found = topk(x, labels, x, labels, 0, 3, backend)
        assert (found >= 0).all() and x[found[10:, 0]].isnan().any(1).all()


@pytest.mark.parametrize("offset", [None, 0])
@pytest.mark.parametrize("backend", ["reference", "streaming"])
def test_operation_is_well_formed(offset, backend):
    x, labels = torch.randn(12, 3), torch.arange(12) // 3
    y = None if offset == 0 else torch.randn(12, 3)
    op = torch.ops.siameselib.topk.default
    torch.library.opcheck(op, (x, labels, y, labels, offset, 4, backend))
