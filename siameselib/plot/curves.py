"""ROC, DET, score histograms and training curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from siameselib import _check
from siameselib.evaluation.curves import auc, count_cuts, eer, roc_curve
from siameselib.evaluation.inputs import Values, check_pairs
from siameselib.evaluation.verification import MIN_FALSE_ACCEPTS
from siameselib.plot.canvas import (
    BLACK,
    BLUE,
    DIFFERENT,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SAME,
    new_figure,
    sheet,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BINS, LEGEND_ROOM = 60, 1.35
PROBIT_TICKS = (1e-6, 1e-5, 1e-4, 0.001, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95, 0.99)
SHARES = {
    "val_accuracy": ("validation accuracy", BLUE, "-"),
    "val_auc": ("validation AUC", GREEN, "--"),
    "active": ("active share of the batch", ORANGE, ":"),
}


def roc(
    scores: Values,
    same: Values,
    *,
    label: str = "ROC",
    colour: str = BLUE,
    title: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw the ROC with its area, its equal error rate and the line of chance.

    Args:
        scores: Similarities, higher = more alike.
        same: 1 where the pair shows one identity.
        label: The curve's name in the legend; draw several into one ``ax`` to compare.
        colour: The curve's colour.
        title: Instead of "ROC of n pairs (k same)".
        ax: Where to draw; a new figure by default.

    Shape:
        scores, same: (n,).

    Returns:
        The figure.

    Example:
        >>> figure = roc([0.9, 0.8, 0.7, 0.1], [1, 1, 0, 0])
        >>> figure.axes[0].get_title()
        'ROC of 4 pairs (2 same)'
    """
    far, tar, _ = roc_curve(scores, same)
    equal = eer(scores, same)
    figure, ax = sheet(ax, 5.5, 5.5)
    if not ax.has_data():
        ax.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="chance")
    text = f"{label}: AUC {auc(scores, same):.3f}, equal error rate {equal:.3f}"
    ax.plot(far, tar, color=colour, linewidth=2, label=text)
    ax.plot(equal, 1 - equal, "o", color=colour)
    ax.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    ax.set_xlabel("false-accept rate (share of different pairs)")
    ax.set_ylabel("true-accept rate (share of same pairs)")
    ax.set_title(title or f"ROC of {_count(same)}")
    ax.grid(alpha=0.3)
    ax.legend(loc="lower right")
    return figure


def det(
    scores: Values,
    same: Values,
    *,
    label: str = "DET",
    colour: str = BLUE,
    title: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw the DET curve: false-reject rate over false-accept rate, on probit axes.

    Two normal score distributions give a straight line. Where a rate stands for fewer than ten
    pairs the curve is dotted; where a rate is zero it ends.

    Args:
        scores: Similarities, higher = more alike.
        same: 1 where the pair shows one identity.
        label: The curve's name in the legend; draw several into one ``ax`` to compare.
        colour: The curve's colour.
        title: Instead of "DET of n pairs (k same)".
        ax: Where to draw; a new figure by default.

    Shape:
        scores, same: (n,).

    Returns:
        The figure.

    Example:
        >>> figure = det([0.9, 0.8, 0.7, 0.1], [1, 0, 1, 0])
        >>> figure.axes[0].get_ylabel()
        'false-reject rate (share of same pairs)'

    Source:
        Martin et al. 1997, "The DET curve in assessment of detection task performance".
    """
    _, false_accepts, true_accepts = count_cuts("det", scores, same)
    n_different, n_same = int(false_accepts[-1]), int(true_accepts[-1])
    false_rejects = n_same - true_accepts
    far, frr, equal = false_accepts / n_different, false_rejects / n_same, eer(scores, same)
    figure, ax = sheet(ax, 5.5, 5.5)
    if not ax.has_data():
        probit_axes(ax, 0.5 / n_different, 0.5 / n_same)
        ax.plot([], [], color=GREY, linestyle=":", label="fewer than 10 errors")
    fewest = np.minimum(false_accepts, false_rejects)
    some, enough = fewest > 0, fewest >= MIN_FALSE_ACCEPTS
    text = f"{label}: equal error rate {100 * equal:.1f} %"
    ax.plot(far[some], frr[some], color=colour, linestyle=":")
    ax.plot(far[enough], frr[enough], color=colour, linewidth=2, label=text)
    if equal > 0:
        ax.plot(equal, equal, "o", color=colour)
    else:
        ax.text(0.03, 0.03, "one threshold makes no error", transform=ax.transAxes)
    ax.set_xlabel("false-accept rate (share of different pairs)")
    ax.set_ylabel("false-reject rate (share of same pairs)")
    ax.set_title(title or f"DET of {_count(same)}")
    ax.legend(loc="upper right")
    return figure


def probit_axes(ax: Axes, lowest_far: float, lowest_frr: float) -> None:
    """Scale both axes by the quantiles of the normal distribution, label them in per cent."""
    for name, low in (("x", lowest_far), ("y", lowest_frr)):
        limits = (min(low, 0.05), 0.99)
        ticks = [tick for tick in PROBIT_TICKS if limits[0] <= tick <= limits[1]]
        getattr(ax, f"set_{name}scale")("function", functions=(_probit, _normal_cdf))
        getattr(ax, f"set_{name}lim")(*limits)
        getattr(ax, f"set_{name}ticks")(ticks, [f"{100 * tick:g} %" for tick in ticks])
    rates = _normal_cdf(np.linspace(-5, 5, 101))
    ax.plot(rates, 1 - rates, color=GREY, linestyle="-.", linewidth=1, label="chance")
    ax.grid(alpha=0.3)


def distance_histogram(
    values: Values,
    same: Values,
    threshold: float,
    *,
    distances: bool = False,
    xlabel: str | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw how the values of same and of different pairs overlap, and the threshold.

    Args:
        values: Similarities or, with ``distances``, distances.
        same: 1 where the pair shows one identity.
        threshold: Similarities from it on, or distances up to it, are accepted.
        distances: Whether small values mean "alike".
        xlabel: Names the values and their unit.
        title: Instead of "Distances of n pairs (k same): accuracy a".
        ax: Where to draw; a new figure by default.

    Shape:
        values, same: (n,).

    Returns:
        The figure.

    Example:
        >>> figure = distance_histogram([0.2, 0.3, 0.9, 1.1], [1, 1, 0, 0], 0.6, distances=True)
        >>> figure.axes[0].get_title()
        'Distances of 4 pairs (2 same): accuracy 1.000'
    """
    checked, is_same = check_pairs("distance_histogram", values, same)
    accepted = checked <= threshold if distances else checked >= threshold
    figure, ax = sheet(ax, 7.0, 4.5)
    edges = np.histogram_bin_edges(checked, BINS)
    kinds = (
        (is_same, ~accepted, "same", "rejected", SAME, "-"),
        (~is_same, accepted, "different", "accepted", DIFFERENT, "--"),
    )
    for mask, wrong, kind, verdict, colour, line in kinds:
        percent = 100 * np.histogram(checked[mask], edges)[0] / mask.sum()
        text = f"{kind}: {mask.sum():,} pairs, {(wrong & mask).sum():,} {verdict}"
        ax.stairs(percent, edges, fill=True, color=colour, alpha=0.3)
        ax.stairs(percent, edges, color=colour, linestyle=line, linewidth=1.5, label=text)
    side = "below" if distances else "above"
    text = f"threshold {threshold:.3g}, accepted {side}"
    ax.axvline(threshold, ymax=1 / LEGEND_ROOM, color=BLACK, linestyle=":", linewidth=2, label=text)
    ax.set_ylim(0, LEGEND_ROOM * 1.02 * ax.dataLim.y1)
    ax.set_xlabel(xlabel or ("distance" if distances else "similarity score"))
    ax.set_ylabel("share of pairs of the kind (% per bin)")
    accuracy = float((accepted == is_same).mean())
    what = "Distances" if distances else "Scores"
    ax.set_title(title or f"{what} of {_count(same)}: accuracy {accuracy:.3f}")
    ax.legend(loc="upper center", ncols=1, framealpha=0.9)
    return figure


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
    values = [np.nan if row.get(key) is None else float(row[key]) for row in history]
    return np.where(np.isfinite(values), values, np.nan)


def _count(same: Values) -> str:
    is_same = np.asarray(same.detach().cpu() if isinstance(same, torch.Tensor) else same)
    return f"{len(is_same):,} pairs ({int(is_same.sum()):,} same)"


def _probit(rates: NDArray[np.float64]) -> NDArray[np.float64]:
    quantiles: NDArray[np.float64] = torch.special.ndtri(torch.as_tensor(rates).double()).numpy()
    return quantiles


def _normal_cdf(quantiles: NDArray[np.float64]) -> NDArray[np.float64]:
    rates: NDArray[np.float64] = torch.special.ndtr(torch.as_tensor(quantiles).double()).numpy()
    return rates
