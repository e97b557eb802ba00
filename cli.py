"""The command line: one verb per job, the same nouns and defaults as the Python API.

Heavy libraries are imported by the command that needs them, so that `--help` is quick.
"""

from __future__ import annotations

import json
import logging
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from . import __version__
from .cli_checkpoint import checkpoint_app, inspect_checkpoint, is_checkpoint
from .cli_operators import bench_operators
from .cli_quantize import quantize_app
from .core.errors import ConfigError, EchoEdgeError, EngineError, OutputError

if TYPE_CHECKING:
    from .core.bundle import Bundle, Manifest, Saving
    from .core.config import ClipSpec
    from .core.tasks import Box
    from .runtime.bench import Speed
    from .runtime.parity import Verdict
    from .runtime.reference import Settings

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


def _parse_size(text: str) -> tuple[int, int]:
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdigit() for part in parts):
        raise ConfigError(f"--size is {text!r}; write HEIGHTxWIDTH, such as 64x64.")
    return int(parts[0]), int(parts[1])


def _db(value: float | None) -> str:
    return "–" if value is None else "≥ 150 dB" if value >= 150 else f"{value:.1f} dB"


def _number(value: float | None, digits: int = 6) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


# -- export ----------------------------------------------------------------------------------------------------------------------


def _export(
    output: Path,
    weights: str,
    model: str = "nano",
    target: str = "executorch",
    size: str | None = None,
    frames: int | None = None,
    steps: int | None = None,
    jobs: int = 2,
    force: bool = False,
    quiet: bool = False,
    plan: str = "nano",
) -> Manifest:
    from .core.config import NANO_CLIP, ClipSpec, preset
    from .core.nano import load_nano, nano_digest
    from .core.plan import check_choice
    from .core.samplers import NANO_PLANS, PLAN_PRESETS, build_plan
    from .quantize.recipes import read_recipe
    from .runtime.calibration import calibration_samples
    from .runtime.parity import record_golden
    from .targets.bundle_builder import TARGETS, ExportRequest, export_bundle

    config = preset(model)
    if target not in TARGETS:
        raise ConfigError(f"This version compiles for: {', '.join(TARGETS)}. It does not compile for {target!r} yet.")
    recipe = read_recipe(weights)
    height, width = _parse_size(size) if size else (NANO_CLIP.height, NANO_CLIP.width)
    clip = ClipSpec(height, width, frames or NANO_CLIP.frames)
    if (height, width) != (NANO_CLIP.height, NANO_CLIP.width):
        raise ConfigError(
            f"nano was trained at {NANO_CLIP.height}x{NANO_CLIP.width}; its portrait encoder reads no other size than that."
        )
    check_choice("plan", plan, NANO_PLANS)
    options = PLAN_PRESETS[plan]
    if clip.latent_frames < 2:
        raise ConfigError(f"--frames is {clip.frames}; a window needs 5 frames at least.")
    assert options.window is not None
    window = options.window.model_copy(
        update={"length": clip.latent_frames, "overlap": min(options.window.overlap, clip.latent_frames - 1)}
    )
    options = replace(options, steps=steps or options.steps, window=window)
    nano, plan_of_clip, samples = load_nano(config), build_plan(options), {}
    if recipe.needs_samples:
        err.print("[dim]Playing nano in full precision, to fit the weights to it …[/]")
        samples = calibration_samples(nano, plan_of_clip, clip=clip)
    request = ExportRequest(nano, nano_digest(), clip, plan_of_clip, recipe, config.text_len, jobs, samples)

    with _bars(quiet) as progress:
        return export_bundle(request, output, partial(record_golden, clip=clip), progress, force)


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
) -> None:
    """Compile a model into a bundle. Of flash and preview, the same command goes on where a killed one stopped."""
    from .core.config import preset

    if preset(model).name == "nano":
        if checkpoint is not None:
            raise ConfigError("nano's weights are built in; --checkpoint is for flash and preview.")
        _refuse_options(context, RELEASED_PANEL, "goes with --model flash or preview")
        manifest = _export(output, weights, model, target, size, frames, steps, jobs, force, as_json, plan or "nano")
    else:
        from .cli_export import export_checkpoint

        if checkpoint is None:
            raise ConfigError(f"--checkpoint names the folder with the weights of {model}; see docs/RELEASED_MODEL.md.")
        if plan is not None:
            raise ConfigError(f"--plan is {plan!r}; only nano has several plans.")
        warn = lambda line: err.print(f"[yellow]{escape(line)}[/]")  # noqa: E731
        with _bars(as_json) as progress:
            manifest = export_checkpoint(
                output, checkpoint, model, target, weights, size or "256x256", frames or 25, steps, also or (), decoders, layout,
                backend, prompts, text_rows, memory, way, products, jobs, force, progress, warn,
            )  # fmt: skip
    if as_json:
        print(json.dumps({"bundle": str(output), "programs": {n: p.bytes for n, p in manifest.programs.items()}}))
        return
    _print_programs(manifest)
    if manifest.target == "executorch" and manifest.backend != "xnnpack":
        out.print(
            f"\n[bold]{escape(str(output))}[/] is ready, lowered to {manifest.backend}: [yellow]not executed on this host[/]."
        )
        return
    out.print(f"\n[bold]{escape(str(output))}[/] is ready. Next: [cyan]echoedge verify {escape(str(output))}[/]")


# -- animate ---------------------------------------------------------------------------------------------------------------------


def _decode_program(bundle: Bundle, decoder: str | None) -> str | None:
    """The program that `--decoder` names; None where it is left open."""
    if decoder is None:
        return None
    from .core.programs import DECODE_PROGRAMS

    there = {name: program for name, program in DECODE_PROGRAMS.items() if program in bundle.manifest.programs}
    if decoder not in there:
        raise ConfigError(f"--decoder is {decoder!r}; {bundle.root} has: {', '.join(there)}.")
    return there[decoder]


def _clip_of(bundle: Bundle, shape: str | None) -> ClipSpec:
    """The bundle's shape that `--clip` names."""
    there = {f"{clip.height}x{clip.width}x{clip.frames}": clip for clip in bundle.clips}
    if shape is None:
        return bundle.clip
    if shape.lower() not in there:
        raise ConfigError(f"--clip is {shape!r}; {bundle.root} plays: {', '.join(there)}.")
    return there[shape.lower()]


def _animate(
    bundle: Bundle,
    image: Path,
    audio: Path,
    output: Path,
    prompt: str,
    seed: int,
    engine_name: str,
    force: bool,
    quiet: bool,
    decoder: str | None = None,
    pack: Path | None = None,
    shape: str | None = None,
) -> dict[str, Any]:
    from .core.encoders import byte_ids
    from .core.files import require_free_disk
    from .core.memory import require
    from .core.plan import check_seed
    from .runtime.engines import open_engine
    from .runtime.media import ClipWriter, read_portrait, read_speech
    from .runtime.player import Player, Score, memory_needed

    check_seed(seed)
    clip = _clip_of(bundle, shape)
    portrait = read_portrait(image, clip.height, clip.width)
    speech = read_speech(audio, clip.sample_rate, clip.fps)
    seconds = len(speech) / clip.sample_rate
    decode = _decode_program(bundle, decoder)
    require(memory_needed(bundle, seconds, decode), "playing this clip")
    require_free_disk(output, int(seconds * clip.fps * clip.height * clip.width * 3 / CLIP_COMPRESSION))
    score = Score.of(bundle, clip)
    if pack is not None:
        from .runtime.reference import read_prompts

        score = replace(score, prompts={**score.prompts, **read_prompts(pack, score.config.text_dim)})
    _, used = byte_ids(prompt, score.config.text_len)
    if "text_encoder" in bundle.manifest.programs and used < len(prompt.encode("utf-8", errors="replace")):
        read = prompt.encode("utf-8", errors="replace")[:used].decode()
        err.print(f"[yellow]The prompt is longer than this model reads; it ends after {escape(repr(read))}.[/]")
    with _bars(quiet) as progress:
        player = Player(score, open_engine(bundle, engine_name, clip), progress, decode)
        writer = ClipWriter(
            output, height=clip.height, width=clip.width, fps=clip.fps, audio=speech, sample_rate=clip.sample_rate, force=force
        )
        with writer:
            take = player.perform(portrait, speech, prompt, seed)
            for frame in player.frames_of(take):
                writer.write(frame)
    return {
        "clip": str(output), "frames": take.frames, "seconds": round(take.frames / clip.fps, 3), "engine": player.engine.name,
        "evaluations": take.evaluations, "stage_seconds": {k: round(v, 4) for k, v in take.seconds.items()},
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
    from .core.architecture import Architecture
    from .core.checkpoints import Checkpoint
    from .core.conditions import face_mask
    from .core.config import ClipSpec
    from .core.files import human_bytes, require_free_disk, require_free_memory
    from .runtime.colour import ColourMatcher
    from .runtime.media import ClipWriter, clip_frames, output_size, portrait_size, read_portrait, read_speech
    from .runtime.reference import Reference, memory_needed, peak_memory, read_prompts

    checkpoint = Checkpoint.open(checkpoint_path, model)
    sizes = Architecture(checkpoint.config())
    image_height, image_width = portrait_size(image)
    height, width = output_size(image_height, image_width, *_parse_size(size))
    speech = read_speech(audio)
    clip = ClipSpec(height, width, 1)
    frames = clip_frames(len(speech) / clip.sample_rate, clip.fps, most_frames, settings.upstream_compat)
    clip = replace(clip, frames=frames)
    mask = None
    if face is not None:
        if sizes.transformer.variant == "flash":
            raise ConfigError("--face says which tokens hear the speech; only preview knows that, flash hears it everywhere.")
        mask = face_mask(_parse_face(face), image_height, image_width, height, width).numpy()
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


def _parse_face(text: str) -> Box:
    from .core.tasks import Box

    parts = text.replace(" ", "").split(",")
    if len(parts) != 4 or not all(part.isdigit() for part in parts):
        raise ConfigError(f"--face is {text!r}; write TOP,BOTTOM,LEFT,RIGHT in pixels of the portrait, such as 40,200,60,180.")
    return Box(*map(int, parts))


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
    prompt: Annotated[str, typer.Option(help="What the head does, such as 'a woman nods and smiles'.")] = "",
    seed: Annotated[int, typer.Option(help="0 … 2^64-1; the same seed gives the same clip on every device.")] = 0,
    engine: EngineOption = "auto",
    clip: Annotated[
        str | None, typer.Option(help="HEIGHTxWIDTHxFRAMES: which of a bundle's shapes.", show_default="the main one")
    ] = None,
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
    decoder: Annotated[
        str | None, typer.Option(help="full, or tiny: the small autoencoder.", show_default="full, where it is there")
    ] = None,
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
    prompts: Annotated[
        Path | None, typer.Option(help="Prompt pack: texts that need no text encoder, beside those of a bundle.")
    ] = None,
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
    from .core.bundle import Bundle

    if (bundle is None) == (checkpoint is None):
        raise ConfigError("Give a bundle to play, or --checkpoint FOLDER to play the released model; one of the two.")
    if bundle is not None:
        _refuse_options(context, PANEL, "goes with --checkpoint; a bundle has it fixed when it is compiled")
        result = _animate(Bundle.open(bundle), image, audio, output, prompt, seed, engine, force, as_json, decoder, prompts, clip)
    else:
        from .runtime.reference import Settings

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
            checkpoint, model, settings, image, audio, output, prompt, prompts, size, frames, face, match_colours, resident, force,
            as_json,
        )  # fmt: skip
    if as_json:
        print(json.dumps(result))
        return
    spent = sum(result["stage_seconds"].values())
    out.print(f"[bold]{escape(str(output))}[/]: {result['frames']} frames, {result['seconds']} s, made in {spent:.2f} s.")


# -- verify ----------------------------------------------------------------------------------------------------------------------


def _print_verdict(verdict: Verdict) -> None:
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

    def verdict_mark(passed: bool) -> str:
        return "[green]passed[/]" if passed else "[red]FAILED[/]"

    for row in verdict.rows:
        found, wanted = row.measured, row.demanded
        table.add_row(
            row.name,
            _db(found.psnr_db),
            _db(wanted.psnr_db),
            _number(found.cosine),
            _number(found.max_abs, 4),
            verdict_mark(row.passed),
        )
    if verdict.lipsync_measured is not None:
        table.add_row(
            "lip-sync" if verdict.lipsync_clips == 1 else f"lip-sync, {verdict.lipsync_clips} clips",
            f"{verdict.lipsync_measured:.3f}",
            f"{verdict.lipsync_reference:.3f} × 95 %",
            "",
            "",
            verdict_mark(verdict.lipsync_passed),
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
    record: Annotated[bool, typer.Option("--record", help="Keep the figures in the bundle's manifest.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare every program and a whole clip with full precision. Exit status 1 when a threshold fails."""
    from .core.bundle import Bundle, record_parity
    from .runtime.engines import open_engine
    from .runtime.parity import lipsync_over
    from .runtime.parity import verify as compare

    opened = Bundle.open(bundle)
    with _bars(as_json) as progress:
        player = open_engine(opened, engine)
        verdict = compare(opened, player, baseline, progress)
        if clips:
            reference, measured = lipsync_over(opened, player, clips, progress)
            verdict = replace(verdict, lipsync_reference=reference, lipsync_measured=measured, lipsync_clips=clips)
    if record:
        record_parity(bundle, {row.name: row.measured for row in verdict.rows})
    if as_json:
        print(json.dumps(verdict.to_dict()))
    else:
        _print_verdict(verdict)
        if verdict.passed:
            out.print(f"Equal within the bundle's thresholds. Next: [cyan]echoedge bench {escape(str(bundle))}[/]")
        else:
            out.print(
                "[red]A threshold failed.[/] Export with finer weights (--weights int8 or fp32), or look at the failing row above."
            )
    if not verdict.passed:
        raise typer.Exit(1)


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
    table.add_row("peak memory of the process", *(f"{s.peak_bytes / 1e6:.0f} MB" for s in speeds))
    out.print(table)
    c = speeds[0].conditions
    out.print(
        f"[dim]{c.device}; {c.threads} threads; load {c.load_average}; {c.clip}; {c.steps} steps, {c.evaluations} evaluations; "
        f"median of {c.runs}. Figures of this machine, not of a phone.[/]"
    )


@app.command()
def bench(
    bundle: BundleArg,
    runs: Annotated[int, typer.Option(min=1, help="Clips played after the warm-up; medians are reported.")] = 5,
    engine: EngineOption = "auto",
    compare: Annotated[bool, typer.Option("--compare", help="Also play in full precision with torch, side by side.")] = False,
    record: Annotated[bool, typer.Option("--record", help="Keep the figures in the bundle's manifest.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Say how fast a bundle plays here, stage by stage."""
    from .core.bundle import Bundle, record_benchmark
    from .runtime.bench import as_run, measure

    opened = Bundle.open(bundle)
    speeds = []
    for name in (engine, *(["torch"] if compare and engine != "torch" else [])):
        with _bars(as_json) as progress:
            speeds.append(measure(opened, name, runs, progress))
        if record:
            record_benchmark(bundle, as_run(speeds[-1]))
    if as_json:
        print(json.dumps([speed.to_dict() for speed in speeds]))
    else:
        _print_speed(speeds)


# -- inspect, doctor -------------------------------------------------------------------------------------------------------------


def _print_programs(manifest: Manifest) -> None:
    from .core.files import human_bytes

    table = Table(title=f"{manifest.model.preset} for {manifest.target}, {manifest.weights.name}", title_justify="left")
    for column in ("program", "size", "delegates", "of the FLOPs", "not delegated"):
        table.add_column(column, justify="right" if column in ("size", "delegates", "of the FLOPs") else "left")
    for name, program in manifest.programs.items():
        for index, (method, taken) in enumerate(program.delegation.items()):
            label = name if method == "forward" else f"{name}.{method}"
            share = f"{100 * taken.flops_share:.1f} %" if taken.delegated_flops else "–"
            others = ", ".join(f"{_operator(op)} ×{count}" for op, count in sorted(taken.other_ops.items())) or "nothing"
            table.add_row(label, human_bytes(program.bytes) if index == 0 else "", str(taken.delegate_calls), share, others)
    out.print(table)


def _print_savings(savings: tuple[Saving, ...], evaluations: int, times: dict[str, float] | None = None) -> None:
    from .core.files import human_bytes

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
    from .core.bundle import Bundle
    from .core.files import human_bytes

    if is_checkpoint(path):
        if time:
            raise ConfigError("--time measures the step of a bundle; this is a folder of weights.")
        if not inspect_checkpoint(path, as_json):
            raise typer.Exit(1)
        return
    bundle = Bundle.open(path)
    manifest, plan = bundle.manifest, bundle.plan()
    saved = manifest.savings
    times: dict[str, float] | None = None
    if time:
        from .runtime.step_times import measure_rewrites
        from .targets.hoist import savings

        with _bars(as_json) as progress:
            rows = bundle.input_shape("encode_conditions", "text")[1]
            saved = savings(bundle.model, bundle.clip, plan, rows)
            times = {t.name: t.seconds for t in measure_rewrites(bundle.model, bundle.clip, rows, progress=progress)}
    if as_json:
        told = {"savings": [saving.model_dump() for saving in saved]} | ({"step_seconds": times} if times else {})
        print(json.dumps(json.loads(manifest.to_json()) | told, ensure_ascii=False))
        return
    _print_programs(manifest)
    if saved:
        _print_savings(saved, plan.evaluations, times)
    else:
        out.print("[dim]What left the step is not on record in this bundle, which an earlier version made; --time counts it.[/]")
    clip = bundle.clip
    size = sum(p.bytes for p in manifest.programs.values()) + sum(f.bytes for f in manifest.files.values())
    window = f"windows of {plan.window.length} latent frames, overlap {plan.window.overlap}" if plan.window else "no windows"
    out.print(
        f"clip      {clip.width}x{clip.height}, {clip.frames} frames a window, {clip.fps} fps, speech at {clip.sample_rate} Hz"
    )
    branches = ", ".join(branch.name for branch in plan.branches)
    out.print(f"plan      {plan.solver_name}, {plan.steps} steps, shift {plan.shift:g}; branches: {branches}; {window}")
    out.print(f"weights   {escape(json.dumps(manifest.weights.settings.get('layers', {})))}")
    out.print(f"source    {manifest.model.preset}, SHA-256 {manifest.model.source_sha256[:16]}…")
    out.print(f"made with {', '.join(f'{name} {version}' for name, version in manifest.versions.items())}")
    held = {name.removesuffix("_bytes").replace("_", " "): n for name, n in manifest.memory.items() if isinstance(n, int)}
    out.print(f"size      {human_bytes(size)}")
    out.print(f"memory    {', '.join(f'{name} {human_bytes(count)}' for name, count in held.items())}")
    if manifest.parity.measured:
        found = ", ".join(f"{name} {_db(figures.psnr_db)}" for name, figures in manifest.parity.measured.items())
        out.print(f"parity    {found}")
    for run in manifest.benchmarks:
        out.print(f"measured  {run.date}: {escape(json.dumps(run.rows[-1]))} on {escape(run.device)}")
    extra = bundle.extra_files()
    if extra:
        out.print(f"[yellow]not part of the bundle: {escape(', '.join(extra))}[/]")


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Check this machine: libraries, codecs, memory, and the built-in model. Exit status 1 when something needed is missing."""
    from .core.files import available_memory, human_bytes
    from .core.nano import load_nano
    from .core.versions import library_versions
    from .runtime.bench import device_name
    from .runtime.media import h264_encoder

    checks: list[tuple[str, bool, str]] = []

    def check(name: str, probe: Any) -> None:
        try:
            checks.append((name, True, str(probe())))
        except (EchoEdgeError, ImportError, OSError, RuntimeError) as error:
            checks.append((name, False, str(error)))

    def xnnpack() -> str:
        from .targets.program_file import registered_backends

        names = registered_backends()
        if "XnnpackBackend" not in names:
            raise EngineError(f"this ExecuTorch has no XNNPACK; it has {', '.join(names)}. Install executorch again.")
        return f"XNNPACK, and {len(names) - 1} other backends"

    check("python", lambda: f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    check("processor", device_name)
    check("memory", lambda: f"{human_bytes(available_memory() or 0)} available")
    check("libraries", lambda: ", ".join(f"{n} {v}" for n, v in library_versions().items()))
    check("executorch", xnnpack)
    check("video codec", h264_encoder)
    check("nano", lambda: f"{sum(p.numel() for p in load_nano().dit.parameters()):,} parameters in the transformer")
    healthy = all(passed for _, passed, _ in checks)
    if as_json:
        print(json.dumps({"healthy": healthy, "checks": [{"name": n, "passed": p, "detail": d} for n, p, d in checks]}))
    else:
        for name, passed, detail in checks:
            out.print(f"{'[green]ok[/]     ' if passed else '[red]missing[/]'} {name:<12} {escape(detail)}")
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
    from .core.files import require_free_disk
    from .core.plan import check_choice
    from .core.train.distributed import join_world, leave_world
    from .core.train.nano import run_folder, train_nano
    from .core.train.train_dit import METHODS, leave_out
    from .core.train.train_vae import VAETraining

    if keep_vae and start is None:
        raise ConfigError("--keep-vae takes the VAE of a weights file: name it with --start.")
    check_choice("method", method, tuple(METHODS))
    vae, dit = VAETraining(), METHODS[method]
    leave_out(dit, without or ())  # a part that is not there is refused before anything is drawn
    require_free_disk(workdir, 500_000 * clips)
    vae = replace(vae, image_steps=image_steps or vae.image_steps, clip_steps=clip_steps or vae.clip_steps)
    dit = replace(dit, steps=steps or dit.steps)
    world = join_world(device)
    output = output or run_folder(workdir, without or ()) / "nano.safetensors"
    report = lambda line: out.print(escape(line))  # noqa: E731
    metrics = train_nano(workdir, output, vae, dit, clips, threads, report, world, start, without or (), keep_vae)
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

    from .core.nano import weights_path
    from .runtime.study import Study, run_study

    runs: dict[str, Path] = {}
    studied = weights or weights_path()
    for text in without or ():
        part, separator, path = text.partition("=")
        if not separator or not path:
            raise ConfigError(f"--without is {text!r}; write PART=FILE, such as ndpo=nano-without-ndpo.safetensors.")
        runs[part] = Path(path)
    torch.set_num_threads(threads)
    run_study(Study(studied, output, runs, lambda line: out.print(escape(line))), tuple(only or ()))
    out.print(f"Figures and contact sheets are in [bold]{escape(str(output))}[/].")


# -- demo ------------------------------------------------------------------------------------------------------------------------


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--out", help="Folder for the bundle, the clip and the contact sheet.")] = Path("demo"),
    weights: Annotated[str, typer.Option(help="fp32, int8, int4, or a recipe file (.json).")] = "int8",
    force: ForceOption = False,
) -> None:
    """The whole way on built-in material: compile nano, make a portrait speak, prove parity, say how fast it is."""
    from .core.bundle import Bundle, record_parity
    from .core.nano import assets
    from .runtime.bench import measure
    from .runtime.demo import write_contact_sheet
    from .runtime.engines import open_engine
    from .runtime.parity import verify as compare

    if output.exists() and not output.is_dir():
        raise OutputError(f"{output} is a file; --out names a folder.")
    bundle_path, clip_path, sheet_path = output / "nano.echoedge", output / "clip.mp4", output / "contact_sheet.png"
    for path in (bundle_path, clip_path, sheet_path):
        if path.exists() and not force:
            raise OutputError(f"{path} exists. Give another folder with --out, or --force.")
    material = json.loads((assets() / "demo" / "demo.json").read_text())
    portrait, voice = material["portraits"][0], material["voices"][1]

    out.rule("1  compile", align="left")
    manifest = _export(bundle_path, weights, force=force)
    _print_programs(manifest)
    bundle = Bundle.open(bundle_path)
    out.rule("2  animate", align="left")
    folder = assets() / "demo"
    _animate(bundle, folder / portrait["file"], folder / voice["file"], clip_path, portrait["prompt"], 0, "auto", force, False)
    write_contact_sheet(bundle, clip_path, folder / portrait["file"], sheet_path, force)
    out.rule("3  verify", align="left")
    with _bars(False) as progress:
        verdict = compare(bundle, open_engine(bundle), None, progress)
    record_parity(bundle_path, {row.name: row.measured for row in verdict.rows})
    _print_verdict(verdict)
    out.rule("4  bench", align="left")
    with _bars(False) as progress:
        speeds = [measure(bundle, name, 3, progress) for name in ("auto", "torch")]
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
    for library in ("torchao", "torch.utils._pytree"):  # they warn of optional parts that are not there, on every import
        logging.getLogger(library).setLevel(logging.ERROR)
    try:
        app(prog_name="echoedge")
    except EchoEdgeError as error:
        err.print(
            f"[red]{type(error).__name__.removesuffix('Error').lower()}:[/] {escape(str(error))}", highlight=False, soft_wrap=True
        )
        sys.exit(2)
    except KeyboardInterrupt:
        err.print("Interrupted; nothing was left behind.")
        sys.exit(130)


if __name__ == "__main__":
    main()
