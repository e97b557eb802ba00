"""runtime/play/clips.py, read_clip: videos as phones and editors leave them. Every file is made here."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from echoedge.core.errors import InputError
from echoedge.runtime.play.clips import ClipWriter, read_clip, shown_at

HEIGHT, WIDTH = 32, 48
SKIN = (200, 150, 120)


def picture() -> np.ndarray:
    """Four quarters of different colours, one of them with a spot: no turn or mirror leaves it alike."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[:16, :24], pixels[:16, 24:], pixels[16:, :24], pixels[16:, 24:] = (220, 30, 30), (30, 200, 30), (30, 30, 220), SKIN
    return pixels


def film(path: Path, frames: list[np.ndarray]) -> Path:
    with ClipWriter(path, height=frames[0].shape[0], width=frames[0].shape[1], fps=25) as writer:
        for frame in frames:
            writer.write(frame)
    return path


def with_matrix(path: Path, a: float, b: float, c: float, d: float) -> Path:
    """Writes a display matrix over the one of the film's only track (tkhd, version 0)."""
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 4 + 40
    data[place : place + 36] = struct.pack(">9i", *(round(v * 65536) for v in (a, b, 0, c, d, 0, 0, 0)), 1 << 30)
    path.write_bytes(data)
    return path


ORIENTATIONS = {
    "as it is": ((1, 0, 0, 1), lambda p: p),
    "a quarter clockwise": ((0, 1, -1, 0), lambda p: np.rot90(p, -1)),
    "a half": ((-1, 0, 0, -1), lambda p: np.rot90(p, 2)),
    "a quarter anticlockwise": ((0, -1, 1, 0), lambda p: np.rot90(p, 1)),
    "mirrored": ((-1, 0, 0, 1), np.fliplr),
    "upside down": ((1, 0, 0, -1), np.flipud),
    "transposed": ((0, 1, 1, 0), lambda p: p.transpose(1, 0, 2)),
    "transposed the other way": ((0, -1, -1, 0), lambda p: np.rot90(p, 2).transpose(1, 0, 2)),
}


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_a_display_matrix_turns_and_mirrors(name: str, tmp_path: Path) -> None:
    matrix, expected = ORIENTATIONS[name]
    found = read_clip(with_matrix(film(tmp_path / "a.mp4", [picture()] * 3), *matrix)).frames
    wanted = expected(picture())
    assert found.shape == (3, *wanted.shape)
    inside = np.abs(found[1].astype(int) - wanted)[2:-2, 2:-2]
    assert np.median(inside) <= 2 and (inside > 30).mean() < 0.12  # edges between the colours ring
    others = [other(picture()) for key, (_, other) in ORIENTATIONS.items() if key != name]
    assert all(np.abs(found[1].astype(int) - o).mean() > 20 for o in others if o.shape == wanted.shape)


def test_another_angle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.mp4 is turned by an angle that is no quarter"):
        read_clip(with_matrix(film(tmp_path / "a.mp4", [picture()]), 0.7071, 0.7071, -0.7071, 0.7071))


def encoded(path: Path, times: list[int], **colours: int) -> Path:
    """A film whose frame i is grey level 10·i, at `times` in hundredths of a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 100)
        for name, value in colours.items():
            setattr(stream.codec_context, name, value)
        for index, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.full((HEIGHT, WIDTH, 3), 10 * index, np.uint8), "rgb24").reformat(
                format="yuv420p"
            )
            frame.pts, frame.time_base = time, Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_frames_at_varying_times_are_shown_when_they_are_seen(tmp_path: Path) -> None:
    times = [0, 4, 8, 50, 54, 100]
    clip = read_clip(encoded(tmp_path / "a.mkv", times))
    levels = clip.frames.mean((1, 2, 3))
    for tick, level in enumerate(levels):
        seen = max(i for i, time in enumerate(times) if time / 100 <= tick / clip.fps + 0.006)
        assert abs(level - 10 * seen) < 4, (tick, level)
    assert len(levels) / clip.fps == pytest.approx(1.0 + 1 / clip.fps, abs=0.02)


def test_frames_at_equal_times_stay_as_they_are() -> None:
    assert shown_at([0.0, 0.041, 0.079, 0.12], 25) == [0, 1, 2, 3]
    assert shown_at([0.0, 0.04, 0.2], 25) == [0, 1, 1, 1, 1, 2]
    assert shown_at([None, None], 25) == [0, 1]


@pytest.mark.parametrize(("curve", "name"), [(16, "PQ"), (18, "HLG"), (1, None)])
def test_high_dynamic_range_is_refused(curve: int, name: str | None, tmp_path: Path) -> None:
    path = encoded(tmp_path / "a.mkv", [0, 4, 8], color_trc=curve, colorspace=9 if name else 1, color_primaries=9 if name else 1)
    if name is None:
        assert len(read_clip(path).frames) == 3
        return
    with pytest.raises(InputError, match=rf"high dynamic range \({name}\).*Convert it to SDR"):
        read_clip(path)


@pytest.mark.parametrize(("video_at", "sound_at"), [(0.0, 0.48), (0.48, 0.0), (0.2, 0.2)])
def test_sound_keeps_its_place_beside_the_picture(video_at: float, sound_at: float, tmp_path: Path) -> None:
    path, rate = tmp_path / "a.mkv", 16000
    with av.open(str(path), "w") as container:
        video, sound = container.add_stream("mpeg4", rate=25), container.add_stream("pcm_s16le", rate=rate, layout="mono")
        video.height, video.width, video.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for index in range(50):
            frame = av.VideoFrame(WIDTH, HEIGHT, "yuv420p")
            frame.pts = index + round(video_at * 25)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        click = np.zeros((1, 2 * rate), np.int16)
        click[0, rate] = 20000  # a second after the sound begins
        block = av.AudioFrame.from_ndarray(click, "s16", "mono")
        block.sample_rate, block.pts = rate, round(sound_at * rate)
        container.mux(sound.encode(block))
        container.mux(sound.encode(None))
    audio = read_clip(path).audio
    assert audio is not None
    assert int(np.abs(audio).argmax()) / rate == pytest.approx(1 + sound_at - video_at, abs=0.005)


def test_ten_trips_keep_a_colour(tmp_path: Path) -> None:
    frames = np.full((4, HEIGHT, WIDTH, 3), SKIN, np.uint8)
    for trip in range(10):
        frames = read_clip(film(tmp_path / f"{trip}.mp4", list(frames))).frames
    assert np.abs(frames.astype(int) - SKIN).max() <= 2  # measured: 0
