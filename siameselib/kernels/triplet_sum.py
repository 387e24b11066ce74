r"""Sums over all triplets of a batch, none of which is ever listed.

.. math:: L_a = \sum_p \sum_n f(d_{ap} - d_{an})

over the positives p and the negatives n of the anchor a, with f the hinge max(0, z + m); the
hinge of the semi-hard triplets alone, d_ap < d_an < d_ap + m, the "window"; or log(1 + e^z),
"soft". Every positive sets a threshold for the negatives. For the hinge it is t = d_ap + m:

.. math:: L_a = \sum_p C_p t_p - \sum_n c_n d_{an} \qquad
          \frac{\partial L_a}{\partial d_{ap}} = C_p \qquad
          \frac{\partial L_a}{\partial d_{an}} = -c_n

where C_p counts the negatives below the threshold and c_n the thresholds above the negative. So
one sweep yields the loss and its gradient.

``reference`` takes all triplets, in float64, and leaves the gradient to autograd. ``streaming`` is
in :mod:`siameselib.kernels.thresholds`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from siameselib.kernels import choose, of_triton
from siameselib.kernels.blocks import Grouped, group, scaled
from siameselib.kernels.given import first_only, given
from siameselib.kernels.sweep import Metric
from siameselib.kernels.thresholds import FEW, Found, by_comparing, by_sorting


class Sums(NamedTuple):
    """What :func:`triplet_sum` returns."""

    loss: Tensor
    """0-d, or (n,) for each anchor; differentiable in rows and columns."""
    active: Tensor
    """(n,) int64: how many triplets of each anchor have a loss above zero."""
    distances: Tensor
    """(2,) the sums of the distances of all positive and of all negative pairs."""


def triplet_sum(
    x: Tensor,
    labels: Tensor,
    y: Tensor | None,
    y_labels: Tensor,
    offset: int | None,
    *,
    metric: str,
    margin: float,
    kind: str,
    each: bool = False,
    backend: str = "auto",
) -> Sums:
    """Sum the loss of all triplets.

    Args:
        x: (n, d) rows, the anchors; of length 1 (or 0) each for the metric "cosine".
        labels: (n,) their identities.
        y: (m, d) columns, likewise; None for the rows themselves.
        y_labels: (m,) their identities.
        offset: row i is column offset + i, so no positive of itself; None if no row is a column.
        metric: "euclidean", "sqeuclidean" or "cosine".
        margin: m; not used for "soft".
        kind: "hinge", "window" or "soft".
        each: whether to return one sum for each anchor.
        backend: see :func:`siameselib.use_backend`.

    Returns:
        The sums.
    """
    columns = x if y is None else y
    m = len(columns)
    width = max(m, x.shape[1])
    larger = columns if len(columns) > len(x) else x
    backend = choose("triplet_sum", len(x), m, width, backend, larger)
    ids, y_ids = labels.long(), y_labels.long()
    if backend == "reference" or x.numel() == 0 or m == 0:
        loss, active, distances = reference(
            x, ids, columns, y_ids, offset, Metric(metric), margin, kind
        )
        return Sums(loss if each else loss.sum(), active, distances)
    problem = (ids, y_ids, offset, metric, margin, kind, of_triton(backend))
    compiling = torch.compiler.is_compiling()
    # In eager mode no operators: the first call of one imports all of torch._dynamo.
    if each:
        run: Any = _each_op if compiling else _Each.apply
        return Sums(*run(x, y, *problem))
    wanted = torch.is_grad_enabled() and (x.requires_grad or columns.requires_grad)
    sweep = _sweep_op if compiling else _sweep
    with torch.no_grad():
        fixed = None if y is None else y.detach()
        loss, active, distances, dx, dy = sweep(x.detach(), fixed, *problem, None, wanted)
        total = loss.sum().to(x.dtype)
    if wanted:
        inputs = [x] if y is None else [x, y]
        total = given(total, inputs, [dx, dy][: len(inputs)])
    return Sums(total, active, distances)


def _each(
    x: Tensor,
    y: Tensor | None,
    labels: Tensor,
    y_labels: Tensor,
    offset: int | None,
    metric: str,
    margin: float,
    kind: str,
    triton: str | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sum of each anchor, its count, and the sums of distances."""
    problem = (labels, y_labels, offset, metric, margin, kind, triton)
    loss, active, distances, _, _ = _sweep(x, y, *problem, None, False)
    return loss.to(x.dtype), active, distances


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.rest = inputs[4:]
    ctx.mark_non_differentiable(*output[1:])


def _backward(
    sweep: Callable[..., tuple[Tensor, ...]], ctx: Any, gradient: Tensor, *others: Any
) -> tuple[Tensor | None, ...]:
    # One more sweep, for only now it is known how much each anchor weighs.
    x, y, labels, y_labels = ctx.saved_tensors
    found = sweep(x, y, labels, y_labels, *ctx.rest, gradient.contiguous(), True)
    return found[-2], None if y is None else found[-1], *[None] * 7


class _Each(torch.autograd.Function):
    forward = staticmethod(_each)
    setup_context = staticmethod(_keep)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        first_only()
        return _backward(_sweep, ctx, *gradients)


def reference(
    x: Tensor,
    labels: Tensor,
    y: Tensor,
    y_labels: Tensor,
    offset: int | None,
    metric: Metric,
    margin: float,
    kind: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Dense, in float64: the sums of each anchor by their definition."""
    dtype, x, y = x.dtype, x.double(), y.double()
    distance = metric.dense(x, y)
    same = labels[:, None] == y_labels
    positive = same.clone()
    if offset is not None:
        positive.diagonal(offset).fill_(False)
    losses, active = [], []
    rows = max(1, (1 << 22) // max(1, len(y)) ** 2)
    for first in range(0, max(1, len(x)), rows):
        some = slice(first, first + rows)
        ap, an = distance[some, :, None], distance[some, None, :]
        counted = positive[some, :, None] & ~same[some, None, :]
        terms = F.relu(ap + margin - an)
        if kind == "soft":
            terms = F.softplus(ap - an, threshold=40)
        if kind == "window":
            counted &= ~(an <= ap)  # NaN counts
        terms = torch.where(counted, terms, 0)
        losses.append(terms.sum((1, 2)))
        active.append((terms > 0).sum((1, 2)))
    both = positive.any(1, keepdim=True) & ~same.all(1, keepdim=True)
    seen = (torch.where(both & pairs, distance.detach(), 0).sum() for pairs in (positive, ~same))
    sums = torch.stack(list(seen))
    return torch.cat(losses).to(dtype), torch.cat(active), sums.to(dtype)


def _sweep(
    x: Tensor,
    y: Tensor | None,
    labels: Tensor,
    y_labels: Tensor,
    offset: int | None,
    metric: str,
    margin: float,
    kind: str,
    triton: str | None,
    weights: Tensor | None,
    gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return sums (n,) in float64, counts (n,), the sums of distances (2,), and gradients.

    The gradient is that of the sum over all anchors, weighted where weights (n,) are given; it is
    empty where not wanted, and for y where y is x.
    """
    with torch.autocast(x.device.type, enabled=False):
        if triton:
            from siameselib.kernels.triplet_sum_triton import sweep

            problem = (labels, y_labels, offset, metric, margin, kind, triton)
            return sweep(x, y, *problem, weights, gradient)
        x, y, unit, back = scaled(x, y, metric)
        grouped = group(x, labels, x if y is None else y, y_labels, offset)
        if weights is not None:
            weights = weights.to(x.dtype)[grouped.rows]
        way = _way(grouped, kind)
        found = way(grouped, Metric(metric), margin, unit, kind, weights, gradient)
        loss, active = torch.empty_like(found.loss), torch.empty_like(found.active)
        loss[grouped.rows], active[grouped.rows] = found.loss, found.active
        dx, dy = (each * back.to(each.dtype) for each in found.gradient)
        return loss, active, (found.distances / unit).to(x.dtype), dx, dy


def _way(grouped: Grouped, kind: str) -> Callable[..., Found]:
    # Sorting knows no soft margin, comparing no bound on the positives but what it reads.
    if kind == "soft":
        return by_comparing
    few = grouped.x.device.type == "cpu" and grouped.positive_count().max() <= FEW
    return by_comparing if few else by_sorting


_sweep_op = torch.library.custom_op("siameselib::triplet_sum", _sweep, mutates_args=())


@_sweep_op.register_fake
def _(
    x: Tensor,
    y: Tensor | None,
    labels: Tensor,
    y_labels: Tensor,
    offset: int | None,
    metric: str,
    margin: float,
    kind: str,
    triton: str | None,
    weights: Tensor | None,
    gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    dx = x.new_empty(x.shape if gradient else (0,))
    dy = x.new_empty(y.shape if gradient and y is not None else (0,))
    loss = x.new_empty(x.shape[:1], dtype=torch.float64)
    return loss, torch.empty_like(labels), x.new_empty(2), dx, dy


_each_op = torch.library.custom_op("siameselib::triplet_sum_each", _each, mutates_args=())
_each_op.register_autograd(partial(_backward, _sweep_op), setup_context=_keep)


@_each_op.register_fake
def _(
    x: Tensor,
    y: Tensor | None,
    labels: Tensor,
    y_labels: Tensor,
    offset: int | None,
    metric: str,
    margin: float,
    kind: str,
    triton: str | None,
) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape[:1]), torch.empty_like(labels), x.new_empty(2)
