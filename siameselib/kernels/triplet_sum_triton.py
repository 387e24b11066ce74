"""The sums of :mod:`siameselib.kernels.triplet_sum` on a GPU, and their gradients."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from siameselib.kernels import crowds_triton, levels_triton, triplets_triton
from siameselib.kernels.blocks import scaled
from siameselib.kernels.factors_triton import HEIGHT, Cut, cut
from siameselib.kernels.sides_triton import Side, near_constants, sides, states
from siameselib.kernels.tiles_triton import FUSED, parts, processors

_ROOM = 64  # positives of an anchor on average that there is room for
_LEAST_ROOM = 1 << 21  # pairs that there is room for in any case
_COUNTED = 1 << 24  # float32 has all integers up to there


class _Problem(NamedTuple):
    cut: Cut
    metric: str
    kind: str
    numbers: Tensor
    """(2,) the margin, and what to multiply distances by for the soft margin."""
    gradient: bool


def sweep(
    x: Tensor,
    y: Tensor | None,
    labels: Tensor,
    y_labels: Tensor,
    offset: int | None,
    metric: str,
    margin: float,
    kind: str,
    precision: str,
    weights: Tensor | None,
    gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return what the sweep of :mod:`siameselib.kernels.triplet_sum` returns."""
    x, y, unit, back = scaled(x, y, metric)
    chosen = narrow_cut(x.shape[1], precision).fitted(x.device)
    both = sides(x, labels, y, None if y is None else y_labels, offset, chosen)
    rows, columns = both.rows, both.columns
    weight = x.new_ones(len(x)) if weights is None else weights.to(x.dtype)
    raised = 0.0 if kind == "soft" else margin
    numbers = torch.stack([raised * unit, 1 / unit]).float()
    problem = _Problem(chosen, metric, kind, numbers, gradient)
    positives = (rows.end - rows.start - (rows.own >= 0).int())[: len(rows)]
    negatives = len(columns) - (rows.end - rows.start)[: len(rows)]
    there = (positives > 0) & (negatives > 0)
    lists, left, room = _lists(rows, columns, torch.where(there, positives, 0))
    none = lists if y is None else lists.new_zeros(2, len(columns.start) // HEIGHT)
    of_rows = _states(rows, metric, weight)
    of_columns = of_rows if y is None else _states(columns, metric, None)
    levels = _levels(problem, rows, columns, of_rows, of_columns, lists, room)
    ends = (rows, columns, of_rows, of_columns)
    found, far, sums = _negatives(problem, *ends, lists, none, levels)
    counted = found.sum(0)
    near, value, counts, apart = _positives(problem, *ends, lists, none, counted)
    more = _crowds(problem, *ends, left, near, "anchors")
    loss, active = sums[1] + more[0], positives.long() * negatives
    if kind != "soft":
        loss, active = (loss + value) / unit, (counts + more[1]).long()
    distances = torch.stack([torch.where(there, each, 0).sum() for each in (apart, sums[2])])
    dx, dy = x.new_empty(0), x.new_empty(0)
    if gradient:
        if y is None:
            _crowds(problem, *ends, left, near, "others")
        dx = rows.back((near - far) * back.float())
    if gradient and y is not None:
        turned = (columns, rows, of_columns, of_rows, none, lists)
        _, far, _ = _negatives(problem, *turned, levels)
        near, *_ = _positives(problem, *turned, counted)
        _crowds(problem, *ends, left, near, "others")
        dy = columns.back((near - far) * back.float())
    return rows.back(loss), rows.back(active), (distances / unit).to(x.dtype), dx, dy


def narrow_cut(d: int, precision: str) -> Cut:
    """Choose the tiles for vectors of d entries; what compares thresholds needs registers."""
    chosen = cut(d, precision)
    shape, wide = chosen.shape, chosen.width > 128
    shape = shape._replace(columns=min(shape.columns, 16 if wide else 32))
    return chosen._replace(shape=shape._replace(chunk=32) if wide else shape)


def pull_constants(d: int) -> dict[str, int]:
    """Say how many rows and columns a program that pulls takes, which needs more registers yet."""
    constants = near_constants(d)
    return constants | {"ROWS": max(1, constants["ROWS"] // 4)}


def _lists(rows: Side, columns: Side, positives: Tensor) -> tuple[Tensor, Tensor, int]:
    # Where the levels of each line begin and how many it has, from which anchor on there is no room
    # for them, and how much there is.
    height, breadth = len(rows.start), len(columns.start)
    if max(height, breadth) > _COUNTED:
        raise ValueError(
            f"triplet_sum: backend 'triton' cannot run: it counts up to {_COUNTED} negatives, "
            f"here are {max(height, breadth)} rows or columns"
        )
    room = max(_ROOM * height, min(height * breadth, _LEAST_ROOM))
    most = F.pad(positives, (0, height - len(rows))).view(-1, HEIGHT).amax(1)
    after = most.cumsum(0) * HEIGHT
    fits = after <= room
    lists = torch.where(fits, torch.stack([after - most * HEIGHT, most]), 0)
    return lists.int(), (fits.sum() * HEIGHT).int(), room


def _states(some: Side, metric: str, weight: Tensor | None) -> Tensor:
    # Those of a side, and the highest threshold of an anchor.
    found = states(some, metric, weight, 4)
    found[3] = levels_triton.NOTHING.value
    return found


def _levels(
    problem: _Problem,
    rows: Side,
    columns: Side,
    of_rows: Tensor,
    of_columns: Tensor,
    lists: Tensor,
    room: int,
) -> Tensor:
    """List thresholds and distances; for the window also those that products make."""
    levels = of_rows.new_full((2 + (problem.kind == "window"), room), -torch.inf)
    constants = near_constants(rows.x.shape[1])
    height, breadth = len(rows.start), len(columns.start)
    top = of_rows[3]
    levels_triton.measure[height // constants["ROWS"],](
        rows.x,
        columns.x,
        of_rows,
        of_columns,
        lists,
        rows.start,
        rows.end,
        rows.own,
        problem.numbers,
        levels[0],
        levels[1],
        top,
        len(rows),
        len(columns),
        height,
        breadth,
        **constants,
        METRIC=problem.metric,
        **FUSED,
    )
    if problem.kind == "window":
        constants = problem.cut.constants()
        levels_triton.measure_far[height // HEIGHT,](
            rows.parts,
            columns.parts,
            of_rows,
            of_columns,
            lists,
            rows.start,
            rows.end,
            rows.own,
            levels[2],
            height,
            breadth,
            len(rows),
            **constants,
            METRIC=problem.metric,
            **problem.cut.shape.options(),
        )
    return levels


def _negatives(
    problem: _Problem,
    rows: Side,
    columns: Side,
    of_rows: Tensor,
    of_columns: Tensor,
    row_lists: Tensor,
    column_lists: Tensor,
    levels: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the counts in parts, what pulls the rows, and their three sums in float64."""
    chosen, height, breadth = problem.cut, len(rows.start), len(columns.start)
    row_tiles, column_tiles = height // HEIGHT, breadth // chosen.shape.columns
    cuts = parts(row_tiles, column_tiles, processors(rows.x.device))
    terms = {"METRIC": problem.metric, "KIND": problem.kind, "CUTS": cuts}
    room = levels.shape[1]
    found = levels.new_zeros(cuts + 1, room)
    each = -(-column_tiles // cuts)
    listed = torch.empty(row_tiles * cuts * each, dtype=torch.int32, device=levels.device)
    count = torch.empty_like(listed[: row_tiles * cuts])
    total, near_sums = torch.empty_like(rows.x), levels.new_empty(3, height)
    far = levels.new_empty(cuts, height, chosen.width) if problem.gradient else of_rows
    sums = levels.new_empty(cuts, 3, height)
    triplets_triton.far[row_tiles, cuts, chosen.width // chosen.out if problem.gradient else 1](
        rows.parts,
        columns.parts,
        of_rows,
        of_columns,
        row_lists,
        column_lists,
        rows.start,
        rows.end,
        levels[0],
        levels[-1],
        problem.numbers,
        found,
        far,
        sums,
        listed,
        count,
        height,
        breadth,
        len(rows),
        len(columns),
        room,
        **chosen.constants(),
        OUT=chosen.out,
        **terms,
        GRADIENT=problem.gradient,
        **chosen.shape.options(),
    )
    constants = near_constants(rows.x.shape[1])
    constants["STEP"] = min(constants["STEP"], chosen.shape.columns)  # all of one line
    triplets_triton.near[height // constants["ROWS"],](
        rows.x,
        columns.x,
        of_rows,
        of_columns,
        row_lists,
        column_lists,
        rows.start,
        rows.end,
        rows.own,
        levels[0],
        levels[1],
        problem.numbers,
        found[cuts],
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
        **FUSED,
    )
    if problem.gradient:
        weights = sums[:, 0].sum(0)[: len(rows), None]
        total += weights * rows.x - far.sum(0)[: len(rows), : total.shape[1]]
    return found, total, (sums.double().sum(0) + near_sums)[:, : len(rows)]


def _positives(
    problem: _Problem,
    rows: Side,
    columns: Side,
    of_rows: Tensor,
    of_columns: Tensor,
    row_lists: Tensor,
    column_lists: Tensor,
    counted: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return what pushes the rows, their values, their counts and the sums of distances."""
    constants = pull_constants(rows.x.shape[1])
    height, n = len(rows.start), len(rows)
    total, values = torch.empty_like(rows.x), counted.new_empty(2, height)
    active = torch.empty(height, dtype=torch.float64, device=counted.device)
    levels_triton.pull[height // constants["ROWS"],](
        rows.x,
        columns.x,
        of_rows,
        of_columns,
        row_lists,
        column_lists,
        rows.start,
        rows.end,
        rows.own,
        columns.start,
        columns.own,
        problem.numbers,
        counted,
        total,
        values,
        active,
        n,
        len(columns),
        height,
        len(columns.start),
        **constants,
        METRIC=problem.metric,
        **FUSED,
    )
    value, apart = values[:, :n].double()
    return total, value, active[:n], apart


def _crowds(
    problem: _Problem,
    rows: Side,
    columns: Side,
    of_rows: Tensor,
    of_columns: Tensor,
    left: Tensor,
    total: Tensor,
    owned: str,
) -> Tensor:
    """Add what pushes those who are owned; return the values and the counts of the rows."""
    sizes, owners = crowds_triton.SIZES, rows if owned == "anchors" else columns
    sums = torch.zeros(2, len(rows.start), dtype=torch.float64, device=total.device)
    crowds_triton.add[len(owners.start) // sizes[owned.upper()],](
        rows.x,
        columns.x,
        of_rows,
        of_columns,
        rows.start,
        rows.end,
        rows.own,
        problem.numbers,
        left,
        total,
        sums,
        len(rows),
        len(columns),
        len(rows.start),
        len(columns.start),
        rows.x.shape[1],
        **sizes,
        METRIC=problem.metric,
        KIND=problem.kind,
        OWNED=owned,
        GRADIENT=problem.gradient,
        num_warps=crowds_triton.WARPS,
        **FUSED,
    )
    return sums[:, : len(rows)]
