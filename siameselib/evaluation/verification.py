"""Verification (1:1): from the scores of pairs to honest figures.

``scores`` are similarities: the higher, the more alike (a distance enters as its negative).
``same`` is 1 where both images show the same identity. A pair is accepted when
``score >= threshold``; a false accept is an accepted pair of different identities.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siameselib import _check
from siameselib.evaluation.curves import auc, count_cuts, eer
from siameselib.evaluation.inputs import (
    Values,
    check_labels,
    check_pairs,
    check_rate,
    check_rates,
    check_threshold,
)
from siameselib.evaluation.intervals import PairRates, pair_rates, tar_interval
from siameselib.evaluation.shared_people import Identities, Interval, check_people
from siameselib.evaluation.thresholds import cut_threshold, fit_threshold

MIN_FALSE_ACCEPTS = 10


@dataclass(frozen=True)
class TarAtFar:
    """True-accept rate at a false-accept rate, or the reason why it cannot be measured.

    ``value``, ``threshold`` and ``false_accepts`` (pairs really accepted) are None when the
    ``budget`` = far · (pairs of different identities) stays below ten.
    """

    far: float
    value: float | None
    threshold: float | None
    false_accepts: int | None
    budget: float
    interval: Interval | None = None
    """Of the value, where the identities of the pairs were given."""

    @property
    def frr(self) -> float | None:
        """False-reject rate at the false-accept rate, 1 - value: FNMR@FMR."""
        return None if self.value is None else 1 - self.value

    @property
    def text(self) -> str:
        """The result in words."""
        if self.value is None:
            return f"not measurable: {self.budget:.3g} false accepts"
        return f"{self.value:.3f}"

    def as_dict(self) -> dict[str, Any]:
        """The fields and the words, ready for JSON."""
        return {**asdict(self), "text": self.text}

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Verification:
    """What `verify_pairs` found. ``d_prime`` is None where the scores have no spread."""

    n_pairs: int
    n_same: int
    accuracy: float
    accuracy_se: float
    threshold: float
    auc: float
    eer: float
    tar_at_far: dict[str, TarAtFar]
    d_prime: float | None
    rates: PairRates | None = None
    """Rates at the threshold with their intervals, where the identities were given."""

    def as_dict(self) -> dict[str, Any]:
        """The figures as plain numbers, strings and dictionaries, ready for JSON."""
        tars = {far: tar.as_dict() for far, tar in self.tar_at_far.items()}
        return {**asdict(self), "tar_at_far": tars}

    def __str__(self) -> str:
        tars = "; ".join(f"TAR at FAR {far} {tar}" for far, tar in self.tar_at_far.items())
        spread = "undefined" if self.d_prime is None else f"{self.d_prime:.2f}"
        error = f"± {self.accuracy_se:.3f}"
        if self.rates is not None:
            error = f"({self.rates.accuracy.low:.3f} to {self.rates.accuracy.high:.3f})"
        return (
            f"{self.n_pairs} pairs ({self.n_same} same): accuracy {self.accuracy:.3f} "
            f"{error} at threshold {self.threshold:.4g}; AUC {self.auc:.3f}; "
            f"EER {self.eer:.3f}; {tars}; d′ {spread}"
        )


@dataclass(frozen=True)
class FoldedAccuracy:
    """Mean accuracy over folds, its standard error, and each fold's accuracy and threshold."""

    mean: float
    standard_error: float
    accuracies: list[float]
    thresholds: list[float]

    def __str__(self) -> str:
        return f"{self.mean:.4f} ± {self.standard_error:.4f} over {len(self.accuracies)} folds"


def accuracy_at(scores: Values, same: Values, threshold: float) -> tuple[float, float]:
    """Share of pairs judged correctly at a threshold, with its standard error.

    a = #{(score ≥ threshold) = same} / n,  se = √(a (1 - a) / n).

    The standard error takes the pairs as independent; pairs that share people vary more.

    Args:
        scores: similarities, higher = more alike.
        same: 1 (or True) where the pair shows one identity.
        threshold: fitted on other pairs (`fit_threshold`).

    Shape:
        scores, same: (n,).

    Returns:
        (accuracy, standard error).

    Raises:
        ValueError: shapes differ or are not (n,), a score or the threshold is not finite, or one
            class is missing.
        TypeError: not numbers.

    Example:
        >>> accuracy_at([0.9, 0.4, 0.3, 0.1], [1, 1, 0, 0], 0.5)
        (0.75, 0.21650635094610965)
    """
    threshold = check_threshold("accuracy_at", threshold)
    checked_scores, checked_same = check_pairs("accuracy_at", scores, same)
    accuracy = float(np.mean((checked_scores >= threshold) == checked_same))
    return accuracy, sqrt(accuracy * (1 - accuracy) / len(checked_scores))


def tar_at_far(
    scores: Values, same: Values, far: float, *, identities: Identities | None = None
) -> TarAtFar:
    """Best true-accept rate whose false-accept rate does not exceed ``far``.

    The budget far · n⁻ is the number of false accepts that the rate stands for. Below ten the
    threshold would hang on a handful of pairs, so the answer is "not measurable". Nothing is
    interpolated: the rate is one that a threshold really reaches.

    Args:
        scores: similarities, higher = more alike.
        same: 1 (or True) where the pair shows one identity.
        far: the false-accept rate allowed, in (0, 1].
        identities: who is on the first and who on the second image of each pair, for a 95 %
            interval. It counts in that the threshold was chosen on these pairs.

    Shape:
        scores, same, each of identities: (n,).

    Returns:
        TarAtFar with the value, the threshold that reaches it (halfway to the next lower
        score) and the false accepts there, or None for all three.

    Raises:
        ValueError: shapes differ or are not (n,), a score is not finite, one class is missing,
            ``far`` is not in (0, 1], or ``same`` contradicts ``identities``.
        TypeError: not numbers, or identities that are neither integers nor names.

    Example:
        >>> scores, same = [*range(300), 299], [0] * 300 + [1]
        >>> str(tar_at_far(scores, same, 0.1)), str(tar_at_far(scores, same, 0.001))
        ('1.000', 'not measurable: 0.3 false accepts')
    """
    cuts = count_cuts("tar_at_far", scores, same)
    found = tar_from_counts(cuts.false, cuts.true, far, lambda cut: cut_threshold(cuts, cut))
    if identities is None or found.value is None or found.threshold is None:
        return found
    s, y = check_pairs("tar_at_far", scores, same)
    people = check_people("tar_at_far", y, identities)
    return replace(found, interval=tar_interval(s >= found.threshold, s, y, people, far))


def d_prime(scores: Values, same: Values) -> float | None:
    """Distance between the two score distributions in units of their spread.

    d′ = (mean⁺ - mean⁻) / √((var⁺ + var⁻) / 2).

    Args:
        scores: similarities, higher = more alike.
        same: 1 (or True) where the pair shows one identity.

    Shape:
        scores, same: (n,).

    Returns:
        d′, negative for scores that are upside down; None when neither class has any spread.

    Raises:
        ValueError: shapes differ or are not (n,), a score is not finite, or one class is missing.
        TypeError: not numbers.

    Example:
        >>> round(d_prime([3.0, 5.0, 0.0, 2.0], [1, 1, 0, 0]), 3)
        3.0
    """
    checked_scores, checked_same = check_pairs("d_prime", scores, same)
    unit = checked_scores / max(1.0, float(np.abs(checked_scores).max()))  # no overflow below
    unit -= unit.min()
    if unit.max() == 0:
        return None
    unit /= unit.max()
    positive, negative = unit[checked_same], unit[~checked_same]
    spread = sqrt((positive.var() + negative.var()) / 2)
    return None if spread == 0 else float((positive.mean() - negative.mean()) / spread)


def verify_pairs(
    scores: Values,
    same: Values,
    *,
    threshold: float,
    fars: Sequence[float] = (0.1, 0.01, 0.001),
    identities: Identities | None = None,
) -> Verification:
    """Everything that is to be said about the scores of a list of test pairs.

    Args:
        scores: similarities of the test pairs, higher = more alike.
        same: 1 (or True) where the pair shows one identity.
        threshold: accept from this score on. It has no default because it must come from other
            pairs, those of the training or a validation set (`fit_threshold`): fitted on the
            test pairs themselves it would peek at the answers and flatter the accuracy.
        fars: false-accept rates at which to report the true-accept rate.
        identities: who is on the first and who on the second image of each pair, for 95 %
            intervals that know that pairs share people (`pair_rates`).

    Shape:
        scores, same, each of identities: (n,).

    Returns:
        Verification; `str()` puts it in words, ``as_dict()`` is ready for JSON.

    Raises:
        ValueError: shapes differ or are not (n,), a score or the threshold is not finite, one
            class is missing, or a rate of ``fars`` is not in (0, 1].
        TypeError: not numbers.

    Example:
        >>> found = verify_pairs([0.9, 0.6, 0.7, 0.1], [1, 1, 0, 0], threshold=0.65)
        >>> found.accuracy, found.auc, found.tar_at_far["0.1"].text
        (0.5, 0.75, 'not measurable: 0.2 false accepts')
    """
    checked_scores, checked_same = check_pairs("verify_pairs", scores, same)
    threshold = check_threshold("verify_pairs", threshold)
    accuracy, standard_error = accuracy_at(checked_scores, checked_same, threshold)
    return Verification(
        n_pairs=len(checked_scores),
        n_same=int(checked_same.sum()),
        accuracy=accuracy,
        accuracy_se=standard_error,
        threshold=threshold,
        auc=auc(checked_scores, checked_same),
        eer=eer(checked_scores, checked_same),
        tar_at_far={
            f"{far:g}": tar_at_far(checked_scores, checked_same, far, identities=identities)
            for far in check_rates("verify_pairs", "fars", fars)
        },
        d_prime=d_prime(checked_scores, checked_same),
        rates=None
        if identities is None
        else pair_rates(checked_scores, checked_same, threshold, identities=identities),
    )


def verify_folds(scores: Values, same: Values, folds: Values) -> FoldedAccuracy:
    """Accuracy of each fold at the threshold fitted on the other folds, LFW's View 2.

    Mean ± s / √k over the k folds, with s their standard deviation (k - 1 below).

    Args:
        scores: similarities, higher = more alike. In View 2 each fold has scores of a net of its
            own, trained on the other nine.
        same: 1 (or True) where the pair shows one identity.
        folds: of each pair, integers.

    Shape:
        scores, same, folds: (n,).

    Returns:
        FoldedAccuracy. Its standard error holds for folds that share nobody and takes them as
        independent, though their training sets overlap.

    Raises:
        ValueError: shapes differ, a score is not finite, there are fewer than two folds, or a
            class is missing in a fold.
        TypeError: not numbers.

    Example:
        >>> found = verify_folds([0.9, 0.1, 0.8, 0.6], [1, 0, 1, 0], [0, 0, 1, 1])
        >>> found.accuracies, found.mean, found.standard_error
        ([1.0, 0.5], 0.75, 0.25)

    Source:
        Huang et al., "Labeled Faces in the Wild", UMass TR 07-49 (2007), section III.
    """
    s, y = check_pairs("verify_folds", scores, same)
    of = check_labels("verify_folds", folds, len(s), "folds")
    names = np.unique(of)
    if len(names) < 2:
        raise _check.refuse("verify_folds", "folds", "name at least 2 folds", len(names))
    accuracies, thresholds = [], []
    for name in names:
        test = of == name
        thresholds.append(fit_threshold(s[~test], y[~test]))
        accuracies.append(accuracy_at(s[test], y[test], thresholds[-1])[0])
    error = float(np.std(accuracies, ddof=1)) / sqrt(len(names))
    return FoldedAccuracy(float(np.mean(accuracies)), error, accuracies, thresholds)


def tar_from_counts(
    false: NDArray[Any], true: NDArray[Any], far: float, threshold_of: Callable[[int], float]
) -> TarAtFar:
    """TAR at FAR of cumulative counts of false and true accepts (0, 0) … (n⁻, n⁺)."""
    far = check_rate("tar_at_far", "far", far)
    different = int(false[-1])
    value, threshold, false_accepts = None, None, None
    # Counts are compared as rates: 29 / 100 <= 0.29 holds in floats, 29 <= 0.29 * 100 does not.
    if far >= MIN_FALSE_ACCEPTS / different:
        last = np.flatnonzero(false / different <= far)[-1]
        # The last cut within the rate may add nothing but accepted different pairs.
        cut = int(np.searchsorted(true, true[last]))
        value, false_accepts = int(true[cut]) / int(true[-1]), int(false[cut])
        threshold = threshold_of(cut)
    return TarAtFar(float(far), value, threshold, false_accepts, float(far * different))
