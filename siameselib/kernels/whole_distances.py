"""A matrix of distances that is small enough to be held whole, on the CPU.

The squares come from one matrix product: where some rows are close to each other, in float64, which
leaves no digit of a float32 distance in doubt. Only where two rows are very close are distance and
gradient those of the direct difference.
"""

import torch
from torch import Tensor

from siameselib.kernels import whole
from siameselib.kernels.blocks import factor_rounding, gathered
from siameselib.kernels.sweep import CLOSE, Metric

_NEAR = 0.1  # squared distance over squared norm from which products in float32 are accurate
_ORDINARY = 1e-15  # numbers in between this and its inverse have squares in float32


def fits(op: str, x: Tensor, y: Tensor | None, backend: str) -> bool:
    """Say whether to take the whole matrix: see :func:`siameselib.kernels.whole.fits`."""
    if x.device.type != "cpu" or not whole.fits(op, x, y, x.shape[1], backend):
        return False
    sides = (x,) if y is None else (x, y)
    most = max(abs(float(each)) for side in sides for each in side.detach().aminmax())
    return _ORDINARY < most < 1 / _ORDINARY


class Distances:
    """All distances of rows and columns, and the gradient of what is made of them.

    Args:
        x: (n, d) rows; of length 1 (or 0) each for the metric "cosine".
        labels: (n,) their identities.
        y: (m, d) columns, likewise; None for the rows themselves.
        y_labels: (m,) their identities.
        offset: row i is column offset + i; None if no row is a column.
        metric: "euclidean", "sqeuclidean" or "cosine".
        exact: whether to take the product in float64 where rows are close, else in the dtype of the
            rows: for sums that small distances have no large part in.
    """

    def __init__(
        self,
        x: Tensor,
        labels: Tensor,
        y: Tensor | None,
        y_labels: Tensor,
        offset: int | None,
        metric: str,
        *,
        exact: bool = True,
    ) -> None:
        self.x, self.y, self.metric = x, x if y is None else y, Metric(metric)
        self.alone = y is None
        self.positive = whole.alike(labels, y_labels, offset, x.dtype)
        """(n, m) 1 for each pair that shares an identity, else 0; 0 for a row and itself."""
        self.negative = 1 - self.positive
        """(n, m) likewise for the other pairs."""
        centre = self.y.mean(0)
        self._right = self.y - centre
        self._left = self._right if self.alone else x - centre
        if offset is not None:
            self.negative.diagonal(offset).zero_()
        dtype = torch.float64 if exact and factor_rounding(x) else x.dtype
        square, bound, nearest = self._squares(dtype, offset)
        if exact and square.dtype != torch.float64 and bool((nearest <= _NEAR * bound).any()):
            square, bound, nearest = self._squares(torch.float64, offset)
        self.row, self.column = _close(square, CLOSE * bound, nearest)
        if offset is not None:
            square.diagonal(offset).fill_(1)
        self.distance = self.metric.of(square.to(x.dtype))
        """(n, m) 1, or one half, of a row and itself."""
        if len(self.row):
            self._between()

    def _squares(self, dtype: torch.dtype, offset: int | None) -> tuple[Tensor, Tensor, Tensor]:
        # The squared distances, inf of a row and itself, those of the rows from the centre, and
        # the least of each row.
        right = self._right.to(dtype)
        left = right if self.alone else self._left.to(dtype)
        square = left @ right.T
        if self.alone:
            rows = columns = self._lifted(square.diagonal().clone(), self.x)
        else:
            rows = self._lifted((left * left).sum(1), self.x)
            columns = self._lifted((right * right).sum(1), self.y)
        square.mul_(-2).add_(columns).add_(rows[:, None])
        if offset is not None:
            square.diagonal(offset).fill_(torch.inf)
        return square, rows, square.amin(1)

    def _lifted(self, square: Tensor, rows: Tensor) -> Tensor:
        return square + self.metric.lift(rows) if self.metric.name == "cosine" else square

    def _between(self) -> None:
        # The distances of close pairs, by direct difference.
        found = self.metric.listed(self.x, self.y, self.row, self.column)
        self.distance[self.row, self.column] = found

    def pull(self, weight: Tensor, *, alike: bool = False) -> tuple[Tensor, Tensor | None]:
        """Return the gradient, in rows and columns, of a sum of which these are derivatives.

        Args:
            weight: (n, m) the derivative by each distance; used up.
            alike: whether both ends of a pair have the same, where both are rows.

        Returns:
            (n, d) and (m, d); where rows and columns are the same, all of it and None.
        """
        if self.alone:
            weight = weight.mul_(2) if alike else weight + weight.T
        close = weight[self.row, self.column] if len(self.row) else None
        if close is not None:
            weight[self.row, self.column] = 0
        if self.metric.name == "euclidean":
            apart = self.distance
            if close is not None:
                apart = apart.index_put((self.row, self.column), apart.new_ones(()))
            weight.div_(apart)
        elif self.metric.name == "sqeuclidean":
            weight.mul_(2)
        x, y = self._left, self._right
        dx = torch.addmm(weight.sum(1, keepdim=True) * x, weight, y, alpha=-1)
        dy = None
        if not self.alone:
            dy = torch.addmm(weight.sum(0).unsqueeze(1) * y, weight.T, x, alpha=-1)
        if close is not None:
            self._pull_close(close, dx, dy)
        return dx, dy

    def _pull_close(self, weight: Tensor, dx: Tensor, dy: Tensor | None) -> None:
        distance = self.distance[self.row, self.column]
        slope = torch.where(distance == 0, 0, weight * self.metric.slope(distance))[:, None]
        for some, left, right in gathered(self.x, self.y, self.row, self.column):
            pull = left.sub_(right).mul_(slope[some])
            dx.index_add_(0, self.row[some], pull)
            if dy is not None:
                dy.index_add_(0, self.column[some], pull, alpha=-1)


def _close(square: Tensor, bound: Tensor, nearest: Tensor) -> tuple[Tensor, Tensor]:
    # Rows and columns of the squares up to the bound of the row.
    row = (nearest <= bound).nonzero().squeeze(1)
    if not len(row):
        return row, row
    hit, column = (square[row] <= bound[row, None]).nonzero(as_tuple=True)
    return row[hit], column
