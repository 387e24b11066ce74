"""The ``siameselib`` command: one file per word that may follow it.

Each file has an ``add(rooms)`` that teaches the parser its words; what runs is ``args.run``, which
returns the exit code: 0 all well, 1 trouble found, 2 wrong usage, 130 interrupted.
"""

import argparse
import sys
from collections.abc import Callable, Sequence

import siameselib
from siameselib.cli import doctor, embed, evaluate, info, lfw, people
from siameselib.cli.words import Layout


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: arguments; None takes the process's.

    Returns:
        The exit code.
    """
    args = _parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int] = args.run
    try:
        return run(args)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (OSError, ValueError, ImportError) as error:
        print(f"siameselib: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="siameselib",
        description="Metric learning and verification in PyTorch: data, judging, and the doctor.",
        formatter_class=Layout,
        epilog=(
            "from photos to figures:\n"
            "  siameselib lfw download --out lfw                  images to train on\n"
            "  siameselib info runs/lfw                           what came of a training\n"
            "  siameselib doctor runs/lfw                         why it does not learn\n"
            "  siameselib embed faces -o emb.npz --model model.pt\n"
            "  siameselib evaluate emb.npz --all-pairs\n"
            "  siameselib verify a.jpg b.jpg --model model.pt\n"
            "  siameselib identify a.jpg --gallery faces --model model.pt\n"
            "\n"
            "exit codes: 0 all well, 1 trouble found, 2 wrong usage, 130 interrupted"
        ),
    )
    parser.add_argument("--version", action="version", version=siameselib.__version__)
    rooms = parser.add_subparsers(required=True, metavar="ROOM")
    for room in (doctor, embed, evaluate, info, lfw, people):
        room.add(rooms)
    return parser
