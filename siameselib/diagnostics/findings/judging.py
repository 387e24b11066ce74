"""From training to other pairs: the threshold, the mode of the net, overfitting, chance."""

import math

import numpy as np
import torch
from numpy.typing import NDArray

from siameselib.diagnostics.evidence import Evidence, Figures
from siameselib.diagnostics.findings.need import enough, need
from siameselib.diagnostics.measures import Floats, hanley_mcneil, spread, square_distances
from siameselib.diagnostics.report import Finding
from siameselib.evaluation.curves import auc
from siameselib.evaluation.thresholds import fit_threshold
from siameselib.evaluation.verification import accuracy_at

_LOST = 0.05  # accuracy
_GAP = 0.15  # AUC
_FALLEN = 0.03  # AUC, from the best epoch to the last
_CHANCE = 0.1  # AUC above one half
_LEARNT = 0.8  # of the trivial loss
_STEPS, _EPOCHS = 200, 3  # until new pairs should be told apart


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
        "not the test pairs: fit_threshold, or Verifier.fit.",
    )


def overfitting(e: Evidence) -> Finding | None:
    """Training pairs told apart, other pairs not."""
    seen = _overfitted(e) if e.best_auc is not None else _overfitted_in_history(e)
    if seen is None:
        return None
    return Finding(
        "overfitting",
        "warning",
        seen,
        "The net knows the training images by heart. A fixed list of pairs invites that: most of "
        "its images occur under one label only (91 % on LFW's list), so knowing the image is "
        "knowing the answer.",
        "Use identity labels and draw new pairs each epoch (PairSampler, PKSampler), augment, and "
        "stop when the validation AUC does. Where there is a list only, use the other pairs of the "
        "batch as negatives (InfoNCELoss), and images of different pairs as positives of a second "
        "view of themselves.",
    )


def near_chance(e: Evidence) -> Finding | None:
    """Pairs that were not trained on are hardly told apart."""
    found = need(e.new_pairs)
    enough(e.settled(_STEPS) or e.epochs >= _EPOCHS or found.of == "test")
    enough(found.se is None or found.se <= _CHANCE / 2)
    if found.auc >= 0.5 + _least(found):
        return None
    learnt = e.solved or _learnt(e)
    why = (
        "The training loss says that something was learnt; what was learnt holds for the images "
        "trained on and for no others."
        if learnt
        else "Guessing gives an AUC and an accuracy of one half: no threshold makes a verdict of "
        "such scores."
    )
    return Finding(
        "near-chance",
        "critical",
        f"The {found.of} pairs are hardly told apart: {found}.",
        why,
        "See to the findings above this one first. If there are none: sl.diagnose on the untrained "
        "net and the loader looks for what is wrong with the data; a head that compares "
        "(InteractionHead, DistanceHead) or a loss on unit embeddings, identities drawn anew each "
        "epoch (PKSampler with SupConLoss) and augmentation are what most often helps.",
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


def _overfitted(e: Evidence) -> str | None:
    """Compare training pairs with validation pairs."""
    trained, judged = need(e.best_auc), need(e.validation).auc
    if trained.value - judged.value < max(_GAP, 3 * math.hypot(trained.se, judged.se)):
        return None
    return f"The AUC is {trained} on training pairs and {judged} on validation pairs."


def _overfitted_in_history(e: Evidence) -> str | None:
    """Compare the loss with new pairs, and the last epoch with the best."""
    found = need(e.new_pairs)
    enough(e.epochs >= _EPOCHS)
    if _learnt(e) and found.auc < 0.5 + _least(found):
        return (
            f"The training loss fell to {e.losses[-1]:.3g}, that of a net that has learnt nothing "
            f"is {need(e.trivial):.3g}; on the "
            f"{found.of} pairs: {found}."
        )
    enough(len(e.epoch_aucs) >= _EPOCHS)
    best = int(np.argmax(e.epoch_aucs))
    fall = e.epoch_aucs[best] - e.epoch_aucs[-1]
    if fall < max(_FALLEN, 3 * math.sqrt(2) * (found.se or 0.0)):
        return None
    return (
        f"The validation AUC was {e.epoch_aucs[best]:.3f} in epoch {best + 1} and "
        f"{e.epoch_aucs[-1]:.3f} in the last one, {len(e.epoch_aucs)}."
    )


def _learnt(e: Evidence) -> bool:
    """Whether the loss went well below that of a net that knows nothing."""
    tail = e.tail()
    return e.trivial is not None and len(tail) > 0 and float(tail.mean()) < _LEARNT * e.trivial


def _least(found: Figures) -> float:
    return max(_CHANCE, 3 * (found.se or 0.0))


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
