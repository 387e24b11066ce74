r"""Cross-entropy over classes whose gradient is made along with it, some samples at a time.

.. math:: \sum_i \log(1 + e^{N_i - t(d_i)})

with N of :mod:`siameselib.kernels.class_logsumexp`, d_i the distance of a sample to its own class
and t any function of it. Once all cosines of a sample are there, so are its loss and its slopes: in
a block of samples the cosines are made once, used for the gradient, and forgotten.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from siameselib.kernels import choose
from siameselib.kernels.class_logsumexp import cosine_sum, wide_enough
from siameselib.kernels.class_tiles import Tiles, keeps, pull_own, sides_of, through_unit
from siameselib.kernels.forms import softplus
from siameselib.kernels.given import first_only

_LEAST = 256  # samples of a block that make it worthwhile to scale the classes for them


def fits(x: Tensor, weight: Tensor, backend: str) -> bool:
    """Say whether there is a gradient to be made, and memory for the cosines of enough samples."""
    if torch.compiler.is_compiling() or not torch.is_grad_enabled() or not x.numel():
        return False
    if choose("class_logsumexp", len(x), len(weight), 1, backend) != "streaming":
        return False
    wanted = x.requires_grad or weight.requires_grad
    return wanted and keeps(x, weight) >= min(_LEAST, len(x))


def class_softmax(
    x: Tensor, labels: Tensor, weight: Tensor, scale: float, target: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute the cross-entropy.

    Args:
        x: (n, d) samples, of any length, in the dtype of the result.
        labels: (n,) the class of each, int64.
        weight: (c, d) the classes, of any length and floating dtype.
        scale: what the cosines are multiplied by.
        target: t, of each entry by itself.

    Returns:
        The sum, and without gradient its (n,) terms, the (n,) distances and the sum of all cosines.
    """
    wide = wide_enough(x, scale)
    found = _ClassSoftmax.apply(wide, labels, weight, scale, target)  # type: ignore[no-untyped-call]
    total, losses, distance, cosines = (each.to(x.dtype) for each in found)
    return total, losses, distance, cosines


class _ClassSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        labels: Tensor,
        weight: Tensor,
        scale: float,
        target: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, ...]:
        n, c = len(x), len(weight)
        with torch.autocast(x.device.type, enabled=False):
            sides = sides_of(x, labels, weight)
            distance = sides.distance()
            own, falls = _differentiated(target, distance)
            losses, dx = torch.empty_like(distance), torch.empty_like(x)
            dw = torch.zeros_like(weight, dtype=x.dtype) if ctx.needs_input_grad[2] else None
            step = min(n, keeps(x, weight))
            memory = x.new_empty(step * c)
            for first in range(0, n, step):
                rows = slice(first, min(first + step, n))
                some, ids = sides.part(rows), labels[rows]
                tiles = Tiles(some.x, ids, weight, scale, memory[: len(ids) * c])
                total, weight_sum = tiles.add_up()
                logsumexp = total.log()
                losses[rows], slope = softplus(logsumexp - own[rows])
                each = torch.where(total > 0, slope / total, 0)
                pulled = tiles.pull(scale * each, dw)
                pulled += pull_own(some, ids, -slope * falls[rows], dw)
                dx[rows] = through_unit(pulled, some.x, some.x_factor)
        ctx.save_for_backward(dx, dw)
        ctx.dtype = weight.dtype  # to which the gradient of a mean goes, not that of the sum
        ctx.mark_non_differentiable(*(seen := (losses, distance, cosine_sum(sides.x, weight_sum))))
        ctx.set_materialize_grads(False)
        return losses.sum(), *seen

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        first_only()
        gradient = gradients[0]
        if gradient is None:
            return (None,) * 5
        dx, dw = ctx.saved_tensors
        dw = None if dw is None else (gradient * dw).to(ctx.dtype)
        return gradient * dx, None, dw, None, None


def _differentiated(target: Callable[[Tensor], Tensor], distance: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        distance = distance.detach().requires_grad_()
        own = target(distance)
        (slope,) = torch.autograd.grad(own.sum(), distance)
    return own.detach(), slope
