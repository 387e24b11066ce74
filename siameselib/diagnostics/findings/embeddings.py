"""Embeddings: collapsed, flat, dead, or the same image twice."""

import torch
from torch import Tensor

from siameselib.diagnostics.evidence import Evidence
from siameselib.diagnostics.findings.need import enough, need, share
from siameselib.diagnostics.measures import effective_rank, spread
from siameselib.diagnostics.report import Finding

_COLLAPSED = 0.01  # spread over length: cosines above 0.9999
_SHRUNK = 0.1  # of the distances at first
_SETTLED = 30  # steps before a collapse is one: nets often start nearly collapsed
_EQUAL = 1e-5  # of the spread


def total_collapse(e: Evidence) -> Finding | None:
    """All embeddings are the same vector."""
    rows = _finite(e)
    enough(len(rows) >= 16 and e.settled(_SETTLED))
    found = _spread(e)
    if bool((rows == 0).all()):  # said as zero rows
        return None
    mean = None if e.distances is None else float(e.distances.values.mean())
    tiny = mean is not None and mean < _COLLAPSED * (e.reading.margin or 0.0)
    scale = "" if mean is None else f" (mean distance {mean:.2g})"
    left = _left(e)
    if found >= _COLLAPSED and not tiny and left >= _SHRUNK:
        return None
    shrunk = f"different pairs are {share(left)} as far apart as at first, " if left < 1 else ""
    unit = rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)
    lightly = float(unit.std(0).mean()) * rows.shape[1] ** 0.5
    return Finding(
        "total-collapse",
        "critical",
        f"All embeddings are becoming one vector{scale}: {shrunk}their spread is {found:.2g} of "
        f"their length, and the standard deviation of the normalised entries times √d is "
        f"{lightly:.2g} (near 1 where they spread evenly).",
        "With all distances near 0 a hinge loss stays at its margin and its gradient nearly "
        "vanishes: the net does not come out of it again.",
        "Check that the loss has its term for different pairs, and that the net's input varies "
        "(images scaled to [0, 1], divided once). Start over with a lower learning rate and "
        "semi-hard (SemiHardTripletLoss) or all triplets in place of the hardest, at least for "
        "the first epochs; normalise embeddings.",
    )


def dimensional_collapse(e: Evidence) -> Finding | None:
    """The embeddings lie on a line or a plane."""
    rows = _finite(e)
    identities = _identity_count(e)
    enough(rows.shape[1] >= 8 and len(rows) >= 64 and e.settled(_SETTLED))
    last = torch.cat([torch.cat(s.rows) for s in e.recent[-4:] if s.rows])
    if _spread(e) < _COLLAPSED:
        return None
    rank = effective_rank(last)
    room = min(rows.shape[1], (identities or rows.shape[1]) - 1)
    if room < 8 or rank >= max(1.5, min(0.04 * room, 3.0)):
        return None
    return Finding(
        "dimensional-collapse",
        "warning",
        f"The embeddings have {rows.shape[1]} entries but use {rank:.1f} dimensions (effective "
        "rank).",
        "On a line or a plane there is no room for many identities that all are far apart.",
        "Look for a narrow layer before the embedding, and lower weight decay; put BatchNorm "
        "before the embedding, or use a loss with many negatives an anchor (SupConLoss).",
    )


def zero_rows(e: Evidence) -> Finding | None:
    """Embeddings that are exactly zero."""
    rows = _finite(e)
    zero = float((rows == 0).all(1).double().mean())
    if zero <= 0.01:
        return None
    return Finding(
        "zero-rows",
        "critical" if zero > 0.25 else "warning",
        f"{share(zero)} of the embeddings are exactly zero in every entry.",
        "These images are all at distance 0 from each other, whoever they show, and a net whose "
        "last ReLUs are off gets no gradient from them.",
        "End the net in a linear layer, without ReLU; lower the learning rate; restart, for dead "
        "ReLUs do not come back.",
    )


def dead_dimensions(e: Evidence) -> Finding | None:
    """Entries of the embedding that are the same for every image."""
    rows = _finite(e)
    enough(len(rows) >= 64)
    nonzero = rows[(rows != 0).any(1)]
    if len(nonzero) < 16 or _spread(e) < _COLLAPSED:
        return None
    dead = float((nonzero.amax(0) == nonzero.amin(0)).double().mean())
    if dead < 0.5:
        return None
    return Finding(
        "dead-dimensions",
        "warning",
        f"{share(dead)} of the {rows.shape[1]} entries of the embedding are the same for all "
        f"{len(rows):,} images looked at.",
        "They take part in no distance: the embedding is that much narrower than it looks.",
        "End the net in a linear layer without ReLU, or lower the learning rate.",
    )


def duplicates_in_pairs(e: Evidence) -> Finding | None:
    """Same pairs of an image with itself."""
    enough(e.form in {"pairs", "batch", "triplets"})
    equal, same, _ = _equal_pairs(e)
    kind = equal & same
    part = float(kind.sum() / same.sum().clamp_min(1))
    # a sampler may repeat the images of people who have few; in a pair it is always a mistake
    if int(kind.sum()) < 2 or part < (0.3 if e.form == "batch" else 0.02):
        return None
    return Finding(
        "duplicates-in-pairs",
        "warning",
        f"{share(part)} of the same pairs have exactly equal embeddings, as an image and itself "
        "have.",
        "Such a pair costs nothing, whatever the net: it teaches nothing and flatters every "
        "figure. "
        "People with a single image are usually the cause.",
        "Draw two different images of a person (PairSampler and PKSampler do) and leave out people "
        "with one.",
    )


def duplicates_across_identities(e: Evidence) -> Finding | None:
    """Different pairs with equal embeddings."""
    equal, same, _ = _equal_pairs(e)
    kind = equal & ~same
    part = float(kind.sum() / (~same).sum().clamp_min(1))
    if int(kind.sum()) < 2 or part < (1e-3 if e.form == "batch" else 0.01):
        return None
    return Finding(
        "duplicates-across-identities",
        "warning",
        f"{int(kind.sum()):,} different pairs ({share(part)}) have exactly equal embeddings.",
        "The same image under two identities: the loss is asked to push an image away from itself, "
        "and the hardest negatives are the first that a miner picks.",
        "Look for duplicate files under several names: siameselib.diagnose(model, loader) counts "
        "images that are equal pixel by pixel.",
    )


def _finite(e: Evidence) -> Tensor:
    rows = need(e.rows)
    enough(bool(rows.isfinite().all()) and len(rows) > 1)
    return rows


def _left(e: Evidence) -> float:
    """Give what is left of the distances of different pairs; 1 where shrinking is all right.

    It is where the pairs are told apart, and where a margin sets a scale that is kept.

    Args:
        e: the evidence.

    Returns:
        The mean distance of different pairs now, over that of the first steps.
    """
    before, now = e.early_distances, e.distances
    if before is None or now is None or before.same.all() or now.same.all():
        return 1.0
    first, last = (float(d.values[~d.same].mean()) for d in (before, now))
    told_apart = e.best_auc is not None and e.best_auc.value > 0.85
    kept = e.reading.margin is not None and last > 0.25 * e.reading.margin
    return 1.0 if told_apart or kept or first <= 0 else last / first


def _spread(e: Evidence) -> float:
    """Give the spread over the length within a batch, of the middle one of the recent batches."""
    by_sample = sorted(spread(torch.cat(s.rows)) for s in e.recent if s.rows)
    return by_sample[len(by_sample) // 2]


def _identity_count(e: Evidence) -> int | None:
    labels = [s.all_labels for s in e.recent if s.form == "batch" and s.all_labels is not None]
    return len(torch.unique(torch.cat(labels))) if labels else None


def _equal_pairs(e: Evidence) -> tuple[Tensor, Tensor, int]:
    """Give for all recent pairs whether they are equal but not zero, and whether they are same."""
    rows = _finite(e)
    enough(_spread(e) > _COLLAPSED)
    equal, same = [], []
    for sample in e.recent:
        every = torch.cat(sample.rows) if sample.rows else rows
        limit = _EQUAL * spread(every) * float(every.square().sum(1).mean().sqrt())
        if sample.form == "batch" and sample.labels is not None:
            x = sample.rows[0]
            i, j = torch.triu_indices(len(x), len(x), 1)
            exact = "donot_use_mm_for_euclid_dist"
            near = torch.cdist(x, x, compute_mode=exact)[i, j] <= limit
            equal.append(near & (x[i] != 0).any(1))
            same.append(sample.labels[i] == sample.labels[j])
        elif sample.form == "pairs" and sample.rows and sample.labels is not None:
            x1, x2 = sample.rows
            equal.append(((x1 - x2).norm(dim=1) <= limit) & (x1 != 0).any(1))
            same.append(sample.labels > 0)
        elif sample.form == "triplets":
            a, p, n = sample.rows
            for other, alike in ((p, True), (n, False)):
                equal.append(((a - other).norm(dim=1) <= limit) & (a != 0).any(1))
                same.append(torch.full((len(a),), alike))
    enough(len(equal) > 0)
    return torch.cat(equal), torch.cat(same), len(rows)
