"""What a training step leaves behind: small, detached, on its device, read by nobody yet.

Nothing here waits for a device: no ``.item()``, no branch on a value of a tensor.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from siameselib import _check

ROWS = 128  # of a batch that are kept
WEIGHTS = 512  # numbers of a parameter that are kept
WHOLE = 1 << 20  # parameters up to this size are measured whole, larger ones in part
_PRIME = 7919
_WHERE = "Doctor.step"


class Sample(NamedTuple):
    """What one step showed: a few rows of the batch, and all labels."""

    step: int
    form: str
    """"batch" (embeddings, labels), "pairs", "triplets"."""
    rows: tuple[Tensor, ...]
    """One, two or three matrices (k, d); none where only logits are known."""
    labels: Tensor | None
    """The identity of each kept row, or ``same`` of each kept pair."""
    all_labels: Tensor | None
    """Those of the whole batch."""
    logits: Tensor | None
    stats: tuple[Tensor, ...] | None
    """valid, active and trivial of the criterion's ``stats``."""
    column: bool
    """Whether the labels came as a column (n, 1)."""
    images: Tensor | None


class Weights(NamedTuple):
    """The trainable parameters after one step, in a few numbers each."""

    step: int
    names: tuple[str, ...]
    sizes: tuple[int, ...]
    dims: tuple[int, ...]
    has_grad: tuple[bool, ...]
    grad_norm: Tensor
    """(parameters,) 0 where there is none."""
    weight_norm: Tensor
    """(parameters,)."""
    sample: Tensor
    """Some of the numbers of each, one after the other."""
    sampled: tuple[int, ...]
    """How many of each."""
    alive: tuple[Tensor, ...]
    """For each gradient with rows, whether each row has any entry other than 0."""
    alive_names: tuple[str, ...]


def sample_of(
    step: int,
    embeddings: Tensor | tuple[Tensor, ...] | list[Tensor] | None,
    labels: Tensor | None,
    logits: Tensor | None,
    images: Tensor | None,
    stats: Any,
) -> Sample:
    """Keep some rows of a step, of whichever form.

    Args:
        step: its number.
        embeddings: (n, d) of a labelled batch; (n,) logits; two matrices of pairs; three of
            triplets.
        labels: identities, or ``same`` with pairs and logits.
        logits: of the pairs.
        images: of the rows of a labelled batch.
        stats: of the criterion.

    Returns:
        The sample.

    Raises:
        ValueError: If shapes do not fit together.
        TypeError: If there is anything but tensors.
    """
    for name, value in (("labels", labels), ("logits", logits), ("images", images)):
        if value is not None:
            _check.tensor(_WHERE, name, value)
    kept = stats if stats is None else (stats.valid, stats.active, stats.trivial)
    column = labels is not None and labels.ndim == 2 and labels.shape[1] == 1
    labels = labels.flatten() if labels is not None and column else labels
    if isinstance(embeddings, Tensor) and embeddings.ndim == 1:
        embeddings, logits = None, embeddings
    if logits is not None and logits.ndim == 2 and logits.shape[1] == 1:
        logits = logits.flatten()
    if embeddings is None:
        if logits is None:
            expected = "be a tensor, or a tuple of two (pairs) or three (triplets)"
            raise _check.refuse(_WHERE, "embeddings", expected, None, TypeError)
        labels = _needed(labels, len(logits))
        few = _cut(logits), _cut(labels)
        return Sample(step, "pairs", (), few[1], labels.detach(), few[0], kept, column, None)
    if isinstance(embeddings, Tensor):
        return _batch(step, embeddings, labels, images, kept, column)
    for name, value in zip(("first", "second", "third"), embeddings, strict=False):
        _check.matrix(_WHERE, name, value)
    _check.same_shape(_WHERE, **dict(zip(("first", "second", "third"), embeddings, strict=False)))
    if len(embeddings) == 3:
        rows = tuple(_cut(x) for x in embeddings)
        return Sample(step, "triplets", rows, None, None, None, kept, column, None)
    if len(embeddings) != 2:
        raise _check.refuse(_WHERE, "embeddings", "be one, two or three tensors", len(embeddings))
    x1, x2 = embeddings
    if labels is None:  # matching pairs, as InfoNCE takes them: each pair an identity
        identities = torch.arange(len(x1), device=x1.device)
        both = torch.stack([x1, x2], 1).flatten(0, 1)
        return _batch(step, both, identities.repeat_interleave(2), None, kept, column)
    labels = _needed(labels, len(x1))
    if logits is not None:
        _check.vector(_WHERE, "logits", logits, len(x1))
    return Sample(
        step,
        "pairs",
        (_cut(x1), _cut(x2)),
        _cut(labels),
        labels.detach(),
        None if logits is None else _cut(logits),
        kept,
        column,
        None,
    )


def _batch(
    step: int,
    embeddings: Tensor,
    labels: Tensor | None,
    images: Tensor | None,
    stats: tuple[Tensor, ...] | None,
    column: bool,
) -> Sample:
    _check.matrix(_WHERE, "embeddings", embeddings)
    labels = _needed(labels, len(embeddings)).detach()
    if images is not None and len(images) != len(embeddings):
        expected = f"be one for each row of embeddings ({len(embeddings)})"
        raise _check.refuse(_WHERE, "images", expected, len(images))
    rows, few, seen = embeddings.detach(), labels, images
    if len(rows) > ROWS:  # neighbours in the order of labels, so that positives stay together
        start = (step * 37) % (len(rows) - ROWS + 1)
        chosen = labels.argsort(stable=True)[start : start + ROWS]
        rows, few = rows[chosen], labels[chosen]
        seen = None if images is None else images[chosen]
    else:
        rows = rows.clone()
    kept = None if seen is None else seen.detach().clone()
    return Sample(step, "batch", (rows,), few, labels, None, stats, column, kept)


def weights_of(step: int, model: nn.Module) -> Weights:
    """Measure the trainable parameters and their gradients.

    Args:
        step: its number.
        model: the net.

    Returns:
        The measurements.
    """
    named = [(clean(name), p) for name, p in model.named_parameters() if p.requires_grad]
    grads, norms, parts, alive, alive_names = [], [], [], [], []
    for name, p in named:
        norms.append(_norm(p.detach()))
        parts.append(_thin(p.detach(), WEIGHTS).reshape(-1).float())
        if p.grad is None:
            grads.append(torch.zeros_like(norms[-1]))
            continue
        grad = p.grad.detach()
        grads.append(_norm(grad))
        if p.ndim > 1:
            flat = grad.flatten(1)
            some = flat if flat.shape[1] < 2 * WEIGHTS else flat[:, :: flat.shape[1] // WEIGHTS]
            alive.append((some != 0).any(1))
            alive_names.append(name)
    empty = torch.zeros(0)
    return Weights(
        step=step,
        names=tuple(name for name, _ in named),
        sizes=tuple(p.numel() for _, p in named),
        dims=tuple(p.ndim for _, p in named),
        has_grad=tuple(p.grad is not None for _, p in named),
        grad_norm=torch.stack(grads) if grads else empty,
        weight_norm=torch.stack(norms) if norms else empty,
        sample=torch.cat(parts) if parts else empty,
        sampled=tuple(map(len, parts)),
        alive=tuple(alive),
        alive_names=tuple(alive_names),
    )


def restless(model: nn.Module) -> tuple[str, ...]:
    """Name BatchNorm and dropout in training mode inside modules whose parameters are all frozen.

    Args:
        model: the net.

    Returns:
        Their names; nothing for a net without any frozen parameter.
    """
    if all(p.requires_grad for p in model.parameters()):
        return ()
    found = []
    frozen_prefix: tuple[str, ...] = ()
    for name, part in model.named_modules():
        parameters = list(part.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            frozen_prefix += (name + "." if name else "",)
        inside = any(f"{name}.".startswith(prefix) for prefix in frozen_prefix)
        moves = isinstance(part, (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd))
        if inside and moves and part.training:
            found.append(clean(name))
    return tuple(found)


def unwrap(model: nn.Module) -> nn.Module:
    """Give the net inside DistributedDataParallel, DataParallel and torch.compile."""
    while True:
        inner = getattr(model, "_orig_mod", None) or (
            model.module
            if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel))
            else None
        )
        if inner is None:
            return model
        model = inner


def clean(name: str) -> str:
    """Drop what DistributedDataParallel and torch.compile put before a name."""
    parts = [part for part in name.split(".") if part != "_orig_mod"]
    return ".".join(parts[1:] if parts[:1] == ["module"] and len(parts) > 1 else parts)


def _needed(labels: Tensor | None, n: int) -> Tensor:
    if labels is None:
        raise _check.refuse(_WHERE, "labels", f"have shape (n,) = ({n},)", None, TypeError)
    _check.vector(_WHERE, "labels", labels, n)
    return labels


def _some(n: int, device: torch.device) -> Tensor | slice:
    """Pick rows of a long batch, spread over it: a list sorted by label is not cut in half."""
    if n <= ROWS:
        return slice(None)
    return torch.arange(ROWS, device=device) * _PRIME % n


def _cut(x: Tensor) -> Tensor:
    return x.detach()[_some(len(x), x.device)].clone()


def _norm(x: Tensor) -> Tensor:
    part = _thin(x, WHOLE)
    length: Tensor = torch.linalg.vector_norm(part, dtype=torch.float32)
    return length if part is x else length * math.sqrt(x.numel() / part.numel())


def _thin(x: Tensor, most: int) -> Tensor:
    return x if x.numel() <= most else x.reshape(-1)[:: -(-x.numel() // most)]
