"""What recorded calls are made from: a portrait and a voice of the package."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.config import ClipSpec
from ...core.errors import ConfigError
from ...core.weights.nano import assets
from .pictures import read_portrait
from .speech import fit_speech, read_speech


@dataclass(frozen=True)
class Material:
    """portrait [3, H, W] in [-1, 1]; speech [n] at the clip's rate; mouth_box: rows and columns of the mouth in the picture, (top,
    bottom, left, right) pixels, where a clip is recorded whole."""

    portrait: NDArray[np.float32]
    speech: NDArray[np.float32]
    prompt: str = ""
    seed: int = 0
    mouth_box: tuple[int, int, int, int] | None = None

    def check(self, clip: ClipSpec, whole: bool) -> None:
        """Refuses, with a ConfigError, a portrait of another size, or a voice that is not one clip long (`whole`: shorter than
        that)."""
        if np.shape(self.portrait) != (3, clip.height, clip.width):
            raise ConfigError(
                f"A portrait is {np.shape(self.portrait)}; the clip {clip} needs one of its own size, "
                f"(3, {clip.height}, {clip.width})."
            )
        wanted, given = clip.frames * clip.samples_per_frame, np.shape(self.speech)
        if len(given) != 1 or given[0] < wanted or (given[0] > wanted and not whole):
            raise ConfigError(f"A speech is {given}; the clip {clip} needs one of its own length, ({wanted},).")

    @property
    def digest(self) -> str:
        arrays = (np.ascontiguousarray(array).tobytes() for array in (self.portrait, self.speech))
        return hashlib.sha256(b"".join((*arrays, repr((self.prompt, self.seed, self.mouth_box)).encode()))).hexdigest()

    @property
    def settings(self) -> dict[str, Any]:
        """As a record of a whole clip keeps them."""
        return {"prompt": self.prompt, "seed": self.seed, "mouth_box": list(self.mouth_box or ())}


def demo_material(clip: ClipSpec, whole: bool, number: int = 0) -> Material:
    """A demo portrait, and of a demo voice the length of a clip; `whole`: of two windows, so that streaming and blending are on
    record too. `number`: 0, or 1 for another person with another voice, prompt and seed."""
    frames, folder = 2 * clip.frames - 1 if whole else clip.frames, assets() / "demo"
    demo = json.loads((folder / "demo.json").read_text())

    def shortest_that_fills(voice: dict[str, Any]) -> tuple[bool, float]:
        short = voice["seconds"] < frames / clip.fps
        return short, -voice["seconds"] if short else voice["seconds"]

    portrait, voice = demo["portraits"][number], sorted(demo["voices"], key=shortest_that_fills)[number]
    top, bottom, left, right = portrait["mouth_box"]
    box = round(top * clip.height), round(bottom * clip.height), round(left * clip.width), round(right * clip.width)
    picture = read_portrait(folder / portrait["file"], clip.height, clip.width)
    speech = fit_speech(read_speech(folder / voice["file"], clip.sample_rate), frames, clip.fps, clip.sample_rate)
    return Material(picture, speech, portrait["prompt"], number, box)
