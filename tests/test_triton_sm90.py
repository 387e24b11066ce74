"""The Triton kernels compiled ahead of time for an H100 or H200: registers, memory, instructions.

What is measured here is what the compiler makes, not how fast it runs.
"""

import pytest

pytest.importorskip("triton", reason="triton is not installed")

import triton
import triton.language as tl

from siameselib.kernels import tiles_triton
from tests.sm90 import build

if tiles_triton.INTERPRETED:
    pytest.skip("TRITON_INTERPRET is set: nothing is compiled", allow_module_level=True)

tile, dots = tiles_triton.tile, tiles_triton.dots


@triton.jit
def _row_max(
    x, y, out, column_tiles, ROWS: tl.constexpr, COLUMNS: tl.constexpr, WHOLE: tl.constexpr
):
    row_tile = tl.program_id(0)
    rows = tile(x, row_tile, ROWS, 128)
    best = tl.full((ROWS, COLUMNS) if WHOLE else (ROWS,), -float("inf"), tl.float32)
    for k in range(column_tiles):
        found = dots(rows, tile(y, k, COLUMNS, 128), False, "ieee")
        best = tl.maximum(best, found if WHOLE else tl.max(found, 1))
    best = tl.max(best, 1) if WHOLE else best
    tl.store(out + row_tile * ROWS + tl.arange(0, ROWS), best)


def test_the_harness_sees_tensor_cores_and_spills():
    types = {"x": "*bf16", "y": "*bf16", "out": "*fp32", "column_tiles": "i32"}
    shape = tiles_triton.Shape(256, 128, chunk=128, warps=8, stages=2)
    constants = {"ROWS": shape.rows, "COLUMNS": shape.columns, "WHOLE": False}
    built = build(_row_max, types, constants, shape.options())
    assert built.fits() and built.shared == shape.shared(128, 2)
    body = built.hottest()
    assert sum(name.startswith("HGMMA") for name in body) >= 4
    # A thread has 1/256 of the tile, and needs about one comparison for each of its pairs.
    assert 1 <= len(body) * 256 / (256 * 128) <= 2.5
    # The best of each entry and the products themselves are 256 numbers for each thread.
    assert build(_row_max, types, constants | {"WHOLE": True}, shape.options()).spilled
