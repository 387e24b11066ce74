"""The blank sheet: figures without pyplot, colours that everybody can tell apart, saving."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, cast

from siameselib import _check
from siameselib.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito 2008: distinct under every common colour blindness, and in grey by lightness.
BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SKY, PURPLE, YELLOW, BLACK = "#56B4E9", "#CC79A7", "#F0E442", "#000000"
GREY = "#999999"
SAME, DIFFERENT = BLUE, VERMILION
CLASS_COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK, YELLOW)
CLASS_MARKERS = "osD^vP*X"

DPI = 100


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of a size in inches, laid out so that no label is cut."""
    try:
        from matplotlib.figure import Figure
    except ImportError as missing:
        message = 'siameselib.plot needs matplotlib: pip install "siameselib[plot]"'
        raise ImportError(message) from missing
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def sheet(ax: Axes | None, width: float, height: float) -> tuple[Figure, Axes]:
    """The axes to draw into and their figure; a new one when ``ax`` is None."""
    if ax is None:
        figure = new_figure(width, height)
        return figure, figure.add_subplot()
    if not hasattr(ax, "has_data"):
        raise _check.refuse("plot", "ax", "be axes of matplotlib", type(ax).__name__, TypeError)
    return cast("Figure", ax.figure), ax


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure to a file; a crash leaves the old file or the new one, never half of one.

    Args:
        figure: What a function of this package returned.
        path: Where to; the suffix chooses the format (.png, .svg, .pdf).

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> path = Path(tempfile.mkdtemp()) / "roc.png"
        >>> save(new_figure(1, 1), path)
        >>> path.read_bytes()[1:4]
        b'PNG'
    """
    if not hasattr(figure, "savefig"):
        got = type(figure).__name__
        raise _check.refuse("save", "figure", "be a matplotlib figure", got, TypeError)
    with replacing(_check.path("save", "path", path)) as temporary:
        figure.savefig(temporary, dpi=DPI)
