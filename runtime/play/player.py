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

from ...core.bundle import DECODE_PROGRAMS, Bundle, Hearing
from ...core.config import TEMPORAL_STRIDE, ClipSpec, ModelConfig
from ...core.errors import InputError
from ...core.memory import Need
from ...core.plan import Branch, SamplingPlan, Window, WindowRule, advance, blend_frame, guide, noise, windows
from ...core.plan.phases import PROMPT
from ...core.sampling.hearing import hear, hearing_of, lengthened, window_inputs, window_rows
from ...core.sampling.inputs import byte_ids, collapse_padding, frame_windows, known_latents, pad_text
from ..engines.base import Array, Engine

Float32 = NDArray[np.float32]
STAGES = ("listen", "look", "prepare", "denoise", "decode")
Progress = Callable[[str, int, int], None]


def _silent(stage: str, done: int, total: int) -> None:
    """The default progress: says nothing."""


Tokenise = Callable[[str, int], tuple[NDArray[np.int64], int]]
StepTables = Mapping[str, Array]


@dataclass(frozen=True)
class Score:
    """What a player needs to know of a model: its configuration, clip, plan, step tables and prompt embeddings.

    Programs of a bundle have the clip's shape: longer clips are played in windows, shorter ones are padded. Where `audio_samples`
    is None, programs take clips of any length and the audio encoder the whole voice. `tokenise` (text, most tokens) gives ids
    [1, L] and how many of them count.
    """

    config: ModelConfig
    clip: ClipSpec
    plan: SamplingPlan
    step_tables: StepTables | Callable[[], StepTables]
    text_rows: int
    audio_samples: int | None  # that the audio encoder reads at once
    prompts: Mapping[str, Float32] = field(default_factory=dict)
    tokenise: Tokenise = byte_ids
    collapse: bool = True  # equal rows of padding into one; without, `text_rows` is the model's text length
    hears: Hearing | None = None  # by default as the model hears a whole voice

    @property
    def hearing(self) -> Hearing:
        return self.hears or hearing_of(self.config)

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
    def of(cls, bundle: Bundle, clip: ClipSpec | None = None) -> Score:
        """Of one of the bundle's shapes, the main one by default; its windows are as long as its programs' clips."""
        clip = clip or bundle.clip
        packs = [name for name in bundle.manifest.files if name.startswith("prompts/")]
        prompts = {key: value for name in packs for key, value in bundle.read_tensors(name).items()}
        encode, ear = (bundle.program_name(name, clip) for name in ("encode_conditions", "audio_encoder"))
        plan = bundle.plan()
        if clip != bundle.clip and plan.window is not None:
            length = clip.latent_frames
            rule = plan.window.model_copy(update={"length": length, "overlap": min(plan.window.overlap, length - 1)})
            plan = plan.model_copy(update={"window": rule})
        return cls(
            bundle.model, clip, plan, bundle.read_tensors("step_tables.safetensors"),
            bundle.input_shape(encode, "text")[1], bundle.input_shape(ear, "waveform")[1], prompts, hears=bundle.manifest.hearing,
        )  # fmt: skip


def windows_under_way(steps: int, rule: WindowRule) -> int:
    """The most windows that can have taken their first step and not their last, whatever the clip's length: a step waits for the
    windows that reach into it, and those for theirs."""
    return (steps - 1) * (math.ceil(rule.length / (rule.length - rule.overlap)) - 1) + 2


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
    files = {program.path: program.bytes for program in manifest.programs.values()}
    files |= {program.data: manifest.files[program.data].bytes for program in manifest.programs.values() if program.data}
    moving = min(latent_frames, windows_under_way(plan.steps, rule) * rule.length)
    history = ((plan.steps + 2) * moving + 2 * latent_frames) * size("latents_bytes") // clip.latent_frames
    decoding = decoder or next((name for name in DECODE_PROGRAMS.values() if name in manifest.programs), DECODE_PROGRAMS["full"])
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
class Take:
    """One performance: the latents, how many video frames of them count, and where the time went (wall seconds by stage)."""

    latents: Float32
    frames: int
    seconds: dict[str, float]
    evaluations: int


class Player:
    """Plays clips of any length on one engine. `progress(stage, done, total)` is called as work advances. `decoder`: the program
    that makes frames of latents, the only one there by default."""

    def __init__(self, score: Score, engine: Engine, progress: Progress = _silent, decoder: str | None = None) -> None:
        self.score, self.engine, self.progress = score, engine, progress
        self.decoder = decoder or next((name for name in DECODE_PROGRAMS.values() if engine.has(name)), DECODE_PROGRAMS["full"])

    # -- the whole way -------------------------------------------------------------------------------------------------------------

    def perform(
        self,
        portrait: Float32,
        speech: Float32,
        prompt: str = "",
        seed: int = 0,
        audio_mask: Float32 | None = None,
    ) -> Take:
        """portrait [3, H, W] in [-1, 1], speech [n] at the bundle's rate -> a take, to be decoded by `frames_of`.

        The clip is as long as the speech, down to 4n+1 frames, one frame at least. `audio_mask` [S] is 1 where a frame's tokens
        hear the speech, everywhere by default.

        Raises:
            InputError: the speech is shorter than one frame, or the prompt cannot be used with this bundle.
        """
        clip, seconds = self.score.clip, dict.fromkeys(STAGES, 0.0)
        available = len(speech) // clip.samples_per_frame
        if available < 1:
            raise InputError(f"The speech lasts {len(speech) / clip.sample_rate:.3f} s; one frame is {1 / clip.fps:.3f} s.")
        frames = (available - 1) // TEMPORAL_STRIDE * TEMPORAL_STRIDE + 1
        latent_frames = (frames - 1) // TEMPORAL_STRIDE + 1
        if not self.score.any_length:
            latent_frames = max(latent_frames, clip.latent_frames)

        with _timed(seconds, "listen"):
            features = self.listen(speech, TEMPORAL_STRIDE * (latent_frames - 1) + 1)
        with _timed(seconds, "look"):
            video = portrait[None]  # what is known of the clip: its first frame
            y = self.look(video, self.known_frames(latent_frames))
            image = self.recognise(portrait)
            text = self.read_all(prompt)
        start = noise(seed, self.shape(latent_frames))
        latents, evaluations = self.sample(self.neighbourhoods(features), y, image, text, start, audio_mask, seconds)
        return Take(latents, frames, seconds, evaluations)

    def shape(self, latent_frames: int) -> tuple[int, int, int, int]:
        """Of the latents of a clip, [C, F, h, w]."""
        return (self.score.config.latent_channels, latent_frames, self.score.clip.latent_height, self.score.clip.latent_width)

    def known_frames(self, latent_frames: int) -> int:
        """For how many latent frames of a clip `y` has to say what is known: all, or those of one window, which serve them all."""
        rule = self.score.rule(latent_frames)
        return latent_frames if rule.anchor == "clip" else min(rule.length, latent_frames)

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
        seconds = dict.fromkeys(STAGES, 0.0) if seconds is None else seconds
        mask = np.ones((1, self.score.clip.tokens_per_frame), np.float32) if audio_mask is None else audio_mask[None]
        given = _Given(y, image, text, audio, mask.astype(np.float32), start.shape[1], self.score.rule(start.shape[1]))
        return self.denoise(given, start, seconds)

    def frames_of(self, take: Take) -> Iterator[NDArray[np.uint8]]:
        """Decodes a take: uint8 [H, W, 3], one frame after the other; memory does not grow with the clip's length."""
        left = take.frames
        for video in self.video_of(take.latents, take.seconds, take.frames):
            pixels = np.clip(np.rint((video.transpose(0, 2, 3, 1) + 1) * 127.5), 0, 255).astype(np.uint8)  # [1 or 4, H, W, 3]
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
            with _timed(seconds, "decode"):
                chunk = np.ascontiguousarray(latents[None, :, index : index + 1])
                video, *state = self.engine.run(self.decoder, "next" if index else "first", [chunk, *state])
            self.progress("decode", index + 1, chunks)
            done += video.shape[1]
            yield video[0]

    # -- 1. listen -----------------------------------------------------------------------------------------------------------------

    def listen(self, speech: Float32, frames: int) -> Float32:
        """speech [n] -> features of `frames` video frames, [frames, layers, channels] (flash) or [2·frames, channels] (preview);
        silence behind the end. Programs of a bundle hear a part of the voice at a time, see core/sampling/hearing.py."""
        samples, per_frame = self.score.audio_samples, self.score.clip.samples_per_frame
        if samples is None:
            features = self._encode_audio([lengthened(speech, frames * per_frame)[None]])
            self.progress("listen", 1, 1)
            return features
        told = partial(self.progress, "listen")
        return hear(speech, frames, per_frame, samples, self.score.hearing, self._encode_audio, told)

    def _encode_audio(self, inputs: Sequence[Array]) -> Array:
        return self.engine.run("audio_encoder", "forward", inputs)[0][0]

    # -- 2. look -------------------------------------------------------------------------------------------------------------------

    def look(self, known: Float32, latent_frames: int) -> Float32:
        """The first frames of the clip, [n, 3, H, W] in [-1, 1] -> y [1, 20, latent_frames, h, w]: which frames are known, and
        their latents."""
        clip = replace(self.score.clip, frames=TEMPORAL_STRIDE * (latent_frames - 1) + 1)
        y = known_latents(known, clip, self._encode_video, self.score.config.encode_unknown)
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
        said = {PROMPT: prompt, **self.score.plan.texts}
        names = dict.fromkeys(branch.text for branch in self.score.plan.branches)
        return {name: self.read(said.get(name, name)) for name in names}

    def read(self, prompt: str) -> tuple[Float32, Float32]:
        """A prompt -> rows [1, text_rows, text_dim] and their bias [1, text_rows]."""
        config, rows = self.score.config, self.score.text_rows
        if prompt in self.score.prompts:
            embedding = self.score.prompts[prompt]
        elif self.engine.has("text_encoder"):
            ids, length = self.score.tokenise(prompt, config.text_len)
            embedding = self.engine.run("text_encoder", "forward", [ids])[0][0][:length]
        else:
            known = ", ".join(repr(name) for name in sorted(self.score.prompts)) or "none"
            raise InputError(f"There is no text encoder here; the known prompts are {known}, not {prompt!r}.")
        if not self.score.collapse:
            return pad_text([embedding], config.text_len), np.zeros((1, config.text_len), np.float32)
        text, bias = collapse_padding(embedding, config.text_len, rows)
        return text[None], bias[None]

    # -- 3. prepare ----------------------------------------------------------------------------------------------------------------

    def prepare(self, given: _Given, span: Window) -> list[list[Array]]:
        """The conditions of one window by branch, each in the order of the denoise program's inputs. What branches or windows have
        in common is held once."""
        rule = given.rule
        heard = self._audio_of(given.audio, span, last=span.end == given.latent_frames)
        there = heard.shape[1]  # rows; of a shorter window's the rest is marked as missing
        first = span.start if rule.anchor == "clip" else 0
        known = np.ascontiguousarray(given.y[:, :, first : first + span.length])
        own: dict[tuple[Any, ...], Array] = {}
        row = []
        for branch in self.score.plan.branches:
            inputs = self._condition_inputs(branch, known, given, heard, span.length)
            encoded = self.engine.run("encode_conditions", "forward", inputs)
            words, picture = (branch.text, branch.text_scale), (branch.image,)
            voice = (branch.audio, branch.audio_shift, there)
            patches, voices = (own if rule.anchor == "clip" else given.common), (own if branch.audio else given.common)
            places: list[tuple[dict[tuple[Any, ...], Array], tuple[Any, ...]]] = [
                (patches, ("y", span.length)), (given.common, ("text k", *words)), (given.common, ("text v", *words)),
                (given.common, ("image k", *picture)), (given.common, ("image v", *picture)), (voices, ("audio k", *voice)),
                (voices, ("audio v", *voice)),
            ]  # fmt: skip
            patch_bias, text_k, text_v, *others = (
                store.setdefault(key, value) for (store, key), value in zip(places, encoded, strict=True)
            )
            row.append([patch_bias, text_k, text_v, given.text[branch.text][1], *others, given.mask])
        return row

    def _condition_inputs(self, branch: Branch, y: Float32, given: _Given, audio: Float32, latent_frames: int) -> list[Array]:
        hearing = self.score.hearing
        sound = branch.hear(audio, hearing.rows_per_frame)[0]
        return [
            y,
            given.text[branch.text][0] * np.float32(branch.text_scale),
            given.image if branch.image else np.zeros_like(given.image),
            *window_inputs(sound, hearing, None if self.score.any_length else latent_frames),
        ]

    def neighbourhoods(self, features: Float32) -> Float32:
        """What `listen` heard, as `sample` takes it: flash reads each frame with its neighbours, [T, 5, layers, channels], clamped
        at the clip's ends; preview its tokens as they are."""
        radius = self.score.hearing.neighbours
        return frame_windows(features[None], radius)[0] if radius else features

    def _audio_of(self, audio: Float32, span: Window, last: bool) -> Float32:
        """The window's speech with a batch axis; a window that hears beyond its last frame hears, at the end of the clip, all that
        is left."""
        hearing = self.score.hearing
        first = hearing.rows_per_frame * TEMPORAL_STRIDE * span.start
        end = None if last and hearing.beyond_frames else first + window_rows(hearing, span.length)
        return np.ascontiguousarray(audio[None, first:end])

    # -- 4. denoise ----------------------------------------------------------------------------------------------------------------

    def denoise(self, given: _Given, start: Float32, seconds: dict[str, float]) -> tuple[Float32, int]:
        """Noise [16, F, h, w] -> latents of the whole clip, and how many times the model ran.

        A window takes its next step as soon as the latents under it have taken theirs, so a long clip's windows pass as a front:
        conditions, residuals and velocities are held only for those between their first step and their last (`_Front`).
        """
        plan, front = self.score.plan, _Front(self.score.plan, given.rule, start)
        if not front.windows:  # the original's way with a clip shorter than a window
            return front.result, 0
        with _timed(seconds, "prepare"):
            tables = self.score.step_tables() if callable(self.score.step_tables) else self.score.step_tables
        conditions: dict[int, list[list[Array]]] = {}
        residuals: dict[tuple[int, int], Array] = {}
        total, done, evaluations = front.windows * sum(len(plan.evaluated(step)) for step in range(plan.steps)), 0, 0
        while (turn := front.next()) is not None:
            step, position, span = turn
            if step == 0:
                with _timed(seconds, "prepare"):
                    conditions[position] = self.prepare(given, span)
                self.progress("prepare", position + 1, front.windows)
            with _timed(seconds, "denoise"):
                time_row, modulation = tables["time"][step : step + 1], tables["modulation"][step : step + 1]
                latents, modality = front.latents(step, span), plan.modality(step, span.length)[None]
                velocities: list[Any] = [None] * len(plan.branches)
                for branch in plan.evaluated(step):
                    condition, slot = conditions[position][branch], (position, plan.residual_slot(branch))
                    if plan.reuse[step][branch]:
                        inputs = [latents, time_row, residuals[slot], condition[0]]
                        velocities[branch] = self.engine.run("denoise_reusing", "forward", inputs)[0][0]
                    else:
                        inputs = [latents, time_row, modulation, modality, *condition]
                        velocity, *residual = self.engine.run("denoise", "forward", inputs)
                        velocities[branch] = velocity[0]
                        evaluations += 1
                        if residual:
                            residuals[slot] = residual[0]
                    done += 1
                    self.progress("denoise", done, total)
                front.take(step, span, guide(plan, step, velocities))
            if step == plan.steps - 1:
                del conditions[position]
                residuals = {key: value for key, value in residuals.items() if key[0] != position}
        return front.result, evaluations


@dataclass
class _Given:
    """What a clip is made from, encoded; `common` collects the conditions that its windows share."""

    y: Float32
    image: Float32
    text: Mapping[str, tuple[Float32, Float32]]
    audio: Float32
    mask: Float32
    latent_frames: int
    rule: WindowRule
    common: dict[tuple[Any, ...], Array] = field(default_factory=dict)


class _Front:
    """Which window takes which step next, and the latent frames that are under way.

    The furthest step that can be taken comes first. Of each latent frame the history is kept from its first step to its last; of
    frames that are finished only the result is. The numbers are those of taking all windows through one step after the other.
    """

    def __init__(self, plan: SamplingPlan, rule: WindowRule, start: Float32) -> None:
        frames = start.shape[1]
        self.plan = plan
        every = windows(frames, rule)
        self.spans = [windows(frames, rule, step) if rule.upstream_compat else every for step in range(plan.steps)]
        self.windows = len(self.spans[0])
        self.taken = [0] * plan.steps  # windows that have taken each step
        self.settled = [frames] + [0] * plan.steps  # leading latent frames that have taken so many steps
        self.parts: list[list[tuple[Window, Float32]]] = [[] for _ in range(plan.steps)]
        self.history = {frame: [start[:, frame]] for frame in range(frames)}
        self.states = [{frame: start[:, frame] for frame in range(frames)}, *({} for _ in range(plan.steps))]
        self.result = np.zeros_like(start)

    def next(self) -> tuple[int, int, Window] | None:
        """(step, index of the window, window), or None when all is done."""
        for step in reversed(range(self.plan.steps)):
            position = self.taken[step]
            if position < self.windows:
                span = self.spans[step][position]
                if span.end <= self.settled[step]:
                    return step, position, span
        return None

    def latents(self, step: int, span: Window) -> Float32:
        """[1, 16, length, h, w]: the window's latents before `step`."""
        frames = range(span.start, span.end)
        return np.ascontiguousarray(np.stack([self.states[step][frame] for frame in frames], axis=1)[None])

    def take(self, step: int, span: Window, velocity: Float32) -> None:
        """The guided velocity [16, length, h, w] of the window that `next` gave: frames that no later window reaches advance."""
        parts, states = self.parts[step], self.states[step]
        parts.append((span, velocity))
        self.taken[step] += 1
        more = self.taken[step] < self.windows
        until = self.spans[step][self.taken[step]].start if more else self.settled[0]
        for frame in range(self.settled[step + 1], until):
            history = self.history[frame]
            history.append(blend_frame(parts, frame))
            state = advance(self.plan, step, history)
            del states[frame]
            if step == self.plan.steps - 1:
                self.result[:, frame] = state
                del self.history[frame]
            else:
                self.states[step + 1][frame] = state
        self.settled[step + 1] = until
        parts[:] = [part for part in parts if part[0].end > until]


class _timed:
    """Adds the body's wall time to `seconds[stage]`."""

    def __init__(self, seconds: dict[str, float], stage: str) -> None:
        self.seconds, self.stage = seconds, stage

    def __enter__(self) -> None:
        self.started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds[self.stage] += time.perf_counter() - self.started
