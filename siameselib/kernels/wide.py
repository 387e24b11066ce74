"""The sweep of :mod:`siameselib.kernels.sweep` in float64, a block of whole rows at a time.

No shape here depends on the data, so it serves where sizes must not be read from the device; and
float64 leaves nothing to be taken by direct difference.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from siameselib.kernels.blocks import Grouped
from siameselib.kernels.sweep import Metric, Tile

_BLOCK = 1 << 18  # entries of a block on the CPU, where it stays in cache
_LARGE = 1 << 22  # and elsewhere, where it fills the device


class Wide:
    """The distances of whole rows to all columns; see :class:`siameselib.kernels.sweep.Sweep`."""

    far = torch.inf

    def __init__(
        self, grouped: Grouped, metric: Metric, gradient: bool = True, *, positives: bool = False
    ) -> None:
        self.grouped, self.metric, self.positives = grouped, metric, positives
        centre = grouped.y.double().mean(0)
        self._x, self._y = grouped.x.double() - centre, grouped.y.double() - centre
        self._x_square = self._x.square().sum(1) + metric.lift(grouped.x)
        self._y_square = self._y.square().sum(1) + metric.lift(grouped.y)
        self._dx, self._dy = (
            torch.zeros_like(each if gradient else each[:0]) for each in (self._x, self._y)
        )

    def blocks(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Go through the rows: which, their squares, and how far rounding can have moved them."""
        n, m = len(self._x), len(self._y)
        step = max(1, (_BLOCK if self._x.device.type == "cpu" else _LARGE) // m)
        for first in range(0, n, step):
            rows = slice(first, min(first + step, n))
            square = torch.addmm(self._y_square, self._x[rows], self._y.T, alpha=-2)
            square += self._x_square[rows, None]
            # What rounding can have made of 0, or of the difference of two equal squares.
            rounding = 2.0**-46 * (self._x_square[rows, None] + self._y_square)
            yield rows, torch.where(square <= rounding, 0, square), rounding

    def tiles(self) -> Iterator[Tile]:
        """Go through the rows as :meth:`Sweep.tiles` does."""
        m = len(self._y)
        nothing = torch.empty_like(self.grouped.rows[:0])
        for rows, square, _ in self.blocks():
            left_out = self.grouped.left_out(rows, slice(0, m), self.positives)
            distance = self.metric.of(square.masked_fill_(left_out, torch.inf))
            yield Tile(rows, slice(0, m), slice(m, m), left_out, distance, nothing, nothing)

    def pull(self, tile: Tile, weight: Tensor, *, alike: bool = False) -> None:
        """Add the gradient of the sum of weight times distance over a tile, as a sweep does."""
        self.pull_rows(tile.rows, tile.distance, weight)

    def pull_rows(self, rows: slice, distance: Tensor, weight: Tensor) -> None:
        """Add the gradient of the sum of weight times distance over whole rows."""
        weight = torch.where(distance == 0, 0, weight * self.metric.slope(distance))
        x = self._x[rows]
        self._dx[rows] += weight.sum(1)[:, None] * x - weight @ self._y
        self._dy += weight.sum(0)[:, None] * self._y - weight.T @ x

    def gradient(self) -> tuple[Tensor, Tensor]:
        """Return what was pulled, as :meth:`Sweep.gradient` does."""
        dx, dy = self._dx, self._dy
        if self.grouped.y is self.grouped.x:
            dx, dy = dx + dy, dy.new_empty(0)
        x, y = torch.empty_like(dx), torch.empty_like(dy)
        x[self.grouped.rows[: len(x)]] = dx
        if len(y):
            y[self.grouped.columns] = dy
        dtype = self.grouped.x.dtype
        return x.to(dtype), y.to(dtype)
