"""Losses on explicit pairs as modules; the maths is in :mod:`siameselib.functional.pairs`."""

from torch import Tensor, nn

from siameselib import _check
from siameselib.functional.distances import Metric, check_metric
from siameselib.functional.pairs import bce_pair_with_stats, check_weight, contrastive_with_stats
from siameselib.functional.reduction import REDUCTIONS
from siameselib.functional.stats import Stats
from siameselib.losses._show import show


class ContrastiveLoss(nn.Module):
    """Module of :func:`siameselib.functional.contrastive_loss`, which explains the keywords.

    Example:
        >>> import torch
        >>> criterion = ContrastiveLoss(margin=2.0)
        >>> x1, x2 = torch.zeros(2, 1), torch.ones(2, 1)
        >>> criterion(x1, x2, torch.tensor([1, 0]))
        tensor(1.)
        >>> criterion.stats.positive_distance
        tensor(1.)
    """

    def __init__(
        self, *, margin: float = 1.0, metric: Metric = "euclidean", reduction: str = "mean"
    ) -> None:
        super().__init__()
        check_metric("ContrastiveLoss", metric)
        _check.choice("ContrastiveLoss", "reduction", reduction, REDUCTIONS)
        _check.positive("ContrastiveLoss", "margin", margin)
        self.margin = margin
        self.metric = metric
        self.reduction = reduction
        self.stats: Stats | None = None

    def forward(self, x1: Tensor, x2: Tensor, same: Tensor) -> Tensor:
        """Return the loss of the pairs; what it saw is in ``stats``."""
        loss, self.stats = contrastive_with_stats(
            x1, x2, same, margin=self.margin, metric=self.metric, reduction=self.reduction
        )
        return loss

    def extra_repr(self) -> str:
        """Return the keywords."""
        return show(self, "margin", "metric", "reduction")


class BCEPairLoss(nn.Module):
    """Module of :func:`siameselib.functional.bce_pair_loss`, which explains the keywords.

    Example:
        >>> import torch
        >>> BCEPairLoss()(torch.tensor([0.0, 0.0]), torch.tensor([1, 0]))
        tensor(0.6931)
    """

    def __init__(self, *, pos_weight: float | None = None, reduction: str = "mean") -> None:
        super().__init__()
        _check.choice("BCEPairLoss", "reduction", reduction, REDUCTIONS)
        check_weight("BCEPairLoss", pos_weight)
        self.pos_weight = pos_weight
        self.reduction = reduction
        self.stats: Stats | None = None

    def forward(self, logits: Tensor, same: Tensor) -> Tensor:
        """Return the loss of the pairs; what it saw is in ``stats``."""
        loss, self.stats = bce_pair_with_stats(
            logits, same, pos_weight=self.pos_weight, reduction=self.reduction
        )
        return loss

    def extra_repr(self) -> str:
        """Return the keywords."""
        return show(self, "pos_weight", "reduction")
