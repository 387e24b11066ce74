"""How :mod:`siameselib.kernels.pair_sum` adds up: tile by tile, or positives one by one."""

import torch
from torch import Tensor

from siameselib.kernels.blocks import DIFFERENCES, Grouped
from siameselib.kernels.pair_terms import Role, Term
from siameselib.kernels.sweep import Listed, Metric, Sweep, Tile
from siameselib.kernels.wide import Wide


class Total:
    """What a term adds up to, rows in the order of the groups."""

    def __init__(
        self, term: Term, numbers: Tensor, unit: Tensor, weight: Tensor, *, even: bool
    ) -> None:
        self.term, self.numbers = term, numbers
        self.weight, self.even = weight, even  # how much each row counts, and whether all 1
        self.unit = None if unit.device.type == "cpu" and unit == 1 else unit
        self.fades = False  # whether pairs that are left out add nothing by themselves
        self.loss, self.change = numbers.new_zeros(len(weight)), torch.zeros_like(numbers)
        self.distances = numbers.new_zeros(())
        self.active = torch.zeros_like(self.distances, dtype=torch.int64)

    def add(self, tile: Tile) -> Tensor:
        """Add a tile; return the weights of its distances."""
        distance, role = tile.distance, self._role(tile)
        masked = tile.left_out is not None and not self.fades
        if tile.left_out is not None and masked:
            distance = filled(distance, tile.left_out)
        if self.unit is not None:
            distance = distance / self.unit
        values, slopes, change = self.term.sweep(distance, role, self.numbers)
        if tile.left_out is not None:
            values = torch.where(tile.left_out, 0, values) if masked else values
            distance = torch.where(tile.left_out, 0, distance)
        hit = torch.gt(values, 0, out=torch.empty_like(values))
        if change is not None:
            self.change += change
        self.loss[tile.rows] += values.sum(1)
        self.active += hit.sum().long()
        self.distances += distance.sum(1).double().sum()
        if tile.mirror.start < tile.mirror.stop:
            self.loss[tile.mirrored()] += values[:, tile.mirror].sum(0)
            self.active += hit[:, tile.mirror].sum().long()
            self.distances += distance[:, tile.mirror].sum(1).double().sum()
        return slopes

    def _role(self, tile: Tile) -> Role:
        """Say how often each pair of a tile counts: for its row, and mirrored for its column."""
        width = tile.distance.shape[1]
        if self.even:
            role = self.weight.new_ones(1, width)
            role[:, tile.mirror] = 2
        else:
            role = self.weight[tile.rows, None].repeat(1, width)
            role[:, tile.mirror] += self.weight[tile.mirrored()]
        if tile.left_out is None or self.fades:
            return role
        return role * (~tile.left_out).to(role.dtype)


def one_by_one(
    total: Total, grouped: Grouped, metric: Metric, gradient: bool
) -> tuple[Tensor, Tensor]:
    """Add up the positive pairs, each row with its few positives; return the gradients."""
    listed = Listed(grouped, metric, gradient)
    n, m, width = len(grouped.x), len(grouped.y), grouped.x.shape[1]
    most = max(1, int(grouped.positive_count().max()))
    step = max(1, 2 * DIFFERENCES // (most * width))
    lift = metric.lift(grouped.x), metric.lift(grouped.y)
    for first in range(0, n, step):
        rows = slice(first, min(first + step, n))
        column = grouped.positives(rows, most)
        left_out = column == m
        column = column.clamp(max=m - 1)
        y = grouped.y.index_select(0, column.flatten()).view(*column.shape, width)
        difference = torch.sub(grouped.x[rows, None], y, out=y)
        square = difference.square().sum(-1) + (lift[0][rows, None] + lift[1][column])
        distance = metric.of(square.masked_fill_(left_out, torch.inf))
        none = slice(0, 0)
        tile = Tile(rows, none, none, left_out, distance.double(), column[:0], column[:0])
        weight = total.add(tile).to(distance.dtype)
        if not gradient:
            continue
        weight = torch.where(distance == 0, 0, weight * metric.slope(distance))
        if listed.symmetric and total.even:  # what the rows pull at their columns is alike
            listed.dx[rows] += torch.bmm(weight[:, None], difference)[:, 0].mul_(2)
        else:
            pull = difference.mul_(weight[:, :, None])
            listed.dx[rows] += pull.sum(1)
            listed.dy.index_add_(0, column.flatten(), pull.flatten(0, 1), alpha=-1)
    return listed.gradient()


def tile_by_tile(
    total: Total, grouped: Grouped, metric: Metric, gradient: bool, *, positives: bool
) -> tuple[Tensor, Tensor]:
    """Add up all positive or all negative pairs, tile by tile; return the gradients."""
    readable = grouped.x.device.type == "cpu"
    way: type[Sweep | Wide] = Sweep if readable else Wide
    sweep = way(grouped, metric, gradient, positives=positives)
    if readable:
        far = sweep.metric.of(grouped.x.new_full((1, 1), sweep.far**2))
        if total.unit is not None:
            far = far / total.unit
        parts = total.term.sweep(far, 1.0, total.numbers)
        total.fades = not any(part is not None and bool(part.any()) for part in parts)
    for tile in sweep.tiles():
        slopes = total.add(tile)
        if gradient:
            sweep.pull(tile, slopes, alike=total.even)
    return sweep.gradient()


def filled(distance: Tensor, left_out: Tensor) -> Tensor:
    """Put a distance from elsewhere where pairs are left out, for terms that do not take all."""
    if distance.numel() == 0:
        return distance
    most = torch.where(left_out, 0, distance.detach()).amax()
    return torch.where(left_out, torch.where(left_out.all(), 1, most), distance)
