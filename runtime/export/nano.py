"""From a model to a bundle: programs, plan, step tables, goldens and passport.

1. plan       the sampler as data, and the timestep MLP's output for its steps
2. reference  the model in full precision plays a clip; every program's calls are kept as goldens
3. programs   compiled in processes beside this one, so that memory returns and a kill becomes a sentence
4. proof      each file run on its recorded calls and compared with them
5. bundle     everything hashed, written beside, renamed
"""

from __future__ import annotations

import json
import multiprocessing
import signal
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from ...core.bundle import BundleWriter, ClipRecord, Figures, Manifest, Method, ModelRecord, Parity, Recipe, TensorSpec
from ...core.bundle.golden import GOLDEN, GOLDEN_INDEX, Golden, compare
from ...core.config import ClipSpec
from ...core.errors import ExportError
from ...core.files import require_free_memory
from ...core.metrics.agreement import falls_short
from ...core.model.programs import EntryPoints, Model, build_programs
from ...core.model.transformer import DiT
from ...core.plan import SamplingPlan
from ...core.versions import library_versions
from ...quantize.recipes import WeightRecipe
from ...targets.bars import precision_of, thresholds_for
from ...targets.executorch import lower as executorch
from ...targets.executorch.lower import Compiled
from ...targets.executorch.program_file import ProgramFile
from ...targets.rewrites.hoist import savings
from .forecast import step_activations
from .jobs import enter_worker, fate

T = TypeVar("T")
TARGETS = ("executorch",)
STEP_TABLES = "step_tables.safetensors"
_LAST_SECONDS, _POLL_SECONDS = 5.0, 0.05  # in which a process that was ended is gone
COMPILE_MEMORY = 1_000_000_000  # bytes for one compiler process of nano; 0.6 GB measured at its peak


def require_parity(name: str, found: Figures, wanted: Figures) -> None:
    """Refuses a compiled program that computes something else than the model.

    Raises:
        ExportError: it falls short of what is demanded; the message gives both.
    """
    if falls_short(found, wanted):
        raise ExportError(
            f"{name} was compiled, and the file does not compute what the model computes: {found.psnr_db:.1f} dB and cosine "
            f"{found.cosine:.6f}, where {wanted.psnr_db} dB and {wanted.cosine} are demanded. Take finer weights for it "
            "(--weights int8, or a recipe file), or report it."
        )


RecordGolden = Callable[[Model, dict[str, EntryPoints], SamplingPlan, Mapping[str, np.ndarray]], Golden]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class ExportRequest:
    """What to compile. `plan` fixes the steps; `text_rows` how many prompt rows the programs read; `samples` holds calls of
    programs by name, for roundings that look at data."""

    model: Model
    source_sha256: str
    clip: ClipSpec
    plan: SamplingPlan
    recipe: WeightRecipe
    text_rows: int
    jobs: int = 2
    samples: Mapping[str, Sequence[Sequence[Any]]] = field(default_factory=dict)


@torch.no_grad()
def step_tables(dit: DiT, plan: SamplingPlan) -> dict[str, np.ndarray]:
    """time [n, D] and modulation [n, 6, D] of the plan's steps."""
    time, modulation = dit.step_tables(torch.tensor(plan.timesteps, dtype=torch.float64))
    return {"time": time.numpy(), "modulation": modulation.numpy()}


def export_bundle(request: ExportRequest, out: Path, record: RecordGolden, progress: Progress, force: bool = False) -> Manifest:
    """Writes the bundle `out`. `record` plays a clip with the reference and returns its goldens; `progress(stage, done, total)`.

    Raises:
        OutputError, ResourceError: `out` exists or cannot be written; disk or memory is short.
        ExportError: a program could not be compiled, or its file computes something else.
    """
    weights = sum(p.numel() * 4 for m in (request.model.dit, request.model.vae) for p in m.parameters())
    require_free_memory(request.jobs * COMPILE_MEMORY + 3 * weights, "compiling")
    with BundleWriter(out, force=force, expected_bytes=2 * weights) as writer:
        progress("plan", 0, 1)
        tables = step_tables(request.model.dit, request.plan)
        reuse = any(any(row) for row in request.plan.reuse)
        programs = build_programs(request.model, request.clip, request.text_rows, reuse)
        writer.add_bytes("plan.json", request.plan.to_json().encode())
        writer.add_tensors(STEP_TABLES, tables)
        progress("plan", 1, 1)

        progress("reference", 0, 1)
        golden = record(request.model, programs, request.plan, tables)
        writer.add_tensors(GOLDEN, golden.tensors)
        writer.add_json(GOLDEN_INDEX, golden.index)
        progress("reference", 1, 1)

        with tempfile.TemporaryDirectory(dir=writer.folder) as scratch:
            compiled = _compile_all(programs, request.recipe, Path(scratch), request.jobs, progress, request.samples)
            precision = precision_of("xnnpack", "fp32")
            demanded = thresholds_for({name: result.layers for name, result in compiled.items()}, precision)
            measured = _prove_all(compiled, golden, demanded, request.jobs, progress)
            for name, result in compiled.items():
                writer.add_program(name, result.path, method_records(programs[name]), result.delegation)
        recipe = json.loads(request.recipe.model_dump_json())
        return writer.finish(
            model=ModelRecord.of(request.model.config, request.source_sha256),
            clip=ClipRecord.of(request.clip),
            target="executorch",
            weights=Recipe(name=recipe.pop("name"), settings={**recipe, "layers": {n: c.layers for n, c in compiled.items()}}),  # type: ignore[dict-item]
            versions=library_versions(),
            parity=Parity(thresholds=demanded, measured=measured),
            precision=precision,
            memory=_memory(programs, step_activations(request.model.config, request.clip)),
            savings=savings(request.model.config, request.clip, request.plan, request.text_rows),
        )


def method_records(program: EntryPoints) -> dict[str, Method]:
    """Inputs and outputs of a program's methods for the manifest, without running them."""

    def spec(name: str, dtype: torch.dtype, shape: Sequence[int]) -> TensorSpec:
        return TensorSpec(name=name, dtype=str(dtype).removeprefix("torch."), shape=tuple(shape))  # type: ignore[arg-type]

    return {
        method_name: Method(
            inputs=tuple(spec(name, value.dtype, value.shape) for name, value in method.inputs.items()),
            outputs=tuple(spec(output.name, output.dtype, output.shape) for output in method.output_specs()),
        )
        for method_name, method in program.items()
    }


def _memory(programs: dict[str, EntryPoints], step: int) -> dict[str, Any]:
    """Bytes that a player holds beside the programs' weights, computed from the shapes; `step`: one step's activations."""

    def size(*tensors: torch.Tensor) -> int:
        return sum(t.numel() * t.element_size() for t in tensors)

    state = {
        f"{name}_state_bytes": size(*(v for k, v in programs[name]["next"].inputs.items() if k.startswith("state_")))
        for name in ("vae_encode", "vae_decode")
        if "next" in programs[name]
    }
    inputs = programs["denoise"]["forward"].inputs
    conditions = [value for key, value in inputs.items() if key not in ("latents", "time", "modulation", "modality_weights")]
    return {"conditions_bytes_per_branch": size(*conditions), "latents_bytes": size(inputs["latents"]), **state, "step_bytes": step}


def _compile(
    name: str, program: EntryPoints, recipe: WeightRecipe, folder: Path, samples: Sequence[Sequence[Any]] = ()
) -> Compiled:
    torch.set_num_threads(1)
    return executorch.compile_program(name, program, recipe, folder, samples)


def _prove(name: str, path: Path, golden: Golden) -> Figures:
    file = ProgramFile(path)
    return compare(golden, lambda _, method, inputs: file.run(method, inputs))[name]


def _compile_all(
    programs: dict[str, EntryPoints],
    recipe: WeightRecipe,
    folder: Path,
    jobs: int,
    progress: Progress,
    samples: Mapping[str, Sequence[Sequence[Any]]],
) -> dict[str, Compiled]:
    """Compiles every program, the largest first; gives them in the programs' order."""
    order = sorted(programs, key=lambda name: -sum(p.numel() for m in programs[name].values() for p in m.module.parameters()))
    work = {name: (name, programs[name], recipe, folder, samples.get(name, ())) for name in order}
    made = _in_processes("compiler process", _compile, work, jobs, lambda done: progress("programs", done, len(work)))
    return {name: made[name] for name in programs}


def _prove_all(
    compiled: Mapping[str, Compiled], golden: Golden, demanded: Mapping[str, Figures], jobs: int, progress: Progress
) -> dict[str, Figures]:
    """Runs every file on the recorded calls of its program.

    Raises:
        ExportError: a program has no recorded call, or its file computes something else.
    """
    for name in compiled:
        if name not in golden.index["programs"]:
            raise ExportError(
                f"{name} was not called in the full-precision run, so that there is nothing to compare its file with. Export with "
                "more --steps, or report it."
            )
    work = {name: (name, result.path, golden.of(name)) for name, result in compiled.items()}
    found = _in_processes("process that ran a compiled file", _prove, work, jobs, lambda done: progress("proof", done, len(work)))
    for name in compiled:
        require_parity(name, found[name], demanded[name])
    return {name: found[name] for name in compiled}


def _in_processes(
    what: str, function: Callable[..., T], arguments: Mapping[str, tuple[Any, ...]], jobs: int, progress: Callable[[int], None]
) -> dict[str, T]:
    """What `function` gives for each of `arguments`, `jobs` at a time, in spawned processes that end with this one. `what` they are
    is told of one that dies."""
    results: dict[str, T] = {}
    progress(0)
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), initializer=enter_worker)
    workers: dict[int, Any] = {}
    try:
        futures: dict[Future[T], str] = {pool.submit(function, *given): name for name, given in arguments.items()}
        workers = pool._processes  # type: ignore[assignment]
        for future in as_completed(futures):
            results[futures[future]] = future.result()
            progress(len(results))
    except BrokenProcessPool as error:
        remedy = "Close other programs, or compile one at a time (--jobs 1)."
        raise ExportError(fate(what, _first_end(workers.values()), remedy)) from error
    finally:
        for process in list(workers.values()):
            if len(results) < len(arguments):
                process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)
    return results


def _first_end(processes: Iterable[Any]) -> int | None:
    """The exit status of the process that broke a pool; the pool ends the others by SIGTERM."""
    statuses = []
    for process in processes:
        last = time.monotonic() + _LAST_SECONDS
        while process.exitcode is None and time.monotonic() < last:  # the pool waits for it too: one of two that wait is told later
            process.join(_POLL_SECONDS)
            time.sleep(_POLL_SECONDS)
        statuses.append(process.exitcode)
    told = [status for status in statuses if status not in (None, 0)]
    return next((status for status in told if status != -signal.SIGTERM), told[0] if told else None)
