"""siameselib: metric learning and verification."""

from siameselib.backbones import C19
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
    "ConcatHead",
    "DistanceHead",
    "InteractionHead",
    "SiameseNetwork",
    "freeze",
    "unfreeze",
]

__version__ = "0.1.0"
