"""What does a doctor in the loop cost? The time of ``doctor.step``, in steps of training.

    python -m benchmarks doctor-cost --page docs/doctor.md

Each net is trained as users train it, with a doctor at its defaults, and both parts of every step
are timed in turn, so that other work on the machine falls on both alike. Figures are medians: of
the steps that the doctor looks at, one in 25 after the first sixty, and of those it only counts.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import siameselib as sl
from benchmarks import pages
from benchmarks.doctor.script import small_net

FIRST, EVERY = 60, 25  # the doctor's defaults: looked at more closely, and one step in so many


class Net(NamedTuple):
    """A net, its loss and a batch for it, twelve identities of it four images each."""

    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    criterion: Callable[[], nn.Module]


NETS = (
    Net("MLP 32-64-16", lambda: small_net("gaussian"), (32,), sl.SupConLoss),
    Net("MLP 32-64-16", lambda: small_net("gaussian"), (32,), sl.BatchHardTripletLoss),
    Net("two convolutions, 16 px", lambda: small_net("drawings"), (3, 16, 16), sl.SupConLoss),
    Net("C19, 32 px", lambda: sl.C19(image_size=32), (3, 32, 32), sl.SupConLoss),
)


def main(argv: list[str] | None = None) -> int:
    """Measure, print, write.

    Args:
        argv: Arguments; None takes those of the process.

    Returns:
        0 if no net whose steps take a millisecond spends 2 % of its time on the doctor.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--out", default="benchmarks/results/doctor", help="folder for the JSON")
    parser.add_argument("--page", help="page whose table is written anew")
    parser.add_argument("--rounds", type=int, default=20, help="looks at each net, 25 steps each")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows = [measure(net, args.rounds) for net in NETS]
    result = {"version": sl.__version__, "torch": torch.__version__, "rows": rows}
    result["machine"] = f"one core, {platform.machine()}"
    pages.write_json(Path(args.out) / "cost.json", result)
    text = table(rows)
    print(text)
    if args.page:
        pages.update(Path(args.page), "cost", text)
    return int(not all(cheap(row) for row in rows))


def cheap(row: dict[str, Any]) -> bool:
    """Whether the doctor takes less than 2 %, of steps that take a millisecond."""
    return bool(row["share"] < 0.02 or row["step_ms"] < 1)


def measure(net: Net, rounds: int) -> dict[str, Any]:
    """Train a net and time the parts of each step."""
    torch.manual_seed(0)
    model, criterion = net.make(), net.criterion()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    doctor = sl.Doctor(model, criterion)
    labels = torch.arange(48) // 4
    steps: list[float] = []
    looks: dict[bool, list[float]] = {True: [], False: []}
    early: list[float] = []
    for k in range(FIRST + EVERY * rounds):
        x = torch.randn(48, *net.shape)
        start = time.perf_counter()
        f, loss = step(model, criterion, optimizer, x, labels)
        middle = time.perf_counter()
        doctor.step(f, labels, loss)
        end = time.perf_counter()
        steps.append(middle - start)
        (early if k < FIRST else looks[k % EVERY == 0]).append(end - middle)
    start = time.perf_counter()
    doctor.report()
    report = time.perf_counter() - start
    one = statistics.median(steps)
    look, count = (statistics.median(looks[kind]) for kind in (True, False))
    return {
        "net": net.name,
        "loss": net.criterion.__name__,
        "step_ms": 1e3 * one,
        "look_ms": 1e3 * look,
        "share": (look + (EVERY - 1) * count) / (EVERY * one),
        "early": statistics.mean(early) / one,
        "report_ms": 1e3 * report,
    }


def step(
    model: nn.Module,
    criterion: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    labels: Tensor,
) -> tuple[Tensor, Tensor]:
    """Take one step of training."""
    f = model(x)
    loss: Tensor = criterion(f, labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return f, loss


def table(rows: list[dict[str, Any]]) -> str:
    """Write the figures as Markdown."""
    lines = [
        "| net | loss | a step, ms | of it the doctor | in the first 60 steps | a report, ms |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['net']} | {row['loss']} | {row['step_ms']:.1f} | {row['share']:.2%} "
        f"| {row['early']:.1%} | {row['report_ms']:.0f} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"
