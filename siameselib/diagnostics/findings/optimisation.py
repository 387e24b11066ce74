"""Gradients and weights: gone, wild, or standing still."""

import math

import torch
from torch import Tensor

from siameselib.diagnostics.collect import Weights
from siameselib.diagnostics.evidence import Evidence
from siameselib.diagnostics.findings.need import enough, share
from siameselib.diagnostics.report import Finding

_VANISHED = 1e-6  # gradient over weight of a layer, relative to that of the best layer
_EXPLODED = 1e3
_WILD = 0.3  # of the weights' length, moved in one step
_STILL = 1e-5
_NAMED = 3


def no_gradient(e: Evidence) -> Finding | None:
    """Trainable parameters that the loss does not reach."""
    weights = e.weights
    enough((len(weights) >= 2 and any(any(w.has_grad) for w in weights)) or _nothing_moves(e))
    last = weights[-1]
    never = [
        k
        for k in range(len(last.names))
        if not any(w.has_grad[k] for w in weights if w.names == last.names)
    ]
    size = sum(last.sizes)
    part = sum(last.sizes[k] for k in never) / max(1, size)
    if part < 0.01:
        return None
    return Finding(
        "no-gradient",
        "critical" if part > 0.5 else "warning",
        f"{share(part)} of the trainable numbers never got a gradient: "
        f"{_list([last.names[k] for k in never])}.",
        "The loss does not depend on them: a .detach(), .data, torch.no_grad() or a trip through "
        "NumPy lies between, or the layers are not used at all.",
        "Keep the embeddings that go into the loss attached to the graph; freeze (sl.freeze) what "
        "is not to be trained.",
    )


def weights_not_moving(e: Evidence) -> Finding | None:
    """Parameters that have gradients and stay exactly as they were."""
    first, last = _ends(e)
    a, b = _parts(first), _parts(last)
    still = [
        k
        for k in range(len(last.names))
        if float(last.grad_norm[k]) > 0 and bool((a[k] == b[k]).all())
    ]
    part = sum(last.sizes[k] for k in still) / max(1, sum(last.sizes))
    if part < 0.01:
        return None
    every = len(still) == sum(last.has_grad)
    names = "all of them" if every else _list([last.names[k] for k in still])
    return Finding(
        "weights-not-moving",
        "critical" if part > 0.5 else "warning",
        f"{share(part)} of the trainable numbers have gradients but did not change in "
        f"{last.step - first.step} steps: {names}.",
        "The optimiser does not know them, is never called, or its learning rate is 0 or too small "
        "to change a float.",
        "Call optimizer.step(); build the optimiser from the parameters of this very net, after "
        "layers were replaced or moved; look at the learning rate.",
    )


def learning_rate_too_low(e: Evidence) -> Finding | None:
    """Weights that move by next to nothing, and a loss that does not change."""
    first, last = _ends(e)
    steps = last.step - first.step
    enough(steps >= 50)
    moved = max(_moves(e), default=0.0)
    tail = e.losses[-steps:]
    half = len(tail) // 2
    gap = abs(float(tail[:half].mean() - tail[half:].mean()))
    noise = math.sqrt(float(tail[:half].var() + tail[half:].var()) / half)
    changes = gap > max(3 * noise, 0.02 * abs(float(tail[:half].mean())))
    if moved == 0 or moved >= _STILL or changes or e.solved:
        return None
    return Finding(
        "learning-rate-too-low",
        "critical",
        f"A step moves the weights by {moved:.1g} of their length at most, and the loss changed by "
        f"{gap:.1g} in {steps} steps, within its noise.",
        f"At this pace a change of 10 % takes {0.1 / moved:,.0f} steps. A usual step is 1e-4 to "
        f"1e-2.",
        f"Multiply the learning rate by {_power(1e-3 / moved)}, then look again.",
    )


def learning_rate_too_high(e: Evidence) -> Finding | None:
    """Weights that are replaced rather than improved, and nothing learnt."""
    first, last = _ends(e)
    enough(last.step - first.step >= 20 and bool(torch.tensor(e.losses).isfinite().all()))
    moves = _moves(e)
    typical = sorted(moves)[len(moves) // 2]
    wildest = max(moves)
    tail = e.tail()
    start = float(e.losses[: max(1, min(5, len(e.losses) // 10))].mean())
    better = float(tail.mean()) < 0.98 * (start if e.trivial is None else min(start, e.trivial))
    grown = float(last.weight_norm.norm() / first.weight_norm.norm().clamp_min(1e-12))
    wild = wildest > _WILD or grown > 10
    knows = e.best_auc is not None and e.best_auc.value > 0.9
    if not wild or knows or (better and grown < 100):
        return None
    return Finding(
        "learning-rate-too-high",
        "critical",
        f"A step moved the weights by up to {wildest:.2g} of their length ({typical:.2g} in the "
        f"middle), they are {grown:.2g} times as long as at first, and the loss is no better: "
        f"{start:.3g} at first, {float(tail.mean()):.3g} now.",
        "Steps of the size of the weights themselves throw away what was learnt, and what remains "
        "is often dead: ReLUs off, sigmoids stuck at 0 or 1.",
        f"Divide the learning rate by {_power(max(wildest, 0.3) / 1e-2)} and start over, with a "
        "warm-up.",
    )


def dead_units(e: Evidence) -> Finding | None:
    """Rows of a layer that get no gradient from any batch."""
    recent = [w for w in e.weights if w.step >= e.steps / 2 and w.alive]
    enough(len(recent) >= 4 and not e.solved and (e.active is None or e.active > 0.05))
    names = recent[-1].alive_names
    recent = [w for w in recent if w.alive_names == names]
    dead = {}
    for k, name in enumerate(names):
        steps = [w.alive[k] for w in recent if bool(w.alive[k].any())]
        if len(steps) >= 4 and len(steps[0]) >= 8:
            ever = torch.stack(steps).any(0)
            dead[name] = 1 - float(ever.double().mean())
    worst = max(dead, key=dead.__getitem__, default=None)
    if worst is None or dead[worst] < 0.5:
        return None
    return Finding(
        "dead-units",
        "warning" if dead[worst] < 0.95 else "critical",
        f"{share(dead[worst])} of the units of {worst} got no gradient at all in the last "
        f"{len(recent)} batches looked at.",
        "They are off for every image (a ReLU below zero) and cannot come back: the layer is that "
        "much narrower, and what comes after is starved.",
        "Lower the learning rate, put BatchNorm before the ReLU, or use a leaky one; start over, "
        "for dead units stay dead.",
    )


def gradients_vanish(e: Evidence) -> Finding | None:
    """Layers whose gradient is lost on the way."""
    ratios = _ratios(e)
    enough(len(ratios) >= 2)
    best = max(ratios.values())
    worst = min(ratios, key=ratios.__getitem__)
    enough(best > 0)
    if ratios[worst] >= _VANISHED * best:
        return None
    return Finding(
        "gradients-vanish",
        "critical",
        f"The gradient of {worst} is {ratios[worst]:.1g} of its weights, that of the best layer "
        f"{best:.1g}.",
        "The layers far from the loss learn next to nothing: sigmoids and tanhs shrink a gradient "
        "at every layer, and so do tiny weights.",
        "Use ReLU with BatchNorm between the layers, or residual connections, and PyTorch's "
        "default "
        "initialisation.",
    )


def gradients_explode(e: Evidence) -> Finding | None:
    """Gradients that grow a thousandfold, or are not finite."""
    seen = [w for w in e.weights if any(w.has_grad)]
    enough(len(seen) >= 4)
    finite = [bool(w.grad_norm.isfinite().all()) for w in seen]
    broken = 1 - sum(finite) / len(finite)
    norms = [float(w.grad_norm.norm()) for w, good in zip(seen, finite, strict=True) if good]
    if broken > 0.25:
        return Finding(
            "gradients-explode",
            "critical",
            f"The gradients are not finite in {share(broken)} of the steps looked at.",
            "Such a step is either lost (a gradient scaler leaves it out) or ruins the weights.",
            "Lower the learning rate or clip: torch.nn.utils.clip_grad_norm_(parameters, 1.0); "
            "look for a square root or a division of 0.",
        )
    enough(len(norms) >= 4)
    early = sorted(norms[:3])[1]
    late = sorted(norms[-3:])[1]
    start, tail = float(e.losses[:5].mean()), e.tail()
    if early == 0 or late < _EXPLODED * early or tail.mean() < start:
        return None
    return Finding(
        "gradients-explode",
        "critical",
        f"The length of the gradient grew from {early:.2g} to {late:.2g}, and the loss from "
        f"{start:.3g} to {tail.mean():.3g}.",
        "Each step makes the next one longer: it ends in infinity.",
        "Lower the learning rate, warm it up, or clip: "
        "torch.nn.utils.clip_grad_norm_(parameters, 1.0); normalise the embeddings.",
    )


def frozen_but_moving(e: Evidence) -> Finding | None:
    """Frozen layers whose BatchNorm or dropout is in training mode."""
    enough(e.settled(1))
    if not e.restless:
        return None
    return Finding(
        "frozen-but-moving",
        "warning",
        f"BatchNorm or dropout inside frozen parts is in training mode: {_list(e.restless)}.",
        "Freezing by requires_grad_(False) stops the weights only. BatchNorm goes on replacing its "
        "statistics by those of your batches, and dropout on dropping: the pretrained net is not "
        "the one that was trained, and no two passes agree.",
        "Use sl.freeze(part), which holds through .train(); or call .eval() on the frozen parts "
        "after every model.train().",
    )


def _ends(e: Evidence) -> tuple[Weights, Weights]:
    """Give the first and the last measurement of the same parameters."""
    enough(len(e.weights) >= 2)
    last = e.weights[-1]
    alike = [w for w in e.weights if w.names == last.names and w.sizes == last.sizes]
    enough(len(alike) >= 2 and len(last.names) > 0)
    enough(bool(alike[0].sample.isfinite().all() and last.sample.isfinite().all()))
    return alike[0], last


def _parts(w: Weights) -> list[Tensor]:
    return list(torch.split(w.sample, list(w.sampled)))


def _moves(e: Evidence) -> list[float]:
    """Give how far the matrices moved in a step, over their length, between measurements."""
    moves = []
    for a, b in zip(e.weights, e.weights[1:], strict=False):
        if a.names != b.names or a.sizes != b.sizes or not b.sample.isfinite().all():
            continue
        parts = [
            (x, y) for x, y, dims in zip(_parts(a), _parts(b), a.dims, strict=True) if dims > 1
        ]
        if parts:
            before, after = (torch.cat(side) for side in zip(*parts, strict=True))
            length = float(before.norm())
            moves.append(float((after - before).norm()) / max(length, 1e-12) / (b.step - a.step))
    enough(len(moves) > 0)
    return moves


def _nothing_moves(e: Evidence) -> bool:
    return len(e.weights) >= 2 and bool(
        e.weights[0].sample.shape == e.weights[-1].sample.shape
        and (e.weights[0].sample == e.weights[-1].sample).all()
    )


def _ratios(e: Evidence) -> dict[str, float]:
    """Give gradient over weight of each matrix, root mean square over the recent steps."""
    enough(len(e.weights) > 0)
    last = e.weights[-1]
    recent = [w for w in e.weights if w.names == last.names and w.step >= e.steps / 2]
    found = {}
    for k, name in enumerate(last.names):
        if last.dims[k] < 2 or not last.has_grad[k]:
            continue
        values = [float(w.grad_norm[k] / w.weight_norm[k].clamp_min(1e-12)) for w in recent]
        finite = [v for v in values if math.isfinite(v)]
        if finite and float(last.weight_norm[k]) > 0:
            found[name] = math.sqrt(sum(v * v for v in finite) / len(finite))
    return found


def _list(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _power(factor: float) -> str:
    return f"{10 ** max(1, round(math.log10(factor))):,}" if factor > 0 else "10"
