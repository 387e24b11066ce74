"""Intervals of error rates that know that pairs share people.

Two pairs that share a person tend to fail together: a face that is hard once is hard again. So a
thousand pairs of thirty people say less than a thousand pairs of two thousand, and the textbook
interval, which counts pairs, is too narrow. Here the variance of a rate is summed over all pairs
of pairs that share somebody, and the interval leans to where the variance grows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from siameselib import _check
from siameselib.evaluation.inputs import (
    Floats,
    Values,
    check_level,
    check_pairs,
    check_threshold,
)
from siameselib.evaluation.shared_people import (
    Identities,
    Interval,
    People,
    check_people,
    few_people,
    number_of,
    of_pairs,
    rate_interval,
    score_interval,
    shared_sum,
    student,
)


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
    holds for rates near 0. Two things are added where pairs share people. People who are taken for
    others are so by each other most of all, so a rate that came out low by chance has a variance
    that did so too; the interval's variance changes with the rate accordingly,

    .. math:: V(\theta) = \frac{\theta (1 - \theta)}{\hat m} + (1 + z^{-2})
              \frac{K}{n^3 \hat V} (\theta - \hat\theta), \qquad
              K = 2 \sum_{i < j} (h_i - c_{ij}) (h_j - c_{ij}) c_{ij},

    with :math:`c_{ij}` the sum of :math:`e_p - \hat\theta` over the pairs of the people i and j,
    and :math:`h_i` over all pairs of i. And z is the quantile of Student's t with G - 1 degrees of
    freedom. Without a single error (or with nothing else) the data cannot tell how much pairs
    depend on each other; then pairs that share a person count as one and the same.

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
        0.75 (0.09501 to 0.9885)

    Source:
        Fogliato, Patil and Perona, "Confidence intervals for error rates in 1:1 matching tasks"
        (2024), section 3: plug-in variance and Wilson interval. The sum over arbitrary lists is
        the dyadic cluster-robust variance of Aronow, Samii and Assenova (2015). Theirs counts
        errorless pairs as independent; ours does not. K is the joint term in the Edgeworth
        expansion of a studentised U-statistic (Helmers, Annals of Statistics 19, 1991); theirs
        leaves it out, and the interval then lies too low several times as often as too high.
    """
    s, y = check_pairs("pair_rates", scores, same)
    threshold = check_threshold("pair_rates", threshold)
    check_level("pair_rates", level)
    people = None if identities is None else check_people("pair_rates", y, identities)
    wrong = (s >= threshold) != y
    return PairRates(
        float(threshold),
        rate_interval(~wrong, y, people, level),
        *(
            rate_interval(wrong[kept], y[kept], people and of_pairs(people, kept), level)
            for kept in (~y, y)
        ),
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
    check_level("double_or_nothing", level)
    if not callable(statistic):
        got = type(statistic).__name__
        raise _check.refuse("double_or_nothing", "statistic", "be a function", got, TypeError)
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
    accepted: NDArray[np.bool_],
    scores: Floats,
    same: NDArray[np.bool_],
    people: People,
    allowed: float,
) -> Interval:
    """95 % interval of the true-accept rate at a threshold that was fitted on the same pairs.

    Args:
        accepted: at the threshold.
        scores: of the pairs.
        same: their kind.
        people: numbers of the people on the first and on the second images.
        allowed: the false-accept rate that the threshold was fitted to.

    Shape:
        accepted, scores, same, each of people: (n,).

    Returns:
        The interval.

    Source:
        Zou and Donner, "Construction of confidence limits about effect measures" (2008), for the
        joining of two intervals; with a correlation in Zou (2007).
    """
    # To first order the error is that of the rate at a fixed threshold less that of the threshold,
    # which a false accept too many lifts. The first has Wilson's interval; the second reaches as
    # far as the rate at the thresholds where the false-accept rate is a quantile off. The two are
    # joined by their distances from the value, with the correlation that shared people make.
    positive, negative = scores[same], scores[~same]
    n, value, far = len(positive), float(accepted[same].mean()), float(accepted[~same].mean())
    if not 0 < value < 1:
        return rate_interval(accepted[same], same[same], of_pairs(people, same), 0.95)
    n_people = number_of(people)
    true = np.where(same, accepted - value, 0.0) / n
    false = np.where(same, 0.0, accepted - far) / len(negative)
    together = few_people(n_people) * shared_sum(np.stack([true, false]), people)
    variance, false_variance = np.maximum(np.diag(together), [true @ true, false @ false])
    together_both = float(together[0, 1]) / sqrt(variance * false_variance)
    z = student(0.95, n_people - 1)
    fixed = score_interval(value, n, value * (1 - value) / variance, z)
    off = z * sqrt(false_variance)
    cuts = np.quantile(negative, np.clip([1 - allowed - off, 1 - allowed + off], 0, 1))
    above, below = ((positive >= cut).mean() for cut in cuts)
    ends = [
        sqrt(max(a * a + b * b - 2 * together_both * a * b, 0.0))
        for a, b in (
            (value - fixed.low, max(value - below, 0.0)),
            (fixed.high - value, max(above - value, 0.0)),
        )
    ]
    low, high = max(value - ends[0], 0.0), min(value + ends[1], 1.0)
    effective = value * (1 - value) * (2 * z / (high - low)) ** 2
    return Interval(value, low, high, n, effective)
