"""Softmax losses as modules; the maths is in :mod:`siameselib.functional.softmax`."""

from torch import Tensor, nn

from siameselib.functional.softmax import info_nce_with_stats
from siameselib.functional.stats import Stats
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

    def __init__(self, *, temperature: float = 0.1, reduction: str = "mean") -> None:
        super().__init__()
        self.temperature = temperature
        self.reduction = reduction
        self.stats: Stats | None = None

    def forward(self, x1: Tensor, x2: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the loss of the matching rows; what it saw is in ``stats``."""
        loss, self.stats = info_nce_with_stats(
            x1, x2, labels, temperature=self.temperature, reduction=self.reduction
        )
        return loss

    def extra_repr(self) -> str:
        """Return the keywords."""
        return show(self, "temperature", "reduction")
