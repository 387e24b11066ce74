"""Pair lists: the official LFW files and plain ``path1 path2 label`` lists."""

import os
from collections.abc import Sequence
from typing import NamedTuple

from siameselib import _check
from siameselib.data.sources import image_name


class Pair(NamedTuple):
    """Two image names, and whether they show the same person."""

    a: str
    b: str
    same: bool


def read_pairs(path: str | os.PathLike[str]) -> list[Pair]:
    """Read a pair list, in the order of its lines.

    Understands the official files (a header ``pairs`` or ``folds pairs``, then for each fold as
    many lines ``name i j`` and as many ``name1 i name2 j``) and lists of ``path1 path2 label``
    with label 1 for the same person, 0 for two people, separated by blanks, or by tabs if any.

    Args:
        path: the file.

    Returns:
        The pairs, by image name; see `image_name` for how a path becomes a name.

    Raises:
        ValueError: If a line cannot be read; the message has file, line number and text.

    Example:
        >>> import pathlib, tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "train.txt"
        >>> _ = file.write_text("lfw/Al_Gore/Al_Gore_0001.jpg lfw/Al_Gore/Al_Gore_0003.jpg 1")
        >>> read_pairs(file)
        [Pair(a='Al_Gore_0001', b='Al_Gore_0003', same=True)]
    """
    return [pair for fold in read_folds(path) for pair in fold]


def read_folds(path: str | os.PathLike[str]) -> list[list[Pair]]:
    """Read a pair list fold by fold; see `read_pairs`.

    Args:
        path: the file.

    Returns:
        One list for each fold of the header; a single one where there are no folds.

    Raises:
        ValueError: If a line cannot be read, or the header promises other counts.
    """
    try:
        text = _check.path("read_pairs", "path", path).read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file ({error})") from error
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise ValueError(f"{path}: no pairs in it")
    header = lines[0][1].split()
    if len(header) > 2 or not all(word.isdecimal() for word in header):
        return [[_listed(path, number, line) for number, line in lines]]
    folds, half = (1, *map(int, header))[-2:]
    return _official(path, lines[1:], folds, half)


def _official(
    path: str | os.PathLike[str], lines: Sequence[tuple[int, str]], folds: int, half: int
) -> list[list[Pair]]:
    if len(lines) != folds * 2 * half:
        promised = f"{folds:,} × ({half:,} + {half:,})" if folds > 1 else f"{half:,} + {half:,}"
        raise ValueError(f"{path}: the header promises {promised} pairs, got {len(lines):,} lines")
    pairs = []
    for position, (number, line) in enumerate(lines):
        same = position % (2 * half) < half
        match line.split():
            case [name, i, j] if same and i.isdecimal() and j.isdecimal():
                pairs.append(Pair(_numbered(name, i), _numbered(name, j), True))
            case [name, i, other, j] if not same and i.isdecimal() and j.isdecimal():
                pairs.append(Pair(_numbered(name, i), _numbered(other, j), False))
            case _:
                expected = "name i j" if same else "name1 i name2 j"
                raise _bad_line(path, number, line, f"be '{expected}'")
    return [pairs[start : start + 2 * half] for start in range(0, len(pairs), 2 * half)]


def _listed(path: str | os.PathLike[str], number: int, line: str) -> Pair:
    words = [word.strip() for word in line.split("\t")] if "\t" in line else line.split()
    if len(words) != 3:
        raise _bad_line(path, number, line, "be 'path1 path2 label'")
    if words[2] not in {"0", "1"}:
        raise _bad_line(path, number, line, "end in 1 (same person) or 0")
    return Pair(image_name(words[0]), image_name(words[1]), words[2] == "1")


def _numbered(name: str, number: str) -> str:
    return f"{name}_{int(number):04d}"


def _bad_line(path: str | os.PathLike[str], number: int, line: str, expected: str) -> ValueError:
    return ValueError(f"{path}, line {number}: must {expected}, got {line!r}")
