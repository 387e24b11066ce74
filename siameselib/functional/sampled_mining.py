"""A miner that draws its negatives at random, evenly over the distances."""

import torch
from torch import Tensor

from siameselib import _check
from siameselib.functional.batch import Batch, check_words
from siameselib.functional.mining import Triplets, check_max_positives, mined, searched
from siameselib.kernels.draw import draw


def mine_distance_weighted(
    embeddings: Tensor,
    labels: Tensor,
    *,
    cutoff: float = 0.5,
    nonzero_loss_cutoff: float = 1.4,
    max_positives: int | None = None,
    generator: torch.Generator | None = None,
    validate: bool = False,
    backend: str = "auto",
    ref: Tensor | None = None,
    ref_labels: Tensor | None = None,
    ref_offset: int | None = None,
) -> Triplets:
    r"""Distance-weighted: a negative drawn for each anchor and each of its positives.

    .. math:: P(n \mid a) \propto \min\big(\lambda,\; q(d_{an})^{-1}\big) \qquad
              q(d) \propto d^{D-2} \big(1 - d^2/4\big)^{(D-3)/2} \qquad
              \lambda = q(\text{cutoff})^{-1}

    with D the width of the embeddings and d the Euclidean distance of their directions. q is the
    density of the distances between random directions: nearly all are about √2. Weighted by its
    inverse, negatives come from all distances alike. Weights are relative to the largest of an
    anchor and memory is linear in the number of pairs; the distance matrix is never held.

    Args:
        embeddings: one embedding a row, of any length; nothing is differentiated here.
        labels: the identity of each row.
        cutoff: up to this distance all negatives are as likely: the nearest have noisy gradients.
        nonzero_loss_cutoff: from this distance on no negative is drawn: the loss has none. An
            anchor with only such negatives has no valid triplet.
        max_positives: how many positives of an anchor to take at most, lowest index first; the
            number of triplets is then n·max_positives, which no device is waited for. None takes
            all of them: the number of triplets depends on the labels, and reading it waits for
            the device. With batches of P identities × K images, K - 1 takes all.
        generator: where the random numbers come from, on the device of the embeddings: equal
            states draw equal triplets. None for torch's own.
        validate: whether to look for NaN and infinity, which waits for the device.
        backend: see :func:`siameselib.use_backend`. Both draw by the same numbers, and differ only
            where rounding moves a draw from one negative to another.
        ref: a larger set to compare the batch with, such as a memory of past embeddings; None
            for the batch itself.
        ref_labels: the identities of ``ref``.
        ref_offset: where in ``ref`` the batch's own rows begin; None when they are not in it.

    Shape:
        embeddings: (n, d). labels: (n,). ref: (m, d). ref_labels: (m,). Result: four of (t,).

    Returns:
        One triplet for each (anchor, positive), in their order.

    Raises:
        ValueError: for shapes that do not fit, cutoffs that are not 0 < cutoff <
            nonzero_loss_cutoff ≤ 2, a max_positives below 1, a generator on another device, an
            unknown backend, or, under ``validate``, embeddings that are not finite.
        TypeError: for embeddings that are not floating point, labels that are not integers, or
            options that are no numbers.

    Example:
        >>> x, labels = torch.eye(4)[[0, 0, 1, 2]] + 0.5, torch.tensor([0, 0, 1, 1])
        >>> generator = torch.Generator().manual_seed(0)
        >>> mine_distance_weighted(x, labels, generator=generator).compact()[:2]
        (tensor([0, 1, 2, 3]), tensor([1, 0, 3, 2]))

    Source:
        Wu, Manmatha, Smola and Krähenbühl, "Sampling matters in deep embedding learning", ICCV
        2017, equation 3. The cutoffs are those of their code, which draws evenly among all
        negatives where none is near enough; here such anchors are left out.
    """
    where = "mine_distance_weighted"
    check_words(where, backend=backend)
    check_draws(where, cutoff, nonzero_loss_cutoff, max_positives)

    def choose(batch: Batch) -> Triplets:
        if generator is not None and generator.device != batch.x.device:
            expected = f"be on the device of embeddings, {batch.x.device}"
            raise _check.refuse(where, "generator", expected, generator.device)
        device = batch.x.device
        seeds = torch.randint(2**63 - 1, batch.labels.shape, generator=generator, device=device)
        x, y = searched(batch, "cosine")
        anchor, positive, negative = draw(
            x,
            batch.labels,
            y,
            batch.ref_labels,
            batch.offset,
            seeds,
            dimension=embeddings.shape[1],
            cutoff=cutoff,
            limit=nonzero_loss_cutoff,
            width=max_positives,
            backend=backend,
        )
        valid = (positive >= 0) & (negative >= 0)
        return Triplets(anchor, positive.clamp(min=0), negative.clamp(min=0), valid)

    return mined(where, choose, (embeddings, labels, ref, ref_labels, ref_offset), validate)


def check_draws(
    where: str, cutoff: float, nonzero_loss_cutoff: float, max_positives: int | None
) -> None:
    """Refuse numbers that :func:`mine_distance_weighted` does not take."""
    least = _check.real(where, "cutoff", cutoff)
    most = _check.real(where, "nonzero_loss_cutoff", nonzero_loss_cutoff)
    if not 0 < least < most <= 2:
        got = f"cutoff = {cutoff}, nonzero_loss_cutoff = {nonzero_loss_cutoff}"
        expected = "be such that 0 < cutoff < nonzero_loss_cutoff <= 2"
        raise _check.refuse(where, "cutoffs", expected, got)
    check_max_positives(where, max_positives)
