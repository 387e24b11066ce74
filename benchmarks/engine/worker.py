"""One peer on one problem in a process of its own, forked from one that has loaded the libraries.

It answers None when it is ready; then for every True that comes it runs forward and backward, a
short while over and over, and answers the median of the seconds; a False ends it, and it answers
the growth of its peak memory in bytes. So peers can be timed in turn, and each one's memory is its
own. Text is what went wrong.
"""

import resource
import statistics
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from benchmarks.engine.peers import peer

LIMIT = 16 << 30  # bytes of memory that a peer may take
# seconds: whoever had to wait finds its threads asleep and its caches empty, as no training does
TURN = 0.02


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


def serve(
    parent: Connection, case: str, name: str, size: tuple[int, int, int], threads: int
) -> None:
    """Answer the parent's requests until it has enough."""
    torch.set_num_threads(threads)
    try:
        _serve(parent, case, name, *size)
    except Exception as error:
        parent.send(f"{type(error).__name__}: {error}")


def _serve(parent: Connection, case: str, name: str, rows: int, per_class: int, width: int) -> None:
    loss = peer(case, name)
    for _ in range(2):  # what libraries load and keep at their first call is not the loss's
        x, labels = batch(64, 4, width)
        loss(x.requires_grad_(), labels).backward()
    x, labels = batch(rows, per_class, width)
    x.requires_grad_()
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
    forget_peak()
    before = peak()
    parent.send(None)
    while parent.recv():
        times: list[float] = []
        while sum(times) < TURN:
            x.grad = None
            start = time.perf_counter()
            loss(x, labels).backward()
            times.append(time.perf_counter() - start)
        parent.send(statistics.median(times))
    parent.send(peak() - before)
