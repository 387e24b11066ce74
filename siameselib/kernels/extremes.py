"""Extremes of the rows of a distance matrix: the indices that triplet miners look for.

- :func:`hardest`: each row's farthest positive and nearest negative;
- :func:`beyond`: for each row and each of its positives, the nearest negative farther away.

Both backends decide by the same arithmetic, the direct difference :func:`blocks.squared`, and
break ties by the lowest index, so they return equal indices in every dtype. ``reference`` takes
every difference, in O(n m d) memory. ``streaming`` sweeps slabs of lower bounds and takes the
differences of the few entries among which rounding could hide the extreme, in O((n + m) d)
memory. Off the CPU, where counting those entries would wait for the device, it takes the eight
best of each row.
"""

import torch
from torch import Tensor

from siameselib.kernels import choose
from siameselib.kernels.blocks import LANE, Grouped, Slabs, group, in_range, squared

_LISTED = 64  # positives a row up to which they are listed, not looked for in the slabs
_KEPT = 8  # best entries a row where their number must not depend on the data
_DIFFERENCES = 1 << 20  # entries in one batch of direct differences


def hardest(
    x: Tensor,
    labels: Tensor,
    y: Tensor,
    y_labels: Tensor,
    offset: int | None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Find each row's farthest positive and nearest negative among the columns.

    Args:
        x: (n, d) rows.
        labels: (n,) their identities.
        y: (m, d) columns.
        y_labels: (m,) their identities.
        offset: row i is column offset + i, so no positive of itself; None if no row is a column.
        backend: see :func:`siameselib.use_backend`.

    Returns:
        Two (n,) vectors of columns, -1 where there is none.
    """
    backend = choose("hardest", len(x), len(y), x.shape[1], backend)
    ids, y_ids = labels.long(), y_labels.long()
    positive, negative = _hardest(x.detach(), ids, y.detach(), y_ids, offset, backend)
    return positive, negative


def beyond(
    x: Tensor,
    labels: Tensor,
    y: Tensor,
    y_labels: Tensor,
    offset: int | None,
    width: int | None = None,
    backend: str = "auto",
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

    Returns:
        Vectors of one entry per (row, positive): row, positive, negative (-1 where there is
        none), and whether the negative is farther than the positive; if none is, the negative is
        the farthest one.
    """
    backend = choose("beyond", len(x), len(y), x.shape[1], backend)
    ids, y_ids = labels.long(), y_labels.long()
    row, positive, negative, farther = _beyond(
        x.detach(), ids, y.detach(), y_ids, offset, width, backend
    )
    return row, positive, negative, farther


@torch.library.custom_op("siameselib::hardest", mutates_args=())
def _hardest(
    x: Tensor, labels: Tensor, y: Tensor, y_labels: Tensor, offset: int | None, backend: str
) -> tuple[Tensor, Tensor]:
    with torch.autocast(x.device.type, enabled=False):
        if x.numel() == 0 or y.numel() == 0:
            return torch.full_like(labels, -1), torch.full_like(labels, -1)
        run = reference_hardest if backend == "reference" else streaming_hardest
        return run(*in_range(x, y), labels, y_labels, offset)


@_hardest.register_fake
def _(
    x: Tensor, labels: Tensor, y: Tensor, y_labels: Tensor, offset: int | None, backend: str
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(labels), torch.empty_like(labels)


@torch.library.custom_op("siameselib::beyond", mutates_args=())
def _beyond(
    x: Tensor,
    labels: Tensor,
    y: Tensor,
    y_labels: Tensor,
    offset: int | None,
    width: int | None,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n = len(x)
    with torch.autocast(x.device.type, enabled=False):
        if x.numel() == 0 or y.numel() == 0:
            positive = labels.new_full((n, width or 0), -1)
            negative, farther = torch.full_like(positive, -1), positive >= 0
        else:
            run = reference_beyond if backend == "reference" else streaming_beyond
            positive, negative, farther = run(*in_range(x, y), labels, y_labels, offset, width)
    row = torch.arange(n, device=labels.device)[:, None].expand_as(positive)
    found = (row, positive, negative, farther)
    if width is None:
        there = positive >= 0
        row, positive, negative, farther = (each[there] for each in found)
    else:
        row, positive, negative, farther = (each.flatten().clone() for each in found)
    return row, positive, negative, farther


@_beyond.register_fake
def _(
    x: Tensor,
    labels: Tensor,
    y: Tensor,
    y_labels: Tensor,
    offset: int | None,
    width: int | None,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    pairs = torch.library.get_ctx().new_dynamic_size() if width is None else len(x) * width
    row, positive, negative = (labels.new_empty(pairs) for _ in range(3))
    return row, positive, negative, labels.new_empty(pairs, dtype=torch.bool)


def reference_hardest(
    x: Tensor, y: Tensor, labels: Tensor, y_labels: Tensor, offset: int | None
) -> tuple[Tensor, Tensor]:
    """Dense: :func:`hardest` as it is defined."""
    distance = squared(x[:, None], y)
    same, other = _positives(labels, y_labels, offset)
    farthest = torch.where(same, distance, -torch.inf).argmax(1)
    nearest = torch.where(other, distance, torch.inf).argmin(1)
    return torch.where(same.any(1), farthest, -1), torch.where(other.any(1), nearest, -1)


def reference_beyond(
    x: Tensor,
    y: Tensor,
    labels: Tensor,
    y_labels: Tensor,
    offset: int | None,
    width: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Dense: :func:`beyond` as it is defined, as (n, width) tables."""
    m = len(y)
    distance = squared(x[:, None], y)
    same, other = _positives(labels, y_labels, offset)
    width = int(same.sum(1).max()) if width is None else width
    columns = torch.arange(m, device=x.device)
    positive = torch.where(same, columns, m).sort(1).values[:, :width]
    positive = torch.nn.functional.pad(positive, (0, width - positive.shape[1]), value=m)
    negative, farther = torch.empty_like(positive), positive > m
    farthest = torch.where(other, distance, -torch.inf).argmax(1)
    for k in range(width):
        threshold = distance.gather(1, positive[:, k : k + 1].clamp(max=m - 1))
        beyond = other & ~(distance <= threshold)  # NaN is found, not passed over
        nearest = torch.where(beyond, distance, torch.inf).argmin(1)
        farther[:, k] = beyond.any(1)
        negative[:, k] = torch.where(farther[:, k], nearest, farthest)
    there = positive < m
    return (
        torch.where(there, positive, -1),
        torch.where(there & other.any(1, keepdim=True), negative, -1),
        farther & there,
    )


def _positives(labels: Tensor, y_labels: Tensor, offset: int | None) -> tuple[Tensor, Tensor]:
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
) -> tuple[Tensor, Tensor]:
    """Blocks of rows: :func:`hardest` without the matrix.

    Args:
        x: (n, d) rows.
        y: (m, d) columns.
        labels: (n,)
        y_labels: (m,)
        offset: see there.
        static: whether no shape may depend on the data; None: on any device but the CPU.

    Returns:
        See there.
    """
    static = x.device.type != "cpu" if static is None else static
    grouped = group(x, labels, y, y_labels, offset)
    slabs = Slabs(grouped.x, grouped.y)
    listed = None if static else _listed(grouped)
    positive, negative = torch.full_like(labels, -1), torch.full_like(labels, -1)
    if listed is not None:
        positive = _farthest_listed(grouped, listed)
    for rows, slab in slabs.blocks():
        if listed is None:
            positive[rows] = _farthest_positive(grouped, slabs, rows, slab, static)
        _drop_same(grouped, rows, slab, listed, static)
        lowest = _lanes(slab)
        entries = _entries(slab, lowest, slabs.ceiling(rows, lowest.amin(1)), static)
        negative[rows] = _settle(grouped, rows, *entries)
    positive = _repair(grouped, positive, grouped.positive_count() > 0)
    negative = _repair(grouped, negative, grouped.negative_count() > 0)
    return _unsorted(grouped, positive), _unsorted(grouped, negative)


def streaming_beyond(
    x: Tensor,
    y: Tensor,
    labels: Tensor,
    y_labels: Tensor,
    offset: int | None,
    width: int | None,
    static: bool | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Blocks of rows: :func:`beyond` without the matrix, as (n, width) tables."""
    static = x.device.type != "cpu" if static is None else static
    grouped = group(x, labels, y, y_labels, offset)
    slabs = Slabs(grouped.x, grouped.y)
    listed = None if static else _listed(grouped)
    m = len(y)
    width = int(grouped.positive_count().max()) if width is None else width
    positive = grouped.positives(slice(0, len(x)), width)
    there = positive < m
    negative, farther = torch.full_like(positive, -1), torch.empty_like(there)
    for rows, slab in slabs.blocks():
        _drop_same(grouped, rows, slab.clamp_(min=0), listed, static)
        for k, column in enumerate(positive[rows].unbind(1)):
            threshold = squared(grouped.x[rows], grouped.y[column.clamp(max=m - 1)])
            surely = slabs.lanes_from(slab, threshold, above=True).amin(1)
            floor = 2 * threshold - slabs.ceiling(rows, threshold)
            lowest = slabs.lanes_from(slab, floor)
            entries = _entries(slab, lowest, slabs.ceiling(rows, surely), static, floor)
            negative[rows, k] = _settle(grouped, rows, *entries, above=threshold)
        farther[rows] = negative[rows] >= 0
        if static or not farther[rows].logical_or(~there[rows]).all():
            keys = torch.where(slab < torch.inf, -slab, torch.inf)
            farthest = _farthest(grouped, slabs, rows, keys, 0, static)[:, None]
            negative[rows] = torch.where(farther[rows], negative[rows], farthest)
    sought = there & (grouped.negative_count() > 0)[:, None]
    farther = there & (farther | (sought & (negative < 0)))
    negative = torch.where(sought, _repair(grouped, negative, sought), -1)
    positive = torch.where(there, grouped.columns[positive.clamp(max=m - 1)], -1)
    tables = (positive, negative, farther)
    positive, negative, farther = (_unsorted(grouped, table) for table in tables)
    return positive, negative, farther


def _listed(grouped: Grouped) -> int | None:
    """Return the most positives of a row if they are few enough to be listed."""
    most = int(grouped.positive_count().max())
    return most if most <= _LISTED else None


def _farthest_listed(grouped: Grouped, width: int) -> Tensor:
    """Find each row's farthest positive among at most ``width``: differences only."""
    m = len(grouped.y)
    farthest = torch.full_like(grouped.rows, -1)
    step = max(1, _DIFFERENCES // max(1, width * grouped.x.shape[1]))
    for first in range(0, len(farthest) if width else 0, step):
        rows = slice(first, first + step)
        columns = grouped.positives(rows, width)
        distance = squared(grouped.x[rows, None], grouped.y[columns.clamp(max=m - 1)])
        distance = torch.where(columns < m, distance, -torch.inf)
        column = columns.gather(1, distance.argmax(1, keepdim=True)).squeeze(1)
        farthest[rows] = torch.where(column < m, grouped.columns[column.clamp(max=m - 1)], -1)
    return farthest


def _farthest_positive(
    grouped: Grouped, slabs: Slabs, rows: slice, slab: Tensor, static: bool
) -> Tensor:
    """Find the farthest positive of a block of rows in its slab."""
    first, last = _band(grouped, rows, slab, static)
    columns = torch.arange(first, last, device=slab.device)
    positive = grouped.same(rows, first, last) & (columns != grouped.own[rows, None])
    keys = torch.where(positive, -slab[:, first:last], torch.inf)
    return _farthest(grouped, slabs, rows, keys, first, static)


def _farthest(
    grouped: Grouped, slabs: Slabs, rows: slice, keys: Tensor, first: int, static: bool
) -> Tensor:
    """Find the farthest column; keys are lower bounds negated, of the columns from ``first``."""
    lowest = _lanes(keys)
    best = -lowest.amin(1)
    floor = 2 * best - slabs.ceiling(rows, best)
    row, column = _entries(keys, lowest, -floor, static)
    return _settle(grouped, rows, row, column + first, farthest=True)


def _band(grouped: Grouped, rows: slice, slab: Tensor, static: bool) -> tuple[int, int]:
    """Return the range of whole lanes outside which no column shares a label with these rows."""
    if static:
        return 0, slab.shape[1]
    first = int(grouped.start[rows][0]) // LANE * LANE
    return first, max(first + LANE, -int(-grouped.end[rows][-1] // LANE) * LANE)


def _drop_same(
    grouped: Grouped, rows: slice, slab: Tensor, listed: int | None, static: bool
) -> None:
    """Make the entries that share the row's label infinite."""
    if listed is not None:
        slab.scatter_(1, grouped.positives(rows, listed), torch.inf)
        slab.scatter_(1, grouped.own[rows, None], torch.inf)
        return
    first, last = _band(grouped, rows, slab, static)
    same = grouped.same(rows, first, last)
    slab[:, first:last] = torch.where(same, torch.inf, slab[:, first:last])


def _lanes(keys: Tensor) -> Tensor:
    return keys.view(len(keys), -1, LANE).amin(-1)


def _entries(
    keys: Tensor, lowest: Tensor, bound: Tensor, static: bool, floor: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """List the (row, column) of the finite keys from floor to bound.

    Args:
        keys: (rows, columns) whole lanes.
        lowest: (rows, lanes) the least key in each lane that is not below the floor.
        bound: (rows,)
        static: list the eight least of each row, with a column past the last for those outside.
        floor: (rows,)

    Returns:
        Two vectors of one entry per key listed.
    """
    bound = bound.clamp(max=torch.finfo(keys.dtype).max)
    lanes = keys.view(*lowest.shape, LANE)
    if not static:
        row, lane = (lowest <= bound[:, None]).nonzero(as_tuple=True)
        keys = lanes[row, lane]
        inside = keys <= bound[row, None]
        if floor is not None:
            inside &= keys >= floor[row, None]
        hit, column = inside.nonzero(as_tuple=True)
        return row[hit], lane[hit] * LANE + column
    lane = lowest.topk(min(_KEPT, lowest.shape[1]), largest=False, sorted=False).indices
    kept = lanes.gather(1, lane[..., None].expand(-1, -1, LANE)).flatten(1)
    if floor is not None:
        kept = torch.where(kept >= floor[:, None], kept, torch.inf)
    least = kept.topk(_KEPT, largest=False, sorted=False)
    column = lane.gather(1, least.indices // LANE) * LANE + least.indices % LANE
    column = torch.where(least.values <= bound[:, None], column, keys.shape[1])
    row = torch.arange(len(keys), device=keys.device).repeat_interleave(_KEPT)
    return row, column.flatten()


def _settle(
    grouped: Grouped,
    rows: slice,
    row: Tensor,
    column: Tensor,
    above: Tensor | None = None,
    farthest: bool = False,
) -> Tensor:
    """Find each row's nearest (farthest) of the listed columns, by direct difference.

    Args:
        grouped: rows and columns.
        rows: the rows of the block.
        row: (k,) which row of the block,
        column: (k,) and which column; none if past the last.
        above: (rows,) squared distance that the column must exceed.
        farthest: whether to look for the farthest.

    Returns:
        (rows,) the original index of the column, the lowest one of equals; -1 if none is listed.
    """
    m, count = len(grouped.y), len(grouped.rows[rows])
    inside, column = column < m, column.clamp(max=m - 1)
    x, step = grouped.x[rows], max(1, _DIFFERENCES // grouped.x.shape[1])
    value = x.new_empty(len(row))
    for first in range(0, len(row), step):
        some = slice(first, first + step)
        value[some] = squared(x[row[some]], grouped.y[column[some]])
    if above is not None:
        inside &= ~(value <= above[row])
    value = torch.where(inside, -value if farthest else value, torch.inf)
    best = x.new_full((count,), torch.inf).scatter_reduce(0, row, value, "amin")
    original = torch.where(inside & (value == best[row]), grouped.columns[column], m)
    lowest = row.new_full((count,), m).scatter_reduce(0, row, original, "amin")
    return torch.where(lowest < m, lowest, -1)


def _repair(grouped: Grouped, index: Tensor, sought: Tensor) -> Tensor:
    """Give rows that found nothing, because NaN hid it, a column that shows the NaN."""
    broken = torch.where(grouped.y.isfinite().all(1), len(grouped.y), grouped.columns).amin()
    broken = torch.where(broken < len(grouped.y), broken, 0)
    return torch.where(sought & (index < 0), broken, index)


def _unsorted(grouped: Grouped, table: Tensor) -> Tensor:
    result = torch.empty_like(table)
    result[grouped.rows] = table
    return result
