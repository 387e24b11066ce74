"""Time and memory of every batch loss against its peers, after parity.

    python -m benchmarks cpu                 what the tables in the docs show
    python -m benchmarks cpu --full          every size, hours
    python -m benchmarks cpu --tables        only draw the tables and the picture again

Parity first: loss and gradient against the dense form in float64, and every peer against it too. A
loss that fails is not timed, a peer that fails is not compared. Then every peer works in a fresh
process of its own, in turn with the others: median seconds of forward and backward, and how far
the peak of its memory grew. Every cell is written as soon as it is measured, and is not measured
again, so that the run can be stopped and taken up.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

import siameselib as sl
from benchmarks.engine import tables
from benchmarks.engine.peers import CASES, PEERS, peer
from benchmarks.engine.worker import LIMIT, batch
from siameselib.files import replacing

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "cpu"
LOSS_ERROR, GRADIENT_ERROR, PEER_ERROR = 1e-6, 1e-5, 1e-4
SIZES = (64, 256, 512, 1024, 2048, 4096, 8192)
SIZES_FULL = (*SIZES, 16384, 32768, 65536)
LARGEST = {"batch-hard": (65536, 8, 128), "batch-all": (32768, 4, 128)}  # ours alone

Cell = dict[str, Any]
KEY = ("case", "rows", "per_class", "width", "peer")


def parity(case: str) -> dict[str, float]:
    """Give each peer's error, of loss and gradient together, against the dense form in float64."""
    errors = {}
    for name in PEERS:
        loss = peer(case, name)
        if loss is None or name in {"gemm", "dense"}:
            continue
        worst = 0.0
        for rows, per_class, width in ((64, 8, 16), (110, 5, 128)):
            x, labels = batch(rows, per_class, width)
            found = _value_and_gradient(loss, x, labels)
            true = _value_and_gradient(CASES[case].dense, x.double(), labels)
            value, gradient = (
                (a - b).abs().max() / b.abs().max() for a, b in zip(found, true, strict=True)
            )
            if name == "siameselib":
                value, gradient = value / LOSS_ERROR, gradient / GRADIENT_ERROR
            else:
                value, gradient = value / PEER_ERROR, gradient / PEER_ERROR
            worst = max(worst, float(value), float(gradient))
        errors[name] = worst
    return errors


def _value_and_gradient(loss: Any, x: torch.Tensor, labels: torch.Tensor) -> tuple[Any, Any]:
    x = x.clone().requires_grad_()
    value = loss(x, labels)
    value.backward()
    return value.detach().double(), x.grad.double()


def measure(
    case: str, size: tuple[int, int, int], peers: list[str], seconds: float, threads: int
) -> list[Cell]:
    """Let the peers run in turn for about ``seconds`` each, at least three times if they can."""
    command = [sys.executable, "-m", "benchmarks.engine.worker", case]
    workers = {}
    for name in peers:
        workers[name] = subprocess.Popen(
            [*command, name, *map(str, size)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        )
    for worker in workers.values():
        worker.stdout.readline()
    times: dict[str, list[float]] = {name: [] for name in peers}
    running = set(peers)
    while running:
        for name in peers:
            if name not in running:
                continue
            worker = workers[name]
            try:
                print(file=worker.stdin, flush=True)
                answer = worker.stdout.readline()
            except BrokenPipeError:
                answer = ""
            if not answer:
                running.discard(name)
                continue
            times[name].append(float(answer))
            spent = sum(times[name])
            if spent > seconds and (len(times[name]) >= 4 or spent > 10 * seconds):
                running.discard(name)
    cells = []
    for name, worker in workers.items():
        rest, trouble = worker.communicate()
        cell: Cell = {"case": case, "peer": name, "rows": size[0], "per_class": size[1]}
        cell |= {"width": size[2], "threads": threads}
        if rest.strip():
            taken = times[name][1:] or times[name]  # the first call warms up
            cell |= {"seconds": statistics.median(taken), "calls": len(taken)}
            cell |= {"bytes": int(rest)}
        else:
            cell["failed"] = _reason(trouble)
        cells.append(cell)
    return cells


def _reason(trouble: str) -> str:
    last = trouble.strip().splitlines()[-1] if trouble.strip() else "killed"
    short = "memory" in last.lower() or "alloc" in last.lower() or last == "killed"
    return f"needs more than {LIMIT >> 30} GiB" if short else last[:200]


def grid(full: bool) -> list[tuple[str, tuple[int, int, int]]]:
    """Order the cells: what the must-show table needs first."""
    sizes, widths = (SIZES_FULL, (128, 512)) if full else (SIZES, (128,))
    return [
        (case, (rows, per_class, width))
        for width in widths
        for per_class in ((8, 4) if full else (8,))
        for rows in sizes
        for case in CASES
    ]


def key(cell: Cell) -> tuple[Any, ...]:
    """Say which cell this is."""
    return tuple(cell[name] for name in KEY)


def too_long(
    cells: dict[Any, Cell], case: str, size: tuple[int, int, int], name: str
) -> str | None:
    """Say why a peer is not asked: what it took at half the size, and how its cost grows."""
    before = cells.get((case, size[0] // 2, *size[1:], name))
    if before is None:
        return None
    if "failed" in before or "skipped" in before:
        return before.get("failed") or before["skipped"]
    if before["bytes"] * 4 > LIMIT:
        return f"would need {before['bytes'] * 4 / 2**30:.0f} GiB or more"
    if before["seconds"] > 20:
        return f"would take {before['seconds'] * 4:.0f} s or more"
    return None


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks cpu", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--full", action="store_true", help="all sizes, M = 4 and 8, D = 128, 512")
    parser.add_argument("--case", action="append", choices=list(CASES), help="only this loss")
    parser.add_argument("--rows", action="append", type=int, help="only this batch size")
    parser.add_argument("--seconds", type=float, default=2.0, help="for a peer in a cell")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--again", action="store_true", help="measure what is there, too")
    parser.add_argument("--tables", action="store_true", help="measure nothing")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    path = args.out / "engine.json"
    kept = json.loads(path.read_text()) if path.exists() else {"cells": [], "parity": {}}
    if not args.tables:
        for case in args.case or CASES:
            kept["parity"][case] = parity(case)
        kept["machine"] = machine(args.threads)
        cells = {key(cell): cell for cell in kept["cells"]}
        tasks = [task for task in grid(args.full) if task[0] in (args.case or CASES)]
        tasks = [task for task in tasks if task[1][0] in (args.rows or [task[1][0]])]
        tasks += [(case, LARGEST[case]) for case in args.case or LARGEST if case in LARGEST]
        for case, size in tasks:
            errors = kept["parity"][case]
            if errors["siameselib"] > 1:
                print(f"{case}: NOT TIMED: {errors['siameselib']:.1f} times the error allowed")
                continue
            alone = size == LARGEST.get(case)
            asked = []
            for name in PEERS[:1] if alone else PEERS:
                if errors.get(name, 0) > 1 or peer(case, name) is None:
                    continue
                cell = dict(zip(KEY, (case, *size, name), strict=True))
                if key(cell) in cells and not args.again:
                    continue
                reason = too_long(cells, case, size, name)
                if reason:
                    cells[key(cell)] = cell | {"skipped": reason}
                else:
                    asked.append(name)
            if asked:
                for cell in measure(case, size, asked, args.seconds, args.threads):
                    cells[key(cell)] = cell
                    print(describe(cell), flush=True)
            kept["cells"] = list(cells.values())
            keep(kept, path)
        keep(kept, path)
    tables.write(kept, args.out)
    print(tables.text(kept))
    return int(any(errors["siameselib"] > 1 for errors in kept["parity"].values()))


def keep(kept: dict[str, Any], path: Path) -> None:
    """Write what is known so far."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(kept, indent=1) + "\n")


def describe(cell: Cell) -> str:
    """Put a cell in a line."""
    what = f"{cell['case']:17} B {cell['rows']:6} M {cell['per_class']} D {cell['width']:3} "
    what += f"{cell['peer']:24}"
    if "failed" in cell:
        return f"{what} {cell['failed']}"
    return f"{what} {1e3 * cell['seconds']:10.2f} ms {cell['bytes'] / 2**20:9.1f} MiB"


def machine(threads: int) -> dict[str, Any]:
    """Say what this was measured on."""
    model = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--abbrev=12"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    ).stdout.strip()
    versions = {"siameselib": sl.__version__, "torch": torch.__version__}
    from importlib import metadata

    for name in ("pytorch-metric-learning", "sentence-transformers"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "processor": model,
        "threads": threads,
        "versions": versions | {"python": platform.python_version()},
        "commit": commit,
        "date": time.strftime("%Y-%m-%d"),
    }
