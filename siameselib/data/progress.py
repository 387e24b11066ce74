"""A progress bar, where somebody can see it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class _NoBar:
    def update(self, n: int) -> None:
        """Take the news and draw nothing."""


@contextmanager
def bar(
    total: int | None, wanted: bool, what: str, unit: str = "image", initial: int = 0
) -> Iterator[Any]:
    """A progress bar on standard error, if one is wanted and standard error is a terminal.

    Args:
        total: when it is full; None if unknown.
        wanted: False draws nothing.
        what: word before the bar.
        unit: what is counted; ``"B"`` counts in kB and MB.
        initial: where it starts.

    Yields:
        An object with ``update(n)``.

    Raises:
        ImportError: If it is to be drawn and tqdm is not installed.
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
