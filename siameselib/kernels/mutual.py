"""The extremes of a batch among itself: each product serves its row and its column.

Only the tiles on and right of the diagonal are made: half of the matrix products. Each lists the
pairs that may hold the nearest negative of their row, and then of their column; what is known by
then of the rows keeps these lists short. The CPU's way: the lists' lengths depend on the data.
"""

import torch
from torch import Tensor

from siameselib.kernels.blocks import LANE, Grouped, Slabs
from siameselib.kernels.candidates import settle
from siameselib.kernels.positives import band_of, extreme_positive, few, listed

FEW = 1024  # rows up to which it does not pay
_HEIGHT, _WIDTH = 512, 1024  # of a tile: it stays in cache


def hardest_among(grouped: Grouped, slabs: Slabs, easy: bool) -> tuple[Tensor, Tensor]:
    """Find each row's farthest (easy: nearest) positive and nearest negative.

    Returns:
        Two (n,) vectors of original indices, -1 for none.
    """
    n, positive, most = len(grouped.x), torch.empty_like(grouped.rows), few(grouped, False)
    search = _Search(grouped, slabs)
    memory = grouped.x.new_empty(min(_HEIGHT, slabs.rows) * min(_WIDTH, slabs.columns))
    for top in range(0, n, _HEIGHT):
        rows = slice(top, min(top + _HEIGHT, n))
        band = slice(*band_of(grouped, rows))
        columns = listed(grouped, rows, most)
        if band.stop - band.start > _WIDTH:
            wide = grouped.x.new_empty((rows.stop - top) * (band.stop - band.start))
            tile = slabs.tile(rows, band, wide)
            positive[rows] = extreme_positive(
                grouped, slabs, rows, tile, columns, False, easy, band.start
            )
        whole = slice(top, -(-rows.stop // LANE) * LANE)
        for left in range(band.start, n, _WIDTH):
            across = slice(left, min(left + _WIDTH, -(-n // LANE) * LANE))
            tile = slabs.tile(whole, across, memory)
            if left == band.start and band.stop <= across.stop:
                positive[rows] = extreme_positive(
                    grouped, slabs, rows, tile[: rows.stop - top], columns, False, easy, left
                )
            search.look(tile, rows, slice(left, min(across.stop, n)))
    return positive, search.found()


class _Search:
    """The pairs, by row, that may hold the row's nearest negative."""

    def __init__(self, grouped: Grouped, slabs: Slabs) -> None:
        self.grouped, self.slabs = grouped, slabs
        self.least = grouped.x.new_full((len(grouped.x),), torch.inf)  # of each row's bounds seen
        self.listed: list[tuple[Tensor, Tensor, Tensor]] = []
        self.count, self.limit = 0, 8 * len(grouped.x) + _HEIGHT * _WIDTH

    def look(self, tile: Tensor, rows: slice, columns: slice) -> None:
        """List what is new in a tile, for its rows and for the columns after them.

        Args:
            tile: whole lanes; used up.
            rows: which rows it begins with,
            columns: and which columns.
        """
        last = int(self.grouped.end[rows.stop - 1])
        if last > columns.start:
            same = self.grouped.same(rows, columns.start, min(last, columns.stop))
            tile[: len(same), : same.shape[1]].masked_fill_(same, torch.inf)
        across = tile[: rows.stop - rows.start].view(rows.stop - rows.start, -1, LANE)
        self._list(across, across.amin(-1), rows, columns.start)
        others = slice(max(columns.start, rows.stop), columns.stop)
        if others.start < others.stop:
            skip = others.start - columns.start
            down = tile.view(-1, LANE, tile.shape[1])[..., skip : others.stop - columns.start]
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
