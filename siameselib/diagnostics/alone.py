"""Trying something out in one process of several, where the others do not take part.

A net or a loss that calls on the other processes (SyncBatchNorm, sharded weights, gathered
batches) would wait for them for ever: reports are asked for when one pleases, of one process.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode


class NeedsOthersError(RuntimeError):
    """What was tried out calls on other processes."""


@contextmanager
def alone() -> Iterator[None]:
    """Within the block, raise `NeedsOthersError` in place of calling on other processes."""
    if not (dist.is_available() and dist.is_initialized()):
        yield
        return
    with _Alone():  # type: ignore[no-untyped-call]
        yield


class _Alone(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if "c10d" in func.namespace:
            raise NeedsOthersError(f"it calls on other processes ({func.name()})")
        return func(*args, **(kwargs or {}))
