r"""Log-sum-exp of scaled cosines between samples and classes, each sample's own class left out.

.. math:: N_i = \log \sum_{c \ne y_i} e^{scale\; x_i \cdot w_c} \qquad\text{or, by class,}\qquad
          N_c = \log \sum_{i:\; y_i \ne c} e^{scale\; x_i \cdot w_c}

with x_i and w_c rows of the embeddings and of the weight, scaled to length 1. ``reference`` is that
line. ``streaming``
goes through the classes a block at a time, scales the block, and forgets it; the gradient goes
there once more and writes each row of the weight's gradient once. Beside the weight and its
gradient nothing is as large as the weight, but the cosines that are kept for the gradient where
that is cheap. The distance of each sample to its own class comes along, so that all of the weight's
gradient is made here.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from siameselib.kernels import choose
from siameselib.kernels.blocks import squared
from siameselib.kernels.given import first_only
from siameselib.kernels.unit import unit

_CPU = (256, 2048)  # rows and columns of a tile, 2 MiB in float32: it stays near in cache
_GPU = (2048, 8192)  # large enough to fill the device, 64 MiB in float32
LARGEST_SCALE = 500  # sums of e^500 are float64 numbers
# Cosines are rather kept for the gradient than made again up to so many for each dimension, for
# that is what making one costs: up to 16 MiB of them in 128 dimensions.
_KEPT = 1 << 15


class Classes(NamedTuple):
    """What the samples and the classes have to do with each other."""

    logsumexp: Tensor
    """N: (n,), or (c,) by class; -inf where there is nothing to sum over."""
    distance: Tensor
    """(n,) one less the cosine of each sample and its own class, by direct difference."""
    cosine_sum: Tensor
    """0-d, the sum of all cosines, own classes included; no gradient."""


def class_logsumexp(
    x: Tensor,
    labels: Tensor,
    weight: Tensor,
    scale: float,
    by_class: bool = False,
    backend: str = "auto",
) -> Classes:
    """Compute N, and what comes along; in float64 where e^scale is too much for float32.

    Args:
        x: (n, d) samples, of any length, in the dtype of the result.
        labels: (n,) the class of each, int64.
        weight: (c, d) the classes, of any length and floating dtype.
        scale: what the cosines are multiplied by, at most :data:`LARGEST_SCALE`.
        by_class: whether to sum over the samples for each class.
        backend: see :func:`siameselib.use_backend`.

    Returns:
        N, the distances to the own class, and the sum of the cosines.
    """
    if choose("class_logsumexp", len(x), len(weight), 1, backend) == "reference":
        return reference(x, labels, weight, scale, by_class)
    dtype = x.dtype
    if scale > _limit(dtype):
        x = x.double()
    # In eager mode no operator: the first call of one imports all of torch._dynamo.
    run: Any = _op if torch.compiler.is_compiling() else _ClassLogSumExp.apply
    keep = torch.is_grad_enabled() and len(x) * len(weight) <= _KEPT * x.shape[1]
    *found, _ = run(x, labels, weight, scale, by_class, keep)
    return Classes(*(each.to(dtype) for each in found))


def _limit(dtype: torch.dtype) -> float:
    # Up to here sums of e^(scale·cosine) can be taken as they are, over any number of terms.
    return 0.75 * math.log(torch.finfo(dtype).max)


def reference(x: Tensor, labels: Tensor, weight: Tensor, scale: float, by_class: bool) -> Classes:
    """Compute N by the definition."""
    sides = _sides(x, labels, weight)
    x, w = sides.x, unit(weight.to(x.dtype))[0]
    own = labels[:, None] == torch.arange(len(w), device=w.device)
    logits = ((scale * x) @ w.T).masked_fill(own, -torch.inf)
    return Classes(
        logits.logsumexp(0 if by_class else 1),
        _distance(sides),
        _cosine_sum(x.detach(), w.detach().sum(0)),
    )


class _Sides(NamedTuple):
    # The samples and their own classes: rows of length 1, and what each was scaled by.
    x: Tensor
    x_factor: Tensor
    own: Tensor
    own_factor: Tensor


def _sides(x: Tensor, labels: Tensor, weight: Tensor) -> _Sides:
    return _Sides(*unit(x), *unit(weight.index_select(0, labels).to(x.dtype)))


def _distance(sides: _Sides) -> Tensor:
    # 1 - x·w = |x - w|²/2 for unit rows: no cancellation for close ones
    zero = ((sides.x_factor == 0) | (sides.own_factor == 0)).squeeze(1)
    return torch.where(zero, 1, squared(sides.x, sides.own) / 2)


def _cosine_sum(x: Tensor, weight_sum: Tensor) -> Tensor:
    # a sum of dot products is the dot product of the sums
    return torch.dot(x.sum(0), weight_sum)


class _Block(NamedTuple):
    # Some classes: their rows of length 1, and what each was scaled by.
    columns: slice
    unit: Tensor
    factor: Tensor


class _Tiles:
    # Exponentials of scaled cosines of samples and classes, 0 for a sample and its own class.
    def __init__(
        self, x: Tensor, labels: Tensor, weight: Tensor, scale: float, kept: Tensor, fresh: bool
    ) -> None:
        self.height, self.width = _CPU if x.device.type == "cpu" else _GPU
        self.left, self.labels, self.weight = scale / math.log(2) * x, labels, weight
        self.kept, self.fresh = kept, fresh
        size = 0 if len(kept) else min(self.height, len(x)) * min(self.width, len(weight))
        self.memory = x.new_empty(size)

    def blocks(self) -> Iterator[_Block]:
        for first in range(0, len(self.weight), self.width):
            columns = slice(first, min(first + self.width, len(self.weight)))
            yield _Block(columns, *unit(self.weight[columns].to(self.left.dtype)))

    def of(self, block: _Block) -> Iterator[tuple[slice, Tensor]]:
        # A block of samples at a time.
        n = len(self.left)
        for first in range(0, n, self.height):
            rows = slice(first, min(first + self.height, n))
            shape = rows.stop - first, len(block.unit)
            size, start = shape[0] * shape[1], n * block.columns.start + first * shape[1]
            kept = len(self.kept) > 0
            tile = (self.kept[start:] if kept else self.memory)[:size].view(shape)
            if self.fresh or not kept:
                torch.mm(self.left[rows], block.unit.T, out=tile)
                self._leave_out_own(block, rows, tile.exp2_())  # quicker than exp_
            yield rows, tile

    def _leave_out_own(self, block: _Block, rows: slice, tile: Tensor) -> None:
        # By gather and scatter, since which samples are of these classes would have to be read.
        column = (self.labels[rows] - block.columns.start)[:, None]
        inside = (column >= 0) & (column < tile.shape[1])
        column = column.clamp(0, tile.shape[1] - 1)
        tile.scatter_(1, column, tile.gather(1, column).masked_fill_(inside, 0))


def _forward(
    x: Tensor, labels: Tensor, weight: Tensor, scale: float, by_class: bool, keep: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _summed(_sides(x, labels, weight), labels, weight, scale, by_class, keep)


def _summed(
    sides: _Sides, labels: Tensor, weight: Tensor, scale: float, by_class: bool, keep: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x = sides.x
    with torch.autocast(x.device.type, enabled=False):
        total = x.new_zeros(len(weight) if by_class else len(x))
        weight_sum = x.new_zeros(x.shape[1])
        kept = x.new_empty(len(x) * len(weight) if keep else 0)
        tiles = _Tiles(x, labels, weight, scale, kept, fresh=True)
        for block in tiles.blocks():
            weight_sum += block.unit.sum(0)
            for rows, tile in tiles.of(block):
                if by_class:
                    total[block.columns] += tile.sum(0)
                else:
                    total[rows] += tile.sum(1)
        return total.log(), _distance(sides), _cosine_sum(x, weight_sum), kept


def _backward(
    gradient: Tensor,
    distance_gradient: Tensor,
    x: Tensor,
    labels: Tensor,
    weight: Tensor,
    result: Tensor,
    kept: Tensor,
    scale: float,
    by_class: bool,
    weight_too: bool,
) -> tuple[Tensor, Tensor]:
    saved = labels, weight, result, kept, scale, by_class, weight_too
    return _pulled(gradient, distance_gradient, _sides(x, labels, weight), *saved)


def _pulled(
    gradient: Tensor,
    distance_gradient: Tensor,
    sides: _Sides,
    labels: Tensor,
    weight: Tensor,
    result: Tensor,
    kept: Tensor,
    scale: float,
    by_class: bool,
    weight_too: bool,
) -> tuple[Tensor, Tensor]:
    x, x_factor, own, factor = sides
    with torch.autocast(x.device.type, enabled=False):
        slope = scale * gradient * torch.where(result > -torch.inf, (-result).exp(), 0)
        dx = torch.zeros_like(x)
        dw = torch.zeros_like(weight if weight_too else weight[:0])
        # A slope of the whole row or column of a tile goes with what the tile is multiplied by.
        pull = x if by_class else slope[:, None] * x
        tiles = _Tiles(x, labels, weight, scale, kept, fresh=False)
        for block in tiles.blocks():
            push = slope[block.columns, None] * block.unit if by_class else block.unit
            dunit = dw[block.columns].to(x.dtype)  # the memory itself where it has the dtype
            for rows, tile in tiles.of(block):
                dx[rows].addmm_(tile, push)
                if weight_too:
                    dunit.addmm_(tile.T, pull[rows])
            if weight_too:
                if by_class:
                    dunit.mul_(slope[block.columns, None])
                _through_unit(dunit, block.unit, block.factor)
                if dw.dtype != dunit.dtype:
                    dw[block.columns] = dunit
        if not by_class:
            dx.mul_(slope[:, None])
        apart = distance_gradient[:, None] * (x - own)
        if weight_too:
            dw.index_add_(0, labels, _through_unit(-apart, own, factor).to(dw.dtype))
        return _through_unit(dx.add_(apart), x, x_factor), dw


def _through_unit(gradient: Tensor, rows: Tensor, factor: Tensor) -> Tensor:
    # From the gradient of rows of length 1 to that of what they were before; used up.
    along = torch.linalg.vecdot(rows, gradient).unsqueeze(1)
    return gradient.addcmul_(rows, along, value=-1).mul_(factor)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, labels, weight, ctx.scale, ctx.by_class, _ = inputs
    ctx.save_for_backward(x, labels, weight, output[0], output[3])
    ctx.mark_non_differentiable(output[2], output[3])


def _differentiate(backward: Any, ctx: Any, gradients: tuple[Tensor, ...]) -> tuple[Any, ...]:
    weight_too = ctx.needs_input_grad[2]
    dx, dw = backward(*gradients[:2], *ctx.saved_tensors, ctx.scale, ctx.by_class, weight_too)
    return dx, None, dw if weight_too else None, None, None, None


class _ClassLogSumExp(torch.autograd.Function):
    # The same, which makes the sides once.
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        x, labels, weight, *rest = inputs
        ctx.sides = _sides(x, labels, weight)
        found = _summed(ctx.sides, labels, weight, *rest)
        _save(ctx, inputs, found)
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        first_only()

        def backward(there: Tensor, apart: Tensor, x: Tensor, *saved: Any) -> tuple[Tensor, Tensor]:
            return _pulled(there, apart, ctx.sides, *saved)

        return _differentiate(backward, ctx, gradients)


_op = torch.library.custom_op("siameselib::class_logsumexp", _forward, mutates_args=())
_backward_op = torch.library.custom_op(
    "siameselib::class_logsumexp_backward", _backward, mutates_args=()
)


@_op.register_fake
def _(
    x: Tensor, labels: Tensor, weight: Tensor, scale: float, by_class: bool, keep: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    result = x.new_empty(len(weight) if by_class else len(x))
    kept = x.new_empty(len(x) * len(weight) if keep else 0)
    return result, x.new_empty(len(x)), x.new_empty(()), kept


@_backward_op.register_fake
def _(
    gradient: Tensor,
    distance_gradient: Tensor,
    x: Tensor,
    labels: Tensor,
    weight: Tensor,
    result: Tensor,
    kept: Tensor,
    scale: float,
    by_class: bool,
    weight_too: bool,
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(weight if weight_too else weight[:0])


_op.register_autograd(
    lambda ctx, *gradients: _differentiate(_backward_op, ctx, gradients), setup_context=_save
)
