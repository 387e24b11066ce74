"""Losses of proxies as modules: one proxy a class, a weight as in :mod:`siameselib.losses.classes`.

The maths is in :mod:`siameselib.functional.proxies`.
"""

from torch import Tensor, nn

from siameselib.functional.batch import check_words
from siameselib.functional.classes import REDUCTIONS, check_scale, class_logits
from siameselib.functional.proxies import (
    check_proxy_anchor,
    proxy_anchor_with_stats,
    proxy_nca_with_stats,
)
from siameselib.losses._seen import Seen
from siameselib.losses._show import show
from siameselib.losses.classes import directions


class ProxyAnchorLoss(nn.Module):
    """Module of :func:`siameselib.functional.proxy_anchor_loss`, which explains the keywords.

    Args:
        num_classes: rows of the weight, a parameter; labels number them.
        embedding_dim: columns of the weight.

    Raises:
        ValueError: for fewer than one class or dimension.

    Example:
        >>> import torch
        >>> criterion = ProxyAnchorLoss(10, 4)
        >>> loss = criterion(torch.zeros(8, 4), torch.arange(8))
        >>> criterion.stats.trivial
        tensor(8.4182)
    """

    stats = Seen()

    def __init__(
        self,
        num_classes: int,
        embedding_dim: int,
        *,
        margin: float = 0.1,
        alpha: float = 32.0,
        reduction: str = "mean",
        validate: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        check_words("ProxyAnchorLoss", reduction=reduction, backend=backend, reductions=REDUCTIONS)
        check_proxy_anchor("ProxyAnchorLoss", margin, alpha)
        self.num_classes = num_classes
        self.embedding_dim = embedding_dim
        self.margin = margin
        self.alpha = alpha
        self.reduction = reduction
        self.validate = validate
        self.backend = backend
        self.weight = directions("ProxyAnchorLoss", num_classes, embedding_dim)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of the batch; what it saw is in ``stats``."""
        loss, self.stats = proxy_anchor_with_stats(
            embeddings,
            labels,
            self.weight,
            margin=self.margin,
            alpha=self.alpha,
            reduction=self.reduction,
            validate=self.validate,
            backend=self.backend,
        )
        return loss

    def logits(self, embeddings: Tensor) -> Tensor:
        """Return the (n, num_classes) cosines, scaled as in the loss but without a margin."""
        return class_logits("ProxyAnchorLoss", embeddings, self.weight, self.alpha)

    def extra_repr(self) -> str:
        """Return the sizes and the keywords."""
        return show(
            self,
            "num_classes",
            "embedding_dim",
            "margin",
            "alpha",
            "reduction",
            "validate",
            "backend",
        )


class ProxyNCALoss(nn.Module):
    """Module of :func:`siameselib.functional.proxy_nca_loss`, which explains the keywords.

    Args:
        num_classes: rows of the weight, a parameter; labels number them.
        embedding_dim: columns of the weight.

    Raises:
        ValueError: for fewer than one class or dimension.

    Example:
        >>> import torch
        >>> criterion = ProxyNCALoss(10, 4)
        >>> loss = criterion(torch.zeros(8, 4), torch.arange(8))  # collapsed: log 9
        >>> criterion.stats.trivial
        tensor(2.1972)
    """

    stats = Seen()

    def __init__(
        self,
        num_classes: int,
        embedding_dim: int,
        *,
        temperature: float = 1.0,
        own_proxy: bool = False,
        reduction: str = "mean",
        validate: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        check_words("ProxyNCALoss", reduction=reduction, backend=backend, reductions=REDUCTIONS)
        check_scale("ProxyNCALoss", temperature, "temperature", inverse=2)
        self.num_classes = num_classes
        self.embedding_dim = embedding_dim
        self.temperature = temperature
        self.own_proxy = own_proxy
        self.reduction = reduction
        self.validate = validate
        self.backend = backend
        self.weight = directions("ProxyNCALoss", num_classes, embedding_dim)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of the batch; what it saw is in ``stats``."""
        loss, self.stats = proxy_nca_with_stats(
            embeddings,
            labels,
            self.weight,
            temperature=self.temperature,
            own_proxy=self.own_proxy,
            reduction=self.reduction,
            validate=self.validate,
            backend=self.backend,
        )
        return loss

    def logits(self, embeddings: Tensor) -> Tensor:
        """Return the (n, num_classes) cosines, scaled as in the loss but without a margin."""
        return class_logits("ProxyNCALoss", embeddings, self.weight, 2 / self.temperature)

    def extra_repr(self) -> str:
        """Return the sizes and the keywords."""
        return show(
            self,
            "num_classes",
            "embedding_dim",
            "temperature",
            "own_proxy",
            "reduction",
            "validate",
            "backend",
        )
