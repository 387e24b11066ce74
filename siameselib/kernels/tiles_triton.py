"""Tiles of the matrix on a GPU: what the Triton kernels share.

Rows and columns come in label order. A program owns a tile of rows and goes through the columns,
or through one of several parts of them: what it reduces stays in registers, and nobody else writes
it. The columns that share a label with a tile of rows are one range, the band, looked up on the
device. Only the tiles of the band need a mask; the others are pure negatives.

``TRITON_INTERPRET=1``, set before the first import, runs the kernels on the CPU; what they do
there is the same but for one thing: the interpreter multiplies bfloat16 wrongly, so :func:`dots`
widens it first.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator,misc"

import functools
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from siameselib.kernels.blocks import Grouped

INTERPRETED: bool = triton.knobs.runtime.interpret
# Without it the arithmetic would depend on the version of Triton.
FUSED = {"enable_fp_fusion": True}
SHARED = 227 * 1024  # bytes of shared memory that a program may have on sm_90
_BESIDE = 4 * 1024  # that the tiles leave to the rest of a program
_CHUNK = 128  # vectors no wider are multiplied whole, others in chunks that divide this
_MOST_PARTS = 16
_BUSY = 0.9  # share of the processors at work that is enough


class Shape(NamedTuple):
    """How a kernel is cut: the tile, and what the compiler makes of a program."""

    rows: int
    columns: int
    chunk: int
    """entries of the vectors multiplied at once; where that is all, the tile of rows is kept."""
    warps: int
    stages: int

    def options(self) -> dict[str, int]:
        """Return what the launch of a kernel says to the compiler."""
        return {"num_warps": self.warps, "num_stages": self.stages} | FUSED

    def shared(self, width: int, itemsize: int) -> int:
        """Bytes of shared memory that the tiles take: those of a stage once for each stage."""
        kept = self.rows if self.chunk == width else 0
        each = self.rows - kept + self.columns
        return (kept + self.stages * each) * self.chunk * itemsize

    def fitted(self, width: int, itemsize: int, there: int, least: int = 16) -> "Shape":
        """Return a shape that has room: with fewer stages, then fewer columns.

        Args:
            width: of the vectors,
            itemsize: with entries of so many bytes.
            there: bytes of shared memory that a program may have.
            least: columns.

        Raises:
            ValueError: where nothing has room.
        """
        shape = self
        while (needed := shape.shared(width, itemsize) + _BESIDE) > there:
            if shape.stages > 1:
                shape = shape._replace(stages=shape.stages - 1)
            elif shape.columns > least:
                shape = shape._replace(columns=shape.columns // 2)
            else:
                raise ValueError(
                    f"siameselib: backend 'triton' cannot run: its smallest tiles take {needed} "
                    f"bytes of shared memory, a program on this device has {there}"
                )
        return shape


def padded_width(d: int) -> int:
    """Return the width that a kernel takes: at least the 16 of one product, whole chunks."""
    if d <= _CHUNK:
        return int(max(16, triton.next_power_of_2(d)))
    return int(triton.cdiv(d, _CHUNK)) * _CHUNK


def padded(x: Tensor, height: int, width: int, dtype: torch.dtype) -> Tensor:
    """Copy a matrix into whole tiles of rows, zero beyond it; more columns are left out."""
    n, d = len(x), min(x.shape[1], width)
    result = x.new_zeros(triton.cdiv(n, height) * height, width, dtype=dtype)
    result[:n, :d] = x[:, :d]
    return result


def filled(values: Tensor, height: int, value: float | None = None) -> Tensor:
    """Lengthen a vector to whole tiles, with a value or, where None, with its own last one."""
    more = -len(values) % height
    last = values[-1:] if value is None else values.new_full((1,), value)
    return torch.cat([values, last.expand(more)])


def bounds(grouped: Grouped, height: int) -> tuple[Tensor, Tensor]:
    """Return the first column of each row's label and the first after it, for whole tiles."""
    return filled(grouped.start.int(), height), filled(grouped.end.int(), height)


@functools.cache
def shared_memory(device: torch.device) -> int:
    """Return how many bytes of shared memory a program may have."""
    if device.type != "cuda":
        return SHARED
    properties = torch.cuda.get_device_properties(device)
    return int(getattr(properties, "shared_memory_per_block_optin", 64 * 1024))  # not on ROCm


@functools.cache
def processors(device: torch.device) -> int:
    """Return how many programs of a kernel run at once, one on each."""
    if device.type != "cuda":
        return 1
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def parts(row_tiles: int, column_tiles: int, at_once: int) -> int:
    """Say into how many parts to cut the columns so that few processors stand idle."""

    def busy(count: int) -> float:
        programs = row_tiles * count
        return float(min(_BUSY, programs / (triton.cdiv(programs, at_once) * at_once)))

    return max(range(1, min(column_tiles, _MOST_PARTS) + 1), key=lambda k: (busy(k), -k))


@triton.jit
def tile(matrix, number, HEIGHT: tl.constexpr, WIDTH: tl.constexpr):
    """Load a tile of whole rows of a padded matrix."""
    row, column = tl.arange(0, HEIGHT), tl.arange(0, WIDTH)
    return tl.load(matrix + number * HEIGHT * WIDTH + row[:, None] * WIDTH + column[None, :])


@triton.jit
def dots(x, y, UPCAST: tl.constexpr, PRECISION: tl.constexpr):
    """All dot products of two tiles of rows; PRECISION is what float32 is multiplied in."""
    if UPCAST:
        x, y = x.to(tl.float32), y.to(tl.float32)
    return tl.dot(x, tl.trans(y), input_precision=PRECISION)


@triton.jit
def products(
    x,
    y,
    row_tile,
    column_tile,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    WIDTH: tl.constexpr,
    CHUNK: tl.constexpr,
    UPCAST: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """:func:`dots` of two tiles of padded matrices, chunk by chunk."""
    row, column, part = tl.arange(0, ROWS), tl.arange(0, COLUMNS), tl.arange(0, CHUNK)
    x += row_tile * ROWS * WIDTH + row[:, None] * WIDTH + part[None, :]
    y += column_tile * COLUMNS * WIDTH + column[:, None] * WIDTH + part[None, :]
    result = tl.zeros((ROWS, COLUMNS), tl.float32)
    for _ in range(WIDTH // CHUNK):
        result += dots(tl.load(x), tl.load(y), UPCAST, PRECISION)
        x += CHUNK
        y += CHUNK
    return result


@triton.jit
def part(column_tiles, number, PARTS: tl.constexpr):
    """The tiles of columns of one part: the first, and the first after it."""
    each = tl.cdiv(column_tiles, PARTS)
    first = tl.minimum(number * each, column_tiles)
    return first, tl.minimum(first + each, column_tiles)


@triton.jit
def band(start, end, row_tile, first, last, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The tiles from first to last with columns that may share a label with a tile of rows."""
    low = tl.load(start + row_tile * ROWS) // COLUMNS
    high = tl.cdiv(tl.load(end + row_tile * ROWS + ROWS - 1), COLUMNS)
    low = tl.minimum(tl.maximum(low, first), last)
    return low, tl.minimum(tl.maximum(high, low), last)


@triton.jit
def pure(number, first, low, high):
    """The tile of columns that is the number-th one outside of the band [low, high)."""
    at = first + number
    return tl.where(at >= low, at + (high - low), at)
