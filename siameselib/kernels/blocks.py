"""What the streaming kernels share: rows in label order, and slabs of the squared-distance matrix.

Sorted by label, the columns that share a row's label are one range: positives need no matrix, and
only they need masking. A slab is a block of rows against all columns, made by one matrix product;
its entries are lower bounds of the squared distances, as tight as rounding allows. Whoever needs
the exact value of an entry takes :func:`squared`, a direct difference.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

DIFFERENCES = 1 << 18  # entries in one batch of direct differences: they stay in cache
LANE = 64  # columns are reduced in lanes of this many; only lanes that matter are looked into
SLAB = 1 << 20  # entries a slab may have: it stays in cache
_LEAST_ROWS = 64  # fewer rows make a matrix product slow
_FACTOR_ROUNDING = {"tf32": 2.0**-11, "high": 2.0**-11, "bf16": 2.0**-8, "medium": 2.0**-8}


def squared(a: Tensor, b: Tensor) -> Tensor:
    """Squared Euclidean distance by direct difference: what every backend decides by."""
    return (a - b).square_().sum(-1)


def gathered(
    x: Tensor, y: Tensor, row: Tensor, column: Tensor
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Go through listed pairs, a batch at a time, in memory that the next batch reuses.

    Args:
        x: (n, d) rows.
        y: (m, d) columns.
        row: (k,) which row,
        column: (k,) and which column; nothing of these asks for a gradient.

    Yields:
        Which of the pairs, their rows and their columns, which may be used up.
    """
    step = max(1, DIFFERENCES // max(1, x.shape[1]))
    memory = x.new_empty(2, min(step, len(row)), x.shape[1])
    for first in range(0, len(row), step):
        some = slice(first, min(first + step, len(row)))
        left, right = memory[:, : some.stop - first]
        torch.index_select(x, 0, row[some], out=left)
        torch.index_select(y, 0, column[some], out=right)
        yield some, left, right


def in_range(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Scale both by one power of two where their squares would otherwise overflow or vanish."""
    shift = range_shift(x, y)
    if shift.device.type == "cpu" and shift == 0:
        return x, y
    scaled = torch.ldexp(x, shift)
    return scaled, scaled if y is x else torch.ldexp(y, shift)


def range_shift(x: Tensor, y: Tensor) -> Tensor:
    """Return by which power of two to scale, 0 for ordinary numbers."""
    largest = x.abs().amax()
    if y is not x:
        largest = torch.maximum(largest, y.abs().amax())
    exponent = torch.frexp(largest).exponent
    top = int(torch.finfo(x.dtype).max ** 0.5).bit_length() - 8
    return exponent.clamp(-top // 2, top) - exponent


class Scaled(NamedTuple):
    """Both sides as :func:`scaled` makes them, and two float64 numbers."""

    x: Tensor
    y: Tensor | None
    unit: Tensor
    """What a distance of 1 has become."""
    back: Tensor
    """What makes of the gradient of a new distance in x that of the old one."""


def scaled(x: Tensor, y: Tensor | None, metric: str) -> Scaled:
    """Scale rows and columns, None for the same, for distances of a metric: see in_range."""
    one = torch.ones((), device=x.device, dtype=torch.float64)
    if metric == "cosine":
        return Scaled(x, y, one, one)
    shift = range_shift(x, x if y is None else y)
    if shift.device.type == "cpu" and shift == 0:
        return Scaled(x, y, one, one)
    scale = torch.ldexp(one, shift)
    unit = scale.square() if metric == "sqeuclidean" else scale
    y = None if y is None else torch.ldexp(y, shift)
    return Scaled(torch.ldexp(x, shift), y, unit, scale / unit)


class Grouped(NamedTuple):
    """Rows and columns in label order, and which columns share each row's label."""

    x: Tensor
    """(n, d) rows in label order."""
    y: Tensor
    """(m, d) columns in label order."""
    rows: Tensor
    """(n,) where each row was."""
    columns: Tensor
    """(m,) where each column was."""
    start: Tensor
    """(n,) the first column of the row's label."""
    end: Tensor
    """(n,) the first column after it."""
    own: Tensor
    """(n,) the column that is the row itself, m where none is."""

    def positives(self, rows: slice, width: int) -> Tensor:
        """List the first ``width`` columns of each row's label but the row itself, then m."""
        columns = self.start[rows, None] + torch.arange(width, device=self.start.device)
        columns += columns >= self.own[rows, None]
        return torch.where(columns < self.end[rows, None], columns, len(self.y))

    def positive_count(self) -> Tensor:
        """(n,) how many positives each row has."""
        return self.end - self.start - (self.own < len(self.y)).to(self.end.dtype)

    def negative_count(self) -> Tensor:
        """(n,) how many negatives each row has."""
        return len(self.y) - self.end + self.start

    def same(self, rows: slice, first: int, last: int) -> Tensor:
        """Say which of the columns first ... last - 1 share each row's label."""
        columns = torch.arange(first, last, device=self.start.device)
        return (columns >= self.start[rows, None]) & (columns < self.end[rows, None])

    def left_out(self, rows: slice, columns: slice, positives: bool) -> Tensor:
        """Say which pairs are not of different identities, or not positives."""
        same = self.same(rows, columns.start, columns.stop)
        if not positives:
            return same
        numbers = torch.arange(columns.start, columns.stop, device=same.device)
        return ~same | (numbers == self.own[rows, None])


def group(x: Tensor, labels: Tensor, y: Tensor, y_labels: Tensor, offset: int | None) -> Grouped:
    """Bring both sides into label order, once if y is x; equal labels keep their order."""
    alike = y is x and offset == 0
    labels, rows = labels.sort(stable=True)
    x = x[rows]
    if alike:
        y, y_labels, columns = x, labels, rows
        own = torch.arange(len(x), device=x.device)
    else:
        y_labels, columns = y_labels.sort(stable=True)
        y = y[columns]
        own = torch.full_like(rows, len(y))
        if offset is not None:
            places = torch.empty_like(columns)
            places[columns] = torch.arange(len(y), device=y.device)
            own = places[rows + offset]
    return Grouped(
        x,
        y,
        rows,
        columns,
        start=torch.searchsorted(y_labels, labels),
        end=torch.searchsorted(y_labels, labels, right=True),
        own=own,
    )


def least_from(
    keys: Tensor, floor: Tensor, out: Tensor, *, above: bool = False, lane: int = LANE
) -> Tensor:
    """Find in each lane of each row the least key from the floor up, inf where there is none.

    Args:
        keys: (rows, columns) whole lanes, no key negative.
        floor: (rows,)
        out: (rows, columns) memory to work in, integers as wide as the keys.
        above: whether keys equal to the floor are left out.
        lane: how many columns make a lane.

    Returns:
        (rows, lanes)
    """
    # Floats that are not negative sort like their bits. Adding the greatest integer less the
    # floor's bits makes those above the floor, and no others, wrap around to negative integers.
    shift = torch.iinfo(out.dtype).max - floor.clamp(min=0).view(out.dtype) + (not above)
    torch.add(keys.view(out.dtype), shift[:, None], out=out)
    least = out.view(len(keys), -1, lane).amin(-1)
    return torch.where(least < 0, (least - shift[:, None]).view(keys.dtype), torch.inf)


def pair_counts(labels: Tensor, y_labels: Tensor, offset: int | None) -> tuple[Tensor, Tensor]:
    """Return how many positives and how many negatives each row has, two (n,) vectors."""
    ordered = y_labels.long().sort().values
    ids = labels.long().contiguous()
    same = torch.searchsorted(ordered, ids, right=True) - torch.searchsorted(ordered, ids)
    return same - int(offset is not None), len(ordered) - same


class Slabs:
    """Lower bounds of the squared distances between rows and columns, a block of rows at a time.

    With rows centred on the mean of the columns, an entry is |x|² + |y|² - 2 x·y, less the most
    that rounding can have added, ``error`` (|x|² + |y|²). The true value is at most twice that
    above it. Rows and columns are padded with inf to whole lanes, at least one.
    """

    def __init__(self, x: Tensor, y: Tensor) -> None:
        centre, alike = y.mean(0), y is x
        x = x - centre
        y = x if alike else y - centre
        self.error = rounding(x)
        self.x_square = x.square().sum(1)
        y_square = self.x_square if alike else y.square().sum(1)
        self.y_largest = y_square.amax()
        n, m = len(x), len(y)
        self.rows, self.columns = (n // LANE + 1) * LANE, (m // LANE + 1) * LANE
        self._left = x.new_zeros(self.rows, x.shape[1] + 2)
        torch.mul(x, -2, out=self._left[:n, :-2])
        torch.mul(self.x_square, 1 - self.error, out=self._left[:n, -2])
        self._left[n:, -2] = torch.inf
        self._left[:, -1] = 1
        self._right = x.new_zeros(self.columns, x.shape[1] + 2)
        self._right[:m, :-2] = y
        self._right[:, -2] = 1
        self._right[:m, -1] = y_square * (1 - self.error)
        self._right[m:, -1] = torch.inf

    def tile(self, rows: slice, columns: slice, memory: Tensor) -> Tensor:
        """Make a part of the matrix, into this memory."""
        height, width = rows.stop - rows.start, columns.stop - columns.start
        out = memory[: height * width].view(height, width)
        return torch.mm(self._left[rows], self._right[columns].T, out=out)

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Go through the rows; every slab is written into the same memory."""
        n, height = len(self.x_square), max(_LEAST_ROWS, SLAB // self.columns)
        memory = self._left.new_empty(min(n, height) * self.columns)
        for first in range(0, n, height):
            rows = slice(first, min(first + height, n))
            yield rows, self.tile(rows, slice(0, self.columns), memory)

    def ceiling(self, x_square: Tensor, bound: Tensor) -> Tensor:
        """Say how far up the true squared distances can lie, given rows and lower bounds."""
        # |y| <= |x| + d gives |y|² <= 2 (|x|² + d²); an outlier among y widens no other entry.
        y_square = torch.minimum(2.3 * (x_square + bound.clamp(min=0)), self.y_largest)
        return bound + 2 * self.error * (x_square + y_square)


def rounding(x: Tensor) -> float:
    """Return how far off |x|² + |y|² - 2 x·y can be, as a share of |x|² + |y|²."""
    # Dot products and sums of d + 2 terms lose at most (d + 2) u of the sum of absolute terms,
    # which 2 (|x|² + |y|²) bounds; the same again for the direct difference; the rest is for
    # squares and centring. Reduced precision rounds both factors first.
    return torch.finfo(x.dtype).eps / 2 * (5 * x.shape[1] + 16) + 4 * factor_rounding(x)


def factor_rounding(x: Tensor) -> float:
    """Return what matrix products of such a tensor round its entries by before they multiply."""
    if x.dtype != torch.float32:
        return 0.0
    backend = torch.backends.cuda if x.is_cuda else torch.backends.mkldnn
    precision = getattr(backend.matmul, "fp32_precision", None)
    if precision is None:
        precision = torch.get_float32_matmul_precision()
    return _FACTOR_ROUNDING.get(precision, 0.0)
