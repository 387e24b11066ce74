"""From training to other pairs: the threshold, the mode of the net, overfitting."""

import math

import numpy as np
import torch
from numpy.typing import NDArray

from siameselib.diagnostics.evidence import (
    Evidence,
    Floats,
    hanley_mcneil,
    spread,
    square_distances,
)
from siameselib.diagnostics.findings.need import enough, need
from siameselib.diagnostics.report import Finding
from siameselib.evaluation.curves import auc
from siameselib.evaluation.thresholds import fit_threshold
from siameselib.evaluation.verification import accuracy_at

_LOST = 0.05  # accuracy
_GAP = 0.15  # AUC


def threshold_error(e: Evidence) -> Finding | None:
    """Scores that tell pairs apart, cut at the wrong place."""
    if e.validation is not None and e.validation.threshold is not None:
        scores, same, threshold = e.validation.scores, e.validation.same, e.validation.threshold
        of = "the validation pairs"
    else:
        z, same = need(e.logits)
        enough(e.reading.family == "bce" and not e.reading.probabilities)
        scores, threshold, of = z, 0.0, "the recent training pairs"
    enough(len(scores) >= 40 and bool(same.any() and not same.all()))
    enough(bool(np.isfinite(scores).all()))
    accuracy, se = accuracy_at(scores, same, threshold)
    best, fitted = _crossed(scores, same)
    area = auc(scores, same)
    if area < 0.6 or best - accuracy < max(_LOST, 3 * math.sqrt(2) * se):
        return None
    accepted, wrong = (
        float(np.mean(scores[same] >= threshold)),
        float(np.mean(scores[~same] >= threshold)),
    )
    return Finding(
        "threshold-error",
        "critical" if best - accuracy > 0.15 else "warning",
        f"On {of} the AUC is {area:.3f}, but the accuracy at the threshold {threshold:.4g} is "
        f"{accuracy:.3f}: {accepted:.1%} of the same pairs and {wrong:.1%} of the different ones "
        "are accepted.".replace("%", " %"),
        "The embeddings are better than their verdict: nothing is wrong with the training that a "
        "cut at the right place would not mend.",
        f"Take the threshold {fitted:.4g} (accuracy about {best:.3f}), fitted on pairs that are "
        f"not "
        "the test pairs: fit_threshold, or Verifier.fit.",
    )


def overfitting(e: Evidence) -> Finding | None:
    """Training pairs told apart, other pairs not."""
    trained, judged = need(e.best_auc), need(e.validation).auc
    gap = trained.value - judged.value
    if gap < max(_GAP, 3 * math.hypot(trained.se, judged.se)):
        return None
    return Finding(
        "overfitting",
        "warning",
        f"The AUC is {trained} on training pairs and {judged} on validation pairs.",
        "The net knows the training images by heart. A fixed list of pairs invites that: most of "
        "its images occur under one label only (91 % on LFW's list), so knowing the image is "
        "knowing the answer.",
        "Use identity labels and draw new pairs each epoch (PairSampler, PKSampler), augment, and "
        "stop when the validation AUC does; use the other pairs of the batch as negatives "
        "(InfoNCELoss) where there is a list only.",
    )


def train_eval_gap(e: Evidence) -> Finding | None:
    """A net that is another one in evaluation mode."""
    modes = need(e.modes)
    labels = modes.labels
    enough(len(labels) >= 16 and bool(modes.train.isfinite().all()))
    i, j = np.triu_indices(len(labels), 1)
    same = (labels[i] == labels[j]).numpy()
    enough(bool(same.any()) and not same.all())
    areas, wide = [], []
    for rows in (modes.train, modes.eval):
        x = rows if bool(rows.isfinite().all()) else rows.nan_to_num(0, 0, 0)
        areas.append(auc(-square_distances(x, e.reading.metric)[i, j].double().numpy(), same))
        wide.append(spread(x))
    n = len(torch.unique(labels))
    se = hanley_mcneil(areas[0], n, n)
    collapsed = wide[1] < 0.05 * wide[0]
    if areas[0] - areas[1] < max(0.1, se) and not collapsed:
        return None
    return Finding(
        "train-eval-gap",
        "critical" if collapsed or areas[1] < 0.6 else "warning",
        f"The same {len(labels)} images have an AUC of {areas[0]:.3f} in training mode and "
        f"{areas[1]:.3f} in evaluation mode; their spread over their length is {wide[0]:.2g} and "
        f"{wide[1]:.2g}.",
        "In training mode BatchNorm uses the batch, in evaluation mode what it remembers: with "
        "small or one-sided batches, a momentum that is too low, or anchor, positive and negative "
        "sent through one after the other, the two are not the same net.",
        "Send the whole batch through in one forward pass, mix identities in it, take larger "
        "batches or a higher BatchNorm momentum, or GroupNorm in place of BatchNorm.",
    )


def _crossed(scores: Floats, same: NDArray[np.bool_]) -> tuple[float, float]:
    """Judge a threshold fitted on each half by the other half; fit one on all."""
    order = np.random.default_rng(0).permutation(len(scores))
    halves = order[::2], order[1::2]
    right = []
    for fit, judge in (halves, halves[::-1]):
        enough(bool(same[fit].any() and not same[fit].all()))
        threshold = fit_threshold(scores[fit], same[fit])
        right.append(np.mean((scores[judge] >= threshold) == same[judge]))
    return float(np.mean(right)), fit_threshold(scores, same)
