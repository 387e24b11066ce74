"""Tiles of the matrix of dot products, for the sums over it that never hold it whole."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

_CPU = (256, 1024)  # rows and columns of a tile, 1 MiB in float32: it stays in cache
_CPU_STEP = 64  # rows, a part of a tile, whose columns of the same ids are looked up together
_GPU = (2048, 8192)  # large enough to fill the device, 64 MiB in float32


class Side(NamedTuple):
    """One side of the matrix; on the CPU in the order of its ids."""

    x: Tensor
    """(n, d) vectors."""
    ids: Tensor
    """(n,) their identities."""
    order: Tensor
    """(n,) where each vector was."""
    distinct: bool = False
    """Whether vector i has identity i, and is in place i."""

    def take(self, values: Tensor) -> Tensor:
        """Return values that come in the order that the caller knows, in that of these rows."""
        return values if self.distinct else values.index_select(0, self.order)

    def back(self, values: Tensor) -> Tensor:
        """Return the values of these rows in the order that the caller knows."""
        if self.distinct:
            return values
        return torch.empty_like(values).index_copy_(0, self.order, values)


class Tile(NamedTuple):
    """A part of the matrix, and which of its columns may share an id with its rows."""

    rows: slice
    columns: slice
    meetings: list[tuple[slice, slice]]
    """Rows and columns, counted from the tile's first, outside of which no ids are the same."""

    @property
    def band(self) -> slice:
        """The columns that may share an id with some row, counted from the matrix's first."""
        start = self.columns.start
        if not self.meetings:
            return slice(start, start)
        return slice(start + self.meetings[0][1].start, start + self.meetings[-1][1].stop)

    def inside(self, columns: slice) -> slice:
        """Count columns of the matrix from the first column of the tile."""
        first = self.columns.start
        return slice(columns.start - first, columns.stop - first)


def side(x: Tensor, ids: Tensor | None) -> Side:
    """Bring vectors into the order of their ids, where :func:`tiles` makes use of it."""
    order = torch.arange(len(x), device=x.device)
    if ids is None:
        return Side(x, order, order, distinct=True)
    if readable(x) and not bool((ids[1:] >= ids[:-1]).all()):
        order = ids.argsort(stable=True)
        x, ids = x.index_select(0, order), ids.index_select(0, order)
    return Side(x, ids, order)


def tiles(
    rows: Side, columns: Side, *, upper: bool = False, fresh: bool = False
) -> Iterator[tuple[Tile, Tensor]]:
    """Go through the tiles; each comes with its dot products, in memory that the next one reuses.

    With the ids in order, the columns that share an id with a block of rows are one range, the
    band. On other devices than the CPU that range is not looked up, for it would have to be read
    back: there the band is everywhere.

    Args:
        rows: the one side.
        columns: the other side.
        upper: leave out the tiles, and the columns of tiles, before the rows of a tile.
        fresh: give each tile memory of its own.
    """
    n, m = len(rows.x), len(columns.x)
    look = readable(rows.x)
    height, width = _CPU if look else _GPU
    step = min(_CPU_STEP, height) if look else height
    firsts = range(0, n, step)
    lows, highs = [0] * len(firsts), [m] * len(firsts)
    if rows.distinct and columns.distinct:
        lows, highs = list(firsts), [first + step for first in firsts]
    elif look:
        lows = torch.searchsorted(columns.ids, rows.ids[::step].contiguous()).tolist()
        last = [min(first + step, n) - 1 for first in firsts]
        highs = torch.searchsorted(columns.ids, rows.ids[last], right=True).tolist()
    parts = list(zip(firsts, lows, highs, strict=True))
    memory = rows.x.new_empty(0 if fresh else min(height, n) * min(width, m))
    for first in range(0, n, height):
        block = slice(first, min(first + height, n))
        near = parts[first // step : -(-block.stop // step)]
        for left in range(first if upper else 0, m, width):
            right = min(left + width, m)
            meetings = [
                (
                    slice(top - first, min(top + step, block.stop) - first),
                    slice(max(low, left) - left, min(high, right) - left),
                )
                for top, low, high in near
                if max(low, left) < min(high, right)
            ]
            shape = (block.stop - block.start, right - left)
            if fresh:
                memory = rows.x.new_empty(shape[0] * shape[1])
            dots = memory[: shape[0] * shape[1]].view(shape)
            torch.mm(rows.x[block], columns.x[left:right].T, out=dots)
            yield Tile(block, slice(left, right), meetings), dots


def readable(x: Tensor) -> bool:
    """Say whether values can be read without waiting for a device."""
    return x.device.type == "cpu"


def same(tile: Tile, rows: Side, columns: Side) -> Tensor:
    """Say which entries of the tile's band share an id."""
    return rows.ids[tile.rows, None] == columns.ids[tile.band]


def leave_out_same(entries: Tensor, tile: Tile, rows: Side, columns: Side, value: float) -> None:
    """Set the entries of a tile whose row and column share an id to a value."""
    if rows.distinct and columns.distinct:
        entries.diagonal(tile.rows.start - tile.columns.start).fill_(value)
        return
    ids, others = rows.ids[tile.rows], columns.ids[tile.columns]
    for block, band in tile.meetings:
        entries[block, band].masked_fill_(ids[block, None] == others[band], value)
