"""A small working training script, in pieces that the faults of the battery replace."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import siameselib as sl
from siameselib.data import synthetic_faces
from siameselib.diagnostics import Report
from siameselib.functional import paired_distance

TRAIN, OTHERS, IMAGES = 300, 60, 8  # people trained on, people for validation, images of each
WIDTH = 16
BATCH_LOSSES = ("batch-hard", "semi-hard", "batch-all", "supcon", "nt-xent")
PML_LOSSES = ("pml-triplet", "pml-contrastive", "pml-supcon", "pml-multi-similarity")
PAIR_LOSSES = ("contrastive", "bce-interaction", "bce-distance", "torch-cosine")
TRIPLET_LOSSES = ("torch-triplet", "triplet")
LOSSES = (*BATCH_LOSSES, *PML_LOSSES, *PAIR_LOSSES, *TRIPLET_LOSSES, "info-nce")


@cache
def people(data: str, seed: int) -> tuple[Tensor, Tensor]:
    """Images and identities: drawings of 16 pixels, or points around a centre for each person."""
    n = TRAIN + OTHERS
    if data == "drawings":
        faces = synthetic_faces(people=n, images_per_person=IMAGES, size=16, seed=seed)
        images = torch.from_numpy(faces.images).permute(0, 3, 1, 2).float() / 255
        return (images - 0.5) / 0.25, torch.from_numpy(faces.labels)
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(n, 12)).repeat(IMAGES, 0)
    nuisance = rng.normal(size=(n * IMAGES, 20))
    mix = rng.normal(size=(32, 32)) / 32**0.5
    x = np.hstack([centres + 0.3 * rng.normal(size=centres.shape), nuisance]) @ mix
    return torch.from_numpy(x).float(), torch.arange(n).repeat_interleave(IMAGES)


def small_net(data: str, width: int = WIDTH) -> nn.Module:
    """Give an MLP for points, a small convolutional net for drawings."""
    if data == "gaussian":
        return nn.Sequential(nn.Linear(32, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, width))
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, 2, 1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, width),
    )


class Siamese(nn.Module):
    """A net and, perhaps, a head."""

    def __init__(self, backbone: nn.Module, head: nn.Module | None) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head


class Script:
    """The training: every piece of it is an attribute that a fault may replace."""

    def __init__(self, data: str, loss: str, seed: int) -> None:
        torch.manual_seed(seed)
        self.data, self.loss, self.seed = data, loss, seed
        self.images, self.labels = people(data, seed)
        self.trained = self.labels < TRAIN
        self.steps = 240
        self.backbone = small_net(data)
        self.head: nn.Module | None = None
        self.criterion: Any = criterion_of(loss)
        if loss == "bce-interaction":
            self.head = sl.InteractionHead(WIDTH)
        if loss == "bce-distance":
            self.head = sl.DistanceHead()
        self.normalize = loss in {"batch-hard", "semi-hard", "batch-all", "contrastive", "triplet"}
        self.make_optimizer: Callable[[nn.Module], torch.optim.Optimizer] = adam
        self.batches: Callable[[Script], Iterator[Any]] = self._batches
        self.prepare: Callable[[nn.Module], None] = lambda model: None
        self.embed: Callable[[nn.Module, Tensor], Tensor] = self._embed
        self.compute: Callable[[Script, Siamese, Any], Any] = compute
        self.doctor: dict[str, Any] = {}
        self.give_images = False
        self.threshold: float | None = None
        self.sign = 1

    def run(self) -> Report:
        """Train, with the doctor in two lines; validate on people that are not trained on."""
        model = Siamese(self.backbone, self.head)
        self.prepare(model)
        optimizer = self.make_optimizer(model)
        doctor = sl.Doctor(model, self.criterion, **self.doctor)
        batches = self.batches(self)
        for _ in range(self.steps):
            batch = next(batches)
            seen, loss, extra = self.compute(self, model, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            doctor.step(*seen, loss, **extra)
        self.validate(model, doctor)
        return doctor.report()

    def validate(self, model: Siamese, doctor: sl.Doctor) -> None:
        """Score pairs of the other people."""
        rows = torch.nonzero(~self.trained).flatten()
        sampler = sl.PairSampler(self.labels[rows], batch_size=200, num_batches=1, seed=1)
        i, j, same = next(iter(sampler))
        model.eval()
        with torch.no_grad():
            f = self.embed(model, self.images[rows])
            if self.head is not None:
                scores = model.head(f[i], f[j]).flatten()
            else:
                scores = -paired_distance(f[i], f[j])
        model.train()
        if bool(scores.isfinite().all()):
            doctor.validation(self.sign * scores, same, self.threshold)

    def _embed(self, model: nn.Module, x: Tensor) -> Tensor:
        f = model.backbone(x)
        return F.normalize(f) if self.normalize else f

    def _batches(self, script: "Script") -> Iterator[Any]:
        rows = torch.nonzero(self.trained).flatten()
        labels = self.labels[rows]
        if self.loss in BATCH_LOSSES + PML_LOSSES:
            groups = sl.PKSampler(labels, P=12, K=4, seed=self.seed)
            while True:
                for chosen in groups:
                    batch = rows[torch.tensor(chosen)]
                    yield batch, self.labels[batch]
        share = 1.0 if self.loss == "info-nce" else 0.5
        pairs = sl.PairSampler(labels, batch_size=64, positive_fraction=share, seed=self.seed)
        while True:
            for i, j, same in pairs:
                yield rows[i], rows[j], torch.from_numpy(same)


def compute(script: Script, model: Siamese, batch: Any) -> Any:
    """Give what the doctor is shown, the loss, and the doctor's further arguments."""
    images, criterion = script.images, script.criterion
    if script.loss in BATCH_LOSSES + PML_LOSSES:
        rows, labels = batch
        f = script.embed(model, images[rows])
        extra = {"images": images[rows]} if script.give_images else {}
        return (f, labels), criterion(f, labels), extra
    i, j, same = batch
    if script.loss in TRIPLET_LOSSES:  # the anchor's own image, another, one of someone else
        generator = torch.Generator().manual_seed(int(i[0]) + 1000 * int(j[0]))
        n_rows = torch.nonzero(script.trained).flatten()
        a = n_rows[torch.randperm(len(n_rows), generator=generator)[:64]]
        shift = torch.randint(1, IMAGES, (64,), generator=generator)
        p = a // IMAGES * IMAGES + (a % IMAGES + shift) % IMAGES
        other = torch.randint(1, TRAIN, (64,), generator=generator)
        n = (a + other * IMAGES) % (TRAIN * IMAGES)
        fa, fp, fn = script.embed(model, images[torch.cat([a, p, n])]).chunk(3)
        return ((fa, fp, fn), None), criterion(fa, fp, fn), {}
    f1, f2 = script.embed(model, images[torch.cat([i, j])]).chunk(2)
    if model.head is not None:
        logits = model.head(f1, f2)
        return ((f1, f2), same), criterion(logits.flatten(), same.float()), {"logits": logits}
    if script.loss == "info-nce":
        return ((f1, f2), None), criterion(f1, f2, script.labels[i]), {}
    target = 2 * same - 1 if script.loss == "torch-cosine" else same
    return ((f1, f2), same), criterion(f1, f2, target), {}


def criterion_of(loss: str) -> Any:
    """Give the loss of a name, with its usual margin."""
    if loss.startswith("pml-"):
        from pytorch_metric_learning import losses

        return {
            "pml-triplet": lambda: losses.TripletMarginLoss(margin=0.2),
            "pml-contrastive": losses.ContrastiveLoss,
            "pml-supcon": losses.SupConLoss,
            "pml-multi-similarity": losses.MultiSimilarityLoss,
        }[loss]()
    return {
        "batch-hard": lambda: sl.BatchHardTripletLoss(margin=0.2),
        "semi-hard": lambda: sl.SemiHardTripletLoss(margin=0.2),
        "batch-all": lambda: sl.BatchAllTripletLoss(margin=0.2),
        "supcon": lambda: sl.SupConLoss(temperature=0.1),
        "nt-xent": lambda: sl.NTXentLoss(temperature=0.2),
        "contrastive": lambda: sl.ContrastiveLoss(margin=1.2),
        "bce-interaction": sl.BCEPairLoss,
        "bce-distance": nn.BCEWithLogitsLoss,
        "torch-cosine": lambda: nn.CosineEmbeddingLoss(margin=0.3),
        "torch-triplet": lambda: nn.TripletMarginLoss(margin=1.0),
        "triplet": lambda: sl.TripletLoss(margin=0.2),
        "info-nce": lambda: sl.InfoNCELoss(temperature=0.1),
    }[loss]()


def adam(model: nn.Module, lr: float = 2e-3) -> torch.optim.Optimizer:
    """Adam on all that is trainable."""
    return torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=lr)
