"""Time and memory of the batch losses on a device, against what people would write instead."""

import functools
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from math import isnan
from typing import Any

import torch
from torch import Tensor

import siameselib as sl
from benchmarks.engine.cpu import GRADIENT_ERROR
from benchmarks.engine.dense import MARGIN
from benchmarks.engine.peers import CASES, Loss, peer
from benchmarks.engine.worker import batch
from benchmarks.gpu.clock import Clock

# Products of B × B × D that loss and gradient take at the least, in units of 2 B² D operations.
SWEEPS = {
    "batch-hard": 1,
    "semi-hard": 1,
    "contrastive": 2,
    "BCE pairs": 2,
    "batch-all": 2,
    "semi-hard window": 2,
    "SupCon": 3,
    "NT-Xent": 3,
    "multi-similarity": 3,
}
ROWS = (1 << 16, 1 << 10, 1 << 12, 1 << 14, 1 << 18, 1 << 20)  # the promised size comes first
WIDTHS = (128, 512)
PER_CLASS = 8
OURS = ("triton", "streaming")
PEERS = (*OURS, "dense", "pytorch-metric-learning", "dense, compiled")
LOSS_ERROR = 5e-6  # the mean of hinges is a twentieth of the distances that it is made of
NEAR = 2e-6  # of distances: four times what far tiles round them by
PRODUCT = "x @ x.T"  # no loss: how long the matrix of products takes to be written

Cell = dict[str, Any]


def parity(clock: Clock, case: str, backend: str) -> dict[str, Any]:
    """Compare loss and gradient with the dense form in float64.

    Args:
        clock: of the device.
        case: which loss.
        backend: which of ours.

    Returns:
        The larger error as a share of what is allowed, or why the backend does not run.
    """
    worst = 0.0
    for x, labels in undoubted():
        true = _value_and_gradient(CASES[case].dense, x.double(), labels)
        try:
            with sl.use_backend(backend):
                found = _value_and_gradient(
                    CASES[case].ours(), x.to(clock.device), labels.to(clock.device)
                )
        except ValueError as error:
            return {"missing": str(error)}
        except Exception as error:  # a compiler refuses in many ways; the others go on
            return {"missing": reason(error), "broken": True}
        for a, b, allowed in zip(found, true, (LOSS_ERROR, GRADIENT_ERROR), strict=True):
            share = float((a.cpu() - b).abs().max() / b.abs().max() / allowed)
            if isnan(share):
                return {"missing": "finds NaN", "broken": True}
            worst = max(worst, share)
    return {"error": worst}


@functools.cache
def undoubted() -> list[tuple[Tensor, Tensor]]:
    """Make batches on which rounding decides nothing, for the gradients of hinges jump."""
    g, found = torch.Generator().manual_seed(0), []
    for rows, per_class, width in ((200, 8, 64), (510, 5, 128)):
        x, labels = batch(rows, per_class, width)
        while (near := doubt(x, labels) < NEAR).any():
            moved = x[near] + 0.01 * torch.randn(int(near.sum()), width, generator=g)
            x[near] = torch.nn.functional.normalize(moved)
        found.append((x, labels))
    return found


def doubt(x: Tensor, labels: Tensor) -> Tensor:
    """Say how near a distance of each anchor is to what it is compared with, for equal classes."""
    d, same = torch.cdist(x.double(), x.double()), labels[:, None] == labels
    positives = d[same & ~torch.eye(len(x), dtype=torch.bool)].view(len(x), -1)
    negatives = d.masked_fill(same, torch.inf)
    compared = torch.cat([positives, positives + MARGIN, torch.ones_like(d[:, :1])], 1)
    gaps = [
        (compared[:, :, None] - negatives[:, None, :]).flatten(1),
        negatives.topk(2, largest=False).values.diff(),
        positives.topk(2).values.diff(),
    ]
    return torch.cat(gaps, 1).abs().amin(1)


def reason(error: Exception) -> str:
    """Put an error in a line."""
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"{type(error).__name__}: {first[:160]}"


def _value_and_gradient(loss: Loss, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    value = loss(x, labels)
    value.backward()
    return value.detach().double(), x.grad.double()


def cells(cases: list[str], rows: list[int], widths: list[int]) -> Iterator[Cell]:
    """Name what is to be measured: what was promised first, what compiles for long last.

    Of the others small sizes come first, which tell when large ones would take too long.
    """
    small_first = sorted(rows)
    for peers, sizes in (
        ((PRODUCT, *PEERS[:1]), rows),
        (PEERS[1:-1], small_first),
        (PEERS[-1:], small_first),
    ):
        for width in widths:
            for size in sizes:
                for name in peers:
                    for case in [PRODUCT] if name == PRODUCT else cases:
                        problem = {"rows": size, "per_class": PER_CLASS, "width": width}
                        yield {"case": case, **problem, "peer": name}


def measure(clock: Clock, cell: Cell, ceiling: float | None, seconds: float) -> Cell:
    """Measure one cell.

    Args:
        clock: of the device.
        cell: which loss, size and peer.
        ceiling: TFLOP/s of bfloat16 products, to set the time against.
        seconds: for the timed calls.

    Returns:
        The cell with its time and memory, or with why there are none.
    """
    case, name = cell["case"], cell["peer"]
    if name == "pytorch-metric-learning":
        if not find_spec("pytorch_metric_learning"):
            return cell | {"failed": "not installed"}
        if CASES[case].pml is None:
            return cell | {"failed": "does not have it"}
    try:
        found = clock.measure(caller(clock, cell), seconds)
    except torch.OutOfMemoryError:
        return cell | {"failed": "out of memory"}
    except Exception as error:  # of a peer, a compiler or the device: the others go on
        return cell | {"failed": reason(error)}
    if ceiling and case in SWEEPS:
        work = SWEEPS[case] * 2 * cell["rows"] ** 2 * cell["width"]
        found["share_of_ceiling"] = work / found["ms"] / 1e9 / ceiling
    return cell | found


_batch = functools.lru_cache(maxsize=1)(batch)  # a large one takes longer than most losses


def caller(clock: Clock, cell: Cell) -> Callable[[], Any]:
    """Give the call that a cell is about, forward and backward."""
    x, labels = _batch(cell["rows"], cell["per_class"], cell["width"])
    x, labels = x.to(clock.device).detach(), labels.to(clock.device)
    if cell["peer"] == PRODUCT:
        return lambda: x @ x.T
    x.requires_grad_()
    loss, backend = _loss(cell["case"], cell["peer"]), "auto"
    if cell["peer"] in OURS:
        backend = cell["peer"]

    def call() -> None:
        x.grad = None
        with sl.use_backend(backend):
            loss(x, labels).backward()

    return call


def _loss(case: str, name: str) -> Loss:
    if name in OURS:
        return CASES[case].ours()
    if name == "dense, compiled":
        return torch.compile(CASES[case].dense)
    return peer(case, name)


def hopeless(known: dict[Any, Cell], cell: Cell, longest: float) -> str | None:
    """Say why a cell need not be tried: what smaller batches of the same peer took.

    Args:
        known: the cells measured so far.
        cell: the cell.
        longest: milliseconds that a call may take.

    Returns:
        The reason, None if it may be tried.
    """
    smaller = [
        other
        for other in known.values()
        if all(other[k] == cell[k] for k in ("case", "peer", "width", "per_class"))
        and other["rows"] < cell["rows"]
    ]
    for other in smaller:
        if "failed" in other:
            return other["failed"]
    if smaller:
        nearest = max(smaller, key=lambda other: other["rows"])
        expected = nearest["ms"] * (cell["rows"] / nearest["rows"]) ** 2
        if "ms" in nearest and expected > longest:
            return f"would take {expected / 1e3:.0f} s"
    return None
