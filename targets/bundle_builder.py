"""From a model to a bundle: programs, plan, step tables, goldens and passport.

1. plan       the sampler as data, and the timestep MLP's output for its steps
2. reference  the model in full precision plays a clip; every program's calls are kept as goldens
3. programs   each compiled in a process of its own, so that memory returns and a kill becomes a sentence
4. bundle     everything hashed, written beside, renamed
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..core.bundle import BundleWriter, ClipRecord, Figures, Manifest, Method, ModelRecord, Parity, Recipe, TensorSpec
from ..core.config import ClipSpec
from ..core.errors import ExportError
from ..core.files import require_free_memory
from ..core.golden import GOLDEN, GOLDEN_INDEX, Golden
from ..core.plan import SamplingPlan
from ..core.programs import Model, Program, build_programs
from ..core.transformer import DiT
from ..core.versions import library_versions
from ..quantize.recipes import WeightRecipe
from . import executorch
from .executorch import Compiled
from .hoist import savings
from .preflight import step_activations

TARGETS = ("executorch",)
STEP_TABLES = "step_tables.safetensors"
COMPILE_MEMORY = 1_000_000_000  # bytes for one compiler process of nano; 0.6 GB measured at its peak

# What compiled programs must reach against full precision, by the coarsest weights in the recipe: "*" is any program, "latents" and
# "frames" are a whole clip's. Measured on nano: fp32 134 dB and 141 (clip); int8 52.4 and 55.0; int4 36.7 and 40.1.
_CLIP = ("latents", "frames")
THRESHOLDS: dict[str, dict[str, Figures]] = {
    "fp32": {"*": Figures(psnr_db=80.0, cosine=0.99999), "latents": Figures(psnr_db=60.0), "frames": Figures(psnr_db=50.0)},
    "int8": {"*": Figures(psnr_db=40.0, cosine=0.999), "latents": Figures(psnr_db=35.0), "frames": Figures(psnr_db=35.0)},
    "int4": {
        "*": Figures(psnr_db=30.0, cosine=0.99),
        "latents": Figures(psnr_db=30.0),
        "frames": Figures(psnr_db=30.0),
    },
}


def thresholds_for(recipe: WeightRecipe, programs: Iterable[str]) -> dict[str, Figures]:
    """The demands on every program and on a whole clip."""
    used = {rule.weights for rule in recipe.rules}
    demanded = THRESHOLDS["int4" if "int4" in used else "int8" if "int8" in used else "fp32"]
    return {name: demanded["*"] for name in programs} | {name: demanded[name] for name in _CLIP}


RecordGolden = Callable[[Model, dict[str, Program], SamplingPlan, Mapping[str, np.ndarray]], Golden]
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
        ExportError: a program could not be compiled.
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
            layers: dict[str, dict[str, int]] = {}
            for name in programs:
                result = compiled[name]
                layers[name] = result.layers
                writer.add_program(name, result.path, method_records(programs[name]), result.delegation)
        recipe = json.loads(request.recipe.model_dump_json())
        return writer.finish(
            model=ModelRecord.of(request.model.config, request.source_sha256),
            clip=ClipRecord.of(request.clip),
            target="executorch",
            weights=Recipe(name=recipe.pop("name"), settings={**recipe, "layers": layers}),  # type: ignore[dict-item]
            versions=library_versions(),
            parity=Parity(thresholds=thresholds_for(request.recipe, programs)),
            memory=_memory(programs, step_activations(request.model.config, request.clip)),
            savings=savings(request.model.config, request.clip, request.plan, request.text_rows),
        )


def method_records(program: Program) -> dict[str, Method]:
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


def _memory(programs: dict[str, Program], step: int) -> dict[str, Any]:
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


def _compile(name: str, program: Program, recipe: WeightRecipe, folder: Path, samples: Sequence[Sequence[Any]] = ()) -> Compiled:
    torch.set_num_threads(1)
    return executorch.compile_program(name, program, recipe, folder, samples)


def _quiet_worker() -> None:
    """A compiler process leaves Ctrl-C to its parent and keeps the libraries' chatter off the screen."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)


def _compile_all(
    programs: dict[str, Program],
    recipe: WeightRecipe,
    folder: Path,
    jobs: int,
    progress: Progress,
    samples: Mapping[str, Sequence[Sequence[Any]]],
) -> dict[str, Compiled]:
    """Compiles every program, the largest first, `jobs` at a time."""
    order = sorted(programs, key=lambda name: -sum(p.numel() for m in programs[name].values() for p in m.module.parameters()))
    results: dict[str, Compiled] = {}
    progress("programs", 0, len(order))
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(max_workers=jobs, mp_context=context, initializer=_quiet_worker)
    try:
        futures = {pool.submit(_compile, name, programs[name], recipe, folder, samples.get(name, ())): name for name in order}
        for future in as_completed(futures):
            results[futures[future]] = future.result()
            progress("programs", len(results), len(order))
    except BrokenProcessPool as error:
        raise ExportError(
            "A compiler process was killed, most likely for memory. Close other programs, or compile one at a time (--jobs 1)."
        ) from error
    finally:
        for process in list((pool._processes or {}).values()):
            if len(results) < len(order):
                process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)
    return results
