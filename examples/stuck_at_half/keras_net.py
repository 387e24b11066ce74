"""The Keras net that stays at one half: as its author wrote it, and cured.

    python examples/stuck_at_half/keras_net.py
    python examples/stuck_at_half/keras_net.py --data path/to/lfw

Six separable convolutions and a dense layer of 1,024; the distance of two such embeddings goes
through Dense(1) and a sigmoid, into binary cross-entropy or a contrastive loss. Accuracy 0.5.
"""

import math
from collections.abc import Callable

import torch
from ground import Faces, Judged, Row, Run, chance, draw_scores, embed, judge, load, options, table
from torch import Tensor, nn
from torch.nn import functional as F

import siameselib as sl
from siameselib.backbones import SeparableC
from siameselib.data import Augment, prepare
from siameselib.functional import paired_distance

WRITTEN = (("l1", "bce"), ("cosine", "bce"), ("euclidean", "bce"), ("l1", "contrastive"))
WRITTEN_EPOCHS, PEOPLE = 2, 24


class KerasHead(nn.Module):
    """A distance, then Dense(1): what the author's nets end in, before the sigmoid."""

    def __init__(self, distance: str) -> None:
        super().__init__()
        self.distance = distance
        self.dense = nn.Linear(SeparableC.embedding_dim if distance == "l1" else 1, 1)
        nn.init.xavier_uniform_(self.dense.weight)
        nn.init.zeros_(self.dense.bias)

    def forward(self, f1: Tensor, f2: Tensor) -> Tensor:
        if self.distance == "l1":  # a vector: |a - b| after each was divided by its sum
            return self.dense((F.normalize(f1, p=1) - F.normalize(f2, p=1)).abs()).flatten()
        return self.dense(paired_distance(f1, f2, self.distance)[:, None]).flatten()


class KerasContrastive(nn.Module):
    """Keras' contrastive loss: labelled 1 for different, and the "distance" is the sigmoid's."""

    def __init__(self, margin: float = 1.0) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, p: Tensor, y: Tensor) -> Tensor:
        return ((1 - y) * p.square() + y * (self.margin - p).clamp_min(0).square()).mean()


def written(
    faces: Faces, distance: str, loss: str, seed: int, epochs: int, lr: float
) -> tuple[Row, Judged]:
    """Train as the author did: batches of 16 drawn pairs."""
    torch.manual_seed(seed)
    net = sl.SiameseNetwork(SeparableC(faces.size), KerasHead(distance))
    # Keras' binary cross-entropy on a sigmoid is the one on its logit
    criterion = nn.BCEWithLogitsLoss() if loss == "bce" else KerasContrastive()
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    what = f"{distance} into Dense(1) and sigmoid, {loss}"
    run = Run("written", what, net, criterion, optimizer)
    train(run, net, criterion, faces, pairs(faces, 16, seed), epochs, sigmoid=loss != "bce")
    # the author's verdict is p > 0.5: a logit above 0
    found = judge(net.backbone, faces, net.head, run.doctor, cut=0.0)
    trivial = math.log(2) if loss == "bce" else criterion.margin**2 / 4
    return run.row(found.accuracy, found.auc, trivial), found


def cured(faces: Faces, seed: int, epochs: int) -> tuple[Row, Judged]:
    """Same pairs and loss; the head standardises |f1 - f2| and f1·f2, 64 pairs a batch."""
    torch.manual_seed(seed)
    net = sl.SiameseNetwork(quick(faces), sl.InteractionHead(SeparableC.embedding_dim))
    criterion, drawn = sl.BCEPairLoss(), pairs(faces, 64, seed)
    optimizer = torch.optim.Adam(net.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, epochs * len(drawn))
    what = "InteractionHead, BCE on logits, 64 pairs, augmented"
    run = Run("cured", what, net, criterion, optimizer, schedule)
    train(run, net, criterion, faces, drawn, epochs, view=Augment())
    found = judge(net.backbone, faces, net.head.eval(), run.doctor)
    return run.row(found.accuracy, found.auc, math.log(2)), found


def better(faces: Faces, seed: int, epochs: int) -> tuple[Row, Judged]:
    """No pairs: 24 people × 4 images a batch, each against all others, and no dropout."""
    torch.manual_seed(seed)
    net, labels = quick(faces, dropout=0.0), faces.labels[faces.trained]
    criterion, sampler = sl.SupConLoss(temperature=0.1), sl.PKSampler(labels, PEOPLE, 4, seed=seed)
    optimizer, augment = torch.optim.AdamW(net.parameters(), weight_decay=0.05), Augment()
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, epochs * len(sampler))
    what = f"SupConLoss on unit embeddings, {PEOPLE} × 4 images, augmented"
    run = Run("cured", what, net, criterion, optimizer, schedule)
    for _ in range(epochs):
        for batch in sampler:
            rows = torch.from_numpy(faces.trained[batch])
            f = F.normalize(embed(net, augment(faces.images[rows])))
            run.step(criterion(f, faces.labels[rows]), f, faces.labels[rows])
    found = judge(net, faces, lambda a, b: 1 - paired_distance(a, b, "cosine"), run.doctor)
    return run.row(found.accuracy, found.auc, criterion.stats.trivial.item()), found


def quick(faces: Faces, **options: float) -> SeparableC:
    """The same net; Keras' BatchNorm remembers its start for hundreds of steps, this one not."""
    net = SeparableC(faces.size, **options).to(memory_format=torch.channels_last)
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = 0.1
    return net


def pairs(faces: Faces, batch: int, seed: int) -> sl.PairSampler:
    return sl.PairSampler(faces.labels[faces.trained], batch_size=batch, seed=seed)


def train(
    run: Run,
    net: sl.SiameseNetwork,
    criterion: nn.Module,
    faces: Faces,
    drawn: sl.PairSampler,
    epochs: int,
    *,
    view: Callable[[Tensor], Tensor] = prepare,
    sigmoid: bool = False,
) -> None:
    """Train on drawn pairs, half of them same."""
    net.to(memory_format=torch.channels_last).train()
    for _ in range(epochs):
        for i, j, same in drawn:
            rows = torch.from_numpy(faces.trained[[*i, *j]])
            f1, f2 = embed(net.backbone, view(faces.images[rows])).chunk(2)
            same = torch.from_numpy(same).float()
            z = net.head(f1, f2).sigmoid() if sigmoid else net.head(f1, f2)
            run.step(criterion(z, same), (f1, f2), same, logits=z)


CURES = {"head": cured, "loss": better}


def main(argv: list[str] | None = None) -> list[Row]:
    parser = options(__doc__, epochs=12)
    parser.add_argument("--written-epochs", type=int, default=WRITTEN_EPOCHS)
    parser.add_argument("--written-lr", type=float, default=5e-5, help="Adam, runs as written")
    parser.add_argument("--cure", nargs="+", choices=CURES, default=list(CURES))
    args = parser.parse_args(argv)
    faces, rows, runs = load(args), [], {}
    if args.mode != "cured":
        for distance, loss in WRITTEN:
            row, judged = written(
                faces, distance, loss, args.seed, args.written_epochs, args.written_lr
            )
            rows.append(row)
            runs.setdefault("as written", judged)
    if args.mode != "written":
        for name in args.cure:
            row, runs[f"cured, {name}"] = CURES[name](faces, args.seed, args.epochs)
            rows.append(row)
    draw_scores(args, "keras_net", faces, runs)
    print(table(faces.about, chance(faces.test.same), rows))
    return rows


if __name__ == "__main__":
    main()
