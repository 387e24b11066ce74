"""Blocks of rows, and the columns that share their ids: where the positives are."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from siameselib.kernels.tiles import Side, readable

_HEIGHT = 64  # rows of a block
_ENTRIES = 1 << 19  # of the blocks that are looked at together: they stay in cache
_GPU = (2048, 8192)  # rows and columns of a block where no ids are read


class Bands(NamedTuple):
    """Some blocks."""

    rows: slice
    """blocks·height rows."""
    columns: Tensor
    """(blocks, width) the columns of each block."""
    positive: Tensor
    """(blocks, height, width) which pairs share an id, the row itself left out."""
    x: Tensor
    """(blocks, height, d) the rows."""
    y: Tensor
    """(blocks, width, d) the columns."""

    def of_rows(self, values: Tensor) -> Tensor:
        """Return the values of the rows, to go with (blocks, height, width) entries."""
        return values[self.rows].view(len(self.columns), -1, 1)


def bands(rows: Side, columns: Side, offset: int | None) -> Iterator[Bands]:
    """Go through all pairs that share an id, some blocks at a time.

    With the ids in order the columns of a block are one range, made as wide as the widest. On
    other devices than the CPU ranges are not looked up, for they would have to be read back:
    there each block goes with all columns, some at a time.

    Args:
        rows: the one side.
        columns: the other side.
        offset: row i, as the caller counts, is column offset + i; None if no row is a column.
    """
    n, m = len(rows.x), len(columns.x)
    places = torch.arange(m, device=rows.x.device)
    if not readable(rows.x):
        for first in range(0, n, _GPU[0]):
            for left in range(0, m, _GPU[1]):
                block = slice(first, min(first + _GPU[0], n))
                yield _bands(rows, columns, offset, block, places[None, left : left + _GPU[1]])
        return
    whole = n - n % _HEIGHT
    for first, last, height in ((0, whole, _HEIGHT), (whole, n, max(1, n - whole))):
        ids = rows.ids[first:last].view(-1, height)
        low = torch.searchsorted(columns.ids, ids[:, 0].contiguous())
        high = torch.searchsorted(columns.ids, ids[:, -1].contiguous(), right=True)
        widths = (high - low).tolist()
        some = max(1, _ENTRIES // (height * max(1, *widths, 1)))
        for top in range(0, len(ids), some):
            width = max(widths[top : top + some])
            if width:
                # columns of other ids do no harm
                start = low[top : top + some, None].clamp(max=m - width)
                block = slice(first + top * height, first + (top + len(start)) * height)
                yield _bands(rows, columns, offset, block, start + places[:width])


def _bands(rows: Side, columns: Side, offset: int | None, block: slice, index: Tensor) -> Bands:
    shape = *index.shape, -1
    flat = index.flatten()
    y_ids = columns.ids.index_select(0, flat).view(shape).mT
    positive = rows.ids[block].view(len(index), -1, 1) == y_ids
    if offset is not None:
        places = columns.order.index_select(0, flat).view(shape).mT
        positive &= places != (rows.order[block] + offset).view(len(index), -1, 1)
    x = rows.x[block].view(len(index), -1, rows.x.shape[1])
    y = columns.x.index_select(0, flat).view(*index.shape, rows.x.shape[1])
    return Bands(block, index, positive, x, y)
