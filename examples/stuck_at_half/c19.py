"""The 19-layer net on listed pairs: as its author wrote it, and cured.

    python examples/stuck_at_half/c19.py
    python examples/stuck_at_half/c19.py --data path/to/lfw

Two embeddings side by side into one linear layer with cross-entropy; or the contrastive loss with
margin 1, a pair called same below one half. Fits the list, and stays near 0.5 on new people.
"""

import numpy as np
import torch
from ground import (
    Faces,
    Judged,
    Pairs,
    Row,
    Run,
    chance,
    draw_scores,
    embed,
    judge,
    load,
    options,
    table,
)
from torch import Tensor, nn
from torch.nn import functional as F

import siameselib as sl
from siameselib.data import Augment, prepare
from siameselib.functional import paired_distance

WRITTEN_EPOCHS = 2
WRITTEN = {
    "bce": "concat, cross-entropy",
    "contrastive": "contrastive, margin 1, same below 0.5",
}


def batches(pairs: Pairs, size: int, epoch: int, seed: int) -> list[Pairs]:
    """Shuffle the list and cut it into whole batches."""
    size = min(size, len(pairs.i))
    order = np.random.default_rng([seed, epoch]).permutation(len(pairs.i))
    starts = range(0, len(order) - size + 1, size)
    return [Pairs(*(column[order[k : k + size]] for column in pairs)) for k in starts]


def negative_distance(f1: Tensor, f2: Tensor) -> Tensor:
    return -paired_distance(f1, f2)


def cosine(f1: Tensor, f2: Tensor) -> Tensor:
    return 1 - paired_distance(f1, f2, "cosine")


def written(faces: Faces, loss: str, seed: int, epochs: int) -> tuple[Row, Judged]:
    """Train as the author did: the list as it is, 32 pairs a batch, no augmentation."""
    torch.manual_seed(seed)
    net = nn.Module()
    net.backbone = sl.C19(faces.size).to(memory_format=torch.channels_last)
    net.head = sl.ConcatHead(sl.C19.embedding_dim) if loss == "bce" else None
    criterion = sl.BCEPairLoss() if loss == "bce" else sl.ContrastiveLoss(margin=1.0)
    run = Run("written", WRITTEN[loss], net, criterion, torch.optim.Adam(net.parameters(), lr=1e-3))
    for epoch in range(epochs):
        for i, j, same in batches(faces.listed, 32, epoch, seed):
            images = prepare(faces.images[torch.from_numpy(np.concatenate([i, j]))])
            f1, f2 = embed(net.backbone, images).chunk(2)
            same = torch.from_numpy(same).float()
            z = None if net.head is None else net.head(f1, f2)
            value = criterion(f1, f2, same) if z is None else criterion(z, same)
            run.step(value, (f1, f2), same, logits=z)
    scorer, cut = (negative_distance, -0.5) if net.head is None else (net.head, 0.0)
    found = judge(net.backbone, faces, scorer, run.doctor, cut)
    return run.row(found.accuracy, found.auc, criterion.stats.trivial.item()), found


def cured(faces: Faces, seed: int, epochs: int) -> tuple[Row, Judged]:
    """Contrast each positive of the list with the other pairs of the batch, on unit embeddings.

    Three quarters of the epochs are at half the image size, which costs a quarter.
    """
    torch.manual_seed(seed)
    positives = Pairs(*(column[faces.listed.same] for column in faces.listed))
    size = min(64, len(positives.i))
    backbone, criterion = sl.C19(faces.size // 2), sl.InfoNCELoss(temperature=0.1)
    what = f"InfoNCE on unit embeddings, {size} pairs, augmented, fitted threshold"
    small, run = epochs * 3 // 4, None
    for length, image_size in ((small, faces.size // 2), (epochs - small, faces.size)):
        if not length:
            continue
        backbone = backbone.resized(image_size).to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(backbone.parameters(), weight_decay=0.05)
        steps = length * (len(positives.i) // size)
        peak = 1e-3 if run is None else 5e-4
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, steps, pct_start=0.1)
        parts = (backbone, criterion, optimizer, schedule)
        if run is None:
            run = Run("cured", what, *parts)
        run.follow(*parts)
        augment = Augment(image_size)
        for epoch in range(length):
            for i, j, _ in batches(positives, size, epoch, seed + image_size):
                images = augment(faces.images[torch.from_numpy(np.concatenate([i, j]))])
                f1, f2 = F.normalize(embed(backbone, images)).chunk(2)
                value = criterion(f1, f2, faces.labels[torch.from_numpy(i)])
                run.step(value, (f1, f2), None)
    found = judge(backbone, faces, cosine, run.doctor)
    return run.row(found.accuracy, found.auc, criterion.stats.trivial.item()), found


def main(argv: list[str] | None = None) -> list[Row]:
    parser = options(__doc__, epochs=16)
    parser.add_argument("--written-epochs", type=int, default=WRITTEN_EPOCHS)
    args = parser.parse_args(argv)
    faces, rows, runs = load(args), [], {}
    if args.mode != "cured":
        for loss in ("bce", "contrastive"):
            row, runs[f"as written, {loss}"] = written(faces, loss, args.seed, args.written_epochs)
            rows.append(row)
    if args.mode != "written":
        row, runs["cured"] = cured(faces, args.seed, args.epochs)
        rows.append(row)
    draw_scores(args, "c19", faces, runs)
    print(table(faces.about, chance(faces.test.same), rows))
    return rows


if __name__ == "__main__":
    main()
