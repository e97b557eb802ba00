"""`echoedge train nano`: pool, VAE, gate, transformer, evaluation; each stage resumes from its last checkpoint in the work
folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..config import NANO
from ..errors import ConfigError
from ..files import atomic_file
from ..model.vae import VAE
from ..plan.samplers import PLAN_PRESETS, build_plan
from ..weights.nano import load_nano, save_nano
from ..work import WorkFolder, claimed
from .curves import training_curves
from .distributed import World
from .evaluate import as_metrics, held_out, score_clips, score_vae
from .generate import generate
from .pool import ClipPool, open_pool
from .train_dit import DiTTraining, LatentCache, cache_extras, cache_latents, leave_out, train_dit
from .train_vae import VAETraining, train_vae

POOL_CLIPS = 3000
LIPSYNC_GATE = 0.9  # of the VAE's own reconstructions; below it a transformer cannot learn what the latents do not hold
EVALUATED_CLIPS = 32
Report = Callable[[str], None]


def train_nano(
    workdir: Path,
    out: Path,
    vae: VAETraining | None = None,
    dit: DiTTraining | None = None,
    pool_clips: int = POOL_CLIPS,
    threads: int = 2,
    report: Report = print,
    world: World | None = None,
    start: Path | None = None,
    without: Collection[str] = (),
    keep_vae: bool = False,
    drawn_world: str = "calm",
) -> dict[str, Any]:
    """Trains nano in `workdir` and writes its weights to `out` with `metrics.json` and `training.png` beside. Returns the metrics.

    The first process of `world` does the stages before the transformer and judges the result; the others return no metrics.
    `start`: a weights file of nano whose VAE is trained further, instead of one from nothing, or taken as it is (`keep_vae`).
    `without`: parts of the recipe to leave out (`PARTS`); such a run has pool, VAE and latents in common with the others, and a
    folder for its transformer. `drawn_world`: of `puppets.WORLDS`, that the clips are of. One run works in `workdir` at a time.

    Raises:
        ConfigError: the VAE's reconstructions lose the mouth (lip-sync below LIPSYNC_GATE), or `workdir` holds a run with other
            options or clips of another world.
        InputError: there is no such world.
        OutputError: `workdir` is a folder of something else, another run works in it, or another one writes `out`.
    """
    vae, dit, world = vae or VAETraining(), dit or DiTTraining(), world or World()
    torch.set_num_threads(threads)
    with ExitStack() as held:
        if world.first:
            held.enter_context(WorkFolder(workdir, "training"))
            held.enter_context(claimed(out, "training"))
        return _train(workdir, out, vae, dit, pool_clips, report, world, start, without, keep_vae, drawn_world)


def _train(
    workdir: Path,
    out: Path,
    vae: VAETraining,
    dit: DiTTraining,
    pool_clips: int,
    report: Report,
    world: World,
    start: Path | None,
    without: Collection[str],
    keep_vae: bool,
    drawn_world: str,
) -> dict[str, Any]:
    say = report if world.first else _silent
    pool, cache, trained_vae = world.first_then_others(
        partial(_prepare, workdir, vae, dit, pool_clips, say, world.first, start, keep_vae, drawn_world)
    )
    dit, folder = leave_out(dit, without), run_folder(workdir, without)
    folder.mkdir(exist_ok=True)
    say(f"3. transformer: {dit.steps} steps of {dit.batch} clips; progress in {folder / 'dit.log'}")
    model = train_dit(NANO, cache, pool, folder, dit, world=world)
    if not world.first:
        return {}
    assert model.encoders is not None
    save_nano(out, model.dit, trained_vae, model.encoders, world=drawn_world)
    loaded = load_nano(path=out)
    clips = held_out(EVALUATED_CLIPS, world=drawn_world)
    videos = generate(loaded, clips, build_plan(PLAN_PRESETS["nano"]))
    score = score_clips(videos, clips)
    report(f"4. held-out clips: lip-sync {score.lipsync:.2f}, shuffled {score.lipsync_shuffled:.2f}")
    metrics = {
        "training": {
            "vae": f"that of {start}" if keep_vae else asdict(vae),
            "dit": asdict(dit),
            "pool_clips": pool_clips,
            "world": drawn_world,
        },
        "held_out": as_metrics(score_vae(loaded.vae, clips)[0], score),
    }
    with atomic_file(out.parent / "metrics.json", force=True) as temporary:
        temporary.write_text(json.dumps(metrics, indent=1) + "\n")
    with atomic_file(out.parent / "training.png", force=True) as temporary:
        training_curves(folder, workdir).save(temporary)
    return metrics


def run_folder(workdir: Path, without: Collection[str] = ()) -> Path:
    """Where a run keeps its transformer: the work folder, or one inside it for a run that leaves parts out."""
    return workdir / "-".join(["without", *sorted(set(without))]) if without else workdir


def _prepare(
    workdir: Path,
    vae: VAETraining,
    dit: DiTTraining,
    pool_clips: int,
    report: Report,
    judge: bool,
    start: Path | None,
    keep_vae: bool,
    drawn_world: str,
) -> tuple[ClipPool, LatentCache, VAE]:
    """Clips, cached latents and the autoencoder: made where `workdir` lacks them, and judged by the process that makes them."""
    report(f"1. pool: {pool_clips} clips of the {drawn_world} world in {workdir / 'pool'}")
    pool = open_pool(workdir / "pool", pool_clips, world=drawn_world)
    given = load_nano(path=start).vae if start else None
    if given is not None and keep_vae:
        report(f"2. VAE: that of {start}")
        trained = given
    else:
        report(f"2. VAE: {vae.image_steps} steps on frames, {vae.clip_steps} on clips; progress in {workdir / 'vae.log'}")
        trained = train_vae(NANO, pool, workdir, vae, given)
    if judge:
        score, _ = score_vae(trained, held_out(EVALUATED_CLIPS, world=drawn_world))
        report(f"   held-out reconstruction: {score.psnr_db:.1f} dB, lip-sync {score.lipsync:.2f}")
        if score.lipsync < LIPSYNC_GATE:
            raise ConfigError(
                f"The VAE's reconstructions have lip-sync {score.lipsync:.2f}; {LIPSYNC_GATE} is needed before the transformer is "
                "worth training. Train the VAE for longer, or weigh motion in the mouth more (motion_weight)."
            )
    cache = cache_latents(trained, pool, workdir / "latents.pt", dit.clips, dit.lipsync_clips)
    return pool, cache_extras(trained, pool, cache, workdir, dit), trained


def _silent(line: str) -> None:
    """Only the first process reports."""
