"""Softmax losses: find a positive among the negatives by cosine similarity over a temperature."""

from functools import partial

import torch
from torch import Tensor

from siameselib import _check
from siameselib.functional.batch import check_words, labelled_batch, reduce_batch
from siameselib.functional.census import census, similarity_stats, stats_of
from siameselib.functional.distances import at_least_float32, unit_rows
from siameselib.functional.reduction import reduce, softplus
from siameselib.functional.stats import Later, Stats, later
from siameselib.kernels import forms, matching
from siameselib.kernels.blocks import pair_counts
from siameselib.kernels.logsumexp import logsumexp
from siameselib.kernels.positive_sum import softplus_sum
from siameselib.kernels.score import Score
from siameselib.kernels.whole import Census, fits, row_losses

REDUCTIONS = ("mean", "sum", "none")  # a softmax loss is never 0: all of its terms are active


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
        reduction: "mean" over the rows that have a negative, "sum", or "none".

    Shape:
        x1, x2: (n, d). labels: (n,). Result: 0-d, or (n,) for "none".

    Returns:
        The loss; a differentiable 0 when no row has a negative.

    Raises:
        ValueError: for shapes that differ, an unknown reduction, or a temperature that is not
            positive.
        TypeError: for embeddings that are not floating point, labels that are not integers, or
            options that are no numbers.

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


def sup_con_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    temperature: float = 0.1,
    reduction: str = "mean",
    validate: bool = False,
    backend: str = "auto",
    ref: Tensor | None = None,
    ref_labels: Tensor | None = None,
    ref_offset: int | None = None,
) -> Tensor:
    r"""Supervised contrastive loss: all positives of an anchor together, against everything else.

    .. math:: L_a = -\frac{1}{|P_a|} \sum_{p \in P_a}
                    \log \frac{e^{s_{ap}/T}}{\sum_{j \ne a} e^{s_{aj}/T}}

    with s the cosine similarity, P_a the other samples of the anchor's identity, and j all other
    samples, the positives included. Memory is linear in the batch.
    With k other samples a collapsed model has the loss log k: ``stats.trivial``.

    Args:
        embeddings: one embedding a row, of any length: rows are normalised here.
        labels: the identity of each row.
        temperature: T.
        reduction: "mean" over the anchors with a positive and a negative, "sum", or "none" (one
            loss an anchor, 0 where not valid).
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
        ValueError: for shapes that do not fit, an unknown reduction or backend, a temperature
            that is not positive, or, under ``validate``, embeddings that are not finite.
        TypeError: for embeddings that are not floating point, labels that are not integers, or
            options that are no numbers.

    Example:
        >>> x, labels = torch.ones(6, 2), torch.tensor([0, 0, 1, 1, 2, 2])
        >>> sup_con_loss(x, labels)  # collapsed: log 5
        tensor(1.6094)

    Source:
        Khosla et al., "Supervised contrastive learning", NeurIPS 2020, equation 2 (L_out). Where
        the batch is of one identity, we return 0 and warn.
    """
    return sup_con_with_stats(
        embeddings,
        labels,
        temperature=temperature,
        reduction=reduction,
        validate=validate,
        backend=backend,
        ref=ref,
        ref_labels=ref_labels,
        ref_offset=ref_offset,
    )[0]


def nt_xent_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    temperature: float = 0.1,
    reduction: str = "mean",
    validate: bool = False,
    backend: str = "auto",
    ref: Tensor | None = None,
    ref_labels: Tensor | None = None,
    ref_offset: int | None = None,
) -> Tensor:
    r"""NT-Xent: each positive of an anchor on its own, against the anchor's negatives.

    .. math:: L_{ap} = -\log \frac{e^{s_{ap}/T}}{e^{s_{ap}/T} + \sum_{n \in N_a} e^{s_{an}/T}}

    with s the cosine similarity and N_a the samples of other identities: unlike in
    :func:`sup_con_loss`, the positives of an anchor do not compete. Memory is linear in the batch.
    With k negatives a collapsed model has the loss log(1 + k): ``stats.trivial``.

    Args:
        embeddings: one embedding a row, of any length: rows are normalised here.
        labels: the identity of each row.
        temperature: T.
        reduction: "mean" over the pairs (a, p) whose anchor has a negative, "sum", or "none" (for
            each anchor the sum over its positives).
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
        The loss; a differentiable 0 when there is no such pair, with a warning.

    Raises:
        ValueError: for shapes that do not fit, an unknown reduction or backend, a temperature
            that is not positive, or, under ``validate``, embeddings that are not finite.
        TypeError: for embeddings that are not floating point, labels that are not integers, or
            options that are no numbers.

    Example:
        >>> x, labels = torch.ones(6, 2), torch.tensor([0, 0, 1, 1, 2, 2])
        >>> nt_xent_loss(x, labels)  # collapsed: log(1 + 4)
        tensor(1.6094)

    Source:
        Chen et al., "A simple framework for contrastive learning of visual representations", ICML
        2020, equation 1, where each anchor has one positive; with several, each is judged alone.
    """
    return nt_xent_with_stats(
        embeddings,
        labels,
        temperature=temperature,
        reduction=reduction,
        validate=validate,
        backend=backend,
        ref=ref,
        ref_labels=ref_labels,
        ref_offset=ref_offset,
    )[0]


def info_nce_with_stats(
    x1: Tensor, x2: Tensor, labels: Tensor | None, *, temperature: float, reduction: str
) -> tuple[Tensor, Stats | Later]:
    """Return :func:`info_nce_loss` and what it saw."""
    where = "info_nce_loss"
    _check.matrix(where, "x1", x1)
    _check.matrix(where, "x2", x2)
    _check.same_shape(where, x1=x1, x2=x2)
    _check.positive(where, "temperature", temperature)
    _check.choice(where, "reduction", reduction, REDUCTIONS)
    if labels is not None:
        _check.labels(where, labels, len(x1))
        _check.same_device(where, "x1", x1, "labels", labels)
    with torch.autocast(x1.device.type, enabled=False):
        a, b = at_least_float32(x1), at_least_float32(x2)
        stats: Stats | Later
        if matching.fits(a, b, 1 / temperature):
            losses = matching.matching_losses(a, b, labels, 1 / temperature)
            stats = later(_info_nce_stats, a.detach(), b.detach(), labels, losses.detach())
        else:
            a, b = unit_rows(a), unit_rows(b)
            losses = _info_nce(a, labels, b, Score(1 / temperature))
            stats = _info_nce_stats(a.detach(), b.detach(), labels, losses.detach())
        valid = None
        if labels is not None or len(x1) < 2:
            ids = _identities(labels, x1)
            valid = pair_counts(ids, ids, None)[1] > 0
        return reduce(where, losses, valid, reduction), stats


def sup_con_with_stats(
    embeddings: Tensor,
    labels: Tensor,
    *,
    temperature: float,
    reduction: str,
    validate: bool,
    backend: str,
    ref: Tensor | None,
    ref_labels: Tensor | None,
    ref_offset: int | None,
) -> tuple[Tensor, Stats | Later]:
    """Return :func:`sup_con_loss` and what it saw."""
    where = "sup_con_loss"
    _check.positive(where, "temperature", temperature)
    check_words(where, reduction=reduction, backend=backend, reductions=REDUCTIONS)
    batch = labelled_batch(where, embeddings, labels, ref, ref_labels, ref_offset, validate)
    with torch.autocast(embeddings.device.type, enabled=False):
        x, y = unit_rows(batch.x), None if ref is None else unit_rows(batch.ref)
        sides = (x, batch.labels, y, batch.ref_labels, batch.offset)
        if fits("logsumexp", x, y, 1, backend):
            losses, seen = row_losses(*sides, partial(forms.sup_con, scale=1 / temperature))
        else:
            losses, seen = _sup_con(*sides, Score(1 / temperature), backend)
        valid = (seen.positives > 0) & (seen.negatives > 0)
        stats = similarity_stats(seen, valid, losses, _log_others)
        return reduce_batch(where, losses, valid, reduction), stats


def nt_xent_with_stats(
    embeddings: Tensor,
    labels: Tensor,
    *,
    temperature: float,
    reduction: str,
    validate: bool,
    backend: str,
    ref: Tensor | None,
    ref_labels: Tensor | None,
    ref_offset: int | None,
) -> tuple[Tensor, Stats | Later]:
    """Return :func:`nt_xent_loss` and what it saw."""
    where = "nt_xent_loss"
    _check.positive(where, "temperature", temperature)
    check_words(where, reduction=reduction, backend=backend, reductions=REDUCTIONS)
    batch = labelled_batch(where, embeddings, labels, ref, ref_labels, ref_offset, validate)
    with torch.autocast(embeddings.device.type, enabled=False):
        x, y = unit_rows(batch.x), None if ref is None else unit_rows(batch.ref)
        sides = (x, batch.labels, y, batch.ref_labels, batch.offset)
        if fits("logsumexp", x, y, 1, backend):
            losses, seen = row_losses(*sides, partial(forms.nt_xent, scale=1 / temperature))
        else:
            losses, seen = _nt_xent(*sides, Score(1 / temperature), backend)
        pairs = torch.where(seen.negatives > 0, seen.positives, 0)
        stats = similarity_stats(seen, pairs, losses, _log_candidates)
        return reduce_batch(where, losses, pairs, reduction), stats


# what a collapsed model loses


def _log_candidates(seen: Census) -> Tensor:
    return torch.log1p(seen.negatives)


def _log_others(seen: Census) -> Tensor:
    return (seen.positives + seen.negatives).clamp(min=1).log()


# what matching rows have


def _identities(labels: Tensor | None, x: Tensor) -> Tensor:
    return torch.arange(len(x), device=x.device) if labels is None else labels


def _info_nce_stats(a: Tensor, b: Tensor, labels: Tensor | None, losses: Tensor) -> Stats:
    a, b, ids = unit_rows(a), unit_rows(b), _identities(labels, a)
    seen = census(a, ids, b, ids, None)
    valid = seen.negatives > 0
    seen = seen._replace(positives=valid, positive_sum=(a * b).sum(1))
    return stats_of(seen, valid, losses, _log_candidates)


# in tiles: the losses of all anchors, and what they have


def _info_nce(a: Tensor, labels: Tensor | None, b: Tensor, score: Score) -> Tensor:
    similarity = (a * b).sum(1)
    sums = logsumexp(a, labels, b, labels, score, both=True)
    there = softplus(sums.rows - score.scale * similarity)
    back = softplus(sums.columns - score.scale * similarity)
    return (there + back) / 2


def _sup_con(
    x: Tensor,
    labels: Tensor,
    y: Tensor | None,
    y_labels: Tensor,
    offset: int | None,
    score: Score,
    backend: str,
) -> tuple[Tensor, Census]:
    columns = x if y is None else y
    seen = census(x, labels, columns, y_labels, offset)
    # every sample an identity of its own: an anchor leaves out itself, and nothing else
    ids = y_ids = None
    if y is not None:
        ids = torch.full_like(labels, -1, dtype=torch.int64)
        if offset is not None:
            ids = torch.arange(offset, offset + len(x), device=x.device)
        y_ids = torch.arange(len(y), device=y.device)
    sums = logsumexp(x, ids, y, y_ids, score, backend=backend)
    aim = seen.positive_sum / seen.positives.clamp(min=1)
    return sums.rows - score.scale * aim, seen


def _nt_xent(
    x: Tensor,
    labels: Tensor,
    y: Tensor | None,
    y_labels: Tensor,
    offset: int | None,
    score: Score,
    backend: str,
) -> tuple[Tensor, Census]:
    columns = x if y is None else y
    seen = census(x.detach(), labels, columns.detach(), y_labels, offset)
    sides = (x, labels, y, None if y is None else y_labels)
    bound = logsumexp(*sides, score, backend=backend).rows - score.scale
    return softplus_sum(*sides, offset, score, bound, backend), seen
