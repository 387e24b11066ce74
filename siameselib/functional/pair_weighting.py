"""Losses that weigh every pair of a batch by how hard it is: by its share in a log-sum-exp."""

from functools import partial

import torch
from torch import Tensor

from siameselib import _check
from siameselib.functional.batch import check_words, labelled_batch, reduce_batch
from siameselib.functional.census import census, similarity_stats
from siameselib.functional.distances import unit_rows
from siameselib.functional.reduction import softplus
from siameselib.functional.stats import Later, Stats
from siameselib.kernels import forms
from siameselib.kernels.logsumexp import logsumexp
from siameselib.kernels.positive_sum import farthest_positive, positive_logsumexp
from siameselib.kernels.score import Score
from siameselib.kernels.whole import Census, fits, row_losses


def multi_similarity_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    alpha: float = 2.0,
    beta: float = 50.0,
    base: float = 0.5,
    epsilon: float | None = 0.1,
    reduction: str = "mean",
    validate: bool = False,
    backend: str = "auto",
    ref: Tensor | None = None,
    ref_labels: Tensor | None = None,
    ref_offset: int | None = None,
) -> Tensor:
    r"""Multi-similarity: positives below a similarity, negatives above it, the worst the most.

    .. math:: L_a = \frac1\alpha \log\Big(1 + \sum_{p \in P_a} e^{-\alpha (s_{ap} - \lambda)}\Big)
                  + \frac1\beta \log\Big(1 + \sum_{n \in N_a} e^{\beta (s_{an} - \lambda)}\Big)

    with s the cosine similarity. P_a and N_a are the positives and negatives of the anchor that
    are hard beside each other,

    .. math:: s_{ap} < \max_n s_{an} + \varepsilon \qquad s_{an} > \min_p s_{ap} - \varepsilon

    or all of them without mining. Memory is linear in the batch. A collapsed model has s = 1:
    with k positives and l negatives for each anchor, the loss
    log(1 + k·exp(-α(1 - λ)))/α + log(1 + l·exp(β(1 - λ)))/β: ``stats.trivial``.

    Args:
        embeddings: one embedding a row, of any length: rows are normalised here.
        labels: the identity of each row.
        alpha: how much more the worse positives weigh.
        beta: how much more the worse negatives weigh.
        base: λ, the similarity that parts the two.
        epsilon: ε; None for no mining.
        reduction: "mean" over the anchors with a positive and a negative, "mean_active" over those
            of them with a loss above zero, "sum", or "none" (one loss an anchor, 0 where not
            valid).
        validate: whether to look for NaN and infinity, which waits for the device.
        backend: see :func:`siameselib.use_backend`.
        ref: a larger set to compare the batch with, such as a memory of past embeddings; None
            for the batch itself.
        ref_labels: the identities of ``ref``.
        ref_offset: where in ``ref`` the batch's own rows begin; None when they are not in it.

    Shape:
        embeddings: (n, d). labels: (n,). ref: (m, d). ref_labels: (m,). Result: 0-d, or (n,) for
        "none".

    Returns:
        The loss; a differentiable 0 when no anchor is valid, with a warning.

    Raises:
        ValueError: for shapes that do not fit, an unknown reduction or backend, an alpha, beta or
            epsilon that is not positive, a base outside [-1, 1], or, under ``validate``,
            embeddings that are not finite.
        TypeError: for embeddings that are not floating point, labels that are not integers, or
            options that are no numbers.

    Example:
        >>> x, labels = torch.eye(4), torch.tensor([0, 0, 1, 1])
        >>> multi_similarity_loss(x, labels)  # log(1 + e)/2, and next to nothing for negatives
        tensor(0.6566)

    Source:
        Wang et al., "Multi-similarity loss with general pair weighting for deep metric learning",
        CVPR 2019, equation 15 on the pairs of equations 11 and 12. The mean is over the anchors
        with a positive and a negative in the batch, mined or not.
    """
    return multi_similarity_with_stats(
        embeddings,
        labels,
        alpha=alpha,
        beta=beta,
        base=base,
        epsilon=epsilon,
        reduction=reduction,
        validate=validate,
        backend=backend,
        ref=ref,
        ref_labels=ref_labels,
        ref_offset=ref_offset,
    )[0]


def circle_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    margin: float = 0.25,
    gamma: float = 256.0,
    reduction: str = "mean",
    validate: bool = False,
    backend: str = "auto",
    ref: Tensor | None = None,
    ref_labels: Tensor | None = None,
    ref_offset: int | None = None,
) -> Tensor:
    r"""Circle loss: each similarity is pulled as hard as it is far from where it should be.

    .. math:: L_a = \log\Big(1 + \sum_n e^{\gamma \alpha_n (s_{an} - m)}
                    \sum_p e^{-\gamma \alpha_p (s_{ap} - 1 + m)}\Big) \qquad
              \alpha_n = [s_{an} + m]_+ \quad \alpha_p = [1 + m - s_{ap}]_+

    with s the cosine similarity, over all positives p and negatives n of the anchor. The weights
    α are constants to the gradient. Memory is linear in the batch. A collapsed model has s = 1:
    with k positives and l negatives for each anchor, the loss log(1 + k·l·exp(γ(1 - 2m²))):
    ``stats.trivial``.

    Args:
        embeddings: one embedding a row, of any length: rows are normalised here.
        labels: the identity of each row.
        margin: m, the relaxation: positives are to reach 1 - m, negatives to stay below m.
        gamma: γ, the scale. The paper takes 256 with m = 0.25 for faces, 128 for persons, and 80
            with m = 0.4 for fine-grained retrieval.
        reduction: "mean" over the anchors with a positive and a negative, "mean_active" over those
            of them with a loss above zero, "sum", or "none" (one loss an anchor, 0 where not
            valid).
        validate: whether to look for NaN and infinity, which waits for the device.
        backend: see :func:`siameselib.use_backend`.
        ref: a larger set to compare the batch with, such as a memory of past embeddings; None
            for the batch itself.
        ref_labels: the identities of ``ref``.
        ref_offset: where in ``ref`` the batch's own rows begin; None when they are not in it.

    Shape:
        embeddings: (n, d). labels: (n,). ref: (m, d). ref_labels: (m,). Result: 0-d, or (n,) for
        "none".

    Returns:
        The loss; a differentiable 0 when no anchor is valid, with a warning.

    Raises:
        ValueError: for shapes that do not fit, an unknown reduction or backend, a margin outside
            (0, 1), a gamma that is not positive, or, under ``validate``, embeddings that are not
            finite.
        TypeError: for embeddings that are not floating point, labels that are not integers, or
            options that are no numbers.

    Example:
        >>> x, labels = torch.eye(4), torch.tensor([0, 0, 1, 1])
        >>> circle_loss(x, labels, gamma=1.0)  # log(1 + 2·exp(-1/16 + 15/16))
        tensor(1.7575)

    Source:
        Sun et al., "Circle loss: a unified perspective of pair similarity optimization", CVPR
        2020, equation 6 with the weights of equation 5 and the margins of equation 8, for
        pairwise labels: one such loss for each anchor, and their mean.
    """
    return circle_with_stats(
        embeddings,
        labels,
        margin=margin,
        gamma=gamma,
        reduction=reduction,
        validate=validate,
        backend=backend,
        ref=ref,
        ref_labels=ref_labels,
        ref_offset=ref_offset,
    )[0]


def multi_similarity_with_stats(
    embeddings: Tensor,
    labels: Tensor,
    *,
    alpha: float,
    beta: float,
    base: float,
    epsilon: float | None,
    reduction: str,
    validate: bool,
    backend: str,
    ref: Tensor | None,
    ref_labels: Tensor | None,
    ref_offset: int | None,
) -> tuple[Tensor, Stats | Later]:
    """Return :func:`multi_similarity_loss` and what it saw."""
    where = "multi_similarity_loss"
    check_multi_similarity(where, alpha, beta, base, epsilon)
    check_words(where, reduction=reduction, backend=backend)
    batch = labelled_batch(where, embeddings, labels, ref, ref_labels, ref_offset, validate)
    with torch.autocast(embeddings.device.type, enabled=False):
        x, y = unit_rows(batch.x), None if ref is None else unit_rows(batch.ref)
        sides = (x, batch.labels, y, batch.ref_labels, batch.offset)
        if fits("logsumexp", x, y, 1, backend):
            form = partial(
                forms.multi_similarity, alpha=alpha, beta=beta, base=base, epsilon=epsilon
            )
            losses, seen = row_losses(*sides, form)
        else:
            losses = _multi_similarity(*sides, alpha, beta, base, epsilon, backend)
            seen = _census(*sides)
        valid = (seen.positives > 0) & (seen.negatives > 0)
        trivial = partial(_multi_similarity_collapsed, alpha, beta, base)
        stats = similarity_stats(seen, valid, losses, trivial)
        return reduce_batch(where, losses, valid, reduction), stats


def circle_with_stats(
    embeddings: Tensor,
    labels: Tensor,
    *,
    margin: float,
    gamma: float,
    reduction: str,
    validate: bool,
    backend: str,
    ref: Tensor | None,
    ref_labels: Tensor | None,
    ref_offset: int | None,
) -> tuple[Tensor, Stats | Later]:
    """Return :func:`circle_loss` and what it saw."""
    where = "circle_loss"
    check_circle(where, margin, gamma)
    check_words(where, reduction=reduction, backend=backend)
    batch = labelled_batch(where, embeddings, labels, ref, ref_labels, ref_offset, validate)
    with torch.autocast(embeddings.device.type, enabled=False):
        x, y = unit_rows(batch.x), None if ref is None else unit_rows(batch.ref)
        sides = (x, batch.labels, y, batch.ref_labels, batch.offset)
        if fits("logsumexp", x, y, 1, backend):
            losses, seen = row_losses(*sides, partial(forms.circle, margin=margin, gamma=gamma))
        else:
            losses, seen = _circle(*sides, Score(gamma, margin), backend), _census(*sides)
        valid = (seen.positives > 0) & (seen.negatives > 0)
        stats = similarity_stats(seen, valid, losses, partial(_circle_collapsed, margin, gamma))
        return reduce_batch(where, losses, valid, reduction), stats


def check_multi_similarity(
    where: str, alpha: float, beta: float, base: float, epsilon: float | None
) -> None:
    """Refuse numbers that :func:`multi_similarity_loss` does not take."""
    _check.positive(where, "alpha", alpha)
    _check.positive(where, "beta", beta)
    if not -1 <= _check.real(where, "base", base) <= 1:
        raise _check.refuse(where, "base", "lie in [-1, 1]", base)
    if epsilon is not None:
        _check.positive(where, "epsilon", epsilon)


def check_circle(where: str, margin: float, gamma: float) -> None:
    """Refuse numbers that :func:`circle_loss` does not take."""
    if not 0 < _check.real(where, "margin", margin) < 1:
        raise _check.refuse(where, "margin", "lie in (0, 1)", margin)
    _check.positive(where, "gamma", gamma)


# what a collapsed model loses


def _multi_similarity_collapsed(alpha: float, beta: float, base: float, seen: Census) -> Tensor:
    pull = softplus(seen.positives.log() + alpha * (base - 1)) / alpha
    return pull + softplus(seen.negatives.log() + beta * (1 - base)) / beta


def _circle_collapsed(margin: float, gamma: float, seen: Census) -> Tensor:
    return softplus((seen.positives * seen.negatives).log() + gamma * (1 - 2 * margin**2))


# in tiles


def _multi_similarity(
    x: Tensor,
    labels: Tensor,
    y: Tensor | None,
    y_labels: Tensor,
    offset: int | None,
    alpha: float,
    beta: float,
    base: float,
    epsilon: float | None,
    backend: str,
) -> Tensor:
    sides = (x, labels, y, None if y is None else y_labels)
    near, far = Score(beta), Score(alpha)
    if epsilon is None:
        negatives = logsumexp(*sides, near, backend=backend).rows
        positives = positive_logsumexp(*sides, offset, far, backend=backend)
    else:
        least = 1 - farthest_positive(*sides, offset, backend)
        found = logsumexp(*sides, near, floor=least - epsilon, backend=backend)
        # The negatives kept are the nearest: where there are any, the nearest is among them.
        floor = 1 - found.largest / beta - epsilon
        negatives = found.rows
        positives = positive_logsumexp(*sides, offset, far, floor, backend)
    pull = softplus(positives + alpha * (base - 1)) / alpha
    return pull + softplus(negatives - beta * base) / beta


def _circle(
    x: Tensor,
    labels: Tensor,
    y: Tensor | None,
    y_labels: Tensor,
    offset: int | None,
    score: Score,
    backend: str,
) -> Tensor:
    sides = (x, labels, y, None if y is None else y_labels)
    negatives = logsumexp(*sides, score, backend=backend).rows
    positives = positive_logsumexp(*sides, offset, score, backend=backend)
    return softplus(positives + negatives)


def _census(
    x: Tensor, labels: Tensor, y: Tensor | None, y_labels: Tensor, offset: int | None
) -> Census:
    columns = x if y is None else y
    return census(x.detach(), labels, columns.detach(), y_labels, offset)
