"""``siameselib evaluate``: what embeddings are worth, by retrieval or by pairs."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from siameselib.cli.embeddings import Embeddings, load
from siameselib.cli.words import Layout, Rooms, add_json, positive, say
from siameselib.data.pairs import read_pairs
from siameselib.evaluation import all_pairs, evaluate_retrieval, fit_threshold, verify_pairs
from siameselib.evaluation.scores import METRICS
from siameselib.functional.distances import paired_distance
from siameselib.report import verdict


def add(rooms: Rooms) -> None:
    """Teach the parser ``evaluate``."""
    room = rooms.add_parser(
        "evaluate",
        help="judge embeddings: retrieval, a list of pairs, or all pairs",
        description=(
            "Judge embeddings. By default by retrieval: is a photo's nearest neighbour the same "
            "person? With --pairs by verification on a list, with --all-pairs on every pair."
        ),
        formatter_class=Layout,
        epilog=(
            "examples:\n"
            "  siameselib evaluate emb.npz                      nearest neighbours\n"
            "  siameselib evaluate emb.npz --all-pairs          ROC of all pairs\n"
            "  siameselib evaluate emb.npz --pairs test.txt     at the model's threshold\n"
            "  siameselib evaluate emb.npz --pairs test.txt --fit-on train.txt\n"
            "\n"
            "A threshold is never fitted on the pairs that are judged: it comes from the model, "
            "from\n--threshold, or from the pairs of --fit-on, which should show other people."
        ),
    )
    room.add_argument(
        "file", metavar="EMB.npz", help="as 'siameselib embed' writes it, or embeddings and labels"
    )
    how = room.add_mutually_exclusive_group()
    how.add_argument(
        "--pairs",
        metavar="FILE",
        help="a pair list: LFW's own files, or lines 'path1 path2 label' (1 = same)",
    )
    how.add_argument("--all-pairs", action="store_true", help="every pair of the embeddings")
    limit = room.add_mutually_exclusive_group()
    limit.add_argument(
        "--threshold", type=float, metavar="T", help="with --pairs: accept from this score on"
    )
    limit.add_argument("--fit-on", metavar="FILE", help="with --pairs: the list to fit T on")
    room.add_argument(
        "--metric",
        choices=METRICS,
        help="how embeddings are compared (default: as the model does, else euclidean)",
    )
    room.add_argument(
        "-k",
        type=positive,
        nargs="+",
        default=[1, 5, 10],
        help="precision@k and recall@k of retrieval (default: 1 5 10)",
    )
    add_json(room)
    room.set_defaults(run=_evaluate, misused=room.error)


def _evaluate(args: argparse.Namespace) -> int:
    if not args.pairs and (args.threshold is not None or args.fit_on):
        args.misused("--threshold and --fit-on come with --pairs")
    if args.fit_on and Path(args.fit_on).resolve() == Path(args.pairs).resolve():
        args.misused("--fit-on must name other pairs than --pairs")
    kept = load(args.file)
    metric = args.metric or kept.metric
    if metric == "head":
        raise ValueError(
            f"{args.file}: the model compares embeddings with its head, which is not in the file: "
            f"say --metric euclidean or --metric cosine to judge the embeddings alone"
        )
    found: Any
    if args.pairs:
        return _on_pairs(args, kept, metric)
    if args.all_pairs:
        found = all_pairs(kept.embeddings, kept.labels, metric=metric)
    else:
        found = evaluate_retrieval(kept.embeddings, kept.labels, metric=metric, k=args.k)
    say(args, found.as_dict(), str(found))
    return 0


def _on_pairs(args: argparse.Namespace, kept: Embeddings, metric: str) -> int:
    threshold, rows = args.threshold, {name: row for row, name in enumerate(kept.names.tolist())}
    if len(rows) < len(kept.names):
        names, counts = np.unique(kept.names, return_counts=True)
        twice = names[counts > 1][0]
        raise ValueError(f"{args.file}: names must differ to be looked up, got {twice!r} twice")
    scores, same, people = _scores(args.pairs, kept, rows, metric)
    notes = []
    if args.fit_on:
        fit_scores, fit_same, fit_people = _scores(args.fit_on, kept, rows, metric)
        threshold = fit_threshold(fit_scores, fit_same)
        both = np.intersect1d(np.concatenate(people), np.concatenate(fit_people))
        if len(both):
            who = "1 person is" if len(both) == 1 else f"{len(both):,} people are"
            notes.append(f"{who} in both lists ({both[0]} …): this flatters.")
    elif threshold is None and metric == kept.metric:
        threshold = kept.threshold
    if threshold is None:
        raise ValueError(
            f"{args.file} holds no threshold for the {metric} metric: say --threshold T, or "
            f"--fit-on a list of other pairs"
        )
    found = verify_pairs(scores, same, threshold=threshold, identities=people)
    said = [*verdict(found.as_dict()), *notes]
    say(args, {**found.as_dict(), "verdict": said}, "\n".join([str(found), *said]))
    return 0


def _scores(
    file: str, kept: Embeddings, rows: dict[str, int], metric: str
) -> tuple[NDArray[np.float64], NDArray[np.bool_], tuple[NDArray[Any], NDArray[Any]]]:
    """Scores of the listed pairs, which are the same, and who is on each side."""
    pairs = read_pairs(file)
    sides = [pair.a for pair in pairs], [pair.b for pair in pairs]
    lost = sorted({name for side in sides for name in side if name not in rows})
    if lost:
        more = f" and {len(lost) - 1:,} more are" if len(lost) > 1 else " is"
        raise ValueError(f"{file}: {lost[0]}{more} not among the embeddings")
    i, j = (np.array([rows[name] for name in side]) for side in sides)
    x = torch.from_numpy(kept.embeddings)
    distance = paired_distance(x[torch.from_numpy(i)], x[torch.from_numpy(j)], metric=metric)
    # The scores of a Verifier: the cosine itself, or minus the distance.
    scores = (1 - distance if metric == "cosine" else -distance).double().numpy()
    same = np.array([pair.same for pair in pairs])
    return scores, same, (kept.labels[i], kept.labels[j])
