"""The lively world: what portrait, voice and prompt leave open.

In the calm world these three nearly determine a clip. Here eyes blink when they like, pupils wander and return, the head does what
the prompt says in its own time and as far as it likes, and light and shapes drift over the wall. Each has a random stream of its
own, which depends on nothing but a seed, and begins where the portrait is: the first frame is the calm world's, bit for bit. A
longer clip begins as a shorter one does.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .people import HEAD_ACTIONS, Floats, Motion, Wall

BLINKS, GAZE, HEAD, WALL = 5, 6, 7, 8  # the second number of each stream's seed
DRIFT = 0.12
"""How far a head strays from what the prompt asks, in full turns, nods and tilts."""
Span = tuple[float, float]


def draw_lively(seed: int, head_action: str, motion: Motion, gaze: float, fps: int) -> Motion:
    """The motion of a calm clip with blinks, gaze and head of their own; `gaze`: where the eyes begin. Smile, brows, opening and
    rounding stay."""
    time = np.arange(motion.frames) / fps
    yaw, pitch, roll = _head(np.random.default_rng([seed, HEAD]), head_action, time)
    return Motion(
        yaw=yaw, pitch=pitch, roll=roll, smile=motion.smile, brows=motion.brows,
        eyes=_blinks(np.random.default_rng([seed, BLINKS]), time), gaze=_gaze(np.random.default_rng([seed, GAZE]), gaze, time),
        opening=motion.opening, rounding=motion.rounding,
    )  # fmt: skip


def draw_wall(seed: int, frames: int, fps: int) -> Wall:
    """What drifts behind a person."""
    rng, time = np.random.default_rng([seed, WALL]), np.arange(frames) / fps
    discs = [np.stack([wander(rng, time, 0.9), wander(rng, time, 0.9), 1.0 + wander(rng, time, 0.3)], -1) for _ in range(3)]
    lights = []
    for _ in range(2):
        x, y, strength = rng.choice((-1.0, 1.0)) * rng.uniform(0.5, 1.0), rng.uniform(-0.9, 0.3), rng.uniform(0.55, 0.85)
        fade = strength * (1.0 - np.exp(-time / rng.uniform(0.1, 0.3)))
        lights.append(np.stack([x + wander(rng, time, 0.9), y + wander(rng, time, 0.9), fade], -1))
    return Wall(discs=_track(np.stack(discs, 1)), lights=_track(np.stack(lights, 1)))


def wander(rng: np.random.Generator, time: NDArray[np.floating], reach: float) -> NDArray[np.float64]:
    """A smooth way from 0 that stays within `reach`: [T] for seconds [T]."""
    path = np.zeros(len(time))
    for share, slow, fast in ((0.35, 0.15, 0.45), (0.15, 0.5, 1.0)):
        phase, hertz = rng.uniform(0.0, 2.0 * np.pi), rng.uniform(slow, fast)
        path += share * (np.sin(2.0 * np.pi * hertz * time + phase) - np.sin(phase))
    return np.asarray(reach * path, np.float64)


def _track(values: NDArray[np.floating]) -> Floats:
    return np.ascontiguousarray(values, np.float32)


def _eased(part: NDArray[np.floating]) -> NDArray[np.floating]:
    part = np.clip(part, 0.0, 1.0)
    return np.asarray(part * part * (3.0 - 2.0 * part))


def _blinks(rng: np.random.Generator, time: NDArray[np.floating]) -> Floats:
    """Eyes [T] from 1 (open) to 0, shut for two frames or three at moments that do not remember each other."""
    eyes, at = np.ones(len(time)), 0.2 + rng.exponential(0.7)
    while at < time[-1] + 0.2:
        eyes = np.minimum(eyes, np.clip(np.abs(time - at) / rng.uniform(0.045, 0.06) - 0.25, 0.0, 1.0))
        at += 0.45 + rng.exponential(0.8)
    return _track(eyes)


def _gaze(rng: np.random.Generator, start: float, time: NDArray[np.floating]) -> Floats:
    """Pupils [T] that leap aside, rest, and come back to where they began more often than not."""
    gaze, place, at = np.full(len(time), start), start, rng.uniform(0.08, 0.5)
    while at < time[-1]:
        back, aside = rng.random() < 0.6, rng.uniform(-1.1, 1.1)
        goal = start if back and place != start else aside
        gaze += (goal - place) * _eased((time - at) / 0.09)
        place, at = goal, at + rng.uniform(0.2, 0.7)
    return _track(gaze)


def _head(rng: np.random.Generator, action: str, time: NDArray[np.floating]) -> tuple[Floats, Floats, Floats]:
    """Yaw, pitch and roll [T]: the action again and again, each time with its own reach and tempo, and a little drift."""
    yaw, pitch, roll = HEAD_ACTIONS[action]
    strays = [wander(rng, time, DRIFT) for _ in range(3)]
    if pitch:
        acted = _again(rng, time, rise=(0.22, 0.42), hold=(0.0, 0.08), rest=(0.0, 0.15))
    else:
        acted = _again(rng, time, rise=(0.2, 0.5), hold=(0.35, 1.2), rest=(0.2, 0.8))
    one, two, three = (_track(np.clip(way * acted + s, -1.0, 1.0)) for way, s in zip((yaw, pitch, roll), strays, strict=True))
    return one, two, three


def _again(rng: np.random.Generator, time: NDArray[np.floating], rise: Span, hold: Span, rest: Span) -> NDArray[np.floating]:
    """Eased rises and returns [T], 0 to 1, every one as quick, as long and as high as it happens to be."""
    value, at = np.zeros(len(time)), rng.uniform(0.0, 0.25)
    while at <= time[-1]:
        quick, held, pause, height = rng.uniform(*rise), rng.uniform(*hold), rng.uniform(*rest), rng.uniform(0.78, 1.0)
        up, down = (time - at) / quick, (time - at - quick - held) / quick
        value = np.maximum(value, height * _eased(np.minimum(up, 1.0 - down)))
        at += 2.0 * quick + held + pause
    return value
