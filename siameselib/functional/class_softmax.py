"""Softmax losses of classes: cross-entropy over cosines with a weight, with or without a margin."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from siameselib import _check
from siameselib.functional.classes import (
    ClassBatch,
    check_scale,
    class_batch,
    class_stats,
    reduce_classes,
)
from siameselib.functional.reduction import softplus
from siameselib.functional.stats import Later, Stats, later
from siameselib.kernels.class_softmax import class_softmax, fits

BEYOND = ("linear", "easy", "wrap")


def arc_face_loss(
    embeddings: Tensor,
    labels: Tensor,
    weight: Tensor,
    *,
    margin: float = 0.5,
    scale: float = 64.0,
    beyond: str = "linear",
    reduction: str = "mean",
    validate: bool = False,
    backend: str = "auto",
) -> Tensor:
    r"""ArcFace: softmax over classes, the angle to the sample's own class widened by a margin.

    .. math:: L_i = -\log \frac{e^{s \cos(\theta_{iy} + m)}}
                    {e^{s \cos(\theta_{iy} + m)} + \sum_{c \ne y} e^{s \cos\theta_{ic}}}

    with θ_ic the angle between embedding i and row c of the weight, and y the class of i. Memory
    is linear in the batch and in the number of classes: their product is never stored.

    Beyond θ = π - m the cosine would rise again and pull the wrong way. "linear" goes on there
    with cos θ - m sin m, which falls on; "easy" has the margin only where θ < π/2 and cos θ
    elsewhere; "wrap" keeps the equation as it stands.

    Where all embeddings and all rows of the weight are alike, the loss is
    log(1 + (C - 1) e^{s (1 - cos m)}), with "easy" and all of them at right angles log C:
    ``stats.trivial``.

    Args:
        embeddings: one embedding a row, of any length: rows are normalised here.
        labels: the class of each row, a row number of the weight.
        weight: one row a class, of any length.
        margin: m, in radians, in [0, π).
        scale: s.
        beyond: "linear", "easy" or "wrap".
        reduction: "mean" over the embeddings, "sum", or "none".
        validate: whether to look for NaN, infinity and labels out of range, which waits for the
            device; on the CPU labels are always looked at.
        backend: see :func:`siameselib.use_backend`.

    Shape:
        embeddings: (n, d). labels: (n,). weight: (c, d). Result: 0-d, or (n,) for "none".

    Returns:
        The loss; a differentiable 0 for an empty batch or a single class, with a warning.

    Raises:
        ValueError: for shapes that do not fit, labels out of range, an unknown word, a margin or
            scale out of range, or, under ``validate``, numbers that are not finite.
        TypeError: for embeddings that are not floating point, labels that are not integers, or
            options that are no numbers.

    Example:
        >>> weight = torch.eye(2)
        >>> arc_face_loss(torch.tensor([[1.0, 1.0]]), torch.tensor([0]), weight, margin=0.5)
        tensor(27.2363)

    Source:
        Deng, Guo, Xue and Zafeiriou, "ArcFace: additive angular margin loss for deep face
        recognition", CVPR 2019, equation 3, which is "wrap". "linear", our default, and "easy"
        are what the paper's own code does.
    """
    return arc_face_with_stats(
        embeddings,
        labels,
        weight,
        margin=margin,
        scale=scale,
        beyond=beyond,
        reduction=reduction,
        validate=validate,
        backend=backend,
    )[0]


def cos_face_loss(
    embeddings: Tensor,
    labels: Tensor,
    weight: Tensor,
    *,
    margin: float = 0.35,
    scale: float = 64.0,
    reduction: str = "mean",
    validate: bool = False,
    backend: str = "auto",
) -> Tensor:
    r"""CosFace: softmax over classes, the cosine with the sample's own class less a margin.

    .. math:: L_i = -\log \frac{e^{s (\cos\theta_{iy} - m)}}
                    {e^{s (\cos\theta_{iy} - m)} + \sum_{c \ne y} e^{s \cos\theta_{ic}}}

    with θ_ic the angle between embedding i and row c of the weight, and y the class of i. Memory
    is linear in the batch and in the number of classes: their product is never stored.
    A collapsed model has the loss log(1 + (C - 1) e^{s m}): ``stats.trivial``.

    Args:
        embeddings: one embedding a row, of any length: rows are normalised here.
        labels: the class of each row, a row number of the weight.
        weight: one row a class, of any length.
        margin: m, of the cosine, in [0, 2).
        scale: s.
        reduction: "mean" over the embeddings, "sum", or "none".
        validate: whether to look for NaN, infinity and labels out of range, which waits for the
            device; on the CPU labels are always looked at.
        backend: see :func:`siameselib.use_backend`.

    Shape:
        embeddings: (n, d). labels: (n,). weight: (c, d). Result: 0-d, or (n,) for "none".

    Returns:
        The loss; a differentiable 0 for an empty batch or a single class, with a warning.

    Raises:
        ValueError: for shapes that do not fit, labels out of range, an unknown reduction or
            backend, a margin or scale out of range, or, under ``validate``, numbers that are not
            finite.
        TypeError: for embeddings that are not floating point, labels that are not integers, or
            options that are no numbers.

    Example:
        >>> weight = torch.eye(2)
        >>> cos_face_loss(torch.tensor([[1.0, 1.0]]), torch.tensor([0]), weight, margin=0.5)
        tensor(32.0000)

    Source:
        Wang et al., "CosFace: large margin cosine loss for deep face recognition", CVPR 2018,
        equation 4.
    """
    return cos_face_with_stats(
        embeddings,
        labels,
        weight,
        margin=margin,
        scale=scale,
        reduction=reduction,
        validate=validate,
        backend=backend,
    )[0]


def normalized_softmax_loss(
    embeddings: Tensor,
    labels: Tensor,
    weight: Tensor,
    *,
    temperature: float = 0.05,
    reduction: str = "mean",
    validate: bool = False,
    backend: str = "auto",
) -> Tensor:
    r"""Normalised softmax: cross-entropy over the cosines with one direction a class.

    .. math:: L_i = -\log \frac{e^{\cos\theta_{iy} / T}}{\sum_c e^{\cos\theta_{ic} / T}}

    with θ_ic the angle between embedding i and row c of the weight, and y the class of i. Memory
    is linear in the batch and in the number of classes: their product is never stored.
    A collapsed model has the loss log C: ``stats.trivial``.

    Args:
        embeddings: one embedding a row, of any length: rows are normalised here.
        labels: the class of each row, a row number of the weight.
        weight: one row a class, of any length.
        temperature: T.
        reduction: "mean" over the embeddings, "sum", or "none".
        validate: whether to look for NaN, infinity and labels out of range, which waits for the
            device; on the CPU labels are always looked at.
        backend: see :func:`siameselib.use_backend`.

    Shape:
        embeddings: (n, d). labels: (n,). weight: (c, d). Result: 0-d, or (n,) for "none".

    Returns:
        The loss; a differentiable 0 for an empty batch or a single class, with a warning.

    Raises:
        ValueError: for shapes that do not fit, labels out of range, an unknown reduction or
            backend, a temperature out of range, or, under ``validate``, numbers that are not
            finite.
        TypeError: for embeddings that are not floating point, labels that are not integers, or
            options that are no numbers.

    Example:
        >>> weight = torch.eye(2)
        >>> normalized_softmax_loss(torch.tensor([[1.0, 1.0]]), torch.tensor([0]), weight)
        tensor(0.6931)

    Source:
        Zhai and Wu, "Classification is a strong baseline for deep metric learning", BMVC 2019
        (2018 as a preprint), section 3.1, with its temperature. The layer norm that the paper puts
        before the loss is the network's affair.
    """
    return normalized_softmax_with_stats(
        embeddings,
        labels,
        weight,
        temperature=temperature,
        reduction=reduction,
        validate=validate,
        backend=backend,
    )[0]


def arc_face_with_stats(
    embeddings: Tensor,
    labels: Tensor,
    weight: Tensor,
    *,
    margin: float,
    scale: float,
    beyond: str,
    reduction: str,
    validate: bool,
    backend: str,
) -> tuple[Tensor, Stats | Later]:
    """Return :func:`arc_face_loss` and what it saw."""
    where = "arc_face_loss"
    check_arc_face(where, margin, scale, beyond)
    batch = class_batch(
        where,
        embeddings,
        labels,
        weight,
        scale,
        reduction=reduction,
        validate=validate,
        backend=backend,
    )
    gap = 0.0 if beyond == "easy" else scale * (1 - math.cos(margin))

    def target(distance: Tensor) -> Tensor:
        return scale * _widened(distance, margin, beyond)

    return softmax_loss(where, batch, target, gap, reduction)


def cos_face_with_stats(
    embeddings: Tensor,
    labels: Tensor,
    weight: Tensor,
    *,
    margin: float,
    scale: float,
    reduction: str,
    validate: bool,
    backend: str,
) -> tuple[Tensor, Stats | Later]:
    """Return :func:`cos_face_loss` and what it saw."""
    where = "cos_face_loss"
    check_cos_face(where, margin, scale)
    batch = class_batch(
        where,
        embeddings,
        labels,
        weight,
        scale,
        reduction=reduction,
        validate=validate,
        backend=backend,
    )
    return softmax_loss(where, batch, lambda d: scale * (1 - d - margin), scale * margin, reduction)


def normalized_softmax_with_stats(
    embeddings: Tensor,
    labels: Tensor,
    weight: Tensor,
    *,
    temperature: float,
    reduction: str,
    validate: bool,
    backend: str,
) -> tuple[Tensor, Stats | Later]:
    """Return :func:`normalized_softmax_loss` and what it saw."""
    where = "normalized_softmax_loss"
    scale = check_scale(where, temperature, "temperature", inverse=1)
    batch = class_batch(
        where,
        embeddings,
        labels,
        weight,
        scale,
        reduction=reduction,
        validate=validate,
        backend=backend,
    )
    return softmax_loss(where, batch, lambda d: scale * (1 - d), 0.0, reduction)


def check_arc_face(where: str, margin: float, scale: float, beyond: str) -> None:
    """Refuse what :func:`arc_face_loss` does not take."""
    _check.choice(where, "beyond", beyond, BEYOND)
    _check.between(where, "margin", margin, 0, math.pi)
    check_scale(where, scale)


def check_cos_face(where: str, margin: float, scale: float) -> None:
    """Refuse numbers that :func:`cos_face_loss` does not take."""
    _check.between(where, "margin", margin, 0, 2)
    check_scale(where, scale)


def softmax_loss(
    where: str,
    batch: ClassBatch,
    target: Callable[[Tensor], Tensor],
    gap: float,
    reduction: str,
) -> tuple[Tensor, Stats | Later]:
    """Return the cross-entropy and what it saw.

    Args:
        where: the loss, for its messages.
        batch: the samples and the classes.
        target: the logit of each sample's own class, given its distance to that.
        gap: how far the margin puts the own logit below the others in a collapsed model.
        reduction: "mean", "sum" or "none".
    """
    n, number = len(batch.labels), len(batch.weight)
    trivial = partial(collapsed, (math.log(number - 1) if number > 1 else -math.inf) + gap)
    idle = not n or number < 2
    if reduction != "none" and not idle and fits(batch.x, batch.weight, batch.backend):
        total, losses, distance, cosines = class_softmax(*batch[:4], target)
        stats = later(class_stats, distance, cosines, losses, n, number, trivial)
        return total / n if reduction == "mean" else total, stats
    classes = batch.compared()
    losses = softplus(classes.logsumexp - target(classes.distance))
    return reduce_classes(where, classes, losses, number, trivial, reduction, idle=idle)


def collapsed(gap: float, losses: Tensor) -> Tensor:
    """Return log(1 + e^gap) as a tensor like the losses."""
    return softplus(losses.new_tensor(gap))


def _widened(distance: Tensor, margin: float, beyond: str) -> Tensor:
    # cos(θ + m) from 1 - cos θ, which keeps its digits for small angles
    cosine = 1 - distance
    square = distance * (2 - distance)
    apart = square > 0
    sine = torch.where(apart, torch.where(apart, square, 1).sqrt(), 0)
    widened = cosine * math.cos(margin) - sine * math.sin(margin)
    if beyond == "linear":
        within = cosine >= -math.cos(margin)
        return torch.where(within, widened, cosine - margin * math.sin(margin))
    return torch.where(cosine > 0, widened, cosine) if beyond == "easy" else widened
