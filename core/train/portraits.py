"""The portrait of a person, drawn from back to front.

Drawing coordinates have the image's half width as unit, x to the right, y down, (0, 0) in the middle, so a face looks the same at
every size. Shapes are signed distances (negative inside) whose edges fade over one pixel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .lively import DRIFT
from .people import Colour, Field, Identity, Motion, Wall

# --- 1. Drawing tools -------------------------------------------------------------------------------------------------------------


def _ellipse(x: Field, y: Field, rx: float | Field, ry: float | Field) -> Field:
    """Signed distance to an ellipse around the origin, first-order accurate at the edge."""
    ux, uy = x / rx, y / ry
    near = ux * ux + uy * uy
    ux /= rx
    uy /= ry
    ux *= ux
    uy *= uy
    slope = ux + uy
    np.sqrt(slope, out=slope)
    slope += 1e-6
    root = np.sqrt(near)
    near -= root
    near /= slope
    return near


def _mix(a: Colour, b: Colour, t: float) -> Colour:
    return (a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, a[2] + (b[2] - a[2]) * t)


def _dim(a: Colour, t: float) -> Colour:
    """Darker for t < 1, lighter (towards white) for t > 1."""
    return (a[0] * t, a[1] * t, a[2] * t) if t <= 1.0 else _mix(a, (1.0, 1.0, 1.0), t - 1.0)


Box = tuple[slice, slice]


class _Canvas:
    """Planes [3, T, H, W] in 0..1 and the coordinates of their pixel centres: x, y [1, H, W]."""

    def __init__(self, frames: int, size: int) -> None:
        self.size = size
        self.scale = size / 2.0
        centres = np.asarray((np.arange(size) + 0.5) / self.scale - 1.0, np.float32)
        self.x = np.broadcast_to(centres[None, None, :], (1, size, size))
        self.y = np.broadcast_to(centres[None, :, None], (1, size, size))
        self.planes = np.zeros((3, frames, size, size), np.float32)

    def box(self, x0: float, y0: float, x1: float, y1: float) -> Box:
        """Rows and columns that cover a rectangle given in drawing units."""

        def span(low: float, high: float) -> slice:
            first = int(np.floor((low + 1.0) * self.scale)) - 1
            last = int(np.ceil((high + 1.0) * self.scale)) + 1
            return slice(min(max(first, 0), self.size - 1), max(min(last, self.size), 1))

        return span(y0, y1), span(x0, x1)

    def cover(self, distance: Field, softness: float = 0.0) -> Field:
        """Coverage 0..1 of a shape: an edge one pixel wide, or `softness` drawing units wide."""
        width = max(1.0 / self.scale, softness)
        alpha = distance * (-1.0 / width)
        alpha += 0.5
        return np.clip(alpha, 0.0, 1.0, out=alpha)

    def paint(self, box: Box, alpha: Field, colour: Colour) -> None:
        for plane, value in zip(self.planes, colour, strict=True):
            area = plane[:, box[0], box[1]]
            area += alpha * (value - area)

    def frames(self) -> NDArray[np.uint8]:
        pixels = np.clip(self.planes * 255.0 + 0.5, 0.0, 255.0).astype(np.uint8)
        return np.ascontiguousarray(pixels.transpose(1, 2, 3, 0))


# --- 2. The portrait, from back to front ------------------------------------------------------------------------------------------

_EYE_Y = -0.085
_MOUTH_Y = 0.305
_PIVOT_Y = 0.75  # the head tilts around the base of the neck
_ROLL = 0.13  # radians at full tilt


def _static(who: Identity, size: int, wall: Wall | None = None) -> Field:
    """Background and shoulders: planes [3, 1, H, W], or [3, T, H, W] before a wall on which things move."""
    canvas = _Canvas(1 if wall is None else len(wall.discs), size)
    everything = canvas.box(-1, -1, 1, 1)
    x, y = canvas.x, canvas.y
    light, deep = who.background
    ramp = np.clip(0.5 + 0.45 * y + 0.12 * x * who.light, 0.0, 1.0) * np.ones_like(x)
    canvas.paint(everything, np.ones_like(ramp), light)
    canvas.paint(everything, ramp, deep)
    bright, dark = _dim(light, 1.45), _dim(deep, 0.85)
    if wall is not None:
        for index, shade in enumerate((_dim(light, 1.7), _dim(deep, 0.6))):
            at_x, at_y, strength = (_column(track) for track in wall.lights[:, index].T)
            glow = canvas.cover(np.hypot(x - at_x, y - at_y) - 0.45, 0.9)
            canvas.paint(everything, glow * strength, shade)
    for index, (cx, cy, radius) in enumerate(who.discs):
        still = (0.0, 0.0, 1.0)
        right, down, swell = still if wall is None else (_column(track) for track in wall.discs[:, index].T)
        disc = canvas.cover(np.hypot(x - (cx + right), y - (cy + down)) - radius * swell, 0.02)
        canvas.paint(everything, disc * 0.22, bright if index % 2 == 0 else dark)
    _clothes(canvas, everything, who)
    return canvas.planes


def _clothes(canvas: _Canvas, everything: Box, who: Identity) -> None:
    """Shoulders with a collar, and the neck with the shadow of the head."""
    x, y = canvas.x, canvas.y
    neck_width = 0.20 if who.subject != "man" else 0.25
    neck = np.maximum(np.abs(x) - neck_width - 0.25 * np.maximum(y - 0.72, 0.0), 0.3 - y)
    shoulders = _ellipse(x, y - 1.22, 0.86 if who.subject != "child" else 0.74, 0.50)
    body = canvas.cover(shoulders)
    shade = np.clip(0.5 - 0.55 * x * who.light, 0.0, 1.0)
    canvas.paint(everything, body, who.clothes)
    canvas.paint(everything, body * (0.35 * shade), _dim(who.clothes, 0.55))
    if who.collar == "stripe":
        band = np.abs(np.mod(np.hypot(x, y - 0.45) - 0.42, 0.16) - 0.08) - 0.04
        canvas.paint(everything, body * canvas.cover(band), _dim(who.clothes, 1.5))
    depth = {"round": 0.12, "stripe": 0.10, "vee": 0.0, "shirt": 0.0}[who.collar]
    opening: Field
    if who.collar in ("vee", "shirt"):
        opening = (np.abs(x) * 0.9 + (y - 0.66) * 0.62) - 0.19
    else:
        opening = _ellipse(x, y - 0.70, 0.30, 0.10 + depth)
    rim = canvas.cover(opening - 0.035)
    canvas.paint(everything, rim * body, _dim(who.clothes, 0.72 if who.collar != "shirt" else 1.75))
    bare = canvas.cover(neck)
    skin = np.maximum(bare * (1.0 - body), np.maximum(bare, body) * canvas.cover(opening))
    canvas.paint(everything, skin, _dim(who.skin, 0.93))
    canvas.paint(everything, skin * canvas.cover(_ellipse(x, y - 0.52, 0.42, 0.26), 0.12) * 0.65, _dim(who.skin, 0.68))


@dataclass(frozen=True)
class _Pose:
    """Coordinates of every pixel in the head's own frame, [T, H, W], and per-frame values as [T, 1, 1]."""

    x: Field
    y: Field
    yaw: Field
    pitch: Field

    def shifted(self, box: Box, by_yaw: float, by_pitch: float, cx: float = 0.0, cy: float = 0.0) -> tuple[Field, Field]:
        """Coordinates around (cx, cy) inside `box`, for something that moves with the turning head by these amounts."""
        return (
            self.x[:, box[0], box[1]] - (by_yaw * self.yaw + cx),
            self.y[:, box[0], box[1]] - (by_pitch * self.pitch + cy),
        )


def _column(track: Field) -> Field:
    """[T] -> [T, 1, 1]"""
    return track[:, None, None]


def _pose(canvas: _Canvas, motion: Motion) -> _Pose:
    yaw, pitch, angle = _column(motion.yaw), _column(motion.pitch), _column(motion.roll) * _ROLL
    cos, sin = np.cos(angle), np.sin(angle)
    x, y = canvas.x, canvas.y - _PIVOT_Y
    head_x = cos * x + sin * y - 0.05 * yaw
    head_y = cos * y - sin * x + _PIVOT_Y - 0.05 * pitch
    return _Pose(head_x, head_y, yaw, pitch)


def _mane(x: Field, y: Field, who: Identity) -> Field:
    """Outline of long hair and of a bob, around the head's centre."""
    wide = who.face_width
    if who.hair_style == "bob":
        bowl: Field = np.maximum(_ellipse(x, y + 0.03, wide + 0.15, 0.71), y - 0.40 + 0.25 * x * x)
        return bowl
    # Below the crown it falls in a curtain with rounded ends.
    dx, dy = np.abs(x) - (wide + 0.085 + 0.05 * y) + 0.18, y - 0.86 + 0.18
    falls = np.hypot(np.maximum(dx, 0.0), np.maximum(dy, 0.0)) + np.minimum(np.maximum(dx, dy), 0.0) - 0.18
    outline: Field = np.minimum(_ellipse(x, y + 0.10, wide + 0.09, 0.66), np.maximum(falls, -0.10 - y))
    return outline


def _hair_back(canvas: _Canvas, pose: _Pose, who: Identity) -> None:
    everything = canvas.box(-1, -1, 1, 1)
    x, y = pose.shifted(everything, -0.04, -0.03)
    wide = who.face_width
    dark = _dim(who.hair_colour, 0.68)
    style = who.hair_style
    if style in ("long", "bob"):
        # It hangs behind the neck, which stays visible.
        shape = np.maximum(_mane(x, y, who), np.minimum(0.19 - np.abs(x), y - 0.4))
    elif style == "bun":
        shape = _ellipse(x, y + 0.76, 0.25, 0.23)
    elif style == "ponytail":
        side = float(np.sign(who.fringe))
        shape = _ellipse(x * side - 0.66, y + 0.02 + 0.25 * x * side, 0.20, 0.46)
    elif style == "curly":
        wobble = 0.035 * np.sin(9.0 * np.arctan2(x, 0.12 - y))
        shape = _ellipse(x, y + 0.20, wide + 0.21, 0.68) + wobble
    else:
        return
    alpha = canvas.cover(shape)
    canvas.paint(everything, alpha, dark)
    if style in ("curly", "bun", "ponytail"):
        sheen = canvas.cover(shape + 0.09, 0.14) * 0.6
        canvas.paint(everything, sheen, who.hair_colour)


def _head(canvas: _Canvas, pose: _Pose, who: Identity, opening: Field) -> None:
    wide = who.face_width
    shadow = _dim(who.skin, 0.72)
    for side in (-1.0, 1.0) if who.hair_style not in ("long", "bob") else ():
        centre = side * (wide + 0.015)
        box = canvas.box(centre - 0.30, -0.40, centre + 0.30, 0.42)
        x, y = pose.shifted(box, -0.055, -0.035, centre, 0.02)
        canvas.paint(box, canvas.cover(_ellipse(x, y, 0.105, 0.15)), _dim(who.skin, 0.96))
        canvas.paint(box, canvas.cover(_ellipse(x - side * 0.005, y, 0.055, 0.095), 0.05) * 0.6, shadow)
        if who.earrings:
            canvas.paint(box, canvas.cover(_ellipse(x, y - 0.18, 0.04, 0.04)), (0.98, 0.84, 0.42))
    box = canvas.box(-0.80, -0.95, 0.80, 0.92)
    x, y = pose.shifted(box, 0.0, 0.0, 0.0, -0.03)
    # The jaw narrows downwards and drops a little with the mouth.
    tapered = x / (1.0 - who.jaw * np.clip(y, -0.2, 1.0))
    tall = np.where(y > 0, 0.655 + 0.055 * opening, 0.66)
    alpha = canvas.cover(_ellipse(tapered, y, wide, tall))
    canvas.paint(box, alpha, who.skin)
    turned = x - 0.10 * pose.yaw
    side_light = np.clip(0.30 - 0.95 * who.light * turned + 0.18 * y, 0.0, 1.0) ** 2
    canvas.paint(box, alpha * (0.75 * side_light), _dim(who.skin, 0.70))
    glow = canvas.cover(_ellipse(turned - 0.20 * who.light, y + 0.20, 0.34, 0.36), 0.5) * 0.35
    canvas.paint(box, alpha * glow, _dim(who.skin, 1.35))


def _blush(canvas: _Canvas, pose: _Pose, who: Identity) -> None:
    tint = _mix(who.skin, (0.93, 0.34, 0.33), 0.55)
    strength = {"woman": 0.55, "man": 0.28, "child": 0.7}[who.subject]
    for side in (-1.0, 1.0):
        box = canvas.box(side * 0.34 - 0.42, -0.15, side * 0.34 + 0.42, 0.55)
        x, y = pose.shifted(box, 0.12, 0.08, side * 0.345, 0.17)
        canvas.paint(box, canvas.cover(_ellipse(x, y, 0.105, 0.08), 0.14) * strength, tint)


def _eyes(canvas: _Canvas, pose: _Pose, who: Identity, motion: Motion) -> None:
    lid, gaze, raised, smile = (_column(track) for track in (motion.eyes, motion.gaze, motion.brows, motion.smile))
    big = who.eye_size
    lash = (0.16, 0.11, 0.11)
    brow = _dim(who.hair_colour, 0.62) if who.hair != "black" else _dim(who.hair_colour, 0.9)
    if who.hair in ("blond", "grey"):
        brow = _mix(brow, (0.35, 0.25, 0.2), 0.45)
    tall = 0.132 * big * np.maximum(lid * (1.0 - 0.12 * smile) * (1.0 + 0.10 * raised), 0.06)
    for side in (-1.0, 1.0):
        box = canvas.box(side * who.eye_gap - 0.42, -0.58, side * who.eye_gap + 0.42, 0.34)
        x, y = pose.shifted(box, 0.125, 0.085, side * who.eye_gap, _EYE_Y)
        # A closing lid meets the lower lid.
        y = y - 0.055 * (1.0 - lid)
        white = canvas.cover(_ellipse(x, y, 0.142 * big, tall))
        # Lid and lashes: a dark shape that shows above the white.
        canvas.paint(box, canvas.cover(_ellipse(x, y + 0.028, 0.158 * big, tall + 0.014)), lash)
        canvas.paint(box, white, (0.985, 0.985, 0.98))
        look_x = x - 0.045 * gaze
        look_y = y - 0.035 * pose.pitch * lid
        iris = canvas.cover(_ellipse(look_x, look_y, 0.106 * big, 0.110 * big))
        canvas.paint(box, iris * white, who.eye_colour)
        ring = canvas.cover(_ellipse(look_x, look_y - 0.045, 0.062 * big, 0.045 * big), 0.05)
        canvas.paint(box, ring * white * 0.7, _dim(who.eye_colour, 1.35))
        canvas.paint(box, canvas.cover(_ellipse(look_x, look_y, 0.056 * big, 0.060 * big)) * white, (0.05, 0.04, 0.05))
        spark = canvas.cover(_ellipse(look_x - 0.035, look_y + 0.042, 0.036, 0.036))
        canvas.paint(box, spark * white, (1.0, 1.0, 1.0))
        # Brow: an arc, lower at its ends.
        bx, by = pose.shifted(box, 0.125, 0.085, side * who.eye_gap, _EYE_Y - 0.215)
        by = by + 0.075 * raised
        arc = by - 0.9 * bx * bx - side * who.brow_tilt * bx
        thick = 0.036 if who.subject == "man" else 0.027
        ends = np.maximum(np.abs(bx) - 0.115, 0.0)
        canvas.paint(box, canvas.cover(np.sqrt(arc * arc + ends * ends) - thick), brow)


def _nose(canvas: _Canvas, pose: _Pose, who: Identity) -> None:
    box = canvas.box(-0.42, -0.20, 0.42, 0.38)
    x, y = pose.shifted(box, 0.175, 0.10, 0.0, 0.105)
    canvas.paint(box, canvas.cover(_ellipse(x, y - 0.022, 0.078, 0.042), 0.045) * 0.8, _dim(who.skin, 0.70))
    canvas.paint(box, canvas.cover(_ellipse(x, y + 0.005, 0.062, 0.045), 0.03), _dim(who.skin, 0.985))
    bright = canvas.cover(_ellipse(x - 0.018 * who.light, y + 0.02, 0.024, 0.03), 0.04)
    canvas.paint(box, bright * 0.6, _dim(who.skin, 1.5))


def _mouth_extent(who: Identity, motion: Motion) -> tuple[float, float, float, float]:
    """The rectangle (x0, y0, x1, y1) in drawing units that holds the lips through all frames."""
    cx = (0.05 + 0.13) * motion.yaw
    cy = _MOUTH_Y + (0.05 + 0.09) * motion.pitch
    angle = motion.roll * _ROLL
    px = cx * np.cos(angle) - (cy - _PIVOT_Y) * np.sin(angle)
    py = cx * np.sin(angle) + (cy - _PIVOT_Y) * np.cos(angle) + _PIVOT_Y
    half = who.mouth_width + 0.03 + 0.03 * float(motion.smile.max())
    return (
        float(px.min()) - half,
        float(py.min()) - 0.145 - 0.04 * float(np.abs(motion.roll).max()),
        float(px.max()) + half,
        float(py.max()) + 0.320 + 0.04 * float(np.abs(motion.roll).max()),
    )


def _mouth(canvas: _Canvas, pose: _Pose, who: Identity, motion: Motion) -> None:
    box = canvas.box(*_mouth_extent(who, motion))
    opening, smile = _column(motion.opening), _column(motion.smile)
    rounded = _column(motion.rounding) * opening
    x, y = pose.shifted(box, 0.13, 0.09, 0.0, _MOUTH_Y)
    half = who.mouth_width * (1.0 - 0.28 * rounded - 0.08 * opening + 0.08 * smile)
    x2 = x * x
    inner = 1.0 - np.minimum(x2 / (half * half), 1.0)
    outer = 1.0 - np.minimum(x2 / (half + 0.024) ** 2, 1.0)
    arch, arch_lips = np.sqrt(inner), np.sqrt(outer)
    # Corners rise with a smile; a resting mouth smiles a little.
    centre = (0.030 + 0.060 * smile) * (inner - 0.55)
    up, low = 0.075 * opening, 0.230 * opening * (0.75 + 0.25 * inner)
    slope = 1.0 + 1.1 * opening * (1.0 - inner)
    gap = np.maximum(centre - up * arch - y, y - centre - low * arch) / slope - 0.009
    hole = canvas.cover(np.maximum(gap, np.abs(x) - half))
    # The upper lip has a bow; both thin out towards the corners.
    bow = 0.050 - 0.010 * np.exp(-400.0 * x2)
    lip = np.maximum(centre - (up + bow) * arch_lips - y, y - centre - (low + 0.064) * arch_lips) / slope
    lips = canvas.cover(np.maximum(lip, np.abs(x) - half - 0.024))
    up, low = up * arch, low * arch
    # 1. Lips, the lower one catching light. 2. Dark interior. 3. Tongue and teeth inside it.
    canvas.paint(box, lips, who.lips)
    shine = canvas.cover(_ellipse(x, y - centre - low - 0.03, 0.10, 0.014), 0.03)
    canvas.paint(box, lips * shine * 0.45, _dim(who.lips, 1.4))
    canvas.paint(box, hole, (0.22, 0.05, 0.07))
    tongue = _ellipse(x, y - centre - low - 0.02, 0.60 * half, 0.10 * opening + 0.01)
    canvas.paint(box, canvas.cover(tongue) * hole * np.clip(opening * 2.0 - 0.3, 0.0, 1.0), (0.82, 0.34, 0.35))
    teeth = np.maximum(y - centre + up - 0.060 * np.minimum(opening * 1.6, 1.0), np.abs(x) - 0.80 * half)
    canvas.paint(box, canvas.cover(teeth) * hole * np.clip(opening * 10.0 - 1.6, 0.0, 1.0), (0.97, 0.96, 0.93))


def _hair_front(canvas: _Canvas, pose: _Pose, who: Identity) -> None:
    box = canvas.box(-1.0, -1.0, 1.0, 1.0 if who.hair_style in ("long", "bob") else 0.35)
    x, y = pose.shifted(box, 0.0, 0.0, 0.0, -0.03)
    wide, style = who.face_width, who.hair_style
    turned, tipped = x - 0.10 * pose.yaw, y - 0.07 * pose.pitch
    cap = _ellipse(x, y + 0.05, wide + 0.065, 0.70)
    # The face shows through a cut-out below the hairline; the second, centred one keeps the sides free, so that sideburns taper.
    sides = _ellipse(turned, tipped - 0.36, wide + 0.01, 0.62)
    if style == "long":
        cap = _mane(x, y, who)
        sides = _ellipse(turned, tipped - 0.42, wide - 0.05, 0.86)
        cut = np.minimum(_ellipse(turned - 0.16 * who.fringe, tipped - 0.16, wide - 0.06, 0.62), sides)
    elif style == "bob":
        cap = _mane(x, y, who)
        cut = np.maximum(_ellipse(turned, tipped - 0.42, wide - 0.03, 0.92), -0.315 - tipped + 0.12 * turned * turned)
    elif style == "parted":
        cut = np.minimum(_ellipse(turned - 0.15 * who.fringe, tipped - 0.22, wide - 0.03, 0.66), sides)
    elif style == "spiky":
        wave = np.abs(np.mod(turned * 4.2 + 0.3 * who.fringe, 1.0) - 0.5)
        cut = np.minimum(_ellipse(turned, tipped - 0.22, wide + 0.01, 0.72) + 0.24 * (wave - 0.25), sides)
        cap = cap - 0.10 * np.clip(-y - 0.2, 0.0, 0.5) * (1.0 + np.cos(x * 24.0))
    elif style == "curly":
        cut = np.minimum(_ellipse(turned, tipped - 0.20, wide - 0.02, 0.62) + 0.03 * np.cos(turned * 22.0), sides + 0.04)
        cap = cap - 0.04 + 0.025 * np.sin(9.0 * np.arctan2(x, 0.12 - y))
    elif style == "buzz":
        cut = np.minimum(_ellipse(turned, tipped - 0.20, wide - 0.01, 0.68), sides + 0.02)
        cap = _ellipse(x, y + 0.02, wide + 0.022, 0.68)
    else:
        cut = np.minimum(_ellipse(turned - 0.07 * who.fringe, tipped - 0.22, wide - 0.02, 0.66), sides)
    # Short hair ends at the ears, in sideburns that taper outwards.
    end = y - 0.05 - 2.2 * (np.maximum(np.abs(x), wide - 0.15) - wide)
    shape = np.maximum(cap, -cut)
    shadow = np.maximum(cap + 0.07, -(cut + 0.05))
    if style not in ("long", "bob"):
        shape, shadow = np.maximum(shape, end), np.maximum(shadow, end - 0.06)
    else:
        shadow = np.maximum(shadow, y - 0.15)
    alpha = canvas.cover(shape)
    # A soft shadow on the forehead under the hair.
    fall = canvas.cover(shadow, 0.05)
    canvas.paint(box, fall * (0.45 if style != "buzz" else 0.2), _dim(who.skin, 0.62))
    canvas.paint(box, alpha, who.hair_colour)
    sheen = canvas.cover(np.abs(_ellipse(x - 0.1 * who.light, y - 0.08, wide + 0.02, 0.70)) - 0.02, 0.10)
    side = np.clip(0.45 + who.light * x * 1.2, 0.0, 1.0)
    canvas.paint(box, alpha * sheen * (0.5 * side), _dim(who.hair_colour, 1.32))
    canvas.paint(box, alpha * (0.55 * (1.0 - side)), _dim(who.hair_colour, 0.66))


def _spectacles(canvas: _Canvas, pose: _Pose, who: Identity) -> None:
    frame = (0.13, 0.13, 0.17) if sum(who.skin) > 1.2 else (0.93, 0.80, 0.45)
    box = canvas.box(-0.80, -0.55, 0.80, 0.40)
    x, y = pose.shifted(box, 0.13, 0.085, 0.0, _EYE_Y + 0.012)
    lens = np.minimum(_ellipse(x - who.eye_gap, y, 0.205, 0.195), _ellipse(x + who.eye_gap, y, 0.205, 0.195))
    canvas.paint(box, canvas.cover(lens) * 0.10, (1.0, 1.0, 1.0))
    canvas.paint(box, canvas.cover(np.abs(lens) - 0.017), frame)
    arms = np.maximum(np.abs(y + 0.03) - 0.014, np.maximum(who.eye_gap + 0.2 - np.abs(x), np.abs(x) - 0.58))
    bridge = np.maximum(np.abs(y + 0.03) - 0.016, np.abs(x) - (who.eye_gap - 0.2))
    canvas.paint(box, canvas.cover(np.minimum(arms, bridge)), frame)


def render(who: Identity, motion: Motion, size: int = 64, wall: Wall | None = None) -> NDArray[np.uint8]:
    """Draws the person, before a wall that is still or moves: uint8 [T, size, size, 3].

    Raises:
        InputError: `size` is below 16.
    """
    if size < 16:
        raise InputError(f"size is {size}; a face needs at least 16 pixels.")
    still = _static(who, size) if wall is None else None
    step = max(1, 40_000 // (size * size))  # frames at a time, so that planes stay in the processor's cache
    parts = []
    for start in range(0, motion.frames, step):
        part = motion.part(start, start + step)
        canvas = _Canvas(part.frames, size)
        canvas.planes[:] = _static(who, size, wall.part(start, start + step)) if wall is not None else still
        pose = _pose(canvas, part)
        _hair_back(canvas, pose, who)
        _head(canvas, pose, who, _column(part.opening))
        _blush(canvas, pose, who)
        _mouth(canvas, pose, who, part)
        _nose(canvas, pose, who)
        _eyes(canvas, pose, who, part)
        _hair_front(canvas, pose, who)
        if who.glasses:
            _spectacles(canvas, pose, who)
        parts.append(canvas.frames())
    return np.concatenate(parts)


def mouth_box(who: Identity, motion: Motion, size: int) -> tuple[int, int, int, int]:
    """(y0, y1, x0, x1) in pixels, end exclusive: the rectangle that holds the lips in every frame."""
    x0, y0, x1, y1 = _mouth_extent(who, motion)
    low = [int(np.clip(np.floor((v + 1.0) * size / 2), 0, size - 1)) for v in (y0, x0)]
    high = [int(np.clip(np.ceil((v + 1.0) * size / 2), 1, size)) for v in (y1, x1)]
    return low[0], high[0], low[1], high[1]


@dataclass(frozen=True)
class Regions:
    """Where things are in a person's pictures, for metrics.

    `background` is bool [H, W]: background and shoulders that the head never reaches, whatever the prompt, with a margin;
    `shoulders`: the part of it that hides the wall, which stays in the lively world too. `head` is bool [H, W]: what head and hair
    cover at rest. The points are (y, x) in pixels at rest, as in a clip's first frame.
    """

    background: NDArray[np.bool_]
    shoulders: NDArray[np.bool_]
    head: NDArray[np.bool_]
    left_eye: tuple[float, float]
    right_eye: tuple[float, float]
    mouth: tuple[float, float]


def regions(who: Identity, size: int = 64, world: str = "calm") -> Regions:
    """The regions of a person's pictures, by drawing every pose of the grammar: full turns, nods and tilts, mouth shut and open; of
    the lively world with what a head strays to all sides.

    Raises:
        InputError: `size` is below 16.
    """
    sweep, half = np.linspace(-1.0, 1.0, 9), np.linspace(0.0, 1.0, 5)
    poses = np.zeros((2 * (9 + 9 + 5), 4), np.float32)  # yaw, pitch, roll, opening
    poses[:9, 0], poses[9:18, 2], poses[18:23, 1] = sweep, sweep, half
    poses[23:, :3], poses[23:, 3] = poses[:23, :3], 1.0
    if world == "lively":
        strays = [(*corner, 0.0) for corner in product((-DRIFT, DRIFT), repeat=3)]
        poses = np.concatenate([poses, *(np.clip(poses[::2] + np.asarray(stray, np.float32), -1.0, 1.0) for stray in strays)])
    yaw, pitch, roll, opening = np.ascontiguousarray(poses.T)
    none = np.zeros(len(poses), np.float32)
    motion = Motion(yaw, pitch, roll, none, none, none + 1.0, none, opening, none)
    drawn = render(who, motion, size)
    still = _Canvas(1, size)
    still.planes[:] = _static(who, size)
    covered = (drawn != still.frames()).any(axis=-1)
    reached = covered.any(axis=0)
    for _ in range(max(1, size // 32)):  # the margin: one pixel a round, to all sides
        wide = np.pad(reached, 1)
        reached = wide[1:-1, 1:-1] | wide[:-2, 1:-1] | wide[2:, 1:-1] | wide[1:-1, :-2] | wide[1:-1, 2:]

    walls = [_static(replace(who, background=(shade, shade), discs=()), size) for shade in ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))]

    def pixel(y: float, x: float) -> tuple[float, float]:
        return (y + 1.0) * size / 2 - 0.5, (x + 1.0) * size / 2 - 0.5

    return Regions(
        background=~reached,
        shoulders=~reached & (walls[0] == walls[1]).all(axis=(0, 1)),
        head=covered[4],
        left_eye=pixel(_EYE_Y, -who.eye_gap),
        right_eye=pixel(_EYE_Y, who.eye_gap),
        mouth=pixel(_MOUTH_Y, 0.0),
    )
