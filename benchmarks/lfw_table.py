"""Write the LFW results table into README.md and docs/lfw.md.

Reads every JSON file under benchmarks/results/lfw/ (each a trainer's result.json) and puts one
Markdown table a protocol between the lines ``<!-- lfw-table:begin -->`` and
``<!-- lfw-table:end -->`` of each page. Runs whose commands differ only in ``--seed``,
``--out`` and the order of the options share a row.

    python -m benchmarks lfw-table            write the pages
    python -m benchmarks lfw-table --check    say which pages are out of date, exit 1 if any is
"""

import argparse
import json
import re
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks import pages

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "lfw"
PAGES = (ROOT / "README.md", ROOT / "docs" / "lfw.md")
RECIPE = ("train_on", "loss", "head", "backbone", "image_size")
MEASURED = ("n_pairs", "accuracy", "accuracy_se", "auc", "eer", "seconds", "device")
PER_RUN = re.compile(r"\s--(?:seed|out)[ =]\S+")  # what may differ between runs of one row
SHOWN = (r"(?:margin|strength|erase|self-pairs)[ =]\S+", r"zooms(?:[ =][\d.]+)+")
TELLING = re.compile(rf"--(?:{'|'.join(SHOWN)}|no-augment|normalize)(?!\S)")  # beside the loss
NEEDED = ("protocol", "seed", "command", *RECIPE, *MEASURED)
HEADER = (
    "| trained on | loss | head | net, size | accuracy, each run | mean | AUC | EER | minutes |\n"
    "|---|---|---|---|---|---|---|---|---|"
)

Result = dict[str, Any]


def read(folder: Path) -> list[Result]:
    """Load every result file of a folder and its subfolders, in the order of their names."""
    results = []
    for path in sorted(folder.rglob("*.json")):
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}: not a JSON file: {error}") from error
        missing = [key for key in NEEDED if key not in result]
        if missing:
            raise ValueError(f"{path}: lacks {', '.join(missing)}")
        results.append(result)
    return results


def table(results: list[Result]) -> str:
    """Draw one table a protocol, best row last, each followed by the rows' commands."""
    protocols = defaultdict(list)
    for result in results:
        protocols[result["protocol"]].append(result)
    return "\n\n".join(_one_table(name, runs) for name, runs in sorted(protocols.items()))


def _one_table(protocol: str, runs: list[Result]) -> str:
    groups = defaultdict(list)
    for run in runs:
        recipe = tuple(run[key] for key in RECIPE)
        options = sorted(re.split(r"\s(?=--)", PER_RUN.sub("", run["command"])))
        groups[*recipe, *options].append(run)
    rows = [sorted(group, key=lambda run: run["seed"]) for group in groups.values()]
    rows.sort(key=lambda row: mean(run["accuracy"] for run in row))
    pairs = " or ".join(f"{n:,}" for n in sorted({run["n_pairs"] for run in runs}))
    error = max(run["accuracy_se"] for run in runs)
    devices = ", ".join(sorted({run["device"] for run in runs}))
    return "\n".join(
        [
            f"`{protocol}`: {pairs} test pairs; standard error of one run's accuracy at most "
            f"{error:.3f}; device: {devices}.",
            "",
            HEADER,
            *map(_row, rows),
            "",
            "The commands, in the order of the rows (other seeds: change `--seed`):",
            "",
            "```bash",
            *(row[0]["command"] for row in rows),
            "```",
        ]
    )


def _row(row: list[Result]) -> str:
    first = row[0]
    accuracies = " ".join(f"{run['accuracy']:.3f}" for run in row)
    minutes = " ".join(f"{run['seconds'] / 60:.0f}" for run in row)
    cells = [
        first["train_on"],
        " ".join([first["loss"], *(f"`{flag}`" for flag in TELLING.findall(first["command"]))]),
        first["head"] or "–",
        f"{first['backbone']}, {first['image_size']} px",
        accuracies,
        *(f"{mean(run[key] for run in row):.3f}" for key in ("accuracy", "auc", "eer")),
        minutes,
    ]
    return "| " + " | ".join(cells) + " |"


def main(argv: list[str] | None = None) -> int:
    """Write or check the pages; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 if stale")
    check = parser.parse_args(argv).check
    content = table(read(RESULTS))
    stale = False
    for path in PAGES:
        if pages.update(path, "lfw-table", content, write=not check):
            stale = True
            print(f"{path}: {'out of date' if check else 'written'}")
    return int(check and stale)
