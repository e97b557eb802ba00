"""The player: evaluates programs and takes linear combinations, as the plan says. Any engine, any bundle.

1. listen   speech -> features per video frame
2. look     portrait -> image tokens and masked latents; prompts -> embeddings
3. prepare  conditions of a window, per guidance branch
4. denoise  for each window, step and branch: velocity; guide, blend, advance. The windows of a long clip pass as a front
5. decode   one latent frame at a time: frames leave as they are finished
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.bundle import DECODE_PROGRAMS, Bundle, PlayingRecord
from ...core.config import TEMPORAL_STRIDE, ClipSpec
from ...core.errors import InputError
from ...core.memory import Need
from ...core.plan import SamplingPlan, Window, WindowRule, noise, windows
from ...core.plan.phases import PROMPT
from ...core.sampling.conditioning import ClipInputs, Conditioner, JointConditioner, step_inputs
from ...core.sampling.front import windows_under_way
from ...core.sampling.hearing import hear, lengthened
from ...core.sampling.inputs import byte_ids, collapse_padding, frame_windows, known_latents, pad_text
from ...core.sampling.loop import sample
from ...core.weights.passport import Passport
from ..engines.base import Array, Engine

Float32 = NDArray[np.float32]
STAGES = ("listen", "look", "prepare", "denoise", "decode")
Progress = Callable[[str, int, int], None]


def silent(stage: str, done: int, total: int) -> None:
    """The default progress: says nothing."""


Tokenise = Callable[[str, int], tuple[NDArray[np.int64], int]]
StepTables = Mapping[str, Array]


@dataclass(frozen=True)
class PlayerConfig:
    """What a player needs to know of a model: its numbers, clip, plan, step tables and prompt embeddings.

    Programs of a bundle have the clip's shape: longer clips are played in windows, shorter ones are padded. Where `audio_samples`
    is None, programs take clips of any length and the audio encoder the whole voice. `tokenise` (text, most tokens) gives ids
    [1, L] and how many of them count.
    """

    playing: PlayingRecord
    clip: ClipSpec
    plan: SamplingPlan
    step_tables: StepTables | Callable[[], StepTables]
    audio_samples: int | None  # that the audio encoder reads at once
    prompts: Mapping[str, Float32] = field(default_factory=dict)
    tokenise: Tokenise = byte_ids
    collapse: bool = True  # equal rows of padding into one; without, prompts have the model's text length

    @property
    def any_length(self) -> bool:
        return self.audio_samples is None

    def rule(self, latent_frames: int) -> WindowRule:
        """How a clip of `latent_frames` latent frames is cut into windows."""
        length = latent_frames if self.any_length else self.clip.latent_frames
        rule = self.plan.window or WindowRule(length=length, overlap=0)
        if self.any_length and rule.length > latent_frames and not rule.upstream_compat:
            return WindowRule(length=latent_frames, overlap=0)
        return rule

    @classmethod
    def of(cls, bundle: Bundle, clip: ClipSpec | None = None) -> PlayerConfig:
        """Of one of the bundle's shapes, the main one by default; its windows are as long as its programs' clips.

        Raises:
            ConfigError: the bundle's student was not taught what its plan asks for.
        """
        clip = clip or bundle.clip
        packs = [name for name in bundle.manifest.files if name.startswith("prompts/")]
        prompts = {key: value for name in packs for key, value in bundle.read_tensors(name).items()}
        plan, student = bundle.plan(), Passport.of_bundle(bundle.manifest.weights.settings)
        if student is not None:
            student.require_plan(plan)
        if clip != bundle.clip and plan.window is not None:
            length = clip.latent_frames
            rule = plan.window.model_copy(update={"length": length, "overlap": min(plan.window.overlap, length - 1)})
            plan = plan.model_copy(update={"window": rule})
        samples = bundle.input_shape("audio_encoder", "waveform", clip=clip)[1]
        playing, tables = bundle.manifest.playing, bundle.read_tensors("step_tables.safetensors")
        return cls(playing, clip, plan, tables, samples, prompts, partial(byte_ids, pad_id=playing.pad_id))


def memory_needed(bundle: Bundle, seconds: float, decoder: str | None = None) -> Need:
    """What playing `seconds` of speech takes, by the manifest: of the largest program (file, loaded, packed: a machine that cannot
    hold all holds one at a time), the conditions of each branch and window under way, the states of encoder and decoder, one step's
    activations, and latents with their history."""
    manifest, plan, clip = bundle.manifest, bundle.plan(), bundle.clip

    def size(name: str) -> int:
        value = manifest.memory.get(name, 0)
        return int(value) if isinstance(value, (int, float)) else 0

    latent_frames = max(clip.latent_frames, math.ceil(seconds * clip.fps / TEMPORAL_STRIDE))
    rule = plan.window or WindowRule(length=clip.latent_frames, overlap=0)
    spans = min(math.ceil(latent_frames / (rule.length - rule.overlap)), windows_under_way(plan.steps, rule))
    files = {program.path: program.artifact.bytes for program in manifest.programs.values()}
    files |= {program.data: manifest.files[program.data].bytes for program in manifest.programs.values() if program.data}
    moving = min(latent_frames, windows_under_way(plan.steps, rule) * rule.length)
    history = ((plan.steps + 2) * moving + 2 * latent_frames) * size("latents_bytes") // clip.latent_frames
    decoding = decoder or next(iter(manifest.playing.decoders.values()), DECODE_PROGRAMS["full"])
    shorter = "play a bundle that was compiled for a smaller --size or fewer --frames, or a shorter clip."
    return Need(
        {
            "the largest program, loaded and packed": 3 * max(files.values(), default=0),
            "conditions of the windows under way": spans * len(plan.branches) * size("conditions_bytes_per_branch"),
            "states of the encoder and the decoder": 2 * (size("vae_encode_state_bytes") + size(f"{decoding}_state_bytes")),
            "one step": size("step_bytes"),
            "latents": history,
        },
        {
            "the largest program, loaded and packed": "export with coarser --weights, int8 or int4.",
            "conditions of the windows under way": shorter,
            "states of the encoder and the decoder": "decode with --decoder tiny, if the bundle has it.",
            "one step": shorter,
            "latents": "play a shorter clip.",
        },
    )


@dataclass
class Generated:
    """A clip before it is decoded: latents, how many video frames of them count, and wall seconds by stage."""

    latents: Float32
    frames: int
    seconds: dict[str, float]
    evaluations: int


class Player:
    """Plays clips of any length on one engine. `progress(stage, done, total)` is called as work advances. `decoder`: the program
    that makes frames of latents, the only one there by default."""

    def __init__(self, config: PlayerConfig, engine: Engine, progress: Progress = silent, decoder: str | None = None) -> None:
        self.config, self.engine, self.progress = config, engine, progress
        self.decoder = decoder or next((name for name in DECODE_PROGRAMS.values() if engine.has(name)), DECODE_PROGRAMS["full"])

    # -- the whole way -------------------------------------------------------------------------------------------------------------

    def generate(
        self,
        portrait: Float32,
        speech: Float32,
        prompt: str = "",
        seed: int = 0,
        audio_mask: Float32 | None = None,
    ) -> Generated:
        """portrait [3, H, W] in [-1, 1], speech [n] at the bundle's rate -> a clip, to be decoded by `frames_of`.

        The clip is as long as the speech, up to whole frames: latent frames hold four, and what they hold beyond the speech is cut
        off. `audio_mask` [S] is 1 where a frame's tokens hear the speech, everywhere by default.

        Raises:
            InputError: the speech is shorter than one frame, or the prompt cannot be used with this bundle.
        """
        seconds = dict.fromkeys(STAGES, 0.0)
        frames, latent_frames = self.length(speech)
        with timed(seconds, "listen"):
            features = self.listen(speech, TEMPORAL_STRIDE * (latent_frames - 1) + 1)
        with timed(seconds, "look"):
            video = portrait[None]  # what is known of the clip: its first frame
            y = self.look(video, self.known_frames(latent_frames))
            image = self.recognise(portrait)
            text = self.read_all(prompt)
        start = self.start(seed, latent_frames)
        latents, evaluations = self.sample(self.neighbourhoods(features), y, image, text, start, audio_mask, seconds)
        return Generated(latents, frames, seconds, evaluations)

    def length(self, speech: Float32) -> tuple[int, int]:
        """Video frames of a clip that is as long as the speech, and latent frames that hold them.

        Raises:
            InputError: the speech is shorter than one frame.
        """
        return clip_length(len(speech), self.config.clip, self.config.any_length)

    def start(self, seed: int, latent_frames: int) -> Float32:
        """The noise that a clip starts from, [C, F, h, w]."""
        return noise(seed, self.shape(latent_frames))

    def shape(self, latent_frames: int) -> tuple[int, int, int, int]:
        """Of the latents of a clip, [C, F, h, w]."""
        return (self.config.playing.latent_channels, latent_frames, self.config.clip.latent_height, self.config.clip.latent_width)

    def known_frames(self, latent_frames: int) -> int:
        """For how many latent frames of a clip `y` has to say what is known: all, or those of one window, which serve them all."""
        rule = self.config.rule(latent_frames)
        return latent_frames if rule.anchor == "clip" else min(rule.length, latent_frames)

    def frames_of(self, made: Generated) -> Iterator[NDArray[np.uint8]]:
        """Decodes a clip: uint8 [H, W, 3], one frame after the other; memory does not grow with the clip's length."""
        left = made.frames
        for video in self.video_of(made.latents, made.seconds, made.frames):
            pixels = pixels_of(video)
            yield from pixels[:left]
            left -= len(pixels)

    def video_of(self, latents: Float32, seconds: dict[str, float], frames: int | None = None) -> Iterator[Float32]:
        """latents [16, F, h, w] -> the video in pieces of 1 or 4 frames [t, 3, H, W] in [-1, 1]; stops when `frames` are out."""
        state: list[Array] = []
        done = 0
        chunks = latents.shape[1]
        for index in range(chunks):
            if frames is not None and done >= frames:
                return
            with timed(seconds, "decode"):
                chunk = np.ascontiguousarray(latents[None, :, index : index + 1])
                video, *state = self.engine.run(self.decoder, "next" if index else "first", [chunk, *state])
            self.progress("decode", index + 1, chunks)
            done += video.shape[1]
            yield video[0]

    # -- 1. listen -----------------------------------------------------------------------------------------------------------------

    def listen(self, speech: Float32, frames: int) -> Float32:
        """speech [n] -> features of `frames` video frames, [frames, layers, channels] (flash) or [2·frames, channels] (preview);
        silence behind the end. Programs of a bundle hear a part of the voice at a time, see core/sampling/hearing.py."""
        samples, per_frame = self.config.audio_samples, self.config.clip.samples_per_frame
        if samples is None:
            features = self._encode_audio([lengthened(speech, frames * per_frame)[None]])
            self.progress("listen", 1, 1)
            return features
        told = partial(self.progress, "listen")
        return hear(speech, frames, per_frame, samples, self.config.playing.hearing, self._encode_audio, told)

    def _encode_audio(self, inputs: Sequence[Array]) -> Array:
        return self.engine.run("audio_encoder", "forward", inputs)[0][0]

    # -- 2. look -------------------------------------------------------------------------------------------------------------------

    def look(self, known: Float32, latent_frames: int) -> Float32:
        """The first frames of the clip, [n, 3, H, W] in [-1, 1] -> y [1, 20, latent_frames, h, w]: which frames are known, and
        their latents."""
        clip = replace(self.config.clip, frames=TEMPORAL_STRIDE * (latent_frames - 1) + 1)
        y = known_latents(known, clip, self._encode_video, self.config.playing.encode_unknown)
        self.progress("look", 1, 1)
        return y

    def recognise(self, portrait: Float32) -> Float32:
        """portrait [3, H, W] in [-1, 1] -> image tokens [1, L, image_dim]."""
        return self.engine.run("image_encoder", "forward", [portrait[None]])[0]

    def _encode_video(self, video: Float32) -> Float32:
        """[1, T, 3, H, W] -> [1, 16, F, h, w], streaming."""
        latents, state = [], []  # type: tuple[list[Array], list[Array]]
        starts = range(1, video.shape[1], TEMPORAL_STRIDE)
        for index, chunk in enumerate([video[:, :1], *(video[:, start : start + TEMPORAL_STRIDE] for start in starts)]):
            result, *state = self.engine.run("vae_encode", "next" if index else "first", [chunk, *state])
            latents.append(result)
        return np.concatenate(latents, 2)

    def read_all(self, prompt: str) -> dict[str, tuple[Float32, Float32]]:
        """Every text condition of the plan, read once; `prompt` is the clip's own."""
        said = {PROMPT: prompt, **self.config.plan.texts}
        names = dict.fromkeys(branch.text for branch in self.config.plan.branches)
        return {name: self.read(said.get(name, name)) for name in names}

    def read(self, prompt: str) -> tuple[Float32, Float32]:
        """A prompt -> rows [1, text_rows, text_dim] and their bias [1, text_rows]."""
        playing = self.config.playing
        if prompt in self.config.prompts:
            embedding = self.config.prompts[prompt]
        elif self.engine.has("text_encoder"):
            ids, length = self.config.tokenise(prompt, playing.text_length)
            embedding = self.engine.run("text_encoder", "forward", [ids])[0][0][:length]
        else:
            known = ", ".join(repr(name) for name in sorted(self.config.prompts)) or "none"
            raise InputError(f"There is no text encoder here; the known prompts are {known}, not {prompt!r}.")
        if not self.config.collapse:
            return pad_text([embedding], playing.text_length), np.zeros((1, playing.text_length), np.float32)
        text, bias = collapse_padding(embedding, playing.text_length, playing.text_rows)
        return text[None], bias[None]

    # -- 3. and 4. prepare, denoise ------------------------------------------------------------------------------------------------

    def neighbourhoods(self, features: Float32) -> Float32:
        """What `listen` heard, as `sample` takes it: each row with its neighbours, clamped at the ends, where the model hears
        those, [T, 2·neighbours + 1, layers, channels]; else as it is."""
        radius = self.config.playing.hearing.neighbours
        return frame_windows(features[None], radius)[0] if radius else features

    def sample(
        self,
        audio: Float32,
        y: Float32,
        image: Float32,
        text: Mapping[str, tuple[Float32, Float32]],
        start: Float32,
        audio_mask: Float32 | None = None,
        seconds: dict[str, float] | None = None,
    ) -> tuple[Float32, int]:
        """From encoded inputs and noise [16, F, h, w] to latents of that shape, and how many times the model ran.

        audio: as `neighbourhoods` gives it; y [1, 20, F, h, w] with the frames that `known_frames` asks for; image: image tokens;
        text: rows and bias by the name of the condition. `seconds` is added to by stage.
        """
        config, seconds = self.config, dict.fromkeys(STAGES, 0.0) if seconds is None else seconds
        given = self.given(audio, y, image, text, start.shape[1], audio_mask)
        kind = Conditioner if self.engine.has("text_conditions") else JointConditioner
        with timed(seconds, "prepare"):
            tables = config.step_tables() if callable(config.step_tables) else config.step_tables
        denoiser = _Programs(self, kind(config.plan, given, self.engine.run), tables, seconds)
        prepared, began = seconds["prepare"], time.perf_counter()
        latents, evaluations = sample(config.plan, given.rule, start, denoiser, partial(self.progress, "denoise"))
        seconds["denoise"] += time.perf_counter() - began - (seconds["prepare"] - prepared)
        return latents, evaluations

    def given(
        self,
        audio: Float32,
        y: Float32,
        image: Float32,
        text: Mapping[str, tuple[Float32, Float32]],
        latent_frames: int,
        audio_mask: Float32 | None = None,
    ) -> ClipInputs:
        """What conditions are made from, of what `sample` takes."""
        config = self.config
        mask = np.ones((1, config.clip.tokens_per_frame), np.float32) if audio_mask is None else audio_mask[None]
        return ClipInputs(
            y, image, text, audio, mask.astype(np.float32), latent_frames, config.rule(latent_frames), config.playing.hearing,
            fixed=not config.any_length,
        )  # fmt: skip


class _Programs:
    """The denoising programs of an engine under a clip's conditions; see `core.sampling.loop.Denoiser`."""

    def __init__(
        self, player: Player, conditioner: Conditioner | JointConditioner, tables: StepTables, seconds: dict[str, float]
    ) -> None:
        self.player, self.conditioner, self.tables, self.seconds = player, conditioner, tables, seconds
        self.windows: dict[int, list[list[Array]]] = {}
        self.begun = 0

    def begin(self, position: int, span: Window) -> None:
        with timed(self.seconds, "prepare"):
            self.windows[position] = self.conditioner.window(span)
        self.begun += 1
        given = self.conditioner.given
        self.player.progress("prepare", self.begun, max(self.begun, len(windows(given.latent_frames, given.rule))))

    def evaluate(self, step: int, branch: int, position: int, span: Window, latents: Float32) -> tuple[Float32, Any]:
        inputs = step_inputs(self.player.config.plan, self.tables, step, latents, self.windows[position][branch])
        velocity, *residual = self.player.engine.run("denoise", "forward", inputs)
        return velocity[0], residual[0] if residual else None

    def reuse(self, step: int, branch: int, position: int, span: Window, latents: Float32, residual: Any) -> Float32:
        patch_bias = self.windows[position][branch][0]
        inputs = [latents[None], self.tables["time"][step : step + 1], residual, patch_bias]
        velocity: Float32 = self.player.engine.run("denoise_reusing", "forward", inputs)[0][0]
        return velocity

    def end(self, position: int) -> None:
        del self.windows[position]


def clip_length(samples: int, clip: ClipSpec, any_length: bool = False) -> tuple[int, int]:
    """Video frames of a clip whose speech has so many samples, and latent frames that hold them: those of a window at least, where
    programs do not take clips of any length.

    Raises:
        InputError: the speech is shorter than one frame.
    """
    if samples < clip.samples_per_frame:
        raise InputError(f"The speech lasts {samples / clip.sample_rate:.3f} s; one frame is {1 / clip.fps:.3f} s.")
    frames = -(-samples // clip.samples_per_frame)
    latent_frames = -(-(frames - 1) // TEMPORAL_STRIDE) + 1
    return frames, latent_frames if any_length else max(latent_frames, clip.latent_frames)


def pixels_of(video: Float32) -> NDArray[np.uint8]:
    """Frames [t, 3, H, W] in [-1, 1] -> uint8 [t, H, W, 3]: rounded in float32, halves to even, and clipped."""
    return np.clip(np.rint((video.transpose(0, 2, 3, 1) + 1) * 127.5), 0, 255).astype(np.uint8)


class timed:
    """Adds the body's wall time to `seconds[stage]`."""

    def __init__(self, seconds: dict[str, float], stage: str) -> None:
        self.seconds, self.stage = seconds, stage

    def __enter__(self) -> None:
        self.started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds[self.stage] += time.perf_counter() - self.started
