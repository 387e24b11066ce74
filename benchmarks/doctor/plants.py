"""How each fault is planted: functions that change one piece of the training script."""

from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import siameselib as sl
from benchmarks.doctor.script import IMAGES, TRAIN, WIDTH, Script, Siamese, adam, compute
from siameselib.diagnostics import Report


class Fault(NamedTuple):
    """A fault: the code that must be found, what was done, and a run of it."""

    code: str
    what: str
    run: Callable[[int], Report]


def planted(code: str, what: str, data: str, loss: str, plant: Callable[[Script], None]) -> Fault:
    """Plant a fault in the training script."""

    def run(seed: int) -> Report:
        script = Script(data, loss, seed)
        plant(script)
        return script.run()

    return Fault(code, what, run)


def change(**pieces: Any) -> Callable[[Script], None]:
    """Replace attributes of the script."""

    def plant(script: Script) -> None:
        for name, value in pieces.items():
            assert hasattr(script, name), name
            setattr(script, name, value)

    return plant


def build(**pieces: Callable[[], Any]) -> Callable[[Script], None]:
    """Replace attributes of the script by something made anew for each run."""
    return lambda script: change(**{name: make() for name, make in pieces.items()})(script)


def relabel(new: Callable[[Tensor], Tensor]) -> Callable[[Script], None]:
    """Change the labels of every batch, for the loss and the doctor alike."""

    def plant(script: Script) -> None:
        def compute_with(script: Script, model: Siamese, batch: Any) -> Any:
            return compute(script, model, (*batch[:-1], new(batch[-1])))

        script.compute = compute_with

    return plant


def grouped(batches: Callable[[Tensor, Tensor, int], Tensor]) -> Callable[[Script], None]:
    """Draw batches of 48 rows otherwise."""

    def plant(script: Script) -> None:
        def draw(script: Script) -> Iterator[Any]:
            rows = torch.nonzero(script.trained).flatten()
            k = 0
            while True:
                chosen = batches(rows, script.labels, k)
                yield chosen, script.labels[chosen]
                k += 1

        script.batches = draw

    return plant


def one_against_rest(script: Script) -> None:
    """Each batch: 16 rows of one person, 32 of anyone, labelled -1."""

    def draw(script: Script) -> Iterator[Any]:
        rows = torch.nonzero(script.trained).flatten()
        for person in cycle(range(TRAIN)):
            own = rows[script.labels[rows] == person].repeat(2)
            others = rows[script.labels[rows] != person]
            others = others[torch.randperm(len(others))[:32]]
            labels = torch.cat([torch.full((16,), person), torch.full((32,), -1)])
            yield torch.cat([own, others]), labels

    script.batches = draw


def sorted_pairs(script: Script) -> None:
    """All same pairs, then all different ones, in turns."""

    def draw(script: Script) -> Iterator[Any]:
        rows = torch.nonzero(script.trained).flatten()
        samplers = [
            sl.PairSampler(script.labels[rows], batch_size=64, positive_fraction=share)
            for share in (1.0, 0.0)
        ]
        while True:
            for sampler in samplers:
                i, j, same = next(iter(sampler))
                yield rows[i], rows[j], torch.from_numpy(same)

    script.batches = draw


def self_pairs(script: Script) -> None:
    """Half of the same pairs are an image and itself."""
    usual = script._batches

    def draw(script: Script) -> Iterator[Any]:
        for i, j, same in usual(script):
            yield i, torch.where((same == 1) & (torch.rand(len(i)) < 0.5), i, j), same

    script.batches = draw


def wrong_twins(script: Script) -> None:
    """One different pair in ten is an image and its copy under another name."""
    usual = script._batches

    def draw(script: Script) -> Iterator[Any]:
        for i, j, same in usual(script):
            yield i, torch.where((same == 0) & (torch.rand(len(i)) < 0.1), i, j), same

    script.batches = draw


class Linear(nn.Module):
    """A head of one linear layer on something made from the two embeddings."""

    def __init__(self, pair: Callable[[Tensor, Tensor], Tensor], width: int) -> None:
        super().__init__()
        self.pair, self.linear = pair, nn.Linear(width, 1)

    def forward(self, f1: Tensor, f2: Tensor) -> Tensor:
        """Judge pairs."""
        return self.linear(self.pair(f1, f2)).squeeze(1)


class Hidden(nn.Module):
    """A head with a hidden layer on both embeddings side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2 * WIDTH, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, f1: Tensor, f2: Tensor) -> Tensor:
        """Judge pairs."""
        return self.layers(torch.cat([f1, f2], 1)).squeeze(1)


def squash_and_square(script: Script) -> None:
    """Keras' contrastive loss, margin 2, on the probability that a pair differs."""
    script.head, script.criterion = Squashed(), keras_contrastive(2.0)
    script.doctor, script.sign = {"margin": 2.0}, -1  # what it gives is a distance


def flattened(script: Script) -> None:
    """Labels of shape (n, 1), and a loss that takes them."""
    relabel(lambda same: same[:, None])(script)
    criterion = script.criterion
    script.criterion = lambda a, b, same: criterion(a, b, same.flatten())


def l1_difference(f1: Tensor, f2: Tensor) -> Tensor:
    """Absolute differences of the L1-normalised embeddings."""
    return (F.normalize(f1, p=1) - F.normalize(f2, p=1)).abs()


class Squashed(nn.Module):
    """A usual head with a sigmoid after it."""

    def __init__(self) -> None:
        super().__init__()
        self.head = sl.InteractionHead(WIDTH)

    def forward(self, f1: Tensor, f2: Tensor) -> Tensor:
        """Judge pairs."""
        return torch.sigmoid(self.head(f1, f2))


def starve(script: Script) -> None:
    """1,024 ReLU units, L1-normalised differences, one linear layer, plain SGD."""
    script.backbone = nn.Sequential(script.backbone, nn.ReLU(), nn.Linear(WIDTH, 1024), nn.ReLU())
    script.head = Linear(l1_difference, 1024)
    script.make_optimizer = lambda model: torch.optim.SGD(model.parameters(), lr=0.01)


def keras_contrastive(margin: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Give the contrastive loss on a number a pair, 0 for same."""

    def contrastive(p: Tensor, same: Tensor) -> Tensor:
        return (same * p.square() + (1 - same) * F.relu(margin - p).square()).mean()

    return contrastive


def detached(script: Script) -> None:
    """The embeddings lose their graph before the last layer."""
    body, last = script.backbone[:-1], script.backbone[-1]
    script.embed = lambda model, x: F.normalize(last(body(x).detach()))


def half_an_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimiser before the net's last layer is replaced."""
    optimizer = adam(model)
    model.backbone[0] = type(model.backbone[0])(*_like(model.backbone[0]))
    return optimizer


def _like(layer: nn.Module) -> tuple[Any, ...]:
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    return layer.in_channels, layer.out_channels, 3, 2, 1


def dead_relu(script: Script) -> None:
    """A last ReLU whose inputs are nearly all negative."""
    with torch.no_grad():
        script.backbone[-1].bias.fill_(-1.5)
        script.backbone[-1].weight.mul_(0.5)
    script.backbone = nn.Sequential(script.backbone, nn.ReLU())


def dead_layer(script: Script) -> None:
    """A hidden layer in which three units out of four are off."""
    hidden = nn.Linear(WIDTH, 64)
    with torch.no_grad():
        hidden.bias[:48] = -30.0
    script.backbone = nn.Sequential(script.backbone, hidden, nn.ReLU(), nn.Linear(64, WIDTH))


def dead_entries(script: Script) -> None:
    """Three entries of the embedding out of four are behind a closed ReLU."""
    with torch.no_grad():
        script.backbone[-1].bias[: WIDTH * 3 // 4] = -30.0
    script.backbone = nn.Sequential(script.backbone, nn.ReLU())


def collapse(script: Script) -> None:
    """A hand-written contrastive loss that forgot the different pairs."""

    def pull(f1: Tensor, f2: Tensor, same: Tensor) -> Tensor:
        return (same * (f1 - f2).square().sum(1)).mean()

    script.criterion, script.normalize = pull, False
    script.make_optimizer = lambda model: adam(model, 1e-2)


def bottleneck(script: Script) -> None:
    """A layer of width 1 before the embedding."""
    script.backbone = nn.Sequential(script.backbone, nn.Linear(WIDTH, 1), nn.Linear(1, WIDTH))
    script.normalize = False
    script.criterion = nn.TripletMarginLoss()


def deep_sigmoids(script: Script) -> None:
    """Twelve sigmoid layers."""
    layers = [part for _ in range(12) for part in (nn.Linear(WIDTH, WIDTH), nn.Sigmoid())]
    script.backbone = nn.Sequential(script.backbone, *layers, nn.Linear(WIDTH, WIDTH))


def runaway(script: Script) -> None:
    """The sign of the gradient is wrong: embeddings that are not normalised fly apart."""
    script.normalize = False
    script.steps = 80
    script.make_optimizer = lambda model: torch.optim.SGD(
        model.parameters(), lr=0.02, maximize=True
    )


def not_finite(script: Script) -> None:
    """A square root of the squared distance, without care for 0."""

    def root(f: Tensor, labels: Tensor) -> Tensor:
        d = (f[:, None] - f[None, :]).square().sum(2).sqrt()
        same = labels[:, None] == labels[None, :]
        return (d[same].mean() - d[~same].mean() + 0.5).relu()

    script.criterion = root


def easy_triplets(script: Script) -> None:
    """Negatives come from the other half of two far halves of the people."""
    half = script.labels % 2 == 0
    script.images = script.images.clone()
    script.images[half & script.trained] += 3.0
    script.images[~half & script.trained] -= 3.0

    def compute_with(script: Script, model: Siamese, batch: Any) -> Any:
        n = TRAIN * IMAGES
        a = torch.randperm(n)[:64]
        p = a // IMAGES * IMAGES + (a % IMAGES + torch.randint(1, IMAGES, (64,))) % IMAGES
        negative = (a + (2 * torch.randint(0, TRAIN // 2, (64,)) + 1) * IMAGES) % n
        f = script.embed(model, script.images[torch.cat([a, p, negative])]).chunk(3)
        return (f, None), script.criterion(*f), {}

    script.compute = compute_with


def frozen_trunk(model: nn.Module) -> None:
    """requires_grad_(False) on all but the last layer."""
    model.requires_grad_(False)
    model.backbone[-1].requires_grad_(True)


def small_passes(script: Script) -> None:
    """BatchNorm that never learns its statistics: a momentum of 0."""
    for part in script.backbone.modules():
        if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d)):
            part.momentum = 0.0
            part.running_mean.fill_(20.0)
    script.give_images = True


def few_images(script: Script) -> None:
    """Train on ten people only, for long."""
    script.trained = script.labels < 14
    script.steps = 400
    usual = script.validate

    def validate(model: Siamese, doctor: sl.Doctor) -> None:
        script.trained = script.labels < TRAIN
        usual(model, doctor)

    script.validate = validate  # type: ignore[method-assign]


def noise(labels: Tensor) -> Tensor:
    """Shuffle the labels of a batch."""
    return labels[torch.randperm(len(labels))]


def random_rows(rows: Tensor, labels: Tensor, k: int) -> Tensor:
    """Rows at random, mostly of different people."""
    first = rows[:: IMAGES // 2]
    return first[torch.randperm(len(first))[:24]]


def sorted_rows(rows: Tensor, labels: Tensor, k: int) -> Tensor:
    """Rows in the order of the files."""
    return rows[(k * 16 + torch.arange(16)) % len(rows)]


def scaled(factor: float) -> Callable[[nn.Module, Tensor], Tensor]:
    """Embeddings of another length."""
    return lambda model, x: model.backbone(x) * factor
