"""Baselines: the full-precision model plays a preset; what it gave, and how fast, goes into a pair of files.

1. subject   the weights, and SHA-256 of their numbers
2. play      as asked for, and in the other ways that it is measured in: without savings, compiled
3. write     what the first way gave, stage by stage, and a record of each
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...core.bundle import ClipRecord
from ...core.bundle.baseline import GIVEN, Baseline, arrays_path, noise_sha256, write_baseline
from ...core.bundle.bench_record import BenchRecord, Workload
from ...core.bundle.engine_record import EngineRecord
from ...core.errors import OutputError
from ...core.plan import SamplingPlan, check_count, check_seed
from ..play.compared import ComparedPlayer
from ..play.material import Material, demo_material
from .clip import Progress, Stopwatch
from .machine import this_machine
from .presets import Preset
from .subjects import Playing, Subject, device_peak, settle

KEPT_BYTES = 16 << 20  # of frames: of a longer clip as many as that, evenly
SAVINGS = ("on", "off", "both")


def ways(playing: Playing, savings: str) -> tuple[Playing, ...]:
    """The ways to play that are measured, the first one as asked for: with savings unless they are off, eager before compiled."""
    hoisted = {"on": (True,), "off": (False,), "both": (True, False)}[savings]
    modes = (False, True) if playing.compiled else (False,)
    return tuple(replace(playing, savings=saved, compiled=mode) for mode in modes for saved in hoisted)


def record(
    out: Path,
    preset: Preset,
    subject: Subject,
    playing: Playing,
    *,
    savings: str = "both",
    runs: int = 3,
    seed: int = 0,
    reload: bool = True,
    threads: int | None = None,
    force: bool = False,
    progress: Progress = lambda *_: None,
) -> Baseline:
    """Plays `preset` with a demo portrait and voice, and writes the baseline `out`, JSON, and its arrays beside it. reload: also
    measure loading a second time, which takes one clip more in each way.

    Raises:
        ConfigError, EngineError, ResourceError: an option is out of range, the device is not there, memory is short.
        OutputError: the files exist and `force` is off.
    """
    check_seed(seed)
    check_count("runs", runs, 1, 1000)
    require_new(out, force)
    if threads is not None:
        torch.set_num_threads(threads)
    case = replace(demo_material(preset.clip, whole=False), seed=seed)
    prompt = next(iter(subject.prompts), case.prompt)
    plan = subject.plan(preset)
    seen: dict[str, Any] = {}
    measured = []
    chosen = ways(playing, savings)
    for number, way in enumerate(chosen):
        found, first = _measured(preset, subject, way, plan, case, prompt, runs, reload, _part(progress, number, len(chosen)))
        measured.append(found)
        seen = seen or first
    frames = kept_frames(seen["frames"])
    arrays = {name: np.asarray(getattr(case, name)) for name in GIVEN} | seen | {"frames": seen["frames"][list(frames)]}
    if prompt in subject.prompts:
        arrays["prompt"] = np.asarray(subject.prompts[prompt], np.float32)
    clip = preset.clip
    shape = (subject.config.latent_channels, clip.latent_frames, clip.latent_height, clip.latent_width)
    return write_baseline(
        out, arrays, force, preset=preset.name, model=subject.config.name, layers=subject.config.layers, weights=subject.origin,
        precision=playing.precision, clip=ClipRecord.of(clip), decoder=playing.decoder, plan=json.loads(plan.to_json()),
        prompt=prompt, seed=seed, mouth_box=case.mouth_box, noise_sha256=noise_sha256(seed, shape), frames_kept=frames,
        measured=tuple(measured),
    )  # fmt: skip


def require_new(out: Path, force: bool) -> None:
    """Refuses, before anything is played, a name that is taken or no JSON's.

    Raises:
        OutputError: as the message says.
    """
    if out.suffix != ".json":
        raise OutputError(f"--out is {str(out)!r}; a baseline is NAME.json, and NAME.safetensors beside it.")
    for path in (out, arrays_path(out)):
        if path.exists() and not force:
            raise OutputError(f"{path} exists. Give another name with --out, or --force.")


def kept_frames(frames: np.ndarray[Any, Any]) -> tuple[int, ...]:
    """Which frames of a clip [T, H, W, 3] are kept: all that fit, or as many as fit, from the first to the last."""
    most = max(2, KEPT_BYTES // frames[0].nbytes)
    if len(frames) <= most:
        return tuple(range(len(frames)))
    return tuple(int(index) for index in np.linspace(0, len(frames) - 1, most).round())


def _part(progress: Progress, number: int, parts: int) -> Progress:
    """The progress of one of several measurements, as a part of all."""
    return lambda stage, done, total: progress(stage, number * total + done, parts * total)


def _measured(
    preset: Preset,
    subject: Subject,
    playing: Playing,
    plan: SamplingPlan,
    case: Material,
    prompt: str,
    runs: int,
    reload: bool,
    progress: Progress,
) -> tuple[BenchRecord, dict[str, Any]]:
    """The record of one way to play, and what its first player saw."""
    seen: list[dict[str, Any]] = []  # not the players, which hold the model
    device = playing.device

    def opened() -> ComparedPlayer:
        player = subject.open(preset, playing)
        seen.append(player.seen)
        return player

    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
    times = Stopwatch(opened, case, prompt, settle(device), progress).times(runs, reload)
    clip = preset.clip
    workload = Workload(
        preset=preset.name, model=subject.config.name, layers=subject.config.layers, height=clip.height, width=clip.width,
        frames=clip.frames, fps=clip.fps, steps=plan.steps, branches=len(plan.branches),
        evaluations=times.runs[0].evaluations, decoder=playing.decoder, prompt=prompt,  # type: ignore[arg-type]
    )  # fmt: skip
    record = times.record(
        workload=workload, manifest_sha256=None, machine=this_machine(device), savings=playing.savings,
        engine=EngineRecord(
            name="torch", target="reference", weights=playing.precision, precision=playing.precision,  # type: ignore[arg-type]
        ),
        mode="compiled" if playing.compiled else "eager", peak_device_bytes=device_peak(device), disk_bytes=subject.bytes,
    )  # fmt: skip
    return record, seen[0]
