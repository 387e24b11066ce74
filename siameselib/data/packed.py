"""The packed cache: every image decoded once, cropped, resized, in one memory-mapped file.

    pixels or JPEGs | manifest (JSON, UTF-8) | b"siamese" + version | length of the manifest

The pixels begin the file, so they are mapped as they lie; the tail is written last, so a file that
has it is whole. All numbers outside the JSON are little-endian.
"""

import contextlib
import io
import json
import os
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from siameselib import _check
from siameselib.data.photo import central_square, open_rgb
from siameselib.data.progress import bar
from siameselib.data.sources import ImageSource, check_source, identity
from siameselib.files import replacing

VERSION = 1
JPEG_QUALITY = 88  # LFW at 128×128 takes 55 MB
_TAIL = struct.Struct("<7sBQ")
_CHUNK = 512  # images in flight: bounds the memory, keeps the workers busy


def decode_image(
    data: bytes, *, size: int, crop: int | None = 150, frame: tuple[int, int] | None = None
) -> NDArray[np.uint8]:
    """Decode one image file as the pack does: turn upright, crop the centre, resize antialiased.

    Args:
        data: the bytes of an image file.
        size: side of the result.
        crop: side of the central square that is kept; None keeps the largest.
        frame: (width, height) that the image must have.

    Returns:
        The pixels, RGB.

    Shape:
        (size, size, 3).

    Raises:
        ValueError: If the bytes are no whole image, or it is smaller than the crop or not of
            ``frame``.
    """
    damage = (OSError, ValueError, SyntaxError, EOFError, struct.error)
    try:
        image = open_rgb(io.BytesIO(data))
    except (*damage, _pillow().DecompressionBombError) as error:
        raise ValueError(_reason(data, error)) from error
    if frame is not None and image.size != frame:
        raise ValueError("{}×{} pixels instead of {}×{}".format(*image.size, *frame))
    side = min(image.size) if crop is None else crop
    if side > min(image.size):
        raise ValueError("{}×{} pixels, smaller than the crop of {}".format(*image.size, side))
    return central_square(image, side=side, size=size)


def pack(
    source: ImageSource,
    cache_dir: str | os.PathLike[str],
    *,
    size: int = 64,
    crop: int | None = 150,
    format: str = "raw",
    workers: int | None = None,
    skip_bad: bool = False,
    progress: bool = False,
) -> "PackedImages":
    """Pack a source, or open the pack that an earlier call left in ``cache_dir``.

    The pack is made anew when the images, the size, the crop, the format or this library's pack
    version differ. It appears under its name only when it is whole.

    Args:
        source: from `open_lfw` or `open_folder`.
        cache_dir: folder for the pack; made if missing.
        size: side of the packed images.
        crop: side of the central square that is kept; None keeps the largest that fits. LFW's
            deep-funneled frames have black corners outside of the central 150×150.
        format: ``"raw"`` maps pixels from the disk; ``"jpeg"`` is about ten times smaller and
            decoded on first use.
        workers: threads that decode (Pillow works outside of Python's lock); None takes one per
            core.
        skip_bad: leave out files that are broken, of the wrong size, missing or no images, instead
            of raising.
        progress: draw a progress bar, if standard error is a terminal.

    Returns:
        The images, in order of their names; ``skipped`` tells what was left out and why.

    Raises:
        ValueError: If files are bad; the message lists them all.
        OSError: If the pack cannot be written; nothing is left behind.

    Example:
        >>> packed = pack(open_lfw("lfw"), "cache", size=64)  # doctest: +SKIP
        >>> packed.images.shape  # doctest: +SKIP
        (13233, 64, 64, 3)
    """
    check_source("pack", source)
    folder = _check.path("pack", "cache_dir", cache_dir)
    _check.integer("pack", "size", size, 1)
    _check.choice("pack", "format", format, ("raw", "jpeg"))
    if workers is not None:
        _check.integer("pack", "workers", workers, 1)
    if crop is not None:
        _check.integer("pack", "crop", crop, 1)
        if source.frame and crop > min(source.frame):
            raise _check.refuse("pack", "crop", f"be at most {min(source.frame)}", crop)
    target = folder / f"{source.label}-{size}px-crop{crop or 'none'}.{format}.pack"
    wanted = {"fingerprint": source.fingerprint, "size": size, "crop": crop, "format": format}
    if target.exists():
        with contextlib.suppress(NotAPack):
            found = PackedImages.open(target)
            if wanted.items() <= found.manifest.items() and (skip_bad or not found.skipped):
                return found
    skipped = absent_images(source)
    names: list[str] = []
    lengths: list[int] = []
    with replacing(target) as temporary, _writing(temporary, target) as file:
        for name, data in _decoded(source, size, crop, format, workers, progress):
            if isinstance(data, ValueError):
                skipped.append(f"{name}: {data}")
                continue
            file.write(data)
            names.append(name)
            lengths.append(len(data))
        if skipped and not skip_bad:
            raise ValueError(_bad(source, skipped))
        if not names:
            raise _check.refuse("pack", "source", "hold a whole image", _bad(source, skipped))
        manifest = {**wanted, "names": names, "skipped": skipped}
        if format == "jpeg":
            manifest["lengths"] = lengths
        text = json.dumps(manifest, ensure_ascii=False).encode()
        file.write(text + _TAIL.pack(b"siamese", VERSION, len(text)))
    return PackedImages.open(target)


def bad_images(
    source: ImageSource, *, workers: int | None = None, progress: bool = False
) -> list[str]:
    """Decode every image of a source and tell which cannot be used.

    Args:
        source: from `open_lfw` or `open_folder`.
        workers: threads that decode; None takes one per core.
        progress: draw a progress bar, if standard error is a terminal.

    Returns:
        ``name: reason`` for each stray, missing or damaged file, and each of the wrong size.
    """
    check_source("bad_images", source)
    decoded = _decoded(source, 8, None, "raw", workers, progress)
    damaged = [f"{name}: {data}" for name, data in decoded if isinstance(data, ValueError)]
    return [*absent_images(source), *damaged]


class NotAPack(ValueError):
    """The file is no pack, is cut short, or of another version."""


class PackedImages:
    """Images as one array, and who is on them. Made by `pack` or `PackedImages.open`.

    Attributes:
        path: the file.
        manifest: what the pack was made from and how.
        names: image names, sorted, one per row.
        identities: the person on each row.
        labels: rank of the row's identity among the sorted identities.
        index: image name to row.
        size: side of the images.
        crop: side of the square they were cropped from, or None.
        skipped: what was left out, and why.
    """

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest
        self.names: list[str] = manifest["names"]
        self.identities = [identity(name) for name in self.names]
        self.labels: NDArray[np.int64] = np.unique(self.identities, return_inverse=True)[1]
        self.index = {name: row for row, name in enumerate(self.names)}
        self.size: int = manifest["size"]
        self.crop: int | None = manifest["crop"]
        self.skipped: list[str] = manifest["skipped"]

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "PackedImages":
        """Open a pack; of the pixels nothing is read yet.

        Args:
            path: a file that `pack` made, here or on another machine.

        Returns:
            The images.

        Raises:
            ValueError: If the file is no pack, is cut short, or of another version.
        """
        where = "PackedImages.open"
        file = _check.path(where, "path", path)
        with file.open("rb") as data:
            total = data.seek(0, os.SEEK_END)
            data.seek(max(0, total - _TAIL.size))
            tail = data.read()
            magic, version, length = _TAIL.unpack(tail) if len(tail) == _TAIL.size else (b"", 0, 0)
            if magic != b"siamese" or length > total - _TAIL.size:
                raise _check.refuse(where, "path", "be a whole pack", str(file), NotAPack)
            if version != VERSION:
                expected = f"be a pack of version {VERSION}"
                raise _check.refuse(where, "path", expected, version, NotAPack)
            data.seek(total - _TAIL.size - length)
            manifest = json.loads(data.read(length))
        packed = cls(file, manifest)
        if sum(packed._lengths) != total - _TAIL.size - length:
            raise _check.refuse(where, "path", "be a whole pack", str(file), NotAPack)
        return packed

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        people = len(set(self.identities))
        return f"PackedImages({len(self):,} images of {people:,} people, {self.size}×{self.size})"

    @property
    def _lengths(self) -> list[int]:
        if self.manifest["format"] == "jpeg":
            lengths: list[int] = self.manifest["lengths"]
            return lengths
        return [self.size * self.size * 3] * len(self)

    @cached_property
    def images(self) -> NDArray[np.uint8]:
        """The pixels, uint8, read-only: mapped from the disk, or decoded once from JPEG.

        Shape:
            (n, size, size, 3).
        """
        shape = (len(self), self.size, self.size, 3)
        if self.manifest["format"] == "raw":
            return np.memmap(self.path, np.uint8, "r", 0, shape)
        images = np.empty(shape, np.uint8)
        data = np.memmap(self.path, np.uint8, "r")
        ends = np.cumsum(self._lengths)

        def fill(row: int) -> None:
            jpeg = data[ends[row] - self._lengths[row] : ends[row]].tobytes()
            images[row] = decode_image(jpeg, size=self.size, crop=None)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for _ in pool.map(fill, range(len(self))):
                pass
        images.flags.writeable = False
        return images


@contextlib.contextmanager
def _writing(temporary: Path, target: Path) -> Iterator[BinaryIO]:
    """Open a file to write; a full disk is reported with the name of the pack."""
    try:
        with temporary.open("wb") as file:
            yield file
    except OSError as error:
        if error.filename is None:
            raise OSError(error.errno, error.strerror, str(target)) from error
        raise


def _decoded(
    source: ImageSource,
    size: int,
    crop: int | None,
    format: str,
    workers: int | None,
    progress: bool,
) -> Iterator[tuple[str, bytes | ValueError]]:
    """Each name with its packed bytes, or with what is wrong with it, in order."""

    def decode(name: str) -> bytes | ValueError:
        try:
            pixels = decode_image(source.read(name), size=size, crop=crop, frame=source.frame)
        except (ValueError, OSError) as error:
            return ValueError(str(error))
        return pixels.tobytes() if format == "raw" else _jpeg(pixels)

    _pillow()
    names = source.names
    with (
        ThreadPoolExecutor(workers or os.cpu_count()) as pool,
        bar(len(names), progress, "packing") as shown,
    ):
        for start in range(0, len(names), _CHUNK):
            chunk = names[start : start + _CHUNK]
            yield from zip(chunk, pool.map(decode, chunk), strict=True)
            shown.update(len(chunk))


def _jpeg(pixels: NDArray[np.uint8]) -> bytes:
    data = io.BytesIO()
    _pillow().fromarray(pixels).save(data, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return data.getvalue()


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        message = 'decoding images needs Pillow: python -m pip install "siameselib[lfw]"'
        raise ImportError(message) from error
    return Image


def _reason(data: bytes, error: Exception) -> str:
    """What is wrong with a file that does not decode, in a few words."""
    if not data:
        return "empty file"
    kinds = (b"\xff\xd8", b"\x89PNG", b"BM", b"RIFF", b"II*", b"MM\0*", b"GIF8", b"P5", b"P6")
    return f"truncated or damaged image ({error})" if data.startswith(kinds) else "not an image"


def absent_images(source: ImageSource) -> list[str]:
    """``name: reason`` for each stray and each missing file of a source."""
    strays = [f"{stray}: not an image" for stray in source.strays]
    return strays + [f"{name}: missing" for name in source.missing]


def _bad(source: ImageSource, skipped: list[str]) -> str:
    lines = "\n  ".join(skipped)
    return (
        f"pack: {len(skipped):,} of {len(source.names) + len(source.missing):,} images of "
        f"{source.label} cannot be used (skip_bad leaves them out):\n  {lines}"
    )
