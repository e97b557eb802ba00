"""The player: evaluates programs and takes linear combinations, as the plan says. Any engine, any bundle.

1. listen   speech -> features per video frame
2. look     portrait -> image tokens and masked latents; prompts -> embeddings
3. prepare  conditions per window and guidance branch
4. denoise  for each step, window and branch: velocity; guide, blend, advance
5. decode   one latent frame at a time: frames leave as they are finished
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..core.bundle import Bundle
from ..core.conditions import AUDIO_RADIUS, collapse_padding
from ..core.config import TEMPORAL_STRIDE, ClipSpec, ModelConfig
from ..core.encoders import byte_ids
from ..core.errors import InputError
from ..core.plan import Branch, SamplingPlan, Window, WindowRule, advance, blend, guide, noise, windows
from ..core.tasks import Task, condition_latents, task_mask
from .engines.base import Array, Engine

Float32 = NDArray[np.float32]
STAGES = ("listen", "look", "prepare", "denoise", "decode")
Progress = Callable[[str, int, int], None]


def _silent(stage: str, done: int, total: int) -> None:
    """The default progress: says nothing."""


@dataclass(frozen=True)
class Score:
    """What a player needs to know of a bundle: model, clip, plan, step tables and prompt embeddings."""

    config: ModelConfig
    clip: ClipSpec
    plan: SamplingPlan
    step_tables: Mapping[str, Array]
    text_rows: int
    audio_samples: int  # that the audio encoder reads at once: one clip and the context behind it
    prompts: Mapping[str, Float32] = field(default_factory=dict)

    @classmethod
    def of(cls, bundle: Bundle) -> Score:
        packs = [name for name in bundle.manifest.files if name.startswith("prompts/")]
        prompts = {key: value for name in packs for key, value in bundle.read_tensors(name).items()}
        return cls(
            bundle.model, bundle.clip, bundle.plan(), bundle.read_tensors("step_tables.safetensors"),
            bundle.input_shape("encode_conditions", "text")[1], bundle.input_shape("audio_encoder", "waveform")[1], prompts,
        )  # fmt: skip


def memory_needed(bundle: Bundle, seconds: float) -> int:
    """Bytes that playing `seconds` of speech takes, from the manifest: programs thrice (file, loaded, packed), conditions per
    window and branch, the VAE's states twice, and the history of latents."""
    manifest, plan, clip = bundle.manifest, bundle.plan(), bundle.clip

    def size(name: str) -> int:
        value = manifest.memory.get(name, 0)
        return int(value) if isinstance(value, (int, float)) else 0

    latent_frames = max(clip.latent_frames, math.ceil(seconds * clip.fps / TEMPORAL_STRIDE))
    rule = plan.window or WindowRule(length=clip.latent_frames, overlap=0)
    spans = math.ceil(latent_frames / (rule.length - rule.overlap))
    programs = 3 * sum(program.bytes for program in manifest.programs.values())
    conditions = spans * len(plan.branches) * size("conditions_bytes_per_branch")
    states = 2 * (size("vae_encode_state_bytes") + size("vae_decode_state_bytes"))
    history = (plan.steps + 2) * latent_frames * size("latents_bytes") // clip.latent_frames
    return programs + conditions + states + history


@dataclass
class Take:
    """One performance: the latents, how many video frames of them count, and where the time went (wall seconds by stage)."""

    latents: Float32
    frames: int
    seconds: dict[str, float]
    evaluations: int


class Player:
    """Plays clips of any length on one engine. `progress(stage, done, total)` is called as work advances."""

    def __init__(self, score: Score, engine: Engine, progress: Progress = _silent) -> None:
        self.score, self.engine, self.progress = score, engine, progress

    # -- the whole way -------------------------------------------------------------------------------------------------------------

    def perform(self, portrait: Float32, speech: Float32, prompt: str = "", seed: int = 0) -> Take:
        """portrait [3, H, W] in [-1, 1], speech [n] at the bundle's rate -> a take, to be decoded by `frames_of`.

        The clip is as long as the speech, down to 4n+1 frames, one frame at least.

        Raises:
            InputError: the speech is shorter than one frame, or the prompt cannot be used with this bundle.
        """
        clip, seconds = self.score.clip, dict.fromkeys(STAGES, 0.0)
        available = len(speech) // clip.samples_per_frame
        if available < 1:
            raise InputError(f"The speech lasts {len(speech) / clip.sample_rate:.3f} s; one frame is {1 / clip.fps:.3f} s.")
        frames = (available - 1) // TEMPORAL_STRIDE * TEMPORAL_STRIDE + 1
        latent_frames = max((frames - 1) // TEMPORAL_STRIDE + 1, clip.latent_frames)

        with _timed(seconds, "listen"):
            features = self.listen(speech, TEMPORAL_STRIDE * (latent_frames - 1) + 1)
        with _timed(seconds, "look"):
            y, image = self.look(portrait)
            text = {name: self.read(prompt if name == "prompt" else name) for name in {b.text for b in self.score.plan.branches}}
        rule = self.score.plan.window or WindowRule(length=clip.latent_frames, overlap=0)
        with _timed(seconds, "prepare"):
            spans = windows(latent_frames, rule)
            conditions = self.prepare(spans, y, image, text, features)
        with _timed(seconds, "denoise"):
            latents, evaluations = self.denoise(spans, conditions, latent_frames, seed)
        return Take(latents, frames, seconds, evaluations)

    def frames_of(self, take: Take) -> Iterator[NDArray[np.uint8]]:
        """Decodes a take: uint8 [H, W, 3], one frame after the other; memory does not grow with the clip's length."""
        state: list[Array] = []
        left = take.frames
        chunks = take.latents.shape[1]
        for index in range(chunks):
            if left <= 0:
                return
            started = time.perf_counter()
            chunk = np.ascontiguousarray(take.latents[None, :, index : index + 1])
            video, *state = self.engine.run("vae_decode", "next" if index else "first", [chunk, *state])
            pixels = np.clip(np.rint((video[0].transpose(0, 2, 3, 1) + 1) * 127.5), 0, 255).astype(np.uint8)  # [1 or 4, H, W, 3]
            take.seconds["decode"] += time.perf_counter() - started
            self.progress("decode", index + 1, chunks)
            yield from pixels[:left]
            left -= len(pixels)

    # -- 1. listen -----------------------------------------------------------------------------------------------------------------

    def listen(self, speech: Float32, frames: int) -> Float32:
        """speech [n] -> features [frames, layers, channels], in chunks of the bundle's clip length; silence behind the end."""
        clip = self.score.clip
        samples = self.score.audio_samples
        context = samples - clip.frames * clip.samples_per_frame
        chunks = -(-frames // clip.frames)
        padded = np.zeros(chunks * clip.frames * clip.samples_per_frame + context, np.float32)
        padded[: min(len(speech), len(padded))] = speech[: len(padded)]
        features = []
        for index in range(chunks):
            start = index * clip.frames * clip.samples_per_frame
            features.append(self.engine.run("audio_encoder", "forward", [padded[None, start : start + samples]])[0][0])
            self.progress("listen", index + 1, chunks)
        return np.concatenate(features)[:frames]

    # -- 2. look -------------------------------------------------------------------------------------------------------------------

    def look(self, portrait: Float32) -> tuple[Float32, Float32]:
        """portrait [3, H, W] -> y [1, 20, F, h, w] and image tokens [1, L, image_dim]."""
        clip = self.score.clip
        video = torch.zeros(clip.frames, 3, clip.height, clip.width)
        video[0] = torch.from_numpy(portrait)
        mask = task_mask(frozenset({Task.I2V, Task.A2V}), clip)
        y = condition_latents(video, mask, clip, self._encode_video, self.score.config.encode_unknown)
        image = self.engine.run("image_encoder", "forward", [portrait[None]])[0]
        self.progress("look", 1, 1)
        return y.numpy(), image

    def _encode_video(self, video: torch.Tensor) -> torch.Tensor:
        """[1, T, 3, H, W] -> [1, 16, F, h, w], streaming."""
        latents, state = [], []  # type: tuple[list[Array], list[Array]]
        first, rest = video[:, :1], video[:, 1:]
        for index, chunk in enumerate([first, *(rest.split(TEMPORAL_STRIDE, 1) if rest.shape[1] else ())]):
            result, *state = self.engine.run("vae_encode", "next" if index else "first", [chunk.numpy(), *state])
            latents.append(result)
        return torch.from_numpy(np.concatenate(latents, 2))

    def read(self, prompt: str) -> tuple[Float32, Float32]:
        """A prompt -> rows [1, text_rows, text_dim] and their bias [1, text_rows]."""
        config, rows = self.score.config, self.score.text_rows
        if prompt in self.score.prompts:
            embedding = torch.from_numpy(self.score.prompts[prompt])
        elif self.engine.has("text_encoder"):
            ids, length = byte_ids(prompt, config.text_len)
            embedding = torch.from_numpy(self.engine.run("text_encoder", "forward", [ids.numpy()])[0][0][:length])
        else:
            known = ", ".join(repr(name) for name in sorted(self.score.prompts)) or "none"
            raise InputError(f"This bundle carries no text encoder; it knows the prompts {known}, not {prompt!r}.")
        text, bias = collapse_padding(embedding, config.text_len, rows)
        return text[None].numpy(), bias[None].numpy()

    # -- 3. prepare ----------------------------------------------------------------------------------------------------------------

    def prepare(
        self, spans: list[Window], y: Float32, image: Float32, text: Mapping[str, tuple[Float32, Float32]], features: Float32
    ) -> list[list[list[Array]]]:
        """Conditions by window and branch, each in the order of the denoise program's inputs."""
        plan, clip = self.score.plan, self.score.clip
        mask = np.ones((1, clip.tokens_per_frame), np.float32)
        conditions: list[list[list[Array]]] = []
        for span in spans:
            audio = self._audio_windows(features, span)
            row = []
            for branch in plan.branches:
                patch_bias, text_k, text_v, *others = self.engine.run(
                    "encode_conditions", "forward", self._condition_inputs(branch, y, image, text, audio)
                )
                row.append([patch_bias, text_k, text_v, text[branch.text][1], *others, mask])
            conditions.append(row)
            self.progress("prepare", len(conditions), len(spans))
        return conditions

    @staticmethod
    def _condition_inputs(
        branch: Branch, y: Float32, image: Float32, text: Mapping[str, tuple[Float32, Float32]], audio: Float32
    ) -> list[Array]:
        return [
            y,
            text[branch.text][0] * np.float32(branch.text_scale),
            image if branch.image else np.zeros_like(image),
            audio if branch.audio else np.zeros_like(audio),
        ]

    def _audio_windows(self, features: Float32, span: Window) -> Float32:
        """The window's speech [1, T, 5, layers, channels]; neighbours reach beyond it, and are clamped at the clip's ends."""
        start = TEMPORAL_STRIDE * span.start
        frames = np.arange(start, start + TEMPORAL_STRIDE * (span.length - 1) + 1)
        index = frames[:, None] + np.arange(-AUDIO_RADIUS, AUDIO_RADIUS + 1)
        return features[np.clip(index, 0, len(features) - 1)][None]

    # -- 4. denoise ----------------------------------------------------------------------------------------------------------------

    def denoise(
        self, spans: list[Window], conditions: list[list[list[Array]]], latent_frames: int, seed: int
    ) -> tuple[Float32, int]:
        """-> latents [16, F, h, w] of the whole clip, and how many times the model ran."""
        plan, clip, tables = self.score.plan, self.score.clip, self.score.step_tables
        shape = (self.score.config.latent_channels, latent_frames, clip.latent_height, clip.latent_width)
        history = [noise(seed, shape)]
        x, evaluations = history[0], 0
        residuals: dict[tuple[int, int], Array] = {}
        total = plan.steps * len(spans)
        for step in range(plan.steps):
            time_row, modulation = tables["time"][step : step + 1], tables["modulation"][step : step + 1]
            parts = []
            for position, span in enumerate(spans):
                latents = np.ascontiguousarray(x[None, :, span.start : span.start + span.length])
                modality = plan.modality(step, span.length)[None]
                velocities: list[Any] = [None] * len(plan.branches)
                for branch in plan.evaluated(step):
                    condition = conditions[position][branch]
                    if plan.reuse[step][branch]:
                        inputs = [latents, time_row, residuals[position, branch], condition[0]]
                        velocities[branch] = self.engine.run("denoise_reusing", "forward", inputs)[0][0]
                        continue
                    velocity, *residual = self.engine.run(
                        "denoise", "forward", [latents, time_row, modulation, modality, *condition]
                    )
                    velocities[branch] = velocity[0]
                    evaluations += 1
                    if residual:
                        residuals[position, branch] = residual[0]
                parts.append((span, guide(plan, step, velocities)))
                self.progress("denoise", step * len(spans) + position + 1, total)
            history.append(blend(parts))
            x = advance(plan, step, history)
        return x, evaluations


class _timed:
    """Adds the body's wall time to `seconds[stage]`."""

    def __init__(self, seconds: dict[str, float], stage: str) -> None:
        self.seconds, self.stage = seconds, stage

    def __enter__(self) -> None:
        self.started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds[self.stage] += time.perf_counter() - self.started
