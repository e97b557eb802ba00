"""The command line for weight recipes: searching one, and comparing ways to round."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.markup import escape
from rich.table import Table

from .. import api
from .options import parse_numbers, parse_size
from .words import EngineOption, ForceOption, JsonOption, bars, err, out

if TYPE_CHECKING:
    from ..runtime.studies.block_search import FoundForBlocks
    from ..runtime.studies.searches import NanoSearch

quantize_app = typer.Typer(help="Weight recipes: which layer is stored how, and what that costs.", no_args_is_help=True)
WorkOption = Annotated[Path, typer.Option("--work", help="Folder of measurements; a killed search goes on from it.")]


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
    with bars(as_json) as progress:
        found = api.search_recipe(
            output, target_db=target_db, target_share=target_share, max_bytes=max_bytes, work=work, clips=clips, listen=listen,
            played=played, group=group, checkpoint=checkpoint, blocks=None if blocks is None else parse_numbers(blocks, "--blocks"),
            size=parse_size(size), frames=frames, force=force, progress=progress, report=_tell,
        )  # fmt: skip
    if checkpoint is None:
        _print_search(cast("NanoSearch", found), output, as_json)
    else:
        _print_blocks(cast("FoundForBlocks", found), checkpoint, output, as_json)


def _tell(line: str) -> None:
    err.print(f"[dim]{escape(line)}[/]")


def _print_search(search: NanoSearch, output: Path, as_json: bool) -> None:
    found = search.found
    if as_json:
        print(json.dumps({"recipe": str(output), **found.to_dict(), "presets": search.presets}))
        return
    mouth = found.mouth
    out.print(
        f"{found.bytes:,} bytes of weights; guided velocity {found.guided_db:.1f} dB ({found.predicted_db:.1f} predicted), guided "
        f"direction within {100 * found.direction**0.5:.1f} %; lip-sync {100 * mouth.lipsync:.1f} % and mouth motion "
        f"{100 * mouth.mouth_energy:.1f} % of full precision's over {search.clips} clips."
    )
    for name, figures in search.presets.items():
        out.print(f"[dim]{name}: {figures['bytes']:,} bytes, {figures['guided_db']:.1f} dB[/]")
    out.print(
        f"[bold]{escape(str(output))}[/] is ready. Next: [cyan]echoedge export --weights {escape(str(output))} --out "
        f"{escape(output.stem)}.echoedge[/]"
    )


def _print_blocks(found: FoundForBlocks, folder: Path, output: Path, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"recipe": str(output), **found.to_dict()}))
        return
    out.print(
        f"{found.bytes:,} bytes of weights in {found.layers} layers of blocks, {found.measured} of them measured; tokens behind "
        f"the blocks {found.predicted_db:.1f} dB by the sum of the layers' errors."
    )
    model = api.inspect_checkpoint(folder).config().name
    out.print(
        f"[bold]{escape(str(output))}[/] is ready. Next: [cyan]echoedge export --model {model} --checkpoint {escape(str(folder))} "
        f"--weights {escape(str(output))} --out {escape(output.stem)}.echoedge[/]"
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
    with bars(as_json) as progress:
        figures = api.compare_roundings(output, work=work, clips=clips, played=played, force=force, progress=progress, report=_tell)
    if as_json:
        print(json.dumps(figures))
        return
    for title, rows in (("4-bit blocks, rounded in every way", "int4_roundings"), ("Uniform and searched", "equal_size")):
        _print_rows(title, figures[rows])
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
    engine: EngineOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Play held-out clips with a compiled bundle and in full precision, and say what the bundle keeps of the mouth."""
    with bars(as_json) as progress:
        full, measured = api.judge(bundle, clips=clips, engine=engine, progress=progress)
    shares = measured.shares(full)
    if as_json:
        figures = {"full_precision": full, "measured": measured, "shares": shares}
        print(json.dumps({name: {k: round(v, 4) for k, v in asdict(mouth).items()} for name, mouth in figures.items()}))
        return
    name = api.inspect(bundle).manifest.weights.name
    out.print(
        f"{name}, {clips} clips: lip-sync {measured.lipsync:.3f}, {100 * shares.lipsync:.1f} % of full "
        f"precision's {full.lipsync:.3f}; mouth-motion energy {measured.mouth_energy:.3f} of the truth's, "
        f"{100 * shares.mouth_energy:.1f} % of full precision's {full.mouth_energy:.3f}."
    )
