"""Losses on all pairs of a labelled batch."""

import math
from functools import partial

import torch
from torch import Tensor

from siameselib import _check
from siameselib.functional.own_pairs import as_numbers, pair_stats, summed
from siameselib.functional.stats import Later, Stats

SCALE, BIAS = 10.0, -10.0  # what SigLIP starts from


def batch_contrastive_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    margin: float = 1.0,
    positive_margin: float = 0.0,
    squared: bool = True,
    balanced: bool = True,
    metric: str = "euclidean",
    reduction: str = "mean",
    validate: bool = False,
    backend: str = "auto",
    ref: Tensor | None = None,
    ref_labels: Tensor | None = None,
    ref_offset: int | None = None,
) -> Tensor:
    r"""Contrastive loss of all pairs of the batch: pull one identity together, push others apart.

    .. math:: L_{ap} = \max(0,\; d_{ap} - q)^2 \qquad L_{an} = \max(0,\; m - d_{an})^2

    for every anchor a, its positives p ≠ a and its negatives n; not squared, the same without
    the squares. In a batch nearly all pairs are negative. So that they do not drown the others,
    positives and negatives together weigh one half each:

    .. math:: L = \frac1N \Big(\sum_{ap} w_+ L_{ap} + \sum_{an} w_- L_{an}\Big) \qquad
              w_\pm = \frac{N}{2 N_\pm}

    with N₊ and N₋ the numbers of positive and negative pairs (ordered, each counts from both
    ends) and N = N₊ + N₋; not balanced, w = 1. Memory is linear in the batch. Where all pairs get
    one distance, the best loss is p (1 - p)(m - q)², not squared min(p, 1 - p)(m - q), with p the
    weight of the positives, one half when balanced: ``stats.trivial``.

    Args:
        embeddings: one embedding a row.
        labels: the identity of each row.
        margin: m, the distance beyond which a negative pair costs nothing.
        positive_margin: q, the distance within which a positive pair costs nothing.
        squared: whether the hinges are squared.
        balanced: whether positives and negatives weigh the same.
        metric: "euclidean", "sqeuclidean" or "cosine".
        reduction: "mean" over all pairs as above, "mean_active" over those with a loss above zero
            (N, N₊ and N₋ count these alone), "sum" of w L, or "none" (for each anchor the sum
            over its pairs).
        validate: whether to look for NaN and infinity, which waits for the device.
        backend: see :func:`siameselib.use_backend`.
        ref: a larger set to compare the batch with, such as a memory of past embeddings; None
            for the batch itself.
        ref_labels: the identities of ``ref``.
        ref_offset: where in ``ref`` the batch's own rows begin; None when they are not in it.

    Shape:
        embeddings: (n, d). labels: (n,). ref: (m, d). ref_labels: (m,). Result: 0-d, or (n,) for
        "none".

    Returns:
        The loss; a differentiable 0 when there is no positive or no negative pair, with a warning.

    Raises:
        ValueError: for shapes that do not fit, an unknown metric, reduction or backend, a margin
            that is not positive, a positive margin below 0, or, under ``validate``, embeddings
            that are not finite.
        TypeError: for embeddings that are not floating point, labels that are not integers, or
            options that are no numbers.

    Example:
        >>> x, labels = torch.tensor([[0.0], [1.0], [1.5], [2.0]]), torch.tensor([0, 0, 1, 1])
        >>> batch_contrastive_loss(x, labels)  # (1² + 0.5²)/4 + 0.5²/8
        tensor(0.3438)
        >>> batch_contrastive_loss(x, labels, balanced=False, reduction="none")
        tensor([1.0000, 1.2500, 0.5000, 0.2500])

    Source:
        Hadsell, Chopra and LeCun, "Dimensionality reduction by learning an invariant mapping",
        CVPR 2006, equation 4, without the factor 1/2 and for all pairs of a batch. Not squared,
        on unit vectors and with "mean_active", it is half of the ``ContrastiveLoss`` of PyTorch
        Metric Learning, which adds the two means.
    """
    return batch_contrastive_with_stats(
        embeddings,
        labels,
        margin=margin,
        positive_margin=positive_margin,
        squared=squared,
        balanced=balanced,
        metric=metric,
        reduction=reduction,
        validate=validate,
        backend=backend,
        ref=ref,
        ref_labels=ref_labels,
        ref_offset=ref_offset,
    )[0]


def batch_bce_pair_loss(
    embeddings: Tensor,
    labels: Tensor,
    log_scale: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    balanced: bool = False,
    reduction: str = "mean",
    validate: bool = False,
    backend: str = "auto",
    ref: Tensor | None = None,
    ref_labels: Tensor | None = None,
    ref_offset: int | None = None,
) -> Tensor:
    r"""Binary cross-entropy of all pairs of the batch: is this pair of one identity?

    .. math:: L_{ap} = \log(1 + e^{-z_{ap}}) \qquad L_{an} = \log(1 + e^{z_{an}}) \qquad
              z_{ij} = e^t \cos(x_i, x_j) + b

    with t and b learnt along with the embeddings: the bias takes up that nearly all pairs are
    negative. "mean" is over all N = N₊ + N₋ ordered pairs; balanced, positives weigh N/(2 N₊) and
    negatives N/(2 N₋). Memory is linear in the batch. One answer for all pairs has at best the
    entropy of their kinds: ``stats.trivial``.

    Args:
        embeddings: one embedding a row, of any length: rows are normalised here.
        labels: the identity of each row.
        log_scale: t; None for log 10.
        bias: b; None for -10.
        balanced: whether positives and negatives weigh the same.
        reduction: "mean" over all pairs, "mean_active" over those with a loss above zero (all but
            what rounds to 0), "sum", or "none" (for each anchor the sum over its pairs).
        validate: whether to look for NaN and infinity, which waits for the device.
        backend: see :func:`siameselib.use_backend`.
        ref: a larger set to compare the batch with, such as a memory of past embeddings; None
            for the batch itself.
        ref_labels: the identities of ``ref``.
        ref_offset: where in ``ref`` the batch's own rows begin; None when they are not in it.

    Shape:
        embeddings: (n, d). labels: (n,). log_scale, bias: 0-d. ref: (m, d). ref_labels: (m,).
        Result: 0-d, or (n,) for "none".

    Returns:
        The loss; a differentiable 0 when there is no positive or no negative pair, with a warning.

    Raises:
        ValueError: for shapes that do not fit, an unknown reduction or backend, or, under
            ``validate``, embeddings that are not finite.
        TypeError: for embeddings that are not floating point, labels that are not integers, or
            options that are no numbers.

    Example:
        >>> x, labels = torch.ones(4, 2), torch.tensor([0, 0, 1, 1])
        >>> batch_bce_pair_loss(x, labels)  # collapsed: all cosines 1, all logits 0
        tensor(0.6931)

    Source:
        Zhai et al., "Sigmoid loss for language image pre-training", ICCV 2023, equation in
        section 3.2, with its initial t and b; n images and their texts as ``ref`` (no offset) with
        "sum" give n times its value. Several positives of an anchor and the mean are ours.
    """
    return batch_bce_pair_with_stats(
        embeddings,
        labels,
        log_scale,
        bias,
        balanced=balanced,
        reduction=reduction,
        validate=validate,
        backend=backend,
        ref=ref,
        ref_labels=ref_labels,
        ref_offset=ref_offset,
    )[0]


def batch_contrastive_with_stats(
    embeddings: Tensor,
    labels: Tensor,
    *,
    margin: float,
    positive_margin: float,
    squared: bool,
    balanced: bool,
    metric: str,
    reduction: str,
    validate: bool,
    backend: str,
    ref: Tensor | None,
    ref_labels: Tensor | None,
    ref_offset: int | None,
) -> tuple[Tensor, Stats | Later]:
    """Return :func:`batch_contrastive_loss` and what it saw."""
    where = "batch_contrastive_loss"
    check_margins(where, margin, positive_margin)
    power = " squared" if squared else ""
    sums = summed(
        where,
        embeddings,
        labels,
        "above" + power,
        "below" + power,
        as_numbers(where, [positive_margin, margin], embeddings),
        balanced=balanced,
        metric=metric,
        reduction=reduction,
        validate=validate,
        backend=backend,
        ref=ref,
        ref_labels=ref_labels,
        ref_offset=ref_offset,
    )
    trivial = partial(_apart, max(0.0, margin - positive_margin), squared)
    return sums.loss, pair_stats(sums, trivial)


def batch_bce_pair_with_stats(
    embeddings: Tensor,
    labels: Tensor,
    log_scale: Tensor | None,
    bias: Tensor | None,
    *,
    balanced: bool,
    reduction: str,
    validate: bool,
    backend: str,
    ref: Tensor | None,
    ref_labels: Tensor | None,
    ref_offset: int | None,
) -> tuple[Tensor, Stats | Later]:
    """Return :func:`batch_bce_pair_loss` and what it saw."""
    where = "batch_bce_pair_loss"
    scale, shift = as_numbers(
        where,
        [math.log(SCALE) if log_scale is None else log_scale, BIAS if bias is None else bias],
        embeddings,
        ("log_scale", "bias"),
    ).unbind()
    sums = summed(
        where,
        embeddings,
        labels,
        "same",
        "different",
        torch.stack([scale.exp(), shift]),
        balanced=balanced,
        metric="cosine",
        reduction=reduction,
        validate=validate,
        backend=backend,
        ref=ref,
        ref_labels=ref_labels,
        ref_offset=ref_offset,
    )
    return sums.loss, pair_stats(sums, _entropy)


def check_margins(where: str, margin: float, positive_margin: float) -> None:
    """Refuse margins that :func:`batch_contrastive_loss` does not take."""
    _check.positive(where, "margin", margin)
    if not 0 <= _check.real(where, "positive_margin", positive_margin) < math.inf:
        raise _check.refuse(where, "positive_margin", "be finite and at least 0", positive_margin)


# what the best constant answer loses, given the share of positives


def _apart(gap: float, squared: bool, share: Tensor) -> Tensor:
    if squared:
        return share * (1 - share) * gap**2
    return torch.minimum(share, 1 - share) * gap


def _entropy(share: Tensor) -> Tensor:
    return -torch.xlogy(share, share) - torch.xlogy(1 - share, 1 - share)
