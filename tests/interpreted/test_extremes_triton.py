"""Mining by the Triton kernels, in Triton's interpreter, against the dense reference."""

import pytest
import torch

import siameselib as sl
from siameselib.kernels import extremes, extremes_triton
from siameselib.kernels.blocks import group, squared
from siameselib.kernels.screen_triton import rounded, screen
from siameselib.kernels.tiles_triton import Shape

SMALL = Shape(16, 32, chunk=16, warps=4, stages=2)  # several tiles and parts of a small batch


pytestmark = pytest.mark.usefixtures("poisoned")


def same_indices(x, labels, y=None, y_labels=None, offset=0, easy=False):
    """Compare with float64, where columns within rounding of float32 count as equal."""
    y, y_labels = (x, labels) if y is None else (y, y_labels)
    found = extremes.hardest(x, labels, y, y_labels, offset, "triton", easy)
    true = squared(x.double()[:, None], y.double())
    same, other = extremes.same_and_other(labels, y_labels, offset)
    for index, allowed, sign in zip(found, (same, other), (1 if easy else -1, 1), strict=True):
        best = torch.where(allowed, sign * true, torch.inf).amin(1)
        assert torch.equal(index >= 0, allowed.any(1))
        there = index >= 0
        row = torch.arange(len(x))[there]
        assert allowed[row, index[there]].all()
        off = sign * true[row, index[there]] - best[there]
        assert (off <= 1e-6 * best[there].abs()).all()
    return found


@pytest.mark.parametrize(
    ("n", "d", "classes"), [(1, 3, 1), (37, 20, 5), (40, 33, 3), (40, 128, 15), (270, 5, 90)]
)
def test_finds_the_hardest(n, d, classes):
    x, labels = torch.randn(n, d), torch.randint(0, classes, (n,))
    same_indices(x, labels)


@pytest.mark.parametrize("labels", ["one", "singletons"])
def test_batches_without_triplets(labels):
    labels = torch.zeros(40).long() if labels == "one" else torch.randperm(40)
    positive, negative = same_indices(torch.randn(40, 8), labels)
    assert (positive < 0).all() or (negative < 0).all()


@pytest.mark.parametrize("offset", [None, 5])
def test_rows_and_columns_differ(offset):
    x, labels = torch.randn(30, 12), torch.randint(0, 9, (30,))
    y, y_labels = torch.randn(150, 12), torch.randint(0, 12, (150,))
    if offset is not None:
        y[offset : offset + 30], y_labels[offset : offset + 30] = x, labels
    same_indices(x, labels, y, y_labels, offset)
    same_indices(x, labels, y, y_labels, offset, easy=True)


@pytest.mark.parametrize("kind", ["duplicates", "whole", "zero rows", "collapsed"])
def test_equal_columns_go_to_the_lowest(kind):
    x, labels = torch.randn(60, 8), torch.randint(0, 12, (60,))
    if kind == "duplicates":
        x = x[torch.randint(0, 30, (60,))]
    elif kind == "whole":
        x = torch.randint(-2, 3, (60, 8)).float()
    elif kind == "zero rows":
        x[::3] = 0
    else:
        x = x[:1].expand(60, 8).contiguous()
    for easy in (False, True):
        found = extremes.hardest(x, labels, x, labels, 0, "triton", easy)
        expected = extremes.hardest(x.double(), labels, x.double(), labels, 0, "reference", easy)
        for mine, theirs in zip(found, expected, strict=True):
            if kind in ("whole", "collapsed"):  # every difference is exact
                assert torch.equal(mine, theirs)
            else:
                where = mine != theirs
                row = torch.arange(60)[where]
                difference = (
                    squared(x[row], x[mine[where]]) - squared(x[row], x[theirs[where]])
                ).abs()
                assert (difference > 0).all() and (difference < 1e-5).all()


@pytest.mark.parametrize("scale", [1e-25, 1e-3, 1e20])
@pytest.mark.parametrize("shift", [0, 100])
def test_scales(scale, shift):
    x = (torch.randn(30, 24) + shift) * scale
    labels = torch.arange(30) // 4
    found = extremes.hardest(x, labels, x, labels, 0, "triton")
    expected = extremes.hardest(x.double(), labels, x.double(), labels, 0, "reference")
    assert all(map(torch.equal, found, expected))


def test_an_outlier_widens_only_its_own_tile():
    x, labels = torch.randn(200, 24), torch.arange(200) // 4
    mean = []
    for scale in (1, 300):
        x[3] *= scale
        grouped = group(x, labels, x, labels, 0)
        kept = screen(grouped, "exact", SMALL._replace(chunk=32), several=1)
        mean.append(kept.tiles[0, 16:200].float().mean())
    assert (
        mean[0] < 4 and mean[1] < mean[0] + 1.5
    )  # its own tile, and by how much it moves the mean


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_nan_is_found():
    x, labels = torch.randn(40, 8), torch.arange(40) // 5
    x[7, 2], x[22, 1] = torch.nan, torch.inf
    positive, negative = extremes.hardest(x, labels, x, labels, 0, "triton")
    assert (positive >= 0).all() and (negative >= 0).all()
    assert not x[negative].isfinite().all(1)[(labels != 1) & (labels != 4)].any()
    criterion = sl.BatchHardTripletLoss(backend="triton")
    x[22, 1] = 0
    assert criterion(x, labels).isnan()


@pytest.mark.parametrize("several", [1, 3])
@pytest.mark.parametrize("capacity", [32, 1])
def test_parts_and_little_room(several, capacity):
    x, labels = torch.randn(70, 30), torch.arange(70) // 5
    grouped = group(x, labels, x, labels, 0)
    kept = screen(grouped, "exact", SMALL, several, capacity, grain=8)
    assert kept.entry.shape == (several, 80, capacity)
    result = extremes_triton.settle(grouped, kept)
    assert capacity == 32 or several > 1 or (result == -2).sum() > 30
    assert torch.equal(result == -2, (kept.tiles.amax(0) > capacity)[:70])
    extremes_triton.by_difference(grouped, result)
    expected = extremes.reference_hardest(x, x, labels, labels, 0)[1]
    assert torch.equal(result, expected[grouped.rows])


def test_screening_is_certified():
    x = torch.randn(130, 33)
    y = torch.cat([x[:70] + 1e-3 * torch.randn(70, 33), 3 * torch.randn(61, 33)])
    low = rounded(y, y.mean(0), 32, 32, torch.bfloat16)
    assert low.x.shape == (160, 32) and low.half[131:].isinf().all()
    centred = (y - y.mean(0)).double()
    back = torch.nn.functional.pad(low.x[:131].double(), (0, 1))
    assert ((centred - back).norm(dim=1) <= low.lost[:131]).all()
    assert (low.lost[:131] <= 1.01 * (centred - back).norm(dim=1)).all()


def test_precisions():
    far = torch.randn(2, 20)
    x = far[torch.arange(48) % 2] + 1e-2 * torch.randn(48, 20)
    labels = torch.arange(48) // 2
    grouped = group(x, labels, x, labels, 0)
    right = extremes.reference_hardest(x, x, labels, labels, 0)[1][grouped.rows]
    missed = {}
    for precision in ("exact", "tf32", "fast"):
        kept = screen(grouped, precision, SMALL._replace(chunk=32), several=1, grain=8)
        negative = extremes_triton.settle(grouped, kept)
        missed[precision] = (negative != right).sum().item()
        chosen = squared(grouped.x, x[negative])
        assert (chosen <= squared(grouped.x, x[right]) + 1e-2).all()
    assert missed["exact"] == 0
    assert missed["tf32"] <= 2  # the interpreter multiplies float32 as it is
    assert missed["fast"] >= 10
    with sl.use_backend("triton", precision="fast"):
        negative = sl.BatchHardMiner()(x, labels).negative
    assert (negative != sl.BatchHardMiner(backend="reference")(x, labels).negative).any()


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_loss_and_miner(metric):
    labels = torch.arange(40) // 4
    losses, gradients = [], []
    for backend in ("reference", "triton"):
        x = torch.randn(40, 32, generator=torch.Generator().manual_seed(3)).requires_grad_()
        loss = sl.BatchHardTripletLoss(metric=metric, backend=backend)(x, labels)
        loss.backward()
        losses.append(loss.detach())
        gradients.append(x.grad)
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*gradients)
    half = x.detach().bfloat16()
    mined = sl.BatchHardMiner(metric=metric, backend="triton")(half, labels)
    expected = sl.BatchHardMiner(metric=metric, backend="reference")(half, labels)
    assert all(map(torch.equal, mined, expected))
