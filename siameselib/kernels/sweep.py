"""One sweep over the distances of rows and columns, and the gradient of what is summed over them.

A :class:`Sweep` goes through the matrix of distances tile by tile. Whoever sums a function over
it looks at the distances of a tile and, in the same sweep, hands back the derivative of the sum
with respect to each: :meth:`Sweep.pull` turns these into the gradient with respect to rows and
columns, and the tile is forgotten. Where rows and columns are the same, the matrix is symmetric
and only its tiles on and right of the diagonal are made.

A tile comes from one matrix product. Where two rows are so close that this is not accurate, both
their distance and their part of the gradient come from the direct difference.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from siameselib.kernels.blocks import LANE, Grouped, factor_rounding, squared

_HEIGHT, _WIDTH = 256, 4096  # of a tile, in whole lanes: it stays in cache
_CLOSE = 5e-3  # squared distance over squared norm below which the difference is taken
DIFFERENCES = 1 << 17  # entries in one batch of direct differences


class Metric(NamedTuple):
    """A distance as a function of the squared Euclidean one.

    For "cosine" rows are of length 1, or 0: a zero row has cosine 0 to every other.
    """

    name: str

    def of(self, square: Tensor) -> Tensor:
        """Turn squares into distances, in their memory."""
        if self.name == "euclidean":
            return square.sqrt_()
        return square if self.name == "sqeuclidean" else square.mul_(0.5)

    def between(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the distances of matching rows, by direct difference."""
        distance = self.of(squared(x, y))
        if self.name != "cosine":
            return distance
        return torch.where((x == 0).all(-1) | (y == 0).all(-1), 1, distance)

    def lift(self, x: Tensor) -> Tensor:
        """Return what the squared distances from these rows have to be raised by: zero rows."""
        zero = (x == 0).all(-1) if self.name == "cosine" else torch.zeros_like(x[..., 0]).bool()
        return zero.to(x.dtype)

    def slope(self, distance: Tensor) -> Tensor:
        """Return f with f·(x - y) the gradient of these distances in x, 0 at distance 0."""
        if self.name == "euclidean":
            return torch.where(distance > 0, 1 / distance, 0)
        return torch.full_like(distance, 2 if self.name == "sqeuclidean" else 1)


class Tile(NamedTuple):
    """A part of the matrix of distances."""

    rows: slice
    columns: slice
    mirror: slice
    """The columns, counted from the tile's first, whose mirror images are in no other tile."""
    distance: Tensor
    """(rows, columns): the distances, ``Sweep.far`` between rows of one identity."""
    row: Tensor
    column: Tensor
    """Which entries come from direct differences."""


class Sweep:
    """The distances between rows and columns of different identities.

    Args:
        grouped: rows and columns, in label order.
        metric: of the distances.
        gradient: whether :meth:`pull` will be used.
    """

    def __init__(self, grouped: Grouped, metric: Metric, gradient: bool = True) -> None:
        x, y = grouped.x, grouped.y
        self.grouped, self.metric, self.symmetric = grouped, metric, y is x
        self.far = (torch.finfo(x.dtype).max / 4) ** 0.5
        centre = y.mean(0)
        self._y = x.new_zeros(-len(y) // LANE * -LANE, x.shape[1])
        torch.sub(y, centre, out=self._y[: len(y)])
        self._x = self._y[: len(x)] if self.symmetric else x - centre
        self.x_square = self._x.square().sum(1) + metric.lift(x)
        self.y_square = self.x_square
        if not self.symmetric:
            self.y_square = self._y[: len(y)].square().sum(1) + metric.lift(y)
        rounding = factor_rounding(x)
        self.close = max(_CLOSE, 16 * rounding)
        self.unit = torch.finfo(x.dtype).eps / 2 + rounding / 4
        self._left = torch.cat([-2 * self._x, self.x_square[:, None], x.new_ones(len(x), 1)], 1)
        self._right = x.new_zeros(len(self._y), x.shape[1] + 2)
        self._right[:, :-2] = self._y
        self._right[: len(y), -2] = 1
        self._right[: len(y), -1] = self.y_square
        self._right[len(y) :, -1] = self.far**2
        self.dy = torch.zeros_like(self._y if gradient else self._y[:0])
        self.dx = torch.zeros_like(x if gradient else x[:0])
        if self.symmetric:
            self.dx = self.dy[: len(x)]
        self.x_sum, self.y_sum = x.new_zeros(len(x)), x.new_zeros(len(y))

    def tile_size(self) -> int:
        """Return the most entries that a tile has."""
        return min(_HEIGHT, len(self._x)) * min(_WIDTH, len(self._y))

    def tiles(self) -> Iterator[Tile]:
        """Go through the tiles; each is written into the memory of the one before."""
        grouped, n, m = self.grouped, len(self._x), len(self.grouped.y)
        edges = torch.arange(0, n, _HEIGHT), torch.arange(_HEIGHT, n + _HEIGHT, _HEIGHT) - 1
        lows = grouped.start[edges[0]].tolist()
        highs = grouped.end[edges[1].clamp(max=n - 1)].tolist()
        width = min(_WIDTH, len(self._y))
        memory = self._x.new_empty(self.tile_size())
        for low, high, top in zip(lows, highs, range(0, n, _HEIGHT), strict=True):
            rows = slice(top, min(top + _HEIGHT, n))
            for left in range(top if self.symmetric else 0, len(self._y), width):
                columns = slice(left, min(left + width, len(self._y)))
                shape = rows.stop - top, columns.stop - left
                square = memory[: shape[0] * shape[1]].view(shape)
                torch.mm(self._left[rows], self._right[columns].T, out=square)
                band = slice(*(min(max(edge - left, 0), shape[1]) for edge in (low, high)))
                pure = min(m - left, shape[1])
                mirror = slice(max(rows.stop - left, 0) if self.symmetric else pure, pure)
                yield self._finished(square, rows, columns, band, mirror, pure)

    def _finished(
        self,
        square: Tensor,
        rows: slice,
        columns: slice,
        band: slice,
        mirror: slice,
        pure: int,
    ) -> Tile:
        left = columns.start
        same = self.grouped.same(rows, left + band.start, left + band.stop)
        square[:, band] = torch.where(same, self.far**2, square[:, band])
        bound = self.close * self.x_square[rows]
        lanes = square.view(len(square), -1, LANE)
        row, lane = (lanes.amin(-1) <= bound[:, None]).nonzero(as_tuple=True)
        hit, column = (lanes[row, lane] <= bound[row, None]).nonzero(as_tuple=True)
        row, column = row[hit], lane[hit] * LANE + column
        distance = self.metric.of(square)
        distance[row, column] = self.distances(row + rows.start, column + left)
        sums = distance[:, band.stop : pure].sum(1)
        sums += distance[:, : min(band.start, pure)].sum(1)
        others = torch.where(same, 0, distance[:, band])
        self.x_sum[rows] += sums + others.sum(1)
        sums = distance[:, :pure].sum(0)
        sums[band] = others.sum(0)
        self.y_sum[left + mirror.start : left + mirror.stop] += sums[mirror]
        return Tile(rows, columns, mirror, distance, row, column)

    def pull(self, tile: Tile, weight: Tensor) -> None:
        """Add the gradient of the sum of weight times distance over a tile.

        Args:
            tile: the tile.
            weight: (rows, columns) 0 between rows of one identity; used up.
        """
        row, column = tile.row, tile.column
        if len(row):
            self.pull_listed(
                row + tile.rows.start,
                column + tile.columns.start,
                tile.distance[row, column],
                weight[row, column],
            )
            weight[row, column] = 0
            tile.distance[row, column] = self.far
        if self.metric.name == "euclidean":
            weight.div_(tile.distance)
        elif self.metric.name == "sqeuclidean":
            weight.mul_(2)
        x, y = self._x[tile.rows], self._y[tile.columns]
        dx, dy = self.dx[tile.rows], self.dy[tile.columns]
        dx.addcmul_(weight.sum(1)[:, None], x).addmm_(weight, y, alpha=-1)
        dy.addcmul_(weight.sum(0)[:, None], y).addmm_(weight.T, x, alpha=-1)

    def pull_listed(self, row: Tensor, column: Tensor, distance: Tensor, weight: Tensor) -> None:
        """Add the gradient of the sum of weight times distance over listed pairs, one a entry.

        Args:
            row: (k,) which row of all,
            column: (k,) and which column,
            distance: (k,) are how far apart;
            weight: (k,) with this derivative.
        """
        factor = (weight * self.metric.slope(distance))[:, None]
        step = max(1, DIFFERENCES // self._x.shape[1])
        for first in range(0, len(row), step):
            some = slice(first, first + step)
            x, y = self.grouped.x[row[some]], self.grouped.y[column[some]]
            pull = factor[some] * (x - y)
            self.dx.index_add_(0, row[some], pull)
            self.dy.index_add_(0, column[some], pull, alpha=-1)

    def distances(self, row: Tensor, column: Tensor) -> Tensor:
        """Return the distances of listed pairs, by direct difference."""
        result = self._x.new_empty(len(row))
        step = max(1, DIFFERENCES // self._x.shape[1])
        for first in range(0, len(row), step):
            some = slice(first, first + step)
            x, y = self.grouped.x[row[some]], self.grouped.y[column[some]]
            result[some] = self.metric.between(x, y)
        return result

    def sums(self) -> Tensor:
        """Return the sum of each row's distances, after all tiles."""
        return self.x_sum + self.y_sum if self.symmetric else self.x_sum

    def turn(self) -> None:
        """Change the sign of the gradient pulled so far."""
        self.dy.neg_()
        if not self.symmetric:
            self.dx.neg_()

    def gradient(self) -> tuple[Tensor, Tensor]:
        """Return what was pulled, in the order before grouping: of rows and of columns.

        If both are the same, the first is the whole gradient and the second is empty.
        """
        dx, dy = torch.empty_like(self.dx), self.dy.new_empty(0)
        dx[self.grouped.rows[: len(dx)]] = self.dx
        if not self.symmetric and len(self.dy):
            dy = torch.empty_like(self.grouped.y)
            dy[self.grouped.columns] = self.dy[: len(dy)]
        return dx, dy
