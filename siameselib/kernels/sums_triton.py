"""The sweep that sums: of each row the log-sum-exp of a function of the similarities.

:func:`far` takes the tiles of pure negatives, :func:`near` the others. Both leave, for each of the
parts that the columns come in, the largest f of a row and the sum of 2^(f - largest).
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator,misc"

import triton
import triton.language as tl

from siameselib.kernels.factors_triton import multiplied, opened
from siameselib.kernels.terms_triton import LOG2E, score, softplus
from siameselib.kernels.tiles_triton import band, pure


@triton.jit
def _more(f, largest, total):
    # Take in more entries, to the base 2.
    after = tl.maximum(largest, tl.max(f, 1))
    shift = tl.where(after > float("-inf"), after, 0.0)
    total = total * tl.exp2(largest - shift) + tl.sum(tl.exp2(f - shift[:, None]), 1)
    return after, total


@triton.jit
def far(
    x,
    y,
    row_states,
    column_states,
    start,
    end,
    out,
    n,
    m,
    scale,
    relaxation,
    HEIGHT: tl.constexpr,
    BREADTH: tl.constexpr,
    WIDTH: tl.constexpr,
    CHUNK: tl.constexpr,
    PARTS: tl.constexpr,
    UPCAST: tl.constexpr,
    PRECISION: tl.constexpr,
    CUTS: tl.constexpr,
    STATIC: tl.constexpr,
    RELAXED: tl.constexpr,
    FLOOR: tl.constexpr,
):
    """Sum the far tiles; static: for f up to the scale, by which it is shifted.

    The states are those of :class:`siameselib.kernels.logsumexp_triton.Sweep`.
    """
    row_tile, rows, kept, first, last, low, high = opened(
        x, start, end, n, m, HEIGHT, BREADTH, WIDTH, CHUNK, PARTS, UPCAST, CUTS
    )
    ADDED: tl.constexpr = 0 if RELAXED else 4
    of_row = tl.load(row_states + ADDED * n + rows)
    floor = tl.load(row_states + n + rows)
    largest = tl.full((HEIGHT,), float("-inf"), tl.float32)
    total = tl.zeros((HEIGHT,), tl.float32)
    for k in range(last - first - (high - low)):
        tile = pure(k, first, low, high)
        of_column = tl.load(column_states + ADDED * m + tile * BREADTH + tl.arange(0, BREADTH))
        s, _ = multiplied(
            x, y, kept, row_tile, tile, n, m,
            HEIGHT, BREADTH, WIDTH, CHUNK, PARTS, UPCAST, PRECISION,
        )  # fmt: skip
        if RELAXED:
            s = s + of_row[:, None] + of_column[None, :]
            f, _ = score(s, scale, relaxation, True)
            f = tl.where(s > -1e8, f, float("-inf"))
        else:
            f = s * (scale * LOG2E) + of_column[None, :] + of_row[:, None]
        if FLOOR:
            f = tl.where(f > floor[:, None], f, float("-inf"))
        if STATIC:
            total += tl.sum(tl.exp2(f), 1)
        else:
            largest, total = _more(f, largest, total)
    out += tl.program_id(1) * 2 * n + rows
    tl.store(out, largest)
    tl.store(out + n, total)


@triton.jit
def near(
    x,
    y,
    row_states,
    column_states,
    start,
    end,
    own,
    out,
    n,
    m,
    height,
    scale,
    relaxation,
    d: tl.constexpr,
    DIMS: tl.constexpr,
    ROWS: tl.constexpr,
    STEP: tl.constexpr,
    HEIGHT: tl.constexpr,
    BREADTH: tl.constexpr,
    POSITIVES: tl.constexpr,
    SOFT: tl.constexpr,
    RELAXED: tl.constexpr,
    FLOOR: tl.constexpr,
):
    """Sum the near tiles, or of the positives e^f(1 - s); soft: log(1 + e^(f + b)) in its place.

    Here n rows and m columns are there; the states of the rows have place for height.
    """
    first = tl.program_id(0) * ROWS
    rows = first + tl.arange(0, ROWS)
    dims = tl.arange(0, DIMS)
    there = (rows < n)[:, None] & (dims < d)[None, :]
    a = tl.load(x + rows[:, None] * d + dims[None, :], there, 0.0)
    of_row = tl.load(row_states + rows)
    floor = tl.load(row_states + height + rows)
    limit = tl.load(row_states + 2 * height + rows)
    low, high = near_columns(start, end, first, n, m, ROWS, HEIGHT, BREADTH, POSITIVES)
    largest = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    for k in range(low, high, STEP):
        columns = k + tl.arange(0, STEP)
        inside = (columns < m)[:, None] & (dims < d)[None, :]
        b = tl.load(y + columns[:, None] * d + dims[None, :], inside, 0.0)
        s = tl.sum(a[:, None, :] * b[None, :, :], 2)
        s += of_row[:, None] + tl.load(column_states + tl.minimum(columns, m - 1))[None, :]
        counted = counts(rows, columns, start, end, own, n, high, POSITIVES)
        f, _ = score(1.0 - s if POSITIVES else s, scale, relaxation, RELAXED)
        if FLOOR:
            counted &= f > floor[:, None]
        if SOFT:
            value, _ = softplus((f - limit[:, None]) / LOG2E)
            total += tl.sum(tl.where(counted, value, 0.0), 1)
        else:
            largest, total = _more(tl.where(counted, f, float("-inf")), largest, total)
    tl.store(out + rows, largest)
    tl.store(out + height + rows, total)


@triton.jit
def near_columns(
    start,
    end,
    first,
    n,
    m,
    ROWS: tl.constexpr,
    HEIGHT: tl.constexpr,
    BREADTH: tl.constexpr,
    POSITIVES: tl.constexpr,
):
    """The columns near the rows from the first on, and the first after them."""
    if POSITIVES:
        low = tl.load(start + first)
        high = tl.load(end + first + ROWS - 1)
    else:
        low, high = band(start, end, first // HEIGHT, 0, tl.cdiv(m, BREADTH), HEIGHT, BREADTH)
        low, high = low * BREADTH, tl.minimum(high * BREADTH, m)
    return low, high


@triton.jit
def counts(rows, columns, start, end, own, n, last, POSITIVES: tl.constexpr):
    """Which pairs are positives, or negatives before the last column."""
    low, high = tl.load(start + rows)[:, None], tl.load(end + rows)[:, None]
    same = (columns[None, :] >= low) & (columns[None, :] < high)
    if POSITIVES:
        found = same & (columns[None, :] != tl.load(own + rows)[:, None])
    else:
        found = (same == 0) & (columns < last)[None, :]
    return found & (rows < n)[:, None]
