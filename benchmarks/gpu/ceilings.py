"""What the device can do at most: copies and matrix products."""

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.gpu.clock import Clock

PRECISIONS = ("bf16", "tf32", "fp32")


def ceilings(clock: Clock, seconds: float, side: int = 8192) -> dict[str, Any]:
    """Measure the bandwidth of a copy, in GB/s, and matrix products, in TFLOP/s.

    Args:
        clock: of the device.
        seconds: for each of them.
        side: of the square matrices.

    Returns:
        One figure for each.
    """
    source = torch.ones(side * side, device=clock.device)
    target = torch.empty_like(source)
    ms = clock.measure(lambda: target.copy_(source), seconds)["ms"]
    found = {"copy_gb_s": 2 * source.nbytes / ms / 1e6}
    before = torch.get_float32_matmul_precision()
    try:
        for name in PRECISIONS:
            torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
            dtype = torch.bfloat16 if name == "bf16" else torch.float32
            ms = clock.measure(_product(clock, side, dtype), seconds)["ms"]
            found[f"{name}_tflop_s"] = 2 * side**3 / ms / 1e9
    finally:
        torch.set_float32_matmul_precision(before)
    return found


def _product(clock: Clock, side: int, dtype: torch.dtype) -> Callable[[], Any]:
    a = torch.randn(side, side, device=clock.device, dtype=dtype)
    out = torch.empty_like(a)
    return lambda: torch.mm(a, a, out=out)
