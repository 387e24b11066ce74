"""The triplet loss of all triplets of a labelled batch."""

import math

import torch
from torch import Tensor

from siameselib import _check
from siameselib.functional.batch import labelled_batch, warn_when_idle
from siameselib.functional.batch_triplets import check_keywords
from siameselib.functional.distances import unit_rows
from siameselib.functional.stats import Stats
from siameselib.kernels.blocks import pair_counts
from siameselib.kernels.triplet_sum import triplet_sum

WINDOWS = (None, "semi-hard")


def batch_all_triplet_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    margin: float = 0.2,
    metric: str = "euclidean",
    soft: bool = False,
    window: str | None = None,
    reduction: str = "mean",
    validate: bool = False,
    backend: str = "auto",
    ref: Tensor | None = None,
    ref_labels: Tensor | None = None,
    ref_offset: int | None = None,
) -> Tensor:
    r"""Triplet loss of all triplets of the batch, none of which is ever listed.

    .. math:: L_{apn} = \max(0,\; d_{ap} - d_{an} + m) \qquad\text{or, soft,}\qquad
              L_{apn} = \log\big(1 + e^{d_{ap} - d_{an}}\big)

    for every anchor a, positive p ≠ a and negative n: with B rows, M of each identity, B (M - 1)
    (B - M) triplets. Memory is linear in the batch. A collapsed model has the loss m (soft: ln 2):
    ``stats.trivial``.

    Most triplets of a trained model are satisfied; "mean_active" leaves them out. The window
    "semi-hard" leaves out both those and the hardest: only triplets with
    d_ap < d_an < d_ap + m are counted, the others have loss 0.

    Args:
        embeddings: one embedding a row.
        labels: the identity of each row.
        margin: m; not used when soft.
        metric: "euclidean", "sqeuclidean" or "cosine".
        soft: the soft margin, log(1 + e^x), in place of the hinge. It goes through the positives
            one after the other, and reads from the device how many there are; the hinge waits for
            no device.
        window: None, or "semi-hard"; not together with soft.
        reduction: "mean" over all triplets, "mean_active" over those with a loss above zero,
            "sum", or "none" (for each anchor the sum over its triplets).
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
        The loss; a differentiable 0 when there is no triplet, with a warning.

    Raises:
        ValueError: for shapes that do not fit, an unknown metric, window, reduction or backend,
            a window together with soft, a margin that is not positive, or, under ``validate``,
            embeddings that are not finite.
        TypeError: for embeddings that are not floating point, labels that are not integers, or
            options that are no numbers.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [1.5], [2.0]])
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> batch_all_triplet_loss(x, labels, margin=0.5, reduction="none")
        tensor([0.0000, 1.5000, 0.5000, 0.0000])

    Source:
        Hermans, Beyer and Leibe, "In defense of the triplet loss for person re-identification",
        2017, equation 6, and its "batch all ≠ 0" for "mean_active". The window is that of
        Schroff, Kalenichenko and Philbin, "FaceNet", CVPR 2015, section 3.2, with the upper bound
        that the loss itself has.
    """
    return batch_all_with_stats(
        embeddings,
        labels,
        margin=margin,
        metric=metric,
        soft=soft,
        window=window,
        reduction=reduction,
        validate=validate,
        backend=backend,
        ref=ref,
        ref_labels=ref_labels,
        ref_offset=ref_offset,
    )[0]


def batch_all_with_stats(
    embeddings: Tensor,
    labels: Tensor,
    *,
    margin: float,
    metric: str,
    soft: bool,
    window: str | None,
    reduction: str,
    validate: bool,
    backend: str,
    ref: Tensor | None,
    ref_labels: Tensor | None,
    ref_offset: int | None,
) -> tuple[Tensor, Stats]:
    """Return :func:`batch_all_triplet_loss` and what it saw."""
    where = "batch_all_triplet_loss"
    check_keywords(where, margin, metric, reduction, backend)
    check_window(where, window, soft)
    batch = labelled_batch(where, embeddings, labels, ref, ref_labels, ref_offset, validate)
    with torch.autocast(embeddings.device.type, enabled=False):
        cosine = metric == "cosine"
        x = unit_rows(batch.x) if cosine else batch.x
        y = None if ref is None else unit_rows(batch.ref) if cosine else batch.ref
        sums = triplet_sum(
            x,
            batch.labels,
            y,
            batch.ref_labels,
            batch.offset,
            metric=metric,
            margin=margin,
            kind="soft" if soft else "window" if window else "hinge",
            each=reduction == "none",
            backend=backend,
        )
    positives, negatives = pair_counts(batch.labels, batch.ref_labels, batch.offset)
    valid, active = (positives * negatives).sum(), sums.active.sum()
    warn_when_idle(where, valid)
    pairs = [
        torch.where(there > 0, number, 0).sum()
        for number, there in ((positives, negatives), (negatives, positives))
    ]
    stats = Stats(
        valid=valid,
        active=active / valid,
        positive_distance=sums.distances[0] / pairs[0],
        negative_distance=sums.distances[1] / pairs[1],
        trivial=sums.distances.new_full((), math.log(2) if soft else margin),
    )
    if reduction in {"sum", "none"}:
        return sums.loss, stats
    number = valid if reduction == "mean" else active
    return sums.loss / number.clamp(min=1), stats


def check_window(where: str, window: str | None, soft: bool) -> None:
    """Refuse a window that :func:`batch_all_triplet_loss` does not take."""
    _check.choice(where, "window", window, WINDOWS)
    if window and soft:
        raise _check.refuse(where, "window", "be None when soft", repr(window))
