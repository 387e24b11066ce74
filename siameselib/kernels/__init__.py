"""One operation per file, its backends side by side; this file picks the backend."""

from collections.abc import Iterator
from contextlib import contextmanager

from siameselib import _check

BACKENDS = ("auto", "reference", "streaming", "triton")
_default = "auto"
_TINY = 256 * 256  # matrix entries below which the dense reference is the quicker one


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Make ``name`` the backend of every call that says ``backend="auto"``."""
    global _default
    _check.choice("use_backend", "name", name, BACKENDS)
    before, _default = _default, name
    try:
        yield
    finally:
        _default = before


def choose(op: str, rows: int, columns: int, backend: str = "auto") -> str:
    """Name the backend that runs ``op`` on a (rows, columns) distance matrix."""
    _check.choice(op, "backend", backend, BACKENDS)
    if backend == "auto":
        backend = _default
    if backend == "auto":
        return "reference" if rows * columns <= _TINY else "streaming"
    if backend == "triton":
        raise ValueError(f"{op}: backend 'triton' cannot run: no Triton kernel for this operation")
    return backend
