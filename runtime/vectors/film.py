"""Frames: of latents' video to pixels, pixels to what encoders take, and when each frame is shown."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from ..play.clips import ClipWriter, encodable, frame_sound
from ..play.opening import open_for_reading
from ..play.player import pixels_of
from .group import Group, levels, numbers, smooth

# Largest differences of FFmpeg's planes from the formula of docs/PLAYERS.md, measured: one level, in luma and, of the smooth
# picture, in chroma, which FFmpeg takes from more pixels than four; of flat and of grey pictures none in chroma.
FLAT, LUMA, SMOOTH = 1, 1, 2
_RATES = (25, 24, 30, 12, 16, 50, 60, 1, 7, 29, 15, 128)


def colour() -> Group:
    group = Group("colour")
    halves = (np.arange(-4, 260) + 0.5) / 127.5 - 1
    video = np.concatenate([halves, [-1.0, 1.0, -1.5, 1.5, 0.0, -0.0, 1e30, -1e30]]).astype(np.float32)
    video = np.concatenate([video, np.nextafter(video, np.float32(2)), np.nextafter(video, np.float32(-2))])
    video = np.resize(video, 3 * 3 * 10 * 10).reshape(3, 3, 10, 10)
    group.case(
        "pixels", "halves and ends", {"video": video}, {"pixels": pixels_of(video)}, trap="halves go to even, and in float32"
    )
    drawn = np.clip(0.6 * numbers(110, 4, 3, 16, 16), -1.2, 1.2)
    group.case("pixels", "drawn", {"video": drawn}, {"pixels": pixels_of(drawn)})
    for name, levels_of_one in (
        ("black", (0, 0, 0)), ("white", (255, 255, 255)), ("grey", (128, 128, 128)), ("red", (255, 0, 0)), ("green", (0, 255, 0)),
        ("blue", (0, 0, 255)), ("skin", (224, 172, 140)), ("cyan", (0, 255, 255)), ("dark", (17, 33, 9)),
    ):  # fmt: skip
        _planes(group, f"flat {name}", np.full((16, 16, 3), levels_of_one, np.uint8), {"y": FLAT, "u": FLAT, "v": FLAT})
    _planes(group, "smooth", smooth(6, 32, 48), {"y": LUMA, "u": SMOOTH, "v": SMOOTH})
    grey = np.repeat(levels(8, 16, 16, 1), 3, 2)
    _planes(group, "noise, grey", grey, {"y": LUMA, "u": FLAT, "v": FLAT})
    return group


def _planes(group: Group, name: str, pixels: np.ndarray, within: dict[str, float]) -> None:
    made = encodable(pixels).to_ndarray()  # [3 H / 2, W]: Y, then U, then V
    height, width = pixels.shape[:2]
    chroma = made[height:].reshape(2, height // 2, width // 2)
    expected = {"y": np.ascontiguousarray(made[:height]), "u": chroma[0].copy(), "v": chroma[1].copy()}
    trap = "BT.601, or full range" if name.startswith("flat") else None
    group.case("yuv", name, {"pixels": pixels}, expected, within=within, trap=trap)


def mp4() -> Group:
    group = Group("mp4")
    with TemporaryDirectory() as name:
        for fps in _RATES:
            _times(group, Path(name) / "clip.mp4", fps, 9)
    for fps, rate, frames, samples in ((25, 16000, 4, 2560), (30, 16000, 5, 2100), (24, 22050, 3, 3000), (7, 1000, 3, 428)):
        speech = 0.7 * numbers(fps, samples)
        parts = [frame_sound(speech, number, fps, rate) for number in range(frames)]
        ranges = np.array([(start, start + len(sound)) for start, sound in parts], np.int64)
        given = {"fps": fps, "frames": frames, "sample_rate": rate, "speech": speech}
        expected = {"ranges": ranges, "sound": np.concatenate([sound for _, sound in parts])}
        group.case("sound", f"{frames} frames at {fps}, {rate} Hz", given, expected)
    return group


def _times(group: Group, path: Path, fps: int, frames: int) -> None:
    """Of a film that is written and read again: its container's own ticks."""
    with ClipWriter(path, height=16, width=16, fps=fps, force=True) as writer:
        for number in range(frames):
            writer.write(np.full((16, 16, 3), 20 * number, np.uint8))
    with open_for_reading(path) as container:
        stream = container.streams.video[0]
        scale = stream.time_base.denominator if stream.time_base else 0
        ticks = sorted(packet.pts for packet in container.demux(stream) if packet.pts is not None)
    expected = {
        "time_scale": scale, "ticks": np.array(ticks, np.int64),
        "microseconds": np.array([(2 * 10**6 * tick + scale) // (2 * scale) for tick in ticks], np.int64),
    }  # fmt: skip
    group.case(
        "times", f"{frames} frames at {fps}", {"fps": fps, "frames": frames}, expected, trap="a sum of rounded frame times drifts"
    )
