"""Miners: which triplets of a labelled batch to learn from, as index tensors of fixed shape."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from siameselib import _check
from siameselib.functional.batch import Batch, check_words, labelled_batch, warn_when_idle
from siameselib.functional.distances import unit_rows
from siameselib.kernels.blocks import pair_counts
from siameselib.kernels.extremes import beyond, hardest

FALLBACKS = ("farthest", "skip")


class Triplets(NamedTuple):
    """Rows of anchors, positives and negatives; where not valid, the entries mean nothing.

    Positives and negatives are rows of ``ref`` if one was given.
    """

    anchor: Tensor
    """(t,) int64."""
    positive: Tensor
    """(t,) int64."""
    negative: Tensor
    """(t,) int64."""
    valid: Tensor
    """(t,) bool."""

    def compact(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return (anchor, positive, negative) of the valid triplets; this waits for the device.

        Returns:
            Three index vectors, the plain tuple that other libraries' losses take.

        Example:
            >>> index, valid = torch.arange(3), torch.tensor([True, False, True])
            >>> Triplets(index, index, index, valid).compact()
            (tensor([0, 2]), tensor([0, 2]), tensor([0, 2]))
        """
        return self.anchor[self.valid], self.positive[self.valid], self.negative[self.valid]


def mine_batch_hard(
    embeddings: Tensor,
    labels: Tensor,
    *,
    metric: str = "euclidean",
    validate: bool = False,
    backend: str = "auto",
    ref: Tensor | None = None,
    ref_labels: Tensor | None = None,
    ref_offset: int | None = None,
) -> Triplets:
    r"""Batch-hard: for each anchor its farthest positive and its nearest negative.

    .. math:: p_a = \arg\max_{p:\, y_p = y_a,\, p \ne a} d_{ap} \qquad
              n_a = \arg\min_{n:\, y_n \ne y_a} d_{an}

    Exact in every dtype, ties to the lowest index; the distance matrix is never held.

    Args:
        embeddings: one embedding a row; nothing is differentiated here.
        labels: the identity of each row.
        metric: "euclidean", "sqeuclidean" or "cosine".
        validate: whether to look for NaN and infinity, which waits for the device.
        backend: see :func:`siameselib.use_backend`.
        ref: a larger set to compare the batch with, such as a memory of past embeddings; None
            for the batch itself.
        ref_labels: the identities of ``ref``.
        ref_offset: where in ``ref`` the batch's own rows begin; None when they are not in it.

    Shape:
        embeddings: (n, d). labels: (n,). ref: (m, d). ref_labels: (m,). Result: four of (n,).

    Returns:
        One triplet for each anchor, valid where it has both a positive and a negative.

    Raises:
        ValueError: for shapes that do not fit, an unknown metric or backend, or, under
            ``validate``, embeddings that are not finite.
        TypeError: for embeddings that are not floating point or labels that are not integers.

    Example:
        >>> x, labels = torch.tensor([[0.0], [1.0], [3.0], [4.0]]), torch.tensor([0, 0, 1, 0])
        >>> mine_batch_hard(x, labels).compact()
        (tensor([0, 1, 3]), tensor([3, 3, 0]), tensor([2, 2, 2]))

    Source:
        Hermans, Beyer and Leibe, "In defense of the triplet loss for person re-identification",
        2017, equation 5. Anchors without a positive or a negative are left out.
    """
    where = "mine_batch_hard"
    check_words(where, metric=metric, backend=backend)
    return mined(
        where,
        lambda batch: hardest_triplets(batch, metric, backend),
        (embeddings, labels, ref, ref_labels, ref_offset),
        validate,
    )


def mine_semi_hard(
    embeddings: Tensor,
    labels: Tensor,
    *,
    metric: str = "euclidean",
    fallback: str = "farthest",
    max_positives: int | None = None,
    validate: bool = False,
    backend: str = "auto",
    ref: Tensor | None = None,
    ref_labels: Tensor | None = None,
    ref_offset: int | None = None,
) -> Triplets:
    r"""Semi-hard: for each anchor and each of its positives the nearest negative farther away.

    .. math:: n_{ap} = \arg\min_{n:\, y_n \ne y_a,\, d_{an} > d_{ap}} d_{an}

    Exact in every dtype, ties to the lowest index; the distance matrix is never held.

    Args:
        embeddings: one embedding a row; nothing is differentiated here.
        labels: the identity of each row.
        metric: "euclidean", "sqeuclidean" or "cosine".
        fallback: what to take where no negative is farther than the positive: the "farthest"
            negative there is, or none: "skip".
        max_positives: how many positives of an anchor to take at most, lowest index first; the
            number of triplets is then n·max_positives, which no device is waited for. None takes
            all of them: the number of triplets depends on the labels, and reading it waits for
            the device. With batches of P identities × K images, K - 1 takes all.
        validate: whether to look for NaN and infinity, which waits for the device.
        backend: see :func:`siameselib.use_backend`.
        ref: a larger set to compare the batch with, such as a memory of past embeddings; None
            for the batch itself.
        ref_labels: the identities of ``ref``.
        ref_offset: where in ``ref`` the batch's own rows begin; None when they are not in it.

    Shape:
        embeddings: (n, d). labels: (n,). ref: (m, d). ref_labels: (m,). Result: four of (t,).

    Returns:
        One triplet for each (anchor, positive), in their order.

    Raises:
        ValueError: for shapes that do not fit, an unknown metric, fallback or backend, a
            max_positives below 1, or, under ``validate``, embeddings that are not finite.
        TypeError: for embeddings that are not floating point, labels that are not integers, or
            options that are no numbers.

    Example:
        >>> x = torch.tensor([[0.0], [2.0], [1.0], [4.0]])
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> mine_semi_hard(x, labels).negative  # of 0→1, 1→0, 2→3 (no farther one), 3→2
        tensor([3, 3, 0, 0])
        >>> mine_semi_hard(x, labels, fallback="skip").valid
        tensor([ True, False, False,  True])

    Source:
        Schroff, Kalenichenko and Philbin, "FaceNet", CVPR 2015, equation 4, one negative for each
        positive pair. The paper says nothing of pairs without such a negative; the farthest one
        is the choice of the TensorFlow Addons.
    """
    where = "mine_semi_hard"
    check_words(where, metric=metric, backend=backend)
    check_semi_hard(where, fallback, max_positives)
    return mined(
        where,
        lambda batch: semi_hard_triplets(batch, metric, fallback, max_positives, backend),
        (embeddings, labels, ref, ref_labels, ref_offset),
        validate,
    )


def hardest_triplets(batch: Batch, metric: str, backend: str) -> Triplets:
    """Return :func:`mine_batch_hard` of a checked batch."""
    x, y = searched(batch, metric)
    positive, negative = hardest(x, batch.labels, y, batch.ref_labels, batch.offset, backend)
    anchor = torch.arange(len(x), device=x.device)
    valid = (positive >= 0) & (negative >= 0)
    return Triplets(anchor, positive.clamp(min=0), negative.clamp(min=0), valid)


def semi_hard_triplets(
    batch: Batch, metric: str, fallback: str, max_positives: int | None, backend: str
) -> Triplets:
    """Return :func:`mine_semi_hard` of a checked batch."""
    x, y = searched(batch, metric)
    anchor, positive, negative, farther = beyond(
        x, batch.labels, y, batch.ref_labels, batch.offset, max_positives, backend
    )
    valid = (positive >= 0) & (farther if fallback == "skip" else negative >= 0)
    return Triplets(anchor, positive.clamp(min=0), negative.clamp(min=0), valid)


def check_semi_hard(where: str, fallback: str, max_positives: int | None) -> None:
    """Refuse what :func:`mine_semi_hard` cannot do."""
    _check.choice(where, "fallback", fallback, FALLBACKS)
    check_max_positives(where, max_positives)


def check_max_positives(where: str, max_positives: int | None) -> None:
    """Refuse a number of positives below 1."""
    if max_positives is not None:
        _check.integer(where, "max_positives", max_positives, 1)


def mined(
    where: str,
    choose: Callable[[Batch], Triplets],
    arguments: tuple[Tensor, Tensor, Tensor | None, Tensor | None, int | None],
    validate: bool,
) -> Triplets:
    """Check the batch, choose its triplets, and warn where there are none."""
    batch = labelled_batch(where, *arguments, validate=validate)
    triplets = choose(batch)
    positives, negatives = pair_counts(batch.labels, batch.ref_labels, batch.offset)
    warn_when_idle(where, (positives * negatives).sum())
    return triplets


def searched(batch: Batch, metric: str) -> tuple[Tensor, Tensor]:
    """Return rows and columns whose Euclidean distances order as the metric's do."""
    change = _directions if metric == "cosine" else Tensor.detach
    x = change(batch.x)
    return x, x if batch.ref is batch.x else change(batch.ref)


def _directions(x: Tensor) -> Tensor:
    x = x.detach()
    # A zero row has no direction: it gets a dimension of its own, at cosine 0 from all others.
    zero = (x == 0).all(1, keepdim=True)
    return torch.cat([unit_rows(x), zero.to(x.dtype)], 1)
