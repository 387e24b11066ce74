"""The terms of a tile, in Triton's interpreter, against float64."""

import torch
import triton
import triton.language as tl

from siameselib.kernels.terms_triton import softplus


@triton.jit
def _softplus(z, values, slopes, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    value, slope = softplus(tl.load(z + at))
    tl.store(values + at, value)
    tl.store(slopes + at, slope)


def test_softplus():
    z = torch.cat([torch.linspace(-86, 86, 2**15), torch.linspace(-2, 2, 2**15)])
    values, slopes = torch.empty_like(z), torch.empty_like(z)
    _softplus[(1,)](z, values, slopes, len(z))
    wide = z.double()
    exact, slope = torch.log1p(wide.exp()), wide.sigmoid()
    close = 4e-7 + 1e-7 * wide.abs()  # what float32 makes of z in the exponent
    assert ((values - exact).abs() <= close * exact).all()
    assert ((slopes - slope).abs() <= close * slope).all()
