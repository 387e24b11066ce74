"""Backbones: nets that turn a batch of images into embeddings. Any other `nn.Module` serves too."""

from siameselib.backbones.c19 import C19
from siameselib.backbones.inception import InceptionResnetV1
from siameselib.backbones.separable import SeparableC

__all__ = ["C19", "InceptionResnetV1", "SeparableC"]
