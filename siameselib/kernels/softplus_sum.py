r"""Row-wise sum, over the columns of the row's own identity, of log(1 + e^(bound - similarity)).

.. math:: L_i = \sum_{p:\; id_p = id_i,\; p \ne own_i} \log(1 + e^{b_i - scale\; x_i \cdot y_p})

With b the log-sum-exp over the other identities, each term is the cross-entropy of finding that
one column among them. ``reference`` is that line. ``streaming`` goes only where identities can
meet, and the gradient goes there once more.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from siameselib.kernels import choose
from siameselib.kernels.tiles import Side, Tile, same, side, tiles


def softplus_sum(
    x: Tensor,
    ids: Tensor,
    y: Tensor,
    y_ids: Tensor,
    own: Tensor,
    bound: Tensor,
    scale: float,
    backend: str = "auto",
) -> Tensor:
    """Compute L.

    Args:
        x: (n, d) rows.
        ids: (n,) their identities.
        y: (m, d) columns.
        y_ids: (m,) their identities.
        own: (n,) the column that is the row itself, -1 where none is.
        bound: (n,) b; -inf makes the row's sum 0.
        scale: what the dot products are multiplied by.
        backend: see :func:`siameselib.use_backend`.

    Returns:
        (n,) sums, 0 for a row without other columns of its identity.
    """
    if choose("softplus_sum", len(x), len(y), 1, backend) == "reference":
        return reference(x, ids, y, y_ids, own, bound, scale)
    result: Tensor = _streaming(x, ids, y, y_ids, own, bound, scale)
    return result


def reference(
    x: Tensor, ids: Tensor, y: Tensor, y_ids: Tensor, own: Tensor, bound: Tensor, scale: float
) -> Tensor:
    """Compute L by the definition."""
    terms = F.softplus(bound[:, None] - scale * (x @ y.T), threshold=40)
    others = torch.arange(len(y), device=y.device) != own[:, None]
    return torch.where((ids[:, None] == y_ids) & others, terms, 0).sum(1)


def _positive(tile: Tile, rows: Side, columns: Side, own: Tensor) -> Tensor:
    others = columns.order[tile.band] != own[rows.order[tile.rows], None]
    return same(tile, rows, columns) & others


@torch.library.custom_op("siameselib::softplus_sum", mutates_args=())
def _streaming(
    x: Tensor, ids: Tensor, y: Tensor, y_ids: Tensor, own: Tensor, bound: Tensor, scale: float
) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        rows, columns = side(x, ids), side(y, y_ids)
        limit = bound[rows.order, None]
        total = torch.zeros_like(rows.x[:, 0])
        for tile, dots in tiles(rows, columns, only_band=True):
            terms = F.softplus(limit[tile.rows] - scale * dots, threshold=40)
            terms.masked_fill_(~_positive(tile, rows, columns, own), 0)
            total[tile.rows] += terms.sum(1)
        return rows.back(total)


@torch.library.custom_op("siameselib::softplus_sum_backward", mutates_args=())
def _streaming_backward(
    gradient: Tensor,
    x: Tensor,
    ids: Tensor,
    y: Tensor,
    y_ids: Tensor,
    own: Tensor,
    bound: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    with torch.autocast(x.device.type, enabled=False):
        rows, columns = side(x, ids), side(y, y_ids)
        limit, weight = bound[rows.order, None], gradient[rows.order, None]
        dx, dy = torch.zeros_like(rows.x), torch.zeros_like(columns.x)
        dbound = torch.zeros_like(rows.x[:, 0])
        for tile, dots in tiles(rows, columns, only_band=True):
            share = torch.sigmoid(limit[tile.rows] - scale * dots) * weight[tile.rows]
            share.masked_fill_(~_positive(tile, rows, columns, own), 0)
            dbound[tile.rows] += share.sum(1)
            dx[tile.rows].addmm_(share, columns.x[tile.columns], alpha=-scale)
            dy[tile.columns].addmm_(share.T, rows.x[tile.rows], alpha=-scale)
        return rows.back(dx), columns.back(dy), rows.back(dbound)


@_streaming.register_fake
def _(
    x: Tensor, ids: Tensor, y: Tensor, y_ids: Tensor, own: Tensor, bound: Tensor, scale: float
) -> Tensor:
    return torch.empty_like(bound)


@_streaming_backward.register_fake
def _(
    gradient: Tensor,
    x: Tensor,
    ids: Tensor,
    y: Tensor,
    y_ids: Tensor,
    own: Tensor,
    bound: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(y), torch.empty_like(bound)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    x, ids, y, y_ids, own, bound = ctx.saved_tensors
    dx, dy, dbound = _streaming_backward(gradient, x, ids, y, y_ids, own, bound, ctx.scale)
    return dx, None, dy, None, None, dbound, None


_streaming.register_autograd(_differentiate, setup_context=_save)
