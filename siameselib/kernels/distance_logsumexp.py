r"""Row-wise log-sum-exp of the distances to the positives, and of minus those to the negatives.

.. math:: P_i = \log \sum_{p:\; id_p = id_i,\; p \ne own_i} e^{d_{ip}} \qquad
          N_i = \log \sum_{j:\; id_j \ne id_i} e^{-d_{ij}}

``reference`` is these lines. ``streaming`` sweeps the distances, once for the sums and once for the
gradient; on other devices than the CPU, where no values are read, in plain blocks of rows. On the
CPU a small matrix is held whole.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from siameselib.kernels import choose
from siameselib.kernels.distance_sums import Problem, gradients_of, sums_of
from siameselib.kernels.given import first_only
from siameselib.kernels.sweep import Metric
from siameselib.kernels.whole_distances import fits
from siameselib.kernels.whole_sums import WholeSums


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
    backend = choose("distance_logsumexp", len(x), len(columns), x.shape[1], backend, x)
    if backend == "reference" or x.numel() == 0 or len(columns) == 0:
        return Sums(*reference(x, columns, *problem))
    if fits("distance_logsumexp", x, y, backend):
        return Sums(*WholeSums.apply(x, y, *problem))  # type: ignore[no-untyped-call]
    # In eager mode no operators: the first call of one imports all of torch._dynamo.
    run: Any = _forward if torch.compiler.is_compiling() else _DistanceLogSumExp.apply
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


class _DistanceLogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
        with torch.autocast(inputs[0].device.type, enabled=False):
            ctx.problem = problem = Problem(*inputs)
            problem.keep = any(ctx.needs_input_grad)
            sums = sums_of(problem)
        _keep(ctx, inputs, sums)
        return sums

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        first_only()
        *_, positives, negatives = ctx.saved_tensors
        with torch.autocast(positives.device.type, enabled=False):
            dx, dy = gradients_of(ctx.problem, gradients[:2], (positives, negatives))
        return dx, dy if ctx.needs_input_grad[1] else None, *[None] * 4


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:4], *output[:2])
    ctx.rest = inputs[4:]
    ctx.mark_non_differentiable(output[2])


@torch.library.custom_op("siameselib::distance_logsumexp", mutates_args=())
def _forward(
    x: Tensor,
    y: Tensor | None,
    labels: Tensor,
    y_labels: Tensor,
    offset: int | None,
    metric: str,
) -> tuple[Tensor, Tensor, Tensor]:
    with torch.autocast(x.device.type, enabled=False):
        return sums_of(Problem(x, y, labels, y_labels, offset, metric))


@torch.library.custom_op("siameselib::distance_logsumexp_backward", mutates_args=())
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
        problem = Problem(x, y, labels, y_labels, offset, metric)
        return gradients_of(problem, (gradient, negative_gradient), (positives, negatives))


@_forward.register_fake
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


@_backward.register_fake
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


def _differentiate(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
    dx, dy = _backward(*gradients[:2], *ctx.saved_tensors, *ctx.rest)
    return dx, dy if ctx.needs_input_grad[1] else None, *[None] * 4


_forward.register_autograd(_differentiate, setup_context=_keep)
