"""ROC, DET, score histograms and reliability diagrams."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from siameselib import _check
from siameselib.evaluation.curves import auc, count_cuts, eer, roc_curve
from siameselib.evaluation.inputs import Values, check_pairs, check_threshold, to_array
from siameselib.evaluation.verification import MIN_FALSE_ACCEPTS
from siameselib.plot.canvas import (
    BLACK,
    BLUE,
    DIFFERENT,
    GREY,
    SAME,
    sheet,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Band: TypeAlias = tuple[Values, Values, Values]

BINS, LEGEND_ROOM = 60, 1.35
PROBIT_TICKS = (1e-6, 1e-5, 1e-4, 0.001, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95, 0.99)


def roc(
    scores: Values,
    same: Values,
    *,
    label: str = "ROC",
    colour: str = BLUE,
    title: str | None = None,
    band: Band | None = None,
    band_label: str = "95 % interval",
    ax: Axes | None = None,
) -> Figure:
    """Draw the ROC with its area, its equal error rate and the line of chance.

    Args:
        scores: Similarities, higher = more alike.
        same: 1 where the pair shows one identity.
        label: The curve's name in the legend; draw several into one ``ax`` to compare.
        colour: The curve's colour.
        title: Instead of "ROC of n pairs (k same)".
        band: Intervals to shade: false-accept rates in order, and the lowest and the highest
            true-accept rate at each.
        band_label: What they are, in the legend.
        ax: Where to draw; a new figure by default.

    Shape:
        scores, same: (n,). Each array of the band: (m,).

    Returns:
        The figure.

    Raises:
        ValueError: Bad scores, or a band that is no interval of rates.

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
    if band is not None:
        _shade("roc", ax, band, colour, band_label)
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
    band: Band | None = None,
    band_label: str = "95 % interval",
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
        band: Intervals to shade: false-accept rates in order, and the lowest and the highest
            false-reject rate at each.
        band_label: What they are, in the legend.
        ax: Where to draw; a new figure by default.

    Shape:
        scores, same: (n,). Each array of the band: (m,).

    Returns:
        The figure.

    Raises:
        ValueError: Bad scores, or a band that is no interval of rates.

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
    if band is not None:
        _shade("det", ax, band, colour, band_label)
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
    threshold = check_threshold("distance_histogram", threshold)
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


def reliability(
    centres: Values,
    shares: Values,
    counts: Values,
    *,
    low: Values | None = None,
    high: Values | None = None,
    label: str = "observed",
    interval_label: str = "95 % interval",
    title: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw how often a probability came true: on the diagonal where it is right.

    The area of a point tells how many pairs stand behind it; empty bins are left out.

    Args:
        centres: The probability that the bin stands for.
        shares: The share of its pairs that were the same.
        counts: How many pairs it has.
        low: Where the interval of each share begins; with ``high``.
        high: Where it ends.
        label: The points' name in the legend.
        interval_label: What the intervals are, in the legend.
        title: Instead of "Reliability of n pairs".
        ax: Where to draw; a new figure by default.

    Shape:
        Each: (bins,). In an empty bin everything but the count may be NaN.

    Returns:
        The figure.

    Raises:
        ValueError: Other shapes, a share outside of [0, 1], or no pairs at all.

    Example:
        >>> reliability([0.1, 0.9], [0.2, 0.85], [40, 60]).axes[0].get_title()
        'Reliability of 100 pairs'

    Source:
        Murphy and Winkler 1977; DeGroot and Fienberg 1983.
    """
    if (low is None) != (high is None):
        raise _check.refuse("reliability", "low and high", "be given together", "one of them")
    given = {"centres": centres, "shares": shares, "counts": counts}
    if low is not None and high is not None:
        given |= {"low": low, "high": high}
    columns = {name: to_array("reliability", name, value) for name, value in given.items()}
    for name, column in columns.items():
        if column.ndim != 1 or column.shape != columns["centres"].shape:
            expected = "be vectors of one length"
            raise _check.refuse("reliability", name, expected, column.shape)
    filled = columns["counts"] > 0
    if not filled.any():
        raise _check.refuse("reliability", "counts", "count some pairs", "none")
    columns = {name: column[filled] for name, column in columns.items()}
    for name in columns.keys() - {"counts"}:
        _check_rates("reliability", name, columns[name])
    x, y, n = columns["centres"], columns["shares"], columns["counts"]
    figure, ax = sheet(ax, 5.5, 5.5)
    ax.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="as often as it says")
    if low is not None:
        ends = columns["low"], columns["high"]
        ax.vlines(x, *ends, color=BLUE, linewidth=1.5, alpha=0.6, label=interval_label)
    ax.plot(x, y, color=BLUE, linewidth=1, alpha=0.6)
    ax.scatter(x, y, s=20 + 180 * n / n.max(), color=BLUE, zorder=3, label=label)
    ax.set(xlim=(-0.04, 1.04), ylim=(-0.04, 1.04), aspect="equal")
    ax.set_xlabel("probability of the verifier")
    ax.set_ylabel("share of pairs that were the same")
    ax.set_title(title or f"Reliability of {int(n.sum()):,} pairs")
    ax.grid(alpha=0.3)
    ax.legend(loc="upper left")
    return figure


def _shade(where: str, ax: Axes, band: Band, colour: str, label: str) -> None:
    """Fill between two curves of rates over false-accept rates."""
    if len(band) != 3:
        expected = "be three vectors, of false-accept rates and of both ends"
        raise _check.refuse(where, "band", expected, f"{len(band)} of them")
    names = ("band[0]", "band[1]", "band[2]")
    far, low, high = (to_array(where, name, part) for name, part in zip(names, band, strict=True))
    for name, part in zip(names, (far, low, high), strict=True):
        if part.ndim != 1 or part.shape != far.shape:
            raise _check.refuse(where, "band", "be three vectors of one length", part.shape)
        _check_rates(where, name, part)
    if (low > high).any() or (far[1:] < far[:-1]).any():
        expected = "hold rising false-accept rates, and at each the lower rate first"
        raise _check.refuse(where, "band", expected, "another order")
    # On probit axes a rate of 0 or 1 lies at infinity: end at the frame.
    far, low, high = far.clip(*ax.get_xlim()), low.clip(*ax.get_ylim()), high.clip(*ax.get_ylim())
    ax.fill_between(far, low, high, color=colour, alpha=0.2, linewidth=0, label=label)


def _check_rates(where: str, name: str, rates: NDArray[np.float64]) -> None:
    if not ((rates >= 0) & (rates <= 1)).all():
        raise _check.refuse(where, name, "hold rates between 0 and 1", rates.tolist()[:5])


def _count(same: Values) -> str:
    is_same = np.asarray(same.detach().cpu() if isinstance(same, torch.Tensor) else same)
    return f"{len(is_same):,} pairs ({int(is_same.sum()):,} same)"


def _probit(rates: NDArray[np.float64]) -> NDArray[np.float64]:
    quantiles: NDArray[np.float64] = torch.special.ndtri(torch.as_tensor(rates).double()).numpy()
    return quantiles


def _normal_cdf(quantiles: NDArray[np.float64]) -> NDArray[np.float64]:
    rates: NDArray[np.float64] = torch.special.ndtr(torch.as_tensor(quantiles).double()).numpy()
    return rates
