"""`echoedge demo`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from .. import api
from ..core.errors import OutputError
from .speeds import print_speeds
from .words import (
    ForceOption,
    bars,
    out,
    print_programs,
    print_verdict,
    warn,
)


def demo(
    output: Annotated[Path, typer.Option("--out", help="Folder for the bundle, the clip and the contact sheet.")] = Path("demo"),
    weights: Annotated[str, typer.Option(help="fp32, int8, int4, or a recipe file (.json).")] = "int8",
    force: ForceOption = False,
) -> None:
    """The whole way on built-in material: compile nano, make a portrait speak, prove parity, say how fast it is."""
    from ..core.work import claimed, tells_what_stays

    if output.exists() and not output.is_dir():
        raise OutputError(f"{output} is a file; --out names a folder.")
    bundle_path, clip_path, sheet_path = output / "nano.echoedge", output / "clip.mp4", output / "contact_sheet.png"
    for path in (bundle_path, clip_path, sheet_path):
        if path.exists() and not force:
            raise OutputError(f"{path} exists. Give another folder with --out, or --force.")
    with claimed(output, "demo"), tells_what_stays(f"What was finished is in {output}."):
        _demo(bundle_path, clip_path, sheet_path, weights, force)


def _demo(bundle_path: Path, clip_path: Path, sheet_path: Path, weights: str, force: bool) -> None:
    from ..core.weights.nano import assets

    folder = assets() / "demo"
    material = json.loads((folder / "demo.json").read_text())
    portrait, voice = material["portraits"][0], material["voices"][1]
    image, prompt = folder / portrait["file"], portrait["prompt"]

    out.rule("1  compile", align="left")
    with bars(False) as progress:
        print_programs(api.export(bundle_path, weights=weights, force=force, progress=progress, warn=warn))
    out.rule("2  animate", align="left")
    with bars(False) as progress:
        api.animate(
            bundle_path, image=image, audio=folder / voice["file"], out=clip_path, prompt=prompt, force=force, progress=progress,
            warn=warn,
        )  # fmt: skip
    api.contact_sheet(bundle_path, clip=clip_path, image=image, out=sheet_path, force=force)
    out.rule("3  verify", align="left")
    with bars(False) as progress:
        verdict = api.verify(bundle_path, record=True, progress=progress, warn=warn)
    print_verdict(verdict)
    out.print(verdict.sentence())
    out.rule("4  bench", align="left")
    with bars(False) as progress:
        speeds = api.bench(bundle_path, engines=["auto", "torch"], runs=3, prompt=prompt, record=True, progress=progress, warn=warn)
    print_speeds(speeds)
    for name, path in (("clip", clip_path), ("sheet", sheet_path), ("bundle", bundle_path)):
        out.print(f"{name:<7} [bold]{escape(str(path))}[/]")
    out.print(f"Next: [cyan]echoedge animate {escape(str(bundle_path))} --image YOU.jpg --audio VOICE.wav --out you.mp4[/]")
    if not verdict.passed:
        raise typer.Exit(1)
