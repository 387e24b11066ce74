"""Extremes of the rows of a squared-distance matrix that is small enough to be held whole.

The matrix is what one product gives. Where a row's extreme leads by more than rounding can have
changed, it is the extreme by direct difference too; the others are settled by those.
"""

import torch
from torch import Tensor

from siameselib.kernels.blocks import rounding, squared

WHOLE = 1 << 17  # entries up to which this is quicker than slabs
_FEW = 4  # candidates a row, on average, that it pays to settle


def clear_extremes(
    x: Tensor, y: Tensor, labels: Tensor, y_labels: Tensor, offset: int | None, easy: bool
) -> tuple[Tensor, Tensor] | None:
    """Find each row's farthest (easy: nearest) positive and nearest negative, on the CPU.

    Returns:
        Two (n,) vectors of columns, -1 for none; None where many candidates are within rounding
        of each other, and for numbers that are not finite.
    """
    square = y.square().sum(1)
    largest = square if y is x else torch.cat([square, x.square().sum(1)])
    lead = 4 * rounding(x) * largest.amax()
    if not lead < torch.inf:
        return None
    keys = torch.addmm(square, x, y.T, alpha=-2)  # less |x|², which is the same for all of a row
    same = labels[:, None] == y_labels
    negative = _least(x, y, keys.masked_fill(same, torch.inf), lead)
    if negative is None:
        return None
    if offset is not None:
        same.diagonal(offset).fill_(False)
    keys = (keys if easy else keys.neg_()).masked_fill_(~same, torch.inf)
    positive = _least(x, y, keys, lead, farthest=not easy)
    return None if positive is None else (positive, negative)


def _least(
    x: Tensor, y: Tensor, keys: Tensor, lead: Tensor, farthest: bool = False
) -> Tensor | None:
    n, ceiling = len(keys), keys.amin(1, keepdim=True).add_(lead)
    ceiling.clamp_(max=torch.finfo(keys.dtype).max)  # so that entries left out stay out
    row, column = (keys <= ceiling).nonzero(as_tuple=True)
    if len(row) > _FEW * n:
        return None
    found = row.new_full((n,), -1)
    found[row] = column
    several = (torch.bincount(row, minlength=n) > 1)[row]
    if not several.any():
        return found
    row, column = row[several], column[several]
    value = squared(x[row], y[column])
    value = value.neg_() if farthest else value
    least = value.new_full((n,), torch.inf).scatter_reduce_(0, row, value, "amin")[row]
    found[row] = len(y)
    return found.scatter_reduce_(0, row, torch.where(value == least, column, len(y)), "amin")
