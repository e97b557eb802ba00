"""The procedural talking heads: portraits drawn from a seed, whose mouths follow audio and whose heads follow a text prompt.

`draw_clip(seed)` is a pure function: identity, voice, prompt, blinks and motion all come from `np.random.default_rng(seed)`. Seeds
below `HELD_OUT_SEED` are for training; from there on identities and audio are for evaluation and for the demo portraits. Left and
right in prompts are the viewer's.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..metrics.voice import FPS, SAMPLE_RATE, envelope, rounding
from . import speech
from .people import FACE_ACTIONS, HEAD_ACTIONS, Floats, Identity, Motion, draw_identity, draw_motion, prompt_text
from .portraits import mouth_box, render

HELD_OUT_SEED = 1_000_000
"""Seeds below are for training, seeds from here on for evaluation: no identity, audio or prompt draw is shared."""


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
) -> PuppetClip:
    """The clip of `seed`: 25 fps, `size` × `size`, of any number of frames.

    The person depends on the seed alone. The actions and the audio come from the seed too unless given (`waveform` is mono at
    16 kHz, cut or padded with silence to the clip). `closed_start` eases the mouth open from closed over the first five frames;
    otherwise frame 0 shows whatever the audio says there.

    Raises:
        InputError: `seed` is negative, `frames` or `size` is too small, an action is not in the grammar, or the waveform is not
            mono samples.
    """
    if frames < 1:
        raise InputError(f"frames is {frames}; it must be at least 1.")
    if seed < 0:
        raise InputError(f"seed is {seed}; it must not be negative.")
    who = draw_identity(np.random.default_rng([seed, 1]))
    rng = np.random.default_rng([seed, 2])
    drawn_head = str(rng.choice(list(HEAD_ACTIONS)))
    drawn_face = str(rng.choice(list(FACE_ACTIONS), p=[0.5, 0.25, 0.25]))
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
    motion = draw_motion(rng, head, face, loudness, rounding(audio, frames), who.articulation, FPS)
    if closed_start:
        motion.eyes[:3] = 1.0
    return PuppetClip(
        seed=seed,
        frames=render(who, motion, size),
        waveform=audio,
        prompt=prompt,
        opening=motion.opening,
        mouth_box=mouth_box(who, motion, size),
        identity=who,
        head_action=head,
        face_action=face,
        motion=motion,
    )
