"""The two streaming ways of :mod:`siameselib.kernels.distance_logsumexp`.

On the CPU the tiles of a sweep; elsewhere, where no values are read, plain blocks of rows.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from siameselib.kernels.blocks import group, scaled
from siameselib.kernels.logsumexp_sweep import SMALL, Running
from siameselib.kernels.sweep import Metric, Sweep, Tile

_ENTRIES = 1 << 20  # of a block


class Problem:
    """Rows and columns in order, scaled so that no square overflows or vanishes."""

    def __init__(
        self,
        x: Tensor,
        y: Tensor | None,
        labels: Tensor,
        y_labels: Tensor,
        offset: int | None,
        metric: str,
    ) -> None:
        self.keep = False  # the sweep, for the gradient
        self.sweep: _Both | None = None
        x, y, unit, back = scaled(x, y, metric)
        self.per_unit, self.pulled = (1 / unit).to(x.dtype), back.to(x.dtype)
        self.grouped = group(x, labels, x if y is None else y, y_labels, offset)
        self.metric = Metric(metric)

    def back(self, values: Tensor) -> Tensor:
        """Return values of rows in the order before."""
        return torch.empty_like(values).index_copy_(0, self.grouped.rows, values)

    def blocks(self) -> Iterator["_Block"]:
        """Go through the whole matrix in float64, a block of rows at a time; nothing is read."""
        grouped, m = self.grouped, len(self.grouped.y)
        centre = grouped.y.double().mean(0)
        x, y = grouped.x.double() - centre, grouped.y.double() - centre
        x_square = x.square().sum(1) + self.metric.lift(grouped.x)
        y_square = y.square().sum(1) + self.metric.lift(grouped.y)
        step = max(1, _ENTRIES // m)
        for first in range(0, len(x), step):
            rows = slice(first, min(first + step, len(x)))
            square = torch.addmm(y_square, x[rows], y.T, alpha=-2).add_(x_square[rows, None])
            # what rounding can have made of 0
            square *= square > 2.0**-46 * (x_square[rows, None] + y_square)
            negative = ~grouped.same(rows, 0, m)
            own = grouped.own[rows, None] == torch.arange(m, device=x.device)
            yield _Block(rows, x[rows], y, self.metric.of(square), ~negative & ~own, negative)


class _Block(NamedTuple):
    # Some rows against all columns.
    rows: slice
    x: Tensor
    y: Tensor
    distance: Tensor
    positive: Tensor
    negative: Tensor


def sums_of(problem: Problem) -> tuple[Tensor, Tensor, Tensor]:
    """Return P, N and the sums of the distances, in the order of the rows."""
    found = _swept if problem.grouped.x.device.type == "cpu" else _blocked
    positives, negatives, *seen = found(problem)
    distances = torch.stack([problem.back(each) for each in seen])
    return problem.back(positives), problem.back(negatives), distances


def gradients_of(
    problem: Problem, slopes: tuple[Tensor, Tensor], sums: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Return the gradients in rows and columns, for slopes in P and N, which are ``sums``."""
    order = problem.grouped.rows
    bounds = (torch.where(each > -torch.inf, each, torch.inf)[order] for each in sums)
    weights = _Weights(slopes[0][order], -slopes[1][order], *bounds)
    pull = _pull_swept if order.device.type == "cpu" else _pull_blocked
    dx, dy = pull(problem, weights)
    return dx * problem.pulled, dy * problem.pulled


class _Band(NamedTuple):
    # The columns of a tile that may share a label with its rows, counted from its first.
    columns: slice
    same: Tensor
    distance: Tensor
    """-inf where not positive."""
    mirror: slice
    """Those of them, counted from the band's first, that the tile mirrors,"""
    mirrored: slice
    """and counted from the first of all."""


class _Both(Sweep):
    # All distances but those of rows to themselves: to the positives and to the negatives.

    def __init__(self, problem: Problem, gradient: bool) -> None:
        grouped = problem.grouped
        own = grouped.own
        alone = grouped._replace(start=own, end=(own + 1).clamp(max=len(grouped.y)))
        super().__init__(alone, problem.metric, gradient)
        self.labelled, self.per_unit = grouped, problem.per_unit
        self.kept: list[Tile] | None = None

    def keep(self) -> None:
        """Hold a small matrix from the first sweep to the next."""
        if len(self.grouped.x) * len(self.grouped.y) <= SMALL:
            self.kept = [_copied(tile) for tile in super().tiles()]

    def tiles(self) -> Iterator[Tile]:
        """Go through the tiles."""
        return super().tiles() if self.kept is None else map(_copied, self.kept)

    def scored(self) -> Iterator[tuple[Tile, Tensor, _Band | None]]:
        """Go through the tiles: minus the distances to negatives, and the band if any."""
        for tile in self.tiles():
            scores = tile.distance * -self.per_unit
            band = self._band(tile, scores)
            if band is not None:
                scores[:, band.columns].masked_fill_(band.same, -torch.inf)
            yield tile, scores, band

    def _band(self, tile: Tile, scores: Tensor) -> _Band | None:
        labelled, left, right = self.labelled, tile.columns.start, tile.columns.stop
        first = max(int(labelled.start[tile.rows.start]), left)
        last = min(int(labelled.end[tile.rows.stop - 1]), right)
        if first >= last:
            return None
        columns = slice(first - left, last - left)
        same = labelled.same(tile.rows, first, last)
        positive = same if tile.left_out is None else same & ~tile.left_out[:, columns]
        distance = (-scores[:, columns]).masked_fill_(~positive, -torch.inf)
        turned = slice(max(first, left + tile.mirror.start), min(last, left + tile.mirror.stop))
        mirror = slice(turned.start - first, max(turned.stop, turned.start) - first)
        return _Band(columns, same, distance, mirror, turned)


def _copied(tile: Tile) -> Tile:
    return tile._replace(distance=tile.distance.clone())


def _swept(problem: Problem) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    # P, N and the sums of distances, all in the order of the groups.
    sweep = problem.sweep = _Both(problem, problem.keep)
    if problem.keep:
        sweep.keep()
    far, near = Running(sweep.x_square), Running(sweep.x_square)
    seen = torch.zeros_like(sweep.x_square)
    for tile, scores, band in sweep.scored():
        sweep.add_up(tile)
        near.add(tile.rows, scores, 1)
        if tile.mirror.start < tile.mirror.stop:
            near.add(tile.mirrored(), scores[:, tile.mirror], 0)
        if band is not None:
            distance = band.distance.masked_fill(band.distance == -torch.inf, 0)
            far.add(tile.rows, band.distance, 1)
            seen[tile.rows] += distance.sum(1)
            if band.mirror.start < band.mirror.stop:
                far.add(band.mirrored, band.distance[:, band.mirror], 0)
                seen[band.mirrored] += distance[:, band.mirror].sum(0)
    return far.result(), near.result(), seen, sweep.sums() * problem.per_unit - seen


def _blocked(problem: Problem) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    # The same without a look at any value.
    found: list[list[Tensor]] = []
    for block in problem.blocks():
        distance = block.distance * problem.per_unit
        near, far = distance.masked_fill(~block.negative, torch.inf), distance
        far = far.masked_fill(~block.positive, -torch.inf)
        seen = (torch.where(each, distance, 0).sum(1) for each in (block.positive, block.negative))
        found.append([far.logsumexp(1), (-near).logsumexp(1), *seen])
    dtype = problem.grouped.x.dtype
    positives, negatives, *sums = (torch.cat(each).to(dtype) for each in zip(*found, strict=True))
    return positives, negatives, sums[0], sums[1]


class _Weights(NamedTuple):
    # The derivative by the distances of a row is pull·e^(d - bound) and push·e^(-d - limit).
    pull: Tensor
    push: Tensor
    bound: Tensor
    limit: Tensor

    def of(self, scores: Tensor, rows: slice, mirror: slice, turned: slice, far: bool) -> Tensor:
        """Return the derivatives by the distances of a tile, its mirrored columns' included."""
        slope, sums = (self.pull, self.bound) if far else (self.push, self.limit)
        weight = (scores - sums[rows, None]).exp_().mul_(slope[rows, None])
        if mirror.start < mirror.stop:
            weight[:, mirror] += (scores[:, mirror] - sums[turned]).exp_().mul_(slope[turned])
        return weight


def _pull_swept(problem: Problem, by: _Weights) -> tuple[Tensor, Tensor]:
    # The gradients of rows and of columns, the latter empty where they are the same.
    sweep = problem.sweep or _Both(problem, True)
    sweep.dx.zero_()
    sweep.dy.zero_()
    for tile, scores, band in sweep.scored():
        weight = by.of(scores, tile.rows, tile.mirror, tile.mirrored(), False)
        if band is not None:
            pull = by.of(band.distance, tile.rows, band.mirror, band.mirrored, True)
            weight[:, band.columns] += pull
        sweep.pull(tile, weight)
    return sweep.gradient()


def _pull_blocked(problem: Problem, by: _Weights) -> tuple[Tensor, Tensor]:
    # The same without a look at any value.
    grouped = problem.grouped
    dx, dy = torch.zeros_like(grouped.x), torch.zeros_like(grouped.y)
    for rows, x, y, distance, positive, negative in problem.blocks():
        scores = distance * problem.per_unit
        pull = (scores - by.bound[rows, None]).exp() * by.pull[rows, None]
        push = (-scores - by.limit[rows, None]).exp() * by.push[rows, None]
        weight = torch.where(positive, pull, torch.where(negative, push, 0))
        weight *= problem.metric.slope(distance)
        dx[rows] += (weight.sum(1)[:, None] * x - weight @ y).to(dx.dtype)
        dy += (weight.sum(0)[:, None] * y - weight.T @ x).to(dx.dtype)
    if grouped.y is grouped.x:
        return problem.back(dx + dy), dy[:0]
    return problem.back(dx), torch.empty_like(dy).index_copy_(0, grouped.columns, dy)
