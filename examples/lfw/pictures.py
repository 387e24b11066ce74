"""The pictures of a run: curves, distances, hardest errors, embedding map."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from task import Pairs
from torch import Tensor

from siameselib import plot
from siameselib.evaluation import Verifier

SHOWN = 12  # hardest errors of each kind
MAPPED = 16  # people in the embedding map


def draw(
    out: Path,
    packed: Any,
    pairs: Pairs,
    scores: NDArray[np.float64],
    verifier: Verifier,
    embeddings: Tensor,
    rows: NDArray[np.int64],
    history: list[dict[str, Any]],
) -> None:
    """Draw everything about a run into its folder."""
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
