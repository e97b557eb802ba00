"""runtime/play/clips.py: clips that are written and read back, what is refused, and what an interruption leaves."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from echoedge.core.errors import EngineError, InputError, OutputError, ResourceError
from echoedge.runtime.play import clips
from echoedge.runtime.play.clips import ClipWriter, read_clip
from echoedge.runtime.play.speech import read_speech

from .test_media import psnr, record, smooth, speech

# ---- clips -----------------------------------------------------------------------------------------------------------------------

FRAMES, SIDE = 26, 64


def moving(frames: int = FRAMES, height: int = SIDE, width: int = SIDE) -> np.ndarray:
    """One picture that fades into another: uint8 [frames, height, width, 3]."""
    first, last = smooth(height, width, 1).astype(float), smooth(height, width, 2)
    return np.stack([first + (last - first) * t / max(1, frames - 1) for t in range(frames)]).astype(np.uint8)


def film(path: Path, frames: np.ndarray, audio: np.ndarray | None, **options: Any) -> Path:
    with ClipWriter(path, **({"height": SIDE, "width": SIDE, "fps": 25} | options), audio=audio) as writer:
        for frame in frames:
            writer.write(frame)
        assert not path.exists()
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_clip_and_back(tmp_path: Path) -> None:
    wave = speech(FRAMES / 25, 16000)
    path = film(tmp_path / "a.mp4", moving(), wave)
    clip = read_clip(path)
    assert clip.frames.shape == (FRAMES, SIDE, SIDE, 3)
    assert clip.frames.dtype == np.uint8
    assert clip.fps == 25
    assert clip.sample_rate == 16000
    assert psnr(clip.frames, moving()) > 35  # measured 37.8 dB
    assert np.abs((clip.frames.astype(float) - moving()).mean((0, 1, 2))).max() < 1  # no colour cast; measured 0.4
    assert psnr(clip.frames[1:], moving()[:-1]) < psnr(clip.frames, moving()) - 3  # a frame late: measured 34.3 dB
    assert clip.audio is not None
    assert clip.audio.size == wave.size
    assert np.corrcoef(clip.audio, wave)[0, 1] > 0.995  # measured 0.9996
    assert np.corrcoef(clip.audio[16:], wave[:-16])[0, 1] < 0.7  # a millisecond late: measured 0.33
    assert names(tmp_path) == ["a.mp4"]


def test_clip_is_what_players_expect(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", moving(), speech(FRAMES / 25, 16000))
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # plays while it loads
    with av.open(str(path)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, video.codec_context.pix_fmt, video.frames) == ("h264", "yuv420p", FRAMES)
        assert (video.codec_context.colorspace, video.codec_context.color_range) == (1, 1)  # BT.709, limited
        assert (audio.codec_context.name, audio.layout.name, audio.rate) == ("aac", "mono", 16000)
        lengths = [float((stream.duration or 0) * (stream.time_base or 0)) for stream in (video, audio)]
    assert lengths == pytest.approx([FRAMES / 25] * 2, abs=1e-3)


def test_wrong_matrix_would_show(tmp_path: Path) -> None:
    """The negative of the colour check: the same file decoded as BT.601 has 29.3 dB instead of 37.8."""
    path = film(tmp_path / "a.mp4", moving(), None)
    with av.open(str(path)) as container:
        wrong = np.stack([frame.to_ndarray(format="rgb24", src_colorspace="ITU601") for frame in container.decode(video=0)])
    assert psnr(wrong, moving()) < psnr(read_clip(path).frames, moving()) - 5


@pytest.mark.parametrize(("seconds", "rate"), [(0.3, 16000), (5.0, 16000), (1.04, 44100), (1.04, 10007), (0.0, 16000)])
def test_sound_has_the_length_of_the_picture(seconds: float, rate: int, tmp_path: Path) -> None:
    wave = speech(seconds, rate)
    clip = read_clip(film(tmp_path / "a.mp4", moving(), wave, sample_rate=rate))
    assert clip.audio is not None
    assert clip.audio.size / clip.sample_rate == pytest.approx(FRAMES / 25, abs=0.001)
    if seconds < 0.5:
        assert np.abs(clip.audio[round(0.45 * clip.sample_rate) :]).max() < 0.01


def test_silent_film(tmp_path: Path) -> None:
    clip = read_clip(film(tmp_path / "a.mp4", moving(5, 48, 80), None, height=48, width=80, fps=30))
    assert clip.audio is None
    assert clip.frames.shape == (5, 48, 80, 3)
    assert clip.fps == 30
    with pytest.raises(InputError, match="no sound track"):
        read_speech(tmp_path / "a.mp4")


def test_sound_track_of_a_video(tmp_path: Path) -> None:
    wave = speech(FRAMES / 25, 16000)
    heard = read_speech(film(tmp_path / "a.mp4", moving(), wave))
    assert heard.size == wave.size
    assert np.corrcoef(heard, wave)[0, 1] > 0.995


def test_one_frame(tmp_path: Path) -> None:
    assert len(read_clip(film(tmp_path / "a.mp4", moving(1), speech(0.04, 16000))).frames) == 1


def test_existing_clip(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4", moving(3), None)
    with pytest.raises(OutputError, match="--force"):
        film(tmp_path / "a.mp4", moving(5), None)
    assert len(read_clip(tmp_path / "a.mp4").frames) == 3
    with ClipWriter(tmp_path / "a.mp4", height=SIDE, width=SIDE, fps=25, force=True) as writer:
        writer.write(moving(1)[0])
    assert len(read_clip(tmp_path / "a.mp4").frames) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
@pytest.mark.parametrize("after", [0, 1, 80])  # before and after the encoder gives its first packet
def test_interruption_leaves_nothing(error: type[BaseException], after: int, tmp_path: Path) -> None:
    def interrupt() -> None:
        with ClipWriter(tmp_path / "a.mp4", height=SIDE, width=SIDE, fps=25, audio=speech(4, 16000)) as writer:
            for frame in moving(80)[:after]:
                writer.write(frame)
            raise error

    with pytest.raises(error):
        interrupt()
    assert names(tmp_path) == []


FILMING = """
import sys, time, numpy as np
from echoedge.runtime.play.clips import ClipWriter
with ClipWriter(sys.argv[1], height=64, width=64, fps=25, audio=np.zeros(16000, np.float32)) as writer:
    for number in range(10**6):
        writer.write(np.full((64, 64, 3), number % 256, np.uint8))
        if number == 60:
            print("ready", flush=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 128 + signal.SIGTERM)])
def test_signal_leaves_nothing(number: int, status: int, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", FILMING, str(tmp_path / "a.mp4")], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    assert [".partial" in name for name in names(tmp_path)] == [True]
    process.send_signal(number)
    assert process.wait(timeout=20) == status
    process.stdout.close()
    assert names(tmp_path) == []


def test_clip_without_frames(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="it has no frames"):
        film(tmp_path / "a.mp4", np.zeros((0, SIDE, SIDE, 3), np.uint8), speech(1, 16000))
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "frame", [np.zeros((SIDE, SIDE + 2, 3), np.uint8), np.zeros((SIDE, SIDE, 3), np.float32), np.zeros((SIDE, SIDE), np.uint8)]
)
def test_frames_of_another_shape(frame: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"it must be uint8 \[64, 64, 3\]"):
        film(tmp_path / "a.mp4", frame[None], None)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"height": 63}, "both sides must be even"),
        ({"width": 0}, "both sides must be even"),
        ({"fps": 0}, "fps is 0"),
        ({"sample_rate": 0}, "sample_rate is 0"),
        ({"audio": np.zeros((2, 100), np.float32)}, "one channel of finite samples"),
        ({"audio": np.array([np.nan], np.float32)}, "one channel of finite samples"),
    ],
)
def test_clips_that_cannot_be(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        ClipWriter(tmp_path / "a.mp4", **({"height": SIDE, "width": SIDE, "fps": 25} | options))


def test_no_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(av, "codecs_available", {"aac", "libopenh264"})
    assert clips.h264_encoder() == "libopenh264"
    monkeypatch.setattr(av, "codecs_available", {"aac"})
    with pytest.raises(EngineError, match="libx264.*pip install"):
        film(tmp_path / "a.mp4", moving(1), None)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (av.error.InvalidDataError(1, "refused"), OutputError),
        (av.error.OSError(28, "No space left on device"), ResourceError),
    ],
)
def test_encoder_that_fails(error: Exception, expected: type[Exception], tmp_path: Path) -> None:
    class Broken:
        def encode(self, _frame: Any) -> Any:
            raise error

    def write() -> None:
        with ClipWriter(tmp_path / "a.mp4", height=SIDE, width=SIDE, fps=25) as writer:
            writer._video = Broken()  # type: ignore[assignment]
            writer.write(moving(1)[0])

    with pytest.raises(expected):
        write()
    assert names(tmp_path) == []


def test_files_that_are_no_video(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"not a video" * 100)
    with pytest.raises(InputError, match="is not a video"):
        read_clip(tmp_path / "a.mp4")
    with pytest.raises(InputError, match="no picture track"):
        read_clip(record(tmp_path / "a.wav", speech()[None], "pcm_s16le"))
    data = film(tmp_path / "b.mp4", moving(), None).read_bytes()
    (tmp_path / "c.mp4").write_bytes(data[:600])
    with pytest.raises(InputError, match=r"c\.mp4"):
        read_clip(tmp_path / "c.mp4")


# ---- the same bytes --------------------------------------------------------------------------------------------------------------


# Clips of a few sizes whose sides are few macroblocks, moving texture, and what this process finds in memory that it never wrote.
ENCODES = """
import hashlib, sys
import numpy as np
from echoedge.runtime.play.clips import ClipWriter
texture = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
for height, width in ((64, 64), (48, 96), (80, 144)):
    with ClipWriter(sys.argv[1], height=height, width=width, fps=25, audio=np.zeros(6400, np.float32), force=True) as writer:
        for index in range(9):
            tile = np.roll(texture, (index, 2 * index), (0, 1)) if index % 2 else np.random.default_rng(index).permutation(texture)
            blocks = tile[: height // 4, : width // 4].repeat(4, 0).repeat(4, 1)
            writer.write(np.ascontiguousarray(np.pad(blocks, ((0, height - len(blocks)), (0, width - blocks.shape[1]), (0, 0)))))
    print(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest())
print(hashlib.sha256(np.empty(5000, np.uint8).tobytes()).hexdigest())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc fills new memory with a byte of choice")
def test_a_clip_does_not_depend_on_what_memory_held_before(tmp_path: Path) -> None:
    """x264's AVX-512 code of mbtree reads memory that it never wrote: with it, these bytes gave three different films."""
    told = []
    for byte in ("212", "101", "43"):
        environment = {**os.environ, "MALLOC_PERTURB_": byte}
        command = [sys.executable, "-c", ENCODES, str(tmp_path / "clip.mp4")]
        told.append(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split())
    films, memory = zip(*((lines[:-1], lines[-1]) for lines in told), strict=True)
    assert films[0] == films[1] == films[2]
    assert len(set(films[0])) == 3
    assert len(set(memory)) == 3  # the same comparison sees what is read unwritten
