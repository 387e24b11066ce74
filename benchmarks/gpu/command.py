"""What the library reaches on a GPU, part by part.

    python -m benchmarks gpu                      everything, in about eight minutes
    python -m benchmarks gpu --part losses        only that
    python -m benchmarks gpu --part tiles         try shapes of tiles, to choose the kernels' own
    python -m benchmarks gpu --minutes 3          stop after that; the same command goes on
    python -m benchmarks gpu --tables             only draw tables and pictures again

Device, versions and clocks are written down; then come the ceilings (copies, matrix products),
parity with the dense form in float64 (what fails it is not timed), training, and every loss at
every size against its peers; a peer that fails stops nothing. Each figure is written as soon as it
is measured, and not measured again on the same device with the same versions at the same commit;
figures of another are replaced. ``--device cpu`` tries the command out; it needs an ``--out`` of
its own.
"""

import argparse
import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

import siameselib as sl
from benchmarks import pages
from benchmarks.engine.cpu import ROOT, commit
from benchmarks.engine.peers import CASES
from benchmarks.gpu import losses, tables, tiles, training
from benchmarks.gpu.ceilings import ceilings
from benchmarks.gpu.clock import Clock

RESULTS = ROOT / "benchmarks" / "results" / "gpu"
PARTS = ("ceilings", "parity", "training", "losses")
TUNING = "tiles"  # only when asked for
KEY = ("case", "rows", "per_class", "width", "peer")
CASES_ON_GPU = [name for name in CASES if name in losses.SWEEPS]


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--part", action="append", choices=(*PARTS, TUNING), help="only this part")
    parser.add_argument("--case", action="append", choices=CASES_ON_GPU, help="only this loss")
    parser.add_argument("--rows", action="append", type=int, help="only this batch size")
    parser.add_argument("--width", action="append", type=int, help="only this dimension")
    parser.add_argument("--minutes", type=float, default=8.0, help="after which nothing is begun")
    parser.add_argument("--seconds", type=float, default=0.2, help="for a figure")
    parser.add_argument("--image-size", type=int, default=128, help="of the training")
    parser.add_argument("--pairs", type=int, default=64, help="in a batch of the training")
    parser.add_argument("--steps", type=int, default=40, help="of the training")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--again", action="store_true", help="measure what is there, too")
    parser.add_argument("--tables", action="store_true", help="measure nothing")
    args = parser.parse_args(argv)
    path = args.out / "gpu.json"
    kept: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    if not args.tables:
        if args.device == "cuda" and not torch.cuda.is_available():
            print(
                "python -m benchmarks gpu: torch finds no CUDA device here; "
                "--device cpu --out FOLDER tries it out",
                file=sys.stderr,
            )
            return 2
        if args.device != "cuda" and args.out == RESULTS:
            parser.error("--device cpu needs an --out of its own")
        here = machine(args.device)
        before = kept.get("machine", {})
        if args.again or before | {"date": None} != here | {"date": None}:
            kept = {"machine": here}
        Run(args, kept, path).parts()
    tables.write(kept, args.out)
    print(tables.text(kept))
    found = kept.get("parity", {}).values()
    return int(any(each.get("error", 0) > 1 or each.get("broken") for each in found))


class Run:
    """One run of the command: what is asked for, what is known, and when to stop."""

    def __init__(self, args: argparse.Namespace, kept: dict[str, Any], path: Path) -> None:
        self.args, self.kept, self.path = args, kept, path
        self.clock = Clock(args.device)
        self.end = time.monotonic() + 60 * args.minutes
        self.cases = args.case or CASES_ON_GPU

    def parts(self) -> None:
        """Measure the parts that are asked for, while there is time."""
        for part in self.args.part or PARTS:
            getattr(self, part)()

    def note(self, line: str) -> None:
        """Write down what is known so far, and say what is new."""
        pages.write_json(self.path, self.kept)
        print(line, flush=True)
        self.clock.forget()

    def late(self) -> bool:
        """Say whether the time is over."""
        return time.monotonic() > self.end

    def ceilings(self) -> None:
        """Measure what the device can do at most."""
        if "ceilings" in self.kept or self.late():
            return
        side = 8192 if self.clock.cuda else 512
        self.kept["ceilings"] = ceilings(self.clock, self.args.seconds, side)
        shown = ", ".join(f"{k} {v:.1f}" for k, v in self.kept["ceilings"].items())
        self.note(f"ceilings: {shown}")

    def parity(self) -> None:
        """Compare each backend with the dense form in float64."""
        known = self.kept.setdefault("parity", {})
        for case in self.cases:
            for backend in losses.OURS:
                name = f"{case}, {backend}"
                if name in known or self.late():
                    continue
                known[name] = losses.parity(self.clock, case, backend)
                self.note(f"parity of {name}: {known[name]}")

    def losses(self) -> None:
        """Time every loss, size and peer; what failed parity, or was not compared, is not timed."""
        cells = {self.key(cell): cell for cell in self.kept.setdefault("losses", [])}
        ceiling = self.kept.get("ceilings", {}).get("bf16_tflop_s")
        rows, widths = self.args.rows or losses.ROWS, self.args.width or losses.WIDTHS
        for cell in losses.cells(self.cases, list(rows), list(widths)):
            if self.key(cell) in cells or self.late():
                continue
            if cell["peer"] in losses.OURS:
                found = self.kept.get("parity", {}).get(f"{cell['case']}, {cell['peer']}", {})
                if found.get("error", 2) > 1:
                    continue
            reason = losses.hopeless(cells, cell, longest=4e3)
            if reason:
                cell["failed"] = reason
            else:
                cell = losses.measure(self.clock, cell, ceiling, self.args.seconds)
            cells[self.key(cell)] = cell
            self.kept["losses"] = list(cells.values())
            self.note(describe(cell))

    def training(self) -> None:
        """Count the images a second of each style of training."""
        known = self.kept.setdefault("training", {})
        for style in training.STYLES:
            if style in known or self.late():
                continue
            size, pairs, steps = self.args.image_size, self.args.pairs, self.args.steps
            known[style] = training.images_per_second(self.clock, style, size, pairs, steps)
            known[style] |= {"image_size": size, "pairs": pairs}
            self.note(f"training, {style}: {known[style]['images_per_second']:,.0f} images/s")

    def tiles(self) -> None:
        """Time the Triton kernels with tiles of other shapes."""
        known = self.kept.setdefault("tiles", [])
        done = {(cell["case"], cell["width"], *cell["shape"]) for cell in known}
        (rows,), widths = self.args.rows or (tiles.ROWS,), self.args.width or tiles.WIDTHS
        for case in [name for name in self.cases if name in tiles.KERNELS]:
            for width in widths:
                for shape in tiles.shapes(case, width):
                    if (case, width, *shape) in done or self.late():
                        continue
                    seconds = self.args.seconds / 4
                    cell = tiles.measure(self.clock, case, rows, width, shape, seconds)
                    known.append(cell)
                    shown = cell.get("failed") or f"{cell['ms']:.3f} ms"
                    self.note(f"tiles of {case}, D {width}, {shape}: {shown}")

    @staticmethod
    def key(cell: dict[str, Any]) -> tuple[Any, ...]:
        """Say which cell this is."""
        return tuple(cell[name] for name in KEY)


def describe(cell: dict[str, Any]) -> str:
    """Put a cell in a line."""
    what = f"{cell['case']:17} B {cell['rows']:8,} D {cell['width']:3} {cell['peer']:24}"
    if "failed" in cell:
        return f"{what} {cell['failed']}"
    memory = "" if cell["bytes"] is None else f"{cell['bytes'] / 2**20:10,.1f} MiB"
    return f"{what} {cell['ms']:10.3f} ms {memory}"


def machine(device: str) -> dict[str, Any]:
    """Say what this is measured on."""
    versions = {"siameselib": sl.__version__, "torch": torch.__version__}
    versions["python"] = platform.python_version()
    found: dict[str, Any] = {"device": platform.processor() or platform.machine()}
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found = {"device": properties.name, "memory_gib": round(properties.total_memory / 2**30, 1)}
        found |= {"multiprocessors": properties.multi_processor_count, "clocks": _clocks()}
        versions["cuda"] = torch.version.cuda
    try:
        import triton

        versions["triton"] = triton.__version__
    except ImportError:
        versions["triton"] = None
    return found | {"versions": versions, "commit": commit(), "date": time.strftime("%Y-%m-%d")}


def _clocks() -> str | None:
    """Give the greatest clocks that the driver allows; what it runs at changes all the time."""
    command = ["nvidia-smi", "--query-gpu=clocks.max.sm,clocks.max.mem,power.limit"]
    try:
        done = subprocess.run(
            [*command, "--format=csv,noheader"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip().splitlines()[0]
