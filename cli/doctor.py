"""`echoedge doctor`."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from ..core.errors import EchoEdgeError, EngineError
from .words import (
    JsonOption,
    out,
)


def doctor(
    folders: Annotated[
        list[Path] | None, typer.Argument(help="Where to look for what killed runs left.", show_default="the current folder")
    ] = None,
    clean: Annotated[bool, typer.Option("--clean", help="Delete what killed runs left there, and nothing else.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check this machine: libraries, codecs, memory, and the built-in model. Exit status 1 when something needed is missing.

    Also names what killed runs have left in the current folder and in the folders given: half-written outputs, and work of exports
    that no run holds.
    """
    from ..core.files import available_memory, human_bytes
    from ..core.leftovers import leftovers, remove
    from ..core.versions import library_versions
    from ..core.weights.nano import load_nano
    from ..runtime.bench.clip import device_name
    from ..runtime.play.media import h264_encoder

    found = leftovers([Path(), *(folders or ())])
    checks: list[tuple[str, bool, str]] = []

    def check(name: str, probe: Any) -> None:
        try:
            checks.append((name, True, str(probe())))
        except (EchoEdgeError, ImportError, OSError, RuntimeError) as error:
            checks.append((name, False, str(error)))

    def xnnpack() -> str:
        from ..targets.executorch.program_file import registered_backends

        names = registered_backends()
        if "XnnpackBackend" not in names:
            raise EngineError(f"this ExecuTorch has no XNNPACK; it has {', '.join(names)}. Install executorch again.")
        return f"XNNPACK, and {len(names) - 1} other backends"

    check("python", lambda: f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    check("processor", device_name)
    check("memory", lambda: f"{human_bytes(available_memory())} available")
    check("libraries", lambda: ", ".join(f"{n} {v}" for n, v in library_versions().items()))
    check("executorch", xnnpack)
    check("video codec", h264_encoder)
    check("nano", lambda: f"{sum(p.numel() for p in load_nano().dit.parameters()):,} parameters in the transformer")
    healthy = all(passed for _, passed, _ in checks)
    left = [(leftover, clean and remove(leftover)) for leftover in found]
    if as_json:
        told = {"healthy": healthy, "checks": [{"name": n, "passed": p, "detail": d} for n, p, d in checks]}
        named = [{"path": str(x.path), "bytes": x.bytes, "what": x.what, "deleted": gone} for x, gone in left]
        print(json.dumps(told | {"leftovers": named}))
    else:
        for name, passed, detail in checks:
            out.print(f"{'[green]ok[/]     ' if passed else '[red]missing[/]'} {name:<12} {escape(detail)}")
        for leftover, gone in left:
            state = "deleted" if gone else "[yellow]left[/]   "
            out.print(f"{state} {escape(str(leftover.path))}, {human_bytes(leftover.bytes)}: {escape(leftover.what)}")
        if not clean and any(not leftover.precious for leftover, _ in left):
            out.print("What was left can go: [cyan]echoedge doctor --clean[/] deletes it.")
        out.print(
            "Everything is here. Next: [cyan]echoedge demo[/]" if healthy else "[red]Mend what is missing, then run this again.[/]"
        )
    if not healthy:
        raise typer.Exit(1)
