"""Augmentation: what it does to images whose every pixel tells where it came from."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from siameselib.data.augment import Augment, prepare

OFF = {"flip": False, "shift": 0.0, "scale": 0.0, "rotate": 0.0, "colour": 0.0}


def noise(n=4, h=16, w=16, c=3):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (n, h, w, c), np.uint8))


def ramps(n, side):
    """Channel 0 is the column, channel 1 the row, channel 2 a pattern."""
    column = torch.arange(side, dtype=torch.uint8).expand(side, side)
    pattern = noise(1, side, side, 1)[0, :, :, 0]
    return torch.stack([column, column.T, pattern], 2).expand(n, side, side, 3)


def levels(x):
    """Back to 0 … 255, float64."""
    return (x.double() * 0.25 + 0.45) * 255


def maps(out, side):
    """The affine map of each image, read off its ramps: (n, 2, 3), in pixels from the centre."""
    margin = side // 4  # what is reflected is not affine
    middle = levels(out)[:, :2, margin:-margin, margin:-margin].flatten(2)
    at = torch.arange(side, dtype=torch.float64)[margin:-margin] - (side - 1) / 2
    y, x = torch.meshgrid(at, at, indexing="ij")
    basis = torch.stack([x.flatten(), y.flatten(), torch.ones(x.numel())], 1)
    source = middle.mT - (side - 1) / 2
    fit = torch.linalg.lstsq(basis.expand(len(out), -1, -1), source).solution
    assert (basis @ fit - source).abs().max() < 1e-3
    return fit.mT


@pytest.mark.parametrize("c", [1, 3])
def test_prepare_is_the_stated_normalisation(c):
    images = noise(c=c)
    want = (images.numpy().transpose(0, 3, 1, 2) / 255.0 - 0.45) / 0.25
    np.testing.assert_allclose(prepare(images), want, atol=1e-6)
    torch.testing.assert_close(prepare(images.permute(0, 3, 1, 2)), prepare(images))
    assert prepare(images).dtype == torch.float32
    assert prepare(images).is_contiguous(memory_format=torch.channels_last)


def test_prepare_shrinks_by_averaging():
    images = noise(h=32, w=32)
    want = torch.nn.functional.avg_pool2d(prepare(images), 2)
    torch.testing.assert_close(prepare(images, 16), want, atol=1e-5, rtol=0)


def test_prepare_sees_the_middle():
    images = noise(h=32, w=32)
    want = prepare(images[:, 8:24, 8:24])
    torch.testing.assert_close(prepare(images, 16, view=0.5), want, atol=1e-4, rtol=0)


def test_prepare_beyond_the_border_sees_its_reflection():
    images = noise(h=32, w=32)
    padded = np.pad(images.numpy(), ((0, 0), (4, 4), (4, 4), (0, 0)), mode="symmetric")
    want = prepare(torch.from_numpy(padded))
    torch.testing.assert_close(prepare(images, 40, view=1.25), want, atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="view must be above 0, at most 2, got 2"):
        prepare(images, view=2.5)


@pytest.mark.parametrize(("size", "view"), [(None, 1.0), (8, 1.0), (24, 1.0), (12, 0.8)])
def test_without_strength_it_is_prepare(size, view):
    images = noise()
    augment = Augment(size, view=view, **OFF)
    assert augment(images).equal(prepare(images, size, view=view))
    assert augment.prepare(images).equal(prepare(images, size, view=view))


def test_flip_is_exact_and_fair():
    images = noise(1).expand(400, -1, -1, -1)
    out = Augment(**{**OFF, "flip": True})(images)
    plain = prepare(images[:1])
    flipped = (out == plain.flip(3)).flatten(1).all(1)
    kept = (out == plain).flatten(1).all(1)
    assert (flipped ^ kept).all()
    assert 150 < flipped.sum() < 250


def test_geometry_stays_in_its_range_and_uses_it():
    torch.manual_seed(0)
    side, n = 40, 500
    out = Augment(**{**OFF, "shift": 0.05, "scale": 0.2, "rotate": 0.3})(ramps(n, side))
    a = maps(out, side)
    zoom = (a[:, 0, 0] * a[:, 1, 1] - a[:, 0, 1] * a[:, 1, 0]).sqrt()
    turn = torch.atan2(a[:, 1, 0], a[:, 0, 0])
    torch.testing.assert_close(a[:, 0, 0], a[:, 1, 1], atol=1e-3, rtol=0)
    torch.testing.assert_close(a[:, 0, 1], -a[:, 1, 0], atol=1e-3, rtol=0)
    drawn = (((zoom - 1), 0.2), (turn, 0.3), (a[:, 0, 2], 0.05 * side), (a[:, 1, 2], 0.05 * side))
    for values, limit in drawn:
        assert values.abs().max() <= limit * 1.001
        assert values.max() > 0.95 * limit
        assert values.min() < -0.95 * limit
        assert values.mean().abs() < 0.1 * limit
    assert np.abs(np.corrcoef([v.numpy() for v, _ in drawn]) - np.eye(4)).max() < 0.2


def test_sampling_is_bilinear_with_reflection_as_scipy_has_it():
    side = 24
    images = ramps(6, side)
    out = Augment(**{**OFF, "shift": 0.1, "scale": 0.3, "rotate": 0.5})(images)
    for image, got, a in zip(images, levels(out), maps(out, side).numpy(), strict=True):
        at = np.arange(side) - (side - 1) / 2
        y, x = np.meshgrid(at, at, indexing="ij")
        source = a[:, 0, None, None] * x + a[:, 1, None, None] * y + a[:, 2, None, None]
        where = (source + (side - 1) / 2)[::-1]
        pattern = image[:, :, 2].numpy().astype(np.float64)
        want = ndimage.map_coordinates(pattern, where, order=1, mode="reflect")
        np.testing.assert_allclose(got[2], want, atol=0.1)


def test_colour_is_one_line_per_channel_within_its_range():
    torch.manual_seed(0)
    n, c = 400, 0.2
    images = noise(1).expand(n, -1, -1, -1)
    x = images[0].permute(2, 0, 1).double() / 255
    out = levels(Augment(**{**OFF, "colour": c})(images)) / 255
    flat, plain = out.flatten(2), x.flatten(1)
    about = plain - plain.mean(1, keepdim=True)
    slope = (flat * about).sum(2) / about.square().sum(1)
    offset = flat.mean(2) - slope * plain.mean(1)
    line = slope[..., None] * plain + offset[..., None]
    torch.testing.assert_close(line, flat, atol=1e-5, rtol=0)
    torch.testing.assert_close(slope, slope[:, :1].expand(n, 3), atol=1e-4, rtol=0)
    contrast = slope[:, 0]
    level = offset - (1 - slope) * x.mean()
    brightness = level.mean(1)
    tint = level - brightness[:, None]
    assert 0.7 <= contrast.min() < 0.72
    assert 1.28 < contrast.max() <= 1.3
    assert brightness.abs().max() <= 1.3 * c
    assert brightness.max() > 0.9 * c
    assert 0.04 < tint.abs().max() <= 0.3 * c * 4 / 3


def test_erasing_paints_one_rectangle():
    torch.manual_seed(0)
    n, side = 300, 40
    images = torch.full((n, side, side, 3), 115, dtype=torch.uint8)
    out = levels(Augment(**OFF, erase=0.5)(images)) / 255
    hole = ((out - 115 / 255).abs() > 1e-5).any(1)
    rows, columns = hole.any(2), hole.any(1)
    assert (hole == rows[:, :, None] & columns[:, None, :]).all()
    for line in (rows, columns):  # without gaps
        assert (line.long().diff(dim=1) == 1).sum(1).max() <= 1
    erased = hole.any(1).any(1)
    assert 110 < erased.sum() < 190
    for line in (rows[erased].sum(1), columns[erased].sum(1)):
        assert 5 <= line.min() <= 7
        assert 17 <= line.max() <= 19
    assert rows.any(0).all(), "everywhere"
    assert columns.any(0).all()
    assert out.min() >= 0
    assert out.max() <= 1
    for image, mask in zip(out[erased], hole[erased], strict=True):
        assert (image[:, mask] == image[:, mask][:, :1]).all()


def test_the_images_of_a_pair_are_drawn_independently():
    pair = noise(1).expand(2, -1, -1, -1)
    torch.manual_seed(0)
    out = torch.stack([Augment(erase=0.5)(pair) for _ in range(8)])
    assert not any(a.allclose(b, atol=1e-2) for a, b in out)
    side = 40
    a = maps(Augment(**{**OFF, "rotate": 0.3})(ramps(600, side)), side)[:, 1, 0]
    assert np.abs(np.corrcoef(a[0::2], a[1::2])[0, 1]) < 0.2


def test_same_generator_same_views_and_no_other_chance():
    images = noise(8)
    before = torch.random.get_rng_state()
    first, again, other = (
        Augment(12, erase=0.5, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    a, b, c = first(images), again(images), other(images)
    assert a.equal(b)
    assert not a.equal(c)
    assert not a.equal(first(images)), "the next views are new"
    assert torch.random.get_rng_state().equal(before)


@pytest.mark.parametrize("c", [1, 3])
def test_layouts_agree_and_the_input_is_left_alone(c):
    images = noise(c=c)
    copy = images.clone()

    def views(batch):
        return Augment(8, erase=1.0, generator=torch.Generator().manual_seed(0))(batch)

    assert views(images).equal(views(images.permute(0, 3, 1, 2).contiguous()))
    assert images.equal(copy)
    out = views(images)
    assert out.shape == (4, c, 8, 8)
    assert out.dtype == torch.float32
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_values_stay_within_the_stated_bounds():
    x = levels(Augment(erase=0.5)(noise(200))) / 255
    # contrast moves a value at most 0.3 beyond its range, brightness 0.2, tint 0.06
    assert x.min() >= -0.56
    assert x.max() <= 1.56
    assert x.max() > 1.05, "not clipped"


@pytest.mark.parametrize("size", [None, 8])
def test_an_empty_batch_stays_empty(size):
    assert Augment(size, erase=0.5)(noise(0)).shape == (0, 3, size or 16, size or 16)
    assert prepare(noise(0), size).shape == (0, 3, size or 16, size or 16)


def test_repr_tells_the_settings():
    assert repr(Augment(32, erase=0.1)) == (
        "Augment(32, flip=True, shift=0.04, scale=0.1, rotate=0.12, "
        "colour=0.2, erase=0.1, view=1.0)"
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 0}, "Augment: size must be positive and finite, got 0"),
        ({"shift": -0.1}, "Augment: shift must be from 0 to 1, got -0.1"),
        ({"scale": 10}, "Augment: scale must be from 0 to 1, got 10"),
        ({"rotate": float("nan")}, "Augment: rotate must be from 0 to 1, got nan"),
        ({"erase": 2}, "Augment: erase must be from 0 to 1, got 2"),
        ({"view": 0}, "Augment: view must be above 0, at most 1, got 0"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError) as error:
        Augment(**settings)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("images", "kind", "message"),
    [
        (np.zeros((1, 8, 8, 3)), TypeError, "images must be a torch.Tensor, got ndarray"),
        (torch.zeros(1, 8, 8, 3), TypeError, "images must be uint8, 0 to 255, got torch.float32"),
        (noise()[0], ValueError, r"images must have shape .* got \(16, 16, 3\)"),
        (noise(c=2), ValueError, r"images must have shape .* got \(4, 16, 16, 2\)"),
    ],
)
def test_bad_images_are_refused(images, kind, message):
    for where, call in (("Augment", Augment()), ("prepare", prepare)):
        with pytest.raises(kind, match=f"{where}: {message}"):
            call(images)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_nothing_waits_for_the_device():
    images = noise(16, 32, 32).cuda()
    augment = Augment(16, erase=0.5, view=0.9, generator=torch.Generator("cuda").manual_seed(0))
    augment(images)
    torch.cuda.set_sync_debug_mode("error")
    try:
        augment(images)
        augment.prepare(images)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    with pytest.raises(ValueError, match="images must be on the device of the generator, cuda"):
        augment(images.cpu())
