"""runtime/play/pictures.py and speech.py: every common format, what is refused, and sizes.

Colours, depths and rare files: test_picture_files.py; crops: test_cropping.py; clips: test_media_clips.py.
"""

from __future__ import annotations

import io
import struct
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

from echoedge.core.errors import InputError
from echoedge.runtime.play.clips import read_clip
from echoedge.runtime.play.pictures import (
    output_size,
    read_portrait,
    read_portrait_pixels,
    reference_video,
    resize_pixels,
    to_pixels,
    to_signed,
)
from echoedge.runtime.play.speech import clip_frames, fit_speech, loudness, normalise_loudness, read_speech


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


# --- 1. portraits -----------------------------------------------------------------------------------------------------------------


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
    for picture in (red, blue):
        picture.paste((255, 255, 255), (8, 8, 24, 24))
    pixels = read_portrait_pixels(saved(tmp_path / "a.gif", red, save_all=True, append_images=[blue]), 32, 32)
    assert pixels[0, 0].tolist() == [255, 0, 0]


def test_the_middle_of_a_wide_picture_is_kept(tmp_path: Path) -> None:
    stripes = np.zeros((32, 96, 3), np.uint8)
    for third in range(3):
        stripes[:, 32 * third : 32 * third + 32, third] = 255
    np.testing.assert_array_equal(
        read_portrait_pixels(saved(tmp_path / "wide.png", Image.fromarray(stripes)), 32, 32), stripes[:, 32:64]
    )


@pytest.mark.parametrize("size", [(5000, 4000), (6400, 6000)])  # 20 megapixels; 38, which JPEG decodes reduced
def test_large_photographs(size: tuple[int, int], tmp_path: Path) -> None:
    small = Image.fromarray(smooth(size[1] // 100, size[0] // 100))
    path = saved(tmp_path / "a.jpg", small.resize(size, Image.Resampling.BILINEAR), quality=90)
    left, right = (small.width - small.height) / 2, (small.width + small.height) / 2
    square = small.resize((64, 64), Image.Resampling.LANCZOS, box=(left, 0, right, small.height))
    assert psnr(read_portrait_pixels(path, 64, 64), np.asarray(square)) > 45  # measured 52.8 and 53.3 dB


def test_smallest_portrait(tmp_path: Path) -> None:
    assert read_portrait_pixels(saved(tmp_path / "a.png", Image.fromarray(smooth(16, 16))), 64, 64).shape == (64, 64, 3)
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
    Image.fromarray(np.where(np.eye(64, dtype=bool), np.nan, np.float32(0.5)).astype(np.float32)).save(buffer, "TIFF")
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
        (float_tiff, "floating-point pixels are not finite"),
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
    assert [clip_frames(n / 25, 25) for n in range(1, 2000)] == list(range(1, 2000))
    assert (clip_frames(1.15, 25), clip_frames(1.15, 25, upstream_compat=True)) == (29, 25)  # 28.75 frames
    assert clip_frames(3.287, 25, cap=81) == 81
    assert [clip_frames(seconds, 25) for seconds in (0.04, 0.041, 0.079, 0.3)] == [1, 2, 2, 8]
    for seconds, cap in ((0.039, None), (0.0, None), (1.0, 0)):
        with pytest.raises(InputError, match="less than one video frame"):
            clip_frames(seconds, 25, cap)


def test_fit_speech() -> None:
    wave = np.ones(1000, np.float32)
    assert fit_speech(wave, 1, 25, 16000).tolist() == [1.0] * 640
    longer = fit_speech(wave, 2, 25, 16000)
    assert longer.dtype == np.float32
    assert longer.tolist() == [1.0] * 1000 + [0.0] * 280


# --- 3. speech --------------------------------------------------------------------------------------------------------------------

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
    assert heard.size == 16000 or suffix == "aac"  # a bare stream does not say where its last block ends
    heard = heard[:16000]
    assert np.corrcoef(heard, expected)[0, 1] > 0.99  # least measured: 0.9970, bare AAC
    assert np.corrcoef(heard[20:], expected[:-20])[0, 1] < 0.5  # 1.25 ms late: measured 0.19


def test_channels_are_averaged(tmp_path: Path) -> None:
    wave = speech()
    stereo = read_speech(record(tmp_path / "a.wav", np.stack([wave, np.zeros_like(wave)]), "pcm_f32le"))
    mono = read_speech(record(tmp_path / "b.wav", wave[None], "pcm_f32le"))
    np.testing.assert_allclose(stereo, mono, atol=1e-5)


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
    monkeypatch.setattr("echoedge.runtime.play.speech.MAX_SPEECH_SECONDS", 2)
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
