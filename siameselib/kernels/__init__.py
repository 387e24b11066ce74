"""One operation per file, its backends side by side; this file picks the backend.

``reference`` is dense and obviously right: the truth for tests, and the quicker one for some tiny
batches. ``streaming`` sweeps blocks of rows and never holds a large distance matrix. ``triton``
keeps the tiles of the matrix in the registers of a GPU, where an operation has a kernel for it.
"""

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from siameselib import _check

BACKENDS = ("auto", "reference", "streaming", "triton")
OPERATIONS = {  # and which of them take differences in the dense reference, width entries a pair
    "hardest": True,
    "beyond": True,
    "class_logsumexp": False,
    "draw": True,
    "logsumexp": False,
    "pair_sum": True,
    "positive_sum": False,
    "topk": True,
    "triplet_sum": True,
    "distance_logsumexp": True,
}
# dense references that pay for so many times fewer entries only
_SLOWER = {"class_logsumexp": 16, "logsumexp": 16, "positive_sum": 16, "triplet_sum": 8}
# operations whose "streaming" holds small matrices whole on the CPU, quicker than the reference
_HELD = {"distance_logsumexp", "logsumexp", "pair_sum", "positive_sum"}
PRECISIONS = ("exact", "tf32", "fast")
TRITON = ("beyond", "hardest", "logsumexp", "pair_sum", "positive_sum", "triplet_sum")
_INSTALLED = importlib.util.find_spec("triton") is not None
# operation: the fewest rows from which its kernel is the quicker one on a GPU. An entry stands for
# a committed measurement; there is none yet, so "auto" never takes Triton.
_TRITON_WINS: dict[str, int] = {}
WHOLE = 1 << 18  # entries up to which that is done
_default = "auto"
_precision = "exact"
_TINY = 1 << 19  # entries of all differences up to which the dense reference is the quicker one


@contextmanager
def use_backend(name: str, *, precision: str = "exact") -> Iterator[None]:
    """Make ``name`` the backend of every call that says ``backend="auto"``.

    Args:
        name: "auto", "reference", "streaming" or "triton". "auto" takes the quicker of those
            that can run; any other runs or raises with the reason why it cannot.
        precision: of Triton's kernels. "exact": miners find what the other backends find, losses
            are accurate to float32. "tf32", "fast" (bfloat16): what these products round decides
            which of nearly equal distances a miner takes; the distances that a loss is made of
            are accurate all the same where it takes few of them.

    Example:
        >>> import torch
        >>> with use_backend("reference"):
        ...     print(explain("hardest", torch.zeros(4096, 128)))
        hardest of (4096, 4096) pairs in 128 dimensions on cpu: reference, as asked for
    """
    global _default, _precision
    _check.choice("use_backend", "name", name, BACKENDS)
    _check.choice("use_backend", "precision", precision, PRECISIONS)
    before = _default, _precision
    _default, _precision = name, precision
    try:
        yield
    finally:
        _default, _precision = before


def precision() -> str:
    """Return the precision that :func:`use_backend` asked for."""
    return _precision


def of_triton(backend: str) -> str | None:
    """Return the precision if Triton's kernels are to run: what backward, too, has to go by."""
    return _precision if backend == "triton" else None


def choose(
    op: str,
    rows: int,
    columns: int,
    width: int,
    backend: str = "auto",
    x: Tensor | None = None,
) -> str:
    """Name the backend that runs ``op`` on a (rows, columns) matrix.

    Args:
        op: the operation.
        rows: of the matrix.
        columns: of the matrix.
        width: how much memory the dense reference takes for each entry.
        backend: what the caller asks for.
        x: the embeddings, the larger of both sides, where the operation has a Triton kernel or
            small matrices are held whole.

    Returns:
        "reference", "streaming" or "triton".

    Raises:
        ValueError: for an unknown backend, or one that cannot run ``op``, with the reason.
    """
    _check.choice(op, "backend", backend, BACKENDS)
    if backend == "auto":
        backend = _default
    if backend == "auto":
        if op in _TRITON_WINS and rows >= _TRITON_WINS[op] and not unsupported(op, "triton", x):
            return "triton"
        tiny = rows * columns * width * _SLOWER.get(op, 1) <= _TINY
        return "reference" if tiny and not _held_whole(op, x) else "streaming"
    reason = unsupported(op, backend, x)
    if reason is not None:
        raise ValueError(f"{op}: backend {backend!r} cannot run: {reason}")
    return backend


def _held_whole(op: str, x: Tensor | None) -> bool:
    on_cpu = x is not None and x.device.type == "cpu"
    return op in _HELD and on_cpu and not torch.compiler.is_compiling()


def unsupported(op: str, backend: str, x: Tensor | None = None) -> str | None:
    """Say why ``backend`` cannot run ``op`` on the embeddings x, None where it can."""
    if backend != "triton":
        return None
    if op not in TRITON:
        return f"there is no Triton kernel for {op}"
    if not _INSTALLED:
        return "triton is not installed; torch for CUDA brings it"
    if x is None:
        return None
    interpreted = x.device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"
    if not x.is_cuda and not interpreted:
        return f"its kernels run on CUDA tensors, these are on {x.device}"
    if x.dtype == torch.float64:
        return "its kernels compute in float32, these are torch.float64"
    entries = max(x.numel(), 16 * len(x))  # which at most doubles where vectors are filled up
    if entries >= 1 << 30:
        return f"its kernels count entries in 32 bits, here are {entries}"
    return None


def explain(op: str, x: Tensor, y: Tensor | None = None) -> str:
    """Say which backend would run an operation on these embeddings, and why.

    Args:
        op: "hardest" (batch-hard mining), "beyond" (semi-hard mining), "topk" (the hardest
            negatives), "draw" (distance-weighted mining), "logsumexp" (SupCon,
            NT-Xent, multi-similarity, circle), "positive_sum" (the same but SupCon),
            "distance_logsumexp" (lifted structure), "pair_sum" (all pairs), "triplet_sum" (all
            triplets) or "class_logsumexp" (losses of classes, with their weight as y).
        x: (n, d) embeddings.
        y: (m, d) embeddings they are compared with, x itself if None.

    Returns:
        One line: the problem, the backend, the reason.

    Raises:
        ValueError: for an unknown operation.

    Example:
        >>> import torch
        >>> print(explain("hardest", torch.zeros(4096, 128)))
        hardest of (4096, 4096) pairs in 128 dimensions on cpu: streaming, in linear memory
    """
    _check.choice("explain", "op", op, tuple(OPERATIONS))
    _check.matrix("explain", "x", x)
    n, m, width = len(x), len(x if y is None else y), x.shape[1]
    if _default == "auto":
        chosen = choose(op, n, m, width if OPERATIONS[op] else 1, x=x)
        whole = n * m <= WHOLE and _held_whole(op, x)
        reason = {
            "reference": "the quicker one when tiny",
            "streaming": "which holds so small a matrix whole" if whole else "in linear memory",
            "triton": "measured to be the quickest",
        }[chosen]
    else:
        chosen, why_not = _default, unsupported(op, _default, x)
        reason = "as asked for" if why_not is None else f"which cannot run: {why_not}"
    return f"{op} of ({n}, {m}) pairs in {width} dimensions on {x.device}: {chosen}, {reason}"
