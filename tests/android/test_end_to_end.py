"""A real bundle played by the Kotlin engine, its programs in `echoedge serve-programs`: the latents and frames of Python."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from echoedge.core.bundle import Bundle

from ..players import DEMO, PROMPT, Played, of_python, short_voice, written
from .engine import desktop, needs_kotlin

pytestmark = needs_kotlin


def of_kotlin(bundle: Path, image: Path, audio: Path, seed: int, out: Path, *options: str) -> Played:
    given = ("--image", image, "--audio", audio, "--prompt", PROMPT, "--seed", seed, "--out", out)
    ended = desktop("play", bundle, *given, *options, serving=(bundle,))
    assert ended.returncode == 0, ended.stderr
    return written(bundle, out)


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return short_voice(tmp_path_factory.mktemp("voice") / "voice.wav")


def test_the_same_latents_to_the_bit_and_the_same_frames(bundle_path: Path, voice: Path, tmp_path: Path) -> None:
    seed, image = 2**63 + 5, DEMO / "ada.png"
    python, kotlin = of_python(bundle_path, image, voice, seed), of_kotlin(bundle_path, image, voice, seed, tmp_path / "kotlin")
    assert python.latents.shape[1] > 3  # more than a window
    assert kotlin.latents.shape == python.latents.shape and kotlin.latents.tobytes() == python.latents.tobytes()
    assert np.array_equal(kotlin.frames, python.frames) and len(kotlin.frames) == 17
    assert kotlin.told["evaluations"] == python.told["evaluations"]
    eager = of_kotlin(bundle_path, image, voice, seed, tmp_path / "eager", "--eager")
    assert eager.latents.tobytes() == python.latents.tobytes() and np.array_equal(eager.frames, python.frames)
    other = of_kotlin(bundle_path, image, voice, seed + 1, tmp_path / "other")
    assert other.latents.tobytes() != python.latents.tobytes()


def test_goldens_pass_program_by_program_and_end_to_end(bundle_path: Path) -> None:
    ended = desktop("verify", bundle_path, serving=(bundle_path,))
    assert ended.returncode == 0, ended.stderr
    rows = {row["name"]: row for row in json.loads(ended.stdout)}
    names = set(Bundle.open(bundle_path).manifest.programs)
    assert names <= set(rows) and {"latents", "frames"} <= set(rows)
    assert all(row["passed"] is not False for row in rows.values()), rows
    assert rows["denoise"]["passed"] is True and 20 < rows["denoise"]["psnr_db"] < 150  # int8: near full precision, and not it


def test_a_bundle_that_was_altered_is_refused(bundle_path: Path, voice: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.echoedge"
    shutil.copytree(bundle_path, copy)
    path = copy / Bundle.open(bundle_path).manifest.programs["denoise"].path
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    ended = desktop("play", copy, "--image", DEMO / "ada.png", "--audio", voice, "--out", tmp_path / "out", serving=(bundle_path,))
    assert ended.returncode == 1 and "was altered" in ended.stderr and "Traceback" not in ended.stderr


def test_a_process_that_does_not_serve_is_a_sentence(bundle_path: Path, voice: Path, tmp_path: Path) -> None:
    ended = desktop(
        "play", bundle_path, "--image", DEMO / "ada.png", "--audio", voice, "--out", tmp_path / "out", serving=(tmp_path / "none",)
    )
    assert ended.returncode == 1 and "There is no bundle" in ended.stderr
    assert "at echoedge" not in ended.stderr
