"""Losses on all pairs of a labelled batch as modules.

The maths is in :mod:`siameselib.functional.batch_pairs`.
"""

import math

import torch
from torch import Tensor, nn

from siameselib.functional.batch import check_words
from siameselib.functional.batch_pairs import (
    BIAS,
    SCALE,
    batch_bce_pair_with_stats,
    batch_contrastive_with_stats,
    check_margins,
)
from siameselib.losses._seen import Seen
from siameselib.losses._show import show


class BatchContrastiveLoss(nn.Module):
    """Module of :func:`siameselib.functional.batch_contrastive_loss`: see there for the keywords.

    Example:
        >>> import torch
        >>> criterion = BatchContrastiveLoss(margin=2.0)
        >>> criterion(torch.zeros(4, 2), torch.tensor([0, 0, 1, 1]))  # collapsed: m²/2
        tensor(2.)
        >>> criterion.stats.trivial  # m²/4, with all pairs m/2 apart
        tensor(1.)
    """

    stats = Seen()

    def __init__(
        self,
        *,
        margin: float = 1.0,
        positive_margin: float = 0.0,
        squared: bool = True,
        balanced: bool = True,
        metric: str = "euclidean",
        reduction: str = "mean",
        validate: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        check_words("BatchContrastiveLoss", metric=metric, reduction=reduction, backend=backend)
        check_margins("BatchContrastiveLoss", margin, positive_margin)
        self.margin = margin
        self.positive_margin = positive_margin
        self.squared = squared
        self.balanced = balanced
        self.metric = metric
        self.reduction = reduction
        self.validate = validate
        self.backend = backend

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        ref: Tensor | None = None,
        ref_labels: Tensor | None = None,
        ref_offset: int | None = None,
    ) -> Tensor:
        """Return the loss of the batch; what it saw is in ``stats``."""
        loss, self.stats = batch_contrastive_with_stats(
            embeddings,
            labels,
            margin=self.margin,
            positive_margin=self.positive_margin,
            squared=self.squared,
            balanced=self.balanced,
            metric=self.metric,
            reduction=self.reduction,
            validate=self.validate,
            backend=self.backend,
            ref=ref,
            ref_labels=ref_labels,
            ref_offset=ref_offset,
        )
        return loss

    def extra_repr(self) -> str:
        """Return the keywords."""
        return show(
            self,
            "margin",
            "positive_margin",
            "squared",
            "balanced",
            "metric",
            "reduction",
            "validate",
            "backend",
        )


class BatchBCEPairLoss(nn.Module):
    """Module of :func:`siameselib.functional.batch_bce_pair_loss`: see there for the keywords.

    ``log_scale`` and ``bias`` are parameters: hand them to the optimiser with those of the net,
    and keep the ``state_dict``. They start at log 10 and -10.

    Example:
        >>> import torch
        >>> criterion = BatchBCEPairLoss()
        >>> loss = criterion(torch.ones(4, 2), torch.tensor([0, 0, 1, 1]))
        >>> loss.backward()
        >>> criterion.bias.grad  # too low by nothing for 8 pairs, by all for 4: (8 - 4)/2/12
        tensor(0.1667)
    """

    stats = Seen()

    def __init__(
        self,
        *,
        balanced: bool = False,
        reduction: str = "mean",
        validate: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        check_words("BatchBCEPairLoss", reduction=reduction, backend=backend)
        self.log_scale = nn.Parameter(torch.tensor(math.log(SCALE)))
        self.bias = nn.Parameter(torch.tensor(BIAS))
        self.balanced = balanced
        self.reduction = reduction
        self.validate = validate
        self.backend = backend

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        ref: Tensor | None = None,
        ref_labels: Tensor | None = None,
        ref_offset: int | None = None,
    ) -> Tensor:
        """Return the loss of the batch; what it saw is in ``stats``."""
        loss, self.stats = batch_bce_pair_with_stats(
            embeddings,
            labels,
            self.log_scale,
            self.bias,
            balanced=self.balanced,
            reduction=self.reduction,
            validate=self.validate,
            backend=self.backend,
            ref=ref,
            ref_labels=ref_labels,
            ref_offset=ref_offset,
        )
        return loss

    def extra_repr(self) -> str:
        """Return the keywords."""
        return show(self, "balanced", "reduction", "validate", "backend")
