"""The command line of train.py."""

import argparse
import sys

import torch
from task import BATCH_LOSSES, PAIR_LOSSES


def read_options(about: str, argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=about.split("\n", 1)[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add, yes_no = parser.add_argument, argparse.BooleanOptionalAction
    add("--data", default="synthetic", help="LFW as folder or tar, 'download', or 'synthetic'")
    add("--cache", default="cache", help="folder for packed images and downloads")
    add("--out", default="runs/lfw", help="folder for results, model and pictures")
    add("--view", type=int, choices=(1, 2), default=1, help="LFW's protocol: develop, or report")
    add(
        "--train-on",
        choices=("people", "pairs"),
        default="people",
        help="identity labels of the training people, or only the listed training pairs",
    )
    add("--loss", choices=PAIR_LOSSES + BATCH_LOSSES, default="supcon")
    add(
        "--head",
        choices=("concat", "interaction", "distance"),
        default="interaction",
        help="what judges a pair under --loss bce",
    )
    add("--backbone", choices=("c19",), default="c19")
    add("--normalize", action=yes_no, help="unit embeddings; default: not for bce, contrastive")
    add("--margin", type=float, help="default: 1 for contrastive, 0.2 for triplets")
    add("--temperature", type=float, default=0.1)
    add("--image-size", type=int, help="pixels, a multiple of 8; default: 64, drawings 32")
    add("--start-size", type=int, default=32, help="image size of the first --start-epochs")
    add("--start-epochs", type=int, default=0, help="epochs at --start-size, which cost less")
    add("--crop", type=int, default=150, help="central part of LFW's 250 x 250 frames that is used")
    add("--augment", action=yes_no, default=True, help="flip, shift, scale, rotation, light")
    add("--strength", type=float, default=1.0, help="scales shift, zoom, rotation and light")
    add("--erase", type=float, default=0.0, help="share of the images that lose a rectangle")
    add(
        "--self-pairs",
        type=float,
        default=0.0,
        help="share of the images that have no partner (single-image people of a batch, images of "
        "different-pairs alone) that come as two views of themselves, a same-pair",
    )
    zooms = (
        "scales at which the trained net sees a photo, such as 0.9 1 1.1; it costs as many passes"
    )
    add("--zooms", type=float, nargs="+", default=[1.0], help=zooms)
    add("--epochs", type=int, default=20)
    add("--batch-size", type=int, default=64, help="pairs per step, for a loss on pairs")
    add("--people-per-batch", type=int, default=24, help="P, for a loss on labelled batches")
    add("--images-per-person", type=int, default=4, help="K, for a loss on labelled batches")
    add("--singletons", type=int, help="single-image people in such a batch; default: 24 or all")
    add("--lr", type=float, default=1e-3)
    add("--weight-decay", type=float, default=0.05)
    add("--holdout", type=float, default=0.1, help="share of the training people for validation")
    add("--seed", type=int, default=0)
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--amp", action=yes_no, help="bfloat16; default: where the chip has it")
    add("--compile", action=yes_no, default=False)
    add("--skip-bad", action="store_true", help="leave unreadable images out")
    add("--resume", action="store_true", help="go on from the last finished epoch in --out")
    args = parser.parse_args(argv)
    if args.loss in BATCH_LOSSES and args.train_on == "pairs":
        parser.error(f"--loss {args.loss} needs identity labels: use --train-on people")
    if args.loss == "bce" and args.normalize:
        parser.error("--normalize is not for --loss bce: its heads standardise what they compare")
    if not 0 <= args.self_pairs <= 1:
        parser.error(f"--self-pairs must be from 0 to 1, got {args.self_pairs}")
    if args.self_pairs and args.train_on == "people" and args.loss in PAIR_LOSSES:
        instead = f"--train-on pairs, or a loss on batches: {', '.join(BATCH_LOSSES)}"
        parser.error(f"--self-pairs with --loss {args.loss} needs {instead}")
    if args.self_pairs and not args.augment:
        parser.error("--self-pairs needs --augment: two views of an image must differ")
    if not all(0 < zoom <= 2 for zoom in args.zooms):
        parser.error(f"--zooms must be above 0, 2 at most, got {args.zooms}")
    if args.epochs < 1:
        parser.error(f"--epochs must be at least 1, got {args.epochs}")
    if not 0 <= args.start_epochs < args.epochs:
        limit = f"at least 0 and below --epochs {args.epochs}"
        parser.error(f"--start-epochs must be {limit}, got {args.start_epochs}")
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error(f"--device {args.device}: torch finds no CUDA device here")
    if args.image_size is None:
        args.image_size = 32 if args.data == "synthetic" else 64
    if args.normalize is None:
        args.normalize = args.loss not in {"bce", "contrastive"}
    if args.margin is None:
        args.margin = 1.0 if args.loss == "contrastive" else 0.2
    if args.amp is None:
        args.amp = args.device != "cpu" or bool(torch.cpu.get_capabilities().get("avx512_bf16"))
    args.command = command(sys.argv[1:] if argv is None else argv)
    return args


def command(given: list[str]) -> str:
    """The command line that repeats a run, without the folders of this machine."""
    words = [word for option in given for word in option.split("=", 1)]
    folders = [k + 1 for k, word in enumerate(words[:-1]) if word in {"--cache", "--out"}]
    kept = [w for k, w in enumerate(words) if k not in folders and k + 1 not in folders]
    if "--data" in kept and kept[kept.index("--data") + 1] not in {"synthetic", "download"}:
        kept[kept.index("--data") + 1] = "path/to/lfw"
    return " ".join(["python examples/lfw/train.py", *(w for w in kept if w != "--resume")])
