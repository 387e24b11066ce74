r"""Row-wise log-sum-exp of the distances to the positives, and of minus those to the negatives.

.. math:: P_i = \log \sum_{p:\; id_p = id_i,\; p \ne own_i} e^{d_{ip}} \qquad
          N_i = \log \sum_{j:\; id_j \ne id_i} e^{-d_{ij}}

``reference`` is these lines. ``streaming`` sweeps the distances, once for the sums and once for the
gradient: on the CPU those to positives and those to negatives apart, on other devices, where ids
are not read, all of them in blocks.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from siameselib.kernels import choose
from siameselib.kernels.blocks import group, range_shift
from siameselib.kernels.logsumexp import Running
from siameselib.kernels.sweep import Metric, Sweep, Tile

_ENTRIES = 1 << 20  # of a block


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
        self.grouped = group(x, labels, columns, y_labels, offset)
        self.metric = Metric(metric)

    def back(self, values: Tensor) -> Tensor:
        """Return values of rows in the order before."""
        return torch.empty_like(values).index_copy_(0, self.grouped.rows, values)

    def blocks(self) -> Iterator["_Block"]:
        """Go through the whole matrix in float64, a block of rows at a time; nothing is read."""
        grouped, m = self.grouped, len(self.grouped.y)
        centre = grouped.y.double().mean(0)
        x, y = grouped.x.double() - centre, grouped.y.double() - centre
        x_square = x.square().sum(1) + self.metric.lift(grouped.x)
        y_square = y.square().sum(1) + self.metric.lift(grouped.y)
        step = max(1, _ENTRIES // m)
        for first in range(0, len(x), step):
            rows = slice(first, min(first + step, len(x)))
            square = torch.addmm(y_square, x[rows], y.T, alpha=-2).add_(x_square[rows, None])
            # what rounding can have made of 0
            square *= square > 2.0**-46 * (x_square[rows, None] + y_square)
            negative = ~grouped.same(rows, 0, m)
            own = grouped.own[rows, None] == torch.arange(m, device=x.device)
            yield _Block(rows, x[rows], y, self.metric.of(square), ~negative & ~own, negative)


class _Block(NamedTuple):
    # Some rows against all columns.
    rows: slice
    x: Tensor
    y: Tensor
    distance: Tensor
    positive: Tensor
    negative: Tensor


def _forward(
    x: Tensor,
    y: Tensor | None,
    labels: Tensor,
    y_labels: Tensor,
    offset: int | None,
    metric: str,
) -> tuple[Tensor, Tensor, Tensor]:
    with torch.autocast(x.device.type, enabled=False):
        problem = _Problem(x, y, labels, y_labels, offset, metric)
        sums = _swept if x.device.type == "cpu" else _blocked
        positives, negatives, *seen = sums(problem)
        return (
            problem.back(positives),
            problem.back(negatives),
            torch.stack([problem.back(each) for each in seen]),
        )


def _swept(problem: _Problem) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    # P, N and the sums of distances, all in the order of the groups.
    found = []
    for positives in (True, False):
        sweep = Sweep(problem.grouped, problem.metric, False, positives=positives)
        running = Running(sweep.x_square)
        for tile in sweep.tiles():
            sweep.add_up(tile)
            scores = _scores(problem, tile, positives)
            if tile.mirror.start < tile.mirror.stop:
                running.add(tile.mirrored(), scores[:, tile.mirror], 0)
            running.add(tile.rows, scores, 1)
        found.append((running.result(), sweep.sums() * problem.per_unit))
    (positive, far), (negative, near) = found
    return positive, negative, far, near


def _scores(problem: _Problem, tile: Tile, positives: bool) -> Tensor:
    scores = tile.distance * (problem.per_unit if positives else -problem.per_unit)
    return scores if tile.left_out is None else scores.masked_fill_(tile.left_out, -torch.inf)


def _blocked(problem: _Problem) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    # The same without a look at any value.
    found: list[list[Tensor]] = []
    for block in problem.blocks():
        distance = block.distance * problem.per_unit
        near, far = distance.masked_fill(~block.negative, torch.inf), distance
        far = far.masked_fill(~block.positive, -torch.inf)
        seen = (torch.where(each, distance, 0).sum(1) for each in (block.positive, block.negative))
        found.append([far.logsumexp(1), (-near).logsumexp(1), *seen])
    dtype = problem.grouped.x.dtype
    positives, negatives, *sums = (torch.cat(each).to(dtype) for each in zip(*found, strict=True))
    return positives, negatives, sums[0], sums[1]


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
        problem = _Problem(x, y, labels, y_labels, offset, metric)
        order = problem.grouped.rows
        weights = _Weights(
            gradient[order],
            -negative_gradient[order],
            *(
                torch.where(sums > -torch.inf, sums, torch.inf)[order]
                for sums in (positives, negatives)
            ),
        )
        pull = _pull_swept if x.device.type == "cpu" else _pull_blocked
        dx, dy = (each * problem.pulled for each in pull(problem, weights))
        return dx, dy


class _Weights(NamedTuple):
    # The derivative by the distances of a row is pull·e^(d - bound) and push·e^(-d - limit).
    pull: Tensor
    push: Tensor
    bound: Tensor
    limit: Tensor


def _pull_swept(problem: _Problem, by: _Weights) -> tuple[Tensor, Tensor]:
    # The gradients of rows and of columns, the latter empty where they are the same.
    found = []
    for positives, slope, sums in ((True, by.pull, by.bound), (False, by.push, by.limit)):
        sweep = Sweep(problem.grouped, problem.metric, positives=positives)
        for tile in sweep.tiles():
            scores = _scores(problem, tile, positives)
            weight = (scores - sums[tile.rows, None]).exp_().mul_(slope[tile.rows, None])
            if tile.mirror.start < tile.mirror.stop:
                mirror = tile.mirrored()
                shares = scores[:, tile.mirror].sub_(sums[mirror]).exp_()
                weight[:, tile.mirror] += shares.mul_(slope[mirror])
            sweep.pull(tile, weight)
        found.append(sweep.gradient())
    (dx, dy), (more_dx, more_dy) = found
    return dx + more_dx, dy + more_dy


def _pull_blocked(problem: _Problem, by: _Weights) -> tuple[Tensor, Tensor]:
    # The same without a look at any value.
    grouped = problem.grouped
    dx, dy = torch.zeros_like(grouped.x), torch.zeros_like(grouped.y)
    for rows, x, y, distance, positive, negative in problem.blocks():
        scores = distance * problem.per_unit
        pull = (scores - by.bound[rows, None]).exp() * by.pull[rows, None]
        push = (-scores - by.limit[rows, None]).exp() * by.push[rows, None]
        weight = torch.where(positive, pull, torch.where(negative, push, 0))
        weight *= problem.metric.slope(distance)
        dx[rows] += (weight.sum(1)[:, None] * x - weight @ y).to(dx.dtype)
        dy += (weight.sum(0)[:, None] * y - weight.T @ x).to(dx.dtype)
    if grouped.y is grouped.x:
        return problem.back(dx + dy), dy[:0]
    return problem.back(dx), torch.empty_like(dy).index_copy_(0, grouped.columns, dy)


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
