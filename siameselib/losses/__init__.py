"""The losses as modules: one class per function of :mod:`siameselib.functional`, no maths.

The class takes the keywords of the function, with the same defaults; calling it takes the
tensors. After a call ``criterion.stats`` tells what the loss saw
(:class:`siameselib.functional.Stats`).
"""

from siameselib.losses.batch_pairs import BatchBCEPairLoss, BatchContrastiveLoss
from siameselib.losses.batch_triplets import (
    BatchAllTripletLoss,
    BatchHardTripletLoss,
    SemiHardTripletLoss,
)
from siameselib.losses.classes import (
    ArcFaceLoss,
    CosFaceLoss,
    NormalizedSoftmaxLoss,
)
from siameselib.losses.pair_weighting import (
    CircleLoss,
    LiftedStructureLoss,
    MultiSimilarityLoss,
)
from siameselib.losses.pairs import BCEPairLoss, ContrastiveLoss
from siameselib.losses.proxies import ProxyAnchorLoss, ProxyNCALoss
from siameselib.losses.softmax import InfoNCELoss, NTXentLoss, SupConLoss
from siameselib.losses.triplets import TripletLoss

__all__ = [
    "ArcFaceLoss",
    "BCEPairLoss",
    "BatchAllTripletLoss",
    "BatchBCEPairLoss",
    "BatchContrastiveLoss",
    "BatchHardTripletLoss",
    "CircleLoss",
    "ContrastiveLoss",
    "CosFaceLoss",
    "InfoNCELoss",
    "LiftedStructureLoss",
    "MultiSimilarityLoss",
    "NTXentLoss",
    "NormalizedSoftmaxLoss",
    "ProxyAnchorLoss",
    "ProxyNCALoss",
    "SemiHardTripletLoss",
    "SupConLoss",
    "TripletLoss",
]
