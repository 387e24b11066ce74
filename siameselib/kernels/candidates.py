"""From a slab of lower bounds to the exact extreme of each row.

Rounding hides the extreme among the few entries whose bounds come near the best one.
:func:`entries` lists them, :func:`settle` takes their direct differences and decides. On the CPU
that is all of them. Elsewhere their number would have to be read from the device: ``static`` keeps
the eight best of each row, so that no shape depends on the data.
"""

import torch
from torch import Tensor

from siameselib.kernels.blocks import LANE, Grouped, Slabs, squared

_KEPT = 8
DIFFERENCES = 1 << 17  # entries in one batch of direct differences: they stay in cache


def lanes(keys: Tensor) -> Tensor:
    """Find the least key in each lane of each row."""
    return keys.view(len(keys), -1, LANE).amin(-1)


def nearest(grouped: Grouped, slabs: Slabs, rows: slice, slab: Tensor, static: bool) -> Tensor:
    """Find the original index of each row's nearest column, -1 where all entries are inf."""
    lowest = lanes(slab)
    bound = slabs.ceiling(slabs.x_square[rows], lowest.amin(1))
    row, column = entries(slab, lowest, bound, static)
    return settle(grouped, grouped.x[rows], row, column)


def farthest(
    grouped: Grouped, slabs: Slabs, rows: slice, keys: Tensor, first: int, static: bool
) -> Tensor:
    """Find the original index of each row's farthest column.

    Args:
        grouped: rows and columns.
        slabs: where the keys come from.
        rows: the rows of the block.
        keys: the entries of the columns from ``first`` negated, inf for those that do not count.
        first: a multiple of the lane.
        static: see above.

    Returns:
        (rows,), -1 where all keys are inf.
    """
    lowest = lanes(keys)
    best = -lowest.amin(1)
    floor = 2 * best - slabs.ceiling(slabs.x_square[rows], best)
    row, column = entries(keys, lowest, -floor, static)
    return settle(grouped, grouped.x[rows], row, column + first, farthest=True)


def entries(
    keys: Tensor, lowest: Tensor, bound: Tensor, static: bool, floor: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """List the (row, column) of the finite keys from floor to bound.

    Args:
        keys: (rows, columns) whole lanes.
        lowest: (rows, lanes) the least key in each lane that is not below the floor.
        bound: (rows,)
        static: list the eight least of each row, with a column past the last for those outside.
        floor: (rows,)

    Returns:
        Two vectors of one entry per key listed.
    """
    bound = bound.clamp(max=torch.finfo(keys.dtype).max)
    in_lanes = keys.view(*lowest.shape, LANE)
    if not static:
        row, lane = (lowest <= bound[:, None]).nonzero(as_tuple=True)
        keys = in_lanes[row, lane]
        inside = keys <= bound[row, None]
        if floor is not None:
            inside &= keys >= floor[row, None]
        hit, column = inside.nonzero(as_tuple=True)
        return row[hit], lane[hit] * LANE + column
    lane = lowest.topk(min(_KEPT, lowest.shape[1]), largest=False, sorted=False).indices
    kept = in_lanes.gather(1, lane[..., None].expand(-1, -1, LANE)).flatten(1)
    if floor is not None:
        kept = torch.where(kept >= floor[:, None], kept, torch.inf)
    least = kept.topk(_KEPT, largest=False, sorted=False)
    column = lane.gather(1, least.indices // LANE) * LANE + least.indices % LANE
    column = torch.where(least.values <= bound[:, None], column, keys.shape[1])
    row = torch.arange(len(keys), device=keys.device).repeat_interleave(_KEPT)
    return row, column.flatten()


def settle(
    grouped: Grouped,
    x: Tensor,
    row: Tensor,
    column: Tensor,
    above: Tensor | None = None,
    farthest: bool = False,
) -> Tensor:
    """Find each row's nearest (farthest) of the listed columns, by direct difference.

    Args:
        grouped: the columns.
        x: (rows, d) the rows.
        row: (k,) which row,
        column: (k,) and which column; none if past the last.
        above: (rows,) squared distance that the column must exceed.
        farthest: whether to look for the farthest.

    Returns:
        (rows,) the original index of the column, the lowest one of equals; -1 if none is listed.
    """
    m = len(grouped.y)
    inside, column = column < m, column.clamp(max=m - 1)
    value, step = x.new_empty(len(row)), max(1, DIFFERENCES // x.shape[1])
    for first in range(0, len(row), step):
        some = slice(first, first + step)
        value[some] = squared(x[row[some]], grouped.y[column[some]])
    if above is not None:
        inside &= ~(value <= above[row])
    value = torch.where(inside, -value if farthest else value, torch.inf)
    best = x.new_full((len(x),), torch.inf).scatter_reduce(0, row, value, "amin")
    original = torch.where(inside & (value == best[row]), grouped.columns[column], m)
    lowest = row.new_full((len(x),), m).scatter_reduce(0, row, original, "amin")
    return torch.where(lowest < m, lowest, -1)


def repair(grouped: Grouped, index: Tensor, sought: Tensor) -> Tensor:
    """Give rows that found nothing, because NaN hid it, a column that shows the NaN."""
    lost = sought & (index < 0)
    if lost.device.type == "cpu" and not lost.any():
        return index
    broken = torch.where(grouped.y.isfinite().all(1), len(grouped.y), grouped.columns).amin()
    return torch.where(lost, torch.where(broken < len(grouped.y), broken, 0), index)
