r"""What a pair loss adds up: elementwise functions of the distance, with their slopes.

A :class:`Term` has two forms. ``value`` is the formula, for the dense reference and its autograd.
``sweep`` takes one tile and gives the values together with all that the gradient needs, in few
passes over the memory; :func:`differentiated` makes it of any formula, in a few more.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

Formula = Callable[..., Tensor]
Role = Tensor | float  # of the shape of the distances, or of one row for all
Swept = tuple[Tensor, Tensor, Tensor | None]


class Term(NamedTuple):
    """An elementwise function of distances and numbers."""

    value: Formula
    """(distance, *numbers) to the values."""
    sweep: Callable[..., Swept]
    """(distance, role, numbers) to the values, their slopes times the role, and the derivatives
    in the numbers of the sum of the values times the role: None where ``learnt=False`` says that
    nobody wants them. The role says how often pairs count."""


def differentiated(formula: Formula, numbers_too: bool) -> Term:
    """Make a term of a formula, with slopes by autograd; in the numbers only if asked for."""
    return Term(formula, partial(_by_autograd, formula, numbers_too))


def _by_autograd(
    formula: Formula, numbers_too: bool, distance: Tensor, role: Role, numbers: Tensor
) -> Swept:
    with torch.enable_grad():
        inputs = [distance.detach().requires_grad_()]
        wrt = numbers.detach().requires_grad_(numbers_too)
        values = formula(inputs[0], *wrt.unbind())
    if not values.requires_grad:
        return values, torch.zeros_like(distance), torch.zeros_like(numbers)
    if numbers_too:
        inputs.append(wrt)
    if not isinstance(role, Tensor):
        role = values.new_full((), role)
    slopes, *derivatives = torch.autograd.grad(
        values, inputs, role.to(values.dtype).expand_as(values), materialize_grads=True
    )
    return values.detach(), slopes, derivatives[0] if numbers_too else torch.zeros_like(numbers)


def _hinge(sign: int, number: int, power: int) -> Term:
    """Return max(0, ±(distance - edge))^power with the edge one of the numbers."""

    def value(distance: Tensor, *numbers: Tensor) -> Tensor:
        beyond = F.relu(sign * (distance - numbers[number]))
        return beyond.square() if power == 2 else beyond

    def sweep(distance: Tensor, role: Role, numbers: Tensor, learnt: bool = True) -> Swept:
        edge = numbers[number]
        beyond = (distance - edge if sign > 0 else edge - distance).clamp_(min=0)
        if power == 2:
            values, slopes = beyond.square(), beyond.mul_(2 * sign)
        else:
            values, slopes = beyond, torch.gt(beyond, 0, out=torch.empty_like(beyond)).mul_(sign)
        slopes.mul_(role)
        if not learnt:
            return values, slopes, None
        derivatives = torch.zeros_like(numbers)
        derivatives[number] = -slopes.sum(-1).double().sum()
        return values, slopes, derivatives

    return Term(value, sweep)


def _logistic(sign: int) -> Term:
    """Return log(1 + e^±z) with the logit z = a (1 - distance) + b and the numbers (a, b)."""

    def value(distance: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        return F.softplus(sign * (scale * (1 - distance) + bias), threshold=40)

    def sweep(distance: Tensor, role: Role, numbers: Tensor, learnt: bool = True) -> Swept:
        scale, bias = numbers.unbind()
        z = (1 - distance).mul_(sign * scale).add_(sign * bias)
        values = F.softplus(z, threshold=40)
        slopes = z.sigmoid_().mul_(role)  # in the logit times the sign
        derivatives = None
        if learnt:
            parts = (1 - distance).mul_(slopes).sum(-1), slopes.sum(-1)
            sums = [part.sum(dtype=torch.float64) for part in parts]
            derivatives = sign * torch.stack(sums)
        return values, slopes.mul_(-sign * scale), derivatives

    return Term(value, sweep)


TERMS = {
    "above": _hinge(1, 0, 1),
    "above squared": _hinge(1, 0, 2),
    "below": _hinge(-1, 1, 1),
    "below squared": _hinge(-1, 1, 2),
    "same": _logistic(-1),
    "different": _logistic(1),
}
