"""``siameselib embed``: a folder of photos through a trained model, into one file."""

import argparse
from pathlib import Path

import numpy as np
import torch

from siameselib.cli.embeddings import Embeddings, save
from siameselib.cli.words import Layout, Rooms, add_json, device, positive, say, several
from siameselib.data.progress import bar
from siameselib.data.sources import ImageSource, identity, open_folder, open_lfw
from siameselib.evaluation import Verifier

_SHOWN = 20


def add(rooms: Rooms) -> None:
    """Teach the parser ``embed``."""
    room = rooms.add_parser(
        "embed",
        help="embed a folder of photos with a trained model",
        description=(
            "Embed every photo of a folder with a trained model, and keep the embeddings with the "
            "photos' names and people in one .npz that NumPy reads (embeddings, names, labels)."
        ),
        formatter_class=Layout,
        epilog=(
            "example:\n"
            "  siameselib embed faces -o emb.npz --model runs/lfw/model.pt\n"
            "  siameselib evaluate emb.npz --all-pairs\n"
            "\n"
            "Photos must be framed like the training images: there is no face detector in here."
        ),
    )
    room.add_argument(
        "folder",
        metavar="FOLDER",
        help="one folder of photos per person in it; or a .tar or .tgz of LFW",
    )
    room.add_argument("-o", "--out", required=True, metavar="EMB.npz", help="the file to write")
    room.add_argument("--model", required=True, metavar="MODEL", help="a saved Verifier: model.pt")
    room.add_argument(
        "--batch-size", type=positive, default=64, metavar="N", help="photos at a time (default 64)"
    )
    room.add_argument("--device", type=device, default="cpu", help="cpu, cuda, … (default: cpu)")
    room.add_argument(
        "--skip-bad", action="store_true", help="leave out unreadable photos instead of stopping"
    )
    add_json(room)
    room.set_defaults(run=_embed)


def _embed(args: argparse.Namespace) -> int:
    source = open_folder(args.folder) if Path(args.folder).is_dir() else open_lfw(args.folder)
    verifier = Verifier.load(args.model, args.device)
    names, parts, bad = [], [], []
    with bar(len(source.names), True, "embedding") as drawn:
        for start in range(0, len(source.names), args.batch_size):
            batch = source.names[start : start + args.batch_size]
            photos = {}
            for name in batch:
                try:
                    photos[name] = _photo(verifier, source, name)
                except ValueError as error:
                    if not args.skip_bad:
                        raise
                    bad.append(str(error))
            if photos:
                pixels = np.stack(list(photos.values()))
                parts.append(verifier.embed(pixels, batch_size=args.batch_size).cpu())
                names += list(photos)
            drawn.update(len(batch))
    if not names:
        raise ValueError(f"{args.folder}: no photo could be read")
    found = torch.cat(parts).numpy()
    people = np.array([identity(name) for name in names])
    save(Embeddings(found, np.array(names), people, verifier.metric, verifier.threshold), args.out)
    facts = {
        "path": args.out,
        "images": len(names),
        "people": len(set(people.tolist())),
        "dimensions": found.shape[1],
        "skipped": bad,
    }
    lines = [
        f"{args.out}: {len(names):,} photos of {facts['people']:,} people, {found.shape[1]} "
        f"numbers each"
    ]
    if bad:
        lines += [f"{several(bad, 'photo')} left out", *(f"  {one}" for one in bad[:_SHOWN])]
        lines += [f"  … {len(bad) - _SHOWN:,} more; --json lists them all"] * (len(bad) > _SHOWN)
    say(args, facts, "\n".join(lines))
    return 0


def _photo(verifier: Verifier, source: ImageSource, name: str) -> np.ndarray:
    try:
        return verifier.prepare_photo(source.read(name))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
