"""Two ways to count, for every positive of an anchor, the negatives nearer than a threshold.

With few positives each tile of a :class:`Sweep` is compared with one threshold after the other
(:func:`by_comparing`), which vectorises; it serves the soft margin too. With many, thresholds and
negatives of a row are sorted and looked up among each other, in float64 (:func:`by_sorting`); no
shape there depends on the data, so it also serves where sizes must not be read from the device.

Counts are exact: what rounding leaves open is decided by direct differences in float64.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from siameselib.kernels.blocks import DIFFERENCES, Grouped
from siameselib.kernels.sweep import Metric, Sweep, Tile
from siameselib.kernels.wide import Wide

FEW = 64  # positives a row up to which comparing is the quicker way
_LINES = 1 << 20  # entries of the lines looked through at once


class Found(NamedTuple):
    """Sums in the order of the groups, gradients in the order before."""

    loss: Tensor
    """(n,) float64."""
    active: Tensor
    """(n,) int64."""
    distances: Tensor
    """(2,) float64: sums over the positive and over the negative pairs of anchors with both."""
    gradient: tuple[Tensor, Tensor]


class _Thresholds(NamedTuple):
    # For the k-th positive of row i, at [k, i].
    column: Tensor  # which it is; past the last where the row has fewer
    distance: Tensor  # how far it is; far below 0 where there is none
    upper: Tensor  # the same + margin
    doubt: Tensor  # (n,) how near to a threshold a comparison of distances is left open


def by_comparing(
    grouped: Grouped,
    metric: Metric,
    margin: float,
    unit: Tensor,
    kind: str,
    weights: Tensor | None,
    gradient: bool,
) -> Found:
    """Sum over all triplets; see :mod:`siameselib.kernels.triplet_sum`."""
    n, dtype = len(grouped.x), grouped.x.dtype
    sweep = Sweep(grouped, metric, gradient)
    most = max(1, int(grouped.positive_count().max()))
    column = grouped.positives(slice(0, n), most).T.contiguous()
    k, row = (column < len(grouped.y)).nonzero(as_tuple=True)
    listed = column[k, row]
    apart = sweep.distances(row, listed)
    distance = apart.new_full(column.shape, -sweep.far, dtype=torch.float64)
    distance[k, row] = apart.double()
    raised = margin * unit
    upper = torch.where(distance >= 0, distance + raised, -sweep.far)
    doubt = _doubt(sweep, distance, upper)
    thresholds = _Thresholds(column, distance.to(dtype), upper.to(dtype), doubt)
    compare = _Comparison(sweep, thresholds, raised, unit, kind)
    for tile in sweep.tiles():
        sweep.add_up(tile)
        compare.touched = False
        weight = compare.rows(tile, weights)
        if tile.mirror.start < tile.mirror.stop:
            weight[:, tile.mirror] += compare.mirrored(tile, weights)
        if gradient and compare.touched:
            sweep.pull(tile, weight)
    loss = compare.loss
    if kind != "soft":
        loss += (compare.count * torch.where(distance >= 0, upper, 0)).sum(0)
        loss /= unit
    if gradient:
        sweep.turn()
        pull = compare.count if weights is None else compare.count * weights
        sweep.pull_listed(row, listed, apart, pull[k, row].to(dtype))
    positives, negatives = grouped.positive_count(), grouped.negative_count()
    sums = torch.where(distance >= 0, distance, 0).sum(0), sweep.sums().double()
    both = (positives > 0) & (negatives > 0)
    distances = torch.stack([torch.where(both, each, 0).sum() for each in sums])
    active = positives * negatives if kind == "soft" else compare.count.sum(0).long()
    return Found(loss, active, distances, sweep.gradient())


class _Comparison:
    # Sums over the tiles of a sweep: count[k, i], the negatives below each threshold (or their
    # weights for the soft margin), and loss[i], what does not follow from the count.

    def __init__(
        self, sweep: Sweep, thresholds: _Thresholds, margin: Tensor, unit: Tensor, kind: str
    ) -> None:
        self.sweep, self.thresholds, self.margin, self.kind = sweep, thresholds, margin, kind
        self.per_unit = (1 / unit).to(sweep.x_square.dtype)
        self.count = torch.zeros_like(thresholds.distance, dtype=torch.float64)
        self.loss = self.count.new_zeros(self.count.shape[1])
        self.touched = False  # by any negative below a threshold
        size = sweep.tile_size()
        self.memory = [thresholds.upper.new_empty(size) for _ in range(3)]

    def rows(self, tile: Tile, weights: Tensor | None) -> Tensor:
        """Let the rows of the tile be anchors; return the weights of its distances."""
        weight = self._compare(tile.distance, tile.rows, tile.columns.start, 1)
        return weight if weights is None else weight.mul_(weights[tile.rows, None])

    def mirrored(self, tile: Tile, weights: Tensor | None) -> Tensor:
        """Let the mirrored columns be anchors."""
        anchors = tile.mirrored()
        weight = self._compare(tile.distance[:, tile.mirror], anchors, tile.rows.start, 0)
        return weight if weights is None else weight.mul_(weights[anchors])

    def _compare(self, distance: Tensor, anchors: slice, first: int, dim: int) -> Tensor:
        # anchors lie along dimension 1 - dim of the distances, candidates from `first` along dim
        work, total = (
            memory[: distance.numel()].view(distance.shape)
            for memory in (self.memory[0], self.memory[1 + (dim == 0)])
        )
        total.zero_()
        count = self.count[:, anchors]
        upper = self.thresholds.upper[:, anchors].unsqueeze(1 + dim)
        lower = self.thresholds.distance[:, anchors].unsqueeze(1 + dim)
        if self.kind == "soft":  # which has a unit, unlike comparisons
            distance, lower = distance * self.per_unit, lower * self.per_unit
            for k in range(len(count)):
                torch.sub(lower[k], distance, out=work)
                self.loss[anchors] += F.softplus(work, threshold=40).sum(dim)
                total += work.sigmoid_()
                count[k] += work.sum(dim)
            self.touched = True
            return total
        doubt = self.thresholds.doubt[anchors].unsqueeze(dim)
        found, open_ = torch.zeros_like(count), torch.zeros_like(count, dtype=torch.bool)
        for k in range(len(count)):
            total += torch.lt(distance, upper[k] + doubt, out=work)
            high = work.sum(dim)
            low = torch.lt(distance, upper[k] - doubt, out=work).sum(dim)
            open_[k] = high != low
            if self.kind == "window":
                total -= torch.lt(distance, lower[k] - doubt, out=work)
                hard = work.sum(dim)
                high -= hard
                open_[k] |= torch.lt(distance, lower[k] + doubt, out=work).sum(dim) != hard
            found[k] = high
        if open_.any():
            self._decide(distance, anchors, first, dim, open_, total, found)
        count += found
        self.touched |= bool(found.any())
        self.loss[anchors] -= torch.mul(total, distance, out=work).sum(dim)
        return total

    def _decide(
        self,
        distance: Tensor,
        anchors: slice,
        first: int,
        dim: int,
        open_: Tensor,
        total: Tensor,
        found: Tensor,
    ) -> None:
        """Take back what was counted near a threshold and, looked at closely, is not below."""
        ks, ins = open_.nonzero(as_tuple=True)
        step = max(1, _LINES // distance.shape[dim])
        for some in range(0, len(ks), step):
            k, i = ks[some : some + step], ins[some : some + step]
            lines = distance[i] if dim else distance[:, i].T
            near = torch.zeros_like(lines, dtype=torch.bool)
            doubt = self.thresholds.doubt[anchors][i, None]
            for level in (self.thresholds.upper, self.thresholds.distance)[
                : 1 + (self.kind == "window")
            ]:
                middle = level[:, anchors][k, i, None]
                near |= (lines < middle + doubt) & (lines >= middle - doubt)
            line, other = near.nonzero(as_tuple=True)
            k, i = k[line], i[line]
            wrong = ~self._active(i + anchors.start, k, other + first)
            k, i, other = k[wrong], i[wrong], other[wrong]
            minus = -torch.ones_like(i, dtype=total.dtype)
            total.index_put_((i, other) if dim else (other, i), minus, accumulate=True)
            found.index_put_((k, i), minus.double(), accumulate=True)

    def _active(self, anchor: Tensor, k: Tensor, negative: Tensor) -> Tensor:
        """Say whether triplets (anchor, its k-th positive, negative) have a loss, in float64."""
        grouped, between = self.sweep.grouped, self.sweep.metric.between
        active = torch.empty_like(anchor, dtype=torch.bool)
        step = max(1, DIFFERENCES // grouped.x.shape[1])
        for first in range(0, len(anchor), step):
            some = slice(first, first + step)
            x, y = grouped.x[anchor[some]].double(), grouped.y[negative[some]].double()
            positive = self.thresholds.column[k[some], anchor[some]]
            ap, an = between(grouped.y[positive].double(), x), between(y, x)
            active[some] = an < ap + self.margin
            if self.kind == "window":
                active[some] &= an > ap
        return active


def _doubt(sweep: Sweep, distance: Tensor, upper: Tensor) -> Tensor:
    """Bound the error of a row's distances where they are near one of its thresholds."""
    # The entries of a tile are off by few units of |x|² + |y|²: at most 11 in a million of them,
    # in any dimension. A distance d of x is between rows with |y|² <= 2 (|x|² + d²).
    there = distance >= 0
    least = torch.where(there, distance, torch.inf).amin(0).to(sweep.x_square.dtype)
    most = torch.where(there, upper, 0).amax(0).to(sweep.x_square.dtype)
    least = torch.where(least < torch.inf, least, 0)
    square = most.square() if sweep.metric.name == "euclidean" else 2 * most
    norms = sweep.x_square + torch.minimum(2 * (sweep.x_square + square), sweep.y_square.amax())
    error = 64 * sweep.unit * norms
    if sweep.metric.name == "euclidean":  # closer entries than this are exact
        error /= 2 * torch.maximum(least, (sweep.close * sweep.x_square).sqrt())
    return (error + 8 * sweep.unit * most).nan_to_num(sweep.far).clamp(max=sweep.far / 2)


def by_sorting(
    grouped: Grouped,
    metric: Metric,
    margin: float,
    unit: Tensor,
    kind: str,
    weights: Tensor | None,
    gradient: bool,
) -> Found:
    """Sum over all triplets of a hinge; see :mod:`siameselib.kernels.triplet_sum`."""
    m = len(grouped.y)
    wide = Wide(grouped, metric, gradient)
    loss, active = torch.zeros_like(grouped.x[:, 0]).double(), torch.zeros_like(grouped.rows)
    distances = loss.new_zeros(2)
    for rows, square, rounding in wide.blocks():
        raised = metric.of(square + rounding)
        distance = metric.of(square)
        negative = ~grouped.same(rows, 0, m)
        own = grouped.own[rows, None] == torch.arange(m, device=loss.device)
        positive = ~negative & ~own
        ordered = torch.where(negative, distance, torch.inf).sort(1).values
        below = F.pad(torch.where(ordered < torch.inf, ordered, 0).cumsum(1), (1, 0))
        upper = torch.where(positive, distance + margin * unit, torch.inf)
        high = torch.where(positive, torch.searchsorted(ordered, upper), 0)
        sums = below.gather(1, high)
        # How many thresholds are above: all that are there, less those that are not above.
        above = -torch.searchsorted(upper.sort(1).values, distance, right=True)
        if kind == "window":
            lower = torch.where(positive, raised, torch.inf)
            low = torch.where(positive, torch.searchsorted(ordered, lower, right=True), 0)
            high, sums = high - low, sums - below.gather(1, low)
            above += torch.searchsorted(lower.sort(1).values, distance)
        else:
            above += positive.sum(1, keepdim=True)
        loss[rows] = (high * torch.where(positive, upper, 0) - sums).sum(1) / unit
        active[rows] = high.sum(1)
        both = positive.any(1, keepdim=True) & negative.any(1, keepdim=True)
        pairs = [torch.where(both & each, distance, 0).sum() for each in (positive, negative)]
        distances += torch.stack(pairs)
        if gradient:
            weight = high - torch.where(negative, above, 0).to(distance.dtype)
            if weights is not None:
                weight *= weights[rows, None]
            wide.pull_rows(rows, distance, weight)
    return Found(loss, active, distances, wide.gradient())
