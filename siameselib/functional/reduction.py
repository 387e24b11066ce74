"""From one value per term to the loss: what "mean" is over, and log(1 + e^z), for every loss."""

import torch
from torch import Tensor
from torch.nn import functional as F

from siameselib import _check

REDUCTIONS = ("mean", "sum", "none", "mean_active")


def reduce(where: str, values: Tensor, valid: Tensor | None, reduction: str) -> Tensor:
    """Reduce one value per term over the valid terms; a mean over none of them is 0.

    Args:
        where: the loss that asks, for its error message.
        values: one value per term.
        valid: which terms count, or how many terms each value is the sum of; None for all.
        reduction: "mean" over the valid terms, "mean_active" over those of them above zero,
            "sum", or "none" (every term, 0 where not valid).

    Returns:
        A 0-d tensor, or the values themselves for "none"; always differentiable.
    """
    _check.choice(where, "reduction", reduction, REDUCTIONS)
    if valid is not None:
        values = torch.where(valid > 0, values, 0)
    if reduction == "none":
        return values
    if reduction == "sum":
        return values.sum()
    if reduction == "mean_active":
        return values.sum() / (values > 0).sum().clamp(min=1)
    if valid is None:
        return values.mean() if len(values) else values.sum()
    return values.sum() / valid.sum().clamp(min=1)


def softplus(z: Tensor) -> Tensor:
    """Return log(1 + e^z) to the last digit of float64, which torch's own threshold 20 is not."""
    return F.softplus(z, threshold=40)
