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
    """log(1 + e^z)."""
    return tl.maximum(z, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(z)))


@triton.jit
def share(f, limit, gradient, floor, SOFT: tl.constexpr, FLOOR: tl.constexpr):
    """What an entry adds to a log-sum-exp, the limit, or to a sum of log(1 + 2^(f - limit))."""
    found = gradient / (1.0 + tl.exp2(limit - f)) if SOFT else gradient * tl.exp2(f - limit)
    if FLOOR:
        found = tl.where(f > floor, found, 0.0)
    return found
