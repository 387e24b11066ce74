"""From the scores of pairs to a decision: a calibration and a threshold that meets an aim."""

from siameselib import _check
from siameselib.evaluation.calibration import Calibration, fit_beta, fit_isotonic, fit_platt
from siameselib.evaluation.inputs import Values
from siameselib.evaluation.intervals import Identities
from siameselib.evaluation.thresholds import check_cost, fit_threshold
from siameselib.evaluation.verification import tar_at_far

_BEYOND = 1e-6  # rounding may take a cosine so far beyond its ends


def fit_decision(
    scores: Values,
    same: Values,
    *,
    far: float | None,
    cost: tuple[float, float] | None,
    kind: str,
    identities: Identities | None,
) -> tuple[Calibration, float]:
    """Fit a calibration, and the threshold of a false-accept rate or of least cost.

    Args:
        scores: The similarities of the pairs; cosines for "beta".
        same: 1 where the pair shows one person.
        far: The false-accept rate to allow.
        cost: What a false accept and a false reject cost; both the same if neither is given.
        kind: Of the calibration.
        identities: Who is on the first and who on the second image of each pair.

    Returns:
        The calibration and the threshold.

    Raises:
        ValueError: As for `Verifier.fit`.
    """
    if far is not None and cost is not None:
        raise _check.refuse("fit", "far and cost", "not be given together", f"{far} and {cost}")
    costs = (1.0, 1.0) if cost is None else cost
    check_cost("fit", costs, None)
    fitted: Calibration
    if kind == "isotonic":
        fitted = fit_isotonic(scores, same)
    elif kind == "beta":
        ends = {"low": -1 - _BEYOND, "high": 1 + _BEYOND}
        fitted = fit_beta(scores, same, **ends, identities=identities)
    else:
        fitted = fit_platt(scores, same, identities=identities)
    if far is not None:
        found = tar_at_far(scores, same, far)
        if found.threshold is None:
            expected = "stand for at least ten false accepts among the pairs"
            raise _check.refuse("fit", "far", expected, f"{found.budget:.3g}")
        return fitted, found.threshold
    even = fitted.score_at(costs[0] / (costs[0] + costs[1]))
    return fitted, fit_threshold(scores, same, cost=costs) if even is None else even
