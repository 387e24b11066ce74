"""The people a `Verifier` knows: what may be enrolled, and how a photo is compared with each."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from siameselib import _check
from siameselib.evaluation.calibration import Calibration
from siameselib.evaluation.verdicts import Candidate, Identity


def check_name(where: str, name: object, gallery: Mapping[str, Tensor]) -> None:
    """Refuse a name that is no name, or is enrolled already."""
    if not isinstance(name, str) or not name:
        expected = "be a string that is not empty"
        raise _check.refuse(where, "name", expected, repr(name), TypeError)
    if name in gallery:
        raise _check.refuse(where, "name", "be new: forget it first", f"{name!r} again")


def photos_of(where: str, images: object) -> Sequence[Any]:
    """One photo or several as several; at least one."""
    several: Sequence[Any]
    if isinstance(images, list | tuple):
        several = images
    elif isinstance(images, Tensor | np.ndarray) and images.ndim == 4:
        several = list(images)
    else:
        several = [images]
    if not several:
        raise _check.refuse(where, "images", "hold a photo", "none")
    return several


def gallery_scores(
    score: Callable[[Tensor, Tensor], NDArray[np.float64]],
    embedding: Tensor,
    gallery: Mapping[str, Tensor],
    *,
    rule: str,
    unit: bool,
) -> dict[str, float]:
    """Score of one embedding with every person, in one call of ``score``.

    Args:
        score: From rows and as many other rows to similarities.
        embedding: Of the photo.
        gallery: Embeddings of each person.
        rule: How the scores of a person's images are joined, as in `evaluate_identification`.
        unit: Whether embeddings have length 1.

    Shape:
        embedding: (1, d). gallery: (images, d) each.

    Returns:
        The scores.
    """
    people = {name: images.to(embedding.device) for name, images in gallery.items()}
    if rule == "template":
        means = {name: images.mean(0, keepdim=True) for name, images in people.items()}
        people = {name: F.normalize(m) if unit else m for name, m in means.items()}
    images = torch.cat(list(people.values()))
    scores = score(embedding.expand(len(images), -1), images)
    ends = np.cumsum([len(own) for own in people.values()])
    join = np.mean if rule == "mean" else np.max
    parts = np.split(scores, ends[:-1])
    return {name: float(join(part)) for name, part in zip(people, parts, strict=True)}


def name_best(
    scores: Mapping[str, float],
    calibration: Calibration | None,
    threshold: float | None,
    top: int,
) -> Identity:
    """Name the best of the people, or nobody.

    Args:
        scores: With every person.
        calibration: From scores to probabilities, where one was fitted.
        threshold: The lowest score to accept; None where somebody has to be named.
        top: How many candidates to list.

    Returns:
        The answer.
    """
    found = [
        Candidate(name, score, None if calibration is None else float(calibration(score)))
        for name, score in sorted(scores.items(), key=lambda item: -item[1])
    ]
    accepted = threshold is None or found[0].score >= threshold
    return Identity(found[0].name if accepted else None, tuple(found[:top]), threshold)
