"""Softmax losses on explicit samples: a row's match among all the rows of the batch."""

import torch
from torch import Tensor

from siameselib import _check
from siameselib.functional.distances import at_least_float32, paired_distance, unit_rows
from siameselib.functional.reduction import reduce, softplus
from siameselib.functional.stats import Stats, masked_mean
from siameselib.kernels import logsumexp


def info_nce_loss(
    x1: Tensor,
    x2: Tensor,
    labels: Tensor | None = None,
    *,
    temperature: float = 0.1,
    reduction: str = "mean",
) -> Tensor:
    r"""InfoNCE: find the row's match in the other matrix, in both directions.

    .. math:: L_i = -\tfrac12 \log \frac{e^{s_{ii}/T}}{e^{s_{ii}/T} + \sum_{j \in N_i} e^{s_{ij}/T}}
                    -\tfrac12 \log \frac{e^{s_{ii}/T}}{e^{s_{ii}/T} + \sum_{j \in N_i} e^{s_{ji}/T}}

    with s_ij the cosine similarity of row i of x1 and row j of x2, and N_i the other rows: all of
    them, or with labels those of another identity. Every row pair must be of one identity: where
    only listed positive pairs are at hand, the positives of the others serve as negatives.
    With k negatives for each row, a collapsed model has the loss log(1 + k): ``stats.trivial``.

    Args:
        x1: one embedding a row, of any length: rows are normalised here.
        x2: the matches of x1, row by row.
        labels: the identity of each row pair; None when no identity comes twice.
        temperature: T.
        reduction: "mean" over the rows that have a negative, "mean_active" over those of them
            with a loss above zero, "sum", or "none".

    Shape:
        x1, x2: (n, d). labels: (n,). Result: 0-d, or (n,) for "none".

    Returns:
        The loss; a differentiable 0 when no row has a negative.

    Raises:
        ValueError: for shapes that differ, an unknown reduction, or a temperature that is not
            positive.
        TypeError: for embeddings that are not floating point or labels that are not integers.

    Example:
        >>> x = torch.eye(2)
        >>> info_nce_loss(x, x, temperature=1.0)  # log(1 + 1/e)
        tensor(0.3133)
        >>> info_nce_loss(x, x, torch.tensor([5, 5]))
        tensor(0.)

    Source:
        Van den Oord, Li and Vinyals, "Representation learning with contrastive predictive
        coding", 2018, equation 4; symmetric as in Radford et al., "Learning transferable visual
        models from natural language supervision", ICML 2021, figure 3, with a fixed temperature.
        Leaving out the rows of one identity is ours.
    """
    return info_nce_with_stats(x1, x2, labels, temperature=temperature, reduction=reduction)[0]


def info_nce_with_stats(
    x1: Tensor, x2: Tensor, labels: Tensor | None, *, temperature: float, reduction: str
) -> tuple[Tensor, Stats]:
    """Return :func:`info_nce_loss` and what it saw."""
    where = "info_nce_loss"
    _check.matrix(where, "x1", x1)
    _check.matrix(where, "x2", x2)
    _check.same_shape(where, x1=x1, x2=x2)
    _check.positive(where, "temperature", temperature)
    if labels is None:
        labels = torch.arange(len(x1), device=x1.device)
    _check.labels(where, labels, len(x1))
    _check.same_device(where, "x1", x1, "labels", labels)
    with torch.autocast(x1.device.type, enabled=False):
        a, b = unit_rows(at_least_float32(x1)), unit_rows(at_least_float32(x2))
        distance = paired_distance(x1, x2, "cosine")
        match = (a * b).sum(-1) / temperature
        forth = logsumexp.reference(a, b, labels, labels, 1 / temperature)
        back = logsumexp.reference(b, a, labels, labels, 1 / temperature)
        losses = (softplus(forth - match) + softplus(back - match)) / 2
        negatives = len(labels) - (labels[:, None] == labels).sum(1)
        valid = negatives > 0
        total = (1 - a.detach() @ b.detach().T).masked_fill(labels[:, None] == labels, 0).sum()
        stats = Stats(
            valid=valid.sum(),
            active=masked_mean((losses > 0).to(a.dtype), valid),
            positive_distance=masked_mean(distance, valid),
            negative_distance=total / negatives.sum(),
            trivial=masked_mean(torch.log1p(negatives.to(a.dtype)), valid),
        )
        return reduce(where, losses, valid, reduction), stats
