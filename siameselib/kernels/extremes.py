"""Extremes of the rows of a distance matrix: the indices that triplet miners look for.

- :func:`hardest`: each row's farthest (or nearest) positive and nearest negative;
- :func:`beyond`: for each row and each of its positives (or the nearest of them), the nearest
  negative farther away.

Both backends decide by the same arithmetic, the direct difference :func:`blocks.squared`, and
break ties by the lowest index, so they return equal indices in every dtype. ``reference`` takes
every difference, in O(n m d) memory. ``streaming`` sweeps slabs of lower bounds and takes the
differences of the few entries among which rounding could hide the extreme, in O((n + m) d)
memory; see :mod:`siameselib.kernels.candidates` for what it does off the CPU. ``triton`` sums the
terms of a difference in another order: it may take another one of two columns whose distances are
equal but for the rounding of float32, and of equal columns the lowest, like the others.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from siameselib.kernels import choose, mutual
from siameselib.kernels.blocks import SLAB, Grouped, Slabs, group, in_range, least_from, squared
from siameselib.kernels.candidates import (
    entries,
    farthest,
    nearest,
    repair,
    settle_above,
    squares,
)
from siameselib.kernels.positives import drop_same, extreme_positive, few, listed
from siameselib.kernels.whole_extremes import WHOLE, clear_beyond, clear_extremes

_LINES = 1 << 18  # entries of lines that are looked through at once: they stay in cache
_LEAST_LINES = 64  # but fewer lines are mostly steps in Python


def hardest(
    x: Tensor,
    labels: Tensor,
    y: Tensor,
    y_labels: Tensor,
    offset: int | None,
    backend: str = "auto",
    easy: bool = False,
) -> tuple[Tensor, Tensor]:
    """Find each row's farthest positive and nearest negative among the columns.

    Args:
        x: (n, d) rows.
        labels: (n,) their identities.
        y: (m, d) columns.
        y_labels: (m,) their identities.
        offset: row i is column offset + i, so no positive of itself; None if no row is a column.
        backend: see :func:`siameselib.use_backend`.
        easy: whether to take the nearest positive.

    Returns:
        Two (n,) vectors of columns, -1 where there is none.
    """
    larger = y if len(y) > len(x) else x
    backend = choose("hardest", len(x), len(y), x.shape[1], backend, larger)
    ids, y_ids = labels.long(), y_labels.long()
    columns = None if y is x else y.detach()
    # In eager mode the plain function: the first call of an operator imports all of torch._dynamo.
    run = _hardest_op if torch.compiler.is_compiling() else _hardest
    positive, negative = run(x.detach(), ids, columns, y_ids, offset, backend, easy)
    return positive, negative


def beyond(
    x: Tensor,
    labels: Tensor,
    y: Tensor,
    y_labels: Tensor,
    offset: int | None,
    width: int | None = None,
    backend: str = "auto",
    easy: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Find for each row and each of its positives the nearest negative farther away.

    Args:
        x: (n, d) rows.
        labels: (n,) their identities.
        y: (m, d) columns.
        y_labels: (m,) their identities.
        offset: as for :func:`hardest`.
        width: how many positives of each row to take, lowest index first: n·width entries, with
            -1 for a positive that is not there. None for exactly those that are there.
        backend: see :func:`siameselib.use_backend`.
        easy: whether to take of each row the nearest positive alone: n entries; without width.

    Returns:
        Vectors of one entry per (row, positive): row, positive, negative (-1 where there is
        none), and whether the negative is farther than the positive; if none is, the negative is
        the farthest one.
    """
    larger = y if len(y) > len(x) else x
    backend = choose("beyond", len(x), len(y), x.shape[1], backend, larger)
    ids, y_ids = labels.long(), y_labels.long()
    columns = None if y is x else y.detach()
    run = _beyond_op if torch.compiler.is_compiling() else _beyond
    row, positive, negative, farther = run(
        x.detach(), ids, columns, y_ids, offset, width, backend, easy
    )
    return row, positive, negative, farther


def _hardest(
    x: Tensor,
    labels: Tensor,
    y: Tensor | None,
    y_labels: Tensor,
    offset: int | None,
    backend: str,
    easy: bool,
) -> tuple[Tensor, Tensor]:
    y = x if y is None else y
    with torch.autocast(x.device.type, enabled=False):
        if x.numel() == 0 or y.numel() == 0:
            return torch.full_like(labels, -1), torch.full_like(labels, -1)
        run: Callable[..., tuple[Tensor, Tensor]]
        if backend == "triton":
            from siameselib.kernels.extremes_triton import triton_hardest as run
        else:
            run = reference_hardest if backend == "reference" else streaming_hardest
        return run(*in_range(x, y), labels, y_labels, offset, easy=easy)


_hardest_op = torch.library.custom_op("siameselib::hardest", _hardest, mutates_args=())


@_hardest_op.register_fake
def _(
    x: Tensor,
    labels: Tensor,
    y: Tensor | None,
    y_labels: Tensor,
    offset: int | None,
    backend: str,
    easy: bool,
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(labels), torch.empty_like(labels)


def _beyond(
    x: Tensor,
    labels: Tensor,
    y: Tensor | None,
    y_labels: Tensor,
    offset: int | None,
    width: int | None,
    backend: str,
    easy: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    y = x if y is None else y
    with torch.autocast(x.device.type, enabled=False):
        if x.numel() == 0 or y.numel() == 0:
            row = torch.arange(len(x), device=x.device).repeat_interleave(1 if easy else width or 0)
            none = torch.full_like(row, -1)
            return row, none, none.clone(), none > 0
        run: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]]
        if backend == "triton":
            from siameselib.kernels.beyond_triton import triton_beyond as run
        else:
            run = reference_beyond if backend == "reference" else streaming_beyond
        return run(*in_range(x, y), labels, y_labels, offset, width, easy=easy)


_beyond_op = torch.library.custom_op("siameselib::beyond", _beyond, mutates_args=())


@_beyond_op.register_fake
def _(
    x: Tensor,
    labels: Tensor,
    y: Tensor | None,
    y_labels: Tensor,
    offset: int | None,
    width: int | None,
    backend: str,
    easy: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    most = 1 if easy else width
    pairs = torch.library.get_ctx().new_dynamic_size() if most is None else len(x) * most
    row, positive, negative = (labels.new_empty(pairs) for _ in range(3))
    return row, positive, negative, labels.new_empty(pairs, dtype=torch.bool)


def reference_hardest(
    x: Tensor, y: Tensor, labels: Tensor, y_labels: Tensor, offset: int | None, easy: bool = False
) -> tuple[Tensor, Tensor]:
    """Dense: :func:`hardest` as it is defined."""
    distance = squared(x[:, None], y)
    same, other = same_and_other(labels, y_labels, offset)
    positive = torch.where(same, distance if easy else -distance, torch.inf).argmin(1)
    negative = torch.where(other, distance, torch.inf).argmin(1)
    return torch.where(same.any(1), positive, -1), torch.where(other.any(1), negative, -1)


def reference_beyond(
    x: Tensor,
    y: Tensor,
    labels: Tensor,
    y_labels: Tensor,
    offset: int | None,
    width: int | None,
    easy: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Dense: :func:`beyond` as it is defined."""
    m = len(y)
    distance = squared(x[:, None], y)
    same, other = same_and_other(labels, y_labels, offset)
    if easy:
        row = torch.arange(len(x), device=x.device)
        positive = torch.where(same, distance, torch.inf).argmin(1)
        positive = torch.where(same.any(1), positive, m)
    elif width is None:
        row, positive = same.nonzero(as_tuple=True)
    else:
        columns = torch.where(same, torch.arange(m, device=x.device), m).sort(1).values
        columns = torch.nn.functional.pad(columns, (0, width), value=m)[:, :width]
        row = torch.arange(len(x), device=x.device).repeat_interleave(width)
        positive = columns.flatten()
    there = positive < m
    threshold = distance[row, positive.clamp(max=m - 1)]
    allowed, found = other[row], distance[row]
    farther = allowed & ~(found <= threshold[:, None])  # NaN is found, not passed over
    best = torch.where(
        farther.any(1),
        torch.where(farther, found, torch.inf).argmin(1),
        torch.where(allowed, found, -torch.inf).argmax(1),
    )
    positive = torch.where(there, positive, -1)
    negative = torch.where(there & allowed.any(1), best, -1)
    return row, positive, negative, farther.any(1) & there


def same_and_other(labels: Tensor, y_labels: Tensor, offset: int | None) -> tuple[Tensor, Tensor]:
    """Say which entries of the matrix are positives and which negatives."""
    same = labels[:, None] == y_labels
    positive = same.clone()
    if offset is not None:
        positive.diagonal(offset).fill_(False)
    return positive, ~same


def streaming_hardest(
    x: Tensor,
    y: Tensor,
    labels: Tensor,
    y_labels: Tensor,
    offset: int | None,
    static: bool | None = None,
    easy: bool = False,
) -> tuple[Tensor, Tensor]:
    """Blocks of rows: :func:`hardest` without the matrix; a small one is held, if it is enough.

    Args:
        x: (n, d) rows.
        y: (m, d) columns.
        labels: (n,)
        y_labels: (m,)
        offset: see there.
        static: whether no shape may depend on the data; None: on any device but the CPU.
        easy: see there.

    Returns:
        See there.
    """
    if static is None and x.device.type == "cpu" and len(x) * len(y) <= WHOLE:
        clear = clear_extremes(x, y, labels, y_labels, offset, easy)
        if clear is not None:
            return clear
    static = x.device.type != "cpu" if static is None else static
    grouped = group(x, labels, y, y_labels, offset)
    slabs = Slabs(grouped.x, grouped.y)
    if grouped.x is grouped.y and not static and len(x) > mutual.FEW:
        positive, negative = mutual.hardest_among(grouped, slabs, easy)
    else:
        most = few(grouped, static)
        positive, negative = torch.empty_like(labels), torch.empty_like(labels)
        for rows, slab in slabs.blocks():
            same = listed(grouped, rows, most)
            positive[rows] = extreme_positive(grouped, slabs, rows, slab, same, static, easy)
            drop_same(grouped, rows, slab, same, static)
            negative[rows] = nearest(grouped, slabs, rows, slab, static)
    positive = repair(grouped, positive, grouped.positive_count() > 0)
    negative = repair(grouped, negative, grouped.negative_count() > 0)
    found = torch.empty_like(positive), torch.empty_like(negative)
    found[0][grouped.rows], found[1][grouped.rows] = positive, negative
    return found


def streaming_beyond(
    x: Tensor,
    y: Tensor,
    labels: Tensor,
    y_labels: Tensor,
    offset: int | None,
    width: int | None,
    static: bool | None = None,
    easy: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Blocks of rows: :func:`beyond` without the matrix, or with a small one; see above."""
    held = static is None and x.device.type == "cpu" and len(x) * len(y) <= WHOLE
    if held and width is None and not easy:
        clear = clear_beyond(x, y, labels, y_labels, offset)
        if clear is not None:
            return clear
    static = x.device.type != "cpu" if static is None else static
    grouped = group(x, labels, y, y_labels, offset)
    slabs = Slabs(grouped.x, grouped.y)
    limit = few(grouped, static)
    most = 1 if easy else width
    if most is None:
        most = int(grouped.positive_count().max())
    none = labels.new_empty(0)
    found = [(none, none, none, none.bool())]
    for rows, slab in slabs.blocks():
        slab.clamp_(min=0)
        same = listed(grouped, rows, limit)
        if easy:
            columns = _nearest_positive(grouped, slabs, rows, slab, same, static)
        else:
            columns = grouped.positives(rows, most)
        drop_same(grouped, rows, slab, same, static)
        row = torch.arange(len(slab), device=x.device).repeat_interleave(most)
        column = columns.flatten()
        if width is None and not easy:
            there = column < len(y)
            row, column = row[there], column[there]
        negative = _beyond_each(grouped, slabs, rows, slab, row, column, static)
        there, farther = column < len(y), negative >= 0
        if static or not (farther | ~there).all():
            keys = torch.where(slab < torch.inf, -slab, torch.inf)
            fallback = farthest(grouped, slabs, rows, keys, 0, static)
            negative = torch.where(farther, negative, fallback[row])
        row += rows.start
        sought = there & (grouped.negative_count() > 0)[row]
        farther = there & (farther | (sought & (negative < 0)))
        negative = torch.where(sought, repair(grouped, negative, sought), -1)
        column = torch.where(there, grouped.columns[column.clamp(max=len(y) - 1)], -1)
        found.append((grouped.rows[row], column, negative, farther))
    row, positive, negative, farther = (torch.cat(parts) for parts in zip(*found, strict=True))
    row, order = row.sort(stable=True)
    return row, positive[order], negative[order], farther[order]


def _nearest_positive(
    grouped: Grouped, slabs: Slabs, rows: slice, slab: Tensor, same: Tensor | None, static: bool
) -> Tensor:
    """Find each row's nearest positive in label order, past the last for none."""
    places = torch.empty_like(grouped.columns)
    places[grouped.columns] = torch.arange(len(places), device=places.device)
    positive = extreme_positive(grouped, slabs, rows, slab, same, static, easy=True)
    positive = repair(grouped, positive, grouped.positive_count()[rows] > 0)
    return torch.where(positive < 0, len(places), places[positive.clamp(min=0)])


def _beyond_each(
    grouped: Grouped,
    slabs: Slabs,
    rows: slice,
    slab: Tensor,
    row: Tensor,
    column: Tensor,
    static: bool,
) -> Tensor:
    """Find for each (row of the block, positive column) the nearest entry farther away."""
    negative, x = torch.empty_like(row), grouped.x[rows]
    thresholds = squares(grouped, x, row, column.clamp(max=len(grouped.y) - 1))
    step = max(_LEAST_LINES, (SLAB if static else _LINES) // slab.shape[1])
    whole = torch.int32 if slab.dtype == torch.float32 else torch.int64
    memory = slab.new_empty(min(step, len(row)), slab.shape[1])
    scratch = torch.empty_like(memory, dtype=whole)
    for first in range(0, len(row), step):
        of, threshold = row[first : first + step], thresholds[first : first + step]
        x_square = slabs.x_square[rows].index_select(0, of)
        keys, out = memory[: len(of)], scratch[: len(of)]
        torch.index_select(slab, 0, of, out=keys)
        surely = least_from(keys, threshold, out, above=True).amin(1)
        floor = 2 * threshold - slabs.ceiling(x_square, threshold)
        lowest = least_from(keys, floor, out)
        near = entries(keys, lowest, slabs.ceiling(x_square, surely), static, floor)
        key = None if static else keys[near]
        negative[first : first + step] = settle_above(grouped, x, of, threshold, *near, key)
    return negative
