r"""Row-wise log-sum-exp, over the columns of other identities, of a function of the similarity.

.. math:: N_i = \log \sum_{j:\; id_j \ne id_i} e^{f(s_{ij})}

with s_ij the dot product of row i and column j, and f a :class:`Score`. Where rows and columns
swap roles as well, each column gets its own sum of the same entries.

``reference`` is these lines. ``streaming`` sweeps tiles of the matrix and keeps two numbers a row;
the gradient takes one more sweep. Where rows and columns are the same vectors, the matrix is
symmetric: half of it serves, each entry once for its row and once for its column.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from siameselib.kernels import choose
from siameselib.kernels.given import first_only
from siameselib.kernels.score import Score
from siameselib.kernels.tiles import Side, Tile, leave_out_same, side, tiles

SMALL = 1 << 20  # entries of a matrix that is kept between the sweeps, 4 MiB in float32


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
    problem = (x, ids, y, y_ids, floor, *score, both, largest or floor is not None)
    columns = x if y is None else y
    backend = choose("logsumexp", len(x), len(columns), 1, backend, x)
    if backend == "reference" or (backend == "triton" and 0 in {x.numel(), len(columns)}):
        return Sums(*reference(*problem))
    # In eager mode no operators: the first call of one imports all of torch._dynamo.
    run: Any = _forward if torch.compiler.is_compiling() else _LogSumExp.apply
    return Sums(*run(*problem, backend == "triton"))


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


class Running:
    """The log-sum-exp of each row, or column, of the tiles so far."""

    def __init__(self, like: Tensor, floor: Tensor | None = None) -> None:
        self.largest = like.new_full(like.shape[:1], -torch.inf)
        self.total = torch.zeros_like(self.largest)
        self.floor = floor

    def add(self, at: slice, scores: Tensor, axis: int) -> None:
        """Take in more entries along an axis."""
        scores = _above(scores, self.floor, at, axis)
        before = self.largest[at]
        after = torch.maximum(before, scores.amax(axis))
        shift = torch.where(after > -torch.inf, after, 0)
        shares = torch.sub(scores, shift.unsqueeze(axis)).exp_()
        self.total[at] = self.total[at] * (before - shift).exp() + shares.sum(axis)
        self.largest[at] = after

    def result(self) -> Tensor:
        """Return the log-sum-exp of all that was taken in."""
        return torch.where(self.total > 0, self.largest, 0) + self.total.log()


class _Plain(Running):
    """The same where e^f and its sums can be taken as they are."""

    def add(self, at: slice, scores: Tensor, axis: int) -> None:
        """Take in more entries, already e^f."""
        self.total[at] += scores.sum(axis)

    def result(self) -> Tensor:
        """Return the logarithm of what was taken in."""
        return self.total.log()


def _above(scores: Tensor, floor: Tensor | None, at: slice, axis: int) -> Tensor:
    if floor is None:
        return scores
    return scores.masked_fill(scores <= floor[at].unsqueeze(axis), -torch.inf)


class _Sweep:
    """The sums of one problem, and their gradient; small matrices are kept in between."""

    def __init__(
        self,
        x: Tensor,
        ids: Tensor | None,
        y: Tensor | None,
        y_ids: Tensor | None,
        floor: Tensor | None,
        scale: float,
        relaxation: float | None,
        both: bool,
        largest: bool,
    ) -> None:
        self.rows = side(x, ids)
        self.columns = self.rows if y is None else side(y, y_ids)
        self.floor = None if floor is None else self.rows.take(scale * floor)
        self.symmetric, self.both, self.largest = y is None, both, largest
        self.relaxation = relaxation
        # Up to there e^f and sums of it can be taken as they are: f is in [-limit, limit].
        extent = scale * (1 + (relaxation or 0)) ** 2
        limit = 0.7 * math.log(torch.finfo(x.dtype).max)
        self.plain = extent <= limit and not largest
        # A relaxed score is a product of two factors: each takes the root of the scale.
        self.root = scale if relaxation is None else math.sqrt(scale)
        self.kept: list[_Scored] | None = None

    def keep(self) -> None:
        """Hold a small matrix from the first sweep to the next."""
        if len(self.rows.x) * len(self.columns.x) <= SMALL:
            self.kept = list(self._tiles(fresh=True))

    def _tiles(self, fresh: bool = False) -> Iterator["_Scored"]:
        rows, columns, relaxation = self.rows, self.columns, self.relaxation
        powers = self.plain and relaxation is None  # of 2, which come quicker than those of e
        scaled = rows._replace(x=(self.root / math.log(2) if powers else self.root) * rows.x)
        for tile, t in tiles(scaled, columns, upper=self.symmetric, fresh=fresh):
            slope = None
            if relaxation is not None:
                slope = (t + self.root * relaxation).relu_()
                t.sub_(self.root * relaxation).mul_(slope)
            if self.plain:
                leave_out_same(t.exp2_() if powers else t.exp_(), tile, rows, columns, 0)
            else:
                leave_out_same(t, tile, rows, columns, -torch.inf)
            turned = tile.columns
            if self.symmetric:  # only those that no other tile has as rows
                first = max(turned.start, min(tile.rows.stop, turned.stop))
                turned = slice(first, turned.stop)
            yield _Scored(tile, turned, t, slope)

    def tiles(self) -> Iterable["_Scored"]:
        """Go through the tiles."""
        return self._tiles() if self.kept is None else self.kept

    def forward(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the sums of rows, of columns, and the largest f."""
        running = _Plain if self.plain else Running
        by_row = running(self.rows.x, self.floor)
        by_column = by_row if self.symmetric else running(self.columns.x)
        for tile, turned, scores, _ in self.tiles():
            if (self.symmetric or self.both) and turned.start < turned.stop:
                by_column.add(turned, scores[:, tile.inside(turned)], 0)
            by_row.add(tile.rows, scores, 1)
        nothing = self.rows.x.new_empty(2, 0)
        return (
            self.rows.back(by_row.result()),
            self.columns.back(by_column.result()) if self.both else nothing[0],
            self.rows.back(by_row.largest) if self.largest else nothing[1].clone(),
        )

    def backward(
        self, gradient: Tensor, y_gradient: Tensor, sums: Tensor, y_sums: Tensor, y_too: bool
    ) -> tuple[Tensor, Tensor]:
        """Return the gradient in x and, empty where y is x, in y."""
        rows, columns = self.rows, self.columns
        # d N_i / d s_ij = slope·e^(f - N_i)
        by_row = _Weights(self, gradient, sums, rows)
        by_column = None
        if self.symmetric:  # s_ij = s_ji is in row j as well
            by_column = by_row
        elif self.both:
            by_column = _Weights(self, y_gradient, y_sums, columns)
        dx = torch.zeros_like(rows.x)
        dy = dx if self.symmetric else torch.zeros_like(columns.x)
        for scored in self.tiles():
            tile, turned, _, slope = scored
            weight = _weights(scored, by_row, by_column)
            if slope is not None:
                weight.mul_(slope)
            dx[tile.rows].addmm_(weight, columns.x[tile.columns])
            if (self.symmetric or y_too) and turned.start < turned.stop:
                dy[turned].addmm_(weight[:, tile.inside(turned)].T, rows.x[tile.rows])
        return rows.back(dx), dx.new_empty(0) if self.symmetric else columns.back(dy)


class _Scored(NamedTuple):
    """A tile, and the columns that get their own sums of it."""

    tile: Tile
    turned: slice
    scores: Tensor
    """f, or e^f where plain; without those that share an id."""
    slope: Tensor | None
    """of f, over the root of the scale; None for 1."""


class _Weights:
    """By what the gradient multiplies the shares of each row, or column, in its sum."""

    def __init__(self, sweep: _Sweep, gradient: Tensor, sums: Tensor, some: Side) -> None:
        self.gradient = some.take(sweep.root * gradient)
        self.sums = some.take(torch.where(sums > -torch.inf, sums, torch.inf))
        self.plain = self.gradient * (-self.sums).exp() if sweep.plain else None
        self.floor = sweep.floor

    def of(self, scores: Tensor, at: slice, axis: int) -> Tensor:
        """Return the weights of a tile."""
        shares = _above(scores, self.floor, at, axis) - self.sums[at].unsqueeze(axis)
        return shares.exp_().mul_(self.gradient[at].unsqueeze(axis))


def _weights(scored: "_Scored", by_row: _Weights, by_column: _Weights | None) -> Tensor:
    # In both roles: of rows and, where they have sums, of columns.
    (rows, columns, _), scores = scored.tile, scored.scores
    if by_row.plain is not None:
        weight = by_row.plain[rows, None]
        if by_column is None or by_column.plain is None:
            return scores * weight
        return (weight + by_column.plain[columns]).mul_(scores)
    weight = by_row.of(scores, rows, 1)
    return weight if by_column is None else weight.add_(by_column.of(scores, columns, 0))


def _way(*problem: Any) -> _Sweep:  # the last entry says whether Triton's, of the same methods
    way: Any = _Sweep
    if problem[-1]:
        from siameselib.kernels.logsumexp_triton import Sweep as way
    sweep: _Sweep = way(*problem[:-1])
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
    triton: bool,
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
    triton: bool,
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
    triton: bool,
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
    triton: bool,
    y_too: bool,
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty(0) if y is None else torch.empty_like(y)


def _differentiate(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
    y_too = ctx.needs_input_grad[2]
    dx, dy = _backward(*gradients[:2], *ctx.saved_tensors, *ctx.rest, y_too)
    return dx, None, dy if y_too else None, *[None] * 7


_forward.register_autograd(_differentiate, setup_context=_keep)
