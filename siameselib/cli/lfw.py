"""``siameselib lfw``: Labeled Faces in the Wild, downloaded, looked at, packed."""

import argparse
import os

from siameselib.cli.words import Layout, Rooms, add_json, positive, say, sentence, several
from siameselib.data.download import ARCHIVES, download_lfw
from siameselib.data.packed import pack
from siameselib.data.report import describe
from siameselib.data.sources import ImageSource, open_folder, open_lfw

_DATA_HELP = (
    "LFW's images: the folder lfw-deepfunneled or one above it, the .tar or .tgz, or a folder with "
    "the tar and the protocol files (default: $SIAMESELIB_LFW)"
)
_FACES_HELP = "your own faces instead: a folder that holds one folder of images per person"
_SHOWN = 20


def add(rooms: Rooms) -> None:
    """Teach the parser ``lfw`` and its tasks."""
    lfw = rooms.add_parser(
        "lfw",
        help="Labeled Faces in the Wild",
        description="Labeled Faces in the Wild: get it, look at it, pack it.",
        formatter_class=Layout,
        epilog=(
            "first steps:\n"
            "  siameselib lfw download --out lfw      fetch the images and the protocol files\n"
            "  siameselib lfw info --data lfw         who and what is in it, is it complete?\n"
            "  siameselib lfw pack --data lfw --out cache --size 64\n"
            "                                         decode once, train from the pack\n"
        ),
    )
    tasks = lfw.add_subparsers(required=True, metavar="TASK")

    task = tasks.add_parser(
        "info",
        help="count images, people, pairs; find problems",
        description="Count images, people and the pairs of both views, and look for problems.",
        epilog="Exit code 1 if there are problems.",
    )
    _add_source(task)
    task.add_argument(
        "--pairs",
        metavar="FILE",
        nargs="+",
        default=[],
        help="pair lists to look up too: official files, or lines 'path1 path2 label' (1 = same)",
    )
    task.add_argument("--check", action="store_true", help="decode every image (about 15 s)")
    add_json(task)
    task.set_defaults(run=_info)

    task = tasks.add_parser(
        "pack",
        help="decode, crop and resize all images once, into one file",
        description=(
            "Decode, crop and resize all images once, into one file that training maps into "
            "memory. An up-to-date pack is left as it is; the file holds no paths and may be "
            "copied to another machine."
        ),
        formatter_class=Layout,
        epilog="example:\n  siameselib lfw pack --data lfw --out cache --size 128 --format jpeg",
    )
    _add_source(task)
    task.add_argument("--out", required=True, metavar="DIR", help="folder for the pack")
    task.add_argument(
        "--size",
        type=positive,
        metavar="PIXELS",
        default=64,
        help="side of the images (default: 64)",
    )
    task.add_argument(
        "--crop",
        type=_crop,
        metavar="PIXELS",
        help="side of the central square to keep; 0: the largest that fits (default: 150, which "
        "cuts off the black corners of LFW's aligned frames; 0 with --faces)",
    )
    task.add_argument(
        "--format",
        choices=("raw", "jpeg"),
        default="raw",
        help="raw pixels are mapped as they lie; jpeg is ten times smaller (default: raw)",
    )
    task.add_argument(
        "--workers", type=positive, metavar="N", help="threads (default: one per core)"
    )
    task.add_argument(
        "--skip-bad",
        action="store_true",
        help="leave out broken, missing, wrongly sized and non-image files instead of stopping",
    )
    add_json(task)
    task.set_defaults(run=_pack)

    task = tasks.add_parser(
        "download",
        help="fetch images and protocol files from public mirrors",
        description=(
            "Fetch images and protocol files from public mirrors. Interrupted transfers go on "
            "where they stopped; what arrives must have the published checksum. For research: "
            "please cite Huang et al., UMass TR 07-49, 2007."
        ),
    )
    task.add_argument("--out", required=True, metavar="DIR", help="folder for the files")
    task.add_argument(
        "--images",
        choices=tuple(ARCHIVES),
        default="deepfunneled",
        help="which alignment (default: deepfunneled)",
    )
    add_json(task)
    task.set_defaults(run=_download)


def _crop(text: str) -> int:
    return 0 if text == "0" else positive(text)


def _add_source(task: argparse.ArgumentParser) -> None:
    where = task.add_mutually_exclusive_group(required="SIAMESELIB_LFW" not in os.environ)
    default = os.environ.get("SIAMESELIB_LFW")
    where.add_argument("--data", metavar="PATH", default=default, help=_DATA_HELP)
    where.add_argument("--faces", metavar="DIR", help=_FACES_HELP)


def _info(args: argparse.Namespace) -> int:
    facts = describe(_open(args), pair_files=args.pairs, check=args.check, progress=True)
    most, problems = facts["most_images"], facts["problems"]
    lines = [
        f"{facts['images']:,} images of {facts['people']:,} people, "
        f"{facts['people_with_two_or_more']:,} with two or more "
        f"({most['person']} has {most['images']:,})"
    ]
    if view := facts["view_1"]:
        lines += [f"view 1, {side}: {sentence(part)}" for side, part in view.items()]
    if view := facts["view_2"]:
        lines.append(f"view 2: {sentence(view)}")
    lines += facts["notes"]
    if not args.faces and not facts["protocol_dir"]:
        lines.append("no protocol files (pairs*.txt, people*.txt) beside the images")
    for file in args.pairs:
        lines.append(f"{file}: {sentence(facts['pair_lists'][file])}")
    lines.append(
        several(problems, "problem") + ("" if args.check else " (images not decoded: --check)")
    )
    lines += [f"  {problem}" for problem in problems[:_SHOWN]]
    if len(problems) > _SHOWN:
        lines.append(f"  … {len(problems) - _SHOWN:,} more; --json lists them all")
    say(args, facts, "\n".join(lines))
    return 1 if problems else 0


def _pack(args: argparse.Namespace) -> int:
    crop = args.crop if args.crop is not None else 0 if args.faces else 150
    packed = pack(
        _open(args),
        args.out,
        size=args.size,
        crop=crop or None,
        format=args.format,
        workers=args.workers,
        skip_bad=args.skip_bad,
        progress=True,
    )
    size = packed.path.stat().st_size
    facts = {
        "path": str(packed.path),
        "bytes": size,
        "images": len(packed),
        "people": len(set(packed.identities)),
        "size": packed.size,
        "crop": packed.crop,
        "format": args.format,
        "skipped": packed.skipped,
    }
    lines = [
        f"{packed.path}: {facts['images']:,} images of {facts['people']:,} people, "
        f"{size / 1e6:.1f} MB"
    ]
    if packed.skipped:
        lines += [
            f"{several(packed.skipped, 'file')} left out",
            *(f"  {bad}" for bad in packed.skipped),
        ]
    say(args, facts, "\n".join(lines))
    return 0


def _download(args: argparse.Namespace) -> int:
    archive = download_lfw(args.out, images=args.images)
    say(args, {"path": str(archive)}, f"{archive}\nnext: siameselib lfw info --data {archive}")
    return 0


def _open(args: argparse.Namespace) -> ImageSource:
    return open_folder(args.faces) if args.faces else open_lfw(args.data)
