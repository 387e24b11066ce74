"""The miners as modules: one class per function of :mod:`siameselib.functional`, no maths.

The class takes the keywords of the function, with the same defaults; calling it takes the tensors
and returns :class:`siameselib.functional.Triplets`, index tensors: plain PyTorch from there on
(:class:`MultiSimilarityMiner` returns :class:`siameselib.functional.PairBounds`).
"""

import torch
from torch import Tensor, nn

from siameselib import _check
from siameselib.functional.batch import check_words
from siameselib.functional.easy_mining import (
    check_easy_positive,
    check_hardest_negatives,
    mine_easy_positive,
    mine_hardest_negatives,
)
from siameselib.functional.mining import (
    Triplets,
    check_semi_hard,
    mine_batch_hard,
    mine_semi_hard,
)
from siameselib.functional.pair_mining import PairBounds, mine_multi_similarity
from siameselib.functional.sampled_mining import check_draws, mine_distance_weighted
from siameselib.losses._show import show

__all__ = [
    "BatchHardMiner",
    "DistanceWeightedMiner",
    "EasyPositiveMiner",
    "HardestNegativesMiner",
    "MultiSimilarityMiner",
    "SemiHardMiner",
]


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
        check_words("BatchHardMiner", metric=metric, backend=backend)
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


class DistanceWeightedMiner(nn.Module):
    """Module of :func:`siameselib.functional.mine_distance_weighted`: see there for the keywords.

    Example:
        >>> x, labels = torch.eye(4)[[0, 0, 1, 2]] + 0.5, torch.tensor([0, 0, 1, 1])
        >>> DistanceWeightedMiner()(x, labels).compact()[:2]
        (tensor([0, 1, 2, 3]), tensor([1, 0, 3, 2]))
    """

    def __init__(
        self,
        *,
        cutoff: float = 0.5,
        nonzero_loss_cutoff: float = 1.4,
        max_positives: int | None = None,
        generator: torch.Generator | None = None,
        validate: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        check_words("DistanceWeightedMiner", backend=backend)
        check_draws("DistanceWeightedMiner", cutoff, nonzero_loss_cutoff, max_positives)
        self.cutoff = cutoff
        self.nonzero_loss_cutoff = nonzero_loss_cutoff
        self.max_positives = max_positives
        self.generator = generator
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
        return mine_distance_weighted(
            embeddings,
            labels,
            cutoff=self.cutoff,
            nonzero_loss_cutoff=self.nonzero_loss_cutoff,
            max_positives=self.max_positives,
            generator=self.generator,
            validate=self.validate,
            backend=self.backend,
            ref=ref,
            ref_labels=ref_labels,
            ref_offset=ref_offset,
        )

    def extra_repr(self) -> str:
        """Return the keywords."""
        return show(
            self,
            "cutoff",
            "nonzero_loss_cutoff",
            "max_positives",
            "generator",
            "validate",
            "backend",
        )


class EasyPositiveMiner(nn.Module):
    """Module of :func:`siameselib.functional.mine_easy_positive`: see there for the keywords.

    Example:
        >>> import torch
        >>> x, labels = torch.tensor([[0.0], [1.0], [3.0], [4.0]]), torch.tensor([0, 0, 1, 0])
        >>> EasyPositiveMiner()(x, labels).compact()
        (tensor([0, 1, 3]), tensor([1, 0, 1]), tensor([2, 2, 2]))
    """

    def __init__(
        self,
        *,
        negative: str = "semi-hard",
        metric: str = "euclidean",
        fallback: str = "farthest",
        validate: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        check_words("EasyPositiveMiner", metric=metric, backend=backend)
        check_easy_positive("EasyPositiveMiner", negative, fallback)
        self.negative = negative
        self.metric = metric
        self.fallback = fallback
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
        return mine_easy_positive(
            embeddings,
            labels,
            negative=self.negative,
            metric=self.metric,
            fallback=self.fallback,
            validate=self.validate,
            backend=self.backend,
            ref=ref,
            ref_labels=ref_labels,
            ref_offset=ref_offset,
        )

    def extra_repr(self) -> str:
        """Return the keywords."""
        return show(self, "negative", "metric", "fallback", "validate", "backend")


class HardestNegativesMiner(nn.Module):
    """Module of :func:`siameselib.functional.mine_hardest_negatives`: see there for the keywords.

    Example:
        >>> x, labels = torch.tensor([[0.0], [1.0], [3.0], [4.0]]), torch.tensor([0, 0, 1, 2])
        >>> HardestNegativesMiner(k=2)(x, labels).compact()
        (tensor([0, 0, 1, 1]), tensor([1, 1, 0, 0]), tensor([2, 3, 2, 3]))
    """

    def __init__(
        self,
        *,
        k: int = 4,
        positive: str = "farthest",
        metric: str = "euclidean",
        validate: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        check_words("HardestNegativesMiner", metric=metric, backend=backend)
        check_hardest_negatives("HardestNegativesMiner", k, positive)
        self.k = k
        self.positive = positive
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
        """Return k triplets for each anchor."""
        return mine_hardest_negatives(
            embeddings,
            labels,
            k=self.k,
            positive=self.positive,
            metric=self.metric,
            validate=self.validate,
            backend=self.backend,
            ref=ref,
            ref_labels=ref_labels,
            ref_offset=ref_offset,
        )

    def extra_repr(self) -> str:
        """Return the keywords."""
        return show(self, "k", "positive", "metric", "validate", "backend")


class MultiSimilarityMiner(nn.Module):
    """Module of :func:`siameselib.functional.mine_multi_similarity`: see there for the keywords.

    Example:
        >>> x, labels = torch.tensor([[0.0], [1.0], [1.5], [9.0]]), torch.tensor([0, 0, 1, 1])
        >>> MultiSimilarityMiner(metric="euclidean")(x, labels).compact()[:2]
        (tensor([1, 2]), tensor([0, 3]))
    """

    def __init__(
        self,
        *,
        epsilon: float = 0.1,
        metric: str = "cosine",
        validate: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        check_words("MultiSimilarityMiner", metric=metric, backend=backend)
        _check.number("MultiSimilarityMiner", "epsilon", epsilon)
        self.epsilon = epsilon
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
    ) -> PairBounds:
        """Return two bounds for each anchor."""
        return mine_multi_similarity(
            embeddings,
            labels,
            epsilon=self.epsilon,
            metric=self.metric,
            validate=self.validate,
            backend=self.backend,
            ref=ref,
            ref_labels=ref_labels,
            ref_offset=ref_offset,
        )

    def extra_repr(self) -> str:
        """Return the keywords."""
        return show(self, "epsilon", "metric", "validate", "backend")


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
        check_words("SemiHardMiner", metric=metric, backend=backend)
        check_semi_hard("SemiHardMiner", fallback, max_positives)
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
