"""The shipped portraits and voices are what the code writes, and they suit the demo."""

from __future__ import annotations

import json
import wave
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import echoedge.core
from echoedge.core.metrics.mouth import mouth_opening
from echoedge.core.train.demo_assets import PORTRAITS, VOICES, draw_portrait, make_voice, write_demo_assets
from echoedge.core.train.people import PROMPTS
from echoedge.core.train.puppets import HELD_OUT_SEED, draw_clip

SHIPPED = Path(echoedge.core.__file__).parent / "assets" / "demo"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    write_demo_assets(folder)
    return folder


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def samples(path: Path) -> np.ndarray:
    with wave.open(str(path)) as reader:
        assert (reader.getnchannels(), reader.getsampwidth(), reader.getframerate()) == (1, 2, 16000)
        return np.frombuffer(reader.readframes(reader.getnframes()), "<i2")


def test_shipped_files_are_what_the_code_writes(written: Path) -> None:
    """Decoded contents are compared: another processor's rounding may move a value by one or two, another zlib the bytes."""
    assert {path.name for path in SHIPPED.iterdir()} == {path.name for path in written.iterdir()}
    for portrait in PORTRAITS:
        new, old = (pixels(folder / f"{portrait.name}.png").astype(int) for folder in (written, SHIPPED))
        assert new.shape == old.shape and np.abs(new - old).max() <= 2
    for voice in VOICES:
        new, old = (samples(folder / f"{voice.name}.wav").astype(int) for folder in (written, SHIPPED))
        assert new.shape == old.shape and np.abs(new - old).max() <= 4
    assert json.loads((written / "demo.json").read_text()) == json.loads((SHIPPED / "demo.json").read_text())


def test_the_portraits_differ_from_each_other(written: Path) -> None:
    """Twin of the comparison above: it would tell one portrait from another."""
    images = [pixels(written / f"{p.name}.png").astype(int) for p in PORTRAITS]
    assert all(np.abs(a - b).mean() > 10 for k, a in enumerate(images) for b in images[:k])


def test_the_folder_is_small_and_leaves_no_temporary_files(written: Path) -> None:
    assert sum(path.stat().st_size for path in written.iterdir()) < 1_500_000
    assert not list(written.glob("*.tmp"))


def test_the_index_describes_the_files(written: Path) -> None:
    index = json.loads((written / "demo.json").read_text())
    assert len(index["portraits"]) >= 3 and len(index["voices"]) >= 2
    for entry in index["portraits"]:
        assert pixels(written / entry["file"]).shape == (512, 512, 3)
        assert entry["seed"] >= HELD_OUT_SEED and entry["prompt"] in PROMPTS
        y0, y1, x0, x1 = entry["mouth_box"]
        assert 0 < y0 < y1 < 1 and 0 < x0 < x1 < 1
    for entry in index["voices"]:
        audio = samples(written / entry["file"])
        assert len(audio) == entry["frames"] * 640 and entry["frames"] % 4 == 1 and entry["seed"] >= HELD_OUT_SEED
        assert 8000 < np.abs(audio.astype(int)).max() < 32767


def test_portraits_have_a_closed_mouth_inside_the_box() -> None:
    """Measured from pixels: less open than the same person speaking, whose lips stay inside the box at every moment."""
    for portrait in PORTRAITS:
        drawn, entry = draw_portrait(portrait, 64)
        box = [round(value * 64) for value in entry["mouth_box"]]
        speaking = draw_clip(portrait.seed, 25, head_action=portrait.head_action, face_action=portrait.face_action)
        y0, y1, x0, x1 = speaking.mouth_box
        assert box[0] <= y0 + 1 and box[1] >= y1 - 1 and box[2] <= x0 + 1 and box[3] >= x1 - 1
        upright = draw_clip(portrait.seed, 25, head_action="stays still", face_action="")
        assert mouth_opening(drawn[None], upright.mouth_box)[0] < 0.7 * mouth_opening(upright.frames, upright.mouth_box).max()


def test_voices_are_speech_of_the_asked_length() -> None:
    for voice in VOICES:
        audio, entry = make_voice(voice)
        assert len(audio) == round(entry["seconds"] * 16000)
        loud = np.sqrt(np.mean(audio.reshape(-1, 640).astype(float) ** 2, axis=1))
        assert loud.max() > 4 * np.percentile(loud, 10)  # it has syllables and gaps
