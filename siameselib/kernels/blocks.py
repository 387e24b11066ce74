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

LANE = 64  # columns are reduced in lanes of this many; only lanes that matter are looked into
_SLAB = 1 << 20  # entries a slab may have: it stays in cache
_LEAST_ROWS = 64  # fewer rows make a matrix product slow
_FACTOR_ROUNDING = {"tf32": 2.0**-11, "high": 2.0**-11, "bf16": 2.0**-8, "medium": 2.0**-8}


def squared(a: Tensor, b: Tensor) -> Tensor:
    """Squared Euclidean distance by direct difference: what every backend decides by."""
    return (a - b).square_().sum(-1)


def in_range(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Scale both by one power of two where their squares would otherwise overflow or vanish."""
    largest = torch.maximum(x.abs().amax(), y.abs().amax())
    exponent = torch.frexp(largest).exponent
    top = int(torch.finfo(x.dtype).max ** 0.5).bit_length() - 8
    scale = torch.ldexp(torch.ones_like(largest), exponent.clamp(-top // 2, top) - exponent)
    return x * scale, y * scale


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


def group(x: Tensor, labels: Tensor, y: Tensor, y_labels: Tensor, offset: int | None) -> Grouped:
    """Bring both sides into label order; equal labels keep their order."""
    labels, rows = labels.sort(stable=True)
    y_labels, columns = y_labels.sort(stable=True)
    if offset is None:
        own = torch.full_like(rows, len(y))
    else:
        own = torch.empty_like(columns)
        own[columns] = torch.arange(len(y), device=columns.device)
        own = own[rows + offset]
    return Grouped(
        x[rows],
        y[columns],
        rows,
        columns,
        start=torch.searchsorted(y_labels, labels),
        end=torch.searchsorted(y_labels, labels, right=True),
        own=own,
    )


class Slabs:
    """Lower bounds of the squared distances between rows and columns, a block of rows at a time.

    With rows centred on the mean of the columns, an entry is |x|² + |y|² - 2 x·y, less the most
    that rounding can have added, ``error`` (|x|² + |y|²). The true value is at most twice that
    above it. Columns are padded with inf to whole lanes, at least one.
    """

    def __init__(self, x: Tensor, y: Tensor) -> None:
        centre = y.mean(0)
        x, y = x - centre, y - centre
        self.error = _error(x)
        self.x_square, y_square = x.square().sum(1), y.square().sum(1)
        self.y_largest = y_square.amax()
        n, m = len(x), len(y)
        self.columns = (m // LANE + 1) * LANE
        self._left = x.new_ones(n, x.shape[1] + 2)
        self._left[:, :-2] = -2 * x
        self._left[:, -2] = self.x_square * (1 - self.error)
        self._right = x.new_zeros(self.columns, x.shape[1] + 2)
        self._right[:m, :-2] = y
        self._right[:m, -2] = 1
        self._right[:m, -1] = y_square * (1 - self.error)
        self._right[m:, -1] = torch.inf
        self._height = max(_LEAST_ROWS, _SLAB // self.columns)
        self._out = x.new_empty(min(n, self._height), self.columns)
        self._scratch: Tensor | None = None

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Go through the rows; every slab is written into the same memory."""
        for first in range(0, len(self._left), self._height):
            left = self._left[first : first + self._height]
            slab = torch.mm(left, self._right.T, out=self._out[: len(left)])
            yield slice(first, first + len(left)), slab

    def lanes_from(self, slab: Tensor, floor: Tensor, *, above: bool = False) -> Tensor:
        """Find in each lane the least entry from the floor up, inf where there is none.

        Args:
            slab: a slab of this object, without negative entries.
            floor: (rows,)
            above: whether entries equal to the floor are left out.

        Returns:
            (rows, lanes)
        """
        # Floats that are not negative sort like their bits. Adding the greatest integer less the
        # floor's bits makes those above the floor, and no others, wrap around to negative ones.
        whole = torch.int32 if slab.dtype == torch.float32 else torch.int64
        shift = torch.iinfo(whole).max - floor.clamp(min=0).view(whole) + (not above)
        if self._scratch is None:
            self._scratch = torch.empty_like(self._out, dtype=whole)
        bits = torch.add(slab.view(whole), shift[:, None], out=self._scratch[: len(slab)])
        least = bits.view(len(slab), -1, LANE).amin(-1)
        return torch.where(least < 0, (least - shift[:, None]).view(slab.dtype), torch.inf)

    def ceiling(self, rows: slice, bound: Tensor) -> Tensor:
        """Say how far up the true squared distance of an entry with this lower bound can lie.

        Args:
            rows: the rows of the block.
            bound: (rows,) a lower bound for each.

        Returns:
            (rows,)
        """
        x_square = self.x_square[rows]
        # |y| <= |x| + d gives |y|² <= 2 (|x|² + d²); an outlier among y widens no other entry.
        y_square = torch.minimum(2.3 * (x_square + bound.clamp(min=0)), self.y_largest)
        return bound + 2 * self.error * (x_square + y_square)


def _error(x: Tensor) -> float:
    # Dot products and sums of d + 2 terms lose at most (d + 2) u of the sum of absolute terms,
    # which 2 (|x|² + |y|²) bounds; the same again for the direct difference; the rest is for
    # squares and centring. Reduced precision rounds both factors first.
    unit = torch.finfo(x.dtype).eps / 2
    rounding = 0.0
    if x.dtype == torch.float32:
        backend = torch.backends.cuda if x.is_cuda else torch.backends.mkldnn
        precision = getattr(backend.matmul, "fp32_precision", None)
        if precision is None:
            precision = torch.get_float32_matmul_precision()
        rounding = _FACTOR_ROUNDING.get(precision, 0.0)
    return unit * (5 * x.shape[1] + 16) + 4 * rounding
