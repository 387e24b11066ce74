"""siameselib: metric learning and verification."""

from siameselib.backbones import C19
from siameselib.losses import BCEPairLoss, ContrastiveLoss, InfoNCELoss, TripletLoss
from siameselib.samplers import Coverage, Pairs, PairSampler, PKSampler
from siameselib.siamese import (
    ConcatHead,
    DistanceHead,
    InteractionHead,
    SiameseNetwork,
    freeze,
    unfreeze,
)

__all__ = [
    "C19",
    "BCEPairLoss",
    "ConcatHead",
    "ContrastiveLoss",
    "Coverage",
    "DistanceHead",
    "InfoNCELoss",
    "InteractionHead",
    "PKSampler",
    "PairSampler",
    "Pairs",
    "SiameseNetwork",
    "TripletLoss",
    "freeze",
    "unfreeze",
]

__version__ = "0.1.0"
