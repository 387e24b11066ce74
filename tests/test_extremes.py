"""The search kernels against loops over all entries, and their backends against each other."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from siameselib.kernels import extremes, mutual
from siameselib.kernels.blocks import Slabs, in_range, squared
from siameselib.kernels.whole_extremes import clear_beyond, clear_extremes


def naive_hardest(x, labels, y, y_labels, offset):
    """Loops over lists of floats; the first of equals, -1 for none."""
    positive, negative = [], []
    for i, (a, label) in enumerate(zip(x, labels, strict=True)):
        distance = [math.dist(a, b) for b in y]
        own = None if offset is None else offset + i
        same = [j for j in range(len(y)) if y_labels[j] == label and j != own]
        other = [j for j in range(len(y)) if y_labels[j] != label]
        positive.append(max(same, key=lambda j: distance[j], default=-1))
        negative.append(min(other, key=lambda j: distance[j], default=-1))
    return positive, negative


def naive_beyond(x, labels, y, y_labels, offset):
    rows = []
    for i, (a, label) in enumerate(zip(x, labels, strict=True)):
        distance = [math.dist(a, b) for b in y]
        own = None if offset is None else offset + i
        other = [j for j in range(len(y)) if y_labels[j] != label]
        for p in range(len(y)):
            if y_labels[p] == label and p != own:
                farther = [j for j in other if distance[j] > distance[p]]
                n = min(farther, key=lambda j: distance[j], default=-1)
                if not farther:
                    n = max(other, key=lambda j: distance[j], default=-1)
                rows.append((i, p, n, bool(farther)))
    return rows


def problem(seed, n=40, d=3, classes=6, kind="self"):
    """Small whole numbers, so that equal distances are common and exact in every arithmetic."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(-2, 3, (n, d), generator=g).double()
    labels = torch.randint(0, classes, (n,), generator=g)
    if kind == "self":
        return x, labels, x, labels, 0
    if kind == "part":
        return (
            x,
            labels,
            torch.cat([x[:5], x, x[7:9]]),
            torch.cat([labels[:5], labels, labels[7:9]]),
            5,
        )
    y = torch.randint(-2, 3, (n // 2, d), generator=g).double()
    return x, labels, y, torch.randint(0, classes, (n // 2,), generator=g), None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("backend", ["reference", "streaming"])
@pytest.mark.parametrize("kind", ["self", "part", "apart"])
@pytest.mark.parametrize("classes", [1, 2, 6, 60])
def test_finds_what_the_loops_find(backend, kind, classes, dtype):
    x, labels, y, y_labels, offset = problem(classes, classes=classes, kind=kind)
    lists = x.tolist(), labels.tolist(), y.tolist(), y_labels.tolist(), offset
    columns = x.to(dtype) if kind == "self" else y.to(dtype)
    args = x.to(dtype), labels, columns, y_labels, offset
    found = extremes.hardest(*args, backend)
    assert [t.tolist() for t in found] == list(naive_hardest(*lists))
    found = extremes.beyond(*args, None, backend)
    assert list(zip(*(t.tolist() for t in found), strict=True)) == naive_beyond(*lists)


@pytest.mark.parametrize("backend", ["reference", "streaming"])
@pytest.mark.parametrize("kind", ["self", "part", "apart"])
@pytest.mark.parametrize("classes", [1, 2, 6, 60])
def test_the_nearest_positive_is_one_of_them(backend, kind, classes):
    x, labels, y, y_labels, offset = problem(classes, classes=classes, kind=kind)
    columns = x if kind == "self" else y
    row, positive, negative, farther = extremes.beyond(
        x, labels, columns, y_labels, offset, None, backend, easy=True
    )
    hard = extremes.hardest(x, labels, columns, y_labels, offset, backend, easy=True)
    assert torch.equal(positive, hard[0]) and row.tolist() == list(range(40))
    lists = x.tolist(), labels.tolist(), y.tolist(), y_labels.tolist(), offset
    assert hard[1].tolist() == naive_hardest(*lists)[1]
    every = {(i, p): rest for i, p, *rest in naive_beyond(*lists)}
    for i in range(40):
        mine = [p for j, p in every if j == i]
        nearest = min(mine, key=lambda p: math.dist(lists[0][i], lists[2][p]), default=-1)
        assert positive[i] == nearest
        if mine:
            assert [negative[i], farther[i]] == every[i, nearest]
        else:
            assert negative[i] == -1 and not farther[i]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_small_batch_is_clear_at_once(dtype):
    g = torch.Generator().manual_seed(3)
    x = torch.nn.functional.normalize(torch.randn(256, 128, generator=g, dtype=dtype))
    labels = torch.arange(256) // 8
    labels[:5] = torch.arange(100, 105)  # alone: without a positive
    for easy in (False, True):
        clear = clear_extremes(x, x, labels, labels, 0, easy)
        expected = extremes.reference_hardest(x, x, labels, labels, 0, easy)
        assert clear is not None and all(map(torch.equal, expected, clear))
        assert (clear[0][:5] == -1).all()
    clear = clear_beyond(x, x, labels, labels, 0)
    expected = extremes.reference_beyond(x, x, labels, labels, 0, None)
    assert clear is not None and all(map(torch.equal, expected, clear))


def test_what_rounding_hides_is_not_clear():
    x, labels = torch.ones(64, 4), torch.arange(64) // 8
    assert clear_extremes(x, x, labels, labels, 0, False) is None  # all distances are equal
    assert clear_beyond(x, x, labels, labels, 0) is None
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    x[3, 1] = torch.nan
    assert clear_extremes(x, x, labels, labels, 0, False) is None
    assert clear_beyond(x, x, labels, labels, 0) is None


def test_width_lists_the_first_positives_and_pads():
    x, labels, *_ = problem(0, classes=20)
    every = extremes.beyond(x, labels, x, labels, 0)
    for backend in ("reference", "streaming"):
        row, positive, negative, farther = extremes.beyond(x, labels, x, labels, 0, 3, backend)
        assert row.tolist() == [i for i in range(40) for _ in range(3)]
        for i in range(40):
            mine = (every[0] == i).nonzero().flatten()[:3]
            here = slice(3 * i, 3 * i + len(mine))
            assert torch.equal(positive[here], every[1][mine])
            assert torch.equal(negative[here], every[2][mine])
            assert torch.equal(farther[here], every[3][mine])
            rest = slice(3 * i + len(mine), 3 * i + 3)
            assert (positive[rest] == -1).all() and (negative[rest] == -1).all()
            assert not farther[rest].any()


def same_indices(x, y, labels, y_labels, offset, static=(False,), widths=(None, 2)):
    x, y = in_range(x, x if y is x else y)
    problem = (x, y, labels, y_labels, offset)
    for fixed in static:
        for easy in (False, True):
            hard = extremes.reference_hardest(*problem, easy)
            found = extremes.streaming_hardest(*problem, fixed, easy)
            assert all(map(torch.equal, hard, found))
            clear = clear_extremes(*problem, easy)
            assert clear is None or all(map(torch.equal, hard, clear))
        for width, easy in [*((width, False) for width in widths), (None, True)]:
            semi = extremes.reference_beyond(*problem, width, easy)
            found = extremes.streaming_beyond(*problem, width, fixed, easy)
            assert all(map(torch.equal, semi, found))
            clear = clear_beyond(*problem) if width is None and not easy else None
            assert clear is None or all(map(torch.equal, semi, clear))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 150),
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from([torch.float32, torch.float64]),
    st.sampled_from([1e-20, 1e-3, 1.0, 1e20]),
    st.sampled_from(["plain", "duplicates", "shifted", "near", "whole", "outlier", "zero rows"]),
    st.integers(0, 10**6),
)
def test_backends_agree_to_the_last_index(n, d, classes, dtype, scale, shape, seed):
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
    x, labels = x * scale, torch.randint(0, classes, (n,), generator=g)
    same_indices(x, x, labels, labels, 0)


@pytest.mark.parametrize("classes", [2, 30, 300])
def test_backends_agree_over_several_blocks(classes):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(600, 16, generator=g)
    labels = torch.randint(0, classes, (600,), generator=g)
    y, y_labels = torch.cat([x[:1], x, x[:400]]), torch.cat([labels[:1], labels, labels[:400]])
    widths = (2,) if classes == 2 else (None, 2)  # the reference takes pairs × columns
    same_indices(x, y, labels, y_labels, 1, widths=widths)
    # without equal distances eight candidates a row are enough
    same_indices(x, x, labels, labels, 0, static=(False, True), widths=widths)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 400),
    st.sampled_from([1, 2, 5, 40, 120]),
    st.booleans(),
    st.booleans(),
    st.integers(0, 10**6),
)
def test_small_tiles_find_the_same(n, classes, whole, easy, seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 5, generator=g)
    x = x.round() if whole else x
    labels = torch.randint(0, classes, (n,), generator=g)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mutual, "FEW", 0)
        patch.setattr(mutual, "_HEIGHT", 64)
        patch.setattr(mutual, "_WIDTH", 128)
        found = extremes.streaming_hardest(x, x, labels, labels, 0, easy=easy)
    true = extremes.reference_hardest(x, x, labels, labels, 0, easy=easy)
    assert all(map(torch.equal, true, found))


@pytest.mark.parametrize("points", [1, 2, 40])
def test_collapsed_batches_take_no_more_memory(points, largest_tensor):
    # every pair of two equal rows may be the nearest: the lists must be settled on the way
    n = 3000
    g = torch.Generator().manual_seed(points)
    x = torch.randn(points, 4, generator=g).round()[torch.randint(0, points, (n,), generator=g)]
    labels = torch.randint(0, n // 3, (n,), generator=g)
    with largest_tensor() as largest:
        found = extremes.streaming_hardest(x, x, labels, labels, 0)
    assert largest.entries <= n * n / 3
    assert all(map(torch.equal, extremes.reference_hardest(x, x, labels, labels, 0), found))


def test_backends_agree_in_reduced_precision():
    before = torch.get_float32_matmul_precision()
    g = torch.Generator().manual_seed(0)
    x = torch.randn(200, 64, generator=g)
    labels = torch.arange(200) // 4
    try:
        torch.set_float32_matmul_precision("medium")
        assert Slabs(x, x).error > 1e-3
        same_indices(x, x, labels, labels, 0)
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_bounds_hold(dtype, scale):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(300, 130, generator=g, dtype=dtype) * torch.rand(300, 1, generator=g) * scale
    x[200:] = x[:100]
    x[100:200] = x[:100] * (1 + 1e-4)
    slabs = Slabs(x, x)
    true = squared(x[:, None], x)
    for rows, slab in slabs.blocks():
        assert (slab[:, 300:] == torch.inf).all()
        bound = slab[:, :300]
        assert (bound <= true[rows]).all()
        ceiling = torch.stack([slabs.ceiling(slabs.x_square[rows], b) for b in bound.T], 1)
        assert (true[rows] <= ceiling).all()
        assert (ceiling - bound <= 1e-3 * scale**2 * 300).all()


def test_nan_is_found():
    x = torch.randn(20, 4)
    x[7] = torch.nan
    labels = torch.arange(20) // 5
    for backend in ("reference", "streaming"):
        positive, negative = extremes.hardest(x, labels, x, labels, 0, backend)
        assert (negative >= 0).all() and (positive >= 0).all()
        assert x[negative[10:]].isnan().any(1).all()
        row, _, negative, farther = extremes.beyond(x, labels, x, labels, 0, None, backend)
        other = row > 9  # anchors of an identity without NaN: theirs is the NaN row, and found
        assert farther[other].all() and x[negative[other]].isnan().any(1).all()


@pytest.mark.parametrize("classes", [2, 512])
def test_streaming_never_holds_the_matrix(classes, largest_tensor):
    n = 2048
    x, labels = torch.randn(n, 16), torch.arange(n) % classes
    with largest_tensor() as largest:
        extremes.streaming_hardest(x, x, labels, labels, 0)
    assert largest.entries <= n * n / 3
    if classes > 2:  # with two classes the pairs alone are n²/2
        with largest_tensor() as largest:
            extremes.streaming_beyond(x, x, labels, labels, 0, None)
        assert largest.entries <= n * n / 3


@pytest.mark.parametrize("offset", [None, 0])
def test_operations_are_well_formed(offset):
    x, labels = torch.randn(12, 3), torch.arange(12) // 3
    y = None if offset == 0 else torch.randn(12, 3)
    for backend in ("reference", "streaming"):
        torch.library.opcheck(
            torch.ops.siameselib.hardest.default, (x, labels, y, labels, offset, backend, False)
        )
        for width in (None, 2):
            torch.library.opcheck(
                torch.ops.siameselib.beyond.default,
                (x, labels, y, labels, offset, width, backend, False),
            )
