"""The command line: one verb per job, the same nouns and defaults as the Python API.

Heavy libraries are imported by the command that needs them, so that `--help` is quick.
"""

from __future__ import annotations

import atexit
import gc
import json
import logging
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from .. import __version__
from ..core.errors import ConfigError, EchoEdgeError, EngineError, OutputError
from .checkpoint import checkpoint_app, inspect_checkpoint, is_checkpoint
from .operators import bench_operators
from .options import distinct, parse_box, parse_shape, parse_size
from .quantize import quantize_app

if TYPE_CHECKING:
    from ..core.bundle import Bundle, Manifest, Saving
    from ..runtime.bench.clip import Speed
    from ..runtime.engines.base import Engine
    from ..runtime.play.reference import Settings
    from ..runtime.play.setting import Wanted
    from ..runtime.verify.parity import Lipsync, Row, Verdict

app = typer.Typer(
    name="echoedge",
    help="Compile EchoMimicV3 into bundles, play them, and prove that they equal the full-precision model.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
train_app = typer.Typer(help="Train the built-in model.", no_args_is_help=True)
app.add_typer(train_app, name="train")
app.add_typer(checkpoint_app, name="checkpoint")
app.add_typer(quantize_app, name="quantize")
app.command()(bench_operators)
CLIP_COMPRESSION = 4  # an MP4 is at least this much smaller than its pixels; used to check the disk before a clip is begun
out, err = Console(), Console(stderr=True)

STAGE_NAMES = {
    "plan": "plan", "reference": "full-precision run", "programs": "programs", "proof": "proof of the files",
    "clip": "whole clip", "clips": "held-out clips",
    "listen": "1 listen", "look": "2 look", "prepare": "3 prepare", "denoise": "4 denoise", "decode": "5 decode", "runs": "runs",
}  # fmt: skip

BundleArg = Annotated[Path, typer.Argument(help="A bundle, NAME.echoedge.", show_default=False)]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace the output if it exists.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
EngineOption = Annotated[str, typer.Option(help="auto, executorch, or torch (full precision).")]
ClipOption = Annotated[
    str | None, typer.Option(help="HEIGHTxWIDTHxFRAMES: which of a bundle's shapes.", show_default="the main one")
]
DecoderOption = Annotated[
    str | None, typer.Option(help="full, or tiny: the small autoencoder.", show_default="full, where it is there")
]
PromptsOption = Annotated[Path | None, typer.Option(help="Prompt pack: texts that need no text encoder, beside those of a bundle.")]
RecordOption = Annotated[bool, typer.Option("--record", help="Keep the figures in the bundle's folder, beside its manifest.")]


@contextmanager
def _bars(quiet: bool) -> Iterator[Any]:
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


# -- export ----------------------------------------------------------------------------------------------------------------------


def _export(
    output: Path,
    weights: str,
    target: str = "executorch",
    size: str | None = None,
    frames: int | None = None,
    steps: int | None = None,
    jobs: int = 2,
    force: bool = False,
    quiet: bool = False,
    plan: str = "nano",
) -> Manifest:
    from ..runtime.export.pipeline import export_bundle
    from ..runtime.export.request import nano_request

    shape = parse_size(size) if size is not None else None
    request = nano_request(weights, target=target, size=shape, frames=frames, steps=steps, plan=plan)
    with _bars(quiet) as progress:
        return export_bundle(request, output, jobs=jobs, force=force, progress=progress, warn=_warn)


def _warn(line: str) -> None:
    err.print(f"[yellow]{escape(line)}[/]")


RELEASED_PANEL = "With --model flash or preview, from --checkpoint"


@app.command()
def export(
    context: typer.Context,
    model: Annotated[str, typer.Option(help="nano, flash or preview.")] = "nano",
    target: Annotated[str, typer.Option(help="executorch. (coreml and onnx: not in this version.)")] = "executorch",
    weights: Annotated[str, typer.Option(help="fp32, int8, int4, mixed, or a recipe file (.json).")] = "int8",
    output: Annotated[Path, typer.Option("--out", help="The bundle to write, NAME.echoedge.", show_default=False)] = ...,  # type: ignore[assignment]
    size: Annotated[str | None, typer.Option(help="HEIGHTxWIDTH of the clip.", show_default="the model's, or 256x256")] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="Frames of one window, 4n+1.", show_default="25")] = None,
    steps: Annotated[int | None, typer.Option(min=1, max=1000, help="Denoising steps.", show_default="the model's")] = None,
    plan: Annotated[
        str | None,
        typer.Option(help="nano, or nano-png: with negative guidance, one more evaluation per step.", show_default="the model's"),
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
        str,
        typer.Option(
            help="separate: a file for each program, loaded and freed in turn; one: all in one.", rich_help_panel=RELEASED_PANEL
        ),
    ] = "separate",
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
) -> None:
    """Compile a model into a bundle. Of flash and preview, the same command goes on where a killed one stopped."""
    from ..core.config import preset

    if preset(model).name == "nano":
        if checkpoint is not None:
            raise ConfigError("nano's weights are built in; --checkpoint is for flash and preview.")
        _refuse_options(context, RELEASED_PANEL, "goes with --model flash or preview")
        manifest = _export(output, weights, target, size, frames, steps, jobs, force, as_json, plan or "nano")
    else:
        from .export_checkpoint import export_checkpoint

        if checkpoint is None:
            raise ConfigError(f"--checkpoint names the folder with the weights of {model}; see docs/RELEASED_MODEL.md.")
        if plan is not None:
            raise ConfigError(f"--plan is {plan!r}; only nano has several plans.")
        with _bars(as_json) as progress:
            manifest = export_checkpoint(
                output, checkpoint, model, target, weights, "256x256" if size is None else size, frames or 25, steps, also or (),
                decoders, layout, backend, prompts, text_rows, memory, way, products, context_seconds, jobs, force, progress, _warn,
            )  # fmt: skip
    if as_json:
        print(json.dumps({"bundle": str(output), "programs": {n: p.artifact.bytes for n, p in manifest.programs.items()}}))
        return
    _print_programs(manifest)
    if not any(program.measured for program in manifest.programs.values()):
        out.print(
            f"\n[bold]{escape(str(output))}[/] is ready, lowered to {manifest.target.backend or manifest.target.name}: "
            "[yellow]not executed on this host[/]."
        )
        return
    out.print(f"\n[bold]{escape(str(output))}[/] is ready. Next: [cyan]echoedge verify {escape(str(output))}[/]")


# -- animate ---------------------------------------------------------------------------------------------------------------------


def _shape(text: str | None) -> str | None:
    """--clip as shapes are named."""
    return None if text is None else str(parse_shape(text, "--clip"))


def _animate(
    bundle: Bundle, image: Path, audio: Path, output: Path, wanted: Wanted, seed: int, force: bool, quiet: bool
) -> dict[str, Any]:
    from ..core.files import require_free_disk
    from ..core.plan import check_seed
    from ..core.sampling.inputs import byte_ids
    from ..runtime.play.media import ClipWriter, read_portrait, read_speech
    from ..runtime.play.setting import Setting

    check_seed(seed)
    setting = Setting.of(bundle, wanted)
    clip, prompt = setting.clip, setting.prompt(wanted.prompt, default="")
    portrait = read_portrait(image, clip.height, clip.width)
    speech = read_speech(audio, clip.sample_rate, clip.fps)
    seconds = len(speech) / clip.sample_rate
    require_free_disk(output, int(seconds * clip.fps * clip.height * clip.width * 3 / CLIP_COMPRESSION))
    _, used = byte_ids(prompt, setting.config.playing.text_length)
    if setting.reads_text and used < len(prompt.encode("utf-8", errors="replace")):
        read = prompt.encode("utf-8", errors="replace")[:used].decode()
        err.print(f"[yellow]The prompt is longer than this model reads; it ends after {escape(repr(read))}.[/]")
    with _bars(quiet) as progress:
        player = setting.player(seconds, progress)
        writer = ClipWriter(
            output, height=clip.height, width=clip.width, fps=clip.fps, audio=speech, sample_rate=clip.sample_rate, force=force
        )
        with writer:
            take = player.generate(portrait, speech, prompt, seed)
            for frame in player.frames_of(take):
                writer.write(frame)
    return {
        "clip": str(output), "frames": take.frames, "seconds": round(take.frames / clip.fps, 3), "engine": player.engine.name,
        "prompt": prompt, "evaluations": take.evaluations, "stage_seconds": {k: round(v, 4) for k, v in take.seconds.items()},
    }  # fmt: skip


def _animate_reference(
    checkpoint_path: Path,
    model: str | None,
    settings: Settings,
    image: Path,
    audio: Path,
    output: Path,
    prompt: str,
    prompts: Path | None,
    size: str,
    most_frames: int | None,
    face: str | None,
    match_colours: bool,
    resident: bool,
    force: bool,
    quiet: bool,
) -> dict[str, Any]:
    """Plays a checkpoint's own model, without a bundle."""
    from ..core.config import ClipSpec
    from ..core.files import human_bytes, require_free_disk, require_free_memory
    from ..core.model.architecture import Architecture
    from ..core.model.conditions import face_mask
    from ..core.weights.checkpoints import Checkpoint
    from ..runtime.play.colour import ColourMatcher
    from ..runtime.play.media import ClipWriter, clip_frames, output_size, portrait_size, read_portrait, read_speech
    from ..runtime.play.prompts import read_prompts
    from ..runtime.play.reference import Reference, memory_needed, peak_memory

    checkpoint = Checkpoint.open(checkpoint_path, model)
    sizes = Architecture(checkpoint.config())
    image_height, image_width = portrait_size(image)
    height, width = output_size(image_height, image_width, *parse_size(size))
    speech = read_speech(audio)
    clip = ClipSpec(height, width, 1)
    frames = clip_frames(len(speech) / clip.sample_rate, clip.fps, most_frames, settings.upstream_compat)
    clip = replace(clip, frames=frames)
    mask = None
    if face is not None:
        if sizes.transformer.variant == "flash":
            raise ConfigError("--face says which tokens hear the speech; only preview knows that, flash hears it everywhere.")
        mask = face_mask(parse_box(face, "--face"), image_height, image_width, height, width).numpy()
    pack = read_prompts(prompts, sizes.transformer.text_dim) if prompts else {}
    with _bars(quiet) as progress:
        reference = Reference(
            checkpoint, clip, settings, sizes, pack, resident, progress, warn=lambda line: err.print(f"[yellow]{escape(line)}[/]")
        )
        needed = memory_needed(sizes, clip, reference.plan, settings)
        if settings.device == "cpu":
            stages = ", ".join(f"{name} {human_bytes(count)}" for name, count in needed.items())
            require_free_memory(peak_memory(needed, resident), f"playing this clip ({stages})")
        require_free_disk(output, frames * height * width * 3 // CLIP_COMPRESSION)
        writer = ClipWriter(
            output, height=height, width=width, fps=clip.fps, audio=speech, sample_rate=clip.sample_rate, force=force
        )
        matcher = ColourMatcher(upstream_compat=settings.upstream_compat) if match_colours else None
        with writer:
            for frame in reference.frames(read_portrait(image, height, width), speech, prompt, mask):
                writer.write(matcher(frame) if matcher else frame)
    return {
        "clip": str(output), "frames": writer.frames_written, "seconds": round(writer.frames_written / clip.fps, 3),
        "size": [height, width], "model": sizes.transformer.name, "engine": reference.engine.name, "dtype": settings.dtype,
        "device": settings.device, "evaluations": reference.evaluations,
        "stage_seconds": {k: round(v, 4) for k, v in reference.seconds.items()},
    }  # fmt: skip


PANEL = "With --checkpoint: the released model in full precision"


def _refuse_options(context: typer.Context, panel: str, reason: str) -> None:
    """Refuses the options of a help panel that the user has given, rather than ignoring them."""
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if getattr(parameter, "rich_help_panel", None) == panel and source is not None and source.name == "COMMANDLINE":
            raise ConfigError(f"{parameter.opts[0]} {reason}.")


@app.command()
def animate(
    context: typer.Context,
    bundle: Annotated[
        Path | None, typer.Argument(help="A bundle, NAME.echoedge; or give --checkpoint.", show_default=False)
    ] = None,
    image: Annotated[Path, typer.Option(help="The portrait: any common image file.", show_default=False)] = ...,  # type: ignore[assignment]
    audio: Annotated[Path, typer.Option(help="The speech: any common audio or video file.", show_default=False)] = ...,  # type: ignore[assignment]
    output: Annotated[Path, typer.Option("--out", help="The MP4 to write.", show_default=False)] = ...,  # type: ignore[assignment]
    prompt: Annotated[
        str | None,
        typer.Option(help="What the head does, such as 'a woman nods and smiles'.", show_default="none, or the one it knows"),
    ] = None,
    seed: Annotated[int, typer.Option(help="0 … 2^64-1; the same seed gives the same clip on every device.")] = 0,
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
    from ..core.bundle import Bundle

    if (bundle is None) == (checkpoint is None):
        raise ConfigError("Give a bundle to play, or --checkpoint FOLDER to play the released model; one of the two.")
    if bundle is not None:
        _refuse_options(context, PANEL, "goes with --checkpoint; a bundle has it fixed when it is compiled")
        from ..runtime.play.setting import Wanted

        wanted = Wanted(engine, _shape(clip), decoder, prompts, prompt)
        result = _animate(Bundle.open(bundle), image, audio, output, wanted, seed, force, as_json)
    else:
        from ..runtime.play.reference import Settings

        assert checkpoint is not None
        if clip is not None:
            raise ConfigError("--clip names a shape of a bundle; with --checkpoint give --size and --frames.")
        if engine not in ("auto", "torch"):
            raise EngineError(f"A checkpoint is played by torch, not by {engine}. Compile it into a bundle first.")
        settings = Settings(
            steps=steps, solver=solver, shift=shift, guidance=guidance, audio_guidance=audio_guidance, audio_scale=audio_scale,
            negative_prompt=negative_prompt, window=window, overlap=overlap, anchor=anchor, long_video=long_video, riflex=riflex,
            reuse=reuse, seed=seed, dtype=dtype, device=device, decoder=decoder or "full", upstream_compat=upstream_compat,
        )  # fmt: skip
        result = _animate_reference(
            checkpoint, model, settings, image, audio, output, prompt or "", prompts, size, frames, face, match_colours, resident,
            force, as_json,
        )  # fmt: skip
    if as_json:
        print(json.dumps(result))
        return
    spent = sum(result["stage_seconds"].values())
    out.print(f"[bold]{escape(str(output))}[/]: {result['frames']} frames, {result['seconds']} s, made in {spent:.2f} s.")


# -- verify ----------------------------------------------------------------------------------------------------------------------


def _print_verdict(verdict: Verdict) -> None:
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

    def mark(part: Row | Lipsync) -> str:
        if part.unjudged is not None:
            return f"[yellow]not judged[/]: {escape(part.unjudged)}"
        return "[green]passed[/]" if part.passed else "[red]FAILED[/]"

    for row in verdict.rows:
        found, wanted = row.measured, row.demanded
        table.add_row(
            row.name,
            in_words(found.psnr_db),
            in_words(wanted.psnr_db),
            _number(found.cosine),
            _number(found.max_abs, 4),
            mark(row),
        )
    mouth = verdict.lipsync
    table.add_row(
        "lip-sync" if mouth.clips == 1 else f"lip-sync, {mouth.clips} clips",
        _number(mouth.measured, 3),
        "–" if mouth.reference is None else f"{mouth.reference:.3f} × 95 %",
        "",
        "",
        mark(mouth),
    )
    out.print(table)


@app.command()
def verify(
    bundle: BundleArg,
    baseline: Annotated[
        Path | None, typer.Option(help="A recorded run to compare with: safetensors with latents and frames.")
    ] = None,
    engine: EngineOption = "auto",
    clips: Annotated[int, typer.Option(min=0, help="Judge lip-sync over this many drawn held-out clips (nano only).")] = 0,
    record: RecordOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare every program and a whole clip with full precision. Exit status 1 when a threshold fails, or nothing was judged."""
    from ..core.bundle import Bundle
    from ..runtime.engines import open_engine
    from ..runtime.verify.parity import Lipsync, lipsync_over
    from ..runtime.verify.parity import verify as compare

    opened = Bundle.open(bundle)
    with _bars(as_json) as progress:
        player = open_engine(opened, engine)
        verdict = compare(opened, player, baseline, progress)
        if clips:
            reference, measured = lipsync_over(opened, player, clips, progress)
            verdict = replace(verdict, lipsync=Lipsync(reference, measured, clips))
    if record:
        _record_verdict(opened, player, verdict)
    if as_json:
        print(json.dumps(verdict.to_dict()))
    else:
        _print_verdict(verdict)
        if verdict.passed:
            out.print(f"{verdict.sentence()} Next: [cyan]echoedge bench {escape(str(bundle))}[/]")
        elif verdict.failed:
            out.print(
                f"[red]{verdict.sentence()}[/] Export with finer weights (--weights int8 or fp32), or look at the failing rows."
            )
        else:
            out.print(f"[yellow]{verdict.sentence()}[/] Export it again to have it judged.")
    if not verdict.passed:
        raise typer.Exit(1)


def _record_verdict(bundle: Bundle, engine: Engine, verdict: Verdict) -> None:
    from ..core.bundle.records import write_record
    from ..core.versions import library_versions
    from ..runtime.bench.clip import device_name

    path = write_record(
        bundle, "verify", engine.name, device_name(), engine.threads, library_versions(), verdict.summary(), verdict.to_dict()
    )
    err.print(f"[dim]Recorded in {escape(str(path))}[/]", soft_wrap=True)


# -- bench -----------------------------------------------------------------------------------------------------------------------


def _print_speed(speeds: list[Speed]) -> None:
    table = Table(title="Speed", title_justify="left")
    table.add_column("")
    for speed in speeds:
        table.add_column(f"{speed.conditions.engine} {speed.conditions.weights}", justify="right")
    for stage in speeds[0].stage_seconds:
        table.add_row(STAGE_NAMES[stage], *(f"{speed.stage_seconds[stage] * 1000:.0f} ms" for speed in speeds))
    table.add_section()
    table.add_row("clip, wall", *(f"{s.total_seconds * 1000:.0f} ms" for s in speeds))
    table.add_row("clip, CPU", *(f"{s.cpu_seconds * 1000:.0f} ms" for s in speeds))
    table.add_row("first clip, with loading", *(f"{s.first_seconds * 1000:.0f} ms" for s in speeds))
    table.add_row("[bold]frames per second[/]", *(f"[bold]{s.fps:.1f}[/]" for s in speeds))
    table.add_row("realtime factor", *(f"{s.realtime_factor:.2f}" for s in speeds))
    table.add_row("peak memory of its process", *(f"{s.peak_bytes / 1e6:.0f} MB" for s in speeds))
    table.add_row("threads", *(str(s.conditions.threads) for s in speeds))
    table.add_row("load", *(f"{s.conditions.load_average:g}" for s in speeds))
    out.print(table)
    c = speeds[0].conditions
    out.print(
        f"[dim]{escape(c.device)}; {c.clip}; decoder {c.decoder}; prompt {escape(repr(c.prompt))}; {c.steps} steps, "
        f"{c.evaluations} evaluations; median of {c.runs}. Figures of this machine, not of a phone.[/]"
    )


def _measure(bundle: Bundle, wanted: Wanted, engines: list[str], runs: int, quiet: bool) -> list[Speed]:
    """Of several engines each is measured in a process of its own; one that cannot play is refused before any is measured."""
    from ..runtime.bench.clip import measure, measure_apart
    from ..runtime.engines import open_engine
    from ..runtime.play.setting import Setting

    for name in engines if len(engines) > 1 else ():
        open_engine(bundle, name, Setting.of(bundle, wanted).clip)
    speeds = []
    for name in engines:
        with _bars(quiet) as progress:
            speeds.append((measure if len(engines) == 1 else measure_apart)(bundle, replace(wanted, engine=name), runs, progress))
    return speeds


def _record_speed(bundle: Bundle, speed: Speed) -> None:
    from ..core.bundle.records import write_record
    from ..core.versions import library_versions

    c = speed.conditions
    path = write_record(bundle, "bench", c.engine, c.device, c.threads, library_versions(), speed.summary(), speed.to_dict())
    err.print(f"[dim]Recorded in {escape(str(path))}[/]", soft_wrap=True)


@app.command()
def bench(
    bundle: BundleArg,
    runs: Annotated[int, typer.Option(min=1, help="Clips played after the warm-up; medians are reported.")] = 5,
    engine: EngineOption = "auto",
    compare: Annotated[bool, typer.Option("--compare", help="Also play in full precision with torch, side by side.")] = False,
    clip: ClipOption = None,
    decoder: DecoderOption = None,
    prompts: PromptsOption = None,
    prompt: Annotated[
        str | None, typer.Option(help="What is played.", show_default="the demo's, or the first that the bundle knows")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Of the engine.", show_default="the engine's choice")] = None,
    record: RecordOption = False,
    as_json: JsonOption = False,
) -> None:
    """Say how fast a bundle plays here, stage by stage."""
    from ..core.bundle import Bundle
    from ..runtime.play.setting import Wanted

    opened = Bundle.open(bundle)
    wanted = Wanted(engine, _shape(clip), decoder, prompts, prompt, threads)
    speeds = _measure(opened, wanted, [engine, *(["torch"] if compare and engine != "torch" else [])], runs, as_json)
    if record:
        for speed in speeds:
            _record_speed(opened, speed)
    if as_json:
        print(json.dumps([speed.to_dict() for speed in speeds]))
    else:
        _print_speed(speeds)


# -- inspect, doctor -------------------------------------------------------------------------------------------------------------


def _print_programs(manifest: Manifest) -> None:
    from ..core.files import human_bytes

    table = Table(title=f"{manifest.model.preset} for {manifest.target.name}, {manifest.weights.name}", title_justify="left")
    for column in ("program", "size", "delegates", "of the FLOPs", "outside", "not delegated"):
        table.add_column(column, justify="left" if column in ("program", "not delegated") else "right")
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


def _amount(count: int) -> str:
    """`count` with three figures and a unit: 12400000000 -> "12.4 G"."""
    value = float(count)
    for unit in ("k", "M", "G", "T", "P"):
        value /= 1000
        if value < 999.5 or unit == "P":
            break
    return f"{value:.3g} {unit}"


def _operator(name: str) -> str:
    return name.removesuffix(".default").removeprefix("aten.")


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="A bundle, or a folder of released weights.", show_default=False)],
    time: Annotated[
        bool, typer.Option("--time", help="Also measure what each rewrite saves: a step of two blocks in PyTorch, CPU time.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what a bundle holds: programs, what the backend took, what left the step, plan, files, provenance. Of a folder of
    released weights, whether every tensor is there; exit status 1 where one is not."""
    from ..core.bundle import Bundle
    from ..core.bundle.records import read_records
    from ..core.files import human_bytes
    from ..core.metrics.psnr import in_words

    if is_checkpoint(path):
        if time:
            raise ConfigError("--time measures the step of a bundle; this is a folder of weights.")
        if not inspect_checkpoint(path, as_json):
            raise typer.Exit(1)
        return
    bundle = Bundle.open(path)
    manifest, plan = bundle.manifest, bundle.plan()
    records = read_records(bundle)
    saved = manifest.savings
    times: dict[str, float] | None = None
    if time:
        from ..runtime.bench.step_times import measure_rewrites
        from ..targets.rewrites.hoist import savings

        with _bars(as_json) as progress:
            rows = manifest.playing.text_rows
            saved = savings(bundle.model, bundle.clip, plan, rows)
            times = {t.name: t.seconds for t in measure_rewrites(bundle.model, bundle.clip, rows, progress=progress)}
    if as_json:
        told: dict[str, Any] = {"savings": [saving.model_dump() for saving in saved]} | ({"step_seconds": times} if times else {})
        told |= {"records": [r.model_dump(mode="json") for r in records.own], "damaged_records": dict(records.damaged)}
        print(json.dumps(json.loads(manifest.to_json()) | told, ensure_ascii=False))
        return
    _print_programs(manifest)
    if saved:
        _print_savings(saved, plan.evaluations, times)
    else:
        out.print("[dim]What left the step is not on record in this bundle, which an earlier version made; --time counts it.[/]")
    clip = bundle.clip
    size = bundle.bytes
    window = f"windows of {plan.window.length} latent frames, overlap {plan.window.overlap}" if plan.window else "no windows"
    shapes = ", ".join(map(str, bundle.clips))
    out.print(f"clip      {shapes} (height, width, frames a window), {clip.fps} fps, speech at {clip.sample_rate} Hz")
    branches = ", ".join(branch.name for branch in plan.branches)
    out.print(f"plan      {plan.solver_name}, {plan.steps} steps, shift {plan.shift:g}; branches: {branches}; {window}")
    out.print(f"weights   {escape(json.dumps({name: program.layers for name, program in manifest.programs.items()}))}")
    out.print(f"source    {manifest.model.preset}, SHA-256 {manifest.model.source_sha256[:16]}…")
    out.print(f"made with {', '.join(f'{name} {version}' for name, version in manifest.versions.items())}")
    held = {name.removesuffix("_bytes").replace("_", " "): n for name, n in manifest.memory.items() if isinstance(n, int)}
    out.print(f"size      {human_bytes(size)}")
    out.print(f"memory    {', '.join(f'{name} {human_bytes(count)}' for name, count in held.items())}")
    measured = {name: program.measured for name, program in manifest.programs.items() if program.measured is not None}
    if measured:
        found = ", ".join(f"{name} {in_words(figures.psnr_db)}" for name, figures in measured.items())
        out.print(f"parity    at export: {found}")
    for record in records.own:
        played = f"{record.engine} on {record.device}, {record.threads} threads"
        out.print(f"{record.verb:<9} {record.date}, {escape(played)}: {escape(record.summary)}")
    for name, reason in records.damaged.items():
        out.print(f"[yellow]damaged   {escape(name)}: {escape(reason)}[/]")
    if records.others:
        out.print(f"[dim]{len(records.others)} of another manifest, not shown: {escape(', '.join(records.others))}[/]")
    extra = bundle.extra_files()
    if extra:
        out.print(f"[yellow]not part of the bundle: {escape(', '.join(extra))}[/]")


@app.command()
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


# -- train -----------------------------------------------------------------------------------------------------------------------


@train_app.command("nano")
def train_nano_command(
    workdir: Annotated[Path, typer.Option(help="Checkpoints and the pool of drawn clips (1 GB); a run resumes from it.")] = Path(
        "nano-training"
    ),
    output: Annotated[
        Path | None, typer.Option("--out", help="Weights file to write.", show_default="nano.safetensors in the run's folder")
    ] = None,
    clips: Annotated[int, typer.Option(min=64, help="Clips drawn into the pool.")] = 3000,
    image_steps: Annotated[int | None, typer.Option(min=1, help="VAE steps on frames.", show_default="the recipe's")] = None,
    clip_steps: Annotated[int | None, typer.Option(min=1, help="VAE steps on clips.", show_default="the recipe's")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Transformer steps.", show_default="the recipe's")] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
    start: Annotated[
        Path | None,
        typer.Option(help="Weights file whose VAE to train further (or keep, with --keep-vae), instead of from nothing."),
    ] = None,
    method: Annotated[
        str, typer.Option(help="full: all tasks and modalities, preference steps, as shipped; plain: portrait and speech only.")
    ] = "full",
    keep_vae: Annotated[
        bool, typer.Option("--keep-vae", help="Take the VAE of --start as it is; train the transformer alone.")
    ] = False,
    without: Annotated[
        list[str] | None,
        typer.Option(
            help="ndpo, labels or captions: leave that part out; may be repeated. The run has a folder inside the work folder."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="Where the transformer trains: cpu or cuda.")] = "cpu",
) -> None:
    """Train the built-in model. Interrupt it at will: the same command goes on where it stopped.

    Under torchrun the transformer trains in all processes: torchrun --nproc-per-node 2 -m echoedge.cli train nano
    """
    from ..core.files import require_free_disk
    from ..core.plan import check_choice
    from ..core.train.distributed import join_world, leave_world
    from ..core.train.nano import run_folder, train_nano
    from ..core.train.train_dit import METHODS, leave_out
    from ..core.train.train_vae import VAETraining

    if keep_vae and start is None:
        raise ConfigError("--keep-vae takes the VAE of a weights file: name it with --start.")
    check_choice("method", method, tuple(METHODS))
    vae, dit, parts = VAETraining(), METHODS[method], distinct(without or (), "--without")
    leave_out(dit, parts)  # a part that is not there is refused before anything is drawn
    require_free_disk(workdir, 500_000 * clips)
    vae = replace(vae, image_steps=image_steps or vae.image_steps, clip_steps=clip_steps or vae.clip_steps)
    dit = replace(dit, steps=steps or dit.steps)
    world = join_world(device)
    output = output or run_folder(workdir, parts) / "nano.safetensors"
    report = lambda line: out.print(escape(line))  # noqa: E731
    metrics = train_nano(workdir, output, vae, dit, clips, threads, report, world, start, parts, keep_vae)
    leave_world(world)
    if world.first:
        out.print_json(json.dumps(metrics["held_out"]))
        out.print(f"[bold]{escape(str(output))}[/] is ready.")


@train_app.command("study")
def study_command(
    weights: Annotated[Path | None, typer.Option(help="Weights file of nano.", show_default="the shipped weights")] = None,
    output: Annotated[Path, typer.Option("--out", help="Folder for figures and contact sheets.")] = Path("nano-study"),
    only: Annotated[
        list[str] | None,
        typer.Option(help="vae, choices, generated, tasks, switches, parts, long or voice; may be repeated.", show_default="all"),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(help="PART=FILE: weights trained without ndpo, labels or captions, to compare with; may be repeated."),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
) -> None:
    """Measure trained weights on people and voices that training never saw: every task, every part turned off, long clips."""
    import torch

    from ..core.weights.nano import weights_path
    from ..core.work import tells_what_stays
    from ..runtime.studies.nano_study import Study, run_study

    given = [text.partition("=") for text in without or ()]
    for part, separator, path in given:
        if not separator or not path:
            raise ConfigError(f"--without is {part + separator!r}; write PART=FILE, such as ndpo=nano-without-ndpo.safetensors.")
    distinct((part for part, _, _ in given), "--without")
    runs = {part: Path(path) for part, _, path in given}
    sections = distinct(only or (), "--only")
    torch.set_num_threads(threads)
    with tells_what_stays(f"{output} keeps the sections that were finished: the same command goes on from there."):
        run_study(Study(weights or weights_path(), output, runs, lambda line: out.print(escape(line))), sections)
    out.print(f"Figures and contact sheets are in [bold]{escape(str(output))}[/].")


# -- demo ------------------------------------------------------------------------------------------------------------------------


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--out", help="Folder for the bundle, the clip and the contact sheet.")] = Path("demo"),
    weights: Annotated[str, typer.Option(help="fp32, int8, int4, or a recipe file (.json).")] = "int8",
    force: ForceOption = False,
) -> None:
    """The whole way on built-in material: compile nano, make a portrait speak, prove parity, say how fast it is."""
    from ..core.work import tells_what_stays

    if output.exists() and not output.is_dir():
        raise OutputError(f"{output} is a file; --out names a folder.")
    bundle_path, clip_path, sheet_path = output / "nano.echoedge", output / "clip.mp4", output / "contact_sheet.png"
    for path in (bundle_path, clip_path, sheet_path):
        if path.exists() and not force:
            raise OutputError(f"{path} exists. Give another folder with --out, or --force.")
    with tells_what_stays(f"What was finished is in {output}."):
        _demo(bundle_path, clip_path, sheet_path, weights, force)


def _demo(bundle_path: Path, clip_path: Path, sheet_path: Path, weights: str, force: bool) -> None:
    from ..core.bundle import Bundle
    from ..core.weights.nano import assets
    from ..runtime.engines import open_engine
    from ..runtime.play.demo import write_contact_sheet
    from ..runtime.play.setting import Wanted
    from ..runtime.verify.parity import verify as compare

    material = json.loads((assets() / "demo" / "demo.json").read_text())
    portrait, voice = material["portraits"][0], material["voices"][1]

    out.rule("1  compile", align="left")
    manifest = _export(bundle_path, weights, force=force)
    _print_programs(manifest)
    bundle = Bundle.open(bundle_path)
    out.rule("2  animate", align="left")
    folder = assets() / "demo"
    wanted = Wanted(prompt=portrait["prompt"])
    _animate(bundle, folder / portrait["file"], folder / voice["file"], clip_path, wanted, 0, force, False)
    write_contact_sheet(bundle, clip_path, folder / portrait["file"], sheet_path, force)
    out.rule("3  verify", align="left")
    engine = open_engine(bundle)
    with _bars(False) as progress:
        verdict = compare(bundle, engine, None, progress)
    _record_verdict(bundle, engine, verdict)
    _print_verdict(verdict)
    out.print(verdict.sentence())
    out.rule("4  bench", align="left")
    speeds = _measure(bundle, wanted, ["auto", "torch"], 3, False)
    for speed in speeds:
        _record_speed(bundle, speed)
    _print_speed(speeds)
    for name, path in (("clip", clip_path), ("sheet", sheet_path), ("bundle", bundle_path)):
        out.print(f"{name:<7} [bold]{escape(str(path))}[/]")
    out.print(f"Next: [cyan]echoedge animate {escape(str(bundle_path))} --image YOU.jpg --audio VOICE.wav --out you.mp4[/]")
    if not verdict.passed:
        raise typer.Exit(1)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


def main() -> None:
    """Entry point: errors that a user can mend are one sentence on the error stream and exit status 2; Ctrl-C is 130."""
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)  # what is there goes with the process; Python would look through torch's objects first, for 0.4 s
    for library in ("torchao", "torch.utils._pytree"):  # they warn of optional parts that are not there, on every import
        logging.getLogger(library).setLevel(logging.ERROR)
    try:
        app(prog_name="echoedge")
    except EchoEdgeError as error:
        err.print(
            f"[red]{type(error).__name__.removesuffix('Error').lower()}:[/] {escape(str(error))}", highlight=False, soft_wrap=True
        )
        sys.exit(2)
    except (SystemExit, KeyboardInterrupt) as end:
        interruption = _interruption_behind(end)
        if interruption is None:
            raise
        kept = getattr(interruption, "__notes__", ["Nothing was left behind."])
        err.print(escape(" ".join(["Interrupted.", *kept])), highlight=False, soft_wrap=True)
        sys.exit(130)


def _interruption_behind(error: BaseException | None) -> KeyboardInterrupt | None:
    """The Ctrl-C that a library has turned into `error`; None if there was none."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error


if __name__ == "__main__":
    main()
