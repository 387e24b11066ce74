"""Writing files so that a crash leaves the old one or the new one; reading arrays and JSON."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path in the same folder; move it onto ``path`` when the block succeeds.

    Args:
        path: The file to write or replace; its folder is made if need be.

    Yields:
        Where to write. When the block raises, that file is removed and ``path`` is as it was.

    Raises:
        IsADirectoryError: ``path`` is a folder.
        NotADirectoryError: What should be its folder is a file.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> with replacing(folder / "a.txt") as temporary:
        ...     _ = temporary.write_text("whole")
        >>> (folder / "a.txt").read_text()
        'whole'
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"cannot write {path}: it is a folder")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise NotADirectoryError(f"cannot write {path}: {path.parent} is in no folder") from None
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def save_tensors(content: object, path: str | os.PathLike[str]) -> None:
    """Write with ``torch.save``, all or nothing.

    Args:
        content: What to write.
        path: The file, replaced if it is there.

    Raises:
        OSError: The file cannot be written, for want of space or of rights.
    """
    try:
        with replacing(path) as temporary:
            torch.save(content, temporary)
    except RuntimeError as error:  # what torch makes of a full disk
        raise OSError(f"cannot write {path}: {error}") from error


def read_json(
    where: str, path: str | os.PathLike[str], kind: type | tuple[type, ...] = dict
) -> Any:
    """Read the JSON object that a file holds.

    Args:
        where: Whose error it is if the file holds anything else.
        path: The file.
        kind: What it may be, where more than an object.

    Returns:
        The object.

    Raises:
        ValueError: It is no JSON, or nothing of this kind.
    """
    path = Path(path)
    return _parse(where, path.name, _text(where, path), kind)


def read_json_lines(where: str, path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read a file that holds a JSON object a line; empty lines are skipped.

    Args:
        where: Whose error it is if a line holds anything else.
        path: The file.

    Returns:
        The objects.

    Raises:
        ValueError: A line is no JSON, or no object.
    """
    path = Path(path)
    lines = [(k, line) for k, line in enumerate(_text(where, path).splitlines(), 1) if line.strip()]
    return [_parse(where, f"line {k} of {path.name}", line, dict) for k, line in lines]


def read_arrays(path: str | os.PathLike[str]) -> dict[str, NDArray[Any]]:
    """Read all arrays of an .npz; nothing that is pickled is taken.

    Args:
        path: The file; it is closed again, damaged or not.

    Returns:
        The arrays by name.

    Raises:
        ValueError: It is no .npz, or is damaged.
    """
    try:
        with Path(path).open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # damaged zips raise a dozen kinds
        reason = f"{path} is no readable .npz of arrays ({type(error).__name__})"
        raise ValueError(reason) from error


def _text(where: str, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: {path.name} must be JSON, got no text ({error})") from error


def _parse(where: str, name: str, text: str, kind: type | tuple[type, ...]) -> Any:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{where}: {name} must be JSON, got {error}") from error
    if not isinstance(found, kind):
        raise ValueError(f"{where}: {name} must hold a JSON object, got {type(found).__name__}")
    return found


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
