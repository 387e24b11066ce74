"""What losses of classes share: a weight with one row a class, labels that number its rows."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from siameselib import _check
from siameselib.functional.batch import check_words, readable, warn_when_idle
from siameselib.functional.distances import unit_rows
from siameselib.functional.reduction import reduce
from siameselib.functional.stats import Later, Stats, later
from siameselib.kernels.class_logsumexp import LARGEST_SCALE, Classes, class_logsumexp

REDUCTIONS = ("mean", "sum", "none")


class ClassBatch(NamedTuple):
    """A batch that is to be compared with all classes."""

    x: Tensor
    """(n, d) embeddings, float32 or wider."""
    labels: Tensor
    """(n,) their classes, int64."""
    weight: Tensor
    """(c, d) one row a class."""
    scale: float
    """What the cosines are multiplied by."""
    backend: str
    """See :func:`siameselib.use_backend`."""

    def compared(self, *, by_class: bool = False) -> Classes:
        """Compare each embedding with each class.

        Args:
            by_class: whether the log-sum-exp is over the samples for each class.

        Returns:
            Their log-sum-exp over the others, and their distances to their own.
        """
        x, labels, weight, scale, backend = self
        with torch.autocast(x.device.type, enabled=False):
            return class_logsumexp(x, labels, weight, scale, by_class, backend)


def class_batch(
    where: str,
    embeddings: Tensor,
    labels: Tensor,
    weight: Tensor,
    scale: float,
    *,
    reduction: str,
    validate: bool,
    backend: str,
) -> ClassBatch:
    """Check what every loss of classes takes.

    Args:
        where: the loss that asks, for its messages.
        embeddings: one embedding a row.
        labels: the class of each, a row of the weight.
        weight: one row a class.
        scale: what the cosines are multiplied by.
        reduction: to be checked.
        validate: whether to look for NaN, infinity and labels out of range on any device.
        backend: see :func:`siameselib.use_backend`.

    Returns:
        The batch.

    Raises:
        ValueError: for shapes or devices that do not fit together, labels out of range where they
            are looked at, an unknown reduction or backend, a scale out of range, or, under
            ``validate``, numbers that are not finite.
        TypeError: for embeddings or a weight that are not floating point, or labels that are not
            integers.
    """
    check_words(where, reduction=reduction, backend=backend, reductions=REDUCTIONS)
    _check.matrix(where, "embeddings", embeddings)
    _check.labels(where, labels, len(embeddings))
    _check.same_device(where, "embeddings", embeddings, "labels", labels)
    _check.matrix(where, "weight", weight)
    _check.same_device(where, "embeddings", embeddings, "weight", weight)
    if weight.shape[1] != embeddings.shape[1]:
        expected = f"have the width of embeddings, {embeddings.shape[1]}"
        raise _check.refuse(where, "weight", expected, weight.shape[1])
    if validate or readable(labels):
        _check_range(where, labels, len(weight))
    if validate:
        _check.finite(where, "embeddings", embeddings)
        _check.finite(where, "weight", weight)
    x = embeddings.to(_common_dtype(embeddings, weight))
    return ClassBatch(x, labels.long(), weight, scale, backend)


def check_scale(where: str, scale: float, name: str = "scale", *, inverse: float = 0) -> float:
    """Refuse a scale, or a temperature that is ``inverse`` over it, out of range.

    Returns:
        The scale.
    """
    value = scale
    _check.positive(where, name, value)
    if inverse:
        scale = inverse / value
    if scale > LARGEST_SCALE:
        limit = f"at least {inverse / LARGEST_SCALE:g}" if inverse else f"at most {LARGEST_SCALE}"
        raise _check.refuse(where, name, f"be {limit}", value)
    return scale


def reduce_classes(
    where: str,
    classes: Classes,
    losses: Tensor,
    number: int,
    trivial: Callable[[Tensor], Tensor],
    reduction: str,
    *,
    idle: bool,
) -> tuple[Tensor, Stats | Later]:
    """Reduce a loss of classes, warn if it teaches nothing, and tell what it saw.

    Args:
        where: the loss, for the warning.
        classes: the comparison.
        losses: one value a term.
        number: of classes.
        trivial: tells the loss of a collapsed model; takes the losses.
        reduction: "mean", "sum" or "none".
        idle: whether there is nothing to learn.

    Returns:
        The loss, and its stats or what will work them out.
    """
    if idle:
        warn_when_idle(
            where,
            losses.new_zeros(()),
            "the batch is empty, or there is a single class",
            "there must be embeddings, and classes to tell apart",
        )
    seen = classes.distance.detach(), classes.cosine_sum, losses.detach()
    valid = torch.zeros_like(losses, dtype=torch.bool) if idle else None
    stats = later(class_stats, *seen, 0 if idle else len(losses), number, trivial)
    return reduce(where, losses, valid, reduction), stats


def class_stats(
    distance: Tensor,
    cosine_sum: Tensor,
    losses: Tensor,
    count: int,
    number: int,
    trivial: Callable[[Tensor], Tensor],
) -> Stats:
    """Return what a loss of classes saw.

    Args:
        distance: (n,) of each embedding and its own class.
        cosine_sum: the sum of all cosines.
        losses: one value a term,
        count: and how many of them are valid.
        number: of classes.
        trivial: see :func:`reduce_classes`.
    """
    n, apart = len(distance), distance.sum()
    pairs = n * (number - 1)
    valid = torch.full_like(apart, count, dtype=torch.int64)
    active = (losses > 0).sum() if count else torch.zeros_like(valid)
    others = cosine_sum - (n - apart)
    return Stats(
        valid=valid,
        active=active / valid,
        positive_distance=apart / n,
        negative_distance=1 - others / pairs if pairs else torch.full_like(others, math.nan),
        trivial=trivial(losses),
    )


def class_logits(where: str, embeddings: Tensor, weight: Tensor, scale: float) -> Tensor:
    """Return the scaled cosine of each embedding with each class, (n, c).

    Raises:
        ValueError: for shapes or devices that do not fit together.
        TypeError: for anything but floating-point tensors.
    """
    _check.matrix(where, "embeddings", embeddings)
    _check.same_device(where, "embeddings", embeddings, "weight", weight)
    if weight.shape[1] != embeddings.shape[1]:
        expected = f"have {weight.shape[1]} columns"
        raise _check.refuse(where, "embeddings", expected, embeddings.shape[1])
    with torch.autocast(embeddings.device.type, enabled=False):
        dtype = _common_dtype(embeddings, weight)
        x, w = unit_rows(embeddings.to(dtype)), unit_rows(weight.to(dtype))
        return scale * x @ w.T


def _common_dtype(embeddings: Tensor, weight: Tensor) -> torch.dtype:
    return torch.promote_types(torch.promote_types(embeddings.dtype, weight.dtype), torch.float32)


def _check_range(where: str, labels: Tensor, number: int) -> None:
    if not len(labels):
        return
    least, most = (int(value) for value in labels.aminmax())
    if least < 0 or most >= number:
        expected = f"lie in [0, {number}), one number a row of weight"
        raise _check.refuse(where, "labels", expected, least if least < 0 else most)
