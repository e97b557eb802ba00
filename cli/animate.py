"""`echoedge animate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from .. import api
from .options import parse_box, parse_crop, parse_size
from .words import (
    ClipOption,
    DecoderOption,
    EngineOption,
    ForceOption,
    JsonOption,
    PromptsOption,
    bars,
    out,
    refuse_options,
    shape_of,
    warn,
)

PANEL = "With --checkpoint: the released model in full precision"


def animate(
    context: typer.Context,
    bundle: Annotated[
        Path | None, typer.Argument(help="A bundle, NAME.echoedge; or give --checkpoint.", show_default=False)
    ] = None,
    image: Annotated[Path, typer.Option(help="The portrait: any common image file.", show_default=False)] = ...,  # type: ignore[assignment]
    audio: Annotated[Path, typer.Option(help="The speech: an audio or video file; -: standard input.", show_default=False)] = ...,  # type: ignore[assignment]
    output: Annotated[Path, typer.Option("--out", help="The MP4 to write.", show_default=False)] = ...,  # type: ignore[assignment]
    audio_track: Annotated[
        int | None,
        typer.Option(min=1, help="Which of the file's sound tracks.", show_default="the default one"),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(help="What the head does, such as 'a woman nods and smiles'.", show_default="none, or the one it knows"),
    ] = None,
    seed: Annotated[int, typer.Option(help="0 … 2^64-1; the same seed gives the same clip on every device.")] = 0,
    crop: Annotated[
        str | None,
        typer.Option(help="TOP,LEFT,SIZE of the part of the portrait to keep, in its pixels.", show_default="around the face"),
    ] = None,
    engine: EngineOption = "auto",
    clip: ClipOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Folder of released weights, played without a bundle.", rich_help_panel=PANEL)
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="flash or preview.", show_default="what the weights are", rich_help_panel=PANEL)
    ] = None,
    size: Annotated[
        str, typer.Option(help="HEIGHTxWIDTH whose area the clip fills; the portrait's aspect is kept.", rich_help_panel=PANEL)
    ] = "512x512",
    frames: Annotated[
        int | None, typer.Option(min=1, help="At most so many.", show_default="as long as the speech", rich_help_panel=PANEL)
    ] = None,
    dtype: Annotated[str, typer.Option(help="fp32, bf16 or fp16.", rich_help_panel=PANEL)] = "fp32",
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.", rich_help_panel=PANEL)] = "cpu",
    resident: Annotated[bool, typer.Option("--resident", help="Keep every part in memory.", rich_help_panel=PANEL)] = False,
    decoder: DecoderOption = None,
    steps: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Denoising steps.", show_default="8 or 25", rich_help_panel=PANEL)
    ] = None,
    solver: Annotated[
        str | None, typer.Option(help="euler, unipc or dpmpp.", show_default="the model's", rich_help_panel=PANEL)
    ] = None,
    shift: Annotated[
        float | None, typer.Option(help="Moves the steps towards noise.", show_default="5", rich_help_panel=PANEL)
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Strength of the text (preview).", show_default="4", rich_help_panel=PANEL)
    ] = None,
    audio_guidance: Annotated[
        float | None, typer.Option(help="Strength of the speech.", show_default="3 or 2.9", rich_help_panel=PANEL)
    ] = None,
    audio_scale: Annotated[float, typer.Option(help="Factor of the audio attention.", rich_help_panel=PANEL)] = 1.0,
    negative_prompt: Annotated[
        str | None, typer.Option(help="What to stay away from (preview).", show_default="a built-in one", rich_help_panel=PANEL)
    ] = None,
    prompts: PromptsOption = None,
    face: Annotated[
        str | None,
        typer.Option(help="TOP,BOTTOM,LEFT,RIGHT of the face: only it hears the speech (preview).", rich_help_panel=PANEL),
    ] = None,
    window: Annotated[int, typer.Option(help="Frames of one window of a long clip, 4n+1.", rich_help_panel=PANEL)] = 81,
    overlap: Annotated[
        int | None,
        typer.Option(
            min=0, help="Latent frames that windows share, or frames that chunks do.", show_default="4 or 8", rich_help_panel=PANEL
        ),
    ] = None,
    anchor: Annotated[
        str, typer.Option(help="window: each starts from the portrait; clip: only the first does.", rich_help_panel=PANEL)
    ] = "window",
    long_video: Annotated[
        str, typer.Option(help="windows (Long Video CFG), or chunks that continue each other.", rich_help_panel=PANEL)
    ] = "windows",
    riflex: Annotated[
        bool, typer.Option("--riflex", help="Keep clips longer than those of training from repeating.", rich_help_panel=PANEL)
    ] = False,
    reuse: Annotated[
        float | None, typer.Option(help="Feature reuse: skip blocks below this change, such as 0.1.", rich_help_panel=PANEL)
    ] = None,
    match_colours: Annotated[
        bool, typer.Option("--match-colours", help="Colours of the first frame throughout.", rich_help_panel=PANEL)
    ] = False,
    upstream_compat: Annotated[
        bool, typer.Option("--upstream-compat", help="Repeat the original's defects, for comparison.", rich_help_panel=PANEL)
    ] = False,
) -> None:
    """Make a portrait speak: an MP4 as long as the speech. Plays a bundle, or the released model from its checkpoint."""
    if bundle is not None and checkpoint is None:
        refuse_options(context, PANEL, "goes with --checkpoint; a bundle has it fixed when it is compiled")
    settings = None
    if checkpoint is not None:
        settings = {
            "steps": steps, "solver": solver, "shift": shift, "guidance": guidance, "audio_guidance": audio_guidance,
            "audio_scale": audio_scale, "negative_prompt": negative_prompt, "window": window, "overlap": overlap, "anchor": anchor,
            "long_video": long_video, "riflex": riflex, "reuse": reuse, "dtype": dtype, "device": device,
            "upstream_compat": upstream_compat,
        }  # fmt: skip
    with bars(as_json) as progress:
        made = api.animate(
            bundle, image=image, audio=audio, out=output, prompt=prompt, seed=seed,
            crop=None if crop is None else parse_crop(crop, "--crop"), engine=engine, clip=shape_of(clip),
            decoder=decoder, prompts=prompts, checkpoint=checkpoint, model=model, settings=settings, size=parse_size(size),
            frames=frames, face=None if face is None else parse_box(face, "--face"), match_colours=match_colours,
            resident=resident, audio_track=audio_track, force=force, progress=progress, warn=warn,
        )  # fmt: skip
    result = made.to_dict()
    if as_json:
        print(json.dumps(result))
        return
    spent = sum(result["stage_seconds"].values())
    out.print(f"[bold]{escape(str(output))}[/]: {result['frames']} frames, {result['seconds']} s, made in {spent:.2f} s.")
