"""The pictures of a run: curves, probabilities, hardest errors, neighbours, map; its report."""

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from task import Pairs
from torch import Tensor

from siameselib import plot
from siameselib.data import Images
from siameselib.evaluation import Verifier, reliability, tar_at_far
from siameselib.report import write_report

SHOWN = 12  # hardest errors of each kind
BAND = 40  # false-accept rates at which the band is worked out
QUERIES, NEIGHBOURS = 8, 6  # of the retrieval rows
MAPPED = 16  # people in the embedding map

Floats: TypeAlias = NDArray[np.float64]
People: TypeAlias = tuple[NDArray[np.int64], NDArray[np.int64]]
Band: TypeAlias = tuple[Floats, Floats, Floats]


def draw(
    out: Path,
    packed: Images,
    pairs: Pairs,
    scores: NDArray[np.float64],
    verifier: Verifier,
    embeddings: Tensor,
    rows: NDArray[np.int64],
    history: list[dict[str, Any]],
) -> None:
    """Draw everything about a run into its folder, and put it together on one page."""
    calibration, threshold = verifier.calibration, verifier.threshold
    if calibration is None or threshold is None:
        raise ValueError("draw: the verifier must be fitted first")
    who = packed.labels[pairs.i], packed.labels[pairs.j]
    band = tar_band(scores, pairs.same, who)
    plot.save(plot.roc(scores, pairs.same, band=band), out / "roc.png")
    rejected = None if band is None else (band[0], 1 - band[2], 1 - band[1])
    plot.save(plot.det(scores, pairs.same, band=rejected), out / "det.png")
    plot.save(probabilities(calibration(scores), pairs.same, who), out / "reliability.png")
    plot.save(plot.distance_histogram(scores, pairs.same, threshold), out / "distances.png")
    plot.save(plot.training_curves(history), out / "training.png")
    for kind, wrong in (
        ("false-accepts", ~pairs.same & (scores >= threshold)),
        ("false-rejects", pairs.same & (scores < threshold)),
    ):
        worst = np.flatnonzero(wrong)
        worst = worst[np.argsort(-np.abs(scores[worst] - threshold))][:SHOWN]
        if len(worst):
            plot.save(
                plot.photo_pairs(
                    packed.images[pairs.i[worst]],
                    packed.images[pairs.j[worst]],
                    [str(verifier.judge(s)) for s in scores[worst]],
                    title=f"Hardest {kind.replace('-', ' ')}: {len(worst)} of {wrong.sum()}",
                ),
                out / f"{kind}.png",
            )
    labels = packed.labels[rows]
    people, counts = np.unique(labels, return_counts=True)
    chosen = np.isin(labels, people[np.argsort(-counts, kind="stable")][:MAPPED])
    names = names_of(packed, rows[chosen])
    photos = packed.images[rows[chosen]]
    plot.save(plot.embedding_map(embeddings[chosen], names, photos), out / "embeddings.png")
    plot.save(neighbours(packed, verifier, embeddings, rows), out / "neighbours.png")
    write_report(out)


def tar_band(scores: Floats, same: NDArray[np.bool_], who: People) -> Band | None:
    """Intervals of the true-accept rate at the false-accept rates that so many pairs can measure.

    They know that pairs share people; None where no rate can be measured.
    """
    rates = np.geomspace(10 / max(10, int((~same).sum())), 1, BAND)
    found = [tar_at_far(scores, same, far, identities=who) for far in rates]
    ends = [(f.far, f.interval.low, f.interval.high) for f in found if f.interval is not None]
    return tuple(np.array(ends).T) if len(ends) > 1 else None


def probabilities(said: Floats, same: NDArray[np.bool_], who: People) -> Figure:
    """Draw how often the verifier's probabilities came true."""
    bins = reliability(said, same, identities=who).bins
    return plot.reliability(
        [b.predicted for b in bins],
        [b.observed.value for b in bins],
        [b.observed.n for b in bins],
        low=[b.observed.low for b in bins],
        high=[b.observed.high for b in bins],
    )


def neighbours(
    packed: Images, verifier: Verifier, embeddings: Tensor, rows: NDArray[np.int64]
) -> Figure:
    """Draw the people with most photos: one of each, and what the net finds most alike."""
    _, first, counts = np.unique(packed.labels[rows], return_index=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:QUERIES]
    chosen, k = first[order], min(NEIGHBOURS, len(rows) - 1)
    nearest = []
    for query in chosen:
        scores = verifier.scores(embeddings[query].expand_as(embeddings), embeddings)
        scores[query] = -np.inf
        nearest.append(rows[np.argsort(-scores, kind="stable")[:k]])
    queries = rows[chosen]
    right = packed.labels[np.stack(nearest)] == packed.labels[queries, None]
    there = np.minimum(counts[order] - 1, k).sum()
    return plot.retrieval_rows(
        packed.images[queries],
        packed.images[np.stack(nearest)],
        right,
        names_of(packed, queries),
        title=f"Nearest of {len(rows):,} photos: {right.sum()} of {there} that could be right",
    )


def names_of(packed: Images, rows: NDArray[np.int64]) -> list[str]:
    return [packed.identities[row].replace("_", " ") for row in rows]
