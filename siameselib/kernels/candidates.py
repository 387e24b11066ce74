"""From a slab of lower bounds to the exact extreme of each row.

Rounding hides the extreme among the few entries whose bounds come near the best one.
:func:`entries` lists them, :func:`settle` takes their direct differences and decides. On the CPU
that is all of them. Elsewhere their number would have to be read from the device: ``static`` keeps
the eight best of each row (or eight more than are sought), so that no shape depends on the data.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from siameselib.kernels.blocks import LANE, Grouped, Slabs, gathered

_KEPT = 8


def lanes(keys: Tensor) -> Tensor:
    """Find the least key in each lane of each row."""
    return keys.view(len(keys), -1, LANE).amin(-1)


def nearest(
    grouped: Grouped, slabs: Slabs, rows: slice, keys: Tensor, static: bool, first: int = 0
) -> Tensor:
    """Find the original index of each row's nearest column, -1 where all entries are inf.

    Args:
        grouped: rows and columns.
        slabs: where the keys come from.
        rows: the rows of the block.
        keys: the entries of the columns from ``first``, inf for those that do not count.
        static: see above.
        first: a multiple of the lane.

    Returns:
        (rows,)
    """
    lowest = lanes(keys)
    bound = slabs.ceiling(slabs.x_square[rows], lowest.amin(1))
    row, column = entries(keys, lowest, bound, static)
    return settle(grouped, grouped.x[rows], row, column + first)


def nearest_few(
    grouped: Grouped, slabs: Slabs, rows: slice, slab: Tensor, k: int, static: bool
) -> Tensor:
    """Find the original indices of each row's k nearest columns, nearest first, -1 beyond."""
    lowest = lanes(slab)
    kth = _least(slab, lowest, k)[0].amax(1)
    bound = slabs.ceiling(slabs.x_square[rows], kth)
    row, column = entries(slab, lowest, bound, static, kept=k + _KEPT)
    m = len(grouped.y)
    inside, column = column < m, column.clamp(max=m - 1)
    value = torch.where(inside, squares(grouped, grouped.x[rows], row, column), torch.inf)
    original = torch.where(inside, grouped.columns[column], -1)
    order = original.argsort(stable=True)
    for level in (value, row):
        order = order[level[order].argsort(stable=True)]
    row = row[order]
    place = torch.arange(len(row), device=row.device) - torch.searchsorted(row, row)
    found = row.new_full((len(slab), k + 1), -1)
    found[row, place.clamp(max=k)] = original[order]
    return found[:, :k]


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
    keys: Tensor,
    lowest: Tensor,
    bound: Tensor,
    static: bool,
    floor: Tensor | None = None,
    kept: int = _KEPT,
) -> tuple[Tensor, Tensor]:
    """List the (row, column) of the finite keys from floor to bound.

    Args:
        keys: (rows, columns) whole lanes.
        lowest: (rows, lanes) the least key in each lane that is not below the floor.
        bound: (rows,)
        static: list the least of each row, with a column past the last for those outside.
        floor: (rows,)
        kept: how many of them.

    Returns:
        Two vectors of one entry per key listed.
    """
    bound = bound.clamp(max=torch.finfo(keys.dtype).max)
    if not static:
        row, lane = (lowest <= bound[:, None]).nonzero(as_tuple=True)
        keys = keys.view(*lowest.shape, LANE)[row, lane]
        inside = keys <= bound[row, None]
        if floor is not None:
            inside &= keys >= floor[row, None]
        hit, column = inside.nonzero(as_tuple=True)
        return row[hit], lane[hit] * LANE + column
    values, column = _least(keys, lowest, kept, floor)
    column = torch.where(values <= bound[:, None], column, keys.shape[1])
    row = torch.arange(len(keys), device=keys.device).repeat_interleave(column.shape[1])
    return row, column.flatten()


def _least(
    keys: Tensor, lowest: Tensor, kept: int, floor: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Find the least keys of each row, and their columns: only lanes that matter are looked at."""
    lane = lowest.topk(min(kept, lowest.shape[1]), largest=False, sorted=False).indices
    in_lanes = keys.view(*lowest.shape, LANE)
    some = in_lanes.gather(1, lane[..., None].expand(-1, -1, LANE)).flatten(1)
    if floor is not None:
        some = torch.where(some >= floor[:, None], some, torch.inf)
    least = some.topk(min(kept, some.shape[1]), largest=False, sorted=False)
    return least.values, lane.gather(1, least.indices // LANE) * LANE + least.indices % LANE


def settle(
    grouped: Grouped,
    x: Tensor,
    row: Tensor,
    column: Tensor,
    farthest: bool = False,
) -> Tensor:
    """Find each row's nearest (farthest) of the listed columns, by direct difference.

    Args:
        grouped: the columns.
        x: (rows, d) the rows.
        row: (k,) which row,
        column: (k,) and which column; none if past the last.
        farthest: whether to look for the farthest.

    Returns:
        (rows,) the original index of the column, the lowest one of equals; -1 if none is listed.
    """
    m, found = len(grouped.y), row.new_full((len(x),), -1)
    inside, column = column < m, column.clamp(max=m - 1)
    if row.device.type == "cpu":
        # Most rows have one candidate, and nothing to decide: rows are in order.
        found[row] = torch.where(inside, grouped.columns[column], -1)
        several = _repeated(row)
        if not several.any():
            return found
        row, column, inside = row[several], column[several], inside[several]
    value = squares(grouped, x, row, column)
    value = torch.where(inside, -value if farthest else value, torch.inf)
    return _best(grouped, row, column, value, inside, found)


def settle_above(
    grouped: Grouped,
    x: Tensor,
    of: Tensor,
    above: Tensor,
    row: Tensor,
    column: Tensor,
    key: Tensor | None,
) -> Tensor:
    """Find for each entry the nearest of the listed columns beyond a threshold.

    Args:
        grouped: the columns.
        x: (rows, d) the rows.
        of: (entries,) the row that each entry is about,
        above: (entries,) and the squared distance that the column must exceed.
        row: (k,) which entry,
        column: (k,) and which column; none if past the last.
        key: (k,) lower bounds of their squared distances; None off the CPU.

    Returns:
        (entries,) as :func:`settle`.
    """
    m, found = len(grouped.y), row.new_full((len(of),), -1)
    inside, column = column < m, column.clamp(max=m - 1)
    if key is not None:
        unclear = _repeated(row) | ~(key > above.index_select(0, row))
        found[row] = torch.where(inside & ~unclear, grouped.columns[column], -1)
        row, column, inside = row[unclear], column[unclear], inside[unclear]
    value = squares(grouped, x, of.index_select(0, row), column)
    inside &= ~(value <= above.index_select(0, row))
    value = torch.where(inside, value, torch.inf)
    return _best(grouped, row, column, value, inside, found)


def _repeated(row: Tensor) -> Tensor:
    """Say which of the ordered rows stand there more than once."""
    twin = F.pad(row[1:] == row[:-1], (1, 1))
    return (twin[1:] | twin[:-1])[: len(row)]


def _best(
    grouped: Grouped, row: Tensor, column: Tensor, value: Tensor, inside: Tensor, found: Tensor
) -> Tensor:
    """Put each row's column of least value into ``found``, the lowest index of equals."""
    m = len(grouped.y)
    best = value.new_full((len(found),), torch.inf).scatter_reduce(0, row, value, "amin")
    original = torch.where(inside & (value == best[row]), grouped.columns[column], m)
    lowest = row.new_full((len(found),), m).scatter_reduce(0, row, original, "amin")
    return torch.where(lowest < m, lowest, found)


def squares(grouped: Grouped, x: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Take the squared distances of listed (row, column)."""
    value = x.new_empty(len(row))
    for some, left, right in gathered(x, grouped.y, row, column):
        value[some] = left.sub_(right).square_().sum(-1)
    return value


def repair(grouped: Grouped, index: Tensor, sought: Tensor) -> Tensor:
    """Give rows that found nothing, because NaN hid it, a column that shows the NaN."""
    lost = sought & (index < 0)
    if lost.device.type == "cpu" and not lost.any():
        return index
    broken = torch.where(grouped.y.isfinite().all(1), len(grouped.y), grouped.columns).amin()
    return torch.where(lost, torch.where(broken < len(grouped.y), broken, 0), index)
