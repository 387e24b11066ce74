"""Retrieval: does a query find its own kind among the references?

Every figure follows from the ranks of a query's positives, and a rank is a count of better
references: no neighbour lists are kept, and any increasing map of the scores changes nothing.
Where the user brings a search of his own, the ranks are read off the neighbours that it finds.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from numbers import Integral
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from siameselib import _check
from siameselib.evaluation.inputs import Values, check_embeddings, check_labels
from siameselib.evaluation.neighbours import KnnBackend, nearest
from siameselib.evaluation.scores import METRICS, factors

Ids: TypeAlias = NDArray[np.int64]

_SLAB = 1 << 21  # scores held at once
_NEVER = torch.iinfo(torch.int64).max  # the rank of what was not found


@dataclass(frozen=True)
class Retrieval:
    """Means over the queries that have a positive; ``n_alone`` queries have none.

    The last two are None where a ``knn_backend`` did not look far enough to know them.
    """

    n_queries: int
    n_alone: int
    n_references: int
    precision_at: dict[int, float]
    recall_at: dict[int, float]
    r_precision: float
    mean_average_precision_at_r: float
    mean_average_precision: float | None
    mean_reciprocal_rank: float | None

    def as_dict(self) -> dict[str, Any]:
        """The figures under flat names such as ``precision_at_1``, ready for JSON."""
        figures = asdict(self)
        for name in ("precision_at", "recall_at"):
            figures.update({f"{name}_{k}": value for k, value in figures.pop(name).items()})
        return figures

    def __str__(self) -> str:
        recalls = ", ".join(f"recall@{k} {value:.3f}" for k, value in self.recall_at.items())
        first = self.mean_reciprocal_rank
        return (
            f"{self.n_queries:,} queries among {self.n_references:,} references: {recalls}, "
            f"R-precision {self.r_precision:.3f}, MAP@R {self.mean_average_precision_at_r:.3f}, "
            f"MRR {'unknown' if first is None else f'{first:.3f}'}"
        )


def evaluate_retrieval(
    embeddings: Values,
    labels: Values,
    *,
    ref: Values | None = None,
    ref_labels: Values | None = None,
    metric: str = "euclidean",
    k: Sequence[int] = (1, 5, 10),
    knn_backend: KnnBackend | None = None,
) -> Retrieval:
    r"""Rank the references for every query and report how high its positives stand.

    With r_1 < ... < r_R the ranks of a query's R positives,

    ======================  ===============================================================
    precision@k             #{r_q ≤ k} / k
    recall@k                1 if r_1 ≤ k, else 0 (also called hit rate or CMC)
    R-precision             #{r_q ≤ R} / R
    MAP@R                   1/R Σ_q [r_q ≤ R] q / r_q
    average precision       1/R Σ_q q / r_q
    reciprocal rank         1 / r_1
    ======================  ===============================================================

    Ties count against the net: references of another identity that are exactly as near as a
    positive rank before it, so that a collapsed net scores 0 and the order of the data does not
    matter. Distances are those of a matrix product in float32 (float64 for float64 embeddings).
    100,000 embeddings of 128 numbers take about 200 MB besides themselves.

    With a ``knn_backend`` the ranks are read off the neighbours that it finds, as many as the
    figures up to MAP@R need, and ties stand in its order. The average precision is then None, and
    so is the reciprocal rank unless every query's first positive is among them.

    Args:
        embeddings: the queries.
        labels: their identities, integers or names.
        ref: what to search. By default the queries themselves, each without itself.
        ref_labels: the identities of ``ref``.
        metric: "euclidean", "sqeuclidean" (the same ranks) or "cosine".
        k: how many nearest references precision@k and recall@k look at.
        knn_backend: None searches exactly, here. "faiss" has faiss do it, if it is installed. A
            function ``(queries, references, k) -> indices`` is called once and gives each query's
            k nearest references by Euclidean distance, nearest first, -1 where it found none; for
            "cosine" it gets embeddings of length 1.

    Shape:
        embeddings: (n, d). labels: (n,). ref: (m, d). ref_labels: (m,).

    Returns:
        Retrieval.

    Raises:
        ValueError: shapes differ, an embedding is not finite, or no query has a positive.
        TypeError: embeddings that are not floating point, labels that are floating point.
        ImportError: faiss is wanted and not installed.

    Example:
        >>> found = evaluate_retrieval([[0.0], [0.1], [1.0], [1.2], [0.3]], [0, 0, 1, 1, 1])
        >>> found.recall_at[1], round(found.mean_average_precision_at_r, 3)
        (0.8, 0.8)

    Source:
        Musgrave, Belongie and Lim 2020 (MAP@R, R-precision); Song et al. 2016 (recall@k).
    """
    x, y, identities, ref_identities = _checked(embeddings, labels, ref, ref_labels)
    _check.choice("evaluate_retrieval", "metric", metric, METRICS)
    several = isinstance(k, Sequence | np.ndarray) and not isinstance(k, str) and len(k) > 0
    if not several or not all(isinstance(each, Integral) and each > 0 for each in k):
        raise _check.refuse(
            "evaluate_retrieval", "k", "hold positive numbers", tuple(k) if np.ndim(k) else k
        )
    k = [int(each) for each in k]
    order = _order(identities, ref_identities, itself=ref is None)
    if len(order.queries) == 0:
        got = f"{len(x)} queries without any"
        raise _check.refuse("evaluate_retrieval", "labels", "give some query a positive", got)
    sums = torch.zeros(2 * len(k) + 4, dtype=torch.float64, device=x.device)
    if knn_backend is None:
        depth, blocks = len(y), _ranks(x, y, order, metric)
    else:
        depth = min(max(max(k) + (ref is None), int(order.size.max())), len(y))
        found = nearest(knn_backend, x[order.queries.to(x.device)], y, depth, metric)
        blocks = _found_ranks(found, order, ref_identities)
    first_found = True
    for ranks, counts in blocks:
        sums += torch.stack(_figures(ranks, counts, k))
        first_found &= bool((ranks.amin(1) < _NEVER).all())
    means: list[Any] = (sums / len(order.queries)).tolist()
    if depth < len(y):
        means[-2:] = None, means[-1] if first_found else None
    return Retrieval(
        len(order.queries),
        len(x) - len(order.queries),
        len(y),
        dict(zip(k, means, strict=False)),
        dict(zip(k, means[len(k) :], strict=False)),
        *means[2 * len(k) :],
    )


class _Order(NamedTuple):
    """Queries that have positives, and references, by the size of their identities.

    So the positives of a query are one range of references, and queries with as many of them
    stand together.
    """

    queries: Tensor
    references: Tensor
    first: Tensor
    """The first reference of each query's identity."""
    size: Tensor
    """How many there are, the query itself included."""
    own: Tensor
    """Which of the references is the query itself; -1 where none is."""


def _order(identities: Ids, ref_identities: Ids, *, itself: bool) -> _Order:
    sizes = np.bincount(ref_identities, minlength=identities.max() + 1)
    by_size = np.argsort(sizes, kind="stable")
    place = np.argsort(by_size)
    starts = np.cumsum(sizes[by_size]) - sizes[by_size]
    references = np.argsort(place[ref_identities], kind="stable")
    queries = np.argsort(place[identities], kind="stable")
    queries = queries[sizes[identities[queries]] > itself]
    own = np.argsort(references)[queries] if itself else np.full(len(queries), -1)
    first = starts[place[identities[queries]]]
    size = sizes[identities[queries]]
    return _Order(*map(torch.from_numpy, (queries, references, first, size, own)))


def _ranks(x: Tensor, y: Tensor, order: _Order, metric: str) -> Iterator[tuple[Tensor, Tensor]]:
    """The ranks of the positives of blocks of queries, and how many each has.

    A row holds the ranks from the last positive to the first, and then whatever fills it up.
    """
    left, right, _ = factors(x, y, metric)
    order = _Order(*(part.to(x.device) for part in order))
    right = right[order.references]
    m, height = len(right), max(1, _SLAB // len(right))
    for start in range(0, len(order.queries), height):
        block = slice(start, start + height)
        first, size, own = order.first[block], order.size[block], order.own[block]
        scores = left[order.queries[block]] @ right.T
        rows = torch.arange(len(own), device=x.device)[:, None]
        if own[0] >= 0:
            scores[rows[:, 0], own] = -torch.inf
        width = int(size[-1])
        columns = first[:, None] + torch.arange(width, device=x.device)
        positive = (columns < (first + size)[:, None]) & (columns != own[:, None])
        found = scores.gather(1, columns.clamp(max=m - 1))
        found = found.where(positive, torch.inf).sort(1).values
        counts = positive.sum(1)
        # Of each reference, how many positives it is as near as; of each positive, how many
        # references are as near as it; less the positives among them.
        beats = torch.searchsorted(found, scores, right=True).add_(rows * (width + 1))
        histogram = torch.bincount(beats.flatten(), minlength=len(rows) * (width + 1))
        as_near = histogram.view(len(rows), -1).flip(1).cumsum(1).flip(1)[:, 1:]
        positives_as_near = counts[:, None] - torch.searchsorted(found, found)
        place = counts[:, None] - torch.arange(width, device=x.device)
        yield place + as_near - positives_as_near, counts


def _found_ranks(
    found: Tensor, order: _Order, ref_identities: Ids
) -> Iterator[tuple[Tensor, Tensor]]:
    """As `_ranks`, of the positives among the neighbours found; the others have none."""
    itself = int(order.own[0] >= 0)
    kinds = torch.from_numpy(ref_identities).to(found.device)
    own_kinds = kinds[order.references.to(found.device)][order.first.to(found.device)]
    queries, size = order.queries.to(found.device), order.size.to(found.device)
    height = max(1, _SLAB // found.shape[1])
    for start in range(0, len(found), height):
        block = slice(start, start + height)
        neighbours, counts = found[block], size[block] - itself
        other = neighbours != (queries[block, None] if itself else -1)
        hit = other & (neighbours >= 0) & (kinds[neighbours] == own_kinds[block, None])
        row, column = hit.nonzero(as_tuple=True)
        place = hit.cumsum(1)[row, column]
        if bool((place > counts[row]).any()):
            expected = "give every neighbour of a query once"
            raise _check.refuse("evaluate_retrieval", "knn_backend", expected, "one twice")
        ranks = torch.full((len(counts), int(counts[-1])), _NEVER, device=found.device)
        ranks[row, counts[row] - place] = other.cumsum(1)[row, column]
        yield ranks, counts


def _figures(ranks: Tensor, counts: Tensor, k: Sequence[int]) -> list[Tensor]:
    """The sums over queries of every figure, in the order of `Retrieval`."""
    place = counts[:, None] - torch.arange(ranks.shape[1], device=ranks.device)  # 1 = nearest
    ranks = ranks.where(place > 0, _NEVER)
    precision = (place / ranks.double()).clamp(min=0)
    within_r = ranks <= counts[:, None]
    nearest = ranks.amin(1)
    hits = [(ranks <= limit).sum().double() / limit for limit in k]
    return [
        *hits,
        *((nearest <= limit).sum() for limit in k),
        (within_r.sum(1) / counts.double()).sum(),
        ((precision * within_r).sum(1) / counts).sum(),
        (precision.sum(1) / counts).sum(),
        (1 / nearest.double()).sum(),
    ]


def _checked(
    embeddings: Values, labels: Values, ref: Values | None, ref_labels: Values | None
) -> tuple[Tensor, Tensor, Ids, Ids]:
    """Queries, references and their identities in common numbers."""
    x = check_embeddings("evaluate_retrieval", embeddings)
    names = check_labels("evaluate_retrieval", labels, len(x))
    if ref is None and ref_labels is None:
        identities = np.unique(names, return_inverse=True)[1]
        return x, x, identities, identities
    if ref is None or ref_labels is None:
        got = "one of them"
        raise _check.refuse("evaluate_retrieval", "ref and ref_labels", "be given together", got)
    y = check_embeddings("evaluate_retrieval", ref, "ref")
    if y.shape[1] != x.shape[1]:
        expected = f"be as wide as embeddings, {x.shape[1]}"
        raise _check.refuse("evaluate_retrieval", "ref", expected, y.shape[1])
    _check.same_device("evaluate_retrieval", "embeddings", x, "ref", y)
    ref_names = check_labels("evaluate_retrieval", ref_labels, len(y), "ref_labels")
    together = np.unique(np.concatenate((names, ref_names)), return_inverse=True)[1]
    return x, y.to(x.dtype), together[: len(x)], together[len(x) :]
