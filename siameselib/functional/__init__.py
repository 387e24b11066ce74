"""The mathematics: pure functions, tensors in, tensors out."""

from siameselib.functional.all_triplets import batch_all_triplet_loss
from siameselib.functional.batch_pairs import batch_bce_pair_loss, batch_contrastive_loss
from siameselib.functional.batch_triplets import (
    batch_hard_triplet_loss,
    semi_hard_triplet_loss,
)
from siameselib.functional.class_softmax import (
    arc_face_loss,
    cos_face_loss,
    normalized_softmax_loss,
)
from siameselib.functional.distances import (
    mean_square_distance,
    paired_distance,
    unit_rows,
)
from siameselib.functional.easy_mining import mine_easy_positive, mine_hardest_negatives
from siameselib.functional.lifted import lifted_structure_loss
from siameselib.functional.mining import Triplets, mine_batch_hard, mine_semi_hard
from siameselib.functional.own_pairs import pair_loss
from siameselib.functional.pair_mining import PairBounds, mine_multi_similarity
from siameselib.functional.pair_weighting import circle_loss, multi_similarity_loss
from siameselib.functional.pairs import bce_pair_loss, contrastive_loss
from siameselib.functional.proxies import proxy_anchor_loss, proxy_nca_loss
from siameselib.functional.sampled_mining import mine_distance_weighted
from siameselib.functional.softmax import info_nce_loss, nt_xent_loss, sup_con_loss
from siameselib.functional.stats import Stats
from siameselib.functional.triplets import triplet_loss

__all__ = [
    "PairBounds",
    "Stats",
    "Triplets",
    "arc_face_loss",
    "batch_all_triplet_loss",
    "batch_bce_pair_loss",
    "batch_contrastive_loss",
    "batch_hard_triplet_loss",
    "bce_pair_loss",
    "circle_loss",
    "contrastive_loss",
    "cos_face_loss",
    "info_nce_loss",
    "lifted_structure_loss",
    "mean_square_distance",
    "mine_batch_hard",
    "mine_distance_weighted",
    "mine_easy_positive",
    "mine_hardest_negatives",
    "mine_multi_similarity",
    "mine_semi_hard",
    "multi_similarity_loss",
    "normalized_softmax_loss",
    "nt_xent_loss",
    "pair_loss",
    "paired_distance",
    "proxy_anchor_loss",
    "proxy_nca_loss",
    "semi_hard_triplet_loss",
    "sup_con_loss",
    "triplet_loss",
    "unit_rows",
]
