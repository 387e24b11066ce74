"""What is around the face: background, body, ears, hair, glasses, hat and hand."""

import numpy as np

from siameselib.data.portrait.scene import Scene, bump, outline


def background(s: Scene, rng: np.random.Generator) -> None:
    """A wall with a gradient of light, and a clutter of soft panels before it."""
    t, n = s.t, len(s.rgb)
    along = np.cos(t["wall_angle"]) * s.x + np.sin(t["wall_angle"]) * s.y
    s.rgb[:] = t["wall"] + (t["wall_slope"] * along)[:, None]
    for _ in range(5):
        p = rng.uniform(-1, 1, (8, n, 1, 1)).astype(np.float32)
        colour = rng.uniform(0, 1, (n, 3, 1, 1)).astype(np.float32)
        dx, dy = s.x - 1.2 * p[0], s.y - 1.2 * p[1]
        turn = np.pi / 2 * p[2] ** 3
        cos, sin = np.cos(turn), np.sin(turn)
        du = np.abs(cos * dx + sin * dy) - (0.35 + 0.3 * p[3])
        dv = np.abs(cos * dy - sin * dx) - (0.55 + 0.5 * p[4])
        soft = 0.02 + 0.15 * np.abs(p[5])
        alpha = np.clip(0.5 - np.maximum(du, dv) / soft, 0, 1) * np.abs(p[6]) * t["clutter"]
        s.paint(colour, alpha)


def hair_behind(s: Scene) -> None:
    """Long hair behind head and neck."""
    t = s.t
    wave = t["curl"] * np.sin(t["curl_rate"] * s.v + t["curl_phase"])
    width = t["head_width"] + t["hair_side"] + 0.06 * np.maximum(s.v, 0) + wave
    sides = np.abs(s.u) - width
    distance = np.maximum(np.maximum(sides, s.v - t["hair_length"]), -0.1 - s.v)
    s.paint(
        t["hair"] * (0.75 + 0.1 * np.sin(40 * s.u)[:, None]), s.cover(distance) * t["hair_long"]
    )


def body(s: Scene) -> None:
    """Neck, shoulders and a shirt."""
    t = s.t
    u, v = s.u + t["neck_lean"] * s.v, s.v
    neck = np.maximum(np.abs(u) - t["neck"] - 0.3 * np.square(np.maximum(v - 0.55, 0)), -v)
    shade = 0.7 + 0.25 * np.clip(u * t["light_x"] * 3, -1, 1)
    s.paint(t["skin"] * t["light"] * (0.85 * shade)[:, None], s.cover(neck))
    shoulder = t["shoulder"] + 0.4 * np.square(u) - v
    collar = t["collar"] * np.maximum(1 - np.abs(u) / 0.3, 0)
    stripe = np.sin(t["stripe_rate"] * (u + t["stripe_turn"] * v)) > 0
    cloth = shade * (1 - t["stripes"] * stripe)
    s.paint(t["shirt"] * t["light"] * cloth[:, None], s.cover(shoulder + collar))


def ears(s: Scene) -> None:
    """Both ears; the far one hides as the head turns."""
    t = s.t
    for side in (-1, 1):
        turn = side * np.sin(t["yaw"])
        at = side * (t["head_width"] * (1 - 0.55 * np.maximum(-turn, 0)) + t["ear_out"])
        width = t["ear_width"] * (1 + 0.6 * np.maximum(-turn, 0))
        dx = (s.u - at) / width
        dy = (s.v - t["ear_y"] - 0.3 * np.sin(t["pitch"])) / t["ear_height"]
        r = np.sqrt(np.square(dx) + np.square(dy) + 0.5 * side * dx * dy)
        hidden = np.clip(1 - 5 * np.maximum(turn, 0), 0, 1) * (1 - t["hair_long"])
        shade = 0.8 - 0.35 * bump(np.square(r / 0.8))
        light = t["ambient"] + (1 - t["ambient"]) * np.clip(0.6 + side * t["light_x"], 0, 1)
        s.paint(
            t["skin"] * t["light"] * (shade * light)[:, None], s.cover((r - 1) * width) * hidden
        )


def hair(s: Scene) -> None:
    """Hair on the skull and around it."""
    t = s.t
    wave = t["curl"] * np.sin(t["curl_rate"] * (s.u + s.v) + t["curl_phase"])
    width, height = t["head_width"] + t["hair_side"] + wave, t["head_height"] + t["hair_top"] + wave
    skull = np.sqrt(outline(s.u, s.v, width, height, t["taper"], t["square"]))
    x = s.X / t["head_width"]
    edge = (
        -t["hairline"]
        + t["temple"] * np.square(x)
        - t["recede"] * bump(np.square((np.abs(x) - 0.5) / 0.35))
    )
    edge = edge + t["peak"] * bump(np.square(x / 0.3)) + t["sweep"] * x
    edge = edge + 0.5 * wave + t["fringe"] * (np.abs(np.sin(t["fringe_rate"] * s.X)) - 0.5)
    front = s.cover(s.Y - edge)
    burns = s.cover(s.Z - t["sideburn_depth"]) * s.cover(s.Y - t["sideburn"])
    outside = s.cover(s.v - np.maximum(t["sideburn"], -0.1))
    mask = np.maximum(front, burns) * s.head + outside * (1 - s.head)
    mask *= s.cover((skull - 1) * width) * t["hair_top_dense"]
    strands = np.sin(t["strand_rate"] * (s.X + t["strand_turn"] * s.Y) + 3 * np.sin(4 * s.Y))
    gloss = bump(np.square((s.v + 0.6 * t["head_height"]) / 0.2)) * np.maximum(-t["light_y"], 0)
    side = 0.25 * np.clip(s.u * t["light_x"] * 3, -1, 1)
    tone = 0.85 + t["strand"] * strands + 0.5 * gloss + side
    s.paint(t["hair"] * t["light"] * tone[:, None], mask)


def glasses(s: Scene) -> None:
    """Lenses, rims, bridge and arms."""
    t = s.t
    reach = 0.06 * np.sin(t["yaw"])
    X = s.X - reach
    dx, dy = np.abs(X) - t["eye_x"] - 0.02, s.Y - t["eye_y"] - 0.02 - t["glass_drop"]
    a, b = np.square(dx / t["glass_width"]), np.square(dy / t["glass_height"])
    r = (np.sqrt(a + b - t["glass_square"] * np.minimum(a, 1) * np.minimum(b, 1)) - 1) * t[
        "glass_height"
    ]
    lens = s.cover(r) * s.head
    s.paint(t["lens"], lens * t["tint"])
    rim = np.abs(r) - t["rim"]
    bridge = np.maximum(np.abs(dy + 0.03) - 0.016, np.abs(X) - t["eye_x"] + t["glass_width"] * 0.9)
    arm = np.maximum(np.abs(dy + 0.03) - 0.016, t["eye_x"] + t["glass_width"] - np.abs(X))
    frame = np.minimum(np.minimum(rim, bridge), arm)
    s.paint(t["frame"], s.cover(frame) * s.head * t["glasses"])


def hat(s: Scene) -> None:
    """A cap with a brim."""
    t = s.t
    u, v = s.u, s.v - 0.25 * np.sin(t["pitch"])
    width, height = t["head_width"] + 0.09, t["head_height"] + t["hat_high"]
    dome = (np.sqrt(outline(u, v, width, height, t["taper"], t["square"])) - 1) * width
    rest = -t["hat_y"] + 0.25 * np.square(u)
    shade = 0.85 + 0.3 * np.clip(u * t["light_x"] * 3, -1, 1)
    s.paint(t["hat_colour"] * shade[:, None], s.cover(np.maximum(dome, v - rest)) * t["hat"])
    brim = np.square((u - 0.3 * np.sin(t["yaw"])) / (width + t["brim"]))
    brim = (np.sqrt(brim + np.square((v - rest - 0.02) / 0.07)) - 1) * 0.07
    s.paint(t["hat_colour"] * 0.6, s.cover(brim) * t["hat"])


def hand(s: Scene) -> None:
    """Four fingers and a palm before the face."""
    t = s.t
    dx, dy = s.x - t["hand_x"], s.y - t["hand_y"]
    cos, sin = np.cos(t["hand_turn"]), np.sin(t["hand_turn"])
    a, b = cos * dx + sin * dy, cos * dy - sin * dx
    palm = np.hypot(np.maximum(np.abs(a) - 0.14, 0), np.maximum(np.abs(b - 0.45) - 0.3, 0)) - 0.1
    shade = np.full_like(palm, 0.88)
    for k, reach in enumerate((0.3, 0.42, 0.45, 0.36)):
        across = np.abs(a - (k - 1.5) * 0.125)
        finger = np.hypot(across, np.maximum(np.abs(b) - reach, 0)) - 0.062
        shade = np.where(finger < 0, 0.95 - 3 * np.maximum(across - 0.02, 0), shade)
        palm = np.minimum(palm, finger)
    s.paint(t["skin"] * t["light"] * shade[:, None], s.cover(palm) * t["hand"])
