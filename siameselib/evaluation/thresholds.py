"""Where to cut the scores: the threshold of least errors or least cost."""

from collections.abc import Sequence
from numbers import Real

import numpy as np

from siameselib import _check
from siameselib.evaluation.curves import Cuts, count_cuts
from siameselib.evaluation.inputs import Values, check_share


def fit_threshold(
    scores: Values,
    same: Values,
    *,
    cost: tuple[float, float] = (1, 1),
    prior: float | None = None,
) -> float:
    """Threshold of the best accuracy or the least cost on these pairs, for use on *other* pairs.

    The cost of a pair is cost[0] · π⁻ FAR + cost[1] · π⁺ FRR with π⁺ the ``prior``, π⁻ = 1 - π⁺;
    with the default of both it is the share of errors. The threshold lies halfway between two
    neighbouring scores. Among equally cheap cuts the one whose false accepts and false rejects are
    most alike in number wins, then the higher one. If accepting everything is best, it is the
    lowest score; if accepting nothing is best, the next number above the highest score.

    Args:
        scores: similarities of training or validation pairs, higher = more alike.
        same: 1 (or True) where the pair shows one identity. With far more different than same
            pairs, accepting nothing becomes the most accurate: give about as many of each, or
            take the threshold of `tar_at_far`, or say what errors cost.
        cost: of a false accept and of a false reject.
        prior: the share of same pairs where the threshold will be used; as in these pairs by
            default.

    Shape:
        scores, same: (n,).

    Returns:
        The threshold, always finite.

    Raises:
        ValueError: shapes differ or are not (n,), a score is not finite, one class is missing, a
            cost is not positive, or the prior is not between 0 and 1.
        TypeError: not numbers.

    Example:
        >>> fit_threshold([0.9, 0.8, 0.3, 0.1], [1, 1, 0, 0])
        0.55
    """
    cuts = count_cuts("fit_threshold", scores, same)
    check_cost("fit_threshold", cost, prior)
    false_rejects = cuts.true[-1] - cuts.true
    errors = cost[0] * cuts.false + cost[1] * false_rejects
    if prior is not None:
        errors = (
            cost[0] * (1 - prior) * (cuts.false / cuts.false[-1])
            + cost[1] * prior * (false_rejects / cuts.true[-1])
        ).round(15)  # ties are ties
    best = np.flatnonzero(errors == errors.min())
    unevenness = np.abs(cuts.false - false_rejects)[best]
    return cut_threshold(cuts, int(best[np.argmin(unevenness)]))


def cut_threshold(cuts: Cuts, k: int) -> float:
    """A finite threshold that accepts exactly the k highest distinct scores."""
    if k == 0:
        return just_above(float(cuts.scores[0]))
    if k == len(cuts.scores):
        return float(cuts.scores[-1])
    upper, lower = cuts.scores[k - 1], cuts.scores[k]
    middle = lower / 2 + upper / 2
    return float(middle if middle > lower else upper)  # neighbouring floats have no middle


def just_above(score: float) -> float:
    """The next float32, so that float32 scores too stay below; beyond its range the next float."""
    with np.errstate(over="ignore"):
        above = np.nextafter(np.float32(score), np.float32(np.inf))
    return float(above if np.isfinite(above) else np.nextafter(score, np.inf))


def check_cost(where: str, cost: tuple[float, float], prior: float | None) -> None:
    """Refuse costs that are not two positive numbers, and a prior that is no share."""
    two = isinstance(cost, Sequence | np.ndarray) and len(cost) == 2
    if not two or not all(isinstance(c, Real) and 0 < c < np.inf for c in cost):
        expected = "be two positive numbers, of a false accept and of a false reject"
        raise _check.refuse(where, "cost", expected, cost)
    if prior is not None:
        check_share(where, "prior", prior)
