"""Writing files so that a crash leaves the old one or the new one, never half of one."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path in the same folder; move it onto ``path`` when the block succeeds.

    Args:
        path: The file to write or replace; its folder is made if need be.

    Yields:
        Where to write. When the block raises, that file is removed and ``path`` is as it was.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> with replacing(folder / "a.txt") as temporary:
        ...     _ = temporary.write_text("whole")
        >>> (folder / "a.txt").read_text()
        'whole'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
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


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
