"""A batch of half-painted portraits, and where each pixel lies on the head."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
Traits = dict[str, Array]


@dataclass
class Scene:
    """A batch of half-painted portraits, and where each pixel lies."""

    t: Traits  # (n, 1, 1), colours (n, 3, 1, 1)
    x: Array  # image
    y: Array
    u: Array  # head, upright, in the image plane
    v: Array
    X: Array  # head at rest
    Y: Array
    Z: Array
    pixel: Array
    head: Array  # coverage
    relief: Array
    rgb: Array  # (n, 3, size, size)

    def cover(self, distance: Array) -> Array:
        """Coverage of a pixel at a signed distance (negative inside) from an edge."""
        coverage: Array = np.clip(0.5 - distance / self.pixel, 0, 1)
        return coverage

    def paint(self, colour: Array | float, alpha: Array) -> None:
        """Lay a colour over what is there."""
        self.rgb += alpha[:, None] * (colour - self.rgb)


def scene_of(traits: Traits, size: int) -> Scene:
    """Lay the pixel grid over the heads that the traits describe."""
    t = {k: v[:, :, None, None] if v.ndim == 2 else v[:, None, None] for k, v in traits.items()}
    axis = (np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1
    x, y = axis[None, None, :], axis[None, :, None]
    dx, dy = x - t["shift_x"], y - t["shift_y"]
    cos, sin = np.cos(t["roll"]), np.sin(t["roll"])
    u, v = (cos * dx + sin * dy) / t["zoom"], (cos * dy - sin * dx) / t["zoom"]
    pixel = 2 / size / t["zoom"]
    r2 = outline(u, v, t["head_width"], t["head_height"], t["taper"], t["square"])
    z = t["depth"] * np.sqrt(np.maximum(1 - r2, 0))
    cos, sin = np.cos(t["yaw"]), np.sin(t["yaw"])
    X, Z = cos * u - sin * z, cos * z + sin * u
    Y = np.cos(t["pitch"]) * v - np.sin(t["pitch"]) * Z
    head = np.clip(0.5 - (np.sqrt(r2) - 1) * t["head_width"] / pixel, 0, 1)
    n = len(t["yaw"])
    rgb = np.empty((n, 3, size, size), np.float32)
    x, y = np.broadcast_to(x, (n, 1, size)), np.broadcast_to(y, (n, size, 1))
    return Scene(t, x, y, u, v, X, Y, Z, pixel, head, z, rgb)


def where(scene: Scene, trait: str, layer: Callable[[Scene], None]) -> None:
    """Paint a layer on the portraits that have it."""
    rows = np.flatnonzero(scene.t[trait])
    if len(rows) == 0:
        return
    part = Scene(
        {k: v[rows] for k, v in scene.t.items()},
        *(getattr(scene, f.name)[rows] for f in fields(scene)[1:]),
    )
    layer(part)
    scene.rgb[rows] = part.rgb


def bump(squared: Array) -> Array:
    """A smooth hill of height 1 that ends where the squared distance reaches 1."""
    return np.square(np.maximum(1 - squared, 0))


def outline(u: Array, v: Array, width: Array, height: Array, taper: Array, square: Array) -> Array:
    """Squared radius of an egg with a jaw: 1 on its outline."""
    q = v / height
    a = np.square(u / (width * (1 - taper * np.square(np.maximum(q, 0)))))
    q = np.square(q)
    return a + q - square * np.minimum(a, 1) * np.minimum(q, 1)
