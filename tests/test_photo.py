"""Reading one photo: crop, upright, resize."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from siameselib.data.photo import read_photo


def test_central_square_by_hand():
    pixels = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
    np.testing.assert_array_equal(read_photo(pixels, size=6), pixels[:, 1:7])
    np.testing.assert_array_equal(read_photo(pixels, size=2, crop=1 / 3), pixels[2:4, 3:5])


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 20), st.floats(0.2, 1))
def test_any_size_gives_the_square(height, width, size, crop):
    pixels = np.full((height, width, 3), 77, dtype=np.uint8)
    if round(crop * min(height, width)) >= 1:
        out = read_photo(pixels, size=size, crop=crop)
        assert out.shape == (size, size, 3)
        assert (out == 77).all()


def test_exif_rotation_and_palette_images(tmp_path):
    tall = np.zeros((20, 20, 3), dtype=np.uint8)
    tall[:10] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # stored upside down
    Image.fromarray(tall[::-1, ::-1]).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_photo(tmp_path / "a.png", size=20), tall)
    Image.fromarray(tall).convert("P").save(tmp_path / "b.gif")
    np.testing.assert_array_equal(read_photo(tmp_path / "b.gif", size=20), tall)


@pytest.mark.parametrize("crop", [0, 1.5, -1])
def test_crop_out_of_range(crop):
    with pytest.raises(ValueError, match="crop must lie in"):
        read_photo(np.zeros((8, 8, 3), dtype=np.uint8), size=8, crop=crop)
