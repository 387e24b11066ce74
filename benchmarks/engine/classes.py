"""Losses of classes for the benchmark: every peer gets the same weight, 10,000 directions.

The dense forms are written from the papers: the whole matrix of cosines, masks, autograd.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import siameselib as sl

CLASSES = 10_000
Loss = Callable[[Tensor, Tensor], Tensor]


def directions(width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the weight, (CLASSES, width)."""
    g = torch.Generator().manual_seed(width)
    return torch.randn(CLASSES, width, generator=g, dtype=torch.float64).to(dtype)


def made_for_width(make: Callable[[int], nn.Module]) -> Loss:
    """Return a loss that is made when the first batch shows how wide it has to be."""
    made = cache(make)
    return lambda x, labels: made(x.shape[1])(x, labels)


def ours(name: str, **keywords: Any) -> Callable[[], Loss]:
    """Say how to make our loss."""

    def make(width: int) -> nn.Module:
        criterion: nn.Module = getattr(sl, name)(CLASSES, width, **keywords)
        criterion.weight.data = directions(width)
        return criterion

    return lambda: made_for_width(make)


def pml(name: str, unit: bool = False, **keywords: Any) -> Callable[[], Loss]:
    """Say how to make theirs; ``unit``: theirs takes the embeddings as they come."""

    def make(width: int) -> nn.Module:
        from pytorch_metric_learning import losses

        criterion: nn.Module = getattr(losses, name)(CLASSES, width, **keywords)
        if "Proxy" in name:
            criterion.proxies.data = directions(width)
        else:
            criterion.W.data = directions(width).T.contiguous()
        return criterion

    def build() -> Loss:
        loss = made_for_width(make)
        return lambda x, labels: loss(F.normalize(x) if unit else x, labels)

    return build


@cache
def _parameter(width: int, dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(directions(width, dtype))


def _cosines(x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    cosine = F.normalize(x) @ F.normalize(_parameter(x.shape[1], x.dtype)).T
    return cosine, F.one_hot(labels, CLASSES).bool()


def arc_face(x: Tensor, labels: Tensor) -> Tensor:
    """Half a radian more to the own class; scale 64."""
    cosine, own = _cosines(x, labels)
    near = cosine.clamp(-1 + 1e-7, 1 - 1e-7)
    sine = (1 - near.square()).sqrt()
    widened = near * math.cos(0.5) - sine * math.sin(0.5)
    widened = torch.where(near >= -math.cos(0.5), widened, near - 0.5 * math.sin(0.5))
    return F.cross_entropy(64 * torch.where(own, widened, cosine), labels)


def cos_face(x: Tensor, labels: Tensor) -> Tensor:
    """0.35 less cosine with the own class; scale 64."""
    cosine, own = _cosines(x, labels)
    return F.cross_entropy(64 * (cosine - 0.35 * own), labels)


def normalized_softmax(x: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of cosines; temperature 0.05."""
    return F.cross_entropy(_cosines(x, labels)[0] / 0.05, labels)


def proxy_anchor(x: Tensor, labels: Tensor) -> Tensor:
    """Soft maxima over the samples of each class and over all others; margin 0.1, alpha 32."""
    cosine, own = _cosines(x, labels)
    pull = (-32 * (cosine - 0.1)).masked_fill(~own, -torch.inf).logsumexp(0)
    push = (32 * (cosine + 0.1)).masked_fill(own, -torch.inf).logsumexp(0)
    seen = own.any(0)
    return F.softplus(pull[seen]).mean() + F.softplus(push).mean()


def proxy_nca(x: Tensor, labels: Tensor) -> Tensor:
    """Softmax over minus the squared distances of directions."""
    return F.cross_entropy(2 * _cosines(x, labels)[0] - 2, labels)
