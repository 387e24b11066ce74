"""What protocols and trainers ask of images, wherever they come from."""

import typing

import numpy as np
from numpy.typing import NDArray


class Images(typing.Protocol):
    """Images in memory or mapped from the disk, and who is on them.

    `PackedImages` and `SyntheticFaces` are such, and so is any class of yours with these
    attributes.
    """

    @property
    def images(self) -> NDArray[np.uint8]:
        """The pixels, (images, size, size, 3)."""

    @property
    def names(self) -> list[str]:
        """Their names."""

    @property
    def identities(self) -> list[str]:
        """The person on each."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """The same as numbers."""

    @property
    def index(self) -> dict[str, int]:
        """Row of a name."""

    @property
    def size(self) -> int:
        """Width and height in pixels."""
