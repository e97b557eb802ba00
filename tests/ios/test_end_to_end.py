"""A real bundle played by the Swift engine, its programs in `echoedge serve-programs`: the latents and frames of Python."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from echoedge.core.bundle import Bundle

from ..players import DEMO, PROMPT, Played, of_python, short_voice, written
from .engine import as_ppm, desktop, needs_swift, player

pytestmark = needs_swift


def of_swift(bundle: Path, image: Path, audio: Path, seed: int, out: Path, *options: str) -> Played:
    given = ("--image", image, "--audio", audio, "--prompt", PROMPT, "--seed", seed, "--out", out)
    ended = desktop("play", bundle, *given, *options, serving=(bundle,))
    assert ended.returncode == 0, ended.stderr
    return written(bundle, out)


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return short_voice(tmp_path_factory.mktemp("voice") / "voice.wav")


@pytest.fixture(scope="module")
def portrait(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return as_ppm(DEMO / "ada.png", tmp_path_factory.mktemp("portrait"))


def test_the_same_latents_to_the_bit_and_the_same_frames(bundle_path: Path, voice: Path, portrait: Path, tmp_path: Path) -> None:
    seed = 2**63 + 5
    python = of_python(bundle_path, DEMO / "ada.png", voice, seed)
    swift = of_swift(bundle_path, portrait, voice, seed, tmp_path / "swift")
    assert python.latents.shape[1] > 3  # more than a window
    assert swift.latents.shape == python.latents.shape and swift.latents.tobytes() == python.latents.tobytes()
    assert np.array_equal(swift.frames, python.frames) and len(swift.frames) == 17
    assert swift.told["evaluations"] == python.told["evaluations"]
    eager = of_swift(bundle_path, portrait, voice, seed, tmp_path / "eager", "--eager")
    assert eager.latents.tobytes() == python.latents.tobytes() and np.array_equal(eager.frames, python.frames)
    other = of_swift(bundle_path, portrait, voice, seed + 1, tmp_path / "other")
    assert other.latents.tobytes() != python.latents.tobytes()


def test_goldens_pass_program_by_program_and_end_to_end(bundle_path: Path) -> None:
    ended = desktop("verify", bundle_path, serving=(bundle_path,))
    assert ended.returncode == 0, ended.stderr
    rows = {row["name"]: row for row in json.loads(ended.stdout)}
    assert set(Bundle.open(bundle_path).manifest.programs) | {"latents", "frames"} == set(rows)
    assert all(row["passed"] is not False for row in rows.values()), rows
    assert rows["denoise"]["passed"] is True and 20 < rows["denoise"]["psnr_db"] < 150  # int8: near full precision, and not it


def refused(bundle: Path, image: Path, voice: Path, out: Path, *options: object, serving: Path) -> str:
    """The one sentence with which a clip is refused."""
    given = ("--image", image, "--audio", voice, "--out", out, *options)
    ended = desktop("play", bundle, *given, serving=(serving,))
    assert ended.returncode == 1 and not out.exists()
    return ended.stderr.strip()


def test_a_bundle_that_was_altered_is_refused(bundle_path: Path, voice: Path, portrait: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.echoedge"
    shutil.copytree(bundle_path, copy)
    path = copy / Bundle.open(bundle_path).manifest.programs["denoise"].path
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert "was altered" in refused(copy, portrait, voice, tmp_path / "out", serving=bundle_path)


def test_what_cannot_be_used_is_a_sentence(bundle_path: Path, voice: Path, portrait: Path, tmp_path: Path) -> None:
    def said(image: Path, audio: Path, *options: object) -> str:
        return refused(bundle_path, image, audio, tmp_path / "out", *options, serving=bundle_path)

    assert "is not a binary PPM" in said(DEMO / "ada.png", voice)
    assert "is not a WAV file" in said(portrait, DEMO / "ada.png")
    assert "cannot be read" in said(tmp_path / "none.ppm", voice)
    assert "The seed is 1.5" in said(portrait, voice, "--seed", 1.5)
    assert "The clip is '1x1x1'" in said(portrait, voice, "--clip", "1x1x1")
    cut = tmp_path / "cut.ppm"
    cut.write_bytes(portrait.read_bytes()[:-1])
    assert "is not a binary PPM" in said(cut, voice)
    assert desktop("play", bundle_path, "--picture", portrait).returncode == 2


def test_a_process_that_does_not_serve_is_a_sentence(bundle_path: Path, voice: Path, portrait: Path, tmp_path: Path) -> None:
    assert "There is no bundle" in refused(bundle_path, portrait, voice, tmp_path / "out", serving=tmp_path / "none")


@pytest.mark.parametrize(("code", "sentence"), [("pass", "has ended without an answer"), ("print('x' * 99)", "does not speak as")])
def test_a_process_that_speaks_otherwise_is_a_sentence(bundle_path: Path, code: str, sentence: str) -> None:
    command = [*player(), "verify", str(bundle_path), "--", sys.executable, "-c", code]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1 and sentence in ended.stderr
