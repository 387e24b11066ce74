"""What a loss is: its family, its distance, its margin, and what it gives a net that knows nothing.

A loss is read by its class name and attributes, so those of PyTorch, of pytorch-metric-learning
and of anyone who names a loss after what it does are understood without importing them.
"""

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from siameselib.diagnostics.alone import NeedsOthersError, alone
from siameselib.functional.distances import METRICS, Metric

FAMILIES = ("contrastive", "triplet", "softmax", "bce", "unknown")
_SCALES = (0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.25, 1.5, 2.0, 4.0)
_COSINES = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
_MEASURED_ON = 64  # rows, for a loss that has to be tried out
_ACROSS = ("CrossProcessLoss", "DistributedLossWrapper")  # ours, pytorch-metric-learning's


@dataclass(frozen=True)
class Reading:
    """What the doctor knows about a loss.

    Attributes:
        name: of its class.
        family: "contrastive", "triplet", "softmax" (of similarities), "bce" or "unknown".
        metric: of the distances it compares.
        unit: whether it normalises the embeddings itself.
        margin: in units of the metric.
        soft: a soft margin in place of the hinge.
        probabilities: whether it takes probabilities (after a sigmoid) in place of logits.
        pos_weight: weight of the positives in a cross-entropy.
        across: whether it compares the batch with those of other processes.
    """

    name: str
    family: str = "unknown"
    metric: Metric = "euclidean"
    unit: bool = False
    margin: float | None = None
    soft: bool = False
    probabilities: bool = False
    pos_weight: float = 1.0
    across: bool = False


def read(criterion: Any, margin: float | None = None, metric: Metric | None = None) -> Reading:
    """Read a loss.

    Args:
        criterion: a module or a function; None where it is not known.
        margin: where given, the margin of a loss that does not tell.
        metric: where given, its metric.

    Returns:
        What is known about it.
    """
    across = type(criterion).__name__ in _ACROSS
    for inner in ("criterion", "loss") if across else ("criterion",):
        criterion = getattr(criterion, inner, criterion)
    name = getattr(criterion, "__name__", None) or type(criterion).__name__
    found_metric, unit = _metric(criterion, name)
    family = _family(criterion, name.lower().replace("_", ""))
    given = _number(criterion, "margin", "neg_margin")
    if given is not None and family == "contrastive" and found_metric == "cosine":
        given = 1 - given  # said as a similarity
    if margin is not None:
        given = margin
    return Reading(
        name="the loss" if criterion is None else name,
        family=family,
        metric=metric if metric is not None else found_metric,
        unit=unit,
        margin=given if family in {"contrastive", "triplet", "unknown"} else None,
        soft=bool(getattr(criterion, "soft", False) or getattr(criterion, "smooth_loss", False)),
        probabilities=isinstance(criterion, nn.BCELoss),
        pos_weight=_number(criterion, "pos_weight") or 1.0,
        across=across,
    )


def constant_loss(share: float, margin: float) -> float:
    """Give the contrastive loss p(1-p)m² of pairs that all have the distance (1-p)m."""
    return share * (1 - share) * margin**2


def constant_answer(share: float, pos_weight: float = 1.0) -> float:
    """Give the cross-entropy of the best constant answer to pairs of which ``share`` are same."""
    if not 0 < share < 1:
        return 0.0
    answer = pos_weight * share / (pos_weight * share + 1 - share)
    return -pos_weight * share * math.log(answer) - (1 - share) * math.log(1 - answer)


def trivial_of_pairs(reading: Reading, share: float) -> float | None:
    """Give the loss of a net that answers all pairs alike, for a loss that does not say it itself.

    Args:
        reading: the loss.
        share: the share of the pairs that are same.

    Returns:
        The loss, or None where the kind of loss is not known.
    """
    if reading.family == "bce":
        return constant_answer(share, reading.pos_weight)
    if reading.name == "CosineEmbeddingLoss":  # linear in the cosine: best at 1 or at the margin
        return min(share, 1 - share) * (reading.margin or 0.0)
    if reading.margin is not None and reading.family in {"contrastive", "unknown"}:
        return constant_loss(share, reading.margin)
    return None


def trivial_of_triplets(reading: Reading) -> float | None:
    """Give the loss of triplets that all have d_ap = d_an."""
    if reading.family == "triplet" and reading.soft:
        return math.log(2)
    return reading.margin


def trivial_of_batch(criterion: Any, labels: Tensor) -> float | str:
    """Try a foreign batch loss on embeddings that are all equally far apart.

    Whatever the loss, a net that knows nothing can give every pair the same distance, at best the
    distance that costs least. Rows s·(√(1-c)·e_i + √c·u), with orthonormal e_i and u, have that:
    cosine c and length s throughout. The least loss over a grid of c and s is the loss to beat.

    Args:
        criterion: called as ``criterion(embeddings, labels)`` on a copy; nothing is trained.
        labels: the identities of a batch.

    Returns:
        The loss, or the reason why it could not be tried out: parameters of its own (such as class
        centres) would not fit these embeddings, some losses take other arguments, and some want
        the batches of other processes.
    """
    if not isinstance(criterion, nn.Module) or type(criterion).__module__.startswith("torch.nn"):
        return "no batch loss as a module"
    if any(True for _ in criterion.parameters()):
        return "it has parameters of its own"
    labels = labels[:_MEASURED_ON].cpu()
    tried = copy.deepcopy(criterion).cpu()
    n = len(labels)
    corner = F.pad(torch.eye(n), (0, 1))
    common = F.pad(torch.zeros(n, n), (0, 1), value=1.0)
    with torch.no_grad(), torch.random.fork_rng(devices=[]), alone():
        try:
            losses = [
                tried(s * (math.sqrt(1 - c) * corner + math.sqrt(c) * common), labels)
                for s in _SCALES
                for c in _COSINES
            ]
        except NeedsOthersError:
            return "it wants the batches of other processes"
        except Exception as error:  # whatever somebody's loss raises: training must go on
            return f"called with (embeddings, labels) it raised {type(error).__name__}"
    values = torch.stack([torch.as_tensor(loss, dtype=torch.float32).mean() for loss in losses])
    finite = values[values.isfinite() & (values > 0)]
    return float(finite.min()) if len(finite) else "it gave no finite loss"


def _family(criterion: Any, name: str) -> str:
    if "triplet" in name:
        return "triplet"
    if isinstance(criterion, (nn.BCELoss, nn.BCEWithLogitsLoss)) or "bce" in name:
        return "bce"
    if _number(criterion, "temperature") is not None:
        return "softmax"
    if "contrastive" in name or name == "cosineembeddingloss":
        return "contrastive"
    if "crossentropy" in name and "binary" in name:
        return "bce"
    return "unknown"


def _metric(criterion: Any, name: str) -> tuple[Metric, bool]:
    metric = getattr(criterion, "metric", None)
    if callable(metric) or metric in METRICS:
        return metric, False  # ours: a contrastive margin in them is a distance, see `read`
    if _number(criterion, "temperature") is not None or name == "CosineEmbeddingLoss":
        return "cosine", False
    distance = getattr(criterion, "distance", None)
    if distance is None:
        return ("manhattan" if _number(criterion, "p") == 1 else "euclidean"), False
    if "Cosine" in type(distance).__name__:
        return "cosine", False
    unit = bool(getattr(distance, "normalize_embeddings", False))
    if _number(distance, "p") == 1:
        return "manhattan", unit
    return ("sqeuclidean" if _number(distance, "power") == 2 else "euclidean"), unit


def _number(of: Any, *names: str) -> float | None:
    for name in names:
        value = getattr(of, name, None)
        if isinstance(value, Tensor) and value.numel() == 1:
            return float(value)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
    return None
