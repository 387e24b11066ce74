"""The doctor on the folder of a run: what it found in training, or else what the files tell."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from siameselib.diagnostics.evidence import Evidence, Figures
from siameselib.diagnostics.findings import CHECKS, run_checks, vitals
from siameselib.diagnostics.findings.need import enough, need, share
from siameselib.diagnostics.measures import hanley_mcneil
from siameselib.diagnostics.reading import Reading
from siameselib.diagnostics.report import Finding, Report, ranked
from siameselib.evaluation.verifier import Verifier
from siameselib.files import read_json, read_json_lines

_WHERE = "diagnose_saved"
_CONSTANT = 1e-9  # variance of a channel, relative to the layer's largest
_FAMILIES = {"bce": "bce", "contrastive": "contrastive"}


class Run(NamedTuple):
    """What a run left behind; empty or None is what it did not."""

    history: list[dict[str, Any]]
    result: dict[str, Any]
    verifier: Verifier | None
    unread: str
    """Why there is no verifier."""


def diagnose_run(path: Path) -> Report:
    """Examine the folder of a run.

    Where the doctor watched the training, his report is given, with what the test adds. Else what
    there is is looked at, and the report says what could not be seen.

    Args:
        path: the folder.

    Returns:
        The findings, most important first.

    Raises:
        ValueError: If there is nothing in it that can be examined, or a file is damaged.
    """
    kept = path / "doctor.json"
    run = _read(path, with_model=not kept.is_file())
    if not kept.is_file() and not run.history and not run.result and run.verifier is None:
        raise ValueError(
            f"{_WHERE}: {path} holds none of doctor.json, history.jsonl, result.json, model.pt"
            + (f" ({run.unread})" if (path / "model.pt").is_file() else "")
        )
    if not kept.is_file():
        return _of_files(path, run)
    report = _watched(kept)
    told, looked_at = run_checks([_threshold, _test_near_chance], run)
    known = {finding.code for finding in report.findings}
    return Report(
        ranked([*report.findings, *(finding for finding in told if finding.code not in known)]),
        f"the run in {path.resolve().name}, {report.subject}",
        report.vitals,
        sorted({*report.looked_at, *looked_at}),
        report.unseen,
    )


def _watched(file: Path) -> Report:
    kept = read_json(_WHERE, file)
    try:
        return Report.from_dict(kept)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{_WHERE}: {file.name} is no report of a doctor ({error!r})") from error


def _read(path: Path, with_model: bool) -> Run:
    history, result, model = (path / x for x in ("history.jsonl", "result.json", "model.pt"))
    verifier, unread = None, "there is no model.pt"
    if with_model and model.is_file():
        try:
            verifier, unread = Verifier.load(model), ""
        except ValueError as error:
            unread = str(error)
    return Run(
        read_json_lines(_WHERE, history) if history.is_file() else [],
        read_json(_WHERE, result) if result.is_file() else {},
        verifier,
        unread,
    )


def _of_files(path: Path, run: Run) -> Report:
    evidence = _evidence(run)
    found, looked_at = run_checks(CHECKS, evidence)
    of_files, looked_at_files = run_checks([_constant_units, _threshold], run)
    report = Report(
        ranked([*found, *of_files]),
        f"the run in {path.resolve().name}, by the files it left",
        vitals(evidence),
        sorted({*looked_at, *looked_at_files}),
    )
    return _with_gaps(report, run)


def _with_gaps(report: Report, run: Run) -> Report:
    missing = {
        "the losses (no history.jsonl)": not run.history,
        "the test pairs (no result.json)": not run.result,
        f"the net ({run.unread})": run.verifier is None,
    }
    gaps = ["batches, labels, embeddings, gradients and steps (nobody watched: no doctor.json)"]
    gaps += [what for what, is_missing in missing.items() if is_missing]
    unseen = (
        f"{'; '.join(gaps)}. {len(report.looked_at)} of {len(CHECKS)} checks could be made. "
        "Train with siameselib.Doctor in the loop, as examples/lfw/train.py does, or save "
        "embeddings and labels of some people and examine those."
    )
    return Report(report.findings, report.subject, report.vitals, report.looked_at, unseen)


def _evidence(run: Run) -> Evidence:
    """Say what the epochs, the figures and the head tell, in the terms of a training."""
    trivial = _numbers(run, "trivial")
    active = _numbers(run, "active")
    aucs = _numbers(run, "val_auc")
    head = None if run.verifier is None else run.verifier.head
    name = run.result.get("loss")
    family = "bce" if head is not None else _FAMILIES.get(str(name), "unknown")
    losses = [_number(line, "loss") for line in run.history]
    return Evidence(
        Reading("the loss" if name is None else str(name), family),
        losses=np.array([np.nan if loss is None else loss for loss in losses], np.float64),
        trivial=float(np.mean(trivial)) if trivial else None,
        active=active[-1] if active else None,
        head=head,
        epochs=len(run.history),
        epoch_aucs=aucs,
        figures=_figures(run),
    )


def _figures(run: Run) -> Figures | None:
    """Give the figures of the test pairs; without them, of the validation pairs at last."""
    auc, accuracy = _number(run.result, "auc"), _number(run.result, "accuracy")
    if auc is not None:
        n, same = _number(run.result, "n_pairs"), _number(run.result, "n_same")
        known = n is not None and same is not None and 0 < same < n
        se = hanley_mcneil(auc, int(same), int(n - same)) if known and n and same else None
        return Figures("test", auc, se, accuracy)
    aucs = _numbers(run, "val_auc")
    if not aucs:
        return None
    return Figures("validation", aucs[-1], None, _number(run.history[-1], "val_accuracy"))


def _test_near_chance(run: Run) -> Finding | None:
    """Say so where the test pairs are hardly told apart."""
    figures = need(_figures(run))
    enough(figures.of == "test")
    found, _ = run_checks([c for c in CHECKS if c.__name__ == "near_chance"], _evidence(run))
    return found[0] if found else None


def _threshold(run: Run) -> Finding | None:
    """Accuracy far below one minus the equal error rate is the threshold's fault."""
    accuracy, se, eer = (_number(run.result, x) for x in ("accuracy", "accuracy_se", "eer"))
    accuracy, se, eer = need(accuracy), need(se), need(eer)
    if 1 - eer - accuracy < max(0.05, 3 * se):
        return None
    return Finding(
        "threshold-error",
        "critical" if 1 - eer - accuracy > 0.15 else "warning",
        f"On the test pairs the accuracy is {accuracy:.3f}, but the equal error rate is {eer:.3f}: "
        f"some threshold reaches {1 - eer:.3f}.",
        "The embeddings are better than their verdict: the threshold was fitted on pairs that are "
        "not like these.",
        "Fit the threshold on pairs of people that are not trained on (Verifier.fit), never on "
        "training pairs.",
    )


def _constant_units(run: Run) -> Finding | None:
    """Channels of which BatchNorm remembers that they never vary."""
    kinds = nn.modules.batchnorm._BatchNorm
    worst, part, size = "", 0.0, 0
    layers = [
        (name, layer.running_var)
        for name, layer in need(run.verifier).backbone.named_modules()
        if isinstance(layer, kinds) and layer.running_var is not None and layer.num_features >= 8
    ]
    enough(bool(layers))
    for name, variance in layers:
        still = float((variance <= _CONSTANT * variance.max()).double().mean())
        if still > part:
            worst, part, size = name, still, len(variance)
    if part < 0.5:
        return None
    figures = _figures(run)
    tells_apart = figures is not None and figures.auc > 0.9
    return Finding(
        "dead-units",
        "note" if tells_apart else "warning" if part < 0.95 else "critical",
        f"By the statistics that BatchNorm {worst} kept, {share(part)} of the {size} units before "
        "it give the same number for every image.",
        "They are off for every image (a ReLU below zero) and cannot come back: the layer is that "
        "much narrower, and what comes after is starved.",
        "Lower the learning rate, put BatchNorm before the ReLU, or use a leaky one; start over, "
        "for dead units stay dead.",
    )


def _numbers(run: Run, name: str) -> list[float]:
    found = (_number(line, name) for line in run.history)
    return [value for value in found if value is not None]


def _number(values: dict[str, Any], name: str) -> float | None:
    value = values.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not np.isfinite(value):
        return None
    return float(value)
