"""Losses on explicit triplets as modules; the maths is in :mod:`siameselib.functional.triplets`."""

from torch import Tensor, nn

from siameselib import _check
from siameselib.functional.distances import Metric, check_metric
from siameselib.functional.reduction import REDUCTIONS
from siameselib.functional.stats import Stats
from siameselib.functional.triplets import triplet_with_stats
from siameselib.losses._show import show


class TripletLoss(nn.Module):
    """Module of :func:`siameselib.functional.triplet_loss`, which explains the keywords.

    Example:
        >>> import torch
        >>> criterion = TripletLoss(margin=0.5)
        >>> criterion(torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1, 2))
        tensor(0.5000)
        >>> criterion.stats.trivial
        tensor(0.5000)
    """

    def __init__(
        self,
        *,
        margin: float = 0.2,
        metric: Metric = "euclidean",
        swap: bool = False,
        soft: bool = False,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        check_metric("TripletLoss", metric)
        _check.choice("TripletLoss", "reduction", reduction, REDUCTIONS)
        _check.positive("TripletLoss", "margin", margin)
        self.margin = margin
        self.metric = metric
        self.swap = swap
        self.soft = soft
        self.reduction = reduction
        self.stats: Stats | None = None

    def forward(
        self, anchor: Tensor, positive: Tensor, negative: Tensor, valid: Tensor | None = None
    ) -> Tensor:
        """Return the loss of the triplets; what it saw is in ``stats``."""
        loss, self.stats = triplet_with_stats(
            anchor,
            positive,
            negative,
            margin=self.margin,
            metric=self.metric,
            swap=self.swap,
            soft=self.soft,
            valid=valid,
            reduction=self.reduction,
        )
        return loss

    def extra_repr(self) -> str:
        """Return the keywords."""
        return show(self, "margin", "metric", "swap", "soft", "reduction")
