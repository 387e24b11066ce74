"""Nearest neighbours found by somebody else: faiss, or a function of the user's."""

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from siameselib import _check
from siameselib.functional.distances import unit_rows

Search: TypeAlias = Callable[[Tensor, Tensor, int], Any]
KnnBackend: TypeAlias = Literal["faiss"] | Search


def nearest(
    backend: KnnBackend, queries: Tensor, references: Tensor, k: int, metric: str
) -> Tensor:
    """The k nearest references of each query, nearest first, as the backend finds them.

    Args:
        backend: "faiss", or a function ``(queries, references, k) -> indices``.
        queries: embeddings.
        references: embeddings.
        k: how many.
        metric: "euclidean", "sqeuclidean" or "cosine"; the backend always searches by Euclidean
            distance, of rows of length 1 for the cosine.

    Shape:
        queries: (n, d). references: (m, d). Result: (n, k).

    Returns:
        Row numbers of ``references``; -1 where the backend found none.

    Raises:
        ValueError: The backend is an unknown word, or gave something else than (n, k) row numbers.
        TypeError: The backend is no word and cannot be called, or gave no integers.
        ImportError: faiss is not installed.
    """
    where = "evaluate_retrieval"
    if isinstance(backend, str):
        _check.choice(where, "knn_backend", backend, ("faiss",))
        backend = _faiss
    if not callable(backend):
        expected, got = 'be None, "faiss" or a function', type(backend).__name__
        raise _check.refuse(where, "knn_backend", expected, got, TypeError)
    if metric == "cosine":
        queries, references = unit_rows(queries), unit_rows(references)
    given = backend(queries, references, k)
    try:
        found = torch.as_tensor(given, device=queries.device)
    except (TypeError, ValueError, RuntimeError):
        got = type(given).__name__
        raise _check.refuse(where, "knn_backend", "give row numbers", got, TypeError) from None
    if found.shape != (len(queries), k):
        expected = f"give indices of shape (queries, k) = ({len(queries)}, {k})"
        raise _check.refuse(where, "knn_backend", expected, tuple(found.shape))
    if found.is_floating_point() or found.dtype == torch.bool:
        raise _check.refuse(where, "knn_backend", "give integers", found.dtype, TypeError)
    low, high = int(found.min()), int(found.max())
    if low < -1 or high >= len(references):
        expected = f"give row numbers below {len(references)}, or -1 for none"
        raise _check.refuse(where, "knn_backend", expected, f"{low} to {high}")
    return found.long()


def _faiss(queries: Tensor, references: Tensor, k: int) -> Any:
    try:
        import faiss
    except ImportError as error:
        message = 'evaluate_retrieval: knn_backend="faiss" needs faiss: pip install faiss-cpu'
        raise ImportError(message) from error
    centre = references.mean(0)  # far from the origin single precision loses the differences
    index = faiss.IndexFlatL2(references.shape[1])
    index.add((references - centre).float().cpu().numpy())
    return index.search((queries - centre).float().cpu().numpy(), k)[1]
