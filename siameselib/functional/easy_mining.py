"""Miners beside the hardest triplet: the easiest positive, and several of the hardest negatives."""

import torch
from torch import Tensor

from siameselib import _check
from siameselib.functional.batch import Batch, check_words
from siameselib.functional.mining import FALLBACKS, Triplets, mined, searched
from siameselib.kernels.extremes import beyond, hardest
from siameselib.kernels.topk import topk

NEGATIVES = ("hard", "semi-hard")
POSITIVES = ("farthest", "nearest")


def mine_easy_positive(
    embeddings: Tensor,
    labels: Tensor,
    *,
    negative: str = "semi-hard",
    metric: str = "euclidean",
    fallback: str = "farthest",
    validate: bool = False,
    backend: str = "auto",
    ref: Tensor | None = None,
    ref_labels: Tensor | None = None,
    ref_offset: int | None = None,
) -> Triplets:
    r"""Easy positive: for each anchor its nearest positive, and a hard or semi-hard negative.

    .. math:: p_a = \arg\min_{p:\, y_p = y_a,\, p \ne a} d_{ap} \qquad
              n_a = \arg\min_{n:\, y_n \ne y_a} d_{an} \quad\text{or, semi-hard,}\quad
              n_a = \arg\min_{n:\, y_n \ne y_a,\, d_{an} > d_{ap_a}} d_{an}

    An identity then need not become one cluster: it is enough that each image has a near one.
    Exact in every dtype, ties to the lowest index; the distance matrix is never held.

    Args:
        embeddings: one embedding a row; nothing is differentiated here.
        labels: the identity of each row.
        negative: "hard", the nearest one, or "semi-hard", the nearest one farther than the
            positive.
        metric: "euclidean", "sqeuclidean" or "cosine".
        fallback: what to take where no negative is farther than the positive: the "farthest"
            negative there is, or none: "skip". For "semi-hard" only.
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
        ValueError: for shapes that do not fit, an unknown negative, metric, fallback or backend,
            or, under ``validate``, embeddings that are not finite.
        TypeError: for embeddings that are not floating point or labels that are not integers.

    Example:
        >>> x, labels = torch.tensor([[0.0], [2.0], [1.0], [5.0]]), torch.tensor([0, 0, 1, 0])
        >>> mine_easy_positive(x, labels, negative="hard").compact()
        (tensor([0, 1, 3]), tensor([1, 0, 1]), tensor([2, 2, 2]))
        >>> mine_easy_positive(x, labels, fallback="skip").valid
        tensor([False, False, False,  True])

    Source:
        Xuan, Stylianou and Pless, "Improved embeddings with easy positive triplet mining", WACV
        2020, section 3: EPHN for "hard", EPSHN for "semi-hard". The paper says nothing of anchors
        without a semi-hard negative.
    """
    where = "mine_easy_positive"
    check_words(where, metric=metric, backend=backend)
    check_easy_positive(where, negative, fallback)

    def choose(batch: Batch) -> Triplets:
        x, y = searched(batch, metric)
        problem = (x, batch.labels, y, batch.ref_labels, batch.offset)
        if negative == "hard":
            p, n = hardest(*problem, backend, easy=True)
            kept = n >= 0
        else:
            _, p, n, farther = beyond(*problem, None, backend, easy=True)
            kept = farther if fallback == "skip" else n >= 0
        anchor = torch.arange(len(x), device=x.device)
        return Triplets(anchor, p.clamp(min=0), n.clamp(min=0), (p >= 0) & kept)

    return mined(where, choose, (embeddings, labels, ref, ref_labels, ref_offset), validate)


def mine_hardest_negatives(
    embeddings: Tensor,
    labels: Tensor,
    *,
    k: int = 4,
    positive: str = "farthest",
    metric: str = "euclidean",
    validate: bool = False,
    backend: str = "auto",
    ref: Tensor | None = None,
    ref_labels: Tensor | None = None,
    ref_offset: int | None = None,
) -> Triplets:
    """Hardest negatives: for each anchor its k nearest negatives, each with the same positive.

    With k = 1 this is batch-hard, or easy positive with the hard negative. More of them weigh a
    mislabelled image, which sits nearest to all of its true identity, by 1/k only. Exact in every
    dtype, ties to the lowest index; the distance matrix is never held.

    Args:
        embeddings: one embedding a row; nothing is differentiated here.
        labels: the identity of each row.
        k: how many negatives for each anchor.
        positive: the "farthest" positive of the anchor or the "nearest".
        metric: "euclidean", "sqeuclidean" or "cosine".
        validate: whether to look for NaN and infinity, which waits for the device.
        backend: see :func:`siameselib.use_backend`.
        ref: a larger set to compare the batch with, such as a memory of past embeddings; None
            for the batch itself.
        ref_labels: the identities of ``ref``.
        ref_offset: where in ``ref`` the batch's own rows begin; None when they are not in it.

    Shape:
        embeddings: (n, d). labels: (n,). ref: (m, d). ref_labels: (m,). Result: four of (n·k,).

    Returns:
        k triplets for each anchor, its nearest negative first; those past its last negative, and
        all those of an anchor without a positive, are not valid.

    Raises:
        ValueError: for shapes that do not fit, a k below 1, an unknown positive, metric or
            backend, or, under ``validate``, embeddings that are not finite.
        TypeError: for embeddings that are not floating point, labels that are not integers or a
            k that is not one.

    Example:
        >>> x, labels = torch.tensor([[0.0], [1.0], [3.0], [4.0]]), torch.tensor([0, 0, 1, 2])
        >>> mine_hardest_negatives(x, labels, k=2).compact()
        (tensor([0, 0, 1, 1]), tensor([1, 1, 0, 0]), tensor([2, 3, 2, 3]))
    """
    where = "mine_hardest_negatives"
    check_words(where, metric=metric, backend=backend)
    k = check_hardest_negatives(where, k, positive)

    def choose(batch: Batch) -> Triplets:
        x, y = searched(batch, metric)
        problem = (x, batch.labels, y, batch.ref_labels, batch.offset)
        p, _ = hardest(*problem, backend, easy=positive == "nearest")
        n = topk(*problem, k, backend).flatten()
        anchor, p = (
            each.repeat_interleave(k) for each in (torch.arange(len(x), device=x.device), p)
        )
        return Triplets(anchor, p.clamp(min=0), n.clamp(min=0), (p >= 0) & (n >= 0))

    return mined(where, choose, (embeddings, labels, ref, ref_labels, ref_offset), validate)


def check_easy_positive(where: str, negative: str, fallback: str) -> None:
    """Refuse words that :func:`mine_easy_positive` does not take."""
    _check.choice(where, "negative", negative, NEGATIVES)
    _check.choice(where, "fallback", fallback, FALLBACKS)


def check_hardest_negatives(where: str, k: int, positive: str) -> int:
    """Refuse what :func:`mine_hardest_negatives` does not take; return k as Python's integer."""
    _check.choice(where, "positive", positive, POSITIVES)
    return _check.integer(where, "k", k, 1)
