"""The positives of a block of rows: listed where they are few, masked in the slab where many."""

import torch
from torch import Tensor

from siameselib.kernels.blocks import LANE, Grouped, Slabs
from siameselib.kernels.candidates import farthest, nearest, settle

_LISTED = 64  # positives a row up to which they are listed, not looked for in the slab


def few(grouped: Grouped, static: bool) -> int | None:
    """Return the most positives of a row if it may be read and they are few enough to list."""
    if static:
        return None
    most = int(grouped.positive_count().max())
    return most if most <= _LISTED else None


def listed(grouped: Grouped, rows: slice, most: int | None) -> Tensor | None:
    """List the positives of a block of rows if they are few."""
    return None if most is None else grouped.positives(rows, most)


def extreme_positive(
    grouped: Grouped,
    slabs: Slabs,
    rows: slice,
    slab: Tensor,
    columns: Tensor | None,
    static: bool,
    easy: bool,
    first: int = 0,
) -> Tensor:
    """Find the original index of each row's farthest (easy: nearest) positive, -1 for none.

    Args:
        grouped: rows and columns.
        slabs: where the slab comes from.
        rows: the rows of the slab.
        slab: not yet without the columns that share the row's label.
        columns: what :func:`listed` returned.
        static: see :mod:`siameselib.kernels.candidates`.
        easy: whether to look for the nearest.
        first: the slab's first column, of a whole lane, if it has only those near the positives.

    Returns:
        (rows,) columns.
    """
    if columns is not None:
        return _among_listed(grouped, slabs, rows, slab, columns, easy, first)
    low, high = (0, slab.shape[1]) if static else band_of(grouped, rows)
    own = torch.arange(low, high, device=slab.device) == grouped.own[rows, None]
    positive = grouped.same(rows, low, high) & ~own
    band = slab[:, low - first : high - first]
    if easy:
        keys = torch.where(positive, band, torch.inf)
        return nearest(grouped, slabs, rows, keys, static, low)
    keys = torch.where(positive, -band, torch.inf)
    return farthest(grouped, slabs, rows, keys, low, static)


def drop_same(
    grouped: Grouped,
    rows: slice,
    slab: Tensor,
    columns: Tensor | None,
    static: bool,
    first: int = 0,
) -> None:
    """Make the entries that share the row's label infinite; arguments as above."""
    if columns is not None:
        own = grouped.own[rows, None]
        slab.scatter_(1, torch.where(columns < len(grouped.y), columns, own) - first, torch.inf)
        slab.scatter_(1, own - first, torch.inf)
        return
    low, high = (0, slab.shape[1]) if static else band_of(grouped, rows)
    slab[:, low - first : high - first].masked_fill_(grouped.same(rows, low, high), torch.inf)


def _among_listed(
    grouped: Grouped,
    slabs: Slabs,
    rows: slice,
    slab: Tensor,
    columns: Tensor,
    easy: bool,
    first: int,
) -> Tensor:
    if columns.shape[1] == 0:
        return torch.full_like(grouped.rows[rows], -1)
    there, x_square = columns < len(grouped.y), slabs.x_square[rows]
    bound = slab.gather(1, torch.where(there, columns - first, 0))
    if easy:
        bound = torch.where(there, bound, torch.inf)
        near = bound <= slabs.ceiling(x_square, bound.amin(1))[:, None]
    else:
        best = torch.where(there, bound, -torch.inf).amax(1)
        near = bound >= (2 * best - slabs.ceiling(x_square, best))[:, None]
    row, k = (near & there).nonzero(as_tuple=True)
    return settle(grouped, grouped.x[rows], row, columns[row, k], farthest=not easy)


def band_of(grouped: Grouped, rows: slice) -> tuple[int, int]:
    """Return the range of whole lanes outside which no column shares a label with these rows."""
    first = int(grouped.start[rows][0]) // LANE * LANE
    return first, max(first + LANE, -int(-grouped.end[rows][-1] // LANE) * LANE)
