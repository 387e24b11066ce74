"""Samplers: which images meet in a batch. Pairs of images, or P identities × K images.

They draw from a generator of their own, so that the order of an epoch depends on the seed and the
number of the epoch alone, whatever else draws random numbers; they can stop and go on anywhere.
"""

from siameselib.samplers.pairs import Pairs, PairSampler
from siameselib.samplers.pk import Coverage, PKSampler

__all__ = ["Coverage", "PKSampler", "PairSampler", "Pairs"]
