"""Intervals of error rates that know that pairs share people.

Two pairs that share a person tend to fail together: a face that is hard once is hard again. So a
thousand pairs of thirty people say less than a thousand pairs of two thousand, and the textbook
interval, which counts pairs, is too narrow. Here the variance of a rate is summed over all pairs
of pairs that share somebody.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from siameselib import _check
from siameselib.evaluation.inputs import Floats, Values, check_labels, check_pairs, check_threshold

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


@dataclass(frozen=True)
class PairRates:
    """Accuracy, false-accept and false-reject rate (FMR, FNMR) at one threshold."""

    threshold: float
    accuracy: Interval
    far: Interval
    frr: Interval

    def __str__(self) -> str:
        return (
            f"at threshold {self.threshold:.4g}: accuracy {self.accuracy}, FAR {self.far}, "
            f"FRR {self.frr}"
        )


def pair_rates(
    scores: Values,
    same: Values,
    threshold: float,
    *,
    identities: Identities | None = None,
    level: float = 0.95,
) -> PairRates:
    r"""Error rates at a threshold, with confidence intervals that know who is in which pair.

    For a rate :math:`\hat\theta` over n pairs with errors :math:`e_p`, the variance counts every
    two pairs that share a person,

    .. math:: \hat V = \frac{1}{n^2} \sum_{p \cap q \ne \emptyset}
              (e_p - \hat\theta) (e_q - \hat\theta),

    times G (G - 1) / (G - 2)² for G people, but at least the variance of independent pairs. (For
    the accuracy, :math:`\hat\theta` is the one of p's own kind, same or different.) The interval is
    Wilson's with :math:`\hat\theta (1 - \hat\theta) / \hat V` in place of n: it stays in [0, 1] and
    holds for rates near 0. Without a single error (or with nothing else) the data cannot tell how
    much pairs depend on each other; then pairs that share a person count as one and the same.

    Args:
        scores: similarities, higher = more alike.
        same: 1 (or True) where the pair shows one identity.
        threshold: fitted on other pairs.
        identities: who is on the first and who on the second image of each pair, as two arrays of
            integers or names. Without it the pairs are taken as independent, which is right
            only if nobody is in two of them.
        level: how often such intervals hold the true rate.

    Shape:
        scores, same and each of identities: (n,).

    Returns:
        PairRates; the rates are those of new people drawn as these were.

    Raises:
        ValueError: shapes differ, a score or the threshold is not finite, one class is missing,
            ``same`` contradicts ``identities``, or the level is not between 0 and 1.
        TypeError: not numbers, or identities that are neither integers nor names.

    Example:
        >>> names = ["ann", "ann", "bob", "cid"], ["ann", "bob", "bob", "dan"]
        >>> rates = pair_rates([0.9, 0.6, 0.7, 0.1], [1, 0, 1, 0], 0.5, identities=names)
        >>> print(rates.accuracy)
        0.75 (0.1979 to 0.9733)

    Source:
        Fogliato, Patil and Perona, "Confidence intervals for error rates in 1:1 matching tasks"
        (2024), section 3: plug-in variance and Wilson interval. The sum over arbitrary lists is
        the dyadic cluster-robust variance of Aronow, Samii and Assenova (2015). Theirs counts
        errorless pairs as independent; ours does not.
    """
    s, y = check_pairs("pair_rates", scores, same)
    threshold = check_threshold("pair_rates", threshold)
    _level("pair_rates", level)
    people = check_people("pair_rates", y, identities)
    wrong = (s >= threshold) != y
    return PairRates(
        float(threshold),
        rate_interval(~wrong, y, people, level),
        rate_interval(wrong[~y], y[~y], _where(people, ~y), level),
        rate_interval(wrong[y], y[y], _where(people, y), level),
    )


def double_or_nothing(
    statistic: Callable[[Floats, NDArray[np.bool_]], float],
    scores: Values,
    same: Values,
    *,
    identities: Identities,
    level: float = 0.95,
    replicates: int = 500,
    seed: int = 0,
) -> tuple[float, float]:
    """Interval of any figure of pair scores, by leaving out people at random.

    Each replicate keeps every person with probability 1/2 and takes the figure over the pairs of
    those kept; the interval spans the middle of the replicates. It is for figures that have no
    formula here, such as AUC and equal error rate. Where it hardly matters who is in a pair, or
    most people are in one pair only, it is too wide, by up to √3; it is hardly ever too narrow.

    Args:
        statistic: from scores and ``same`` to a number, such as `auc`.
        scores: similarities, higher = more alike.
        same: 1 (or True) where the pair shows one identity.
        identities: who is on the first and who on the second image of each pair.
        level: how often such intervals hold the true figure.
        replicates: how many; those without a same or without a different pair are left out.
        seed: of the choice of people.

    Shape:
        scores, same and each of identities: (n,).

    Returns:
        (low, high).

    Raises:
        ValueError: shapes differ, a score is not finite, one class is missing, ``same`` contradicts
            ``identities``, or nearly every replicate lacks one class.
        TypeError: not numbers, or identities that are neither integers nor names.

    Example:
        >>> from siameselib.evaluation import auc
        >>> a, b = np.triu_indices(40)
        >>> scores = np.random.default_rng(0).normal(a == b)
        >>> low, high = double_or_nothing(auc, scores, a == b, identities=(a, b))
        >>> low < auc(scores, a == b) < high
        True

    Source:
        Owen and Eckles 2012; Fogliato, Patil and Perona (2024), section 3.
    """
    s, y = check_pairs("double_or_nothing", scores, same)
    first, second = check_people("double_or_nothing", y, identities)
    _level("double_or_nothing", level)
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(_check.integer("double_or_nothing", "replicates", replicates, 1)):
        kept = rng.random(int(max(first.max(), second.max())) + 1) < 0.5
        pairs = kept[first] & kept[second]
        if y[pairs].any() and not y[pairs].all():
            values.append(statistic(s[pairs], y[pairs]))
    if len(values) < replicates / 2:
        got = f"{replicates - len(values)} of {replicates} replicates without one kind of pair"
        raise _check.refuse("double_or_nothing", "identities", "be enough to leave out half", got)
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def tar_interval(
    accepted: NDArray[np.bool_], scores: Floats, same: NDArray[np.bool_], people: People
) -> Interval:
    """95 % interval of the true-accept rate at a threshold that was fitted on the same pairs."""
    # A false accept too many lifts the threshold and costs true accepts: to first order the error
    # is that of the rate at a fixed threshold less λ times that of the false-accept rate, with λ
    # the slope of the ROC, taken across the standard error of the false-accept rate, which is as
    # far as the threshold moves.
    positive, negative = scores[same], scores[~same]
    n, value, far = len(positive), float(accepted[same].mean()), float(accepted[~same].mean())
    if not 0 < value < 1:
        return rate_interval(accepted[same], same[same], _where(people, same), 0.95)
    n_people = _number_of(people)
    few = n_people * (n_people - 1) / max(n_people - 2, 1) ** 2
    false = np.where(same, 0.0, accepted - far) / len(negative)
    error = sqrt(max(few * float(shared_sum(false, people)[0, 0]), float(false @ false)))
    low, high = np.quantile(negative, np.clip([1 - far - error, 1 - far + error], 0, 1))
    rise = np.mean((positive >= low) & (positive < high))
    run = np.mean((negative >= low) & (negative < high))
    true = np.where(same, accepted - value, 0.0) / n
    both = true - (rise / run if run else 0.0) * false
    variance = max(few * float(shared_sum(both, people)[0, 0]), float(true @ true))
    return wilson(value, n, value * (1 - value) / variance, 0.95)


def rate_interval(
    events: NDArray[np.bool_], kind: NDArray[Any], people: People, level: float
) -> Interval:
    """Wilson interval of the share of events among pairs of these people.

    Args:
        events: what is counted.
        kind: pairs of different kinds have rates of their own; how many there are of each is given.
        people: numbers of the people on the first and on the second images.
        level: of the interval.

    Shape:
        events, kind, each of people: (n,).

    Returns:
        The interval.
    """
    residuals = events.astype(np.float64)
    for one in np.unique(kind):
        residuals[kind == one] -= residuals[kind == one].mean()
    return interval_from_sums(
        int(events.sum()),
        len(events),
        together=float(shared_sum(residuals, people)[0, 0]),
        alone=float(residuals @ residuals),
        at_most=float(shared_sum(np.ones(len(events)), people)[0, 0]),
        n_people=_number_of(people),
        level=level,
    )


def interval_from_sums(
    events: int,
    n: int,
    *,
    together: float,
    alone: float,
    at_most: float,
    n_people: int,
    level: float,
) -> Interval:
    """Wilson interval of events / n with the variance of pairs that share people.

    Args:
        events: how many of the n pairs.
        n: pairs.
        together: sum of r_p r_q over pairs of pairs that share a person, r the residuals.
        alone: sum of r_p².
        at_most: how many pairs of pairs share a person.
        n_people: how many people are in the pairs.
        level: of the interval.

    Returns:
        The interval.
    """
    rate = events / n
    if alone > 0 and n_people > 2:
        # Residuals are taken from the mean of the same people; this factor undoes what that loses
        # where everybody meets everybody.
        few = n_people * (n_people - 1) / (n_people - 2) ** 2
        return wilson(rate, n, rate * (1 - rate) * n**2 / max(few * together, alone), level)
    return wilson(rate, n, n**2 / at_most, level)


def wilson(rate: float, n: int, effective: float, level: float) -> Interval:
    """Wilson's score interval for a rate that ``effective`` independent pairs would give."""
    _level("wilson", level)
    z = NormalDist().inv_cdf((1 + level) / 2)
    middle = rate + z**2 / (2 * effective)
    half = z * sqrt(rate * (1 - rate) / effective + (z / (2 * effective)) ** 2)
    scale = 1 + z**2 / effective
    low, high = max((middle - half) / scale, 0.0), min((middle + half) / scale, 1.0)
    return Interval(rate, min(low, rate), max(high, rate), n, effective)


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
    rows = np.atleast_2d(np.asarray(values, dtype=np.float64))
    first, second = people
    two = first != second
    n_people = int(max(first.max(), second.max())) + 1
    couple = np.minimum(first, second)[two] * n_people + np.maximum(first, second)[two]
    if n_people**2 > 4 * len(couple):  # too many couples to count those that never met
        couple = np.unique(couple, return_inverse=True)[1]
    by_person = np.stack(
        [np.bincount(first, v, n_people) + np.bincount(second, v * two, n_people) for v in rows]
    )
    by_couple = np.stack([np.bincount(couple, v[two], 1) for v in rows])
    total: Floats = by_person @ by_person.T - by_couple @ by_couple.T
    return total


def check_people(where: str, same: NDArray[np.bool_], identities: Identities | None) -> People:
    """The people of the pairs as numbers; somebody new in each pair if they are not known."""
    n = len(same)
    if identities is None:
        return np.arange(n), np.where(same, np.arange(n), n + np.arange(n))
    if len(identities) != 2:
        expected = "be two arrays, for the first and the second images"
        raise _check.refuse(where, "identities", expected, f"{len(identities)}")
    names = [check_labels(where, side, n, "identities") for side in identities]
    first, second = np.unique(np.concatenate(names), return_inverse=True)[1].reshape(2, n)
    if (odd := np.flatnonzero((first == second) != same)).size:
        k = int(odd[0])
        got = f"{names[0][k]} and {names[1][k]} with same = {int(same[k])} in pair {k}"
        expected = "be equal exactly where same is 1"
        raise _check.refuse(where, "identities", expected, f"{got}; {odd.size} such pairs")
    return first, second


def _number_of(people: People) -> int:
    return int(np.count_nonzero(np.bincount(np.concatenate(people))))


def _where(people: People, kept: NDArray[np.bool_]) -> People:
    return people[0][kept], people[1][kept]


def _level(where: str, level: float) -> None:
    if not 0 < level < 1:
        raise _check.refuse(where, "level", "be between 0 and 1", level)
