"""The doctor on what a training left behind: a run's folder, or embeddings in a file."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from siameselib import _check
from siameselib.diagnostics.collect import Sample, sample_of
from siameselib.diagnostics.evidence import Figures, gather
from siameselib.diagnostics.findings import CHECKS, run_checks, vitals
from siameselib.diagnostics.measures import judge_scores
from siameselib.diagnostics.reading import read
from siameselib.diagnostics.report import Report, ranked
from siameselib.diagnostics.runs import diagnose_run
from siameselib.evaluation.inputs import check_pairs, check_threshold
from siameselib.files import read_arrays

_WHERE = "diagnose_saved"
_CHUNK, _CHUNKS = 512, 8  # embeddings compared with each other at a time


def diagnose_saved(path: str | os.PathLike[str]) -> Report:
    """Examine the folder of a run, or a file of embeddings.

    A folder is one that ``examples/lfw/train.py`` wrote. Where the doctor watched the training,
    ``doctor.json`` has what it found; else ``history.jsonl``, ``result.json`` and ``model.pt`` are
    looked at, as far as they are there, and the report says what could not be seen. A file is an
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
    path = _check.path(_WHERE, "path", path)
    if path.is_dir():
        return diagnose_run(path)
    if not path.is_file():
        raise FileNotFoundError(f"{_WHERE}: there is no file or folder {path}")
    return _of_arrays(path)


def _of_arrays(path: Path) -> Report:
    try:
        kept = read_arrays(path)
    except ValueError as error:
        raise ValueError(f"{_WHERE}: {error}") from error
    samples: list[Sample] = []
    validation = None
    unseen = "losses, batches, gradients and the net: there are only "
    if {"embeddings", "labels"} <= kept.keys():
        x = _rows(kept, "embeddings")
        labels = _column(kept, "labels", len(x), "iuSU", "integers or names")
        samples = _chunks(x, torch.from_numpy(np.unique(labels, return_inverse=True)[1]))
        subject = f"{len(kept['labels']):,} embeddings in {path.name}"
        unseen += "embeddings with their labels"
    elif {"x1", "x2", "same"} <= kept.keys():
        x1, x2 = _rows(kept, "x1"), _rows(kept, "x2")
        _check.same_shape(_WHERE, x1=x1, x2=x2)
        same = torch.from_numpy(_column(kept, "same", len(x1), "biuf", "0 and 1"))
        samples = [
            sample_of(k, (a, b), s, None, None, None)
            for k, (a, b, s) in enumerate(
                zip(*(torch.split(x, 128) for x in (x1, x2, same)), strict=True)
            )
        ]
        subject = f"{len(same):,} pairs in {path.name}"
        unseen += "pairs of embeddings"
    elif {"scores", "same"} <= kept.keys():
        checked = check_pairs(_WHERE, kept["scores"], kept["same"])
        threshold = check_threshold(_WHERE, kept["threshold"]) if "threshold" in kept else None
        validation = judge_scores(*checked, threshold)
        subject = f"{len(checked[0]):,} scored pairs in {path.name}"
        unseen += "scores"
    else:
        raise ValueError(
            f"{_WHERE}: {path} must hold embeddings and labels, x1, x2 and same, or scores "
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
    told = vitals(evidence)
    if evidence.auc is not None:
        found = Figures("saved", evidence.auc.value, evidence.auc.se, None)
        evidence = replace(evidence, figures=found)
    findings, looked_at = run_checks(CHECKS, evidence)
    unseen += f". {len(looked_at)} of {len(CHECKS)} checks could be made."
    return Report(ranked(findings), subject, told, looked_at, unseen)


def _rows(kept: dict[str, NDArray[Any]], name: str) -> Tensor:
    """Embeddings as float32; NaN and infinity are for the doctor to find."""
    x = kept[name]
    if x.ndim != 2 or x.size == 0 or x.dtype.kind not in "iuf":
        got = f"{x.dtype} {x.shape}"
        raise _check.refuse(_WHERE, name, "hold numbers of shape (n, d)", got)
    return torch.from_numpy(x.astype(np.float32))


def _column(
    kept: dict[str, NDArray[Any]], name: str, n: int, kinds: str, what: str
) -> NDArray[Any]:
    found = kept[name]
    if found.shape != (n,) or found.dtype.kind not in kinds:
        got = f"{found.dtype} {found.shape}"
        raise _check.refuse(_WHERE, name, f"hold {what} of shape (n,) = ({n},)", got)
    return found


def _chunks(x: Tensor, labels: Tensor) -> list[Sample]:
    """Cut embeddings into batches, neighbours in the order of the labels together."""
    order = labels.argsort(stable=True)
    parts = torch.split(order, _CHUNK)
    chosen = parts[:: max(1, -(-len(parts) // _CHUNKS))]
    return [
        Sample(k, "batch", (x[rows],), labels[rows], None, None, None, False, None)
        for k, rows in enumerate(chosen)
    ]
