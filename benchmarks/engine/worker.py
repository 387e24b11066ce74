"""One peer on one problem in a fresh process.

    python -m benchmarks.engine.worker CASE PEER B M D

Prints "ready", then for every line that comes in runs forward and backward once and prints the
seconds; at the end of the input prints the growth of the peak memory in bytes. So peers can be
timed in turn, and each one's memory is its own.
"""

import resource
import sys
import time
from pathlib import Path

import torch

from benchmarks.engine.peers import peer

LIMIT = 16 << 30  # bytes of memory that a peer may take


def batch(
    rows: int, per_class: int, width: int, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor]:
    """Make unit vectors in noisy clusters: what a half-trained net gives, in shuffled order."""
    g = torch.Generator().manual_seed(rows * 31 + per_class * 7 + width)
    centres = torch.randn(-(-rows // per_class), width, generator=g, dtype=torch.float64)
    labels = torch.arange(rows) // per_class
    x = centres[labels] + 1.2 * torch.randn(rows, width, generator=g, dtype=torch.float64)
    order = torch.randperm(rows, generator=g)
    return torch.nn.functional.normalize(x)[order].to(dtype), labels[order]


def forget_peak() -> None:
    """Let the peak begin anew; elsewhere than on Linux it stays that of the whole process."""
    if sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """Give the most memory that this process held, in bytes."""
    if sys.platform == "linux":
        status = Path("/proc/self/status").read_text().partition("VmHWM:")[2]
        return 1024 * int(status.split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Serve the requests on standard input."""
    case, name = sys.argv[1:3]
    rows, per_class, width = map(int, sys.argv[3:6])
    loss = peer(case, name)
    for _ in range(2):  # what libraries load and keep at their first call is not the loss's
        x, labels = batch(64, 4, width)
        loss(x.requires_grad_(), labels).backward()
    x, labels = batch(rows, per_class, width)
    x.requires_grad_()
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
    forget_peak()
    before = peak()
    print("ready", flush=True)
    for _ in sys.stdin:
        x.grad = None
        start = time.perf_counter()
        loss(x, labels).backward()
        print(time.perf_counter() - start, flush=True)
    print(peak() - before, flush=True)


if __name__ == "__main__":
    main()
