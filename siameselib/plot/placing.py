"""Photos on a sheet: checked, placed, framed, captioned. One photo is one unit wide."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from siameselib import _check
from siameselib.evaluation.inputs import to_array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INCH = 1.4  # the width of a photo; the unit of every length
LINE = 0.11  # the height of a line of caption
CAPTION_WIDTH = 20  # characters over one photo


def check_photos(where: str, **images: Tensor | ArrayLike) -> list[NDArray[np.uint8]]:
    """The images as arrays of one shape (n, height, width, 1 or 3)."""
    arrays: list[NDArray[np.uint8]] = []
    for name, value in images.items():
        array = to_array(where, name, value)
        if array.ndim != 4 or array.shape[3] not in {1, 3}:
            expected = "have shape (n, height, width, 3) or (n, height, width, 1)"
            raise _check.refuse(where, name, expected, array.shape)
        if array.dtype != np.uint8:
            raise _check.refuse(where, name, "be uint8", array.dtype, TypeError)
        if arrays and array.shape != arrays[0].shape:
            expected = f"have the shape of {next(iter(images))}, {arrays[0].shape}"
            raise _check.refuse(where, name, expected, array.shape)
        arrays.append(array)
    return arrays


def check_captions(where: str, captions: Sequence[str] | None, n: int, width: int) -> list[str]:
    """The captions, wrapped to a width in characters; empty ones where there are none."""
    if captions is None:
        return [""] * n
    if len(captions) != n:
        raise _check.refuse(where, "captions", f"be one per column of photos ({n})", len(captions))
    for caption in captions:
        if not isinstance(caption, str):
            raise _check.refuse(where, "each of captions", "be words", repr(caption), TypeError)
    return [textwrap.fill(caption, width) for caption in captions]


def room(texts: Sequence[str]) -> float:
    """Height of the tallest caption."""
    return max((LINE * (text.count("\n") + 1) + 0.05 for text in texts if text), default=0.0)


def place(ax: Axes, photo: NDArray[np.uint8], x: float, y: float, w: float, h: float) -> None:
    """Draw a photo with its top at y and its foot at y + h."""
    if photo.shape[2] == 1:
        photo = np.repeat(photo, 3, axis=2)
    ax.imshow(photo, extent=(x, x + w, y + h, y), zorder=3)


def frame(ax: Axes, x: float, y: float, w: float, h: float, colour: str, line: str = "-") -> None:
    """Draw a line around a photo."""
    ax.plot([x, x + w, x + w, x, x], [y, y, y + h, y + h, y], color=colour, ls=line, lw=2, zorder=4)


def bare(ax: Axes, left: float, right: float, top: float, foot: float) -> None:
    """Limits around the photos, y downwards, no axis lines."""
    ax.set(xlim=(left, right), ylim=(foot, top), aspect="equal", anchor="N")
    ax.set_axis_off()
