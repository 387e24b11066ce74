"""The findings, causes before symptoms: the order in which a card shows those of one severity."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from siameselib.diagnostics.evidence import Evidence
from siameselib.diagnostics.findings import embeddings, head, judging, labels, loss, optimisation
from siameselib.diagnostics.findings.need import Check, Unseen
from siameselib.diagnostics.report import Finding, Report, ranked

CHECKS: tuple[Check, ...] = (
    loss.non_finite,
    labels.labels_as_column,
    labels.labels_inverted,
    labels.pair_labels_as_identities,
    labels.one_vs_rest,
    labels.one_kind_of_pair,
    labels.few_positives,
    labels.few_identities,
    loss.sigmoid_twice,
    loss.sigmoid_before_margin,
    head.head_additive,
    head.logits_starved,
    optimisation.no_gradient,
    optimisation.gradients_vanish,
    optimisation.weights_not_moving,
    optimisation.learning_rate_too_high,
    optimisation.learning_rate_too_low,
    optimisation.gradients_explode,
    loss.margin_inactive,
    loss.margin_unsatisfiable,
    embeddings.zero_rows,
    embeddings.total_collapse,
    embeddings.duplicates_in_pairs,
    embeddings.duplicates_across_identities,
    optimisation.dead_units,
    loss.loss_at_trivial,
    loss.loss_above_trivial,
    judging.threshold_error,
    optimisation.frozen_but_moving,
    judging.train_eval_gap,
    loss.nothing_active,
    judging.overfitting,
    judging.near_chance,
    embeddings.dimensional_collapse,
    embeddings.dead_dimensions,
    head.head_asymmetric,
    loss.unfinished,
)


E = TypeVar("E")
_SOON = 30  # steps, before which many a finding is not drawn


def examine(evidence: Evidence) -> Report:
    """Make every check of a training for which something was seen."""
    findings, looked_at = run_checks(CHECKS, evidence)
    steps = "1 training step" if evidence.steps == 1 else f"{evidence.steps:,} training steps"
    unseen = f"after {steps} most of it: look again later" if evidence.steps < _SOON else ""
    subject = f"{steps} of {evidence.reading.name}"
    return Report(ranked(findings), subject, vitals(evidence), looked_at, unseen)


def run_checks(
    checks: Sequence[Callable[[E], Finding | None]], evidence: E
) -> tuple[list[Finding], list[str]]:
    """Give the findings, and the codes of all checks for which something was seen."""
    findings, looked_at = [], []
    for check in checks:
        try:
            finding = check(evidence)
        except Unseen:
            continue
        looked_at.append(check.__name__.replace("_", "-"))
        if finding is not None:
            findings.append(finding)
    return findings, looked_at


def vitals(e: Evidence) -> dict[str, str]:
    """Give the figures that a card begins with."""
    told: dict[str, str] = {}
    pairs = "pairs" if e.one_look else "recent training pairs"
    if len(e.losses):
        knows = "unknown" if e.trivial is None else f"{e.trivial:.4g}"
        ahead = f"; of a net that has learnt nothing {knows}"
        ahead += "" if e.untried is None else f" ({e.untried})"
        told["loss"] = f"{e.losses[0]:.4g} at first, {e.losses[-5:].mean():.4g} at last{ahead}"
    if e.active is not None:
        told["active"] = f"{e.active:.1%} of the terms cost something"
    if e.figures is not None:
        told[f"{e.figures.of} pairs"] = str(e.figures)
    if e.auc is not None:
        told["distances"] = f"AUC {e.auc} on {e.auc.pairs:,} {pairs}"
    if e.logit_auc is not None:
        told["logits"] = f"AUC {e.logit_auc} on {e.logit_auc.pairs:,} {pairs}"
    if e.distances is not None and e.distances.same.any() and not e.distances.same.all():
        d, same = e.distances
        told["scale"] = (
            f"mean distance {d[same].mean():.4g} of same, {d[~same].mean():.4g} of different pairs"
        )
    return told


__all__ = ["CHECKS", "examine", "run_checks", "vitals"]
