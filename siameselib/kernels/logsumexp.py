r"""Row-wise log-sum-exp, over the columns of other identities, of a function of the similarity.

.. math:: N_i = \log \sum_{j:\; id_j \ne id_i} e^{f(s_{ij})}

with s_ij the dot product of row i and column j, and f a :class:`Score`. Where rows and columns
swap roles as well, each column gets its own sum of the same entries.

``reference`` is these lines. ``streaming`` sweeps tiles of the matrix and keeps two numbers a row;
the gradient takes one more sweep. Where rows and columns are the same vectors, the matrix is
symmetric: half of it serves, each entry once for its row and once for its column.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from siameselib.kernels import choose, of_triton
from siameselib.kernels.given import first_only
from siameselib.kernels.logsumexp_sweep import Sweep
from siameselib.kernels.score import Score


class Sums(NamedTuple):
    """What :func:`logsumexp` returns."""

    rows: Tensor
    """(n,) of each row, -inf for a row with nothing to sum; differentiable."""
    columns: Tensor
    """(m,) of each column; empty where not asked for."""
    largest: Tensor
    """(n,) the largest f of each row, -inf where there is none; empty where not asked for."""


def logsumexp(
    x: Tensor,
    ids: Tensor | None,
    y: Tensor | None,
    y_ids: Tensor | None,
    score: Score,
    *,
    floor: Tensor | None = None,
    both: bool = False,
    largest: bool = False,
    backend: str = "auto",
) -> Sums:
    """Compute N.

    Args:
        x: (n, d) rows, of length 1 (or 0) each.
        ids: (n,) their identities; None: row i has identity i, and column i as well.
        y: (m, d) columns, likewise; None for the rows themselves.
        y_ids: (m,) their identities; None with y or ids.
        score: f.
        floor: (n,) what s must exceed to be in the row's sum; for a score without relaxation.
        both: whether to sum the columns as well; not with a floor.
        largest: whether to tell the largest f of each row.
        backend: see :func:`siameselib.use_backend`.

    Returns:
        The sums.
    """
    if both and y is None:  # the matrix is symmetric
        sums = logsumexp(x, ids, None, None, score, largest=largest, backend=backend)
        return sums._replace(columns=sums.rows)
    problem = (x, ids, y, y_ids, floor, *score, both, largest or floor is not None)
    columns = x if y is None else y
    larger = columns if len(columns) > len(x) else x
    backend = choose("logsumexp", len(x), len(columns), 1, backend, larger)
    if backend == "reference" or (backend == "triton" and 0 in {x.numel(), len(columns)}):
        return Sums(*reference(*problem))
    # In eager mode no operators: the first call of one imports all of torch._dynamo.
    run: Any = _forward if torch.compiler.is_compiling() else _LogSumExp.apply
    return Sums(*run(*problem, of_triton(backend)))


def reference(
    x: Tensor,
    ids: Tensor | None,
    y: Tensor | None,
    y_ids: Tensor | None,
    floor: Tensor | None,
    scale: float,
    relaxation: float | None,
    both: bool,
    largest: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the sums by their definition."""
    if y is None:
        y, y_ids = x, ids
    near = x @ y.T
    if ids is None or y_ids is None:
        ids = y_ids = torch.arange(len(x), device=x.device)
    excluded = ids[:, None] == y_ids
    if floor is not None:
        excluded |= near <= floor[:, None]
    scores = Score(scale, relaxation).of(near).masked_fill(excluded, -torch.inf)
    nothing = x.new_empty(0)
    top = nothing
    if largest:
        top = torch.cat([scores.detach(), x.new_full((len(x), 1), -torch.inf)], 1).amax(1)
    return scores.logsumexp(1), scores.logsumexp(0) if both else nothing, top


def _way(*problem: Any) -> Sweep:  # the last entry is the precision of Triton's, if that is to run
    if problem[-1] is None:
        return Sweep(*problem[:-1])
    from siameselib.kernels import logsumexp_triton

    way: Any = logsumexp_triton.Sweep  # has the same methods
    sweep: Sweep = way(*problem)
    return sweep


class _LogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *problem: Any) -> tuple[Tensor, Tensor, Tensor]:
        with torch.autocast(problem[0].device.type, enabled=False):
            ctx.sweep = sweep = _way(*problem)
            if any(ctx.needs_input_grad):
                sweep.keep()
            sums = sweep.forward()
        _keep(ctx, problem, sums)
        return sums

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        first_only()
        *_, sums, y_sums = ctx.saved_tensors
        y_too = ctx.needs_input_grad[2]
        with torch.autocast(sums.device.type, enabled=False):
            dx, dy = ctx.sweep.backward(*gradients[:2], sums, y_sums, y_too)
        return dx, None, dy if y_too else None, *[None] * 7


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:5], *output[:2])
    ctx.rest = inputs[5:]
    both = inputs[7]
    ctx.mark_non_differentiable(*output[2 if both else 1 :])


@torch.library.custom_op("siameselib::logsumexp", mutates_args=())
def _forward(
    x: Tensor,
    ids: Tensor | None,
    y: Tensor | None,
    y_ids: Tensor | None,
    floor: Tensor | None,
    scale: float,
    relaxation: float | None,
    both: bool,
    largest: bool,
    triton: str | None,
) -> tuple[Tensor, Tensor, Tensor]:
    with torch.autocast(x.device.type, enabled=False):
        sweep = _way(x, ids, y, y_ids, floor, scale, relaxation, both, largest, triton)
        return sweep.forward()


@torch.library.custom_op("siameselib::logsumexp_backward", mutates_args=())
def _backward(
    gradient: Tensor,
    y_gradient: Tensor,
    x: Tensor,
    ids: Tensor | None,
    y: Tensor | None,
    y_ids: Tensor | None,
    floor: Tensor | None,
    sums: Tensor,
    y_sums: Tensor,
    scale: float,
    relaxation: float | None,
    both: bool,
    largest: bool,
    triton: str | None,
    y_too: bool,
) -> tuple[Tensor, Tensor]:
    with torch.autocast(x.device.type, enabled=False):
        sweep = _way(x, ids, y, y_ids, floor, scale, relaxation, both, largest, triton)
        return sweep.backward(gradient, y_gradient, sums, y_sums, y_too)


@_forward.register_fake
def _(
    x: Tensor,
    ids: Tensor | None,
    y: Tensor | None,
    y_ids: Tensor | None,
    floor: Tensor | None,
    scale: float,
    relaxation: float | None,
    both: bool,
    largest: bool,
    triton: str | None,
) -> tuple[Tensor, Tensor, Tensor]:
    columns = len(x if y is None else y)
    n = len(x)
    return x.new_empty(n), x.new_empty(columns if both else 0), x.new_empty(n if largest else 0)


@_backward.register_fake
def _(
    gradient: Tensor,
    y_gradient: Tensor,
    x: Tensor,
    ids: Tensor | None,
    y: Tensor | None,
    y_ids: Tensor | None,
    floor: Tensor | None,
    sums: Tensor,
    y_sums: Tensor,
    scale: float,
    relaxation: float | None,
    both: bool,
    largest: bool,
    triton: str | None,
    y_too: bool,
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty(0) if y is None else torch.empty_like(y)


def _differentiate(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
    y_too = ctx.needs_input_grad[2]
    dx, dy = _backward(*gradients[:2], *ctx.saved_tensors, *ctx.rest, y_too)
    return dx, None, dy if y_too else None, *[None] * 7


_forward.register_autograd(_differentiate, setup_context=_keep)
