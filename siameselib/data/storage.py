"""Writing large files: whole or not at all, with a progress bar on a terminal."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


@contextmanager
def atomic(target: Path) -> Iterator[BinaryIO]:
    """Write a file that takes its name only once it is whole and on the disk.

    Args:
        target: where the file will be; its folder must exist.

    Yields:
        The file to write to.

    Raises:
        OSError: If writing fails; what was written is removed.
    """
    handle, name = tempfile.mkstemp(prefix=f".{target.name}-", suffix=".tmp", dir=target.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.filename is None:
            raise OSError(error.errno, error.strerror, str(target)) from error
        raise
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


class _NoBar:
    def update(self, n: int) -> None:
        """Take the news and draw nothing."""


@contextmanager
def bar(
    total: int, wanted: bool, what: str, unit: str = "image", initial: int = 0
) -> Iterator[Any]:
    """A progress bar on standard error, if one is wanted and somebody can see it.

    Args:
        total: when it is full.
        wanted: False draws nothing.
        what: word before the bar.
        unit: what is counted; ``"B"`` counts in kB and MB.
        initial: where it starts.

    Yields:
        An object with ``update(n)``.

    Raises:
        ImportError: If tqdm is not installed.
    """
    if not wanted or not sys.stderr.isatty():
        yield _NoBar()
        return
    try:
        from tqdm import tqdm
    except ImportError as error:
        message = 'a progress bar needs tqdm: python -m pip install "siameselib[lfw]"'
        raise ImportError(message) from error
    with tqdm(total=total, desc=what, unit=unit, unit_scale=unit == "B", initial=initial) as drawn:
        yield drawn
