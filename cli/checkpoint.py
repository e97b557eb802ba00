"""The command line for folders of released weights: what they hold, and folders of random weights in their place."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from .. import api
from .options import distinct, parse_names, parse_seconds
from .words import JsonOption, err, out, warn

if TYPE_CHECKING:
    from ..core.weights.accounts import Account
    from ..core.weights.checkpoints import Checkpoint

checkpoint_app = typer.Typer(help="Folders of released weights, or of random ones in their place.", no_args_is_help=True)
STATUS_COLOURS = {"complete": "green", "incomplete": "red", "damaged": "red", "unreadable": "red", "absent": "dim"}


# -- inspect ---------------------------------------------------------------------------------------------------------------------


def is_checkpoint(path: Path) -> bool:
    """Whether `inspect` reads `path` as a folder of weights, or a file of them: it is no bundle, and something is there."""
    from ..core.bundle import MANIFEST

    if path.is_dir():
        return path.suffix != ".echoedge" and not (path / MANIFEST).exists() and any(path.iterdir())
    return path.suffix in (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".gguf")


def inspect_checkpoint(path: Path, as_json: bool) -> bool:
    """Prints what a folder of weights holds, values included. -> whether all that is there is whole, and a transformer is."""
    from ..core.weights.random_checkpoint import random_record

    checkpoint = api.inspect_checkpoint(path)
    with _byte_bars(as_json or not err.is_terminal, transient=True) as progress:
        accounts = checkpoint.accounts(values=True, progress=progress)
    whole = all(account.status in ("complete", "absent") for account in accounts) and accounts[0].status == "complete"
    if as_json:
        components = [account.to_dict() for account in accounts]
        summary = {"folder": str(checkpoint.folder), "variant": checkpoint.variant, "complete": whole, "components": components}
        print(json.dumps(summary | {"random": random_record(checkpoint.folder)}))
        return whole
    _print_accounts(checkpoint, accounts)
    for account in accounts:
        if account.status not in ("complete", "absent") or (account.name == "transformer" and account.status == "absent"):
            out.print(f"\n[red]{account.name}:[/] {escape(account.complaint())}", soft_wrap=True, highlight=False)
    return whole


def _print_accounts(checkpoint: Checkpoint, accounts: list[Account]) -> None:
    from ..core.files import human_bytes
    from ..core.weights.random_checkpoint import random_record

    title = f"{checkpoint.folder}: {checkpoint.variant or 'no EchoMimic transformer'}"
    table = Table(show_footer=True)
    present = [account for account in accounts if account.files]
    footers = {
        "tensors": f"{sum(account.found for account in present):,}",
        "parameters": f"{sum(account.parameters for account in present):,}",
        "size": human_bytes(sum(account.bytes for account in present)),
    }
    for column in ("component", "tensors", "parameters", "type", "size", "status"):
        right = column in ("tensors", "parameters", "size")
        table.add_column(column, footer=footers.get(column, ""), justify="right" if right else "left", no_wrap=column != "status")
    for account in accounts:
        tensors, parameters = "", ""
        if account.expected:
            tensors = f"{account.found:,} / {account.expected:,}"
            parameters = f"{account.parameters if account.files else account.expected_parameters:,}"
        table.add_row(
            account.name,
            tensors,
            parameters if account.files or not parameters else f"[dim]{parameters}[/]",
            ", ".join(account.types),
            human_bytes(account.bytes) if account.files else "",
            _status(account),
        )
    out.print(f"[italic]{escape(title)}[/]", soft_wrap=True, highlight=False)  # a table's own title would wrap at its width
    out.print(table)
    for account in present:
        files = ", ".join(_relative(path, checkpoint.folder) for path in account.files)
        out.print(f"{account.name:<13}{escape(files)}", soft_wrap=True, highlight=False)
    for account in accounts:
        for note in account.notes:
            out.print(f"{account.name}: {escape(note)}", soft_wrap=True, highlight=False)
        for reason, count in account.dropped.items():
            out.print(
                f"[dim]{account.name}: {count:,} of {account.stored:,} tensors are dropped; {escape(reason)}.[/]", soft_wrap=True
            )
        for path, count in account.origins.items():
            if account.status == "complete" and len(account.origins) > 1:
                where = escape(_relative(path, checkpoint.folder))
                share = f"{count:,} tensors are" if count else "none is"
                out.print(f"[dim]{account.name}: {share} read from {where}.[/]", soft_wrap=True)
    record = random_record(checkpoint.folder)
    if record is not None:
        out.print(f"[yellow]Random weights, seed {record.get('seed')}: good for sizes and speed, not for pictures.[/]")


def _status(account: Account) -> str:
    from ..core.weights.accounts import NEEDED_FOR

    colour = STATUS_COLOURS[account.status]
    if account.status == "absent":
        return f"[{colour}]absent; for {NEEDED_FOR[account.name]}[/]"
    faults = ", ".join(f"{len(names):,} {kind}" for kind, names in account.faults.items())
    if account.status == "damaged":
        faults = f"{sum(map(len, account.wrong_values.values())):,} with numbers that cannot be meant"
    return f"[{colour}]{account.status}[/]" + (f": {faults}" if faults else "")


def _relative(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


# -- make-random -----------------------------------------------------------------------------------------------------------------


@contextmanager
def _byte_bars(quiet: bool, transient: bool = False) -> Iterator[Any]:
    """Progress bars on the error stream, one per component, as a function (component, bytes done, bytes in all). `transient`: they
    vanish at the end."""
    columns = (TextColumn("{task.description:<12}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, disable=quiet, transient=transient) as bars:
        tasks: dict[str, Any] = {}

        def advance(component: str, done: int, total: int) -> None:
            if component not in tasks:
                tasks[component] = bars.add_task(component, total=total)
            bars.update(tasks[component], completed=done)

        yield advance


@checkpoint_app.command("make-random")
def make_random(
    output: Annotated[Path, typer.Argument(help="The folder to write.", show_default=False)],
    model: Annotated[str, typer.Option(help="flash or preview.")] = "flash",
    components: Annotated[
        str,
        typer.Option(help="What to write, of: transformer, vae, clip, wav2vec2, text_encoder (11.4 GB), tokenizer, tiny_vae."),
    ] = "transformer,vae,clip,wav2vec2,tokenizer,tiny_vae",
    seed: Annotated[int, typer.Option(help="0 … 2^64-1; a tensor depends on it and on its own name only.")] = 0,
    dtype: Annotated[str, typer.Option(help="bf16, fp16, fp32, or released: each file's own.")] = "released",
    base: Annotated[bool, typer.Option("--base/--no-base", help="Also Wan's own transformer, as in the released folder.")] = True,
    force: Annotated[bool, typer.Option("--force", help="Replace a folder that this command wrote.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a full-size folder of random weights in the released layout, for sizes and speed."""
    from ..core.files import human_bytes

    names = parse_names(components, "--components")
    with _byte_bars(as_json) as progress:
        written = api.make_random(
            output, model=model, components=names, seed=seed, dtype=dtype, base=base, force=force, progress=progress
        )
    if as_json:
        print(json.dumps({"folder": str(output), "files": written}))
        return
    for name, size in written.items():
        out.print(f"{human_bytes(size):>8}  {escape(name)}", highlight=False, soft_wrap=True)
    out.print(f"[bold]{escape(str(output))}[/] is ready. Next: [cyan]echoedge inspect {escape(str(output))}[/]")


# -- prompts -----------------------------------------------------------------------------------------------------------------------


@checkpoint_app.command()
def prompts(
    folder: Annotated[Path, typer.Argument(help="A folder of released weights.", show_default=False)],
    texts: Annotated[list[str], typer.Argument(help="The prompts, each in quotes.", show_default=False)],
    output: Annotated[Path, typer.Option("--out", help="The pack to write, .safetensors.", show_default=False)],
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    force: Annotated[bool, typer.Option("--force", help="Replace the pack if it exists.")] = False,
) -> None:
    """Encode prompts once, so that `animate --prompts` needs no text encoder (11 GB)."""
    encoded = api.encode_prompts(
        folder, distinct(texts, "The list of prompts", empty=True), output, device=device, force=force, warn=warn
    )
    for prompt, tokens in encoded.items():
        out.print(f"{tokens:>4} tokens  {escape(repr(prompt))}", highlight=False)
    out.print(
        f"[bold]{escape(str(output))}[/] is ready. Next: [cyan]echoedge animate --checkpoint {escape(str(folder))} "
        f"--prompts {escape(str(output))} --prompt …[/]"
    )


# -- hearing -----------------------------------------------------------------------------------------------------------------------


@checkpoint_app.command()
def hearing(
    folder: Annotated[Path, typer.Argument(help="A folder of released weights.", show_default=False)],
    audio: Annotated[
        Path | None, typer.Option(help="A voice: any common audio file.", show_default="20 s of drawn speech with two pauses")
    ] = None,
    contexts: Annotated[str, typer.Option(help="Seconds on either side, with commas between them.")] = "0,0.5,1,2,4,6",
    compiled: Annotated[bool, typer.Option("--compiled", help="Compile each program in fp32, as for a bundle.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure how much context the speech encoder needs: a voice heard in parts, as bundles hear it, against the voice at once."""

    study = api.hearing(folder, audio=audio, contexts=parse_seconds(contexts, "--contexts"), compiled=compiled)
    if as_json:
        rows = [asdict(row) for row in study.rows]
        print(json.dumps({"random_weights": study.random_weights, "compiled": compiled, "rows": rows}))
        return
    table = Table(title=f"A voice of {study.seconds:.1f} s heard in parts", title_justify="left")
    for column in ("context", "readings", "lowest cosine", "at", "mean cosine"):
        table.add_column(column, justify="right")
    for row in study.rows:
        place = f"{row.lowest_at_seconds:.2f} s"
        table.add_row(f"{row.context_seconds:g} s", str(row.readings), f"{row.lowest_cosine:.5f}", place, f"{row.mean_cosine:.6f}")
    out.print(table)
    if study.random_weights:
        out.print("[yellow]Random weights: repeat this on the released ones.[/]")
