"""The sweep that weighs: every pair by the slope of the loss, for the gradient of each row.

A pair is in the sums of its row and in those of its column. Where both are rows of the same batch
the matrix is symmetric, so one program makes the whole gradient of its rows, from the states of
both sides: nothing has to be added up across programs. ROLES says whose sums count: 1 for those of
the rows, 2 for those of the columns, 3 for both.

:func:`far` takes the tiles of pure negatives, products on the tensor cores; :func:`near` the
others, by direct difference in float32.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator,misc"

import triton
import triton.language as tl

from siameselib.kernels.factors_triton import add_pull, multiplied, opened
from siameselib.kernels.sums_triton import counts, near_columns
from siameselib.kernels.terms_triton import LOG2E, score, share
from siameselib.kernels.tiles_triton import pure


@triton.jit
def states(side, at, size):
    """The states of some vectors of a side; see :class:`siameselib.kernels.logsumexp_triton`."""
    added, floor = tl.load(side + at), tl.load(side + size + at)
    limit, gradient = tl.load(side + 2 * size + at), tl.load(side + 3 * size + at)
    shifted, factor = tl.load(side + 4 * size + at), tl.load(side + 5 * size + at)
    return added, floor, limit, gradient, shifted, factor


@triton.jit
def shares(f, row, column, ROLES: tl.constexpr, SOFT: tl.constexpr, FLOOR: tl.constexpr):
    """Weigh entries by their shares in the sums of their row, their column or both."""
    weight = tl.zeros_like(f)
    if ROLES & 1:
        weight += share(f, row[2][:, None], row[3][:, None], row[1][:, None], SOFT, FLOOR)
    if ROLES & 2:
        weight += share(f, column[2][None, :], column[3][None, :], column[1][None, :], SOFT, FLOOR)
    return weight


@triton.jit
def far(
    x,
    y,
    row_states,
    column_states,
    start,
    end,
    out,
    sums,
    n,
    m,
    scale,
    relaxation,
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
    STATIC: tl.constexpr,
    RELAXED: tl.constexpr,
    FLOOR: tl.constexpr,
):
    """Weigh the far tiles by their shares in log-sum-exps."""
    row_tile, rows, kept, first, last, low, high = opened(
        x, start, end, n, m, HEIGHT, BREADTH, WIDTH, CHUNK, PARTS, UPCAST, CUTS
    )
    first_out = tl.program_id(2) * OUT
    row = states(row_states, rows, n)
    total = tl.zeros((HEIGHT, OUT), tl.float32)
    weight_sum = tl.zeros((HEIGHT,), tl.float32)
    for k in range(last - first - (high - low)):
        tile = pure(k, first, low, high)
        column = states(column_states, tile * BREADTH + tl.arange(0, BREADTH), m)
        s, b = multiplied(
            x, y, kept, row_tile, tile, n, m,
            HEIGHT, BREADTH, WIDTH, CHUNK, PARTS, UPCAST, PRECISION,
        )  # fmt: skip
        if STATIC:
            weight = tl.exp2(s * (scale * LOG2E) + column[4][None, :] + row[4][:, None])
            if ROLES == 3:
                weight *= row[5][:, None] + column[5][None, :]
            elif ROLES == 1:
                weight *= row[5][:, None]
            else:
                weight *= column[5][None, :]
        elif RELAXED:
            s = s + row[0][:, None] + column[0][None, :]
            f, slope = score(s, scale, relaxation, True)
            weight = shares(f, row, column, ROLES, False, FLOOR) * slope
            weight = tl.where(s > -1e8, weight, 0.0)
        else:
            f = s * (scale * LOG2E) + column[4][None, :] + row[4][:, None]
            weight = shares(f, row, column, ROLES, False, FLOOR)
        weight_sum += tl.sum(weight, 1)
        total = add_pull(
            weight, b, total, y, tile, first_out, m,
            BREADTH, WIDTH, CHUNK, OUT, PARTS, UPCAST, PRECISION,
        )  # fmt: skip
    at = tl.program_id(1) * n + rows
    entries = first_out + tl.arange(0, OUT)
    tl.store(out + at[:, None] * WIDTH + entries[None, :], total)
    tl.store(sums + at, weight_sum)


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
    sums,
    n,
    m,
    height,
    breadth,
    scale,
    relaxation,
    d: tl.constexpr,
    DIMS: tl.constexpr,
    ROWS: tl.constexpr,
    STEP: tl.constexpr,
    HEIGHT: tl.constexpr,
    BREADTH: tl.constexpr,
    ROLES: tl.constexpr,
    POSITIVES: tl.constexpr,
    SOFT: tl.constexpr,
    RELAXED: tl.constexpr,
    FLOOR: tl.constexpr,
):
    """Weigh the near tiles, or the positives, likewise; see the near sums."""
    first = tl.program_id(0) * ROWS
    rows = first + tl.arange(0, ROWS)
    dims = tl.arange(0, DIMS)
    there = (rows < n)[:, None] & (dims < d)[None, :]
    a = tl.load(x + rows[:, None] * d + dims[None, :], there, 0.0)
    row = states(row_states, rows, height)
    low, high = near_columns(start, end, first, n, m, ROWS, HEIGHT, BREADTH, POSITIVES)
    total = tl.zeros((ROWS, DIMS), tl.float32)
    weight_sum = tl.zeros((ROWS,), tl.float32)
    own_sum = tl.zeros((ROWS,), tl.float32)
    for k in range(low, high, STEP):
        columns = k + tl.arange(0, STEP)
        inside = (columns < m)[:, None] & (dims < d)[None, :]
        b = tl.load(y + columns[:, None] * d + dims[None, :], inside, 0.0)
        column = states(column_states, tl.minimum(columns, m - 1), breadth)
        s = tl.sum(a[:, None, :] * b[None, :, :], 2) + row[0][:, None] + column[0][None, :]
        counted = counts(rows, columns, start, end, own, n, high, POSITIVES)
        f, slope = score(1.0 - s if POSITIVES else s, scale, relaxation, RELAXED)
        f = tl.where(counted, f, float("-inf"))
        weight = shares(f, row, column, ROLES, SOFT, FLOOR)
        if SOFT:
            own_sum += tl.sum(shares(f, row, column, 1, SOFT, FLOOR), 1)
        if RELAXED:
            weight *= slope
        weight_sum += tl.sum(weight, 1)
        total += tl.sum(weight[:, :, None] * b[None, :, :], 1)
    tl.store(out + rows[:, None] * d + dims[None, :], total, there)
    tl.store(sums + rows, weight_sum)
    tl.store(sums + height + rows, own_sum)
