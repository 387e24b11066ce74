"""A batch loss over the batches of all processes together.

Each process has its own rows and compares them with everybody's. Embeddings travel once, their
gradients once; the matrix of distances is nowhere, and no process does the work of another.
"""

import copy
from inspect import signature
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from siameselib import _check


class Gathered(NamedTuple):
    """The rows of all processes, as a batch loss or a miner takes them after its own batch."""

    ref: Tensor
    """(R·n, d) the embeddings of process 0, then of process 1, and so on."""
    ref_labels: Tensor
    """(R·n,) their identities."""
    ref_offset: int
    """Where this process's own rows begin."""


def gather_batch(embeddings: Tensor, labels: Tensor) -> Gathered:
    """Collect the batch of every process; gradients flow back to the rows' owners.

    Every process has to call this, with as many rows as the others. Without a process group,
    or in a group of one, the result is the batch itself.

    Args:
        embeddings: this process's embeddings.
        labels: their identities, on the same device.

    Shape:
        embeddings: (n, d). labels: (n,). Result: ref (R·n, d), ref_labels (R·n,) for R processes.

    Returns:
        What goes behind (embeddings, labels) in the call of a batch loss or miner.

    Raises:
        ValueError: for labels of another length or device, or (where the batch is on the CPU)
            batches of different sizes.
        TypeError: for embeddings that are not floating point or labels that are not integers.

    Example:
        >>> import siameselib as sl
        >>> x, labels = torch.eye(4), torch.tensor([0, 0, 1, 1])
        >>> triplets = sl.BatchHardMiner()(x, labels, *gather_batch(x, labels))
        >>> triplets.negative  # rows of ref: one process, so rows of x
        tensor([2, 2, 0, 0])

    Source:
        Chen et al., "DisCo-CLIP: a distributed contrastive loss for memory efficient CLIP
        training", CVPR 2023, section 3: rows stay where they are, columns are gathered.
    """
    where = "gather_batch"
    _check.matrix(where, "embeddings", embeddings)
    _check.labels(where, labels, len(embeddings))
    _check.same_device(where, "embeddings", embeddings, "labels", labels)
    if _processes() == 1:
        return Gathered(embeddings, labels, 0)
    if embeddings.device.type == "cpu":
        rows = _collect(torch.tensor([len(labels)])).tolist()
        if min(rows) != max(rows):
            raise _check.refuse(where, "embeddings", "have as many rows in every process", rows)
    offset = dist.get_rank() * len(labels)
    return Gathered(_GatherRows.apply(embeddings), _collect(labels.contiguous()), offset)  # type: ignore[no-untyped-call]


class CrossProcessLoss(nn.Module):
    r"""A batch loss over the batches of all processes, equal to one process with all the rows.

    .. math:: L = \frac{\sum_r \sum_{t \in T_r} \ell_t}{\sum_r |T_r|}

    with T_r the valid terms (anchors, pairs, triplets) of the rows of process r. The gradient is
    scaled for :class:`torch.nn.parallel.DistributedDataParallel`, which takes the mean over the
    processes: after it, parameters have the gradient of L. BatchNorm still sees only the rows of
    its own process, and a process whose rows have no positive at all adds no pairs to a loss on
    pairs. Without a process group this is the criterion itself.

    Args:
        criterion: a batch loss of this package: one called with (embeddings, labels), whose
            reduction is not "none". It is copied; parameters of its own (scale, bias) are then
            those of this module, which has to be inside the one given to DDP.

    Shape:
        embeddings: (n, d), n the same in every process. labels: (n,). Result: 0-d.

    Returns:
        L, the same in every process; ``stats`` is of this process's rows.

    Raises:
        TypeError: for a criterion that is no batch loss.
        ValueError: for a criterion with the reduction "none", or with balanced=True, whose weights
            would be those of one process's pairs.

    Example:
        >>> import siameselib as sl
        >>> criterion = CrossProcessLoss(sl.BatchHardTripletLoss(margin=0.5))
        >>> criterion(torch.zeros(4, 2), torch.tensor([0, 0, 1, 1]))
        tensor(0.5000)
    """

    def __init__(self, criterion: nn.Module) -> None:
        super().__init__()
        where = type(self).__name__
        if "ref" not in signature(criterion.forward).parameters or not hasattr(criterion, "stats"):
            expected = "be a batch loss of siameselib, which takes ref"
            raise _check.refuse(where, "criterion", expected, type(criterion).__name__, TypeError)
        self.reduction = criterion.reduction
        _check.choice(where, "criterion.reduction", self.reduction, _REDUCTIONS)
        if getattr(criterion, "balanced", False):
            expected = "be False: it balances the pairs of one process, not of all"
            raise _check.refuse(where, "criterion.balanced", expected, True)
        self.criterion = copy.deepcopy(criterion)
        self.criterion.reduction = "sum"  # type: ignore[assignment]

    @property
    def stats(self) -> Any:
        """What the criterion saw in this process's rows."""
        return self.criterion.stats

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of all processes' batches."""
        own: Tensor = self.criterion(embeddings, labels, *gather_batch(embeddings, labels))
        with torch.no_grad():
            terms = self.stats.valid.to(torch.float64)
            if self.reduction == "mean_active":
                terms = torch.where(terms > 0, terms * self.stats.active, 0).round()
            total = torch.stack([own.double(), terms])
            if _processes() > 1:
                dist.all_reduce(total)
            count = torch.ones_like(terms) if self.reduction == "sum" else total[1].clamp(min=1)
            loss, scale = (total[0] / count).to(own.dtype), (_processes() / count).to(own.dtype)
        own = own * scale
        return own + (loss - own).detach()


_REDUCTIONS = ("mean", "sum", "mean_active")


def _processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _collect(rows: Tensor) -> Tensor:
    everyone = rows.new_empty(_processes() * len(rows), *rows.shape[1:])
    dist.all_gather_into_tensor(everyone, rows)
    return everyone


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.rows = len(rows)
        return _collect(rows.contiguous())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        first = dist.get_rank() * ctx.rows
        return gradient[first : first + ctx.rows]
