"""The miners as modules: one class per function of :mod:`siameselib.functional`, no maths.

The class takes the keywords of the function, with the same defaults; calling it takes the tensors
and returns :class:`siameselib.functional.Triplets`, index tensors: plain PyTorch from there on.
"""

from torch import Tensor, nn

from siameselib.functional.mining import Triplets, mine_batch_hard, mine_semi_hard
from siameselib.losses._show import show

__all__ = ["BatchHardMiner", "SemiHardMiner"]


class BatchHardMiner(nn.Module):
    """Module of :func:`siameselib.functional.mine_batch_hard`: see there for the keywords.

    Example:
        >>> import torch
        >>> x, labels = torch.tensor([[0.0], [1.0], [3.0], [4.0]]), torch.tensor([0, 0, 1, 0])
        >>> t = BatchHardMiner()(x, labels)
        >>> t.valid
        tensor([ True,  True, False,  True])
    """

    def __init__(
        self, *, metric: str = "euclidean", validate: bool = False, backend: str = "auto"
    ) -> None:
        super().__init__()
        self.metric = metric
        self.validate = validate
        self.backend = backend

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        ref: Tensor | None = None,
        ref_labels: Tensor | None = None,
        ref_offset: int | None = None,
    ) -> Triplets:
        """Return one triplet for each anchor."""
        return mine_batch_hard(
            embeddings,
            labels,
            metric=self.metric,
            validate=self.validate,
            backend=self.backend,
            ref=ref,
            ref_labels=ref_labels,
            ref_offset=ref_offset,
        )

    def extra_repr(self) -> str:
        """Return the keywords."""
        return show(self, "metric", "validate", "backend")


class SemiHardMiner(nn.Module):
    """Module of :func:`siameselib.functional.mine_semi_hard`: see there for the keywords.

    Example:
        >>> import torch
        >>> x, labels = torch.tensor([[0.0], [1.0], [3.0], [4.0]]), torch.tensor([0, 0, 1, 0])
        >>> SemiHardMiner()(x, labels).compact()[:2]
        (tensor([0, 0, 1, 1, 3, 3]), tensor([1, 3, 0, 3, 0, 1]))
    """

    def __init__(
        self,
        *,
        metric: str = "euclidean",
        fallback: str = "farthest",
        max_positives: int | None = None,
        validate: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.metric = metric
        self.fallback = fallback
        self.max_positives = max_positives
        self.validate = validate
        self.backend = backend

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        ref: Tensor | None = None,
        ref_labels: Tensor | None = None,
        ref_offset: int | None = None,
    ) -> Triplets:
        """Return one triplet for each anchor and each of its positives."""
        return mine_semi_hard(
            embeddings,
            labels,
            metric=self.metric,
            fallback=self.fallback,
            max_positives=self.max_positives,
            validate=self.validate,
            backend=self.backend,
            ref=ref,
            ref_labels=ref_labels,
            ref_offset=ref_offset,
        )

    def extra_repr(self) -> str:
        """Return the keywords."""
        return show(self, "metric", "fallback", "max_positives", "validate", "backend")
