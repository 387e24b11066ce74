"""Triplet losses on a labelled batch as modules.

The maths is in :mod:`siameselib.functional.batch_triplets` and
:mod:`siameselib.functional.all_triplets`.
"""

from torch import Tensor, nn

from siameselib.functional.all_triplets import batch_all_with_stats, check_window
from siameselib.functional.batch_triplets import (
    batch_hard_with_stats,
    check_keywords,
    semi_hard_with_stats,
)
from siameselib.functional.mining import check_semi_hard
from siameselib.functional.stats import Stats
from siameselib.losses._show import show


class BatchAllTripletLoss(nn.Module):
    """Module of :func:`siameselib.functional.batch_all_triplet_loss`: see there for the keywords.

    Example:
        >>> import torch
        >>> criterion = BatchAllTripletLoss(margin=0.5)
        >>> criterion(torch.zeros(4, 2), torch.tensor([0, 0, 1, 1]))  # collapsed
        tensor(0.5000)
        >>> criterion.stats.valid
        tensor(8)
    """

    def __init__(
        self,
        *,
        margin: float = 0.2,
        metric: str = "euclidean",
        soft: bool = False,
        window: str | None = None,
        reduction: str = "mean",
        validate: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        check_keywords("BatchAllTripletLoss", margin, metric, reduction, backend)
        check_window("BatchAllTripletLoss", window, soft)
        self.margin = margin
        self.metric = metric
        self.soft = soft
        self.window = window
        self.reduction = reduction
        self.validate = validate
        self.backend = backend
        self.stats: Stats | None = None

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        ref: Tensor | None = None,
        ref_labels: Tensor | None = None,
        ref_offset: int | None = None,
    ) -> Tensor:
        """Return the loss of the batch; what it saw is in ``stats``."""
        loss, self.stats = batch_all_with_stats(
            embeddings,
            labels,
            margin=self.margin,
            metric=self.metric,
            soft=self.soft,
            window=self.window,
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
        return show(self, "margin", "metric", "soft", "window", "reduction", "validate", "backend")


class BatchHardTripletLoss(nn.Module):
    """Module of :func:`siameselib.functional.batch_hard_triplet_loss`: see there for the keywords.

    Example:
        >>> import torch
        >>> criterion = BatchHardTripletLoss(margin=0.5)
        >>> criterion(torch.zeros(4, 2), torch.tensor([0, 0, 1, 1]))  # collapsed
        tensor(0.5000)
        >>> criterion.stats.valid
        tensor(4)
    """

    def __init__(
        self,
        *,
        margin: float = 0.2,
        metric: str = "euclidean",
        soft: bool = False,
        reduction: str = "mean",
        validate: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        check_keywords("BatchHardTripletLoss", margin, metric, reduction, backend)
        self.margin = margin
        self.metric = metric
        self.soft = soft
        self.reduction = reduction
        self.validate = validate
        self.backend = backend
        self.stats: Stats | None = None

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        ref: Tensor | None = None,
        ref_labels: Tensor | None = None,
        ref_offset: int | None = None,
    ) -> Tensor:
        """Return the loss of the batch; what it saw is in ``stats``."""
        loss, self.stats = batch_hard_with_stats(
            embeddings,
            labels,
            margin=self.margin,
            metric=self.metric,
            soft=self.soft,
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
        return show(self, "margin", "metric", "soft", "reduction", "validate", "backend")


class SemiHardTripletLoss(nn.Module):
    """Module of :func:`siameselib.functional.semi_hard_triplet_loss`: see there for the keywords.

    Example:
        >>> import torch
        >>> criterion = SemiHardTripletLoss(margin=0.5)
        >>> criterion(torch.zeros(4, 2), torch.tensor([0, 0, 1, 1]))  # collapsed
        tensor(0.5000)
        >>> criterion.stats.valid
        tensor(4)
    """

    def __init__(
        self,
        *,
        margin: float = 0.2,
        metric: str = "euclidean",
        soft: bool = False,
        fallback: str = "farthest",
        max_positives: int | None = None,
        reduction: str = "mean",
        validate: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        check_keywords("SemiHardTripletLoss", margin, metric, reduction, backend)
        check_semi_hard("SemiHardTripletLoss", fallback, max_positives)
        self.margin = margin
        self.metric = metric
        self.soft = soft
        self.fallback = fallback
        self.max_positives = max_positives
        self.reduction = reduction
        self.validate = validate
        self.backend = backend
        self.stats: Stats | None = None

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        ref: Tensor | None = None,
        ref_labels: Tensor | None = None,
        ref_offset: int | None = None,
    ) -> Tensor:
        """Return the loss of the batch; what it saw is in ``stats``."""
        loss, self.stats = semi_hard_with_stats(
            embeddings,
            labels,
            margin=self.margin,
            metric=self.metric,
            soft=self.soft,
            fallback=self.fallback,
            max_positives=self.max_positives,
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
            "metric",
            "soft",
            "fallback",
            "max_positives",
            "reduction",
            "validate",
            "backend",
        )
