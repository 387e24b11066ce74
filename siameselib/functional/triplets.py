"""Losses on explicit triplets: anchor, positive (same identity), negative (another one)."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from siameselib import _check
from siameselib.functional.distances import Metric, paired_distance
from siameselib.functional.reduction import reduce, softplus
from siameselib.functional.stats import Stats


def triplet_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    margin: float = 0.2,
    metric: Metric = "euclidean",
    swap: bool = False,
    soft: bool = False,
    valid: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Triplet loss: the positive nearer to the anchor than the negative, by a margin.

    .. math:: L = \max(0,\; d_{ap} - d_{an} + m) \qquad\text{or, soft,}\qquad
              L = \log(1 + e^{d_{ap} - d_{an}})

    A collapsed model, every distance the same, has the loss m (soft: ln 2): ``stats.trivial``.
    With ``metric=mean_square_distance`` the distance is the mean over the dimensions of the
    squared differences, as in the well-known Keras example on MNIST; margin 0.2 there is a
    squared Euclidean margin of 0.2·d.

    Args:
        anchor: one embedding a row.
        positive: a sample of the anchor's identity for each anchor.
        negative: a sample of another identity for each anchor.
        margin: m; not used when soft.
        metric: see :func:`siameselib.functional.paired_distance`.
        swap: take the nearer of anchor and positive to the negative: min(d_an, d_pn) for d_an.
        soft: the soft margin, log(1 + e^x), in place of the hinge.
        valid: True for the triplets that count; None for all of them.
        reduction: "mean" over the valid triplets, "mean_active" over those of them with a loss
            above zero, "sum", or "none" (0 where not valid).

    Shape:
        anchor, positive, negative: (n, d). valid: (n,). Result: 0-d, or (n,) for "none".

    Returns:
        The loss; a differentiable 0 when no triplet is valid.

    Raises:
        ValueError: for shapes that differ, an unknown metric or reduction, or a margin that is
            not positive.
        TypeError: for embeddings that are not floating point, a mask that is not boolean, or
            options that are no numbers.

    Example:
        >>> a, p, n = torch.tensor([[0.0]]), torch.tensor([[0.3]]), torch.tensor([[0.4]])
        >>> triplet_loss(a, p, n, margin=0.2)
        tensor(0.1000)

    Source:
        Schroff, Kalenichenko and Philbin, "FaceNet", CVPR 2015, equation 3 (with
        ``metric="sqeuclidean"``, summed). Soft margin: Hermans, Beyer and Leibe, "In defense of
        the triplet loss for person re-identification", 2017, section 2. Swap: Balntas et al.,
        "Learning local feature descriptors with triplets and shallow convolutional neural
        networks", BMVC 2016, section 3.3.
    """
    return triplet_with_stats(
        anchor,
        positive,
        negative,
        margin=margin,
        metric=metric,
        swap=swap,
        soft=soft,
        valid=valid,
        reduction=reduction,
    )[0]


def triplet_with_stats(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    margin: float,
    metric: Metric,
    swap: bool,
    soft: bool,
    valid: Tensor | None,
    reduction: str,
) -> tuple[Tensor, Stats]:
    """Return :func:`triplet_loss` and what it saw."""
    where = "triplet_loss"
    for name, value in (("anchor", anchor), ("positive", positive), ("negative", negative)):
        _check.matrix(where, name, value)
    _check.same_shape(where, anchor=anchor, positive=positive, negative=negative)
    _check.positive(where, "margin", margin)
    if valid is not None:
        _check.vector(where, "valid", valid, len(anchor))
        if valid.dtype != torch.bool:
            raise _check.refuse(where, "valid", "be boolean", valid.dtype, TypeError)
    d_ap = paired_distance(anchor, positive, metric)
    d_an = paired_distance(anchor, negative, metric)
    if swap:
        d_an = torch.minimum(d_an, paired_distance(positive, negative, metric))
    counted = torch.ones_like(d_ap, dtype=torch.bool) if valid is None else valid
    return triplets_of_distances(d_ap, d_an, margin, soft, counted, reduction)


def triplets_of_distances(
    d_ap: Tensor, d_an: Tensor, margin: float, soft: bool, valid: Tensor, reduction: str
) -> tuple[Tensor, Stats]:
    """Return the loss of triplets whose distances are known, and what it saw."""
    losses = softplus(d_ap - d_an) if soft else F.relu(d_ap - d_an + margin)
    with torch.no_grad():
        seen = torch.stack([(losses > 0).to(losses.dtype), d_ap, d_an])
        count = valid.sum()
        active, positive, negative = (torch.where(valid, seen, 0).sum(1) / count).unbind()
    stats = Stats(
        valid=count,
        active=active,
        positive_distance=positive,
        negative_distance=negative,
        trivial=losses.new_full((), math.log(2) if soft else margin),
    )
    return reduce("triplet_loss", losses, valid, reduction), stats
