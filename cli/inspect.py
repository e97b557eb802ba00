"""`echoedge inspect`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from .. import api
from ..core.errors import ConfigError
from .checkpoint import inspect_checkpoint, is_checkpoint
from .words import (
    JsonOption,
    bars,
    out,
    print_programs,
)

if TYPE_CHECKING:
    from ..core.bundle import Saving
    from ..core.weights.nano import Inspected
    from ..runtime.bench.headroom import Headroom
    from ..runtime.bench.neural_engine import Looked
    from ..runtime.bench.placement import Ran


STATED = ("inputs", "accuracy_level")  # of a target's settings: how layers with fewer bits take what they are given


def _print_savings(savings: tuple[Saving, ...], evaluations: int, times: dict[str, float] | None = None) -> None:
    from ..core.files import human_bytes

    total = _amount(savings[0].flops_without)
    table = Table(title=f"Out of the step: {evaluations} evaluations, {total}FLOP; each rewrite alone", title_justify="left")
    for column in ("rewrite", "FLOPs left", "saved", "parameters", "kept instead"):
        table.add_column(column, justify="left" if column in ("rewrite", "kept instead") else "right")
    if times:
        table.add_column(f"a step, {times['none'] * 1000:.0f} ms without", justify="right")
    for saving in savings:
        if saving.name == "all":
            table.add_section()
        table.add_row(
            saving.name,
            _amount(saving.flops_with),
            f"{100 * (1 - saving.flops_with / saving.flops_without):.2f} %",
            f"{saving.parameters:,}" if saving.parameters else "–",
            f"{human_bytes(saving.kept_bytes)} a {saving.per}" if saving.kept_bytes else "–",
            *([f"{times[saving.name] * 1000:.0f} ms, {times['none'] / times[saving.name]:.2f}×"] if times else []),
        )
    out.print(table)
    out.print("[dim]FLOPs of matrix products alone; parameters that the step does without.[/]")


def _print_placement(ran: tuple[Ran, ...]) -> None:
    table = Table(title="What ran where, in one call of each graph", title_justify="left")
    for column in ("program", "operators", "FLOPs", "time", "most of the time"):
        table.add_column(column, justify="left" if column in ("program", "most of the time") else "right")
    for each in ran:
        label = each.program if each.method == "forward" else f"{each.program}.{each.method}"
        total = sum(each.flops.values())
        table.add_row(
            label,
            _by_provider({name: str(count) for name, count in each.operators.items()}),
            _by_provider({name: f"{_amount(n)} ({n / total:.0%})" for name, n in each.flops.items() if n}) or "–",
            f"{1000 * each.seconds:.1f} ms",
            ", ".join(f"{name} {share:.0%}" for name, share in each.slowest.items()),
        )
    out.print(table)


def _print_headroom(rooms: list[Headroom], stress: float) -> None:
    given = "" if stress == 1 else f", given {stress:g} times as much"
    table = Table(title=f"How near half precision comes to its end{given}", title_justify="left")
    for column in ("program", "max |activation|", "could grow", "of", "subnormal"):
        table.add_column(column, justify="left" if column in ("program", "of") else "right")
    for each in rooms:
        label = each.program if each.method == "forward" else f"{each.program}.{each.method}"
        grow = "[red]overflows[/]" if each.overflows else f"{each.times:,.0f} ×"
        told = escape(each.overflows or each.of)
        table.add_row(label, f"{each.largest:,.4g}", grow, told, f"{each.subnormal} of {each.operators}")
    out.print(table)
    lost = [each for each in rooms if each.overflows]
    if lost:
        out.print(
            f"[red]{len(lost)} of {len(rooms)} methods compute what is not a number[/]: half precision ends at 65,504. The first "
            "operator of each is named."
        )
        return
    tight = min(rooms, key=lambda each: each.times)
    out.print(
        f"[dim]Nothing overflows. The tightest is {tight.program}: {escape(tight.of)} could grow {tight.times:,.0f} times before "
        "it does.[/]"
    )


def _print_lint(looked: list[Looked]) -> None:
    from ..core.files import human_bytes

    table = Table(title="For Apple's Neural Engine, read off the files", title_justify="left")
    for column in ("program", "GFLOP", "held at once", "findings"):
        table.add_column(column, justify="left" if column in ("program", "findings") else "right")
    for each in looked:
        label = each.program if each.method == "forward" else f"{each.program}.{each.method}"
        told = ", ".join(f"{rule} ×{count}" for rule, count in each.counts.items()) or "[green]none[/]"
        table.add_row(label, f"{each.load.gflop:.3g}", human_bytes(each.load.peak_bytes), told)
    out.print(table)
    shown: set[str] = set()
    for each in looked:
        for rule in each.counts:
            if rule not in shown:
                shown.add(rule)
                first = each.first(rule)
                out.print(f"{rule}: {escape(f'{each.program}, {first.op_type} {first.op_name}. {first.sentence}')}")
    out.print("[dim]Nothing here was measured on a device: findings are places to look at first.[/]")


def _print_weights(found: Inspected, as_json: bool) -> None:
    from ..core.files import human_bytes

    if as_json:
        print(json.dumps(found.to_dict()))
        return
    student = found.passport
    what = "the teacher" if student is None else f"a student {student.sentence()}"
    out.print(f"nano      {escape(what)}", soft_wrap=True)
    out.print(f"trained   in the {found.world} drawn world")
    out.print(f"in memory {', '.join(f'{name} {count:,} parameters' for name, count in found.parameters.items())}")
    out.print(f"file      {human_bytes(found.bytes)}, SHA-256 {found.sha256[:16]}…")
    out.print("[dim]Every tensor is there. Next: echoedge export --weights-file FILE --out NAME.echoedge[/]")


def _by_provider(told: dict[str, str]) -> str:
    return ", ".join(f"{name.removesuffix('ExecutionProvider')} {text}" for name, text in told.items())


def _amount(count: int) -> str:
    """`count` with three figures and a unit: 12400000000 -> "12.4 G"."""
    value = float(count)
    for unit in ("k", "M", "G", "T", "P"):
        value /= 1000
        if value < 999.5 or unit == "P":
            break
    return f"{value:.3g} {unit}"


def inspect(
    path: Annotated[Path, typer.Argument(help="A bundle, or weights: a folder, or a file.", show_default=False)],
    time: Annotated[
        bool, typer.Option("--time", help="Also measure what each rewrite saves: a step of two blocks in PyTorch, CPU time.")
    ] = False,
    placement: Annotated[
        bool, typer.Option("--placement", help="Also run every graph of a bundle for ONNX Runtime, and say what ran where.")
    ] = False,
    headroom: Annotated[
        bool,
        typer.Option("--headroom", help="Also interpret a bundle for Core ML, and say how near half precision comes to its end."),
    ] = False,
    stress: Annotated[
        float, typer.Option(min=0.001, max=1e6, help="With --headroom: what programs are given is multiplied by this.")
    ] = 1.0,
    lint: Annotated[
        bool,
        typer.Option("--lint", help="Also look through a bundle for Core ML: what Apple's Neural Engine does not run, or slowly."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what a bundle holds (programs, what the backend took, what left the step, plan, files), or what weights are.

    Of a folder of released weights: whether every tensor is there; exit status 1 where one is not. Of the built-in model's file:
    whose it is, and what a student was taught."""
    from ..core.bundle.records import read_records
    from ..core.files import human_bytes
    from ..core.metrics.psnr import in_words
    from ..core.weights.nano import is_nano

    if is_checkpoint(path):
        for name, asked in (("--time", time), ("--placement", placement), ("--headroom", headroom), ("--lint", lint)):
            if asked:
                raise ConfigError(f"{name} measures a bundle; these are weights.")
        if is_nano(path):
            _print_weights(api.inspect_weights(path), as_json)
            return
        if not inspect_checkpoint(path, as_json):
            raise typer.Exit(1)
        return
    if stress != 1 and not headroom:
        raise ConfigError(f"--stress {stress:g} goes with --headroom, which is not given.")
    bundle = api.inspect(path)
    manifest, plan = bundle.manifest, bundle.plan()
    records = read_records(bundle)
    saved = manifest.savings
    times: dict[str, float] | None = None
    if time:
        with bars(as_json) as progress:
            saved, times = api.savings(path, measured=True, progress=progress)
    ran: tuple[Ran, ...] = ()
    if placement:
        with bars(as_json) as progress:
            ran = api.placements(path, progress=progress)
    rooms: list[Headroom] = []
    if headroom:
        with bars(as_json) as progress:
            rooms = api.headrooms(path, stress=stress, progress=progress)
    looked: list[Looked] = []
    if lint:
        with bars(as_json) as progress:
            looked = api.neural_engine(path, progress=progress)
    if as_json:
        told: dict[str, Any] = {"savings": [saving.model_dump() for saving in saved]} | ({"step_seconds": times} if times else {})
        told |= {"placement": [each.to_dict() for each in ran]} if placement else {}
        told |= {"headroom": [each.to_dict() for each in rooms]} if headroom else {}
        told |= {"neural_engine": [each.to_dict() for each in looked]} if lint else {}
        told |= {"records": [r.model_dump(mode="json") for r in records.own], "damaged_records": dict(records.damaged)}
        print(json.dumps(json.loads(manifest.to_json()) | told, ensure_ascii=False))
        return
    print_programs(manifest)
    if saved:
        _print_savings(saved, plan.evaluations, times)
    else:
        out.print("[dim]What left the step is not on record in this bundle, which an earlier version made; --time counts it.[/]")
    if placement:
        _print_placement(ran)
    if headroom:
        _print_headroom(rooms, stress)
    if lint:
        _print_lint(looked)
    clip = bundle.clip
    size = bundle.bytes
    window = f"windows of {plan.window.length} latent frames, overlap {plan.window.overlap}" if plan.window else "no windows"
    shapes = ", ".join(map(str, bundle.clips))
    out.print(f"clip      {shapes} (height, width, frames a window), {clip.fps} fps, speech at {clip.sample_rate} Hz")
    branches = ", ".join(branch.name for branch in plan.branches)
    out.print(f"plan      {plan.solver_name}, {plan.steps} steps, shift {plan.shift:g}; branches: {branches}; {window}")
    out.print(f"weights   {escape(json.dumps({name: program.layers for name, program in manifest.programs.items()}))}")
    stated = [f"{name.replace('_', ' ')} {manifest.weights.settings[name]}" for name in STATED if name in manifest.weights.settings]
    target = [f"{manifest.target.name} {manifest.target.backend}", f"computes in {manifest.target.precision or 'fp32'}", *stated]
    out.print(f"target    {escape(', '.join(target))}")
    out.print(f"source    {manifest.model.preset}, SHA-256 {manifest.model.source_sha256[:16]}…")
    from ..core.weights.passport import Passport

    student = Passport.of_bundle(manifest.weights.settings)
    if student is not None:
        out.print(f"student   {escape(student.sentence())}")
    out.print(f"made with {', '.join(f'{name} {version}' for name, version in manifest.versions.items())}")
    held = {name.removesuffix("_bytes").replace("_", " "): n for name, n in manifest.memory.items() if isinstance(n, int)}
    out.print(f"size      {human_bytes(size)}")
    out.print(f"memory    {', '.join(f'{name} {human_bytes(count)}' for name, count in held.items())}")
    measured = {name: program.measured for name, program in manifest.programs.items() if program.measured is not None}
    if measured:
        found = ", ".join(f"{name} {in_words(figures.psnr_db)}" for name, figures in measured.items())
        out.print(f"parity    at export: {found}", soft_wrap=True)
    for record in records.own:
        played = f"{record.engine} on {record.device}, {record.threads} threads"
        out.print(f"{record.verb:<9} {record.date}, {escape(played)}: {escape(record.summary)}", soft_wrap=True)
    for name, reason in records.damaged.items():
        out.print(f"[yellow]damaged   {escape(name)}: {escape(reason)}[/]")
    if records.others:
        out.print(f"[dim]{len(records.others)} of another manifest, not shown: {escape(', '.join(records.others))}[/]")
    extra = bundle.extra_files()
    if extra:
        out.print(f"[yellow]not part of the bundle: {escape(', '.join(extra))}[/]")
