"""What the judges accept: tensors, arrays and lists, checked once and turned into arrays."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from siameselib import _check
from siameselib.functional.distances import at_least_float32

Values: TypeAlias = Tensor | ArrayLike
Floats: TypeAlias = NDArray[np.float64]


def check_pairs(where: str, scores: Values, same: Values) -> tuple[Floats, NDArray[np.bool_]]:
    """Scores as float64 and ``same`` as bool, or an error that says what is wrong with them."""
    score_array, same_array = to_array(where, "scores", scores), to_array(where, "same", same)
    if score_array.ndim != 1 or len(score_array) == 0:
        raise _check.refuse(where, "scores", "have shape (n,) with n > 0", score_array.shape)
    if same_array.shape != score_array.shape:
        expected = f"have the shape of scores, {score_array.shape}"
        raise _check.refuse(where, "same", expected, same_array.shape)
    checked_scores = check_scores(where, score_array)
    if not ((same_array == 0) | (same_array == 1)).all():
        odd = same_array[(same_array != 0) & (same_array != 1)][0]
        raise _check.refuse(where, "same", "hold only 0 and 1 (1 = same identity)", odd)
    checked_same = same_array.astype(np.bool_)
    if checked_same.all() or not checked_same.any():
        got = f"{len(checked_same)} pairs that are all {'same' if checked_same[0] else 'different'}"
        raise _check.refuse(where, "same", "hold both same and different pairs", got)
    return checked_scores, checked_same


def check_embeddings(where: str, embeddings: Values, name: str = "embeddings") -> Tensor:
    """Embeddings (n, d) as a detached tensor of float32 at least, where they are."""
    if isinstance(embeddings, Tensor):
        x = embeddings.detach()
    else:
        x = torch.as_tensor(to_array(where, name, embeddings))
    _check.matrix(where, name, x)
    if x.numel() == 0:
        raise _check.refuse(where, name, "hold at least one number", tuple(x.shape))
    bad = int((~x.isfinite()).any(1).sum())
    if bad:
        raise _check.refuse(where, name, "be finite", f"{bad} rows with NaN or infinity")
    return at_least_float32(x)


def check_labels(where: str, labels: Values, n: int, name: str = "labels") -> NDArray[Any]:
    """Identities, integers or names, as an array of n."""
    array = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if array.shape != (n,):
        raise _check.refuse(where, name, f"have shape (n,) = ({n},)", array.shape)
    if array.dtype.kind not in "iuSU":
        raise _check.refuse(where, name, "be integers or names", array.dtype, TypeError)
    return array


def check_images(where: str, images: Tensor | NDArray[np.uint8]) -> Tensor:
    """Photos, uint8 of shape (n, height, width, 3), as a tensor that may share their memory."""
    if not isinstance(images, Tensor):
        images = np.asarray(images)
        if not images.flags.writeable:
            images = images.copy()
    dtype, shape = images.dtype, tuple(images.shape)
    if dtype not in {torch.uint8, np.dtype(np.uint8)} or len(shape) != 4 or shape[3] != 3:
        expected = "be uint8 of shape (n, height, width, 3)"
        raise _check.refuse(where, "images", expected, f"{dtype} {shape}")
    return torch.as_tensor(images)


def check_scores(where: str, scores: Values) -> Floats:
    """Scores of any shape as float64, or an error where they are no finite numbers."""
    array = to_array(where, "scores", scores).astype(np.float64)
    if not np.isfinite(array).all():
        nans, infinite = np.isnan(array).sum(), np.isinf(array).sum()
        raise _check.refuse(where, "scores", "be finite", f"{nans} NaN and {infinite} infinite")
    return array


def check_threshold(where: str, threshold: Any) -> float:
    """A threshold as a float, or an error where it is None, no number or not finite."""
    if threshold is None:
        got = "None, as before a fit"
        raise _check.refuse(where, "threshold", "be a number", got, TypeError)
    return _check.number(where, "threshold", threshold)


def check_level(where: str, level: float) -> None:
    """Refuse a level of confidence that is not between 0 and 1."""
    check_share(where, "level", level)


def check_share(where: str, name: str, value: float) -> float:
    """A number between 0 and 1, neither of them."""
    if not 0 < _check.real(where, name, value) < 1:
        raise _check.refuse(where, name, "be between 0 and 1", value)
    return float(value)


def check_rate(where: str, name: str, value: float) -> float:
    """A rate that may be allowed: above 0, 1 at most."""
    if not 0 < _check.real(where, name, value) <= 1:
        raise _check.refuse(where, name, "be in (0, 1]", value)
    return float(value)


def check_rates(where: str, name: str, values: Sequence[float]) -> list[float]:
    """Several such rates."""
    if not isinstance(values, Sequence | np.ndarray) or isinstance(values, str):
        raise _check.refuse(where, name, "be a list of rates", repr(values), TypeError)
    return [check_rate(where, name, value) for value in values]


def check_zooms(where: str, zooms: Sequence[float]) -> tuple[float, ...]:
    """Scales to see a photo at: one at least, each above 0, 2 at most."""
    if not isinstance(zooms, Sequence | np.ndarray) or isinstance(zooms, str) or len(zooms) == 0:
        raise _check.refuse(where, "zooms", "be a list of scales", repr(zooms), TypeError)
    for zoom in zooms:
        if not 0 < _check.real(where, "zooms", zoom) <= 2:
            raise _check.refuse(where, "zooms", "be above 0, 2 at most", zoom)
    return tuple(float(zoom) for zoom in zooms)


def to_array(where: str, name: str, value: Values) -> NDArray[Any]:
    """Numbers as a numpy array: tensors detached and moved, floating-point ones as float64."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        array = (value.double() if value.is_floating_point() else value).numpy()
    else:
        try:
            array = np.asarray(value)
        except ValueError:  # rows of several lengths
            raise _check.refuse(where, name, "have one shape", "a ragged list") from None
    if array.dtype.kind not in "biuf":
        raise _check.refuse(where, name, "be numbers", array.dtype, TypeError)
    return array
