"""Losses on explicit pairs: (x1, x2, same) or (logits, same), with same = 1 for one identity."""

import torch
from torch import Tensor
from torch.nn import functional as F

from siameselib import _check
from siameselib.functional.distances import Metric, at_least_float32, paired_distance
from siameselib.functional.reduction import reduce, softplus
from siameselib.functional.stats import Stats, masked_mean


def contrastive_loss(
    x1: Tensor,
    x2: Tensor,
    same: Tensor,
    *,
    margin: float = 1.0,
    metric: Metric = "euclidean",
    reduction: str = "mean",
) -> Tensor:
    r"""Contrastive loss: pull the pairs of one identity together, push the others beyond a margin.

    .. math:: L = y\,D^2 + (1 - y)\,\max(0,\; m - D)^2, \qquad D = D(x_1, x_2)

    with y = 1 for the same identity. Where all pairs get one distance, the best of them is
    (1 - p)·m, and the loss p·(1 - p)·m² (m²/4 for as many positives as negatives): a training
    that stays there (``stats.trivial``) has learnt nothing.

    Args:
        x1: the first embedding of each pair.
        x2: the second embedding of each pair.
        same: 1 (or True) where the pair is of one identity, 0 where it is not.
        margin: m, the distance beyond which a negative pair costs nothing.
        metric: see :func:`siameselib.functional.paired_distance`.
        reduction: "mean" over the pairs, "mean_active" over those with a loss above zero, "sum",
            or "none".

    Shape:
        x1, x2: (n, d). same: (n,). Result: 0-d, or (n,) for "none".

    Returns:
        The loss; 0 for no pairs at all.

    Raises:
        ValueError: for shapes that differ ((n, 1) is never broadcast), for values of ``same``
            other than 0 and 1 (looked for on CPU tensors only, outside ``torch.compile``), for an
            unknown metric or reduction, or for a margin that is not positive.
        TypeError: for embeddings that are not floating point, or options that are no numbers.

    Example:
        >>> x1, x2 = torch.zeros(2, 2), torch.tensor([[0.3, 0.4], [0.3, 0.4]])
        >>> contrastive_loss(x1, x2, torch.tensor([1, 0]), reduction="none")
        tensor([0.2500, 0.2500])

    Source:
        Hadsell, Chopra and LeCun, "Dimensionality reduction by learning an invariant mapping",
        CVPR 2006, equation 4, where Y = 1 means *different* and both terms carry a factor 1/2.
    """
    return contrastive_with_stats(x1, x2, same, margin=margin, metric=metric, reduction=reduction)[
        0
    ]


def bce_pair_loss(
    logits: Tensor, same: Tensor, *, pos_weight: float | None = None, reduction: str = "mean"
) -> Tensor:
    r"""Binary cross-entropy on the logit that a pair is of one identity.

    .. math:: L = w\,y\,\log(1 + e^{-z}) + (1 - y)\,\log(1 + e^{z})

    A constant logit reaches ln 2 at best on as many positives as negatives (w = 1): that is
    ``stats.trivial``.

    Args:
        logits: z, one number a pair, before any sigmoid.
        same: 1 (or True) where the pair is of one identity, 0 where it is not.
        pos_weight: w, the weight of the positive pairs; None for 1. Negatives over positives
            balances the two.
        reduction: "mean" over the pairs (their number, not their weight), "mean_active", "sum", or
            "none".

    Shape:
        logits, same: (n,). Result: 0-d, or (n,) for "none".

    Returns:
        The loss; 0 for no pairs at all.

    Raises:
        ValueError: for shapes that differ ((n, 1) is never broadcast), for values of ``same``
            other than 0 and 1 (looked for on CPU tensors only, outside ``torch.compile``), for an
            unknown reduction, or for a weight that is not positive.
        TypeError: for logits that are not floating point, or options that are no numbers.

    Example:
        >>> bce_pair_loss(torch.tensor([0.0, 0.0]), torch.tensor([True, False]))
        tensor(0.6931)
    """
    return bce_pair_with_stats(logits, same, pos_weight=pos_weight, reduction=reduction)[0]


def contrastive_with_stats(
    x1: Tensor, x2: Tensor, same: Tensor, *, margin: float, metric: Metric, reduction: str
) -> tuple[Tensor, Stats]:
    """Return :func:`contrastive_loss` and what it saw."""
    where = "contrastive_loss"
    _check.positive(where, "margin", margin)
    distance = paired_distance(x1, x2, metric)
    positive = _is_positive(where, same, len(distance))
    losses = torch.where(positive, distance.square(), F.relu(margin - distance).square())
    share = positive.to(distance.dtype).mean()
    stats = _pair_stats(losses, distance, positive, share * (1 - share) * margin**2)
    return reduce(where, losses, None, reduction), stats


def bce_pair_with_stats(
    logits: Tensor, same: Tensor, *, pos_weight: float | None, reduction: str
) -> tuple[Tensor, Stats]:
    """Return :func:`bce_pair_loss` and what it saw."""
    where = "bce_pair_loss"
    _check.tensor(where, "logits", logits)
    if logits.ndim != 1:
        raise _check.refuse(where, "logits", "have shape (n,)", tuple(logits.shape))
    if not logits.is_floating_point():
        raise _check.refuse(where, "logits", "be floating point", logits.dtype, TypeError)
    check_weight(where, pos_weight)
    weight = 1.0 if pos_weight is None else pos_weight
    positive = _is_positive(where, same, len(logits))
    with torch.autocast(logits.device.type, enabled=False):
        z = at_least_float32(logits)
        losses = torch.where(positive, weight * softplus(-z), softplus(z))
        share = positive.to(z.dtype).mean()
        answer = weight * share / (weight * share + 1 - share)
        trivial = -torch.xlogy(weight * share, answer) - torch.xlogy(1 - share, 1 - answer)
        stats = _pair_stats(losses, -z, positive, trivial)
        return reduce(where, losses, None, reduction), stats


def check_weight(where: str, pos_weight: float | None) -> None:
    """Refuse a weight that :func:`bce_pair_loss` does not take."""
    if pos_weight is not None:
        _check.positive(where, "pos_weight", pos_weight)


def _is_positive(where: str, same: Tensor, n: int) -> Tensor:
    _check.vector(where, "same", same, n)
    if same.dtype == torch.bool:
        return same
    if same.device.type == "cpu" and not torch.compiler.is_compiling():
        stray = same[(same != 0) & (same != 1)]
        if len(stray):
            expected = "hold only 1 (same identity) and 0 (different)"
            raise _check.refuse(where, "same", expected, stray[0].item())
    return same > 0


def _pair_stats(losses: Tensor, distance: Tensor, positive: Tensor, trivial: Tensor) -> Stats:
    everywhere = torch.ones_like(positive)
    return Stats(
        valid=everywhere.sum(),
        active=masked_mean((losses > 0).to(distance.dtype), everywhere),
        positive_distance=masked_mean(distance, positive),
        negative_distance=masked_mean(distance, ~positive),
        trivial=trivial.detach(),
    )
