"""Error rates over all pairs of n embeddings at one threshold, with intervals, in little memory.

Images stand in the order of their identities and the score matrix goes by in tiles whose edges
fall between identities. A tile is reduced to one count for each two people, which is all that
the variance of pairs that share people needs; a second sweep knows how people err, and sums how
they do so with each other.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from siameselib import _check
from siameselib.evaluation.inputs import Values, check_embeddings, check_labels, check_threshold
from siameselib.evaluation.intervals import PairRates
from siameselib.evaluation.scores import METRICS, factors
from siameselib.evaluation.shared_people import Interval, interval_from_sums

_SIDE = 1024  # images on one side of a tile, as far as the edges of identities allow


def all_pairs_rates(
    embeddings: Values,
    labels: Values,
    threshold: float,
    *,
    metric: str = "euclidean",
    level: float = 0.95,
) -> PairRates:
    """Error rates over all pairs of n embeddings, with intervals that know who is in which pair.

    The figures of `pair_rates` on the list of all n (n - 1) / 2 pairs, which is never made:
    O(n² d) time, O(n d) memory. Scores are negative distances, as those of `all_pairs`.

    Args:
        embeddings: one per image.
        labels: their identities, integers or names.
        threshold: of the score, fitted on other people.
        metric: "euclidean", "sqeuclidean" or "cosine" (the score is then the cosine minus 1).
        level: how often such intervals hold the true rate.

    Shape:
        embeddings: (n, d). labels: (n,).

    Returns:
        PairRates.

    Raises:
        ValueError: shapes differ, an embedding or the threshold is not finite, there are no pairs
            of one kind, or the level is not between 0 and 1.
        TypeError: embeddings that are not floating point, labels that are floating point.

    Example:
        >>> x, people = [[0.0], [0.1], [1.0], [1.2], [0.8]], [0, 0, 1, 1, 2]
        >>> rates = all_pairs_rates(x, people, -0.5)
        >>> rates.far.value, rates.frr.value, rates.far.n
        (0.25, 0.0, 8)

    Source:
        As `pair_rates`.
    """
    where = "all_pairs_rates"
    x = check_embeddings(where, embeddings)
    names = check_labels(where, labels, len(x))
    _check.choice(where, "metric", metric, METRICS)
    threshold = check_threshold(where, threshold)
    identities, sizes = np.unique(names, return_inverse=True, return_counts=True)[1:]
    if len(sizes) < 2 or sizes.max() < 2:
        got = f"{len(x)} images of {len(sizes)} identities"
        raise _check.refuse(where, "labels", "give both same and different pairs", got)
    order = torch.as_tensor(np.argsort(identities, kind="stable"), device=x.device)
    left, right, unit = factors(x, x, metric)
    cut = _in_dots(threshold, metric, unit)
    tiles = partial(_tiles, left[order], right[order], sizes, cut)
    return _rates(float(threshold), tiles, sizes.astype(np.float64), level)


class _Counts(NamedTuple):
    """Accepted pairs of every person; sums over two different people of accepted a, pairs n."""

    same: np.ndarray
    different: np.ndarray
    squares: float  # Σ a²
    products: float  # Σ a n


def _in_dots(threshold: float, metric: str, unit: float) -> float:
    """The lowest dot product of `factors` that is accepted."""
    if metric == "cosine":
        return threshold + 1
    if threshold > 0:
        return float("inf")
    return (threshold if metric == "sqeuclidean" else -(threshold**2)) / (2 * unit**2)


class _Tile(NamedTuple):
    """Ranges of people, and how many pairs of each two of them are accepted; nobody twice."""

    rows: slice
    columns: slice
    own: np.ndarray | None
    """Accepted pairs of each person alone, in a tile on the diagonal."""
    accepted: np.ndarray


def _tiles(left: Tensor, right: Tensor, sizes: np.ndarray, cut: float) -> Iterator[_Tile]:
    ends = np.cumsum(sizes)
    chunks = list(_chunks(ends))
    for k, rows in enumerate(chunks):
        for columns in chunks[k:]:
            accepted, own = _accepted(left, right, sizes, ends, rows, columns, cut), None
            if rows == columns:
                own, accepted = np.diagonal(accepted) / 2, np.triu(accepted, 1)
            yield _Tile(rows, columns, own, accepted)


def _count(tiles: Iterator[_Tile], sizes: np.ndarray) -> _Counts:
    same, different = np.zeros(len(sizes)), np.zeros(len(sizes))
    squares = products = 0.0
    for rows, columns, own, accepted in tiles:
        if own is not None:
            same[rows] = own
        different[rows] += accepted.sum(1)
        different[columns] += accepted.sum(0)
        squares += float((accepted**2).sum())
        products += float(sizes[rows] @ accepted @ sizes[columns])
    return _Counts(same, different, squares, products)


def _joint(
    tiles: Iterator[_Tile], sizes: np.ndarray, far: float, *residuals: np.ndarray
) -> list[float]:
    """`Sums.joint` of false accepts, with the residuals of each person taken from elsewhere."""
    totals = [0.0] * len(residuals)
    for rows, columns, own, accepted in tiles:
        c = accepted - far * np.outer(sizes[rows], sizes[columns])
        if own is not None:
            c = np.triu(c, 1)
        for k, h in enumerate(residuals):
            totals[k] += 2 * float(((h[rows, None] - c) * (h[columns] - c) * c).sum())
    return totals


def _chunks(ends: np.ndarray) -> Iterator[slice]:
    """Ranges of identities that hold about as many images as a tile is wide."""
    first = 0
    while first < len(ends):
        images = ends[first - 1] if first else 0
        stop = max(first + 1, int(np.searchsorted(ends, images + _SIDE, side="right")))
        yield slice(first, stop)
        first = stop


def _accepted(
    left: Tensor,
    right: Tensor,
    sizes: np.ndarray,
    ends: np.ndarray,
    rows: slice,
    columns: slice,
    cut: float,
) -> np.ndarray:
    """Accepted pairs of images of every two people, no image with itself."""
    images = [slice(int(ends[s][0] - sizes[s][0]), int(ends[s][-1])) for s in (rows, columns)]
    hits = (left[images[0]] @ right[images[1]].T >= cut).to(torch.float32)
    if rows == columns:
        hits.fill_diagonal_(0)
    own, other = (
        torch.repeat_interleave(torch.as_tensor(sizes[s], device=hits.device))
        for s in (rows, columns)
    )
    narrow = hits.new_zeros(len(sizes[rows]), hits.shape[1]).index_add_(0, own, hits)
    counts = narrow.new_zeros(len(narrow), len(sizes[columns])).index_add_(1, other, narrow)
    return np.asarray(counts.double().cpu().numpy())


def _rates(
    threshold: float, tiles: Callable[[], Iterator[_Tile]], sizes: np.ndarray, level: float
) -> PairRates:
    found = _count(tiles(), sizes)
    own = sizes * (sizes - 1) / 2
    met = sizes * (sizes.sum() - sizes)
    n_same, n_different = own.sum(), met.sum() / 2
    rejected, accepted = own - found.same, found.different
    frr, far = rejected.sum() / n_same, accepted.sum() / 2 / n_different
    couples = ((sizes**2).sum() ** 2 - (sizes**4).sum()) / 2  # Σ n² over every two people
    residual_couples = found.squares - 2 * far * found.products + far**2 * couples
    own_residuals, met_residuals = rejected - frr * own, accepted - far * met
    alone_same, alone_different = n_same * frr * (1 - frr), n_different * far * (1 - far)

    errors = own_residuals + met_residuals
    joint, joint_errors = _joint(tiles(), sizes, far, met_residuals, errors)

    def interval(
        events: float,
        n: float,
        sums: np.ndarray,
        pairs: np.ndarray,
        alone: float,
        *,
        joint: float,
        twice: bool,
    ) -> Interval:
        return interval_from_sums(
            round(events),
            round(n),
            together=float(sums @ sums - twice * residual_couples),
            joint=joint,
            alone=float(alone),
            at_most=float(pairs @ pairs - twice * couples),
            n_people=int((pairs > 0).sum()),
            level=level,
        )

    wrong = rejected.sum() + accepted.sum() / 2
    n = n_same + n_different
    met_only, same_only = (met_residuals, met, alone_different), (own_residuals, own, alone_same)
    everything = errors, own + met, alone_same + alone_different
    return PairRates(
        threshold,
        interval(n - wrong, n, *everything, joint=-joint_errors, twice=True),
        interval(accepted.sum() / 2, n_different, *met_only, joint=joint, twice=True),
        interval(rejected.sum(), n_same, *same_only, joint=0.0, twice=False),
    )
