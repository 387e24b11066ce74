"""Verification over all n (n - 1) / 2 pairs of n embeddings, in memory for a few of them.

The pairs stream by in tiles of the score matrix and are counted in bins, exactly. What the bins
leave open, the order inside a bin, is bounded on both sides and reported as an error.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from siameselib import _check
from siameselib.evaluation.curves import Roc, auc_from_counts, eer_from_counts
from siameselib.evaluation.inputs import Floats, Values, check_embeddings, check_labels
from siameselib.evaluation.scores import METRICS, factors
from siameselib.evaluation.thresholds import just_above
from siameselib.evaluation.verification import TarAtFar, tar_from_counts
from siameselib.kernels.tiles import Side, same, tiles

_BATCH = 1 << 22  # bin numbers gathered before they are counted
FARS = (0.1, 0.01, 0.001, 1e-4, 1e-5, 1e-6)


@dataclass(frozen=True, eq=False)
class AllPairs:
    """Counts of all pairs at evenly spaced cuts of the score, from "none" to "all".

    Cut k accepts ``true[k]`` same and ``false[k]`` different pairs: those whose score, the
    negative distance, is ``thresholds[k]`` or more (to the width of a bin).
    """

    n_images: int
    metric: str
    thresholds: Floats
    false: NDArray[np.int64]
    true: NDArray[np.int64]

    @property
    def n_same(self) -> int:
        """Pairs of one identity."""
        return int(self.true[-1])

    @property
    def n_different(self) -> int:
        """Pairs of two identities."""
        return int(self.false[-1])

    @property
    def auc(self) -> float:
        """Area under the ROC; the exact one is at most `auc_error` away."""
        return auc_from_counts(*self._exact())

    @property
    def auc_error(self) -> float:
        """Half of the share of (same, different) pairs of pairs that fall into one bin."""
        false, true = self._exact()
        undecided = ((false[1:] - false[:-1]) * (true[1:] - true[:-1])).sum()
        return int(undecided) / (2 * self.n_same * self.n_different)

    @property
    def eer(self) -> float:
        """Equal error rate on the convex hull; the exact one is at most `eer_error` away."""
        least, most = self._eer_bounds()
        return (least + most) / 2

    @property
    def eer_error(self) -> float:
        """Half of the range that the bins leave to the equal error rate."""
        least, most = self._eer_bounds()
        return (most - least) / 2

    def roc(self) -> Roc:
        """The operating points of the cuts."""
        far, tar = self.false / self.n_different, self.true / self.n_same
        return Roc(far, tar, self.thresholds)

    def tar_at_far(self, far: float) -> TarAtFar:
        """As `siameselib.evaluation.tar_at_far`, at the best of the cuts."""
        return tar_from_counts(self.false, self.true, far, lambda cut: float(self.thresholds[cut]))

    def rates_at(self, threshold: float) -> tuple[float, float]:
        """False-accept and true-accept rate at a threshold (to the width of a bin)."""
        cut = int((self.thresholds[1:] >= threshold).sum())
        return int(self.false[cut]) / self.n_different, int(self.true[cut]) / self.n_same

    def as_dict(self) -> dict[str, Any]:
        """The figures as plain numbers, strings and dictionaries, ready for JSON."""
        tars = {f"{far:g}": self.tar_at_far(far) for far in FARS}
        return {
            "n_images": self.n_images,
            "n_same": self.n_same,
            "n_different": self.n_different,
            "metric": self.metric,
            "auc": self.auc,
            "auc_error": self.auc_error,
            "eer": self.eer,
            "eer_error": self.eer_error,
            "tar_at_far": {far: tar.as_dict() for far, tar in tars.items()},
        }

    def __str__(self) -> str:
        tars = "; ".join(f"TAR at FAR {far:g} {self.tar_at_far(far)}" for far in FARS)
        return (
            f"all {self.n_same + self.n_different:,} pairs of {self.n_images:,} images "
            f"({self.n_same:,} same): AUC {self.auc:.6f} ± {self.auc_error:.1g}; "
            f"EER {self.eer:.5f} ± {self.eer_error:.1g}; {tars}"
        )

    def _exact(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """The counts in integers in which their products do not overflow."""
        if self.n_same * self.n_different < 2**61:
            return self.false, self.true
        return self.false.astype(object), self.true.astype(object)

    def _eer_bounds(self) -> tuple[float, float]:
        # Inside a bin the true curve passes below the corner where all same pairs come first.
        false, true = self._exact()
        corners = np.append(false[:1], false), np.append(true, true[-1:])
        return eer_from_counts(*corners), eer_from_counts(false, true)


def all_pairs(
    embeddings: Values, labels: Values, *, metric: str = "euclidean", bins: int = 1 << 20
) -> AllPairs:
    """Count all pairs of embeddings by score: the ROC of millions or billions of pairs.

    The score of a pair is its negative distance. Two sweeps over the upper triangle of the score
    matrix, one for the range and one for the counts: O(n² d) time, O(n d + bins) memory, on the
    device of the embeddings. Scores are those of a matrix product in float32 (float64 for
    float64 embeddings), off by about 1e-6 of the largest distance, squared.

    Args:
        embeddings: one per image.
        labels: their identities, integers or names.
        metric: "euclidean", "sqeuclidean" or "cosine".
        bins: how many, evenly spaced between the lowest and the highest score (in the squared
            distance for "euclidean"). A million bracket the AUC to about 1e-6 even where the two
            kinds overlap widely.

    Shape:
        embeddings: (n, d). labels: (n,).

    Returns:
        AllPairs, with the AUC and the equal error rate bracketed.

    Raises:
        ValueError: shapes differ, an embedding is not finite, or there are no pairs of one kind.
        TypeError: embeddings that are not floating point, labels that are floating point.

    Example:
        >>> found = all_pairs([[0.0], [0.1], [1.0], [1.2]], [0, 0, 1, 1])
        >>> found.n_same, found.n_different, found.auc, found.auc_error
        (2, 4, 1.0, 0.0)
    """
    x = check_embeddings("all_pairs", embeddings)
    names = check_labels("all_pairs", labels, len(x))
    _check.choice("all_pairs", "metric", metric, METRICS)
    bins = _check.integer("all_pairs", "bins", bins, 1)
    identities, sizes = np.unique(names, return_inverse=True, return_counts=True)[1:]
    if len(sizes) < 2 or sizes.max() < 2:
        got = f"{len(x)} images of {len(sizes)} identities"
        raise _check.refuse("all_pairs", "labels", "give both same and different pairs", got)
    order = torch.as_tensor(np.argsort(identities, kind="stable"), device=x.device)
    ids = torch.as_tensor(identities, device=x.device)[order]
    rows, columns, unit = factors(x, x, metric)
    left, right = Side(rows[order], ids, order), Side(columns[order], ids, order)
    low, high = _range(left, right)
    every, alike = _counts(left, right, low, high, bins)
    edges = np.linspace(high, low, bins + 1)
    scores = {"cosine": edges - 1, "sqeuclidean": 2 * edges * unit**2}.get(
        metric, -np.sqrt(2 * np.maximum(-edges, 0)) * unit
    )
    scores[0] = just_above(scores[0])  # accepts nothing
    true = np.concatenate(([0], alike[::-1].cumsum()))
    false = np.concatenate(([0], every[::-1].cumsum())) - true
    return AllPairs(len(x), metric, scores, false, true)


def _pairs(left: Side, right: Side) -> Iterator[tuple[Tensor, Tensor]]:
    """The values of the pairs of every tile, and those of its same pairs."""
    for tile, values in tiles(left, right, upper=True):
        rows = torch.arange(tile.rows.start, tile.rows.stop, device=values.device)[:, None]
        columns = torch.arange(tile.columns.start, tile.columns.stop, device=values.device)
        band = tile.inside(tile.band)
        alike = values[:, band][same(tile, left, right) & (columns[band] > rows)]
        crossed = tile.columns.start < tile.rows.stop  # by the diagonal
        yield values[columns > rows] if crossed else values.flatten(), alike


def _range(left: Side, right: Side) -> tuple[float, float]:
    extremes = [
        torch.stack(torch.aminmax(values)) for values, _ in _pairs(left, right) if len(values)
    ]
    low, high = torch.stack(extremes, 1)
    return float(low.amin()), float(high.amax())


def _counts(
    left: Side, right: Side, low: float, high: float, bins: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs and same pairs per bin; the bin of a value never falls when the value rises."""
    per_unit = min(bins / max(high - low, 1e-300), 1e30)
    totals = torch.zeros(2, bins, dtype=torch.int64, device=left.x.device)
    waiting: tuple[list[Tensor], list[Tensor]] = ([], [])
    for part in _pairs(left, right):
        for total, numbers, values in zip(totals, waiting, part, strict=True):
            scaled = values.sub(low).mul_(per_unit)
            numbers.append(scaled.to(torch.int32).clamp_(max=bins - 1))
            if sum(map(len, numbers)) > _BATCH:
                _add(total, numbers)
    for total, numbers in zip(totals, waiting, strict=True):
        _add(total, numbers)
    every, alike = totals.cpu().numpy()
    return every, alike


def _add(total: Tensor, numbers: list[Tensor]) -> None:
    if numbers:
        total += torch.bincount(torch.cat(numbers), minlength=len(total))
    numbers.clear()
