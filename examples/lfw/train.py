"""Train a siamese net on Labeled Faces in the Wild, or on drawings, and judge it honestly.

    python examples/lfw/train.py --data synthetic
    python examples/lfw/train.py --data path/to/lfw --image-size 64
    torchrun --nproc-per-node 8 examples/lfw/train.py --data path/to/lfw --image-size 128

One loop, no framework. All lands in --out: result.json, history.jsonl, model.pt (for verify.py),
checkpoint.pt (for --resume), pictures, and report.html, which has it all on one page.
"""

import argparse
import json
import math
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from checkpoint import resume, save
from learner import Learner
from options import read_options
from pictures import draw
from processes import PROCESSES, RANK, leave, one_by_one, part, ready, start
from task import Pairs, batches, load, prepare
from torch import Tensor
from tqdm import tqdm

import siameselib as sl
from siameselib.data import Images, Protocol
from siameselib.evaluation import Verifier, accuracy_at, auc, fit_threshold, verify_pairs
from siameselib.files import replacing
from siameselib.report import write_report

MAY_CHANGE = {"resume", "zooms", "out", "cache", "data", "command", "commit", "device", "compile"}


def train_epoch(args, epoch, steps, task, images, learner, forward, optimizer, doctor) -> dict:
    augment = learner.views()
    torch.manual_seed(hash((args.seed, epoch)) % 2**31 + RANK)
    labels = torch.from_numpy(task.labels).to(images.device)
    learner.train()
    start, seen, losses, stats = time.perf_counter(), 0, [], []
    bar = tqdm(
        batches(args, task, epoch),
        f"epoch {epoch + 1}/{args.epochs}",
        steps,
        leave=False,
        disable=True if RANK else None,
    )
    for step, (rows, target) in enumerate(bar):
        share = (epoch * steps + step + 0.5) / (args.epochs * steps)
        for group in optimizer.param_groups:
            group["lr"] = args.lr * min(1, share / 0.1) * (1 + math.cos(math.pi * share)) / 2
        rows, target = part(rows, target)
        rows = torch.from_numpy(rows).to(images.device)
        x = augment(images[rows]).contiguous(memory_format=torch.channels_last)
        loss = forward(x, torch.from_numpy(target).to(images.device), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        doctor.step(**learner.seen, loss=loss)
        seen += PROCESSES * len(rows)
        losses.append(loss.detach())
        stats.append(learner.criterion.stats)
        if step % 10 == 0:
            speed, active = seen / (time.perf_counter() - start), stats[-1].active
            bar.set_postfix(
                loss=f"{loss.item():.3f}", active=f"{active:.2f}", images_per_s=f"{speed:.0f}"
            )
    loss = torch.stack(losses).mean().item()
    if not math.isfinite(loss):
        raise ValueError(f"the loss became {loss} in epoch {epoch + 1}: try a lower --lr")
    return {
        "epoch": epoch + 1,
        "loss": loss,
        "trivial": torch.stack([batch.trivial for batch in stats]).nanmean().item(),
        "active": torch.stack([batch.active for batch in stats]).nanmean().item(),
        "images": seen,
        "seconds": time.perf_counter() - start,
        "commit": args.commit,
    }


def score(
    verifier: Verifier, images: Tensor, pairs: Pairs
) -> tuple[np.ndarray, Tensor, np.ndarray]:
    """Give the pairs' scores, and the embeddings of the images in them with their rows."""
    rows, place = np.unique(np.stack([pairs.i, pairs.j]), return_inverse=True)
    a, b = torch.from_numpy(place.reshape(2, -1))
    f = verifier.embed(images[torch.from_numpy(rows)])
    return verifier.scores(f[a], f[b]), f, rows


def run(args: argparse.Namespace, packed: Images, protocol: Protocol, out: Path) -> dict[str, Any]:
    """Train on one fold and judge on its test pairs; everything goes to ``out``."""
    torch.manual_seed(args.seed)
    task = prepare(args, packed, protocol)
    images = torch.tensor(packed.images, device=args.device)
    learner = Learner(args).to(args.device)
    optimizer = learner.optimizer()
    settings = {k: v for k, v in vars(args).items() if k not in MAY_CHANGE}
    history: list[dict[str, Any]] = []
    unfinished_view = out != Path(args.out)  # folds that an interrupted View 2 never reached
    if args.resume and not (unfinished_view and not (out / "checkpoint.pt").exists()):
        history, optimizer = resume(out, settings, learner)
    forward, doctor = ready(args, learner), sl.Doctor(learner, learner.criterion)
    steps = sum(1 for _ in batches(args, task, 0))
    for epoch in range(len(history), args.epochs):
        if epoch and epoch == args.start_epochs:
            learner.grow()
            optimizer, forward = learner.optimizer(), ready(args, learner)
        line = train_epoch(args, epoch, steps, task, images, learner, forward, optimizer, doctor)
        history.append(line)
        if RANK:
            continue
        scores, *_ = score(learner.verifier(), images, task.validation)
        same, threshold = task.validation.same, fit_threshold(scores, task.validation.same)
        line |= {
            "val_auc": auc(scores, same),
            "threshold": threshold,
            "val_accuracy": accuracy_at(scores, same, threshold)[0],
        }
        save(out, settings, learner, optimizer, history)
        doctor.validation(scores, same, threshold)
        write(out / "doctor.json", (report := doctor.report()).as_dict())
        print(
            f"epoch {epoch + 1}/{args.epochs}: loss {line['loss']:.4f}, validation AUC "
            f"{line['val_auc']:.4f}, accuracy {line['val_accuracy']:.3f}, "
            f"{line['images'] / line['seconds']:.0f} images/s; doctor: {report.summary}",
            flush=True,
        )
    if RANK:
        return {}
    verifier = learner.verifier(args.zooms)
    return judge(args, out, verifier, images, packed, task, protocol, history)


def judge(args, out, verifier, images, packed, task, protocol, history) -> dict[str, Any]:
    """Fit the threshold on validation pairs, judge on the test pairs, save and draw."""
    scores, *_ = score(verifier, images, task.validation)
    who = task.labels[task.validation.i], task.labels[task.validation.j]
    held_out = {name: getattr(args, name) for name in ("train_on", "holdout", "seed")}
    fitted_on = {"protocol": protocol.name, "pairs": len(scores), **held_out}
    verifier.fit(scores, task.validation.same, identities=who, **fitted_on)
    scores, embeddings, rows = score(verifier, images, task.test)
    who = task.labels[task.test.i], task.labels[task.test.j]
    found = verify_pairs(scores, task.test.same, threshold=verifier.threshold, identities=who)
    seconds = sum(line["seconds"] for line in history)
    result = {
        "protocol": protocol.name,
        "train_on": args.train_on,
        "loss": args.loss,
        "head": args.head if args.loss == "bce" else None,
        "backbone": args.backbone,
        "image_size": args.image_size,
        "seed": args.seed,
        **found.as_dict(),
        "validation_pairs": len(task.validation.same),
        "epochs": args.epochs,
        "seconds": seconds,
        "images_per_second": sum(line["images"] for line in history) / seconds,
        "device": args.device,
        "processes": PROCESSES,
        "machine": platform.processor() or platform.machine(),
        "versions": {
            "siameselib": sl.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "commit": history[-1].get("commit"),  # of the last epoch
        "judged_commit": args.commit,
        "command": args.command,
    }
    verifier.save(out / "model.pt")
    write(out / "result.json", result)
    draw(out, packed, task.test, scores, verifier, embeddings, rows, history)
    return result


def average(results: list[dict[str, Any]]) -> dict[str, Any]:
    """View 2's figure: the mean over the folds, with s / sqrt(folds) as its standard error."""
    figures = ("accuracy", "auc", "eer", "threshold", "tar_at_far", "d_prime", "n_pairs")
    folds = [{name: fold[name] for name in figures} for fold in results]
    mean = {k: float(np.mean([fold[k] for fold in folds])) for k in ("accuracy", "auc", "eer")}
    spread = np.std([fold["accuracy"] for fold in folds], ddof=1) / math.sqrt(len(folds))
    sums = ("n_pairs", "n_same", "validation_pairs", "seconds")
    summary = {
        "protocol": "lfw-view-2",
        "accuracy_se": float(spread),
        "threshold": None,
        "tar_at_far": None,
        "d_prime": None,
        "folds": folds,
    }
    return results[0] | mean | {k: sum(fold[k] for fold in results) for k in sums} | summary


def write(path: Path, result: dict[str, Any]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(result, indent=2) + "\n")


def commit() -> str | None:
    """The commit that ran, with + where files differ from it; None outside a checkout."""
    here = str(Path(__file__).parent)
    git = ["git", "-C", here, "describe", "--always", "--dirty=+", "--abbrev=12"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def main(argv: list[str] | None = None) -> int:
    args = read_options(__doc__, argv)
    args.commit = commit()
    out = Path(args.out)
    try:
        start(args)
        packed, folds = one_by_one(load, args)
        if len(folds) == 1:
            result = run(args, packed, folds[0], out)
        else:
            results = [run(args, packed, f, out / f"fold-{k}") for k, f in enumerate(folds, 1)]
            if not RANK:
                result = average(results)
                write(out / "result.json", result)
                write_report(out)
        leave()
    except KeyboardInterrupt:
        print(
            f"\ninterrupted: finished epochs are kept in {out}, go on with --resume",
            file=sys.stderr,
        )
        return 130
    except (ValueError, OSError) as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 1
    if RANK:
        return 0
    print(
        f"{result['protocol']}: accuracy {result['accuracy']:.4f} ± {result['accuracy_se']:.4f}, "
        f"AUC {result['auc']:.4f}, EER {result['eer']:.4f} on {result['n_pairs']} pairs of people "
        f"never trained on. Results, model and pictures: {out}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
