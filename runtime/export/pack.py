"""Stage 4: everything that the jobs have made, hashed and under the bundle's name."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...core.bundle import (
    DECODE_PROGRAMS,
    PROGRAMS,
    BundleWriter,
    ClipRecord,
    Figures,
    Manifest,
    ModelRecord,
    Parity,
    TargetRecord,
    WeightsRecord,
)
from ...core.bundle.agreement import worst
from ...core.bundle.golden import GOLDEN, GOLDEN_INDEX, Golden
from ...core.bundle.reactions import INPUTS, Demand, Reactions, size
from ...core.bundle.traces import TRACES, TRACES_INDEX, Traces
from ...core.versions import library_versions
from ...core.weights.passport import STUDENT
from ...core.weights.source import digest_of
from ...targets.bars import bar, clip_bars, reaction_bar
from ...targets.rewrites.savings import savings
from .compile import Compiled, Proof, SharedData
from .forecast import condition_bytes, step_activations
from .jobs import Done, Job, JobRunner
from .record import STAGES, Recorded, step_tables
from .request import ExportRequest

STEP_TABLES = "step_tables.safetensors"


@dataclass
class Parts:
    """The jobs of an export by what they make: records by (stage, index of the shape), compiled units and proofs by label, data
    files by role. `together`: the one job that compiles all units, where they go into one file."""

    recorded: dict[tuple[str, int], Job] = field(default_factory=dict)
    calibration: Job | None = None
    compiled: dict[str, Job] = field(default_factory=dict)
    together: Job | None = None
    data: dict[str, Job] = field(default_factory=dict)
    proofs: dict[str, list[Job]] = field(default_factory=dict)

    def jobs(self) -> list[Job]:
        alone = (job for job in (self.calibration, self.together) if job is not None)
        proofs = (job for jobs in self.proofs.values() for job in jobs)
        return [*self.recorded.values(), *alone, *self.compiled.values(), *self.data.values(), *proofs]

    def recorded_for(self, role: str, shape: int) -> Job:
        """The job that records the calls of `role`."""
        if ("whole", 0) in self.recorded:
            return self.recorded["whole", 0]
        return self.recorded[next(stage for stage, roles in STAGES.items() if role in roles), shape]


@dataclass(frozen=True)
class _Results:
    """The records behind the jobs."""

    parts: Parts
    done: Mapping[str, Done]

    def recorded(self) -> Iterator[Recorded]:
        return (self.done[job.name].result for job in self.parts.recorded.values())

    def compiled(self) -> dict[str, Compiled]:
        """By label, in the order in which the bundle lists them."""
        if self.parts.together is not None:
            return {each.label: each for each in self.done[self.parts.together.name].result.units.values()}
        return {label: self.done[job.name].result for label, job in self.parts.compiled.items()}

    def data(self) -> dict[str, str]:
        """The data files that ship, in the work folder, by role."""
        found: dict[str, SharedData] = {role: self.done[job.name].result for role, job in self.parts.data.items()}
        return {role: shared.path for role, shared in found.items() if shared.path is not None}

    def traces(self, folder: Path) -> Traces:
        """What operators made: of a program that serves several shapes, in the first one that it was run on."""
        found = [self.done[jobs[0].name].result.read_traces(folder) for jobs in self.parts.proofs.values()]
        return Traces({name: methods for each in found for name, methods in each.programs.items()})

    def measured(self, label: str) -> Figures | None:
        """The worst agreement of a compiled unit, over the shapes that it was run on; None where it was not run."""
        proofs: list[Proof] = [self.done[job.name].result for job in self.parts.proofs[label]]
        found = [proof.figures for proof in proofs if proof.figures is not None]
        return worst(found) if found else None


def write_bundle(
    request: ExportRequest,
    sources: Mapping[str, str],
    runner: JobRunner,
    parts: Parts,
    done: Mapping[str, Done],
    out: Path,
    force: bool,
    warn: Callable[[str], None],
) -> Manifest:
    """Writes the bundle `out` from what lies in the runner's folder. `sources`: SHA-256 by component."""
    results, folder, compiler = _Results(parts, done), runner.folder, request.compiler
    compiled, data = results.compiled(), results.data()
    files = {folder / path for path in (*data.values(), *(each.path for each in compiled.values()))}
    with BundleWriter(out, force, expected_bytes=sum(_size(path) for path in files)) as writer:
        writer.add_bytes("plan.json", request.plan.to_json().encode())
        writer.add_tensors(STEP_TABLES, step_tables(request.source.transformer(), request.plan))
        golden = Golden()
        for recorded in results.recorded():
            golden.merge(recorded.read_golden(folder))
        computes, layers = compiler.compute(request.options), {each.role: each.layers for each in compiled.values()}
        demand = reaction_bar(layers, computes)
        if golden.index["reactions"]:
            golden.index["reactions"]["demanded"] = demand.model_dump()
        for line in _without_effect(golden, demand):
            warn(line)
        writer.add_tensors(GOLDEN, golden.tensors)
        writer.add_json(GOLDEN_INDEX, golden.index)
        traces = results.traces(folder)
        if traces.programs:
            writer.add_tensors(TRACES, traces.tensors())
            writer.add_json(TRACES_INDEX, traces.index())
        if request.prompts:
            packs = {name: np.asarray(rows, np.float32) for name, rows in request.prompts.items()}
            writer.add_tensors("prompts/prompts.safetensors", packs)
        for path in data.values():
            if (folder / path).is_file():
                writer.add_file(f"{PROGRAMS}/{Path(path).name}", folder / path)
        for label, each in compiled.items():
            for line in each.said:
                warn(line)
            shipped, path = data.get(each.role) if each.data else None, each.path
            if shipped is not None and each.kind == "folder":  # the programs of all shapes lie in one
                path, shipped = shipped, None
            elif each.data and shipped is None:  # its own, which no other shape shares
                shipped = each.data
                writer.add_file(f"{PROGRAMS}/{Path(shipped).name}", folder / shipped)
            writer.add_program(
                label, folder / path, role=each.role, clip=each.clip, methods=each.methods, placement=each.placement,
                layers=each.layers, demanded=bar(each.role, each.layers, computes), measured=results.measured(label),
                kind=each.kind, prefix=each.prefix, data=f"{PROGRAMS}/{Path(shipped).name}" if shipped else None,
            )  # fmt: skip
        recipe, stated = json.loads(request.recipe.model_dump_json()), dict(compiler.settings(request.options))
        if request.student is not None:
            stated[STUDENT] = request.student.model_dump(mode="json")
        return writer.finish(
            model=ModelRecord.of(request.source.config, digest_of(sources)),
            clips=tuple(ClipRecord.of(clip) for clip in request.clips),
            target=TargetRecord(
                name=request.target, backend=compiler.backend(request.options), precision=compiler.precision(request.options)
            ),
            weights=WeightsRecord(name=recipe.pop("name"), settings=recipe | stated | {"sources": dict(sources)}),
            versions=library_versions(),
            playing=request.playing,
            parity=Parity(demanded=clip_bars(layers, computes)),
            memory=_memory(request, compiled, done, runner.peak_bytes),
            savings=savings(request.source.config, request.clips[0], request.plan, request.text_rows),
        )


def _without_effect(golden: Golden, demand: Demand) -> Iterator[str]:
    """What there is to say of inputs that full precision itself hardly reacts to."""
    recorded = Reactions.of(golden.index, golden.tensors)
    if recorded is None:
        yield "This plan has no branch that takes in every input, so that `verify` cannot judge whether they matter."
        return
    full = {name: golden.tensors[key] for name, key in recorded.velocities.items()}
    for name in INPUTS:
        if name in full and size(full, name) < demand.least:
            yield (
                f"In full precision another {name} changes the velocity by {size(full, name):.2%} alone, so that `verify` will not "
                "judge whether it matters in this bundle. If these are trained weights, look at them."
            )


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*")) if path.is_dir() else path.stat().st_size


def _memory(request: ExportRequest, compiled: Mapping[str, Compiled], done: Mapping[str, Done], peak: int) -> dict[str, Any]:
    """Bytes that a player holds beside the programs' weights, of the main shape, and what the export took."""

    clip, config = request.clips[0], request.source.config
    streaming = [role for role in request.roles if role in ("vae_encode", *DECODE_PROGRAMS.values())]
    return {
        "conditions_bytes_per_branch": condition_bytes(config, clip, request.text_rows),
        "latents_bytes": 4 * config.latent_channels * clip.latent_frames * clip.latent_height * clip.latent_width,
        "step_bytes": step_activations(config, clip),
        **{f"{role}_state_bytes": compiled[role].state_bytes for role in streaming},
        "export_peak_bytes": peak,
        "export_peak_bytes_by_job": {name: job.peak_bytes for name, job in done.items()},
        "export_seconds_by_job": {name: round(job.seconds, 1) for name, job in done.items()},
    }
