"""Who a procedural talking head is, drawn at random: looks, the sentence that describes it, and how it moves with its voice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

Floats = NDArray[np.float32]
Field = NDArray[np.floating]
Colour = tuple[float, float, float]

# --- 1. What can be drawn: data ---------------------------------------------------------------------------------------------------


def _rgb(code: str) -> Colour:
    return (int(code[0:2], 16) / 255, int(code[2:4], 16) / 255, int(code[4:6], 16) / 255)


SUBJECTS = ("woman", "man", "child")
SKINS = ("ffe3d0", "fbd3b8", "f3c09c", "e8ad84", "d9976c", "c07f54", "a5673f", "8a5331", "774a2f", "633b26")
HAIR_COLOURS = {
    "black": "2b2629",
    "brown": "6b4028",
    "blond": "e9bf62",
    "red": "c8502a",
    "grey": "b9bdc4",
    "blue": "3f6fb5",
    "pink": "e37fa6",
}
HAIR_STYLES = {
    "woman": ("long", "bob", "bun", "curly", "ponytail", "parted"),
    "man": ("short", "parted", "spiky", "curly", "buzz"),
    "child": ("short", "bob", "bun", "curly", "spiky", "ponytail"),
}
EYE_COLOURS = ("4a2f22", "6e4526", "3d6e9e", "3f7f5c", "5b6b75", "2f241f")
CLOTHES = ("e4572e", "2e86ab", "f2b134", "3f9c78", "7a5ba6", "d95d86", "34495e", "f4efe6", "27839b", "b23a48")
COLLARS = ("round", "vee", "shirt", "stripe")
BACKGROUNDS = (
    ("f6d7c3", "e9a68d"), ("cfe8ef", "7fb7d1"), ("e5dcf5", "a997d6"), ("d9eed9", "86bfa0"), ("fbeac2", "eebd6a"),
    ("dfe5ec", "93a4b8"), ("f9d9e3", "d98ba8"), ("c9ece4", "5fb0a7"), ("3d4f73", "25314d"), ("46616b", "26393f"),
)  # fmt: skip

HEAD_ACTIONS: dict[str, tuple[float, float, float]] = {
    "stays still": (0.0, 0.0, 0.0),
    "nods": (0.0, 1.0, 0.0),
    "turns left": (-1.0, 0.0, 0.0),
    "turns right": (1.0, 0.0, 0.0),
    "tilts left": (0.0, 0.0, -1.0),
    "tilts right": (0.0, 0.0, 1.0),
}
"""What the head does: phrase -> (yaw, pitch, roll) directions."""

FACE_ACTIONS: dict[str, tuple[float, float]] = {"": (0.0, 0.0), "smiles": (1.0, 0.0), "raises brows": (0.0, 1.0)}
"""What the face does besides talking: phrase -> (smile, raised brows). The empty phrase is nothing."""


def prompt_text(subject: str, hair: str, glasses: bool, head_action: str, face_action: str) -> str:
    """One sentence of the grammar: "a SUBJECT with HAIR hair [and glasses] ACTION [and ACTION]", at most 64 characters.

    Raises:
        InputError: a word is not in the grammar.
    """
    choices = (
        ("subject", subject, SUBJECTS), ("hair colour", hair, HAIR_COLOURS),
        ("head action", head_action, HEAD_ACTIONS), ("face action", face_action, FACE_ACTIONS),
    )  # fmt: skip
    for what, word, known in choices:
        if word not in known:
            raise InputError(f"There is no {what} {word!r}. Choose from: {', '.join(w or repr(w) for w in known)}.")
    wears = " and glasses" if glasses else ""
    if head_action == "stays still" and face_action:
        action = face_action
    else:
        action = f"{head_action} and {face_action}" if face_action else head_action
    return f"a {subject} with {hair} hair{wears} {action}"


PROMPTS = tuple(
    prompt_text(subject, hair, glasses, head, face)
    for subject in SUBJECTS
    for hair in HAIR_COLOURS
    for glasses in (False, True)
    for head in HEAD_ACTIONS
    for face in FACE_ACTIONS
)
"""Every sentence that `draw_clip` can give as a prompt."""


@dataclass(frozen=True)
class Identity:
    """How one person looks. Colours are RGB in 0..1, lengths are in drawing units (half the image width)."""

    subject: str
    skin: Colour
    hair: str
    hair_colour: Colour
    hair_style: str
    eye_colour: Colour
    glasses: bool
    earrings: bool
    clothes: Colour
    collar: str
    background: tuple[Colour, Colour]
    lips: Colour
    light: float
    face_width: float
    jaw: float
    eye_gap: float
    eye_size: float
    brow_tilt: float
    mouth_width: float
    articulation: float
    fringe: float
    discs: tuple[tuple[float, float, float], ...]


def draw_identity(rng: np.random.Generator) -> Identity:
    """A person at random."""
    subject = str(rng.choice(SUBJECTS))
    tone = int(rng.integers(len(SKINS)))
    skin = np.asarray(_rgb(SKINS[tone])) * rng.uniform(0.97, 1.03)
    names = list(HAIR_COLOURS)
    weights = np.asarray([3, 3, 2.5, 2.5, 1.5, 1, 1]) if tone < 6 else np.asarray([5, 3, 1, 1.5, 1.5, 1, 1])
    hair = str(rng.choice(names, p=weights / weights.sum()))
    hair_colour = np.asarray(_rgb(HAIR_COLOURS[hair])) * rng.uniform(0.92, 1.06)
    lip_tint = np.asarray((0.78, 0.27, 0.30)) if subject == "woman" else np.asarray((0.72, 0.36, 0.33))
    lips = 0.40 * skin * np.asarray((0.95, 0.62, 0.62)) + 0.60 * lip_tint * (0.68 + 0.32 * float(skin.mean()))
    pair = BACKGROUNDS[int(rng.integers(len(BACKGROUNDS)))]
    child = subject == "child"

    def colour(values: NDArray[np.float64]) -> Colour:
        r, g, b = np.clip(values, 0.0, 1.0).tolist()
        return (r, g, b)

    return Identity(
        subject=subject,
        skin=colour(skin),
        hair=hair,
        hair_colour=colour(hair_colour),
        hair_style=str(rng.choice(HAIR_STYLES[subject])),
        eye_colour=_rgb(str(rng.choice(EYE_COLOURS))),
        glasses=bool(rng.random() < 0.28),
        earrings=bool(subject == "woman" and rng.random() < 0.4),
        clothes=_rgb(str(rng.choice(CLOTHES))),
        collar=str(rng.choice(COLLARS)),
        background=(_rgb(pair[0]), _rgb(pair[1])),
        lips=colour(lips),
        light=float(rng.choice([-1.0, 1.0]) * rng.uniform(0.6, 1.0)),
        face_width=float(rng.uniform(0.54, 0.60)),
        jaw=float(rng.uniform(0.10, 0.16) if child else rng.uniform(0.12, 0.26)),
        eye_gap=float(rng.uniform(0.225, 0.255)),
        eye_size=float(rng.uniform(1.08, 1.18) if child else rng.uniform(0.94, 1.08)),
        brow_tilt=float(rng.uniform(-0.12, 0.16)),
        mouth_width=float(rng.uniform(0.280, 0.310)),
        articulation=float(rng.uniform(0.9, 1.05)),
        fringe=float(rng.choice([-1.0, 1.0]) * rng.uniform(0.5, 1.0)),
        discs=tuple(
            (float(rng.uniform(-1.1, 1.1)), float(rng.uniform(-1.1, 0.7)), float(rng.uniform(0.2, 0.65))) for _ in range(3)
        ),
    )


# --- 2. What moves: one value per frame -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Motion:
    """Per frame, float32 [T] each. yaw, pitch and roll are in -1..1 (right, down, clockwise), the others in 0..1."""

    yaw: Floats
    pitch: Floats
    roll: Floats
    smile: Floats
    brows: Floats
    eyes: Floats
    gaze: Floats
    opening: Floats
    rounding: Floats

    @property
    def frames(self) -> int:
        return len(self.opening)

    def part(self, start: int, stop: int) -> Motion:
        return Motion(**{name: track[start:stop] for name, track in self.__dict__.items()})


@dataclass(frozen=True)
class Wall:
    """What moves behind a person, by frame: float32 `discs` [T, 3, 3], how far each has drifted right and down, and its size
    against the portrait's; `lights` [T, 2, 3], a light and a shade: x, y, strength 0..1. Lengths are in drawing units."""

    discs: Floats
    lights: Floats

    def part(self, start: int, stop: int) -> Wall:
        return Wall(self.discs[start:stop], self.lights[start:stop])


def mouth_opening(loudness: Floats, articulation: float = 1.0) -> Floats:
    """The mouth's opening, 0..1, for `voice.envelope` values: linear above a threshold, below which noise does not move it."""
    return np.asarray(np.clip((loudness - 0.06) / 0.94 * articulation, 0.0, 1.0), np.float32)


def _bumps(time: Field, start: float, rise: float, hold: float, rest: float) -> Floats:
    """Eased rise, hold, eased return and rest, repeated: 0..1."""
    period = 2 * rise + hold + rest
    phase = np.where(time < start, 0.0, np.mod(time - start, period))
    up = np.clip(phase / rise, 0.0, 1.0)
    down = np.clip((phase - rise - hold) / rise, 0.0, 1.0)
    value = np.minimum(up, 1.0 - down)
    return np.asarray(value * value * (3.0 - 2.0 * value), np.float32)


def draw_motion(
    rng: np.random.Generator, head_action: str, face_action: str, loudness: Floats, rounding: Floats, articulation: float, fps: int
) -> Motion:
    """The motion of a clip that follows its audio (`voice.envelope` and `voice.rounding` values) and its actions."""
    frames = len(loudness)
    time = np.arange(frames, dtype=np.float32) / fps
    yaw, pitch, roll = HEAD_ACTIONS[head_action]
    smile, brows = FACE_ACTIONS[face_action]
    turn = _bumps(time, rng.uniform(0.0, 0.12), rng.uniform(0.4, 0.6), rng.uniform(1.0, 1.4), rng.uniform(0.5, 0.9))
    nod = np.sin(np.pi * np.maximum(time - rng.uniform(0.0, 0.1), 0.0) * rng.uniform(1.3, 1.7)) ** 2
    face = _bumps(time, rng.uniform(0.0, 0.12), rng.uniform(0.3, 0.45), rng.uniform(1.2, 1.6), rng.uniform(0.6, 1.0))
    strength = rng.uniform(0.85, 1.0)
    blink = np.ones(frames)
    at = rng.uniform(0.2, 2.6)
    while at < frames / fps:
        blink = np.minimum(blink, np.clip(np.abs(time - at) / 0.1 - 0.25, 0.0, 1.0))
        at += rng.uniform(1.6, 3.6)
    gaze = 0.35 * np.sin(2 * np.pi * (rng.uniform(0.1, 0.25) * time + rng.uniform())) + 0.5 * yaw * turn

    def track(values: NDArray[np.floating]) -> Floats:
        return np.ascontiguousarray(values, np.float32)

    return Motion(
        yaw=track(yaw * strength * turn),
        pitch=track(pitch * strength * nod),
        roll=track(roll * strength * turn),
        smile=track(smile * face),
        brows=track(brows * face),
        eyes=track(blink),
        gaze=track(gaze),
        opening=mouth_opening(loudness, articulation),
        rounding=track(rounding),
    )
