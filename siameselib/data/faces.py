"""Synthetic people: who they are, and how each is photographed.

These are drawings made by `siameselib.data.portrait`, not photographs: they let a training run, a
test or a lesson start with nothing to download. An identity is about a hundred numbers (geometry,
skin, hair, marks); a photograph adds about sixty (pose, light, expression, occlusion, background,
lens) that have nothing to do with who it is.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from siameselib import _check
from siameselib.data.pairs import Pair
from siameselib.data.portrait import Traits, draw
from siameselib.data.protocols import Part, Protocol

_BATCH = 32  # portraits drawn at a time: their arrays stay in cache


@dataclass(frozen=True)
class SyntheticFaces:
    """Drawn faces: images in memory, with their names and identities.

    Args:
        images: The drawings, in the order of `names`.
        names: `Person_0001_0003`: person 1, image 3, as LFW counts.
        identities: `Person_0001`, one an image.
        labels: The same as numbers.
        index: Row of a name.
        size: Width and height in pixels.
    """

    images: NDArray[np.uint8]
    names: list[str]
    identities: list[str]
    labels: NDArray[np.int64]
    index: dict[str, int]
    size: int


def synthetic_faces(
    *, people: int = 500, images_per_person: int = 8, size: int = 64, seed: int = 0
) -> SyntheticFaces:
    """Draw a data set of faces, so that training starts with nothing to download.

    These are drawings, not photographs: figures on them say that a training works, and nothing
    about how well it would do on people. Raw pixels tell two people apart about as badly as on
    LFW, while a small net learns to within minutes.

    Args:
        people: How many identities.
        images_per_person: How many drawings of each, in different pose, light and expression.
        size: Width and height in pixels.
        seed: Same numbers, same bytes.

    Returns:
        The images with their names.

    Example:
        >>> faces = synthetic_faces(people=3, images_per_person=2, size=32)
        >>> faces.images.shape, faces.names[-1], faces.labels.tolist()
        ((6, 32, 32, 3), 'Person_0003_0002', [0, 0, 1, 1, 2, 2])
    """
    counts = {"people": people, "images_per_person": images_per_person, "size": size}
    for name, value in counts.items():
        _check.positive("synthetic_faces", name, value)
    rng = np.random.default_rng(seed)
    traits = _photos(rng, _people(rng, people), images_per_person)
    n = people * images_per_person
    images = np.empty((n, size, size, 3), np.uint8)

    def batch(start: int) -> None:
        rows = slice(start, start + _BATCH)
        noise = np.random.default_rng([seed, start])
        images[rows] = draw({k: v[rows] for k, v in traits.items()}, size, noise)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(batch, range(0, n, _BATCH)):
            pass
    labels = np.repeat(np.arange(people), images_per_person)
    identities = [f"Person_{k + 1:04d}" for k in labels]
    names = [f"{p}_{i % images_per_person + 1:04d}" for i, p in enumerate(identities)]
    index = {name: i for i, name in enumerate(names)}
    return SyntheticFaces(images, names, identities, labels, index, size)


def synthetic_view(
    faces: SyntheticFaces, *, train_fraction: float = 0.8, pairs: int = 1000, seed: int = 0
) -> Protocol:
    """Split drawn people into training and test, with pairs on both sides, as LFW's View 1 does.

    Args:
        faces: From `synthetic_faces`.
        train_fraction: Share of the people to train on; the others are for the test only.
        pairs: How many pairs each side gets, half of them same; no pair twice.
        seed: Of the choice of people and pairs.

    Returns:
        The split, named "synthetic".

    Raises:
        ValueError: If a side has too few people or images for so many pairs.

    Example:
        >>> faces = synthetic_faces(people=10, images_per_person=3, size=16)
        >>> view = synthetic_view(faces, train_fraction=0.6, pairs=10)
        >>> len(view.train.people), len(view.test.people), len(view.test.pairs)
        (6, 4, 10)
    """
    if not 0 < train_fraction < 1:
        raise _check.refuse(
            "synthetic_view", "train_fraction", "be between 0 and 1", train_fraction
        )
    rng = np.random.default_rng(seed)
    people = np.unique(faces.identities)
    cut = round(train_fraction * len(people))
    shuffled = rng.permutation(people)
    train, test = (
        Part(frozenset(map(str, side)), _pairs(rng, faces, set(side), pairs))
        for side in (shuffled[:cut], shuffled[cut:])
    )
    return Protocol("synthetic", train, test)


def _pairs(
    rng: np.random.Generator, faces: SyntheticFaces, people: set[str], count: int
) -> list[Pair]:
    rows = [row for row, person in enumerate(faces.identities) if person in people]
    by_person: dict[str, list[int]] = {}
    for row in rows:
        by_person.setdefault(faces.identities[row], []).append(row)
    same = [pair for own in by_person.values() for pair in combinations(own, 2)]
    n_same, n_different = count // 2, count - count // 2
    all_different = len(rows) * (len(rows) - 1) // 2 - len(same)
    if n_same > len(same) or n_different > all_different:
        limit = 2 * min(len(same), all_different)
        expected = f"be at most {limit:,} with {len(people):,} people on one side"
        raise _check.refuse("synthetic_view", "pairs", expected, count)
    chosen = [same[k] for k in rng.choice(len(same), n_same, replace=False)]
    different: dict[tuple[int, int], None] = {}
    while len(different) < n_different:
        i, j = sorted(rng.choice(rows, 2, replace=False).tolist())
        if faces.labels[i] != faces.labels[j]:
            different[i, j] = None
    found = [(pair, True) for pair in chosen] + [(pair, False) for pair in different]
    return [Pair(faces.names[i], faces.names[j], same) for (i, j), same in found]


# Geometry and marks of a person: uniform between these.
_PERSON = {
    "head_width": (0.45, 0.56),
    "head_height": (0.62, 0.74),
    "taper": (0.10, 0.40),
    "square": (0.0, 0.75),
    "depth": (0.42, 0.58),
    "cheekbone": (0.0, 0.07),
    "cheek_y": (0.08, 0.2),
    "blush": (0.0, 0.5),
    "chin": (-0.02, 0.07),
    "cleft": (-0.03, 0.03),
    "neck": (0.2, 0.32),
    "eye_x": (0.17, 0.25),
    "eye_y": (-0.11, 0.01),
    "eye_width": (0.085, 0.13),
    "eye_height": (0.028, 0.065),
    "eye_round": (0.0, 0.5),
    "eye_tilt": (-0.22, 0.22),
    "eye_uneven": (-0.012, 0.012),
    "iris_size": (0.036, 0.052),
    "socket": (0.0, 0.08),
    "shadow": (0.0, 0.55),
    "lash": (0.006, 0.024),
    "crease": (0.01, 0.04),
    "crease_depth": (0.0, 0.7),
    "brow_width": (0.1, 0.16),
    "brow_y": (0.085, 0.16),
    "brow_tilt": (-0.045, 0.03),
    "brow_arch": (-0.05, 0.02),
    "brow_thick": (0.01, 0.04),
    "brow_point": (0.0, 0.7),
    "brow_dense": (0.35, 1.0),
    "brow_uneven": (-0.01, 0.01),
    "ridge": (0.0, 0.07),
    "nose_y": (0.13, 0.25),
    "nose_high": (0.1, 0.25),
    "nose_width": (0.075, 0.15),
    "nose_tip": (0.07, 0.14),
    "nose_hump": (-0.25, 0.4),
    "nose_lean": (-0.06, 0.06),
    "bridge": (0.04, 0.085),
    "nostril": (0.008, 0.022),
    "mouth_width": (0.13, 0.22),
    "lip_upper": (0.015, 0.05),
    "lip_lower": (0.02, 0.065),
    "bow": (0.0, 0.5),
    "ear_out": (-0.02, 0.06),
    "ear_width": (0.05, 0.085),
    "ear_height": (0.1, 0.17),
    "hair_side": (0.0, 0.11),
    "hair_top": (0.01, 0.14),
    "hairline": (0.3, 0.56),
    "temple": (-0.05, 0.25),
    "recede": (0.0, 0.25),
    "peak": (-0.06, 0.1),
    "sweep": (-0.18, 0.18),
    "sideburn": (-0.2, 0.2),
    "sideburn_depth": (0.02, 0.16),
    "strand": (0.0, 0.3),
    "strand_rate": (12.0, 45.0),
    "strand_turn": (-1.0, 1.0),
    "hair_length": (0.25, 1.1),
    "curl_rate": (10.0, 34.0),
    "curl_phase": (0.0, 6.3),
    "fringe_rate": (6.0, 26.0),
    "speckle": (35.0, 70.0),
    "beard_width": (0.14, 0.6),
    "beard_rise": (0.3, 1.6),
    "moustache_thick": (0.015, 0.035),
    "moustache_width": (0.09, 0.2),
    "glass_width": (0.13, 0.175),
    "glass_height": (0.08, 0.145),
    "glass_square": (0.0, 0.97),
    "glass_drop": (-0.01, 0.04),
    "rim": (0.007, 0.022),
}

# What changes from one photograph of a person to the next: uniform between these.
_PHOTO = {
    "yaw": (-0.45, 0.45),
    "pitch": (-0.18, 0.18),
    "roll": (-0.08, 0.08),
    "zoom": (1.12, 1.24),
    "shift_x": (-0.045, 0.045),
    "shift_y": (-0.045, 0.045),
    "neck_lean": (-0.2, 0.2),
    "shoulder": (0.62, 0.82),
    "collar": (-0.1, 0.5),
    "stripe_rate": (8.0, 40.0),
    "stripe_turn": (-2.0, 2.0),
    "wall_angle": (0.0, 6.3),
    "wall_slope": (0.0, 0.25),
    "clutter": (0.0, 0.8),
    "ambient": (0.5, 0.85),
    "gaze_x": (-0.03, 0.03),
    "gaze_y": (-0.012, 0.012),
    "eye_open": (0.55, 1.2),
    "brow_lift": (-0.04, 0.025),
    "frown": (-0.012, 0.012),
    "smile": (-0.06, 0.32),
    "smirk": (-0.02, 0.02),
    "teeth": (-0.2, 0.6),
    "hat_high": (0.02, 0.2),
    "hat_y": (0.22, 0.42),
    "brim": (-0.05, 0.3),
    "hand_x": (-0.5, 0.5),
    "hand_y": (0.3, 0.85),
    "hand_turn": (-1.3, 1.3),
    "blur": (0.0, 0.18),
    "saturation": (0.65, 1.15),
    "contrast": (0.8, 1.2),
    "brightness": (-0.07, 0.07),
    "noise": (0.005, 0.03),
}

_HAIR = np.array(
    [
        [0.06, 0.05, 0.05],
        [0.15, 0.1, 0.08],
        [0.27, 0.18, 0.12],
        [0.38, 0.26, 0.17],
        [0.47, 0.24, 0.13],
        [0.66, 0.52, 0.34],
        [0.52, 0.51, 0.5],
        [0.8, 0.78, 0.75],
    ]
)
_IRIS = np.array([[0.22, 0.12, 0.06], [0.34, 0.22, 0.1], [0.3, 0.42, 0.6], [0.32, 0.45, 0.3]])


def _uniform(rng: np.random.Generator, n: int, table: dict[str, tuple[float, float]]) -> Traits:
    return {k: rng.uniform(*ends, n).astype(np.float32) for k, ends in table.items()}


def _people(rng: np.random.Generator, n: int) -> Traits:
    """Draw the traits of n people."""

    def some(share: float, low: float, high: float) -> NDArray[np.float64]:
        """Zero for most; a share of the people has an amount."""
        return np.where(rng.random(n) < share, rng.uniform(low, high, n), 0)

    t = _uniform(rng, n, _PERSON)
    tone, warm = rng.beta(1.1, 1.3, (n, 1)), rng.uniform(-1, 1, (n, 1))
    skin = (1 - tone) * [0.93, 0.77, 0.66] + tone * [0.42, 0.28, 0.21]
    skin = skin + warm * [0.02, -0.005, -0.035]
    t["skin"] = skin
    hair = _HAIR[rng.choice(len(_HAIR), n, p=[0.2, 0.2, 0.16, 0.12, 0.08, 0.12, 0.08, 0.04])]
    hair = hair * rng.uniform(0.75, 1.25, (n, 1))
    t["hair"] = hair
    t["brow_colour"] = hair * rng.uniform(0.35, 0.9, (n, 1))
    t["beard_colour"] = hair * rng.uniform(0.5, 1, (n, 1))
    t["iris"] = _IRIS[rng.choice(4, n, p=[0.4, 0.25, 0.2, 0.15])] * rng.uniform(0.7, 1.2, (n, 1))
    red = rng.uniform(0, 1, (n, 1))
    t["lips"] = skin * (1 - red * [0.08, 0.4, 0.35]) * rng.uniform(0.75, 1, (n, 1))

    beardless = rng.random(n) < 0.55
    t["beard"] = np.where(beardless, 0, some(0.75, 0.15, 0.95))
    t["moustache"] = np.where(beardless, 0, some(0.6, 0.3, 0.95))
    t["hair_long"] = np.where(beardless, some(0.6, 1, 1), some(0.08, 1, 1))
    bald = np.where(beardless, 0, some(0.2, 1, 1))
    t["hair_top_dense"] = 1 - bald
    t["curl"] = some(0.4, 0.008, 0.035)
    t["fringe"] = some(0.35, 0.03, 0.16)
    t["monobrow"] = some(0.12, 0.2, 0.7)
    t["age"] = some(0.5, 0.1, 0.8)
    t["freckles"] = some(0.2, 0.3, 0.8)
    t["scar"] = some(0.15, 0.05, 0.12)
    t["scar_x"], t["scar_y"] = rng.uniform(-0.35, 0.35, n), rng.uniform(-0.4, 0.5, n)
    t["scar_turn"] = rng.uniform(0, np.pi, n)
    for k in "123":
        t["mole_x" + k], t["mole_y" + k] = rng.uniform(-0.4, 0.4, n), rng.uniform(-0.1, 0.6, n)
        t["mole_r" + k] = some(0.25, 0.012, 0.028)
    t["mouth_y"] = rng.uniform(0.48, 0.66, n) * (0.66 - t["nose_y"]) + t["nose_y"]
    t["ear_y"] = t["eye_y"] + rng.uniform(0.05, 0.14, n)
    t["glasses"] = some(0.25, 0.7, 1)
    t["frame"] = rng.uniform(0, 1, (n, 3)) ** 2 * rng.uniform(0.1, 0.8, (n, 1))
    return {k: v.astype(np.float32) for k, v in t.items()}


def _photos(rng: np.random.Generator, people: Traits, each: int) -> Traits:
    """Photograph each person several times, rows of one person together."""
    t = {k: np.repeat(v, each, axis=0) for k, v in people.items()}
    n = len(t["skin"])

    def some(share: float) -> NDArray[np.bool_]:
        return rng.random(n) < share

    t |= _uniform(rng, n, _PHOTO)
    t["yaw"] *= np.abs(t["yaw"]) / 0.45 * 0.5 + 0.5
    t["mouth_open"] = np.where(some(0.4), rng.uniform(0.01, 0.13, n), 0)
    t["light_x"], t["light_y"] = rng.uniform(-0.7, 0.7, n), rng.uniform(-0.6, 0.2, n)
    t["light_z"] = np.sqrt(np.maximum(1 - t["light_x"] ** 2 - t["light_y"] ** 2, 0.1))
    t["light"] = rng.uniform(0.8, 1.1, (n, 1)) * rng.uniform(0.93, 1.07, (n, 3))
    t["cast"] = rng.uniform(0.93, 1.07, (n, 3))
    for k in ("wall", "shirt"):
        t[k] = rng.uniform(0.15, 0.85, (n, 1)) + rng.uniform(-0.2, 0.2, (n, 3))
    t["stripes"] = np.where(some(0.3), rng.uniform(0.1, 0.5, n), 0)
    t["hat"], t["hat_colour"] = 1.0 * some(0.08), rng.uniform(0.05, 0.9, (n, 3))
    t["hand"] = 1.0 * some(0.06)
    dark = some(0.05)
    t["glasses"] = np.where(dark, 1, np.where(some(0.1), 0, t["glasses"]))
    t["tint"] = np.where(dark, 0.93, 0.1 * t["glasses"])
    t["lens"] = np.where(dark[:, None], rng.uniform(0.02, 0.2, (n, 3)), 0.85)
    t["frame"] = np.where(dark[:, None], t["lens"], t["frame"])
    return {k: v.astype(np.float32) for k, v in t.items()}
