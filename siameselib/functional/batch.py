"""A labelled batch: its checks, and the warnings about labels that no batch loss can learn from."""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from siameselib import _check
from siameselib.functional.distances import at_least_float32
from siameselib.functional.reduction import REDUCTIONS, reduce
from siameselib.kernels import BACKENDS

BATCH_METRICS = ("euclidean", "sqeuclidean", "cosine")


class Batch(NamedTuple):
    """Anchors and the candidates they are compared with."""

    x: Tensor
    """(n, d) anchors, float32 or wider."""
    labels: Tensor
    """(n,) their identities."""
    ref: Tensor
    """(m, d) candidates, float32 or wider: x itself unless a reference set was given."""
    ref_labels: Tensor
    """(m,) their identities."""
    offset: int | None
    """Anchor i is candidate offset + i, and no positive of itself; None: it is no candidate."""


def check_words(
    where: str,
    *,
    backend: str,
    metric: str = "euclidean",
    reduction: str = "mean",
    reductions: Sequence[str] = REDUCTIONS,
) -> None:
    """Refuse words that no loss or miner on a batch takes; not all losses take all reductions."""
    _check.choice(where, "metric", metric, BATCH_METRICS)
    _check.choice(where, "reduction", reduction, reductions)
    _check.choice(where, "backend", backend, BACKENDS)


def labelled_batch(
    where: str,
    embeddings: Tensor,
    labels: Tensor,
    ref: Tensor | None,
    ref_labels: Tensor | None,
    ref_offset: int | None,
    validate: bool = False,
) -> Batch:
    """Check what every batch loss takes, and fill in the batch itself where no ``ref`` is given.

    Args:
        where: the loss that asks, for its messages.
        embeddings: one embedding a row.
        labels: one identity a row.
        ref: a larger set to compare the batch with; None for the batch itself.
        ref_labels: the identities of ``ref``.
        ref_offset: where in ``ref`` the batch's own rows begin; None when they are not in it.
        validate: whether to look for NaN and infinity, which waits for the device.

    Returns:
        The batch, in float32 at least.

    Raises:
        ValueError: for shapes, devices or an offset that do not fit together, or, under
            ``validate``, embeddings that are not finite.
        TypeError: for embeddings that are not floating point or labels that are not integers.
    """
    _check.matrix(where, "embeddings", embeddings)
    _check.labels(where, labels, len(embeddings))
    _check.same_device(where, "embeddings", embeddings, "labels", labels)
    _warn_of_pair_labels(where, labels)
    if validate:
        _check.finite(where, "embeddings", embeddings)
    x = at_least_float32(embeddings)
    if ref is None:
        for name, value in (("ref_labels", ref_labels), ("ref_offset", ref_offset)):
            if value is not None:
                raise _check.refuse(where, name, "be None without ref", type(value).__name__)
        return Batch(x, labels, x, labels, 0)
    _check.matrix(where, "ref", ref)
    if ref.shape[1] != embeddings.shape[1]:
        expected = f"have the width of embeddings, {embeddings.shape[1]}"
        raise _check.refuse(where, "ref", expected, ref.shape[1])
    if ref_labels is None:
        raise _check.refuse(where, "ref_labels", "be given with ref", None)
    _check.labels(where, ref_labels, len(ref), "ref_labels")
    _check.same_device(where, "embeddings", embeddings, "ref", ref)
    _check.same_device(where, "ref", ref, "ref_labels", ref_labels)
    if validate:
        _check.finite(where, "ref", ref)
    if ref_offset is not None:
        _check.integer(where, "ref_offset", ref_offset, 0)
        if ref_offset > len(ref) - len(embeddings):
            expected = f"lie in [0, {len(ref) - len(embeddings)}], the batch being part of ref"
            raise _check.refuse(where, "ref_offset", expected, ref_offset)
    return Batch(x, labels, at_least_float32(ref), ref_labels, ref_offset)


def warn_when_idle(
    where: str,
    valid: Tensor,
    why: str = "no anchor of this batch has both a positive and a negative",
    remedy: str = "sample several identities, several images of each",
    depth: int = 4,
) -> None:
    """Warn when a batch has no valid term: CPU only, since reading the count syncs."""
    if readable(valid) and valid == 0:
        warnings.warn(
            f"{where}: {why}: the loss is 0 and teaches nothing; {remedy}", stacklevel=depth
        )


def reduce_batch(where: str, losses: Tensor, terms: Tensor, reduction: str) -> Tensor:
    """Reduce the losses of anchors, each the sum of so many terms, and warn when that is none.

    Args:
        where: the loss that asks.
        losses: (n,) one an anchor.
        terms: (n,) how many terms it is the sum of, or whether it counts.
        reduction: see :func:`siameselib.functional.reduction.reduce`.

    Returns:
        The loss.
    """
    if readable(terms):
        count = terms.sum()
        number = int(count)
        if number == 0:
            warn_when_idle(where, count, depth=5)
        if terms.dtype == torch.bool and number == len(terms):
            return reduce(where, losses, None, reduction)  # all of them: nothing to leave out
    return reduce(where, losses, terms, reduction)


def _warn_of_pair_labels(where: str, labels: Tensor) -> None:
    if not readable(labels) or len(labels) < 18 or int(labels.amax()) > 1:
        return
    ones, zeros = int((labels == 1).sum()), int((labels == 0).sum())
    if ones + zeros == len(labels) and min(ones, zeros) > 8:
        warnings.warn(
            f"{where}: labels are all 0 or 1: they must be identities, one number a person; pair "
            "labels belong in a pair loss, and one-vs-rest makes all the others one person",
            stacklevel=5,
        )


def readable(tensor: Tensor) -> bool:
    """Say whether values can be looked at without waiting for a device."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()
