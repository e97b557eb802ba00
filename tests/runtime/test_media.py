"""runtime/play/media.py: portraits and speech in every common format, what is refused, and clips that are written and read back."""

from __future__ import annotations

import io
import os
import platform
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from scipy.signal import resample_poly

from echoedge.core.errors import EngineError, InputError, OutputError, ResourceError
from echoedge.runtime.play import media
from echoedge.runtime.play.media import (
    ClipWriter,
    clip_frames,
    fit_speech,
    loudness,
    normalise_loudness,
    output_size,
    read_clip,
    read_portrait,
    read_portrait_pixels,
    read_speech,
    reference_video,
    resize_pixels,
    to_pixels,
    to_signed,
)


def smooth(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A picture without fine detail, which lossy formats keep: uint8 [height, width, 3]."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def or_message(read: Callable[[], np.ndarray]) -> np.ndarray | str:
    """What `read` returns, or the text of its InputError; any other exception fails the test."""
    try:
        return read()
    except InputError as error:
        return str(error)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(1e-9, np.mean((a.astype(float) - b) ** 2))))


# --- 1. portraits ----------------------------------------------------------------------------------------------------------------


def saved(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "ppm", "tga"])
def test_lossless_formats_are_resized_as_upstream_does(suffix: str, tmp_path: Path) -> None:
    image = Image.fromarray(smooth(96, 64))
    path = saved(tmp_path / f"a.{suffix}", image)
    expected = np.asarray(image.resize((32, 48), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(read_portrait_pixels(path, 48, 32), expected)
    assert not np.array_equal(np.asarray(image.resize((32, 48), Image.Resampling.BICUBIC)), expected)


# Measured 44.6, 42.2 and 30.4 dB; of another picture 8.9.
@pytest.mark.parametrize(("suffix", "least"), [("jpg", 38), ("webp", 36), ("gif", 24)])
def test_lossy_formats(suffix: str, least: float, tmp_path: Path) -> None:
    image = Image.fromarray(smooth(64, 64))
    path = saved(tmp_path / f"a.{suffix}", image, **({} if suffix == "gif" else {"quality": 95}))
    assert psnr(read_portrait_pixels(path, 64, 64), np.asarray(image)) > least
    assert psnr(read_portrait_pixels(path, 64, 64), smooth(64, 64, seed=1)) < 20


def test_float_portrait(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(smooth(32, 32)))
    portrait = read_portrait(path, 32, 32)
    assert portrait.dtype == np.float32
    assert portrait.shape == (3, 32, 32)
    assert portrait.flags.c_contiguous
    np.testing.assert_array_equal(to_pixels(portrait), smooth(32, 32))


def test_signed_and_back() -> None:
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3).repeat(2, axis=0)
    signed = to_signed(every)
    assert signed.shape == (3, 2, 16, 16)
    assert signed.min() == -1
    assert signed.max() == 1
    np.testing.assert_array_equal(to_pixels(signed), every)
    np.testing.assert_array_equal(to_pixels(np.full((3, 1, 1), 7, np.float32)), np.full((1, 1, 3), 255))


def test_pixels_are_rounded_and_upstreams_are_cut_off() -> None:
    """Upstream's defect: saved frames lose the fraction of a level."""
    levels = np.array([0.4, 0.6, 127.4, 127.6, 254.6], np.float32)
    signed = (levels / 127.5 - 1).reshape(1, 1, 5).repeat(3, axis=0)
    assert to_pixels(signed)[0, :, 0].tolist() == [0, 1, 127, 128, 255]
    assert to_pixels(signed, upstream_compat=True)[0, :, 0].tolist() == [0, 0, 127, 127, 254]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_reference_video_begins_with_its_pictures(count: int) -> None:
    pictures = [smooth(40 + index, 60, seed=index) for index in range(count)]
    video, mask = reference_video(pictures, 5, 48, 32)
    assert (video.dtype, video.shape) == (np.uint8, (5, 48, 32, 3))
    assert (mask.dtype, mask.shape) == (np.float32, (5, 48, 32))
    for index in range(5):
        picture = Image.fromarray(pictures[index if index < count else 0])
        np.testing.assert_array_equal(video[index], np.asarray(picture.resize((32, 48), Image.Resampling.LANCZOS)))
        assert np.unique(mask[index]).tolist() == [float(index >= count)]
    assert not np.array_equal(video[0], np.asarray(Image.fromarray(pictures[0]).resize((32, 48), Image.Resampling.BICUBIC)))


def test_pictures_of_the_clips_size_are_taken_as_they_are() -> None:
    frames = [smooth(48, 32, seed) for seed in range(3)]
    np.testing.assert_array_equal(reference_video(frames, 5, 48, 32)[0][:3], frames)
    assert not np.array_equal(resize_pixels(frames[0], 32, 48), frames[0].swapaxes(0, 1))


@pytest.mark.parametrize("count", [0, 6])
def test_reference_videos_that_cannot_be(count: int) -> None:
    with pytest.raises(InputError, match=f"A clip of 5 frames cannot begin with {count} pictures; give 1 to 5"):
        reference_video([smooth(16, 16)] * count, 5, 16, 16)


def test_exif_orientation(tmp_path: Path) -> None:
    image = Image.fromarray(smooth(40, 60))
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its left side
    path = saved(tmp_path / "a.png", image, exif=exif)
    np.testing.assert_array_equal(read_portrait_pixels(path, 60, 40), np.asarray(image.rotate(-90, expand=True)))
    assert psnr(read_portrait_pixels(path, 60, 40), np.asarray(image.resize((40, 60)))) < 25


def test_transparency_becomes_mid_grey(tmp_path: Path) -> None:
    rgba = np.full((32, 32, 4), 255, np.uint8)
    rgba[:, :16, 3] = 0
    rgba[16:, 16:, 3] = 128
    pixels = read_portrait_pixels(saved(tmp_path / "a.png", Image.fromarray(rgba)), 32, 32)
    assert [int(pixels[y, x, 0]) for y, x in ((4, 4), (4, 28), (28, 28))] == [128, 255, 192]


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "CMYK", "RGBA", "I;16"])
def test_modes(mode: str, tmp_path: Path) -> None:
    grey = np.repeat(np.arange(0, 256, 8, dtype=np.uint8)[None], 32, axis=0)
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 257)
    elif mode == "1":
        image = Image.fromarray(np.where(grey > 127, 255, 0).astype(np.uint8)).convert("1")
    else:
        image = Image.fromarray(grey).convert(mode)
    pixels = read_portrait_pixels(saved(tmp_path / ("a.tiff" if mode == "CMYK" else "a.png"), image), 32, 32)
    expected = np.where(grey > 127, 255, 0) if mode == "1" else grey
    assert np.abs(pixels.astype(int) - expected[..., None]).max() <= 1
    if mode == "I;16":  # Pillow's own conversion burns everything above 255 out
        assert np.asarray(Image.open(tmp_path / "a.png").convert("RGB"))[:, 8:].min() == 255


def test_palette_with_a_transparent_colour(tmp_path: Path) -> None:
    image = Image.new("P", (32, 32), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(1, (16, 0, 32, 32))
    pixels = read_portrait_pixels(saved(tmp_path / "a.png", image, transparency=0), 32, 32)
    assert pixels[4, 4].tolist() == [128, 128, 128]
    assert pixels[4, 28].tolist() == [0, 0, 255]


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    red, blue = (Image.new("RGB", (32, 32), colour) for colour in ((255, 0, 0), (0, 0, 255)))
    pixels = read_portrait_pixels(saved(tmp_path / "a.gif", red, save_all=True, append_images=[blue]), 32, 32)
    assert pixels[0, 0].tolist() == [255, 0, 0]


def test_the_middle_is_kept(tmp_path: Path) -> None:
    stripes = np.zeros((32, 96, 3), np.uint8)
    for third in range(3):
        stripes[:, 32 * third : 32 * third + 32, third] = 255
    np.testing.assert_array_equal(
        read_portrait_pixels(saved(tmp_path / "wide.png", Image.fromarray(stripes)), 32, 32), stripes[:, 32:64]
    )
    tall = Image.fromarray(stripes).rotate(-90, expand=True)
    np.testing.assert_array_equal(read_portrait_pixels(saved(tmp_path / "tall.png", tall), 32, 32), stripes[:, 32:64])


@pytest.mark.parametrize("size", [(5000, 4000), (6400, 6000)])  # 20 megapixels; 38, which JPEG decodes reduced
def test_large_photographs(size: tuple[int, int], tmp_path: Path) -> None:
    small = Image.fromarray(smooth(size[1] // 100, size[0] // 100))
    path = saved(tmp_path / "a.jpg", small.resize(size, Image.Resampling.BILINEAR), quality=90)
    left, right = (small.width - small.height) / 2, (small.width + small.height) / 2
    square = small.resize((64, 64), Image.Resampling.LANCZOS, box=(left, 0, right, small.height))
    assert psnr(read_portrait_pixels(path, 64, 64), np.asarray(square)) > 45  # measured 52.8 and 53.3 dB


def test_smallest_portrait(tmp_path: Path) -> None:
    assert read_portrait_pixels(saved(tmp_path / "a.png", Image.new("RGB", (16, 16))), 64, 64).shape == (64, 64, 3)
    for width, height in ((15, 400), (400, 15), (1, 1)):
        with pytest.raises(InputError, match=f"is {width} pixels wide and {height} high; it needs at least 16 a side"):
            read_portrait_pixels(saved(tmp_path / "b.png", Image.new("RGB", (width, height))), 64, 64)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_decompression_bomb(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(InputError, match=r"a\.png has more than 178 million pixels"):
        read_portrait_pixels(tmp_path / "a.png", 64, 64)


def png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(smooth(64, 64)).save(buffer, "JPEG")
    return buffer.getvalue()


def float_tiff() -> bytes:
    buffer = io.BytesIO()
    Image.new("F", (64, 64)).save(buffer, "TIFF")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (lambda: b"", r"is empty \(0 bytes\)"),
        (lambda: b"This is a text.\n" * 20, "is not an image in a known format"),
        (lambda: png()[:10], "is not an image in a known format"),
        (lambda: png()[:2000], "cannot be read"),
        (lambda: jpeg()[:700], "cannot be read"),
        (lambda: png()[:60] + bytes(50) + png()[110:], "cannot be read"),
        (float_tiff, "floating-point"),
    ],
)
def test_files_that_are_no_portrait(data: Callable[[], bytes], words: str, tmp_path: Path) -> None:
    (tmp_path / "portrait.png").write_bytes(data())
    with pytest.raises(InputError, match=words):
        read_portrait_pixels(tmp_path / "portrait.png", 64, 64)


@pytest.mark.parametrize("read", [lambda path: read_portrait(path, 64, 64), read_speech, read_clip])
def test_missing_file_and_folder(read: Callable[[Path], Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"There is no .* .*missing\.x\. Check the name\."):
        read(tmp_path / "missing.x")
    with pytest.raises(InputError, match="is not a file"):
        read(tmp_path)


@pytest.mark.parametrize("seed", range(40))
def test_damaged_images_raise_nothing_else(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    data = bytearray(png() if seed % 2 else jpeg())
    for place in rng.integers(0, len(data) if seed % 3 else 100, 5):
        data[place] = rng.integers(256)
    (tmp_path / "a").write_bytes(data[: rng.integers(len(data) // 2, len(data) + 1)])
    result = or_message(lambda: read_portrait_pixels(tmp_path / "a", 32, 32))
    assert str(tmp_path / "a") in result if isinstance(result, str) else result.shape == (32, 32, 3)


# --- 2. sizes, as upstream computes them ------------------------------------------------------------------------------------------


def test_output_size_follows_the_image() -> None:
    assert output_size(1080, 1920, 480, 832) == (464, 832)
    assert output_size(1080, 1920, 480, 832) != output_size(1920, 1080, 480, 832)
    with pytest.raises(InputError, match="too small or too narrow"):
        output_size(40000, 20, 256, 256)


def test_clip_frames_of_whole_frames() -> None:
    """A sound of exactly n frames gives n frames, also where the product is a little below n: int(1.16 * 25) is 28."""
    assert int(1.16 * 25) == 28
    assert clip_frames(1.16, 25) == 29
    assert clip_frames(1.16, 25, upstream_compat=True) == 25
    assert [clip_frames(n / 25, 25) for n in range(1, 2000, 4)] == list(range(1, 2000, 4))
    assert clip_frames(1.15, 25) == 25
    for seconds, cap in ((0.039, None), (0.0, None), (1.0, 0)):
        with pytest.raises(InputError, match="less than one video frame"):
            clip_frames(seconds, 25, cap)


def test_fit_speech() -> None:
    wave = np.ones(1000, np.float32)
    assert fit_speech(wave, 1, 25, 16000).tolist() == [1.0] * 640
    longer = fit_speech(wave, 2, 25, 16000)
    assert longer.dtype == np.float32
    assert longer.tolist() == [1.0] * 1000 + [0.0] * 280


# --- 3. speech -------------------------------------------------------------------------------------------------------------------

RATE = 44100


def speech(seconds: float = 1.0, rate: int = RATE) -> np.ndarray:
    """A voice-like sound: harmonics of a gliding pitch under syllables: float32 [n]."""
    time = np.arange(round(seconds * rate)) / rate
    phase = 2 * np.pi * np.cumsum(120 + 40 * np.sin(2 * np.pi * 0.7 * time)) / rate
    voice = sum(np.sin(harmonic * phase) / harmonic for harmonic in range(1, 12))
    return (0.2 * voice * (0.1 + np.sin(2 * np.pi * 2 * time) ** 2)).astype(np.float32)


def record(path: Path, channels: np.ndarray, codec: str, rate: int = RATE, stream_rate: int | None = None) -> Path:
    """Encode float [channels, n] with PyAV; the container is that of the suffix."""
    layout = {1: "mono", 2: "stereo"}[len(channels)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=stream_rate or rate, layout=layout)
        assert isinstance(stream, av.AudioStream)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(channels, np.float32), "fltp", layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


FORMATS = [
    ("wav", "pcm_s16le", None),
    ("wav", "pcm_f32le", None),
    ("wav", "pcm_u8", None),
    ("mp3", "libmp3lame", None),
    ("m4a", "aac", None),
    ("aac", "aac", None),
    ("flac", "flac", None),
    ("ogg", "libopus", 48000),
    ("opus", "libopus", 48000),
    ("webm", "libopus", 48000),
    ("aiff", "pcm_s16be", None),
    ("mov", "aac", None),
]


@pytest.mark.parametrize(("suffix", "codec", "rate"), FORMATS)
def test_formats(suffix: str, codec: str, rate: int | None, tmp_path: Path) -> None:
    wave = speech()
    path = record(tmp_path / f"a.{suffix}", np.stack([wave, wave / 2]), codec, stream_rate=rate)
    heard = read_speech(path)
    expected = resample_poly(wave, 160, 441)
    assert heard.dtype == np.float32
    assert heard.ndim == 1
    assert loudness(heard, 16000) == pytest.approx(-23, abs=0.01)
    if suffix == "aac":  # a bare stream does not say that its first 1024 samples are the encoder's start
        heard = heard[round(1024 * 16000 / RATE) :]
    assert heard.size >= 16000
    assert suffix == "aac" or heard.size == 16000
    heard = heard[:16000]
    assert np.corrcoef(heard, expected)[0, 1] > 0.99  # least measured: 0.9970, bare AAC
    assert np.corrcoef(heard[20:], expected[:-20])[0, 1] < 0.5  # 1.25 ms late: measured 0.19


def test_channels_are_averaged(tmp_path: Path) -> None:
    wave = speech()
    stereo = read_speech(record(tmp_path / "a.wav", np.stack([wave, np.zeros_like(wave)]), "pcm_f32le"))
    mono = read_speech(record(tmp_path / "b.wav", wave[None], "pcm_f32le"))
    np.testing.assert_allclose(stereo, mono, atol=1e-5)
    with pytest.raises(InputError, match="is silent"):  # the channels cancel
        read_speech(record(tmp_path / "c.wav", np.stack([wave, -wave]), "pcm_f32le"))


def test_other_sample_rate(tmp_path: Path) -> None:
    heard = read_speech(record(tmp_path / "a.wav", speech()[None], "pcm_f32le"), sample_rate=24000)
    assert heard.size == 24000
    assert loudness(heard, 24000) == pytest.approx(-23, abs=0.01)


def test_recording_spliced_of_two_formats(tmp_path: Path) -> None:
    first = record(tmp_path / "a.aac", speech()[None], "aac").read_bytes()
    second = record(tmp_path / "b.aac", np.stack([speech(1, 22050)] * 2), "aac", rate=22050).read_bytes()
    (tmp_path / "c.aac").write_bytes(first + second)
    assert read_speech(tmp_path / "c.aac").size == pytest.approx(32000, abs=4000)


def test_loudness_of_less_than_a_block() -> None:
    """A steady sound is as loud in 0.1 s as in 10 s."""
    tone = (0.1 * np.sin(2 * np.pi * 1000 * np.arange(160000) / 16000)).astype(np.float32)
    assert loudness(tone[:1600], 16000) == pytest.approx(loudness(tone, 16000), abs=0.01)  # measured 0.0003
    assert loudness(np.zeros(1600, np.float32), 16000) == -np.inf
    assert loudness(normalise_loudness(tone[:1600], 16000), 16000) == pytest.approx(-23, abs=0.01)


def test_shortest_speech(tmp_path: Path) -> None:
    assert read_speech(record(tmp_path / "a.wav", speech()[None, :1764], "pcm_s16le")).size == 640  # one frame at 25 fps
    with pytest.raises(InputError, match=r"lasts 0\.039 s, less than one video frame \(0\.040 s\)"):
        read_speech(record(tmp_path / "b.wav", speech()[None, :1720], "pcm_s16le"))


def test_longest_speech(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = record(tmp_path / "a.wav", speech(2.5)[None], "pcm_s16le")
    assert read_speech(path).size == 40000
    monkeypatch.setattr(media, "MAX_SPEECH_SECONDS", 2)
    with pytest.raises(InputError, match="lasts longer than"):
        read_speech(path)


@pytest.mark.parametrize(("peak", "audible"), [(0.0, False), (0.0009, False), (0.002, True)])
def test_silence(peak: float, audible: bool, tmp_path: Path) -> None:
    wave = speech()
    path = record(tmp_path / "a.wav", wave[None] / np.abs(wave).max() * peak, "pcm_f32le")
    if audible:
        assert loudness(read_speech(path), 16000) == pytest.approx(-23, abs=0.01)
    else:
        with pytest.raises(InputError, match="is silent" if peak else "is silent .its peak is zero"):
            read_speech(path)


def test_a_click_in_silence_is_silence(tmp_path: Path) -> None:
    """Its peak is -40 dBFS, but no block of it reaches -70 LUFS."""
    wave = np.zeros(RATE, np.float32)
    wave[RATE // 2] = 0.01
    with pytest.raises(InputError, match="is silent"):
        read_speech(record(tmp_path / "a.wav", wave[None], "pcm_f32le"))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite(value: float, tmp_path: Path) -> None:
    wave = speech()
    wave[20000] = value
    with pytest.raises(InputError, match="not finite"):
        read_speech(record(tmp_path / "a.wav", wave[None], "pcm_f32le"))


def test_files_that_are_no_sound(tmp_path: Path) -> None:
    contents = {
        "text.wav": b"This is a text.\n" * 20,
        "noise.mp3": np.random.default_rng(0).bytes(5000),
        "image.wav": png(),
        "header.wav": record(tmp_path / "a.wav", speech()[None], "pcm_s16le").read_bytes()[:44],
        "moov.mp4": record(tmp_path / "a.mp4", speech()[None], "aac").read_bytes()[:4000],
        "playlist.m3u8": b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n",
    }
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=name):
            read_speech(tmp_path / name)
    (tmp_path / "empty.wav").write_bytes(b"")
    with pytest.raises(InputError, match="empty"):
        read_speech(tmp_path / "empty.wav")


def test_cut_off_recording_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    data = record(tmp_path / "a.mp3", speech(2)[None], "libmp3lame").read_bytes()
    (tmp_path / "b.mp3").write_bytes(data[: len(data) // 2])
    assert read_speech(tmp_path / "b.mp3").size == pytest.approx(16000, abs=2000)


@pytest.mark.parametrize("seed", range(30))
def test_damaged_sounds_raise_nothing_else(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    suffix, codec, rate = FORMATS[seed % len(FORMATS)]
    path = record(tmp_path / f"a.{suffix}", speech(0.3)[None], codec, stream_rate=rate)
    data = bytearray(path.read_bytes())
    for place in rng.integers(0, min(len(data), 400), 6):
        data[place] = rng.integers(256)
    path.write_bytes(data)
    result = or_message(lambda: read_speech(path))
    assert str(path) in result if isinstance(result, str) else np.isfinite(result).all()


# --- 4. clips --------------------------------------------------------------------------------------------------------------------

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
from echoedge.runtime.play.media import ClipWriter
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
    assert media.h264_encoder() == "libopenh264"
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


# ---- the same bytes ------------------------------------------------------------------------------------------------------------

# Clips of a few sizes whose sides are few macroblocks, moving texture, and what this process finds in memory that it never wrote.
ENCODES = """
import hashlib, sys
import numpy as np
from echoedge.runtime.play.media import ClipWriter
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
