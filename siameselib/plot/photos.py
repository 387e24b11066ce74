"""Pictures made of photos: pairs, triplets, queries with what they found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from siameselib import _check
from siameselib.evaluation.inputs import to_array
from siameselib.plot.canvas import BLACK, DIFFERENT, SAME, sheet
from siameselib.plot.placing import (
    CAPTION_WIDTH,
    INCH,
    bare,
    check_captions,
    check_photos,
    frame,
    place,
    room,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


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
    left, right = check_photos("photo_pairs", images_a=images_a, images_b=images_b)
    n, tall = len(left), left.shape[1] / left.shape[2]
    texts = check_captions("photo_pairs", captions, n, 2 * CAPTION_WIDTH)
    columns = max(1, min(_check.integer("photo_pairs", "columns", columns, 1), n))
    rows = max(1, -(-n // columns))
    step_x, step_y = 2.2, tall + room(texts) + 0.1
    figure, ax = sheet(ax, INCH * columns * step_x, INCH * rows * step_y + 0.4)
    for i in range(n):
        x, y = (i % columns) * step_x, (i // columns) * step_y
        place(ax, left[i], x, y, 1, tall)
        place(ax, right[i], x + 1.02, y, 1, tall)
        ax.text(x + 1.01, y + tall + 0.03, texts[i], ha="center", va="top", fontsize=8)
    bare(ax, -0.05, columns * step_x - 0.13, -0.03, rows * step_y - 0.1)
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
    rows = check_photos("triplet_strip", anchor=anchor, positive=positive, negative=negative)
    n, tall = len(rows[0]), rows[0].shape[1] / rows[0].shape[2]
    texts = check_captions("triplet_strip", captions, n, CAPTION_WIDTH)
    margin, step_x, step_y = 0.75, 1.06, tall + 0.06
    width, height = margin + max(n, 1) * step_x, 3 * step_y + room(texts)
    figure, ax = sheet(ax, INCH * width, INCH * height + 0.4)
    names = (("anchor", "black"), ("positive", SAME), ("negative", DIFFERENT))
    for row, (photos, (name, colour)) in enumerate(zip(rows, names, strict=True)):
        y = row * step_y
        ax.text(-0.08, y + tall / 2, name, ha="right", va="center", color=colour, fontsize=11)
        for i in range(n):
            place(ax, photos[i], i * step_x, y, 1, tall)
            frame(ax, i * step_x, y, 1, tall, colour)
    for i, text in enumerate(texts):
        ax.text(i * step_x + 0.5, 3 * step_y, text, ha="center", va="top", fontsize=8)
    bare(ax, -margin, max(n, 1) * step_x, -0.03, height)
    ax.set_title(title or f"{n} triplet{'s' * (n != 1)}")
    return figure


def retrieval_rows(
    queries: Tensor | ArrayLike,
    neighbours: Tensor | ArrayLike,
    right: Tensor | ArrayLike,
    captions: Sequence[str] | None = None,
    title: str | None = None,
    *,
    ax: Axes | None = None,
) -> Figure:
    """Draw queries and, in the row of each, its nearest neighbours, right and wrong ones framed.

    Args:
        queries: One photo per row, uint8.
        neighbours: What each found, nearest first.
        right: 1 where a neighbour shows the identity of its query, 0 where another.
        captions: A few words per row, drawn below the query.
        title: Instead of "n queries, k neighbours each: s right of t".
        ax: Where to draw; a new figure by default.

    Shape:
        queries: (n, height, width, 3), or 1 channel for grey. neighbours: (n, k, height, width, 3)
        or 1 channel. right: (n, k).

    Returns:
        The figure.

    Raises:
        ValueError: Other shapes, or not one caption per row.
        TypeError: Images that are not uint8.

    Example:
        >>> photos = np.zeros((2, 8, 8, 3), np.uint8)
        >>> figure = retrieval_rows(photos, np.stack([photos] * 3, 1), [[1, 1, 0], [1, 0, 0]])
        >>> figure.axes[0].get_title()
        '2 queries, 3 neighbours each: 3 right of 6'
    """
    (left,) = check_photos("retrieval_rows", queries=queries)
    n, tall = len(left), left.shape[1] / left.shape[2]
    found = to_array("retrieval_rows", "neighbours", neighbours)
    if found.ndim != 5 or found.shape[:1] + found.shape[2:] != left.shape or found.shape[1] == 0:
        expected = f"have shape (n, k, ...) with n and photos of queries, {left.shape}"
        raise _check.refuse("retrieval_rows", "neighbours", expected, found.shape)
    k = found.shape[1]
    (flat,) = check_photos("retrieval_rows", neighbours=found.reshape(n * k, *left.shape[1:]))
    is_right = np.asarray(to_array("retrieval_rows", "right", right), dtype=np.bool_)
    if is_right.shape != (n, k):
        raise _check.refuse("retrieval_rows", "right", f"have shape {(n, k)}", is_right.shape)
    texts = check_captions("retrieval_rows", captions, n, CAPTION_WIDTH)
    step_x, step_y, gap, head, foot = 1.06, tall + room(texts) + 0.06, 0.2, 0.16, 0.3
    width, height = step_x * (k + 1) + gap, n * step_y
    figure, ax = sheet(ax, INCH * width, INCH * (height + head + foot) + 0.4)
    for column in range(k + 1):
        x = 0.5 + column * step_x + gap * (column > 0)
        ax.text(x, -0.05, str(column or "query"), ha="center", va="bottom", fontsize=9)
    for row in range(n):
        y = row * step_y
        place(ax, left[row], 0, y, 1, tall)
        frame(ax, 0, y, 1, tall, BLACK)
        ax.text(0.5, y + tall + 0.03, texts[row], ha="center", va="top", fontsize=8)
        for column in range(k):
            x, good = (column + 1) * step_x + gap, is_right[row, column]
            place(ax, flat[row * k + column], x, y, 1, tall)
            frame(ax, x, y, 1, tall, SAME if good else DIFFERENT, "-" if good else "--")
    ax.plot([], [], color=SAME, lw=2, label="same identity")
    ax.plot([], [], color=DIFFERENT, lw=2, ls="--", label="another identity")
    ax.legend(loc="lower center", ncols=2, frameon=False, fontsize=9)
    bare(ax, -0.05, width, -head - 0.03, height + foot)
    count = f"{n} quer{'y' if n == 1 else 'ies'}, {k} neighbour{'s' * (k != 1)} each"
    ax.set_title(title or f"{count}: {is_right.sum()} right of {is_right.size}")
    return figure
