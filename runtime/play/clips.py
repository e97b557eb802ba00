"""Clips out and in: MP4 (H.264, AAC) written frame by frame, videos read whole. PyAV is imported where it is used."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self, cast

import numpy as np
from numpy.typing import NDArray

from ...core.errors import EngineError, InputError, OutputError
from ...core.files import atomic_file
from .opening import existing_file, open_for_reading
from .speech import track_of

if TYPE_CHECKING:
    from av import VideoFrame
    from av.audio.stream import AudioStream
    from av.container import OutputContainer
    from av.video.reformatter import Interpolation
    from av.video.stream import VideoStream

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

H264_ENCODERS = ("libx264", "libopenh264", "h264_videotoolbox")
CRF = 17
_SAME_TIME = 1e-6  # seconds that time stamps are rounded by


class Clip(NamedTuple):
    """A decoded video. `audio` is float32 [n], mono, or None where there is no sound track."""

    frames: Pixels  # [T, H, W, 3]
    fps: float
    audio: Floats | None
    sample_rate: int


class ClipWriter:
    """Writes an MP4 (H.264, AAC) frame by frame; memory does not grow with its length.

        with ClipWriter("clip.mp4", height=64, width=64, fps=25, audio=wave) as writer:
            for frame in frames:
                writer.write(frame)

    The sound is cut or lengthened with silence to the frames that are written. The file appears under `path` when the block ends;
    if the body raises or is interrupted, nothing does. `audio` is float [n] in [-1, 1], mono, or None for a silent film.

    Raises:
        InputError: a size or rate cannot be encoded, or the sound is not finite mono.
        OutputError (on entering): `path` exists and `force` is off, or cannot be written.
        EngineError (on entering): this FFmpeg has no H.264 encoder.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        height: int,
        width: int,
        fps: int,
        audio: Floats | None = None,
        sample_rate: int = 16000,
        force: bool = False,
    ) -> None:
        if min(height, width) < 2 or height % 2 or width % 2:
            raise InputError(f"A clip {width} pixels wide and {height} high cannot be encoded; both sides must be even.")
        if fps < 1 or sample_rate < 1:
            raise InputError(f"fps is {fps} and sample_rate is {sample_rate}; both must be at least 1.")
        if audio is not None and (audio.ndim != 1 or not np.isfinite(audio).all()):
            raise InputError(f"The clip's sound has shape {list(audio.shape)}; it must be one channel of finite samples.")
        self.path, self.force = Path(path), force
        self.height, self.width, self.fps = height, width, fps
        self.audio, self.sample_rate = audio, sample_rate
        self.frames_written = 0
        self._exit = ExitStack()
        self._container: OutputContainer
        self._video: VideoStream
        self._sound: AudioStream

    def __enter__(self) -> Self:
        import av
        from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

        encoder = h264_encoder()
        with ExitStack() as stack:
            temporary = stack.enter_context(atomic_file(self.path, self.force))
            self._container = stack.enter_context(av.open(str(temporary), "w", format="mp4", options={"movflags": "faststart"}))
            self._video = cast("VideoStream", self._container.add_stream(encoder, rate=self.fps))
            self._video.height, self._video.width, self._video.pix_fmt = self.height, self.width, "yuv420p"
            context = self._video.codec_context
            context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
            context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
            if encoder == "libx264":
                context.options = {"crf": str(CRF), "mbtree": "0"}  # its AVX-512 code reads memory that it never wrote
            else:
                context.bit_rate = self.height * self.width * self.fps // 2
            if self.audio is not None:
                rate = self.sample_rate if self.sample_rate in (av.Codec("aac", "w").audio_rates or ()) else 48000
                self._sound = self._container.add_stream("aac", rate=rate, layout="mono")
            self._exit = stack.pop_all()
        return self

    def write(self, frame: Pixels) -> None:
        """Append one frame, uint8 [H, W, 3], and the sound that belongs to it.

        Raises:
            InputError: the frame has another shape or type.
            OutputError: FFmpeg refuses it.
        """
        import av

        expected = (self.height, self.width, 3)
        if frame.shape != expected or frame.dtype != np.uint8:
            raise InputError(
                f"Frame {self.frames_written} is {frame.dtype} {list(frame.shape)}; it must be uint8 {list(expected)}."
            )
        picture = encodable(frame)
        picture.pts, picture.time_base = self.frames_written, Fraction(1, self.fps)
        with self._refusal_is_a_sentence():
            self._container.mux(self._video.encode(picture))
            if self.audio is not None:
                start, samples = frame_sound(self.audio, self.frames_written, self.fps, self.sample_rate)
                sound = av.AudioFrame.from_ndarray(samples[None], "fltp", "mono")
                sound.sample_rate, sound.pts, sound.time_base = self.sample_rate, start, Fraction(1, self.sample_rate)
                self._container.mux(self._sound.encode(sound))
        self.frames_written += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            self._exit.__exit__(kind, error, trace)
            return
        with self._exit, self._refusal_is_a_sentence():
            if not self.frames_written:
                raise OutputError(f"{self.path} was not written: it has no frames.")
            self._container.mux(self._video.encode(None))
            if self.audio is not None:
                self._container.mux(self._sound.encode(None))

    @contextmanager
    def _refusal_is_a_sentence(self) -> Iterator[None]:
        import av

        try:
            yield
        except av.FFmpegError as error:
            if isinstance(error, OSError):  # of the disk; atomic_file knows what to say
                raise
            raise OutputError(f"{self.path} was not written: FFmpeg cannot encode it ({error.strerror}).") from error


def encodable(frame: Pixels) -> VideoFrame:
    """A frame, uint8 [H, W, 3], as encoders take it: planes Y [H, W], U and V [H / 2, W / 2] of BT.709 in limited range."""
    import av
    from av.video.reformatter import ColorRange, Colorspace

    return av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24").reformat(
        format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG, interpolation=_interpolation()
    )


def frame_sound(audio: Floats, number: int, fps: int, sample_rate: int) -> tuple[int, Floats]:
    """The part of a film's sound [n] that belongs to the frame of that number: where it starts, and its samples, clipped to ±1,
    silence behind the sound's end."""
    start, end = (count * sample_rate // fps for count in (number, number + 1))
    samples = np.clip(audio[start:end], -1, 1).astype(np.float32)
    return start, np.pad(samples, (0, end - start - samples.size))


def h264_encoder() -> str:
    """The name of the first H.264 encoder that this FFmpeg has.

    Raises:
        EngineError: it has none.
    """
    import av

    for name in H264_ENCODERS:
        if name in av.codecs_available:
            return name
    raise EngineError(f"This PyAV has none of {', '.join(H264_ENCODERS)}. Install its wheel: pip install --force-reinstall av")


def read_clip(path: str | Path) -> Clip:
    """All frames and the sound of a video, in memory, as a player shows them: turned and mirrored as its display matrix says, at
    the times that its frames have, the sound where it is beside the first frame.

    A video whose frames come at varying times is given at its mean rate, each moment with the frame that is seen then.

    Raises:
        InputError: there is no such file, it has no picture track, is damaged, in a high dynamic range (HLG, PQ), or turned by an
            angle that is no quarter.
    """
    import av

    path = existing_file(path, "video")
    interpolation = _interpolation()
    try:
        with open_for_reading(path) as container:
            if not container.streams.video:
                raise InputError(f"{path} has no picture track.")
            stream = container.streams.video[0]
            fps = float(stream.average_rate or 0)
            frames, times = list[Pixels](), list[float | None]()
            for frame in container.decode(video=0):
                _refuse_high_range(frame, path)
                frames.append(oriented(_pixels(frame, interpolation), _matrix(frame), path))
                times.append(frame.time)
            if not frames:
                raise InputError(f"{path} has no frames.")
            pictures = np.stack([frames[index] for index in shown_at(times, fps)])
            if not container.streams.audio:
                return Clip(pictures, fps, None, 0)
            sample_rate = container.streams.audio[0].rate
        with open_for_reading(path) as container:
            heard = track_of(container, 0, path, str(path), sample_rate, begins=times[0])
            return Clip(pictures, fps, heard.wave, sample_rate)
    except av.FFmpegError as error:
        raise InputError(f"{path} is not a video in a known format, or is damaged ({error.strerror}).") from error


def stream_frames(path: str | Path, fps: int) -> Iterator[Pixels]:
    """The frames of a video at `fps`, uint8 [H, W, 3], one after the other: at each tick, from the first frame on, what a player
    shows then. Memory holds one of them, however long the video is.

    Raises:
        InputError: as `read_clip`.
    """
    import av

    path = existing_file(path, "video")
    interpolation, seen, began, tick, count = _interpolation(), None, 0.0, 0, 0
    try:
        with open_for_reading(path) as container:
            if not container.streams.video:
                raise InputError(f"{path} has no picture track.")
            rate = float(container.streams.video[0].average_rate or fps)
            for frame in container.decode(video=0):
                _refuse_high_range(frame, path)
                time = count / rate if frame.time is None else frame.time
                began = time if seen is None else began
                while seen is not None and tick / fps < time - began - _SAME_TIME:
                    yield seen
                    tick += 1
                seen, count = oriented(_pixels(frame, interpolation), _matrix(frame), path), count + 1
                last = time - began
            if seen is None:
                raise InputError(f"{path} has no frames.")
            while tick / fps < last + 1 / rate - _SAME_TIME:  # the last frame is shown as long as others are
                yield seen
                tick += 1
    except av.FFmpegError as error:
        raise InputError(f"{path} is not a video in a known format, or is damaged ({error.strerror}).") from error


def sound_of(path: str | Path, sample_rate: int, most_seconds: float | None = None) -> Floats | None:
    """The sound of a video, float32 [n], mono at `sample_rate`, from its first frame on; None where it has no sound track.

    Raises:
        InputError: as `read_clip`, or the sound cannot be decoded.
    """
    import av

    path = existing_file(path, "video")
    try:
        with open_for_reading(path) as container:
            if not container.streams.video:
                raise InputError(f"{path} has no picture track.")
            if not container.streams.audio:
                return None
            first = next(iter(container.decode(video=0)), None)
            if first is None:
                raise InputError(f"{path} has no frames.")
        with open_for_reading(path) as container:
            return track_of(container, 0, path, str(path), sample_rate, most_seconds, begins=first.time).wave
    except av.FFmpegError as error:
        raise InputError(f"{path} is not a video in a known format, or is damaged ({error.strerror}).") from error


def _pixels(frame: VideoFrame, interpolation: Interpolation) -> Pixels:
    return np.asarray(frame.to_ndarray(format="rgb24", interpolation=interpolation), np.uint8)


def _refuse_high_range(frame: VideoFrame, path: Path) -> None:
    from av.video.reformatter import ColorTrc

    names = {ColorTrc.SMPTE2084: "PQ", ColorTrc.ARIB_STD_B67: "HLG"}
    if frame.color_trc in names:
        raise InputError(
            f"{path} is in high dynamic range ({names[ColorTrc(frame.color_trc)]}), whose colours would come out grey. Convert it "
            "to SDR (BT.709) first."
        )


def _matrix(frame: VideoFrame) -> tuple[int, int, int, int]:
    """a, b, c, d of a frame's display matrix in whole numbers: a point (x, y) is shown at (a·x + c·y, b·x + d·y)."""
    from av.sidedata.sidedata import Type

    data = frame.side_data.get(Type.DISPLAYMATRIX)  # type: ignore[call-overload]
    if data is None:
        return 1, 0, 0, 1
    a, b, _, c, d = struct.unpack_from("<5i", bytes(data))
    return tuple(round(value / 65536) if abs(value / 65536 - round(value / 65536)) < 1e-3 else 2 for value in (a, b, c, d))  # type: ignore[return-value]


def oriented(pixels: Pixels, matrix: tuple[int, int, int, int], path: Path) -> Pixels:
    """A picture [H, W, 3] as a display matrix of -1, 0 and 1 says: one of the eight ways to turn and mirror it.

    Raises:
        InputError: it is none of those.
    """
    a, b, c, d = matrix
    if (abs(a), abs(b), abs(c), abs(d)) not in ((1, 0, 0, 1), (0, 1, 1, 0)):
        raise InputError(f"{path} is turned by an angle that is no quarter, or stretched. Export the video again.")
    if a == 0:  # x becomes y
        pixels, a, d = pixels.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(pixels[:: 1 if d > 0 else -1, :: 1 if a > 0 else -1])


def shown_at(times: Sequence[float | None], fps: float) -> list[int]:
    """Which frame is seen at each tick of `fps`, from the first frame on; every frame once where they come at equal distances or
    have no times."""
    known = [time for time in times if time is not None]
    if len(known) < len(times) or not fps:
        return list(range(len(times)))
    since = np.asarray(known) - known[0]
    if np.abs(since - np.arange(len(since)) / fps).max() < 0.5 / fps:
        return list(range(len(times)))
    ticks = np.arange(round(since[-1] * fps) + 1) / fps
    return [int(index) for index in np.searchsorted(since, ticks + 1e-6, side="right") - 1]


def _interpolation() -> Interpolation:
    """How FFmpeg scales chroma: its default loses 19 dB on smooth colours (49.2 against 29.9 dB, measured at 64×64)."""
    from av.video.reformatter import Interpolation

    return Interpolation.LANCZOS | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP | Interpolation.FULL_CHR_H_INT
