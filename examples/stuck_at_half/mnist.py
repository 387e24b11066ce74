"""MNIST triplets: as the tutorial wrote them, and cured.

    python examples/stuck_at_half/mnist.py --data path/to/mnist

A net 784 → 64 → 64 with a sigmoid at its end, margin 0.2, batches of 2,048 triplets drawn at
random, mean squared distance; no figure but the loss. Then semi-hard and batch-hard triplets on
the same net. Without MNIST, drawn faces of 28 pixels take the place of the digits.
"""

import argparse
import gzip
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from ground import Row, Run, chance, options, save, table
from torch import Tensor, nn
from torch.nn import functional as F

import siameselib as sl
from siameselib import plot
from siameselib.data import synthetic_faces
from siameselib.evaluation import accuracy_at, auc, evaluate_retrieval, fit_threshold

MARGIN, BATCH = 0.2, 2048
MININGS = ("semi-hard", "batch-hard", "semi-hard, then batch-hard")


class Digits(NamedTuple):
    """Grey images (n, 28, 28), uint8, and labels: to train on, for thresholds, to judge on."""

    about: str
    train: tuple[Tensor, Tensor]
    held: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """Read an idx file of bytes, gzipped or not: 0, 0, 8, the number of axes, sizes, numbers."""
    data = Path(path).read_bytes()
    data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    if len(data) < 4 or data[:3] != b"\0\0\x08":
        raise ValueError(f"{path}: not an idx file of bytes")
    shape = np.frombuffer(data[: 4 + 4 * data[3]], ">i4", offset=4)
    numbers = np.frombuffer(data, np.uint8, offset=4 + 4 * data[3])
    if len(numbers) != shape.prod():
        raise ValueError(f"{path}: promises {shape.prod():,} numbers, got {len(numbers):,}")
    return numbers.reshape(shape)


def load(args: argparse.Namespace) -> Digits:
    """Read MNIST, or draw 28-pixel faces of people to train on, to hold, and to judge on."""
    if args.data is None:
        faces = synthetic_faces(people=150, images_per_person=24, size=28, seed=args.seed)
        images = torch.from_numpy(faces.images).float().mean(3).byte()
        group, labels = torch.from_numpy(faces.labels % 5), torch.from_numpy(faces.labels)
        parts = [(images[where], labels[where]) for where in (group < 3, group == 3, group == 4)]
        return Digits("drawn faces, 28 px", *parts)
    files = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    names = [next(Path(args.data).glob(f"{name}-ubyte*"), None) for name in files]
    if None in names:
        raise SystemExit(f"{args.data} holds no {files[names.index(None)]}-ubyte")
    images, labels, *test = (torch.from_numpy(read_idx(name).copy()) for name in names)
    mixed = torch.randperm(len(labels), generator=torch.Generator().manual_seed(args.seed))
    kept, held = mixed[len(mixed) // 6 :], mixed[: len(mixed) // 6]
    labels, tested = labels.long(), (test[0], test[1].long())
    return Digits("MNIST", (images[kept], labels[kept]), (images[held], labels[held]), tested)


def make_net() -> nn.Sequential:
    """784 → 64 → 64, 54,400 parameters, started as Keras starts them."""
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 64), nn.Sigmoid()
    )
    for layer in net[1::2]:
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)
    return net


def mean_square(x1: Tensor, x2: Tensor) -> Tensor:
    """The tutorial's distance: mean, not sum, of the squared differences."""
    return (x1 - x2).square().mean(1)


class RandomTriplets:
    """Rows of random triplets: images are indexed by class once; a positive may be the anchor."""

    def __init__(self, labels: Tensor) -> None:
        self.order = labels.argsort(stable=True)
        _, self.rank, self.counts = labels.unique(return_inverse=True, return_counts=True)
        self.starts = self.counts.cumsum(0) - self.counts

    def draw(self, n: int) -> tuple[Tensor, Tensor, Tensor]:
        a = torch.randint(len(self.order), (n,))
        start, count = self.starts[self.rank[a]], self.counts[self.rank[a]]
        inside, outside = torch.rand(2, n, dtype=torch.float64)
        other = (outside * (len(self.order) - count)).long()  # among the other classes' images
        positive = start + (inside * count).long()
        return a, self.order[positive], self.order[other + count * (other >= start)]


def shifted(images: Tensor) -> Tensor:
    """Shift each image by up to a pixel."""
    n, padded = len(images), F.pad(images, (1, 1, 1, 1))
    rows, columns = torch.arange(28) + torch.randint(0, 3, (2, n, 1))
    return padded[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]


def judge(net: nn.Module, digits: Digits, doctor: sl.Doctor) -> tuple[float, float, float]:
    """Give pair accuracy, AUC and recall@1 on the test images; the threshold is from held ones."""
    scored = []
    for images, labels in (digits.held, digits.test):
        with torch.no_grad():
            f = net(images / 255)
        i, j, same = next(iter(sl.PairSampler(labels, batch_size=len(f), num_batches=1)))
        scored.append(((-(f[i] - f[j]).square().mean(1)).numpy(), same))
    threshold = fit_threshold(*scored[0])
    doctor.validation(*scored[0], threshold)
    recall = evaluate_retrieval(f, labels).recall_at[1]
    return accuracy_at(*scored[1], threshold)[0], auc(*scored[1]), recall


def show(args: argparse.Namespace, name: str, title: str, net: nn.Module, digits: Digits) -> None:
    """Draw the map of 600 test images."""
    images, labels = digits.test[0][:600], digits.test[1][:600]
    with torch.no_grad():
        f = net(images / 255)
    save(args, name, plot.embedding_map(f, labels, images=images[..., None], title=title))


def written(args: argparse.Namespace, digits: Digits) -> tuple[Row, float]:
    """Train as the tutorial does: random triplets, Adam at 1e-3."""
    torch.manual_seed(args.seed)
    net, (images, labels) = make_net(), digits.train
    parts = (net, nn.TripletMarginLoss(MARGIN), torch.optim.Adam(net.parameters(), lr=1e-3))
    run = Run("written", "random triplets", *parts, margin=MARGIN, metric=mean_square)
    triplets = RandomTriplets(labels)
    for epoch in range(1, args.written_epochs + 1):
        for _ in range(max(1, len(images) // args.batch)):
            rows = torch.cat(triplets.draw(args.batch))
            a, p, n = net(images[rows] / 255).chunk(3)
            loss = (mean_square(a, p) - mean_square(a, n) + MARGIN).clamp_min(0).mean()
            run.step(loss, (a, p, n), None)
        show(args, f"mnist-epoch-{epoch:02d}", f"random triplets, epoch {epoch}", net, digits)
    rows = [images[row[:8], ..., None] for row in rows.chunk(3)]
    save(args, "mnist-triplets", plot.triplet_strip(*rows, title="random triplets"))
    accuracy, area, recall = judge(net, digits, run.doctor)
    return run.row(accuracy, area, MARGIN), recall


def cured(args: argparse.Namespace, digits: Digits, mining: str) -> tuple[Row, float]:
    """Mine batches of P classes × K images, shifted by up to a pixel; root mean square distance."""
    torch.manual_seed(args.seed)
    net, (images, labels) = make_net(), digits.train
    losses = {"semi": sl.SemiHardTripletLoss, "batch": sl.BatchHardTripletLoss}
    losses = [losses[words.split("-")[0]](margin=MARGIN) for words in mining.split(", then ")]
    sampler = sl.PKSampler(labels, P=10, K=20, seed=args.seed)
    optimizer = torch.optim.Adam(net.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, args.epochs * len(sampler))
    mode = "tried" if mining == "batch-hard" else "cured"  # it collapses
    run = Run(mode, mining, net, losses[0], optimizer, schedule)
    for epoch in range(args.epochs):
        criterion = losses[epoch * len(losses) // args.epochs]
        if criterion is not run.doctor.criterion:
            run.follow(net, criterion, optimizer, schedule)
        for batch in sampler:
            f = net(shifted(images[batch]) / 255) / 8  # so that lengths are root mean squares
            run.step(criterion(f, labels[batch]), f, labels[batch])
    show(args, "mnist-" + mining.replace(", ", "-").replace(" ", "-"), mining, net, digits)
    accuracy, area, recall = judge(net, digits, run.doctor)
    return run.row(accuracy, area, MARGIN), recall


def main(argv: list[str] | None = None) -> list[tuple[Row, float]]:
    parser = options(__doc__, epochs=16, variable="SIAMESELIB_MNIST")
    parser.add_argument("--written-epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=BATCH, help="random triplets a step")
    args = parser.parse_args(argv)
    digits, found = load(args), []
    if args.mode != "cured":
        found.append(written(args, digits))
    if args.mode != "written":
        found += [cured(args, digits, mining) for mining in MININGS]
    same = np.arange(len(digits.test[1])) % 2 == 0  # half of the pairs drawn are same
    guess = chance(same)
    print(table(digits.about, guess, (row for row, _ in found)))
    print("\n| | recall@1 | pair accuracy | seconds |\n|---|---|---|---|")
    for row, recall in found:
        print(f"| {row.what} | {recall:.4f} | {row.accuracy:.4f} | {row.seconds:.0f} |")
    return found


if __name__ == "__main__":
    main()
