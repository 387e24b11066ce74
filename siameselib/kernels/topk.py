"""The k nearest columns of other identities, for each row.

Both backends decide by the direct difference and break ties by the lowest index; see
:mod:`siameselib.kernels.extremes`. ``reference`` sorts every row of the matrix. ``streaming`` makes
a slab of lower bounds for a block of rows, in which the k-th least bounds where the k nearest can
be, and takes the differences of these few: memory is O((n + m) d + n k).

The k nearest of all others, whatever their identity, are those of other identities where every
label is given once.
"""

import torch
from torch import Tensor

from siameselib.kernels import choose
from siameselib.kernels.blocks import Slabs, group, in_range, squared
from siameselib.kernels.candidates import nearest_few, repair
from siameselib.kernels.positives import drop_same, few, listed


def topk(
    x: Tensor,
    labels: Tensor,
    y: Tensor,
    y_labels: Tensor,
    offset: int | None,
    k: int,
    backend: str = "auto",
) -> Tensor:
    """Find each row's k nearest columns of other identities.

    Args:
        x: (n, d) rows.
        labels: (n,) their identities.
        y: (m, d) columns.
        y_labels: (m,) their identities.
        offset: row i is column offset + i; None if no row is a column.
        k: how many.
        backend: see :func:`siameselib.use_backend`.

    Returns:
        (n, k) columns, the nearest first, -1 where there are no more.
    """
    backend = choose("topk", len(x), len(y), x.shape[1], backend)
    ids, y_ids = labels.long(), y_labels.long()
    columns = None if y is x else y.detach()
    # In eager mode the plain function: the first call of an operator imports all of torch._dynamo.
    run = _topk_op if torch.compiler.is_compiling() else _topk
    result: Tensor = run(x.detach(), ids, columns, y_ids, offset, k, backend)
    return result


def _topk(
    x: Tensor,
    labels: Tensor,
    y: Tensor | None,
    y_labels: Tensor,
    offset: int | None,
    k: int,
    backend: str,
) -> Tensor:
    y = x if y is None else y
    with torch.autocast(x.device.type, enabled=False):
        if x.numel() == 0 or y.numel() == 0:
            return labels.new_full((len(x), k), -1)
        run = reference_topk if backend == "reference" else streaming_topk
        return run(*in_range(x, y), labels, y_labels, offset, k)


_topk_op = torch.library.custom_op("siameselib::topk", _topk, mutates_args=())


@_topk_op.register_fake
def _(
    x: Tensor,
    labels: Tensor,
    y: Tensor | None,
    y_labels: Tensor,
    offset: int | None,
    k: int,
    backend: str,
) -> Tensor:
    return labels.new_empty(len(x), k)


def reference_topk(
    x: Tensor, y: Tensor, labels: Tensor, y_labels: Tensor, offset: int | None, k: int
) -> Tensor:
    """Dense: :func:`topk` as it is defined."""
    other = labels[:, None] != y_labels
    distance = squared(x[:, None], y).nan_to_num(nan=-1)  # NaN is found, not passed over
    ordered = torch.where(other, distance, torch.inf).sort(dim=1, stable=True)
    found = torch.where(ordered.values < torch.inf, ordered.indices, -1)
    return torch.nn.functional.pad(found, (0, k), value=-1)[:, :k].contiguous()


def streaming_topk(
    x: Tensor,
    y: Tensor,
    labels: Tensor,
    y_labels: Tensor,
    offset: int | None,
    k: int,
    static: bool | None = None,
) -> Tensor:
    """Blocks of rows: :func:`topk` without the matrix.

    Args:
        x: (n, d) rows.
        y: (m, d) columns.
        labels: (n,)
        y_labels: (m,)
        offset: see there.
        k: see there.
        static: whether no shape may depend on the data; None: on any device but the CPU.

    Returns:
        See there.
    """
    static = x.device.type != "cpu" if static is None else static
    grouped = group(x, labels, y, y_labels, offset)
    slabs = Slabs(grouped.x, grouped.y)
    most = few(grouped, static)
    found = labels.new_empty(len(x), k)
    for rows, slab in slabs.blocks():
        drop_same(grouped, rows, slab, listed(grouped, rows, most), static)
        nearest = nearest_few(grouped, slabs, rows, slab, k, static)
        places = torch.arange(k, device=x.device)
        sought = places < grouped.negative_count()[rows, None]
        found[grouped.rows[rows]] = repair(grouped, nearest, sought)
    return found
