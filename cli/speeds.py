"""What benchmarks say: a table of engines side by side, and one of records that are compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from .words import STAGE_NAMES, out

if TYPE_CHECKING:
    from ..core.bundle.bench_record import BenchRecord, Spread
    from ..runtime.bench.compare import Compared


def print_speeds(records: Sequence[BenchRecord]) -> None:
    """Engines that played the same clip."""
    table = Table(title="Speed: median (10th to 90th percentile)", title_justify="left")
    table.add_column("")
    for record in records:
        table.add_column(f"{record.engine.name} {record.engine.weights}", justify="right")
    for stage in records[0].stages:
        table.add_row(STAGE_NAMES[stage], *(_spread(record.stages[stage]) for record in records))
    table.add_section()
    table.add_row("a step", *(_spread(record.step) for record in records))
    table.add_row("first frame", *(_spread(record.first_frame) for record in records))
    table.add_row("clip, wall", *(_spread(record.clip) for record in records))
    table.add_row("clip, CPU", *(_milliseconds(record.cpu_ms) for record in records))
    table.add_row("loading, new process", *(_milliseconds(record.first_load_ms) for record in records))
    table.add_row("loading again", *(_milliseconds(record.second_load_ms) for record in records))
    table.add_row("[bold]frames per second[/]", *(f"[bold]{record.fps:.1f}[/]" for record in records))
    table.add_row("without decoding", *(f"{record.fps_without_decode:.1f}" for record in records))
    table.add_row("realtime factor", *(f"{record.realtime_factor:.2f}" for record in records))
    table.add_row("peak memory of its process", *(_megabytes(record.peak_rss_bytes) for record in records))
    table.add_row("on disk", *(_megabytes(record.disk_bytes) for record in records))
    table.add_row("threads", *(str(record.threads) for record in records))
    table.add_row("load", *(_before_and_after(record.load_average_before, record.load_average_after) for record in records))
    if any(record.thermal_after for record in records):
        table.add_row("hottest sensor", *(_hottest(record) for record in records))
    for name, told in _of_device(records[0]):
        table.add_row(name, told)
    out.print(table)
    first, w = records[0], records[0].workload
    out.print(
        f"[dim]{escape(first.device)}; {w.shape}, {w.fps} fps; decoder {w.decoder}; prompt {escape(repr(w.prompt))}; "
        f"{w.steps} steps, {w.evaluations} evaluations; {first.runs} runs. {_whose(first)}[/]"
    )


def _of_device(record: BenchRecord) -> list[tuple[str, str]]:
    """What a benchmark with --device tells more; it is of one record alone."""
    own = record.on_device
    if own is None:
        return []

    def change(before: object, after: object, unit: str = "") -> str | None:
        return None if before is None or after is None else f"{before} to {after}{unit}"

    pairs = {
        "waited until cool": None if own.cool is None else f"{own.cooled_s:.0f} s, {own.cool}",
        "thermal status": change(own.before.thermal_status, own.after.thermal_status),
        "battery": change(own.before.battery_percent, own.after.battery_percent, " %"),
        "governors": ", ".join(sorted(set((own.after.governors or {}).values()))) or None,
        "clocks": None if not own.after.clocks_mhz else ", ".join(f"{each:.0f}" for each in own.after.clocks_mhz.values()) + " MHz",
        "peak share of memory (PSS)": None if own.peak_pss_bytes is None else _megabytes(own.peak_pss_bytes),
    }  # fmt: skip
    if own.sustained is not None:
        last, at = own.sustained.windows[-1], own.sustained.throttled_at_s
        pairs[f"{own.sustained.seconds / 60:g} min without a pause"] = f"{own.sustained.first_fps:.1f} to {last.fps:.1f} fps"
        pairs["throttled from"] = "nowhere" if at is None else f"{at:.0f} s"
    return [(name, told) for name, told in pairs.items() if told is not None]


def print_compared(compared: Compared) -> None:
    """Records of one workload, a column each: targets, precisions, speeds, and how many times as fast as the first."""
    records = compared.records
    ratios = [compared.speedups(record) for record in records]
    table = Table(title=f"{records[0].workload}", title_justify="left")
    table.add_column("")
    for name in compared.names:
        table.add_column(escape(name), justify="right", overflow="fold")
    table.add_row("target", *(_target(record) for record in records))
    table.add_row("precision", *(f"{record.engine.weights} in {record.engine.precision or '?'}" for record in records))
    table.add_row("preset", *(record.workload.preset or record.workload.shape for record in records))
    table.add_row("device", *(f"{escape(record.machine.name)}, {record.threads} threads" for record in records))
    table.add_section()
    table.add_row("a step", *(_milliseconds(record.step.median) for record in records))
    table.add_row("clip", *(_milliseconds(record.clip.median) for record in records))
    table.add_row("first frame", *(_milliseconds(record.first_frame.median) for record in records))
    table.add_row("frames per second", *(f"{record.fps:.1f}" for record in records))
    table.add_row("peak memory", *(_megabytes(record.peak_device_bytes or record.peak_rss_bytes) for record in records))
    table.add_section()
    for key in ("step", "decode", "clip"):
        table.add_row(f"[bold]{key} ×[/]", *(f"[bold]{_times(each[key])}[/]" for each in ratios))
    out.print(table)
    out.print(f"[dim]× is how many times as fast as {escape(compared.names[0])}. Each was measured on the device that it names.[/]")


def _target(record: BenchRecord) -> str:
    mode = "" if record.mode == "ahead-of-time" else f", {record.mode}"
    return f"{record.engine.target}{mode}{'' if record.savings else ', without savings'}"


def _whose(record: BenchRecord) -> str:
    return "Figures of this machine, not of a phone." if record.machine.place == "host" else "Figures of a phone."


def _spread(spread: Spread) -> str:
    return f"{spread.median:,.0f} ms ({spread.p10:,.0f} to {spread.p90:,.0f})"


def _milliseconds(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f} ms"


def _megabytes(count: int | None) -> str:
    return "–" if count is None else f"{count / 1e6:,.0f} MB"


def _times(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.2f}"


def _before_and_after(before: float | None, after: float | None) -> str:
    return "–" if before is None or after is None else f"{before:g} to {after:g}"


def _hottest(record: BenchRecord) -> str:
    if not record.thermal_before or not record.thermal_after:
        return "–"
    return f"{max(record.thermal_before.values()):.0f} to {max(record.thermal_after.values()):.0f} °C"
