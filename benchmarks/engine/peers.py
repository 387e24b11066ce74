"""The losses that are measured and who else has them: one line a loss, one function a peer."""

import math
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple

from torch import Tensor, nn

import siameselib as sl
from benchmarks.engine import classes, dense
from benchmarks.engine.dense import MARGIN, TEMPERATURE
from siameselib import _check

Loss = Callable[[Tensor, Tensor], Tensor]
PEERS = ("siameselib", "pytorch-metric-learning", "sentence-transformers", "dense", "gemm")
PACKAGES = {
    "pytorch-metric-learning": "pytorch_metric_learning",
    "sentence-transformers": "sentence_transformers",
}


class Case(NamedTuple):
    """A loss: makers of ours and of the peers' (None where a peer does not have it)."""

    ours: Callable[[], Loss]
    dense: Loss
    pml: Callable[[], Loss] | None = None
    st: Callable[[], Loss] | None = None


def peer(case: str, name: str) -> Loss | None:
    """Build one peer's form of a loss; None where it has none."""
    _check.choice("peer", "case", case, tuple(CASES))
    _check.choice("peer", "name", name, PEERS)
    found = CASES[case]
    if name == "siameselib":
        return found.ours()
    if name == "dense":
        return found.dense
    if name in PACKAGES and not find_spec(PACKAGES[name]):
        return None
    if name == "gemm":
        return gemm if case == "batch-hard" else None
    make = found.pml if name == "pytorch-metric-learning" else found.st
    return make() if make else None


def gemm(x: Tensor, labels: Tensor) -> Tensor:
    """No loss: one sweep of plain products of tiles, the least that any of them has to do."""
    rows = max(1, (1 << 22) // len(x))
    for part in x.detach().split(rows):
        part @ x.detach().T
    return 0 * x.sum()


def _pml(loss: str, miner: str | None = None, **keywords: Any) -> Loss:
    from pytorch_metric_learning import distances, losses, miners, reducers

    if loss in {"TripletMarginLoss", "ContrastiveLoss", "GeneralizedLiftedStructureLoss"}:
        keywords["distance"] = distances.LpDistance(normalize_embeddings=False)
    if keywords.pop("mean", False):
        keywords["reducer"] = reducers.MeanReducer()
    criterion = getattr(losses, loss)(**keywords)
    if miner is None:
        return lambda x, labels: criterion(x, labels)
    chosen = {
        "hard": lambda: miners.BatchHardMiner(distance=keywords["distance"]),
        "semi-hard": lambda: miners.TripletMarginMiner(
            MARGIN, type_of_triplets="semihard", distance=keywords["distance"]
        ),
    }[miner]()
    return lambda x, labels: criterion(x, labels, chosen(x, labels))


def _st(loss: str) -> Loss:
    from sentence_transformers.sentence_transformer import losses

    criterion = getattr(losses, f"{loss}Loss")(None, margin=MARGIN)
    words = "".join(f"_{c.lower()}" if c.isupper() else c for c in loss).strip("_")
    compute = getattr(criterion, f"{words}_loss")
    return lambda x, labels: compute(labels, x)


def _times(factor: float, criterion: nn.Module) -> Loss:
    return lambda x, labels: factor * criterion(x, labels)


def _halves(criterion: nn.Module) -> Loss:
    return lambda x, labels: criterion(*x.chunk(2))


def _triplets(**keywords: Any) -> Callable[[], Loss]:
    return lambda: _pml("TripletMarginLoss", margin=MARGIN, **keywords)


CASES = {
    "batch-hard": Case(
        lambda: sl.BatchHardTripletLoss(margin=MARGIN),
        dense.batch_hard,
        _triplets(miner="hard", mean=True),
        lambda: _st("BatchHardTriplet"),
    ),
    "batch-all": Case(
        lambda: sl.BatchAllTripletLoss(margin=MARGIN, reduction="mean_active"),
        dense.batch_all,
        _triplets(),
        lambda: _st("BatchAllTriplet"),
    ),
    "semi-hard window": Case(
        lambda: sl.BatchAllTripletLoss(margin=MARGIN, window="semi-hard", reduction="mean_active"),
        dense.semi_hard_window,
        _triplets(miner="semi-hard"),
    ),
    "semi-hard": Case(
        lambda: sl.SemiHardTripletLoss(margin=MARGIN),
        dense.semi_hard,
        None,
        lambda: _st("BatchSemiHardTriplet"),
    ),
    "SupCon": Case(
        lambda: sl.SupConLoss(temperature=TEMPERATURE),
        dense.sup_con,
        lambda: _pml("SupConLoss", temperature=TEMPERATURE),
    ),
    "NT-Xent": Case(
        lambda: sl.NTXentLoss(temperature=TEMPERATURE),
        dense.nt_xent,
        lambda: _pml("NTXentLoss", temperature=TEMPERATURE),
    ),
    "multi-similarity": Case(
        lambda: sl.MultiSimilarityLoss(epsilon=None),
        dense.multi_similarity,
        lambda: _pml("MultiSimilarityLoss", alpha=2, beta=50, base=0.5),
    ),
    "circle": Case(
        lambda: sl.CircleLoss(margin=0.25, gamma=64.0),
        dense.circle,
        lambda: _pml("CircleLoss", m=0.25, gamma=64),
    ),
    "lifted structure": Case(
        lambda: sl.LiftedStructureLoss(margin=1.0),
        dense.lifted_structure,
        lambda: _pml("GeneralizedLiftedStructureLoss", neg_margin=1, pos_margin=0),
    ),
    "contrastive": Case(
        lambda: _times(2, sl.BatchContrastiveLoss(squared=False, reduction="mean_active")),
        dense.contrastive,
        lambda: _pml("ContrastiveLoss", pos_margin=0, neg_margin=1),
    ),
    "BCE pairs": Case(sl.BatchBCEPairLoss, dense.bce_pairs),
    "InfoNCE": Case(lambda: _halves(sl.InfoNCELoss(temperature=TEMPERATURE)), dense.info_nce),
    "ArcFace": Case(
        classes.ours("ArcFaceLoss"),
        classes.arc_face,
        classes.pml("ArcFaceLoss", margin=math.degrees(0.5), scale=64),
    ),
    "CosFace": Case(
        classes.ours("CosFaceLoss"),
        classes.cos_face,
        classes.pml("CosFaceLoss", margin=0.35, scale=64),
    ),
    "normalized softmax": Case(
        classes.ours("NormalizedSoftmaxLoss"),
        classes.normalized_softmax,
        classes.pml("NormalizedSoftmaxLoss", unit=True, temperature=0.05),
    ),
    "proxy anchor": Case(
        classes.ours("ProxyAnchorLoss"),
        classes.proxy_anchor,
        classes.pml("ProxyAnchorLoss", margin=0.1, alpha=32),
    ),
    "proxy NCA": Case(
        classes.ours("ProxyNCALoss", own_proxy=True),
        classes.proxy_nca,
        classes.pml("ProxyNCALoss", softmax_scale=1),
    ),
}
