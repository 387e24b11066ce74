"""What the Triton kernels share, in Triton's interpreter."""

import pytest
import torch
import triton
import triton.language as tl

from siameselib.kernels.blocks import group
from siameselib.kernels.tiles_triton import (
    Shape,
    band,
    bounds,
    dots,
    filled,
    padded,
    part,
    parts,
    products,
    pure,
    tile,
)


@triton.jit
def _multiply(x, y, out, WIDTH: tl.constexpr, CHUNK: tl.constexpr, UPCAST: tl.constexpr):
    if CHUNK == WIDTH:
        found = dots(tile(x, 1, 16, WIDTH), tile(y, 2, 32, WIDTH), UPCAST, "ieee")
    else:
        found = products(x, y, 1, 2, 16, 32, WIDTH, CHUNK, UPCAST, "ieee")
    tl.store(out + tl.arange(0, 16)[:, None] * 32 + tl.arange(0, 32)[None, :], found)


@pytest.mark.parametrize("chunk", [16, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_of_tiles(dtype, chunk):
    x, y = torch.randn(30, 61), torch.randn(70, 61)
    padded_x, padded_y = padded(x, 16, 64, dtype), padded(y, 32, 64, dtype)
    out = torch.full((16, 32), torch.nan)
    options = Shape(16, 32, chunk, warps=4, stages=2).options()
    _multiply[(1,)](padded_x, padded_y, out, 64, chunk, dtype == torch.bfloat16, **options)
    expected = x[16:].to(dtype).double() @ y[64:].to(dtype).double().T
    assert (out[:14, :6] - expected).abs().max() < 1e-5
    assert not out[14:].any() and not out[:, 6:].any()


@triton.jit
def _visit(start, end, pure_count, band_count, column_tiles, PARTS: tl.constexpr):
    row_tile, number = tl.program_id(0), tl.program_id(1)
    first, last = part(column_tiles, number, PARTS)
    low, high = band(start, end, row_tile, first, last, 16, 32)
    for k in range(last - first - (high - low)):
        at = row_tile * column_tiles + pure(k, first, low, high)
        tl.store(pure_count + at, tl.load(pure_count + at) + 1)
    for k in range(low, high):
        at = row_tile * column_tiles + k
        tl.store(band_count + at, tl.load(band_count + at) + 1)


@pytest.mark.parametrize("several", [1, 2, 3, 16])
@pytest.mark.parametrize("classes", [1, 2, 11, 300])
def test_every_tile_once_and_positives_in_the_band(classes, several):
    n, m = 70, 300
    x, y = torch.zeros(n, 1), torch.zeros(m, 1)
    labels, y_labels = torch.randint(0, classes, (n,)), torch.randint(0, classes, (m,))
    grouped = group(x, labels, y, y_labels, None)
    row_tiles, column_tiles = triton.cdiv(n, 16), triton.cdiv(m, 32)
    pure_count, band_count = torch.zeros(2, row_tiles, column_tiles, dtype=torch.int32)
    _visit[(row_tiles, several)](
        *bounds(grouped, 16), pure_count, band_count, column_tiles, several
    )
    assert (pure_count + band_count == 1).all()
    same = labels.sort().values[:, None] == y_labels.sort().values
    same = torch.nn.functional.pad(same, (0, -m % 32, 0, -n % 16))
    has_positive = same.view(row_tiles, 16, column_tiles, 32).any(3).any(1)
    assert not (has_positive & (pure_count == 1)).any()
    if classes == 300:
        assert pure_count.sum() > band_count.sum()


def test_filled():
    assert filled(torch.tensor([3, 5]), 4).tolist() == [3, 5, 5, 5]
    assert filled(torch.tensor([3.0, 5.0]), 2, torch.inf).tolist() == [3.0, 5.0]
    assert filled(torch.tensor([3.0]), 2, torch.inf).tolist() == [3.0, torch.inf]


@pytest.mark.parametrize(
    ("row_tiles", "column_tiles", "expected"),
    [
        (4, 4, 4),  # no more parts than tiles
        (1, 1000, 16),  # nor than may be
        (132, 1000, 1),  # all at work
        (256, 1000, 1),  # nearly all
        (140, 1000, 6),  # 8 alone would double the time
    ],
)
def test_parts(row_tiles, column_tiles, expected):
    assert parts(row_tiles, column_tiles, 132) == expected
