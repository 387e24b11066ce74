"""From a score to a probability of "same person"."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from siameselib import _check


class Platt(NamedTuple):
    """The map P(same | score) = 1 / (1 + exp(-(slope · score + offset)))."""

    slope: float
    offset: float

    def __call__(self, scores: ArrayLike) -> NDArray[np.float64]:
        """Give the probability of "same" for each score."""
        z = self.slope * np.asarray(scores, dtype=np.float64) + self.offset
        return np.exp(-np.logaddexp(0.0, -z))


def fit_platt(scores: ArrayLike, same: ArrayLike) -> Platt:
    r"""Fit a sigmoid that turns similarity scores into probabilities.

    Minimises the cross-entropy between :math:`\sigma(a s_i + b)` and the targets
    :math:`(n_+ + 1)/(n_+ + 2)` for same pairs, :math:`1/(n_- + 2)` for different ones, by
    Newton's method with step halving. The targets keep the slope finite when the scores separate
    the two kinds perfectly. Probabilities hold for the share of same pairs in the data that was
    fitted: half, for balanced lists.

    Args:
        scores: Similarities, higher is more alike.
        same: 1 where the pair shows one identity, else 0.

    Shape:
        scores and same: (n,).

    Returns:
        The fitted map; call it on scores.

    Raises:
        ValueError: Shapes differ, a score is not finite, or one kind of pair is missing.

    Example:
        >>> to_probability = fit_platt([0.1, 0.3, 0.2, 0.6, 0.4, 0.8], [0, 0, 0, 1, 1, 1])
        >>> bool(to_probability(0.7) > 0.5)
        True

    Source:
        Platt, "Probabilistic outputs for support vector machines" (1999), eqs. 1-2; Newton's
        method as in Lin, Lin & Weng (2007).
    """
    s = np.asarray(scores, dtype=np.float64)
    y = np.asarray(same, dtype=bool)
    where = "fit_platt"
    if s.ndim != 1 or s.shape != y.shape:
        raise _check.refuse(where, "same", f"have the shape (n,) of scores, {s.shape}", y.shape)
    if not np.isfinite(s).all():
        raise _check.refuse(where, "scores", "be finite", f"{(~np.isfinite(s)).sum()} that are not")
    positives = int(y.sum())
    if positives in {0, y.size}:
        raise _check.refuse(
            where, "same", "hold both kinds of pair", f"{positives} of {y.size} same"
        )
    centre, spread = float(s.mean()), float(s.std()) or 1.0
    x = np.stack([(s - centre) / spread, np.ones_like(s)])
    negatives = y.size - positives
    target = np.where(y, (positives + 1) / (positives + 2), 1 / (negatives + 2))

    def loss(w: NDArray[np.float64]) -> float:
        z = w @ x
        return float((np.logaddexp(0, z) - target * z).sum())

    w = np.array([0.0, np.log((positives + 1) / (negatives + 1))])
    for _ in range(100):
        p = np.exp(-np.logaddexp(0, -(w @ x)))
        gradient = x @ (p - target)
        hessian = (x * (p * (1 - p))) @ x.T + 1e-12 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        size = 1.0
        while loss(w - size * step) > loss(w) and size > 1e-10:
            size /= 2
        w = w - size * step
        if np.abs(gradient).max() < 1e-9 * y.size:
            break
    return Platt(float(w[0] / spread), float(w[1] - w[0] * centre / spread))
