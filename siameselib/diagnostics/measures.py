"""Numbers drawn from kept samples: distances of pairs, AUCs with their errors, spread, rank."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from siameselib.diagnostics.collect import Sample
from siameselib.diagnostics.reading import Reading
from siameselib.evaluation.curves import auc
from siameselib.functional.distances import Metric, paired_distance, unit_rows

Floats = NDArray[np.float64]


class Auc(NamedTuple):
    """An AUC over several batches, with a standard error that allows for their dependence."""

    value: float
    se: float
    pairs: int

    def __str__(self) -> str:
        return f"{self.value:.3f} ± {self.se:.3f}"


class Judged(NamedTuple):
    """Scores of pairs that were not trained on, the threshold in use, and their AUC."""

    scores: Floats
    same: NDArray[np.bool_]
    threshold: float | None
    auc: Auc


class Distances(NamedTuple):
    """Distances of the pairs of a sample, and which of them are of one identity."""

    values: Floats
    same: NDArray[np.bool_]


def distances_of(sample: Sample, metric: Metric, unit: bool) -> Distances | None:
    """Measure the pairs of a sample: all of a batch, the given ones of pairs and triplets."""
    rows = [unit_rows(x) if unit else x for x in sample.rows]
    if not rows or not all(bool(x.isfinite().all()) for x in rows):
        return None
    if sample.form == "triplets":
        a, p, n = rows
        d = torch.cat([paired_distance(a, p, metric), paired_distance(a, n, metric)])
        same = torch.arange(len(d)) < len(a)
    elif sample.form == "pairs" and sample.labels is not None:
        d, same = paired_distance(rows[0], rows[1], metric), sample.labels > 0
    elif sample.labels is not None:
        i, j = torch.triu_indices(len(rows[0]), len(rows[0]), 1)
        d = square_distances(rows[0], metric)[i, j]
        same = sample.labels[i] == sample.labels[j]
    else:
        return None
    return Distances(d.double().numpy(), same.numpy())


def of_logits(sample: Sample, reading: Reading) -> Distances | None:
    """Read logits as similarities; a number a pair that a margin is applied to is a distance."""
    if sample.logits is None or sample.labels is None:
        return None
    z = sample.logits.double().numpy()
    far = z if reading.margin is not None else -z
    return Distances(far, (sample.labels > 0).numpy())


def square_distances(x: Tensor, metric: Metric) -> Tensor:
    """Distances of all rows to all rows: (n, n)."""
    if callable(metric):
        n = len(x)
        each, every = x.repeat_interleave(n, 0), x.repeat(n, 1)
        return paired_distance(each, every, metric).view(n, n)
    if metric == "cosine":
        x = unit_rows(x)
    exact = "donot_use_mm_for_euclid_dist"
    d = torch.cdist(x, x, p=1.0 if metric == "manhattan" else 2.0, compute_mode=exact)
    return {"sqeuclidean": d.square(), "cosine": d.square() / 2}.get(metric, d)


def auc_of(samples: list[Sample], distances: Sequence[Distances | None]) -> Auc | None:
    """Average the AUC within batches.

    The standard error is Hanley and McNeil's. All pairs of a labelled batch are far from
    independent, so there only as many count as there are identities, and the spread from batch to
    batch is taken where it is larger.

    Args:
        samples: of the batches.
        distances: of the pairs in each.

    Returns:
        The AUC, or None where no batch has both kinds of pair.
    """
    values, pairs, identities = [], 0, set[int]()
    kept_same = kept_different = 0
    for sample, found in zip(samples, distances, strict=True):
        if found is None or found.same.all() or not found.same.any():
            continue
        if not np.isfinite(found.values).all():
            continue
        values.append(auc(-found.values, found.same))
        pairs += len(found.same)
        if sample.form == "batch" and sample.labels is not None:
            identities.update(sample.labels.tolist())
        kept_same += int(found.same.sum())
        kept_different += int((~found.same).sum())
    if not values:
        return None
    a = float(np.mean(values))
    n_same, n_different = kept_same, kept_different
    if identities:
        n_same, n_different = min(n_same, len(identities)), min(n_different, len(identities))
    se = hanley_mcneil(a, n_same, n_different)
    if identities and len(values) > 1:
        se = max(se, float(np.std(values, ddof=1)) / math.sqrt(len(values)))
    return Auc(a, se, pairs)


def hanley_mcneil(a: float, n_same: int, n_different: int) -> float:
    """Standard error of an AUC (Hanley and McNeil, Radiology 1982, equation 2)."""
    q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
    variance = a * (1 - a) + (n_same - 1) * (q1 - a * a) + (n_different - 1) * (q2 - a * a)
    return math.sqrt(max(variance, 0.0) / (n_same * n_different))


def judge_scores(scores: Floats, same: NDArray[np.bool_], threshold: float | None) -> Judged:
    """Put scores and their AUC together."""
    area, n_same = auc(scores, same), int(same.sum())
    se = hanley_mcneil(area, n_same, len(same) - n_same)
    return Judged(scores, same, threshold, Auc(area, se, len(same)))


def pooled(distances: Sequence[Distances | None]) -> Distances | None:
    """Put the pairs of several samples together."""
    found = [d for d in distances if d is not None]
    if not found:
        return None
    return Distances(
        np.concatenate([d.values for d in found]), np.concatenate([d.same for d in found])
    )


def unit_length(rows: Tensor) -> bool:
    """Whether all rows have length 1, to within half-precision rounding."""
    return len(rows) > 1 and bool(((rows.norm(dim=1) - 1).abs() < 0.01).all())


def spread(rows: Tensor) -> float:
    """Root mean square distance from the mean, over the root mean square length."""
    rows = rows.double()
    length = float(rows.square().sum(1).mean().sqrt())
    around = float((rows - rows.mean(0)).square().sum(1).mean().sqrt())
    return around / length if length > 0 else 0.0


def effective_rank(rows: Tensor) -> float:
    """Exponential of the entropy of the spectrum of the covariance (Roy and Vetterli 2007)."""
    centred = (rows - rows.mean(0)).double()
    energy = torch.linalg.svdvals(centred).square()
    share = energy / energy.sum().clamp_min(1e-300)
    return float(torch.exp(-torch.xlogy(share, share).sum()))
