"""`echoedge export`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from .. import api
from .options import parse_bytes, parse_names, parse_shapes, parse_size
from .words import (
    ForceOption,
    JsonOption,
    bars,
    out,
    print_programs,
    refuse_options,
    warn,
)

RELEASED_PANEL = "With --model flash or preview, from --checkpoint"
ONNX_PANEL = "With --target onnx"
COREML_PANEL = "With --target coreml"
LAYOUT_PANEL = "With --model flash or preview to executorch, or with --target coreml"
TYPE_PANEL = "With --target onnx or coreai"


def export(
    context: typer.Context,
    model: Annotated[str, typer.Option(help="nano, flash or preview.")] = "nano",
    target: Annotated[
        str,
        typer.Option(
            help="executorch; onnx: graphs for ONNX Runtime; coreml: packages for Apple's systems; coreai: for iOS and macOS 27."
        ),
    ] = "executorch",
    weights: Annotated[
        str, typer.Option(help="fp32, int8, int4, mixed; with coreml also pal8, pal6, pal4; or a recipe file (.json).")
    ] = "int8",
    output: Annotated[Path, typer.Option("--out", help="The bundle to write, NAME.echoedge.", show_default=False)] = ...,  # type: ignore[assignment]
    size: Annotated[str | None, typer.Option(help="HEIGHTxWIDTH of the clip.", show_default="the model's, or 256x256")] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="Frames of one window, 4n+1.", show_default="25")] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, max=1000, help="Denoising steps; nano's student takes 1, 2 or 4.", show_default="the model's"),
    ] = None,
    plan: Annotated[
        str | None,
        typer.Option(
            help="nano: the built-in model's teacher, 8 steps of two forwards, instead of its student, 2 of one; nano-png: the "
            "teacher with negative guidance, one more forward per step.",
            show_default="the model's",
        ),
    ] = None,
    weights_file: Annotated[
        Path | None,
        typer.Option(help="nano's weights, of `train nano` or `distill nano`.", show_default="the shipped ones"),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Programs compiled at once.")] = 2,
    force: ForceOption = False,
    as_json: JsonOption = False,
    checkpoint: Annotated[Path | None, typer.Option(help="Folder of released weights.", rich_help_panel=RELEASED_PANEL)] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(
            help="HEIGHTxWIDTHxFRAMES: a further shape, sharing the weights; may be repeated.", rich_help_panel=RELEASED_PANEL
        ),
    ] = None,
    decoders: Annotated[
        str, typer.Option(help="full, tiny, or full,tiny: which decoders go in.", rich_help_panel=RELEASED_PANEL)
    ] = "full,tiny",
    layout: Annotated[
        str | None,
        typer.Option(
            help="separate: a file for each program, loaded and freed in turn; one: all in one. With coreml gpu or ane: what the "
            "transformer's step is laid out for.",
            show_default="separate; with coreml gpu",
            rich_help_panel=LAYOUT_PANEL,
        ),
    ] = None,
    backend: Annotated[
        str, typer.Option(help="xnnpack; or vulkan, coreml, mps: lowered, not executed here.", rich_help_panel=RELEASED_PANEL)
    ] = "xnnpack",
    prompts: Annotated[
        Path | None, typer.Option(help="Prompt pack that travels in the bundle.", rich_help_panel=RELEASED_PANEL)
    ] = None,
    text_rows: Annotated[
        int, typer.Option(min=2, help="Longest prompt in tokens, and one for the padding.", rich_help_panel=RELEASED_PANEL)
    ] = 64,
    memory: Annotated[
        str | None,
        typer.Option(help="Most memory to take, such as 4GB.", show_default="what is free", rich_help_panel=RELEASED_PANEL),
    ] = None,
    way: Annotated[
        str,
        typer.Option(help="auto, stamped or plain: how the transformer's blocks are compiled.", rich_help_panel=RELEASED_PANEL),
    ] = "auto",
    products: Annotated[
        str,
        typer.Option(
            help="fp32, or bf16: attention in bfloat16, for processors that multiply it (avx512_bf16, ARM bf16).",
            rich_help_panel=RELEASED_PANEL,
        ),
    ] = "fp32",
    context_seconds: Annotated[
        float,
        typer.Option(
            "--context",
            min=0.1,
            max=30.0,
            help="Seconds of the voice that the speech encoder reads on either side; `checkpoint hearing` measures what is needed.",
            rich_help_panel=RELEASED_PANEL,
        ),
    ] = 6.0,
    device: Annotated[
        str, typer.Option(help="cpu, or cuda: what the graphs are for; they are proven on the CPU.", rich_help_panel=ONNX_PANEL)
    ] = "cpu",
    precision: Annotated[
        str,
        typer.Option(
            help="fp32; or fp16, which of onnx is for cuda: processors compute it slowly; or, of coreai, bf16.",
            rich_help_panel=TYPE_PANEL,
        ),
    ] = "fp32",
    inputs: Annotated[
        str,
        typer.Option(
            help="blocks, whole or float: inputs of layers with fewer bits rounded to 8 bits in blocks, all with one scale (the "
            "fastest on processors), or not at all.",
            rich_help_panel=ONNX_PANEL,
        ),
    ] = "blocks",
    ios: Annotated[
        int,
        typer.Option(help="17 or 18: the oldest iOS that is to run the programs (macOS 14 or 15).", rich_help_panel=COREML_PANEL),
    ] = 18,
    units: Annotated[
        str,
        typer.Option(help="all, gpu, ane or cpu: what players let Core ML run the programs on.", rich_help_panel=COREML_PANEL),
    ] = "all",
) -> None:
    """Compile a model into a bundle. The same command goes on where a killed one stopped."""
    from ..core.config import preset

    usual_layout = "gpu" if target == "coreml" else "separate"
    chosen: dict[str, Any] = {"device": device, "precision": precision, "inputs": inputs, "ios": ios, "units": units}
    usual: dict[str, Any] = {"device": "cpu", "precision": "fp32", "inputs": "blocks", "ios": 18, "units": "all"}
    if preset(model).name == "nano":
        refuse_options(context, RELEASED_PANEL, "goes with --model flash or preview", but=("checkpoint",))
        if target != "coreml":
            refuse_options(context, LAYOUT_PANEL, "goes with --model flash or preview, or with --target coreml")
    else:
        chosen |= {"backend": backend, "way": way, "products": products}
        usual |= {"backend": "xnnpack", "way": "auto", "products": "fp32"}
    chosen |= {"layout": layout or usual_layout}
    usual |= {"layout": usual_layout}
    options = {name: value for name, value in chosen.items() if value != usual[name]}  # a target refuses what it does not know
    with bars(as_json) as progress:
        manifest = api.export(
            output, model=model, checkpoint=checkpoint, weights=weights, weights_file=weights_file, target=target, options=options,
            size=None if size is None else parse_size(size), frames=frames or 25,
            also=[(clip.height, clip.width, clip.frames) for clip in parse_shapes(also or (), "--also")], steps=steps, plan=plan,
            decoders=parse_names(decoders, "--decoders"), prompts=prompts, text_rows=text_rows, context_seconds=context_seconds,
            jobs=jobs, memory=None if memory is None else parse_bytes(memory, "--memory"), force=force, progress=progress,
            warn=warn,
        )  # fmt: skip
    if as_json:
        print(json.dumps({"bundle": str(output), "programs": {n: p.artifact.bytes for n, p in manifest.programs.items()}}))
        return
    print_programs(manifest)
    if not any(program.measured for program in manifest.programs.values()):
        out.print(
            f"\n[bold]{escape(str(output))}[/] is ready, lowered to {manifest.target.backend or manifest.target.name}: "
            "[yellow]not executed on this host[/]."
        )
        return
    out.print(f"\n[bold]{escape(str(output))}[/] is ready. Next: [cyan]echoedge verify {escape(str(output))}[/]")
