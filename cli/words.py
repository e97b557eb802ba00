"""What verbs have in common: consoles, progress bars, options, tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from ..core.errors import ConfigError
from .options import parse_shape

if TYPE_CHECKING:
    from ..core.bundle import Manifest
    from ..runtime.verify.parity import Lipsync, Row, ShutMouth, Verdict
    from ..runtime.verify.reactions import Reaction

out, err = Console(), Console(stderr=True)

STAGE_NAMES = {
    "plan": "plan", "reference": "full-precision run", "programs": "programs", "proof": "proof of the files",
    "inputs": "changed inputs", "clip": "whole clip", "clips": "held-out clips", "silence": "clips with silence",
    "listen": "1 listen", "look": "2 look", "prepare": "3 prepare", "denoise": "4 denoise", "decode": "5 decode", "runs": "runs",
    "sent": "files sent", "cooling": "cooling down", "sustained": "without a pause",
}  # fmt: skip

BundleArg = Annotated[Path, typer.Argument(help="A bundle, NAME.echoedge.", show_default=False)]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace the output if it exists.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
EngineOption = Annotated[
    str, typer.Option(help="auto, which is that of the bundle's target; mil or mil-fp32 for coreml; or torch (full precision).")
]
ClipOption = Annotated[
    str | None, typer.Option(help="HEIGHTxWIDTHxFRAMES: which of a bundle's shapes.", show_default="the main one")
]
DecoderOption = Annotated[
    str | None, typer.Option(help="full, or tiny: the small autoencoder.", show_default="full, where it is there")
]
PromptsOption = Annotated[Path | None, typer.Option(help="Prompt pack: texts that need no text encoder, beside those of a bundle.")]
RecordOption = Annotated[bool, typer.Option("--record", help="Keep the figures in the bundle's folder, beside its manifest.")]


@contextmanager
def bars(quiet: bool) -> Iterator[Any]:
    """Progress bars on the error stream, one per stage, as a function (stage, done, total)."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=False, disable=quiet) as bars:
        tasks: dict[str, Any] = {}

        def advance(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(STAGE_NAMES.get(stage, stage), total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield advance


def _number(value: float | None, digits: int = 6) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def warn(line: str) -> None:
    err.print(f"[yellow]{escape(line)}[/]")


def shape_of(text: str | None) -> str | None:
    """--clip as shapes are named."""
    return None if text is None else str(parse_shape(text, "--clip"))


def refuse_options(context: typer.Context, panel: str | None, reason: str, but: tuple[str, ...] = ()) -> None:
    """Refuses the options of a help panel (None: those in none) that the user has given, rather than ignoring them; not those of
    the names `but`."""
    for parameter in context.command.params:
        if parameter.name in but:
            continue
        source = context.get_parameter_source(parameter.name or "")
        if getattr(parameter, "rich_help_panel", None) == panel and source is not None and source.name == "COMMANDLINE":
            raise ConfigError(f"{parameter.opts[0]} {reason}.")


def print_verdict(verdict: Verdict) -> None:
    from ..core.metrics.psnr import in_words

    table = Table(title="Parity with full precision", title_justify="left")
    for column, justify in (
        ("what", "left"),
        ("PSNR", "right"),
        ("demanded", "right"),
        ("cosine", "right"),
        ("max abs", "right"),
        ("", "left"),
    ):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]

    for row in verdict.rows:
        found, wanted = row.measured, row.demanded
        table.add_row(
            row.name,
            in_words(found.psnr_db),
            in_words(wanted.psnr_db),
            _number(found.cosine),
            _number(found.max_abs, 4),
            _mark(row),
        )
    mouth = verdict.lipsync
    table.add_row(
        "lip-sync" if mouth.clips == 1 else f"lip-sync, {mouth.clips} clips",
        _number(mouth.measured, 3),
        "–" if mouth.reference is None else f"{mouth.reference:.3f} × 95 %",
        "",
        "",
        _mark(mouth),
    )
    if verdict.silence is not None:
        still = verdict.silence
        table.add_row(
            f"mouth in silence, {still.clips} clip{'s' * (still.clips != 1)}",
            f"{100 * still.measured.opening:.0f} % open",
            f"≤ {100 * still.demanded:.0f} %",
            "",
            "",
            _mark(still),
        )
    out.print(table)
    for row in verdict.rows:
        if row.operator is not None:
            out.print(f"[red]{escape(row.name)}[/]: {escape(str(row.operator))}.")
    if verdict.reactions:
        _print_reactions(verdict.reactions)


def _mark(part: Row | Reaction | Lipsync | ShutMouth) -> str:
    if part.unjudged is not None:
        return f"[yellow]not judged[/]: {escape(part.unjudged)}"
    return "[green]passed[/]" if part.passed else "[red]FAILED[/]"


def _print_reactions(reactions: Sequence[Reaction]) -> None:
    def share(value: float | None, digits: int = 1) -> str:
        return "–" if value is None else f"{100 * value:.{digits}f} %"

    table = Table(title="What another input changes of the first velocity", title_justify="left")
    for column in ("input", "in full precision", "of that kept", "demanded", "cosine", ""):
        table.add_column(column, justify="left" if column in ("input", "") else "right")
    for each in reactions:
        wanted = None if each.demanded is None else each.demanded.share
        table.add_row(each.name, share(each.size, 2), share(each.share), share(wanted, 0), _number(each.cosine, 4), _mark(each))
    out.print(table)
    for each in reactions:
        if each.failed:
            out.print(f"[red]{escape(each.sentence())}[/]")


@contextmanager
def told_of_records(bundle: Path) -> Iterator[None]:
    """Names the records that are written in a bundle's folder until the block ends."""
    from ..core.bundle import RECORDS

    before = set((bundle / RECORDS).glob("*.json"))
    yield
    for path in sorted(set((bundle / RECORDS).glob("*.json")) - before):
        err.print(f"[dim]Recorded in {escape(str(path))}[/]", soft_wrap=True)


def print_programs(manifest: Manifest) -> None:
    from ..core.files import human_bytes

    table = Table(title=f"{manifest.model.preset} for {manifest.target.name}, {manifest.weights.name}", title_justify="left")
    for column in ("program", "size", "delegates", "of the FLOPs", "outside", "not delegated"):
        left = column in ("program", "not delegated")
        table.add_column(column, justify="left" if left else "right", no_wrap=column == "program")
    for name, program in manifest.programs.items():
        for index, (method, taken) in enumerate(program.placement.items()):
            label = name if method == "forward" else f"{name}.{method}"
            share = f"{100 * taken.flops_share:.1f} %" if taken.delegated_flops else "–"
            others = ", ".join(f"{_operator(op)} ×{count}" for op, count in sorted(taken.other_ops.items())) or "nothing"
            if taken.border_bytes:
                others += f"; {human_bytes(taken.border_bytes)} cross the border"
            spent = sum(taken.other_seconds.values())
            outside = f"{1000 * spent:.2f} ms" if spent else "–"
            size = human_bytes(program.artifact.bytes) if index == 0 else ""
            table.add_row(label, size, str(taken.delegate_calls), share, outside, others)
    out.print(table)


def _operator(name: str) -> str:
    return name.removesuffix(".default").removeprefix("aten.")
