"""Both sides of the matrix, as the dense losses on a GPU take them."""

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from siameselib.kernels.blocks import Grouped, group
from siameselib.kernels.factors_triton import HEIGHT, Cut
from siameselib.kernels.tiles_triton import INTERPRETED, filled

_FAR = 2.0**125  # the squared length of a vector that only fills up a tile
_ENTRIES = 1 << 13  # differences that a program of the near kernels takes at once


class Side(NamedTuple):
    """Rows or columns, in the order of their identities; in whole tiles but for x and order."""

    x: Tensor
    """(n, d) centred."""
    parts: Tensor
    """(parts, n, width) likewise."""
    order: Tensor
    """(n,) where each vector was."""
    start: Tensor
    """(n,) the first vector of the other side that has its identity, int32,"""
    end: Tensor
    """the first after it,"""
    own: Tensor
    """and the one that is itself, -1 for none."""
    zero: Tensor
    """(n,) whether a vector was zero before it was centred."""

    def __len__(self) -> int:
        return len(self.x)

    def whole(self, values: Tensor, value: float = 0) -> Tensor:
        """Bring values that come as the caller knows them into this order, in whole tiles."""
        return filled(values.float().index_select(0, self.order), HEIGHT, value)

    def back(self, values: Tensor) -> Tensor:
        """Return the values of these vectors, in whole tiles or not, as the caller knows them."""
        values = values[: len(self.order)]
        return torch.empty_like(values).index_copy_(0, self.order, values)


class Sides(NamedTuple):
    """The two, one and the same where the matrix is symmetric."""

    rows: Side
    columns: Side
    centre: Tensor
    """(d,) what was subtracted from all."""


def sides(
    x: Tensor,
    ids: Tensor | None,
    y: Tensor | None,
    y_ids: Tensor | None,
    offset: int | None,
    cut: Cut,
) -> Sides:
    """Prepare both sides; without identities, those with the same place have the same one."""
    if ids is None:
        ids = y_ids = torch.arange(len(x), device=x.device)
    y_ids = ids if y_ids is None else y_ids
    columns = x if y is None else y
    grouped = group(x, ids, columns, y_ids, offset)
    centre = columns.mean(0)
    none = len(grouped.y)
    own = torch.where(grouped.own < none, grouped.own, -1)
    rows = _side(grouped.x, centre, grouped.rows, (grouped.start, grouped.end, own), cut)
    if y is None:
        return Sides(rows, rows, centre)
    ranges = _turned(grouped, ids, y_ids)
    return Sides(rows, _side(grouped.y, centre, grouped.columns, ranges, cut), centre)


def _turned(grouped: Grouped, ids: Tensor, y_ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    # What start, end and own are for the columns.
    n, m = len(grouped.x), len(grouped.y)
    ids, y_ids = ids[grouped.rows], y_ids[grouped.columns]
    own = torch.full((m + 1,), -1, device=ids.device)
    own[grouped.own] = torch.arange(n, device=ids.device)
    return (
        torch.searchsorted(ids, y_ids),
        torch.searchsorted(ids, y_ids, right=True),
        own[:m],
    )


def _side(
    x: Tensor, centre: Tensor, order: Tensor, ranges: tuple[Tensor, Tensor, Tensor], cut: Cut
) -> Side:
    zero, x = (x == 0).all(1), x - centre
    start, end, own = (filled(each.int(), HEIGHT) for each in ranges)
    return Side(x, cut.split(x), order, start, end, own, zero)


def states(some: Side, metric: str, weight: Tensor | None, count: int = 3) -> Tensor:
    """Return what a kernel of distances knows of each vector of a side, and room for more.

    The squared length, how often its pairs count, and what their squared distances are raised by.
    """
    n = len(some)
    found = some.x.new_zeros(count, len(some.start))
    zero = some.zero.float() if metric == "cosine" else torch.zeros_like(some.x[:, 0])
    found[0, :n] = some.x.square().sum(1) + zero
    found[0, n:] = _FAR
    if weight is not None:
        found[1] = some.whole(weight)
    found[2, :n] = zero
    return found


def near_constants(d: int) -> dict[str, int]:
    """Say how many rows and columns a program of the near kernels takes at once."""
    dims = max(16, triton.next_power_of_2(d))
    rows = max(2, min(16, (1 << 12) // dims))
    step = max(1, _ENTRIES // (rows * dims))
    if INTERPRETED:  # where few large steps are quicker
        rows, step = HEIGHT, 4 * step
    return {"d": d, "DIMS": dims, "ROWS": rows, "STEP": step}
