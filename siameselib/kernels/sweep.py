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

from siameselib.kernels.blocks import Grouped, factor_rounding, gathered

_HEIGHT, _WIDTH = 256, 2048  # of a tile: it stays in cache
CLOSE = 5e-3  # squared distance over squared norm below which the difference is taken


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
        """Return the distances of matching rows, by direct difference; uses up x."""
        zero = (x == 0).all(-1) | (y == 0).all(-1) if self.name == "cosine" else None
        distance = self.of(x.sub_(y).square_().sum(-1))
        return distance if zero is None else torch.where(zero, 1, distance)

    def listed(self, x: Tensor, y: Tensor, row: Tensor, column: Tensor) -> Tensor:
        """Return the distances of x[row] and y[column], by direct difference."""
        distance = x.new_empty(len(row))
        for some, left, right in gathered(x, y, row, column):
            distance[some] = self.between(left, right)
        return distance

    def dense(self, x: Tensor, y: Tensor) -> Tensor:
        """Return all distances, differentiable, by direct differences of everything at once."""
        square = (x[:, None] - y).square().sum(-1)
        if self.name == "euclidean":
            return torch.where(square == 0, 1, square).sqrt() * (square != 0)
        if self.name == "cosine":
            zero = (x == 0).all(1)[:, None] | (y == 0).all(1)
            return torch.where(zero, 1, square / 2)
        return square

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
    left_out: Tensor | None
    """(rows, columns): the pairs that the sweep is not about, None if it is about all of them."""
    distance: Tensor
    """(rows, columns): the distances, ``Sweep.far`` where left out."""
    row: Tensor
    column: Tensor
    """Which entries come from direct differences."""

    def mirrored(self) -> slice:
        """The mirror columns, counted from the first of all."""
        return slice(self.columns.start + self.mirror.start, self.columns.start + self.mirror.stop)


class Listed:
    """The distances of listed pairs, and the gradient of what is summed over them.

    Args:
        grouped: rows and columns, in label order.
        metric: of the distances.
        gradient: whether anything will be pulled.
    """

    def __init__(self, grouped: Grouped, metric: Metric, gradient: bool = True) -> None:
        x, y = grouped.x, grouped.y
        self.grouped, self.metric, self.symmetric = grouped, metric, y is x
        self.dy = torch.zeros_like(y if gradient else y[:0])
        self.dx = self.dy if self.symmetric else torch.zeros_like(x if gradient else x[:0])

    def distances(self, row: Tensor, column: Tensor) -> Tensor:
        """Return the distances of listed pairs, by direct difference."""
        return self.metric.listed(self.grouped.x, self.grouped.y, row, column)

    def pull_listed(
        self,
        row: Tensor,
        column: Tensor,
        distance: Tensor,
        weight: Tensor,
        only_row: Tensor | None = None,
    ) -> None:
        """Add the gradient of the sum of weight times distance over listed pairs, one a entry.

        Args:
            row: (k,) which row of all,
            column: (k,) and which column,
            distance: (k,) are how far apart;
            weight: (k,) with this derivative.
            only_row: (k,) where not to pull at the column; None for nowhere.
        """
        factor = torch.where(distance == 0, 0, weight * self.metric.slope(distance))[:, None]
        for some, left, right in gathered(self.grouped.x, self.grouped.y, row, column):
            pull = left.sub_(right).mul_(factor[some])
            self.dx.index_add_(0, row[some], pull)
            if only_row is not None:
                pull.masked_fill_(only_row[some, None], 0)
            self.dy.index_add_(0, column[some], pull, alpha=-1)

    def turn(self) -> None:
        """Change the sign of the gradient pulled so far."""
        self.dy.neg_()
        if not self.symmetric:
            self.dx.neg_()

    def gradient(self) -> tuple[Tensor, Tensor]:
        """Return what was pulled, in the order before grouping: of rows and of columns.

        If both are the same, the first is the whole gradient and the second is empty.
        """
        dx, dy = self.dx, self.dy.new_empty(0)
        if len(dx):
            dx = torch.empty_like(dx).index_copy_(0, self.grouped.rows, dx)
        if not self.symmetric and len(self.dy):
            dy = torch.empty_like(self.dy).index_copy_(0, self.grouped.columns, self.dy)
        return dx, dy


class Sweep(Listed):
    """The distances between rows and columns of different identities, or of one.

    Args:
        grouped: rows and columns, in label order.
        metric: of the distances.
        gradient: whether :meth:`pull` will be used.
        positives: the pairs of one identity, no row with itself, in place of the others.
    """

    def __init__(
        self, grouped: Grouped, metric: Metric, gradient: bool = True, *, positives: bool = False
    ) -> None:
        super().__init__(grouped, metric, gradient)
        x, y = grouped.x, grouped.y
        self.positives = positives
        self.far = (torch.finfo(x.dtype).max / 4) ** 0.5
        self._x, self._y = _centred(grouped, positives)
        self.x_square = self._x.square().sum(1) + metric.lift(x)
        self.y_square = self.x_square
        if not self.symmetric:
            self.y_square = self._y.square().sum(1) + metric.lift(y)
        rounding = factor_rounding(x)
        self.close = max(CLOSE, 16 * rounding)
        self.unit = torch.finfo(x.dtype).eps / 2 + rounding / 4
        ones = torch.ones_like
        self._left = torch.cat([-2 * self._x, self.x_square[:, None], ones(x[:, :1])], 1)
        self._right = torch.cat([self._y, ones(y[:, :1]), self.y_square[:, None]], 1)
        self._sums = x.new_zeros(len(x))

    def tile_size(self) -> int:
        """Return the most entries that a tile has."""
        return min(_HEIGHT, len(self._x)) * min(_WIDTH, len(self._y))

    def tiles(self) -> Iterator[Tile]:
        """Go through the tiles; each is written into the memory of the one before."""
        n = len(self._x)
        tops = range(0, n, _HEIGHT)
        lows = self.grouped.start[::_HEIGHT].tolist()
        highs = self.grouped.end[[min(top + _HEIGHT, n) - 1 for top in tops]].tolist()
        memory = self._x.new_empty(self.tile_size())
        for top, low, high in zip(tops, lows, highs, strict=True):
            rows = slice(top, min(top + _HEIGHT, n))
            for first, last, mixed in self._ranges(top, low, high):
                for left in range(first, last, _WIDTH):
                    columns = slice(left, min(left + _WIDTH, last))
                    yield self._tile(memory, rows, columns, mixed)

    def _ranges(self, top: int, low: int, high: int) -> Iterator[tuple[int, int, bool]]:
        """Yield ranges of columns, and whether they share labels with a block of rows."""
        if not self.symmetric and not self.positives:
            yield 0, low, False
        yield top if self.symmetric else low, high, True
        if not self.positives:
            yield high, len(self._y), False

    def _tile(self, memory: Tensor, rows: slice, columns: slice, mixed: bool) -> Tile:
        height, width = rows.stop - rows.start, columns.stop - columns.start
        square = memory[: height * width].view(height, width)
        torch.mm(self._left[rows], self._right[columns].T, out=square)
        left_out = None
        if mixed:
            left_out = self.grouped.left_out(rows, columns, self.positives)
            square.masked_fill_(left_out, self.far**2)
        bound = self.close * self.x_square[rows]
        row = column = (square.amin(1) <= bound).nonzero().squeeze(1)
        if len(row):
            hit, column = (square[row] <= bound[row, None]).nonzero(as_tuple=True)
            row = row[hit]
        distance = self.metric.of(square)
        if len(row):
            distance[row, column] = self.distances(row + rows.start, column + columns.start)
        first = max(rows.stop - columns.start, 0) if self.symmetric else width
        mirror = slice(min(first, width), width)
        return Tile(rows, columns, mirror, left_out, distance, row, column)

    def add_up(self, tile: Tile) -> None:
        """Count the distances of a tile in :meth:`sums`; to be called before :meth:`pull`."""
        distance = tile.distance
        if tile.left_out is not None:
            distance = distance.masked_fill(tile.left_out, 0)
        self._sums[tile.rows] += distance.sum(1)
        self._sums[tile.mirrored()] += distance[:, tile.mirror].sum(0)

    def sums(self) -> Tensor:
        """Return the sum of the distances of each row, as far as added up."""
        return self._sums

    def pull(self, tile: Tile, weight: Tensor, *, alike: bool = False) -> None:
        """Add the gradient of the sum of weight times distance over a tile.

        Args:
            tile: the tile.
            weight: (rows, columns) 0 where left out; used up.
            alike: whether both ends of a pair have the same weight.
        """
        least, most = weight.aminmax()
        if least == most == 0:
            return
        if self.symmetric and tile.mirror.start:  # a pair stands twice there: each pulls at its row
            twice = weight[:, : tile.mirror.start]
            twice += twice if alike else twice.T.clone()
        row, column = tile.row, tile.column
        if len(row):
            self.pull_listed(
                row + tile.rows.start,
                column + tile.columns.start,
                tile.distance[row, column],
                weight[row, column],
                only_row=column < tile.mirror.start if self.symmetric else None,
            )
            weight[row, column] = 0
            tile.distance[row, column] = self.far
        if self.metric.name == "euclidean":
            weight.div_(tile.distance)
        elif self.metric.name == "sqeuclidean":
            weight.mul_(2)
        x, y = self._x[tile.rows], self._y[tile.columns]
        self.dx[tile.rows].addcmul_(weight.sum(1)[:, None], x).addmm_(weight, y, alpha=-1)
        columns = tile.columns
        if self.symmetric:
            weight, y, columns = weight[:, tile.mirror], y[tile.mirror], tile.mirrored()
        if columns.start < columns.stop:
            dy = self.dy[columns]
            dy.addcmul_(weight.sum(0)[:, None], y).addmm_(weight.T, x, alpha=-1)


def _centred(grouped: Grouped, positives: bool) -> tuple[Tensor, Tensor]:
    """Subtract the mean of the columns, or of the columns of each identity, for accuracy."""
    x, y = grouped.x, grouped.y
    if not positives:
        centre = y.mean(0)
        y = y - centre
        return (y if grouped.y is x else x - centre), y
    edges = torch.zeros_like(grouped.columns)
    for edge in (grouped.start, grouped.end):
        edges[edge[edge < len(y)]] = 1
    number = edges.cumsum(0)  # columns between two edges are of one identity, or of no row
    sums = y.new_zeros(len(y) + 1, y.shape[1]).index_add_(0, number, y)
    centre = sums / number.bincount(minlength=len(y) + 1).clamp(min=1)[:, None]
    y = y - centre[number]
    if grouped.y is x:
        return y, y
    return x - centre[number[grouped.start.clamp(max=len(y) - 1)]], y
