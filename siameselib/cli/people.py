"""``siameselib verify`` and ``identify``: one question about photos, put to a trained model."""

import argparse
from typing import Any

from siameselib.cli.words import Layout, Rooms, add_json, device, positive, say
from siameselib.data.progress import bar
from siameselib.data.sources import identity, open_folder
from siameselib.evaluation import Verifier
from siameselib.evaluation.identification import RULES

_FRAMING = "Photos must be framed like the training images: there is no face detector in here."


def add(rooms: Rooms) -> None:
    """Teach the parser ``verify`` and ``identify``."""
    room = rooms.add_parser(
        "verify",
        help="do two photos show the same person?",
        description="Say whether two photos show the same person, and how likely that is.",
        formatter_class=Layout,
        epilog=f"example:\n  siameselib verify a.jpg b.jpg --model runs/lfw/model.pt\n\n{_FRAMING}",
    )
    room.add_argument("a", metavar="PHOTO", help="an image file")
    room.add_argument("b", metavar="PHOTO", help="another")
    _add_model(room)
    room.set_defaults(run=_verify)

    room = rooms.add_parser(
        "identify",
        help="who of a gallery is on a photo?",
        description=(
            "Say who of a gallery is on each photo, or that it is nobody enrolled. The gallery is "
            "a folder with one folder of photos per person, or the one saved with the model."
        ),
        formatter_class=Layout,
        epilog=(
            "example:\n"
            "  siameselib identify a.jpg b.jpg --gallery faces --model runs/lfw/model.pt\n\n"
            "The more people are enrolled, the more strangers pass the model's threshold: raise "
            f"it with\n--threshold for a large gallery.\n{_FRAMING}"
        ),
    )
    room.add_argument("photos", nargs="+", metavar="PHOTO", help="image files")
    room.add_argument("--gallery", metavar="DIR", help="default: the model's own")
    room.add_argument(
        "--threshold", type=float, metavar="T", help="accept from this score on (default: model's)"
    )
    room.add_argument(
        "--no-unknown", action="store_true", help="name the most alike, however little"
    )
    room.add_argument(
        "--rule",
        choices=RULES,
        default="max",
        help="of a person's photos take the nearest (max), the mean score, or the mean embedding "
        "(template); default: max",
    )
    room.add_argument("--top", type=positive, default=3, help="candidates to list (default: 3)")
    _add_model(room)
    room.set_defaults(run=_identify)


def _add_model(room: argparse.ArgumentParser) -> None:
    room.add_argument("--model", required=True, metavar="MODEL", help="a saved Verifier: model.pt")
    room.add_argument("--device", type=device, default="cpu", help="cpu, cuda, … (default: cpu)")
    add_json(room)


def _verify(args: argparse.Namespace) -> int:
    verdict = Verifier.load(args.model, args.device).verify(args.a, args.b)
    say(args, verdict._asdict(), str(verdict))
    return 0


def _identify(args: argparse.Namespace) -> int:
    verifier = Verifier.load(args.model, args.device)
    if args.gallery:
        _enroll(verifier, args.gallery)
    facts: list[dict[str, Any]] = []
    lines = []
    for photo in args.photos:
        found = verifier.identify(
            photo,
            unknown=not args.no_unknown,
            threshold=args.threshold,
            rule=args.rule,
            top=args.top,
        )
        candidates = [candidate._asdict() for candidate in found.candidates]
        facts.append({"photo": photo, "name": found.name, "candidates": candidates})
        lines.append(f"{photo}: {found}")
        lines += [f"  {one.score:7.3f}  {one.name}" for one in found.candidates[1:]]
    say(args, {"enrolled": len(verifier.gallery), "photos": facts}, "\n".join(lines))
    return 0


def _enroll(verifier: Verifier, folder: str) -> None:
    """Put the people of a folder into an empty gallery."""
    source = open_folder(folder)
    verifier.gallery.clear()
    people: dict[str, list[bytes]] = {}
    for name in source.names:
        people.setdefault(identity(name), []).append(source.read(name))
    with bar(len(people), True, "enrolling", unit="person") as drawn:
        for person, photos in people.items():
            try:
                verifier.enroll(person, photos)
            except ValueError as error:
                raise ValueError(f"{folder}, {person}: {error}") from error
            drawn.update(1)
