"""Batches of exactly P identities × K images, and an account of what an epoch shows."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from siameselib import _check
from siameselib.samplers.epochs import EpochSampler, Indices, Labels

SINGLETONS = ("negatives", "drop", "repeat")


@dataclass(frozen=True)
class Coverage:
    """What one epoch of a `PKSampler` shows; ``str()`` says it in words.

    Attributes:
        batches: Batches in the epoch.
        rows: Rows in all of them.
        images: Images there are.
        covered: Images shown at least once.
        repeats: Rows that show an image again.
        identities: Identities there are.
        identities_covered: Identities shown at least once.
        singletons: Identities with a single image.
        singletons_used: Those of them shown.
    """

    batches: int
    rows: int
    images: int
    covered: int
    repeats: int
    identities: int
    identities_covered: int
    singletons: int
    singletons_used: int

    def __str__(self) -> str:
        return (
            f"{self.covered:,} of {self.images:,} images of {self.identities_covered:,} of "
            f"{self.identities:,} identities in {self.batches:,} batches "
            f"({self.rows:,} rows, {self.repeats:,} of them repeats); "
            f"{self.singletons_used:,} of {self.singletons:,} single-image identities used"
        )


class PKSampler(EpochSampler[list[int]]):
    """Batches of exactly P identities with K images each: every image has positives to be mined.

    A batch is a list of indices: K of the first identity, K of the second …, then the extra
    single-image rows. The P identities differ. The images of an identity are shuffled each epoch
    and dealt out in groups of K: an epoch shows every image of every identity that takes part, and
    none comes again before all of its identity have come. Where an identity's images do not fill
    its last group, images of earlier ones complete it; images in one group differ unless the
    identity has fewer than K. Where the groups do not fill the batches (their number is no
    multiple of P, or one identity has more groups than there would be batches), identities come
    again, as evenly as can be. `coverage` counts all that.

    Identities with fewer than K images:

    - ``singletons="negatives"``: those with 2 to K − 1 images take part and repeat images to fill
      their group. Those with one image have no positive and stay out of the P × K rows; they
      serve as negatives in ``extra_singletons`` further rows a batch. These rows go through all
      single-image identities, over several epochs where one is too short, before one comes again.
    - ``singletons="drop"``: all identities with fewer than K images are left out.
    - ``singletons="repeat"``: all take part and repeat images, so a single image is its own
      positive, which makes sense only if augmentation sets the copies apart.

    Args:
        labels: The identity of each image, integers.
        P: Identities in a batch.
        K: Images of each.
        singletons: Policy for identities with fewer than K images.
        extra_singletons: Rows of single-image identities added to each batch; with "negatives".
        seed: Of the sampler's own generator.

    Raises:
        TypeError: If the labels or the numbers are no integers.
        ValueError: If the labels are no vector, if a number is out of range, or if there are not
            enough identities for P or not enough single-image ones for ``extra_singletons``.

    Example:
        >>> labels = [7, 7, 7, 7, 8, 8, 9, 9, 9, 5]
        >>> sampler = PKSampler(labels, P=2, K=2, extra_singletons=1)
        >>> for batch in sampler:  # or DataLoader(dataset, batch_sampler=sampler)
        ...     print([labels[i] for i in batch])
        [8, 8, 7, 7, 5]
        [9, 9, 7, 7, 5]
        [9, 9, 8, 8, 5]
        >>> print(sampler.coverage())
        10 of 10 images of 4 of 4 identities in 3 batches (15 rows, 5 of them repeats);
        1 of 1 single-image identities used
    """

    def __init__(
        self,
        labels: Labels,
        P: int,
        K: int,
        *,
        singletons: str = "negatives",
        extra_singletons: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(labels, seed)
        where = self._where
        self.P = _check.integer(where, "P", P, 1)
        self.K = _check.integer(where, "K", K, 2)
        self.extra_singletons = _check.integer(where, "extra_singletons", extra_singletons, 0)
        _check.choice(where, "singletons", singletons, SINGLETONS)
        self.singletons = singletons
        least = {"negatives": 2, "drop": K, "repeat": 1}[singletons]
        self._eligible = np.flatnonzero(self._counts >= least)
        if len(self._eligible) < P:
            images = "1 image" if least == 1 else f"{least} images"
            expected = f"be at most the {len(self._eligible)} identities with at least {images}"
            raise _check.refuse(where, "P", expected, P)
        self._single = self._order[self._starts[self._counts == 1]]
        if extra_singletons and singletons != "negatives":
            expected = f"be 0 with singletons={singletons!r}"
            raise _check.refuse(where, "extra_singletons", expected, extra_singletons)
        if extra_singletons > len(self._single):
            expected = f"be at most the {len(self._single)} identities with 1 image"
            raise _check.refuse(where, "extra_singletons", expected, extra_singletons)
        self._groups = -(-self._counts // K)  # to show every image of an identity once
        needed = self._groups[self._eligible]
        self._length = max(-(-int(needed.sum()) // P), int(needed.max()))

    def __len__(self) -> int:
        """Count the batches of an epoch."""
        return self._length

    def coverage(self) -> Coverage:
        """Count what the current epoch shows.

        Returns:
            The counts, exact.
        """
        rows = self._epoch(self.epoch)
        covered = np.unique(rows)
        shown = np.unique(self._labels[covered])
        return Coverage(
            batches=len(rows),
            rows=rows.size,
            images=len(self._labels),
            covered=len(covered),
            repeats=rows.size - len(covered),
            identities=len(self._counts),
            identities_covered=len(shown),
            singletons=len(self._single),
            singletons_used=int(np.isin(self._single, covered).sum()),
        )

    def _settings(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("P", "K", "singletons", "extra_singletons")}

    def _batches(self, epoch: int) -> Iterator[list[int]]:
        for batch in self._epoch(epoch):
            yield batch.tolist()

    def _epoch(self, epoch: int) -> Indices:
        """Give the epoch's batches as rows of one matrix."""
        rng = np.random.default_rng([self.seed, epoch])
        shuffled = self._order[np.lexsort((rng.random(len(self._order)), self._identity))]
        who = rng.permutation(self._eligible)
        turns = self._turns(who, rng)
        # Deal P × batches turns, identity by identity, to one batch after the other, P times
        # round: no identity has more turns than there are batches, so none meets itself.
        batch = np.tile(rng.permutation(len(self)), self.P)
        row = np.repeat(np.arange(self.P), len(self))
        # Its first group goes to the earliest of an identity's batches, and so on.
        in_time = np.lexsort((batch, np.repeat(np.arange(len(who)), turns)))
        group = np.arange(len(batch)) - np.repeat(np.cumsum(turns) - turns, turns)
        who = np.repeat(who, turns)[:, None]
        place = (group[:, None] * self.K + np.arange(self.K)) % self._counts[who]
        epoch_rows = np.empty((len(self), self.P, self.K), np.int64)
        epoch_rows[batch[in_time], row[in_time]] = shuffled[self._starts[who] + place]
        return np.hstack([epoch_rows.reshape(len(self), -1), self._extra_rows(epoch)])

    def _turns(self, who: Indices, rng: np.random.Generator) -> Indices:
        """Count each identity's groups, topped up evenly until they fill P × batches."""
        turns = self._groups[who]
        missing = self.P * len(self) - int(turns.sum())
        while missing:
            free = rng.permutation(np.flatnonzero(turns < len(self)))[:missing]
            turns[free] += 1
            missing -= len(free)
        return turns

    def _extra_rows(self, epoch: int) -> Indices:
        """Deal single-image identities; a round of them may last longer than an epoch."""
        if not self.extra_singletons:
            return np.empty((len(self), 0), np.int64)
        number = epoch * len(self) + np.arange(len(self))  # of the batch, since the beginning
        turn, within = np.divmod(number, -(-len(self._single) // self.extra_singletons))
        place = within[:, None] * self.extra_singletons + np.arange(self.extra_singletons)
        rounds = [
            np.random.default_rng([self.seed, r, 1]).permutation(self._single)
            for r in range(turn[0], turn[-1] + 1)
        ]
        rows: Indices = np.stack(rounds)[turn[:, None] - turn[0], place % len(self._single)]
        return rows
