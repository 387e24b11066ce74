"""Pictures made of photos: pairs, triplets and the map of the embeddings."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from siameselib import _check
from siameselib.evaluation.inputs import to_array
from siameselib.plot.canvas import CLASS_COLOURS, CLASS_MARKERS, DIFFERENT, GREY, SAME, sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INCH = 1.4  # the width of a photo; the unit of every length below
LINE = 0.11  # the height of a line of caption
CAPTION_WIDTH = 20  # characters over one photo
MOST_THUMBNAILS, THUMBNAIL = 80, 0.07  # how many, and their size as a share of the map


def photo_pairs(
    images_a: Tensor | ArrayLike,
    images_b: Tensor | ArrayLike,
    captions: Sequence[str] | None = None,
    title: str | None = None,
    *,
    columns: int = 3,
    ax: Axes | None = None,
) -> Figure:
    """Draw a gallery of photo pairs, such as the hardest errors, row by row.

    Args:
        images_a: The left photos, uint8.
        images_b: The right photos, uint8.
        captions: A few words per pair, drawn below it.
        title: Instead of "n pairs".
        columns: Pairs in a row.
        ax: Where to draw; a new figure by default.

    Shape:
        images_a, images_b: (n, height, width, 3), or 1 channel for grey. With n = 0 the picture
        says "none".

    Returns:
        The figure.

    Raises:
        ValueError: Other shapes, or not one caption per pair.
        TypeError: Images that are not uint8.

    Example:
        >>> photos = np.zeros((2, 8, 8, 3), np.uint8)
        >>> photo_pairs(photos, photos, ["d = 0.41", "d = 0.40"]).axes[0].get_title()
        '2 pairs'
    """
    left, right = _photos("photo_pairs", images_a=images_a, images_b=images_b)
    n, tall = len(left), left.shape[1] / left.shape[2]
    texts = _captions("photo_pairs", captions, n, 2 * CAPTION_WIDTH)
    columns = max(1, min(columns, n))
    rows = max(1, -(-n // columns))
    step_x, step_y = 2.2, tall + _room(texts) + 0.1
    figure, ax = sheet(ax, INCH * columns * step_x, INCH * rows * step_y + 0.4)
    for i in range(n):
        x, y = (i % columns) * step_x, (i // columns) * step_y
        _place(ax, left[i], x, y, 1, tall)
        _place(ax, right[i], x + 1.02, y, 1, tall)
        ax.text(x + 1.01, y + tall + 0.03, texts[i], ha="center", va="top", fontsize=8)
    _bare(ax, -0.05, columns * step_x - 0.13, -0.03, rows * step_y - 0.1)
    if n == 0:
        ax.text(0.5, 0.5, "none", transform=ax.transAxes, ha="center", va="center")
    ax.set_title(title or f"{n} pair{'s' * (n != 1)}")
    return figure


def triplet_strip(
    anchor: Tensor | ArrayLike,
    positive: Tensor | ArrayLike,
    negative: Tensor | ArrayLike,
    captions: Sequence[str] | None = None,
    title: str | None = None,
    *,
    ax: Axes | None = None,
) -> Figure:
    """Draw triplets side by side: anchors above their positives above their negatives.

    Args:
        anchor: The anchors' photos, uint8.
        positive: Photos of the same identities.
        negative: Photos of others.
        captions: A few words per triplet, drawn below it.
        title: Instead of "n triplets".
        ax: Where to draw; a new figure by default.

    Shape:
        anchor, positive, negative: (n, height, width, 3), or 1 channel for grey.

    Returns:
        The figure.

    Raises:
        ValueError: Other shapes, or not one caption per triplet.
        TypeError: Images that are not uint8.

    Example:
        >>> photos = np.zeros((4, 8, 8, 1), np.uint8)
        >>> triplet_strip(photos, photos, photos).axes[0].get_title()
        '4 triplets'
    """
    rows = _photos("triplet_strip", anchor=anchor, positive=positive, negative=negative)
    n, tall = len(rows[0]), rows[0].shape[1] / rows[0].shape[2]
    texts = _captions("triplet_strip", captions, n, CAPTION_WIDTH)
    margin, step_x, step_y = 0.75, 1.06, tall + 0.06
    width, height = margin + max(n, 1) * step_x, 3 * step_y + _room(texts)
    figure, ax = sheet(ax, INCH * width, INCH * height + 0.4)
    names = (("anchor", "black"), ("positive", SAME), ("negative", DIFFERENT))
    for row, (photos, (name, colour)) in enumerate(zip(rows, names, strict=True)):
        y = row * step_y
        ax.text(-0.08, y + tall / 2, name, ha="right", va="center", color=colour, fontsize=11)
        for i in range(n):
            _place(ax, photos[i], i * step_x, y, 1, tall)
            _frame(ax, i * step_x, y, 1, tall, colour)
    for i, text in enumerate(texts):
        ax.text(i * step_x + 0.5, 3 * step_y, text, ha="center", va="top", fontsize=8)
    _bare(ax, -margin, max(n, 1) * step_x, -0.03, height)
    ax.set_title(title or f"{n} triplet{'s' * (n != 1)}")
    return figure


def embedding_map(
    embeddings: Tensor | ArrayLike,
    labels: Tensor | ArrayLike,
    images: Tensor | ArrayLike | None = None,
    title: str | None = None,
    *,
    ax: Axes | None = None,
) -> Figure:
    """Draw the embeddings on their two principal axes, with some of the photos.

    The eight most frequent identities have a colour and a mark of their own (seven when there
    are more than eight), the others are grey.

    Args:
        embeddings: What the net makes of the images.
        labels: Their identities, numbers or names.
        images: Their photos, uint8; as many are drawn as find room.
        title: Instead of "n embeddings of k identities".
        ax: Where to draw; a new figure by default.

    Shape:
        embeddings: (n, d). labels: (n,). images: (n, height, width, 3), or 1 channel for grey.

    Returns:
        The figure.

    Raises:
        ValueError: Other shapes, or embeddings that are not finite.

    Example:
        >>> figure = embedding_map(np.eye(3), ["Ann", "Ann", "Bob"])
        >>> figure.axes[0].get_xlabel()
        'principal axis 1 (50 % of the variance)'
    """
    points, shares = _principal_axes(embeddings)
    names = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if names.shape != (len(points),):
        expected = f"have shape (n,) = ({len(points)},)"
        raise _check.refuse("embedding_map", "labels", expected, names.shape)
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
        (photos,) = _photos("embedding_map", images=images)
        if len(photos) != len(points):
            expected = f"be one per embedding ({len(points)})"
            raise _check.refuse("embedding_map", "images", expected, len(photos))
        size = THUMBNAIL * side
        for i in _spread(points, size):
            x, y = points[i] - size / 2
            _place(ax, photos[i], x, y + size, size, -size)
            _frame(ax, x, y, size, size, str(colours[members[i]]))
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    half = np.maximum(np.ptp(points, axis=0) / 2, side / 4) + 0.06 * side
    low, high = middle - half, middle + half
    ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
    ax.set_xlabel(f"principal axis 1 ({100 * shares[0]:.0f} % of the variance)")
    ax.set_ylabel(f"principal axis 2 ({100 * shares[1]:.0f} % of the variance)")
    ax.set_title(title or f"{len(points):,} embeddings of {len(identities):,} identities")
    if alone:
        figure.legend(loc="outside right center", title="identity (photos)")
    else:
        ax.legend(loc="best", fontsize="small")
    return figure


def _principal_axes(embeddings: Tensor | ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    """Coordinates (n, 2) on the two axes of largest variance, and their shares of it."""
    array = to_array("embedding_map", "embeddings", embeddings).astype(np.float64)
    if array.ndim != 2 or array.size == 0:
        raise _check.refuse("embedding_map", "embeddings", "have shape (n, d)", array.shape)
    if not np.isfinite(array).all():
        raise _check.refuse("embedding_map", "embeddings", "be finite", "NaN or infinity")
    centred = array - array.mean(axis=0)
    _, scales, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes * np.sign(np.take_along_axis(axes, np.abs(axes).argmax(1)[:, None], axis=1))
    pad = max(0, 2 - len(axes))  # one embedding or one dimension: a flat map
    points = np.pad(centred @ axes[:2].T, ((0, 0), (0, pad)))
    variances = np.pad(scales**2, (0, pad))
    return points, variances[:2] / max(variances.sum(), np.finfo(np.float64).tiny)


def _spread(points: NDArray[Any], size: float) -> list[int]:
    """The first points whose squares of this size do not overlap."""
    chosen: list[int] = []
    free = np.ones(len(points), dtype=np.bool_)
    while free.any() and len(chosen) < MOST_THUMBNAILS:
        chosen.append(int(np.argmax(free)))
        free &= np.abs(points - points[chosen[-1]]).max(axis=1) > 1.1 * size
    return chosen


def _photos(where: str, **images: Tensor | ArrayLike) -> list[NDArray[np.uint8]]:
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


def _captions(where: str, captions: Sequence[str] | None, n: int, width: int) -> list[str]:
    if captions is None:
        return [""] * n
    if len(captions) != n:
        raise _check.refuse(where, "captions", f"be one per column of photos ({n})", len(captions))
    return [textwrap.fill(caption, width) for caption in captions]


def _room(texts: Sequence[str]) -> float:
    """Height of the tallest caption."""
    return max((LINE * (text.count("\n") + 1) + 0.05 for text in texts if text), default=0.0)


def _place(ax: Axes, photo: NDArray[np.uint8], x: float, y: float, w: float, h: float) -> None:
    """Draw a photo with its top at y and its foot at y + h."""
    if photo.shape[2] == 1:
        photo = np.repeat(photo, 3, axis=2)
    ax.imshow(photo, extent=(x, x + w, y + h, y), zorder=3)


def _frame(ax: Axes, x: float, y: float, w: float, h: float, colour: str) -> None:
    ax.plot([x, x + w, x + w, x, x], [y, y, y + h, y + h, y], color=colour, lw=2, zorder=4)


def _bare(ax: Axes, left: float, right: float, top: float, foot: float) -> None:
    """Limits around the photos, y downwards, no axis lines."""
    ax.set(xlim=(left, right), ylim=(foot, top), aspect="equal", anchor="N")
    ax.set_axis_off()
