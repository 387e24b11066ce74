"""The sweep over all triplets of a batch: each negative among the thresholds of its anchor.

:func:`far` takes the tiles of pure negatives, products on the tensor cores, and leaves those with
close pairs to :func:`near`, as the sweep over all pairs does. Each compares a tile with the
thresholds of its rows, see :mod:`siameselib.kernels.levels_triton`, one after the other: how many
are above a distance weighs the pair, how many distances are below one is added to the count of
that threshold. Columns may be anchors too: they weigh pairs likewise, and are counted where they
are rows. Who is no anchor has no thresholds.

A row leaves three sums over the columns: the weights of its gradient, the values, the distances.
The values of a hinge are counted from the row's highest threshold, to stay small.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator,misc"

import triton
import triton.language as tl

from siameselib.kernels.factors_triton import add_pull, multiplied, opened
from siameselib.kernels.levels_triton import LINE, NOTHING, anchors
from siameselib.kernels.pairs_triton import differences, squares
from siameselib.kernels.sums_triton import counts, near_columns
from siameselib.kernels.terms_triton import apart, hits
from siameselib.kernels.tiles_triton import pure


@triton.jit
def _compare(
    d, levels, lower, found, of, per_unit, counting, AXIS: tl.constexpr, KIND: tl.constexpr
):
    # How many thresholds of anchors are above each distance; for "soft", slopes and values. The
    # anchors are the rows (axis 1), which may be counted, or the columns (axis 0).
    weight, value = tl.zeros_like(d), tl.zeros_like(d)
    for k in range(of[3]):
        at = of[2] + k * LINE
        level = tl.expand_dims(tl.load(levels + at), AXIS)
        beneath = tl.expand_dims(tl.load(lower + at), AXIS)
        hit, more = hits(level, beneath, d, per_unit, KIND)
        if KIND == "soft" and AXIS == 1:
            value += more
        weight += hit
        if counting:
            tl.store(found + at, tl.load(found + at) + tl.sum(hit, 1))
    return weight, value


@triton.jit
def _weigh(d, row, column, levels, lower, found, numbers, counting, KIND: tl.constexpr):
    """The weights of the negatives of a tile, and the values of its rows."""
    per_unit = tl.load(numbers + 1)
    # What the last tile added to the counts may have been added by other threads.
    tl.debug_barrier()
    times, value = _compare(d, levels, lower, found, row, per_unit, counting, 1, KIND)
    if KIND != "soft":
        value = times * (row[1][:, None] - d)
    weight = row[0][:, None] * times
    times, _ = _compare(d, levels, lower, found, column, per_unit, False, 0, KIND)
    return weight + column[0][None, :] * times, tl.sum(value, 1)


@triton.jit
def _reached(d, row, column, KIND: tl.constexpr):
    """Whether any distance may be below a threshold; NaN is, and for "soft" all are."""
    if KIND == "soft":
        return True
    top = tl.maximum(tl.max(row[1]), tl.max(column[1]))
    return (tl.min(d) >= top) == 0


@triton.jit
def far(
    x,
    y,
    row_states,
    column_states,
    row_lists,
    column_lists,
    start,
    end,
    levels,
    lower,
    numbers,
    found,
    out,
    sums,
    listed,
    count,
    n,
    m,
    last_row,
    last_column,
    room,
    HEIGHT: tl.constexpr,
    BREADTH: tl.constexpr,
    WIDTH: tl.constexpr,
    CHUNK: tl.constexpr,
    OUT: tl.constexpr,
    PARTS: tl.constexpr,
    UPCAST: tl.constexpr,
    PRECISION: tl.constexpr,
    CUTS: tl.constexpr,
    METRIC: tl.constexpr,
    KIND: tl.constexpr,
    GRADIENT: tl.constexpr,
):
    """Take the far tiles; states: squared length, weight of the anchor, lift, highest threshold."""
    row_tile, rows, kept, first, last, low, high = opened(
        x, start, end, n, m, HEIGHT, BREADTH, WIDTH, CHUNK, PARTS, UPCAST, CUTS
    )
    cut, first_out = tl.program_id(1), tl.program_id(2) * OUT
    length = tl.load(row_states + rows)
    length = tl.where(rows < last_row, length, 1.0)
    row = anchors(row_states, row_lists, row_tile * HEIGHT, rows, n)
    found += cut * room
    total = tl.zeros((HEIGHT, OUT), tl.float32)
    weights = tl.zeros((HEIGHT,), tl.float32)
    values, distances = weights, weights
    place = row_tile * CUTS + cut
    line = listed + place * tl.cdiv(m // BREADTH, CUTS)
    skipped = 0
    for k in range(last - first - (high - low)):
        tile = pure(k, first, low, high)
        columns = tile * BREADTH + tl.arange(0, BREADTH)
        added = tl.load(column_states + columns)
        column = anchors(column_states, column_lists, tile * BREADTH, columns, m)
        s, b = multiplied(
            x, y, kept, row_tile, tile, n, m,
            HEIGHT, BREADTH, WIDTH, CHUNK, PARTS, UPCAST, PRECISION,
        )  # fmt: skip
        square, accurate = squares(s, length, added, METRIC)
        if accurate:
            d, turn = apart(square, METRIC)
            distances += tl.sum(tl.where((columns < last_column)[None, :], d, 0.0), 1)
            if _reached(d, row, column, KIND):
                weight, value = _weigh(
                    d, row, column, levels, lower, found, numbers, first_out == 0, KIND
                )
                values += value
                if GRADIENT:
                    weight *= turn
                    weights += tl.sum(weight, 1)
                    total = add_pull(
                        weight, b, total, y, tile, first_out, m,
                        BREADTH, WIDTH, CHUNK, OUT, PARTS, UPCAST, PRECISION,
                    )  # fmt: skip
        else:
            tl.store(line + skipped, tile)
            skipped += 1
    if GRADIENT:
        at = (cut * n + rows)[:, None] * WIDTH + first_out + tl.arange(0, OUT)[None, :]
        tl.store(out + at, total)
    tl.store(count + place, skipped)
    sums += cut * 3 * n + rows
    tl.store(sums, weights)
    tl.store(sums + n, values)
    tl.store(sums + 2 * n, distances)


@triton.jit
def _taken(
    taken,
    a,
    lift,
    row,
    rows,
    y,
    column_states,
    column_lists,
    start,
    end,
    own,
    levels,
    lower,
    numbers,
    found,
    low,
    high,
    n,
    m,
    breadth,
    d: tl.constexpr,
    DIMS: tl.constexpr,
    STEP: tl.constexpr,
    METRIC: tl.constexpr,
    KIND: tl.constexpr,
):
    """Add to the gradient and the three sums the columns from low to high."""
    total, weights, values, distances = taken
    for k in range(low, high, STEP):
        columns = k + tl.arange(0, STEP)
        column = anchors(column_states, column_lists, k, columns, breadth)
        raised = lift[:, None] + tl.load(column_states + 2 * breadth + columns)[None, :]
        difference, square = differences(a, raised, y, columns, m, d, DIMS)
        counted = counts(rows, columns, start, end, own, n, high, False)
        far_off, turn = apart(square, METRIC)
        distances += tl.sum(tl.where(counted, far_off, 0.0), 1)
        far_off = tl.where(counted, far_off, -NOTHING)
        if _reached(far_off, row, column, KIND):
            weight, value = _weigh(far_off, row, column, levels, lower, found, numbers, True, KIND)
            values += value
            weight *= turn
            weights += tl.sum(weight, 1)
            total += tl.sum(weight[:, :, None] * difference, 1)
    return total, weights, values, distances


@triton.jit
def near(
    x,
    y,
    row_states,
    column_states,
    row_lists,
    column_lists,
    start,
    end,
    own,
    levels,
    lower,
    numbers,
    found,
    out,
    sums,
    listed,
    count,
    n,
    m,
    height,
    breadth,
    d: tl.constexpr,
    DIMS: tl.constexpr,
    ROWS: tl.constexpr,
    STEP: tl.constexpr,
    HEIGHT: tl.constexpr,
    BREADTH: tl.constexpr,
    CUTS: tl.constexpr,
    METRIC: tl.constexpr,
    KIND: tl.constexpr,
):
    """Take the near tiles and those on the list."""
    first = tl.program_id(0) * ROWS
    rows = first + tl.arange(0, ROWS)
    dims = tl.arange(0, DIMS)
    there = (rows < n)[:, None] & (dims < d)[None, :]
    a = tl.load(x + rows[:, None] * d + dims[None, :], there, 0.0)
    lift = tl.load(row_states + 2 * height + rows)
    row = anchors(row_states, row_lists, first, rows, height)
    zero = tl.zeros((ROWS,), tl.float32)
    taken = (tl.zeros((ROWS, DIMS), tl.float32), zero, zero, zero)
    low, high = near_columns(start, end, first, n, m, ROWS, HEIGHT, BREADTH, False)
    taken = _taken(
        taken, a, lift, row, rows, y, column_states, column_lists, start, end, own,
        levels, lower, numbers, found, low, high, n, m, breadth,
        d, DIMS, STEP, METRIC, KIND,
    )  # fmt: skip
    if METRIC == "euclidean":
        for cut in range(CUTS):
            place = first // HEIGHT * CUTS + cut
            line = listed + place * tl.cdiv(breadth // BREADTH, CUTS)
            for k in range(tl.load(count + place)):
                low = tl.load(line + k) * BREADTH
                taken = _taken(
                    taken, a, lift, row, rows, y, column_states, column_lists, start, end, own,
                    levels, lower, numbers, found, low, tl.minimum(low + BREADTH, m), n, m, breadth,
                    d, DIMS, STEP, METRIC, KIND,
                )  # fmt: skip
    tl.store(out + rows[:, None] * d + dims[None, :], taken[0], there)
    for k in tl.static_range(3):
        tl.store(sums + k * height + rows, taken[k + 1])
