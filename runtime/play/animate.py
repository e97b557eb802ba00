"""Portrait and voice to a film: of a bundle, or of the released model in full precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.bundle import Bundle
from ...core.config import TEMPORAL_STRIDE, ClipSpec
from ...core.errors import ConfigError
from ...core.files import human_bytes, require_free_disk, require_free_memory
from ...core.plan import check_seed
from ...core.sampling.inputs import byte_ids, cut_sentence
from .clips import ClipWriter
from .cropping import Crop, within_crop
from .pictures import Portrait, output_size, read_portrait, to_signed
from .player import Progress, silent
from .prompts import read_prompts
from .setting import Setting, Wanted
from .speech import clip_frames, read_speech

if TYPE_CHECKING:
    from ...core.model.masks import Box
    from .reference import Settings

CLIP_COMPRESSION = 4  # an MP4 is at least this much smaller than its pixels; used to check the disk before a clip is begun
Warn = Callable[[str], None]


@dataclass(frozen=True)
class Animated:
    """A film that was made. seconds: its length; stage_seconds: wall time by stage; evaluations: how many times the blocks ran;
    model, dtype, device: of a checkpoint that was played without a bundle."""

    clip: Path
    frames: int
    seconds: float
    size: tuple[int, int]  # height, width
    engine: str
    prompt: str
    evaluations: int
    stage_seconds: Mapping[str, float]
    model: str | None = None
    dtype: str | None = None
    device: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """For scripts: JSON-ready, without what does not apply."""
        told = asdict(self) | {"clip": str(self.clip), "size": list(self.size), "seconds": round(self.seconds, 3)}
        told["stage_seconds"] = {stage: round(spent, 4) for stage, spent in self.stage_seconds.items()}
        return {name: value for name, value in told.items() if value is not None}


def animate_bundle(
    bundle: Bundle,
    wanted: Wanted,
    image: Path,
    audio: Path,
    out: Path,
    *,
    seed: int = 0,
    audio_track: int | None = None,
    crop: Crop | None = None,
    force: bool = False,
    progress: Progress = silent,
    warn: Warn = print,
) -> Animated:
    """Plays a bundle. `crop`: the part of the portrait that is played.

    Raises:
        InputError, ConfigError: the portrait, the voice or the prompt cannot be used; the bundle has no such shape or decoder.
        OutputError, ResourceError, EngineError: `out` cannot be written; disk or memory is short; nothing here plays the bundle.
    """
    check_seed(seed)
    setting = Setting.of(bundle, wanted)
    clip, prompt = setting.clip, setting.prompt(wanted.prompt, default="")
    portrait = read_portrait(image, clip.height, clip.width, crop, warn)
    speech = read_speech(audio, clip.sample_rate, clip.fps, track=audio_track, warn=warn)
    seconds = len(speech) / clip.sample_rate
    require_free_disk(out, int(seconds * clip.fps * clip.height * clip.width * 3 / CLIP_COMPRESSION))
    said = prompt.encode("utf-8", errors="replace")
    _, used = byte_ids(prompt, setting.config.playing.text_length)
    if setting.reads_text and used < len(said):
        warn(cut_sentence(used, "bytes", len(said) - used))
    player = setting.player(seconds, progress)
    with ClipWriter(
        out, height=clip.height, width=clip.width, fps=clip.fps, audio=speech, sample_rate=clip.sample_rate, force=force
    ) as writer:
        made = player.generate(portrait, speech, prompt, seed)
        for frame in player.frames_of(made):
            writer.write(frame)
    size = (clip.height, clip.width)
    return Animated(out, made.frames, made.frames / clip.fps, size, player.engine.name, prompt, made.evaluations, made.seconds)


def animate_checkpoint(
    folder: Path,
    settings: Settings,
    image: Path,
    audio: Path,
    out: Path,
    *,
    model: str | None = None,
    prompt: str = "",
    prompts: Path | None = None,
    size: tuple[int, int] = (512, 512),
    frames: int | None = None,
    crop: Crop | None = None,
    face: Box | None = None,
    match_colours: bool = False,
    resident: bool = False,
    audio_track: int | None = None,
    force: bool = False,
    progress: Progress = silent,
    warn: Warn = print,
) -> Animated:
    """Plays a checkpoint's own model, without a bundle. `size`: (height, width) whose area the clip fills; `frames`: at most so
    many; `crop`: the part of the portrait that is played, a square; `face`: in the whole portrait's pixels, the only part that
    hears the voice (preview).

    Raises:
        CheckpointError, ConfigError, InputError, OutputError, ResourceError: as the message says.
    """
    from ...core.model.architecture import Architecture
    from ...core.model.conditions import face_mask
    from ...core.weights.checkpoints import Checkpoint
    from .colour import ColourMatcher
    from .reference import Reference, memory_needed, peak_memory

    checkpoint = Checkpoint.open(folder, model)
    sizes = Architecture(checkpoint.config())
    portrait = Portrait.open(image, warn, crop, 4 * max(size))
    image_height, image_width = portrait.size
    height, width = output_size(image_height, image_width, *size)
    pixels = portrait.pixels(height, width)
    clip = ClipSpec(height, width, 1)
    needed_seconds = None if frames is None else frames / clip.fps
    speech = read_speech(audio, clip.sample_rate, clip.fps, track=audio_track, most_seconds=needed_seconds, warn=warn)
    most = clip_frames(len(speech) / clip.sample_rate, clip.fps, frames, settings.upstream_compat)
    speech = speech[: most * clip.samples_per_frame]
    clip = replace(clip, frames=TEMPORAL_STRIDE * -(-(most - 1) // TEMPORAL_STRIDE) + 1)
    mask = None
    if face is not None:
        if not sizes.transformer.audio_path.masked:
            raise ConfigError("--face says which tokens hear the speech; only preview knows that, flash hears it everywhere.")
        if crop is not None:
            face = within_crop(face, crop)
        mask = face_mask(face, image_height, image_width, height, width).numpy()
    pack = read_prompts(prompts, sizes.transformer.text_dim) if prompts else {}
    reference = Reference(checkpoint, clip, settings, sizes, pack, resident, progress=progress, warn=warn)
    needed = memory_needed(sizes, clip, reference.plan, settings)
    if settings.device == "cpu":
        stages = ", ".join(f"{name} {human_bytes(count)}" for name, count in needed.items())
        require_free_memory(peak_memory(needed, resident), f"playing this clip ({stages})")
    require_free_disk(out, most * height * width * 3 // CLIP_COMPRESSION)
    matcher = ColourMatcher(upstream_compat=settings.upstream_compat) if match_colours else None
    with ClipWriter(
        out, height=height, width=width, fps=clip.fps, audio=speech, sample_rate=clip.sample_rate, force=force
    ) as writer:
        for frame in reference.frames(to_signed(pixels), speech, prompt, mask):
            writer.write(matcher(frame) if matcher else frame)
    written = writer.frames_written
    return Animated(
        out, written, written / clip.fps, (height, width), reference.engine.name, prompt, reference.evaluations, reference.seconds,
        model=sizes.transformer.name, dtype=settings.dtype, device=settings.device,
    )  # fmt: skip
