"""siameselib: metric learning and verification."""

from siameselib.backbones import C19
from siameselib.kernels import explain, use_backend
from siameselib.losses import (
    BatchAllTripletLoss,
    BatchHardTripletLoss,
    BCEPairLoss,
    ContrastiveLoss,
    InfoNCELoss,
    NTXentLoss,
    SemiHardTripletLoss,
    SupConLoss,
    TripletLoss,
)
from siameselib.miners import BatchHardMiner, SemiHardMiner
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
    "BatchAllTripletLoss",
    "BatchHardMiner",
    "BatchHardTripletLoss",
    "ConcatHead",
    "ContrastiveLoss",
    "Coverage",
    "DistanceHead",
    "InfoNCELoss",
    "InteractionHead",
    "NTXentLoss",
    "PKSampler",
    "PairSampler",
    "Pairs",
    "SemiHardMiner",
    "SemiHardTripletLoss",
    "SiameseNetwork",
    "SupConLoss",
    "TripletLoss",
    "explain",
    "freeze",
    "unfreeze",
    "use_backend",
]

__version__ = "0.1.0"
