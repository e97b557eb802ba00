"""`echoedge distill`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from .. import api
from .options import distinct, parse_numbers, parse_size
from .words import ForceOption, JsonOption, out

distill_app = typer.Typer(help="Teach a student that takes few steps of one forward each.", no_args_is_help=True)


@distill_app.command("nano")
def distill_nano_command(
    workdir: Annotated[Path, typer.Option(help="Lessons (100 kB each) and checkpoints; a run resumes from it.")] = Path(
        "nano-distillation"
    ),
    output: Annotated[
        Path | None, typer.Option("--out", help="Weights file to write.", show_default="student.safetensors in the work folder")
    ] = None,
    teacher: Annotated[Path | None, typer.Option(help="The teacher's weights file.", show_default="the shipped one")] = None,
    weights: Annotated[
        str,
        typer.Option(
            help="int8, int4 or a recipe file (.json): learn through the weights that an export with these writes, to the bit."
        ),
    ] = "fp32",
    inputs: Annotated[
        str,
        typer.Option(help="int8: round what rounded layers are given, too, as XNNPACK does; other targets differ."),
    ] = "float",
    lessons: Annotated[
        int | None, typer.Option(min=96, help="Clips of the teacher to learn from.", show_default="the recipe's")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the optimiser.", show_default="the recipe's")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Lessons in a step.", show_default="the recipe's")] = None,
    rate: Annotated[
        float | None,
        typer.Option(min=1e-7, max=0.1, help="Of the optimiser, at its highest; lower for a --start.", show_default="the recipe's"),
    ] = None,
    optimiser: Annotated[
        str, typer.Option(help="adamw, or muon: steps of matrices made orthogonal; each takes longer, and gets further.")
    ] = "adamw",
    on_policy: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the batches whose steps begin where the student itself has come to.")
    ] = 0.0,
    audio_guidance: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=100.0,
            help="Of the teacher's clips, 1 for none: the student has it for good.",
            show_default="the teacher's own",
        ),
    ] = None,
    start: Annotated[
        Path | None, typer.Option(help="A student of the same teacher to begin as.", show_default="the teacher")
    ] = None,
    method: Annotated[
        str,
        typer.Option(help="flow-map, or consistency: each forward says where the trajectory ends; a control for comparison."),
    ] = "flow-map",
    compiled: Annotated[
        bool,
        typer.Option("--compile", help="Compile the transformer for this machine first: minutes once, faster steps."),
    ] = False,
    small: Annotated[
        bool, typer.Option("--small", help="Write the difference from the shipped teacher, in 8 bits: half the bytes, as ships.")
    ] = False,
    matching: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="Share of steps that also move the student's own clips to where the teacher's lie."),
    ] = 0.0,
    fakes: Annotated[int, typer.Option(min=1, help="Steps of the model of the student's clips before each one that matches.")] = 2,
    monitor: Annotated[
        int,
        typer.Option(min=0, help="Steps between looks at the student's clips, which end a run that collapses; 0 for none."),
    ] = 50,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads, and processes that draw lessons.")] = 2,
    device: Annotated[str, typer.Option(help="Where the student trains: cpu or cuda.")] = "cpu",
) -> None:
    """Teach a student of the built-in model to do in 1, 2 or 4 forwards what it does in 16. Interrupt it at will: the same command
    goes on where it stopped. Lessons are of the drawn world that the teacher was trained in.

    Under torchrun the student trains in all processes: torchrun --nproc-per-node 2 -m echoedge.cli distill nano

    Export what it wrote with: echoedge export --weights-file STUDENT --weights W --out BUNDLE, of the same W.
    """
    written, metrics = api.distill(
        output, workdir=workdir, teacher=teacher, weights=weights, inputs=inputs, lessons=lessons, steps=steps, batch=batch,
        rate=rate, optimiser=optimiser, on_policy=on_policy, audio_guidance=audio_guidance, start=start, method=method,
        compiled=compiled, small=small, matching=matching, fakes=fakes, monitor=monitor, threads=threads, device=device,
        report=_tell,
    )  # fmt: skip
    if metrics:
        out.print_json(json.dumps(metrics))
        out.print(f"[bold]{escape(str(written))}[/] is ready.")


@distill_app.command("checkpoint")
def distill_checkpoint_command(
    checkpoint: Annotated[Path, typer.Option(help="The folder of released weights to teach from.", show_default=False)],
    data: Annotated[Path, typer.Option(help="A folder of videos with sound, in which people speak.", show_default=False)],
    prompts: Annotated[Path, typer.Option(help="Prompt pack of `checkpoint prompts`.", show_default=False)],
    output: Annotated[Path, typer.Option("--out", help="The student's folder, which is read as a checkpoint.", show_default=False)],
    model: Annotated[str | None, typer.Option(help="flash or preview.", show_default="the one that is there")] = None,
    workdir: Annotated[Path, typer.Option(help="Clips, features, lessons, checkpoints; a run resumes from it.")] = Path(
        "checkpoint-distillation"
    ),
    size: Annotated[str, typer.Option(help="HEIGHTxWIDTH of the clips that are taught.")] = "256x256",
    frames: Annotated[int, typer.Option(min=5, help="Video frames of a clip, 4n+1.")] = 25,
    student_steps: Annotated[str, typer.Option(help="Numbers of steps that the student is to take.")] = "1,2,4",
    teacher_steps: Annotated[
        int | None, typer.Option(min=2, help="Steps of the teacher's trajectories.", show_default="12 of flash, 25 of preview")
    ] = None,
    noises: Annotated[int, typer.Option(min=1, help="Trajectories of each clip.")] = 4,
    least_speech: Annotated[
        float, typer.Option(min=0, max=1, help="Share of a clip's frames in which someone has to speak.")
    ] = 0.3,
    least_sync: Annotated[float, typer.Option(min=-1, max=1, help="Least correlation of mouth and loudness.")] = 0.2,
    least_face: Annotated[float, typer.Option(min=0, max=1, help="Least height of the face, as a share of the clip's.")] = 0.15,
    most_per_video: Annotated[int, typer.Option(min=1, help="Clips that are taken of one video.")] = 64,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the optimiser.", show_default="2000")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Lessons in a step.", show_default="4")] = None,
    rate: Annotated[float | None, typer.Option(min=0, help="The highest learning rate.", show_default="2e-5")] = None,
    on_policy: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the batches whose steps begin where the student itself has come to.")
    ] = 0.0,
    bf16: Annotated[bool, typer.Option("--bf16", help="Compute in bfloat16; weights and moments stay in float32.")] = False,
    recompute: Annotated[bool, typer.Option("--recompute", help="Make each block's activations twice, and keep none.")] = False,
    copy: Annotated[bool, typer.Option("--copy", help="Copy the checkpoint's other files into the student's folder.")] = False,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
    device: Annotated[str, typer.Option(help="Where teacher and student compute: cpu or cuda.")] = "cpu",
    force: ForceOption = False,
) -> None:
    """Teach a student of a released checkpoint from a folder of ordinary videos: they are cut, checked, encoded once, and the
    teacher's own trajectories on them are what is learnt. Memory and time are told first, and refused where the machine is too
    small. Interrupt it at will: the same command goes on where it stopped.

    Under torchrun the student trains in all processes: torchrun --nproc-per-node 2 -m echoedge.cli distill checkpoint
    """
    written, metrics = api.distill_checkpoint(
        checkpoint, data, prompts, out=output, model=model, workdir=workdir, size=parse_size(size), frames=frames,
        student_steps=parse_numbers(student_steps, "--student-steps"), teacher_steps=teacher_steps, noises=noises,
        least_speech=least_speech, least_sync=least_sync, least_face=least_face, most_per_video=most_per_video, steps=steps,
        batch=batch, rate=rate, on_policy=on_policy, bf16=bf16, recompute=recompute, copy=copy, threads=threads, device=device,
        force=force, report=_tell,
    )  # fmt: skip
    if metrics:
        out.print_json(json.dumps(metrics))
        out.print(f"[bold]{escape(str(written))}[/] is ready.")
        out.print(f"Next: echoedge export --checkpoint {escape(str(written))} --out student.echoedge", soft_wrap=True)


@distill_app.command("study")
def study_command(
    student: Annotated[
        list[Path] | None,
        typer.Argument(help="Weights files of students; without any, the teacher at few steps.", show_default=False),
    ] = None,
    teacher: Annotated[Path | None, typer.Option(help="Their teacher's weights.", show_default="the shipped ones")] = None,
    output: Annotated[Path, typer.Option("--out", help="Folder for figures; what is there is not measured again.")] = Path(
        "steps-study"
    ),
    task: Annotated[list[str] | None, typer.Option(help="i2v+a2v, a2v or t2v; may be repeated.", show_default="all")] = None,
    clips: Annotated[int, typer.Option(min=2, help="Held-out people and voices.")] = 32,
    seeds: Annotated[int, typer.Option(min=1, max=31, help="Seeds of noise; diversity needs two.")] = 3,
    controls: Annotated[bool, typer.Option(help="Measure the teacher at as few steps, too.")] = True,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
    as_json: JsonOption = False,
) -> None:
    """Measure students beside their teacher, who takes 8 steps of two forwards, and beside the teacher at as few steps: how far
    clips are from the teacher's own, the mouth, how much clips differ and move."""
    rows = api.steps_study(
        student or (), teacher=teacher, out=output, tasks=distinct(task or (), "--task"), clips=clips, seeds=seeds,
        controls=controls, threads=threads, report=(lambda _: None) if as_json else _tell,
    )  # fmt: skip
    if as_json:
        print(json.dumps(rows, ensure_ascii=False))
        return
    for each in dict.fromkeys(row["task"] for row in rows):
        told = Table(title=each, title_justify="left")
        names = [name for name in rows[0] if name != "task"]
        for name in names:
            told.add_column(name.replace("_", " "), justify="left" if name == "way" else "right")
        for row in rows:
            if row["task"] == each:
                told.add_row(
                    *(f"{row[name]:.3g}" if isinstance(row.get(name), float) else str(row.get(name, "–")) for name in names)
                )
        out.print(told)


def _tell(line: str) -> None:
    out.print(escape(line))
