"""A loss of two functions of the distance on all pairs of a labelled batch."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from siameselib import _check
from siameselib.functional.batch import check_words, labelled_batch, warn_when_idle
from siameselib.functional.distances import unit_rows
from siameselib.functional.stats import Later, Stats, later
from siameselib.kernels.pair_sum import Sums, pair_sum
from siameselib.kernels.pair_terms import Term, differentiated

Formula = Callable[..., Tensor]


def pair_loss(
    embeddings: Tensor,
    labels: Tensor,
    positive: Formula,
    negative: Formula,
    *,
    parameters: Sequence[Tensor | float] = (),
    balanced: bool = True,
    metric: str = "euclidean",
    reduction: str = "mean",
    validate: bool = False,
    backend: str = "auto",
    ref: Tensor | None = None,
    ref_labels: Tensor | None = None,
    ref_offset: int | None = None,
) -> Tensor:
    r"""Loss of your own on all pairs of the batch, in memory linear in the batch.

    .. math:: L_{ap} = f_+(d_{ap}; \theta) \qquad L_{an} = f_-(d_{an}; \theta)

    for every anchor a, its positives p ≠ a and its negatives n, summed up like
    :func:`batch_contrastive_loss`. The two functions are called with tensors of distances, a
    part of the batch's at a time, and return as many values, each of which depends on its own
    distance. Their slopes come from autograd; the gradient reaches the embeddings and θ. Within
    ``torch.compile`` only ``backend="reference"``, the dense form, is one graph.

    Args:
        embeddings: one embedding a row.
        labels: the identity of each row.
        positive: f₊, of distances and the parameters.
        negative: f₋, likewise.
        parameters: θ, what the functions take besides the distances: numbers, or 0-d tensors
            where they are learnt.
        balanced: whether positives and negatives weigh the same.
        metric: "euclidean", "sqeuclidean" or "cosine".
        reduction: "mean" over all pairs, "mean_active" over those with a loss above zero, "sum",
            or "none" (for each anchor the sum over its pairs).
        validate: whether to look for NaN and infinity, which waits for the device.
        backend: see :func:`siameselib.use_backend`.
        ref: a larger set to compare the batch with, such as a memory of past embeddings; None
            for the batch itself.
        ref_labels: the identities of ``ref``.
        ref_offset: where in ``ref`` the batch's own rows begin; None when they are not in it.

    Shape:
        embeddings: (n, d). labels: (n,). ref: (m, d). ref_labels: (m,). Result: 0-d, or (n,) for
        "none".

    Returns:
        The loss; a differentiable 0 when there is no positive or no negative pair, with a warning.

    Raises:
        ValueError: for shapes that do not fit, an unknown metric, reduction or backend, a function
            that does not return a value for each distance or that uses a tensor with a gradient
            besides its arguments, or, under ``validate``, embeddings that are not finite.
        TypeError: for embeddings that are not floating point, labels that are not integers, or
            options that are no numbers.

    Example:
        >>> x, labels = torch.tensor([[0.0], [1.0], [1.5], [2.0]]), torch.tensor([0, 0, 1, 1])
        >>> def pull(d, m):
        ...     return d.square()
        >>> def push(d, m):
        ...     return torch.exp(m - d)
        >>> pair_loss(x, labels, pull, push, parameters=[0.5])
        tensor(0.5872)
    """
    where = "pair_loss"
    numbers = as_numbers(where, parameters, embeddings)
    for name, formula in (("positive", positive), ("negative", negative)):
        _check_formula(where, name, formula, embeddings, numbers)
    sums = summed(
        where,
        embeddings,
        labels,
        differentiated(positive, numbers.requires_grad),
        differentiated(negative, numbers.requires_grad),
        numbers,
        balanced=balanced,
        metric=metric,
        reduction=reduction,
        validate=validate,
        backend=backend,
        ref=ref,
        ref_labels=ref_labels,
        ref_offset=ref_offset,
    )
    return sums.loss


class Summed(NamedTuple):
    """What :func:`summed` returns."""

    loss: Tensor
    """The loss, reduced."""
    sums: Sums
    """What it was made of."""
    balanced: bool
    """Whether positives and negatives weigh the same."""


def summed(
    where: str,
    embeddings: Tensor,
    labels: Tensor,
    positive: str | Term,
    negative: str | Term,
    numbers: Tensor,
    *,
    balanced: bool,
    metric: str,
    reduction: str,
    validate: bool,
    backend: str,
    ref: Tensor | None,
    ref_labels: Tensor | None,
    ref_offset: int | None,
) -> Summed:
    """Sum two terms over all pairs, and reduce them; keywords are those of :func:`pair_loss`."""
    check_words(where, metric=metric, reduction=reduction, backend=backend)
    batch = labelled_batch(where, embeddings, labels, ref, ref_labels, ref_offset, validate)
    with torch.autocast(embeddings.device.type, enabled=False):
        cosine = metric == "cosine"
        x = unit_rows(batch.x) if cosine else batch.x
        y = None if ref is None else unit_rows(batch.ref) if cosine else batch.ref
        sums = pair_sum(
            x,
            batch.labels,
            y,
            batch.ref_labels,
            batch.offset,
            metric=metric,
            positive=positive,
            negative=negative,
            numbers=numbers,
            each=reduction == "none",
            backend=backend,
        )
    least = sums.pairs.amin()
    warn_when_idle(where, least)
    counted = torch.minimum(sums.active, sums.pairs) if reduction == "mean_active" else sums.pairs
    counted = counted.to(x.dtype)
    weight = (least > 0).to(x.dtype)
    if balanced:
        weight = weight / (2 * counted.clamp(min=1))
    if reduction in {"mean", "mean_active"} and not balanced:
        weight = weight / counted.sum().clamp(min=1)
    if reduction in {"sum", "none"} and balanced:
        weight = weight * counted.sum()
    with torch.autocast(embeddings.device.type, enabled=False):
        return Summed(weight.expand(2) @ sums.loss, sums, balanced)


def pair_stats(summed: Summed, trivial: Callable[[Tensor], Tensor]) -> Stats | Later:
    """Return what a loss saw.

    Args:
        summed: what :func:`summed` returned.
        trivial: tells the loss of the best constant answer, given the share of positives in the
            weight of all pairs.

    Returns:
        The stats, or what will work them out.
    """
    return later(_pair_stats, *summed.sums[1:], summed.balanced, trivial)


def _pair_stats(
    active: Tensor,
    distances: Tensor,
    pairs: Tensor,
    balanced: bool,
    trivial: Callable[[Tensor], Tensor],
) -> Stats:
    pairs = torch.where((pairs > 0).all(), pairs, 0)
    valid, mean = pairs.sum(), distances / pairs
    share = torch.full_like(mean[0], 0.5) if balanced else (pairs[0] / valid).to(mean.dtype)
    return Stats(
        valid=valid,
        active=torch.where(pairs > 0, active, 0).sum() / valid,
        positive_distance=mean[0],
        negative_distance=mean[1],
        trivial=trivial(share),
    )


def as_numbers(
    where: str,
    values: Sequence[Tensor | float],
    embeddings: Tensor,
    names: Sequence[str] | None = None,
) -> Tensor:
    """Return numbers and 0-d tensors as one vector, float64 for the sums over many pairs."""
    _check.tensor(where, "embeddings", embeddings)
    names = names or [f"parameters[{k}]" for k in range(len(values))]
    for name, value in zip(names, values, strict=True):
        if not isinstance(value, Tensor):
            _check.number(where, name, value)
    if embeddings.device.type == "cpu" and not any(isinstance(each, Tensor) for each in values):
        return torch.tensor(values, dtype=torch.float64)
    numbers = []
    for name, value in zip(names, values, strict=True):
        if not isinstance(value, Tensor):
            value = torch.full((), value, dtype=torch.float64, device=embeddings.device)
        if value.ndim:
            raise _check.refuse(where, name, "be a number or 0-d", tuple(value.shape))
        _check.same_device(where, "embeddings", embeddings, name, value)
        numbers.append(value.double())
    return torch.stack(numbers) if numbers else embeddings.new_zeros(0, dtype=torch.float64)


def _check_formula(
    where: str, name: str, formula: Formula, embeddings: Tensor, numbers: Tensor
) -> None:
    probe = torch.linspace(0.5, 1, 6, device=embeddings.device).view(2, 3)
    with torch.enable_grad():
        values = formula(probe, *numbers.detach().unbind())
    _check.tensor(where, f"what {name} returns", values)
    if values.shape != probe.shape or not values.is_floating_point():
        expected = f"be floating point, of the shape of its distances, {tuple(probe.shape)}"
        got = f"{tuple(values.shape)}, {values.dtype}"
        raise _check.refuse(where, f"what {name} returns", expected, got)
    if values.requires_grad:
        expected = "take tensors that are learnt as parameters"
        raise _check.refuse(where, name, expected, "one from elsewhere, whose gradient is lost")
