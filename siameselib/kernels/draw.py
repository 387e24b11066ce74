r"""Negatives drawn at random, for each row and each of its positives, by their distance.

On the unit sphere in D dimensions the distance d of two random points has the density

.. math:: q(d) \propto d^{D-2} \big(1 - d^2/4\big)^{(D-3)/2}

and a column of another identity at the distance d < limit is drawn with a probability
proportional to min(1/q(d), 1/q(cutoff)): all distances alike, but for the nearest.

A row's weights are relative to its largest, so that no power leaves the range of floating-point
numbers; one uniform number, looked up in their running sum, draws one column. The numbers come
from one seed a row by counting: the k-th draw of a row is the same on every backend, in blocks of
any size, and however many draws follow. ``reference`` takes all differences; ``streaming`` makes
the distances of a block of rows by a matrix product.
"""

import math

import torch
from torch import Tensor

from siameselib.kernels import choose
from siameselib.kernels.blocks import SLAB, group, squared
from siameselib.kernels.extremes import same_and_other

_LEAST_ROWS = 64  # fewer rows make a matrix product slow


def draw(
    x: Tensor,
    labels: Tensor,
    y: Tensor,
    y_labels: Tensor,
    offset: int | None,
    seeds: Tensor,
    *,
    dimension: int,
    cutoff: float,
    limit: float,
    width: int | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw for each row and each of its positives one column of another identity.

    Args:
        x: (n, d) rows of length 1.
        labels: (n,) their identities.
        y: (m, d) columns of length 1.
        y_labels: (m,) their identities.
        offset: row i is column offset + i, so no positive of itself; None if no row is a column.
        seeds: (n,) random integers of 63 bits.
        dimension: D.
        cutoff: up to this distance all are as likely.
        limit: from this distance on none is drawn, at most 2.
        width: how many positives of each row to take, lowest index first: n·width entries, with
            -1 for a positive that is not there. None for exactly those that are there.
        backend: see :func:`siameselib.use_backend`.

    Returns:
        Vectors of one entry per (row, positive): row, positive, negative (-1 where there is none).
    """
    backend = choose("draw", len(x), len(y), x.shape[1], backend)
    ids, y_ids = labels.long(), y_labels.long()
    run = _draw_op if torch.compiler.is_compiling() else _draw
    columns = None if y is x else y.detach()
    row, positive, negative = run(
        x.detach(), ids, columns, y_ids, offset, seeds, dimension, cutoff, limit, width, backend
    )
    return row, positive, negative


def _draw(
    x: Tensor,
    labels: Tensor,
    y: Tensor | None,
    y_labels: Tensor,
    offset: int | None,
    seeds: Tensor,
    dimension: int,
    cutoff: float,
    limit: float,
    width: int | None,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    y = x if y is None else y
    with torch.autocast(x.device.type, enabled=False):
        if x.numel() == 0 or y.numel() == 0:
            row = torch.arange(len(x), device=x.device).repeat_interleave(width or 0)
            return row, torch.full_like(row, -1), torch.full_like(row, -1)
        run = reference_draw if backend == "reference" else streaming_draw
        return run(x, y, labels, y_labels, offset, seeds, (dimension, cutoff, limit), width)


_draw_op = torch.library.custom_op("siameselib::draw", _draw, mutates_args=())


@_draw_op.register_fake
def _(
    x: Tensor,
    labels: Tensor,
    y: Tensor | None,
    y_labels: Tensor,
    offset: int | None,
    seeds: Tensor,
    dimension: int,
    cutoff: float,
    limit: float,
    width: int | None,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    pairs = torch.library.get_ctx().new_dynamic_size() if width is None else len(x) * width
    row, positive, negative = (labels.new_empty(pairs) for _ in range(3))
    return row, positive, negative


def reference_draw(
    x: Tensor,
    y: Tensor,
    labels: Tensor,
    y_labels: Tensor,
    offset: int | None,
    seeds: Tensor,
    sphere: tuple[int, float, float],
    width: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Dense: :func:`draw` as it is defined."""
    m = len(y)
    same, other = same_and_other(labels, y_labels, offset)
    most = int(same.sum(1).max()) if width is None else width
    columns = torch.where(same, torch.arange(m, device=x.device), m).sort(1).values
    columns = torch.nn.functional.pad(columns, (0, most), value=m)[:, :most]
    weight = _weights(squared(x[:, None], y), other, *sphere)
    negative = _choose(weight, uniform(seeds, most))
    row = torch.arange(len(x), device=x.device).repeat_interleave(most)
    return _taken(row, columns, negative, m, width)


def streaming_draw(
    x: Tensor,
    y: Tensor,
    labels: Tensor,
    y_labels: Tensor,
    offset: int | None,
    seeds: Tensor,
    sphere: tuple[int, float, float],
    width: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Blocks of rows: :func:`draw` without the matrix."""
    m, height = len(y), max(_LEAST_ROWS, SLAB // len(y))
    grouped = group(x, labels, y, y_labels, offset)
    most = int(grouped.positive_count().max()) if width is None else width
    found = []
    for first in range(0, len(x), height):
        rows = slice(first, first + height)
        index = grouped.rows[rows]
        # The columns are in their own order: draws do not depend on what the labels are called.
        square = (grouped.x[rows] @ y.T).mul_(-2).add_(2)
        weight = _weights(square, labels[index, None] != y_labels, *sphere)
        negative = _choose(weight, uniform(seeds[index], most))
        columns = grouped.positives(rows, most)
        original = torch.where(columns < m, grouped.columns[columns.clamp(max=m - 1)], m)
        found.append(_taken(index.repeat_interleave(most), original, negative, m, width))
    row, positive, negative = (torch.cat(parts) for parts in zip(*found, strict=True))
    row, order = row.sort(stable=True)
    return row, positive[order], negative[order]


def _taken(
    row: Tensor, columns: Tensor, negative: Tensor, m: int, width: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Mark the positives that are not there, or leave them out."""
    there, positive, negative = columns.flatten() < m, columns.flatten(), negative.flatten()
    if width is None:
        return row[there], positive[there], negative[there]
    return row, torch.where(there, positive, -1), torch.where(there, negative, -1)


def _weights(square: Tensor, other: Tensor, dimension: int, cutoff: float, limit: float) -> Tensor:
    """Turn squared distances into probabilities, up to a factor for each row."""
    a, b = (dimension - 2) / 2, (dimension - 3) / 2
    largest = -a * math.log(cutoff**2) - b * math.log1p(-(cutoff**2) / 4)
    square = square.clamp(min=cutoff**2)
    power = (square.log() * -a).sub_((square * -0.25).log1p_(), alpha=b).clamp_(max=largest)
    power = power.nan_to_num_(nan=largest)  # NaN is drawn, not passed over
    power = torch.where(other & ~(square >= limit**2), power, -torch.inf)
    top = power.amax(1, keepdim=True)
    return power.sub_(torch.where(top > -torch.inf, top, 0)).exp_()


def _choose(weight: Tensor, numbers: Tensor) -> Tensor:
    """Draw a column of each row for each of its numbers in [0, 1), -1 where all weights are 0."""
    total = weight.cumsum(1, dtype=torch.float64)
    column = torch.searchsorted(total, numbers * total[:, -1:], right=True)
    column = column.clamp(max=weight.shape[1] - 1)
    return torch.where(weight.gather(1, column) > 0, column, -1)


def uniform(seeds: Tensor, count: int) -> Tensor:
    """Make ``count`` random numbers from each seed.

    A seed is a place in the period of the generator SplitMix64 (Steele, Lea and Flood, 2014).

    Args:
        seeds: (n,) int64.
        count: how many.

    Returns:
        (n, count) float64 in [0, 1).
    """
    steps = torch.arange(1, count + 1, device=seeds.device)
    bits = seeds[:, None] + steps * -0x61C8864680B583EB
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        bits = (bits ^ _shifted(bits, shift)) * factor
    bits ^= _shifted(bits, 31)
    return _shifted(bits, 11).double() * 2.0**-53


def _shifted(bits: Tensor, by: int) -> Tensor:
    return (bits >> by) & ((1 << (64 - by)) - 1)
