"""What the tests of players in other languages share: Python's player to compare with, what a player wrote, its sources."""

from __future__ import annotations

import hashlib
import json
import re
import wave
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from echoedge.core.bundle import Bundle
from echoedge.core.weights.nano import assets
from echoedge.runtime.play.pictures import read_portrait
from echoedge.runtime.play.setting import Setting, Wanted
from echoedge.runtime.play.speech import read_speech

DEMO = assets() / "demo"
PROMPT = "a woman speaks"
VARIANTS = re.compile(r"\b(nano|flash|preview)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Played:
    latents: np.ndarray
    frames: np.ndarray
    told: dict[str, object]


def of_python(bundle: Path, image: Path, audio: Path, seed: int) -> Played:
    """As `echoedge animate` plays, without the film."""
    setting = Setting.of(Bundle.open(bundle), Wanted(prompt=PROMPT))
    clip = setting.clip
    portrait = read_portrait(image, clip.height, clip.width)
    speech = read_speech(audio, clip.sample_rate, clip.fps)
    player = setting.player(len(speech) / clip.sample_rate)
    made = player.generate(portrait, speech, setting.prompt(PROMPT, default=""), seed)
    return Played(made.latents, np.stack(list(player.frames_of(made))), {"evaluations": made.evaluations})


def written(bundle: Path, out: Path) -> Played:
    """What the command line of an engine wrote: played.json, latents.f32, frames.u8."""
    told = json.loads((out / "played.json").read_text())
    clip = Bundle.open(bundle).clip
    latents = np.fromfile(out / "latents.f32", "<f4").reshape(told["latents"])
    return Played(latents, np.fromfile(out / "frames.u8", np.uint8).reshape(-1, clip.height, clip.width, 3), told)


def short_voice(path: Path) -> Path:
    """0.68 s of a demo voice: 17 frames, several windows of the small bundle."""
    with wave.open(str(DEMO / "hello.wav"), "rb") as whole, wave.open(str(path), "wb") as short:
        short.setparams(whole.getparams())
        short.writeframes(whole.readframes(round(0.68 * whole.getframerate())))
    return path


def bit_moved(folder: Path) -> str:
    """Changes the last bit of the first latent in a folder of golden vectors, of which its index does not know. The case's name."""
    numbers = bytearray((folder / "noise.bin").read_bytes())
    case = next(c for c in json.loads((folder / "noise.json").read_text())["cases"] if c["kind"] == "noise" and "expected" in c)
    numbers[case["expected"]["latents"]["offset"]] ^= 1
    (folder / "noise.bin").write_bytes(numbers)
    return str(case["name"])


def vouched_for(folder: Path) -> None:
    """The index of golden vectors takes what `bit_moved` has left for what was written."""
    index = json.loads((folder / "index.json").read_text())
    index["files"]["noise.bin"]["sha256"] = hashlib.sha256((folder / "noise.bin").read_bytes()).hexdigest()
    (folder / "index.json").write_text(json.dumps(index))


def found_in(pattern: re.Pattern[str], paths: Iterable[Path]) -> list[str]:
    """The files in which something stands."""
    return [path.name for path in paths if pattern.search(path.read_text(encoding="utf-8"))]


def code_lines(text: str) -> int:
    """Lines of Kotlin or Swift that hold more than a comment."""
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    return sum(1 for line in text.splitlines() if line.strip() and not line.strip().startswith("//"))
