"""cli/app.py: animate, one sentence for everything that a user can get wrong with it, and interruptions."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import wave
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from echoedge.core.bundle import MANIFEST
from echoedge.core.weights.nano import assets
from echoedge.runtime.play.clips import read_clip
from echoedge.runtime.play.speech import read_speech

from .bundles import CLIP
from .commands import Run, complaint

DEMO = assets() / "demo"


# ---- films -----------------------------------------------------------------------------------------------------------------------


def portrait_file(path: Path) -> Path:
    Image.open(DEMO / "ada.png").convert("RGB").save(path)
    return path


def speech_file(path: Path, codec: str, rate: int = 44100) -> Path:
    """hello.wav, a second long, in another container and codec."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        resampler = av.AudioResampler(format=stream.format, layout=stream.layout, rate=rate)
        source = av.open(str(DEMO / "hello.wav"))
        for frame in [*source.decode(audio=0), None]:
            for resampled in resampler.resample(frame):
                container.mux(stream.encode(resampled))
        container.mux(stream.encode(None))
        source.close()
    return path


FILES = {
    "png and wav": ("a.png", "a.wav", "pcm_s16le"), "jpg and mp3": ("a.jpg", "a.mp3", "mp3"),
    "webp and flac": ("a.webp", "a.flac", "flac"), "bmp and m4a": ("a.bmp", "a.m4a", "aac"),
}  # fmt: skip


@pytest.mark.parametrize("files", FILES)
def test_animate_makes_a_film_as_long_as_the_speech(files: str, run: Run, bundle_path: Path, tmp_path: Path) -> None:
    image, audio, codec = FILES[files]
    speech = speech_file(tmp_path / audio, codec)
    film = tmp_path / "films" / "clip.mp4"
    ended = run("animate", bundle_path, "--image", portrait_file(tmp_path / image), "--audio", speech, "--out", film)
    assert ended.status == 0, ended
    frames = -(-len(read_speech(speech)) // CLIP.samples_per_frame)
    assert 25 <= frames <= 28  # MP3 pads its end
    assert f"{frames} frames" in ended.out
    clip = read_clip(film)
    assert clip.frames.shape == (frames, CLIP.height, CLIP.width, 3)
    assert clip.fps == 25
    assert clip.audio is not None
    assert len(clip.audio) / clip.sample_rate == pytest.approx(frames / 25, abs=0.1)
    assert np.sqrt(np.mean(clip.audio**2)) > 0.01
    assert [path.name for path in film.parent.iterdir()] == ["clip.mp4"]


@pytest.fixture
def given(bundle_path: Path, tmp_path: Path) -> dict[str, object]:
    """Options of `animate` that work, in order; a test changes one."""
    output = tmp_path / "out"
    output.mkdir()
    return {"bundle": bundle_path, "--image": DEMO / "ada.png", "--audio": DEMO / "hello.wav", "--out": output / "clip.mp4"}


def arguments(options: dict[str, object]) -> list[object]:
    bundle, *others = options.items()
    return ["animate", bundle[1], *(part for option in others for part in option)]


def test_animate_as_json(run: Run, given: dict[str, object]) -> None:
    ended = run(*arguments(given), "--json")
    told = json.loads(ended.out)
    assert (told["frames"], told["seconds"], told["engine"]) == (25, 1.0, "executorch")
    assert set(told["stage_seconds"]) == {"listen", "look", "prepare", "denoise", "decode"}
    assert told["evaluations"] == 3 * 2 * 2
    assert Path(told["clip"]).stat().st_size > 1000


def test_the_same_seed_makes_the_same_film(run: Run, given: dict[str, object], tmp_path: Path) -> None:
    films = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2**64 - 1)):
        film = tmp_path / f"{name}.mp4"
        assert run(*arguments(given | {"--out": film, "--seed": seed})).status == 0
        films.append(read_clip(film).frames)
    np.testing.assert_array_equal(films[0], films[1])
    assert (films[0] != films[2]).any()


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "a word " * 2000,
        "她" * 600,
        "tabs\tand\nnewlines",
        "她微笑着点头",
        "😀🎬",
        "[/red] [bold",
        "a 'quoted' prompt that goes on and on",
        "-",
        "\udcff\udcfe broken bytes",
    ],
)
def test_any_prompt_plays(prompt: str, run: Run, given: dict[str, object]) -> None:
    ended = run(*arguments(given), f"--prompt={prompt}")
    assert ended.status == 0, ended
    assert "Traceback" not in ended.err


def test_a_prompt_that_is_cut_is_said_to_be(run: Run, given: dict[str, object]) -> None:
    ended = run(*arguments(given), "--prompt", "她微笑着点头")
    assert "The prompt is longer than this model reads: its first 12 bytes count, " in ended.err


def test_a_portrait_of_20_megapixels_plays(run: Run, given: dict[str, object], tmp_path: Path) -> None:
    Image.open(DEMO / "ada.png").convert("RGB").resize((5000, 4000)).save(tmp_path / "big.png", compress_level=1)
    assert run(*arguments(given | {"--image": tmp_path / "big.png"})).status == 0


def test_force_replaces_a_film(run: Run, given: dict[str, object]) -> None:
    film = Path(str(given["--out"]))
    film.write_bytes(b"old")
    assert "exists. Give another name or --force." in complaint(run(*arguments(given)))
    assert film.read_bytes() == b"old"
    assert run(*arguments(given), "--force").status == 0
    assert film.stat().st_size > 1000


# ---- what a user can get wrong ---------------------------------------------------------------------------------------------------


def made(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_a_tall_portrait_is_cropped_and_said_to_be(run: Run, given: dict[str, object], tmp_path: Path) -> None:
    side = CLIP.height
    small = Image.open(DEMO / "ada.png").convert("RGB").resize((side, side))
    small.save(tmp_path / "small.png")
    tall = Image.new("RGB", (side, 2 * side), (110, 110, 110))
    tall.paste(small, (0, side))
    tall.save(tmp_path / "tall.png")
    films = []
    for name, options in {"tall.png": {}, "./tall.png": {"--crop": f"{side},0,{side}"}, "small.png": {}}.items():
        film = tmp_path / f"{len(films)}.mp4"
        ended = run(*arguments(given | {"--image": tmp_path / name, "--out": film} | options))
        assert ended.status == 0, ended
        cropped = f"tall.png is cropped to {side}x{side}" in " ".join(ended.err.split())
        assert cropped == (name == "tall.png")
        films.append(film.read_bytes())
    assert films[1] == films[2]
    assert films[0] != films[2]


def silent_wav(path: Path) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16000, 16000, "NONE", ""))
        file.writeframes(bytes(32000))
    return path


def dot(path: Path) -> Path:
    Image.new("RGB", (1, 1)).save(path)
    return path


MP4 = bytes.fromhex("00000014") + b"ftypisom" + bytes(4) + b"mp42" + bytes(200)


def plain(path: Path, colour: tuple[int, ...]) -> Path:
    Image.new("RGBA" if len(colour) == 4 else "RGB", (64, 64), colour).save(path)
    return path


def broken_bundle(folder: Path, bundle: Path, change: Callable[[Path], object]) -> Path:
    copy = folder / "broken.echoedge"
    shutil.copytree(bundle, copy)
    change(copy)
    return copy


def altered(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


WRONG: dict[str, tuple[str, Callable[[Path, Path], object], str]] = {
    "audio that is not there": ("--audio", lambda t, _: t / "gone.wav", "There is no sound file .*gone.wav"),
    "audio that is a folder": ("--audio", lambda t, _: t, "is not a file"),
    "empty audio": ("--audio", lambda t, _: made(t / "a.wav", b""), "a.wav is empty"),
    "audio that is no audio": ("--audio", lambda t, _: made(t / "a.wav", b"hello" * 100), "not a sound file in a known format"),
    "audio cut in its header": ("--audio", lambda t, _: made(t / "a.wav", (DEMO / "hello.wav").read_bytes()[:30]), "a.wav"),
    "silent audio": ("--audio", lambda t, _: silent_wav(t / "a.wav"), "a.wav is silent"),
    "a picture as audio": ("--audio", lambda *_: DEMO / "ada.png", "has no sound track"),
    "an image that is not there": ("--image", lambda t, _: t / "gone.png", "There is no portrait .*gone.png"),
    "an empty image": ("--image", lambda t, _: made(t / "a.png", b""), "a.png is empty"),
    "an image that is no image": ("--image", lambda t, _: made(t / "a.png", b"hello" * 100), "not an image in a known format"),
    "an image cut off": ("--image", lambda t, _: made(t / "a.png", (DEMO / "ada.png").read_bytes()[:3000]), "a.png cannot be read"),
    "an image of one pixel": ("--image", lambda t, _: dot(t / "a.png"), "1 pixels wide and 1 high; it needs at least 16 a side"),
    "a black image": ("--image", lambda t, _: plain(t / "a.png", (3, 3, 3)), "a.png is nearly black"),
    "a transparent image": ("--image", lambda t, _: plain(t / "a.png", (0, 0, 0, 0)), "a.png is fully transparent"),
    "a film as an image": ("--image", lambda t, _: made(t / "a.jpg", MP4), "a.jpg is a video or a sound"),
    "a crop beyond the image": ("--crop", lambda *_: "100,0,500", "--crop 100,0,500 ends at row 600 and column 500"),
    "a crop of a few pixels": ("--crop", lambda *_: "0,0,15", "--crop is 0,0,15; top and left must be 0 at least, the size 16"),
    "a crop that is none": ("--crop", lambda *_: "0,0", "--crop is '0,0'; write TOP,LEFT,SIZE"),
    "speech as an image": ("--image", lambda *_: DEMO / "hello.wav", "not an image in a known format"),
    "a bundle that is not there": ("bundle", lambda t, _: t / "gone.echoedge", "There is no bundle .*gone.echoedge"),
    "a file as a bundle": ("bundle", lambda t, _: made(t / "a.echoedge", b"x"), "is a file; a bundle is a folder"),
    "a folder that is no bundle": ("bundle", lambda t, _: t, "has no manifest.json"),
    "a bundle without a program": (
        "bundle", lambda t, b: broken_bundle(t, b, lambda p: (p / "programs/denoise.pte").unlink()), "denoise.pte is missing"
    ),
    "a bundle with a truncated program": (
        "bundle", lambda t, b: broken_bundle(t, b, lambda p: os.truncate(p / "programs/denoise.pte", 999)), "pte has 999 bytes"
    ),
    "a bundle with an altered program": (
        "bundle", lambda t, b: broken_bundle(t, b, lambda p: altered(p / "programs/denoise.pte")), "denoise.pte was altered"
    ),
    "a bundle with a truncated manifest": (
        "bundle", lambda t, b: broken_bundle(t, b, lambda p: os.truncate(p / MANIFEST, 999)), "manifest.json is cut off or damaged"
    ),
    "a seed below zero": ("--seed", lambda *_: -1, "seed is -1; it must be an integer from 0"),
    "a seed beyond 64 bits": ("--seed", lambda *_: 2**64, "seed is 18446744073709551616"),
    "an unknown engine": ("--engine", lambda *_: "cuda", "no engine 'cuda' here. Choose from: auto, executorch, onnx, coreml"),
    "an engine without the weights": ("--engine", lambda *_: "torch", "whose weights do not ship"),
    "a folder as output": ("--out", lambda t, _: t / "out", "is a folder. Give the name of a file"),
    "an output inside a file": ("--out", lambda t, _: made(t / "file", b"") / "clip.mp4", "clip.mp4 cannot be written"),
    "an output that the system refuses": ("--out", lambda *_: "/proc/nobody/clip.mp4", "/proc/nobody/clip.mp4"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake_is_one_sentence_and_leaves_nothing(
    mistake: str, run: Run, given: dict[str, object], bundle_path: Path, tmp_path: Path
) -> None:
    option, value, expected = WRONG[mistake]
    if "proc" in str(value(tmp_path, bundle_path) if option == "--out" else "") and not Path("/proc").is_dir():
        pytest.skip("this system has no /proc")
    shutil.rmtree(tmp_path)
    (tmp_path / "out").mkdir(parents=True)
    options = given | {option: value(tmp_path, bundle_path)}
    before = sorted(tmp_path.rglob("*"))
    assert re.search(expected, complaint(run(*arguments(options))))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the superuser may write everywhere")
def test_an_output_folder_without_permission(run: Run, given: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "out").chmod(0o500)
    assert "cannot be written (Permission denied" in complaint(run(*arguments(given)))


# ---- interruptions ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_film_leaves_nothing(number: signal.Signals, given: dict[str, object], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with wave.open(str(tmp_path / "long.wav"), "wb") as file:  # five minutes: long enough to be interrupted on any machine
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(rng.integers(-9000, 9000, 300 * 16000).astype("<i2").tobytes())
    folder = tmp_path / "out"
    command = [sys.executable, "-m", "echoedge.cli", *map(str, arguments(given | {"--audio": tmp_path / "long.wav"}))]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(folder.glob(".clip*.partial.mp4")) and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert list(folder.glob(".clip*.partial.mp4")), "it has not begun"
    time.sleep(0.2)
    running.send_signal(number)
    _, told = running.communicate(timeout=60)
    assert running.returncode == 128 + number, told
    assert "Traceback" not in told
    assert ("Interrupted. Nothing was left behind." in told) == (number == signal.SIGINT)
    assert list(folder.iterdir()) == []
