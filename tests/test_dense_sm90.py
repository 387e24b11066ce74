"""The kernels of the dense losses compiled for an H100 or H200: registers, memory, instructions."""

import pytest

pytest.importorskip("triton", reason="triton is not installed")

from siameselib.kernels import (
    crowds_triton,
    levels_triton,
    pairs_triton,
    sums_triton,
    triplets_triton,
    weights_triton,
)
from siameselib.kernels.factors_triton import HEIGHT, cut
from siameselib.kernels.sides_triton import near_constants
from siameselib.kernels.tiles_triton import FUSED, INTERPRETED
from siameselib.kernels.triplet_sum_triton import narrow_cut, pull_constants
from tests.sm90 import build

if INTERPRETED:
    pytest.skip("TRITON_INTERPRET is set: nothing is compiled", allow_module_level=True)

POINTERS = ("row_states", "column_states", "out")
NUMBERS = {"n": "i32", "m": "i32", "scale": "fp32", "relaxation": "fp32"}


def types(factor, *pointers):
    found = {"x": factor, "y": factor, "start": "*i32", "end": "*i32"} | NUMBERS
    return found | dict.fromkeys(POINTERS + pointers, "*fp32")


# kernel, width, precision, scale, positives in the far tiles; instructions for each pair
FAR = [
    ("sums", 128, "fast", 10, False, 6.1),
    ("weights", 128, "fast", 10, False, 9.5),
    ("weights", 128, "exact", 10, False, 21.1),
    ("weights", 512, "fast", 10, True, None),
    ("weights", 512, "exact", 10, True, None),
]


@pytest.mark.parametrize(("name", "width", "precision", "scale", "mixed", "instructions"), FAR)
def test_far_tiles(name, width, precision, scale, mixed, instructions):
    chosen = cut(width, precision, scale, mixed=mixed)
    constants = chosen.constants() | {"UPCAST": False, "CUTS": 1, "STATIC": True}
    constants |= {"RELAXED": False, "FLOOR": False}
    module, arguments = sums_triton, types("*bf16")
    if name == "weights":
        module, arguments = weights_triton, types("*bf16", "sums")
        constants |= {"OUT": chosen.out, "ROLES": 3}
    built = build(module.far, arguments, constants, chosen.shape.options())
    assert built.fits(), built[:3]
    body = built.hottest()
    products = sum(instruction.startswith("HGMMA") for instruction in body)
    assert products >= 4 * chosen.parts
    if instructions is not None:  # else that loop goes through a part of the vectors only
        pairs = HEIGHT * chosen.shape.columns / (32 * chosen.shape.warps)  # of a thread
        assert sum(instruction.startswith("MUFU.EX2") for instruction in body) == pairs
        assert len(body) / pairs <= 1.1 * instructions


@pytest.mark.parametrize("name", ["sums", "weights"])
@pytest.mark.parametrize("width", [128, 512])
def test_near_tiles(name, width):
    constants = near_constants(width) | {"HEIGHT": HEIGHT, "BREADTH": 64, "POSITIVES": False}
    constants |= {"SOFT": False, "RELAXED": False, "FLOOR": False}
    module, arguments = sums_triton, types("*fp32") | {"height": "i32", "own": "*i32"}
    if name == "weights":
        module, arguments = weights_triton, arguments | {"sums": "*fp32", "breadth": "i32"}
        constants["ROLES"] = 3
    assert build(module.near, arguments, constants, FUSED).fits()


# the term, the metric, the precision, instructions for each pair
PAIRS = [
    ("below squared", "euclidean", "fast", 27.8),
    ("below squared", "euclidean", "exact", 46.0),
    ("different", "cosine", "fast", 43.2),
]


@pytest.mark.parametrize(("term", "metric", "precision", "instructions"), PAIRS)
def test_far_pairs(term, metric, precision, instructions):
    chosen = cut(128, precision).narrowed()
    constants = chosen.constants() | {"UPCAST": False, "CUTS": 1, "OUT": chosen.out, "ROLES": 0}
    constants |= {"METRIC": metric, "TERM": term, "LEARNT": term == "different", "GRADIENT": True}
    arguments = types("*bf16", "numbers", "sums") | dict.fromkeys(("listed", "count"), "*i32")
    arguments = arguments | {"last_row": "i32", "last_column": "i32"}
    del arguments["scale"], arguments["relaxation"]
    built = build(pairs_triton.far, arguments, constants, chosen.shape.options())
    assert built.fits(), built[:3]
    pairs = HEIGHT * chosen.shape.columns / (32 * chosen.shape.warps)
    assert len(built.hottest()) / pairs <= 1.1 * instructions


# kind, metric, width, precision; instructions for each pair and threshold of its row and column
TRIPLETS = [
    ("hinge", "euclidean", 128, "fast", 5.5, 4.3),
    ("window", "euclidean", 128, "exact", 7.8, 6.9),
    ("soft", "cosine", 128, "exact", 26.7, 22.4),
    ("hinge", "euclidean", 512, "exact", 8.0, 4.6),
    ("window", "cosine", 256, "tf32", 10.5, 7.4),
    ("soft", "euclidean", 512, "exact", 29.3, 22.8),
]
OF_TRIPLETS = ("levels", "lower", "numbers", "found", "sums")


@pytest.mark.parametrize(("kind", "metric", "width", "precision", "of_row", "of_column"), TRIPLETS)
def test_far_triplets(kind, metric, width, precision, of_row, of_column):
    chosen = narrow_cut(width, precision)
    constants = chosen.constants() | {"UPCAST": False, "CUTS": 1, "OUT": chosen.out}
    constants |= {"METRIC": metric, "KIND": kind, "GRADIENT": True}
    arguments = types("*fp32" if precision == "tf32" else "*bf16", *OF_TRIPLETS)
    arguments |= dict.fromkeys(("row_lists", "column_lists", "listed", "count"), "*i32")
    arguments |= dict.fromkeys(("last_row", "last_column", "room"), "i32")
    del arguments["scale"], arguments["relaxation"]
    built = build(triplets_triton.far, arguments, constants, chosen.shape.options())
    assert built.fits(), built[:3]
    pairs = HEIGHT * chosen.shape.columns / (32 * chosen.shape.warps)
    # A loop over the thresholds compares at least once for each pair, and adds.
    rows, columns = sorted(
        (len(body) / pairs for body in built.loops if sum(map(_compares, body)) >= pairs),
        reverse=True,
    )
    assert rows <= 1.1 * of_row and columns <= 1.1 * of_column


def _compares(instruction):
    return instruction.startswith(("FSET", "FSETP", "MUFU.EX2"))


@pytest.mark.parametrize("width", [128, 512])
def test_near_triplets(width):
    constants = near_constants(width) | {"METRIC": "euclidean"}
    arguments = types("*fp32", *OF_TRIPLETS) | dict.fromkeys(("height", "breadth"), "i32")
    arguments |= dict.fromkeys(("row_lists", "column_lists", "own", "listed", "count"), "*i32")
    del arguments["scale"], arguments["relaxation"]
    more = {"HEIGHT": HEIGHT, "BREADTH": 16, "CUTS": 2, "KIND": "window"}
    assert build(triplets_triton.near, arguments, constants | more, FUSED).fits()
    for name in ("levels", "lower", "sums", "row_lists", "column_lists", "listed", "count"):
        del arguments[name]
    measured = arguments | dict.fromkeys(("levels", "lower", "top"), "*fp32") | {"lists": "*i32"}
    del measured["found"], measured["out"]
    assert build(levels_triton.measure, measured, constants, FUSED).fits()
    arguments |= dict.fromkeys(("values",), "*fp32") | {"active": "*fp64"}
    arguments |= dict.fromkeys(("row_lists", "column_lists", "column_start", "column_own"), "*i32")
    assert build(levels_triton.pull, arguments, constants | pull_constants(width), FUSED).fits()


def test_levels_of_far_triplets():
    chosen = narrow_cut(128, "exact")
    constants = chosen.constants() | {"UPCAST": False, "METRIC": "euclidean"}
    arguments = types("*bf16", "lower") | dict.fromkeys(("lists", "own"), "*i32")
    arguments |= {"last_row": "i32"}
    del arguments["scale"], arguments["relaxation"], arguments["out"]
    assert build(levels_triton.measure_far, arguments, constants, chosen.shape.options()).fits()


@pytest.mark.parametrize("owned", ["anchors", "others"])
def test_crowds(owned):
    sizes = crowds_triton.SIZES
    constants = sizes | {"METRIC": "euclidean", "KIND": "soft", "OWNED": owned, "GRADIENT": True}
    arguments = types("*fp32", "numbers") | dict.fromkeys(("own", "left"), "*i32")
    arguments |= dict.fromkeys(("height", "breadth"), "i32") | {"d": "i32 16", "sums": "*fp64"}
    del arguments["scale"], arguments["relaxation"]
    warps = crowds_triton.WARPS
    built = build(crowds_triton.add, arguments, constants, FUSED | {"num_warps": warps})
    assert built.fits(), built[:3]
    # Of the distances of a few entries: a difference and its square for each, and to get there.
    leanest = min(len(body) for body in built.loops if "FFMA" in body)
    entries = sizes["ANCHORS"] * sizes["THIRD"] * sizes["CHUNK"] / (32 * warps)
    assert 2 <= leanest / entries <= 4.5
