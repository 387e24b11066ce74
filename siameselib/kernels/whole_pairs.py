"""What :mod:`siameselib.kernels.pair_sum` computes, of a small matrix held whole."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from siameselib.kernels.given import first_only
from siameselib.kernels.pair_terms import TERMS
from siameselib.kernels.whole_distances import Distances

_LOGISTIC = ("same", "different")  # one function of the logit, once with the sign turned


class WholePairs(torch.autograd.Function):
    """The sums over all rows: of losses, of losses above zero, of distances, and of pairs."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor | None,
        numbers: Tensor,
        labels: Tensor,
        y_labels: Tensor,
        offset: int | None,
        metric: str,
        *terms: str,
    ) -> tuple[Tensor, ...]:
        """Compute them."""
        with torch.autocast("cpu", enabled=False):
            exact = terms != _LOGISTIC  # whose slopes are about the same for all distances near 0
            ctx.matrix = matrix = Distances(x, labels, y, y_labels, offset, metric, exact=exact)
            learnt = ctx.needs_input_grad[2]
            if exact:
                values, ctx.pull = _each_term(matrix, terms, numbers, learnt)
            else:
                values, ctx.pull = _logistic(matrix, numbers, learnt)
            found = []
            memory = [torch.empty_like(matrix.distance) for _ in range(2)]
            for value, role in zip(values, (matrix.positive, matrix.negative), strict=True):
                counted = torch.mul(value, role, out=memory[0])
                found.append(counted.sum(1))
                found.append(torch.gt(counted, 0, out=memory[1]).sum(1))
                found.append(torch.mul(matrix.distance, role, out=memory[1]).sum(1))
                found.append(role.sum(1))
            sums = torch.stack(found).sum(1, dtype=torch.float64).view(2, 4)
            loss, active, seen, pairs = sums.unbind(1)
            loss, seen = loss.to(x.dtype), seen.to(x.dtype)
            active, pairs = active.long(), pairs.long()
        ctx.mark_non_differentiable(active, seen, pairs)
        ctx.set_materialize_grads(False)
        return loss, active, seen, pairs

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """Return the gradients in rows, columns and numbers."""
        first_only()
        if gradients[0] is None:
            return (None,) * 9
        with torch.autocast("cpu", enabled=False):
            weight, dnumbers = ctx.pull(*gradients[0].tolist())
            dx, dy = ctx.matrix.pull(weight, alike=True)
        return dx, dy, dnumbers, *[None] * 6


def _each_term(matrix: Distances, terms: tuple[str, ...], numbers: Tensor, learnt: bool) -> Any:
    # The values of both terms, and what takes the derivatives by their sums to those by the
    # distances, each of which pulls at both of its ends, and by the numbers.
    roles = matrix.positive, matrix.negative
    values, slopes, changes = zip(
        *(
            TERMS[term].sweep(matrix.distance, role, numbers, learnt)
            for term, role in zip(terms, roles, strict=True)
        ),
        strict=True,
    )

    def pull(positive: float, negative: float) -> tuple[Tensor, Tensor | None]:
        weight = (slopes[0] * positive).add_(slopes[1], alpha=negative)
        return weight, positive * changes[0] + negative * changes[1] if learnt else None

    return values, pull


def _logistic(matrix: Distances, numbers: Tensor, learnt: bool) -> Any:
    # The same in fewer steps: a pair is of one kind, so that one logarithm serves for both.
    scale, bias = numbers.tolist()
    sign = matrix.negative - matrix.positive
    closeness = 1 - matrix.distance
    logit = (closeness * scale).add_(bias).mul_(sign)
    values = F.softplus(logit, threshold=40)
    slopes = logit.sigmoid_().mul_(sign)

    def pull(positive: float, negative: float) -> tuple[Tensor, Tensor | None]:
        if positive == negative:
            weight = slopes * positive
        else:
            weight = (matrix.positive * positive).add_(matrix.negative, alpha=negative)
            weight.mul_(slopes)
        change = None
        if learnt:
            parts = (closeness * weight).sum(1), weight.sum(1)
            change = torch.stack([part.sum(dtype=torch.float64) for part in parts])
        return weight.mul_(-scale), change

    return (values, values), pull
