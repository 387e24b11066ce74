"""Extremes of the rows of a squared-distance matrix small enough to be held whole, on the CPU.

The matrix is what one product gives. Where a row's extreme leads by more than rounding can have
changed, it is the extreme by direct difference too; the others are settled by those.
"""

import torch
from torch import Tensor

from siameselib.kernels.blocks import least_from, rounding, squared

WHOLE = 1 << 17  # entries up to which this is quicker than slabs
_LINES = 1 << 19  # entries of the lines that are looked through for a positive each
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
    return _settle(found, row, column, value, len(y))


def _settle(found: Tensor, row: Tensor, column: Tensor, value: Tensor, none: int) -> Tensor:
    # Put each row's column of least value into found, the lowest of equals; none if all are inf.
    least = value.new_full((len(found),), torch.inf).scatter_reduce_(0, row, value, "amin")[row]
    best = torch.where((value == least) & (value < torch.inf), column, none)
    found[row] = none
    return found.scatter_reduce_(0, row, best, "amin")


def clear_beyond(
    x: Tensor, y: Tensor, labels: Tensor, y_labels: Tensor, offset: int | None
) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
    """Find for each row and each of its positives the nearest negative farther away, on the CPU.

    Returns:
        What :func:`siameselib.kernels.extremes.beyond` returns; None where there are too many
        positives, where many candidates are within rounding of each other, and for numbers that
        are not finite.
    """
    m, same = len(y), labels[:, None] == y_labels
    others = same.clone()
    if offset is not None:
        others.diagonal(offset).fill_(False)
    row, positive = (each.clone() for each in others.nonzero(as_tuple=True))  # not of one memory
    if not len(row) or len(row) * m > _LINES:
        return None
    square, lost = _squares(x, y)
    if not lost < torch.inf:
        return None
    threshold = square[row, positive]
    keys = square.masked_fill(same, torch.inf)
    lines = keys.index_select(0, row)
    # how far up and down a direct difference can lie from another that is compared with it
    share = 4 * (x.shape[1] + 4) * torch.finfo(x.dtype).eps
    low, high = threshold * (1 - share) - lost, threshold * (1 + share) + lost
    whole = torch.int32 if lines.dtype == torch.float32 else torch.int64
    scratch = torch.empty_like(lines, dtype=whole)
    surely = least_from(lines, high, scratch, above=True, lane=m).squeeze(1)
    most = (surely * (1 + share) + lost).clamp(max=torch.finfo(x.dtype).max)
    line, column = ((lines >= low[:, None]) & (lines <= most[:, None])).nonzero(as_tuple=True)
    if len(line) > _FEW * len(row):
        return None
    negative = row.new_full((len(row),), -1)
    negative[line] = column
    unclear = torch.bincount(line, minlength=len(row)) > 1
    unclear |= (negative >= 0) & (surely == torch.inf)
    if unclear.any():
        some = unclear[line]
        line, column = line[some], column[some]
        value = squared(x[row[line]], y[column])
        above = value > squared(x[row[line]], y[positive[line]])
        _settle(negative, line, column, torch.where(above, value, torch.inf), m)
        negative[negative == m] = -1
    farther = negative >= 0
    if not farther.all():
        lead = 2 * (share * square.amax() + lost)
        farthest = _least(x, y, keys.neg_().masked_fill_(same, torch.inf), lead, farthest=True)
        if farthest is None:
            return None
        negative = torch.where(farther, negative, farthest[row])
    return row, positive, negative, farther


def _squares(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    # The squared distances, by a product in float64, and what that can have lost.
    left = x.double()
    right = left if y is x else y.double()
    rows, columns = left.square().sum(1), right.square().sum(1)
    lost = 8 * rounding(left) * torch.maximum(rows.amax(), columns.amax())
    square = torch.addmm(columns, left, right.T, alpha=-2).add_(rows[:, None]).clamp_(min=0)
    return square.to(x.dtype), lost.to(x.dtype)
