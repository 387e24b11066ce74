"""What a loss saw, beside its value: the record that every criterion keeps as ``stats``."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

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


Later = Callable[[], Stats]
"""Stats that nobody has asked for yet."""


def later(compute: Callable[..., Stats], *facts: Any) -> Stats | Later:
    """Put off computing stats of detached facts: most calls are never asked for them.

    Args:
        compute: a function of a module, so that a criterion that waits can be pickled,
        facts: and what it takes.

    Returns:
        The call to be made; under ``torch.compile``, which takes nothing unfinished, the stats.
    """
    return compute(*facts) if torch.compiler.is_compiling() else partial(compute, *facts)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of the values where the mask is true, NaN where it is nowhere true; no gradient."""
    values, mask = values.detach(), mask.detach()
    return torch.where(mask, values, 0).sum() / mask.sum()
