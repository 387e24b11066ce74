r"""What the dense losses multiply on a GPU, and how exactly.

A loss that takes every pair weighs the similarities themselves, so rounding them would round the
gradient. Vectors are centred on the mean of the columns and split into parts, each the bfloat16
nearest to what the ones before left over: one part for "fast", two for "exact", which drops the
smallest of the products, three where a large scale asks for all that float32 has. "tf32" leaves
them whole. With x' = x - c, similarities and squared distances are both sums of a product, a
number of the row and one of the column:

.. math:: s_{ij} = x'_i \cdot y'_j + u_i + w_j \qquad d_{ij}^2 = -2 x'_i \cdot y'_j + u_i + w_j
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator,misc"

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from siameselib.kernels.tiles_triton import (
    INTERPRETED,
    Shape,
    band,
    padded,
    padded_width,
    part,
    shared_memory,
)

HEIGHT = 128  # rows of a far tile; both sides come in whole ones


class Cut(NamedTuple):
    """How exactly to multiply, and into which tiles a matrix is cut for it."""

    parts: int
    tf32: bool
    width: int
    """of the vectors, filled up."""
    shape: Shape
    out: int
    """so many entries of the gradient at once."""

    def narrowed(self) -> "Cut":
        """Return the same with tiles of half as many columns, for those who need more registers."""
        return self._replace(shape=self.shape._replace(columns=self.shape.columns // 2))

    def fitted(self, device: torch.device) -> "Cut":
        """Return the same with tiles that the device has shared memory for."""
        itemsize = 4 if self.tf32 else 2 * self.parts
        shape = self.shape.fitted(self.width, itemsize, shared_memory(device))
        return self._replace(shape=shape)

    def split(self, x: Tensor) -> Tensor:
        """Split vectors into (parts, n, width), in whole tiles."""
        rest = padded(x, HEIGHT, self.width, torch.float32)
        dtype = torch.float32 if self.tf32 else torch.bfloat16
        parts = rest.new_empty(self.parts, *rest.shape, dtype=dtype)
        for each in parts:
            each.copy_(rest)
            rest -= each
        return parts

    def constants(self) -> dict[str, Any]:
        """Return what the kernels are told of it."""
        return {
            "HEIGHT": HEIGHT,
            "BREADTH": self.shape.columns,
            "WIDTH": self.width,
            "CHUNK": self.shape.chunk,
            "PARTS": self.parts,
            "UPCAST": INTERPRETED,
            "PRECISION": "tf32" if self.tf32 else "ieee",
        }


def cut(d: int, precision: str, scale: float = 0, *, mixed: bool = False) -> Cut:
    """Choose the tiles for vectors of d entries; mixed: with positives in the far ones too."""
    width, tf32 = padded_width(d), precision == "tf32"
    # Two parts leave an error of 5e-6/√d in s, times the scale in the gradient, and more where it
    # is what is left of two large shares, as that of a positive is.
    parts = 3 if mixed or scale > 2 * d**0.5 else 2
    if precision != "exact":
        parts = 1
    narrow = width > 128
    breadth = 128 >> (narrow + min(2, parts - 1 + tf32))
    shape = Shape(HEIGHT, breadth, 64 if narrow else width, warps=8, stages=2)
    out = width if not narrow else 128 if parts == 3 or width % 256 else 256
    return Cut(parts, tf32, width, shape, out)


@triton.jit
def factors(
    x,
    tile,
    depth,
    size,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    CHUNK: tl.constexpr,
    PARTS: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Load the parts of a tile of so many vectors; three, of which only PARTS count."""
    row, column = tl.arange(0, ROWS), tl.arange(0, CHUNK)
    x += tile * ROWS * WIDTH + depth + row[:, None] * WIDTH + column[None, :]
    first = tl.load(x)
    second = first
    third = first
    if PARTS > 1:
        second = tl.load(x + size * WIDTH)
    if PARTS > 2:
        third = tl.load(x + size * WIDTH + size * WIDTH)  # twice that may be beyond 32 bits
    if UPCAST:
        first, second, third = first.to(tl.float32), second.to(tl.float32), third.to(tl.float32)
    return first, second, third


@triton.jit
def split(v, PARTS: tl.constexpr, UPCAST: tl.constexpr, TF32: tl.constexpr):
    """Split a tile likewise."""
    first = v if TF32 else v.to(tl.bfloat16)
    second = first
    third = first
    if PARTS > 1:
        rest = v - first.to(tl.float32)
        second = rest.to(tl.bfloat16)
        if PARTS > 2:
            third = (rest - second.to(tl.float32)).to(tl.bfloat16)
    if UPCAST:
        first, second, third = first.to(tl.float32), second.to(tl.float32), third.to(tl.float32)
    return first, second, third


@triton.jit
def add_product(x, y, total, PARTS: tl.constexpr, PRECISION: tl.constexpr):
    """Add the product of two matrices in parts, the smallest first."""
    if PARTS > 2:
        total = tl.dot(x[2], y[0], total)
        total = tl.dot(x[1], y[1], total)
        total = tl.dot(x[0], y[2], total)
    if PARTS > 1:
        total = tl.dot(x[1], y[0], total)
        total = tl.dot(x[0], y[1], total)
    return tl.dot(x[0], y[0], total, input_precision=PRECISION)


@triton.jit
def turned(y):
    """Turn the parts of a tile."""
    return tl.trans(y[0]), tl.trans(y[1]), tl.trans(y[2])


@triton.jit
def multiplied(
    x,
    y,
    kept,
    row_tile,
    tile,
    n,
    m,
    HEIGHT: tl.constexpr,
    BREADTH: tl.constexpr,
    WIDTH: tl.constexpr,
    CHUNK: tl.constexpr,
    PARTS: tl.constexpr,
    UPCAST: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """All dot products of two tiles, and the parts of the columns: if whole; else of the rows."""
    total = tl.zeros((HEIGHT, BREADTH), tl.float32)
    if CHUNK == WIDTH:
        b = factors(y, tile, 0, m, BREADTH, WIDTH, CHUNK, PARTS, UPCAST)
        total = add_product(kept, turned(b), total, PARTS, PRECISION)
    else:
        b = kept
        for depth in range(0, WIDTH, CHUNK):
            rows = factors(x, row_tile, depth, n, HEIGHT, WIDTH, CHUNK, PARTS, UPCAST)
            columns = factors(y, tile, depth, m, BREADTH, WIDTH, CHUNK, PARTS, UPCAST)
            total = add_product(rows, turned(columns), total, PARTS, PRECISION)
    return total, b


@triton.jit
def opened(
    x,
    start,
    end,
    n,
    m,
    HEIGHT: tl.constexpr,
    BREADTH: tl.constexpr,
    WIDTH: tl.constexpr,
    CHUNK: tl.constexpr,
    PARTS: tl.constexpr,
    UPCAST: tl.constexpr,
    CUTS: tl.constexpr,
):
    """A program of far tiles: its rows' tile, which, their factors; columns from, to; the band."""
    row_tile = tl.program_id(0)
    rows = row_tile * HEIGHT + tl.arange(0, HEIGHT)
    first, last = part(m // BREADTH, tl.program_id(1), CUTS)
    low, high = band(start, end, row_tile, first, last, HEIGHT, BREADTH)
    kept = factors(x, row_tile, 0, n, HEIGHT, WIDTH, CHUNK, PARTS, UPCAST)
    return row_tile, rows, kept, first, last, low, high


@triton.jit
def add_pull(
    weight,
    b,
    total,
    y,
    tile,
    first_out,
    m,
    BREADTH: tl.constexpr,
    WIDTH: tl.constexpr,
    CHUNK: tl.constexpr,
    OUT: tl.constexpr,
    PARTS: tl.constexpr,
    UPCAST: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Add to the gradient of the rows the columns of a tile, weighed; b: what multiplied gave."""
    if CHUNK != WIDTH:
        b = factors(y, tile, first_out, m, BREADTH, WIDTH, OUT, PARTS, UPCAST)
    return add_product(
        split(weight, PARTS, UPCAST, PRECISION == "tf32"), b, total, PARTS, PRECISION
    )
