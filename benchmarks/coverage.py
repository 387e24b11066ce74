"""Do 95 % intervals hold the truth 95 % of the time when pairs share people?

    python -m benchmarks coverage                     # about 15 minutes on one core
    python -m benchmarks coverage --draws 50 --out coverage.json

Draws people with known error rates: unit embeddings around a centre of each person's own, some
people more alike others than most (the first coordinate), some with more scattered images. The
threshold and the true rates come from a million pairs of other people. Writes a table, its JSON
and, between markers, the table in docs/judging.md.
"""

import argparse
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks import pages
from siameselib.evaluation import pair_rates, tar_at_far

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "judging.md"
OUT = ROOT / "benchmarks" / "results" / "coverage.json"
WIDTH = 12
FARS = (0.05, 0.01)
RATES = ("accuracy", "far", "frr")


class Listed(NamedTuple):
    """Scores of pairs, and who is on the first and on the second images."""

    scores: NDArray[np.float64]
    first: NDArray[np.int64]
    second: NDArray[np.int64]


def population(rng: np.random.Generator, people: int, images: int) -> NDArray[np.float64]:
    """Unit embeddings (people, images, width)."""
    centre = rng.normal(size=(people, 1, WIDTH))
    centre[:, 0, 0] += np.abs(rng.normal(size=people))
    spread = np.exp(rng.normal(-0.3, 0.35, (people, 1, 1)))
    x = centre + spread * rng.normal(size=(people, images, WIDTH))
    return x / np.linalg.norm(x, axis=2, keepdims=True)


def all_of(rng: np.random.Generator, people: int, images: int) -> Listed:
    """All pairs of images."""
    x = population(rng, people, images).reshape(-1, WIDTH)
    i, j = np.triu_indices(len(x), 1)
    who = np.repeat(np.arange(people), images)
    return Listed((x[i] * x[j]).sum(1), who[i], who[j])


def some_of(rng: np.random.Generator, people: int, pairs: int) -> Listed:
    """A list, half of it same; everybody gets a turn before anybody gets the next one."""
    x, half = population(rng, people, 4), pairs // 2
    turns = np.concatenate([rng.permutation(people) for _ in range(-(-half // people))])[:half]
    first = np.concatenate([turns, rng.integers(0, people, half)])
    others = (first[half:] + rng.integers(1, people, half)) % people
    second = np.concatenate([turns, others])
    a, b = rng.integers(0, 4, pairs), rng.integers(1, 4, pairs)
    return Listed((x[first, a] * x[second, (a + b) % 4]).sum(1), first, second)


SCENARIOS: dict[str, Callable[[np.random.Generator], Listed]] = {
    "all pairs of 100 people, 3 images each": lambda rng: all_of(rng, 100, 3),
    "all pairs of 200 people, 2 images each": lambda rng: all_of(rng, 200, 2),
    "1,000 pairs of 100 people": lambda rng: some_of(rng, 100, 1000),
    "2,000 pairs of 200 people": lambda rng: some_of(rng, 200, 2000),
    "1,000 pairs of 1,700 people, as LFW's View 1": lambda rng: some_of(rng, 1700, 1000),
    "all pairs of 30 people, 4 images each (too few people)": lambda rng: all_of(rng, 30, 4),
}


def truth(rng: np.random.Generator) -> dict[float, tuple[float, float]]:
    """Threshold and false-reject rate at each false-accept rate."""
    x = population(rng, 200_000, 2)
    others = [np.roll(x[:, 1], k, axis=0) for k in range(1, 6)]
    different = np.concatenate([(x[:, 0] * other).sum(1) for other in others])
    same = (x[:, 0] * x[:, 1]).sum(1)
    cuts = {far: float(np.quantile(different, 1 - far)) for far in FARS}
    return {far: (cut, float((same < cut).mean())) for far, cut in cuts.items()}


def held(listed: Listed, far: float, threshold: float, frr: float) -> dict[str, list[bool]]:
    """Whether each interval holds the true rate: of this library, and of pairs counted alone."""
    same = listed.first == listed.second
    share = same.mean()
    true = {"accuracy": 1 - share * frr - (1 - share) * far, "far": far, "frr": frr}
    people = listed.first, listed.second
    ours, alone = (
        pair_rates(listed.scores, same, threshold, identities=identities)
        for identities in (people, None)
    )
    answers = {
        rate: [true[rate] in getattr(rates, rate) for rates in (ours, alone)] for rate in RATES
    }
    fitted = tar_at_far(listed.scores, same, far, identities=people)
    if fitted.interval is not None and fitted.threshold is not None:
        naive = pair_rates(listed.scores, same, fitted.threshold).frr
        answers["TAR at FAR"] = [1 - frr in fitted.interval, frr in naive]
    return answers


def measure(number: int, draws: int, seed: int) -> list[dict[str, Any]]:
    """Rows of one scenario: false-accept rate, and coverage of each rate."""
    true, name = truth(np.random.default_rng(seed)), list(SCENARIOS)[number]
    rng = np.random.default_rng([seed, number])
    found: dict[float, dict[str, list[list[bool]]]] = {far: {} for far in FARS}
    for _ in range(draws):
        listed = SCENARIOS[name](rng)
        for far, (threshold, frr) in true.items():
            for rate, answer in held(listed, far, threshold, frr).items():
                found[far].setdefault(rate, []).append(answer)
    rows = []
    for far in FARS:
        means = {k: np.mean(v, axis=0).tolist() for k, v in found[far].items()}
        rows.append({"pairs": name, "far": far, "draws": draws, "coverage": means})
        print(name, far, means, file=sys.stderr, flush=True)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """A table in Markdown: ours, then what the textbook interval holds."""
    lines = [
        "| pairs | true FAR | accuracy | FAR | FRR | TAR at this FAR |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [
            "{:.1f} ({:.1f})".format(*(100 * c for c in row["coverage"][rate]))
            if rate in row["coverage"]
            else "–"
            for rate in (*RATES, "TAR at FAR")
        ]
        lines.append(f"| {row['pairs']} | {row['far']:g} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Measure, print, write.

    Args:
        argv: arguments; None takes the process's.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--draws", type=int, default=1000, help="sets of people per row")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT, help="JSON; the default updates the docs")
    args = parser.parse_args(argv)
    with ProcessPoolExecutor(args.jobs) as pool:
        task = partial(measure, draws=args.draws, seed=args.seed)
        rows = [row for part in pool.map(task, range(len(SCENARIOS))) for row in part]
    print(table(rows))
    pages.write_json(args.out, {"seed": args.seed, "rows": rows})
    if args.out == OUT:
        pages.update(PAGE, "coverage", table(rows))
    return 0
