"""Labels: upside down, of the wrong kind, or too few of a kind in a batch."""

from collections.abc import Iterator

import torch
from torch import Tensor

from siameselib.diagnostics.evidence import Evidence
from siameselib.diagnostics.findings.need import enough, share
from siameselib.diagnostics.measures import Auc
from siameselib.diagnostics.report import Finding

_MANY = 8  # rows of both labels, before two labels are suspected
_INVERTED = 0.45  # an AUC nearer to chance than this may be one data set's accident


def labels_inverted(e: Evidence) -> Finding | None:
    """AUC below one half beyond three standard errors: same pairs are the farther ones."""
    sources = {
        f"the distances of the first {_steps(e)} steps": _listed(e, e.early_auc),
        "the distances of the very first steps": _listed(e, e.first_auc),
        "the distances of recent training pairs": _listed(e, e.auc),
        "the logits of recent training pairs": e.logit_auc,
        "the scores of pairs that were not trained on": _new_auc(e),
    }
    enough(any(found is not None for found in sources.values()))
    for where, found in sources.items():
        if found is not None and found.value < min(_INVERTED, 0.5 - 3 * found.se):
            return Finding(
                "labels-inverted",
                "critical",
                f"By {where}, pairs labelled same are the less alike ones: AUC {found}, "
                f"{(0.5 - found.value) / max(found.se, 1e-9):.0f} standard errors below chance.",
                "Chance is 0.5, and even an untrained net is seldom below it. Most likely 1 means "
                "different in these labels (as in Keras' contrastive loss and in Hadsell et al.), "
                "or the score is a distance where a similarity belongs.",
                "Use 1 for the same identity: same = 1 - y. If the labels are right, negate the "
                "score.",
            )
    return None


def labels_as_column(e: Evidence) -> Finding | None:
    """Labels (n, 1) beside values (n,)."""
    enough(any(s.labels is not None for s in e.recent))
    column = [s for s in e.recent if s.column]
    if not column:
        return None
    n = 0 if column[0].all_labels is None else len(column[0].all_labels)
    return Finding(
        "labels-as-column",
        "critical",
        f"The labels have shape ({n}, 1).",
        f"Against {n} distances or losses of shape ({n},) they broadcast to ({n}, {n}): every "
        "label meets every distance, and shuffling the labels would not change the loss.",
        "Flatten them before the loss: labels.flatten(). The losses here refuse such shapes.",
    )


def pair_labels_as_identities(e: Evidence) -> Finding | None:
    """All labels of all batches are 0 or 1: they are ``same``, or one-vs-rest."""
    labels = _all_labels(e)
    ones, zeros = int((labels == 1).sum()), int((labels == 0).sum())
    if ones + zeros < len(labels) or min(ones, zeros) <= _MANY:
        return None
    return Finding(
        "pair-labels-as-identities",
        "critical",
        f"All {len(labels):,} labels of the batches looked at are 0 ({zeros:,}) or 1 ({ones:,}).",
        "A loss on a labelled batch takes identities, one number a person. With 0 and 1, all rows "
        "labelled 0 count as one person, whom the loss pulls together.",
        "Give each row the number of its person. Pair labels belong in a loss on pairs "
        "(ContrastiveLoss, BCEPairLoss); one-vs-rest labels belong in no metric loss.",
    )


def one_vs_rest(e: Evidence) -> Finding | None:
    """Two labels a batch, one of them in every batch or the label of most rows."""
    batches = list(_batches(e))
    enough(len(batches) >= 2)
    counts = [torch.unique(labels, return_counts=True) for labels in batches]
    if any(len(values) != 2 or int(n.min()) <= _MANY // 2 for values, n in counts):
        return None
    everywhere = set.intersection(*(set(values.tolist()) for values, _ in counts))
    union = set.union(*(set(values.tolist()) for values, _ in counts))
    largest = sum(int(n.max()) for _, n in counts) / sum(map(len, batches))
    if union <= {0, 1} or not everywhere:  # the former is said above
        return None
    return Finding(
        "one-vs-rest",
        "critical",
        f"Every batch holds two labels only, and label {min(everywhere)} is in all of them; "
        f"the more frequent label has {share(largest)} of the rows.",
        "One person against the rest makes all the others one identity: the loss pulls different "
        "people together, and a net trained so cannot tell them apart.",
        "Label every row with its own person and let PKSampler put several people into a batch.",
    )


def one_kind_of_pair(e: Evidence) -> Finding | None:
    """Batches of pairs that are all same or all different."""
    enough(e.form == "pairs")
    kinds = [s.all_labels > 0 for s in e.recent if s.all_labels is not None]
    enough(len(kinds) > 0)
    alike = sum(bool(same.all()) or not bool(same.any()) for same in kinds)
    if alike < len(kinds) / 2 or max(map(len, kinds)) < 2:
        return None
    same = float(torch.cat(kinds).double().mean())
    return Finding(
        "one-kind-of-pair",
        "critical" if same in {0.0, 1.0} else "warning",
        f"{alike} of the {len(kinds)} batches looked at hold one kind of pair only; "
        f"{share(same)} of all their pairs are same.",
        "From same pairs alone everything collapses to a point, from different pairs alone "
        "everything flies apart; a list sorted by label does both in turn, and BatchNorm sees it.",
        "Shuffle the pairs, or draw them with PairSampler (half of each kind in every batch).",
    )


def few_positives(e: Evidence) -> Finding | None:
    """Rows without a second image of their identity in the batch."""
    enough(not e.reading.across)
    batches = list(_batches(e))
    enough(len(batches) > 0)
    paired, rows = 0, sum(map(len, batches))
    for labels in batches:
        count = torch.unique(labels, return_counts=True)[1]
        paired += int(count[count > 1].sum())
    if paired >= 0.25 * rows:
        return None
    return Finding(
        "few-positives",
        "critical" if paired < 0.05 * rows else "warning",
        f"{share(paired / rows)} of the rows have another image of their identity in the batch "
        f"({rows / len(batches):.0f} rows a batch).",
        "A loss on a labelled batch learns from positives within the batch: rows without one are "
        "left out or serve as negatives only, and most of the computing is for nothing.",
        "Draw P identities × K images: PKSampler(labels, P=16, K=4).",
    )


def few_identities(e: Evidence) -> Finding | None:
    """Batches of one or two identities out of many."""
    enough(not e.reading.across)
    batches = list(_batches(e))
    enough(len(batches) > 0)
    per_batch = [len(torch.unique(labels)) for labels in batches]
    union = len(torch.unique(torch.cat(batches)))
    typical = sorted(per_batch)[len(per_batch) // 2]
    if typical > 2 or (union <= 2 and typical == 2):
        return None
    return Finding(
        "few-identities",
        "critical" if typical == 1 else "warning",
        f"A batch holds {typical} {'identity' if typical == 1 else 'identities'} as a rule; "
        f"{union} were seen altogether.",
        "Negatives are the other identities of the batch: with none there is nothing to learn "
        "from, with one the hardest negative is whatever the batch happens to hold. Batches made "
        "from data sorted by identity look like this.",
        "Shuffle, or draw P identities × K images with P of 8 or more: PKSampler(labels, P=16, "
        "K=4).",
    )


def _batches(e: Evidence) -> Iterator[Tensor]:
    for sample in e.recent:
        if sample.form == "batch" and sample.all_labels is not None:
            yield sample.all_labels


def _all_labels(e: Evidence) -> Tensor:
    batches = list(_batches(e))
    enough(len(batches) > 0)
    return torch.cat(batches)


def _steps(e: Evidence) -> int:
    return e.early[-1].step + 1 if e.early else 0


def _listed(e: Evidence, found: Auc | None) -> Auc | None:
    """Triplets that a miner chose are upside down on purpose: they say nothing here."""
    return None if e.form == "triplets" else found


def _new_auc(e: Evidence) -> Auc | None:
    found = e.new_pairs
    return None if found is None or found.se is None else Auc(found.auc, found.se, 0)
