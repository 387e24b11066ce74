"""What the dense losses make of a tile of similarities or distances, on a GPU.

A side of the matrix has states, a number each for every vector: ``row`` and ``column`` are the
tuples of those of a tile.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator,misc"

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
# The polynomial of log(1 + u) / u for u from 0 to 1: off by 5e-9, and quicker than any logarithm.
OF_ONE_MORE = tl.constexpr(
    (
        1.0,
        -0.49999892711639404,
        0.33329710364341736,
        -0.24951615929603577,
        0.1966327428817749,
        -0.1526966691017151,
        0.10543623566627502,
        -0.056373611092567444,
        0.019542526453733444,
        -0.0031760570127516985,
    )
)


@triton.jit
def score(s, scale, relaxation, RELAXED: tl.constexpr):
    """The f of :mod:`siameselib.kernels.score`, to the base 2, and its slope over the scale."""
    if RELAXED:
        slope = tl.maximum(s + relaxation, 0.0)
        f = scale * LOG2E * slope * (s - relaxation)
    else:
        slope = s
        f = scale * LOG2E * s
    return f, slope


@triton.jit
def softplus(z):
    """log(1 + e^z), above zero where float32 has such a number, and its slope."""
    less = tl.exp2(-tl.abs(z) * LOG2E)
    logarithm = tl.full(z.shape, OF_ONE_MORE[9], tl.float32)
    for k in tl.static_range(8, -1, -1):
        logarithm = logarithm * less + OF_ONE_MORE[k]
    logarithm *= less
    slope = tl.exp2(-logarithm * LOG2E) * tl.where(z > 0, 1.0, less)
    return tl.maximum(z, 0.0) + logarithm, slope


@triton.jit
def share(f, limit, gradient, floor, SOFT: tl.constexpr, FLOOR: tl.constexpr):
    """What an entry adds to a log-sum-exp, the limit, or to a sum of log(1 + 2^(f - limit))."""
    found = gradient / (1.0 + tl.exp2(limit - f)) if SOFT else gradient * tl.exp2(f - limit)
    if FLOOR:
        found = tl.where(f > floor, found, 0.0)
    return found


@triton.jit
def hits(level, lower, d, per_unit, KIND: tl.constexpr):
    """The weight of triplets, and if "soft" the value: the positive at lower, the negative at d."""
    value = 0.0  # the level is the lower distance with the margin
    if KIND == "soft":
        value, hit = softplus((level - d) * per_unit)
    else:
        hit = (d < level).to(tl.float32)
        if KIND == "window":
            hit = tl.where(d > lower, hit, 0.0)
    return hit, value


@triton.jit
def apart(square, METRIC: tl.constexpr):
    """The distance of a squared difference x - y, and what times that is its gradient in x."""
    if METRIC == "euclidean":
        turn = tl.rsqrt(tl.maximum(square, 1e-36))
        d = square * turn
    elif METRIC == "cosine":
        d, turn = 0.5 * square, 1.0
    else:
        d, turn = square, 2.0
    return d, turn
