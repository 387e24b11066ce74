"""The lifted structure loss: all positives against all negatives of an anchor, by distance."""

import torch
from torch import Tensor

from siameselib.functional.batch import labelled_batch, reduce_batch
from siameselib.functional.batch_triplets import check_keywords
from siameselib.functional.distances import unit_rows
from siameselib.functional.stats import Later, Stats, later
from siameselib.kernels.blocks import pair_counts
from siameselib.kernels.distance_logsumexp import distance_logsumexp


def lifted_structure_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    margin: float = 1.0,
    metric: str = "euclidean",
    reduction: str = "mean",
    validate: bool = False,
    backend: str = "auto",
    ref: Tensor | None = None,
    ref_labels: Tensor | None = None,
    ref_offset: int | None = None,
) -> Tensor:
    r"""Lifted structure: a smooth farthest positive against a smooth nearest negative.

    .. math:: L_a = \Big[\log \sum_{p \in P_a} e^{d_{ap}}
                    + \log \sum_{n \in N_a} e^{m - d_{an}}\Big]_+

    with d the distance, over all positives and all negatives of the anchor: batch-hard with the
    maxima made smooth. Memory is linear in the batch. A collapsed model has d = 0: with k
    positives and l negatives for each anchor, the loss log k + log l + m: ``stats.trivial``.

    Args:
        embeddings: one embedding a row.
        labels: the identity of each row.
        margin: m.
        metric: "euclidean", "sqeuclidean" or "cosine".
        reduction: "mean" over the anchors with a positive and a negative, "mean_active" over those
            of them with a loss above zero, "sum", or "none" (one loss an anchor, 0 where not
            valid).
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
        The loss; a differentiable 0 when no anchor is valid, with a warning.

    Raises:
        ValueError: for shapes that do not fit, an unknown metric, reduction or backend, a margin
            that is not positive, or, under ``validate``, embeddings that are not finite.
        TypeError: for embeddings that are not floating point, labels that are not integers, or
            options that are no numbers.

    Example:
        >>> x, labels = torch.tensor([[0.0], [1.0], [5.0], [5.0]]), torch.tensor([0, 0, 1, 1])
        >>> lifted_structure_loss(x, labels, margin=3.0, reduction="none")
        tensor([0.0000, 0.6931, 0.0000, 0.0000])

    Source:
        Hermans, Beyer and Leibe, "In defense of the triplet loss for person re-identification",
        2017, section 2, the generalised form. In the original (Oh Song et al., "Deep metric
        learning via lifted structured feature embedding", CVPR 2016, equation 4) each positive
        pair stands for itself, with the negatives of both its ends, and the hinge is squared.
    """
    return lifted_structure_with_stats(
        embeddings,
        labels,
        margin=margin,
        metric=metric,
        reduction=reduction,
        validate=validate,
        backend=backend,
        ref=ref,
        ref_labels=ref_labels,
        ref_offset=ref_offset,
    )[0]


def lifted_structure_with_stats(
    embeddings: Tensor,
    labels: Tensor,
    *,
    margin: float,
    metric: str,
    reduction: str,
    validate: bool,
    backend: str,
    ref: Tensor | None,
    ref_labels: Tensor | None,
    ref_offset: int | None,
) -> tuple[Tensor, Stats | Later]:
    """Return :func:`lifted_structure_loss` and what it saw."""
    where = "lifted_structure_loss"
    check_keywords(where, margin, metric, reduction, backend)
    batch = labelled_batch(where, embeddings, labels, ref, ref_labels, ref_offset, validate)
    with torch.autocast(embeddings.device.type, enabled=False):
        cosine = metric == "cosine"
        x = unit_rows(batch.x) if cosine else batch.x
        y = None if ref is None else unit_rows(batch.ref) if cosine else batch.ref
        sums = distance_logsumexp(
            x, batch.labels, y, batch.ref_labels, batch.offset, metric, backend
        )
        positives, negatives = pair_counts(batch.labels, batch.ref_labels, batch.offset)
        pairs = positives * negatives
        valid = pairs > 0
        losses = torch.where(valid, sums.positives + sums.negatives + margin, 0).relu()
        stats = later(_stats, losses.detach(), sums.distances, positives, negatives, margin)
        return reduce_batch(where, losses, valid, reduction), stats


def _stats(
    losses: Tensor, distances: Tensor, positives: Tensor, negatives: Tensor, margin: float
) -> Stats:
    pairs = positives * negatives
    valid = pairs > 0
    number = valid.sum()
    seen = torch.where(valid, distances, 0).sum(1)
    return Stats(
        valid=number,
        active=(losses > 0).sum() / number,
        positive_distance=seen[0] / torch.where(valid, positives, 0).sum(),
        negative_distance=seen[1] / torch.where(valid, negatives, 0).sum(),
        trivial=torch.where(valid, pairs.to(losses.dtype).log() + margin, 0).sum() / number,
    )
