"""Batches of pairs of images, positive and negative in any ratio."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from siameselib import _check
from siameselib.samplers.epochs import EpochSampler, Indices, Labels


class Pairs(NamedTuple):
    """A batch of pairs: image i[k] against image j[k], and whether they show one identity.

    Attributes:
        i: (B,) indices of the first images.
        j: (B,) indices of the second images.
        same: (B,) integers, 1 = same identity.
    """

    i: Indices
    j: Indices
    same: Indices


class PairSampler(EpochSampler[Pairs]):
    """Batches of pairs of images, as many from one identity as asked for.

    Pairs are drawn as the lists of LFW were. A positive pair: an identity, then two different
    images of it; every identity with two or more gets its turn before one comes again. A
    negative pair: two different identities, then an image of each; every identity gets its turn
    as one of the two before one comes again. So an image never meets itself, identities with a
    single image appear in negative pairs only, and those with hundreds do not crowd out the rest.

    Every batch is full and has ``batch_size * positive_fraction`` positives in mixed order; where
    that is no whole number, batches alternate between the two nearest so that the sum is right.
    Every epoch draws new pairs.

    Args:
        labels: The identity of each image, integers.
        batch_size: Pairs in a batch.
        positive_fraction: Share of pairs of one identity, 0 to 1.
        num_batches: Batches in an epoch; as a rule, enough for as many images as there are
            labels, two a pair.
        seed: Of the sampler's own generator.

    Raises:
        TypeError: If the labels or the numbers are no integers.
        ValueError: If the labels are no vector, if a number is out of range, or if the pairs
            asked for do not exist: no identity has two images, or there is one identity only.

    Example:
        In a loop over tensors or memory-mapped arrays:

        >>> images, labels = np.arange(6) * 10, [1, 1, 1, 2, 2, 3]
        >>> for i, j, same in PairSampler(labels, batch_size=2):
        ...     x1, x2 = images[i], images[j]
        >>> len(x1), sorted(same.tolist())
        (2, [0, 1])

        In a DataLoader, the dataset gets the pairs of a whole batch (``batch_size=None``):

        >>> from torch.utils.data import DataLoader, Dataset
        >>> class PairedImages(Dataset):
        ...     def __getitem__(self, pairs):
        ...         return images[pairs.i], images[pairs.j], pairs.same
        >>> loader = DataLoader(
        ...     PairedImages(), sampler=PairSampler(labels, batch_size=2), batch_size=None
        ... )
        >>> for x1, x2, same in loader:
        ...     pass
        >>> x1.shape, same.sum()
        (torch.Size([2]), tensor(1))
    """

    def __init__(
        self,
        labels: Labels,
        *,
        batch_size: int,
        positive_fraction: float = 0.5,
        num_batches: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(labels, seed)
        where, n = self._where, len(self._labels)
        self.batch_size = _check.integer(where, "batch_size", batch_size, 1)
        if batch_size > n:
            raise _check.refuse(where, "batch_size", f"be at most the {n} images", batch_size)
        if not 0 <= _check.real(where, "positive_fraction", positive_fraction) <= 1:
            expected = "be between 0 and 1"
            raise _check.refuse(where, "positive_fraction", expected, positive_fraction)
        self._paired = np.flatnonzero(self._counts > 1)
        if positive_fraction > 0 and not len(self._paired):
            expected = "be 0 where no identity has 2 images"
            raise _check.refuse(where, "positive_fraction", expected, positive_fraction)
        if positive_fraction < 1 and len(self._counts) < 2:
            expected = "be 1 where there is one identity only"
            raise _check.refuse(where, "positive_fraction", expected, positive_fraction)
        if num_batches is None:
            num_batches = -(-n // (2 * batch_size))
        self.num_batches = _check.integer(where, "num_batches", num_batches, 1)
        self.positive_fraction = float(positive_fraction)

    def __len__(self) -> int:
        """Count the batches of an epoch."""
        return self.num_batches

    def _settings(self) -> dict[str, Any]:
        names = ("batch_size", "positive_fraction", "num_batches")
        return {name: getattr(self, name) for name in names}

    def _batches(self, epoch: int) -> Iterator[Pairs]:
        rng = np.random.default_rng([self.seed, epoch])
        positives = np.arange(self.num_batches + 1) * self.batch_size * self.positive_fraction
        positives = np.floor(np.round(positives, 6)).astype(np.int64)
        negatives = np.arange(self.num_batches + 1) * self.batch_size - positives
        pos_i, pos_j = self._positives(int(positives[-1]), rng)
        neg_i, neg_j = self._negatives(int(negatives[-1]), rng)
        for b in range(self.num_batches):
            pos, neg = slice(*positives[b : b + 2]), slice(*negatives[b : b + 2])
            i = np.concatenate([pos_i[pos], neg_i[neg]])
            j = np.concatenate([pos_j[pos], neg_j[neg]])
            same = np.zeros(self.batch_size, np.int64)
            same[: positives[b + 1] - positives[b]] = 1
            mix = rng.permutation(self.batch_size)
            yield Pairs(i[mix], j[mix], same[mix])

    def _positives(self, n: int, rng: np.random.Generator) -> tuple[Indices, Indices]:
        who = _in_turn(self._paired, n, rng)
        first = rng.integers(self._counts[who])
        second = (first + rng.integers(1, self._counts[who])) % self._counts[who]
        return self._order[self._starts[who] + first], self._order[self._starts[who] + second]

    def _negatives(self, n: int, rng: np.random.Generator) -> tuple[Indices, Indices]:
        identities = len(self._counts)
        who = _in_turn(np.arange(identities), n, rng)
        other = (who + rng.integers(1, max(identities, 2), n)) % identities
        i, j = (self._order[self._starts[w] + rng.integers(self._counts[w])] for w in (who, other))
        swap = rng.random(n) < 0.5
        return np.where(swap, j, i), np.where(swap, i, j)


def _in_turn(items: Indices, n: int, rng: np.random.Generator) -> Indices:
    """Draw n items: all of them in a random order, then all in another, and so on."""
    rounds = -(-n // len(items)) if n else 0
    drawn = [rng.permutation(items) for _ in range(rounds)]
    return np.concatenate([np.empty(0, np.int64), *drawn])[:n]
