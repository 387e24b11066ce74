r"""Matching rows of two small sets against each other's negatives, in both directions.

.. math:: L_i = \tfrac12 \log(1 + e^{r_i - k s_{ii}}) + \tfrac12 \log(1 + e^{c_i - k s_{ii}})

with r_i and c_i the log-sum-exp of k s over the negatives of row and of column i. Dot products of
unit vectors lie in [-1, 1], so one exponential of k s serves rows and columns alike, and no maximum
is taken off: in float32 as long as e^k and e^-k are far from its limits, in float64 beyond.
"""

from typing import Any

import torch
from torch import Tensor

from siameselib.kernels import whole
from siameselib.kernels.forms import softplus
from siameselib.kernels.given import first_only
from siameselib.kernels.unit import unit

_STEEPEST = {torch.float32: 40.0, torch.float64: 340.0}  # k


def fits(x: Tensor, y: Tensor, scale: float) -> bool:
    """Say whether the matrix is small enough, and the scale not too large."""
    return scale <= _STEEPEST[torch.float64] and whole.fits("logsumexp", x, y, 1, "auto")


def matching_losses(x: Tensor, y: Tensor, labels: Tensor | None, scale: float) -> Tensor:
    """Compute the loss of each row.

    Args:
        x: (n, d) rows,
        y: (n, d) and their matches, of any length: s is their cosine.
        labels: (n,) identities, which are no negatives of each other; None for n of them.
        scale: k.

    Returns:
        The (n,) losses, arbitrary where there is no negative.
    """
    losses: Tensor = _Matching.apply(x, y, labels, scale)  # type: ignore[no-untyped-call]
    return losses


class _Matching(torch.autograd.Function):
    # The scaling to length 1 is in here, for a node of autograd costs more than it.
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, labels: Tensor | None, scale: float) -> Tensor:
        rows, factor = unit(torch.cat([x, y]))
        x, y = rows[: len(x)], rows[len(x) :]
        wide = torch.float64 if scale > _STEEPEST[torch.float32] else x.dtype
        terms = (x @ y.T).to(wide).mul_(scale)
        own = terms.diagonal().clone()
        terms.exp_()
        if labels is None:
            terms.diagonal().zero_()
        else:
            terms.masked_fill_(labels[:, None] == labels, 0)
        sums = torch.stack([terms.sum(1), terms.sum(0)])
        if labels is not None or len(x) == 1:  # a sum may be one of nothing
            sums.clamp_(min=torch.finfo(wide).tiny)
        exponents = sums.log().sub_(own)
        losses, slopes = softplus(exponents)
        slopes.mul_(scale / 2)
        ctx.save_for_backward(rows, factor, terms, slopes / sums, slopes.sum(0))
        return losses.mean(0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        first_only()
        rows, factor, terms, shares, pull = ctx.saved_tensors
        with torch.autocast(rows.device.type, enabled=False):
            n = len(terms)
            x, y = rows[:n], rows[n:]
            there, back = shares * gradients[0]
            weight = torch.add(there[:, None], back).mul_(terms)
            weight.diagonal().sub_(pull * gradients[0])
            weight, change = weight.to(x.dtype), torch.empty_like(rows)
            torch.mm(weight, y, out=change[:n])
            torch.mm(weight.T, x, out=change[n:])
            along = (change * rows).sum(1, keepdim=True)
            change.addcmul_(rows, along, value=-1).mul_(factor)
            return change[:n], change[n:], None, None
