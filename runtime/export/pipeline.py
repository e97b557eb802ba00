"""From a request to a bundle: the stages of every export, whichever the model and the target.

1. record    the full-precision model plays, and its programs' calls are kept                 `record.py`
2. compile   each unit to its file, by the target                                             `compile.py`
3. prove     every final file of every shape executed on its recorded calls, by the engine    `compile.py`
4. bundle    everything hashed, written beside, renamed                                       `pack.py`

Stages 1 to 3 are jobs in processes of their own (`jobs.py`), in a folder beside the bundle: a run that was killed goes on behind
what it had finished, and the folder goes when the bundle is there. A stage hands the next one its records.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ...core.bundle import CONDITION_PROGRAMS, MANIFEST, Manifest, shaped_name
from ...core.files import available_memory, check_folder, folder_bytes, require_free_disk
from .compile import Compiled, CompiledTogether, Proof, SharedData, compile_one, compile_together, merge_shapes, prove
from .forecast import disk_needed, needs
from .jobs import Job, JobRunner, Progress
from .pack import Parts, write_bundle
from .record import Recorded, calibrate, record_decoders, record_encoders, record_step, record_whole
from .request import ExportRequest


def work_folder(out: Path) -> Path:
    """Where the work on a bundle lies until it is finished."""
    out = Path(os.path.abspath(out))
    return out.with_name(f".{out.name}.work")


def jobs_of(request: ExportRequest) -> tuple[list[Job], Parts]:
    """What has to be done, and where each record will be."""
    parts = Parts()
    fitted = _record_jobs(request, parts)
    for shape in range(len(request.clips)):
        need = needs(request, shape)
        for role in request.roles_at(shape):
            label = request.label(role, shape)
            if request.together:
                if parts.together is None:
                    parts.together = Job("programs", "programs", compile_together, CompiledTogether, need["programs"], fitted)
                continue
            after = fitted if role == "denoise" or (parts.calibration is not None and role in CONDITION_PROGRAMS) else ()
            work = partial(compile_one, role=role, shape=shape)
            parts.compiled[label] = Job(f"compile {label}", "programs", work, Compiled, need[role], after)
    need = needs(request, 0)
    for role in request.roles:
        if request.shared(role):
            every = tuple(parts.compiled[request.label(role, shape)] for shape in range(len(request.clips)))
            parts.data[role] = Job(f"data of {role}", "programs", merge_shapes, SharedData, need[f"data of {role}"], every)
    for shape in range(len(request.clips)):
        need = needs(request, shape)
        for role in request.proven_at(shape):
            label = request.label(role, shape)
            made = parts.together or parts.compiled[label]
            after = (made, parts.recorded_for(role, shape), *((parts.data[role],) if role in parts.data else ()))
            proofs = parts.proofs.setdefault(label, [])
            name = f"proof of {label}" if not proofs else f"proof of {shaped_name(label, request.clips[shape])}"
            proofs.append(Job(name, "proof", partial(prove, role=role), Proof, need[f"proof of {role}"], after))
    jobs = parts.jobs()
    return sorted(jobs, key=lambda job: (len(job.after) > 0, -job.need.total)), parts


def _record_jobs(request: ExportRequest, parts: Parts) -> tuple[Job, ...]:
    """The recording jobs, and those that roundings that look at data wait for."""
    if request.source.held is not None:
        need = needs(request, 0)
        whole = Job("reference", "reference", record_whole, Recorded, need["reference"])
        parts.recorded["whole", 0] = whole
        if not request.recipe.needs_samples:
            return ()
        parts.calibration = Job("calibration", "reference", calibrate, Recorded, need["reference"])
        return (parts.calibration,)
    work: dict[str, Callable[..., Recorded]] = {"encoders": record_encoders, "step": record_step, "decoders": record_decoders}
    for shape in range(len(request.clips)):
        need = needs(request, shape)
        for stage, recording in work.items():
            main = f"reference of the {stage}"
            name = shaped_name(main, request.clips[shape]) if shape else main
            after = (parts.recorded["encoders", shape],) if stage == "step" else ()
            parts.recorded[stage, shape] = Job(name, "reference", partial(recording, shape=shape), Recorded, need[main], after)
    return (parts.recorded["step", 0],) if request.recipe.needs_samples else ()


def export_bundle(
    request: ExportRequest,
    out: Path,
    *,
    jobs: int = 2,
    budget: int | None = None,
    force: bool = False,
    progress: Progress = lambda *_: None,
    warn: Callable[[str], None] = print,
) -> Manifest:
    """Writes the bundle `out`. `jobs` processes at once, as far as `budget` bytes of memory allow (all that is free, by default);
    `progress(stage, done, total)`; `warn(sentence)` of what there is to know.

    Raises:
        OutputError, ResourceError: `out` exists or cannot be written; disk or memory is short.
        CheckpointError: a component is missing or not what it should be.
        ExportError: a program could not be compiled, a backend took too little of it, or its file computes something else.
    """
    check_folder(out, force, marker=MANIFEST)  # the bundle's folder is made last: a kill leaves the work folder alone
    place = work_folder(out)
    require_free_disk(place, max(0, disk_needed(request) - folder_bytes(place)))
    sources = request.source.digests(request.decoders)
    todo, parts = jobs_of(request)
    runner = JobRunner(place, request.key(sources), jobs, available_memory() if budget is None else budget)
    with runner:
        done = runner.run(todo, request, progress)
        manifest = write_bundle(request, sources, runner, parts, done, out, force, warn)
        runner.remove()
    return manifest
