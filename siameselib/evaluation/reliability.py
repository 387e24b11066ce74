"""Are the probabilities true? Reliability diagram, Cllr and the cost of decisions."""

from dataclasses import asdict, dataclass
from math import log
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from siameselib import _check
from siameselib.evaluation.calibration import pool
from siameselib.evaluation.curves import count_cuts
from siameselib.evaluation.inputs import (
    Floats,
    Values,
    check_level,
    check_pairs,
    check_share,
    check_threshold,
    to_array,
)
from siameselib.evaluation.shared_people import (
    Identities,
    Interval,
    check_people,
    rate_interval,
)
from siameselib.evaluation.thresholds import check_cost


@dataclass(frozen=True)
class ReliabilityBin:
    """Pairs of about one probability: the mean of what was said, and what was seen."""

    low: float
    high: float
    predicted: float
    observed: Interval


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram; ``error`` is the mean gap between said and seen, over all pairs."""

    bins: list[ReliabilityBin]
    error: float

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        rows = [
            f"said {b.predicted:.3f}, seen {b.observed.value:.3f} "
            f"({b.observed.low:.3f} to {b.observed.high:.3f}), {b.observed.n:,} pairs"
            for b in self.bins
        ]
        return "\n".join([*rows, f"expected calibration error {self.error:.4f}"])


def reliability(
    probabilities: Values,
    same: Values,
    *,
    bins: int = 10,
    identities: Identities | None = None,
    level: float = 0.95,
) -> Reliability:
    """Compare the probabilities that were said with the share of same pairs that was seen.

    Args:
        probabilities: P(same) of each pair, from a calibration fitted on other pairs.
        same: 1 (or True) where the pair shows one identity.
        bins: evenly wide ones between 0 and 1; empty ones are left out.
        identities: who is on the first and who on the second image of each pair, for intervals
            that know that pairs share people.
        level: of the intervals.

    Shape:
        probabilities, same, each of identities: (n,).

    Returns:
        Reliability: draw ``observed`` over ``predicted``; calibrated ones lie on the diagonal.

    Raises:
        ValueError: shapes differ, a probability is not one, one class is missing, or ``same``
            contradicts ``identities``.
        TypeError: not numbers.

    Example:
        >>> found = reliability([0.1, 0.2, 0.7, 0.9], [0, 0, 1, 1], bins=2)
        >>> [(round(b.predicted, 2), b.observed.value) for b in found.bins]
        [(0.15, 0.0), (0.8, 1.0)]
    """
    p, y = check_pairs("reliability", probabilities, same)
    if p.min() < 0 or p.max() > 1:
        expected = "lie between 0 and 1"
        raise _check.refuse("reliability", "probabilities", expected, f"{p.min():g} to {p.max():g}")
    _check.integer("reliability", "bins", bins, 1)
    check_level("reliability", level)
    first, second = check_people("reliability", y, identities)
    place = np.minimum((p * bins).astype(np.int64), bins - 1)
    rows, error = [], 0.0
    for k in np.unique(place):
        here = place == k
        people = first[here], second[here]
        seen = rate_interval(y[here], np.zeros(here.sum()), people, level)
        said = float(p[here].mean())
        rows.append(ReliabilityBin(k / bins, (k + 1) / bins, said, seen))
        error += seen.n / len(p) * abs(seen.value - said)
    return Reliability(rows, error)


def to_llr(probabilities: ArrayLike, prior: float = 0.5) -> Floats:
    """Natural log of the likelihood ratio that takes a prior to these probabilities.

    logit p - logit π: what the scores say, whatever the share of same pairs.

    Args:
        probabilities: P(same | score), from a calibration.
        prior: the share of same pairs in the data that the calibration was fitted on.

    Shape:
        Any; the result has the same.

    Returns:
        The log-likelihood ratios; infinite where a probability is 0 or 1.

    Raises:
        ValueError: a probability is not between 0 and 1, or the prior is 0 or 1.

    Example:
        >>> to_llr([0.5, 0.75], prior=0.25).round(3).tolist()
        [1.099, 2.197]
    """
    p = to_array("to_llr", "probabilities", probabilities).astype(np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise _check.refuse("to_llr", "probabilities", "lie between 0 and 1", p)
    check_share("to_llr", "prior", prior)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(p) - np.log1p(-p) - (log(prior) - log(1 - prior)))


def cllr(llr: Values, same: Values) -> float:
    r"""Cost of the log-likelihood ratios over all priors and costs, in bits.

    .. math:: C_\mathrm{llr} = \tfrac12 \big(
              \overline{\log_2(1 + e^{-\ell})}^{\,+} + \overline{\log_2(1 + e^{\ell})}^{\,-} \big),

    means over same and over different pairs. 0 is perfect, 1 is what llr = 0 costs, which says
    nothing; more than 1 is worse than saying nothing.

    Args:
        llr: natural log-likelihood ratios, from `to_llr`.
        same: 1 (or True) where the pair shows one identity.

    Shape:
        llr, same: (n,).

    Returns:
        The cost.

    Raises:
        ValueError: shapes differ, a ratio is not finite, or one class is missing.
        TypeError: not numbers.

    Example:
        >>> cllr([0.0, 0.0], [1, 0]), round(cllr([3.0, -3.0], [1, 0]), 3)
        (1.0, 0.07)

    Source:
        Brümmer and du Preez, "Application-independent evaluation of speaker detection" (2006).
    """
    ratios, y = check_pairs("cllr", llr, same)
    return _cllr(ratios, y)


def min_cllr(scores: Values, same: Values) -> float:
    """`cllr` after the best increasing map of the scores: what calibration cannot repair.

    The map is fitted on these very pairs (pool adjacent violators, both kinds weighing the same),
    so it is a lower bound, not a promise; ``cllr - min_cllr`` is what the calibration loses.

    Args:
        scores: similarities, higher = more alike.
        same: 1 (or True) where the pair shows one identity.

    Shape:
        scores, same: (n,).

    Returns:
        The cost, from 0 (separated) to 1 (useless).

    Raises:
        ValueError: shapes differ, a score is not finite, or one class is missing.
        TypeError: not numbers.

    Example:
        >>> min_cllr([0.1, 0.2, 0.8], [0, 0, 1]), min_cllr([0.5, 0.5], [1, 0])
        (0.0, 1.0)

    Source:
        Brümmer and du Preez (2006), section 5.
    """
    cuts = count_cuts("min_cllr", scores, same)
    true = np.diff(cuts.true)[::-1] / cuts.true[-1]
    false = np.diff(cuts.false)[::-1] / cuts.false[-1]
    sizes = pool(true / (true + false), true + false)[1]
    starts = np.cumsum(sizes) - sizes
    true, false = np.add.reduceat(true, starts), np.add.reduceat(false, starts)
    # In a pool the ratio is true / false; a kind that is not there costs nothing.
    cost = sum(
        share * np.log2(1 + other / share)
        for side, against in ((true, false), (false, true))
        for share, other in zip(side, against, strict=True)
        if share > 0
    )
    return float(cost / 2)


def expected_cost(
    scores: Values,
    same: Values,
    threshold: float,
    *,
    cost: tuple[float, float] = (1, 1),
    prior: float | None = None,
) -> float:
    """Cost of a decision on average: cost[0] · π⁻ FAR + cost[1] · π⁺ FRR at the threshold.

    Args:
        scores: similarities, higher = more alike.
        same: 1 (or True) where the pair shows one identity.
        threshold: fitted on other pairs (`fit_threshold` with the same cost and prior).
        cost: of a false accept and of a false reject.
        prior: the share of same pairs, π⁺, where decisions are taken; as in these pairs by default.

    Shape:
        scores, same: (n,).

    Returns:
        The cost.

    Raises:
        ValueError: shapes differ, a score is not finite, one class is missing, a cost is not
            positive, or the prior is not between 0 and 1.
        TypeError: not numbers.

    Example:
        >>> expected_cost([0.9, 0.4, 0.6, 0.1], [1, 1, 0, 0], 0.5, cost=(10, 1), prior=0.1)
        4.55
    """
    s, y = check_pairs("expected_cost", scores, same)
    threshold = check_threshold("expected_cost", threshold)
    check_cost("expected_cost", cost, prior)
    share = float(y.mean()) if prior is None else prior
    far, frr = (s[~y] >= threshold).mean(), (s[y] < threshold).mean()
    return float(cost[0] * (1 - share) * far + cost[1] * share * frr)


def _cllr(ratios: Floats, same: Any) -> float:
    positive, negative = ratios[same], ratios[~same]
    nats = np.logaddexp(0, -positive).mean() + np.logaddexp(0, negative).mean()
    return float(nats / (2 * log(2)))
