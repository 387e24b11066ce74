"""The triplets of anchors whose positives there is no room to list.

These are the anchors from ``left`` on, a number that the device alone knows. Ordinarily there are
none, and the programs of :func:`add` end at once. Nothing of a triplet is kept: a program that owns
a few anchors, or a few of the others that pairs have, weighs each pair by all third vectors, and
makes all distances by direct difference, again and again. So it has no bound, and takes its time.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator,misc"

import triton
import triton.language as tl

from siameselib.kernels.extremes_triton import differences
from siameselib.kernels.levels_triton import NOTHING
from siameselib.kernels.sums_triton import counts
from siameselib.kernels.terms_triton import apart, hits
from siameselib.kernels.tiles_triton import INTERPRETED

WARPS = 8
# In the interpreter few large steps are quicker.
SIZES = (
    {"ANCHORS": 128, "OTHERS": 64, "THIRD": 32, "CHUNK": 16}
    if INTERPRETED
    else {"ANCHORS": 16, "OTHERS": 32, "THIRD": 16, "CHUNK": 16}
)


@triton.jit
def _pairs(
    x,
    y,
    lift,
    column_states,
    rows,
    columns,
    start,
    end,
    own,
    margin,
    n,
    m,
    breadth,
    d,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHUNK: tl.constexpr,
    METRIC: tl.constexpr,
):
    # Distances, what times a difference is their gradient; the thresholds of positives, the lowest
    # possible where there is none; the distances of negatives, the highest possible likewise.
    square = lift[:, None] + tl.load(column_states + 2 * breadth + columns)[None, :]
    square += differences(x, y, rows, columns, n, m, d, ROWS, COLUMNS, CHUNK)
    far_off, turn = apart(square, METRIC)
    level = counts(rows, columns, start, end, own, n, m, True)
    level = tl.where(level, far_off + margin, NOTHING)
    negative = counts(rows, columns, start, end, own, n, m, False)
    return far_off, turn, level, tl.where(negative, far_off, -NOTHING)


@triton.jit
def add(
    x,
    y,
    row_states,
    column_states,
    start,
    end,
    own,
    numbers,
    left,
    out,
    sums,
    n,
    m,
    height,
    breadth,
    d,
    ANCHORS: tl.constexpr,
    OTHERS: tl.constexpr,
    THIRD: tl.constexpr,
    CHUNK: tl.constexpr,
    METRIC: tl.constexpr,
    KIND: tl.constexpr,
    OWNED: tl.constexpr,
    GRADIENT: tl.constexpr,
):
    """Add to the gradient of the "anchors" or "others" that are owned.

    And to the two sums of anchors, their values and how many are above zero.
    """
    margin, per_unit = tl.load(numbers), tl.load(numbers + 1)
    first, last = tl.load(left), n
    from_other, to_other = 0, m
    if OWNED == "anchors":
        mine = tl.program_id(0) * ANCHORS
        first = tl.maximum(first, mine)
        last = tl.minimum(n, mine + ANCHORS)
    else:
        from_other = tl.program_id(0) * OTHERS
        to_other = from_other + OTHERS
    for anchor in range(first, last, ANCHORS):
        rows = anchor + tl.arange(0, ANCHORS)
        lift, often = tl.load(row_states + 2 * height + rows), tl.load(row_states + height + rows)
        low, high = tl.load(start + anchor), tl.load(end + anchor + ANCHORS - 1)
        value, active = tl.zeros((ANCHORS,), tl.float64), tl.zeros((ANCHORS,), tl.float64)
        if OWNED == "anchors" and not GRADIENT:
            from_other, to_other = low, high
        for other in range(from_other, to_other, OTHERS):
            others = other + tl.arange(0, OTHERS)
            far_off, turn, level, away = _pairs(
                x, y, lift, column_states, rows, others, start, end, own, margin, n, m, breadth, d,
                ANCHORS, OTHERS, CHUNK, METRIC,
            )  # fmt: skip
            weight = tl.zeros((ANCHORS, OTHERS), tl.float32)
            positives = (other < high) & (other + OTHERS > low)  # there may be some
            for k in range(tl.where(positives, 0, low), tl.where(positives, m, high), THIRD):
                third_off, _turn, third_level, third_away = _pairs(
                    x, y, lift, column_states, rows, k + tl.arange(0, THIRD), start, end, own,
                    margin, n, m, breadth, d,
                    ANCHORS, THIRD, CHUNK, METRIC,
                )  # fmt: skip
                if positives:
                    level_of, away_of = level[:, :, None], third_away[:, None, :]
                    hit, more = hits(level_of, far_off[:, :, None], away_of, per_unit, KIND)
                    if KIND != "soft":
                        more = hit * (level_of - away_of)
                    value += tl.sum(tl.sum(more, 2), 1)
                    counted = tl.sum(hit, 2)
                    active += tl.sum(counted, 1)
                    weight += counted
                hit, _more = hits(
                    third_level[:, None, :], third_off[:, None, :], away[:, :, None], per_unit, KIND
                )
                weight -= tl.sum(hit, 2)
            if GRADIENT:
                weight *= turn * often[:, None]
                for depth in range(0, d, CHUNK):
                    _pull(x, y, weight, rows, others, depth, out, n, m, d, CHUNK, OWNED)
        if OWNED == "anchors":
            tl.store(sums + rows, value)
            tl.store(sums + height + rows, active)


@triton.jit
def _pull(
    x, y, weight, rows, others, depth, out, n, m, d, CHUNK: tl.constexpr, OWNED: tl.constexpr
):
    # Add some entries of the gradient.
    k = depth + tl.arange(0, CHUNK)[:, None]
    of_rows, of_others = (rows[None, :] < n) & (k < d), (others[None, :] < m) & (k < d)
    a = tl.load(x + rows[None, :] * d + k, of_rows, 0)
    b = tl.load(y + others[None, :] * d + k, of_others, 0)
    pull = weight[None, :, :] * (a[:, :, None] - b[:, None, :])
    if OWNED == "anchors":
        at, there = out + rows[None, :] * d + k, of_rows
        pull = tl.sum(pull, 2)
    else:
        at, there = out + others[None, :] * d + k, of_others
        pull = -tl.sum(pull, 1)
    tl.debug_barrier()  # what was added last may have been added by other threads
    tl.store(at, tl.load(at, there, 0) + pull, there)
