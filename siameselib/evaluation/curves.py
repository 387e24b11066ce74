"""The ROC of pair scores, its area and its equal error rate, counted exactly.

``scores`` are similarities: the higher, the more alike (a distance enters as its negative).
``same`` is 1 where both images show the same identity. A pair is accepted when
``score >= threshold``.

Everything rests on one table, the *cuts*: cut k accepts the k highest distinct scores, so that
tied scores are accepted together or not at all and every count is an exact integer.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from siameselib.evaluation.inputs import Floats, Values, check_pairs


class Roc(NamedTuple):
    """False-accept rate, true-accept rate and threshold of every cut, from "none" to "all"."""

    far: Floats
    tar: Floats
    thresholds: Floats


class Cuts(NamedTuple):
    """Distinct scores, highest first, and the accepts of cut k (the k highest of them)."""

    scores: Floats
    false: NDArray[np.int64]
    true: NDArray[np.int64]


def roc_curve(scores: Values, same: Values) -> Roc:
    """Every operating point that the scores allow; tied scores make one point.

    FAR(t) = #{different, score ≥ t} / #{different},  TAR(t) = #{same, score ≥ t} / #{same}.

    Args:
        scores: similarities, higher = more alike.
        same: 1 (or True) where the pair shows one identity.

    Shape:
        scores, same: (n,). Each array of the result: (distinct scores + 1,).

    Returns:
        Roc, ascending in far and tar; the first point accepts nothing (threshold inf), the
        last accepts everything. ``1 - tar`` over ``far`` is the DET curve.

    Raises:
        ValueError: shapes differ or are not (n,), a score is not finite, or one class is missing.
        TypeError: not numbers.

    Example:
        >>> far, tar, thresholds = roc_curve([0.9, 0.8, 0.8, 0.1], [1, 1, 0, 0])
        >>> far.tolist(), tar.tolist(), thresholds.tolist()
        ([0.0, 0.0, 0.5, 1.0], [0.0, 0.5, 1.0, 1.0], [inf, 0.9, 0.8, 0.1])
    """
    cuts = count_cuts("roc_curve", scores, same)
    return Roc(
        cuts.false / cuts.false[-1],
        cuts.true / cuts.true[-1],
        np.concatenate(([np.inf], cuts.scores)),
    )


def auc(scores: Values, same: Values) -> float:
    """Area under the ROC: the chance that a same pair scores above a different pair.

    AUC = (#{s⁺ > s⁻} + ½ #{s⁺ = s⁻}) / (n⁺ n⁻), counted in integers, hence exact with ties.

    Args:
        scores: similarities, higher = more alike.
        same: 1 (or True) where the pair shows one identity.

    Shape:
        scores, same: (n,).

    Returns:
        0.5 for scores that know nothing, below 0.5 for scores that are upside down.

    Raises:
        ValueError: shapes differ or are not (n,), a score is not finite, or one class is missing.
        TypeError: not numbers.

    Example:
        >>> auc([0.9, 0.8, 0.8, 0.1], [1, 1, 0, 0])
        0.875

    Source:
        Hanley and McNeil 1982, the Mann-Whitney form.
    """
    cuts = count_cuts("auc", scores, same)
    return auc_from_counts(cuts.false, cuts.true)


def eer(scores: Values, same: Values) -> float:
    """Equal error rate: where the convex hull of the ROC meets FAR = 1 - TAR.

    The hull holds every operating point that can be had by drawing lots between two thresholds,
    so the value does not depend on how a jump of the curve is interpolated.

    Args:
        scores: similarities, higher = more alike.
        same: 1 (or True) where the pair shows one identity.

    Shape:
        scores, same: (n,).

    Returns:
        A rate in [0, 0.5]; useless and upside-down scores alike give 0.5 (see `auc`).

    Raises:
        ValueError: shapes differ or are not (n,), a score is not finite, or one class is missing.
        TypeError: not numbers.

    Example:
        >>> eer([0.9, 0.7, 0.6, 0.4], [1, 0, 1, 0])
        0.25

    Source:
        Provost and Fawcett 2001 (ROC convex hull); Brümmer and de Villiers 2013 (its EER).
    """
    cuts = count_cuts("eer", scores, same)
    return eer_from_counts(cuts.false, cuts.true)


def auc_from_counts(false: NDArray[Any], true: NDArray[Any]) -> float:
    """AUC of the ROC through cumulative counts of false and true accepts (0, 0) … (n⁻, n⁺)."""
    twice = ((false[1:] - false[:-1]) * (true[1:] + true[:-1])).sum()
    return int(twice) / (2 * int(false[-1]) * int(true[-1]))


def eer_from_counts(false: NDArray[Any], true: NDArray[Any]) -> float:
    """EER on the convex hull of cumulative counts of false and true accepts."""
    # Start with the chord from "accept none" to "accept all" and swing it outwards: the point
    # farthest above the chord is a corner of the hull; it replaces the end on its own side of
    # FAR = FRR, until no point is above the chord.
    different, same = int(false[-1]), int(true[-1])

    def excess(k: int) -> int:  # n⁻ n⁺ (FRR - FAR), positive left of the crossing
        return (same - int(true[k])) * different - int(false[k]) * same

    left, right = 0, len(false) - 1
    while True:
        rise, run = true[right] - true[left], false[right] - false[left]
        above = (true - true[left]) * run - (false - false[left]) * rise
        farthest = int(np.argmax(above))
        if above[farthest] <= 0:
            break
        if excess(farthest) > 0:
            left = farthest
        else:
            right = farthest
    a, b = excess(left), -excess(right)
    return (int(false[left]) * b + int(false[right]) * a) / (different * (a + b))


def count_cuts(where: str, scores: Values, same: Values) -> Cuts:
    """The cuts of the scores, lowest threshold last."""
    checked_scores, checked_same = check_pairs(where, scores, same)
    order = np.argsort(-checked_scores)
    descending = checked_scores[order]
    last_of_tie = np.flatnonzero(np.append(descending[1:] != descending[:-1], True))
    true = np.concatenate(([0], np.cumsum(checked_same[order])[last_of_tie]))
    accepted = np.concatenate(([0], last_of_tie + 1))
    return Cuts(descending[last_of_tie], accepted - true, true)
