"""What the trainer learns from and is judged on: images, protocol, batches."""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from siameselib.data import (
    Images,
    Protocol,
    View1,
    View2,
    download_lfw,
    open_lfw,
    pack,
    synthetic_faces,
    synthetic_view,
)
from siameselib.samplers import PairSampler, PKSampler

PAIR_LOSSES = ("bce", "contrastive", "info-nce")
BATCH_LOSSES = ("batch-hard", "semi-hard", "batch-all", "supcon", "nt-xent")


class Pairs(NamedTuple):
    """Pairs as rows of the packed images."""

    i: NDArray[np.int64]
    j: NDArray[np.int64]
    same: NDArray[np.bool_]

    def where(self, keep: NDArray[np.bool_] | NDArray[np.int64]) -> "Pairs":
        """Keep some of the pairs, by mask or by place."""
        return Pairs(self.i[keep], self.j[keep], self.same[keep])

    def and_also(self, other: "Pairs") -> "Pairs":
        """Put others behind these."""
        i, j = np.concatenate([self.i, other.i]), np.concatenate([self.j, other.j])
        return Pairs(i, j, np.concatenate([self.same, other.same]))


@dataclass(frozen=True)
class Task:
    """The training rows or pairs, and validation and test pairs of other people."""

    labels: NDArray[np.int64]
    rows: NDArray[np.int64]
    pairs: Pairs
    validation: Pairs
    test: Pairs


def load(args: argparse.Namespace) -> tuple[Images, list[Protocol]]:
    """Give the packed images and the protocol's folds: one, or ten for View 2."""
    if args.data == "synthetic":
        if args.view == 2:
            raise ValueError("--view 2 is a protocol of the real LFW; the drawings have one view")
        faces = synthetic_faces(size=args.image_size)
        return faces, [synthetic_view(faces)]
    source = open_lfw(download_lfw(args.cache) if args.data == "download" else args.data)
    if source.protocol_dir is None:
        raise ValueError(f"{args.data} holds no pairs*.txt files: put LFW's protocol files there")
    images = pack(
        source,
        args.cache,
        size=args.image_size,
        crop=args.crop,
        skip_bad=args.skip_bad,
        progress=True,
    )
    if args.view == 1:
        return images, [View1(source.protocol_dir)]
    view2 = View2(source.protocol_dir)
    return images, [view2.fold(k) for k in range(len(view2))]


def prepare(args: argparse.Namespace, images: Images, protocol: Protocol) -> Task:
    """Keep a share of the training people for validation; resolve all pairs to rows.

    The validation pairs fit the threshold, so they show people that are neither trained on nor
    tested on. From the listed pairs alone, only listed images are used: the same-pairs of the
    people kept, and random pairs of different ones.
    """
    rng = np.random.default_rng(args.seed)
    people = rng.permutation(sorted(protocol.train.people))
    kept = set(people[: max(2, round(args.holdout * len(people)))].tolist())
    of_kept = np.array([person in kept for person in images.identities])
    of_train = np.array([person in protocol.train.people for person in images.identities])
    listed = Pairs(*protocol.train.rows(images))
    if args.train_on == "pairs":
        seen = np.zeros(len(of_kept), dtype=bool)
        seen[np.concatenate([listed.i, listed.j])] = True
        of_train &= seen
    free = np.flatnonzero(of_train & of_kept)
    drawn = PairSampler(images.labels[free], batch_size=2, num_batches=1000, seed=args.seed)
    i, j, same = map(np.concatenate, zip(*drawn, strict=True))
    validation = Pairs(free[i], free[j], same == 1)
    if args.train_on == "pairs":
        positive = listed.where(of_kept[listed.i] & of_kept[listed.j] & listed.same)
        negative = validation.where(~validation.same)
        negative = negative.where(np.arange(len(negative.i)) < len(positive.i))
        validation = positive.and_also(negative)
    rows = np.flatnonzero(of_train & ~of_kept)
    protocol.check_training(images.names[row] for row in [*rows, *free])
    return Task(
        labels=images.labels,
        rows=rows,
        pairs=listed.where(~of_kept[listed.i] & ~of_kept[listed.j]),
        validation=validation,
        test=Pairs(*protocol.test.rows(images)),
    )


def batches(
    args: argparse.Namespace, task: Task, epoch: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
    """Give an epoch's batches: rows with labels, or rows (first images, then second) with same."""
    if args.train_on == "pairs":
        yield from _listed_pairs(args, task, epoch)
        return
    labels = task.labels[task.rows]
    if args.loss in BATCH_LOSSES:
        single = int((np.unique(labels, return_counts=True)[1] == 1).sum())
        groups = PKSampler(
            labels,
            args.people_per_batch,
            args.images_per_person,
            extra_singletons=min(24, single) if args.singletons is None else args.singletons,
            seed=args.seed,
        )
        groups.set_epoch(epoch)
        for chosen in groups:
            rows = task.rows[np.asarray(chosen)]
            if args.self_pairs:
                rows = np.concatenate([rows, _alone(args, rows, task.labels[rows])])
            yield rows, task.labels[rows]
        return
    positive = 1.0 if args.loss == "info-nce" else 0.5
    pairs = PairSampler(
        labels, batch_size=args.batch_size, positive_fraction=positive, seed=args.seed
    )
    pairs.set_epoch(epoch)
    for i, j, same in pairs:
        yield task.rows[np.concatenate([i, j])], same


def _alone(
    args: argparse.Namespace, rows: NDArray[np.int64], labels: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Of the people with one image in a batch, those who get a second view of it."""
    _, first, times = np.unique(labels, return_index=True, return_counts=True)
    alone = np.sort(first[times == 1])
    return rows[alone[: round(args.self_pairs * len(alone))]]


def _listed_pairs(
    args: argparse.Namespace, task: Task, epoch: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
    same, unlike = (task.pairs.where(task.pairs.same == kind) for kind in (True, False))
    pairs = same if args.loss == "info-nce" else task.pairs
    if len(pairs.i) < args.batch_size:
        expected = f"be at most the {len(pairs.i)} training pairs"
        raise ValueError(f"train.py: --batch-size must {expected}, got {args.batch_size}")
    rng = np.random.default_rng([args.seed, epoch])
    if args.self_pairs:
        alone = rng.permutation(np.setdiff1d([unlike.i, unlike.j], [same.i, same.j]))
        alone = alone[: round(args.self_pairs * len(alone))]
        pairs = pairs.and_also(Pairs(alone, alone, np.ones(len(alone), dtype=np.bool_)))
    order = rng.permutation(len(pairs.i))
    for k in range(0, len(order) - args.batch_size + 1, args.batch_size):
        i, j, target = pairs.where(order[k : k + args.batch_size])
        yield np.concatenate([i, j]), target
