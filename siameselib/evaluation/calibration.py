"""From a score to a probability of "same person": Platt, beta and isotonic maps.

Each map is called on scores, gives an interval of its probability where it can, and can be turned
round: `score_at` says which score has a given probability.
"""

from math import log
from statistics import NormalDist
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from siameselib import _check
from siameselib.evaluation.curves import count_cuts
from siameselib.evaluation.inputs import (
    Floats,
    Values,
    check_level,
    check_pairs,
    check_scores,
    check_share,
)
from siameselib.evaluation.shared_people import Identities, check_people, shared_sum

Covariance: TypeAlias = tuple[tuple[float, ...], ...]
_BETA_EDGE = 1e-12  # scores are kept so far from the ends of the range, where ln s is infinite


class Platt(NamedTuple):
    """The map P(same | score) = 1 / (1 + exp(-(slope · score + offset)))."""

    slope: float
    offset: float
    covariance: Covariance | None = None
    """Of slope and offset, for intervals."""

    def __call__(self, scores: Values) -> Floats:
        """Give the probability of "same" for each score."""
        return sigmoid(self.slope * check_scores("Platt", scores) + self.offset)

    def interval(self, scores: Values, level: float = 0.95) -> tuple[Floats, Floats] | None:
        """Give low and high ends of the probabilities; they know what the fit cannot know."""
        s = check_scores("Platt.interval", scores)
        z = self.slope * s + self.offset
        return _interval(z, np.stack([s, np.ones_like(s)]), self.covariance, level)

    def score_at(self, probability: float) -> float | None:
        """Give the score of a probability; None where more alike is not more probable."""
        target = _logit_of("Platt.score_at", probability)
        return None if self.slope <= 0 else (target - self.offset) / self.slope


class Beta(NamedTuple):
    """The map P(same | s) = σ(a ln u - b ln(1 - u) + c), u = (s - low) / (high - low)."""

    a: float
    b: float
    c: float
    low: float = 0.0
    high: float = 1.0
    covariance: Covariance | None = None
    """Of a, b and c, for intervals."""

    def __call__(self, scores: Values) -> Floats:
        """Give the probability of "same" for each score."""
        return sigmoid(self._logit(check_scores("Beta", scores)))

    def interval(self, scores: Values, level: float = 0.95) -> tuple[Floats, Floats] | None:
        """Give low and high ends of the probabilities; they know what the fit cannot know."""
        s = check_scores("Beta.interval", scores)
        x = np.stack([*_beta_features(s, self.low, self.high), np.ones_like(s)])
        return _interval(self._logit(s), x, self.covariance, level)

    def score_at(self, probability: float) -> float | None:
        """Give the score of a probability; None where more alike is not more probable."""
        low, high = self.low, self.high
        target = _logit_of("Beta.score_at", probability)
        if not self._logit(low) < target < self._logit(high):
            return None
        for _ in range(100):
            middle = (low + high) / 2
            low, high = (middle, high) if self._logit(middle) < target else (low, middle)
        return high

    def _logit(self, scores: ArrayLike) -> Floats:
        near, far = _beta_features(scores, self.low, self.high)
        return self.a * near + self.b * far + self.c


class Isotonic(NamedTuple):
    """Straight lines between knots, level beyond them; never falling."""

    scores: tuple[float, ...]
    probabilities: tuple[float, ...]

    def __call__(self, scores: Values) -> Floats:
        """Give the probability of "same" for each score."""
        s = check_scores("Isotonic", scores)
        return np.asarray(np.interp(s, self.scores, self.probabilities), dtype=np.float64)

    def interval(self, scores: Values, level: float = 0.95) -> tuple[Floats, Floats] | None:
        """Give nothing: the map has no parameters whose errors would say how sure it is."""
        return None

    def score_at(self, probability: float) -> float | None:
        """Give the lowest score of a probability; None where none has it."""
        _logit_of("Isotonic.score_at", probability)
        p = np.asarray(self.probabilities)
        if not p[0] < probability <= p[-1]:
            return None
        k = int(np.searchsorted(p, probability))  # p[k - 1] < probability <= p[k]
        share = (probability - p[k - 1]) / (p[k] - p[k - 1])
        return float(self.scores[k - 1] + share * (self.scores[k] - self.scores[k - 1]))


Calibration: TypeAlias = Platt | Beta | Isotonic


def fit_platt(scores: Values, same: Values, *, identities: Identities | None = None) -> Platt:
    r"""Fit a sigmoid that turns similarity scores into probabilities.

    Minimises the cross-entropy between :math:`\sigma(a s_i + b)` and the targets
    :math:`(n_+ + 1)/(n_+ + 2)` for same pairs, :math:`1/(n_- + 2)` for different ones, by
    Newton's method with step halving. The targets keep the slope finite when the scores separate
    the two kinds perfectly. Probabilities hold for the share of same pairs in the data that was
    fitted: half, for balanced lists.

    Args:
        scores: Similarities, higher is more alike.
        same: 1 where the pair shows one identity, else 0.
        identities: Who is on the first and who on the second image of each pair; then the
            intervals know that pairs share people.

    Shape:
        scores, same and each of identities: (n,).

    Returns:
        The fitted map; call it on scores.

    Raises:
        ValueError: Shapes differ, a score is not finite, one kind of pair is missing, or ``same``
            contradicts ``identities``.
        TypeError: Not numbers.

    Example:
        >>> to_probability = fit_platt([0.1, 0.3, 0.2, 0.6, 0.4, 0.8], [0, 0, 0, 1, 1, 1])
        >>> bool(to_probability(0.7) > 0.5)
        True

    Source:
        Platt, "Probabilistic outputs for support vector machines" (1999), eqs. 1-2; Newton's
        method as in Lin, Lin & Weng (2007).
    """
    s, y = check_pairs("fit_platt", scores, same)
    people = check_people("fit_platt", y, identities)
    w, covariance = _fit(s[None], y, people)
    return Platt(float(w[0]), float(w[1]), covariance)


def fit_beta(
    scores: Values,
    same: Values,
    *,
    low: float = 0.0,
    high: float = 1.0,
    identities: Identities | None = None,
) -> Beta:
    r"""Fit the beta family, for scores that live between two ends.

    :math:`P(\text{same} \mid u) = \sigma(a \ln u - b \ln(1 - u) + c)` with a, b ≥ 0, the odds of
    two beta distributions. It bends where Platt's sigmoid cannot, and holds the identity
    (a = b = 1, c = 0), so that calibrated probabilities are left as they are. A negative a or b is
    set to 0 and the rest fitted again. Targets as in `fit_platt`.

    Args:
        scores: Similarities between ``low`` and ``high``.
        same: 1 where the pair shows one identity, else 0.
        low: The lowest score there can be; -1 for a cosine.
        high: The highest.
        identities: As in `fit_platt`.

    Shape:
        scores, same and each of identities: (n,).

    Returns:
        The fitted map; call it on scores.

    Raises:
        ValueError: As `fit_platt`; or a score is not between ``low`` and ``high``.
        TypeError: Not numbers.

    Example:
        >>> to_probability = fit_beta([-0.8, -0.2, 0.1, 0.9, 0.3, 0.6], [0, 0, 0, 1, 1, 1], low=-1)
        >>> bool(to_probability(0.5) > 0.5)
        True

    Source:
        Kull, Silva Filho and Flach, "Beta calibration" (2017), section 4. We smooth the targets;
        they do not.
    """
    s, y = check_pairs("fit_beta", scores, same)
    if not low < high or s.min() < low or s.max() > high:
        expected = f"lie between low = {low:g} and high = {high:g}"
        raise _check.refuse("fit_beta", "scores", expected, f"{s.min():g} to {s.max():g}")
    people = check_people("fit_beta", y, identities)
    features = np.stack(_beta_features(s, low, high))
    used = [0, 1]
    while True:
        w, covariance = _fit(features[used], y, people)
        if not len(used) or (w[:-1] >= 0).all():
            break
        used = [k for k, weight in zip(used, w, strict=False) if weight > w[:-1].min()]
    weights, rows, columns = np.zeros(3), np.array([*used, 2])[:, None], np.array([*used, 2])
    weights[columns] = w
    whole = np.zeros((3, 3))
    whole[rows, columns] = covariance
    a, b, c = weights.tolist()
    return Beta(a, b, c, float(low), float(high), tuple(map(tuple, whole.tolist())))


def fit_isotonic(scores: Values, same: Values) -> Isotonic:
    """Fit the non-falling map of least squares: it follows any shape, given thousands of pairs.

    Neighbouring scores are pooled until the shares of same pairs rise from pool to pool (pool
    adjacent violators). Between pools the map is a straight line. Probabilities are kept within
    1 / (n⁻ + 2) and (n⁺ + 1) / (n⁺ + 2), for no number of pairs makes certain.

    Args:
        scores: Similarities, higher is more alike.
        same: 1 where the pair shows one identity, else 0.

    Shape:
        scores, same: (n,).

    Returns:
        The fitted map; call it on scores.

    Raises:
        ValueError: Shapes differ, a score is not finite, or one kind of pair is missing.
        TypeError: Not numbers.

    Example:
        >>> fit_isotonic([0.1, 0.2, 0.3, 0.4], [0, 1, 0, 1])([0.2, 0.25, 0.3]).tolist()
        [0.5, 0.5, 0.5]

    Source:
        Ayer et al. (1955); Zadrozny and Elkan (2002) for calibration. We keep away from 0 and 1.
    """
    cuts = count_cuts("fit_isotonic", scores, same)
    true, false = np.diff(cuts.true)[::-1], np.diff(cuts.false)[::-1]  # lowest score first
    levels, sizes = pool(true / (true + false), true + false)
    knots = cuts.scores[::-1]
    last = np.cumsum(sizes) - 1
    first = last - sizes + 1
    n_same, n_different = int(cuts.true[-1]), int(cuts.false[-1])
    kept = np.clip(levels, 1 / (n_different + 2), (n_same + 1) / (n_same + 2))
    ends = np.stack([first, last], 1).flatten()
    twice = np.repeat(kept, 2)
    single = np.append(True, ends[1:] != ends[:-1])
    return Isotonic(tuple(knots[ends][single].tolist()), tuple(twice[single].tolist()))


def pool(values: Floats, weights: NDArray[np.int64] | Floats) -> tuple[Floats, NDArray[np.int64]]:
    """Pool adjacent violators: the levels of the best non-falling sequence.

    Args:
        values: in the order in which they should rise.
        weights: of each.

    Shape:
        values, weights: (n,). Result: (pools,), (pools,).

    Returns:
        The level of each pool, and of how many values it is made.
    """
    pools: list[tuple[float, float, int]] = []  # sum, weight, how many
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        total, mass, size = value * weight, weight, 1
        while pools and pools[-1][0] * mass >= total * pools[-1][1]:
            below = pools.pop()
            total, mass, size = total + below[0], mass + below[1], size + below[2]
        pools.append((total, mass, size))
    sums, masses, sizes = zip(*pools, strict=True)
    return np.array(sums) / np.array(masses), np.array(sizes)


def sigmoid(z: Floats) -> Floats:
    """Give 1 / (1 + exp(-z)) without overflow."""
    return np.asarray(np.exp(-np.logaddexp(0.0, -np.asarray(z))), dtype=np.float64)


def _logit_of(where: str, probability: float) -> float:
    probability = check_share(where, "probability", probability)
    return log(probability / (1 - probability))


def _beta_features(scores: ArrayLike, low: float, high: float) -> tuple[Floats, Floats]:
    u = (np.asarray(scores, dtype=np.float64) - low) / (high - low)
    u = np.clip(u, _BETA_EDGE, 1 - _BETA_EDGE)
    return np.log(u), -np.log1p(-u)


def _fit(
    features: Floats, same: NDArray[np.bool_], people: tuple[NDArray[np.int64], NDArray[np.int64]]
) -> tuple[Floats, Covariance]:
    """Weights and offset of logistic regression on Platt's targets, and their covariance."""
    # The covariance is the sandwich H⁻¹ M H⁻¹, with M summed over the pairs that share people.
    centre = features.mean(1, keepdims=True)
    spread = features.std(1, keepdims=True)
    spread[spread == 0] = 1
    x = np.concatenate([(features - centre) / spread, np.ones((1, len(same)))])
    positives, negatives = int(same.sum()), int((~same).sum())
    target = np.where(same, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    w = np.append(np.zeros(len(features)), log((positives + 1) / (negatives + 1)))
    w = _newton(x, target, w)
    p = sigmoid(w @ x)
    bread = np.linalg.inv((x * (p * (1 - p))) @ x.T + 1e-12 * np.eye(len(x)))
    covariance = bread @ shared_sum(x * (p - target), people) @ bread
    back = np.diag(np.append(1 / spread[:, 0], 1.0))  # to the features as they came
    back[-1, :-1] = -(centre / spread)[:, 0]
    covariance = back @ covariance @ back.T
    return back @ w, tuple(map(tuple, covariance.tolist()))


def _newton(x: Floats, target: Floats, w: Floats) -> Floats:
    def loss(w: Floats) -> float:
        z = w @ x
        return float((np.logaddexp(0, z) - target * z).sum())

    for _ in range(100):
        p = sigmoid(w @ x)
        gradient = x @ (p - target)
        hessian = (x * (p * (1 - p))) @ x.T + 1e-12 * np.eye(len(x))
        step = np.linalg.solve(hessian, gradient)
        size = 1.0
        while loss(w - size * step) > loss(w) and size > 1e-10:
            size /= 2
        w = w - size * step
        if np.abs(gradient).max() < 1e-9 * len(target):
            break
    return w


def _interval(
    logit: Floats, x: Floats, covariance: Covariance | None, level: float
) -> tuple[Floats, Floats] | None:
    """Ends of the probabilities: straight in the logit, hence always in (0, 1)."""
    check_level("interval", level)
    if covariance is None:
        return None
    variance = np.einsum("i...,ij,j...->...", x, np.array(covariance), x)
    half = NormalDist().inv_cdf((1 + level) / 2) * np.sqrt(np.maximum(variance, 0))
    return sigmoid(logit - half), sigmoid(logit + half)


MAPS: dict[str, type[Calibration]] = {"platt": Platt, "beta": Beta, "isotonic": Isotonic}
