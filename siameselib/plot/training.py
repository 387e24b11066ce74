"""The course of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from siameselib import _check
from siameselib.plot.canvas import BLACK, BLUE, GREEN, ORANGE, PURPLE, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHARES = {
    "val_accuracy": ("validation accuracy", BLUE, "-"),
    "val_auc": ("validation AUC", GREEN, "--"),
    "active": ("active share of the batch", ORANGE, ":"),
}


def training_curves(
    history: Sequence[Mapping[str, Any]],
    *,
    trivial: float | None = None,
    title: str | None = None,
    axes: tuple[Axes, Axes] | None = None,
) -> Figure:
    """Draw the loss beside the loss of having learnt nothing, and the validation figures.

    Args:
        history: One mapping per epoch. Keys drawn when present: ``epoch``, ``loss``,
            ``val_loss``, ``trivial`` (above), ``val_accuracy``, ``val_auc``, ``active`` (below).
            A value that is missing, None or not finite leaves a gap.
        trivial: The loss of an embedding that ignores its input; instead of the key's values.
        title: Instead of "Training: n epochs".
        axes: Two axes to draw into, for the loss and for the shares; a new figure by default.

    Returns:
        The figure.

    Raises:
        ValueError: No epoch at all.

    Example:
        >>> history = [{"epoch": 1, "loss": 0.6}, {"epoch": 2, "loss": 0.4, "val_auc": 0.8}]
        >>> training_curves(history, trivial=0.693).axes[0].get_title()
        'Training: 2 epochs'
    """
    if not history:
        raise _check.refuse("training_curves", "history", "hold at least one epoch", "none")
    for row in history:
        _check.mapping("training_curves", "each epoch of history", row, '{"loss": 0.7}')
    if axes is None:
        figure = new_figure(7.0, 6.0)
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    else:
        above, below = axes
        figure = cast("Figure", above.figure)
    epochs = [float(row.get("epoch", i + 1)) for i, row in enumerate(history)]
    if trivial is not None:
        history = [{**row, "trivial": trivial} for row in history]
    marker = "o" if len(history) <= 30 else None

    def line(ax: Axes, key: str, label: str, colour: str, style: str) -> None:
        values = _column(history, key)
        if np.isfinite(values).any():
            label = f"{label}, last {values[np.isfinite(values)][-1]:.3g}"
            ax.plot(epochs, values, style, marker=marker, markersize=3, color=colour, label=label)

    line(above, "loss", "training loss", BLUE, "-")
    line(above, "val_loss", "validation loss", PURPLE, "--")
    line(above, "trivial", "trivial loss (nothing learnt)", BLACK, ":")
    for key, (label, colour, style) in SHARES.items():
        line(below, key, label, colour, style)
    below.set(ylim=(-0.02, 1.02), xlabel="epoch", ylabel="share")
    below.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
    below.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    above.set_ylabel("loss")
    above.set_title(title or f"Training: {len(history)} epoch{'s' * (len(history) > 1)}")
    for ax in (above, below):
        ax.grid(alpha=0.3)
        if ax.lines:
            ax.legend(loc="best", fontsize="small")
        else:
            ax.text(0.5, 0.5, "nothing recorded", transform=ax.transAxes, ha="center")
    return figure


def _column(history: Sequence[Mapping[str, Any]], key: str) -> NDArray[np.float64]:
    values = [np.nan if row.get(key) is None else row[key] for row in history]
    for value in values:
        if not isinstance(value, Real):
            raise _check.refuse("training_curves", key, "be numbers", repr(value), TypeError)
    return np.where(np.isfinite(values), values, np.nan)
