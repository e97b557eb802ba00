"""Whole studies of weight recipes, with their work folder and what they write: a recipe, or figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.config import ClipSpec
from ...core.errors import ConfigError, OutputError
from ...core.files import atomic_file, require_free_memory
from ...core.plan import samplers
from ...core.weights.checkpoints import Checkpoint
from ...core.weights.nano import load_nano
from ...core.work import WorkFolder
from ...quantize.recipes import WeightRecipe
from ...quantize.search import Journal
from ..play.reference import Settings, plan_options
from .block_search import FoundForBlocks, checkpoint_basis, find_for_blocks, measure_blocks, memory_needed, wanted_blocks
from .recipe_search import Found, Goal, find, measure_layers, nano_basis, presets_beside
from .rounding_study import GROUP, compare
from .sensitivity import SensitivityStudy

Progress = Callable[[str, int, int], None]
Report = Callable[[str], None]


@dataclass(frozen=True)
class NanoSearch:
    """What a search on nano found, the presets' bytes and decibels beside it, and on how many clips mouths were judged."""

    found: Found
    presets: dict[str, dict[str, float]]
    clips: int


def search_nano(
    goal: Goal,
    output: Path,
    *,
    work: Path,
    clips: int,
    listen: int,
    played: int,
    group: int,
    force: bool,
    progress: Progress,
    report: Report,
) -> NanoSearch:
    """Measures every layer of nano as each scheme stores it and writes the recipe that the figures justify. A killed search goes on
    from `work`.

    Raises:
        ConfigError: `group` is no multiple of 32, `listen` is 1, or no recipe reaches the goal.
        OutputError: `output` exists or is no .json.
    """
    _check(output, group, force)
    if listen == 1:
        raise ConfigError("--listen is 1; lip-sync is a mean over clips: give 2 or more, or 0 for none.")
    plan = samplers.build_plan(samplers.PLAN_PRESETS["nano"])
    with WorkFolder(work, "search"):
        journal = Journal(work, nano_basis(plan, clips, listen, group))
        report("Playing nano in full precision …")
        study = SensitivityStudy(load_nano(), plan, clips, max(played, listen))
        measure_layers(study, journal, group, listen, lambda done, total: progress("layers", done, total))
        found = find(study, journal, goal, group, output.stem, report)
        _save(found.recipe, output, force)
    return NanoSearch(found, presets_beside(study), len(study.truths))


def search_checkpoint(
    folder: Path,
    goal: Goal,
    output: Path,
    *,
    work: Path,
    blocks: Sequence[int] | None,
    clip: ClipSpec,
    group: int,
    force: bool,
    progress: Progress,
    report: Report,
) -> FoundForBlocks:
    """As `search_nano`, of a released model, a block at a time, on drawn inputs. `blocks`: which to measure; others take the
    nearest one's figures.

    Raises:
        CheckpointError: the weights are not whole.
        ConfigError, OutputError: as `search_nano`; also for a block that is not there.
        ResourceError: a block does not fit into the memory that is free.
    """
    _check(output, group, force)
    opened = Checkpoint.open(folder)
    config = opened.config()
    wanted = wanted_blocks(config, blocks)
    plan = samplers.build_plan(plan_options(config.variant, Settings()))
    require_free_memory(memory_needed(config, clip), "measuring a block at a time")
    with WorkFolder(work, "search"):
        report("Reading the weights' hash …")
        journal = Journal(work, checkpoint_basis(opened, plan, clip, group, config))
        tell = lambda done, total: progress("blocks", done, total)  # noqa: E731
        measure_blocks(opened, config, plan, clip, journal, group, wanted, tell)
        found = find_for_blocks(journal, config.layers, goal, group, output.stem)
        _save(found.recipe, output, force)
    return found


def compare_roundings(
    output: Path, *, work: Path, clips: int, played: int, force: bool, progress: Progress, report: Report
) -> dict[str, Any]:
    """Ways to round nano's 4-bit weights beside each other, and uniform recipes beside searched ones of the same size; writes the
    figures. Uses measurements of `search_nano` with as many clips, and makes those that are missing.

    Raises:
        OutputError: `output` exists.
    """
    _refuse_existing(output, force)
    plan = samplers.build_plan(samplers.PLAN_PRESETS["nano"])
    with WorkFolder(work, "search"):
        journal = Journal(work, nano_basis(plan, clips, 0, GROUP))
        report("Playing nano in full precision …")
        study = SensitivityStudy(load_nano(), plan, clips, played)
        measure_layers(study, journal, GROUP, progress=lambda done, total: progress("layers", done, total))
        figures = compare(study, journal, report)
        with atomic_file(output, force) as temporary:
            temporary.write_text(json.dumps(figures, indent=1) + "\n")
    return figures


def _check(output: Path, group: int, force: bool) -> None:
    if group % 32:
        raise ConfigError(f"--group is {group}; the backend takes multiples of 32.")
    if output.suffix.lower() != ".json":
        raise ConfigError(f"--out is {str(output)!r}; a recipe's name ends in .json, so that export --weights finds it.")
    _refuse_existing(output, force)


def _refuse_existing(output: Path, force: bool) -> None:
    if output.exists() and not force:
        raise OutputError(f"{output} exists. Give another name or --force.")


def _save(recipe: WeightRecipe, output: Path, force: bool) -> None:
    with atomic_file(output, force) as temporary:
        rules = ",\n".join(f"  {rule.model_dump_json()}" for rule in recipe.rules)
        temporary.write_text(f'{{"name": {json.dumps(recipe.name)}, "rules": [\n{rules}\n]}}\n')
