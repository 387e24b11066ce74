"""Losses of the rows of a matrix of dot products that is small enough to be held whole.

Sweeping in tiles pays for its order of rows, its bands and its sums of sums with many small steps.
Where one tile is all, the loss of each row and its derivative by each entry are formed at once, in
few steps on the whole matrix: a form of :mod:`siameselib.kernels.forms`. Who shares an identity is
told by 1 and 0, for numbers multiply quicker than truth values select.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from siameselib.kernels import WHOLE, choose
from siameselib.kernels.given import first_only


class Census(NamedTuple):
    """What each anchor has, besides its loss."""

    positives: Tensor
    """(n,) how many positives it has."""
    negatives: Tensor
    """(n,) how many negatives."""
    positive_sum: Tensor
    """(n,) the sum of the similarities of the positives."""
    negative_sum: Tensor
    """(n,) and of the negatives."""


class Similarities(NamedTuple):
    """A whole matrix."""

    near: Tensor
    """(n, m) dot products, which a form may use up."""
    positive: Tensor
    """(n, m) 1 for each pair that shares an identity, else 0; 0 for a row and itself."""
    offset: int | None
    """Row i is column offset + i; None if no row is a column."""
    census: Census
    """What each row has."""


class Slopes(NamedTuple):
    """Derivatives by the entries (i, j) of the matrix."""

    rows: Tensor
    """(n, m) of L_i."""
    columns: Tensor | None = None
    """(n, m) of L_j besides; None where that is 0."""


Form = Callable[[Similarities], tuple[Tensor, Slopes]]


def fits(op: str, x: Tensor, y: Tensor | None, width: int, backend: str) -> bool:
    """Say whether to take the whole matrix: where tiles would be made, and one were enough.

    Args:
        op: the operation that would run in tiles.
        x: (n, d) rows.
        y: (m, d) columns; None for the rows themselves.
        width: how much memory the dense reference takes for each entry.
        backend: see :func:`siameselib.use_backend`.

    Returns:
        Whether :func:`row_losses` and its like are to run.
    """
    n, m = len(x), len(x if y is None else y)
    swept = choose(op, n, m, width, backend, x) == "streaming"
    return swept and n * m <= WHOLE and n * m * x.shape[1] > 0 and not torch.compiler.is_compiling()


def row_losses(
    x: Tensor, ids: Tensor, y: Tensor | None, y_ids: Tensor, offset: int | None, form: Form
) -> tuple[Tensor, Census]:
    """Compute the losses of all rows.

    Args:
        x: (n, d) rows.
        ids: (n,) their identities.
        y: (m, d) columns; None for the rows themselves.
        y_ids: (m,) their identities.
        offset: row i is column offset + i; None if no row is a column.
        form: takes the matrix to the losses and their slopes.

    Returns:
        The (n,) losses, and what each row has, without gradient.
    """
    losses, *seen = _RowLosses.apply(x, y, ids, y_ids, offset, form)  # type: ignore[no-untyped-call]
    return losses, Census(*seen)


def alike(ids: Tensor, y_ids: Tensor, offset: int | None, dtype: torch.dtype) -> Tensor:
    """Return 1 for each pair that shares an identity, else 0; 0 for a row and itself."""
    if _small(ids) and (y_ids is ids or _small(y_ids)):
        ids, y_ids = ids.float(), y_ids.float()  # which compares quicker
    memory = torch.empty(len(ids), len(y_ids), dtype=dtype, device=ids.device)
    same = torch.eq(ids[:, None], y_ids, out=memory)
    if offset is not None:
        same.diagonal(offset).zero_()
    return same


def _small(ids: Tensor) -> bool:
    # Whether float32 holds them; read where that waits for no device.
    return ids.device.type == "cpu" and all(abs(int(each)) < 1 << 24 for each in ids.aminmax())


class _RowLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor | None,
        ids: Tensor,
        y_ids: Tensor,
        offset: int | None,
        form: Form,
    ) -> tuple[Tensor, ...]:
        near = x @ (x if y is None else y).T
        positive = alike(ids, y_ids, offset, x.dtype)
        seen = _census(near, positive, offset)
        losses, slopes = form(Similarities(near, positive, offset, seen))
        ctx.save_for_backward(x, y, *slopes)
        ctx.mark_non_differentiable(*seen)
        ctx.set_materialize_grads(False)
        return losses, *seen

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        first_only()
        gradient = gradients[0]
        if gradient is None:
            return (None,) * 6
        x, y, rows, columns = ctx.saved_tensors
        with torch.autocast(x.device.type, enabled=False):
            weight = rows * gradient[:, None]
            if columns is not None:
                weight.addcmul_(columns, gradient)
            if y is None:
                return (weight + weight.T) @ x, *[None] * 5
            dx = weight @ y if ctx.needs_input_grad[0] else None
            dy = weight.T @ x if ctx.needs_input_grad[1] else None
            return dx, dy, *[None] * 4


def _census(near: Tensor, positive: Tensor, offset: int | None) -> Census:
    positives, positive_sum = positive.sum(1), (near * positive).sum(1)
    others, negative_sum = near.shape[1], near.sum(1).sub_(positive_sum)
    if offset is not None:
        others -= 1
        negative_sum -= near.diagonal(offset)
    return Census(positives, others - positives, positive_sum, negative_sum)
