"""Distances between matching rows: row i of one matrix against row i of the other.

All of them work in float32 at least with autocast off, and have value 0 and gradient 0 where
the rows are equal, without any epsilon.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from siameselib import _check
from siameselib.kernels.blocks import gathered
from siameselib.kernels.unit import power_of_two, unit

METRICS = ("euclidean", "sqeuclidean", "cosine", "manhattan")
Metric = str | Callable[[Tensor, Tensor], Tensor]


def paired_distance(x1: Tensor, x2: Tensor, metric: Metric = "euclidean") -> Tensor:
    r"""Distance between matching rows.

    ===============  ==========================================================================
    "euclidean"      :math:`\lVert a - b \rVert_2`
    "sqeuclidean"    :math:`\lVert a - b \rVert_2^2`
    "manhattan"      :math:`\lVert a - b \rVert_1`
    "cosine"         :math:`1 - \hat a \cdot \hat b`, with
                     :math:`\hat a = a / \lVert a \rVert_2` and :math:`\hat 0 = 0`
    ===============  ==========================================================================

    Args:
        x1: one embedding a row.
        x2: the embeddings to compare them with, row by row.
        metric: one of the names above, or a function of two (n, d) tensors that returns the n
            distances.

    Shape:
        x1, x2: (n, d). Result: (n,), float32 or wider.

    Returns:
        The n distances. At distance 0 the gradient is 0.

    Raises:
        ValueError: for different shapes or an unknown metric.
        TypeError: for anything but floating-point tensors.

    Example:
        >>> x1, x2 = torch.tensor([[0.0, 0.0], [1.0, 1.0]]), torch.tensor([[3.0, 4.0], [1.0, 1.0]])
        >>> paired_distance(x1, x2)
        tensor([5., 0.])
        >>> paired_distance(x1, x2, "manhattan")
        tensor([7., 0.])
    """
    where = "paired_distance"
    _check.matrix(where, "x1", x1)
    _check.matrix(where, "x2", x2)
    _check.same_shape(where, x1=x1, x2=x2)
    with torch.autocast(x1.device.type, enabled=False):
        x1, x2 = at_least_float32(x1), at_least_float32(x2)
        check_metric(where, metric)
        if callable(metric):
            distance = metric(x1, x2)
            _check.vector(where, "the result of metric", distance, len(x1))
            return distance
        return row_distance(x1, x2, metric)


def check_metric(where: str, metric: Metric) -> None:
    """Refuse what is neither a metric's name nor a function."""
    if not callable(metric):
        _check.choice(where, "metric", metric, METRICS)


def row_distance(x1: Tensor, x2: Tensor, metric: str) -> Tensor:
    """Return :func:`paired_distance` of rows of any shapes (..., d) that broadcast, unchecked.

    Args:
        x1: rows, float32 or wider.
        x2: rows to compare them with.
        metric: one of the names.
    """
    if metric == "cosine":
        return _cosine_distance(x1, x2)
    difference = x1 - x2
    if metric == "manhattan":
        return difference.abs().sum(-1)
    if metric == "sqeuclidean":
        return difference.square().sum(-1)
    return _length(difference)


def _length(difference: Tensor) -> Tensor:
    scale = power_of_two(difference)
    length: Tensor = torch.linalg.vector_norm(difference * scale, dim=-1)
    return length / torch.where(scale > 0, scale, 1).squeeze(-1)


def mined_distance(x: Tensor, y: Tensor, row: Tensor | None, column: Tensor, metric: str) -> Tensor:
    """Return :func:`row_distance` of x[row] and y[column]: fewer steps, no torch.func.

    Args:
        x: (n, d) rows, float32 or wider.
        y: (m, d) rows to compare them with.
        row: (k,) which row of x; None for each of them, as often as the column has n entries,
        column: (k,) and which row of y.
        metric: one of the names.
    """
    if metric != "euclidean" or torch.compiler.is_compiling():
        if row is None:
            return row_distance(x, _opposite(x, y, column), metric).flatten()
        return row_distance(x.index_select(0, row), y.index_select(0, column), metric)
    run: Any = _Euclidean.apply
    distance: Tensor = run(x, y, row, column)
    return distance


class _Euclidean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, row: Tensor | None, column: Tensor) -> Tensor:
        length = x.new_empty(len(column))
        ctx.alone = y is x
        ctx.plain = x.device.type == "cpu"  # elsewhere looking would mean waiting
        if ctx.plain:
            for some, apart in _apart(x, y, row, column):
                length[some] = torch.linalg.vector_norm(apart, dim=-1)
            tiny, huge = torch.finfo(x.dtype).tiny ** 0.4, torch.finfo(x.dtype).max ** 0.4
            ctx.plain = bool(((length > tiny) & (length < huge)).all())
        if not ctx.plain:
            for some, apart in _apart(x, y, row, column):
                length[some] = _length(apart)
        ctx.save_for_backward(x, y, row, column, length)
        return length

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        x, y, row, column, length = ctx.saved_tensors
        dx = torch.zeros_like(x)
        dy = dx if ctx.alone else torch.zeros_like(y)
        for some, pull in _apart(x, y, row, column):
            over = length[some, None]
            if not ctx.plain:
                scale = power_of_two(pull)
                pull, over = pull * scale, torch.where(scale > 0, over * scale, 1)
            pull = pull.mul_(gradients[0][some, None] / over)
            if row is not None:
                dx.index_add_(0, row[some], pull)
            else:
                dx += pull.view(len(column) // max(1, len(x)), *x.shape).sum(0)
            dy.index_add_(0, column[some], pull, alpha=-1)
        return dx, None if ctx.alone else dy, None, None


def _apart(
    x: Tensor, y: Tensor, row: Tensor | None, column: Tensor
) -> Iterator[tuple[slice, Tensor]]:
    # The differences of listed rows: all at once where memory is quick or a gradient is recorded.
    everything = slice(0, len(column))
    if row is None:
        yield everything, (x - _opposite(x, y, column)).flatten(0, 1)
    elif x.device.type == "cpu" and not torch.is_grad_enabled():
        for some, left, right in gathered(x, y, row, column):
            yield some, left.sub_(right)
    else:
        yield everything, x.index_select(0, row) - y.index_select(0, column)


def _opposite(x: Tensor, y: Tensor, column: Tensor) -> Tensor:
    # (times, n, d): what each of the n rows of x is compared with, time after time.
    return y.index_select(0, column).view(len(column) // max(1, len(x)), *x.shape)


def mean_square_distance(x1: Tensor, x2: Tensor) -> Tensor:
    r"""Mean over the dimensions of the squared differences of matching rows.

    .. math:: D(a, b) = \frac1d \sum_{k=1}^d (a_k - b_k)^2 = \frac1d \lVert a - b \rVert_2^2

    One value per row, averaged over the d columns: no root is taken and nothing is averaged over
    the batch. Being the squared Euclidean distance over d, it calls for margins d times smaller.
    It is a metric to hand to a loss: ``triplet_loss(..., metric=mean_square_distance)``.

    Args:
        x1: one embedding a row.
        x2: the embeddings to compare them with, row by row.

    Shape:
        x1, x2: (n, d). Result: (n,), float32 or wider.

    Returns:
        The n distances.

    Example:
        >>> mean_square_distance(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]]))
        tensor([12.5000])
    """
    return paired_distance(x1, x2, "sqeuclidean") / x1.shape[-1]


def at_least_float32(x: Tensor) -> Tensor:
    """Return x itself, or as float32 where it is narrower."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def unit_rows(x: Tensor) -> Tensor:
    r"""Scale each row to Euclidean length 1; a zero row stays zero and gets gradient 0.

    Args:
        x: one embedding a row, of any norm that its dtype holds.

    Shape:
        x: (n, d). Result: (n, d).

    Returns:
        The rows over their lengths.

    Example:
        >>> unit_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    # Compiled, the same without the class, which torch.compile takes under warnings only.
    run: Any = _UnitRows.apply
    rows: Tensor = unit(x)[0] if torch.compiler.is_compiling() else run(x)
    return rows


class _UnitRows(torch.autograd.Function):
    # The same, with a gradient of fewer steps.
    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        rows, factor = unit(*inputs)
        ctx.save_for_backward(*inputs, rows, factor)
        return rows

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        x, rows, factor = ctx.saved_tensors
        if torch.is_grad_enabled():  # for a second derivative both must lead back to x
            rows, factor = unit(x)
        gradient = gradients[0]
        along = (gradient * rows).sum(-1, keepdim=True)
        return torch.addcmul(gradient, rows, along, value=-1) * factor


def _cosine_distance(x1: Tensor, x2: Tensor) -> Tensor:
    # 1 - a·b = |a - b|²/2 for unit rows: no cancellation for close ones; a zero row lacks 1/2.
    a, b = unit_rows(x1), unit_rows(x2)
    zero_rows = (x1 == 0).all(-1).to(a.dtype) + (x2 == 0).all(-1).to(a.dtype)
    return ((a - b).square().sum(-1) + zero_rows) / 2
