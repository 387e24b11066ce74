"""Rows of length 1, whatever the numbers in them."""

import torch
from torch import Tensor

_SAFE = 1e-15


def unit(x: Tensor) -> tuple[Tensor, Tensor]:
    """Scale each row to length 1.

    Returns:
        The (n, d) rows, zero where they are zero, and the (n, 1) factors that they were scaled
        by, 0 for zero rows.
    """
    if x.device.type == "cpu" and x.numel() and not torch.compiler.is_compiling():
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        least, most = (float(each) for each in length.detach().aminmax())
        if least > _SAFE and most < 1 / _SAFE:  # the squares are ordinary numbers, too
            return x / length, length.reciprocal()
    power = power_of_two(x)
    scaled = x * power
    length = torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)
    length = torch.where(length > 0, length, 1)
    return scaled / length, power / length


def power_of_two(x: Tensor) -> Tensor:
    """Return what brings each row's largest entry near 1, exactly; no gradient.

    Squares then neither overflow nor vanish. A zero row has 0, and so gets gradient 0.
    """
    largest = x.detach().abs().amax(-1, keepdim=True)
    exponent = torch.frexp(largest).exponent.clamp(-126, 126)
    return torch.ldexp(largest.sign(), -exponent)
