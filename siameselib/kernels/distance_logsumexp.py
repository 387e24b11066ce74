r"""Row-wise log-sum-exp of the distances to the positives, and of minus those to the negatives.

.. math:: P_i = \log \sum_{p:\; id_p = id_i,\; p \ne own_i} e^{d_{ip}} \qquad
          N_i = \log \sum_{j:\; id_j \ne id_i} e^{-d_{ij}}

``reference`` is these lines. ``streaming`` lists the positives and sweeps the distances to the
negatives, once for the sums and once for the gradient.
"""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from siameselib.kernels import choose
from siameselib.kernels.blocks import Grouped, group, range_shift
from siameselib.kernels.logsumexp import Running
from siameselib.kernels.sweep import Metric, Sweep

_LISTED = 1 << 20  # places for positives that are filled at once


class Sums(NamedTuple):
    """What :func:`distance_logsumexp` returns."""

    positives: Tensor
    """(n,) P, -inf for a row without positives; differentiable."""
    negatives: Tensor
    """(n,) N, -inf for a row without negatives; differentiable."""
    distances: Tensor
    """(2, n) the sums of the distances to the positives and to the negatives."""


def distance_logsumexp(
    x: Tensor,
    labels: Tensor,
    y: Tensor | None,
    y_labels: Tensor,
    offset: int | None,
    metric: str,
    backend: str = "auto",
) -> Sums:
    """Compute P and N.

    Args:
        x: (n, d) rows; of length 1 (or 0) each for the metric "cosine".
        labels: (n,) their identities.
        y: (m, d) columns, likewise; None for the rows themselves.
        y_labels: (m,) their identities.
        offset: row i is column offset + i, so no positive of itself; None if no row is a column.
        metric: "euclidean", "sqeuclidean" or "cosine".
        backend: see :func:`siameselib.use_backend`.

    Returns:
        The sums.
    """
    columns = x if y is None else y
    problem = (labels.long(), y_labels.long(), offset, metric)
    backend = choose("distance_logsumexp", len(x), len(columns), x.shape[1], backend)
    if backend == "reference" or x.numel() == 0 or len(columns) == 0:
        return Sums(*reference(x, columns, *problem))
    # In eager mode no operators: the first call of one imports all of torch._dynamo.
    run: Any = _forward_op if torch.compiler.is_compiling() else _DistanceLogSumExp.apply
    return Sums(*run(x, y, *problem))


def reference(
    x: Tensor, y: Tensor, labels: Tensor, y_labels: Tensor, offset: int | None, metric: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute P and N by their definition, in float64."""
    dtype, x, y = x.dtype, x.double(), y.double()
    distance = Metric(metric).dense(x, y)
    same = labels[:, None] == y_labels
    positive = same.clone()
    if offset is not None:
        positive.diagonal(offset).fill_(False)
    seen = [torch.where(pairs, distance.detach(), 0).sum(1) for pairs in (positive, ~same)]
    return (
        distance.masked_fill(~positive, -torch.inf).logsumexp(1).to(dtype),
        (-distance).masked_fill(same, -torch.inf).logsumexp(1).to(dtype),
        torch.stack(seen).to(dtype),
    )


class _Problem:
    """Rows and columns in order, scaled so that no square overflows or vanishes."""

    def __init__(
        self,
        x: Tensor,
        y: Tensor | None,
        labels: Tensor,
        y_labels: Tensor,
        offset: int | None,
        metric: str,
        gradient: bool,
    ) -> None:
        scale = torch.ones((), device=x.device, dtype=torch.float64)
        columns = x if y is None else y
        if metric != "cosine":
            shift = range_shift(x, columns)
            scale = torch.ldexp(scale, shift)
            x = torch.ldexp(x, shift)
            columns = x if y is None else torch.ldexp(columns, shift)
        unit = scale.square() if metric == "sqeuclidean" else scale  # of the distances
        self.per_unit = (1 / unit).to(x.dtype)
        self.pulled = (scale / unit).to(x.dtype)  # what the gradient is to be multiplied by
        self.grouped: Grouped = group(x, labels, columns, y_labels, offset)
        self.sweep = Sweep(self.grouped, Metric(metric), gradient)
        self.alone = self.grouped.negative_count() == 0

    def back(self, values: Tensor) -> Tensor:
        """Return values of rows in the order before."""
        return torch.empty_like(values).index_copy_(0, self.grouped.rows, values)

    def positives(self) -> Any:
        """Go through the rows: which, and row and column of their positives in a flat list.

        Each comes with the places of the list in (rows, width), and its distances.
        """
        width = max(1, int(self.grouped.positive_count().max()))
        step = max(1, _LISTED // width)
        for first in range(0, len(self.grouped.x), step):
            rows = slice(first, min(first + step, len(self.grouped.x)))
            columns = self.grouped.positives(rows, width)
            row, place = (columns < len(self.grouped.y)).nonzero(as_tuple=True)
            column = columns[row, place]
            distance = self.sweep.distances(row + first, column)
            yield rows, columns.shape, (row, place), column, distance


def _forward(
    x: Tensor,
    y: Tensor | None,
    labels: Tensor,
    y_labels: Tensor,
    offset: int | None,
    metric: str,
) -> tuple[Tensor, Tensor, Tensor]:
    with torch.autocast(x.device.type, enabled=False):
        problem = _Problem(x, y, labels, y_labels, offset, metric, False)
        sweep, per_unit = problem.sweep, problem.per_unit
        positives = torch.empty_like(sweep.x_square)
        seen = torch.empty_like(positives)
        for rows, shape, at, _, distance in problem.positives():
            scores = x.new_full(shape, -torch.inf)
            scores[at] = distance * per_unit
            positives[rows] = scores.logsumexp(1)
            scores[scores == -torch.inf] = 0
            seen[rows] = scores.sum(1)
        by_row = Running(positives)
        by_column = by_row if sweep.symmetric else None
        for tile in sweep.tiles():
            sweep.add_up(tile)
            scores = tile.distance * -per_unit
            if by_column is not None and tile.mirror.start < tile.mirror.stop:
                by_column.add(tile.mirrored(), scores[:, tile.mirror], 0)
            by_row.add(tile.rows, scores, 1)
        negatives = torch.where(problem.alone, -torch.inf, by_row.result())
        distances = torch.stack([problem.back(seen), problem.back(sweep.sums() * per_unit)])
        return problem.back(positives), problem.back(negatives), distances


def _backward(
    gradient: Tensor,
    negative_gradient: Tensor,
    x: Tensor,
    y: Tensor | None,
    labels: Tensor,
    y_labels: Tensor,
    positives: Tensor,
    negatives: Tensor,
    offset: int | None,
    metric: str,
) -> tuple[Tensor, Tensor]:
    with torch.autocast(x.device.type, enabled=False):
        problem = _Problem(x, y, labels, y_labels, offset, metric, True)
        sweep, per_unit, order = problem.sweep, problem.per_unit, problem.grouped.rows
        pull, push = gradient[order], -negative_gradient[order]
        bound, limit = positives[order], torch.where(problem.alone, torch.inf, negatives[order])
        for tile in sweep.tiles():
            scores = tile.distance * -per_unit
            weight = (scores - limit[tile.rows, None]).exp_().mul_(push[tile.rows, None])
            if sweep.symmetric and tile.mirror.start < tile.mirror.stop:
                mirror = tile.mirrored()
                scores = scores[:, tile.mirror].sub_(limit[mirror]).exp_()
                weight[:, tile.mirror] += scores.mul_(push[mirror])
            sweep.pull(tile, weight)
        for rows, _, (row, _), column, distance in problem.positives():
            row = row + rows.start
            share = (distance * per_unit - bound[row]).exp_().mul_(pull[row])
            sweep.pull_listed(row, column, distance, share)
        dx, dy = (each * problem.pulled for each in sweep.gradient())
        return dx, dy


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:4], *output[:2])
    ctx.rest = inputs[4:]
    ctx.mark_non_differentiable(output[2])


def _differentiate(run: Any, ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
    dx, dy = run(*gradients[:2], *ctx.saved_tensors, *ctx.rest)
    return dx, dy if ctx.needs_input_grad[1] else None, *[None] * 4


class _DistanceLogSumExp(torch.autograd.Function):
    forward = staticmethod(_forward)
    setup_context = staticmethod(_keep)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return _differentiate(_backward, ctx, *gradients)


_forward_op = torch.library.custom_op("siameselib::distance_logsumexp", _forward, mutates_args=())
_backward_op = torch.library.custom_op(
    "siameselib::distance_logsumexp_backward", _backward, mutates_args=()
)
_forward_op.register_autograd(partial(_differentiate, _backward_op), setup_context=_keep)


@_forward_op.register_fake
def _(
    x: Tensor,
    y: Tensor | None,
    labels: Tensor,
    y_labels: Tensor,
    offset: int | None,
    metric: str,
) -> tuple[Tensor, Tensor, Tensor]:
    n = len(x)
    return x.new_empty(n), x.new_empty(n), x.new_empty(2, n)


@_backward_op.register_fake
def _(
    gradient: Tensor,
    negative_gradient: Tensor,
    x: Tensor,
    y: Tensor | None,
    labels: Tensor,
    y_labels: Tensor,
    positives: Tensor,
    negatives: Tensor,
    offset: int | None,
    metric: str,
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty(0) if y is None else torch.empty_like(y)
