r"""Row-wise log-sum-exp of scaled similarities over the columns of other identities.

.. math:: N_i = \log \sum_{j:\; id_j \ne id_i} e^{scale\; x_i \cdot y_j}

``reference`` is that line. ``streaming`` sweeps tiles of the matrix and keeps one number a row;
the gradient takes one more sweep. Where rows and columns are the same unit vectors, the matrix is
symmetric: half of it serves, each entry once for its row and once for its column.
"""

import math
from typing import Any

import torch
from torch import Tensor

from siameselib.kernels import choose
from siameselib.kernels.tiles import Tile, same, side, tiles


def logsumexp(
    x: Tensor,
    ids: Tensor,
    y: Tensor | None,
    y_ids: Tensor | None,
    scale: float,
    backend: str = "auto",
) -> Tensor:
    """Compute N.

    Args:
        x: (n, d) rows, of length 1 (or 0) each.
        ids: (n,) their identities.
        y: (m, d) columns, likewise; None for the rows themselves.
        y_ids: (m,) their identities; None for those of the rows.
        scale: what the dot products are multiplied by.
        backend: see :func:`siameselib.use_backend`.

    Returns:
        (n,) values, -inf for a row without columns of other identities.
    """
    backend = choose("logsumexp", len(x), len(x if y is None else y), 1, backend)
    if y is None and (backend == "reference" or scale > _plain_limit(x)):
        y, y_ids = x, ids
    result: Tensor
    if y is None or y_ids is None:
        result = _symmetric(x, ids, scale)
    elif backend == "reference":
        result = reference(x, ids, y, y_ids, scale)
    else:
        result = _rectangular(x, ids, y, y_ids, scale)
    return result


def reference(x: Tensor, ids: Tensor, y: Tensor, y_ids: Tensor, scale: float) -> Tensor:
    """Compute N by the definition."""
    similarity = (scale * x) @ y.T
    return similarity.masked_fill(ids[:, None] == y_ids, -torch.inf).logsumexp(1)


def _plain_limit(x: Tensor) -> float:
    # Up to here e^(scale·dot) and sums of it can be taken as they are, in [e^-scale, m·e^scale].
    return 0.7 * math.log(torch.finfo(x.dtype).max)


@torch.library.custom_op("siameselib::logsumexp_symmetric", mutates_args=())
def _symmetric(x: Tensor, ids: Tensor, scale: float) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        rows = side(x, ids)
        total = torch.zeros_like(rows.x[:, 0])
        for tile, entries in tiles(rows._replace(x=scale * rows.x), rows, upper=True):
            entries.exp_()
            entries[:, tile.inside(tile.band)].masked_fill_(same(tile, rows, rows), 0)
            total[tile.rows] += entries.sum(1)
            beyond = _beyond(tile)
            total[beyond] += entries[:, tile.inside(beyond)].sum(0)
        return rows.back(total.log())


@torch.library.custom_op("siameselib::logsumexp_symmetric_backward", mutates_args=())
def _symmetric_backward(
    gradient: Tensor, x: Tensor, ids: Tensor, scale: float, result: Tensor
) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        rows = side(x, ids)
        # d N_i / d s_ij = scale·e^(z_ij - N_i), and s_ij = s_ji is in row j as well
        weight = scale * gradient * torch.where(result > -torch.inf, (-result).exp(), 0)
        weight = weight[rows.order]
        dx = torch.zeros_like(rows.x)
        for tile, entries in tiles(rows._replace(x=scale * rows.x), rows, upper=True):
            entries.exp_()
            entries[:, tile.inside(tile.band)].masked_fill_(same(tile, rows, rows), 0)
            entries *= weight[tile.rows, None] + weight[tile.columns]
            dx[tile.rows].addmm_(entries, rows.x[tile.columns])
            beyond = _beyond(tile)
            dx[beyond].addmm_(entries[:, tile.inside(beyond)].T, rows.x[tile.rows])
        return rows.back(dx)


@torch.library.custom_op("siameselib::logsumexp", mutates_args=())
def _rectangular(x: Tensor, ids: Tensor, y: Tensor, y_ids: Tensor, scale: float) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        rows, columns = side(x, ids), side(y, y_ids)
        largest = torch.full_like(rows.x[:, 0], -torch.inf)
        total = torch.zeros_like(largest)
        for tile, entries in tiles(rows._replace(x=scale * rows.x), columns):
            band = entries[:, tile.inside(tile.band)]
            band.masked_fill_(same(tile, rows, columns), -torch.inf)
            before = largest[tile.rows]
            after = torch.maximum(before, entries.amax(1))
            shift = torch.where(after > -torch.inf, after, 0)
            entries.sub_(shift[:, None]).exp_()
            total[tile.rows] = total[tile.rows] * (before - shift).exp() + entries.sum(1)
            largest[tile.rows] = after
        return rows.back(torch.where(total > 0, largest, 0) + total.log())


@torch.library.custom_op("siameselib::logsumexp_backward", mutates_args=())
def _rectangular_backward(
    gradient: Tensor,
    x: Tensor,
    ids: Tensor,
    y: Tensor,
    y_ids: Tensor,
    scale: float,
    result: Tensor,
    y_too: bool,
) -> tuple[Tensor, Tensor]:
    with torch.autocast(x.device.type, enabled=False):
        rows, columns = side(x, ids), side(y, y_ids)
        weight = (scale * gradient)[rows.order, None]
        shift = torch.where(result > -torch.inf, result, torch.inf)[rows.order, None]
        dx, dy = torch.zeros_like(rows.x), torch.zeros_like(columns.x)
        for tile, entries in tiles(rows._replace(x=scale * rows.x), columns):
            entries.sub_(shift[tile.rows]).exp_().mul_(weight[tile.rows])
            entries[:, tile.inside(tile.band)].masked_fill_(same(tile, rows, columns), 0)
            dx[tile.rows].addmm_(entries, columns.x[tile.columns])
            if y_too:
                dy[tile.columns].addmm_(entries.T, rows.x[tile.rows])
        return rows.back(dx), columns.back(dy)


def _beyond(tile: Tile) -> slice:
    # The columns of a tile behind the rows' own square: those below the diagonal are left out.
    first = max(tile.columns.start, min(tile.rows.stop, tile.columns.stop))
    return slice(first, tile.columns.stop)


@_symmetric.register_fake
def _(x: Tensor, ids: Tensor, scale: float) -> Tensor:
    return x.new_empty(x.shape[:1])


@_symmetric_backward.register_fake
def _(gradient: Tensor, x: Tensor, ids: Tensor, scale: float, result: Tensor) -> Tensor:
    return torch.empty_like(x)


@_rectangular.register_fake
def _(x: Tensor, ids: Tensor, y: Tensor, y_ids: Tensor, scale: float) -> Tensor:
    return x.new_empty(x.shape[:1])


@_rectangular_backward.register_fake
def _(
    gradient: Tensor,
    x: Tensor,
    ids: Tensor,
    y: Tensor,
    y_ids: Tensor,
    scale: float,
    result: Tensor,
    y_too: bool,
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(y)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors, output)


def _differentiate_symmetric(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
    x, ids, result = ctx.saved_tensors
    return _symmetric_backward(gradient, x, ids, ctx.scale, result), None, None


def _differentiate_rectangular(
    ctx: Any, gradient: Tensor
) -> tuple[Tensor, None, Tensor | None, None, None]:
    x, ids, y, y_ids, result = ctx.saved_tensors
    y_too = ctx.needs_input_grad[2]
    dx, dy = _rectangular_backward(gradient, x, ids, y, y_ids, ctx.scale, result, y_too)
    return dx, None, dy if y_too else None, None, None


_symmetric.register_autograd(_differentiate_symmetric, setup_context=_save)
_rectangular.register_autograd(_differentiate_rectangular, setup_context=_save)
