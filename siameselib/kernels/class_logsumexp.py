r"""Log-sum-exp of scaled cosines between samples and classes, each sample's own class left out.

.. math:: N_i = \log \sum_{c \ne y_i} e^{scale\; x_i \cdot w_c} \qquad\text{or, by class,}\qquad
          N_c = \log \sum_{i:\; y_i \ne c} e^{scale\; x_i \cdot w_c}

with x_i and w_c rows of the embeddings and of the weight, scaled to length 1. ``reference`` is that
line. ``streaming`` goes through :mod:`tiles <siameselib.kernels.class_tiles>`; the gradient goes
there once more, but where there are so few of them that it is cheap to keep them. The distance of
each sample to its own class comes along, so that all of the weight's gradient is made here.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from siameselib.kernels import choose
from siameselib.kernels.class_tiles import Sides, Tiles, keeps, pull_own, sides_of, through_unit
from siameselib.kernels.given import first_only
from siameselib.kernels.unit import unit

LARGEST_SCALE = 500  # sums of e^500 are float64 numbers


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
    dtype, x = x.dtype, wide_enough(x, scale)
    # In eager mode no operator: the first call of one imports all of torch._dynamo.
    run: Any = _op if torch.compiler.is_compiling() else _ClassLogSumExp.apply
    keep = torch.is_grad_enabled() and len(x) <= keeps(x, weight)
    *found, _ = run(x, labels, weight, scale, by_class, keep)
    return Classes(*(each.to(dtype) for each in found))


def wide_enough(x: Tensor, scale: float) -> Tensor:
    """Return x in a dtype in which sums of e^(scale·cosine) can be taken as they are."""
    return x.double() if scale > 0.75 * math.log(torch.finfo(x.dtype).max) else x


def reference(x: Tensor, labels: Tensor, weight: Tensor, scale: float, by_class: bool) -> Classes:
    """Compute N by the definition."""
    sides = sides_of(x, labels, weight)
    x, w = sides.x, unit(weight.to(x.dtype))[0]
    own = labels[:, None] == torch.arange(len(w), device=w.device)
    logits = ((scale * x) @ w.T).masked_fill(own, -torch.inf)
    return Classes(
        logits.logsumexp(0 if by_class else 1),
        sides.distance(),
        cosine_sum(x.detach(), w.detach().sum(0)),
    )


def cosine_sum(x: Tensor, weight_sum: Tensor) -> Tensor:
    """Return the sum of all cosines, given rows of length 1 and the sum of the columns."""
    # a sum of dot products is the dot product of the sums
    return torch.dot(x.sum(0), weight_sum)


def _forward(
    x: Tensor, labels: Tensor, weight: Tensor, scale: float, by_class: bool, keep: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _summed(sides_of(x, labels, weight), labels, weight, scale, by_class, keep)


def _summed(
    sides: Sides, labels: Tensor, weight: Tensor, scale: float, by_class: bool, keep: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x = sides.x
    with torch.autocast(x.device.type, enabled=False):
        kept = x.new_empty(len(x) * len(weight) if keep else 0)
        total, weight_sum = Tiles(x, labels, weight, scale, kept).add_up(by_class=by_class)
        return total.log(), sides.distance(), cosine_sum(x, weight_sum), kept


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
    return _pulled(gradient, distance_gradient, sides_of(x, labels, weight), *saved)


def _pulled(
    gradient: Tensor,
    distance_gradient: Tensor,
    sides: Sides,
    labels: Tensor,
    weight: Tensor,
    result: Tensor,
    kept: Tensor,
    scale: float,
    by_class: bool,
    weight_too: bool,
) -> tuple[Tensor, Tensor]:
    x = sides.x
    with torch.autocast(x.device.type, enabled=False):
        slope = scale * gradient * torch.where(result > -torch.inf, (-result).exp(), 0)
        dw = torch.zeros_like(weight) if weight_too else None
        tiles = Tiles(x, labels, weight, scale, kept, made=True)
        dx = tiles.pull(slope, dw, by_class=by_class)
        dx += pull_own(sides, labels, distance_gradient, dw)
        return through_unit(dx, x, sides.x_factor), torch.zeros_like(
            weight[:0]
        ) if dw is None else dw


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
        ctx.sides = sides_of(x, labels, weight)
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
