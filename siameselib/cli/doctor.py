"""``siameselib doctor``: what is wrong with a training, from what it left behind."""

import argparse

from siameselib.cli.words import Rooms, add_json, say
from siameselib.diagnostics import diagnose_saved


def add(rooms: Rooms) -> None:
    """Teach the parser ``doctor``."""
    room = rooms.add_parser(
        "doctor",
        help="what is wrong with a training, in words",
        description=(
            "Examine what a training left behind: the folder of a run (doctor.json, or else "
            "history.jsonl, result.json and model.pt), or an .npz file with embeddings and "
            "labels; x1, x2 and same; or scores and same, with the threshold in use."
        ),
        epilog="Exit code 1 if there is a finding worse than a note.",
    )
    room.add_argument("path", metavar="RUN_DIR|EMB.npz", help="the folder or the file")
    add_json(room)
    room.set_defaults(run=_doctor)


def _doctor(args: argparse.Namespace) -> int:
    report = diagnose_saved(args.path)
    say(args, report.as_dict(), str(report))
    return int(report.sick)
