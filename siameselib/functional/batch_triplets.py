"""Triplet losses on a labelled batch: mine the triplets, then take the loss of those."""

import torch
from torch import Tensor

from siameselib import _check
from siameselib.functional.batch import Batch, check_words, labelled_batch, warn_when_idle
from siameselib.functional.distances import mined_distance
from siameselib.functional.mining import (
    Triplets,
    check_semi_hard,
    hardest_triplets,
    semi_hard_triplets,
)
from siameselib.functional.stats import Stats
from siameselib.functional.triplets import triplets_of_distances


def batch_hard_triplet_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    margin: float = 0.2,
    metric: str = "euclidean",
    soft: bool = False,
    reduction: str = "mean",
    validate: bool = False,
    backend: str = "auto",
    ref: Tensor | None = None,
    ref_labels: Tensor | None = None,
    ref_offset: int | None = None,
) -> Tensor:
    r"""Triplet loss of each anchor with its farthest positive and its nearest negative.

    .. math:: L_a = \max\Big(0,\; \max_{p:\, y_p = y_a,\, p \ne a} d_{ap}
              - \min_{n:\, y_n \ne y_a} d_{an} + m\Big)
              \qquad\text{or, soft,}\qquad L_a = \log\big(1 + e^{d_{ap} - d_{an}}\big)

    It is :func:`triplet_loss` of the triplets of :func:`mine_batch_hard`: the gradient goes
    through these alone. Memory is linear in the batch. A collapsed model has the loss m (soft:
    ln 2): ``stats.trivial``.

    Args:
        embeddings: one embedding a row.
        labels: the identity of each row.
        margin: m; not used when soft.
        metric: "euclidean", "sqeuclidean" or "cosine".
        soft: the soft margin, log(1 + e^x), in place of the hinge.
        reduction: "mean" over the anchors with both a positive and a negative, "mean_active"
            over those of them with a loss above zero, "sum", or "none" (0 for other anchors).
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
        The loss; a differentiable 0 when no anchor has both, with a warning.

    Raises:
        ValueError: for shapes that do not fit, an unknown metric, reduction or backend, a margin
            that is not positive, or, under ``validate``, embeddings that are not finite.
        TypeError: for embeddings that are not floating point, labels that are not integers, or
            options that are no numbers.

    Example:
        >>> import torch
        >>> x = torch.tensor([[0.0], [1.0], [1.5], [2.0]])
        >>> batch_hard_triplet_loss(x, torch.tensor([0, 0, 1, 1]), margin=0.5)
        tensor(0.3750)

    Source:
        Hermans, Beyer and Leibe, "In defense of the triplet loss for person re-identification",
        2017, equation 5. Theirs is a sum over a batch of P identities × K images; here anchors
        without a positive or a negative are allowed, and left out.
    """
    return batch_hard_with_stats(
        embeddings,
        labels,
        margin=margin,
        metric=metric,
        soft=soft,
        reduction=reduction,
        validate=validate,
        backend=backend,
        ref=ref,
        ref_labels=ref_labels,
        ref_offset=ref_offset,
    )[0]


def semi_hard_triplet_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    margin: float = 0.2,
    metric: str = "euclidean",
    soft: bool = False,
    fallback: str = "farthest",
    max_positives: int | None = None,
    reduction: str = "mean",
    validate: bool = False,
    backend: str = "auto",
    ref: Tensor | None = None,
    ref_labels: Tensor | None = None,
    ref_offset: int | None = None,
) -> Tensor:
    r"""Triplet loss of each positive pair with the nearest negative farther away.

    .. math:: L_{ap} = \max\Big(0,\; d_{ap}
              - \min_{n:\, y_n \ne y_a,\, d_{an} > d_{ap}} d_{an} + m\Big)

    It is :func:`triplet_loss` of the triplets of :func:`mine_semi_hard`: the gradient goes
    through these alone. Memory is linear in the number of pairs. A collapsed model has the loss m
    (soft: ln 2): ``stats.trivial``. With ``metric="sqeuclidean"`` and the margin 1 it is the loss
    of the TensorFlow Addons.

    Args:
        embeddings: one embedding a row.
        labels: the identity of each row.
        margin: m; not used when soft.
        metric: "euclidean", "sqeuclidean" or "cosine".
        soft: the soft margin, log(1 + e^x), in place of the hinge.
        fallback: what to take where no negative is farther than the positive: the "farthest"
            negative there is, or none: "skip".
        max_positives: how many positives of an anchor to take at most; see
            :func:`mine_semi_hard`.
        reduction: "mean" over the pairs (a, p) with a negative, "mean_active" over those of them
            with a loss above zero, "sum", or "none" (one value for each triplet that
            :func:`mine_semi_hard` lists, 0 where not valid).
        validate: whether to look for NaN and infinity, which waits for the device.
        backend: see :func:`siameselib.use_backend`.
        ref: a larger set to compare the batch with, such as a memory of past embeddings; None
            for the batch itself.
        ref_labels: the identities of ``ref``.
        ref_offset: where in ``ref`` the batch's own rows begin; None when they are not in it.

    Shape:
        embeddings: (n, d). labels: (n,). ref: (m, d). ref_labels: (m,). Result: 0-d, or (t,) for
        "none".

    Returns:
        The loss; a differentiable 0 when no pair has a negative, with a warning.

    Raises:
        ValueError: for shapes that do not fit, an unknown metric, fallback, reduction or
            backend, a max_positives below 1, a margin that is not positive, or, under
            ``validate``, embeddings that are not finite.
        TypeError: for embeddings that are not floating point, labels that are not integers, or
            options that are no numbers.

    Example:
        >>> import torch
        >>> x = torch.tensor([[0.0], [2.0], [1.0], [4.0]])
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> semi_hard_triplet_loss(x, labels, margin=2.0, reduction="none")
        tensor([0., 2., 4., 1.])

    Source:
        Schroff, Kalenichenko and Philbin, "FaceNet", CVPR 2015, equation 4 for the negatives and
        equation 3 for the loss (with ``metric="sqeuclidean"``, summed).
    """
    return semi_hard_with_stats(
        embeddings,
        labels,
        margin=margin,
        metric=metric,
        soft=soft,
        fallback=fallback,
        max_positives=max_positives,
        reduction=reduction,
        validate=validate,
        backend=backend,
        ref=ref,
        ref_labels=ref_labels,
        ref_offset=ref_offset,
    )[0]


def batch_hard_with_stats(
    embeddings: Tensor,
    labels: Tensor,
    *,
    margin: float,
    metric: str,
    soft: bool,
    reduction: str,
    validate: bool,
    backend: str,
    ref: Tensor | None,
    ref_labels: Tensor | None,
    ref_offset: int | None,
) -> tuple[Tensor, Stats]:
    """Return :func:`batch_hard_triplet_loss` and what it saw."""
    where = "batch_hard_triplet_loss"
    check_keywords(where, margin, metric, reduction, backend)
    batch = labelled_batch(where, embeddings, labels, ref, ref_labels, ref_offset, validate)
    triplets = hardest_triplets(batch, metric, backend)
    warn_when_idle(where, triplets.valid.sum())
    return _loss_of(batch, None, triplets, margin, metric, soft, reduction)


def semi_hard_with_stats(
    embeddings: Tensor,
    labels: Tensor,
    *,
    margin: float,
    metric: str,
    soft: bool,
    fallback: str,
    max_positives: int | None,
    reduction: str,
    validate: bool,
    backend: str,
    ref: Tensor | None,
    ref_labels: Tensor | None,
    ref_offset: int | None,
) -> tuple[Tensor, Stats]:
    """Return :func:`semi_hard_triplet_loss` and what it saw."""
    where = "semi_hard_triplet_loss"
    check_keywords(where, margin, metric, reduction, backend)
    check_semi_hard(where, fallback, max_positives)
    batch = labelled_batch(where, embeddings, labels, ref, ref_labels, ref_offset, validate)
    triplets = semi_hard_triplets(batch, metric, fallback, max_positives, backend)
    warn_when_idle(where, triplets.valid.sum())
    return _loss_of(batch, triplets.anchor, triplets, margin, metric, soft, reduction)


def check_keywords(where: str, margin: float, metric: str, reduction: str, backend: str) -> None:
    """Refuse keywords that no triplet loss on a batch takes."""
    _check.positive(where, "margin", margin)
    check_words(where, metric=metric, reduction=reduction, backend=backend)


def _loss_of(
    batch: Batch,
    anchor: Tensor | None,
    triplets: Triplets,
    margin: float,
    metric: str,
    soft: bool,
    reduction: str,
) -> tuple[Tensor, Stats]:
    # An empty reference set has no row 0 for the triplets that are not valid to point to.
    ref = batch.ref if len(batch.ref) else batch.ref.new_zeros(1, batch.ref.shape[1])
    row = None if anchor is None else anchor.repeat(2)
    column = torch.cat([triplets.positive, triplets.negative])
    with torch.autocast(column.device.type, enabled=False):
        distance = mined_distance(batch.x, ref, row, column, metric)
    positive, negative = distance.view(2, -1)
    return triplets_of_distances(positive, negative, margin, soft, triplets.valid, reduction)
