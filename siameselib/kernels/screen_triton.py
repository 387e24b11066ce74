"""Nearest columns from products in bfloat16, certified: what is found is exact all the same.

With f = x·y - |y|²/2 of centred vectors |x - y|² = |x|² - 2 f: the nearest column has the greatest
f. Products of rounded vectors miss f by at most

    e = |x - x̂| |y| + |x̂| |y - ŷ| + rounding (|x|² + |y|²),

where what the vectors lost is measured, not assumed. For each row and tile of columns the sweep
keeps the tile if the best of it could be the best of all, f + e >= max (f - e), along with which
pieces of the tile could hold it. Few tiles are kept (about the logarithm of their number, most of
which the final maximum rules out), and their columns compared by direct difference. The few rows
that keep more than they have room for, such as those of a batch with many equal vectors, say so.

A column that is not finite gets f = inf, so that it is found and not passed over.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator,misc"

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from siameselib.kernels.blocks import Grouped
from siameselib.kernels.tiles_triton import (
    INTERPRETED,
    Shape,
    band,
    bounds,
    dots,
    filled,
    padded,
    padded_width,
    part,
    parts,
    processors,
    products,
    pure,
    shared_memory,
    tile,
)

CAPACITY = 32  # tiles that a row has room for
_SAFE = 1 + 2.0**-10  # norms are rounded too


class Kept(NamedTuple):
    """Which tiles of columns could hold a row's nearest, for each part of the columns."""

    entry: Tensor
    """(parts, rows, capacity): number of the tile · 2^pieces + one bit for each piece."""
    upper: Tensor
    """(parts, rows, capacity): the most that f of the tile can be."""
    tiles: Tensor
    """(parts, rows): how many; above the capacity, not all are there."""
    floor: Tensor
    """(parts, rows): the least that the greatest f can be."""
    columns: int
    """of a tile"""
    pieces: int
    """and how many they make."""


class Rounded(NamedTuple):
    """Vectors as the products take them."""

    x: Tensor
    """(whole tiles, padded width)"""
    norm: Tensor
    """(whole tiles,) lengths,"""
    lost: Tensor
    """(whole tiles,) and lengths of what rounding took, no less than they are."""
    half: Tensor
    """(whole tiles,) |x|²/2, -inf for vectors that are not finite, inf beyond the last."""


def rounded(x: Tensor, centre: Tensor, height: int, width: int, dtype: torch.dtype) -> Rounded:
    """Centre and round vectors, and measure what is lost."""
    finite = x.isfinite().all(1)
    x = torch.where(finite[:, None], x - centre, 0)
    low = padded(x, height, width, dtype)
    square = x.square().sum(1)
    inside = min(width, x.shape[1])
    lost = x[:, :inside].sub(low[: len(x), :inside]).square_().sum(1)
    lost += x[:, inside:].square().sum(1)
    half = torch.where(finite, square / 2, -torch.inf)
    return Rounded(
        low,
        filled(square.sqrt() * _SAFE, height, 0),
        filled(lost.sqrt() * _SAFE, height, 0),
        filled(half, height, torch.inf),
    )


def shape_for(width: int, itemsize: int) -> Shape:
    """Return how the sweep is cut for vectors of this width."""
    size = width * itemsize
    if size <= 256:
        return Shape(256, 128, chunk=width, warps=8, stages=3)
    if size <= 512 and width & (width - 1) == 0:
        return Shape(128, 128, chunk=width, warps=8, stages=2)
    return Shape(128, 256 if itemsize == 2 else 128, chunk=64, warps=8, stages=3)


def screen(
    grouped: Grouped,
    precision: str,
    shape: Shape | None = None,
    several: int | None = None,
    capacity: int = CAPACITY,
    grain: int | None = None,
) -> Kept:
    """Sweep the negatives of all rows and keep the tiles that could hold the nearest.

    Args:
        grouped: rows and columns, in float32.
        precision: "exact" for certified products in bfloat16. "tf32" and "fast" take the products
            for exact: they keep fewer tiles, and pass over columns that are nearer by less than
            they round.
        shape: of the tiles; None for what suits the width.
        several: how many parts to cut the columns into; None for as many as keep a device busy.
        capacity: tiles that a row has room for.
        grain: columns of a piece.

    Returns:
        The tiles; memory for those that were not kept holds anything.
    """
    x, y = grouped.x, grouped.y
    # One more than whole products is the mark of zero rows under the cosine. The products do
    # without it: what that loses is measured along with the rest.
    d = x.shape[1]
    width = padded_width(d - 1 if d > 16 and d % 16 == 1 else d)
    dtype = torch.float32 if precision == "tf32" else torch.bfloat16
    if shape is None:
        shape = shape_for(width, dtype.itemsize)
        shape = shape.fitted(width, dtype.itemsize, shared_memory(x.device), least=32)
    centre = torch.where(y.isfinite().all(1, keepdim=True), y, 0).mean(0)
    right = rounded(y, centre, shape.columns, width, dtype)
    if x is y and shape.rows == shape.columns:
        left = right
    else:
        left = rounded(x, centre, shape.rows, width, dtype)
    row_tiles, column_tiles = len(left.x) // shape.rows, len(right.x) // shape.columns
    if several is None:
        several = parts(row_tiles, column_tiles, processors(x.device))
    pieces = shape.columns // (grain or 32)
    listed = several, len(left.x), capacity
    entry, upper = (torch.empty(listed, dtype=kind, device=x.device) for kind in _KINDS)
    count, floor = (torch.empty(listed[:2], dtype=kind, device=x.device) for kind in _KINDS)
    _screen[(row_tiles * several,)](
        left.x,
        right.x,
        left.norm,
        left.lost,
        right.half,
        right.norm.view(-1, shape.columns).amax(1),
        right.lost.view(-1, shape.columns).amax(1),
        *bounds(grouped, shape.rows),
        entry,
        upper,
        count,
        floor,
        row_tiles,
        column_tiles,
        ROWS=shape.rows,
        COLUMNS=shape.columns,
        WIDTH=width,
        CHUNK=shape.chunk,
        PARTS=several,
        PIECES=pieces,
        CAPACITY=capacity,
        # A product of 16 terms loses at most 17 units of its largest, in d/16 steps; squares,
        # centring and the direct difference that decides lose as little: half of this in all.
        ROUNDING=(width + 16) * 2.0**-22 if precision == "exact" else 0.0,
        PRECISION="tf32" if precision == "tf32" else "ieee",
        UPCAST=INTERPRETED and dtype == torch.bfloat16,
        **shape.options(),
    )
    return Kept(entry, upper, count, floor, shape.columns, pieces)


_KINDS = (torch.int32, torch.float32)


@triton.jit
def _screen(
    x,
    y,
    x_norm,
    x_lost,
    y_half,
    y_norm,
    y_lost,
    start,
    end,
    entry,
    upper,
    count,
    floor,
    row_tiles,
    column_tiles,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    WIDTH: tl.constexpr,
    CHUNK: tl.constexpr,
    PARTS: tl.constexpr,
    PIECES: tl.constexpr,
    CAPACITY: tl.constexpr,
    ROUNDING: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    # Programs that run at once go through the same columns: these come from the cache.
    number, row_tile = tl.program_id(0) // row_tiles, tl.program_id(0) % row_tiles
    first, last = part(column_tiles, number, PARTS)
    low, high = band(start, end, row_tile, first, last, ROWS, COLUMNS)
    row = row_tile * ROWS + tl.arange(0, ROWS)
    norm, lost = tl.load(x_norm + row), tl.load(x_lost + row)
    place = number * row_tiles * ROWS + row
    best = tl.full((ROWS,), -float("inf"), tl.float32)
    kept = tl.zeros((ROWS,), tl.int32)
    if CHUNK == WIDTH:
        rows = tile(x, row_tile, ROWS, WIDTH)
    for k in range(last - first - (high - low)):
        at = pure(k, first, low, high)
        if CHUNK == WIDTH:
            f = dots(rows, tile(y, at, COLUMNS, WIDTH), UPCAST, PRECISION)
        else:
            f = products(x, y, row_tile, at, ROWS, COLUMNS, WIDTH, CHUNK, UPCAST, PRECISION)
        column = at * COLUMNS + tl.arange(0, COLUMNS)
        f -= tl.load(y_half + column)[None, :]
        miss = _miss(norm, lost, y_norm + at, y_lost + at, ROUNDING)
        best, kept = _keep(
            f, miss, at, best, kept, entry, upper, place, ROWS, COLUMNS, PIECES, CAPACITY
        )
    if low < high:
        row_start, row_end = tl.load(start + row), tl.load(end + row)
        for at in range(low, high):
            if CHUNK == WIDTH:
                f = dots(rows, tile(y, at, COLUMNS, WIDTH), UPCAST, PRECISION)
            else:
                f = products(x, y, row_tile, at, ROWS, COLUMNS, WIDTH, CHUNK, UPCAST, PRECISION)
            column = at * COLUMNS + tl.arange(0, COLUMNS)
            f -= tl.load(y_half + column)[None, :]
            same = (column[None, :] >= row_start[:, None]) & (column[None, :] < row_end[:, None])
            f = tl.where(same, -float("inf"), f)
            miss = _miss(norm, lost, y_norm + at, y_lost + at, ROUNDING)
            best, kept = _keep(
                f, miss, at, best, kept, entry, upper, place, ROWS, COLUMNS, PIECES, CAPACITY
            )
    tl.store(count + place, kept)
    tl.store(floor + place, best)


@triton.jit
def _miss(norm, lost, y_norm, y_lost, ROUNDING: tl.constexpr):
    """By how much each row's products with a tile can be wrong."""
    if ROUNDING == 0:
        return tl.zeros_like(norm)
    length = tl.load(y_norm)
    return (
        lost * length
        + norm * tl.load(y_lost)
        + (ROUNDING * (norm * norm + length * length) + 1e-35)
    )


@triton.jit
def _keep(
    f,
    miss,
    at,
    best,
    kept,
    entry,
    upper,
    place,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PIECES: tl.constexpr,
    CAPACITY: tl.constexpr,
):
    """Write the tile into the lists of the rows whose best it could hold."""
    most = tl.max(tl.reshape(f, (ROWS, PIECES, COLUMNS // PIECES)), 2)
    top = tl.max(most, 1)
    best = tl.maximum(best, top - miss)
    near = (most + miss[:, None] >= best[:, None]) & (most > -float("inf"))
    bits = tl.sum(near.to(tl.int32) << tl.arange(0, PIECES)[None, :], 1)
    there = (bits > 0) & (kept < CAPACITY)
    tl.store(entry + place * CAPACITY + kept, (at << PIECES) + bits, there)
    tl.store(upper + place * CAPACITY + kept, top + miss, there)
    return best, kept + (bits > 0).to(tl.int32)
