"""From pairs to a decision: photos read, a calibration and a threshold that meets an aim."""

import json
import os
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siameselib import _check
from siameselib.evaluation.calibration import Calibration, fit_beta, fit_isotonic, fit_platt
from siameselib.evaluation.inputs import Values
from siameselib.evaluation.shared_people import Identities
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


def read_pairs(
    pairs: Iterable[tuple[object, object, int | bool]],
    read: Callable[[object], NDArray[np.uint8]],
) -> tuple[NDArray[np.uint8], list[int], list[int], list[bool]]:
    """Read the photos of pairs; a path that comes again is read once.

    Args:
        pairs: Of each, two photos and whether they show one person.
        read: Makes pixels of a photo, of one size.

    Returns:
        The photos; of each pair, the places of both in them, and whether they are of one person.

    Raises:
        ValueError: There is no pair.
    """
    photos: list[NDArray[np.uint8]] = []
    places: dict[str, int] = {}

    def place(photo: object) -> int:
        path = os.fspath(photo) if isinstance(photo, str | os.PathLike) else None
        if path in places:
            return places[path]
        photos.append(read(photo))
        if path is not None:
            places[path] = len(photos) - 1
        return len(photos) - 1

    if not isinstance(pairs, Iterable):
        got = type(pairs).__name__
        raise _check.refuse("fit_photos", "pairs", "be (photo, photo, same) each", got, TypeError)
    rows = []
    for pair in pairs:
        if not isinstance(pair, tuple | list) or len(pair) != 3:
            got = f"{len(pair)} of them" if isinstance(pair, tuple | list) else type(pair).__name__
            raise _check.refuse("fit_photos", "each pair", "be (photo, photo, same)", got)
        a, b, same = pair
        rows.append((place(a), place(b), bool(same)))
    if not rows:
        raise _check.refuse("fit_photos", "pairs", "hold pairs", "none")
    i, j, alike = (list(column) for column in zip(*rows, strict=True))
    return np.stack(photos), i, j, alike


def checked_words(known: dict[str, Any]) -> dict[str, Any]:
    """Give what pairs were, if it can be kept in a file: numbers and words.

    Args:
        known: By name.

    Returns:
        The same.

    Raises:
        TypeError: There is something else in it.
    """
    try:
        json.dumps(known)
    except TypeError as error:
        expected = "be numbers and words"
        raise _check.refuse("fit", "fitted_on", expected, str(error), TypeError) from None
    return known
