"""Training of the transformer by flow matching on cached latents: tasks mixed, conditions dropped, undesired samples.

x_σ = (1-σ) x₀ + σ ε, velocity ε - x₀, timestep 1000 σ; σ is logit-normal, shifted towards noise as the sampler's schedule is.
Audio, text and portrait are dropped now and then, so that guidance has an unconditional branch. Exponential averages of the
weights are what ships.

The same code trains nano with its encoders and fine-tunes a released model on encoded features, in one process or in many. A batch
is drawn in two stages: `draw` decides on all samples from the seed and the step, in every process alike; `assemble` makes the
tensors of one process's rows. A step therefore depends on nothing but its number and the state before it, and a run that is killed
repeats itself from its last checkpoint.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..config import NANO_CLIP, ClipSpec, ModelConfig
from ..errors import ConfigError
from ..model.encoders import NanoEncoders
from ..model.masks import Box, Task, condition_latents, mask_latents, parse_tasks, task_mask
from ..model.transformer import DiT
from ..model.vae import VAE
from ..plan import check_choice
from ..sampling.inputs import frame_windows
from .checkpoint import fingerprint, load_checkpoint, options_of, save_checkpoint
from .distributed import World, spread
from .loop import Run, recompute_blocks, run_training
from .pool import Asked, ClipPool, SampleSource
from .preference import NDPO, Captions, Negative, fade_identity, freeze_latent, freeze_mouth, ndpo_loss
from .soup import ModalSoup, TaskSoup, has_audio, picture_of
from .train_vae import cosine_rate, video_tensor

LIPSYNC = "i2v+lipsync"


@dataclass(frozen=True)
class DiTTraining:
    """Steps, batch, rates, and how often each task and each dropped condition is drawn (shares of the batch).

    `tasks` replaces `share_t2v` and `share_lipsync`, `modals` replaces `drop_audio` and `drop_text`; `ndpo` and `captions` add
    undesired samples. `bf16` computes in bfloat16 under autocast, with float32 parameters; `recompute` runs each block again in the
    backward pass instead of keeping its activations.
    """

    steps: int = 1300
    batch: int = 16
    rate: float = 1e-3
    mouth_weight: float = 3.0
    shift: float = 3.0
    drop_audio: float = 0.1
    drop_text: float = 0.1
    share_t2v: float = 0.08
    share_lipsync: float = 0.12
    clips: int = 1600
    lipsync_clips: int = 320
    gain_db: float = 5.0
    ema: float = 0.998
    seed: int = 1
    tasks: TaskSoup | None = None
    modals: ModalSoup | None = None
    ndpo: NDPO | None = None
    captions: Captions | None = None
    bf16: bool = False
    recompute: bool = False

    @property
    def soup(self) -> TaskSoup:
        """The mixture of tasks. The plain recipe gives every sample its audio, so its t2v is a2v."""
        if self.tasks is not None:
            return self.tasks
        shares = {"i2v+a2v": 1 - self.share_t2v - self.share_lipsync, "a2v": self.share_t2v, LIPSYNC: self.share_lipsync}
        return TaskSoup(tuple((name, share) for name, share in shares.items() if share), hard=None, mislabelled=0.0)

    def needs(self, kind: Negative) -> bool:
        return any(kind in part.kinds for part in (self.ndpo, self.captions) if part is not None)


METHODS = {
    "plain": DiTTraining(),
    "full": DiTTraining(
        steps=3000, clips=2400, lipsync_clips=400, tasks=TaskSoup(), modals=ModalSoup(), ndpo=NDPO(start=2000), captions=Captions()
    ),
}
"""Training recipes of nano: portrait and speech only, and EchoMimicV3's soups with NDPO-SFT cycles, which ships. The preference
steps begin when the model has learnt what a good clip is: an undesired one is only worth avoiding beside it."""


PARTS = {"ndpo": "preference steps (NDPO)", "labels": "wrong-label mixing", "captions": "captioned negatives"}
"""Parts of the method that a run can leave out, to see what they are worth."""


def leave_out(training: DiTTraining, parts: Collection[str]) -> DiTTraining:
    """The recipe without some of `PARTS`, everything else as it is.

    Raises:
        ConfigError: a part is unknown, or the recipe does not have it.
    """
    for part in sorted(set(parts)):
        check_choice("part", part, tuple(PARTS))
        kept = {"ndpo": training.ndpo, "labels": training.tasks and training.tasks.mislabelled, "captions": training.captions}
        if not kept[part]:
            raise ConfigError(f"The recipe has no {PARTS[part]} to leave out. Use the method 'full'.")
        if part == "labels" and training.tasks is not None:
            training = replace(training, tasks=replace(training.tasks, mislabelled=0.0))
        elif part == "ndpo":
            training = replace(training, ndpo=None)
        else:
            training = replace(training, captions=None)
    return training


class NanoModel(nn.Module):
    """What is trained together: the transformer and, for nano, the encoders that feed it.

    With `encoders` False the batch brings features (`FeaturePool`), as for the released models, whose encoders are frozen.
    """

    def __init__(self, config: ModelConfig, clip: ClipSpec = NANO_CLIP, encoders: bool = True) -> None:
        super().__init__()
        self.dit = DiT(config)
        self.encoders = NanoEncoders(config, clip) if encoders else None

    def forward(self, noisy: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """noisy [B, 16, F, h, w] at the levels batch["sigma"], with the batch's conditions -> velocity [B, 16, F, h, w]."""
        audio, image, text = self.features(batch)
        audio = audio * batch["has_audio"].view(-1, *[1] * (audio.dim() - 1))
        image = image * batch["has_portrait"].view(-1, 1, 1)
        if self.dit.config.audio_path.per_frame:
            audio = frame_windows(audio)
        return self.dit(noisy, 1000 * batch["sigma"], batch["y"], text, image, audio)

    def features(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Audio, image and text features of a batch."""
        if self.encoders is None:
            return batch["audio"], batch["image"], batch["text"]
        encoders = self.encoders
        waveform = torch.nn.functional.pad(batch["waveform"], (0, encoders.audio.context_samples))
        return encoders.audio(waveform), encoders.image(batch["portrait"]), encoders.text(batch["ids"])


# ---- what is encoded once --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LatentCache:
    """Latents of the pool's clips [N, 16, F, h, w], and for its first clips what else needs the autoencoder: the `y` of lip-sync
    [M, 20, F, h, w], of other tasks by `picture_of` their name, and latents with a frozen mouth [M, 16, F, h, w]."""

    latents: Tensor
    lipsync: Tensor
    pictures: dict[str, Tensor] = field(default_factory=dict)
    frozen: Tensor | None = None
    encode_unknown: bool = False
    made_from: str = ""  # fingerprint of the autoencoder

    def limit(self, name: str) -> int:
        """How many of the first clips the task called `name` can be drawn from.

        Raises:
            ConfigError: its conditions were not cached.
        """
        picture = picture_of(name)
        if picture == LIPSYNC and len(self.lipsync):
            return len(self.lipsync)
        if picture in self.pictures:
            return len(self.pictures[picture])
        if picture == "" or (picture == "i2v" and not self.encode_unknown):
            return len(self.latents)
        raise ConfigError(f"The conditions of the task {name!r} are not cached. Cache them for the tasks of the soup.")

    def y(self, name: str, clip: int, spec: ClipSpec) -> Tensor:
        """Mask and masked latents [20, F, h, w] of the task called `name` on the clip of index `clip`."""
        picture = picture_of(name)
        if picture == LIPSYNC and len(self.lipsync):
            return self.lipsync[clip]
        if picture in self.pictures:
            return self.pictures[picture][clip]
        latents = self.latents[clip]
        y = torch.zeros(4 + latents.shape[0], *latents.shape[1:])
        if picture:
            y[:4] = mask_latents(task_mask(frozenset({Task.I2V}), spec), spec.latent_height, spec.latent_width)
            y[4:, 0] = latents[:, 0]
        return y


def cache_latents(vae: VAE, pool: ClipPool, path: Path, clips: int, lipsync_clips: int, clip: ClipSpec = NANO_CLIP) -> LatentCache:
    """Encodes the pool's first `clips` clips once; later calls read `path` if it is of this VAE and these numbers of clips. A pool
    that has fewer gives all."""
    lipsync_clips = min(lipsync_clips, len(pool))
    saved = load_checkpoint(path)
    made_from = f"{fingerprint(vae)} {min(clips, len(pool))} {lipsync_clips}"
    if saved is None or saved.get("made_from") != made_from:
        with torch.no_grad():
            latents = torch.cat([vae.encode(video_tensor(pool.frames[i : i + 8])) for i in range(0, min(clips, len(pool)), 8)])
            lipsync = encode_task(vae, pool, LIPSYNC, lipsync_clips, clip)
        saved = {"latents": latents[:clips].half(), "lipsync": lipsync.half(), "made_from": made_from}
        save_checkpoint(path, saved)
    return LatentCache(saved["latents"].float(), saved["lipsync"].float(), made_from=fingerprint(vae))


@torch.no_grad()
def encode_task(vae: VAE, pool: ClipPool, name: str, clips: int, clip: ClipSpec, encode_unknown: bool = False) -> Tensor:
    """`y` [clips, 20, F, h, w] of a task on the pool's first clips."""
    rows = []
    for i in range(clips):
        y0, y1, x0, x1 = pool.boxes[i].tolist()
        mask = task_mask(parse_tasks(name), clip, Box(y0, y1, x0, x1))
        rows.append(condition_latents(video_tensor(pool.frames[i]), mask, clip, vae.encode, encode_unknown))
    return torch.cat(rows)


@torch.no_grad()
def cache_extras(
    vae: VAE, pool: ClipPool, cache: LatentCache, folder: Path, training: DiTTraining, clip: ClipSpec = NANO_CLIP
) -> LatentCache:
    """The cache with what the tasks and negatives of `training` need besides; each part is encoded once by a VAE, into `folder`."""

    count = min(training.lipsync_clips, len(pool))

    def once(name: str, encode: partial[Tensor]) -> Tensor:
        saved, made_from = load_checkpoint(folder / f"{name}.pt"), f"{fingerprint(vae)} {count}"
        if saved is None or saved.get("made_from") != made_from:
            saved = {"y": encode().half(), "made_from": made_from}
            save_checkpoint(folder / f"{name}.pt", saved)
        return saved["y"].float()

    pictures = {picture_of(name) for name in training.soup.names} - {"", "i2v", LIPSYNC}
    extra = {name: once(f"task-{name}", partial(encode_task, vae, pool, name, count, clip)) for name in sorted(pictures)}
    frozen = once("frozen", partial(encode_frozen, vae, pool, count)) if training.needs(Negative.FROZEN_MOUTH) else None
    return replace(cache, pictures=extra, frozen=frozen)


@torch.no_grad()
def encode_frozen(vae: VAE, pool: ClipPool, clips: int) -> Tensor:
    """Latents [clips, 16, F, h, w] of the pool's first clips with the first frame's mouth in every frame."""
    boxes = torch.from_numpy(np.array(pool.boxes[:clips]))
    return torch.cat([vae.encode(freeze_mouth(video_tensor(pool.frames[i : i + 1]), boxes[i : i + 1])) for i in range(clips)])


def mouth_latent_mask(boxes: np.ndarray, clip: ClipSpec) -> Tensor:
    """boxes [B, 4] in pixels -> [B, 1, 1, h, w]: 1 on latent pixels that the mouth box touches."""
    mask = torch.zeros(len(boxes), 1, 1, clip.latent_height, clip.latent_width)
    stride = clip.height // clip.latent_height
    for i, (y0, y1, x0, x1) in enumerate(boxes.tolist()):
        mask[i, ..., y0 // stride : -(-y1 // stride), x0 // stride : -(-x1 // stride)] = 1.0
    return mask


# ---- one batch -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Draw:
    """What was decided for each of B samples: its task and the task whose mask it shows (indices of the soup's names), its clip,
    gain, noise level, which of text, image and audio it has [B, 3]; how it is undesired, if it is, and whether its text says so;
    the clip that lends the voice or the face, and by how many video frames its audio is late."""

    task: np.ndarray
    shown: np.ndarray
    clip: np.ndarray
    gain: np.ndarray
    kept: np.ndarray
    sigma: np.ndarray
    negative: list[Negative | None]
    captioned: bool
    other: np.ndarray
    shift: np.ndarray


def draw(cache: LatentCache, rng: np.random.Generator, training: DiTTraining, step: int, frames: int) -> Draw:
    """Decides on the whole batch of `step`; `frames` is the clips' number of video frames.

    Raises:
        ConfigError: a task is not cached, or a clip is too short to shift its audio.
    """
    soup, size, ndpo = training.soup, training.batch, training.ndpo
    task = rng.choice(len(soup.names), size, p=soup.at(step))
    clip = rng.integers(0, len(cache.latents), size)
    for k, name in enumerate(soup.names):
        if cache.limit(name) < len(cache.latents):
            clip[task == k] = rng.integers(0, cache.limit(name), int((task == k).sum()))
    gain = 10 ** (rng.uniform(-training.gain_db, training.gain_db, size) / 20)
    kept = np.ones((size, 3), bool)
    if training.modals is None:
        kept[:, 0] = rng.random(size) >= training.drop_text
        kept[:, 2] = rng.random(size) >= training.drop_audio
    sigma = _sigmas(rng, size, training.shift)
    if training.modals is not None:
        kept = training.modals.kept(rng, size)
    shown = soup.wrong_labels(rng, task)
    negative: list[Negative | None] = [None] * size
    other, shift = clip, np.zeros(size, np.int64)
    undesired = np.zeros(size, bool)
    part: NDPO | Captions | None = None
    if ndpo is not None and ndpo.prefers(step):
        undesired[:], part, shown = True, ndpo, task
    elif training.captions is not None:
        undesired, part = rng.random(size) < training.captions.share, training.captions
    if part is not None:
        kinds = rng.integers(0, len(part.kinds), size)
        negative = [part.kinds[k] if bad else None for k, bad in zip(kinds, undesired, strict=True)]
        kept[undesired] = True
        clip, other, shift = _misfits(cache, rng, clip, negative, part.least_shift, frames)
    return Draw(task, shown, clip, gain, kept, sigma, negative, part is training.captions, other, shift)


def _misfits(
    cache: LatentCache, rng: np.random.Generator, clip: np.ndarray, negative: list[Negative | None], least: int, frames: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The clips, another clip for each, and how many frames late each one's audio is (0 unless shifted)."""
    count = len(cache.latents)
    if frames < 2 * least or count < 2:
        raise ConfigError(
            f"Misaligned samples need 2 clips of {2 * least} frames; there are {count} of {frames}. Lower least_shift."
        )
    is_kind = {kind: np.array([n is kind for n in negative]) for kind in Negative}
    other = (clip + rng.integers(1, count, len(clip))) % count
    shift = rng.integers(least, frames - least + 1, len(clip)) * is_kind[Negative.SHIFTED_AUDIO]
    if is_kind[Negative.FROZEN_MOUTH].any():
        if cache.frozen is None:
            raise ConfigError("Clips with a frozen mouth are not cached. Encode them (cache_extras), or leave that kind out.")
        clip = np.where(is_kind[Negative.FROZEN_MOUTH], clip % len(cache.frozen), clip)
    return clip, other, shift


def assemble(
    cache: LatentCache, source: SampleSource, drawn: Draw, rows: slice, training: DiTTraining, config: ModelConfig, clip: ClipSpec
) -> dict[str, Tensor]:
    """The tensors of the samples in `rows`: clean latents, `y`, inputs of encoders or transformer, what is kept, the mouth, σ."""
    names = training.soup.names
    index, task, negative = drawn.clip[rows], drawn.task[rows], drawn.negative[rows]
    y = torch.stack([cache.y(names[t], int(i), clip) for t, i in zip(task, index, strict=True)])
    for row, (true, shown) in enumerate(zip(task, drawn.shown[rows], strict=True)):
        if true != shown:
            y0, y1, x0, x1 = source.boxes[index[row]].tolist()
            mask = task_mask(parse_tasks(names[shown]), clip, Box(y0, y1, x0, x1))
            y[row, :4] = mask_latents(mask, clip.latent_height, clip.latent_width)
    mouth = mouth_latent_mask(source.boxes[index], clip)
    latents = cache.latents[index]
    voice = index.copy()
    text: list[str | None] = [None if kept else "" for kept in drawn.kept[rows, 0]]
    for row, kind in enumerate(negative):
        if kind is None:
            continue
        one, other = slice(row, row + 1), drawn.other[rows][row]
        if kind is Negative.OTHER_AUDIO:
            voice[row] = other
        elif kind is Negative.FROZEN_MOUTH and cache.frozen is not None:
            latents[row] = cache.frozen[index[row]]
        elif kind is Negative.FROZEN_LATENT:
            latents[one] = freeze_latent(latents[one], mouth[one])
        elif kind is Negative.IDENTITY:
            latents[one] = fade_identity(latents[one], cache.latents[other : other + 1])
        if drawn.captioned:
            text[row] = kind.value
    # The plain recipe gives the audio to every task; a portrait there is wherever anything of the picture is known.
    spoken = np.array([training.tasks is None or has_audio(names[t]) for t in task])
    spoken |= np.array([kind is not None and kind.needs_audio for kind in negative])
    seen = np.array([picture_of(names[t]) != "" for t in task])
    picture = np.array([-1 if picture_of(names[t]) == "last" else 0 for t in task])
    asked = Asked(index, voice, drawn.shift[rows], drawn.gain[rows], picture, text)
    return {
        "latents": latents,
        "y": y,
        **source.inputs(asked, config.text_len),
        "has_portrait": torch.from_numpy(seen & drawn.kept[rows, 1]).float(),
        "has_audio": torch.from_numpy(spoken & drawn.kept[rows, 2]).float(),
        "mouth": mouth,
        "sigma": torch.from_numpy(drawn.sigma[rows]).float(),
    }


def _sigmas(rng: np.random.Generator, size: int, shift: float) -> np.ndarray:
    sigma = 1 / (1 + np.exp(-rng.normal(0.0, 1.0, size)))
    return shift * sigma / (1 + (shift - 1) * sigma)


# ---- losses ----------------------------------------------------------------------------------------------------------------------


def weighted_error(model: nn.Module, batch: dict[str, Tensor], noise: Tensor, training: DiTTraining) -> Tensor:
    """Squared error of the velocity, weighted at the mouth, [B, 16, F, h, w]; `noise` is ε."""
    clean = batch["latents"]
    sigma = batch["sigma"].view(-1, 1, 1, 1, 1)
    noisy = (1 - sigma) * clean + sigma * noise
    with torch.autocast(clean.device.type, torch.bfloat16) if training.bf16 else nullcontext():
        velocity = model(noisy, batch)
    weight = 1 + (training.mouth_weight - 1) * batch["mouth"]
    return weight * (velocity.to(clean.dtype) - (noise - clean)).square()


def sft_loss(model: nn.Module, batch: dict[str, Tensor], noise: Tensor, training: DiTTraining) -> Tensor:
    """Supervised flow matching."""
    return weighted_error(model, batch, noise, training).mean()


def preference_loss(
    model: nn.Module, reference: nn.Module, batch: dict[str, Tensor], noise: Tensor, training: DiTTraining
) -> Tensor:
    """NDPO on a batch of negatives, scaled by weight / β."""
    ndpo = training.ndpo
    if ndpo is None:
        raise ConfigError("A preference step needs DiTTraining(ndpo=NDPO(...)).")
    with torch.no_grad():
        fixed = weighted_error(reference, batch, noise, training).flatten(1).mean(1)
    errors = weighted_error(model, batch, noise, training).flatten(1).mean(1)
    return ndpo.weight / ndpo.beta * ndpo_loss(errors, fixed, ndpo.beta).mean()


# ---- the loop --------------------------------------------------------------------------------------------------------------------


def train_dit(
    config: ModelConfig,
    cache: LatentCache,
    source: SampleSource,
    workdir: Path,
    training: DiTTraining,
    clip: ClipSpec = NANO_CLIP,
    report_every: int = 50,
    *,
    save_every: int = 200,
    world: World | None = None,
    encoders: bool = True,
    start: Mapping[str, Tensor] | None = None,
) -> NanoModel:
    """Trains (or resumes, or loads a finished run of) the transformer and encoders; writes `dit.pt` and `dit.log`.

    `start` gives the weights to begin with, by the names of `NanoModel`'s parameters; without it training starts from nothing. A
    run may be given more steps later. The result is the averaged model, whole and on the CPU, in every process.

    Raises:
        ConfigError: `workdir` holds a run with other options, another autoencoder or more steps, or no step is asked for.
    """
    world = world or World()
    rows = world.rows(training.batch)

    def build() -> NanoModel:
        torch.manual_seed(training.seed)
        model = NanoModel(config, clip, encoders)
        if start is not None:
            model.load_state_dict(start)
        return model

    def trained() -> NanoModel:
        model = build()
        if training.recompute:
            recompute_blocks(model.dit)
        return model

    reference = spread(build().eval().requires_grad_(False), world) if training.ndpo is not None else None

    def loss_of(model: NanoModel, step: int) -> tuple[str, Tensor]:
        drawn = draw(cache, np.random.default_rng((training.seed, step)), training, step, clip.frames)
        noise = torch.randn(training.batch, *cache.latents.shape[1:])[rows].to(world.device)
        batch = assemble(cache, source, drawn, rows, training, config, clip)
        batch = {name: value.to(world.device) for name, value in batch.items()}
        if reference is None or training.ndpo is None or not training.ndpo.prefers(step):
            return "loss", sft_loss(model, batch, noise, training)
        if training.ndpo.renews(step):
            reference.load_state_dict(model.state_dict())
        return "preference", preference_loss(model, reference, batch, noise, training)

    saved = run_training(
        Run(
            workdir / "dit.pt", workdir / "dit.log", options_of(training, cache.made_from, extendable=("steps",)), training.steps,
            training.seed, training.ema, lambda step: cosine_rate(step, training.steps, training.rate, warmup=100), report_every,
            save_every, world,
        ),
        trained, loss_of, {} if reference is None else {"reference": reference},
    )  # fmt: skip
    result = NanoModel(config, clip, encoders)
    result.load_state_dict(saved["average"])
    return result.eval().requires_grad_(False)
