"""``siameselib info``: what is in a file of this library's."""

import argparse
import contextlib
import json
import zipfile
from pathlib import Path
from typing import Any

from siameselib.cli.embeddings import load
from siameselib.cli.words import Layout, Rooms, add_json, say
from siameselib.data.packed import NotAPack, PackedImages
from siameselib.evaluation import Verifier
from siameselib.report import verdict


def add(rooms: Rooms) -> None:
    """Teach the parser ``info``."""
    room = rooms.add_parser(
        "info",
        help="what is in a model, a pack, embeddings, or the folder of a run?",
        description=(
            "Say what is in a file: a saved model (.pt), packed images (.pack), embeddings (.npz), "
            "a result.json or the folder of a run, with its verdict in words."
        ),
        formatter_class=Layout,
        epilog="examples:\n  siameselib info runs/lfw/model.pt\n  siameselib info runs/lfw",
    )
    room.add_argument("file", metavar="FILE", help="the file, or the folder of a run")
    add_json(room)
    room.set_defaults(run=_info)


def _info(args: argparse.Namespace) -> int:
    path = Path(args.file)
    if path.is_dir():
        path /= "result.json"
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    facts, lines = _read(path)
    say(args, facts, "\n".join([f"{path}: {lines[0]}", *lines[1:]]))
    return 0


def _read(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Facts and sentences about the file; what it is, is told by its content."""
    if path.suffix == ".json":
        return _result(path)
    with contextlib.suppress(NotAPack):
        return _pack(PackedImages.open(path))
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith(".npy") for name in archive.namelist()):
                return _embeddings(path)
        return _model(Verifier.load(path))
    known = "a saved model, a pack, embeddings (.npz) or a result.json"
    raise ValueError(f"{path} must be {known}, got something else, or a file that was cut short")


def _result(path: Path) -> tuple[dict[str, Any], list[str]]:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error})") from error
    if not isinstance(result, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(result).__name__}")
    said = verdict(result)
    head = f"the result of a run, protocol {result.get('protocol', 'unknown')}"
    return {"kind": "result", **result, "verdict": said}, [head, *said]


def _pack(packed: PackedImages) -> tuple[dict[str, Any], list[str]]:
    people = len(set(packed.identities))
    crop = f"the central {packed.crop} pixels" if packed.crop else "the largest square"
    facts = {
        "kind": "pack",
        "images": len(packed),
        "people": people,
        "size": packed.size,
        "crop": packed.crop,
        "format": packed.manifest["format"],
        "skipped": packed.skipped,
    }
    lines = [
        f"a pack of {len(packed):,} images of {people:,} people",
        f"{packed.size}×{packed.size} pixels of {crop}, {facts['format']}",
    ]
    return facts, lines + ([f"{len(packed.skipped)} files left out"] if packed.skipped else [])


def _embeddings(path: Path) -> tuple[dict[str, Any], list[str]]:
    kept = load(path)
    n, d = kept.embeddings.shape
    people = len(set(kept.labels.tolist()))
    facts = {
        "kind": "embeddings",
        "images": n,
        "people": people,
        "dimensions": d,
        "metric": kept.metric,
        "threshold": kept.threshold,
    }
    limit = "no threshold" if kept.threshold is None else f"threshold {kept.threshold:.4g}"
    lines = [
        f"{n:,} embeddings of {people:,} people, {d} numbers each",
        f"metric {kept.metric}, {limit}",
    ]
    return facts, lines


def _model(verifier: Verifier) -> tuple[dict[str, Any], list[str]]:
    parameters = sum(p.numel() for p in verifier.backbone.parameters())
    backbone = type(verifier.backbone).__name__
    facts = {
        "kind": "verifier",
        "backbone": backbone,
        "parameters": parameters,
        "head": None if verifier.head is None else type(verifier.head).__name__,
        "size": verifier.size,
        "crop": verifier.crop,
        "metric": verifier.metric,
        "flip": verifier.flip,
        "zooms": verifier.zooms,
        "threshold": verifier.threshold,
        "fitted_on": verifier.fitted_on,
        "gallery": {name: len(images) for name, images in verifier.gallery.items()},
    }
    lines = [
        f"a verifier, {backbone} with {parameters:,} parameters"
        + (f", {facts['head']}" if facts["head"] else ""),
        f"takes the central {100 * verifier.crop:.0f} % of a photo, at {verifier.size} pixels"
        + (", and its mirror image" if verifier.flip else "")
        + (f", at {len(verifier.zooms)} scales" if len(verifier.zooms) > 1 else ""),
        f"compares by {verifier.metric}, "
        + (
            "not fitted yet: it has no threshold"
            if verifier.threshold is None
            else f"the same from {verifier.threshold:.4g} on"
        ),
    ]
    if verifier.fitted_on:
        known = ", ".join(f"{name} {value}" for name, value in verifier.fitted_on.items())
        lines.append(f"fitted on {known}")
    if verifier.gallery:
        lines.append(f"{len(verifier.gallery):,} people enrolled")
    return facts, lines
