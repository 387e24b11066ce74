"""The packed cache: the right pixels, rebuilt when it must be, whole or not at all."""

import errno
import io
import json
import shutil
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate

from siameselib.data import (
    PackedImages,
    bad_images,
    decode_image,
    identity,
    open_folder,
    open_lfw,
    pack,
)
from siameselib.data.packed import NotAPack


@pytest.fixture
def images(small_lfw, tmp_path):
    """A folder of LFW that may be spoilt."""
    return shutil.copytree(small_lfw / "images", tmp_path / "copy") / "lfw-deepfunneled"


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def pixels(data):
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def png(array):
    data = io.BytesIO()
    Image.fromarray(array).save(data, "PNG")
    return data.getvalue()


@pytest.mark.parametrize(("size", "crop"), [(64, 150), (40, 100), (32, None), (160, 150)])
def test_crop_and_resize_are_torchs(make_photo, size, crop):
    whole = pixels(make_photo(3))
    side = crop or 250
    start = (250 - side) // 2
    square = torch.from_numpy(whole[start : start + side, start : start + side].copy())
    expected = interpolate(
        square.permute(2, 0, 1)[None].double(), (size, size), mode="bicubic", antialias=True
    )
    got = torch.from_numpy(decode_image(make_photo(3), size=size, crop=crop).copy())
    assert got.dtype == torch.uint8
    error = (got.permute(2, 0, 1) - expected[0].clamp(0, 255)).abs()
    assert error.max() <= 1.5  # Pillow rounds to bytes twice, after rows and after columns
    assert error.mean() <= 0.5


def test_a_crop_of_the_same_size_is_the_middle_itself(make_photo):
    whole = pixels(make_photo(4))
    assert np.array_equal(decode_image(make_photo(4), size=150), whole[50:200, 50:200])


def test_resizing_is_antialiased():
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    small = decode_image(png(stripes), size=32, crop=None)[4:-4, 4:-4]
    assert small.min() > 110
    assert small.max() < 145


def test_grey_palette_alpha_and_turned_images(make_photo):
    with Image.open(io.BytesIO(make_photo(5))) as photo:
        upright = np.asarray(photo)
        for mode in ("L", "P", "RGBA", "CMYK"):
            data = io.BytesIO()
            photo.convert(mode).save(data, "TIFF")
            assert decode_image(data.getvalue(), size=8).shape == (8, 8, 3)
        data = io.BytesIO()
        exif = Image.Exif()
        exif[0x0112] = 6  # turned by 90°
        photo.rotate(90).save(data, "PNG", exif=exif)
    assert np.array_equal(decode_image(data.getvalue(), size=250, crop=None), upright)


@pytest.mark.parametrize("where", ["images", "tar", "tgz"])
@pytest.mark.parametrize("workers", [1, 3])
def test_pack(small_lfw, cache, where, workers):
    source = open_lfw(small_lfw / where)
    packed = pack(source, cache, size=16, workers=workers)
    assert packed.names == source.names
    assert packed.identities == [identity(name) for name in source.names]
    assert packed.labels.dtype == np.int64
    assert [sorted(set(packed.identities))[label] for label in packed.labels] == packed.identities
    assert packed.index == {name: row for row, name in enumerate(packed.names)}
    assert (packed.size, packed.crop, packed.skipped, len(packed)) == (16, 150, [], 24)
    assert isinstance(packed.images, np.memmap)
    assert (packed.images.dtype, packed.images.shape) == (np.uint8, (24, 16, 16, 3))
    assert not packed.images.flags.writeable
    for row, name in enumerate(packed.names):
        assert np.array_equal(packed.images[row], decode_image(source.read(name), size=16))
    assert repr(packed) == "PackedImages(24 images of 10 people, 16×16)"
    assert [file.name for file in cache.iterdir()] == [packed.path.name]


def test_torch_reads_the_rows(small_lfw, cache):
    packed = pack(open_lfw(small_lfw / "tar"), cache, size=8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch: the map is read-only
        rows = torch.from_numpy(packed.images)[torch.tensor([3, 1])]
    assert np.array_equal(rows.numpy(), packed.images[[3, 1]])


def test_an_up_to_date_pack_is_opened_not_made(small_lfw, cache, monkeypatch):
    made = pack(open_lfw(small_lfw / "tar"), cache, size=8)
    monkeypatch.setattr("siameselib.data.packed.decode_image", None)
    before = made.path.stat().st_mtime_ns
    again = pack(open_lfw(small_lfw / "tgz"), cache, size=8)
    assert again.path.stat().st_mtime_ns == before
    assert np.array_equal(again.images, made.images)


def test_it_is_made_anew_when_anything_differs(images, cache, monkeypatch):
    made = pack(open_lfw(images), cache, size=8)
    names = {made.path.name}
    for changes in ({"size": 9}, {"crop": 100}, {"crop": None}, {"format": "jpeg"}):
        packed = pack(open_lfw(images), cache, **{"size": 8, **changes})
        assert packed.path.name not in names
        names.add(packed.path.name)
    shutil.copy(images / "Bea" / "Bea_0001.jpg", images / "Lin_Bo" / "Lin_Bo_0001.jpg")
    changed = pack(open_lfw(images), cache, size=8)
    assert changed.path == made.path
    row = changed.index["Lin_Bo_0001"]
    assert np.array_equal(changed.images[row], changed.images[changed.index["Bea_0001"]])
    monkeypatch.setattr("siameselib.data.packed.VERSION", 2)
    assert pack(open_lfw(images), cache, size=8).manifest != {}
    monkeypatch.setattr("siameselib.data.packed.VERSION", 1)
    with pytest.raises(NotAPack, match="be a pack of version 1, got 2"):
        PackedImages.open(made.path)


def test_the_old_pack_outlives_its_replacement(images, cache):
    old = pack(open_lfw(images), cache, size=8)
    before = old.images[0].copy()
    shutil.copy(images / "Bea" / "Bea_0001.jpg", images / "Ada_Byron" / "Ada_Byron_0001.jpg")
    new = pack(open_lfw(images), cache, size=8)
    assert np.array_equal(old.images[0], before)
    assert not np.array_equal(new.images[0], before)


def test_jpeg_pack(small_lfw, cache):
    source = open_lfw(small_lfw / "tar")
    raw = pack(source, cache, size=64)
    packed = pack(source, cache, size=64, format="jpeg")
    assert packed.path.stat().st_size < raw.path.stat().st_size / 4
    assert packed.images.shape == raw.images.shape
    assert packed.images.dtype == np.uint8
    assert not packed.images.flags.writeable
    error = packed.images.astype(int) - raw.images
    assert np.abs(error).mean() < 3
    assert (packed.names, packed.manifest["fingerprint"]) == (raw.names, source.fingerprint)


@pytest.mark.parametrize("format", ["raw", "jpeg"])
def test_a_pack_works_elsewhere(small_lfw, cache, tmp_path, format):
    packed = pack(open_lfw(small_lfw / "tar"), cache, size=8, format=format)
    moved = shutil.copy(packed.path, tmp_path / "renamed")
    again = PackedImages.open(moved)
    assert np.array_equal(again.images, packed.images)
    assert again.names == packed.names
    data = moved.read_bytes()
    for path in (str(cache), str(small_lfw)):
        assert path.encode() not in data
    length = int.from_bytes(data[-8:], "little")
    assert data[-16:-8] == b"siamese\x01"
    assert json.loads(data[-16 - length : -16]) == packed.manifest


def test_damaged_packs_are_refused_and_made_anew(small_lfw, cache):
    source = open_lfw(small_lfw / "tar")
    packed = pack(source, cache, size=8)
    pixels, data = packed.images.copy(), packed.path.read_bytes()
    del packed.images  # unmap: the file is cut in place below
    for damaged in (data[:-1], data[:100], b"", data[10:], data + b"x", b"x" * 1000):
        packed.path.write_bytes(damaged)
        with pytest.raises(NotAPack, match=r"be a whole pack, got .*pack"):
            PackedImages.open(packed.path)
        assert np.array_equal(pack(source, cache, size=8).images, pixels)
        assert packed.path.read_bytes() == data
    with pytest.raises(FileNotFoundError):
        PackedImages.open(cache / "nowhere.pack")


@pytest.fixture
def spoilt(images, make_photo):
    """Five bad images among the good ones."""
    whole = make_photo(0)
    (images / "Bea" / "Bea_0001.jpg").write_bytes(whole[: len(whole) // 2])
    (images / "Lin_Bo" / "Lin_Bo_0001.jpg").write_bytes(b"<html>not found</html>")
    (images / "Ada_Byron" / "Ada_Byron_0002.jpg").write_bytes(b"")
    (images / "Ada_Byron" / "Ada_Byron_0003.jpg").write_bytes(make_photo(1, side=200))
    (images / "Mary_Ward" / "Mary_Ward_0002.jpg").unlink()
    (images / "Mary_Ward" / "notes.txt").write_text("hello")
    return images


REASONS = [
    r"Mary_Ward/notes\.txt: not an image",
    r"Mary_Ward_0002: missing",
    r"Ada_Byron_0002: empty file",
    r"Ada_Byron_0003: 200×200 pixels instead of 250×250",
    r"Bea_0001: truncated or damaged image \(.*truncated.*\)",
    r"Lin_Bo_0001: not an image",
]


def test_bad_files_are_all_listed(spoilt, cache):
    with pytest.raises(ValueError, match="pack: 6 of 24 images of lfw-deepfunneled") as info:
        pack(open_lfw(spoilt), cache, size=8)
    lines = str(info.value).splitlines()[1:]
    assert len(lines) == len(REASONS)
    for reason in REASONS:
        info.match(reason)
    assert list(cache.iterdir()) == []
    assert bad_images(open_lfw(spoilt)) == [line.strip() for line in lines]


def test_bad_files_are_left_out_on_request(spoilt, cache):
    packed = pack(open_lfw(spoilt), cache, size=8, skip_bad=True)
    assert len(packed) == 24 - 5
    assert len(packed.skipped) == 6
    assert "Bea_0001" not in packed.index
    source = open_lfw(spoilt)
    for name in packed.names:
        expected = decode_image(source.read(name), size=8)
        assert np.array_equal(packed.images[packed.index[name]], expected)
    assert pack(open_lfw(spoilt), cache, size=8, skip_bad=True).skipped == packed.skipped
    with pytest.raises(ValueError, match="6 of 24"):
        pack(open_lfw(spoilt), cache, size=8)
    assert len(PackedImages.open(packed.path)) == 19


def test_a_damaged_png_and_a_huge_one(tmp_path, cache, make_photo):
    (tmp_path / "faces" / "anna").mkdir(parents=True)
    whole = png(pixels(make_photo(2)))
    (tmp_path / "faces" / "anna" / "1.png").write_bytes(whole)
    (tmp_path / "faces" / "anna" / "2.png").write_bytes(whole[: len(whole) // 2])
    huge = bytearray(whole)
    huge[16:24] = (60000).to_bytes(4, "big") * 2
    (tmp_path / "faces" / "anna" / "3.png").write_bytes(huge)
    with pytest.raises(ValueError, match="2 of 3 images of faces") as info:
        pack(open_folder(tmp_path / "faces"), cache, size=8, crop=None)
    info.match("anna/2: truncated or damaged image")
    info.match("anna/3: truncated or damaged image")


def test_all_bad_is_an_error_even_when_skipping(tmp_path, cache):
    (tmp_path / "faces" / "anna").mkdir(parents=True)
    (tmp_path / "faces" / "anna" / "1.png").write_bytes(b"x")
    with pytest.raises(ValueError, match="source must hold a whole image"):
        pack(open_folder(tmp_path / "faces"), cache, size=8, skip_bad=True)


def test_own_faces_of_any_size(tmp_path, cache, make_photo):
    for k, side in enumerate((40, 90, 200)):
        (tmp_path / "faces" / f"p{k}").mkdir(parents=True)
        (tmp_path / "faces" / f"p{k}" / "me.jpg").write_bytes(make_photo(k, side=side))
    packed = pack(open_folder(tmp_path / "faces"), cache, size=32, crop=None)
    assert packed.names == ["p0/me", "p1/me", "p2/me"]
    assert packed.crop is None
    with pytest.raises(ValueError, match="p0/me: 40×40 pixels, smaller than the crop of 50"):
        pack(open_folder(tmp_path / "faces"), cache, size=32, crop=50)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size must be at least 1, got 0"),
        ({"crop": -1}, "crop must be at least 1, got -1"),
        ({"crop": 300}, "crop must be at most 250, got 300"),
        ({"format": "png"}, "format must be one of 'raw', 'jpeg', got 'png'"),
        ({"workers": 0}, "workers must be at least 1, got 0"),
    ],
)
def test_options(small_lfw, cache, options, message):
    with pytest.raises(ValueError, match=f"pack: {message}"):
        pack(open_lfw(small_lfw / "tar"), cache, **options)


def test_a_full_disk_leaves_nothing(small_lfw, cache, small_disk):
    source = open_lfw(small_lfw / "tar")
    small = pack(source, cache, size=8)
    small_disk(50_000)
    with pytest.raises(OSError, match=r"lfw-deepfunneled-64px.*\.pack") as info:
        pack(source, cache, size=64)
    assert info.value.errno == errno.EFBIG
    assert list(cache.iterdir()) == [small.path]


def test_ctrl_c_leaves_nothing(small_lfw, cache, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("siameselib.data.packed.decode_image", interrupt)
    with pytest.raises(KeyboardInterrupt):
        pack(open_lfw(small_lfw / "tar"), cache, size=8)
    assert list(cache.iterdir()) == []


@pytest.mark.lfw
def test_the_real_lfw_as_jpeg_stays_under_60_mb(real_source, cache):
    tenth = real_source.names[::10]
    sample = replace(real_source, entries={name: real_source.entries[name] for name in tenth})
    packed = pack(sample, cache, size=128, format="jpeg")
    assert packed.skipped == []
    assert packed.path.stat().st_size / len(tenth) * 13233 < 60e6
