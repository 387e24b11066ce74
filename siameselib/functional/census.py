"""Counts and sums over the pairs of a batch, for the stats of losses on cosine similarities."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from siameselib.functional.stats import Later, Stats, later
from siameselib.kernels.whole import Census


def census(x: Tensor, labels: Tensor, y: Tensor, y_labels: Tensor, offset: int | None) -> Census:
    """Count and sum: a sum of dot products is the dot product with a sum, O(n·d).

    Args:
        x: (n, d) anchors.
        labels: (n,) their identities.
        y: (m, d) candidates; x itself where they are the anchors.
        y_labels: (m,) their identities.
        offset: anchor i is candidate offset + i, and no positive of itself; None: it is none.

    Returns:
        What there is to count and sum; the sum of the positives is differentiable.
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
    sides = (x, y, *alike, offset)
    positive_sum = _alike_sum(*sides)[0] if compiling else run(*sides)
    negative_sum = torch.mv(x.detach(), y.detach().sum(0)) - positive_sum.detach()
    if offset is not None:
        members = members - 1
        own = (x * y[offset : offset + len(x)]).detach().sum(1)
        negative_sum = negative_sum - own
    return Census(members, negatives, positive_sum, negative_sum)


def _alike_sum(
    x: Tensor, y: Tensor, keys: Tensor, y_keys: Tensor, offset: int | None
) -> tuple[Tensor, Tensor]:
    # The dot product of each row of x with the sum of the rows of y that have its key, the row
    # itself left out; that sum.
    alike = _key_sums(y, y_keys, len(y) + 1).index_select(0, keys)
    if offset is not None:
        alike = alike - y[offset : offset + len(x)]
    return (x * alike).sum(1), alike


class _AlikeSum(torch.autograd.Function):
    # The same, with a gradient of fewer steps.
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        *tensors, ctx.offset = inputs
        total, alike = _alike_sum(*inputs)
        ctx.save_for_backward(*tensors, alike)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        x, y, keys, y_keys, alike = ctx.saved_tensors
        if torch.is_grad_enabled():  # for a second derivative it must lead back to y
            alike = _alike_sum(x, y, keys, y_keys, ctx.offset)[1]
        pull = gradients[0][:, None] * x
        dy = _key_sums(pull, keys, len(y_keys) + 1).index_select(0, y_keys)
        if ctx.offset is not None:
            dy[ctx.offset : ctx.offset + len(x)] -= pull
        return gradients[0][:, None] * alike, dy, None, None, None


def _key_sums(x: Tensor, keys: Tensor, number: int) -> Tensor:
    return x.new_zeros(number, x.shape[1]).index_add(0, keys, x)


def similarity_stats(
    seen: Census, terms: Tensor, losses: Tensor, trivial: Callable[[Census], Tensor]
) -> Stats | Later:
    """Return the stats of a loss of which each anchor has so many terms.

    Args:
        seen: what each anchor has.
        terms: (n,) of how many terms its loss is the sum.
        losses: (n,) their losses.
        trivial: tells what they are when the model has collapsed.

    Returns:
        The stats, or what will work them out.
    """
    seen = seen._replace(positive_sum=seen.positive_sum.detach())
    return later(stats_of, seen, terms, losses.detach(), trivial)


def stats_of(
    seen: Census, terms: Tensor, losses: Tensor, trivial: Callable[[Census], Tensor]
) -> Stats:
    """Work the stats out, of what carries no gradient; see :func:`similarity_stats`."""
    dtype = losses.dtype
    count, often = terms.sum(), terms.to(dtype)
    there = often.clamp(max=1)
    seen = seen._replace(positives=seen.positives.to(dtype), negatives=seen.negatives.to(dtype))
    return Stats(
        valid=count.long(),
        active=((losses > 0) * often).sum() / count,
        positive_distance=1 - _sum(seen.positive_sum, there) / _sum(seen.positives, there),
        negative_distance=1 - _sum(seen.negative_sum, there) / _sum(seen.negatives, there),
        trivial=_sum(trivial(seen), often) / count,
    )


def _sum(values: Tensor, weight: Tensor) -> Tensor:
    return torch.where(weight > 0, values * weight, 0).sum()
