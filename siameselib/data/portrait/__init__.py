"""How a synthetic face is drawn: numpy only, a batch of portraits at once.

A portrait is painted back to front (background, hair behind, body, head, hair, glasses, hat,
hand), each layer a signed distance turned into coverage, so that edges are smooth without
supersampling. The head is a bulging surface: undoing its turn gives every pixel its place
(X, Y, Z) on the face at rest, where the features are painted, and so they move together, with
parallax and foreshortening; the slope of the surface gives the shading.

Image coordinates run from -1 to 1, y down. `Traits` maps a trait's name to one number a portrait
(or three, for a colour); `siameselib.data.faces` says who has which.
"""

import numpy as np
from numpy.typing import NDArray

from siameselib.data.portrait import around
from siameselib.data.portrait.face import paint_face
from siameselib.data.portrait.scene import Scene, Traits, scene_of, where

__all__ = ["Traits", "draw"]


def draw(traits: Traits, size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw one portrait per row of the traits.

    Args:
        traits: The numbers that say what to draw.
        size: Width and height in pixels.
        rng: Source of what is not worth a trait: clutter and sensor noise.

    Returns:
        Images, uint8 (n, size, size, 3).
    """
    scene = scene_of(traits, size)
    around.background(scene, rng)
    where(scene, "hair_long", around.hair_behind)
    around.body(scene)
    paint_face(scene)
    around.ears(scene)
    where(scene, "hair_top_dense", around.hair)
    where(scene, "glasses", around.glasses)
    where(scene, "hat", around.hat)
    where(scene, "hand", around.hand)
    return _photograph(scene, rng)


def _photograph(s: Scene, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Lens and sensor: blur, exposure, contrast, colour cast, noise."""
    t, rgb = s.t, s.rgb
    for axis in (2, 3):
        ends = np.concatenate([rgb.take([0], axis), rgb, rgb.take([-1], axis)], axis)
        n = rgb.shape[axis]
        sides = ends.take(range(n), axis) + ends.take(range(2, n + 2), axis)
        rgb = rgb + t["blur"][:, None] * (sides - 2 * rgb)
    grey = rgb.mean(1, keepdims=True)
    rgb = grey + (rgb - grey) * t["saturation"][:, None]
    rgb = (rgb - 0.5) * t["contrast"][:, None] + 0.5
    rgb = rgb * t["cast"] + t["brightness"][:, None]
    rgb += t["noise"][:, None] * rng.standard_normal(rgb.shape, np.float32)
    levels = np.rint(np.clip(rgb, 0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(levels.transpose(0, 2, 3, 1))
