"""The sums of :mod:`siameselib.kernels.pair_sum` on a GPU, and their gradients."""

from typing import NamedTuple

import torch
from torch import Tensor

from siameselib.kernels import pairs_triton
from siameselib.kernels.blocks import scaled
from siameselib.kernels.factors_triton import HEIGHT, Cut, cut
from siameselib.kernels.sides_triton import Side, Sides, near_constants, sides, states
from siameselib.kernels.tiles_triton import FUSED, parts, processors


class _Problem(NamedTuple):
    sides: Sides
    cut: Cut
    metric: str
    numbers: Tensor
    """(3,) those of the terms, and what to multiply distances by."""
    learnt: bool
    """whether the gradient in the numbers is wanted,"""
    gradient: bool
    """or any."""


def sweep(
    x: Tensor,
    y: Tensor | None,
    numbers: Tensor,
    labels: Tensor,
    y_labels: Tensor,
    offset: int | None,
    metric: str,
    precision: str,
    positive: str,
    negative: str,
    weights: Tensor | None,
    gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return what the sweep of :mod:`siameselib.kernels.pair_sum` returns."""
    x, y, unit, back = scaled(x, y, metric)
    chosen = cut(x.shape[1], precision).narrowed().fitted(x.device)
    both = sides(x, labels, y, None if y is None else y_labels, offset, chosen)
    given = torch.cat([numbers, numbers.new_zeros(2 - len(numbers)), 1 / unit[None]]).float()
    problem = _Problem(both, chosen, metric, given, len(numbers) > 0, gradient)
    rows, columns = both.rows, both.columns
    loss, dnumbers = numbers.new_zeros(2, len(x)), numbers.new_zeros(2, len(numbers))
    active, distances = labels.new_zeros(2), numbers.new_zeros(2)
    dx = x.new_empty(2, *(x.shape if gradient else (0,)))
    dy = x.new_empty(2, *(y.shape if gradient and y is not None else (0,)))
    for k, term in enumerate((positive, negative)):
        weight = x.new_ones(len(x)) if weights is None else weights[k].to(x.dtype)
        of_rows = states(rows, metric, weight)
        of_columns = of_rows if y is None else states(columns, metric, None)
        roles = 0 if weights is None else 3 if y is None else 1
        factor = back.float() * (2 if weights is None and y is None else 1)
        part, sums = _pass(problem, rows, columns, of_rows, of_columns, roles, term, k == 0)
        loss[k] = rows.back(sums[1])
        active[k], distances[k] = sums[2].long().sum(), sums[3].sum()
        dnumbers[k] = _derivatives(term, sums, rows.whole(weight)[: len(x)].double(), len(numbers))
        if gradient:
            dx[k] = rows.back(part) * factor
            if y is not None:
                part, _ = _pass(
                    problem, columns, rows, of_columns, of_rows, min(roles, 1) * 2, term, k == 0
                )
                dy[k] = columns.back(part) * factor
    return loss, active, distances.to(x.dtype), dx, dnumbers, dy


def _derivatives(term: str, sums: Tensor, weight: Tensor, count: int) -> Tensor:
    """Return the derivatives in the numbers of the weighted sum over the rows."""
    slopes, moments = (weight * each for each in sums[4:])
    found = torch.zeros(count, dtype=weight.dtype, device=weight.device)
    if term in {"same", "different"}:
        found[0], found[1] = (slopes - moments).sum(), slopes.sum()
    else:
        found[int(term.startswith("below"))] = -slopes.sum()
    return found


def _pass(
    problem: _Problem,
    rows: Side,
    columns: Side,
    of_rows: Tensor,
    of_columns: Tensor,
    roles: int,
    term: str,
    positives: bool,
) -> tuple[Tensor, Tensor]:
    """Return the gradient in the rows and their six sums, (6, n) in float64."""
    chosen, height, breadth = problem.cut, len(rows.start), len(columns.start)
    row_tiles, column_tiles = height // HEIGHT, breadth // chosen.shape.columns
    cuts = parts(row_tiles, column_tiles, processors(rows.x.device))
    terms = {"METRIC": problem.metric, "TERM": term, "ROLES": roles, "CUTS": cuts}
    each = -(-column_tiles // cuts)
    listed = torch.empty(row_tiles * cuts * each, dtype=torch.int32, device=rows.x.device)
    count = torch.empty_like(listed[: row_tiles * cuts])
    total, near_sums = torch.empty_like(rows.x), of_rows.new_empty(6, height)
    all_sums = [near_sums]
    far = None
    if not positives:
        far = of_rows.new_empty(cuts, height, chosen.width) if problem.gradient else of_rows
        sums = of_rows.new_empty(cuts, 6, height)
        pairs_triton.far[row_tiles, cuts, chosen.width // chosen.out if problem.gradient else 1](
            rows.parts,
            columns.parts,
            of_rows,
            of_columns,
            rows.start,
            rows.end,
            problem.numbers,
            far,
            sums,
            listed,
            count,
            height,
            breadth,
            len(rows),
            len(columns),
            **chosen.constants(),
            OUT=chosen.out,
            **terms,
            LEARNT=problem.learnt,
            GRADIENT=problem.gradient,
            **chosen.shape.options(),
        )
        all_sums += list(sums)
    constants = near_constants(rows.x.shape[1])
    pairs_triton.near[height // constants["ROWS"],](
        rows.x,
        columns.x,
        of_rows,
        of_columns,
        rows.start,
        rows.end,
        rows.own,
        problem.numbers,
        total,
        near_sums,
        listed,
        count,
        len(rows),
        len(columns),
        height,
        breadth,
        **constants,
        HEIGHT=HEIGHT,
        BREADTH=chosen.shape.columns,
        **terms,
        POSITIVES=positives,
        **FUSED,
    )
    if far is not None and problem.gradient:
        weights = sums[:, 0].sum(0)[: len(rows), None]
        total += weights * rows.x - far.sum(0)[: len(rows), : total.shape[1]]
    return total, torch.stack(all_sums).double().sum(0)[:, : len(rows)]
