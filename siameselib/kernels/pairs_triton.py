"""The sweep over all pairs of a batch: terms of their distances, and the gradient at once.

:func:`far` takes the tiles of pure negatives, products on the tensor cores. A tile with a pair so
close that its distance would not be accurate is left alone and put on a list. :func:`near` takes
those, and the tiles where identities meet, by direct difference in float32; or the positives.

Each program leaves for each of its rows six sums over the columns: the weights of the gradient,
the values, how many of them are above zero, the distances, the slopes in z and these times the
distance. z is the distance, or for the logistic terms the logit. The numbers are those of the
terms, and last what to multiply distances by.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator,misc"

import triton
import triton.language as tl

from siameselib.kernels.factors_triton import add_pull, multiplied, opened
from siameselib.kernels.sums_triton import counts, near_columns
from siameselib.kernels.terms_triton import apart, softplus
from siameselib.kernels.tiles_triton import pure

CLOSE = tl.constexpr(0.05)  # squared distance over squared norm from which products are accurate


@triton.jit
def _term(square, numbers, METRIC: tl.constexpr, TERM: tl.constexpr):
    """The distance, the value, its slope in z, and in the distance over (x - y)."""
    a, b, per_unit = tl.load(numbers), tl.load(numbers + 1), tl.load(numbers + 2)
    d, turn = apart(square, METRIC)
    d *= per_unit
    if TERM == "same" or TERM == "different":
        z = a * (1.0 - d) + b
        if TERM == "same":
            z = -z
        value, slope = softplus(z)
        if TERM == "same":
            slope = -slope
        pull = (-a * turn) * slope
    else:
        if TERM == "above" or TERM == "above squared":
            beyond, sign = tl.maximum(d - a, 0.0), 1.0
        else:
            tl.static_assert(TERM == "below" or TERM == "below squared")
            beyond, sign = tl.maximum(b - d, 0.0), -1.0
        if TERM == "above squared" or TERM == "below squared":
            value, slope = beyond * beyond, 2.0 * sign * beyond
        else:
            value, slope = beyond, tl.where(beyond > 0, sign, 0.0)
        pull = slope * turn
    return d, value, slope, pull


@triton.jit
def squares(s, length, added, METRIC: tl.constexpr):
    """Squared distances from dot products, and whether a distance can be had from each."""
    square = length[:, None] + added[None, :] - 2.0 * s
    if METRIC == "euclidean":
        accurate = tl.min(square - CLOSE * length[:, None]) > 0
    else:
        square = tl.maximum(square, 0.0)
        accurate = True
    return square, accurate


@triton.jit
def differences(a, lift, y, columns, m, d: tl.constexpr, DIMS: tl.constexpr):
    """What rows differ from columns by, and the squares of that, raised by the lift."""
    dims = tl.arange(0, DIMS)
    inside = (columns < m)[:, None] & (dims < d)[None, :]
    b = tl.load(y + columns[:, None] * d + dims[None, :], inside, 0.0)
    difference = a[:, None, :] - b[None, :, :]
    return difference, tl.sum(difference * difference, 2) + lift


@triton.jit
def _often(pull, row, column, ROLES: tl.constexpr):
    """Count pairs as often as their row, column or both do; once where there are no ROLES."""
    if ROLES == 3:
        pull *= row[:, None] + column[None, :]
    elif ROLES == 2:
        pull *= column[None, :]
    elif ROLES == 1:
        pull *= row[:, None]
    return pull


@triton.jit
def far(
    x,
    y,
    row_states,
    column_states,
    start,
    end,
    numbers,
    out,
    sums,
    listed,
    count,
    n,
    m,
    last_row,
    last_column,
    HEIGHT: tl.constexpr,
    BREADTH: tl.constexpr,
    WIDTH: tl.constexpr,
    CHUNK: tl.constexpr,
    OUT: tl.constexpr,
    PARTS: tl.constexpr,
    UPCAST: tl.constexpr,
    PRECISION: tl.constexpr,
    CUTS: tl.constexpr,
    ROLES: tl.constexpr,
    METRIC: tl.constexpr,
    TERM: tl.constexpr,
    LEARNT: tl.constexpr,
    GRADIENT: tl.constexpr,
):
    """Take the far tiles; states: the squared length, and how often pairs count."""
    row_tile, rows, kept, first, last, low, high = opened(
        x, start, end, n, m, HEIGHT, BREADTH, WIDTH, CHUNK, PARTS, UPCAST, CUTS
    )
    cut, first_out = tl.program_id(1), tl.program_id(2) * OUT
    length, often = tl.load(row_states + rows), tl.load(row_states + n + rows)
    length = tl.where(rows < last_row, length, 1.0)
    total = tl.zeros((HEIGHT, OUT), tl.float32)
    weights = tl.zeros((HEIGHT,), tl.float32)
    values, active, distances = weights, weights, weights
    slopes, moments = weights, weights
    place = row_tile * CUTS + cut
    line = listed + place * tl.cdiv(m // BREADTH, CUTS)
    skipped = 0
    for k in range(last - first - (high - low)):
        tile = pure(k, first, low, high)
        columns = tile * BREADTH + tl.arange(0, BREADTH)
        added = tl.load(column_states + columns)
        times = tl.load(column_states + m + columns)
        s, b = multiplied(
            x, y, kept, row_tile, tile, n, m,
            HEIGHT, BREADTH, WIDTH, CHUNK, PARTS, UPCAST, PRECISION,
        )  # fmt: skip
        square, accurate = squares(s, length, added, METRIC)
        if accurate:
            d, value, slope, pull = _term(square, numbers, METRIC, TERM)
            values += tl.sum(value, 1)
            active += tl.sum((value > 0).to(tl.float32), 1)
            d = tl.where((columns < last_column)[None, :], d, 0.0)
            distances += tl.sum(d, 1)
            if LEARNT:
                slopes += tl.sum(slope, 1)
                moments += tl.sum(slope * d, 1)
            if GRADIENT:
                weight = _often(pull, often, times, ROLES)
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
    sums += cut * 6 * n + rows
    tl.store(sums, weights)
    tl.store(sums + n, values)
    tl.store(sums + 2 * n, active)
    tl.store(sums + 3 * n, distances)
    tl.store(sums + 4 * n, slopes)
    tl.store(sums + 5 * n, moments)


@triton.jit
def _taken(
    taken,
    a,
    row,
    rows,
    y,
    column_states,
    start,
    end,
    own,
    numbers,
    low,
    high,
    n,
    m,
    breadth,
    d: tl.constexpr,
    DIMS: tl.constexpr,
    STEP: tl.constexpr,
    ROLES: tl.constexpr,
    METRIC: tl.constexpr,
    TERM: tl.constexpr,
    POSITIVES: tl.constexpr,
):
    """Add to the gradient and the six sums the columns from low to high."""
    total, weights, values, active, distances, slopes, moments = taken
    for k in range(low, high, STEP):
        columns = k + tl.arange(0, STEP)
        at = tl.minimum(columns, m - 1)
        lift = row[2][:, None] + tl.load(column_states + 2 * breadth + at)[None, :]
        difference, square = differences(a, lift, y, columns, m, d, DIMS)
        counted = counts(rows, columns, start, end, own, n, high, POSITIVES)
        distance, value, slope, pull = _term(square, numbers, METRIC, TERM)
        times = tl.load(column_states + breadth + at)
        weight = tl.where(counted, _often(pull, row[1], times, ROLES), 0.0)
        total += tl.sum(weight[:, :, None] * difference, 1)
        weights += tl.sum(weight, 1)
        values += tl.sum(tl.where(counted, value, 0.0), 1)
        active += tl.sum((counted & (value > 0)).to(tl.float32), 1)
        distances += tl.sum(tl.where(counted, distance, 0.0), 1)
        slopes += tl.sum(tl.where(counted, slope, 0.0), 1)
        moments += tl.sum(tl.where(counted, slope * distance, 0.0), 1)
    return total, weights, values, active, distances, slopes, moments


@triton.jit
def near(
    x,
    y,
    row_states,
    column_states,
    start,
    end,
    own,
    numbers,
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
    ROLES: tl.constexpr,
    METRIC: tl.constexpr,
    TERM: tl.constexpr,
    POSITIVES: tl.constexpr,
):
    """Take the near tiles and those on the list, or the positives; a third state: the lift."""
    first = tl.program_id(0) * ROWS
    rows = first + tl.arange(0, ROWS)
    dims = tl.arange(0, DIMS)
    there = (rows < n)[:, None] & (dims < d)[None, :]
    a = tl.load(x + rows[:, None] * d + dims[None, :], there, 0.0)
    row = (
        tl.load(row_states + rows),
        tl.load(row_states + height + rows),
        tl.load(row_states + 2 * height + rows),
    )
    zero = tl.zeros((ROWS,), tl.float32)
    taken = (tl.zeros((ROWS, DIMS), tl.float32), zero, zero, zero, zero, zero, zero)
    low, high = near_columns(start, end, first, n, m, ROWS, HEIGHT, BREADTH, POSITIVES)
    taken = _taken(
        taken, a, row, rows, y, column_states, start, end, own, numbers, low, high, n, m, breadth,
        d, DIMS, STEP, ROLES, METRIC, TERM, POSITIVES,
    )  # fmt: skip
    if METRIC == "euclidean" and not POSITIVES:
        for cut in range(CUTS):
            place = first // HEIGHT * CUTS + cut
            line = listed + place * tl.cdiv(breadth // BREADTH, CUTS)
            for k in range(tl.load(count + place)):
                low = tl.load(line + k) * BREADTH
                high = tl.minimum(low + BREADTH, m)
                taken = _taken(
                    taken, a, row, rows, y, column_states, start, end, own, numbers,
                    low, high, n, m, breadth,
                    d, DIMS, STEP, ROLES, METRIC, TERM, POSITIVES,
                )  # fmt: skip
    tl.store(out + rows[:, None] * d + dims[None, :], taken[0], there)
    for k in tl.static_range(6):
        tl.store(sums + k * height + rows, taken[k + 1])
