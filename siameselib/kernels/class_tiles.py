"""Exponentials of scaled cosines between samples and classes, a tile at a time.

What losses of classes are made of. The classes are scaled to length 1 a block at a time, and so are
their gradients: beside the weight and its gradient nothing here is as large as the weight.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from siameselib.kernels.blocks import squared
from siameselib.kernels.unit import unit

_CPU = (256, 2048)  # rows and columns of a tile, 2 MiB in float32: it stays near in cache
_GPU = (2048, 8192)  # large enough to fill the device, 64 MiB in float32
# Cosines are rather kept for the gradient than made again up to so many for each dimension, for
# that is what making one costs: up to 16 MiB of them in 128 dimensions.
_KEPT = 1 << 15


def keeps(x: Tensor, weight: Tensor) -> int:
    """Say for how many samples all cosines may be kept."""
    return _KEPT * x.shape[1] // max(1, len(weight))


class Sides(NamedTuple):
    """The samples and their own classes: rows of length 1, and what each was scaled by."""

    x: Tensor
    x_factor: Tensor
    own: Tensor
    own_factor: Tensor

    def part(self, rows: slice) -> "Sides":
        """Take some of the samples."""
        return Sides(*(each[rows] for each in self))

    def distance(self) -> Tensor:
        """Return (n,) one less the cosine of each sample and its own class."""
        # 1 - x·w = |x - w|²/2 for unit rows: no cancellation for close ones
        zero = ((self.x_factor == 0) | (self.own_factor == 0)).squeeze(1)
        return torch.where(zero, 1, squared(self.x, self.own) / 2)


def sides_of(x: Tensor, labels: Tensor, weight: Tensor) -> Sides:
    """Scale the samples and their own classes to length 1."""
    return Sides(*unit(x), *unit(weight.index_select(0, labels).to(x.dtype)))


class _Block(NamedTuple):
    # Some classes: their rows of length 1, and what each was scaled by.
    columns: slice
    unit: Tensor
    factor: Tensor


class Tiles:
    """Exponentials of scaled cosines of samples and classes, 0 for a sample and its own class.

    Args:
        x: (n, d) samples of length 1.
        labels: (n,) the class of each.
        weight: (c, d) the classes, of any length and floating dtype.
        scale: what the cosines are multiplied by.
        kept: memory for all n·c of them, which are then made once; or none.
        made: whether that has been done.
    """

    def __init__(
        self,
        x: Tensor,
        labels: Tensor,
        weight: Tensor,
        scale: float,
        kept: Tensor,
        *,
        made: bool = False,
    ) -> None:
        self.height, self.width = _CPU if x.device.type == "cpu" else _GPU
        self.x, self.left = x, scale / math.log(2) * x
        self.labels, self.weight = labels, weight
        self.kept, self.made = kept, made and len(kept) > 0
        size = 0 if len(kept) else min(self.height, len(x)) * min(self.width, len(weight))
        self.memory = x.new_empty(size)

    def add_up(self, *, by_class: bool = False) -> tuple[Tensor, Tensor]:
        """Return the sums over the classes for each sample, or over the samples for each class.

        Returns:
            (n,) or (c,), and the (d,) sum of all classes of length 1.
        """
        total = self.x.new_zeros(len(self.weight if by_class else self.x))
        weight_sum = self.x.new_zeros(self.x.shape[1])
        for block in self._blocks():
            weight_sum += block.unit.sum(0)
            for rows, tile in self._of(block):
                if by_class:
                    total[block.columns] += tile.sum(0)
                else:
                    total[rows] += tile.sum(1)
        self.made = len(self.kept) > 0
        return total, weight_sum

    def pull(self, slope: Tensor, dw: Tensor | None, *, by_class: bool = False) -> Tensor:
        """Return the gradient in the samples of length 1 of a sum over the tiles.

        Args:
            slope: (n,) the derivative by each exponential of a sample times the scale; or (c,).
            dw: (c, d) to add the gradient in the weight to; None where nobody wants it.
            by_class: whether the slopes are those of classes.

        Returns:
            (n, d)
        """
        # A slope of the whole row or column of a tile goes with what the tile is multiplied by.
        dx, pull = torch.zeros_like(self.x), self.x if by_class else slope[:, None] * self.x
        for block in self._blocks():
            push = slope[block.columns, None] * block.unit if by_class else block.unit
            dunit = torch.zeros_like(block.unit if dw is not None else block.unit[:0])
            for rows, tile in self._of(block):
                dx[rows].addmm_(tile, push)
                if dw is not None:
                    dunit.addmm_(tile.T, pull[rows])
            if dw is not None:
                if by_class:
                    dunit.mul_(slope[block.columns, None])
                dw[block.columns] += through_unit(dunit, block.unit, block.factor).to(dw.dtype)
        return dx if by_class else dx.mul_(slope[:, None])

    def _blocks(self) -> Iterator[_Block]:
        for first in range(0, len(self.weight), self.width):
            columns = slice(first, min(first + self.width, len(self.weight)))
            yield _Block(columns, *unit(self.weight[columns].to(self.left.dtype)))

    def _of(self, block: _Block) -> Iterator[tuple[slice, Tensor]]:
        # A block of samples at a time.
        n = len(self.left)
        for first in range(0, n, self.height):
            rows = slice(first, min(first + self.height, n))
            shape = rows.stop - first, len(block.unit)
            size, start = shape[0] * shape[1], n * block.columns.start + first * shape[1]
            tile = (self.kept[start:] if len(self.kept) else self.memory)[:size].view(shape)
            if not self.made:
                torch.mm(self.left[rows], block.unit.T, out=tile)
                self._leave_out_own(block, rows, tile.exp2_())  # quicker than exp_
            yield rows, tile

    def _leave_out_own(self, block: _Block, rows: slice, tile: Tensor) -> None:
        # By gather and scatter, since which samples are of these classes would have to be read.
        column = (self.labels[rows] - block.columns.start)[:, None]
        inside = (column >= 0) & (column < tile.shape[1])
        column = column.clamp(0, tile.shape[1] - 1)
        tile.scatter_(1, column, tile.gather(1, column).masked_fill_(inside, 0))


def pull_own(sides: Sides, labels: Tensor, gradient: Tensor, dw: Tensor | None) -> Tensor:
    """Return the gradient in the samples of length 1 of a sum over the distances to their own.

    Args:
        sides: the samples.
        labels: (n,) the class of each.
        gradient: (n,) the derivative by each distance.
        dw: (c, d) to add the gradient in the weight to; None where nobody wants it.

    Returns:
        (n, d)
    """
    apart = gradient[:, None] * (sides.x - sides.own)
    if dw is not None:
        dw.index_add_(0, labels, through_unit(-apart, sides.own, sides.own_factor).to(dw.dtype))
    return apart


def through_unit(gradient: Tensor, rows: Tensor, factor: Tensor) -> Tensor:
    """Turn the gradient of rows of length 1 into that of what they were before; used up."""
    along = torch.linalg.vecdot(rows, gradient).unsqueeze(1)
    return gradient.addcmul_(rows, along, value=-1).mul_(factor)
