"""What the tasks share: numbers in, sentences or JSON out."""

import argparse
import json
from typing import Any, TypeAlias

import torch

Rooms: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


class Layout(argparse.HelpFormatter):
    """Wraps descriptions; a text that has lines of its own keeps them."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if "\n" in text:
            return text
        return super()._fill_text(text, width, indent)


def positive(text: str) -> int:
    """Read a whole number above 0."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, got {text!r}")
    return int(text)


def device(text: str) -> str:
    """Read the name of a device that is there."""
    try:
        torch.zeros(1, device=text).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        message = f"must be a device of this machine, got {text!r} ({reason})"
        raise argparse.ArgumentTypeError(message) from None
    return text


def add_json(task: argparse.ArgumentParser) -> None:
    """Add ``--json``, which `say` obeys."""
    task.add_argument("--json", action="store_true", help="machine-readable output")


def say(args: argparse.Namespace, facts: dict[str, Any], text: str) -> None:
    """Print the facts, as JSON if the user asked for it."""
    print(json.dumps(facts, indent=2) if args.json else text)


def sentence(counts: dict[str, int]) -> str:
    """Put counts into words: ``{"pairs_of_people": 2}`` is "2 pairs of people"."""
    return ", ".join(f"{count:,} {what.replace('_', ' ')}" for what, count in counts.items())


def several(things: list[str], word: str) -> str:
    """Count things: "no problems", "1 problem", "2 problems"."""
    return f"{len(things) or 'no'} {word}{'' if len(things) == 1 else 's'}"
