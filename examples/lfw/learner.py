"""The net with its loss: a batch of images in, the loss out."""

import argparse
from collections.abc import Callable, Sequence
from functools import partial

import torch
from task import BATCH_LOSSES
from torch import Tensor, nn
from torch.nn import functional as F

import siameselib as sl
from siameselib.data import Augment, prepare
from siameselib.evaluation import Verifier

HEADS = {"concat": sl.ConcatHead, "interaction": sl.InteractionHead}


class Learner(nn.Module):
    """Backbone, head and loss of a run: a batch of images in, the loss out."""

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__()
        self.args = args
        size = args.start_size if args.start_epochs else args.image_size
        self.backbone = sl.C19(image_size=size).to(memory_format=torch.channels_last)
        self.head, self.seen = None, {}
        if args.loss == "bce":
            width = self.backbone.embedding_dim
            self.head = HEADS[args.head](width) if args.head in HEADS else sl.DistanceHead()
        self.criterion = {
            "bce": lambda: sl.BCEPairLoss(),
            "contrastive": lambda: sl.ContrastiveLoss(margin=args.margin),
            "info-nce": lambda: sl.InfoNCELoss(temperature=args.temperature),
            "batch-hard": lambda: sl.BatchHardTripletLoss(margin=args.margin),
            "semi-hard": lambda: sl.SemiHardTripletLoss(margin=args.margin),
            "batch-all": lambda: sl.BatchAllTripletLoss(margin=args.margin),
            "supcon": lambda: sl.SupConLoss(temperature=args.temperature),
            "nt-xent": lambda: sl.NTXentLoss(temperature=args.temperature),
        }[args.loss]()
        if args.loss in BATCH_LOSSES:
            self.criterion = sl.CrossProcessLoss(self.criterion)

    def grow(self) -> None:
        """Go on at the full image size."""
        grown = self.backbone.resized(self.args.image_size)
        self.backbone = grown.to(memory_format=torch.channels_last)

    def optimizer(self) -> torch.optim.Optimizer:
        """AdamW; biases and BatchNorm are not decayed."""
        matrices = [p for p in self.parameters() if p.ndim > 1]
        others = [p for p in self.parameters() if p.ndim <= 1]
        groups = [
            {"params": matrices, "weight_decay": self.args.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self.args.lr, fused=True)

    def views(self) -> Callable[[Tensor], Tensor]:
        """What makes stored images into what the net, as it is now, is trained on."""
        size, strength = self.backbone.image_size, self.args.strength
        if not self.args.augment:
            return partial(prepare, size=size)
        return Augment(
            size,
            shift=0.04 * strength,
            scale=0.1 * strength,
            rotate=0.12 * strength,
            colour=0.2 * strength,
            erase=self.args.erase,
        )

    def verifier(self, zooms: Sequence[float] = (1.0,)) -> Verifier:
        """How the net, as it is now, compares two photos."""
        return Verifier(
            self.backbone,
            self.head,
            size=self.backbone.image_size,
            crop=1.0 if self.args.data == "synthetic" else self.args.crop / 250,
            metric="head" if self.head else "cosine" if self.args.normalize else "euclidean",
            flip=self.args.augment,
            zooms=zooms,
        )

    def forward(self, x: Tensor, target: Tensor, labels: Tensor) -> Tensor:
        """Give the loss; ``seen`` is what it was computed from, for the doctor."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.args.amp):
            f = self.backbone(x).float()
        if self.args.normalize:
            f = F.normalize(f)
        if self.args.loss in BATCH_LOSSES:
            self.seen = {"embeddings": f.detach(), "labels": labels}
            return self.criterion(f, labels)
        f1, f2 = f.chunk(2)
        self.seen = {"embeddings": (f1.detach(), f2.detach()), "labels": target}
        if self.head is not None:
            logits = self.head(f1, f2)
            self.seen["logits"] = logits.detach()
            return self.criterion(logits, target)
        if self.args.loss == "info-nce":
            self.seen = {"embeddings": f.detach(), "labels": torch.cat([labels[: len(f1)]] * 2)}
            return self.criterion(f1, f2, labels[: len(f1)])
        return self.criterion(f1, f2, target)
