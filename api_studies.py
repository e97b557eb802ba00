"""The part of `api` that trains, studies and forecasts; `api` hands it on, and is what to call."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .core.alone import alone

if TYPE_CHECKING:
    from .core.weights.checkpoints import Checkpoint
    from .core.weights.nano import Inspected
    from .runtime.fit.devices import Device
    from .runtime.fit.fit import Fit
    from .runtime.studies.block_search import FoundForBlocks
    from .runtime.studies.hearing_study import HearingStudy
    from .runtime.studies.searches import NanoSearch

Place = str | Path
Size = tuple[int, int]
Progress = Callable[[str, int, int], None]
Warn = Callable[[str], None]


def silent(stage: str, done: int, total: int) -> None:
    """The default progress: says nothing."""


def unheard(sentence: str) -> None:
    """The default report of a long study: says nothing."""


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
    world: str = "calm",
    device: str = "cpu",
    report: Warn = print,
) -> tuple[Path, dict[str, Any]]:
    """Trains nano in `workdir`, or goes on where a run there stopped, and writes its weights. -> their path, and what was measured,
    which is empty in all processes of torchrun but the first.

    steps to image_steps: of the transformer, and of the VAE on clips and on frames; the recipe's by default. start: weights whose
    VAE is trained further, or kept as it is (keep_vae). without: ndpo, labels or captions, parts to leave out. world: of the
    drawn clips, calm or lively.

    Raises:
        ConfigError: an option is unknown, or the folder holds a run with other options.
        InputError: there is no such world.
        ResourceError: the pool of clips does not fit on the disk.
    """
    from .core.errors import ConfigError
    from .core.files import require_free_disk
    from .core.plan import check_choice
    from .core.train.distributed import join_world, leave_world
    from .core.train.nano import run_folder, train_nano
    from .core.train.puppets import check_world
    from .core.train.train_dit import METHODS, leave_out
    from .core.train.train_vae import VAETraining

    if keep_vae and start is None:
        raise ConfigError("--keep-vae takes the VAE of a weights file: name it with --start.")
    check_choice("method", method, tuple(METHODS))
    vae, dit, parts, folder = VAETraining(), METHODS[method], tuple(without), Path(workdir)
    leave_out(dit, parts)  # a part that is not there is refused before anything is drawn
    check_world(world)
    require_free_disk(folder, 500_000 * clips)
    vae = replace(vae, image_steps=image_steps or vae.image_steps, clip_steps=clip_steps or vae.clip_steps)
    dit = replace(dit, steps=steps or dit.steps)
    output = run_folder(folder, parts) / "nano.safetensors" if out is None else Path(out)
    together = join_world(device)
    began = None if start is None else Path(start)
    metrics = train_nano(folder, output, vae, dit, clips, threads, report, together, began, parts, keep_vae, world)
    leave_world(together)
    return output, metrics if together.first else {}


def distill(
    out: Place | None = None,
    *,
    workdir: Place = "nano-distillation",
    teacher: Place | None = None,
    weights: str = "fp32",
    inputs: str = "float",
    lessons: int | None = None,
    steps: int | None = None,
    batch: int | None = None,
    rate: float | None = None,
    optimiser: str = "adamw",
    on_policy: float = 0.0,
    audio_guidance: float | None = None,
    start: Place | None = None,
    method: str = "flow-map",
    compiled: bool = False,
    small: bool = False,
    matching: float = 0.0,
    fakes: int = 2,
    monitor: int = 50,
    threads: int = 2,
    device: str = "cpu",
    report: Warn = print,
) -> tuple[Path, dict[str, Any]]:
    """Teaches a student of nano, or of the weights file `teacher`, in `workdir`, or goes on where a run there stopped. -> where its
    weights are, and by number of steps how near its clips come to its teacher's; empty in all processes of torchrun but the first.

    weights: int8, int4 or a recipe file: it learns through the weights that an export with these writes; inputs: int8 rounds those
    of rounded layers in training, too, as XNNPACK does. lessons: clips of the teacher, in whole shards; steps, batch, rate: of the
    optimiser, adamw or muon; the usual ones by default. audio_guidance: of the teacher's clips, 0 to 100 and 1 for none, which the
    student then has for good; the teacher's own by default. start: a student of the same teacher to begin as. compiled: the
    transformer, for this machine, before it trains. method: flow-map, or consistency, the control. matching: the share of the steps
    that also match distributions, after `fakes` steps of the model of the student's clips. monitor: steps between looks at the
    student's clips; 0 for none. small: the file keeps the student's difference from the shipped teacher, in 8 bits, half the bytes.

    Raises:
        ConfigError: an option is unknown or out of range, `start` is no student of this teacher, or the folder holds a run with
            other options.
        TrainingError: the student's clips leave the range of the teacher's.
        ResourceError: the lessons do not fit on the disk.
    """
    from .core.train.distributed import join_world, leave_world
    from .quantize.distill.lessons import Lessons
    from .quantize.distill.matching import Matching
    from .quantize.distill.monitor import Monitoring
    from .quantize.distill.run import distill_nano, teacher_options
    from .quantize.distill.training import Distilling

    given: Any = inputs
    way: Any = method
    mover: Any = optimiser
    options = teacher_options(audio_guidance)
    drawn, training = Lessons(), Distilling(
        on_policy=on_policy, weights=weights, inputs=given, method=way, compiled=compiled, matching=Matching(matching, fakes=fakes),
        monitor=Monitoring(monitor), optimiser=mover,
    )  # fmt: skip
    if lessons is not None:
        drawn = replace(drawn, shards=-(-lessons // drawn.shard))
    training = replace(training, steps=steps or training.steps, batch=batch or training.batch, rate=rate or training.rate)
    folder = Path(workdir)
    output = folder / "student.safetensors" if out is None else Path(out)
    taught_by, begun = (None if path is None else Path(path) for path in (teacher, start))
    world = join_world(device)
    metrics = distill_nano(folder, output, drawn, training, taught_by, threads, threads, report, world, begun, small, options)
    leave_world(world)
    return output, metrics


def distill_checkpoint(
    checkpoint: Place,
    data: Place,
    prompts: Place,
    *,
    out: Place,
    model: str | None = None,
    workdir: Place = "checkpoint-distillation",
    size: Size = (256, 256),
    frames: int = 25,
    student_steps: Sequence[int] = (1, 2, 4),
    teacher_steps: int | None = None,
    noises: int = 4,
    least_speech: float = 0.3,
    least_sync: float = 0.2,
    least_face: float = 0.15,
    most_per_video: int = 64,
    steps: int | None = None,
    batch: int | None = None,
    rate: float | None = None,
    on_policy: float = 0.0,
    bf16: bool = False,
    recompute: bool = False,
    copy: bool = False,
    threads: int = 2,
    device: str = "cpu",
    force: bool = False,
    report: Warn = print,
) -> tuple[Path, dict[str, float]]:
    """Teaches a student of the released weights in the folder `checkpoint` from the videos in `data`, in `workdir`, or goes on
    where a run there stopped. -> the folder with the student, and by number of steps how far the latents of clips that were held
    back are from the teacher's, root mean square; empty in all processes of torchrun but the first.

    prompts: a pack of `encode_prompts`. size, frames: of the windows that videos are cut into, (height, width). student_steps: what
    is taught; teacher_steps: of a trajectory, 12 of flash and 25 of preview by default; noises: trajectories of a window.
    least_speech, least_sync, least_face, most_per_video: see `runtime.distill.clips.Checks`. steps, batch, rate: of the optimiser;
    bf16: it computes in bfloat16 and keeps float32; recompute: a block's activations are made twice, not kept. copy: of the
    checkpoint's other components, in place of links.

    Raises:
        CheckpointError, ConfigError, EngineError, InputError, OutputError, ResourceError: as
            `runtime.distill.run.distill_checkpoint` says.
    """
    from .core.work import claimed

    output = Path(out)
    with claimed(output, "distillation") if int(os.environ.get("RANK", "0")) == 0 else nullcontext():
        from .core.config import ClipSpec
        from .core.train.distributed import join_world, leave_world
        from .runtime.distill.clips import Checks
        from .runtime.distill.lessons import ClipLessons
        from .runtime.distill.run import Asked, mix_of, usual_training
        from .runtime.distill.run import distill_checkpoint as run

        taught, clip = tuple(sorted(student_steps)), ClipSpec(*size, frames)
        training = usual_training(
            steps=steps, batch=batch, rate=rate, on_policy=on_policy, bf16=bf16, recompute=recompute, mix=mix_of(taught)
        )
        checks = Checks(least_speech, least_face, least_sync, most_per_video)
        lessons = ClipLessons(noises, taught)
        asked = Asked(Path(checkpoint), Path(data), Path(prompts), model, clip, checks, lessons, training, teacher_steps)
        world = join_world(device)
        metrics = run(asked, Path(workdir), output, threads=threads, copy=copy, force=force, world=world, report=report)
        leave_world(world)
    return output, metrics


@alone("study")
def steps_study(
    students: Sequence[Place] = (),
    *,
    teacher: Place | None = None,
    out: Place = "steps-study",
    tasks: Sequence[str] = (),
    clips: int = 32,
    seeds: int = 3,
    controls: bool = True,
    threads: int = 2,
    report: Warn = print,
) -> list[dict[str, Any]]:
    """Students beside their teacher, nano's shipped weights by default, and (`controls`) the teacher at as few steps: a row for
    each task (all by default) and way, of means over clips and seeds. `out` keeps them, with spreads, t-values and each clip's
    figures.

    Raises:
        ConfigError, CheckpointError: as `runtime.studies.steps_study.study_steps`.
    """
    import torch

    from .core.plan import check_choice
    from .core.work import tells_what_stays
    from .runtime.studies.steps_study import SEEDS_APART, TASKS, Asked, as_table, study_steps

    for task in tasks:
        check_choice("task", task, TASKS)
    torch.set_num_threads(threads)
    noise = tuple(SEEDS_APART * number for number in range(seeds))
    asked = Asked(
        None if teacher is None else Path(teacher),
        [Path(path) for path in students],
        Path(out),
        tuple(tasks) or TASKS,
        clips,
        noise,
        controls,
    )
    with tells_what_stays(f"{out} keeps the rows that were finished: the same command goes on from there."):
        return as_table(study_steps(asked, report))


@alone("study")
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


def hearing(
    folder: Place, *, audio: Place | None = None, contexts: Sequence[float] = (0, 0.5, 1, 2, 4, 6), compiled: bool = False
) -> HearingStudy:
    """How much context the speech encoder of a folder of released weights needs: a voice heard in parts, against it at once.

    Raises:
        CheckpointError, InputError: as `runtime.studies.hearing_study.study_hearing`.
    """
    from .runtime.studies.hearing_study import study_hearing

    return study_hearing(Path(folder), None if audio is None else Path(audio), contexts, compiled)


@alone("search")
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
    progress: Progress = silent,
    report: Warn = unheard,
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


@alone("comparison")
def compare_roundings(
    out: Place,
    *,
    work: Place = "quantize-search",
    clips: int = 6,
    played: int = 32,
    force: bool = False,
    progress: Progress = silent,
    report: Warn = unheard,
) -> dict[str, Any]:
    """Ways to round nano's 4-bit weights beside each other, and uniform recipes beside searched ones; writes the figures, JSON.

    Raises:
        OutputError: `out` exists and `force` is off.
    """
    from .runtime.studies import searches

    return searches.compare_roundings(
        Path(out), work=Path(work), clips=clips, played=played, force=force, progress=progress, report=report
    )


def fit(
    *,
    model: str = "nano",
    weights: str = "int8",
    size: Size | None = None,
    frames: int = 25,
    steps: int | None = None,
    decoder: str = "full",
    text_rows: int = 64,
    seconds: float | None = None,
    device: str = "host",
    device_file: Place | None = None,
    within: float | None = None,
    threads: int | None = None,
    rounds: int = 5,
    progress: Progress = silent,
) -> Fit:
    """Whether a model would fit a device and how fast it would play there, forecast before anything is compiled; `.fits`, and
    `.change` that would make it fit. The target is executorch on the processor.

    model to text_rows: as of `export`, one decoder. seconds: of video, one window's by default. device: a name of the table, or of
    `device_file`, or "host": this machine, whose rates are measured on `threads` threads in `rounds` rounds. within: the most
    seconds that a second of video may take.

    Raises:
        ConfigError: an option or a device is unknown or out of range.
        InputError: the file of devices cannot be read.
    """
    from .core.errors import ConfigError
    from .runtime.fit.devices import HOST, devices_of, find_device, read_table
    from .runtime.fit.estimate import Rates, TableRates
    from .runtime.fit.fit import fit as fitted
    from .runtime.fit.workload import Workload, workload

    host = device.strip().casefold() == HOST
    if host and device_file is not None:
        raise ConfigError(f"--device-file is {device_file}; it goes with a --device that it describes, and host is measured.")
    if not host:
        for name, value, usual in (("threads", threads, None), ("rounds", rounds, 5)):
            if value != usual:
                raise ConfigError(f"--{name} is {value!r}; it goes with --device host, which is measured, not with {device!r}.")
        found = find_device(devices_of(read_table(None if device_file is None else Path(device_file))), device)
    work = workload(model, weights, size=size, frames=frames, steps=steps, decoder=decoder, text_rows=text_rows, seconds=seconds)
    if not host:
        rates: Rates = TableRates(found)
        return fitted(work, found, rates, within=within)
    from .runtime.fit.host import host_device, measure_rates, stays_loaded

    measured = measure_rates(work, rounds, threads, progress)
    found = host_device(measured)

    def stays(given: Workload) -> bool:
        return stays_loaded(given, int(found.app_bytes.value))

    return fitted(work, found, measured, within=within, stays=stays)


def fit_devices(device_file: Place | None = None) -> tuple[Device, ...]:
    """The devices that `fit` knows, or those of a file.

    Raises:
        InputError: the file cannot be read, or is no table of devices.
    """
    from .runtime.fit.devices import devices_of, read_table

    return tuple(devices_of(read_table(None if device_file is None else Path(device_file))).values())


def inspect_checkpoint(folder: Place) -> Checkpoint:
    """Opens a folder of released weights: `.accounts()` says of every component whether each tensor is there,
    `.accounts(values=True)` also whether its numbers can be meant. Opening reads no data.

    Raises:
        CheckpointError: nothing known is there, or two files could be meant.
    """
    from .core.weights.checkpoints import Checkpoint

    return Checkpoint.open(folder)


def inspect_weights(file: Place) -> Inspected:
    """What a weights file of the built-in model holds, of `train nano` or `distill nano`: whose it is, and of a student what it
    was taught. The file is read whole.

    Raises:
        CheckpointError: it cannot be read, or its tensors are not exactly the model's.
    """
    from .core.weights.nano import inspect_nano

    return inspect_nano(Path(file))
