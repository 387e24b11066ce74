"""Scores of everything against everything as one matrix product."""

import torch
from torch import Tensor

from siameselib.functional.distances import unit_rows

METRICS = ("euclidean", "sqeuclidean", "cosine")


def factors(x: Tensor, y: Tensor, metric: str) -> tuple[Tensor, Tensor, float]:
    """Two matrices with one row per embedding whose dot products rank the pairs.

    They are the cosines or, for the Euclidean metrics, -d²/2 in the unit that is returned.

    Args:
        x: embeddings of the one side.
        y: embeddings of the other side, or x itself.
        metric: one of `METRICS`.

    Shape:
        x: (n, d). y: (m, d). Result: (n, d or d + 2), (m, d or d + 2) and a number.

    Returns:
        The two matrices and the unit of length.
    """
    if metric == "cosine":
        left = unit_rows(x)
        return left, left if y is x else unit_rows(y), 1.0
    unit = _power_of_two(torch.maximum(x.abs().amax(), y.abs().amax()))
    left, right = x / unit, y / unit
    # Around the origin the distances are the same and rounding is smaller. The centre is coarse,
    # so that few-digit embeddings keep their ties.
    centre = right.mean(0)
    grid = _power_of_two((right - centre).abs().amax()) / 16
    centre = (centre / grid).round() * grid
    left, right = left - centre, right - centre
    left_half, right_half = (-side.square().sum(1, keepdim=True) / 2 for side in (left, right))
    left = torch.cat([left, left_half, torch.ones_like(left_half)], 1)
    right = torch.cat([right, torch.ones_like(right_half), right_half], 1)
    return left, right, float(unit)


def _power_of_two(value: Tensor) -> Tensor:
    """The next power of two, 1 for 0."""
    exponent = torch.frexp(value).exponent.clamp(-120, 120)
    return torch.ldexp(torch.ones_like(value), exponent)
