"""The pictures of a run: curves, distances, hardest errors, neighbours, embeddings; its report."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from task import Pairs
from torch import Tensor

from siameselib import plot
from siameselib.data import Images
from siameselib.evaluation import Verifier
from siameselib.report import write_report

SHOWN = 12  # hardest errors of each kind
QUERIES, NEIGHBOURS = 8, 6  # of the retrieval rows
MAPPED = 16  # people in the embedding map


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
    plot.save(plot.roc(scores, pairs.same), out / "roc.png")
    plot.save(plot.det(scores, pairs.same), out / "det.png")
    plot.save(
        plot.distance_histogram(scores, pairs.same, verifier.threshold), out / "distances.png"
    )
    plot.save(plot.training_curves(history), out / "training.png")
    for kind, wrong in (
        ("false-accepts", ~pairs.same & (scores >= verifier.threshold)),
        ("false-rejects", pairs.same & (scores < verifier.threshold)),
    ):
        worst = np.flatnonzero(wrong)
        worst = worst[np.argsort(-np.abs(scores[worst] - verifier.threshold))][:SHOWN]
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
    plot.save(
        plot.embedding_map(embeddings[chosen], labels[chosen], images=packed.images[rows[chosen]]),
        out / "embeddings.png",
    )
    plot.save(neighbours(packed, verifier, embeddings, rows), out / "neighbours.png")
    write_report(out)


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
        [packed.identities[row].replace("_", " ") for row in queries],
        title=f"Nearest of {len(rows):,} photos: {right.sum()} of {there} that could be right",
    )
