"""Softmax losses as modules; the maths is in :mod:`siameselib.functional.softmax`."""

from torch import Tensor, nn

from siameselib import _check
from siameselib.functional.batch import check_words
from siameselib.functional.softmax import (
    REDUCTIONS,
    info_nce_with_stats,
    nt_xent_with_stats,
    sup_con_with_stats,
)
from siameselib.losses._seen import Seen
from siameselib.losses._show import show


class InfoNCELoss(nn.Module):
    """Module of :func:`siameselib.functional.info_nce_loss`, which explains the keywords.

    Example:
        >>> import torch
        >>> criterion = InfoNCELoss(temperature=0.5)
        >>> criterion(torch.ones(4, 2), torch.ones(4, 2))  # collapsed: log 4
        tensor(1.3863)
        >>> criterion.stats.trivial
        tensor(1.3863)
    """

    stats = Seen()

    def __init__(self, *, temperature: float = 0.1, reduction: str = "mean") -> None:
        super().__init__()
        _check.choice("InfoNCELoss", "reduction", reduction, REDUCTIONS)
        _check.positive("InfoNCELoss", "temperature", temperature)
        self.temperature = temperature
        self.reduction = reduction

    def forward(self, x1: Tensor, x2: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the loss of the matching rows; what it saw is in ``stats``."""
        loss, self.stats = info_nce_with_stats(
            x1, x2, labels, temperature=self.temperature, reduction=self.reduction
        )
        return loss

    def extra_repr(self) -> str:
        """Return the keywords."""
        return show(self, "temperature", "reduction")


class SupConLoss(nn.Module):
    """Module of :func:`siameselib.functional.sup_con_loss`, which explains the keywords.

    Example:
        >>> import torch
        >>> criterion = SupConLoss(temperature=0.5)
        >>> embeddings, labels = torch.ones(6, 2), torch.tensor([0, 0, 1, 1, 2, 2])
        >>> criterion(embeddings, labels)  # collapsed: log 5
        tensor(1.6094)
        >>> criterion.stats.valid
        tensor(6)
    """

    stats = Seen()

    def __init__(
        self,
        *,
        temperature: float = 0.1,
        reduction: str = "mean",
        validate: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        check_words("SupConLoss", reduction=reduction, backend=backend, reductions=REDUCTIONS)
        _check.positive("SupConLoss", "temperature", temperature)
        self.temperature = temperature
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
        loss, self.stats = sup_con_with_stats(
            embeddings,
            labels,
            temperature=self.temperature,
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
        return show(self, "temperature", "reduction", "validate", "backend")


class NTXentLoss(nn.Module):
    """Module of :func:`siameselib.functional.nt_xent_loss`, which explains the keywords.

    Example:
        >>> import torch
        >>> criterion = NTXentLoss(temperature=0.5)
        >>> embeddings, labels = torch.ones(6, 2), torch.tensor([0, 0, 1, 1, 2, 2])
        >>> criterion(embeddings, labels)  # collapsed: log 5
        tensor(1.6094)
        >>> criterion.stats.valid
        tensor(6)
    """

    stats = Seen()

    def __init__(
        self,
        *,
        temperature: float = 0.1,
        reduction: str = "mean",
        validate: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        check_words("NTXentLoss", reduction=reduction, backend=backend, reductions=REDUCTIONS)
        _check.positive("NTXentLoss", "temperature", temperature)
        self.temperature = temperature
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
        loss, self.stats = nt_xent_with_stats(
            embeddings,
            labels,
            temperature=self.temperature,
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
        return show(self, "temperature", "reduction", "validate", "backend")
