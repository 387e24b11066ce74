"""What the dense losses make of a tile of similarities or distances, on a GPU.

A side of the matrix has states, a number each for every vector: ``row`` and ``column`` are the
tuples of those of a tile.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator,misc"

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)


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
    logarithm = tl.log2(1.0 + less)
    slope = tl.exp2(-logarithm) * tl.where(z > 0, 1.0, less)
    small = tl.where(less < 1e-4, less - 0.5 * less * less, logarithm / LOG2E)
    return tl.maximum(z, 0.0) + small, slope


@triton.jit
def share(f, limit, gradient, floor, SOFT: tl.constexpr, FLOOR: tl.constexpr):
    """What an entry adds to a log-sum-exp, the limit, or to a sum of log(1 + 2^(f - limit))."""
    found = gradient / (1.0 + tl.exp2(limit - f)) if SOFT else gradient * tl.exp2(f - limit)
    if FLOOR:
        found = tl.where(f > floor, found, 0.0)
    return found


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
