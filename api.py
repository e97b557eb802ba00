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
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .core.bundle import Bundle, Manifest, Saving
    from .core.model.masks import Box
    from .core.weights.checkpoints import Checkpoint
    from .runtime.bench.clip import Speed
    from .runtime.bench.operators import OperatorSpeeds
    from .runtime.health import Health
    from .runtime.play.animate import Animated
    from .runtime.play.reference import Settings
    from .runtime.studies.block_search import FoundForBlocks
    from .runtime.studies.hearing_study import HearingStudy
    from .runtime.studies.searches import NanoSearch
    from .runtime.verify.mouths import Mouth
    from .runtime.verify.parity import Verdict

Place = str | Path
Size = tuple[int, int]
Corner = tuple[int, int, int]  # top, left, size: a part of a picture
Progress = Callable[[str, int, int], None]
Warn = Callable[[str], None]


def _silent(stage: str, done: int, total: int) -> None:
    """The default progress: says nothing."""


def _unheard(sentence: str) -> None:
    """The default report of a long study: says nothing."""


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
    crop: Corner | None = None,
    engine: str = "auto",
    clip: str | None = None,
    decoder: str | None = None,
    prompts: Place | None = None,
    threads: int | None = None,
    checkpoint: Place | None = None,
    model: str | None = None,
    settings: Settings | Mapping[str, Any] | None = None,
    size: Size = (512, 512),
    frames: int | None = None,
    face: Box | None = None,
    match_colours: bool = False,
    resident: bool = False,
    audio_track: int | None = None,
    force: bool = False,
    progress: Progress = _silent,
    warn: Warn = print,
) -> Animated:
    """Makes a portrait speak: the film `out`, as long as the voice. Plays a bundle, or a `checkpoint` in full precision.

    audio: any file with sound, or "-" for standard input; audio_track: which of its sound tracks, from 1. seed: 0 by default. crop:
    (top, left, size) in the portrait's pixels, upright: `size` rows, and as many columns as the clip's aspect asks for (a
    checkpoint's clip is square then); without it a portrait of another aspect keeps its face. clip: HEIGHTxWIDTHxFRAMES, which of
    a bundle's shapes; decoder: full or tiny; prompts: a pack of prompt embeddings; threads: of a bundle's engine. model to resident
    go with `checkpoint`, see `runtime.play.animate.animate_checkpoint`; settings are `runtime.play.reference.Settings`, or some of
    them by name; seed and decoder, where given, take the place of theirs.

    Raises:
        ConfigError: neither or both of bundle and checkpoint, or an option out of range.
        BundleError, CheckpointError, InputError, OutputError, ResourceError, EngineError: as the message says.
    """
    from .core.bundle import Bundle
    from .core.errors import ConfigError, EngineError
    from .runtime.play.cropping import Crop

    if (bundle is None) == (checkpoint is None):
        raise ConfigError("Give a bundle to play, or --checkpoint FOLDER to play the released model; one of the two.")
    pack, part = None if prompts is None else Path(prompts), None if crop is None else Crop.of(crop)
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
            audio_track=audio_track,
            crop=part,
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
    if not isinstance(settings, Settings):
        settings = settings or {}
        if unknown := sorted(set(settings) - {field.name for field in fields(Settings)}):
            raise ConfigError(f"There is no setting {unknown[0]!r}. Choose from: {', '.join(f.name for f in fields(Settings))}.")
        settings = Settings(**settings)
    chosen = replace(settings, seed=settings.seed if seed is None else seed, decoder=decoder or settings.decoder)
    return animate_checkpoint(
        Path(checkpoint), chosen, Path(image), Path(audio), Path(out), model=model, prompt=prompt or "", prompts=pack, size=size,
        frames=frames, crop=part, face=face, match_colours=match_colours, resident=resident, audio_track=audio_track, force=force,
        progress=progress, warn=warn,
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
    """Compares every program, what each input changes (`.reactions`) and a whole clip with full precision. baseline: a recorded
    run, safetensors with latents and frames; clips: judge lip-sync over so many drawn held-out clips (nano only); record: keep the
    figures in the bundle's `records/`.

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


def inspect_checkpoint(folder: Place) -> Checkpoint:
    """Opens a folder of released weights: `.accounts()` says of every component whether each tensor is there,
    `.accounts(values=True)` also whether its numbers can be meant. Opening reads no data.

    Raises:
        CheckpointError: nothing known is there, or two files could be meant.
    """
    from .core.weights.checkpoints import Checkpoint

    return Checkpoint.open(folder)


def savings(bundle: Place, *, measured: bool = False, progress: Progress = _silent) -> tuple[tuple[Saving, ...], dict[str, float]]:
    """What each rewrite took out of the step, counted for a bundle's model, clip and plan; measured: also the seconds of CPU that a
    step of two blocks takes with each, by its name, and without any ("none").

    Raises:
        BundleError: as `inspect`.
    """
    from .runtime.bench.step_times import measure_rewrites
    from .targets.rewrites import savings as counted

    opened = inspect(bundle)
    rows = opened.manifest.playing.text_rows
    saved = counted.savings(opened.model, opened.clip, opened.plan(), rows)
    times = measure_rewrites(opened.model, opened.clip, rows, progress=progress) if measured else []
    return saved, {time.name: time.seconds for time in times}


def doctor(folders: Sequence[Place] = (), *, clean: bool = False) -> Health:
    """Whether this machine has what is needed; what killed runs left in `folders`, which `clean` deletes.

    Raises:
        InputError: a folder cannot be read.
    """
    from .runtime.health import check_health

    return check_health([Path(folder) for folder in folders], clean)


def bench_operators(
    *,
    model: str = "nano",
    size: Size = (256, 256),
    frames: int = 25,
    weights: str = "int8",
    text_rows: int = 64,
    threads: int = 2,
    rounds: int = 9,
    progress: Progress = _silent,
) -> OperatorSpeeds:
    """A transformer block and its parts, timed at a model's shapes with random weights, beside this machine's fastest products.

    Raises:
        ConfigError: an option is unknown or out of range.
    """
    from .core.config import ClipSpec, preset
    from .quantize.recipes import read_recipe
    from .runtime.bench.operators import measure_operators

    return measure_operators(preset(model), ClipSpec(*size, frames), read_recipe(weights), text_rows, threads, rounds, progress)


def train(
    out: Place | None = None,
    *,
    workdir: Place = "nano-training",
    clips: int = 3000,
    image_steps: int | None = None,
    clip_steps: int | None = None,
    steps: int | None = None,
    threads: int = 2,
    start: Place | None = None,
    method: str = "full",
    keep_vae: bool = False,
    without: Sequence[str] = (),
    device: str = "cpu",
    report: Warn = print,
) -> tuple[Path, dict[str, Any]]:
    """Trains nano in `workdir`, or goes on where a run there stopped, and writes its weights. -> their path, and what was measured,
    which is empty in all processes of torchrun but the first.

    steps to image_steps: of the transformer, and of the VAE on clips and on frames; the recipe's by default. start: weights whose
    VAE is trained further, or kept as it is (keep_vae). without: ndpo, labels or captions, parts to leave out.

    Raises:
        ConfigError: an option is unknown, or the folder holds a run with other options.
        ResourceError: the pool of clips does not fit on the disk.
    """
    from .core.errors import ConfigError
    from .core.files import require_free_disk
    from .core.plan import check_choice
    from .core.train.distributed import join_world, leave_world
    from .core.train.nano import run_folder, train_nano
    from .core.train.train_dit import METHODS, leave_out
    from .core.train.train_vae import VAETraining

    if keep_vae and start is None:
        raise ConfigError("--keep-vae takes the VAE of a weights file: name it with --start.")
    check_choice("method", method, tuple(METHODS))
    vae, dit, parts, folder = VAETraining(), METHODS[method], tuple(without), Path(workdir)
    leave_out(dit, parts)  # a part that is not there is refused before anything is drawn
    require_free_disk(folder, 500_000 * clips)
    vae = replace(vae, image_steps=image_steps or vae.image_steps, clip_steps=clip_steps or vae.clip_steps)
    dit = replace(dit, steps=steps or dit.steps)
    output = run_folder(folder, parts) / "nano.safetensors" if out is None else Path(out)
    world = join_world(device)
    began = None if start is None else Path(start)
    metrics = train_nano(folder, output, vae, dit, clips, threads, report, world, began, parts, keep_vae)
    leave_world(world)
    return output, metrics if world.first else {}


def study(
    out: Place = "nano-study",
    *,
    weights: Place | None = None,
    only: Sequence[str] = (),
    without: Mapping[str, Place] | None = None,
    threads: int = 2,
    report: Warn = print,
) -> dict[str, dict[str, Any]]:
    """Measures nano's weights, the shipped ones by default, on people and voices that training never saw: figures by section, and
    contact sheets, in the folder `out`. without: weights trained without a part, by its name, to compare with.

    Raises:
        ConfigError, CheckpointError: as `runtime.studies.nano_study.run_study`.
    """
    import torch

    from .core.weights.nano import weights_path
    from .core.work import tells_what_stays
    from .runtime.studies.nano_study import Study, run_study

    torch.set_num_threads(threads)
    runs = {part: Path(path) for part, path in (without or {}).items()}
    with tells_what_stays(f"{out} keeps the sections that were finished: the same command goes on from there."):
        return run_study(Study(Path(weights) if weights else weights_path(), Path(out), runs, report), only)


def contact_sheet(bundle: Place, *, clip: Place, image: Place, out: Place, crop: Corner | None = None, force: bool = False) -> None:
    """A picture of a bundle, of the portrait and of frames of a film that it made, beside how the mouth follows the voice. What was
    cut off of the portrait is faded; crop: the one that the film was made with.

    Raises:
        BundleError, InputError, OutputError: as `runtime.play.demo.write_contact_sheet`.
    """
    from .runtime.play.cropping import Crop
    from .runtime.play.demo import write_contact_sheet

    part = None if crop is None else Crop.of(crop)
    write_contact_sheet(inspect(bundle), Path(clip), Path(image), Path(out), force, part)


def make_random(
    out: Place,
    *,
    model: str = "flash",
    components: Sequence[str] | None = None,
    seed: int = 0,
    dtype: str = "released",
    base: bool = True,
    force: bool = False,
    progress: Progress = _silent,
) -> dict[str, int]:
    """Writes a full-size folder of random weights in the released layout. -> bytes of each file. dtype: bf16, fp16, fp32, or
    released, each file's own; base: also Wan's own transformer. `progress` counts bytes, by component.

    Raises:
        ConfigError, OutputError, ResourceError: as `core.weights.random_checkpoint.write_random_checkpoint`.
    """
    from .core.errors import ConfigError
    from .core.weights.random_checkpoint import DEFAULT_COMPONENTS, write_random_checkpoint
    from .core.weights.tensor_files import SHORT_NAMES

    types = {name: kind for kind, name in SHORT_NAMES.items() if name != "fp64"}
    if dtype != "released" and dtype not in types:
        raise ConfigError(f"--dtype is {dtype!r}; choose from: {', '.join(types)}, released.")
    names: Any = DEFAULT_COMPONENTS if components is None else tuple(components)
    return write_random_checkpoint(out, model, names, seed, types.get(dtype), base, force, progress)


def encode_prompts(
    folder: Place, texts: Sequence[str], out: Place, *, device: str = "cpu", force: bool = False, warn: Warn = print
) -> dict[str, int]:
    """Encodes prompts, and those that the model's guidance needs, with the text encoder of a folder of released weights, into a
    pack for `animate(prompts=…)`. -> tokens of each.

    Raises:
        CheckpointError, OutputError: as `runtime.play.reference.write_prompts`.
    """
    from .runtime.play.reference import write_prompts

    return write_prompts(Path(folder), texts, Path(out), device, force, warn)


def hearing(
    folder: Place, *, audio: Place | None = None, contexts: Sequence[float] = (0, 0.5, 1, 2, 4, 6), compiled: bool = False
) -> HearingStudy:
    """How much context the speech encoder of a folder of released weights needs: a voice heard in parts, against it at once.

    Raises:
        CheckpointError, InputError: as `runtime.studies.hearing_study.study_hearing`.
    """
    from .runtime.studies.hearing_study import study_hearing

    return study_hearing(Path(folder), None if audio is None else Path(audio), contexts, compiled)


def search_recipe(
    out: Place,
    *,
    target_db: float | None = None,
    target_share: float | None = None,
    max_bytes: int | None = None,
    work: Place = "quantize-search",
    clips: int = 6,
    listen: int = 0,
    played: int = 12,
    group: int = 32,
    checkpoint: Place | None = None,
    blocks: Sequence[int] | None = None,
    size: Size = (128, 128),
    frames: int = 9,
    force: bool = False,
    progress: Progress = _silent,
    report: Warn = _unheard,
) -> NanoSearch | FoundForBlocks:
    """Measures every layer as each scheme stores it, and writes the recipe that the figures justify; give one of target_db,
    target_share and max_bytes (`runtime.studies.recipe_search.Goal`). clips, listen, played: of nano; blocks, size, frames: of a
    `checkpoint`. A killed search goes on from `work`.

    Raises:
        ConfigError, OutputError, CheckpointError, ResourceError: as `runtime.studies.searches`.
    """
    from .core.config import ClipSpec
    from .core.errors import ConfigError
    from .runtime.studies.recipe_search import Goal
    from .runtime.studies.searches import search_checkpoint, search_nano

    goal, output, folder = Goal(target_db, target_share, max_bytes), Path(out), Path(work)
    if checkpoint is None:
        if blocks is not None:
            raise ConfigError("--blocks goes with --checkpoint; nano's layers are all measured.")
        return search_nano(
            goal, output, work=folder, clips=clips, listen=listen, played=played, group=group, force=force, progress=progress,
            report=report,
        )  # fmt: skip
    return search_checkpoint(
        Path(checkpoint), goal, output, work=folder, blocks=blocks, clip=ClipSpec(*size, frames), group=group, force=force,
        progress=progress, report=report,
    )  # fmt: skip


def compare_roundings(
    out: Place,
    *,
    work: Place = "quantize-search",
    clips: int = 6,
    played: int = 32,
    force: bool = False,
    progress: Progress = _silent,
    report: Warn = _unheard,
) -> dict[str, Any]:
    """Ways to round nano's 4-bit weights beside each other, and uniform recipes beside searched ones; writes the figures, JSON.

    Raises:
        OutputError: `out` exists and `force` is off.
    """
    from .runtime.studies import searches

    return searches.compare_roundings(
        Path(out), work=Path(work), clips=clips, played=played, force=force, progress=progress, report=report
    )


def judge(bundle: Place, *, clips: int = 32, engine: str = "auto", progress: Progress = _silent) -> tuple[Mouth, Mouth]:
    """The mouths of held-out clips in full precision and as a bundle of nano plays them; `second.shares(first)` is what is kept.

    Raises:
        BundleError, EngineError: the bundle is not valid, or the model's full-precision weights are not here.
    """
    from .runtime.engines import open_engine
    from .runtime.verify.mouths import mouths_of_bundle

    opened = inspect(bundle)
    return mouths_of_bundle(opened, open_engine(opened, engine), clips, lambda done, total: progress("clips", done, total))


def _record(bundle: Bundle, verb: Any, engine: str, threads: int, summary: str, figures: Any) -> None:
    from .core.bundle.records import write_record
    from .core.versions import library_versions
    from .runtime.bench.clip import device_name

    write_record(bundle, verb, engine, device_name(), threads, library_versions(), summary, figures)
