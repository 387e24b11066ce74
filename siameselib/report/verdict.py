"""What the figures of a run mean, in sentences.

A sentence is said only where the figures carry it: a difference counts when it is more than two
standard errors.
"""

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, cast

from siameselib import _check

_STALE = 0.98  # of the trivial loss: above it nothing was learnt
_KINDS: dict[str, type] = {
    "rates": Mapping,
    "tar_at_far": Mapping,
    "folds": list,
    "n_pairs": Real,
    "n_same": Real,
    "seconds": Real,
}
_CALLED: dict[Any, str] = {Mapping: "a mapping", list: "a list", Real: "a number"}


def verdict(result: Mapping[str, Any], history: Sequence[Mapping[str, Any]] = ()) -> list[str]:
    r"""Say what the figures of a verification run mean; what is not there is not spoken of.

    Args:
        result: the figures of `siameselib.evaluation.verify_pairs`, as in a ``result.json``:
            ``accuracy``, ``accuracy_se``, ``n_pairs``, ``n_same``, ``auc``, ``eer``,
            ``tar_at_far``, and ``rates`` where people were known.
        history: one mapping per epoch, with ``loss``, ``trivial``, ``val_auc``, ``val_accuracy``.

    Returns:
        Sentences, the most important first.

    Raises:
        TypeError: The figures, or those of an epoch, are no mapping.

    Example:
        >>> figures = {"accuracy": 0.52, "accuracy_se": 0.016, "n_pairs": 1000, "n_same": 500}
        >>> print(*verdict(figures), sep="\n")
        52.0 % of 1,000 test pairs are judged correctly, ± 1.6 (standard error
        if pairs were independent).
        That cannot be told apart from guessing, which is right on 50.0 %.
    """
    check_run("verdict", result, history)
    said = [*_accuracy(result), *_order(result), *_far(result)]
    return [*said, *_training(result, history)]


def check_run(where: str, result: object, history: object) -> None:
    """Refuse figures that are no mapping, and a history that is not one mapping per epoch."""
    _check.mapping(where, "result", result, "found.as_dict()")
    for key, kind in _KINDS.items():
        value = cast("Mapping[str, Any]", result).get(key)
        if value is not None and not isinstance(value, kind):
            expected = f"be {_CALLED[kind]}"
            raise _check.refuse(where, f"result[{key!r}]", expected, repr(value), TypeError)
    if not isinstance(history, Sequence) or isinstance(history, str):
        expected = "be a list of one mapping per epoch"
        raise _check.refuse(where, "history", expected, type(history).__name__, TypeError)
    for line in history:
        _check.mapping(where, "each epoch of history", line, '{"loss": 0.7}')


def _accuracy(result: Mapping[str, Any]) -> list[str]:
    accuracy, error = _number(result, "accuracy"), _number(result, "accuracy_se")
    if accuracy is None or error is None:
        return []
    n, same = result.get("n_pairs"), result.get("n_same")
    pairs = "the test pairs" if n is None else f"{n:,} test pairs"
    folds = result.get("folds")
    interval = ((result.get("rates") or {}).get("accuracy")) or {}
    if folds:
        spread = f", ± {_points(error)} (standard error over {len(folds)} folds)"
    elif interval:
        spread = (
            f"; the 95 % interval, which knows that pairs share people, is "
            f"{_percent(interval['low'])} to {_percent(interval['high'])}"
        )
    else:
        spread = f", ± {_points(error)} (standard error if pairs were independent)"
    said = [f"{_percent(accuracy)} of {pairs} are judged correctly{spread}."]
    if n and same is not None:
        guess = max(same, n - same) / n
        low = interval.get("low", accuracy - 2 * error)
        if low <= guess:
            what = f"guessing, which is right on {_percent(guess)}"
            said.append(f"That cannot be told apart from {what}.")
    return said


def _order(result: Mapping[str, Any]) -> list[str]:
    auc, equal = _number(result, "auc"), _number(result, "eer")
    accuracy, error = _number(result, "accuracy"), _number(result, "accuracy_se")
    said = []
    if auc is not None:
        said.append(
            f"A same pair scores above a different pair with a chance of {_percent(auc)} (AUC)."
        )
        if auc < 0.45:
            said.append(
                "Below a half the scores are upside down: a distance given as a similarity, or "
                "labels that say 1 for different."
            )
    if equal is not None and accuracy is not None and error is not None:
        lost = 1 - equal - accuracy
        if lost > max(2 * error, 0.01):
            said.append(
                "The order of the scores is better than the threshold: where both kinds of error "
                f"are equally frequent {_percent(1 - equal)} would be right, {_points(lost)} "
                "points more. Fit the threshold on more pairs, or on pairs more like the test's."
            )
    return said


def _far(result: Mapping[str, Any]) -> list[str]:
    known = {far: tar for far, tar in (result.get("tar_at_far") or {}).items() if _is_known(tar)}
    if not known:
        return []
    far, tar = min(known.items(), key=lambda item: float(item[0]))
    text = (
        f"At a false-accept rate of {_percent(float(far))}, {_percent(tar['value'])} of the same "
        f"pairs are accepted"
    )
    if len(known) < len(result["tar_at_far"]):
        return [f"{text}; lower rates cannot be measured with so few different pairs."]
    return [f"{text}."]


def _training(result: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> list[str]:
    if not history:
        return []
    last, said = history[-1], []
    loss, trivial = _number(last, "loss"), _number(last, "trivial")
    if loss is not None and trivial is not None and loss >= _STALE * trivial:
        said.append(
            f"The training loss ended at {loss:.3g}; a net that has learnt nothing has "
            f"{trivial:.3g}. It has not begun to learn."
        )
    areas = [area for line in history if (area := _number(line, "val_auc")) is not None]
    if len(areas) >= 4:
        best, step = max(areas), areas[-1] - areas[-3]
        if areas[-1] == best and step > 0.002:
            said.append(
                f"The validation AUC was still rising (by {_points(step)} points in the last two "
                f"epochs): train longer."
            )
        elif best - areas[-1] > 0.01:
            said.append(
                f"The validation AUC was best in epoch {areas.index(best) + 1} ({_percent(best)}) "
                f"and ended {_points(best - areas[-1])} points lower: it overfits, or the learning "
                f"rate is too high."
            )
    value, accuracy = _number(last, "val_accuracy"), _number(result, "accuracy")
    error = _number(result, "accuracy_se")
    if value is not None and accuracy is not None and error is not None:
        gap, pairs = value - accuracy, result.get("validation_pairs")
        noise = (value * (1 - value) / pairs) ** 0.5 if pairs else 0.0
        if gap > max(0.03, 2 * (error**2 + noise**2) ** 0.5):
            said.append(
                f"Validation pairs are judged {_points(gap)} points better than test pairs: they "
                f"are easier, or too much was chosen by looking at them."
            )
    return said


def _is_known(tar: Any) -> bool:
    return isinstance(tar, Mapping) and tar.get("value") is not None


def _number(values: Mapping[str, Any], key: str) -> float | None:
    """The value as a finite number; None where there is none."""
    value = values.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if abs(value) < float("inf") else None


def _percent(share: float) -> str:
    """A share in per cent, with as many digits as it needs to be told from 0 and from 100."""
    percent = 100 * share
    if 99.95 <= percent < 100 or 0 < percent < 0.05:
        return f"{percent:.3g} %" if percent < 1 else f"{percent:.2f} %"
    return f"{percent:.1f} %"


def _points(share: float) -> str:
    return f"{100 * share:.1f}"
