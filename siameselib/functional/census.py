"""Counts and sums over the pairs of a batch, for the stats of losses on cosine similarities."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from siameselib.functional.stats import Stats


class Census(NamedTuple):
    """Of each anchor."""

    positives: Tensor
    """(n,) how many positives it has."""
    negatives: Tensor
    """(n,) how many negatives."""
    positive_sum: Tensor
    """(n,) the sum of the similarities of the positives; differentiable."""
    negative_sum: Tensor
    """(n,) and of the negatives."""


def census(x: Tensor, labels: Tensor, y: Tensor, y_labels: Tensor, offset: int | None) -> Census:
    """Count and sum: a sum of dot products is the dot product with a sum, O(n·d).

    Args:
        x: (n, d) anchors.
        labels: (n,) their identities.
        y: (m, d) candidates; x itself where they are the anchors.
        y_labels: (m,) their identities.
        offset: anchor i is candidate offset + i, and no positive of itself; None: it is none.

    Returns:
        What there is to count and sum.
    """
    ordered = y_labels.sort().values
    first = torch.searchsorted(ordered, labels)  # names the identity, if the anchor has members
    members = torch.searchsorted(ordered, labels, right=True) - first
    negatives = len(y) - members
    first = torch.where(members > 0, first, len(y))
    alike = (first, first if y_labels is labels else torch.searchsorted(ordered, y_labels))
    # Compiled, the same without the class, which torch.compile takes under warnings only.
    compiling = torch.compiler.is_compiling()
    run: Any = _AlikeSum.apply
    positive_sum = _alike_sum(x, y, *alike)[0] if compiling else run(x, y, *alike)
    negative_sum = torch.mv(x.detach(), y.detach().sum(0)) - positive_sum.detach()
    if offset is not None:
        members = members - 1
        positive_sum = positive_sum - (x * y[offset : offset + len(x)]).sum(1)
    return Census(members, negatives, positive_sum, negative_sum)


def _alike_sum(x: Tensor, y: Tensor, keys: Tensor, y_keys: Tensor) -> tuple[Tensor, Tensor]:
    # The dot product of each row of x with the sum of the rows of y that have its key; that sum.
    alike = _key_sums(y, y_keys, len(y) + 1).index_select(0, keys)
    return (x * alike).sum(1), alike


class _AlikeSum(torch.autograd.Function):
    # The same, with a gradient of fewer steps.
    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        x, _, keys, y_keys = inputs
        total, alike = _alike_sum(*inputs)
        ctx.save_for_backward(x, keys, y_keys, alike)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        x, keys, y_keys, alike = ctx.saved_tensors
        gradient = gradients[0][:, None]
        dy = _key_sums(gradient * x, keys, len(y_keys) + 1).index_select(0, y_keys)
        return gradient * alike, dy, None, None


def _key_sums(x: Tensor, keys: Tensor, number: int) -> Tensor:
    return x.new_zeros(number, x.shape[1]).index_add(0, keys, x)


def similarity_stats(seen: Census, terms: Tensor, losses: Tensor, trivial: Tensor) -> Stats:
    """Return the stats of a loss of which each anchor has so many terms."""
    count, active = terms.sum(), losses.detach() > 0
    columns = (
        seen.positive_sum.detach(),
        seen.positives,
        seen.negative_sum,
        seen.negatives,
        terms * active,
        terms * trivial,
    )
    rows = torch.stack([column.to(losses.dtype) for column in columns])
    sums = rows.masked_fill_(terms == 0, 0).sum(1)
    return Stats(
        valid=count,
        active=sums[4] / count,
        positive_distance=1 - sums[0] / sums[1],
        negative_distance=1 - sums[2] / sums[3],
        trivial=sums[5] / count,
    )
