"""The portraits and voices of the demo, drawn and synthesised from held-out seeds: nobody's face, nobody's recording.

`write_demo_assets(folder)` makes them again; a test checks that the shipped files are what this code writes.
"""

from __future__ import annotations

import io
import json
import os
import wave
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..files import atomic_file
from ..metrics.voice import FPS, SAMPLE_RATE
from . import speech
from .people import Motion, prompt_text
from .portraits import mouth_box, render
from .puppets import HELD_OUT_SEED, draw_clip

PORTRAIT_SIZE = 512
LONGEST_FRAMES = 149  # the mouth boxes hold the lips for clips up to this length


@dataclass(frozen=True)
class DemoPortrait:
    """A person of the data set by seed, and what the demo asks of it."""

    name: str
    seed: int
    head_action: str
    face_action: str


@dataclass(frozen=True)
class DemoVoice:
    """A voice by seed; `frames` video frames long."""

    name: str
    seed: int
    voice: str
    frames: int


PORTRAITS = (
    DemoPortrait("ada", HELD_OUT_SEED + 17, "nods", "smiles"),
    DemoPortrait("kofi", HELD_OUT_SEED + 10, "turns right", "smiles"),
    DemoPortrait("mina", HELD_OUT_SEED + 4, "tilts left", ""),
    DemoPortrait("leo", HELD_OUT_SEED + 30, "stays still", "raises brows"),
)
VOICES = (
    DemoVoice("hello", HELD_OUT_SEED + 101, "female", 25),
    DemoVoice("story", HELD_OUT_SEED + 102, "male", 97),
    DemoVoice("rhyme", HELD_OUT_SEED + 103, "child", 149),
)


def draw_portrait(portrait: DemoPortrait, size: int = PORTRAIT_SIZE) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    """The portrait, uint8 [size, size, 3], with closed mouth and a friendly look, and its entry of `demo.json`.

    `mouth_box` is (y0, y1, x0, x1) as fractions of the image and holds the lips while the prompt is acted.
    """
    silence = np.zeros(1, np.float32)
    clip = draw_clip(
        portrait.seed, LONGEST_FRAMES, 16, head_action=portrait.head_action, face_action=portrait.face_action, waveform=silence
    )
    still = np.zeros(1, np.float32)
    rest = Motion(
        yaw=still, pitch=still, roll=still, smile=still + 0.5, brows=still + 0.15, eyes=still + 1.0, gaze=still,
        opening=still, rounding=still,
    )  # fmt: skip
    who = clip.identity
    box = mouth_box(who, replace(clip.motion, smile=np.maximum(clip.motion.smile, rest.smile)), PORTRAIT_SIZE)
    entry = {
        "name": portrait.name,
        "file": f"{portrait.name}.png",
        "seed": portrait.seed,
        "prompt": prompt_text(who.subject, who.hair, who.glasses, portrait.head_action, portrait.face_action),
        "mouth_box": [round(value / PORTRAIT_SIZE, 4) for value in box],
    }
    return render(who, rest, size)[0], entry


def make_voice(voice: DemoVoice) -> tuple[NDArray[np.int16], dict[str, Any]]:
    """The voice, int16 [samples] at 16 kHz, and its entry of `demo.json`."""
    seconds = voice.frames / FPS
    said = speech.synthesise(voice.seed, seconds, voice.voice)
    entry = {"name": voice.name, "file": f"{voice.name}.wav", "seed": voice.seed, "voice": voice.voice, "frames": voice.frames}
    return np.round(said.waveform.astype(np.float64) * 32767.0).astype(np.int16), {**entry, "seconds": seconds}


def png_bytes(pixels: NDArray[np.uint8]) -> bytes:
    """uint8 [H, W, 3] as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def wav_bytes(samples: NDArray[np.int16]) -> bytes:
    """int16 [samples] as a mono WAV file at 16 kHz."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(SAMPLE_RATE)
        writer.writeframes(samples.astype("<i2").tobytes())
    return buffer.getvalue()


def write_demo_assets(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Writes the portraits (PNG), voices (WAV, mono, PCM16, 16 kHz) and `demo.json` into `folder`; returns what the JSON holds."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    portraits, voices = [], []
    for portrait in PORTRAITS:
        pixels, entry = draw_portrait(portrait)
        _write(target / entry["file"], png_bytes(pixels))
        portraits.append(entry)
    for voice in VOICES:
        samples, entry = make_voice(voice)
        _write(target / entry["file"], wav_bytes(samples))
        voices.append(entry)
    content = {"portraits": portraits, "voices": voices}
    _write(target / "demo.json", (json.dumps(content, indent=2) + "\n").encode())
    return content


def _write(path: Path, content: bytes) -> None:
    with atomic_file(path, force=True) as temporary:
        temporary.write_bytes(content)
