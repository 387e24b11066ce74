"""The doctor on what a training left behind: a run's folder, or embeddings in a file."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from siameselib.diagnostics.collect import Sample, sample_of
from siameselib.diagnostics.evidence import Evidence, gather, judge_scores
from siameselib.diagnostics.findings import CHECKS, run_checks, vitals
from siameselib.diagnostics.reading import Reading, read
from siameselib.diagnostics.report import Finding, Report, ranked
from siameselib.evaluation.inputs import check_pairs

_CHUNK, _CHUNKS = 512, 8  # embeddings compared with each other at a time


def diagnose_saved(path: str | os.PathLike[str]) -> Report:
    """Examine the folder of a run, or a file of embeddings.

    A folder is one that ``examples/lfw/train.py`` wrote: ``doctor.json`` (what the doctor found
    in training), ``history.jsonl`` and ``result.json``, as far as they are there. A file is an
    ``.npz`` with ``embeddings`` (n, d) and ``labels`` (n,); or ``x1``, ``x2`` and ``same``; or
    ``scores`` and ``same``, with the ``threshold`` in use.

    Args:
        path: the folder or the file.

    Returns:
        The findings, most important first.

    Raises:
        FileNotFoundError: If there is nothing of that name.
        ValueError: If there is nothing in it that can be examined.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "embeddings.npz"
        >>> np.savez(file, embeddings=np.ones((40, 4)), labels=np.arange(40) // 4)
        >>> diagnose_saved(file).findings[0].code
        'total-collapse'
    """
    path = Path(path)
    if path.is_dir():
        return _of_run(path)
    if not path.is_file():
        raise FileNotFoundError(f"diagnose_saved: there is no file or folder {path}")
    return _of_arrays(path)


def _of_arrays(path: Path) -> Report:
    try:
        with np.load(path, allow_pickle=False) as file:
            kept = {name: file[name] for name in file.files}
    except (ValueError, OSError) as error:
        raise ValueError(f"diagnose_saved: {path} is no .npz file of arrays ({error})") from error
    samples: list[Sample] = []
    validation = None
    if {"embeddings", "labels"} <= kept.keys():
        samples = _chunks(torch.from_numpy(kept["embeddings"]), _numbered(kept["labels"]))
        subject = f"{len(kept['labels']):,} embeddings in {path.name}"
    elif {"x1", "x2", "same"} <= kept.keys():
        x1, x2, same = (torch.from_numpy(kept[name]) for name in ("x1", "x2", "same"))
        samples = [
            sample_of(k, (a, b), s, None, None, None)
            for k, (a, b, s) in enumerate(
                zip(*(torch.split(x, 128) for x in (x1, x2, same)), strict=True)
            )
        ]
        subject = f"{len(same):,} pairs in {path.name}"
    elif {"scores", "same"} <= kept.keys():
        checked = check_pairs("diagnose_saved", kept["scores"], kept["same"])
        threshold = float(kept["threshold"]) if "threshold" in kept else None
        validation = judge_scores(*checked, threshold)
        subject = f"{len(checked[0]):,} scored pairs in {path.name}"
    else:
        raise ValueError(
            f"diagnose_saved: {path} must hold embeddings and labels, x1, x2 and same, or scores "
            f"and same, got {', '.join(kept) or 'nothing'}"
        )
    evidence = gather(
        criterion=None,
        reading=read(None),
        steps=0,
        losses=[],
        early=[],
        recent=samples,
        weights=[],
        restless=[],
        head=None,
        modes=None,
        validation=validation,
    ).of_one_look(None, ())
    findings, looked_at = run_checks(CHECKS, evidence)
    return Report(ranked(findings), subject, vitals(evidence), looked_at)


def _numbered(labels: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.unique(labels, return_inverse=True)[1].reshape(-1))


def _chunks(x: Tensor, labels: Tensor) -> list[Sample]:
    """Cut embeddings into batches, neighbours in the order of the labels together."""
    if x.ndim != 2 or len(x) != len(labels):
        raise ValueError(
            f"diagnose_saved: embeddings must have shape (n, d) with one label each, got "
            f"{tuple(x.shape)} and {len(labels)} labels"
        )
    order = labels.argsort(stable=True)
    parts = torch.split(order, _CHUNK)
    chosen = parts[:: max(1, -(-len(parts) // _CHUNKS))]
    x = x.float()
    return [
        Sample(k, "batch", (x[rows],), labels[rows], None, None, None, False, None)
        for k, rows in enumerate(chosen)
    ]


def _of_run(path: Path) -> Report:
    kept, history, result = path / "doctor.json", path / "history.jsonl", path / "result.json"
    subject, told, looked_at = f"the run in {path.name}", {}, list[str]()
    findings: list[Finding | None] = []
    if not any(file.is_file() for file in (kept, history, result)):
        names = "doctor.json, history.jsonl, result.json"
        raise ValueError(f"diagnose_saved: {path} holds none of {names}")
    if kept.is_file():
        report = Report.from_dict(json.loads(kept.read_text()))
        findings, told, looked_at = [*report.findings], report.vitals, report.looked_at
        subject += f", {report.subject}"
    elif history.is_file():
        evidence = _of_history([json.loads(line) for line in history.read_text().splitlines()])
        found, looked_at = run_checks(CHECKS, evidence)
        findings, told = [*found], vitals(evidence)
    if result.is_file() and "threshold-error" not in {f.code for f in findings if f}:
        findings.append(_threshold(json.loads(result.read_text())))
        looked_at = sorted({*looked_at, "threshold-error"})
    return Report(ranked(findings), subject, told, looked_at)


def _of_history(lines: list[dict[str, Any]]) -> Evidence:
    """Read the epochs of a run that kept no report: losses, trivial value, active share, AUC."""
    losses = np.array([line["loss"] for line in lines], np.float64)
    last = lines[-1] if lines else {}
    return Evidence(
        Reading("the loss"),
        losses=losses,
        trivial=last.get("trivial"),
        active=last.get("active"),
        epochs=len(losses),
        epoch_auc=last.get("val_auc"),
    )


def _threshold(result: dict[str, Any]) -> Finding | None:
    """Accuracy far below one minus the equal error rate is the threshold's fault."""
    accuracy, se, eer = (result.get(name) for name in ("accuracy", "accuracy_se", "eer"))
    if accuracy is None or se is None or eer is None:
        return None
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
