"""Judging: what the scores of a trained net are worth."""

from siameselib.evaluation.calibration import (
    Beta,
    Isotonic,
    Platt,
    fit_beta,
    fit_isotonic,
    fit_platt,
)
from siameselib.evaluation.clustering import cluster_nmi
from siameselib.evaluation.curves import Roc, auc, eer, roc_curve
from siameselib.evaluation.identification import (
    DirAtFar,
    Identification,
    evaluate_identification,
)
from siameselib.evaluation.intervals import PairRates, double_or_nothing, pair_rates
from siameselib.evaluation.reliability import (
    Reliability,
    ReliabilityBin,
    cllr,
    expected_cost,
    min_cllr,
    reliability,
    to_llr,
)
from siameselib.evaluation.retrieval import Retrieval, evaluate_retrieval
from siameselib.evaluation.shared_people import Interval
from siameselib.evaluation.streaming import AllPairs, all_pairs
from siameselib.evaluation.streaming_rates import all_pairs_rates
from siameselib.evaluation.thresholds import fit_threshold
from siameselib.evaluation.verdicts import Candidate, Identity, Verdict
from siameselib.evaluation.verification import (
    FoldedAccuracy,
    TarAtFar,
    Verification,
    accuracy_at,
    d_prime,
    tar_at_far,
    verify_folds,
    verify_pairs,
)
from siameselib.evaluation.verifier import Verifier

__all__ = [
    "AllPairs",
    "Beta",
    "Candidate",
    "DirAtFar",
    "FoldedAccuracy",
    "Identification",
    "Identity",
    "Interval",
    "Isotonic",
    "PairRates",
    "Platt",
    "Reliability",
    "ReliabilityBin",
    "Retrieval",
    "Roc",
    "TarAtFar",
    "Verdict",
    "Verification",
    "Verifier",
    "accuracy_at",
    "all_pairs",
    "all_pairs_rates",
    "auc",
    "cllr",
    "cluster_nmi",
    "d_prime",
    "double_or_nothing",
    "eer",
    "evaluate_identification",
    "evaluate_retrieval",
    "expected_cost",
    "fit_beta",
    "fit_isotonic",
    "fit_platt",
    "fit_threshold",
    "min_cllr",
    "pair_rates",
    "reliability",
    "roc_curve",
    "tar_at_far",
    "to_llr",
    "verify_folds",
    "verify_pairs",
]
