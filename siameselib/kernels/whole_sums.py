"""What :mod:`siameselib.kernels.distance_logsumexp` computes, of a small matrix held whole."""

from typing import Any

import torch
from torch import Tensor

from siameselib.kernels.given import first_only
from siameselib.kernels.whole_distances import Distances


class WholeSums(torch.autograd.Function):
    """P, N and the sums of the distances, differentiable."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor | None,
        labels: Tensor,
        y_labels: Tensor,
        offset: int | None,
        metric: str,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute them."""
        with torch.autocast(x.device.type, enabled=False):
            ctx.matrix = matrix = Distances(x, labels, y, y_labels, offset, metric)
            ctx.shares, sums, seen = [], [], []
            beyond = 2 * float(matrix.distance.amax()) + 1000  # e^-1000 is 0 even in float64
            for sign, role in ((1, matrix.positive), (-1, matrix.negative)):
                scores = torch.sub(role, 1).mul_(beyond).add_(matrix.distance, alpha=sign)
                shares = scores.softmax(1)
                among = scores.amax(1) - shares.amax(1).log_()
                sums.append(torch.where(role.amax(1) > 0, among, -torch.inf))
                seen.append(torch.mul(matrix.distance, role, out=scores).sum(1))
                ctx.shares.append(shares)
            distances = torch.stack(seen)
        ctx.mark_non_differentiable(distances)
        return sums[0], sums[1], distances

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """Return the gradients in rows and columns."""
        first_only()
        far, near, _ = gradients
        with torch.autocast("cpu", enabled=False):
            weight = ctx.shares[0] * far[:, None]
            weight.addcmul_(ctx.shares[1], near[:, None], value=-1)
            return *ctx.matrix.pull(weight), *[None] * 4
