"""The Triton kernels compiled ahead of time for an H100 or H200: registers, memory, instructions.

What is measured here is what the compiler makes, not how fast it runs.
"""

import pytest

pytest.importorskip("triton", reason="triton is not installed")

import triton
import triton.language as tl

from siameselib.kernels import beyond_triton, extremes_triton, screen_triton, tiles_triton
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
    (body,) = built.with_products()
    assert sum(name.startswith("HGMMA") for name in body) >= 4
    # A thread has 1/256 of the tile, and needs about one comparison for each of its pairs.
    assert 1 <= len(body) * 256 / (256 * 128) <= 2.5
    # The best of each entry and the products themselves are 256 numbers for each thread.
    assert build(_row_max, types, constants | {"WHOLE": True}, shape.options()).spilled


def screen_of(precision, width, shape, **others):
    """What the sweep of batch-hard mining becomes."""
    types = dict.fromkeys(("x", "y"), "*fp32" if precision == "tf32" else "*bf16")
    types |= dict.fromkeys(("x_norm", "x_lost", "y_half", "y_norm", "y_lost"), "*fp32")
    types |= dict.fromkeys(("start", "end", "entry", "count"), "*i32")
    types |= dict.fromkeys(("upper", "floor"), "*fp32")
    types |= dict.fromkeys({"row_tiles", "column_tiles"} - set(others), "i32")
    constants = {
        "ROWS": shape.rows,
        "COLUMNS": shape.columns,
        "WIDTH": width,
        "CHUNK": shape.chunk,
        "PARTS": 1,
        "PIECES": shape.columns // 32,
        "CAPACITY": 32,
        "ROUNDING": 1e-4 if precision == "exact" else 0.0,
        "PRECISION": "tf32" if precision == "tf32" else "ieee",
        "UPCAST": False,
    }
    return build(screen_triton._screen, types, constants | others, shape.options())


@pytest.mark.parametrize(
    ("precision", "width", "pure", "band"),
    [
        ("exact", 128, 5.6, 9),
        ("fast", 128, 5.6, 9),
        ("tf32", 128, 8, 12),
        ("exact", 256, 8, 11.5),
        ("exact", 512, 0.9, 0.9),
        ("tf32", 512, 2.2, 2.2),
    ],
)
def test_screen(precision, width, pure, band):
    itemsize = 4 if precision == "tf32" else 2
    shape = screen_triton.shape_for(width, itemsize)
    built = screen_of(precision, width, shape)
    assert built.fits() and shape.shared(width, itemsize) <= built.shared
    # Instructions of a pair: all of them, or, in chunks, those that a chunk takes.
    lean, masked = (
        len(body) * 32 * shape.warps / (shape.rows * shape.columns)
        for body in built.with_products()
    )
    assert lean <= pure and masked <= band, (lean, masked)


@pytest.mark.parametrize("width", [16, 384])
def test_screen_of_other_sizes(width):
    # A number that is 1 is a constant to the compiler, which then has other code to make.
    shape = screen_triton.shape_for(width, 2)
    assert screen_of("exact", width, shape, PARTS=3, row_tiles=1, column_tiles=1).fits()


def test_decisions_by_difference():
    types = dict.fromkeys(("x", "y"), "*fp32") | dict.fromkeys(("n", "m"), "i32") | {"d": "i32 16"}
    types |= dict.fromkeys(("columns", "own", "result"), "*i64")
    types |= dict.fromkeys(("start", "end"), "*i32")
    shape = extremes_triton._TILE
    constants = {"ROWS": shape.rows, "COLUMNS": shape.columns, "CHUNK": shape.chunk}
    constants |= {"POSITIVES": False, "FARTHEST": False}
    built = build(extremes_triton._by_difference, types, constants, shape.options())
    assert built.fits()
    # A difference and its square are two for each entry of each pair.
    entries = shape.rows * shape.columns * shape.chunk / (32 * shape.warps)
    assert 2 <= max(map(len, built.loops)) / entries <= 3.5

    del types["n"], types["own"]
    types |= dict.fromkeys(("start", "end"), "*i64") | {"rows": "i32"}
    types |= dict.fromkeys(("entry", "count"), "*i32") | dict.fromkeys(("upper", "floor"), "*fp32")
    constants = {"PARTS": 1, "CAPACITY": 32, "COLUMNS": 128, "PIECES": 4, "CHUNK": 16}
    options = {"num_warps": 1, "enable_fp_fusion": True}
    built = build(extremes_triton._settle, types, constants, options)
    assert built.fits() and built.registers <= 64
    assert max(map(len, built.loops)) / (32 * 16 / 32) <= 8


def test_beyond():
    types = dict.fromkeys(("x", "y"), "*fp32") | dict.fromkeys(("n", "m", "most"), "i32")
    types |= {"d": "i32 16", "farther": "*i8"} | dict.fromkeys(("start", "end"), "*i32")
    types |= dict.fromkeys(("columns", "wanted", "negative"), "*i64")
    shape = beyond_triton._TILE
    constants = {"ROWS": shape.rows, "COLUMNS": shape.columns, "CHUNK": shape.chunk}
    constants["TOGETHER"] = beyond_triton._TOGETHER
    built = build(beyond_triton._beyond, types, constants, shape.options())
    assert built.fits()
    entries = shape.rows * shape.columns * shape.chunk / (32 * shape.warps)
    assert 2 <= max(map(len, built.loops)) / entries <= 4
