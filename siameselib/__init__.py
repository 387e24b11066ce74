"""siameselib: metric learning and verification.

    feeding      data · samplers       images, pair lists, protocols; which images meet in a batch
    learning     losses · miners       modules; `functional` has the same as functions
                 siamese · backbones   two images through one net, heads, `freeze`, `C19`
                 distributed           a batch loss over the batches of all processes
    judging      evaluation · plot     thresholds, ROC, retrieval, a `Verifier` to save; pictures
                 diagnostics           the doctor: why a training does not learn
    beneath      kernels               sums and searches over distances that are never all stored

``same`` is 1 for one identity, everywhere. A loss keeps what it saw in ``criterion.stats``.
"""

from siameselib.backbones import C19
from siameselib.diagnostics import Doctor, diagnose
from siameselib.distributed import CrossProcessLoss, gather_batch
from siameselib.kernels import explain, use_backend
from siameselib.losses import (
    ArcFaceLoss,
    BatchAllTripletLoss,
    BatchBCEPairLoss,
    BatchContrastiveLoss,
    BatchHardTripletLoss,
    BCEPairLoss,
    CircleLoss,
    ContrastiveLoss,
    CosFaceLoss,
    InfoNCELoss,
    LiftedStructureLoss,
    MultiSimilarityLoss,
    NormalizedSoftmaxLoss,
    NTXentLoss,
    ProxyAnchorLoss,
    ProxyNCALoss,
    SemiHardTripletLoss,
    SupConLoss,
    TripletLoss,
)
from siameselib.miners import (
    BatchHardMiner,
    DistanceWeightedMiner,
    EasyPositiveMiner,
    HardestNegativesMiner,
    MultiSimilarityMiner,
    SemiHardMiner,
)
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
    "ArcFaceLoss",
    "BCEPairLoss",
    "BatchAllTripletLoss",
    "BatchBCEPairLoss",
    "BatchContrastiveLoss",
    "BatchHardMiner",
    "BatchHardTripletLoss",
    "CircleLoss",
    "ConcatHead",
    "ContrastiveLoss",
    "CosFaceLoss",
    "Coverage",
    "CrossProcessLoss",
    "DistanceHead",
    "DistanceWeightedMiner",
    "Doctor",
    "EasyPositiveMiner",
    "HardestNegativesMiner",
    "InfoNCELoss",
    "InteractionHead",
    "LiftedStructureLoss",
    "MultiSimilarityLoss",
    "MultiSimilarityMiner",
    "NTXentLoss",
    "NormalizedSoftmaxLoss",
    "PKSampler",
    "PairSampler",
    "Pairs",
    "ProxyAnchorLoss",
    "ProxyNCALoss",
    "SemiHardMiner",
    "SemiHardTripletLoss",
    "SiameseNetwork",
    "SupConLoss",
    "TripletLoss",
    "diagnose",
    "explain",
    "freeze",
    "gather_batch",
    "unfreeze",
    "use_backend",
]

__version__ = "0.1.0"
