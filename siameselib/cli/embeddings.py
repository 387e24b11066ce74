"""The file between ``embed`` and ``evaluate``: an .npz that NumPy alone can read.

``embeddings`` (n, d), ``names`` (n,) of the images and ``labels`` (n,) of the people on them, and
from the model the ``metric`` that it compares with and its ``threshold`` (NaN if it has none).
"""

import math
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from siameselib import _check
from siameselib.evaluation.scores import METRICS
from siameselib.files import read_arrays, replacing


class Embeddings(NamedTuple):
    """Embedded images. ``threshold`` is None where none was fitted."""

    embeddings: NDArray[np.floating[Any]]
    names: NDArray[np.str_]
    labels: NDArray[Any]
    metric: str
    threshold: float | None


def save(kept: Embeddings, path: str | os.PathLike[str]) -> None:
    """Write the file, all or nothing."""
    threshold = math.nan if kept.threshold is None else kept.threshold
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **{**kept._asdict(), "threshold": np.float64(threshold)})


def load(path: str | os.PathLike[str]) -> Embeddings:
    """Read the file; of others, ``embeddings`` and ``labels`` are enough.

    Args:
        path: an .npz.

    Returns:
        What is in it; names are row numbers and the metric is Euclidean where nothing is said.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no .npz, is damaged, or lacks something.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    found = read_arrays(path)
    for name in ("embeddings", "labels"):
        if name not in found:
            raise ValueError(f"{path} must hold {name!r}, got {', '.join(found) or 'nothing'}")
    embeddings, labels = found["embeddings"], found["labels"]
    if embeddings.ndim != 2 or embeddings.dtype.kind != "f":
        got = f"{embeddings.dtype} {embeddings.shape}"
        raise ValueError(f"{path}: embeddings must be floating point (n, d), got {got}")
    if labels.shape != (len(embeddings),) or labels.dtype.kind not in "iuSU":
        expected = f"be integers or names, ({len(embeddings)},)"
        raise ValueError(f"{path}: labels must {expected}, got {labels.dtype} {labels.shape}")
    names = found.get("names", np.arange(len(labels)).astype(str))
    if names.shape != labels.shape:
        raise ValueError(f"{path}: names must be one per embedding, got {names.shape}")
    given = np.asarray(found.get("threshold", math.nan))
    if given.size != 1 or given.dtype.kind not in "iuf":
        raise _check.refuse(str(path), "threshold", "be a number", f"{given.dtype} {given.shape}")
    threshold = float(given.item())
    metric = str(found.get("metric", "euclidean"))
    _check.choice(str(path), "metric", metric, (*METRICS, "head"))
    return Embeddings(
        embeddings, names, labels, metric, None if math.isnan(threshold) else threshold
    )
