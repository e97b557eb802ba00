"""A student as a folder of weights: its transformer, its passport in it, and beside it whatever its teacher came with."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from ...core.errors import ConfigError
from ...core.files import atomic_folder
from ...core.model.architecture import TransformerLayout
from ...core.model.transformer import DiT
from ...core.plan.samplers import AudioGuidance, PlanOptions, TextAudioGuidance, build_plan
from ...core.weights.accounts import NEEDED_FOR, OVERLAY_FILE, united
from ...core.weights.checkpoints import Checkpoint
from ...core.weights.passport import STUDENT, Passport
from ...core.weights.random_checkpoint import RECORD
from ...quantize.distill.lessons import stops

TASK = "i2v+a2v"
MARKER = "student.json"  # in the folder; --force replaces only folders that have it


def passport_of_options(teacher: str, options: PlanOptions, steps: tuple[int, ...]) -> Passport:
    """What a student of a teacher that plays by `options` may be asked. `teacher`: SHA-256 of its transformer.

    Raises:
        ConfigError: the teacher has no guidance that a student could fold in, or too few steps for so many.
    """
    guidance = options.guidance
    if not isinstance(guidance, AudioGuidance | TextAudioGuidance) or options.phases:
        raise ConfigError(
            f"A student folds in the guidance of its teacher; this plan has {guidance}. Leave the guidance switched on."
        )
    both = isinstance(guidance, TextAudioGuidance)
    levels = build_plan(replace(options, window=None)).sigmas
    return Passport(
        teacher=teacher, solver=options.solver, steps=options.steps, shift=options.shift,
        audio_guidance=guidance.audio if both else guidance.scale, text_guidance=guidance.text if both else None,  # type: ignore[union-attr]
        levels={count: tuple(levels[stop] for stop in stops(levels, count))[:-1] for count in sorted(steps)}, tasks=(TASK,),
    )  # fmt: skip


def write_student(
    out: Path, teacher: Checkpoint, dit: DiT, passport: Passport, copy: bool = False, force: bool = False
) -> dict[str, torch.dtype]:
    """Writes `out`, a folder that is read as any checkpoint is: `dit` in the types of the teacher's own file, the layers for the
    length of a step in float32, and links to the other components, or copies. -> the types.

    Raises:
        OutputError: `out` exists and `force` is off, or no student lies there.
        ResourceError: the disk is full.
    """
    layout = TransformerLayout(replace(dit.config, flow_map=False))
    stored = united(teacher.sources("transformer", layout), layout)
    state = dit.state_dict()
    types = {name: stored[name].info.dtype if name in stored else torch.float32 for name in state}
    with atomic_folder(out, force, MARKER) as folder:
        path = folder / OVERLAY_FILE
        path.parent.mkdir(parents=True)
        tensors = {name: value.detach().cpu().to(types[name]).contiguous() for name, value in state.items()}
        save_file(tensors, path, {STUDENT: passport.model_dump_json()})  # one key: the library orders several by chance
        (folder / MARKER).write_text(passport.model_dump_json(indent=1) + "\n", encoding="utf-8")
        for source, place in _others(teacher):
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            _bring(source, folder / place, copy)
    return types


def _others(teacher: Checkpoint) -> Iterator[tuple[Path, Path]]:
    """Files of every component but the transformer, and where they go: in a folder of the same name."""
    found = list[Path]()
    for name in NEEDED_FOR:
        for path in () if name == "transformer" else teacher.paths[name]:
            found += sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
            if name == "wav2vec2":
                found += sorted(path.parent.glob("*.json"))
    found += [path for path in (teacher.folder / RECORD,) if path.is_file()]
    for path in dict.fromkeys(found):
        inside = path.is_relative_to(teacher.folder)
        yield path, path.relative_to(teacher.folder) if inside else Path(path.parent.name, path.name)


def _bring(source: Path, target: Path, copy: bool) -> None:
    if not copy:
        try:
            target.symlink_to(os.path.abspath(source))
            return
        except OSError:  # a system, or a disk, without links
            pass
    shutil.copy2(source, target)
