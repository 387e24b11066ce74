"""The faults planted in the data that `diagnose` is given, with an untrained net."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

import siameselib as sl
from benchmarks.doctor.plants import Fault
from benchmarks.doctor.script import IMAGES, TRAIN, people, small_net
from siameselib.diagnostics import Report


def examined(code: str, what: str, spoil: Callable[[Tensor, Tensor], dict[str, Any]]) -> Fault:
    """Plant a fault in the data that `diagnose` is given with an untrained net."""

    def run(seed: int) -> Report:
        torch.manual_seed(seed)
        images, labels = people("drawings", seed)
        return sl.diagnose(small_net("drawings"), **spoil(images, labels))

    return Fault(code, what, run)


def pk_batches(images: Tensor, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Give an epoch of P x K batches."""
    return [(images[rows], labels[rows]) for rows in sl.PKSampler(labels, P=12, K=4)]


def pair_batches(images: Tensor, labels: Tensor, n: int = 8) -> list[tuple[Tensor, ...]]:
    """Give n batches of pairs, always the same."""
    sampler = sl.PairSampler(labels, batch_size=64, num_batches=n)
    return [(images[i], images[j], torch.from_numpy(same)) for i, j, same in sampler]


class Redrawn:
    """Pairs that are drawn anew in every pass."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images = images
        self.sampler = sl.PairSampler(labels, batch_size=64, num_batches=8)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        for i, j, same in self.sampler:
            yield self.images[i], self.images[j], torch.from_numpy(same)


def _split_by_image(images: Tensor, labels: Tensor) -> dict[str, Any]:
    odd = torch.arange(len(labels)) % 2 == 1
    return {
        "loader": pk_batches(images[~odd], labels[~odd]),
        "test": pk_batches(images[odd], labels[odd]),
    }


def _shared_images(images: Tensor, labels: Tensor) -> dict[str, Any]:
    train, test = labels < TRAIN, labels >= TRAIN
    copied = images.clone()
    copied[test.nonzero().flatten()[:10]] = images[:10]
    return {
        "loader": pk_batches(copied[train], labels[train]),
        "test": pk_batches(copied[test], labels[test]),
    }


def _copies(images: Tensor, labels: Tensor) -> dict[str, Any]:
    copied = images.clone()
    copied[::40] = copied[::40].roll(1, 0)
    copied[0] = copied[100]
    return {"loader": pk_batches(copied, labels)}


def _with_itself(images: Tensor, labels: Tensor) -> dict[str, Any]:
    found = []
    for x1, x2, same in pair_batches(images, labels):
        alone = (same == 1) & (torch.rand(len(same)) < 0.2)
        found.append((x1, torch.where(alone[:, None, None, None], x1, x2), same))
    return {"loader": found}


def _few_again(images: Tensor, labels: Tensor) -> dict[str, Any]:
    rows = torch.arange(12)[:, None] * IMAGES + torch.arange(4)
    return {"loader": [(images[rows.flatten()], labels[rows.flatten()])] * 20}


DATA = (
    examined("identity-leak", "split by image, not by person", _split_by_image),
    examined("image-leak", "ten training images in the test", _shared_images),
    examined("duplicates-across-identities", "copies under another name", _copies),
    examined("duplicates-in-pairs", "one same pair in five: one image", _with_itself),
    examined(
        "pair-list-memorable",
        "a fixed list of 512 pairs",
        lambda images, labels: {"loader": pair_batches(images, labels)},
    ),
    examined("sampler-coverage", "the same 48 images over and over", _few_again),
    examined(
        "labels-inverted",
        "1 means different, before training",
        lambda images, labels: {
            "loader": [(a, b, 1 - same) for a, b, same in pair_batches(images, labels, 16)]
        },
    ),
    examined(
        "few-positives",
        "rows at random",
        lambda images, labels: {
            "loader": [
                (images[rows], labels[rows]) for rows in torch.randperm(len(labels))[:240].split(16)
            ]
        },
    ),
)
