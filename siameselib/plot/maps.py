"""The map of the embeddings: many dimensions on a sheet of paper."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from siameselib import _check
from siameselib.evaluation.inputs import to_array
from siameselib.plot.canvas import CLASS_COLOURS, CLASS_MARKERS, GREY, sheet
from siameselib.plot.placing import check_photos, frame, place

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_THUMBNAILS, THUMBNAIL = 80, 0.07  # how many, and their size as a share of the map
METHODS = ("pca", "umap")


def embedding_map(
    embeddings: Tensor | ArrayLike,
    labels: Tensor | ArrayLike,
    images: Tensor | ArrayLike | None = None,
    title: str | None = None,
    *,
    method: str = "pca",
    seed: int = 0,
    ax: Axes | None = None,
) -> Figure:
    """Draw the embeddings on their two principal axes, or as UMAP arranges them, with some photos.

    On principal axes distances are true but for what lies along the other axes. UMAP keeps
    neighbours together and shows clusters that overlap on two axes; distances between clusters, and
    their sizes, mean nothing there.

    The eight most frequent identities have a colour and a mark of their own (seven when there
    are more than eight), the others are grey.

    Args:
        embeddings: What the net makes of the images.
        labels: Their identities, numbers or names.
        images: Their photos, uint8; as many are drawn as find room.
        title: Instead of "n embeddings of k identities".
        method: "pca", or "umap" if umap-learn is installed.
        seed: Where UMAP starts; the same seed gives the same map.
        ax: Where to draw; a new figure by default.

    Shape:
        embeddings: (n, d). labels: (n,). images: (n, height, width, 3), or 1 channel for grey.

    Returns:
        The figure.

    Raises:
        ValueError: Other shapes, embeddings that are not finite, or fewer than four for UMAP.
        TypeError: Embeddings that are no numbers, or labels that are neither numbers nor names.
        ImportError: umap-learn is wanted and not installed.

    Example:
        >>> figure = embedding_map(np.eye(3), ["Ann", "Ann", "Bob"])
        >>> figure.axes[0].get_xlabel()
        'principal axis 1 (50 % of the variance)'
    """
    _check.choice("embedding_map", "method", method, METHODS)
    array = to_array("embedding_map", "embeddings", embeddings).astype(np.float64)
    if array.ndim != 2 or array.size == 0:
        raise _check.refuse("embedding_map", "embeddings", "have shape (n, d)", array.shape)
    if not np.isfinite(array).all():
        raise _check.refuse("embedding_map", "embeddings", "be finite", "NaN or infinity")
    points, axes = _principal_axes(array) if method == "pca" else _umap(array, seed)
    names = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if names.shape != (len(points),):
        expected = f"have shape (n,) = ({len(points)},)"
        raise _check.refuse("embedding_map", "labels", expected, names.shape)
    if names.dtype.kind not in "biufSU":
        expected = "be numbers or names"
        raise _check.refuse("embedding_map", "labels", expected, names.dtype, TypeError)
    identities, members, counts = np.unique(names, return_inverse=True, return_counts=True)
    ranked = np.argsort(-counts, kind="stable")
    shown = ranked[: len(CLASS_COLOURS) - (len(ranked) > len(CLASS_COLOURS))]
    colours = np.full(len(identities), GREY, dtype=object)
    colours[shown] = CLASS_COLOURS[: len(shown)]
    alone = ax is None
    figure, ax = sheet(ax, 8.5, 6.5)
    for identity, marker in zip(shown, CLASS_MARKERS, strict=False):
        of = members == identity
        x, y = points[of].T
        text = f"{identities[identity]} ({of.sum()})"
        ax.scatter(x, y, s=24, color=colours[identity], marker=marker, label=text)
    rest = ~np.isin(members, shown)
    if rest.any():
        x, y = points[rest].T
        text = f"{len(identities) - len(shown)} others ({rest.sum()})"
        ax.scatter(x, y, s=12, color=GREY, alpha=0.5, zorder=0.5, label=text)
    side = float(np.ptp(points, axis=0).max()) or 1.0
    if images is not None:
        (photos,) = check_photos("embedding_map", images=images)
        if len(photos) != len(points):
            expected = f"be one per embedding ({len(points)})"
            raise _check.refuse("embedding_map", "images", expected, len(photos))
        size = THUMBNAIL * side
        for i in _spread(points, size):
            x, y = points[i] - size / 2
            place(ax, photos[i], x, y + size, size, -size)
            frame(ax, x, y, size, size, str(colours[members[i]]))
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    half = np.maximum(np.ptp(points, axis=0) / 2, side / 4) + 0.06 * side
    low, high = middle - half, middle + half
    ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
    ax.set(xlabel=axes[0], ylabel=axes[1])
    ax.set_title(title or f"{len(points):,} embeddings of {len(identities):,} identities")
    if alone:
        figure.legend(loc="outside right center", title="identity (photos)")
        figure.set_layout_engine("compressed")  # square axes: neither cut nor far from the legend
    else:
        ax.legend(loc="best", fontsize="small")
    return figure


def _principal_axes(array: NDArray[Any]) -> tuple[NDArray[Any], list[str]]:
    """Coordinates (n, 2) on the two axes of largest variance, and what to call them."""
    centred = array - array.mean(axis=0)
    _, scales, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes * np.sign(np.take_along_axis(axes, np.abs(axes).argmax(1)[:, None], axis=1))
    pad = max(0, 2 - len(axes))  # one embedding or one dimension: a flat map
    points = np.pad(centred @ axes[:2].T, ((0, 0), (0, pad)))
    variances = np.pad(scales**2, (0, pad))
    shares = 100 * variances[:2] / max(variances.sum(), np.finfo(np.float64).tiny)
    return points, [
        f"principal axis {k} ({s:.0f} % of the variance)" for k, s in enumerate(shares, 1)
    ]


def _umap(array: NDArray[Any], seed: int) -> tuple[NDArray[Any], list[str]]:
    """Coordinates (n, 2) as UMAP arranges them, and what to call them."""
    if len(array) < 4:
        raise _check.refuse("embedding_map", "embeddings", "be four or more for UMAP", len(array))
    try:
        from umap import UMAP
    except ImportError as error:
        message = 'embedding_map: method="umap" needs umap-learn: python -m pip install umap-learn'
        raise ImportError(message) from error
    near = min(15, len(array) - 1)
    # n_jobs=1: with a seed UMAP runs on one thread anyway, and warns if not told so.
    arranged = UMAP(
        n_neighbors=near,
        init="spectral" if len(array) > near + 1 else "random",
        random_state=seed,
        n_jobs=1,
    ).fit_transform(array)
    return np.asarray(arranged, dtype=np.float64), [f"UMAP {k} (no unit)" for k in (1, 2)]


def _spread(points: NDArray[Any], size: float) -> list[int]:
    """The first points whose squares of this size do not overlap."""
    chosen: list[int] = []
    free = np.ones(len(points), dtype=np.bool_)
    while free.any() and len(chosen) < MOST_THUMBNAILS:
        chosen.append(int(np.argmax(free)))
        free &= np.abs(points - points[chosen[-1]]).max(axis=1) > 1.1 * size
    return chosen
