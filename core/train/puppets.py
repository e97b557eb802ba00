"""The procedural talking heads: portraits drawn from a seed, whose mouths follow audio and whose heads follow a text prompt.

`draw_clip(seed)` is a pure function: identity, voice, prompt, blinks and motion all come from `np.random.default_rng(seed)`. Seeds
below `HELD_OUT_SEED` are for training; from there on identities and audio are for evaluation and for the demo portraits. Left and
right in prompts are the viewer's. There are two worlds with the same people, voices and prompts: in the `calm` one these nearly
determine a clip, the `lively` one (`lively.py`) leaves more open.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..metrics.voice import FPS, SAMPLE_RATE, envelope, rounding
from . import speech
from .lively import draw_lively, draw_wall
from .people import FACE_ACTIONS, HEAD_ACTIONS, Floats, Identity, Motion, draw_identity, draw_motion, prompt_text
from .portraits import mouth_box, render

HELD_OUT_SEED = 1_000_000
"""Seeds below are for training, seeds from here on for evaluation: no identity, audio or prompt draw is shared."""


WORLDS = ("calm", "lively")


@dataclass(frozen=True)
class PuppetClip:
    """One clip of the data set, and what it was made from.

    `frames` is uint8 [T, H, W, 3], `waveform` float32 [samples] in [-1, 1] at 16 kHz, `opening` float32 [T] in 0..1. `mouth_box` is
    (y0, y1, x0, x1) in pixels, end exclusive, and holds the lips in every frame.
    """

    seed: int
    frames: NDArray[np.uint8]
    waveform: Floats
    prompt: str
    opening: Floats
    mouth_box: tuple[int, int, int, int]
    identity: Identity
    head_action: str
    face_action: str
    motion: Motion = field(repr=False)
    fps: int = FPS
    sample_rate: int = SAMPLE_RATE
    world: str = "calm"


def draw_voice(seed: int, who: Identity, seconds: float) -> Floats:
    """The voice of `seed` for a person: float32 [samples] at 16 kHz."""
    voice = {"woman": "female", "man": "male", "child": "child"}[who.subject]
    return speech.synthesise(np.random.default_rng([seed, 3]), seconds, voice).waveform


def draw_clip(
    seed: int,
    frames: int = 25,
    size: int = 64,
    *,
    head_action: str | None = None,
    face_action: str | None = None,
    waveform: NDArray[np.floating] | None = None,
    closed_start: bool = False,
    world: str = "calm",
    open_seed: int | None = None,
) -> PuppetClip:
    """The clip of `seed`: 25 fps, `size` × `size`, of any number of frames.

    The person depends on the seed alone. The actions and the audio come from the seed too unless given (`waveform` is mono at
    16 kHz, cut or padded with silence to the clip). `closed_start` eases the mouth open from closed over the first five frames;
    otherwise frame 0 shows whatever the audio says there. `open_seed` draws anew what portrait, voice and prompt leave open in
    `world`: the first frame, the waveform, the prompt and the mouth's opening stay those of `seed`.

    Raises:
        InputError: a seed is negative, `frames` or `size` is too small, an action is not in the grammar, the waveform is not mono
            samples, or there is no such world.
    """
    check_world(world)
    if frames < 1:
        raise InputError(f"frames is {frames}; it must be at least 1.")
    if seed < 0:
        raise InputError(f"seed is {seed}; it must not be negative.")
    if open_seed is not None and open_seed < 0:
        raise InputError(f"open_seed is {open_seed}; it must not be negative.")
    who = draw_identity(np.random.default_rng([seed, 1]))
    rng, drawn_head, drawn_face = _actions(seed)
    head = drawn_head if head_action is None else head_action
    face = drawn_face if face_action is None else face_action
    prompt = prompt_text(who.subject, who.hair, who.glasses, head, face)
    seconds = frames / FPS
    samples = round(seconds * SAMPLE_RATE)
    if waveform is None:
        audio = draw_voice(seed, who, seconds)
    else:
        given = np.asarray(waveform, np.float32)
        if given.ndim != 1:
            raise InputError(f"The waveform has shape {given.shape}; it must be mono samples, [samples].")
        given = given[:samples]
        audio = np.concatenate([given, np.zeros(samples - len(given), np.float32)])
    loudness = envelope(audio, frames)
    if closed_start:
        loudness = loudness * np.minimum(np.arange(frames, dtype=np.float32) / 5.0, 1.0)
    spoken = loudness, rounding(audio, frames), who.articulation, FPS
    motion, wall, chance = draw_motion(rng, head, face, *spoken), None, seed
    gaze = motion.gaze[0]
    if open_seed is not None and open_seed != seed:
        chance = open_seed
        motion = draw_motion(_actions(chance)[0], head, face, *spoken)
        motion = replace(motion, gaze=motion.gaze - motion.gaze[0] + gaze)  # the eyes begin where the portrait's look
    if world == "lively":
        motion, wall = draw_lively(chance, head, motion, float(gaze), FPS), draw_wall(chance, frames, FPS)
    if closed_start:
        motion.eyes[:3] = 1.0
    return PuppetClip(
        seed=seed,
        frames=render(who, motion, size, wall),
        waveform=audio,
        prompt=prompt,
        opening=motion.opening,
        mouth_box=mouth_box(who, motion, size),
        identity=who,
        head_action=head,
        face_action=face,
        motion=motion,
        world=world,
    )


def _actions(seed: int) -> tuple[np.random.Generator, str, str]:
    """What head and face of `seed` do, and the generator that goes on with how."""
    rng = np.random.default_rng([seed, 2])
    return rng, str(rng.choice(list(HEAD_ACTIONS))), str(rng.choice(list(FACE_ACTIONS), p=[0.5, 0.25, 0.25]))


def check_world(world: str) -> None:
    """Raises `InputError` unless `world` is one of `WORLDS`."""
    if world not in WORLDS:
        raise InputError(f"There is no world {world!r}. Choose from: {', '.join(WORLDS)}.")
