"""The mathematics: pure functions, tensors in, tensors out."""

from siameselib.functional.distances import (
    mean_square_distance,
    paired_distance,
    unit_rows,
)
from siameselib.functional.pairs import bce_pair_loss, contrastive_loss
from siameselib.functional.softmax import info_nce_loss
from siameselib.functional.stats import Stats
from siameselib.functional.triplets import triplet_loss

__all__ = [
    "Stats",
    "bce_pair_loss",
    "contrastive_loss",
    "info_nce_loss",
    "mean_square_distance",
    "paired_distance",
    "triplet_loss",
    "unit_rows",
]
