"""Identification (1:N): which of the people in a gallery is it, and is it any of them?

A *gallery* holds images of enrolled people, a *probe* is an image to be named. In a closed set
every probe shows somebody enrolled, and the question is how high that person ranks (CMC). In an
open set strangers come too, and the question is how many enrolled probes are found at a threshold
that lets few strangers through (DIR at FAR).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from siameselib import _check
from siameselib.evaluation.inputs import (
    Floats,
    Values,
    check_embeddings,
    check_labels,
    check_rates,
)
from siameselib.evaluation.scores import factors
from siameselib.evaluation.thresholds import just_above
from siameselib.evaluation.verification import MIN_FALSE_ACCEPTS

METRICS = ("cosine", "euclidean")
RULES = ("max", "mean", "template")
_SLAB = 1 << 21  # scores held at once


@dataclass(frozen=True)
class DirAtFar:
    """Share of enrolled probes named rightly while at most ``far`` of the strangers is let in.

    ``value``, ``threshold`` and ``false_accepts`` are None when the ``budget`` = far · strangers
    stays below ten.
    """

    far: float
    value: float | None
    threshold: float | None
    false_accepts: int | None
    budget: float

    def __str__(self) -> str:
        if self.value is None:
            return f"not measurable: {self.budget:.3g} false accepts"
        return f"{self.value:.3f}"


@dataclass(frozen=True, eq=False)
class Identification:
    """What `evaluate_identification` found.

    ``cmc[r - 1]`` is the share of enrolled probes whose person is among the r best of the gallery.
    """

    n_people: int
    n_gallery: int
    n_enrolled: int
    n_strangers: int
    rule: str
    cmc: Floats
    dir_at_far: dict[str, DirAtFar]

    def rank(self, r: int) -> float:
        """Share of enrolled probes whose person is among the r best."""
        return float(self.cmc[min(r, len(self.cmc)) - 1])

    def as_dict(self) -> dict[str, Any]:
        """The figures as plain numbers and dictionaries, ready for JSON."""
        return {
            "n_people": self.n_people,
            "n_gallery": self.n_gallery,
            "n_enrolled": self.n_enrolled,
            "n_strangers": self.n_strangers,
            "rule": self.rule,
            "cmc": self.cmc.tolist(),
            "dir_at_far": {far: {**vars(d)} for far, d in self.dir_at_far.items()},
        }

    def __str__(self) -> str:
        ranks = ", ".join(f"rank {r} {self.rank(r):.3f}" for r in (1, 5, 10) if r <= self.n_people)
        open_set = "".join(f"; DIR at FAR {far} {d}" for far, d in self.dir_at_far.items())
        return (
            f"{self.n_enrolled:,} probes of {self.n_people:,} enrolled people ({self.n_gallery:,} "
            f"images), {self.n_strangers:,} of strangers: {ranks}{open_set}"
        )


def evaluate_identification(
    probes: Values,
    probe_labels: Values,
    gallery: Values,
    gallery_labels: Values,
    *,
    metric: str = "cosine",
    rule: str = "max",
    fars: Sequence[float] = (0.1, 0.01),
) -> Identification:
    r"""Name every probe from the gallery: closed-set CMC, and open-set DIR at FAR.

    The score s(x, g) of a probe and a person joins the scores of that person's images:

    ============  ===========================================================================
    "max"         the best of them, the nearest image
    "mean"        their mean
    "template"    the score of the mean of the embeddings (of unit length for the cosine)
    ============  ===========================================================================

    With r(x) the rank of a probe's own person, CMC(r) = #{x enrolled, r(x) ≤ r} / #{x enrolled}.
    Probes of people who are not in the gallery are strangers; for the threshold t,

    .. math:: \mathrm{FAR}(t) = \frac{\#\{x \text{ stranger}, \max_g s(x, g) \ge t\}}
              {\#\{x \text{ stranger}\}}, \qquad
              \mathrm{DIR}(t) = \frac{\#\{x \text{ enrolled}, r(x) = 1, s \ge t\}}
              {\#\{x \text{ enrolled}\}}.

    FAR here is per stranger, not per pair: each has a chance with every person enrolled, so it
    grows with the gallery. Ties count against the net: people with the score of the right one
    rank before. A rate is reported when at least ten false accepts stand behind it.

    Args:
        probes: embeddings to name.
        probe_labels: who they show, integers or names.
        gallery: embeddings of the enrolled people's images.
        gallery_labels: who they show.
        metric: "cosine", or "euclidean" for the negative distance.
        rule: how the scores of a person's images are joined.
        fars: false-accept rates at which to report DIR; used where there are strangers.

    Shape:
        probes: (n, d). probe_labels: (n,). gallery: (m, d). gallery_labels: (m,).

    Returns:
        Identification. Its thresholds are in the units of `Verifier.scores`.

    Raises:
        ValueError: shapes differ, an embedding is not finite, the gallery is empty, no probe is
            enrolled, or a rate is not in (0, 1].
        TypeError: embeddings that are not floating point, labels that are floating point.

    Example:
        >>> gallery = [[1.0, 0.0], [0.8, 0.2], [0.0, 1.0]]
        >>> probes = [[0.9, 0.1], [0.3, 0.6], [-1.0, 0.2]]
        >>> found = evaluate_identification(probes, ["a", "b", "z"], gallery, ["a", "a", "b"])
        >>> found.cmc.tolist(), found.n_strangers
        ([1.0, 1.0], 1)

    Source:
        Phillips, Grother and Micheals, "Evaluation methods in face recognition" (2011), sections
        21.2 and 21.4.
    """
    where = "evaluate_identification"
    fars = check_rates(where, "fars", fars)
    _check.choice(where, "metric", metric, METRICS)
    _check.choice(where, "rule", rule, RULES)
    x = check_embeddings(where, probes, "probes")
    y = check_embeddings(where, gallery, "gallery").to(x)
    names = check_labels(where, probe_labels, len(x), "probe_labels")
    people = check_labels(where, gallery_labels, len(y), "gallery_labels")
    if y.shape[1] != x.shape[1]:
        raise _check.refuse(where, "gallery", f"be as wide as probes, {x.shape[1]}", y.shape[1])
    enrolled, person = np.unique(people, return_inverse=True)
    own = _own(names, enrolled)
    if (own < 0).all():
        got = f"{len(x)} probes of nobody in the gallery"
        raise _check.refuse(where, "probe_labels", "name somebody enrolled", got)
    best, right, ranks = _ranked(x, y, person, own, metric, rule)
    known = own >= 0
    counts = np.bincount(ranks[known], minlength=len(enrolled) + 1)[1:]
    strangers = best[~known]
    hits = right[known & (ranks == 1)]
    found = {f"{far:g}": _dir(far, strangers, hits, int(known.sum())) for far in fars}
    return Identification(
        len(enrolled),
        len(y),
        int(known.sum()),
        len(strangers),
        rule,
        counts.cumsum() / known.sum(),
        found if len(strangers) else {},
    )


class _Ranked(NamedTuple):
    best: Floats
    right: Floats
    ranks: NDArray[np.int64]


def person_scores(
    x: Tensor, y: Tensor, person: Tensor, n_people: int, *, metric: str, rule: str
) -> Iterator[Tensor]:
    """Scores of blocks of probes with every person of the gallery.

    Args:
        x: probes.
        y: gallery images.
        person: number of the person on each gallery image.
        n_people: how many there are.
        metric: one of `METRICS`.
        rule: one of `RULES`.

    Shape:
        x: (n, d). y: (m, d). person: (m,). Each result: (block, people).

    Yields:
        The scores.
    """
    if rule == "template":
        y = y if metric == "euclidean" else F.normalize(y)
        sums = y.new_zeros(n_people, y.shape[1]).index_add_(0, person, y)
        y, person = sums / person.bincount(minlength=n_people)[:, None], torch.arange(n_people)
        person = person.to(y.device)
    left, right, unit = factors(x, y, metric)
    sizes = person.bincount(minlength=n_people).to(left.dtype)
    height = max(1, _SLAB // len(right))
    for start in range(0, len(left), height):
        scores = left[start : start + height] @ right.T
        if metric == "euclidean":
            scores = scores.mul_(-2).clamp_(min=0).sqrt_().mul_(-unit)
        if rule == "max":
            lowest = scores.new_full((len(scores), n_people), -torch.inf)
            yield lowest.scatter_reduce_(1, person.expand_as(scores), scores, "amax")
        else:
            sums = scores.new_zeros(len(scores), n_people).index_add_(1, person, scores)
            yield sums / sizes


def _ranked(
    x: Tensor, y: Tensor, person: NDArray[np.int64], own: NDArray[np.int64], metric: str, rule: str
) -> _Ranked:
    """Best score of every probe, score of its own person (-inf for strangers), and their rank."""
    numbers = torch.as_tensor(person, device=x.device)
    mine = torch.as_tensor(own, device=x.device)
    n_people = int(person.max()) + 1
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    done = 0
    for scores in person_scores(x, y, numbers, n_people, metric=metric, rule=rule):
        who = mine[done : done + len(scores), None]
        own_score = scores.gather(1, who.clamp(min=0))
        rank = (scores >= own_score).sum(1)
        own_score = own_score[:, 0].where(who[:, 0] >= 0, -torch.inf)
        parts.append((scores.amax(1), own_score, rank))
        done += len(scores)
    best, right, ranks = (torch.cat(part).cpu() for part in zip(*parts, strict=True))
    return _Ranked(best.double().numpy(), right.double().numpy(), ranks.numpy())


def _own(names: NDArray[Any], enrolled: NDArray[Any]) -> NDArray[np.int64]:
    """The number of each probe's person in the gallery, -1 for strangers."""
    together = np.concatenate((names, enrolled))  # numbers and names have one order only together
    place = np.unique(together, return_inverse=True)[1]
    number = np.full(place.max() + 1, -1)
    number[place[len(names) :]] = np.arange(len(enrolled))
    return number[place[: len(names)]]


def _dir(far: float, strangers: Floats, hits: Floats, n_enrolled: int) -> DirAtFar:
    budget = far * len(strangers)
    if not len(strangers) or far < MIN_FALSE_ACCEPTS / len(strangers):
        return DirAtFar(far, None, None, None, budget)
    highest = np.sort(strangers)[::-1]
    allowed = int(np.flatnonzero(np.arange(len(highest) + 1) / len(highest) <= far)[-1])
    if allowed == len(highest):
        threshold = float(min(highest[-1], hits.min(initial=np.inf)))
    else:  # just above the best stranger who must stay out
        threshold = just_above(float(highest[allowed]))
    return DirAtFar(
        far,
        int((hits >= threshold).sum()) / n_enrolled,
        threshold,
        int((strangers >= threshold).sum()),
        budget,
    )
