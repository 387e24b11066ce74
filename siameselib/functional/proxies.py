"""Proxy losses: each class is stood for by one point of the embedding space."""

import math
from functools import partial

import torch
from torch import Tensor

from siameselib import _check
from siameselib.functional.class_softmax import softmax_loss
from siameselib.functional.classes import check_scale, class_batch, reduce_classes
from siameselib.functional.reduction import softplus
from siameselib.functional.stats import Later, Stats


def proxy_nca_loss(
    embeddings: Tensor,
    labels: Tensor,
    weight: Tensor,
    *,
    temperature: float = 1.0,
    own_proxy: bool = False,
    reduction: str = "mean",
    validate: bool = False,
    backend: str = "auto",
) -> Tensor:
    r"""Proxy-NCA: nearer to the proxy of the own class than to those of the others.

    .. math:: L_i = -\log \frac{e^{-d_{iy} / T}}{\sum_{c \ne y} e^{-d_{ic} / T}}

    with d_ic the squared Euclidean distance of embedding i and proxy c, both scaled to length 1,
    so that d = 2 - 2 cos θ, and y the class of i. Without the own proxy in the sum the loss has no
    lower bound at 0: well-placed embeddings make it negative. ``own_proxy`` puts it there.
    Memory is linear in the batch and in the number of classes: their product is never stored.
    A collapsed model has the loss log(C - 1), with ``own_proxy`` log C: ``stats.trivial``.

    Args:
        embeddings: one embedding a row, of any length: rows are normalised here.
        labels: the class of each row, a row number of the weight.
        weight: the proxies, one row a class, of any length.
        temperature: T.
        own_proxy: whether the sum is over all proxies.
        reduction: "mean" over the embeddings, "sum", or "none".
        validate: whether to look for NaN, infinity and labels out of range, which waits for the
            device; on the CPU labels are always looked at.
        backend: see :func:`siameselib.use_backend`.

    Shape:
        embeddings: (n, d). labels: (n,). weight: (c, d). Result: 0-d, or (n,) for "none".

    Returns:
        The loss; a differentiable 0 for an empty batch or a single class, with a warning.

    Raises:
        ValueError: for shapes that do not fit, labels out of range, an unknown reduction or
            backend, a temperature out of range, or, under ``validate``, numbers that are not
            finite.
        TypeError: for embeddings that are not floating point, labels that are not integers, or
            options that are no numbers.

    Example:
        >>> proxies = torch.eye(2)
        >>> proxy_nca_loss(torch.tensor([[1.0, 0.0]]), torch.tensor([0]), proxies)
        tensor(-2.)
        >>> proxy_nca_loss(torch.tensor([[1.0, 0.0]]), torch.tensor([0]), proxies, own_proxy=True)
        tensor(0.1269)

    Source:
        Movshovitz-Attias et al., "No fuss distance metric learning using proxies", ICCV 2017,
        equation 6. ``own_proxy=True`` with temperature 1/9 is the loss of Teh, DeVries and Taylor,
        "ProxyNCA++: revisiting and revitalizing proxy neighborhood component analysis", ECCV 2020.
    """
    return proxy_nca_with_stats(
        embeddings,
        labels,
        weight,
        temperature=temperature,
        own_proxy=own_proxy,
        reduction=reduction,
        validate=validate,
        backend=backend,
    )[0]


def proxy_anchor_loss(
    embeddings: Tensor,
    labels: Tensor,
    weight: Tensor,
    *,
    margin: float = 0.1,
    alpha: float = 32.0,
    reduction: str = "mean",
    validate: bool = False,
    backend: str = "auto",
) -> Tensor:
    r"""Proxy-anchor: each proxy gathers its samples and sends the others away, hard ones most.

    .. math:: L = \frac{1}{|P^+|} \sum_{p \in P^+}
                  \log\Big(1 + \sum_{i:\, y_i = p} e^{-\alpha (s_{ip} - \delta)}\Big)
                + \frac{1}{|P|} \sum_{p \in P}
                  \log\Big(1 + \sum_{i:\, y_i \ne p} e^{\alpha (s_{ip} + \delta)}\Big)

    with s_ip the cosine of embedding i and proxy p, P all proxies, and P⁺ those whose class is in
    the batch. Memory is linear in the batch and in the number of classes: their product is never
    stored. ``stats.trivial`` is the loss where every cosine is 0, within the margin.

    Args:
        embeddings: one embedding a row, of any length: rows are normalised here.
        labels: the class of each row, a row number of the weight.
        weight: the proxies, one row a class, of any length.
        margin: δ, in [0, 1).
        alpha: α.
        reduction: "mean" over the proxies, which is L, "sum", which is L times their number, or
            "none": for each proxy its two logarithms, the first times P over P⁺ in number.
        validate: whether to look for NaN, infinity and labels out of range, which waits for the
            device; on the CPU labels are always looked at.
        backend: see :func:`siameselib.use_backend`.

    Shape:
        embeddings: (n, d). labels: (n,). weight: (c, d). Result: 0-d, or (c,) for "none".

    Returns:
        The loss; a differentiable 0 for an empty batch, with a warning.

    Raises:
        ValueError: for shapes that do not fit, labels out of range, an unknown reduction or
            backend, a margin or alpha out of range, or, under ``validate``, numbers that are not
            finite.
        TypeError: for embeddings that are not floating point, labels that are not integers, or
            options that are no numbers.

    Example:
        >>> proxies = torch.eye(2)
        >>> proxy_anchor_loss(torch.tensor([[0.0, 1.0]]), torch.tensor([0]), proxies)
        tensor(20.8400)

    Source:
        Kim, Kim, Cho and Kwak, "Proxy anchor loss for deep metric learning", CVPR 2020,
        equation 4.
    """
    return proxy_anchor_with_stats(
        embeddings,
        labels,
        weight,
        margin=margin,
        alpha=alpha,
        reduction=reduction,
        validate=validate,
        backend=backend,
    )[0]


def proxy_nca_with_stats(
    embeddings: Tensor,
    labels: Tensor,
    weight: Tensor,
    *,
    temperature: float,
    own_proxy: bool,
    reduction: str,
    validate: bool,
    backend: str,
) -> tuple[Tensor, Stats | Later]:
    """Return :func:`proxy_nca_loss` and what it saw."""
    where = "proxy_nca_loss"
    scale = check_scale(where, temperature, "temperature", inverse=2)
    batch = class_batch(
        where,
        embeddings,
        labels,
        weight,
        scale,
        reduction=reduction,
        validate=validate,
        backend=backend,
    )
    if own_proxy:
        return softmax_loss(where, batch, lambda d: scale * (1 - d), 0.0, reduction)
    classes, number = batch.compared(), len(weight)
    losses = classes.logsumexp - scale * (1 - classes.distance)
    trivial = partial(_number, math.log(number - 1) if number > 1 else -math.inf)
    idle = not len(labels) or number < 2
    return reduce_classes(where, classes, losses, number, trivial, reduction, idle=idle)


def proxy_anchor_with_stats(
    embeddings: Tensor,
    labels: Tensor,
    weight: Tensor,
    *,
    margin: float,
    alpha: float,
    reduction: str,
    validate: bool,
    backend: str,
) -> tuple[Tensor, Stats | Later]:
    """Return :func:`proxy_anchor_loss` and what it saw."""
    where = "proxy_anchor_loss"
    check_proxy_anchor(where, margin, alpha)
    batch = class_batch(
        where,
        embeddings,
        labels,
        weight,
        alpha,
        reduction=reduction,
        validate=validate,
        backend=backend,
    )
    classes, number = batch.compared(by_class=True), len(weight)
    others = classes.logsumexp
    members = torch.zeros_like(others).index_add(0, batch.labels, others.new_ones(len(labels)))
    present = (members > 0).sum().clamp(min=1)
    shift = alpha * margin
    own = _own_sums(classes.distance, batch.labels, alpha, margin, torch.zeros_like(others))
    losses = number * own / present + softplus(others + shift)
    trivial = partial(_apart, members, present, len(labels), shift)
    idle = not len(labels)
    return reduce_classes(where, classes, losses, number, trivial, reduction, idle=idle)


def check_proxy_anchor(where: str, margin: float, alpha: float) -> None:
    """Refuse numbers that :func:`proxy_anchor_loss` does not take."""
    _check.between(where, "margin", margin, 0, 1)
    check_scale(where, alpha, "alpha")


# what a model loses that has collapsed, or all of whose cosines are 0


def _number(value: float, losses: Tensor) -> Tensor:
    return losses.new_tensor(value)


def _apart(members: Tensor, present: Tensor, n: int, shift: float, losses: Tensor) -> Tensor:
    own = softplus(members.log() + shift).sum() / present
    return own + softplus((n - members).log() + shift).mean()


def _own_sums(
    distance: Tensor, labels: Tensor, alpha: float, margin: float, zeros: Tensor
) -> Tensor:
    # For each proxy log(1 + the sum over its samples), 0 without samples.
    terms = alpha * (distance - 1 + margin)
    largest = zeros.scatter_reduce(0, labels, terms.detach(), "amax")  # of them and of 0
    shifted = (terms - largest.index_select(0, labels)).exp()
    return largest + (-largest).exp().index_add(0, labels, shifted).log()
