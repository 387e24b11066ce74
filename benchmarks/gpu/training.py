"""Images a second of training C19: as most people write it, and as our trainer does it."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

import siameselib as sl
from benchmarks.gpu.clock import Clock
from siameselib.data import Augment

STYLES = ("usual", "ours", "ours, compiled")


class _Pairs(Dataset[tuple[Tensor, Tensor, float]]):
    """Decoded images in memory, so that the usual loop is not held up by decoding."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return 1 << 20

    def __getitem__(self, k: int) -> tuple[Tensor, Tensor, float]:
        n = len(self.images)
        first, second = self.images[k % n], self.images[(7 * k + 1) % n]
        return first.float() / 255, second.float() / 255, float(k % 2)


def images_per_second(
    clock: Clock, style: str, size: int, pairs: int, steps: int, workers: int = 8
) -> dict[str, Any]:
    """Train on noise for some steps and count.

    Args:
        clock: of the device.
        style: one of STYLES.
        size: of the images.
        pairs: in a batch.
        steps: that are timed, after some that are not.
        workers: processes of the usual loop's DataLoader.

    Returns:
        images_per_second, and tflop_s: what of the device's arithmetic that is.
    """
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2048, 3, size, size), dtype=torch.uint8, generator=g)
    torch.manual_seed(0)
    model = sl.SiameseNetwork(sl.C19(image_size=size), sl.ConcatHead(1024)).to(clock.device)
    make = _usual if style == "usual" else _ours
    step = make(clock, model, images, pairs, workers, compiled=style == "ours, compiled")
    for _ in range(max(3, steps // 5)):
        step()

    def run() -> None:
        for _ in range(steps):
            step()

    seconds = clock.once(run) / 1e3
    speed = 2 * pairs * steps / seconds
    return {"images_per_second": speed, "tflop_s": 3 * speed * _operations(size) / 1e12}


def _operations(size: int) -> int:
    """Floating-point operations of one image forward through C19."""
    total, side = 0, size
    for kernel, before, after in ((5, 3, 64), (5, 64, 128), (3, 128, 256), (3, 256, 512)):
        total += 2 * side**2 * kernel**2 * before * after
        side //= 2
    return total + 2 * (size // 8) ** 2 * 512 * 1024


def _usual(
    clock: Clock, model: nn.Module, images: Tensor, pairs: int, workers: int, compiled: bool
) -> Callable[[], None]:
    """float32, eager, a pass for each image of a pair, images from worker processes."""
    optimizer = torch.optim.Adam(model.parameters(), 1e-4)
    loader = DataLoader(_Pairs(images), pairs, num_workers=workers, pin_memory=clock.cuda)
    source: Iterator[Any] = iter(loader)

    def step() -> None:
        a, b, same = (part.to(clock.device, non_blocking=True) for part in next(source))
        f1, f2 = model.backbone(a), model.backbone(b)
        loss = F.binary_cross_entropy_with_logits(model.head(f1, f2), same.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def _ours(
    clock: Clock, model: nn.Module, images: Tensor, pairs: int, workers: int, compiled: bool
) -> Callable[[], None]:
    """Images on the device, augmented there, one channels-last pass in bfloat16."""
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
    images, augment = images.to(clock.device), Augment(images.shape[-1])
    backbone = torch.compile(model.backbone) if compiled else model.backbone
    criterion = sl.BCEPairLoss()
    same = torch.arange(pairs, device=clock.device) % 2
    n = torch.tensor(len(images), device=clock.device)
    rows = torch.arange(2 * pairs, device=clock.device)

    def step() -> None:
        rows.add_(2 * pairs).remainder_(n)
        x = augment(images[rows]).contiguous(memory_format=torch.channels_last)
        with torch.autocast(clock.device.type, torch.bfloat16):
            f1, f2 = backbone(x).float().chunk(2)
        loss = criterion(model.head(f1, f2), same)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step
