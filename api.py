"""EchoEdge in Python: each verb of the command line as a function, keyword arguments in, a result out.

    import echoedge

    echoedge.export(out="nano.echoedge", weights="int8")
    film = echoedge.animate("nano.echoedge", image="portrait.png", audio="speech.wav", out="clip.mp4", prompt="a woman nods")
    print(film.frames, film.stage_seconds)
    assert echoedge.verify("nano.echoedge").passed
    print(echoedge.bench("nano.echoedge", runs=3)[0].fps)

Nothing heavy is imported before a function is called. `progress(stage, done, total)` is told how far the work is,
`warn(sentence)` what there is to know. Errors are those of `core.errors`: typed, with the value that was wrong and what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .core.bundle import Bundle, Manifest
    from .core.model.masks import Box
    from .runtime.bench.clip import Speed
    from .runtime.play.animate import Animated
    from .runtime.play.reference import Settings
    from .runtime.verify.parity import Verdict

Place = str | Path
Size = tuple[int, int]
Progress = Callable[[str, int, int], None]
Warn = Callable[[str], None]


def _silent(stage: str, done: int, total: int) -> None:
    """The default progress: says nothing."""


def _refuse(reason: str, given: Mapping[str, tuple[Any, Any]]) -> None:
    """Refuses, with a ConfigError, arguments that would do nothing: `given` has their value and default by name."""
    from .core.errors import ConfigError

    for name, (value, default) in given.items():
        if value != default:
            raise ConfigError(f"{name} is {value!r}; it {reason}.")


def export(
    out: Place,
    *,
    model: str = "nano",
    checkpoint: Place | None = None,
    weights: str = "int8",
    target: str = "executorch",
    options: Mapping[str, Any] | None = None,
    size: Size | None = None,
    frames: int = 25,
    also: Sequence[tuple[int, int, int]] = (),
    steps: int | None = None,
    plan: str | None = None,
    decoders: tuple[str, ...] = ("full", "tiny"),
    prompts: Place | None = None,
    text_rows: int = 64,
    context_seconds: float = 6.0,
    jobs: int = 2,
    memory: int | None = None,
    force: bool = False,
    progress: Progress = _silent,
    warn: Warn = print,
) -> Manifest:
    """Compiles a model into the bundle `out`, and returns its manifest.

    model: nano, or flash or preview from a `checkpoint` folder. weights: a preset of recipes (fp32, int8, int4, mixed) or a recipe
    file. options: the target's own, such as {"backend": "vulkan"} of executorch. size: (height, width); also: further shapes
    (height, width, frames), of checkpoints. plan: one of nano's. decoders to context_seconds: of checkpoints, as
    `runtime.export.request.checkpoint_request`. jobs: processes at once, within `memory` bytes.

    Raises:
        ConfigError, InputError: an option is unknown, out of range, or not of this model.
        CheckpointError, OutputError, ResourceError, ExportError: as `runtime.export.pipeline.export_bundle`.
    """
    from .core.config import ClipSpec, preset
    from .core.errors import ConfigError
    from .runtime.export.pipeline import export_bundle
    from .runtime.export.request import checkpoint_request, nano_request

    if preset(model).name == "nano":
        if checkpoint is not None:
            raise ConfigError("nano's weights are built in; --checkpoint is for flash and preview.")
        of_checkpoints: dict[str, tuple[Any, Any]] = {
            "also": (tuple(also), ()), "decoders": (tuple(decoders), ("full", "tiny")), "prompts": (prompts, None),
            "text_rows": (text_rows, 64), "context_seconds": (context_seconds, 6.0),
        }  # fmt: skip
        _refuse("goes with the models flash and preview", of_checkpoints)
        request = nano_request(weights, target=target, options=options, size=size, frames=frames, steps=steps, plan=plan or "nano")
    else:
        if checkpoint is None:
            raise ConfigError(f"--checkpoint names the folder with the weights of {model}; see docs/RELEASED_MODEL.md.")
        if plan is not None:
            raise ConfigError(f"--plan is {plan!r}; only nano has several plans.")
        height, width = size or (256, 256)
        clips = [ClipSpec(height, width, frames), *(ClipSpec(*shape) for shape in also)]
        request = checkpoint_request(
            checkpoint, model, weights, target=target, options=options, clips=clips, steps=steps, decoders=decoders,
            prompts=prompts, text_rows=text_rows, context_seconds=context_seconds, warn=warn,
        )  # fmt: skip
    return export_bundle(request, Path(out), jobs=jobs, budget=memory, force=force, progress=progress, warn=warn)


def animate(
    bundle: Place | None = None,
    *,
    image: Place,
    audio: Place,
    out: Place,
    prompt: str | None = None,
    seed: int | None = None,
    engine: str = "auto",
    clip: str | None = None,
    decoder: str | None = None,
    prompts: Place | None = None,
    threads: int | None = None,
    checkpoint: Place | None = None,
    model: str | None = None,
    settings: Settings | None = None,
    size: Size = (512, 512),
    frames: int | None = None,
    face: Box | None = None,
    match_colours: bool = False,
    resident: bool = False,
    force: bool = False,
    progress: Progress = _silent,
    warn: Warn = print,
) -> Animated:
    """Makes a portrait speak: the film `out`, as long as the voice. Plays a bundle, or a `checkpoint` in full precision.

    seed: 0 by default. clip: HEIGHTxWIDTHxFRAMES, which of a bundle's shapes; decoder: full or tiny; prompts: a pack of prompt
    embeddings; threads: of a bundle's engine. model to resident go with `checkpoint`, see
    `runtime.play.animate.animate_checkpoint`; seed and decoder, where given, then take the place of those of `settings`.

    Raises:
        ConfigError: neither or both of bundle and checkpoint, or an option out of range.
        BundleError, CheckpointError, InputError, OutputError, ResourceError, EngineError: as the message says.
    """
    from .core.bundle import Bundle
    from .core.errors import ConfigError, EngineError

    if (bundle is None) == (checkpoint is None):
        raise ConfigError("Give a bundle to play, or --checkpoint FOLDER to play the released model; one of the two.")
    pack = None if prompts is None else Path(prompts)
    if bundle is not None:
        from .runtime.play.animate import animate_bundle
        from .runtime.play.setting import Wanted

        of_checkpoints: dict[str, tuple[Any, Any]] = {
            "model": (model, None), "settings": (settings, None), "size": (tuple(size), (512, 512)), "frames": (frames, None),
            "face": (face, None), "match_colours": (match_colours, False), "resident": (resident, False),
        }  # fmt: skip
        _refuse("goes with a checkpoint; a bundle has it fixed when it is compiled", of_checkpoints)
        wanted = Wanted(engine, clip, decoder, pack, prompt, threads)
        return animate_bundle(
            Bundle.open(bundle),
            wanted,
            Path(image),
            Path(audio),
            Path(out),
            seed=seed or 0,
            force=force,
            progress=progress,
            warn=warn,
        )
    from .runtime.play.animate import animate_checkpoint
    from .runtime.play.reference import Settings

    assert checkpoint is not None
    if clip is not None:
        raise ConfigError("--clip names a shape of a bundle; with --checkpoint give --size and --frames.")
    if engine not in ("auto", "torch"):
        raise EngineError(f"A checkpoint is played by torch, not by {engine}. Compile it into a bundle first.")
    _refuse("goes with a bundle; PyTorch's own setting is for a checkpoint", {"threads": (threads, None)})
    chosen = settings or Settings()
    chosen = replace(chosen, seed=chosen.seed if seed is None else seed, decoder=decoder or chosen.decoder)
    return animate_checkpoint(
        Path(checkpoint), chosen, Path(image), Path(audio), Path(out), model=model, prompt=prompt or "", prompts=pack, size=size,
        frames=frames, face=face, match_colours=match_colours, resident=resident, force=force, progress=progress, warn=warn,
    )  # fmt: skip


def verify(
    bundle: Place,
    *,
    engine: str = "auto",
    baseline: Place | None = None,
    clips: int = 0,
    record: bool = False,
    progress: Progress = _silent,
) -> Verdict:
    """Compares every program and a whole clip with full precision. baseline: a recorded run, safetensors with latents and frames;
    clips: judge lip-sync over so many drawn held-out clips (nano only); record: keep the figures in the bundle's `records/`.

    Raises:
        BundleError, InputError, EngineError: as `runtime.verify.parity.verify`.
    """
    from .core.bundle import Bundle
    from .runtime.engines import open_engine
    from .runtime.verify import parity

    opened = Bundle.open(bundle)
    player = open_engine(opened, engine)
    verdict = parity.verify(opened, player, None if baseline is None else Path(baseline), progress)
    if clips:
        reference, measured = parity.lipsync_over(opened, player, clips, progress)
        verdict = replace(verdict, lipsync=parity.Lipsync(reference, measured, clips))
    if record:
        _record(opened, "verify", player.name, player.threads, verdict.summary(), verdict.to_dict())
    return verdict


def bench(
    bundle: Place,
    *,
    engines: Sequence[str] = ("auto",),
    runs: int = 5,
    clip: str | None = None,
    decoder: str | None = None,
    prompts: Place | None = None,
    prompt: str | None = None,
    threads: int | None = None,
    record: bool = False,
    progress: Progress = _silent,
) -> tuple[Speed, ...]:
    """How fast a bundle plays here, stage by stage: the median of `runs`. Of several engines each is measured in a process of its
    own; one that cannot play is refused before any is measured. record: keep the figures in the bundle's `records/`.

    Raises:
        ConfigError, InputError, EngineError, ResourceError: as `runtime.play.setting.Setting`.
    """
    from .core.bundle import Bundle
    from .runtime.bench.clip import measure_engines
    from .runtime.play.setting import Wanted

    opened = Bundle.open(bundle)
    wanted = Wanted(clip=clip, decoder=decoder, prompts=None if prompts is None else Path(prompts), prompt=prompt, threads=threads)
    speeds = measure_engines(opened, wanted, engines, runs, progress)
    for speed in speeds if record else ():
        _record(opened, "bench", speed.conditions.engine, speed.conditions.threads, speed.summary(), speed.to_dict())
    return speeds


def inspect(bundle: Place) -> Bundle:
    """Opens a bundle and checks every file that it lists: `.manifest`, `.plan()`, `.clips`, `.record_files()`.

    Raises:
        BundleError: it is missing, not valid, or a file was altered.
    """
    from .core.bundle import Bundle

    return Bundle.open(bundle)


def _record(bundle: Bundle, verb: Any, engine: str, threads: int, summary: str, figures: Any) -> None:
    from .core.bundle.records import write_record
    from .core.versions import library_versions
    from .runtime.bench.clip import device_name

    write_record(bundle, verb, engine, device_name(), threads, library_versions(), summary, figures)
