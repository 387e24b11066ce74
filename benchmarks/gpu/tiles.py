"""Which tiles the Triton kernels should take: every shape that fits, timed in one call.

What wins here goes by hand into ``shape_for`` of the screening kernel and ``cut`` of the dense
losses, with the table beside it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from itertools import product
from typing import Any
from unittest import mock

from benchmarks.gpu.clock import Clock
from benchmarks.gpu.losses import caller, reason

KERNELS = {"batch-hard": "screen", "SupCon": "dense"}
ROWS, WIDTHS = 1 << 16, (128, 512)

Cell = dict[str, Any]


def shapes(case: str, width: int) -> Iterator[tuple[int, int, int, int, int]]:
    """Name shapes to try: rows, columns, chunk, warps, stages; the kernel's own come first."""
    heights = (128, 256, 64) if KERNELS[case] == "screen" else (128,)
    chunks = (width,) if width <= 128 else (64, 128, width)
    yield from product(heights, (128, 64, 32, 256), chunks, (8, 4), (3, 2, 1, 4))


@contextmanager
def shaped(case: str, shape: tuple[int, int, int, int, int]) -> Iterator[None]:
    """Make a kernel take this shape."""
    tiles = import_module("siameselib.kernels.tiles_triton")
    taken = tiles.Shape(*shape)
    if KERNELS[case] == "screen":
        name, function = "siameselib.kernels.screen_triton.shape_for", lambda *_: taken
    else:
        own = import_module("siameselib.kernels.factors_triton").cut
        name = "siameselib.kernels.logsumexp_triton.cut"
        function = lambda *a, **k: own(*a, **k)._replace(shape=taken)  # noqa: E731
    with mock.patch(name, function):
        yield


def measure(clock: Clock, case: str, rows: int, width: int, shape: Any, seconds: float) -> Cell:
    """Time one shape.

    Args:
        clock: of the device.
        case: which loss.
        rows: of the batch.
        width: of the embeddings.
        shape: one of :func:`shapes`.
        seconds: for the timed calls.

    Returns:
        The cell with its time, or with why there is none.
    """
    cell: Cell = {"case": case, "rows": rows, "per_class": 8, "width": width, "peer": "triton"}
    cell["shape"] = list(shape)
    try:
        with shaped(case, shape):
            return cell | clock.measure(caller(clock, cell), seconds)
    except Exception as error:  # a compiler refuses in many ways; the reason is kept
        return cell | {"failed": reason(error)}


def table(cells: list[Cell]) -> list[str]:
    """Draw the shapes of each loss and width, the quickest first, ten of them."""
    lines = []
    for case, width in dict.fromkeys((c["case"], c["width"]) for c in cells):
        of_case = [c for c in cells if (c["case"], c["width"]) == (case, width)]
        timed = sorted((c for c in of_case if "ms" in c), key=lambda c: c["ms"])
        lines += ["", f"### Tiles of {case}, B = {of_case[0]['rows']:,}, D = {width}", ""]
        lines += ["| rows | columns | chunk | warps | stages | ms |", "|---|---|---|---|---|---|"]
        for cell in timed[:10]:
            lines.append("| " + " | ".join(map(str, cell["shape"])) + f" | {cell['ms']:.3f} |")
        lines += ["", f"{len(timed)} of {len(of_case)} shapes ran."]
    return lines
