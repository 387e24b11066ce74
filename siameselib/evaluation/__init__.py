"""Judging: what the scores of a trained net are worth."""

from siameselib.evaluation.calibration import Platt, fit_platt
from siameselib.evaluation.clustering import cluster_nmi
from siameselib.evaluation.curves import Roc, auc, eer, roc_curve
from siameselib.evaluation.retrieval import Retrieval, evaluate_retrieval
from siameselib.evaluation.streaming import AllPairs, all_pairs
from siameselib.evaluation.verification import (
    TarAtFar,
    Verification,
    accuracy_at,
    d_prime,
    fit_threshold,
    tar_at_far,
    verify_pairs,
)
from siameselib.evaluation.verifier import Verdict, Verifier

__all__ = [
    "AllPairs",
    "Platt",
    "Retrieval",
    "Roc",
    "TarAtFar",
    "Verdict",
    "Verification",
    "Verifier",
    "accuracy_at",
    "all_pairs",
    "auc",
    "cluster_nmi",
    "d_prime",
    "eer",
    "evaluate_retrieval",
    "fit_platt",
    "fit_threshold",
    "roc_curve",
    "tar_at_far",
    "verify_pairs",
]
