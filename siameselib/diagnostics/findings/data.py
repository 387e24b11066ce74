"""The data themselves, pixel by pixel: duplicates, leaks, lists that can be learnt by heart."""

from collections import defaultdict
from typing import Any, NamedTuple

from siameselib.diagnostics.evidence import Evidence
from siameselib.diagnostics.findings.need import enough, need, share
from siameselib.diagnostics.report import Finding


class Loaded(NamedTuple):
    """What the loaders gave."""

    train: Any
    """A `siameselib.diagnostics.examine.Seen`."""
    test: Any
    evidence: Evidence


def identity_leak(d: Loaded) -> Finding | None:
    """People on both sides of a split."""
    test = need(d.test)
    enough(bool(d.train.labels) and bool(test.labels))
    train_people, test_people = set(d.train.labels), set(test.labels)
    both = train_people & test_people
    if not both:
        return None
    return Finding(
        "identity-leak",
        "critical",
        f"{len(both):,} of the {len(test_people):,} identities of the test are trained on too "
        f"({', '.join(map(str, sorted(both)[:5]))}{' …' if len(both) > 5 else ''}).",
        "Accuracy on people that were trained on says nothing about new people. (If the two "
        "loaders "
        "number their people independently, the numbers coincide by accident: number them "
        "together.)",
        "Split by person, not by image; LFW's views do, and View1 and View2 refuse such a leak.",
    )


def image_leak(d: Loaded) -> Finding | None:
    """Images that are in training and in test."""
    test = need(d.test)
    both = set(d.train.images) & set(test.images)
    if not both:
        return None
    return Finding(
        "image-leak",
        "critical",
        f"{len(both):,} of the {len(set(test.images)):,} test images are, pixel by pixel, among "
        f"the "
        "training images.",
        "The test then measures memory.",
        "Remove them from one side, and look for the same photograph under two names.",
    )


def duplicates_in_pairs(d: Loaded) -> Finding | None:
    """Same pairs of an image with itself."""
    enough(bool(d.train.pairs))
    same = [a == b for a, b, alike in d.train.pairs if alike]
    if not any(same):
        return None
    part = sum(same) / len(same)
    return Finding(
        "duplicates-in-pairs",
        "warning" if part > 0.01 else "note",
        f"{sum(same):,} of the {len(same):,} same pairs ({share(part)}) are an image and itself, "
        "pixel by pixel.",
        "Such a pair has distance 0 whatever the net: it teaches nothing and flatters every "
        "figure. "
        "People with a single image are usually the cause.",
        "Draw two different images of a person (PairSampler and PKSampler do) and leave out people "
        "with one.",
    )


def duplicates_across_identities(d: Loaded) -> Finding | None:
    """One image under several identities, or against itself in a different pair."""
    if d.train.labels:
        under = defaultdict(set)
        for image, label in zip(d.train.images, d.train.labels, strict=True):
            under[image].add(label)
        bad = sum(len(labels) > 1 for labels in under.values())
        text = f"{bad:,} of {len(under):,} images occur, pixel by pixel, under several identities."
    else:
        enough(bool(d.train.pairs))
        different = [a == b for a, b, alike in d.train.pairs if not alike]
        bad = sum(different)
        text = f"{bad:,} of the {len(different):,} different pairs are an image and itself."
    if not bad:
        return None
    return Finding(
        "duplicates-across-identities",
        "warning",
        text,
        "The loss is asked to push an image away from itself, and the hardest negatives are the "
        "first that a miner picks.",
        "Look for duplicate files and wrong labels, and remove them.",
    )


def pair_list_memorable(d: Loaded) -> Finding | None:
    """A fixed list of pairs whose images occur under one label only."""
    enough(d.train.form == "pairs" and len(d.train.pairs) >= 40)
    if not d.train.fixed:
        return None
    labels = defaultdict(set)
    for a, b, same in d.train.pairs:
        labels[a].add(same)
        labels[b].add(same)
    part = sum(len(found) == 1 for found in labels.values()) / len(labels)
    if part < 0.8:
        return None
    return Finding(
        "pair-list-memorable",
        "warning",
        f"Every pass gives the same {len(d.train.pairs):,} pairs, and {share(part)} of their "
        f"{len(labels):,} images occur in same pairs only or in different pairs only.",
        "Knowing the image is knowing the answer: a net can fit the list without comparing "
        "anything (91 % of the images on LFW's list are so).",
        "Where identities are known, draw new pairs each epoch: PairSampler or PKSampler. With a "
        "list only, use a head that compares, augment, and use the other pairs of a batch as "
        "negatives (InfoNCELoss).",
    )


def sampler_coverage(d: Loaded) -> Finding | None:
    """An epoch that shows a part of the images, over and over."""
    enough(d.train.form == "batch")
    distinct, rows = len(set(d.train.images)), len(d.train.images)
    size = d.train.size
    enough(rows >= 32)
    missing = size is not None and distinct < 0.5 * min(size, rows)
    if distinct >= 0.5 * rows and not missing:
        return None
    of = "" if size is None else f" of the {size:,} in the data set"
    return Finding(
        "sampler-coverage",
        "warning",
        f"A pass gives {rows:,} rows but only {distinct:,} distinct images{of}.",
        "The net sees the same few images again and again and learns them by heart, while others "
        "never come.",
        "PKSampler shows every image of the identities that take part, each epoch; print its "
        "coverage().",
    )


CHECKS = (
    identity_leak,
    image_leak,
    duplicates_in_pairs,
    duplicates_across_identities,
    pair_list_memorable,
    sampler_coverage,
)
