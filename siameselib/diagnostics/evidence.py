"""The collected samples as numbers on the CPU: what the findings are drawn from."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from siameselib.diagnostics.collect import Sample, Weights
from siameselib.diagnostics.measures import (
    Auc,
    Distances,
    Floats,
    Judged,
    auc_of,
    distances_of,
    of_logits,
    pooled,
    square_distances,
)
from siameselib.diagnostics.modes import Modes
from siameselib.diagnostics.reading import (
    Reading,
    trivial_of_batch,
    trivial_of_pairs,
    trivial_of_triplets,
)
from siameselib.functional.distances import unit_rows


class Figures(NamedTuple):
    """What is known of pairs that were not trained on where their scores were not kept."""

    of: str
    """"test" or "validation"."""
    auc: float
    se: float | None
    """None where it is not known how many pairs there were."""
    accuracy: float | None

    def __str__(self) -> str:
        area = f"AUC {self.auc:.3f}" + ("" if self.se is None else f" ± {self.se:.3f}")
        return area if self.accuracy is None else f"{area}, accuracy {self.accuracy:.3f}"


@dataclass(frozen=True)
class Evidence:
    """All that a finding may look at. Empty or None is what was not seen."""

    reading: Reading
    steps: int = 0
    losses: Floats = field(default_factory=lambda: np.empty(0))
    trivial: float | None = None
    untried: str | None = None
    active: float | None = None
    early: list[Sample] = field(default_factory=list)
    recent: list[Sample] = field(default_factory=list)
    weights: list[Weights] = field(default_factory=list)
    restless: list[str] = field(default_factory=list)
    head: Any = None
    modes: Modes | None = None
    validation: Judged | None = None
    first_auc: Auc | None = None
    early_auc: Auc | None = None
    auc: Auc | None = None
    logit_auc: Auc | None = None
    probe: Tensor | None = None
    one_look: bool = False
    epochs: int = 0
    epoch_aucs: Sequence[float] = ()
    figures: Figures | None = None
    distances: Distances | None = None
    early_distances: Distances | None = None

    @property
    def form(self) -> str | None:
        """What the samples are: "batch", "pairs" or "triplets"."""
        return self.recent[-1].form if self.recent else None

    @property
    def rows(self) -> Tensor | None:
        """All kept embeddings of the recent samples, one a row."""
        parts = [x for sample in self.recent for x in sample.rows]
        return torch.cat(parts) if parts else None

    @property
    def logits(self) -> tuple[Floats, NDArray[np.bool_]] | None:
        """Recent logits, and ``same``."""
        kept = [s for s in self.recent if s.logits is not None and s.labels is not None]
        if not kept:
            return None
        z = np.concatenate([s.logits.double().numpy() for s in kept if s.logits is not None])
        same = np.concatenate([s.labels.numpy() > 0 for s in kept if s.labels is not None])
        return z, same

    @property
    def best_auc(self) -> Auc | None:
        """The AUC that the loss works on: of the logits where there are any."""
        return self.logit_auc if self.logit_auc is not None else self.auc

    @property
    def new_pairs(self) -> Figures | None:
        """What is known of pairs that were not trained on."""
        if self.validation is None:
            return self.figures
        return Figures("validation", *self.validation.auc[:2], None)

    @property
    def solved(self) -> bool:
        """Whether the training pairs are told apart as good as perfectly."""
        return self.best_auc is not None and self.best_auc.value > 0.995

    @property
    def learns(self) -> bool:
        """Whether the recent pairs are told apart better than by chance, and not by a little."""
        found = self.best_auc
        if self.figures is not None and self.figures.auc > 0.6:
            return True
        return found is not None and found.value > 0.5 + max(3 * found.se, 0.1)

    def of_one_look(self, probe: Tensor | None, restless: Iterable[str]) -> "Evidence":
        """Mark it as seen outside training: nothing is too early to tell.

        Args:
            probe: images to try a head on that takes images.
            restless: frozen layers in training mode.

        Returns:
            The evidence, marked.
        """
        return replace(self, one_look=True, probe=probe, restless=list(restless))

    def settled(self, steps: int) -> bool:
        """Whether so many steps have passed, or there is no training to wait for."""
        return self.one_look or self.steps >= steps

    def tail(self) -> Floats:
        """The last half of the losses, 200 of them at most."""
        return self.losses[-min(200, len(self.losses) // 2) :] if len(self.losses) > 1 else EMPTY


EMPTY: Floats = np.empty(0)
_FIRST = 4  # steps in which a net is still nearly as it was made


def gather(
    *,
    criterion: Any,
    reading: Reading,
    steps: int,
    losses: Sequence[Tensor],
    early: list[Sample],
    recent: list[Sample],
    weights: list[Weights],
    restless: list[str],
    head: Any,
    modes: Modes | None,
    validation: Judged | None,
) -> Evidence:
    """Bring what was collected to the CPU and work out what several findings need."""
    early, recent = [_cpu(s) for s in early], [_cpu(s) for s in recent]
    recent = [s for s in recent if s.step >= steps / 2] or recent[-4:]
    early = [s for s in early if s.step <= max(30, steps // 8)]
    measure = (reading.metric, reading.unit)
    now = [distances_of(s, *measure) for s in recent]
    then = [distances_of(s, *measure) for s in early]
    steps_seen = {w.step: w for w in weights}
    trivial = _trivial(criterion, reading, recent)
    return Evidence(
        reading=reading,
        steps=steps,
        losses=torch.stack([x.cpu() for x in losses]).double().numpy() if losses else EMPTY,
        trivial=trivial if isinstance(trivial, float) else None,
        untried=trivial if isinstance(trivial, str) else None,
        active=_active(reading, recent, now),
        early=early,
        recent=recent,
        weights=[_cpu(steps_seen[step]) for step in sorted(steps_seen)],
        restless=restless,
        head=head,
        modes=modes,
        validation=validation,
        first_auc=auc_of(early[:_FIRST], then[:_FIRST]),
        early_auc=auc_of(early, then),
        auc=auc_of(recent, now),
        logit_auc=auc_of(recent, [of_logits(s, reading) for s in recent]),
        distances=pooled(now),
        early_distances=pooled(then),
    )


def _trivial(criterion: Any, reading: Reading, recent: list[Sample]) -> float | str | None:
    stats = [float(s.stats[2]) for s in recent if s.stats is not None]
    if stats:
        return float(np.mean(stats))
    if not recent:
        return None
    last = recent[-1]
    if last.form == "triplets":
        return trivial_of_triplets(reading)
    if last.form == "batch":
        if reading.family == "triplet":
            return trivial_of_triplets(reading)
        return None if last.all_labels is None else trivial_of_batch(criterion, last.all_labels)
    same = torch.cat([s.all_labels for s in recent if s.all_labels is not None])
    return trivial_of_pairs(reading, float((same > 0).double().mean()))


def _active(
    reading: Reading, recent: list[Sample], distances: list[Distances | None]
) -> float | None:
    """Share of the terms that cost something."""
    stats = [float(s.stats[1]) for s in recent if s.stats is not None]
    if stats:
        known = [share for share in stats if not math.isnan(share)]
        return float(np.mean(known)) if known else None
    if reading.family != "triplet" or reading.margin is None or reading.soft:
        return None
    shares = []
    for sample, found in zip(recent, distances, strict=True):
        if found is None:
            continue
        if sample.form == "triplets":
            d_ap, d_an = found.values[found.same], found.values[~found.same]
            shares.append(float(np.mean(d_ap - d_an + reading.margin > 0)))
        elif sample.labels is not None:
            share = _active_in_batch(sample, reading, reading.margin)
            shares += [] if share is None else [share]
    return float(np.mean(shares)) if shares else None


def _active_in_batch(sample: Sample, reading: Reading, margin: float) -> float | None:
    rows, labels = sample.rows[0], sample.labels
    if labels is None:
        return None
    d = square_distances(unit_rows(rows) if reading.unit else rows, reading.metric)
    same = labels[:, None] == labels[None, :]
    positive = same & ~torch.eye(len(rows), dtype=torch.bool)
    triplets = positive[:, :, None] & ~same[:, None, :]
    costs = d[:, :, None] - d[:, None, :] + margin > 0
    count = int(triplets.sum())
    return int((triplets & costs).sum()) / count if count else None


def _cpu(record: Any) -> Any:
    """Bring the tensors of a record to the CPU, embeddings and logits as float32."""

    def move(value: Any) -> Any:
        if isinstance(value, Tensor):
            value = value.detach().cpu()
            return value.float() if value.dtype in {torch.float16, torch.bfloat16} else value
        return tuple(map(move, value)) if type(value) is tuple else value

    return type(record)(*map(move, record))
