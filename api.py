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

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .api_players import bench_job as bench_job
from .api_players import serve_programs as serve_programs
from .api_players import write_vectors as write_vectors
from .api_studies import Place, Progress, Size, Warn, silent
from .api_studies import compare_roundings as compare_roundings
from .api_studies import distill as distill
from .api_studies import distill_checkpoint as distill_checkpoint
from .api_studies import fit as fit
from .api_studies import fit_devices as fit_devices
from .api_studies import hearing as hearing
from .api_studies import inspect_checkpoint as inspect_checkpoint
from .api_studies import inspect_weights as inspect_weights
from .api_studies import search_recipe as search_recipe
from .api_studies import steps_study as steps_study
from .api_studies import study as study
from .api_studies import train as train
from .core.alone import alone

if TYPE_CHECKING:
    from .core.bundle import Bundle, Manifest, Saving
    from .core.bundle.baseline import Baseline
    from .core.bundle.bench_record import BenchRecord
    from .core.model.masks import Box
    from .runtime.bench.compare import Compared
    from .runtime.bench.headroom import Headroom
    from .runtime.bench.neural_engine import Looked
    from .runtime.bench.operators import OperatorSpeeds
    from .runtime.bench.placement import Ran
    from .runtime.bench.presets import Preset
    from .runtime.health import Health
    from .runtime.play.animate import Animated
    from .runtime.play.reference import Settings
    from .runtime.verify.mouths import Mouth
    from .runtime.verify.parity import Verdict

Corner = tuple[int, int, int]  # top, left, size: a part of a picture


def _refuse(reason: str, given: Mapping[str, tuple[Any, Any]]) -> None:
    """Refuses, with a ConfigError, arguments that would do nothing: `given` has their value and default by name."""
    from .core.errors import ConfigError

    for name, (value, default) in given.items():
        if value != default:
            raise ConfigError(f"{name} is {value!r}; it {reason}.")


@alone("export")
def export(
    out: Place,
    *,
    model: str = "nano",
    checkpoint: Place | None = None,
    weights: str = "int8",
    weights_file: Place | None = None,
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
    progress: Progress = silent,
    warn: Warn = print,
) -> Manifest:
    """Compiles a model into the bundle `out`, and returns its manifest.

    model: nano, or flash or preview from a `checkpoint` folder. weights: a preset of recipes (fp32, int8, int4, mixed) or a recipe
    file. weights_file: of nano, trained anew or a student's, which takes the steps that it was taught. options: the target's own,
    such as {"backend": "vulkan"} of executorch. size: (height, width); also: further shapes (height, width, frames), of
    checkpoints. plan: nano or nano-png, with which nano's teacher is compiled instead of its student. decoders to context_seconds:
    of checkpoints, as `runtime.export.request.checkpoint_request`. jobs: processes at once, within `memory` bytes.

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
        request = nano_request(
            weights, target=target, options=options, size=size, frames=frames, steps=steps, plan=plan,
            weights_file=None if weights_file is None else Path(weights_file), warn=warn,
        )  # fmt: skip
    else:
        if weights_file is not None:
            raise ConfigError(f"--weights-file is {weights_file}; it goes with nano, and {model} comes from --checkpoint.")
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


@alone("animation")
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
    progress: Progress = silent,
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
        from .core.weights.passport import Passport
        from .runtime.play.animate import animate_bundle
        from .runtime.play.setting import Wanted

        of_checkpoints: dict[str, tuple[Any, Any]] = {
            "model": (model, None), "settings": (settings, None), "size": (tuple(size), (512, 512)), "frames": (frames, None),
            "face": (face, None), "match_colours": (match_colours, False), "resident": (resident, False),
        }  # fmt: skip
        opened = Bundle.open(bundle)
        student = Passport.of_bundle(opened.manifest.weights.settings)
        if student is not None and settings is not None:
            asked = settings if isinstance(settings, Mapping) else vars(settings)
            student.require(asked.get("steps"), asked.get("audio_guidance"), asked.get("shift"))
        _refuse("goes with a checkpoint; a bundle has it fixed when it is compiled", of_checkpoints)
        wanted = Wanted(engine, clip, decoder, pack, prompt, threads)
        return animate_bundle(
            opened,
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
    progress: Progress = silent,
    warn: Warn = print,
) -> Verdict:
    """Compares every program, what each input changes (`.reactions`) and a whole clip with full precision; or, with a `baseline`
    that `record_baseline` wrote (its JSON), each stage of its clip. baseline may also be a recorded run of the bundle's own clip,
    safetensors with latents and frames. clips: judge lip-sync, and the mouth where nobody speaks, over so many drawn held-out clips
    (nano only); record: keep the
    figures in the bundle's `records/`.

    Raises:
        BundleError, InputError, EngineError, OutputError: as `runtime.verify.parity.verify`,
            `runtime.verify.baseline.verify_baseline`.
    """
    from .core.bundle import Bundle
    from .core.bundle.records import recording
    from .runtime.engines import open_engine
    from .runtime.verify import parity

    against = None if baseline is None else Path(baseline)
    with recording(bundle, "verification", record, warn) as kept:
        opened = Bundle.open(bundle)
        player = open_engine(opened, engine)
        verdict: Verdict
        if against is not None and against.suffix == ".json":
            from .runtime.verify.baseline import verify_baseline

            verdict = verify_baseline(opened, player, against, progress)
        else:
            verdict = parity.verify(opened, player, against, progress)
        if clips:
            from .runtime.verify.mouths import silence_of_bundle

            reference, measured = parity.lipsync_over(opened, player, clips, progress)
            silence = silence_of_bundle(opened, player, clips, lambda done, total: progress("silence", done, total))
            verdict = replace(verdict, lipsync=parity.Lipsync(reference, measured, clips), silence=parity.ShutMouth(silence, clips))
        if kept:
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
    baseline: Place | None = None,
    device: str | None = None,
    warm_up: int = 1,
    sustained: float | None = None,
    cool: str | None = None,
    cool_timeout: float = 900.0,
    app: str | None = None,
    keep: bool = False,
    with_serial: bool = False,
    record: bool = False,
    progress: Progress = silent,
    warn: Warn = print,
) -> tuple[BenchRecord, ...]:
    """How fast a bundle plays here, stage by stage, over `runs` clips: a record for each engine. Of several engines each is
    measured in a process of its own; one that cannot play is refused before any is measured. baseline: of the same workload, or it
    is refused before anything is measured; `compare_benches` sets it beside what is found. record: as in `verify`.

    Raises:
        ConfigError, InputError, EngineError, ResourceError: as `runtime.play.setting.Setting`.
    """
    from .core.bundle import Bundle
    from .core.bundle.records import keep_bench, recording
    from .core.errors import ConfigError
    from .runtime.bench.clip import measure_engines, workload_of
    from .runtime.bench.compare import read_benches, require_alike
    from .runtime.play.setting import Setting, Wanted

    wanted = Wanted(clip=clip, decoder=decoder, prompts=None if prompts is None else Path(prompts), prompt=prompt, threads=threads)
    if device is None:
        of_devices: dict[str, tuple[Any, Any]] = {
            "warm_up": (warm_up, 1), "sustained": (sustained, None), "cool": (cool, None), "cool_timeout": (cool_timeout, 900.0),
            "app": (app, None), "keep": (keep, False), "with_serial": (with_serial, False),
        }  # fmt: skip
        _refuse("goes with a device", of_devices)
    elif len(engines) > 1:
        raise ConfigError(f"engines are {', '.join(engines)}; on a device one engine is measured at a time.")
    with recording(bundle, "benchmark", record, warn) as kept:
        opened = Bundle.open(bundle)
        for name, known in () if baseline is None else read_benches(baseline):
            require_alike(name, known.workload, str(bundle), workload_of(Setting.of(opened, wanted), prompt or ""))
        if device is None:
            found = measure_engines(opened, wanted, engines, runs, progress)
        else:
            from .runtime.bench.devices.measure import Course, OnDevice, bench_device

            how = OnDevice(device, Course(warm_up, sustained), cool, cool_timeout, app, keep, with_serial)
            found = (bench_device(opened, replace(wanted, engine=engines[0]), runs, how, progress, warn),)
        for one in found if kept else ():
            keep_bench(opened, one)
    return found


def compare_benches(files: Sequence[Place], also: Sequence[BenchRecord] = ()) -> Compared:
    """Records of benchmarks beside each other, those of `files` (records, what `bench --json` prints, baselines) before `also`; the
    first is the measure of the others.

    Raises:
        InputError: a file holds no such record.
        ConfigError: there is one alone, or two are not of the same workload.
    """
    from .runtime.bench.compare import compare, read_benches

    return compare([*(found for file in files for found in read_benches(file)), *(("here", one) for one in also)])


@alone("baseline")
def record_baseline(
    out: Place,
    *,
    preset: str = "nano",
    weights: str | None = None,
    layers: int | None = None,
    device: str = "cpu",
    dtype: str = "fp32",
    compiled: bool = False,
    savings: str = "both",
    decoder: str = "full",
    prompts: Place | None = None,
    runs: int = 3,
    reload: bool = True,
    seed: int = 0,
    threads: int | None = None,
    force: bool = False,
    progress: Progress = silent,
) -> Baseline:
    """Plays a preset in full precision, and writes what every stage gave and how fast into `out`, a JSON, and NAME.safetensors
    beside it: what `verify(baseline=…)` and `bench(baseline=…)` compare with on any other machine.

    preset: of `runtime.bench.presets.PRESETS`. weights: none for nano, a folder of released weights, or random:SEED, of which
    `layers` may say how many are drawn. dtype: fp32, bf16 or fp16 of transformer and VAE. compiled: measure torch.compile beside
    eager. savings: on, off, or both: what does not change in a step computed once, or in every step as published. prompts: a pack,
    of a folder without text encoder. reload: measure loading a second time. threads: of PyTorch, in this process from now on.

    Raises:
        ConfigError, CheckpointError, EngineError, InputError, OutputError, ResourceError: as the message says.
    """
    from .core.config import preset as config_of
    from .core.plan import check_choice
    from .runtime.bench import baseline
    from .runtime.bench.presets import find_preset
    from .runtime.bench.subjects import Playing, find_subject
    from .runtime.play.prompts import read_prompts

    wanted, playing = find_preset(preset), Playing(device, dtype, decoder, compiled)
    check_choice("savings", savings, baseline.SAVINGS)
    baseline.require_new(Path(out), force)
    _ = playing.settings  # a type or a device that is not there is refused before weights are read
    pack = {} if prompts is None else read_prompts(Path(prompts), config_of(wanted.model).text_dim)
    subject = find_subject(wanted, weights, layers, decoder, pack)
    return baseline.record(
        Path(out), wanted, subject, playing, savings=savings, runs=runs, seed=seed, reload=reload, threads=threads, force=force,
        progress=progress,
    )  # fmt: skip


def baseline_presets() -> tuple[Preset, ...]:
    """What `record_baseline` can be asked for."""
    from .runtime.bench.presets import PRESETS

    return tuple(PRESETS.values())


def inspect(bundle: Place) -> Bundle:
    """Opens a bundle and checks every file that it lists: `.manifest`, `.plan()`, `.clips`, `.record_files()`.

    Raises:
        BundleError: it is missing, not valid, or a file was altered.
    """
    from .core.bundle import Bundle

    return Bundle.open(bundle)


def placements(bundle: Place, *, progress: Progress = silent) -> tuple[Ran, ...]:
    """Of a bundle for ONNX Runtime: which execution provider runs how many operators and FLOPs of each graph here, every graph
    called once.

    Raises:
        BundleError: as `inspect`.
        ConfigError, EngineError: the bundle is for another target; a graph cannot be loaded, or would run elsewhere.
    """
    from .runtime.bench.placement import placements as measured

    return measured(inspect(bundle), progress)


def headrooms(bundle: Place, *, stress: float = 1.0, progress: Progress = silent) -> list[Headroom]:
    """Of a bundle for Core ML: how far the largest number of each method, on its recorded calls, is below the end of half
    precision. `stress`: what the inputs are multiplied by.

    Raises:
        BundleError: as `inspect`.
        ConfigError: the bundle is for another target, or `stress` is out of range.
    """
    from .runtime.bench.headroom import headrooms as measured

    return measured(inspect(bundle), stress, progress)


def neural_engine(bundle: Place, *, progress: Progress = silent) -> list[Looked]:
    """Of a bundle for Core ML: what in each method keeps Apple's Neural Engine from running it, or makes it slow there, by rules
    that name their sources; FLOPs, and the most that is held at once. Nothing is run.

    Raises:
        BundleError: as `inspect`.
        ConfigError: the bundle is for another target.
    """
    from .runtime.bench.neural_engine import neural_engine as looked

    return looked(inspect(bundle), progress)


def savings(bundle: Place, *, measured: bool = False, progress: Progress = silent) -> tuple[tuple[Saving, ...], dict[str, float]]:
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
    progress: Progress = silent,
) -> OperatorSpeeds:
    """A transformer block and its parts, timed at a model's shapes with random weights, beside this machine's fastest products.

    Raises:
        ConfigError: an option is unknown or out of range.
    """
    from .core.config import ClipSpec, preset
    from .quantize.recipes import read_recipe
    from .runtime.bench.operators import measure_operators

    return measure_operators(preset(model), ClipSpec(*size, frames), read_recipe(weights), text_rows, threads, rounds, progress)


@alone("contact sheet")
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


@alone("checkpoint")
def make_random(
    out: Place,
    *,
    model: str = "flash",
    components: Sequence[str] | None = None,
    seed: int = 0,
    dtype: str = "released",
    base: bool = True,
    force: bool = False,
    progress: Progress = silent,
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


@alone("encoding of prompts")
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


def judge(bundle: Place, *, clips: int = 32, engine: str = "auto", progress: Progress = silent) -> tuple[Mouth, Mouth]:
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
