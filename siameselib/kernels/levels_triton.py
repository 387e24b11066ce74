"""The positives of a sweep over all triplets: how far they are, and their part of the gradient.

:func:`measure` lists the levels of each anchor: the distances of its positives and, with the
margin, the thresholds for its negatives. The lists of 128 anchors, a line, are as long as the
longest of them and lie side by side: first the first level of each. What is missing is -inf, below
every distance.

The window also asks whether a negative is farther than a positive. For equal vectors to have equal
distances, :func:`measure_far` lists them once more, as the products of far tiles make them.

Once the negatives below each threshold are counted, :func:`pull` takes the positives as often.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator,misc"

import triton
import triton.language as tl

from siameselib.kernels.factors_triton import multiplied, opened
from siameselib.kernels.pairs_triton import differences, squares
from siameselib.kernels.sums_triton import counts, near_columns
from siameselib.kernels.terms_triton import apart

NOTHING = tl.constexpr(-1e37)  # the highest threshold of a row that has none
LINE = tl.constexpr(128)  # anchors that are listed together


@triton.jit
def anchors(states, lists, first, at, size):
    """How much anchors of a line weigh, their highest threshold, their first level, how many."""
    often, top = tl.load(states + size + at), tl.load(states + 3 * size + at)
    line = first // LINE
    place = tl.load(lists + line) + (at - line * LINE)
    return often, top, place, tl.load(lists + size // LINE + line)


@triton.jit
def _slot(lists, start, own, at, size, other):
    """Where the lists of vectors have some of the other side; and whether, if it is a positive."""
    itself = tl.load(own + at)
    k = other - tl.load(start + at) - ((itself >= 0) & (other > itself)).to(tl.int32)
    line = at // LINE
    return tl.load(lists + line) + k * LINE + at % LINE, k < tl.load(lists + size // LINE + line)


@triton.jit
def measure(
    x,
    y,
    row_states,
    column_states,
    lists,
    start,
    end,
    own,
    numbers,
    levels,
    lower,
    top,
    n,
    m,
    height,
    breadth,
    d: tl.constexpr,
    DIMS: tl.constexpr,
    ROWS: tl.constexpr,
    STEP: tl.constexpr,
    METRIC: tl.constexpr,
):
    """List how far the positives of the rows are, with the margin and without; the highest."""
    first = tl.program_id(0) * ROWS
    rows, dims = first + tl.arange(0, ROWS), tl.arange(0, DIMS)
    there = (rows < n)[:, None] & (dims < d)[None, :]
    a = tl.load(x + rows[:, None] * d + dims[None, :], there, 0.0)
    lift = tl.load(row_states + 2 * height + rows)
    low, high = near_columns(start, end, first, n, m, ROWS, 1, 1, True)
    highest = tl.full((ROWS,), NOTHING, tl.float32)
    margin = tl.load(numbers)
    for k in range(low, high, STEP):
        columns = k + tl.arange(0, STEP)
        at = tl.minimum(columns, m - 1)
        raised = lift[:, None] + tl.load(column_states + 2 * breadth + at)[None, :]
        _difference, square = differences(a, raised, y, columns, m, d, DIMS)
        level, _turn = apart(square, METRIC)
        counted = counts(rows, columns, start, end, own, n, high, True)
        slot, listed = _slot(lists, start, own, rows[:, None], height, columns[None, :])
        tl.store(lower + slot, level, counted & listed)
        level += margin
        tl.store(levels + slot, level, counted & listed)
        highest = tl.maximum(highest, tl.max(tl.where(counted, level, NOTHING), 1))
    tl.store(top + rows, highest)


@triton.jit
def measure_far(
    x,
    y,
    row_states,
    column_states,
    lists,
    start,
    end,
    own,
    lower,
    n,
    m,
    last_row,
    HEIGHT: tl.constexpr,
    BREADTH: tl.constexpr,
    WIDTH: tl.constexpr,
    CHUNK: tl.constexpr,
    PARTS: tl.constexpr,
    UPCAST: tl.constexpr,
    PRECISION: tl.constexpr,
    METRIC: tl.constexpr,
):
    """List how far the positives are according to the products of far tiles."""
    row_tile, rows, kept, _first, _last, low, high = opened(
        x, start, end, n, m, HEIGHT, BREADTH, WIDTH, CHUNK, PARTS, UPCAST, 1
    )
    length = tl.load(row_states + rows)
    for tile in range(low, high):
        columns = tile * BREADTH + tl.arange(0, BREADTH)
        s, _b = multiplied(
            x, y, kept, row_tile, tile, n, m,
            HEIGHT, BREADTH, WIDTH, CHUNK, PARTS, UPCAST, PRECISION,
        )  # fmt: skip
        square, _accurate = squares(s, length, tl.load(column_states + columns), METRIC)
        level, _turn = apart(square, METRIC)
        counted = counts(rows, columns, start, end, own, last_row, m, True)
        slot, listed = _slot(lists, start, own, rows[:, None], n, columns[None, :])
        tl.store(lower + slot, level, counted & listed)


@triton.jit
def pull(
    x,
    y,
    row_states,
    column_states,
    row_lists,
    column_lists,
    start,
    end,
    own,
    column_start,
    column_own,
    numbers,
    found,
    out,
    values,
    active,
    n,
    m,
    height,
    breadth,
    d: tl.constexpr,
    DIMS: tl.constexpr,
    ROWS: tl.constexpr,
    STEP: tl.constexpr,
    METRIC: tl.constexpr,
):
    """Take the positives as often as was counted.

    The values are the rest of those of the rows, and the sums of the distances.
    """
    first = tl.program_id(0) * ROWS
    rows, dims = first + tl.arange(0, ROWS), tl.arange(0, DIMS)
    there = (rows < n)[:, None] & (dims < d)[None, :]
    a = tl.load(x + rows[:, None] * d + dims[None, :], there, 0.0)
    lift = tl.load(row_states + 2 * height + rows)
    often, top, _, _ = anchors(row_states, row_lists, first, rows, height)
    margin = tl.load(numbers)
    total = tl.zeros((ROWS, DIMS), tl.float32)
    value, apart_sum = tl.zeros((ROWS,), tl.float32), tl.zeros((ROWS,), tl.float32)
    count = tl.zeros((ROWS,), tl.float64)
    low, high = near_columns(start, end, first, n, m, ROWS, 1, 1, True)
    for k in range(low, high, STEP):
        columns = k + tl.arange(0, STEP)
        at = tl.minimum(columns, m - 1)
        raised = lift[:, None] + tl.load(column_states + 2 * breadth + at)[None, :]
        difference, square = differences(a, raised, y, columns, m, d, DIMS)
        level, turn = apart(square, METRIC)
        counted = counts(rows, columns, start, end, own, n, high, True)
        slot, listed = _slot(row_lists, start, own, rows[:, None], height, columns[None, :])
        mine = tl.load(found + slot, counted & listed, 0.0)
        value += tl.sum(mine * (level + margin - top[:, None]), 1)
        count += tl.sum(mine.to(tl.float64), 1)
        apart_sum += tl.sum(tl.where(counted, level, 0.0), 1)
        slot, listed = _slot(
            column_lists, column_start, column_own, at[None, :], breadth, rows[:, None]
        )
        theirs = tl.load(found + slot, counted & listed, 0.0)
        weight = often[:, None] * mine
        weight += tl.load(column_states + breadth + at)[None, :] * theirs
        total += tl.sum((weight * turn)[:, :, None] * difference, 1)
    tl.store(out + rows[:, None] * d + dims[None, :], total, there)
    tl.store(values + rows, value)
    tl.store(values + height + rows, apart_sum)
    tl.store(active + rows, count)
