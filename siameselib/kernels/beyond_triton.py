"""Semi-hard mining on a GPU: see :func:`siameselib.kernels.extremes.beyond`.

How far a positive is divides the negatives in two, often in the midst of them: no product tells
on which side a near one lies. All distances are direct differences here, made once for several
positives of a row, and thresholds come from the same loop: equal vectors have equal distances. No
tensor cores, and no sizes that depend on the data.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator,misc"

import torch
import triton
import triton.language as tl
from torch import Tensor

from siameselib.kernels.blocks import group
from siameselib.kernels.extremes_triton import (
    NONE,
    OPEN,
    by_difference,
    differences,
    first_of_least,
)
from siameselib.kernels.tiles_triton import Shape, bounds

_TILE = Shape(32, 32, chunk=8, warps=8, stages=2)
_TOGETHER = 4  # positives of a row that a program takes


def triton_beyond(
    x: Tensor,
    y: Tensor,
    labels: Tensor,
    y_labels: Tensor,
    offset: int | None,
    width: int | None,
    easy: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tiles of a GPU: :func:`siameselib.kernels.extremes.beyond`; waits if all is to be listed."""
    grouped = group(x, labels, y, y_labels, offset)
    n, d = x.shape
    m = len(y)
    if easy:
        nearest = torch.full_like(grouped.rows, OPEN)
        by_difference(grouped, nearest, positives=True)
        places = torch.empty_like(grouped.columns)
        places[grouped.columns] = torch.arange(m, device=x.device)
        wanted = torch.where(nearest < 0, m, places[nearest.clamp(min=0)])[:, None]
    else:
        most = int(grouped.positive_count().max()) if width is None else width
        wanted = grouped.positives(slice(0, n), most)
    most = wanted.shape[1]
    negative = torch.empty(n, most, dtype=torch.int64, device=x.device)
    farther = torch.empty(n, most, dtype=torch.int8, device=x.device)
    start, end = bounds(grouped, _TILE.rows)
    _beyond[(len(start) // _TILE.rows, triton.cdiv(most, _TOGETHER))](
        grouped.x,
        grouped.y,
        grouped.columns,
        start,
        end,
        wanted.contiguous(),
        negative,
        farther,
        n,
        m,
        d,
        most,
        ROWS=_TILE.rows,
        COLUMNS=_TILE.columns,
        CHUNK=_TILE.chunk,
        TOGETHER=_TOGETHER,
        **_TILE.options(),
    )
    positive = torch.where(wanted < m, grouped.columns[wanted.clamp(max=m - 1)], -1)
    # Back to the order of the caller.
    place = torch.empty_like(grouped.rows)
    place[grouped.rows] = torch.arange(n, device=x.device)
    positive, negative = positive[place].flatten(), negative[place].flatten()
    beyond = farther[place].flatten().bool()
    row = torch.arange(n, device=x.device).repeat_interleave(most)
    if width is None and not easy:
        there = positive >= 0
        return row[there], positive[there], negative[there], beyond[there]
    return row, positive, negative, beyond


@triton.jit
def _beyond(
    x,
    y,
    columns,
    start,
    end,
    wanted,
    negative,
    farther,
    n,
    m,
    d,
    most,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHUNK: tl.constexpr,
    TOGETHER: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    which = tl.program_id(1) * TOGETHER + tl.arange(0, TOGETHER)
    low, high = tl.load(start + row), tl.load(end + row)
    place = row[:, None].to(tl.int64) * most + which[None, :]
    inside = (row[:, None] < n) & (which[None, :] < most)
    positive = tl.load(wanted + place, inside, m)
    threshold = tl.zeros((ROWS, TOGETHER), tl.float32)
    best = tl.full((ROWS, TOGETHER), float("inf"), tl.float32)
    found = tl.full((ROWS, TOGETHER), NONE, tl.int32)
    highest = tl.full((ROWS,), float("inf"), tl.float32)
    last = tl.full((ROWS,), NONE, tl.int32)
    # First the columns among which the positives are: they make the thresholds. Then all.
    first = tl.min(low)
    before = tl.cdiv(tl.max(high) - first, COLUMNS)
    for step in range(before + tl.cdiv(m, COLUMNS)):
        measuring = step < before
        at = tl.where(measuring, first + step * COLUMNS, (step - before) * COLUMNS)
        column = at + tl.arange(0, COLUMNS)
        square = differences(x, y, row, column, n, m, d, ROWS, COLUMNS, CHUNK)
        inside_it = (column < m)[None, :, None] & measuring
        it = (column[None, :, None] == positive[:, None, :]) & inside_it
        threshold += tl.sum(tl.where(it, square[:, :, None], 0), 1)
        other = (column[None, :] < low[:, None]) | (column[None, :] >= high[:, None])
        other &= (column < m)[None, :] & (step >= before)
        index = tl.load(columns + column, column < m, 0).to(tl.int32)
        beyond = other[:, :, None] & ((square[:, :, None] <= threshold[:, None, :]) == 0)
        best, found = first_of_least(square[:, :, None], beyond, index[None, :, None], best, found)
        highest, last = first_of_least(-square, other, index[None, :], highest, last)
    there = positive < m
    fallback = tl.where(last == NONE, -1, last)
    result = tl.where(there, tl.where(found == NONE, fallback[:, None], found), -1)
    tl.store(negative + place, result.to(tl.int64), inside)
    tl.store(farther + place, (there & (found != NONE)).to(tl.int8), inside)
