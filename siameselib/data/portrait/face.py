"""The face itself: skin, features, and the light that falls on them."""

import numpy as np

from siameselib.data.portrait.scene import Array, Scene, bump


def paint_face(s: Scene) -> None:
    """Skin, features and the light that falls on them."""
    t, skin = s.t, s.t["skin"]
    rgb, s.rgb = s.rgb, np.broadcast_to(skin, s.rgb.shape).copy()
    side = np.sign(s.X)
    x = np.abs(s.X)
    _complexion(s, x)
    _eyes(s, x, side)
    _nose(s)
    _mouth(s)
    _beard(s, x)
    _brows(s, x, side)
    s.rgb *= _light(s)[:, None] * t["light"]
    face, s.rgb = s.rgb, rgb
    s.paint(face, s.head)


def _complexion(s: Scene, x: Array) -> None:
    t = s.t
    cheek = bump(np.square((x - 0.27) / 0.2) + np.square((s.Y - t["cheek_y"]) / 0.18))
    s.relief += t["cheekbone"] * cheek
    s.paint(s.rgb * np.array([1.05, 0.8, 0.78], np.float32)[:, None, None], cheek * t["blush"])
    speckle = np.sin(t["speckle"] * s.X + 9 * s.Y) * np.sin(t["speckle"] * s.Y - 7 * s.X)
    region = bump(np.square(s.X / 0.5) + np.square((s.Y - 0.14) / 0.22))
    s.paint(t["skin"] * 0.62, np.clip(4 * speckle - 1.6, 0, 1) * region * t["freckles"])
    fold = np.abs(x - 0.13 - 0.45 * (s.Y - t["nose_y"])) - 0.012
    fold = s.cover(fold) * bump(np.square((s.Y - t["nose_y"] - 0.1) / 0.14))
    lines = np.clip(np.sin(55 * s.Y + 8 * np.square(s.X)) * 2 - 1, 0, 1)
    lines *= bump(np.square(s.X / 0.3) + np.square((s.Y + 0.36) / 0.1))
    s.paint(t["skin"] * 0.6, np.maximum(fold, 0.7 * lines) * t["age"])
    for k in "123":
        mole = np.hypot(s.X - t["mole_x" + k], s.Y - t["mole_y" + k]) - t["mole_r" + k]
        s.paint(t["skin"] * 0.3, s.cover(mole) * (t["mole_r" + k] > 0))
    dx, dy = s.X - t["scar_x"], s.Y - t["scar_y"]
    cos, sin = np.cos(t["scar_turn"]), np.sin(t["scar_turn"])
    along, across = cos * dx + sin * dy, cos * dy - sin * dx
    scar = np.hypot(np.maximum(np.abs(along) - t["scar"], 0), across) - 0.014
    s.paint(t["skin"] * 0.72 + 0.2, s.cover(scar) * (t["scar"] > 0))
    cleft = bump(np.square(s.X / 0.05) + np.square((s.Y - 0.85 * t["head_height"]) / 0.07))
    s.relief -= t["cleft"] * cleft
    chin = bump(np.square(s.X / 0.2) + np.square((s.Y - 0.8 * t["head_height"]) / 0.14))
    s.relief += t["chin"] * chin


def _eyes(s: Scene, x: Array, side: Array) -> None:
    t = s.t
    dx = x - t["eye_x"]
    dy = s.Y - t["eye_y"] - t["eye_uneven"] * side + t["eye_tilt"] * dx
    w, h = t["eye_width"], t["eye_height"] * t["eye_open"]
    socket = bump(np.square(dx / (1.9 * w)) + np.square((dy + 0.02) / 0.14))
    s.relief -= t["socket"] * socket
    s.paint(
        t["skin"] * np.array([0.6, 0.55, 0.55], np.float32)[:, None, None], socket * t["shadow"]
    )
    arch = 1 - np.square(dx / w)
    lid = -dy - h * arch * (1 + t["eye_round"] * (1 - arch))
    opening = np.maximum(lid, dy - 0.7 * h * arch)
    within = s.cover(np.abs(dx) - w)
    white = s.cover(opening) * within
    s.paint(np.array([0.93, 0.91, 0.89], np.float32)[:, None, None], white)
    gx, gy = dx * side - t["gaze_x"], dy - t["gaze_y"]
    iris = np.hypot(gx, gy)
    s.paint(t["iris"], white * s.cover(iris - t["iris_size"]))
    s.paint(0.05, white * s.cover(iris - 0.45 * t["iris_size"]))
    glint = np.hypot(gx + 0.02, gy + 0.02) - 0.014
    s.paint(1, white * s.cover(glint))
    lash = np.abs(lid) - t["lash"] * np.maximum(arch, 0.2)
    s.paint(t["brow_colour"] * 0.4, s.cover(lash) * within)
    crease = np.abs(dy + h + t["crease"] - 0.06 * (1 - arch)) - 0.01
    s.paint(t["skin"] * 0.55, s.cover(crease) * within * t["crease_depth"])
    bag = np.abs(dy - 0.7 * h - 0.055 * np.maximum(arch, 0)) - 0.01
    s.paint(t["skin"] * 0.66, s.cover(bag) * within * t["age"])


def _brows(s: Scene, x: Array, side: Array) -> None:
    t = s.t
    dx = (x - t["eye_x"] - 0.02) / t["brow_width"]
    lift = t["brow_lift"] + t["brow_uneven"] * side
    y = s.Y - t["eye_y"] + t["brow_y"] + lift
    y = y + t["brow_tilt"] * dx + t["brow_arch"] * (1 - np.square(dx)) - t["frown"] * (dx - 1)
    thick = t["brow_thick"] * (1 - t["brow_point"] * np.clip(dx, -1, 1)) - 0.5 * s.pixel * (dx > 1)
    distance = np.maximum(np.abs(y) - thick, (np.abs(dx) - 1) * t["brow_width"])
    s.paint(t["brow_colour"], s.cover(distance) * t["brow_dense"])
    between = bump(np.square(s.X / 0.12) + np.square((s.Y - t["eye_y"] + t["brow_y"]) / 0.05))
    s.paint(t["brow_colour"], between * t["monobrow"])
    s.relief += t["ridge"] * bump(np.square(dx / 1.4) + np.square(y / 0.09))


def _nose(s: Scene) -> None:
    t = s.t
    tip, top = t["nose_y"], t["eye_y"] - 0.05
    lean = t["nose_lean"] * (s.Y - top)
    x = s.X - t["nose_high"] * np.sin(t["yaw"]) * np.clip((s.Y - top) / (tip - top), 0, 1) - lean
    rise = np.clip((s.Y - top) / (tip - top), 0, 1)
    hump = t["nose_hump"] * bump(np.square((rise - 0.45) / 0.4))
    under = np.clip((tip + 0.05 - s.Y) / 0.06, 0, 1)
    width = t["bridge"] + (t["nose_width"] - t["bridge"]) * np.square(rise)
    ridge = bump(np.square(x / width))
    s.relief += t["nose_high"] * (0.25 + 0.75 * rise + hump) * ridge * under * (rise > 0)
    ball = bump((np.square(x) + np.square(s.Y - tip)) / np.square(t["nose_tip"]))
    s.relief += 0.06 * ball
    wing = np.hypot(np.abs(x) - t["nose_width"] * 0.6, s.Y - tip)
    wing = np.maximum(
        np.abs(wing - 0.4 * t["nose_width"]) - 0.006, 0.6 * t["nose_width"] - np.abs(x)
    )
    s.paint(t["skin"] * 0.6, s.cover(wing) * 0.7)
    hole = np.hypot((np.abs(x) - 0.55 * t["nose_width"]) / 1.5, s.Y - tip - 0.045) - t["nostril"]
    s.paint(t["skin"] * 0.25, s.cover(hole) * 0.85)
    below = bump(np.square(x / t["nose_width"]) + np.square((s.Y - tip - 0.07) / 0.05))
    s.paint(t["skin"] * 0.6, below * 0.6)


def _mouth(s: Scene) -> None:
    t = s.t
    w = t["mouth_width"] * (1 + t["smile"])
    dx = s.X / w
    arch = 1 - np.square(dx)
    y = s.Y - t["mouth_y"] + t["smile"] * 0.28 * np.square(dx) + t["smirk"] * dx
    y = y - 0.02 * t["smile"]
    gap = t["mouth_open"] * arch
    bow = 1 - t["bow"] * bump(np.square(dx / 0.22)) + 0.5 * t["bow"] * (1 - np.abs(dx))
    upper = -y - gap * 0.35 - t["lip_upper"] * arch * bow
    lower = y - gap - t["lip_lower"] * np.sqrt(np.maximum(arch, 0)) * np.maximum(arch, 0)
    ends = (np.abs(dx) - 1) * w
    lips = np.maximum(np.maximum(upper, lower), ends)
    s.relief += 0.05 * bump(np.square(dx / 1.2) + np.square(y / 0.14))
    s.paint(t["lips"], s.cover(lips))
    inside = np.maximum(np.maximum(-y - gap * 0.35, y - gap), ends)
    s.paint(np.array([0.22, 0.06, 0.07], np.float32)[:, None, None], s.cover(inside))
    teeth = np.maximum(inside, y - t["teeth"] * t["mouth_open"])
    s.paint(np.array([0.93, 0.91, 0.86], np.float32)[:, None, None], s.cover(teeth))
    line = np.maximum(np.abs(y) - 0.012, ends)
    closed = np.clip(1 - t["mouth_open"] * 25, 0, 1)
    s.paint(t["lips"] * 0.4, s.cover(line) * closed)
    corner = np.hypot(ends, y) - 0.018
    s.paint(t["skin"] * 0.5, s.cover(corner) * 0.7)


def _beard(s: Scene, x: Array) -> None:
    t = s.t
    line = t["mouth_y"] + 0.08 - t["beard_rise"] * np.square(s.X)
    whiskers = 0.85 + 0.15 * np.sin(90 * s.X + 10 * np.sin(9 * s.Y))
    dx, dy = s.X / (t["mouth_width"] + 0.05), (s.Y - t["mouth_y"]) / 0.11
    lips = np.clip(3 * (np.square(dx) + np.square(dy) - 1), 0, 1)
    area = np.clip((s.Y - line) / 0.06, 0, 1) * s.cover(x - t["beard_width"]) * lips
    s.paint(t["beard_colour"], area * whiskers * t["beard"])
    middle = 0.5 * (t["nose_y"] + 0.06 + t["mouth_y"]) + 0.25 * np.square(s.X)
    bar = np.maximum(np.abs(s.Y - middle) - t["moustache_thick"], x - t["moustache_width"])
    s.paint(t["beard_colour"], s.cover(bar) * whiskers * t["moustache"])


def _light(s: Scene) -> Array:
    t = s.t
    step = 2 / s.rgb.shape[-1]
    gy, gx = np.gradient(s.relief, step, axis=(1, 2))
    gx, gy = np.clip(gx, -3, 3), np.clip(gy, -3, 3)
    facing = t["light_z"] - gx * t["light_x"] - gy * t["light_y"]
    facing /= np.sqrt(1 + np.square(gx) + np.square(gy))
    shade: Array = t["ambient"] + (1 - t["ambient"]) * np.maximum(facing, 0) * 1.25
    return shade
