"""One photo, from whatever a user has in hand, as the square of pixels that a model takes."""

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from siameselib import _check

if TYPE_CHECKING:
    from PIL.Image import Image


def read_photo(photo: object, *, size: int, crop: float = 1.0) -> NDArray[np.uint8]:
    """Crop the centre of a photo and resize it, as the training images were.

    Args:
        photo: a path, the bytes of an image file, a PIL image, or uint8 pixels (array or tensor)
            of shape (height, width, 3).
        size: side of the result, in pixels.
        crop: side of the central square that is kept, as a fraction of the photo's shorter side.

    Shape:
        (size, size, 3).

    Returns:
        The pixels, RGB.

    Raises:
        TypeError: If the photo is of another kind.
        ValueError: If the file is no whole image, or the pixels have another shape or dtype.
        FileNotFoundError: If there is no such file.

    Example:
        >>> read_photo(np.zeros((250, 250, 3), dtype=np.uint8), size=64, crop=0.6).shape
        (64, 64, 3)
    """
    if not 0 < _check.real("read_photo", "crop", crop) <= 1:
        raise _check.refuse("read_photo", "crop", "lie in (0, 1]", crop)
    _check.positive("read_photo", "size", size)
    image = _open(photo)
    return central_square(image, side=round(crop * min(image.size)), size=size)


def central_square(image: "Image", *, side: int, size: int) -> NDArray[np.uint8]:
    """Cut the central side × side pixels out of an RGB image and resize them, antialiased."""
    from PIL.Image import Resampling

    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    return np.asarray(image.resize((size, size), Resampling.BICUBIC, box=box))


def open_rgb(file: str | os.PathLike[str] | io.BytesIO) -> "Image":
    """Decode an image file wholly, upright, as RGB.

    Args:
        file: Its path or its bytes.

    Returns:
        The image.

    Raises:
        OSError: If it is no image, or cut short (Pillow also raises ValueError, SyntaxError and
            EOFError for damaged files).
    """
    from PIL import Image, ImageOps

    with Image.open(file) as opened:
        return ImageOps.exif_transpose(opened).convert("RGB")


def _open(photo: object) -> "Image":
    try:
        from PIL import Image
    except ImportError as error:
        message = 'reading photos needs Pillow: python -m pip install "siameselib[lfw]"'
        raise ImportError(message) from error
    if isinstance(photo, Image.Image):
        return photo.convert("RGB")
    if isinstance(photo, Tensor):
        photo = photo.detach().cpu().numpy()
    if isinstance(photo, np.ndarray):
        if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3 or not photo.size:
            expected = "be uint8 of shape (height, width, 3)"
            raise _check.refuse("read_photo", "photo", expected, f"{photo.dtype} {photo.shape}")
        return Image.fromarray(np.ascontiguousarray(photo))
    if isinstance(photo, bytes):
        what, file = f"{len(photo)} bytes", cast("io.BytesIO | Path", io.BytesIO(photo))
    elif isinstance(photo, (str, os.PathLike)):
        what, file = str(photo), Path(photo)
        if file.is_dir():
            raise IsADirectoryError(f"read_photo: {photo} is a folder, not a photo")
        if not file.is_file():
            raise FileNotFoundError(f"read_photo: there is no file {photo}")
    else:
        expected = "be a path, bytes, a PIL image, or uint8 pixels"
        raise _check.refuse("read_photo", "photo", expected, type(photo).__name__, TypeError)
    try:
        return open_rgb(file)
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise ValueError(f"read_photo: {what} is no whole image ({error})") from error
