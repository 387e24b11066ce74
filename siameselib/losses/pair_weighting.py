"""Losses with pair weights as modules.

The maths is in :mod:`siameselib.functional.pair_weighting` and
:mod:`siameselib.functional.lifted`.
"""

from torch import Tensor, nn

from siameselib.functional.batch import check_words
from siameselib.functional.batch_triplets import check_keywords
from siameselib.functional.lifted import lifted_structure_with_stats
from siameselib.functional.pair_weighting import (
    check_circle,
    check_multi_similarity,
    circle_with_stats,
    multi_similarity_with_stats,
)
from siameselib.losses._seen import Seen
from siameselib.losses._show import show


class CircleLoss(nn.Module):
    """Module of :func:`siameselib.functional.circle_loss`, which explains the keywords.

    Example:
        >>> import torch
        >>> criterion = CircleLoss(margin=0.4, gamma=80.0)
        >>> embeddings, labels = torch.ones(6, 2), torch.tensor([0, 0, 1, 1, 2, 2])
        >>> criterion(embeddings, labels)  # collapsed: log 4 + 80·(1 - 2·0.4²)
        tensor(55.7863)
        >>> criterion.stats.valid
        tensor(6)
    """

    stats = Seen()

    def __init__(
        self,
        *,
        margin: float = 0.25,
        gamma: float = 256.0,
        reduction: str = "mean",
        validate: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        check_words("CircleLoss", reduction=reduction, backend=backend)
        check_circle("CircleLoss", margin, gamma)
        self.margin = margin
        self.gamma = gamma
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
        loss, self.stats = circle_with_stats(
            embeddings,
            labels,
            margin=self.margin,
            gamma=self.gamma,
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
        return show(self, "margin", "gamma", "reduction", "validate", "backend")


class LiftedStructureLoss(nn.Module):
    """Module of :func:`siameselib.functional.lifted_structure_loss`, which explains the keywords.

    Example:
        >>> import torch
        >>> criterion = LiftedStructureLoss(margin=1.0)
        >>> embeddings, labels = torch.ones(6, 2), torch.tensor([0, 0, 1, 1, 2, 2])
        >>> criterion(embeddings, labels)  # collapsed: log 4 + 1
        tensor(2.3863)
        >>> criterion.stats.valid
        tensor(6)
    """

    stats = Seen()

    def __init__(
        self,
        *,
        margin: float = 1.0,
        metric: str = "euclidean",
        reduction: str = "mean",
        validate: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        check_keywords("LiftedStructureLoss", margin, metric, reduction, backend)
        self.margin = margin
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
        loss, self.stats = lifted_structure_with_stats(
            embeddings,
            labels,
            margin=self.margin,
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
        return show(self, "margin", "metric", "reduction", "validate", "backend")


class MultiSimilarityLoss(nn.Module):
    """Module of :func:`siameselib.functional.multi_similarity_loss`, which explains the keywords.

    Example:
        >>> import torch
        >>> criterion = MultiSimilarityLoss(epsilon=None)
        >>> embeddings, labels = torch.ones(6, 2), torch.tensor([0, 0, 1, 1, 2, 2])
        >>> criterion(embeddings, labels)  # collapsed: log(1 + 1/e)/2 + log(4)/50 + 1/2
        tensor(0.6844)
        >>> criterion.stats.valid
        tensor(6)
    """

    stats = Seen()

    def __init__(
        self,
        *,
        alpha: float = 2.0,
        beta: float = 50.0,
        base: float = 0.5,
        epsilon: float | None = 0.1,
        reduction: str = "mean",
        validate: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        check_words("MultiSimilarityLoss", reduction=reduction, backend=backend)
        check_multi_similarity("MultiSimilarityLoss", alpha, beta, base, epsilon)
        self.alpha = alpha
        self.beta = beta
        self.base = base
        self.epsilon = epsilon
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
        loss, self.stats = multi_similarity_with_stats(
            embeddings,
            labels,
            alpha=self.alpha,
            beta=self.beta,
            base=self.base,
            epsilon=self.epsilon,
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
        return show(self, "alpha", "beta", "base", "epsilon", "reduction", "validate", "backend")
