"""Videos of people who speak, cut into windows of a clip's shape; each window is looked at, and says why it is not taken.

    1. read     25 frames a second whatever the file has, one at a time; the sound as every player here hears it
    2. speech   someone speaks in enough of the window (loudness: music and noise count as speech)
    3. face     exactly one in the first frame, the portrait, and in the middle or the last one; several in none; large enough
    4. crop     one for the whole window, which holds the face wherever it was found
    5. mouth    its opening and the voice's loudness go together, without a lag

Faces are those that `play/faces.py` finds: upright and from the front; turned or covered ones are missed, windows with them.
The mouth is the lower part of the face's square, its opening is measured from colours (`core/metrics/mouth.py`): beards,
microphones and very short windows are judged badly, which `least_sync` makes up for or not.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...core.config import ClipSpec
from ...core.errors import EngineError, InputError
from ...core.files import atomic_file, file_sha256
from ...core.metrics.lipsync import lag_of
from ...core.metrics.mouth import mouth_opening
from ...core.metrics.voice import envelope, frame_rms
from ...core.plan import check_count, check_number
from ..play.clips import Pixels, sound_of, stream_frames
from ..play.cropping import Part, largest_part, place_part
from ..play.faces import Face, find_faces
from ..play.speech import fit_speech, normalise_loudness

VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm")
SPOKEN = 0.01  # RMS of a frame in which someone speaks, -40 dBFS, in a recording of -23 LUFS
MOUTH = (0.58, 1.0, 0.22, 0.78)  # top, bottom, left, right of a face's square, from the brows to the chin: the lips, moving
REASONS = (
    "unreadable", "a copy", "no sound", "silent", "too short", "no speech", "no face", "several faces", "a small face",
    "a face beyond the crop", "mouth and voice apart",
)  # fmt: skip


@dataclass(frozen=True)
class Checks:
    """What a window has to have. `least_speech`: the share of its frames in which someone speaks; `least_face`: the face's size as
    a share of the crop's height; `least_sync`: the correlation of mouth and loudness, -1 to 1; `most_per_file`: windows that are
    taken of one file.

    Raises:
        ConfigError: a number is out of range.
    """

    least_speech: float = 0.3
    least_face: float = 0.15
    least_sync: float = 0.2
    most_per_file: int = 64

    def __post_init__(self) -> None:
        check_number("least_speech", self.least_speech, 0.0, 1.0)
        check_number("least_face", self.least_face, 0.0, 1.0)
        check_number("least_sync", self.least_sync, -1.0, 1.0)
        check_count("most_per_file", self.most_per_file, 1, 4096)


@dataclass(frozen=True)
class Cuts:
    """One file's windows. rows: of every window that was looked at, in order, `first` (its first frame at the clip's rate; None:
    the whole file), `reason` (None: it is taken), `said` and what was measured. Of those taken: portraits uint8 [n, H, W, 3],
    voices float32 [n, samples] at -23 LUFS, mouths int32 [n, 4] (y0, y1, x0, x1) in the clip's pixels."""

    name: str
    sha256: str
    rows: Sequence[dict[str, Any]]
    portraits: Pixels
    voices: NDArray[np.float32]
    mouths: NDArray[np.int32]

    @property
    def taken(self) -> list[dict[str, Any]]:
        return [row for row in self.rows if row["reason"] is None]


def videos_in(folder: Path) -> list[Path]:
    """The videos of a folder and those below it, by name.

    Raises:
        InputError: it is no folder, or there are none.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder. Give the folder of your videos.")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in VIDEOS and path.is_file())
    if not found:
        raise InputError(f"{folder} holds no videos. These are read: {', '.join(each[1:] for each in VIDEOS)}.")
    return found


def cut_folder(
    data: Path, workdir: Path, clip: ClipSpec, checks: Checks, told: Callable[[int, int], None] = lambda *_: None
) -> list[Cuts]:
    """Every video of `data`, cut and checked; `workdir` keeps what was cut, a file of it for each video, clip and checks.

    Raises:
        InputError: as `videos_in`, or no window passes: the sentence counts the reasons.
        EngineError: nothing finds faces here.
    """
    if find_faces(Image.new("RGB", (64, 64))) is None:
        raise EngineError('Nothing here finds faces, and every clip must show one: pip install "echoedge[face]".')
    paths, found, seen = videos_in(data), list[Cuts](), dict[str, str]()
    for number, path in enumerate(paths):
        name, sha256 = path.relative_to(data).as_posix(), file_sha256(path)
        if sha256 in seen:
            found.append(_nothing(name, sha256, clip, "a copy", f"the same file as {seen[sha256]}"))
        else:
            key = hashlib.sha256(json.dumps([sha256, str(clip), asdict(checks)]).encode()).hexdigest()[:24]
            kept = workdir / f"{key}.safetensors"
            if not kept.exists():
                _save(kept, cut_video(path, name, sha256, clip, checks))
            found.append(_load(kept, name))
        seen.setdefault(sha256, name)
        told(number + 1, len(paths))
    if not any(cuts.taken for cuts in found):
        counts = Counter(row["reason"] for cuts in found for row in cuts.rows)
        told_of = ", ".join(f"{counts[reason]} × {reason}" for reason in REASONS if counts[reason])
        first = next(row for cuts in found for row in cuts.rows)
        raise InputError(
            f"None of {len(paths)} videos in {data} has a window of {clip} that can be learnt from: {told_of}. The first: "
            f"{found[0].name}: {first['said']}. Give other videos, or lower --least-speech, --least-sync or --least-face."
        )
    return found


def cut_video(path: Path, name: str, sha256: str, clip: ClipSpec, checks: Checks) -> Cuts:
    """The windows of one video, one after the other without overlap."""
    try:
        sound = sound_of(path, clip.sample_rate)
        if sound is None:
            return _nothing(name, sha256, clip, "no sound", "it has no sound track")
        if not np.isfinite(sound).all() or not sound.any():
            return _nothing(name, sha256, clip, "silent", "its sound track is silent")
        voice = np.clip(normalise_loudness(sound, clip.sample_rate), -1, 1)
        rows, portraits, voices, mouths = list[dict[str, Any]](), list[Pixels](), list[NDArray[np.float32]](), list[list[int]]()
        for first, frames in _windows(stream_frames(path, clip.fps), clip.frames):
            if len(frames) < clip.frames:
                if not rows:
                    rows.append(_row(None, "too short", f"it has {len(frames)} frames, and a window takes {clip.frames}"))
                continue
            heard = fit_speech(voice[first * clip.samples_per_frame :], clip.frames, clip.fps, clip.sample_rate)
            row, part, mouth = _judge(first, frames, heard, clip, checks)
            rows.append(row)
            if part is not None and mouth is not None:
                portraits.append(_cropped(frames[0], part, clip))
                voices.append(normalise_loudness(heard, clip.sample_rate))
                mouths.append(_in_clip(mouth, part, clip))
            if len(portraits) == checks.most_per_file:
                break
    except InputError as error:
        return _nothing(name, sha256, clip, "unreadable", str(error))
    none = _nothing(name, sha256, clip, "too short", "it has no frames")
    if not portraits:
        return Cuts(name, sha256, rows or none.rows, none.portraits, none.voices, none.mouths)
    return Cuts(name, sha256, rows, np.stack(portraits), np.stack(voices), np.array(mouths, np.int32))


# ---- one window ------------------------------------------------------------------------------------------------------------------


def _judge(
    first: int, frames: Sequence[Pixels], voice: NDArray[np.float32], clip: ClipSpec, checks: Checks
) -> tuple[dict[str, Any], Part | None, tuple[int, int, int, int] | None]:
    """Its row; of a window that is taken also the crop and the mouth's box, in the video's pixels."""
    speech = float((frame_rms(voice, clip.frames, clip.fps, clip.sample_rate) > SPOKEN).mean())
    if speech < checks.least_speech:
        said = f"someone speaks in {speech:.0%} of its frames, less than {checks.least_speech:.0%}"
        return _row(first, "no speech", said, speech=speech), None, None
    faces = list[Face]()
    for index in sorted({0, clip.frames // 2, clip.frames - 1}):
        here = find_faces(Image.fromarray(frames[index])) or []
        if len(here) > 1:
            said = f"{len(here)} faces are found in frame {first + index}"
            return _row(first, "several faces", said, speech=speech), None, None
        faces += here
        if not faces or (index == clip.frames - 1 > 0 and len(faces) == 1):
            where = f"in frame {first}" if not faces else f"behind frame {first}"
            return _row(first, "no face", f"no face is found {where}", speech=speech), None, None
    height, width = frames[0].shape[:2]
    part = place_part(largest_part(height, width, clip.height, clip.width), height, width, faces)
    size = min(face.size for face in faces) / part.height
    known = {"speech": speech, "face": size}
    if size < checks.least_face:
        said = f"the face takes {size:.0%} of the crop's height, less than {checks.least_face:.0%}"
        return _row(first, "a small face", said, **known), None, None
    top, left = min(face.top for face in faces), min(face.left for face in faces)
    bottom, right = max(face.top + face.size for face in faces), max(face.left + face.size for face in faces)
    slack = 0.1 * faces[0].size  # a square reaches beyond the face that is in it
    if min(top - part.top, left - part.left, part.bottom - bottom, part.right - right) < -slack:
        return _row(first, "a face beyond the crop", "the face leaves the part that is kept", **known), None, None
    mouth = _mouth(faces, height, width)
    opening = mouth_opening(np.stack([frame[mouth[0] : mouth[1], mouth[2] : mouth[3]] for frame in frames]), _whole(mouth))
    found = lag_of(opening, envelope(voice, clip.frames, clip.fps, clip.sample_rate))
    known |= {"sync": found.at_zero, "lag": float(found.frames), "sync_there": found.correlation}
    if found.at_zero < checks.least_sync:
        said = (
            f"mouth and voice agree by {found.at_zero:.2f}, less than {checks.least_sync:g}; best at a lag of {found.frames} "
            f"frames, by {found.correlation:.2f}"
        )
        return _row(first, "mouth and voice apart", said, **known), None, None
    crop = {"top": part.top, "left": part.left, "height": part.height, "width": part.width}
    return _row(first, None, "", **known, **crop), part, mouth


def _mouth(faces: Sequence[Face], height: int, width: int) -> tuple[int, int, int, int]:
    """The box of the lips in all frames that were looked at, y0, y1, x0, x1, in the video's pixels."""
    top, bottom, left, right = MOUTH
    y0, y1 = min(face.top + top * face.size for face in faces), max(face.top + bottom * face.size for face in faces)
    x0, x1 = min(face.left + left * face.size for face in faces), max(face.left + right * face.size for face in faces)
    return max(0, round(y0)), min(height, round(y1)), max(0, round(x0)), min(width, round(x1))


def _whole(box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """A box in its own pixels."""
    return 0, box[1] - box[0], 0, box[3] - box[2]


def _cropped(frame: Pixels, part: Part, clip: ClipSpec) -> Pixels:
    box = (part.left, part.top, part.right, part.bottom)
    return np.array(Image.fromarray(frame).resize((clip.width, clip.height), Image.Resampling.LANCZOS, box=box))


def _in_clip(box: tuple[int, int, int, int], part: Part, clip: ClipSpec) -> list[int]:
    """A box of the video's pixels in the clip's, within it."""
    down, across = clip.height / part.height, clip.width / part.width
    y0, y1 = ((edge - part.top) * down for edge in box[:2])
    x0, x1 = ((edge - part.left) * across for edge in box[2:])
    y0, x0 = max(0, min(round(y0), clip.height - 1)), max(0, min(round(x0), clip.width - 1))
    return [y0, max(y0 + 1, min(round(y1), clip.height)), x0, max(x0 + 1, min(round(x1), clip.width))]


def _windows(frames: Iterator[Pixels], length: int) -> Iterator[tuple[int, list[Pixels]]]:
    """The first frame's number and the frames of windows without overlap; the last one may be shorter."""
    some, first = list[Pixels](), 0
    for frame in frames:
        some.append(frame)
        if len(some) == length:
            yield first, some
            some, first = [], first + length
    if some:
        yield first, some


def _row(first: int | None, reason: str | None, said: str, **figures: float) -> dict[str, Any]:
    return {"first": first, "reason": reason, "said": said, **{name: round(value, 4) for name, value in figures.items()}}


def _nothing(name: str, sha256: str, clip: ClipSpec, reason: str, said: str) -> Cuts:
    portraits = np.zeros((0, clip.height, clip.width, 3), np.uint8)
    voices = np.zeros((0, clip.frames * clip.samples_per_frame), np.float32)
    return Cuts(name, sha256, [_row(None, reason, said)], portraits, voices, np.zeros((0, 4), np.int32))


# ---- kept ------------------------------------------------------------------------------------------------------------------------


def _save(path: Path, cuts: Cuts) -> None:
    from safetensors.numpy import save_file

    told = {"cuts": json.dumps({"sha256": cuts.sha256, "rows": list(cuts.rows)})}
    with atomic_file(path, force=True) as temporary:
        save_file({"portraits": cuts.portraits, "voices": cuts.voices, "mouths": cuts.mouths}, temporary, told)


def _load(path: Path, name: str) -> Cuts:
    from safetensors import safe_open

    with safe_open(path, "numpy") as file:
        told = json.loads(file.metadata()["cuts"])
        arrays = {each: file.get_tensor(each) for each in ("portraits", "voices", "mouths")}
    return Cuts(name, told["sha256"], told["rows"], **arrays)
