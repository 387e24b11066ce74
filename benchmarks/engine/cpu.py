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
import functools
import json
import multiprocessing
import platform
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

import torch

import siameselib as sl
from benchmarks import pages
from benchmarks.engine import tables
from benchmarks.engine.peers import CASES, PACKAGES, PEERS, peer
from benchmarks.engine.worker import LIMIT, TURN, batch, serve

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
    workers = {name: Worker(case, name, size, threads) for name in peers}
    running = list(workers.values())
    while running:
        for worker in running:
            worker.run()
        running = [worker for worker in running if not worker.done(seconds)]
    described = dict(zip(KEY[:4], (case, *size), strict=True)) | {"threads": threads}
    described["commit"] = commit()
    return [described | {"peer": name} | worker.end() for name, worker in workers.items()]


class Worker:
    """A process that runs one peer on request."""

    def __init__(self, case: str, name: str, size: tuple[int, int, int], threads: int) -> None:
        """Fork it from a process that has loaded every library, and wait until it is ready."""
        forking = multiprocessing.get_context("forkserver")
        forking.set_forkserver_preload(["benchmarks.engine.worker", *PACKAGES.values()])
        self.pipe, theirs = forking.Pipe()
        self.process = forking.Process(target=serve, args=(theirs, case, name, size, threads))
        self.process.start()
        theirs.close()
        self.times: list[float] = []
        self.trouble = ""
        self.hear()

    def hear(self, *request: bool) -> Any:
        """Ask and wait for its answer; text is what went wrong."""
        try:
            for each in request:
                self.pipe.send(each)
            answer = self.pipe.recv()
        except (EOFError, ConnectionError):
            answer = "killed"
        if isinstance(answer, str):
            self.trouble = answer
        return answer

    def run(self) -> None:
        """Let it run forward and backward for a turn."""
        if not self.trouble:
            answer = self.hear(True)
            if not self.trouble:
                self.times.append(answer)

    def done(self, seconds: float) -> bool:
        """Whether it has run often or long enough, or cannot run."""
        spent = sum(max(each, TURN) for each in self.times)
        enough = spent > seconds and (len(self.times) >= 4 or spent > 10 * seconds)
        return enough or bool(self.trouble)

    def end(self) -> Cell:
        """Stop it and give what was measured."""
        memory = 0
        if not self.trouble:
            memory = self.hear(False)
        self.process.join()
        if self.trouble:
            return {"failed": _reason(self.trouble)}
        taken = self.times[1:] or self.times  # the first turn warms up
        return {"seconds": statistics.median(taken), "calls": len(taken), "bytes": memory}


def _reason(trouble: str) -> str:
    last = trouble.strip().splitlines()[-1]
    short = "memory" in last.lower() or "alloc" in last.lower() or last == "killed"
    return f"needs more than {LIMIT >> 30} GiB" if short else last[:200]


def grid(args: argparse.Namespace) -> list[tuple[str, tuple[int, int, int]]]:
    """Order the cells that are asked for: what the must-show table needs first."""
    sizes = args.rows or (SIZES_FULL if args.full else SIZES)
    widths = args.width or ((128, 512) if args.full else (128,))
    counts = args.per_class or ((8, 4) if args.full else (8,))
    return [
        (case, (rows, per_class, width))
        for width in widths
        for per_class in counts
        for rows in sizes
        for case in args.case or CASES
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
    parser.add_argument("--rows", action="append", type=int, help="only this batch size, B")
    parser.add_argument("--per-class", action="append", type=int, help="rows of a class, M")
    parser.add_argument("--width", action="append", type=int, help="only this width, D")
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
        tasks = grid(args)
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
            pages.write_json(path, kept)
        pages.write_json(path, kept)
    tables.write(kept, args.out)
    if args.out == RESULTS:
        tables.in_page(kept, ROOT / "README.md")
    print(tables.text(kept))
    return int(any(errors["siameselib"] > 1 for errors in kept["parity"].values()))


def describe(cell: Cell) -> str:
    """Put a cell in a line."""
    what = f"{cell['case']:17} B {cell['rows']:6} M {cell['per_class']} D {cell['width']:3} "
    what += f"{cell['peer']:24}"
    if "failed" in cell:
        return f"{what} {cell['failed']}"
    return f"{what} {1e3 * cell['seconds']:10.2f} ms {cell['bytes'] / 2**20:9.1f} MiB"


@functools.cache
def commit() -> str | None:
    """Name the commit, with a + where something but results has changed since."""
    try:
        named, changed = (
            subprocess.run(["git", *words], capture_output=True, text=True, cwd=ROOT, check=True)
            for words in (
                ("rev-parse", "--short=12", "HEAD"),
                ("status", "--porcelain", "-uno", "--", ".", ":!benchmarks/results", ":!README.md"),
            )
        )
    except (OSError, subprocess.CalledProcessError):
        return None  # no clone
    return named.stdout.strip() + "+" * bool(changed.stdout)


def machine(threads: int) -> dict[str, Any]:
    """Say what this was measured on."""
    model = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
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
        "date": time.strftime("%Y-%m-%d"),
    }
