"""Tiles of the matrix of dot products, for the sums over it that never hold it whole."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

_CPU = (256, 1024)  # rows and columns of a tile, 1 MiB in float32: it stays in cache
_CPU_BAND = 128  # rows of a tile of the band, which is hardly wider than they are many
_GPU = (2048, 8192)  # large enough to fill the device, 64 MiB in float32


class Side(NamedTuple):
    """One side of the matrix; on the CPU in the order of its ids."""

    x: Tensor
    """(n, d) vectors."""
    ids: Tensor
    """(n,) their identities."""
    order: Tensor
    """(n,) where each vector was."""

    def back(self, values: Tensor) -> Tensor:
        """Return the values of these rows in the order that the caller knows."""
        return torch.empty_like(values).index_copy_(0, self.order, values)


class Tile(NamedTuple):
    """A part of the matrix, and which of its columns may share an id with its rows."""

    rows: slice
    columns: slice
    band: slice
    """Counted from the first column of the matrix; empty for most tiles."""

    def inside(self, columns: slice) -> slice:
        """Count columns of the matrix from the first column of the tile."""
        first = self.columns.start
        return slice(columns.start - first, columns.stop - first)


def side(x: Tensor, ids: Tensor) -> Side:
    """Bring vectors into the order of their ids, where :func:`tiles` makes use of it."""
    order = torch.arange(len(ids), device=ids.device)
    if _readable(x) and not bool((ids[1:] >= ids[:-1]).all()):
        order = ids.argsort(stable=True)
        x, ids = x[order], ids[order]
    return Side(x, ids, order)


def tiles(
    rows: Side, columns: Side, *, upper: bool = False, only_band: bool = False
) -> Iterator[tuple[Tile, Tensor]]:
    """Go through the tiles; each comes with its dot products, in memory that the next one reuses.

    With the ids in order, the columns that share an id with a block of rows are one range, the
    band. On other devices than the CPU that range is not looked up, for it would have to be read
    back: there the band is everywhere.

    Args:
        rows: the one side.
        columns: the other side.
        upper: leave out the tiles, and the columns of tiles, before the rows of a tile.
        only_band: go through the band only.
    """
    n, m = len(rows.ids), len(columns.ids)
    readable = _readable(rows.x)
    height, width = _CPU if readable else _GPU
    if readable and only_band:
        height = _CPU_BAND
    firsts = range(0, n, height)
    lows, highs = [0] * len(firsts), [m] * len(firsts)
    if readable:
        lows = torch.searchsorted(columns.ids, rows.ids[::height].contiguous()).tolist()
        last = [min(first + height, n) - 1 for first in firsts]
        highs = torch.searchsorted(columns.ids, rows.ids[last], right=True).tolist()
    memory = rows.x.new_empty(min(height, n) * min(width, m))
    for first, low, high in zip(firsts, lows, highs, strict=True):
        block = slice(first, min(first + height, n))
        start = max(first if upper else 0, low if only_band else 0)
        for left in range(start, high if only_band else m, width):
            right = min(left + width, high if only_band else m)
            band = slice(min(max(low, left), right), max(min(high, right), left))
            shape = (block.stop - block.start, right - left)
            dots = memory[: shape[0] * shape[1]].view(shape)
            torch.mm(rows.x[block], columns.x[left:right].T, out=dots)
            yield Tile(block, slice(left, right), band), dots


def _readable(x: Tensor) -> bool:
    # Whether values can be read without waiting for a device.
    return x.device.type == "cpu"


def same(tile: Tile, rows: Side, columns: Side) -> Tensor:
    """Say which entries of the tile's band share an id."""
    return rows.ids[tile.rows, None] == columns.ids[tile.band]
