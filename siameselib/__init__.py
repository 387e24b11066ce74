"""siameselib: metric learning and verification."""

from siameselib.backbones import C19
from siameselib.losses import BCEPairLoss, ContrastiveLoss, InfoNCELoss, TripletLoss
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
    "DistanceHead",
    "InfoNCELoss",
    "InteractionHead",
    "SiameseNetwork",
    "TripletLoss",
    "freeze",
    "unfreeze",
]

__version__ = "0.1.0"
