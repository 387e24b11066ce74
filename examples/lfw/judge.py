"""Fit a trained net at a false-accept rate and see whether it keeps it on people never seen.

    python examples/lfw/judge.py runs/people/model.pt --data path/to/lfw --far 0.01

Fits threshold and calibration on pairs of the training people that the trainer held out (the model
says who they were), then judges on the test people of View 1: error rates with intervals, the
reliability of the probabilities, and who is who among enrolled people and strangers.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from task import prepare
from torch import Tensor

from siameselib.data import PackedImages, View1, open_lfw, pack
from siameselib.evaluation import (
    Verifier,
    cllr,
    evaluate_identification,
    min_cllr,
    pair_rates,
    reliability,
    to_llr,
    verify_pairs,
)
from siameselib.files import replacing
from siameselib.samplers import PairSampler

ENROLLED = 3  # photos of each person in the gallery


class People:
    """Some rows of the packed images, embedded once, and pairs drawn from them."""

    def __init__(self, verifier: Verifier, packed: PackedImages, rows: np.ndarray) -> None:
        self.verifier, self.rows = verifier, rows
        self.labels, self.names = packed.labels[rows], np.array(packed.identities)[rows]
        self.embeddings = verifier.embed(packed.images[rows])

    def pairs(self, n: int, seed: int) -> tuple[np.ndarray, np.ndarray, Any]:
        """Scores of n pairs, half of them same; ``same``; who is on them."""
        size = min(100, len(self.rows))
        drawn = PairSampler(self.labels, batch_size=size, num_batches=n // size, seed=seed)
        i, j, same = map(np.concatenate, zip(*drawn, strict=True))
        return self.verifier.scores(self.embeddings[i], self.embeddings[j]), same, self.on(i, j)

    def on(self, i: np.ndarray, j: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.names[i], self.names[j]


def gallery(people: People) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the photos to enroll, and of the probes: the other photos of those enrolled."""
    order = np.argsort(people.labels, kind="stable")
    sizes = np.unique(people.labels, return_counts=True)[1]
    number = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    several = np.repeat(sizes, sizes) > ENROLLED
    return order[several & (number < ENROLLED)], order[~several | (number >= ENROLLED)]


def identify(verifier: Verifier, people: People) -> dict[str, Any]:
    """Name the test people's photos from a gallery, in bulk and one by one."""
    enrolled, probes = gallery(people)
    x, y = people.embeddings, people.labels
    found = evaluate_identification(x[probes], y[probes], x[enrolled], y[enrolled])
    print(f"gallery: {found}")
    known = np.isin(y[probes], y[enrolled])
    best = x[probes] @ x[enrolled].T  # cosines
    top = best.max(1)
    right = y[enrolled][top.indices.numpy()] == y[probes]
    accepted = top.values.numpy() >= verifier.threshold
    let_in, named = accepted[~known].mean(), (accepted & right)[known].mean()
    print(
        f"at the threshold for pairs: {named:.3f} of the enrolled are named rightly, "
        f"{let_in:.3f} of the strangers pass (each meets {found.n_people} people)"
    )
    return {**found.as_dict(), "named_at_threshold": float(named), "let_in": float(let_in)}


def held_out_by(verifier: Verifier, protocol: str) -> dict[str, Any]:
    """The trainer's options that say which people of the protocol it kept for validation."""
    known = verifier.fitted_on
    if known.get("protocol") != protocol:
        got = f"a model fitted on {known.get('protocol', 'pairs of unknown origin')}"
        raise ValueError(f"the model must come from train.py on {protocol}, got {got}")
    try:
        return {name: known[name] for name in ("train_on", "holdout", "seed")}
    except KeyError as missing:
        raise ValueError(f"the model does not say its {missing}: train it again") from None


def run(args: argparse.Namespace) -> dict[str, Any]:
    verifier = Verifier.load(args.model)
    if verifier.metric != "cosine":
        raise ValueError(f"judge.py is for nets that compare by cosine, got {verifier.metric}")
    source = open_lfw(args.data)
    if source.protocol_dir is None:
        raise ValueError(f"{args.data} holds no pairs*.txt files: put LFW's protocol files there")
    crop = round(250 * verifier.crop)
    packed = pack(source, args.cache, size=verifier.size, crop=crop, progress=True)
    view = View1(source.protocol_dir)
    kept = held_out_by(verifier, view.name)
    task = prepare(argparse.Namespace(**kept), packed, view)
    held_out = np.setdiff1d(view.train.people_rows(packed), task.rows)
    view.check_training(packed.names[row] for row in held_out)
    fit, test = (
        People(verifier, packed, rows) for rows in (held_out, view.test.people_rows(packed))
    )
    scores, same, who = fit.pairs(args.pairs, kept["seed"])
    verifier.fit(
        scores, same, far=args.far, calibration=args.calibration, identities=who,
        protocol=view.name, people=len(set(fit.names)), pairs=len(scores), **kept,
    )  # fmt: skip
    fitted = pair_rates(scores, same, verifier.threshold, identities=who)
    print(f"fitted on {len(scores):,} pairs of {len(set(fit.names))} people held out: {fitted}")
    scores, same, who = test.pairs(args.pairs, kept["seed"] + 1)
    rates = pair_rates(scores, same, verifier.threshold, identities=who)
    print(f"{len(scores):,} pairs of {len(set(test.names)):,} test people: {rates}")
    probabilities = verifier.calibration(scores)
    diagram = reliability(probabilities, same, identities=who)
    llr = to_llr(probabilities)
    print(f"{diagram}\nCllr {cllr(llr, same):.3f}, at best {min_cllr(scores, same):.3f}")
    place = {row: k for k, row in enumerate(test.rows.tolist())}
    i, j = (np.array([place[row] for row in side]) for side in (task.test.i, task.test.j))
    f: Tensor = test.embeddings
    listed = verify_pairs(
        verifier.scores(f[i], f[j]), task.test.same, threshold=verifier.threshold,
        fars=(0.1, 0.01), identities=test.on(i, j),
    )  # fmt: skip
    print(f"the listed test pairs: {listed}")
    result = {
        "fitted_on": verifier.fitted_on,
        "threshold": verifier.threshold,
        "held_out": {"far": vars(fitted.far), "frr": vars(fitted.frr)},
        "pairs": {"n": len(scores), "far": vars(rates.far), "frr": vars(rates.frr)},
        "reliability": diagram.as_dict(),
        "cllr": cllr(llr, same),
        "min_cllr": min_cllr(scores, same),
        "listed": listed.as_dict(),
        "identification": identify(verifier, test),
    }
    if args.out:
        out = Path(args.out)
        verifier.save(out / "verifier.pt")
        with replacing(out / "judged.json") as temporary:
            temporary.write_text(json.dumps(result, indent=1) + "\n")
    return result


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n", 1)[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("model", help="model.pt, as train.py writes it")
    add("--data", required=True, help="LFW as folder or tar")
    add("--cache", default="cache", help="folder for packed images")
    add("--far", type=float, default=0.01, help="false-accept rate to allow")
    kinds = ("platt", "beta", "isotonic")
    add("--calibration", choices=kinds, default="platt", help="what makes probabilities of scores")
    add("--pairs", type=int, default=20_000, help="to fit on, and to judge on; half are same")
    add("--out", help="folder for verifier.pt and judged.json")
    try:
        run(parser.parse_args(argv))
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError) as error:
        print(f"judge.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    torch.manual_seed(0)
    sys.exit(main())
