"""FaceNet-style fine-tuning for fifteen people: as its author wrote it, and cured.

    python examples/stuck_at_half/facenet.py --weights path/to/weights.pt
    python examples/stuck_at_half/facenet.py --data path/to/lfw

InceptionResnetV1 with its trunk frozen and last_linear and last_bn free, margin 0.1, a fixed
threshold; then one-vs-rest batches with the hardest triplets. Without --weights, a trunk that is
pretrained here for minutes on other people stands in for the published one.
"""

import argparse
import copy
from itertools import chain, islice, repeat
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from ground import Faces, Row, Run, embed, load, options, save, score, table
from torch import Tensor, nn
from torch.nn import functional as F

import siameselib as sl
from siameselib import plot
from siameselib.backbones import InceptionResnetV1
from siameselib.data import Augment, prepare
from siameselib.evaluation import auc, fit_threshold
from siameselib.functional import paired_distance

PEOPLE, EACH, MARGIN, FIXED = 15, 24, 0.1, 0.5
WRITTEN = ("random triplets", "one-vs-rest, batch-hard")


class Group(NamedTuple):
    """The fifteen people: images to learn from, and as many others to test on."""

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def fifteen(faces: Faces) -> Group:
    """Take the people of the test side that have most images."""
    tested = torch.from_numpy(np.unique(np.concatenate([faces.test.i, faces.test.j])))
    of_tested = torch.isin(faces.labels, faces.labels[tested])
    people, counts = faces.labels[of_tested].unique(return_counts=True)
    chosen = people[counts.argsort(descending=True, stable=True)[:PEOPLE]]
    rows = [(faces.labels == person).nonzero().flatten()[:EACH] for person in chosen]
    parts = [torch.cat([of[k::2] for of in rows]) for k in (0, 1)]
    return Group(*(x[part] for part in parts for x in (faces.images, faces.labels)))


def trunk(args: argparse.Namespace, faces: Faces) -> InceptionResnetV1:
    """Load the published weights, or pretrain on people other than the fifteen."""
    kept = Path(args.cache) / f"stand-in-{'drawn' if args.data is None else 'lfw'}-{faces.size}.pt"
    if args.weights or kept.exists():
        print(f"trunk: {args.weights or kept}")
        return InceptionResnetV1.load(args.weights or kept)
    print(f"trunk: no --weights: {args.pretraining} steps on {faces.about} stand in for them")
    torch.manual_seed(args.seed)
    net, criterion = InceptionResnetV1(dropout=0.2), sl.SupConLoss(temperature=0.1)
    net.to(memory_format=torch.channels_last)
    labels, augment = faces.labels[faces.trained], Augment()
    optimizer = torch.optim.AdamW(net.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, args.pretraining)
    run, sampler = Run("", "", net, criterion, optimizer, schedule), sl.PKSampler(labels, 24, 2)
    for batch in islice(chain.from_iterable(repeat(sampler)), args.pretraining):
        rows = torch.from_numpy(faces.trained[batch])
        f = embed(net, augment(faces.images[rows]))
        run.step(criterion(f, faces.labels[rows]), f, faces.labels[rows])
    kept.parent.mkdir(parents=True, exist_ok=True)
    torch.save(net.state_dict(), kept)
    return InceptionResnetV1.load(kept)


def written(net: InceptionResnetV1, group: Group, way: str, steps: int) -> tuple[nn.Module, Run]:
    """Train last_linear and last_bn as the author did: nothing is held but the trunk's gradients.

    Random triplets go through the net in three calls; in one-vs-rest batches a person in turn is
    labelled 1 and everybody else 0.
    """
    torch.manual_seed(0)
    net.requires_grad_(False).train()
    for part in (net.last_linear, net.last_bn):
        part.requires_grad_(True)
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=1e-3)
    random, persons = way == WRITTEN[0], group.labels.unique()
    criterion = (sl.TripletLoss if random else sl.BatchHardTripletLoss)(margin=MARGIN)
    run = Run("written", f"{way}, same below {FIXED}", net, criterion, optimizer)
    for step in range(steps):
        if random:
            a = torch.randperm(len(group.labels))[:16]
            same = group.labels[a, None] == group.labels
            p, n = (torch.multinomial(w.float(), 1).flatten() for w in (same, ~same))
            f = tuple(embed(net, prepare(group.images[rows])) for rows in (a, p, n))
            run.step(criterion(*f), f, None)
        else:
            one = group.labels == persons[step % len(persons)]
            rows = torch.cat([torch.multinomial(w.float(), 12) for w in (one, ~one)])
            f = embed(net, prepare(group.images[rows]))
            run.step(criterion(f, one[rows].long()), f, one[rows].long())
    return net, run


def cured(net: InceptionResnetV1, group: Group, steps: int) -> tuple[nn.Module, Run]:
    """Freeze the trunk, BatchNorm and dropout included; mine batches labelled with identities.

    What is frozen gives the same features each time: it is run once, on four views of each image,
    and the two free layers learn from the features.
    """
    torch.manual_seed(0)
    sl.freeze(net)
    last = nn.Sequential(net.last_linear, net.last_bn)
    features: list[Tensor] = []
    hook = net.dropout.register_forward_hook(lambda *call: features.append(call[2].float()))
    with torch.no_grad():
        for images in group.images.repeat(4, 1, 1, 1).split(64):
            embed(net, Augment()(images))
    hook.remove()
    x, labels = torch.cat(features), group.labels.repeat(4)
    sl.unfreeze(last).train()
    criterion = sl.BatchHardTripletLoss(margin=MARGIN)
    optimizer = torch.optim.Adam(last.parameters(), lr=1e-3)
    what = "frozen trunk, identities, batch-hard, fitted threshold"
    run, sampler = Run("cured", what, last, criterion, optimizer), sl.PKSampler(labels, PEOPLE, 8)
    for batch in islice(chain.from_iterable(repeat(sampler)), steps):
        f = F.normalize(last(x[batch]))
        run.step(criterion(f, labels[batch]), f, labels[batch])
    return net, run


def judge(
    net: nn.Module, group: Group, faces: Faces, cut: float | None, run: Run | None = None
) -> tuple[float, float, float]:
    """Give 1:1 accuracy and AUC on all pairs of test images, and the share named rightly, 1:15.

    To be named, each person is enrolled: the mean of the embeddings of the images learnt from.
    The accuracy is the mean of accepted same and rejected different pairs. A threshold that is
    not given is fitted on pairs of other people.
    """
    net.eval()
    with torch.no_grad():
        enrolled, f = (
            torch.cat([embed(net, prepare(part)) for part in images.split(64)])
            for images in (group.images, group.test_images)
        )
    i, j = np.triu_indices(len(f), 1)
    same = (group.test_labels[i] == group.test_labels[j]).numpy()
    scores = -paired_distance(f[i], f[j]).numpy()
    held = score(net, faces.images, faces.held, lambda a, b: -paired_distance(a, b))
    cut = fit_threshold(held, faces.held.same) if cut is None else cut
    if run is not None:
        run.doctor.validation(held, faces.held.same, cut)
    accepted, rejected = (scores[same] >= cut).mean(), (scores[~same] < cut).mean()
    persons = group.labels.unique()
    templates = torch.stack([enrolled[group.labels == who].mean(0) for who in persons])
    named = persons[(f @ F.normalize(templates).T).argmax(1)]
    right = (named == group.test_labels).float().mean().item()
    return float(accepted + rejected) / 2, auc(scores, same), right


def main(argv: list[str] | None = None) -> list[tuple[Row, float]]:
    parser = options(__doc__, epochs=6)
    parser.add_argument("--weights", help="state dict of the published net")
    parser.add_argument("--pretraining", type=int, default=150, help="steps of the stand-in trunk")
    parser.add_argument("--steps", type=int, default=90, help="of each run as written")
    parser.set_defaults(size=80)
    args = parser.parse_args(argv)
    faces = load(args, people=300, pairs=1000)
    group, start, found = fifteen(faces), trunk(args, faces), []
    accuracy, area, right = judge(start, group, faces, None)
    named = [("the trunk as it is, fitted threshold", accuracy, area, right)]
    ways = {"both": (*WRITTEN, "cured"), "written": WRITTEN, "cured": ("cured",)}
    for way in ways[args.mode]:
        net = copy.deepcopy(start)
        if way == "cured":
            net, run = cured(net, group, args.epochs * 30)
        else:
            net, run = written(net, group, way, args.steps)
        accuracy, area, right = judge(net, group, faces, None if way == "cured" else -FIXED, run)
        found.append((run.row(accuracy, area, MARGIN), right))
        named.append((run.what, accuracy, area, right))
        with torch.no_grad():
            f = embed(net, prepare(group.test_images))
        title = f"test images, {run.what}"
        picture = plot.embedding_map(f, group.test_labels, images=group.test_images, title=title)
        save(args, "facenet-" + way.split()[0].rstrip(","), picture)
    about = f"{PEOPLE} people ({faces.about}), trunk {args.weights or 'pretrained here'}"
    print(table(about, "0.500", (row for row, _ in found)))
    print(f"\n| | 1:1 | AUC | 1:{PEOPLE} (chance {1 / PEOPLE:.3f}) |\n|---|---|---|---|")
    for what, accuracy, area, right in named:
        print(f"| {what} | {accuracy:.3f} | {area:.3f} | {right:.3f} |")
    return found


if __name__ == "__main__":
    main()
