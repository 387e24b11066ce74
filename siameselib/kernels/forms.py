r"""Losses of the rows of a matrix of similarities, and their derivatives, in closed form.

Each function takes a whole matrix s to the losses L of its rows and to their derivatives by its
entries. The equations are those of :mod:`siameselib.functional.softmax` and of
:mod:`siameselib.functional.pair_weighting`, for embeddings of length 1.

An entry that is left out of a sum becomes so small that its share rounds to 0. So nothing is
infinite, and the logarithm of a sum of nothing is one that no loss can tell from that of 0.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from siameselib.kernels.whole import Similarities, Slopes

_FAR = 1000.0  # e^-1000 is 0 even in float64


def sup_con(given: Similarities, scale: float) -> tuple[Tensor, Slopes]:
    """All positives of a row together against everything else."""
    near, positive, _, seen = given
    inverse = 1 / seen.positives.clamp(min=1)
    scores = _without_own(near.mul_(scale), given, _beyond(scale))
    shares = scores.softmax(1)
    # the logarithm last: the first difference is exact where the loss is small
    losses = scores.amax(1) - scale * seen.positive_sum * inverse - shares.amax(1).log_()
    shares.addcmul_(positive, inverse[:, None], value=-1).mul_(scale)
    return losses, Slopes(shares)


def nt_xent(given: Similarities, scale: float) -> tuple[Tensor, Slopes]:
    """Each positive alone against the negatives of its row."""
    positive, beyond = given.positive, _beyond(scale)
    scores = _without_own(given.near.mul_(scale), given, beyond)
    sums, shares = _softmax(torch.add(scores, positive, alpha=-beyond))
    losses, slopes = softplus(torch.sub(sums[:, None], scores, out=scores))
    slopes.mul_(positive)
    shares.mul_(slopes.sum(1, keepdim=True)).sub_(slopes).mul_(scale)
    return losses.mul_(positive).sum(1), Slopes(shares)


def multi_similarity(
    given: Similarities, alpha: float, beta: float, base: float, epsilon: float | None
) -> tuple[Tensor, Slopes]:
    """Soft maxima of the positives below and of the negatives above the base."""
    near, positive, _, _ = given
    beyond = _beyond(max(alpha, beta))
    pull = torch.sub(positive, 1).mul_(beyond)
    push = _without_own(positive * -beyond, given, beyond)
    if epsilon is not None:
        memory = torch.sub(pull, near)
        least = memory.amax(1, keepdim=True).neg_()
        most = torch.add(push, near, out=memory).amax(1, keepdim=True)
        pull.sub_(torch.ge(near, most + epsilon, out=memory), alpha=beyond)
        push.sub_(torch.le(near, least - epsilon, out=memory), alpha=beyond)
    far, pull = _softmax(pull.sub_(near, alpha=alpha))
    close, push = _softmax(push.add_(near, alpha=beta))
    low, pulled = softplus(far + alpha * base)
    high, pushed = softplus(close - beta * base)
    slopes = push.mul_(pushed[:, None]).addcmul_(pull, pulled[:, None], value=-1)
    return low / alpha + high / beta, Slopes(slopes)


def circle(given: Similarities, margin: float, gamma: float) -> tuple[Tensor, Slopes]:
    """Soft maxima of relaxed scores, of 1 - s for positives; the weights are constants."""
    near, positive, _, _ = given
    lack = near.sub_(positive)
    lack.addcmul_(lack, positive, value=-2)
    slope = (lack + margin).relu_().mul_(gamma)
    scores, beyond = lack.sub_(margin).mul_(slope), _beyond(4 * gamma)
    far, pull = _softmax(torch.sub(positive, 1).mul_(beyond).add_(scores))
    close, push = _softmax(_without_own(scores.add_(positive, alpha=-beyond), given, beyond))
    losses, slopes = softplus(far + close)
    return losses, Slopes(push.sub_(pull).mul_(slope).mul_(slopes[:, None]))


def _beyond(extent: float) -> float:
    """Return by how much to lower scores in [-extent, extent] that are to have no share."""
    return 2 * extent + _FAR


def _without_own(scores: Tensor, given: Similarities, beyond: float) -> Tensor:
    if given.offset is not None:
        scores.diagonal(given.offset).fill_(-beyond)
    return scores


def _softmax(scores: Tensor, axis: int = 1) -> tuple[Tensor, Tensor]:
    """Return the log-sum-exp along an axis, and the share of each entry in it."""
    shares = scores.softmax(axis)
    return scores.amax(axis).sub_(shares.amax(axis).log_()), shares


def softplus(z: Tensor) -> tuple[Tensor, Tensor]:
    """Return log(1 + e^z) and its derivative; uses up z."""
    return F.softplus(z, threshold=40), z.sigmoid_()
