"""What a loss saw, beside its value: the record that every criterion keeps as ``stats``."""

from typing import NamedTuple

import torch
from torch import Tensor


class Stats(NamedTuple):
    """What one call of a loss saw: detached 0-d tensors, no host sync until one is read.

    A mean over nothing is NaN: a batch without positives has no mean positive distance.
    """

    valid: Tensor
    """How many terms (pairs, triplets or anchors) the mean is over; int64."""

    active: Tensor
    """The fraction of the valid terms whose loss is above zero."""

    positive_distance: Tensor
    """The mean distance over the positive pairs looked at, in the loss's own metric
    (1 - cosine for losses on cosine similarity, -logit for losses on logits)."""

    negative_distance: Tensor
    """The same over the negative pairs looked at."""

    trivial: Tensor
    """The loss of a model that gives every sample the same embedding (or every pair the same,
    best constant, answer): a loss that stays near this value has learnt nothing."""


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of the values where the mask is true, NaN where it is nowhere true; no gradient."""
    values, mask = values.detach(), mask.detach()
    return torch.where(mask, values, 0).sum() / mask.sum()
