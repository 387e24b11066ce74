r"""Row-wise sums over the positives: the other columns of the row's own identity.

.. math:: P_i = \log \sum_p e^{f(1 - s_{ip})} \qquad
          L_i = \sum_p \log(1 + e^{b_i + f(1 - s_{ip})})

with s_ip the dot product of row i and column p, and f a :class:`Score`. With b the log-sum-exp of
the negatives, less the scale, each term of L is the cross-entropy of finding that one column
among them.

``reference`` is these lines. ``streaming`` goes only where identities can meet, and the gradient
goes there once more.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from siameselib.kernels import choose, of_triton
from siameselib.kernels.bands import Bands, bands
from siameselib.kernels.given import first_only
from siameselib.kernels.logsumexp_sweep import SMALL
from siameselib.kernels.score import Score
from siameselib.kernels.tiles import side


def positive_logsumexp(
    x: Tensor,
    ids: Tensor,
    y: Tensor | None,
    y_ids: Tensor | None,
    offset: int | None,
    score: Score,
    floor: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Compute P.

    Args:
        x: (n, d) rows.
        ids: (n,) their identities.
        y: (m, d) columns; None for the rows themselves.
        y_ids: (m,) their identities; None for those of the rows.
        offset: row i is column offset + i; None if no row is a column.
        score: f.
        floor: (n,) what 1 - s must exceed to be in the row's sum.
        backend: see :func:`siameselib.use_backend`.

    Returns:
        (n,) P, -inf for a row with nothing to sum.
    """
    return _sum(x, ids, y, y_ids, None, floor, offset, score, backend)[0]


def softplus_sum(
    x: Tensor,
    ids: Tensor,
    y: Tensor | None,
    y_ids: Tensor | None,
    offset: int | None,
    score: Score,
    bound: Tensor,
    backend: str = "auto",
) -> Tensor:
    """Compute L.

    Args:
        x: (n, d) rows.
        ids: (n,) their identities.
        y: (m, d) columns; None for the rows themselves.
        y_ids: (m,) their identities; None for those of the rows.
        offset: row i is column offset + i; None if no row is a column.
        score: f.
        bound: (n,) b; -inf makes the row's sum 0.
        backend: see :func:`siameselib.use_backend`.

    Returns:
        (n,) sums, 0 for a row without positives.
    """
    return _sum(x, ids, y, y_ids, bound, None, offset, score, backend)[0]


def farthest_positive(
    x: Tensor,
    ids: Tensor,
    y: Tensor | None,
    y_ids: Tensor | None,
    offset: int | None,
    backend: str = "auto",
) -> Tensor:
    """Return the largest 1 - s of the positives of each row, (n,), -inf where there are none."""
    with torch.no_grad():
        return _sum(x, ids, y, y_ids, None, None, offset, Score(1.0), backend)[1]


def _sum(
    x: Tensor,
    ids: Tensor,
    y: Tensor | None,
    y_ids: Tensor | None,
    bound: Tensor | None,
    floor: Tensor | None,
    offset: int | None,
    score: Score,
    backend: str,
) -> tuple[Tensor, Tensor]:
    problem = (x, ids, y, y_ids, bound, floor, offset, *score)
    columns = x if y is None else y
    larger = columns if len(columns) > len(x) else x
    backend = choose("positive_sum", len(x), len(columns), 1, backend, larger)
    if backend == "reference" or (backend == "triton" and 0 in {x.numel(), len(columns)}):
        return reference(*problem)
    # In eager mode no operators: the first call of one imports all of torch._dynamo.
    run: Any = _forward if torch.compiler.is_compiling() else _PositiveSum.apply
    total, largest = run(*problem, of_triton(backend))
    return total, largest


def reference(
    x: Tensor,
    ids: Tensor,
    y: Tensor | None,
    y_ids: Tensor | None,
    bound: Tensor | None,
    floor: Tensor | None,
    offset: int | None,
    scale: float,
    relaxation: float | None,
) -> tuple[Tensor, Tensor]:
    """Compute L where there is a bound, else P and the largest f of each row."""
    if y is None or y_ids is None:
        y, y_ids = x, ids
    far = 1 - x @ y.T
    positive = ids[:, None] == y_ids
    if offset is not None:
        positive.diagonal(offset).fill_(False)
    if floor is not None:
        positive &= ~(far <= floor[:, None])
    scores = Score(scale, relaxation).of(far).masked_fill(~positive, -torch.inf)
    if bound is not None:
        terms = F.softplus(bound[:, None] + scores, threshold=40)
        return torch.where(positive, terms, 0).sum(1), x.new_empty(0)
    nothing = x.new_full((len(x), 1), -torch.inf)
    return scores.logsumexp(1), torch.cat([scores.detach(), nothing], 1).amax(1)


class _Sweep:
    """The sums of one problem, and their gradient; few bands are kept in between."""

    def __init__(
        self,
        x: Tensor,
        ids: Tensor,
        y: Tensor | None,
        y_ids: Tensor | None,
        bound: Tensor | None,
        floor: Tensor | None,
        offset: int | None,
        scale: float,
        relaxation: float | None,
    ) -> None:
        self.rows = side(x, ids)
        self.columns = self.rows if y is None else side(y, y_ids)
        self.alone = y is None
        self.bound = None if bound is None else self.rows.take(bound)
        self.floor = None if floor is None else self.rows.take(scale * floor)
        self.offset, self.relaxation = offset, relaxation
        # A relaxed score is a product of two factors: each takes the root of the scale.
        self.root = scale if relaxation is None else math.sqrt(scale)
        self.kept: list[_Scored] | None = None

    def keep(self) -> None:
        """Hold the bands of a small matrix from the first sweep to the next."""
        if len(self.rows.x) * len(self.columns.x) <= SMALL:
            self.kept = list(self._bands())

    def _bands(self) -> Iterator["_Scored"]:
        for part in bands(self.rows, self.columns, self.offset):
            root = part.x.new_full((1, 1, 1), self.root)
            scores = torch.baddbmm(root, part.x, part.y.mT, alpha=-self.root)
            slope = None
            if self.relaxation is not None:
                slope = (scores + self.root * self.relaxation).relu_()
                scores.sub_(self.root * self.relaxation).mul_(slope)
            scores.masked_fill_(~part.positive, -torch.inf)
            if self.floor is not None:
                scores.masked_fill_(scores <= part.of_rows(self.floor), -torch.inf)
            yield _Scored(part, scores, slope)

    def bands(self) -> Iterable["_Scored"]:
        """Go through the bands."""
        return self._bands() if self.kept is None else self.kept

    def forward(self) -> tuple[Tensor, Tensor]:
        """Return L where there is a bound, else P and the largest f of each row."""
        total = torch.zeros_like(self.rows.x[:, 0])
        if self.bound is not None:
            for part, scores, _ in self.bands():
                terms = F.softplus(scores + part.of_rows(self.bound), threshold=40)
                total[part.rows] += terms.sum(2).flatten()
            return self.rows.back(total), total.new_empty(0)
        largest = torch.full_like(total, -torch.inf)
        for part, scores, _ in self.bands():
            before = largest[part.rows]
            after = torch.maximum(before, scores.amax(2).flatten())
            shift = torch.where(after > -torch.inf, after, 0)
            shares = (scores - shift.view(len(scores), -1, 1)).exp_()
            total[part.rows] *= (before - shift).exp()
            total[part.rows] += shares.sum(2).flatten()
            largest[part.rows] = after
        total = torch.where(total > 0, largest, 0) + total.log()
        return self.rows.back(total), self.rows.back(largest)

    def backward(self, gradient: Tensor, result: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradient in x, in y (empty where y is x), and in the bound."""
        rows, columns, factor = self.rows, self.columns, self.rows.take(gradient)
        limit = self.bound
        if limit is None:  # d P_i / d f_ip = e^(f - P_i)
            limit = rows.take(torch.where(result > -torch.inf, -result, -torch.inf))
        dx, dbound = torch.zeros_like(rows.x), torch.zeros_like(factor)
        dy = dx if self.alone else torch.zeros_like(columns.x)
        for part, scores, slope in self.bands():
            share = scores + part.of_rows(limit)
            share = share.exp_() if self.bound is None else share.sigmoid_()
            share.mul_(part.of_rows(factor))
            dbound[part.rows] += share.sum(2).flatten()
            if slope is not None:
                share.mul_(slope)
            share.mul_(-self.root)  # f falls with s
            dx[part.rows] += torch.bmm(share, part.y).flatten(0, 1)
            dy.index_add_(0, part.columns.flatten(), torch.bmm(share.mT, part.x).flatten(0, 1))
        return rows.back(dx), dx.new_empty(0) if self.alone else columns.back(dy), rows.back(dbound)


class _Scored(NamedTuple):
    """Some bands."""

    part: Bands
    scores: Tensor
    """f, -inf where not positive."""
    slope: Tensor | None
    """of f, over the root of the scale; None for 1."""


def _way(*problem: Any) -> Any:  # the last entry is the precision of Triton's, if that is to run
    if problem[-1] is None:
        return _Sweep(*problem[:-1])
    from siameselib.kernels.logsumexp_triton import Positives

    return Positives(*problem)


class _PositiveSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *problem: Any) -> tuple[Tensor, Tensor]:
        with torch.autocast(problem[0].device.type, enabled=False):
            ctx.sweep = sweep = _way(*problem)
            if any(ctx.needs_input_grad):
                sweep.keep()
            sums: tuple[Tensor, Tensor] = sweep.forward()
        _keep(ctx, problem, sums)
        return sums

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        first_only()
        result = ctx.saved_tensors[-1]
        with torch.autocast(result.device.type, enabled=False):
            return _given(ctx, *ctx.sweep.backward(gradients[0], result))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:6], output[0])
    ctx.rest = inputs[6:]
    ctx.mark_non_differentiable(output[1])


def _given(ctx: Any, dx: Tensor, dy: Tensor, dbound: Tensor) -> tuple[Tensor | None, ...]:
    # The gradient of each input: none where none is needed.
    _, _, y_too, _, bound_too, *_ = ctx.needs_input_grad
    return dx, None, dy if y_too else None, None, dbound if bound_too else None, *[None] * 5


@torch.library.custom_op("siameselib::positive_sum", mutates_args=())
def _forward(
    x: Tensor,
    ids: Tensor,
    y: Tensor | None,
    y_ids: Tensor | None,
    bound: Tensor | None,
    floor: Tensor | None,
    offset: int | None,
    scale: float,
    relaxation: float | None,
    triton: str | None,
) -> tuple[Tensor, Tensor]:
    with torch.autocast(x.device.type, enabled=False):
        sweep = _way(x, ids, y, y_ids, bound, floor, offset, scale, relaxation, triton)
        sums: tuple[Tensor, Tensor] = sweep.forward()
        return sums


@torch.library.custom_op("siameselib::positive_sum_backward", mutates_args=())
def _backward(
    gradient: Tensor,
    x: Tensor,
    ids: Tensor,
    y: Tensor | None,
    y_ids: Tensor | None,
    bound: Tensor | None,
    floor: Tensor | None,
    result: Tensor,
    offset: int | None,
    scale: float,
    relaxation: float | None,
    triton: str | None,
) -> tuple[Tensor, Tensor, Tensor]:
    with torch.autocast(x.device.type, enabled=False):
        sweep = _way(x, ids, y, y_ids, bound, floor, offset, scale, relaxation, triton)
        found: tuple[Tensor, Tensor, Tensor] = sweep.backward(gradient, result)
        return found


@_forward.register_fake
def _(
    x: Tensor,
    ids: Tensor,
    y: Tensor | None,
    y_ids: Tensor | None,
    bound: Tensor | None,
    floor: Tensor | None,
    offset: int | None,
    scale: float,
    relaxation: float | None,
    triton: str | None,
) -> tuple[Tensor, Tensor]:
    return x.new_empty(len(x)), x.new_empty(len(x) if bound is None else 0)


@_backward.register_fake
def _(
    gradient: Tensor,
    x: Tensor,
    ids: Tensor,
    y: Tensor | None,
    y_ids: Tensor | None,
    bound: Tensor | None,
    floor: Tensor | None,
    result: Tensor,
    offset: int | None,
    scale: float,
    relaxation: float | None,
    triton: str | None,
) -> tuple[Tensor, Tensor, Tensor]:
    dy = x.new_empty(0) if y is None else torch.empty_like(y)
    return torch.empty_like(x), dy, x.new_empty(x.shape[:1])


def _differentiate(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
    return _given(ctx, *_backward(gradients[0], *ctx.saved_tensors, *ctx.rest))


_forward.register_autograd(_differentiate, setup_context=_keep)
