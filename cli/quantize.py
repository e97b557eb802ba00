"""The command line for weight recipes: searching one, and comparing ways to round."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ..core.errors import ConfigError, OutputError
from .options import parse_clip, parse_numbers

if TYPE_CHECKING:
    from ..quantize.recipes import WeightRecipe
    from ..runtime.studies.recipe_search import Target

quantize_app = typer.Typer(help="Weight recipes: which layer is stored how, and what that costs.", no_args_is_help=True)
out, err = Console(), Console(stderr=True)

WorkOption = Annotated[Path, typer.Option("--work", help="Folder of measurements; a killed search goes on from it.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace the output if it exists.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]


@contextmanager
def _bar(quiet: bool, what: str) -> Iterator[Any]:
    """A progress bar on the error stream, as a function (done, total)."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, disable=quiet) as bars:
        task = bars.add_task(what, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


def _refuse_existing(output: Path, force: bool) -> None:
    """Before anything is measured."""
    if output.exists() and not force:
        raise OutputError(f"{output} exists. Give another name or --force.")


def _save(recipe: WeightRecipe, output: Path, force: bool) -> None:
    from ..core.files import atomic_file

    with atomic_file(output, force) as temporary:
        rules = ",\n".join(f"  {rule.model_dump_json()}" for rule in recipe.rules)
        temporary.write_text(f'{{"name": {json.dumps(recipe.name)}, "rules": [\n{rules}\n]}}\n')


# -- search ----------------------------------------------------------------------------------------------------------------------

PANEL = "With --checkpoint: a released model, a block at a time"


@quantize_app.command()
def search(
    output: Annotated[Path, typer.Option("--out", help="The recipe to write, .json.", show_default=False)],
    target_db: Annotated[
        float | None, typer.Option(help="The smallest weights whose guided velocity has this signal-to-noise ratio in dB.")
    ] = None,
    target_share: Annotated[
        float | None, typer.Option(help="The smallest that keep this share of lip-sync and mouth motion, such as 0.97 (nano).")
    ] = None,
    max_bytes: Annotated[int | None, typer.Option(min=1, help="The most exact weights that take so many bytes.")] = None,
    work: WorkOption = Path("quantize-search"),
    clips: Annotated[int, typer.Option(min=1, help="Held-out clips on which errors of nano are measured.")] = 6,
    listen: Annotated[
        int, typer.Option(min=0, help="Clips played to the end for every layer and scheme, for its lip-sync; 0: none.")
    ] = 0,
    played: Annotated[int, typer.Option(min=2, help="Clips on which a whole recipe's mouth is judged.")] = 12,
    group: Annotated[int, typer.Option(min=32, help="Inputs that share a scale at 4 bits; a multiple of 32.")] = 32,
    checkpoint: Annotated[Path | None, typer.Option(help="Folder of released weights.", rich_help_panel=PANEL)] = None,
    blocks: Annotated[
        str | None,
        typer.Option(help="Which to measure, such as 0,15,29; others take the nearest one's figures.", rich_help_panel=PANEL),
    ] = None,
    size: Annotated[str, typer.Option(help="HEIGHTxWIDTH of the measured clip.", rich_help_panel=PANEL)] = "128x128",
    frames: Annotated[int, typer.Option(min=1, help="Frames of the measured clip, 4n+1.", rich_help_panel=PANEL)] = 9,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure every layer as each scheme stores it, and write the recipe that the figures justify.

    A layer's error is that of the guided velocity and of the guided direction (conditional minus unconditional), which guidance
    multiplies. Give one target. The recipe is a file to read and edit: of its rules, the first that matches a layer holds.

    nano is played; of a released model each block is run alone, on drawn inputs, and what a layer does to the tokens behind its
    block stands for what it does to the velocity.
    """
    from ..runtime.studies.recipe_search import Target

    target = Target(target_db, target_share, max_bytes)
    if group % 32:
        raise ConfigError(f"--group is {group}; the backend takes multiples of 32.")
    if output.suffix.lower() != ".json":
        raise ConfigError(f"--out is {str(output)!r}; a recipe's name ends in .json, so that export --weights finds it.")
    _refuse_existing(output, force)
    if checkpoint is not None:
        _search_checkpoint(checkpoint, target, output, work, blocks, size, frames, group, force, as_json)
        return
    if blocks is not None:
        raise ConfigError("--blocks goes with --checkpoint; nano's layers are all measured.")
    _search_nano(target, output, work, clips, listen, played, group, force, as_json)


def _search_nano(
    target: Target,
    output: Path,
    work: Path,
    clips: int,
    listen: int,
    played: int,
    group: int,
    force: bool,
    as_json: bool,
) -> None:
    from ..core.plan.samplers import PLAN_PRESETS, build_plan
    from ..core.weights.nano import load_nano
    from ..core.work import WorkFolder
    from ..quantize.search import Journal
    from ..runtime.studies.recipe_search import find, measure_layers, nano_basis, presets_beside
    from ..runtime.studies.sensitivity import Laboratory

    if listen == 1:
        raise ConfigError("--listen is 1; lip-sync is a mean over clips: give 2 or more, or 0 for none.")
    plan = build_plan(PLAN_PRESETS["nano"])
    with WorkFolder(work, "search"):
        journal = Journal(work, nano_basis(plan, clips, listen, group))
        err.print("[dim]Playing nano in full precision …[/]")
        laboratory = Laboratory(load_nano(), plan, clips, max(played, listen))
        with _bar(as_json, "layers") as progress:
            measure_layers(laboratory, journal, group, listen, progress)
        found = find(laboratory, journal, target, group, output.stem, lambda line: err.print(f"[dim]{escape(line)}[/]"))
        _save(found.recipe, output, force)
    beside = presets_beside(laboratory)
    if as_json:
        print(json.dumps({"recipe": str(output), **found.to_dict(), "presets": beside}))
        return
    mouth = found.mouth
    out.print(
        f"{found.bytes:,} bytes of weights; guided velocity {found.guided_db:.1f} dB ({found.predicted_db:.1f} predicted), guided "
        f"direction within {100 * found.direction**0.5:.1f} %; lip-sync {100 * mouth.lipsync:.1f} % and mouth motion "
        f"{100 * mouth.mouth_energy:.1f} % of full precision's over {len(laboratory.truths)} clips."
    )
    for name, figures in beside.items():
        out.print(f"[dim]{name}: {figures['bytes']:,} bytes, {figures['guided_db']:.1f} dB[/]")
    out.print(
        f"[bold]{escape(str(output))}[/] is ready. Next: [cyan]echoedge export --weights {escape(str(output))} --out "
        f"{escape(output.stem)}.echoedge[/]"
    )


def _search_checkpoint(
    folder: Path,
    target: Target,
    output: Path,
    work: Path,
    blocks: str | None,
    size: str,
    frames: int,
    group: int,
    force: bool,
    as_json: bool,
) -> None:
    from ..core.files import require_free_memory
    from ..core.plan.samplers import build_plan
    from ..core.weights.checkpoints import Checkpoint
    from ..core.work import WorkFolder
    from ..quantize.search import Journal
    from ..runtime.play.reference import Settings, plan_options
    from ..runtime.studies.block_search import checkpoint_basis, find_for_blocks, measure_blocks, memory_needed, wanted_blocks

    clip = parse_clip(size, frames)
    opened = Checkpoint.open(folder)
    config = opened.config()
    wanted = wanted_blocks(config, None if blocks is None else parse_numbers(blocks, "--blocks"))
    plan = build_plan(plan_options(config.variant, Settings()))
    require_free_memory(memory_needed(config, clip), "measuring a block at a time")
    with WorkFolder(work, "search"):
        err.print("[dim]Reading the weights' hash …[/]")
        journal = Journal(work, checkpoint_basis(opened, plan, clip, group, config))
        with _bar(as_json, "blocks") as progress:
            measure_blocks(opened, config, plan, clip, journal, group, wanted, progress)
        found = find_for_blocks(journal, config.layers, target, group, output.stem)
        _save(found.recipe, output, force)
    if as_json:
        print(json.dumps({"recipe": str(output), **found.to_dict()}))
        return
    out.print(
        f"{found.bytes:,} bytes of weights in {found.layers} layers of blocks, {found.measured} of them measured; tokens behind "
        f"the blocks {found.predicted_db:.1f} dB by the sum of the layers' errors."
    )
    out.print(
        f"[bold]{escape(str(output))}[/] is ready. Next: [cyan]echoedge export --model {config.name} --checkpoint "
        f"{escape(str(folder))} --weights {escape(str(output))} --out {escape(output.stem)}.echoedge[/]"
    )


# -- compare ---------------------------------------------------------------------------------------------------------------------


@quantize_app.command()
def compare(
    output: Annotated[Path, typer.Option("--out", help="The figures to write, .json.", show_default=False)],
    work: WorkOption = Path("quantize-search"),
    clips: Annotated[int, typer.Option(min=1, help="Held-out clips on which errors are measured.")] = 6,
    played: Annotated[int, typer.Option(min=2, help="Held-out clips that are played to the end.")] = 32,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure ways to round nano's 4-bit weights beside each other, and uniform recipes beside searched ones of the same size.

    Uses the measurements of `search` with the same --clips, and makes those that are missing; about 15 minutes on one core.
    """
    from ..core.files import atomic_file
    from ..core.plan.samplers import PLAN_PRESETS, build_plan
    from ..core.weights.nano import load_nano
    from ..core.work import WorkFolder
    from ..quantize.search import Journal
    from ..runtime.studies import rounding_study
    from ..runtime.studies.recipe_search import measure_layers, nano_basis
    from ..runtime.studies.sensitivity import Laboratory

    _refuse_existing(output, force)
    plan = build_plan(PLAN_PRESETS["nano"])
    with WorkFolder(work, "search"):
        journal = Journal(work, nano_basis(plan, clips, 0, rounding_study.GROUP))
        err.print("[dim]Playing nano in full precision …[/]")
        laboratory = Laboratory(load_nano(), plan, clips, played)
        with _bar(as_json, "layers") as progress:
            measure_layers(laboratory, journal, rounding_study.GROUP, progress=progress)
        record = rounding_study.compare(laboratory, journal, lambda line: err.print(f"[dim]{escape(line)}[/]"))
        with atomic_file(output, force) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n")
    if as_json:
        print(json.dumps(record))
        return
    for title, rows in (("4-bit blocks, rounded in every way", "int4_roundings"), ("Uniform and searched", "equal_size")):
        _print_rows(title, record[rows])
    out.print(f"[bold]{escape(str(output))}[/] is ready.")


def _print_rows(title: str, rows: list[dict[str, Any]]) -> None:
    table = Table(title=title, title_justify="left")
    for column in ("", "bytes", "velocity", "guided", "direction", "lip-sync", "mouth motion"):
        table.add_column(column, justify="right" if column else "left")
    for row in rows:
        decibels = (f"{row[name]:.1f} dB" for name in ("velocity_db", "guided_db"))
        shares = (f"{100 * row[name]:.1f} %" for name in ("direction_error", "lipsync_share", "mouth_energy_share"))
        table.add_row(row["name"], f"{row['bytes']:,}", *decibels, *shares)
    out.print(table)


# -- judge -----------------------------------------------------------------------------------------------------------------------


@quantize_app.command()
def judge(
    bundle: Annotated[Path, typer.Argument(help="A bundle of nano, NAME.echoedge.", show_default=False)],
    clips: Annotated[int, typer.Option(min=2, help="Held-out clips.")] = 32,
    engine: Annotated[str, typer.Option(help="auto, executorch, or torch (full precision).")] = "auto",
    as_json: JsonOption = False,
) -> None:
    """Play held-out clips with a compiled bundle and in full precision, and say what the bundle keeps of the mouth."""
    from dataclasses import asdict

    from ..core.bundle import Bundle
    from ..runtime.engines import open_engine
    from ..runtime.verify.mouths import mouths_of_bundle

    opened = Bundle.open(bundle)
    with _bar(as_json, "clips") as progress:
        full, measured = mouths_of_bundle(opened, open_engine(opened, engine), clips, progress)
    shares = measured.shares(full)
    if as_json:
        figures = {"full_precision": full, "measured": measured, "shares": shares}
        print(json.dumps({name: {k: round(v, 4) for k, v in asdict(mouth).items()} for name, mouth in figures.items()}))
        return
    out.print(
        f"{opened.manifest.weights.name}, {clips} clips: lip-sync {measured.lipsync:.3f}, {100 * shares.lipsync:.1f} % of full "
        f"precision's {full.lipsync:.3f}; mouth-motion energy {measured.mouth_energy:.3f} of the truth's, "
        f"{100 * shares.mouth_energy:.1f} % of full precision's {full.mouth_energy:.3f}."
    )
