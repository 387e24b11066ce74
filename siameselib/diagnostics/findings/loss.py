"""The loss: not finite, at the value of a net that knows nothing, a margin out of scale."""

import math

import numpy as np
import torch

from siameselib.diagnostics.evidence import Evidence
from siameselib.diagnostics.findings.need import enough, need, share
from siameselib.diagnostics.measures import Floats, unit_length
from siameselib.diagnostics.report import Finding

_PLATEAU_STEPS = 60
_NEAR = 0.02  # of the trivial loss
_ABOVE = 2.0  # times the trivial loss
_QUARTER = 25  # losses, at least, for a trend
_FALLS = 0.03  # of the loss, from one quarter of the losses to the next
_ENOUGH = 0.98  # AUC with little left to learn


def non_finite(e: Evidence) -> Finding | None:
    """NaN or infinity in the losses or the embeddings."""
    rows = e.rows
    enough(len(e.losses) > 0 or rows is not None)
    losses = float(np.mean(~np.isfinite(e.losses))) if len(e.losses) else 0.0
    broken = 0.0 if rows is None else float((~rows.isfinite()).any(1).float().mean())
    if losses == 0 and broken == 0:
        return None
    first = int(np.flatnonzero(~np.isfinite(e.losses))[0]) if losses else None
    since = "" if first is None else f" (first {_place(e, first)})"
    return Finding(
        "non-finite",
        "critical",
        f"NaN or infinity in {share(losses)} of the losses{since} and in {share(broken)} of the "
        "embeddings looked at.",
        "One such step is enough: the optimiser carries NaN into every weight, for good.",
        "Lower the learning rate, clip the gradients, look for a square root or a logarithm of 0 "
        "in the loss and for NaN in the images; torch.autograd.set_detect_anomaly(True) names the "
        "operation.",
    )


def loss_at_trivial(e: Evidence) -> Finding | None:
    """The loss does not fall below that of a net that gives every pair the same answer."""
    trivial, tail = need(e.trivial), e.tail()
    enough(e.steps >= _PLATEAU_STEPS or e.epochs >= 4)
    enough(trivial > 0 and bool(np.isfinite(tail).all()))
    mean, se = float(tail.mean()), float(tail.std(ddof=1)) / math.sqrt(len(tail))
    half = len(tail) // 2
    fall = float(tail[:half].mean() - tail[half:].mean())
    falling = fall > max(3 * math.sqrt(2) * 2 * se, 0.005 * trivial)
    if not (1 - _NEAR) * trivial <= mean < _ABOVE * trivial or falling or e.learns:
        return None
    told = (
        "" if e.best_auc is None else f" On the training pairs themselves the AUC is {e.best_auc}."
    )
    return Finding(
        "loss-at-trivial",
        "critical",
        f"The loss has been {mean:.4f} ± {se:.4f} over {_last(e)}, not below the "
        f"{trivial:.4f} of a net that gives every pair the same answer." + told,
        f"{_formula(e)} With such a loss nothing about the images is used; waiting does not help.",
        "See to the findings above this one first. If there are none: check that the labels belong "
        "to the images and that 1 means same (sl.diagnose on the untrained net and the loader "
        "tells), try a learning rate ten times higher and ten times lower, and see whether the net "
        "can learn a single batch by heart.",
    )


def loss_above_trivial(e: Evidence) -> Finding | None:
    """The loss is far above that of a net that gives every pair the same answer."""
    trivial, tail = need(e.trivial), e.tail()
    enough(e.steps >= _PLATEAU_STEPS or e.epochs >= 2)
    enough(trivial > 0 and bool(np.isfinite(tail).all()))
    mean = float(tail.mean())
    if mean < _ABOVE * trivial:
        return None
    return Finding(
        "loss-above-trivial",
        "warning",
        f"Over {_last(e)} the loss was {mean:.4g} on average; a net that gives "
        f"every pair the same answer has {trivial:.4g}.",
        "So far the net is worse than one that knows nothing: its distances or logits are far too "
        "large for the loss, and most of the training goes into shrinking them.",
        "With a margin, normalise the embeddings (F.normalize) or take a margin of the size of the "
        "distances; otherwise lower the learning rate, and see whether the loss still rises.",
    )


def margin_inactive(e: Evidence) -> Finding | None:
    """A margin far below the scale of the distances."""
    margin = need(e.reading.margin)
    enough(e.reading.family in {"contrastive", "triplet"} and not e.reading.soft)
    for when, found, auc in (
        ("", e.distances, e.auc),
        ("at first ", e.early_distances, e.auc),
    ):
        if found is None or found.same.all() or not np.isfinite(found.values).all():
            continue
        negative = found.values[~found.same]
        typical, inside = float(np.median(negative)), float(np.mean(negative < margin))
        knows = auc is not None and auc.value > 0.9
        if e.reading.family == "contrastive" and inside <= 0.01 and typical > 3 * margin:
            if knows:
                continue
            return Finding(
                "margin-inactive",
                "critical",
                f"The margin is {margin:g}, but different pairs are {when}{typical:.3g} apart "
                f"(median); {share(inside)} of them are within the margin.",
                "A different pair beyond the margin costs nothing and teaches nothing: only the "
                "same pairs pull, and all images are drawn together.",
                f"Take a margin of the size of the distances, about {typical:.2g}, or normalise "
                "the embeddings (F.normalize) and take 1.2.",
            )
        if e.reading.family == "triplet" and margin < 0.01 * typical and not knows and not when:
            return Finding(
                "margin-inactive",
                "warning",
                f"The margin is {margin:g}, {share(margin / typical)} of the median distance of "
                f"different pairs, {typical:.3g}.",
                "Such a margin asks for the right order and nothing more: a triplet is satisfied "
                "by "
                "a difference far below the noise of the distances.",
                f"Take a margin of about {0.2 * typical:.2g}, or normalise the embeddings "
                "(F.normalize) and take 0.2.",
            )
    return None


def margin_unsatisfiable(e: Evidence) -> Finding | None:
    """A margin beyond what the distances can reach for many identities at once."""
    margin, rows = need(e.reading.margin), need(e.rows)
    enough(e.reading.family in {"contrastive", "triplet"} and not e.reading.soft)
    squared = _reach(e, rows)
    if squared is None:
        return None
    reach, reason = squared
    if margin <= 1.05 * reach:
        return None
    factor = 0.85 if e.reading.family == "contrastive" else 0.15
    what = "different pairs" if e.reading.family == "contrastive" else "d_an - d_ap"
    return Finding(
        "margin-unsatisfiable",
        "warning",
        f"The margin is {margin:g}, but {what} can reach {reach:.3g} on average at best: {reason}.",
        "So many points cannot all be farther apart than that. Every term stays active for ever, "
        "the pull of the same pairs is drowned, and the loss cannot go to 0.",
        f"Take a margin of about {factor * reach:.2g}.",
    )


def nothing_active(e: Evidence) -> Finding | None:
    """Nearly no term costs anything although there is something left to learn."""
    active = need(e.active)
    enough(e.reading.family in {"triplet", "contrastive"} and not e.reading.soft)
    trained, judged = e.auc, None if e.validation is None else e.validation.auc
    drawn = e.form == "triplets"  # drawn by somebody, not all of the batch
    if active > (0.1 if drawn else 0.02) or trained is None:
        return None
    lost = drawn and judged is not None and judged.value < trained.value - max(0.1, 3 * judged.se)
    if trained.value > 0.95 and not lost:
        return None
    told = f" Yet the AUC is {trained} on the training pairs"
    told += "." if judged is None else f" and {judged} on the validation pairs."
    return Finding(
        "nothing-active",
        "critical" if active < 0.001 else "warning",
        f"{share(active)} of the terms of the loss cost anything.{told}",
        "Triplets drawn at random are soon satisfied, and a satisfied term has no gradient: the "
        "loss falls to nothing while the hard cases stay as they are.",
        "Mine the batch: BatchHardTripletLoss or SemiHardTripletLoss on PKSampler batches find the "
        "triplets that still cost something; or take a larger margin.",
    )


def unfinished(e: Evidence) -> Finding | None:
    """The loss still falls, and not all pairs are told apart yet."""
    trained, quarter = need(e.best_auc), len(e.losses) // 4
    enough(quarter >= _QUARTER and bool(np.isfinite(e.losses).all()))
    before, last = e.losses[-2 * quarter : -quarter], e.losses[-quarter:]
    fall = float(before.mean() - last.mean())
    noise = math.sqrt(float(before.var(ddof=1) + last.var(ddof=1)) / quarter)
    judged = trained.value if e.validation is None else e.validation.auc.value
    done = min(trained.value, judged) > _ENOUGH or judged < trained.value - 0.05 or not e.learns
    if done or fall < max(3 * noise, _FALLS * float(last.mean())):
        return None
    told = "" if e.validation is None else f", {e.validation.auc} on the validation pairs"
    mine = (
        " Triplets that are mined from labelled batches (SemiHardTripletLoss on PKSampler batches) "
        "teach more a step than triplets drawn at random."
        if e.form == "triplets"
        else ""
    )
    return Finding(
        "unfinished",
        "note",
        f"The loss still falls: {float(before.mean()):.3g} on average over {quarter} steps, "
        f"{float(last.mean()):.3g} over the next {quarter}. The AUC is {trained} on the training "
        f"pairs{told}.",
        "Nothing seems wrong, but pairs are left to be told apart, and neither a plateau nor "
        "overfitting is in sight.",
        "Train on, or see whether a higher learning rate that falls towards the end gets there "
        "sooner." + mine,
    )


def sigmoid_twice(e: Evidence) -> Finding | None:
    """Numbers within (0, 1) where logits belong."""
    z, _ = need(e.logits)
    enough(e.reading.family == "bce" and not e.reading.probabilities and len(z) >= 64)
    if not _probabilities(z):
        return None
    return Finding(
        "sigmoid-twice",
        "critical",
        f"All {len(z):,} logits lie between 0 and 1 ({z.min():.3f} to {z.max():.3f}).",
        "The loss applies the sigmoid itself. Applied twice, the answers lie between 0.50 and "
        "0.73: "
        "no pair can ever be called different, and the gradient is a quarter or less.",
        "Drop the last sigmoid of the net and keep it for display: torch.sigmoid(logits).",
    )


def sigmoid_before_margin(e: Evidence) -> Finding | None:
    """A probability in place of the distance that a margin is about."""
    margin = need(e.reading.margin)
    enough(e.reading.family in {"contrastive", "unknown", "triplet"})
    if e.logits is not None and len(e.logits[0]) >= 64:
        z = e.logits[0]
        if not _probabilities(z):
            return None
        seen = f"The margin of {margin:g} meets {len(z):,} numbers that all lie between 0 and 1"
    else:
        rows = need(e.rows)
        if rows.shape[1] != 1 or not _probabilities(rows.flatten().double().numpy()):
            return None
        seen = f"The embeddings are a single number between 0 and 1, and the margin is {margin:g}"
    best = min(margin / 2, 1.0)
    return Finding(
        "sigmoid-before-margin",
        "critical",
        f"{seen}, as a sigmoid gives them.",
        "A probability is no distance. On as many same as different pairs the best constant output "
        f"is min(m/2, 1) = {best:g}, with the loss {_scalar_trivial(margin):.3f}: for any margin "
        "but 1 that calls all pairs alike the same, or all different.",
        "Drop the last layer and its sigmoid and give the loss the two embeddings; or keep the "
        "single output, without the sigmoid, and train it with BCEPairLoss.",
    )


def _last(e: Evidence) -> str:
    """Say over what the tail of the losses is."""
    n, unit = len(e.tail()), "epoch" if e.epochs else "step"
    return f"the last {unit}" if n == 1 else f"the last {n} {unit}s"


def _place(e: Evidence, k: int) -> str:
    """Say where the k-th of the kept losses was."""
    return f"in epoch {k + 1}" if e.epochs else f"at step {e.steps - len(e.losses) + k}"


def _scalar_trivial(margin: float) -> float:
    best = min(margin / 2, 1.0)
    return 0.5 * best**2 + 0.5 * max(0.0, margin - best) ** 2


def _probabilities(z: Floats) -> bool:
    """Whether numbers look like a sigmoid's, not like one constant of a linear layer."""
    if z.min() < 0 or z.max() > 1:
        return False
    return bool(z.std() > 0.02 or abs(z.mean() - 0.5) < 0.05)


def _formula(e: Evidence) -> str:
    margin = e.reading.margin
    return {
        "bce": "For a cross-entropy on as many same as different pairs it is ln 2.",
        "contrastive": f"For a share p of same pairs it is p(1-p)m², here with m = {margin}.",
        "triplet": "For triplets it is the margin"
        + (" (soft: ln 2)." if e.reading.soft else f", {margin}."),
        "softmax": "For a softmax over n others it is ln n.",
    }.get(e.reading.family, "It is what the loss gives where all pairs are equally far apart.")


def _reach(e: Evidence, rows: torch.Tensor) -> tuple[float, str] | None:
    """Give the largest distance that many identities can have on average, and why."""
    metric = e.reading.metric
    if not isinstance(metric, str) or metric == "manhattan" or len(rows) < 8:
        return None
    nonnegative = bool((rows >= 0).all())
    unit = e.reading.unit or metric == "cosine" or unit_length(rows)
    if unit:
        squared = 2.0
        why = "they have length 1" + (" and no negative entry" if nonnegative else "")
    elif nonnegative and _of_sigmoid(rows):
        squared, why = rows.shape[1] / 2, f"a sigmoid keeps their {rows.shape[1]} entries in (0, 1)"
    else:
        return None
    identities = _identities(e)
    if not nonnegative and identities is not None:
        squared *= identities / max(1, identities - 1)
    reach = {"sqeuclidean": squared, "cosine": squared / 2}.get(metric, math.sqrt(squared))
    return reach, why


def _of_sigmoid(rows: torch.Tensor) -> bool:
    """Whether all entries are strictly within (0, 1), or rounded to its very ends."""
    low, high = float(rows.amin()), float(rows.amax())
    return (low > 0 and high < 1) or (low >= 0 and high == 1)


def _identities(e: Evidence) -> int | None:
    labels = [s.all_labels for s in e.recent if s.form == "batch" and s.all_labels is not None]
    return len(torch.unique(torch.cat(labels))) if labels else None
