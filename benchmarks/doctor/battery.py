"""Does the doctor find what was planted, and is it quiet about what is well?

    python -m benchmarks doctor --out benchmarks/results/doctor --page docs/doctor.md

Trains a small script hundreds of times: with one of the planted faults, and as it should be, with
every loss, on points and on drawings. Writes every outcome as JSON and the table into the page.
"""

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from textwrap import fill
from typing import Any

import torch

import siameselib as sl
from benchmarks import pages
from benchmarks.doctor.data_faults import DATA, Redrawn, pk_batches
from benchmarks.doctor.faults import TRAINING
from benchmarks.doctor.script import LOSSES, TRAIN, Script, people, small_net
from siameselib.diagnostics import Report


def main(argv: list[str] | None = None) -> int:
    """Run the battery.

    Args:
        argv: Arguments; None takes those of the process.

    Returns:
        0 if at least 95 % of the faults were found and at most 5 % of the healthy runs alarmed.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--out", default="benchmarks/results/doctor", help="folder for the JSON")
    parser.add_argument("--page", help="page whose table is written anew")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each fault and loss")
    parser.add_argument("--first-seed", type=int, default=0)
    args = parser.parse_args(argv)
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # losses warn of some of the faults themselves
        faults = [
            {"fault": fault.code, "planted": fault.what, **outcome(fault.run, seed)}
            for fault in (*TRAINING, *DATA)
            for seed in seeds
        ]
        healthy = [
            {"run": name, **outcome(run, seed)} for name, run in wells().items() for seed in seeds
        ]
    for row in faults:
        row["found"] = row["fault"] in row["findings"]
        row["first"] = row["findings"][:1] == [row["fault"]]
    sensitivity = sum(row["found"] for row in faults) / len(faults)
    alarms = sum(bool(row["findings"]) for row in healthy) / len(healthy)
    result = {
        "sensitivity": sensitivity,
        "false_alarms": alarms,
        "version": sl.__version__,
        "seeds": list(seeds),
        "faults": faults,
        "healthy": healthy,
    }
    pages.write_json(Path(args.out) / "battery.json", result)
    text = table(result)
    print(text)
    if args.page:
        pages.update(Path(args.page), "battery", text)
    return int(sensitivity < 0.95 or alarms > 0.05)


def outcome(run: Callable[[int], Report], seed: int) -> dict[str, Any]:
    """Run once; notes do not count as alarms."""
    start = time.perf_counter()
    report = run(seed)
    codes = [finding.code for finding in report.findings if finding.severity != "note"]
    return {"seed": seed, "findings": codes, "seconds": round(time.perf_counter() - start, 2)}


def wells() -> dict[str, Callable[[int], Report]]:
    """Give the runs in which nothing was planted."""
    runs: dict[str, Callable[[int], Report]] = {
        f"{loss}, {data}": lambda seed, data=data, loss=loss: Script(data, loss, seed).run()
        for data in ("gaussian", "drawings")
        for loss in LOSSES
    }
    runs["diagnose, P x K batches and a test set"] = _well_split
    runs["diagnose, pairs drawn anew"] = _well_paired
    return runs


def _well_split(seed: int) -> Report:
    torch.manual_seed(seed)
    images, labels = people("drawings", seed)
    train = labels < TRAIN
    return sl.diagnose(
        small_net("drawings"),
        pk_batches(images[train], labels[train]),
        pk_batches(images[~train], labels[~train]),
    )


def _well_paired(seed: int) -> Report:
    torch.manual_seed(seed)
    return sl.diagnose(small_net("drawings"), Redrawn(*people("drawings", seed)))


def table(result: dict[str, Any]) -> str:
    """Write the outcome as Markdown."""
    faults, healthy = result["faults"], result["healthy"]
    found, first = (sum(row[word] for row in faults) for word in ("found", "first"))
    alarmed = sum(bool(row["findings"]) for row in healthy)
    summary = (
        f"Planted faults found: {found} of {len(faults)} ({found / len(faults):.1%}); named first "
        f"on the card: {first}. Healthy runs with a finding: {alarmed} of {len(healthy)} "
        f"({alarmed / len(healthy):.1%}); seeds {result['seeds']}."
    )
    lines = [
        fill(summary, 100),
        "",
        "| finding | planted | found | first |",
        "|---|---|---|---|",
    ]
    for code, what in dict.fromkeys((row["fault"], row["planted"]) for row in faults):
        rows = [row for row in faults if (row["fault"], row["planted"]) == (code, what)]
        counts = [f"{sum(row[word] for row in rows)}/{len(rows)}" for word in ("found", "first")]
        lines.append(f"| [`{code}`](#{code}) | {what} | {' | '.join(counts)} |")
    lines += ["", "| healthy runs | runs | with a finding |", "|---|---|---|"]
    for name in dict.fromkeys(row["run"] for row in healthy):
        rows = [row for row in healthy if row["run"] == name]
        codes = sorted({code for row in rows for code in row["findings"]})
        wrong = sum(bool(row["findings"]) for row in rows)
        lines.append(f"| {name} | {len(rows)} | {wrong}{' ' if codes else ''}{', '.join(codes)} |")
    return "\n".join(lines) + "\n"
