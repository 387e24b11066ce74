"""Values whose gradient was computed along with them.

Losses of pairs and hinge losses of triplets know the derivative of each term as soon as they see
it: their sweep yields sums and their gradients at once. :func:`given` ties the two together.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def given(values: Tensor, inputs: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """Return the values, with these gradients in what they were computed from.

    Args:
        values: of any shape.
        inputs: what they were computed from,
        gradients: and for each of these the derivatives, of the shape of the values followed by
            that of the input.
    """
    # In eager mode no operator: the first call of one imports all of torch._dynamo.
    if torch.compiler.is_compiling():
        result: Tensor = _given_op(values, inputs, gradients)
    else:
        result = _Given.apply(values, len(inputs), *inputs, *gradients)  # type: ignore[no-untyped-call]
    return result


def first_only() -> None:
    """Refuse to be differentiated again: a gradient that was computed is a constant to autograd.

    Raises:
        RuntimeError: where the gradient is to be recorded, as under ``create_graph=True``.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(
            "siameselib: this backend has no second derivatives: take backend='reference' "
            "for create_graph=True"
        )


def _pull(gradient: Tensor, gradients: Sequence[Tensor]) -> list[Tensor]:
    return [torch.tensordot(gradient.to(each.dtype), each, gradient.ndim) for each in gradients]


class _Given(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, count: int, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors[count:])
        return values.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        first_only()
        return None, None, *_pull(gradient, ctx.saved_tensors), *(None for _ in ctx.saved_tensors)


def _given(values: Tensor, inputs: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    return values.clone()


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[2])


def _backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    saved = ctx.saved_tensors
    return None, _pull(gradient, saved), [None] * len(saved)


_given_op = torch.library.custom_op("siameselib::given", _given, mutates_args=())
_given_op.register_fake(lambda values, inputs, gradients: torch.empty_like(values))
_given_op.register_autograd(_backward, setup_context=_keep)
