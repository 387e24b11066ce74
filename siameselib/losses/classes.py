"""Losses of classes as modules, each with a weight of its own: one row a class.

The weight is learnt along with the net, so it goes to an optimizer: ``criterion.parameters()``.
Its rows start in random directions, with lengths near 1 (normal numbers of variance
1 / embedding_dim). Only their directions matter to the loss. The maths is in
:mod:`siameselib.functional.class_softmax`.
"""

import torch
from torch import Tensor, nn

from siameselib import _check
from siameselib.functional.batch import check_words
from siameselib.functional.class_softmax import (
    arc_face_with_stats,
    check_arc_face,
    check_cos_face,
    cos_face_with_stats,
    normalized_softmax_with_stats,
)
from siameselib.functional.classes import REDUCTIONS, check_scale, class_logits
from siameselib.losses._seen import Seen
from siameselib.losses._show import show


class ArcFaceLoss(nn.Module):
    """Module of :func:`siameselib.functional.arc_face_loss`, which explains the keywords.

    Args:
        num_classes: rows of the weight, a parameter; labels number them.
        embedding_dim: columns of the weight.

    Raises:
        ValueError: for fewer than one class or dimension.

    Example:
        >>> import torch
        >>> criterion = ArcFaceLoss(10, 4)
        >>> criterion(torch.randn(8, 4), torch.arange(8)).shape
        torch.Size([])
        >>> criterion.logits(torch.randn(2, 4)).shape
        torch.Size([2, 10])
    """

    stats = Seen()

    def __init__(
        self,
        num_classes: int,
        embedding_dim: int,
        *,
        margin: float = 0.5,
        scale: float = 64.0,
        beyond: str = "linear",
        reduction: str = "mean",
        validate: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        check_words("ArcFaceLoss", reduction=reduction, backend=backend, reductions=REDUCTIONS)
        check_arc_face("ArcFaceLoss", margin, scale, beyond)
        self.num_classes = num_classes
        self.embedding_dim = embedding_dim
        self.margin = margin
        self.scale = scale
        self.beyond = beyond
        self.reduction = reduction
        self.validate = validate
        self.backend = backend
        self.weight = directions("ArcFaceLoss", num_classes, embedding_dim)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of the batch; what it saw is in ``stats``."""
        loss, self.stats = arc_face_with_stats(
            embeddings,
            labels,
            self.weight,
            margin=self.margin,
            scale=self.scale,
            beyond=self.beyond,
            reduction=self.reduction,
            validate=self.validate,
            backend=self.backend,
        )
        return loss

    def logits(self, embeddings: Tensor) -> Tensor:
        """Return the (n, num_classes) cosines, scaled as in the loss but without a margin."""
        return class_logits("ArcFaceLoss", embeddings, self.weight, self.scale)

    def extra_repr(self) -> str:
        """Return the sizes and the keywords."""
        return show(
            self,
            "num_classes",
            "embedding_dim",
            "margin",
            "scale",
            "beyond",
            "reduction",
            "validate",
            "backend",
        )


class CosFaceLoss(nn.Module):
    """Module of :func:`siameselib.functional.cos_face_loss`, which explains the keywords.

    Args:
        num_classes: rows of the weight, a parameter; labels number them.
        embedding_dim: columns of the weight.

    Raises:
        ValueError: for fewer than one class or dimension.

    Example:
        >>> import torch
        >>> criterion = CosFaceLoss(10, 4)
        >>> loss = criterion(torch.zeros(8, 4), torch.arange(8))  # collapsed: log(1 + 9 e^22.4)
        >>> criterion.stats.trivial
        tensor(24.5972)
    """

    stats = Seen()

    def __init__(
        self,
        num_classes: int,
        embedding_dim: int,
        *,
        margin: float = 0.35,
        scale: float = 64.0,
        reduction: str = "mean",
        validate: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        check_words("CosFaceLoss", reduction=reduction, backend=backend, reductions=REDUCTIONS)
        check_cos_face("CosFaceLoss", margin, scale)
        self.num_classes = num_classes
        self.embedding_dim = embedding_dim
        self.margin = margin
        self.scale = scale
        self.reduction = reduction
        self.validate = validate
        self.backend = backend
        self.weight = directions("CosFaceLoss", num_classes, embedding_dim)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of the batch; what it saw is in ``stats``."""
        loss, self.stats = cos_face_with_stats(
            embeddings,
            labels,
            self.weight,
            margin=self.margin,
            scale=self.scale,
            reduction=self.reduction,
            validate=self.validate,
            backend=self.backend,
        )
        return loss

    def logits(self, embeddings: Tensor) -> Tensor:
        """Return the (n, num_classes) cosines, scaled as in the loss but without a margin."""
        return class_logits("CosFaceLoss", embeddings, self.weight, self.scale)

    def extra_repr(self) -> str:
        """Return the sizes and the keywords."""
        return show(
            self,
            "num_classes",
            "embedding_dim",
            "margin",
            "scale",
            "reduction",
            "validate",
            "backend",
        )


class NormalizedSoftmaxLoss(nn.Module):
    """Module of :func:`siameselib.functional.normalized_softmax_loss`, which explains the keywords.

    Args:
        num_classes: rows of the weight, a parameter; labels number them.
        embedding_dim: columns of the weight.

    Raises:
        ValueError: for fewer than one class or dimension.

    Example:
        >>> import torch
        >>> criterion = NormalizedSoftmaxLoss(10, 4)
        >>> loss = criterion(torch.zeros(8, 4), torch.arange(8))  # collapsed: log 10
        >>> criterion.stats.trivial
        tensor(2.3026)
    """

    stats = Seen()

    def __init__(
        self,
        num_classes: int,
        embedding_dim: int,
        *,
        temperature: float = 0.05,
        reduction: str = "mean",
        validate: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        check_words(
            "NormalizedSoftmaxLoss", reduction=reduction, backend=backend, reductions=REDUCTIONS
        )
        check_scale("NormalizedSoftmaxLoss", temperature, "temperature", inverse=1)
        self.num_classes = num_classes
        self.embedding_dim = embedding_dim
        self.temperature = temperature
        self.reduction = reduction
        self.validate = validate
        self.backend = backend
        self.weight = directions("NormalizedSoftmaxLoss", num_classes, embedding_dim)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of the batch; what it saw is in ``stats``."""
        loss, self.stats = normalized_softmax_with_stats(
            embeddings,
            labels,
            self.weight,
            temperature=self.temperature,
            reduction=self.reduction,
            validate=self.validate,
            backend=self.backend,
        )
        return loss

    def logits(self, embeddings: Tensor) -> Tensor:
        """Return the (n, num_classes) cosines, scaled as in the loss but without a margin."""
        return class_logits("NormalizedSoftmaxLoss", embeddings, self.weight, 1 / self.temperature)

    def extra_repr(self) -> str:
        """Return the sizes and the keywords."""
        return show(
            self, "num_classes", "embedding_dim", "temperature", "reduction", "validate", "backend"
        )


def directions(where: str, num_classes: int, embedding_dim: int) -> nn.Parameter:
    """Draw a weight: one random direction a class."""
    rows = _check.integer(where, "num_classes", num_classes, 1)
    columns = _check.integer(where, "embedding_dim", embedding_dim, 1)
    return nn.Parameter(torch.randn(rows, columns).mul_(columns**-0.5))
