"""What both samplers share: labels grouped by identity, numbered epochs, a place to resume at."""

import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from siameselib import _check

Indices = NDArray[np.int64]
Labels = Sequence[int] | NDArray[Any] | Tensor
Batch = TypeVar("Batch")


class EpochSampler(ABC, Generic[Batch]):
    """Epochs numbered from 0, each a list of batches that depends on the seed and the number."""

    def __init__(self, labels: Labels, seed: int) -> None:
        self._where = type(self).__name__
        self._labels = _read(self._where, labels)
        self.seed = _check.integer(self._where, "seed", seed, 0)
        self.epoch = 0
        self._position = 0  # batches of this epoch that were handed out
        self._resume = 0  # batches of this epoch that the next iteration leaves out
        # images sorted by identity: identity c has the _counts[c] images from _starts[c]
        _, which, self._counts = np.unique(self._labels, return_inverse=True, return_counts=True)
        self._order = np.argsort(which, kind="stable")
        self._identity = which[self._order]
        self._starts = np.cumsum(self._counts) - self._counts

    @abstractmethod
    def __len__(self) -> int:
        """Count the batches of an epoch."""

    @abstractmethod
    def _batches(self, epoch: int) -> Iterator[Batch]:
        """Give an epoch's batches."""

    @abstractmethod
    def _settings(self) -> dict[str, Any]:
        """Give the arguments that shape the order."""

    def __iter__(self) -> Iterator[Batch]:
        """Go through the current epoch; reaching its end moves on to the next one."""
        self._position = skip = self._resume
        self._resume = 0
        epoch = self.epoch
        for number, batch in enumerate(self._batches(epoch)):
            if number >= skip:
                self._position = number + 1
                yield batch
        self.set_epoch(epoch + 1)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next iteration goes through.

        Without it, each full iteration moves on by one. Saying the current epoch changes nothing,
        so that a loop may say it after `load_state_dict`.

        Args:
            epoch: Its number, from 0.
        """
        epoch = _check.integer(f"{self._where}.set_epoch", "epoch", epoch, 0)
        if epoch != self.epoch:
            self.epoch, self._position, self._resume = epoch, 0, 0

    def state_dict(self) -> dict[str, Any]:
        """Say where the sampler stands: plain numbers and strings.

        The position counts the batches handed out. Worker processes of a DataLoader fetch ahead,
        so with them save at the end of an epoch.

        Returns:
            The epoch, the position in it, and the settings that the order depends on.
        """
        return {"epoch": self.epoch, "position": self._position, "settings": self._fingerprint()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another sampler of the same settings and labels stood.

        Args:
            state: What `state_dict` gave.

        Raises:
            ValueError: If it belongs to other settings or other labels, whose order differs.
        """
        where = f"{self._where}.load_state_dict"
        if not {"epoch", "position", "settings"} <= set(state):
            raise _check.refuse(where, "state", "come from state_dict", f"{list(state)}")
        ours, theirs = self._fingerprint(), state["settings"]
        for name in ours:
            if theirs.get(name) != ours[name]:
                expected = f"come from a sampler with {name}={ours[name]!r}"
                raise _check.refuse(where, "state", expected, repr(theirs.get(name)))
        self.set_epoch(state["epoch"])
        self._position = self._resume = state["position"]

    def _fingerprint(self) -> dict[str, Any]:
        checksum = zlib.crc32(self._labels.astype("<i8").tobytes())
        return {**self._settings(), "seed": self.seed, "labels_crc32": checksum}


def _read(where: str, labels: Labels) -> NDArray[Any]:
    values = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if values.ndim != 1 or not len(values):
        raise _check.refuse(where, "labels", "be a vector with at least one entry", values.shape)
    if values.dtype.kind not in "iu":
        expected = "be integers, one identity an image"
        raise _check.refuse(where, "labels", expected, values.dtype, TypeError)
    return np.array(values)
