"""The streaming way of :mod:`siameselib.kernels.logsumexp`: sweeps of tiles, two numbers a row."""

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from siameselib.kernels.tiles import Side, Tile, leave_out_same, side, tiles

SMALL = 1 << 20  # entries of a matrix that is kept between the sweeps, 4 MiB in float32


class Running:
    """The log-sum-exp of each row, or column, of the tiles so far."""

    def __init__(self, like: Tensor, floor: Tensor | None = None) -> None:
        self.largest = like.new_full(like.shape[:1], -torch.inf)
        self.total = torch.zeros_like(self.largest)
        self.floor = floor

    def add(self, at: slice, scores: Tensor, axis: int) -> None:
        """Take in more entries along an axis."""
        scores = _above(scores, self.floor, at, axis)
        before = self.largest[at]
        after = torch.maximum(before, scores.amax(axis))
        shift = torch.where(after > -torch.inf, after, 0)
        shares = torch.sub(scores, shift.unsqueeze(axis)).exp_()
        self.total[at] = self.total[at] * (before - shift).exp() + shares.sum(axis)
        self.largest[at] = after

    def result(self) -> Tensor:
        """Return the log-sum-exp of all that was taken in."""
        return torch.where(self.total > 0, self.largest, 0) + self.total.log()


class _Plain(Running):
    """The same where e^f and its sums can be taken as they are."""

    def add(self, at: slice, scores: Tensor, axis: int) -> None:
        """Take in more entries, already e^f."""
        self.total[at] += scores.sum(axis)

    def result(self) -> Tensor:
        """Return the logarithm of what was taken in."""
        return self.total.log()


def _above(scores: Tensor, floor: Tensor | None, at: slice, axis: int) -> Tensor:
    if floor is None:
        return scores
    return scores.masked_fill(scores <= floor[at].unsqueeze(axis), -torch.inf)


class Sweep:
    """The sums of one problem, and their gradient; small matrices are kept in between."""

    def __init__(
        self,
        x: Tensor,
        ids: Tensor | None,
        y: Tensor | None,
        y_ids: Tensor | None,
        floor: Tensor | None,
        scale: float,
        relaxation: float | None,
        both: bool,
        largest: bool,
    ) -> None:
        self.rows = side(x, ids)
        self.columns = self.rows if y is None else side(y, y_ids)
        self.floor = None if floor is None else self.rows.take(scale * floor)
        self.symmetric, self.both, self.largest = y is None, both, largest
        self.relaxation = relaxation
        # Up to there e^f and sums of it can be taken as they are: f is in [-limit, limit].
        extent = scale * (1 + (relaxation or 0)) ** 2
        limit = 0.7 * math.log(torch.finfo(x.dtype).max)
        self.plain = extent <= limit and not largest
        # A relaxed score is a product of two factors: each takes the root of the scale.
        self.root = scale if relaxation is None else math.sqrt(scale)
        self.kept: list[_Scored] | None = None

    def keep(self) -> None:
        """Hold a small matrix from the first sweep to the next."""
        if len(self.rows.x) * len(self.columns.x) <= SMALL:
            self.kept = list(self._tiles(fresh=True))

    def _tiles(self, fresh: bool = False) -> Iterator["_Scored"]:
        rows, columns, relaxation = self.rows, self.columns, self.relaxation
        powers = self.plain and relaxation is None  # of 2, which come quicker than those of e
        scaled = rows._replace(x=(self.root / math.log(2) if powers else self.root) * rows.x)
        for tile, t in tiles(scaled, columns, upper=self.symmetric, fresh=fresh):
            slope = None
            if relaxation is not None:
                slope = (t + self.root * relaxation).relu_()
                t.sub_(self.root * relaxation).mul_(slope)
            if self.plain:
                leave_out_same(t.exp2_() if powers else t.exp_(), tile, rows, columns, 0)
            else:
                leave_out_same(t, tile, rows, columns, -torch.inf)
            turned = tile.columns
            if self.symmetric:  # only those that no other tile has as rows
                first = max(turned.start, min(tile.rows.stop, turned.stop))
                turned = slice(first, turned.stop)
            yield _Scored(tile, turned, t, slope)

    def tiles(self) -> Iterable["_Scored"]:
        """Go through the tiles."""
        return self._tiles() if self.kept is None else self.kept

    def forward(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the sums of rows, of columns, and the largest f."""
        running = _Plain if self.plain else Running
        by_row = running(self.rows.x, self.floor)
        by_column = by_row if self.symmetric else running(self.columns.x)
        for tile, turned, scores, _ in self.tiles():
            if (self.symmetric or self.both) and turned.start < turned.stop:
                by_column.add(turned, scores[:, tile.inside(turned)], 0)
            by_row.add(tile.rows, scores, 1)
        nothing = self.rows.x.new_empty(2, 0)
        return (
            self.rows.back(by_row.result()),
            self.columns.back(by_column.result()) if self.both else nothing[0],
            self.rows.back(by_row.largest) if self.largest else nothing[1].clone(),
        )

    def backward(
        self, gradient: Tensor, y_gradient: Tensor, sums: Tensor, y_sums: Tensor, y_too: bool
    ) -> tuple[Tensor, Tensor]:
        """Return the gradient in x and, empty where y is x, in y."""
        rows, columns = self.rows, self.columns
        # d N_i / d s_ij = slope·e^(f - N_i)
        by_row = _Weights(self, gradient, sums, rows)
        by_column = None
        if self.symmetric:  # s_ij = s_ji is in row j as well
            by_column = by_row
        elif self.both:
            by_column = _Weights(self, y_gradient, y_sums, columns)
        dx = torch.zeros_like(rows.x)
        dy = dx if self.symmetric else torch.zeros_like(columns.x)
        for scored in self.tiles():
            tile, turned, _, slope = scored
            weight = _weights(scored, by_row, by_column)
            if slope is not None:
                weight.mul_(slope)
            dx[tile.rows].addmm_(weight, columns.x[tile.columns])
            if (self.symmetric or y_too) and turned.start < turned.stop:
                dy[turned].addmm_(weight[:, tile.inside(turned)].T, rows.x[tile.rows])
        return rows.back(dx), dx.new_empty(0) if self.symmetric else columns.back(dy)


class _Scored(NamedTuple):
    """A tile, and the columns that get their own sums of it."""

    tile: Tile
    turned: slice
    scores: Tensor
    """f, or e^f where plain; without those that share an id."""
    slope: Tensor | None
    """of f, over the root of the scale; None for 1."""


class _Weights:
    """By what the gradient multiplies the shares of each row, or column, in its sum."""

    def __init__(self, sweep: Sweep, gradient: Tensor, sums: Tensor, some: Side) -> None:
        self.gradient = some.take(sweep.root * gradient)
        self.sums = some.take(torch.where(sums > -torch.inf, sums, torch.inf))
        self.plain = self.gradient * (-self.sums).exp() if sweep.plain else None
        self.floor = sweep.floor

    def of(self, scores: Tensor, at: slice, axis: int) -> Tensor:
        """Return the weights of a tile."""
        shares = _above(scores, self.floor, at, axis) - self.sums[at].unsqueeze(axis)
        return shares.exp_().mul_(self.gradient[at].unsqueeze(axis))


def _weights(scored: "_Scored", by_row: _Weights, by_column: _Weights | None) -> Tensor:
    # In both roles: of rows and, where they have sums, of columns.
    (rows, columns, _), scores = scored.tile, scored.scores
    if by_row.plain is not None:
        weight = by_row.plain[rows, None]
        if by_column is None or by_column.plain is None:
            return scores * weight
        return (weight + by_column.plain[columns]).mul_(scores)
    weight = by_row.of(scores, rows, 1)
    return weight if by_column is None else weight.add_(by_column.of(scores, columns, 0))
