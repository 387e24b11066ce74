"""The same images through a net in training mode and in evaluation mode."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from siameselib.diagnostics.alone import NeedsOthersError, alone
from siameselib.diagnostics.collect import Sample

MOST = 256  # images that are compared


class Modes(NamedTuple):
    """Embeddings of the same images in both modes, and their identities."""

    train: Tensor
    eval: Tensor
    labels: Tensor


def keep_images(samples: list[Sample]) -> tuple[Tensor, Tensor] | None:
    """Give the images and labels of the last samples, `MOST` at most."""
    images, labels, n = [], [], 0
    for sample in reversed(samples):
        if sample.images is None or sample.labels is None or n >= MOST:
            continue
        images.append(sample.images)
        labels.append(sample.labels)
        n += len(sample.labels)
    return (torch.cat(images)[:MOST], torch.cat(labels)[:MOST]) if images else None


def compare_modes(model: nn.Module, images: Tensor, labels: Tensor) -> Modes | None:
    """Embed images in both modes; the net and its statistics stay as they are.

    Args:
        model: the net; a copy of it is put into training mode.
        images: some.
        labels: their identities.

    Returns:
        Both embeddings, on the CPU; None for a net that runs in several processes together.
    """
    try:
        with torch.no_grad(), torch.random.fork_rng(_cuda(images)), alone():
            with evaluating(model):
                calm = embed(model, images)
            moved = embed(copy.deepcopy(model).train(), images)
    except NeedsOthersError:
        return None
    return Modes(moved.float().cpu(), calm.float().cpu(), labels.cpu())


def embed(model: nn.Module, images: Tensor) -> Tensor:
    """Embed images with a net, or with the backbone of a siamese one."""
    forward: Callable[[Tensor], Tensor] = getattr(model, "embed", getattr(model, "backbone", model))
    return forward(images)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a net into evaluation mode, and back into the mode of each of its parts."""
    before = {part: part.training for part in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for part, mode in before.items():
            part.training = mode


def _cuda(images: Tensor) -> list[int]:
    return [images.device.index or 0] if images.device.type == "cuda" else []
