"""Where face images come from: one folder per person, on disk or in a tar.

An image has a *name*, the same wherever it lies. ``Aaron_Peirsol/Aaron_Peirsol_0001.jpg`` (LFW's
layout) is ``"Aaron_Peirsol_0001"``; any other ``anna/holiday.png`` is ``"anna/holiday"``. The
person is part of the name, so pair lists, packs and protocols all speak in names.
"""

import gzip
import hashlib
import os
import shutil
import tarfile
import tempfile
import weakref
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from siameselib import _check
from siameselib._check import refuse

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif")
TAR_SUFFIXES = (".tar", ".tgz", ".tar.gz")
_BLOCK = 512  # a tar is made of such blocks and ends in zero ones


def image_name(path: str) -> str:
    r"""The name of the image at a path; only its last folder and its file name count.

    Args:
        path: of an image file, with ``/`` or ``\``; the suffix may be missing.

    Returns:
        ``stem`` where the stem is ``<folder>_<digits>`` or there is no folder, else
        ``folder/stem``.

    Example:
        >>> image_name("lfw-deepfunneled/Aaron_Peirsol/Aaron_Peirsol_0001.jpg")
        'Aaron_Peirsol_0001'
        >>> image_name("faces/anna/holiday.png")
        'anna/holiday'
    """
    file = PurePosixPath(path.replace("\\", "/"))
    stem = file.stem if file.suffix.lower() in IMAGE_SUFFIXES else file.name
    person = file.parent.name
    number = stem.removeprefix(person + "_")
    if not person or (number != stem and number.isdecimal()):
        return stem
    return f"{person}/{stem}"


def identity(name: str) -> str:
    """The person in an image name.

    Args:
        name: as `image_name` gives it.

    Returns:
        The folder's name.

    Example:
        >>> identity("Aaron_Peirsol_0001"), identity("anna/holiday")
        ('Aaron_Peirsol', 'anna')
    """
    person, slash, _ = name.partition("/")
    return person if slash else name.rpartition("_")[0] or name


class Entry(NamedTuple):
    """Where the bytes of one image lie: a span of a file."""

    file: str
    offset: int
    size: int


@dataclass(frozen=True)
class ImageSource:
    """Images by name, read as the bytes of their files. Made by `open_lfw` and `open_folder`.

    Attributes:
        label: short name of the source, for files made from it.
        entries: image name to the place of its bytes.
        strays: files among the images that are no image by their suffix.
        missing: images that ``lfw-names.txt`` promises and that are not there.
        frame: (width, height) that every image must have, or None.
        protocol_dir: folder of ``pairs*.txt``, or None.

    Example:
        >>> source = open_lfw("lfw-deepfunneled.tar")  # doctest: +SKIP
        >>> len(source.names), len(source.people)  # doctest: +SKIP
        (13233, 5749)
    """

    label: str
    entries: dict[str, Entry]
    strays: list[str]
    missing: list[str]
    frame: tuple[int, int] | None
    protocol_dir: Path | None

    @cached_property
    def names(self) -> list[str]:
        """The image names, sorted."""
        return sorted(self.entries)

    @property
    def people(self) -> list[str]:
        """The names of the people, sorted."""
        return sorted({identity(name) for name in self.entries})

    def read(self, name: str) -> bytes:
        """Read one image file.

        Args:
            name: one of `names`.

        Returns:
            The bytes of the file, not decoded.

        Raises:
            KeyError: If there is no such image.
        """
        if name not in self.entries:
            raise KeyError(f"no image named {name!r} in {self.label}")
        entry = self.entries[name]
        with Path(entry.file).open("rb") as file:
            file.seek(entry.offset)
            return file.read(entry.size)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over all names and bytes: the same images give the same value, packed or not."""
        digest = hashlib.sha256()
        for name in self.names:
            data = self.read(name)
            digest.update(f"{name}\0{len(data)}\0".encode())
            digest.update(data)
        return digest.hexdigest()


def open_lfw(path: str | os.PathLike[str]) -> ImageSource:
    """Open Labeled Faces in the Wild wherever it lies.

    Looks for LFW's folders in ``path``, then for a tar in it, then for LFW's folders one and two
    levels down. The protocol files may lie in ``path``, beside the tar, or in or beside the folder
    of the images. A compressed tar is inflated into a temporary file, which goes with the source.

    Args:
        path: ``lfw-deepfunneled`` or a folder above it, the ``.tar`` or ``.tgz``, or a folder that
            holds the tar (and the protocol files).

    Returns:
        The images, 250×250 each; ``missing`` lists what ``lfw-names.txt`` has beyond them.

    Raises:
        FileNotFoundError: If nothing is there, or no image is in it.
        ValueError: If the file is no tar, is cut short, or two files claim one name.

    Source:
        Huang, Ramesh, Berg, Learned-Miller, "Labeled Faces in the Wild", UMass TR 07-49, 2007.
    """
    where = "open_lfw"
    root = _existing(where, path)
    found = root if root.is_file() else _find_lfw(root)
    near = (root if root.is_dir() else root.parent, found, found.parent)
    protocol_dir = next((d for d in near if any(d.glob("pairs*.txt"))), None)
    inflated = _inflate(where, found) if found.is_file() and _is_gzip(found) else None
    files = _tar_files(where, found, inflated or found) if found.is_file() else _folder_files(found)
    entries, strays = _name(where, files)
    if not entries:
        raise refuse(where, "path", "hold face images in a folder per person", f"none in {found}")
    missing = sorted(_promised(protocol_dir) - entries.keys()) if protocol_dir else []
    label = found.name.split(".")[0]
    source = ImageSource(label, entries, strays, missing, (250, 250), protocol_dir)
    if inflated:
        weakref.finalize(source, inflated.unlink, missing_ok=True)
    return source


def open_folder(path: str | os.PathLike[str]) -> ImageSource:
    """Open any folder that holds one folder of images per person.

    Args:
        path: the folder above the people's folders.

    Returns:
        The images, of any size; ``strays`` lists what lies among them and is no image.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If no folder in it holds an image, or two files claim one name.

    Example:
        >>> source = open_folder("faces")  # faces/anna/1.jpg, faces/ben/1.jpg  # doctest: +SKIP
        >>> source.names  # doctest: +SKIP
        ['anna/1', 'ben/1']
    """
    root = _existing("open_folder", path)
    if not root.is_dir():
        raise refuse("open_folder", "path", "be a folder", f"the file {root}")
    entries, strays = _name("open_folder", _folder_files(root))
    if not entries:
        expected = "hold a folder of images for each person"
        raise refuse("open_folder", "path", expected, f"none in {root}")
    protocol_dir = root if any(root.glob("pairs*.txt")) else None
    return ImageSource(root.name, entries, strays, [], None, protocol_dir)


def check_source(where: str, source: object) -> None:
    """Refuse what is no source of images: a path, most of all."""
    if not isinstance(source, ImageSource):
        expected = "be what open_lfw or open_folder returns"
        raise refuse(where, "source", expected, type(source).__name__, TypeError)


def _existing(where: str, path: str | os.PathLike[str]) -> Path:
    root = _check.path(where, "path", path).expanduser().resolve()
    if not root.exists():
        raise refuse(where, "path", "exist", str(path), FileNotFoundError)
    return root


def _find_lfw(root: Path) -> Path:
    """The folder of people or the tar, at or under a folder."""
    if _holds_lfw(root):
        return root
    below = _folders(root)
    steps = (
        [file for file in sorted(root.iterdir()) if file.name.endswith(TAR_SUFFIXES)],
        [folder for folder in below if _holds_lfw(folder)],
        [folder for parent in below for folder in _folders(parent) if _holds_lfw(folder)],
    )
    for found in steps:
        if len(found) > 1:
            several = ", ".join(str(each.relative_to(root)) for each in found)
            raise refuse("open_lfw", "path", f"name one of the sources in {root}", several)
        if found:
            return found[0]
    expected = (
        "hold LFW's images (Name/Name_0001.jpg) or a .tar or .tgz of them "
        "(open_folder takes other folders of faces)"
    )
    raise refuse("open_lfw", "path", expected, str(root), FileNotFoundError)


def _folders(folder: Path) -> list[Path]:
    return sorted(d for d in folder.iterdir() if d.is_dir() and not d.name.startswith("."))


def _holds_lfw(folder: Path) -> bool:
    return any(
        _is_image(file.name) and "/" not in image_name(f"{person.name}/{file.name}")
        for person in _folders(folder)
        for file in person.iterdir()
    )


def _is_image(file: str) -> bool:
    return PurePosixPath(file).suffix.lower() in IMAGE_SUFFIXES


def _folder_files(root: Path) -> Iterator[tuple[str, Entry]]:
    for person in _folders(root):
        with os.scandir(person) as files:
            for file in files:
                if file.is_file():
                    yield f"{person.name}/{file.name}", Entry(file.path, 0, file.stat().st_size)


def _tar_files(where: str, shown: Path, tar: Path) -> Iterator[tuple[str, Entry]]:
    """The files in a plain tar; one that was cut short is refused, also at a file's border."""
    end = 0
    total = tar.stat().st_size
    try:
        with tarfile.open(tar, "r:") as members:
            for member in members:
                end = member.offset_data + -(-member.size // _BLOCK) * _BLOCK
                if member.isfile():
                    yield member.name, Entry(str(tar), member.offset_data, member.size)
    except tarfile.ReadError as error:
        if end == 0:
            raise refuse(where, "path", "be a .tar or .tgz of images", str(shown)) from error
    with tar.open("rb") as file:
        file.seek(end)
        if file.read(_BLOCK) != bytes(_BLOCK):
            got = f"{shown}: it ends after {total:,} bytes, inside the archive"
            raise refuse(where, "path", "be a complete archive (copy or download it again)", got)


def _is_gzip(file: Path) -> bool:
    with file.open("rb") as data:
        return data.read(2) == b"\x1f\x8b"


def _inflate(where: str, archive: Path) -> Path:
    """Gzip has no random access: unpack it once into a temporary plain tar."""
    with tempfile.NamedTemporaryFile(prefix="siameselib-", suffix=".tar", delete=False) as target:
        inflated = Path(target.name)
        try:
            with gzip.open(archive) as packed:
                shutil.copyfileobj(packed, target, 1 << 20)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            inflated.unlink()
            expected = "be a complete archive (copy or download it again)"
            raise refuse(where, "path", expected, f"{archive}: {error}") from error
        except BaseException:
            inflated.unlink()
            raise
    return inflated


def _name(where: str, files: Iterator[tuple[str, Entry]]) -> tuple[dict[str, Entry], list[str]]:
    """Images by name, and the other files that lie in the people's folders."""
    entries: dict[str, Entry] = {}
    paths: dict[str, str] = {}
    others = []
    for path, entry in files:
        *folders, file = PurePosixPath(path).parts
        if not folders or file.startswith("."):
            continue
        if not _is_image(file):
            others.append("/".join([folders[-1], file]))
            continue
        name = image_name(path)
        if name in entries:
            both = f"{paths[name]} and {path}"
            raise refuse(where, "path", f"hold one image of the name {name!r}", both)
        entries[name], paths[name] = entry, path
    people = {identity(name) for name in entries}
    return entries, sorted(other for other in others if other.partition("/")[0] in people)


def _promised(protocol_dir: Path) -> set[str]:
    """The image names that lfw-names.txt stands for, if it is there."""
    listed = protocol_dir / "lfw-names.txt"
    if not listed.is_file():
        return set()
    names: set[str] = set()
    for number, line in enumerate(listed.read_text().splitlines(), 1):
        person, _, count = line.strip().rpartition("\t")
        if not person or not count.isdecimal():
            expected = "hold 'name<tab>number of images' on each line"
            raise refuse("open_lfw", str(listed), expected, f"line {number}: {line!r}")
        names.update(f"{person}_{i:04d}" for i in range(1, int(count) + 1))
    return names
