"""Batch-hard mining on a GPU: see :func:`siameselib.kernels.extremes.hardest`.

Nearest negatives are screened in bfloat16 (:mod:`siameselib.kernels.screen_triton`), and decided
by direct difference. So are positives, which are near each other in label order, and the negatives
of rows that screening gives up on: tiles of direct differences, with no products at all.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator,misc"

import torch
import triton
import triton.language as tl
from torch import Tensor

from siameselib.kernels import precision
from siameselib.kernels.blocks import Grouped, group
from siameselib.kernels.screen_triton import Kept, screen
from siameselib.kernels.tiles_triton import FUSED, Shape, bounds, filled

NONE = tl.constexpr(2**31 - 1)  # comes after every column
OPEN = -2  # in place of a column: to be decided by direct differences
_TILE = Shape(32, 32, chunk=8, warps=4, stages=2)


def triton_hardest(
    x: Tensor, y: Tensor, labels: Tensor, y_labels: Tensor, offset: int | None, easy: bool = False
) -> tuple[Tensor, Tensor]:
    """Tiles of a GPU: :func:`siameselib.kernels.extremes.hardest`; waits for nothing."""
    grouped = group(x, labels, y, y_labels, offset)
    positive = torch.full_like(grouped.rows, OPEN)
    by_difference(grouped, positive, positives=True, farthest=not easy)
    negative = settle(grouped, screen(grouped, precision()))
    by_difference(grouped, negative)
    found = torch.empty_like(positive), torch.empty_like(negative)
    found[0][grouped.rows], found[1][grouped.rows] = positive, negative
    return found


def settle(grouped: Grouped, kept: Kept) -> Tensor:
    """Find each row's nearest negative among the columns of the tiles kept for it.

    Args:
        grouped: rows and columns.
        kept: for each row.

    Returns:
        (n,) the original index of the column, the lowest one of equals; -1 for none, -2 where
        not all tiles were kept.
    """
    n, d = grouped.x.shape
    result = torch.empty_like(grouped.rows)
    parts, rows, capacity = kept.entry.shape
    _settle[(n,)](
        grouped.x,
        grouped.y,
        grouped.columns,
        grouped.start,
        grouped.end,
        kept.entry,
        kept.upper,
        kept.tiles,
        kept.floor,
        result,
        rows,
        len(grouped.y),
        d,
        PARTS=parts,
        CAPACITY=capacity,
        COLUMNS=kept.columns,
        PIECES=kept.pieces,
        CHUNK=16,
        num_warps=1,
        **FUSED,
    )
    return result


def by_difference(
    grouped: Grouped, result: Tensor, *, positives: bool = False, farthest: bool = False
) -> None:
    """Decide the rows that are open, by the direct differences from all that they look for.

    Args:
        grouped: rows and columns.
        result: (n,) original indices of columns, -2 where open.
        positives: whether to look for a positive, of a negative else;
        farthest: and for the farthest, not the nearest.
    """
    n, d = grouped.x.shape
    shape = _TILE
    start, end = bounds(grouped, shape.rows)
    _by_difference[(len(start) // shape.rows,)](
        grouped.x,
        grouped.y,
        grouped.columns,
        start,
        end,
        filled(grouped.own, shape.rows),
        result,
        n,
        len(grouped.y),
        d,
        ROWS=shape.rows,
        COLUMNS=shape.columns,
        CHUNK=shape.chunk,
        POSITIVES=positives,
        FARTHEST=farthest,
        **shape.options(),
    )


@triton.jit
def differences(
    x, y, row, column, n, m, d, ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHUNK: tl.constexpr
):
    """Squared distances of some rows and some columns, by direct difference."""
    result = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(0, d, CHUNK):
        # With the entries of the vectors on the first axis, a thread has all it sums.
        k = first + tl.arange(0, CHUNK)[:, None]
        left = tl.load(x + row[None, :] * d + k, (row[None, :] < n) & (k < d), 0)
        right = tl.load(y + column[None, :] * d + k, (column[None, :] < m) & (k < d), 0)
        between = left[:, :, None] - right[:, None, :]
        result += tl.sum(between * between, 0)
    return result


@triton.jit
def first_of_least(value, allowed, index, best, found):
    """Take in the least allowed value of each row (second axis: columns); of equals the first."""
    value = tl.where(allowed, tl.where(value == value, value, -float("inf")), float("inf"))
    least = tl.min(value, 1)
    first = allowed & (value == tl.expand_dims(least, 1))
    index = tl.min(tl.where(first, index, NONE), 1)
    better = (least < best) | ((least == best) & (index < found))
    return tl.where(better, least, best), tl.where(better, index, found)


@triton.jit
def _settle(
    x,
    y,
    columns,
    start,
    end,
    entry,
    upper,
    count,
    floor,
    result,
    rows,
    m,
    d,
    PARTS: tl.constexpr,
    CAPACITY: tl.constexpr,
    COLUMNS: tl.constexpr,
    PIECES: tl.constexpr,
    CHUNK: tl.constexpr,
):
    row = tl.program_id(0)
    low, high = tl.load(start + row), tl.load(end + row)
    top = tl.load(floor + row)
    most = tl.load(count + row)
    for number in range(1, PARTS):
        top = tl.maximum(top, tl.load(floor + number * rows + row))
        most = tl.maximum(most, tl.load(count + number * rows + row))
    best = tl.full((1,), float("inf"), tl.float32)
    found = tl.full((1,), NONE, tl.int32)
    if most <= CAPACITY:
        GRAIN: tl.constexpr = COLUMNS // PIECES
        only = row + tl.arange(0, 1)
        for number in range(PARTS):
            place = number * rows + row
            for k in range(tl.load(count + place)):
                bits = tl.load(entry + place * CAPACITY + k)
                if tl.load(upper + place * CAPACITY + k) >= top:
                    for piece in range(PIECES):
                        if (bits >> piece) & 1 == 1:
                            first = (bits >> PIECES) * COLUMNS + piece * GRAIN
                            column = first + tl.arange(0, GRAIN)
                            square = differences(x, y, only, column, row + 1, m, d, 1, GRAIN, CHUNK)
                            other = (column < m) & ((column < low) | (column >= high))
                            index = tl.load(columns + column, other, 0).to(tl.int32)
                            best, found = first_of_least(square, other[None, :], index, best, found)
    found = tl.where(found == NONE, -1, found)
    tl.store(result + row + tl.arange(0, 1), tl.where(most <= CAPACITY, found, -2).to(tl.int64))


@triton.jit
def _by_difference(
    x,
    y,
    columns,
    start,
    end,
    own,
    result,
    n,
    m,
    d,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHUNK: tl.constexpr,
    POSITIVES: tl.constexpr,
    FARTHEST: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    before = tl.load(result + row, row < n, 0)
    if tl.min(before) == -2:
        low, high = tl.load(start + row), tl.load(end + row)
        itself = tl.load(own + row)
        best = tl.full((ROWS,), float("inf"), tl.float32)
        found = tl.full((ROWS,), NONE, tl.int32)
        first, last = 0, m
        if POSITIVES:
            first, last = tl.min(low), tl.max(high)
        for at in range(first, last, COLUMNS):
            column = at + tl.arange(0, COLUMNS)
            square = differences(x, y, row, column, n, m, d, ROWS, COLUMNS, CHUNK)
            same = (column[None, :] >= low[:, None]) & (column[None, :] < high[:, None])
            if POSITIVES:
                allowed = same & (column[None, :] != itself[:, None])
            else:
                allowed = ~same & (column[None, :] < m)
            index = tl.load(columns + column, column < m, 0).to(tl.int32)
            if FARTHEST:
                square = -square
            best, found = first_of_least(square, allowed, index[None, :], best, found)
        after = tl.where(found == NONE, -1, found).to(tl.int64)
        tl.store(result + row, tl.where(before == -2, after, before), row < n)
