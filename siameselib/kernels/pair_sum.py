r"""Sums over all pairs of a batch, none of which is ever listed.

.. math:: P_a = \sum_{p:\; y_p = y_a,\; p \ne a} f_+(d_{ap}) \qquad
          N_a = \sum_{n:\; y_n \ne y_a} f_-(d_{an})

with one elementwise function of the distance for the pairs of one identity and one for the
others. Pairs are ordered, (a, j) and (j, a) being two: so each row has a sum of its own, and a
larger set of columns changes nothing. The slope of a pair follows from its distance alone, so the
sweep that adds up also forms the gradient.

``reference`` holds all pairs, in float64, and leaves the gradient to autograd. ``streaming`` goes
through tiles of the matrix for the negatives. Positives are direct differences, a block of rows
with their few positives each; where an identity has many, tiles again, with each identity centred
on its own mean, for positives are near each other. A small matrix is held whole.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from siameselib.kernels import choose, of_triton
from siameselib.kernels.blocks import group, pair_counts, scaled
from siameselib.kernels.given import first_only, given
from siameselib.kernels.pair_terms import TERMS, Term
from siameselib.kernels.pair_total import Total, filled, one_by_one, tile_by_tile
from siameselib.kernels.sweep import Metric
from siameselib.kernels.whole_distances import fits
from siameselib.kernels.whole_pairs import WholePairs

FEW = 32  # positives a row up to which each pair is taken by itself


class Sums(NamedTuple):
    """What :func:`pair_sum` returns: first the positive pairs, then the negative ones."""

    loss: Tensor
    """(2,), or (2, n) for each row; differentiable in rows, columns and numbers."""
    active: Tensor
    """(2,) int64: how many pairs have a term above zero."""
    distances: Tensor
    """(2,) the sums of the distances of all pairs."""
    pairs: Tensor
    """(2,) int64: how many pairs there are."""


def pair_sum(
    x: Tensor,
    labels: Tensor,
    y: Tensor | None,
    y_labels: Tensor,
    offset: int | None,
    *,
    metric: str,
    positive: str | Term,
    negative: str | Term,
    numbers: Tensor,
    each: bool = False,
    backend: str = "auto",
) -> Sums:
    """Sum a term over all ordered pairs of one identity, and another over all other pairs.

    Args:
        x: (n, d) rows; of length 1 (or 0) each for the metric "cosine".
        labels: (n,) their identities.
        y: (m, d) columns, likewise; None for the rows themselves.
        y_labels: (m,) their identities.
        offset: row i is column offset + i, so no pair with itself; None if no row is a column.
        metric: "euclidean", "sqeuclidean" or "cosine".
        positive: the term of two of one identity, by name or as it is.
        negative: that of two different ones.
        numbers: (k,) float64: what the terms take besides the distance.
        each: whether to return one sum for each row.
        backend: see :func:`siameselib.use_backend`.

    Returns:
        The sums.

    Raises:
        ValueError: for a backend that cannot run, or terms that torch.compile cannot pass on.
    """
    columns = x if y is None else y
    larger = columns if len(columns) > len(x) else x
    backend = choose("pair_sum", len(x), len(columns), x.shape[1], backend, larger)
    terms = positive, negative
    problem = (labels.long(), y_labels.long(), offset, metric)
    named = isinstance(positive, str) and isinstance(negative, str)
    if backend == "triton" and not named:
        raise ValueError("pair_sum: backend 'triton' cannot run: it has no kernel for such a term")
    if named and not each and fits("pair_sum", x, y, backend):
        return Sums(*WholePairs.apply(x, y, numbers, *problem, *terms))  # type: ignore[no-untyped-call]
    kinds = pair_counts(labels, y_labels, offset)
    pairs = torch.stack([kind.sum() for kind in kinds])
    if backend == "reference" or x.numel() == 0 or len(columns) == 0:
        loss, active, distances = reference(x, columns, numbers, *problem, terms)
        return Sums(loss if each else loss.sum(1), active, distances, pairs)
    compiling = torch.compiler.is_compiling()
    if compiling and not named:
        raise ValueError("pair_sum: torch.compile takes only backend 'reference' for such a term")
    task = (*problem, of_triton(backend), *terms)
    # In eager mode no operators: the first call of one imports all of torch._dynamo.
    if each:
        run: Any = _each_op if compiling else _Each.apply
        loss, active, distances = run(x, y, numbers, *task)
        return Sums(loss, active, distances, pairs)
    inputs = [x, numbers] if y is None else [x, numbers, y]
    wanted = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
    sweep = _sweep_op if compiling else _sweep
    with torch.no_grad():
        fixed = None if y is None else y.detach()
        loss, active, distances, *gradients = sweep(
            x.detach(), fixed, numbers.detach(), *task, None, wanted
        )
        totals = loss.sum(1).to(x.dtype)
    if wanted:
        totals = given(totals, inputs, gradients[: len(inputs)])
    return Sums(totals, active, distances, pairs)


def reference(
    x: Tensor,
    y: Tensor,
    numbers: Tensor,
    labels: Tensor,
    y_labels: Tensor,
    offset: int | None,
    metric: str,
    terms: tuple[str | Term, str | Term],
) -> tuple[Tensor, Tensor, Tensor]:
    """Dense, in float64: the sums of each row by their definition."""
    distance = Metric(metric).dense(x.double(), y.double())
    same = labels[:, None] == y_labels
    others = same.clone()
    if offset is not None:
        others.diagonal(offset).fill_(False)
    loss, active, distances = [], [], []
    for term, counted in zip(terms, (others, ~same), strict=True):
        value = _term(term).value(filled(distance, ~counted), *numbers.unbind())
        value = torch.where(counted, value, 0 * distance)  # differentiable, whatever the term
        loss.append(value.sum(1))
        active.append((value > 0).sum())
        distances.append(torch.where(counted, distance.detach(), 0).sum())
    return torch.stack(loss).to(x.dtype), torch.stack(active), torch.stack(distances).to(x.dtype)


def _term(term: str | Term) -> Term:
    return TERMS[term] if isinstance(term, str) else term


def _sweep(
    x: Tensor,
    y: Tensor | None,
    numbers: Tensor,
    labels: Tensor,
    y_labels: Tensor,
    offset: int | None,
    metric: str,
    triton: str | None,
    positive: Any,
    negative: Any,
    weights: Tensor | None,
    gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return sums (2, n) in float64, counts (2,), distances (2,), and three gradients.

    These are of the two sums over all rows, weighted where weights (2, n) are given: (2, n, d) in
    x, (2, k) in the numbers and (2, m, d) in y; empty where not wanted.
    """
    readable = x.device.type == "cpu"
    with torch.autocast(x.device.type, enabled=False):
        if triton:
            from siameselib.kernels.pair_sum_triton import sweep

            problem = (labels, y_labels, offset, metric, triton, positive, negative)
            return sweep(x, y, numbers, *problem, weights, gradient)
        x, y, unit, back = scaled(x, y, metric)
        grouped = group(x, labels, x if y is None else y, y_labels, offset)
        few = readable and bool(grouped.positive_count().max() <= FEW)
        loss, dnumbers = numbers.new_zeros(2, len(x)), numbers.new_zeros(2, len(numbers))
        active, distances = labels.new_zeros(2), numbers.new_zeros(2)
        dx = x.new_empty(2, *(x.shape if gradient else (0,)))
        dy = x.new_empty(2, *(y.shape if gradient and y is not None else (0,)))
        for k, term in enumerate((positive, negative)):
            weight = x.new_ones(len(x)) if weights is None else weights[k, grouped.rows].to(x.dtype)
            total = Total(_term(term), numbers, unit, weight, even=weights is None)
            if few and k == 0:
                found = one_by_one(total, grouped, Metric(metric), gradient)
            else:
                found = tile_by_tile(total, grouped, Metric(metric), gradient, positives=k == 0)
            loss[k, grouped.rows], dnumbers[k] = total.loss, total.change
            active[k], distances[k] = total.active, total.distances
            if gradient:
                for whole, part in zip((dx, dy), found, strict=True):
                    whole[k] = part * back.to(part.dtype)
        return loss, active, distances.to(x.dtype), dx, dnumbers, dy


@torch.library.custom_op("siameselib::pair_sum", mutates_args=())
def _sweep_op(
    x: Tensor,
    y: Tensor | None,
    numbers: Tensor,
    labels: Tensor,
    y_labels: Tensor,
    offset: int | None,
    metric: str,
    triton: str | None,
    positive: str,
    negative: str,
    weights: Tensor | None,
    gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    problem = (labels, y_labels, offset, metric, triton, positive, negative)
    return _sweep(x, y, numbers, *problem, weights, gradient)


@_sweep_op.register_fake
def _(
    x: Tensor,
    y: Tensor | None,
    numbers: Tensor,
    labels: Tensor,
    y_labels: Tensor,
    offset: int | None,
    metric: str,
    triton: str | None,
    positive: str,
    negative: str,
    weights: Tensor | None,
    gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    dx = x.new_empty(2, *(x.shape if gradient else (0,)))
    dy = x.new_empty(2, *(y.shape if gradient and y is not None else (0,)))
    loss = numbers.new_empty(2, len(x))
    return loss, labels.new_empty(2), x.new_empty(2), dx, numbers.new_empty(2, len(numbers)), dy


def _each(
    x: Tensor,
    y: Tensor | None,
    numbers: Tensor,
    labels: Tensor,
    y_labels: Tensor,
    offset: int | None,
    metric: str,
    triton: str | None,
    positive: Any,
    negative: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sums of each row, their counts, and the sums of distances."""
    problem = (labels, y_labels, offset, metric, triton, positive, negative)
    loss, active, distances, *_ = _sweep(x, y, numbers, *problem, None, False)
    return loss.to(x.dtype), active, distances


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:5])
    ctx.rest = inputs[5:]
    ctx.mark_non_differentiable(*output[1:])


def _backward(
    sweep: Callable[..., tuple[Tensor, ...]], ctx: Any, gradient: Tensor, *others: Any
) -> tuple[Tensor | None, ...]:
    # One more sweep, for only now it is known how much each row weighs.
    x, y, numbers, labels, y_labels = ctx.saved_tensors
    found = sweep(x, y, numbers, labels, y_labels, *ctx.rest, gradient.contiguous(), True)
    dx, dnumbers, dy = (each.sum(0) for each in found[3:])
    return dx, None if y is None else dy, dnumbers, *[None] * 7


class _Each(torch.autograd.Function):
    forward = staticmethod(_each)
    setup_context = staticmethod(_keep)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        first_only()
        return _backward(_sweep, ctx, *gradients)


@torch.library.custom_op("siameselib::pair_sum_each", mutates_args=())
def _each_op(
    x: Tensor,
    y: Tensor | None,
    numbers: Tensor,
    labels: Tensor,
    y_labels: Tensor,
    offset: int | None,
    metric: str,
    triton: str | None,
    positive: str,
    negative: str,
) -> tuple[Tensor, Tensor, Tensor]:
    return _each(x, y, numbers, labels, y_labels, offset, metric, triton, positive, negative)


_each_op.register_autograd(partial(_backward, _sweep_op), setup_context=_keep)


@_each_op.register_fake
def _(
    x: Tensor,
    y: Tensor | None,
    numbers: Tensor,
    labels: Tensor,
    y_labels: Tensor,
    offset: int | None,
    metric: str,
    triton: str | None,
    positive: str,
    negative: str,
) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(2, len(x)), labels.new_empty(2), x.new_empty(2)
