"""A miner of pairs: what the hardest pair of the other kind does not make too easy."""

from typing import NamedTuple

import torch
from torch import Tensor

from siameselib import _check
from siameselib.functional.batch import Batch, check_words, labelled_batch, warn_when_idle
from siameselib.functional.distances import paired_distance
from siameselib.functional.mining import hardest_triplets
from siameselib.kernels.extremes import same_and_other

_ENTRIES = 1 << 20  # numbers compared at once when pairs are listed


class PairBounds(NamedTuple):
    """Which pairs of each anchor to learn from, as bounds on their distances: no pair is listed.

    A loss that sweeps the distances compares them with the bounds as they pass;
    :meth:`compact` lists the pairs of a small batch.
    """

    positive: Tensor
    """(n,) int64: the farthest positive of each anchor, a row of ``ref`` if one was given."""
    negative: Tensor
    """(n,) int64: the nearest negative."""
    positive_above: Tensor
    """(n,) floating point: positives farther than this are kept."""
    negative_below: Tensor
    """(n,) floating point: negatives nearer than this are kept."""
    valid: Tensor
    """(n,) bool: the anchor has both; where not, the entries mean nothing and no pair is kept."""
    batch: Batch
    """What was mined, for :meth:`compact`."""
    metric: str
    """That of the distances."""

    def compact(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the pairs that are kept; this waits for the device.

        Returns:
            Four index vectors: anchors and positives, anchors and negatives; the plain tuple that
            other libraries' losses take. There can be n·m pairs: it is for small batches.

        Example:
            >>> x, labels = torch.tensor([[0.0], [1.0], [1.5], [9.0]]), torch.tensor([0, 0, 1, 1])
            >>> mine_multi_similarity(x, labels, metric="euclidean").compact()
            (tensor([1, 2]), tensor([0, 3]), tensor([1, 2, 2]), tensor([2, 0, 1]))
        """
        x, labels, y, y_labels, offset = self.batch
        n, m = len(x), len(y)
        none = self.positive.new_empty(0)
        found = [(none, none, none, none)]
        height = max(1, _ENTRIES // max(1, m * x.shape[1]))
        same, other = same_and_other(labels, y_labels, offset)
        for first in range(0, n if m else 0, height):
            rows = slice(first, min(first + height, n))
            count = rows.stop - first
            distance = paired_distance(
                x[rows].repeat_interleave(m, 0), y.repeat(count, 1), self.metric
            ).view(count, m)
            valid = self.valid[rows, None]
            kept = (
                valid & same[rows] & (distance > self.positive_above[rows, None]),
                valid & other[rows] & (distance < self.negative_below[rows, None]),
            )
            pairs = [each.nonzero(as_tuple=True) for each in kept]
            found.append((pairs[0][0] + first, pairs[0][1], pairs[1][0] + first, pairs[1][1]))
        a1, p, a2, n_ = (torch.cat(parts) for parts in zip(*found, strict=True))
        return a1, p, a2, n_


def mine_multi_similarity(
    embeddings: Tensor,
    labels: Tensor,
    *,
    epsilon: float = 0.1,
    metric: str = "cosine",
    validate: bool = False,
    backend: str = "auto",
    ref: Tensor | None = None,
    ref_labels: Tensor | None = None,
    ref_offset: int | None = None,
) -> PairBounds:
    r"""Multi-similarity: the pairs that the hardest pair of the other kind does not outdo.

    A negative is kept if it is nearer than the anchor's farthest positive, or by less than ε
    farther; a positive if it is farther than the nearest negative, or by less than ε nearer:

    .. math:: d_{an} - \varepsilon < \max_{p:\, y_p = y_a,\, p \ne a} d_{ap} \qquad
              d_{ap} + \varepsilon > \min_{n:\, y_n \ne y_a} d_{an}

    Bounds are exact, in every dtype; the distance matrix is never held.

    Args:
        embeddings: one embedding a row; nothing is differentiated here.
        labels: the identity of each row.
        epsilon: ε; below 0 it keeps fewer pairs.
        metric: "euclidean", "sqeuclidean" or "cosine".
        validate: whether to look for NaN and infinity, which waits for the device.
        backend: see :func:`siameselib.use_backend`.
        ref: a larger set to compare the batch with, such as a memory of past embeddings; None
            for the batch itself.
        ref_labels: the identities of ``ref``.
        ref_offset: where in ``ref`` the batch's own rows begin; None when they are not in it.

    Shape:
        embeddings: (n, d). labels: (n,). ref: (m, d). ref_labels: (m,). Result: five of (n,).

    Returns:
        Two bounds for each anchor, valid where it has both a positive and a negative.

    Raises:
        ValueError: for shapes that do not fit, an epsilon that is not finite, an unknown metric or
            backend, or, under ``validate``, embeddings that are not finite.
        TypeError: for embeddings that are not floating point, labels that are not integers, or
            options that are no numbers.

    Example:
        >>> x, labels = torch.tensor([[0.0], [1.0], [1.5], [9.0]]), torch.tensor([0, 0, 1, 1])
        >>> bounds = mine_multi_similarity(x, labels, metric="euclidean")
        >>> bounds.positive_above, bounds.negative_below
        (tensor([1.4000, 0.4000, 0.4000, 7.9000]), tensor([1.1000, 1.1000, 7.6000, 7.6000]))

    Source:
        Wang, Han, Huang, Dong and Scott, "Multi-similarity loss with general pair weighting for
        deep metric learning", CVPR 2019, equations 11 and 12, with S = 1 - d for "cosine".
    """
    where = "mine_multi_similarity"
    check_words(where, metric=metric, backend=backend)
    _check.number(where, "epsilon", epsilon)
    batch = labelled_batch(where, embeddings, labels, ref, ref_labels, ref_offset, validate)
    batch = batch._replace(x=batch.x.detach(), ref=batch.ref.detach())
    _, positive, negative, valid = hardest_triplets(batch, metric, backend)
    warn_when_idle(where, valid.sum())
    # An empty reference set has no row 0 for the anchors that are not valid to point to.
    y = batch.ref if len(batch.ref) else batch.ref.new_zeros(1, batch.ref.shape[1])
    farthest, nearest = (
        paired_distance(batch.x, y[index], metric) for index in (positive, negative)
    )
    return PairBounds(
        positive, negative, nearest - epsilon, farthest + epsilon, valid, batch, metric
    )
