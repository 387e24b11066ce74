"""The extremes of a batch among itself: each product serves its row and its column.

Only the tiles on and right of the diagonal are made: half of the matrix products. Each lists the
pairs that may hold the nearest negative of their row, and then of their column; what is known by
then of the rows keeps these lists short. The CPU's way: the lists' lengths depend on the data.
"""

import torch
from torch import Tensor

from siameselib.kernels.blocks import LANE, Grouped, Slabs, squared
from siameselib.kernels.candidates import DIFFERENCES, settle
from siameselib.kernels.positives import band_of, extreme_in_band

_HEIGHT, _WIDTH = 512, 1024  # of a tile: it stays in cache
_DIRECT = 16  # positives a row up to which all their differences are taken


def negative_among(grouped: Grouped, slabs: Slabs) -> Tensor:
    """Find the original index of each row's nearest negative, -1 for none."""
    search = _Search(grouped, slabs)
    for top in range(0, slabs.rows, _HEIGHT):
        rows = slice(top, min(top + _HEIGHT, slabs.rows))
        for left in range(top, slabs.columns, _WIDTH):
            search.look(rows, slice(left, min(left + _WIDTH, slabs.columns)))
    return search.found()


class _Search:
    """The pairs, by row, that may hold the row's nearest negative."""

    def __init__(self, grouped: Grouped, slabs: Slabs) -> None:
        self.grouped, self.slabs = grouped, slabs
        self.n = n = len(grouped.x)
        self.least = grouped.x.new_full((n,), torch.inf)  # of the bounds seen, of each row
        height, width = min(_HEIGHT, slabs.rows), min(_WIDTH, slabs.columns)
        self.memory = grouped.x.new_empty(height * width)
        self.listed: list[tuple[Tensor, Tensor, Tensor]] = []
        self.count, self.limit = 0, 8 * n + len(self.memory)

    def look(self, rows: slice, columns: slice) -> None:
        """List what is new in a tile, for its rows and for its columns."""
        tile = self.slabs.tile(rows, columns, self.memory)
        inside = slice(rows.start, min(rows.stop, self.n))
        last = int(self.grouped.end[inside.stop - 1])
        if last > columns.start:
            same = self.grouped.same(inside, columns.start, min(last, columns.stop))
            tile[: len(same), : same.shape[1]].masked_fill_(same, torch.inf)
        height, width = tile.shape
        across = tile.view(height, -1, LANE)[: inside.stop - inside.start]
        self._list(across, across.amin(-1), inside, columns.start)
        others = slice(max(columns.start, rows.stop), min(columns.stop, self.n))
        if others.start < others.stop:
            skip = others.start - columns.start
            down = tile.view(-1, LANE, width)[..., skip : skip + others.stop - others.start]
            self._list(down.permute(2, 0, 1), down.amin(1).T, others, rows.start)
        if self.count > self.limit:
            self._shorten()

    def _list(self, keys: Tensor, lowest: Tensor, rows: slice, first: int) -> None:
        """List those (rows, lanes, LANE) keys, of columns from ``first``, near a row's least."""
        least = self.least[rows]
        torch.minimum(least, lowest.amin(1), out=least)
        bound = self._bound(rows)
        row, lane = (lowest <= bound[:, None]).nonzero(as_tuple=True)
        some = keys[row, lane]
        hit, place = (some <= bound.index_select(0, row)[:, None]).nonzero(as_tuple=True)
        row, lane = row.index_select(0, hit), lane.index_select(0, hit)
        self.listed.append((row + rows.start, lane * LANE + place + first, some[hit, place]))
        self.count += len(hit)

    def _bound(self, rows: slice) -> Tensor:
        bound = self.slabs.ceiling(self.slabs.x_square[rows], self.least[rows])
        return bound.clamp_(max=torch.finfo(bound.dtype).max)

    def _near(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the listed (row, column, key) that still count, in the order of rows."""
        row, column, key = (torch.cat(parts) for parts in zip(*self.listed, strict=True))
        near = (key <= self._bound(slice(None)).index_select(0, row)).nonzero().squeeze(1)
        row, order = row.index_select(0, near).sort(stable=True)
        near = near.index_select(0, order)
        return row, column.index_select(0, near), key.index_select(0, near)

    def _shorten(self) -> None:
        """Drop what no longer counts; if many pairs remain, keep the nearest of each row."""
        row, column, key = self._near()
        if len(row) > self.limit // 2:
            found = settle(self.grouped, self.grouped.x, row, column)
            row = (found >= 0).nonzero().squeeze(1)
            column = self.grouped.columns.argsort()[found[row]]
            key = torch.full_like(key[: len(row)], -torch.inf)
        self.listed, self.count = [(row, column, key)], len(row)

    def found(self) -> Tensor:
        """Return each row's nearest negative by its original index, -1 for none."""
        row, column, _ = self._near()
        return settle(self.grouped, self.grouped.x, row, column)


def positive_among(grouped: Grouped, slabs: Slabs, easy: bool) -> Tensor:
    """Find the original index of each row's farthest (easy: nearest) positive, -1 for none."""
    n, positive = len(grouped.x), torch.empty_like(grouped.rows)
    most = int(grouped.positive_count().max())
    if most == 0:
        return positive.fill_(-1)
    if most <= _DIRECT:
        step = max(1, DIFFERENCES // (most * grouped.x.shape[1]))
        for first in range(0, n, step):
            rows = slice(first, min(first + step, n))
            positive[rows] = _extreme_of_all(grouped, rows, most, easy)
        return positive
    memory = None
    for first in range(0, n, _HEIGHT):
        rows = slice(first, min(first + _HEIGHT, n))
        low, high = band_of(grouped, rows)
        memory = grouped.x.new_empty((rows.stop - first) * (high - low))
        band = slabs.tile(rows, slice(low, high), memory)
        positive[rows] = extreme_in_band(grouped, slabs, rows, band, low, False, easy)
    return positive


def _extreme_of_all(grouped: Grouped, rows: slice, most: int, easy: bool) -> Tensor:
    n, columns = len(grouped.x), grouped.positives(rows, most)
    there, columns = columns < n, columns.clamp_(max=n - 1)
    others = grouped.x.index_select(0, columns.flatten()).view(*columns.shape, -1)
    value = squared(others, grouped.x[rows, None])
    value = torch.where(there, value if easy else -value, torch.inf)
    best = there & (value == value.amin(1, keepdim=True))
    original = torch.where(best, grouped.columns[columns], n).amin(1)
    return torch.where(original < n, original, -1)
