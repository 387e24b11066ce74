"""The interval of a rate over pairs that share people: what is summed, and what is made of it."""

from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from siameselib import _check
from siameselib.evaluation.inputs import Floats, Values, check_labels, check_level

Identities: TypeAlias = tuple[Values, Values]
People: TypeAlias = tuple[NDArray[np.int64], NDArray[np.int64]]


@dataclass(frozen=True)
class Interval:
    """A rate with its confidence interval.

    ``effective`` is the number of independent pairs that would say as much as the ``n`` there are.
    """

    value: float
    low: float
    high: float
    n: int
    effective: float

    def complement(self) -> "Interval":
        """The interval of 1 - value."""
        return Interval(1 - self.value, 1 - self.high, 1 - self.low, self.n, self.effective)

    def __contains__(self, rate: float) -> bool:
        return self.low <= rate <= self.high

    def __str__(self) -> str:
        return f"{self.value:.4g} ({self.low:.4g} to {self.high:.4g})"


def rate_interval(
    events: NDArray[np.bool_], kind: NDArray[Any], people: People | None, level: float
) -> Interval:
    """Wilson interval of the share of events among pairs of these people.

    Args:
        events: what is counted.
        kind: pairs of different kinds have rates of their own; how many there are of each is given.
        people: numbers of the people on the first and on the second images; None takes the pairs
            as independent.
        level: of the interval.

    Shape:
        events, kind, each of people: (n,).

    Returns:
        The interval.
    """
    residuals = events.astype(np.float64)
    for one in np.unique(kind):
        residuals[kind == one] -= residuals[kind == one].mean()
    n, alone = len(events), float(residuals @ residuals)
    if people is None:
        rate = float(events.mean())
        return wilson(rate, n, rate * (1 - rate) * n**2 / alone if alone else n, level)
    sums = sums_of(np.stack([residuals, np.ones(n)]), people)
    together, at_most = np.diag(sums.shared()).tolist()
    return interval_from_sums(
        int(events.sum()),
        n,
        together=together,
        joint=sums.joint(),
        alone=alone,
        at_most=at_most,
        n_people=number_of(people),
        level=level,
    )


def interval_from_sums(
    events: int,
    n: int,
    *,
    together: float,
    joint: float,
    alone: float,
    at_most: float,
    n_people: int,
    level: float,
) -> Interval:
    """The interval of events / n, with the variance of pairs that share people.

    Args:
        events: how many of the n pairs.
        n: pairs.
        together: sum of r_p r_q over pairs of pairs that share a person, r the residuals.
        joint: `Sums.joint` of the residuals.
        alone: sum of r_p².
        at_most: how many pairs of pairs share a person.
        n_people: how many people are in the pairs.
        level: of the interval.

    Returns:
        The interval.
    """
    rate = events / n
    if alone <= 0 or n_people <= 2:
        return wilson(rate, n, n**2 / at_most, level)
    shared = few_people(n_people) * together
    total = max(shared, alone)
    # Where nobody shares anything the variance follows from the rate: nothing was estimated.
    z = student(level, n_people - 1) if shared > alone else _normal(level)
    lean = (1 + 1 / z**2) * joint / (n * total)
    return score_interval(rate, n, rate * (1 - rate) * n**2 / total, z, lean)


def wilson(rate: float, n: int, effective: float, level: float) -> Interval:
    """Wilson's score interval for a rate that ``effective`` independent pairs would give."""
    check_level("wilson", level)
    return score_interval(rate, n, effective, _normal(level))


def score_interval(rate: float, n: int, effective: float, z: float, lean: float = 0.0) -> Interval:
    """Rates θ with (θ - rate)² ≤ z² V(θ), V(θ) = θ (1 - θ) / effective + lean (θ - rate)."""
    a = 1 + z**2 / effective
    half = z**2 * ((1 - 2 * rate) / effective + lean) / 2
    root = sqrt(half**2 + a * z**2 * rate * (1 - rate) / effective)
    low, high = max(rate + (half - root) / a, 0.0), min(rate + (half + root) / a, 1.0)
    return Interval(rate, min(low, rate), max(high, rate), n, effective)


def student(level: float, freedom: int) -> float:
    """The two-sided quantile of Student's t, to 1 % from 5 degrees of freedom on.

    Args:
        level: the share of the distribution between the quantile and its opposite.
        freedom: degrees of it.

    Returns:
        The quantile.

    Source:
        Abramowitz and Stegun (1964), 26.7.5.
    """
    z = _normal(level)
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )


def shared_sum(values: NDArray[Any], people: People) -> Floats:
    """Σ v_p v_qᵀ over all p and q that share a person, p = q included.

    Each person's sum, squared, counts the pairs of pairs that share that person. Those that share
    both people were counted twice.

    Args:
        values: one for each pair, or k.
        people: numbers of the people on the first and on the second images.

    Shape:
        values: (n,) or (k, n). Result: (k, k).

    Returns:
        The sums.
    """
    return sums_of(np.atleast_2d(np.asarray(values, dtype=np.float64)), people).shared()


class Sums(NamedTuple):
    """Sums of values over the pairs of each person, and over those of each two people."""

    by_person: Floats
    by_couple: Floats
    met: NDArray[Any]
    """Who the two people are."""

    def shared(self) -> Floats:
        """What `shared_sum` gives."""
        total: Floats = self.by_person @ self.by_person.T - self.by_couple @ self.by_couple.T
        return total

    def joint(self) -> float:
        """2 Σ (h_i - c)(h_j - c) c over all two people, c the sum of their pairs, h_i of i's."""
        h, c, (i, j) = self.by_person[0], self.by_couple[0], self.met
        return 2 * float(((h[i] - c) * (h[j] - c) * c).sum())


def sums_of(rows: Floats, people: People) -> Sums:
    """Sum each row of values over the pairs of each person and of each two people."""
    first, second = people
    two = first != second
    n_people = int(max(first.max(), second.max())) + 1
    couple = np.minimum(first, second)[two] * n_people + np.maximum(first, second)[two]
    if n_people**2 > 4 * len(couple):  # too many couples to count those that never met
        met, couple = np.unique(couple, return_inverse=True)
    else:
        met = np.arange(n_people**2)
    by_person: Floats = np.stack(
        [np.bincount(first, v, n_people) + np.bincount(second, v * two, n_people) for v in rows]
    )
    by_couple: Floats = np.stack([np.bincount(couple, v[two], len(met)) for v in rows])
    return Sums(by_person, by_couple, np.array(np.divmod(met, n_people)))


def check_people(where: str, same: NDArray[np.bool_], identities: Identities | None) -> People:
    """The people of the pairs as numbers; somebody new in each pair if they are not known."""
    n = len(same)
    if identities is None:
        return np.arange(n), np.where(same, np.arange(n), n + np.arange(n))
    if not hasattr(identities, "__len__") or len(identities) != 2:
        expected = "be two arrays, for the first and the second images"
        got = len(identities) if hasattr(identities, "__len__") else type(identities).__name__
        raise _check.refuse(where, "identities", expected, got)
    names = [check_labels(where, side, n, "identities") for side in identities]
    first, second = np.unique(np.concatenate(names), return_inverse=True)[1].reshape(2, n)
    if (odd := np.flatnonzero((first == second) != same)).size:
        k = int(odd[0])
        got = f"{names[0][k]} and {names[1][k]} with same = {int(same[k])} in pair {k}"
        expected = "be equal exactly where same is 1"
        raise _check.refuse(where, "identities", expected, f"{got}; {odd.size} such pairs")
    return first, second


def number_of(people: People) -> int:
    """How many people there are."""
    return int(np.count_nonzero(np.bincount(np.concatenate(people))))


def few_people(n_people: int) -> float:
    """What undoes the loss from taking residuals from the mean of the same people."""
    return n_people * (n_people - 1) / max(n_people - 2, 1) ** 2


def _normal(level: float) -> float:
    return NormalDist().inv_cdf((1 + level) / 2)


def of_pairs(people: People, kept: NDArray[np.bool_]) -> People:
    """The people of some of the pairs."""
    return people[0][kept], people[1][kept]
