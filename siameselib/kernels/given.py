"""A value whose gradient was computed along with it.

Losses of pairs and hinge losses of triplets know the derivative of each term as soon as they see
it: their sweep yields the sum and its gradient at once. :func:`given` ties the two together.
"""

from typing import Any

import torch
from torch import Tensor


def given(value: Tensor, x: Tensor, dx: Tensor, y: Tensor | None, dy: Tensor) -> Tensor:
    """Return the value, with dx as its gradient in x and dy in y.

    Args:
        value: 0-d.
        x: what the value was computed from,
        dx: and its derivative, of the shape of x.
        y: more of that, None if there is none,
        dy: and its derivative; not used without y.
    """
    # In eager mode no operator: the first call of one imports all of torch._dynamo.
    run: Any = _given_op if torch.compiler.is_compiling() else _Given.apply
    result: Tensor = run(value, x, dx, y, dy)
    return result


def _given(value: Tensor, x: Tensor, dx: Tensor, y: Tensor | None, dy: Tensor) -> Tensor:
    return value.clone()


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[2], inputs[4])
    ctx.two = inputs[3] is not None


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    dx, dy = ctx.saved_tensors
    return None, gradient * dx, None, gradient * dy if ctx.two else None, None


class _Given(torch.autograd.Function):
    forward = staticmethod(_given)
    setup_context = staticmethod(_keep)
    backward = staticmethod(_backward)


_given_op = torch.library.custom_op("siameselib::given", _given, mutates_args=())
_given_op.register_fake(lambda value, x, dx, y, dy: torch.empty_like(value))
_given_op.register_autograd(_backward, setup_context=_keep)
