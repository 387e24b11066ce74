"""Every argument check, one error style.

``where: name must <expected>, got <what came>``, raised as ValueError or TypeError.
"""

import os
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path

import torch
from torch import Tensor


def refuse(
    where: str, name: str, expected: str, got: object, kind: type[Exception] = ValueError
) -> Exception:
    """Build the error that every check raises."""
    return kind(f"{where}: {name} must {expected}, got {got}")


def tensor(where: str, name: str, value: object) -> None:
    """Refuse anything that is not a tensor."""
    if not isinstance(value, Tensor):
        raise refuse(where, name, "be a torch.Tensor", type(value).__name__, TypeError)


def matrix(where: str, name: str, value: Tensor) -> None:
    """Refuse anything that is not a floating-point matrix (n, d)."""
    tensor(where, name, value)
    if value.ndim != 2:
        raise refuse(where, name, "have shape (n, d)", tuple(value.shape))
    if not value.is_floating_point():
        raise refuse(where, name, "be floating point", value.dtype, TypeError)


def vector(where: str, name: str, value: Tensor, n: int) -> None:
    """Refuse anything that is not a vector of n entries: (n, 1) is never broadcast."""
    tensor(where, name, value)
    if tuple(value.shape) != (n,):
        raise refuse(where, name, f"have shape (n,) = ({n},)", tuple(value.shape))


def same_shape(where: str, **tensors: Tensor) -> None:
    """Refuse tensors whose shapes or devices differ from the first one's."""
    first, *rest = tensors
    for name in rest:
        if tensors[name].shape != tensors[first].shape:
            expected = f"have the shape of {first}, {tuple(tensors[first].shape)}"
            raise refuse(where, name, expected, tuple(tensors[name].shape))
        same_device(where, first, tensors[first], name, tensors[name])


def same_device(where: str, first: str, a: Tensor, name: str, b: Tensor) -> None:
    """Refuse two tensors on different devices."""
    if a.device != b.device:
        raise refuse(where, name, f"be on the device of {first}, {a.device}", b.device)


def labels(where: str, value: Tensor, n: int, name: str = "labels") -> None:
    """Refuse labels that are not an integer vector of length n."""
    vector(where, name, value, n)
    if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
        raise refuse(where, name, "be integers, one per identity", value.dtype, TypeError)


def choice(where: str, name: str, value: object, options: Sequence[str | None]) -> None:
    """Refuse a word that is not one of the options."""
    if value not in options:
        raise refuse(where, name, "be one of " + ", ".join(map(repr, options)), repr(value))


def positive(where: str, name: str, value: object) -> None:
    """Refuse what is not a number above zero (and finite)."""
    if not 0 < real(where, name, value) < float("inf"):
        raise refuse(where, name, "be positive and finite", value)


def integer(where: str, name: str, value: object, least: int) -> int:
    """Refuse what is not an integer of at least ``least``; NumPy's integers become Python's."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise refuse(where, name, "be an integer", repr(value), TypeError)
    if value < least:
        raise refuse(where, name, f"be at least {least}", value)
    return int(value)


def real(where: str, name: str, value: object) -> float:
    """Refuse what is not one number; NumPy's and tensors of one become Python's."""
    if isinstance(value, Real):  # first: what torch.compile traces as a number has no size
        return float(value)
    if getattr(value, "size", None) == 1 or (isinstance(value, Tensor) and value.numel() == 1):
        value = value.item()  # type: ignore[attr-defined]
    if not isinstance(value, Real):
        raise refuse(where, name, "be a number", repr(value), TypeError)
    return float(value)


def number(where: str, name: str, value: object) -> float:
    """Refuse what is not one finite number."""
    found = real(where, name, value)
    if not -float("inf") < found < float("inf"):
        raise refuse(where, name, "be finite", found)
    return found


def between(where: str, name: str, value: object, least: float, below: float) -> None:
    """Refuse what is not a number in [least, below)."""
    if not least <= real(where, name, value) < below:
        raise refuse(where, name, f"lie in [{least:g}, {below:.4g})", value)


def mapping(where: str, name: str, value: object, such_as: str) -> None:
    """Refuse anything that is not a mapping from names to values."""
    if not isinstance(value, Mapping):
        expected = f"be a mapping, such as {such_as}"
        raise refuse(where, name, expected, type(value).__name__, TypeError)


def path(where: str, name: str, value: object) -> Path:
    """Refuse what names no file or folder."""
    if not isinstance(value, (str, os.PathLike)):
        raise refuse(where, name, "be a path", type(value).__name__, TypeError)
    return Path(value)


def finite(where: str, name: str, value: Tensor) -> None:
    """Refuse NaN and infinity; reading the answer waits for the device."""
    broken = (~value.isfinite()).flatten(1).any(1).nonzero().flatten()
    if len(broken):
        raise refuse(where, name, "be finite", f"NaN or infinity in row {int(broken[0])}")
