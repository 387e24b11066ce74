"""Write what a verifier kept of its promise into docs/judging.md.

python examples/lfw/judge.py runs/people/model.pt --data path/to/lfw --out runs/judged
cp runs/judged/judged.json benchmarks/results/judged.json
python -m benchmarks judged
"""

import argparse
import json
from pathlib import Path
from textwrap import fill
from typing import Any

from benchmarks import pages

ROOT = Path(__file__).parents[1]
PAGE, RESULT = ROOT / "docs" / "judging.md", ROOT / "benchmarks" / "results" / "judged.json"


def text(found: dict[str, Any]) -> str:
    """Say in Markdown what examples/lfw/judge.py found."""
    lines = ["| figure | held-out people (fitted) | test people |", "|---|---|---|"]
    for rate in ("far", "frr"):
        sides = [_interval(found[side][rate]) for side in ("held_out", "pairs")]
        lines.append(f"| {rate.upper()} | {sides[0]} | **{sides[1]}** |")
    held = found["pairs"]["far"]["low"] <= 0.01 <= found["pairs"]["far"]["high"]
    lines += [
        "",
        f"The realised rate {'holds' if held else 'does not hold'} the 1 % in its interval. The "
        "probabilities, with what was seen:",
        "",
        "| said | seen | pairs |",
        "|---|---|---|",
    ]
    for each in found["reliability"]["bins"]:
        seen = each["observed"]
        lines.append(f"| {each['predicted']:.3f} | {_interval(seen, 3)} | {seen['n']:,} |")
    who, loss = found["identification"], found["cllr"] - found["min_cllr"]
    lines += [
        "",
        f"The expected calibration error is {found['reliability']['error']:.3f} and Cllr "
        f"{found['cllr']:.3f}, of which calibration is to blame for {loss:.3f}.",
        "",
        f"Of {who['n_enrolled']:,} photographs of {who['n_people']} enrolled people, "
        f"{who['cmc'][0]:.1%} are named rightly at rank 1 and {who['cmc'][9]:.1%} within ten. At "
        f"the threshold for pairs {who['named_at_threshold']:.1%} of them are named rightly, but "
        f"{who['let_in']:.1%} of {who['n_strangers']:,} photographs of strangers pass too, for "
        f"each met {who['n_gallery']} enrolled photographs; with one stranger in ten let through "
        f"(`dir_at_far`), {who['dir_at_far']['0.1']['value']:.1%} are.",
    ]
    return "\n".join(line if line.startswith("|") else fill(line, 100) for line in lines)


def _interval(rate: dict[str, float], digits: int = 4) -> str:
    return "{:.{d}f} ({:.{d}f} to {:.{d}f})".format(
        rate["value"], rate["low"], rate["high"], d=digits
    )


def main(argv: list[str] | None = None) -> int:
    """Write the page anew; return the exit status."""
    argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0]).parse_args(argv)
    pages.update(PAGE, "judged", text(json.loads(RESULT.read_text())))
    return 0
