"""What the scripts share: faces to train and judge on, the the steps of a training, the table."""

import argparse
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import siameselib as sl
from siameselib import plot
from siameselib.data import View1, open_lfw, pack, prepare, synthetic_faces, synthetic_view
from siameselib.evaluation import accuracy_at, auc, fit_threshold
from siameselib.plot.canvas import new_figure

AMP = bool(torch.cpu.get_capabilities().get("avx512_bf16"))
Scorer = Callable[[Tensor, Tensor], Tensor]


class Pairs(NamedTuple):
    """Pairs as rows of the images."""

    i: np.ndarray
    j: np.ndarray
    same: np.ndarray


class Faces(NamedTuple):
    """Images, what may be trained on, and pairs of two other groups of people."""

    about: str
    images: Tensor
    """uint8 (n, size, size, 3)."""
    labels: Tensor
    trained: np.ndarray
    """Rows of the people trained on."""
    listed: Pairs
    """The protocol's training pairs."""
    held: Pairs
    """Of people neither trained nor tested on: they fit the thresholds."""
    test: Pairs

    @property
    def size(self) -> int:
        """Height and width."""
        return self.images.shape[1]


class Row(NamedTuple):
    """A line of the table."""

    mode: str
    what: str
    accuracy: float
    auc: float
    loss: float
    trivial: float
    seconds: float
    finding: str


def options(about: str, epochs: int, variable: str = "SIAMESELIB_LFW") -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=about.split("\n", 1)[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add, place = parser.add_argument, os.environ.get(variable)
    add("--data", default=place, help=f"folder or tar; default: ${variable}; without: drawings")
    add("--mode", choices=("both", "written", "cured"), default="both")
    add("--epochs", type=int, default=epochs, help="of the cured runs")
    add("--seed", type=int, default=0)
    add("--out", default="runs/stuck", help="folder for pictures")
    add("--cache", default="cache", help="folder for packed images")
    add("--size", type=int, help="height and width of the images")
    return parser


def load(args: argparse.Namespace, people: int = 500, pairs: int = 4000) -> Faces:
    """Read LFW's View 1, or draw faces; a tenth of the training people is kept for thresholds."""
    if args.data is None:
        images = synthetic_faces(people=people, size=args.size or 32, seed=args.seed)
        view = synthetic_view(images, pairs=pairs, seed=args.seed)
        about = f"drawn faces, {images.size} px"
    else:
        source = open_lfw(args.data)
        if source.protocol_dir is None:
            raise SystemExit(f"{args.data} holds no pairs*.txt files: put LFW's protocol there")
        images = pack(source, args.cache, size=args.size or 64, progress=True)
        view, about = View1(source.protocol_dir), f"LFW, View 1, {images.size} px"
    rng = np.random.default_rng(args.seed)
    kept = set(rng.permutation(sorted(view.train.people))[: len(view.train.people) // 10].tolist())
    of_kept = np.array([person in kept for person in images.identities])
    of_train = np.array([person in view.train.people for person in images.identities])
    trained, free = np.flatnonzero(of_train & ~of_kept), np.flatnonzero(of_kept)
    view.check_training(images.names[row] for row in [*trained, *free])
    drawn = sl.PairSampler(images.labels[free], batch_size=2, num_batches=500, seed=args.seed)
    i, j, same = map(np.concatenate, zip(*drawn, strict=True))
    listed = Pairs(*view.train.rows(images))
    clean = ~of_kept[listed.i] & ~of_kept[listed.j]
    return Faces(
        about,
        torch.tensor(np.asarray(images.images)),
        torch.from_numpy(images.labels),
        trained,
        Pairs(*(column[clean] for column in listed)),
        Pairs(free[i], free[j], same == 1),
        Pairs(*view.test.rows(images)),
    )


def embed(backbone: nn.Module, images: Tensor) -> Tensor:
    """Embed prepared images, in bfloat16 where the chip has it."""
    with torch.autocast("cpu", torch.bfloat16, enabled=AMP):
        return backbone(images.contiguous(memory_format=torch.channels_last)).float()


def score(backbone: nn.Module, images: Tensor, pairs: Pairs, scorer: Scorer) -> np.ndarray:
    """Score pairs in evaluation mode; higher is more alike."""
    rows, place = np.unique(np.stack([pairs.i, pairs.j]), return_inverse=True)
    i, j = torch.from_numpy(place.reshape(2, -1))
    backbone.eval()
    with torch.no_grad():
        parts = torch.from_numpy(rows).split(256)
        f = torch.cat([embed(backbone, prepare(images[part])) for part in parts])
        return scorer(f[i], f[j]).flatten().double().numpy()


class Judged(NamedTuple):
    """Test pairs as a net scores them, and the threshold it is judged at."""

    accuracy: float
    auc: float
    scores: np.ndarray
    threshold: float


def judge(
    backbone: nn.Module, faces: Faces, scorer: Scorer, doctor: sl.Doctor, cut: float | None = None
) -> Judged:
    """Judge on the test pairs, at a given threshold or at one fitted on the held pairs."""
    held = score(backbone, faces.images, faces.held, scorer)
    threshold = fit_threshold(held, faces.held.same) if cut is None else cut
    doctor.validation(held, faces.held.same, threshold)
    found, same = score(backbone, faces.images, faces.test, scorer), faces.test.same
    return Judged(accuracy_at(found, same, threshold)[0], auc(found, same), found, threshold)


class Run:
    """A training with the doctor beside it, and its line of the table."""

    def __init__(self, mode: str, what: str, *parts: Any, **reading: Any) -> None:
        self.mode, self.what, self.losses, self.start = mode, what, [], time.perf_counter()
        self.follow(*parts, **reading)

    def follow(self, net, criterion, optimizer, schedule=None, **reading) -> None:
        """Go on with another net, loss or optimiser: the doctor begins anew."""
        self.optimizer, self.schedule = optimizer, schedule
        self.doctor = sl.Doctor(net, criterion, **reading)

    def step(self, loss: Tensor, *seen: Any, **shown: Any) -> None:
        """Take a step of training, and show it to the doctor."""
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if self.schedule is not None:
            self.schedule.step()
        self.doctor.step(*seen, loss, **shown)
        self.losses.append(loss.detach())
        self.seconds = time.perf_counter() - self.start

    def row(self, accuracy: float, auc: float, trivial: float) -> Row:
        """Print what the doctor says, the first finding in full; give the line."""
        report = self.doctor.report()
        print(f"\n== {self.mode}: {self.what}\n{report.subject}", flush=True)
        for name, text in report.vitals.items():
            print(f"  {name}: {text}")
        print(report.findings[0] if report.findings else "Healthy: nothing found.")
        if others := [f"{found.code} ({found.severity})" for found in report.findings[1:]]:
            print("then: " + ", ".join(others), flush=True)
        loss = torch.stack(self.losses[-max(1, len(self.losses) // 10) :]).mean().item()
        code = report.findings[0].code if report.findings else "healthy"
        return Row(self.mode, self.what, accuracy, auc, loss, trivial, self.seconds, code)


def table(about: str, chance: str, rows: Iterable[Row]) -> str:
    """Lay the rows out in Markdown."""
    lines = [
        f"\n{about}; chance: {chance}.\n",
        "| | | accuracy | AUC | loss | trivial loss | seconds | doctor's first finding |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.mode} | {row.what} | {row.accuracy:.3f} | {row.auc:.3f} | {row.loss:.4f} | "
        f"{row.trivial:.4f} | {row.seconds:.0f} | {row.finding} |"
        for row in rows
    ]
    return "\n".join(lines)


def chance(same: np.ndarray) -> str:
    """Say what guessing gives, with its standard error."""
    guess = max(np.mean(same), 1 - np.mean(same))
    return f"{guess:.3f} ± {(guess * (1 - guess) / len(same)) ** 0.5:.3f}"


def draw_scores(args: argparse.Namespace, name: str, faces: Faces, runs: dict[str, Judged]) -> None:
    """Draw the scores of the test pairs, one panel a run."""
    figure = new_figure(6.5 * len(runs), 4)
    for k, (title, found) in enumerate(runs.items(), 1):
        ax = figure.add_subplot(1, len(runs), k)
        plot.distance_histogram(found.scores, faces.test.same, found.threshold, ax=ax)
        ax.set_title(f"{title}: accuracy {found.accuracy:.3f}")
    save(args, name, figure)


def save(args: argparse.Namespace, name: str, figure: Any) -> None:
    """Write a picture into --out."""
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    plot.save(figure, out / f"{name}.png")
    print(f"picture: {out / name}.png")
