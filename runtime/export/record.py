"""Stage 1: the full-precision model plays, and what its programs were given and gave is kept as goldens.

A model that is small plays the demo clip to the end (`record_whole`): first and last call of every method, and the clip itself. Of
one that no machine need hold a few calls are recorded, in three jobs: its encoders on a portrait and a voice, one denoising step
with its conditions, and two latent frames of each decoder. Of both: how the velocity changes with each input (`reactions`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel

from ...core.bundle import CONDITION_PROGRAMS, DECODE_PROGRAMS
from ...core.bundle.golden import Given, Golden
from ...core.bundle.reactions import INPUTS, Input
from ...core.config import ClipSpec
from ...core.model.attention import LayerConditions
from ...core.model.conditions import Conditions
from ...core.model.programs import EntryPoints
from ...core.model.transformer import DiT
from ...core.plan import SamplingPlan, noise
from ...core.sampling.conditioning import CONDITIONS, step_inputs
from ...core.sampling.hearing import window_inputs
from ...core.sampling.inputs import collapse_padding
from ...core.weights.source import SourcePrograms
from ...targets.base import Calls, Fitting
from ..engines.around import Around
from ..engines.base import Engine
from ..engines.torch import TorchEngine
from ..play.material import Material
from ..play.player import Player, PlayerConfig
from ..play.reactions import Asked, TwoChunks, asked_of, react, reacting_player, velocities
from .request import ExportRequest

Array = NDArray[Any]
NO_PROMPTS = "the bundle has no prompts, so there is none to change"
KEPT_ELEMENTS = 1 << 18  # of an output that is recorded; of larger ones every n-th element
KEPT_CALLS = 2  # of a method, where a clip is recorded whole: the first and the last
OTHER = "other-"  # before the names of what is made of the other material
CALIBRATION_STEPS = 2  # of the plan, evenly, for roundings that look at data
STAGES: dict[str, tuple[str, ...]] = {  # of a model that is not recorded whole, and the roles that each records
    "encoders": ("audio_encoder", "image_encoder", "vae_encode"),
    "step": (*CONDITION_PROGRAMS, "denoise", "denoise_reusing"),
    "decoders": tuple(DECODE_PROGRAMS.values()),
}


class Recorded(BaseModel):
    """What a recording job has left in the folder. golden: the stem of its two files. kept: arrays for later stages, by name.
    calls: for roundings that look at data, a file of calls by role. blocks: of a streaming transformer, what each block was given,
    a file for each of `steps`."""

    golden: str
    kept: dict[str, str] = {}
    calls: dict[str, str] = {}
    steps: tuple[int, ...] = ()
    blocks: tuple[tuple[str, ...], ...] = ()

    def read_golden(self, folder: Path) -> Golden:
        from safetensors.numpy import load_file

        path = folder / self.golden
        return Golden(load_file(path.with_suffix(".safetensors")), json.loads(path.with_suffix(".json").read_text()))

    def array(self, folder: Path, name: str) -> Array:
        found: Array = np.load(folder / self.kept[name], mmap_mode="c")
        return found


def _write_golden(golden: Golden, folder: Path, stem: str) -> str:
    from safetensors.numpy import save_file

    save_file(golden.tensors, folder / f"{stem}.safetensors")
    (folder / f"{stem}.json").write_text(json.dumps(golden.index))
    return stem


@torch.no_grad()
def step_tables(dit: DiT, plan: SamplingPlan) -> dict[str, Array]:
    """time [n, D] and modulation [n, 6, D] of the plan's steps."""
    time, modulation = dit.step_tables(*(torch.tensor(each, dtype=torch.float64) for each in (plan.timesteps, plan.spans)))
    return {"time": time.numpy(), "modulation": modulation.numpy()}


# ---- engines that record --------------------------------------------------------------------------------------------------------


class FirstAndLast(Around):
    """Keeps the first and the last call of every method."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.calls: dict[tuple[str, str], list[tuple[list[Array], list[Array]]]] = {}

    def run(self, program: str, method: str, inputs: Sequence[Array]) -> list[Array]:
        outputs = self.engine.run(program, method, inputs)
        calls = self.calls.setdefault((program, method), [])
        del calls[KEPT_CALLS - 1 :]
        calls.append((list(inputs), outputs))
        return outputs


class EveryCall(Around):
    """Writes every call into `golden`, under its program's label. What is too large to travel is named by the call that made it:
    states, which are not compared, and keys and values, of which every n-th element is."""

    def __init__(self, engine: Engine, golden: Golden, label: Callable[[str], str]) -> None:
        super().__init__(engine)
        self.golden, self.label = golden, label
        self.conditions: dict[str, Array] = {}  # what condition programs gave, by "label.output"
        self._made: dict[int, tuple[Array, Given]] = {}  # by the array's identity, which holding it keeps

    def run(self, program: str, method: str, inputs: Sequence[Array]) -> list[Array]:
        outputs = self.engine.run(program, method, inputs)
        label = self.label(program)
        number = len(self.golden.index["programs"].get(label, {}).get(method, []))
        given = [self._made[id(array)][1] if id(array) in self._made else array for array in inputs]
        streams = program == "vae_encode" or program in DECODE_PROGRAMS.values()
        expected = [None if streams and position else array for position, array in enumerate(outputs)]
        self.golden.add_call(label, method, given, expected, KEPT_ELEMENTS)
        for position, array in enumerate(outputs):
            if (streams and position) or program in CONDITION_PROGRAMS:
                self._made[id(array)] = (array, Given(label, method, number, position))
            if program in CONDITION_PROGRAMS:
                self.conditions[f"{label}.{position}"] = array
        return outputs


class _OneReading(SourcePrograms):
    """Programs of a further shape, whose audio encoder is that of the main one: one serves them all, and reads as much at once."""

    def __init__(self, main: SourcePrograms, clip: ClipSpec) -> None:
        super().__init__(main.source, clip, main.making, main.decoders)
        self.main = main

    def __getitem__(self, role: str) -> EntryPoints:
        return self.main[role] if role == "audio_encoder" else super().__getitem__(role)


def _programs(request: ExportRequest, shape: int) -> SourcePrograms:
    main, *others = (SourcePrograms(request.source, clip, request.making, request.decoders) for clip in request.clips)
    if not shape:
        return main
    return _OneReading(main, request.clips[shape]) if request.one_for_all("audio_encoder") else others[shape - 1]


def _player(request: ExportRequest, shape: int, programs: SourcePrograms, engine: Engine, tables: Any) -> Player:
    samples = programs["audio_encoder"]["forward"].inputs["waveform"].shape[1]
    return Player(PlayerConfig(request.playing, request.clips[shape], request.plan, tables, samples, request.prompts), engine)


# ---- a clip to the end ----------------------------------------------------------------------------------------------------------


def record_whole(request: ExportRequest, folder: Path) -> Recorded:
    """Plays the main shape's material, and keeps every program's first and last call, and the clip itself."""
    material, programs = request.materials[0], _programs(request, 0)
    recorder = FirstAndLast(TorchEngine(programs))
    player = _player(request, 0, programs, recorder, step_tables(request.source.transformer(), request.plan))
    made = player.generate(material.portrait, material.speech, material.prompt, material.seed)
    frames = np.stack(list(player.frames_of(made)))
    golden = Golden()
    for (program, method), calls in recorder.calls.items():
        for inputs, outputs in calls:
            golden.add_call(program, method, inputs, outputs)
    arrays: dict[str, Array] = {
        "portrait": material.portrait, "speech": material.speech, "latents": made.latents, "frames": frames
    }  # fmt: skip
    golden.index["clip"] = {name: golden.add(array) for name, array in arrays.items()}
    golden.index["settings"] = material.settings
    player = reacting_player(player.config, recorder.engine, repeated=False)
    _keep_reactions(request, golden, lambda asked, inputs: react(player, asked, *_both(request), inputs))
    return Recorded(golden=_write_golden(golden, folder, "golden-whole"))


def _both(request: ExportRequest) -> tuple[Material, Material]:
    """The main shape's material and the other one, with prompts that the bundle reads."""
    given, other = request.materials[0], request.other
    return replace(given, prompt=request.texts[0]), replace(other, prompt=request.texts[-1])


def _keep_reactions(request: ExportRequest, golden: Golden, answered: Callable[[Asked, Sequence[Input]], dict[str, Array]]) -> None:
    """Writes into `golden` what `answered` gives of each input that can be changed."""
    asked = asked_of(request.plan, request.clips[0].latent_frames)
    if asked is None:
        return
    unchanged: dict[Input, str] = {} if len(request.texts) > 1 else {"prompt": NO_PROMPTS}
    found = answered(asked, [name for name in INPUTS if name not in unchanged])

    def kept(material: Material) -> dict[str, Any]:
        arrays = {"portrait": golden.add(material.portrait), "speech": golden.add(material.speech)}
        return arrays | {"prompt": material.prompt, "seed": material.seed}

    given, other = map(kept, _both(request))
    golden.index["reactions"] = {
        "step": asked.step, "branch": asked.branch, "given": given, "other": other, "unchanged": unchanged,
        "repeated": request.source.held is None,
        "velocities": {name: golden.add(velocity) for name, velocity in found.items()},
    }  # fmt: skip


def calibrate(request: ExportRequest, folder: Path) -> Recorded:
    """Calls of the transformer's programs on drawn clips of training's kind, for a model that is held."""
    from .calibration import calibration_samples

    model = request.source.held
    assert model is not None
    samples = calibration_samples(model, request.plan, clip=request.clips[0])
    encoded = samples.pop("encode_conditions")
    named = zip(("patch_conditions", "text_conditions", "image_conditions", "audio_conditions"), range(4), strict=True)
    calls = samples | {role: [(call[position],) for call in encoded] for role, position in named}
    files = {}
    for role, found in calls.items():
        files[role] = f"calls-{role}.pt"
        with (folder / files[role]).open("wb") as file:  # given a path, torch does not tell why it could not write
            torch.save([list(call) for call in found], file)
    return Recorded(golden="", calls=files)


# ---- a few calls ----------------------------------------------------------------------------------------------------------------


def record_encoders(request: ExportRequest, folder: Path, shape: int = 0) -> Recorded:
    """Calls of the audio, image and video encoders on the portrait and the speech, and what the conditions are made from."""
    clip, golden = request.clips[shape], Golden()
    programs = _programs(request, shape)
    engine = EveryCall(TorchEngine(programs), golden, lambda role: request.label(role, shape))
    material, player = request.materials[shape], _player(request, shape, programs, TwoChunks(engine), {})
    samples = player.config.audio_samples
    assert samples is not None
    filled = samples // clip.samples_per_frame - request.hearing.tail_frames
    player.listen(np.resize(material.speech, samples), filled)  # a voice that fills a reading; the next one leaves most empty
    unrecorded = Player(player.config, TwoChunks(engine.engine))
    sides = [("", material, player), *([(OTHER, request.other, unrecorded)] if shape == 0 else [])]
    arrays = {f"{side}heard": each.neighbourhoods(each.listen(given.speech, clip.frames)) for side, given, each in sides}
    arrays |= {f"{side}image": each.recognise(given.portrait) for side, given, each in sides}
    arrays |= {f"{side}y": each.look(given.portrait[None], clip.latent_frames) for side, given, each in sides}
    stem = f"golden-encoders-{clip}"
    return Recorded(golden=_write_golden(golden, folder, stem), kept=_kept(arrays, folder, str(clip)))


def _kept(arrays: dict[str, Array], folder: Path, suffix: str) -> dict[str, str]:
    files = {name: f"{name}-{suffix}.npy" for name in arrays}
    for name, array in arrays.items():
        np.save(folder / files[name], array)
    return files


def _prompt(request: ExportRequest, text: str) -> tuple[Array, Array]:
    """Rows [1, text_rows, text_dim] and bias of one of the bundle's prompts; none of the empty one, if no pack has it."""
    config = request.source.config
    embedding = np.asarray(request.prompts.get(text, np.zeros((0, config.text_dim))), np.float32)
    rows, bias = collapse_padding(embedding, config.text_len, request.text_rows)
    return rows[None], bias[None]


def record_step(request: ExportRequest, folder: Path, encoders: Recorded, shape: int = 0) -> Recorded:
    """The conditions and one denoising step; the conditions stay in the folder for the proof, and, where rounding looks at data,
    what each block is given in a few steps of the main shape: shapes share weights."""
    clip, plan, golden = request.clips[shape], request.plan, Golden()
    engine = EveryCall(TorchEngine(_programs(request, shape)), golden, lambda role: request.label(role, shape))
    texts = [_prompt(request, text) for text in (request.texts[0], request.texts[-1])]

    def given(role: str, side: str) -> list[Array]:
        if role == "text_conditions":
            return [texts[side == OTHER][0]]
        if role == "audio_conditions":
            return window_inputs(np.array(encoders.array(folder, f"{side}heard")), request.hearing, clip.latent_frames)
        return [np.array(encoders.array(folder, side + {"image_conditions": "image", "patch_conditions": "y"}[role]))]

    made, changed = ({"text_bias": bias, "audio_mask": np.ones((1, clip.tokens_per_frame), np.float32)} for _, bias in texts)
    for role, outputs in CONDITION_PROGRAMS.items():
        made |= zip(outputs, engine.run(role, "forward", given(role, "")), strict=True)
        if shape == 0:
            changed |= zip(outputs, engine.engine.run(role, "forward", given(role, OTHER)), strict=True)
    dit, step = request.source.transformer(), plan.steps // 2
    tables = step_tables(dit, plan)
    latents = noise(plan.noise.seed, _latents(request, clip))
    time, *_ = inputs = step_inputs(plan, tables, step, latents, [made[name] for name in CONDITIONS])[1:]
    _, *residual = engine.run("denoise", "forward", [latents[None], *inputs])
    if residual:
        engine.run("denoise_reusing", "forward", [latents[None], time, residual[0], made["patch_bias"]])
    if shape == 0:
        both = [[side[name] for name in CONDITIONS] for side in (made, changed)]
        starts = [noise(each.seed, latents.shape) for each in _both(request)]
        run = engine.engine.run
        _keep_reactions(request, golden, lambda asked, names: velocities(run, plan, tables, asked, both, starts, names))
    recorded = Recorded(
        golden=_write_golden(golden, folder, f"golden-step-{clip}"), kept=_kept(engine.conditions, folder, str(clip))
    )
    if not request.recipe.needs_samples or shape:
        return recorded
    tensors = Conditions(**{name: torch.from_numpy(array) for name, array in made.items()})
    steps, blocks = _record_blocks(dit, clip, plan, tables, tensors, folder)
    kept = recorded.kept | _kept({name: made[name] for name in ("text_bias", "audio_mask")}, folder, str(clip))
    return recorded.model_copy(update={"steps": steps, "blocks": blocks, "kept": kept})


def record_decoders(request: ExportRequest, folder: Path, shape: int = 0) -> Recorded:
    """The first two latent frames of a clip of noise through each decoder."""
    clip, golden = request.clips[shape], Golden()
    programs = _programs(request, shape)
    engine = EveryCall(TorchEngine(programs), golden, lambda role: request.label(role, shape))
    latents = noise(request.plan.noise.seed + 1, _latents(request, clip))[:, :2]
    for decoder in request.decoders:
        role, state = DECODE_PROGRAMS[decoder], []  # type: ignore[var-annotated]
        for index in range(latents.shape[1]):
            chunk = np.ascontiguousarray(latents[None, :, index : index + 1])
            _, *state = engine.run(role, "next" if index else "first", [chunk, *state])
    return Recorded(golden=_write_golden(golden, folder, f"golden-decoders-{clip}"))


def _latents(request: ExportRequest, clip: ClipSpec) -> tuple[int, int, int, int]:
    return (request.source.config.latent_channels, clip.latent_frames, clip.latent_height, clip.latent_width)


# ---- what roundings look at -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def _record_blocks(
    dit: DiT, clip: ClipSpec, plan: SamplingPlan, tables: dict[str, Array], given: Conditions, folder: Path
) -> tuple[tuple[int, ...], tuple[tuple[str, ...], ...]]:
    """What goes into each block at steps spread over the plan, from noise: the steps, and the tokens' files by block and step."""
    steps = sorted({round(i * (plan.steps - 1) / max(1, CALIBRATION_STEPS - 1)) for i in range(CALIBRATION_STEPS)})
    shape = (1, dit.config.latent_channels, clip.latent_frames, clip.latent_height, clip.latent_width)
    rope = dit.rope(torch.empty(shape))
    tokens = {step: dit.embed(torch.from_numpy(noise(step, shape[1:])[None]), given) for step in steps}
    files = []
    for index, block in enumerate(dit.blocks):
        files.append(tuple(f"block-{index}-step-{step}.npy" for step in steps))
        for step, name in zip(steps, files[-1], strict=True):
            np.save(folder / name, tokens[step].numpy())
            modulation = torch.from_numpy(tables["modulation"][step : step + 1])
            tokens[step] = block(tokens[step], modulation, rope, given.layer(index), _weights(plan, step, clip, given))
    return tuple(steps), tuple(files)


def _weights(plan: SamplingPlan, step: int, clip: ClipSpec, given: Conditions) -> tuple[torch.Tensor, ...]:
    modality = torch.from_numpy(plan.modality(step, clip.latent_frames)[None])
    text, image, audio = (modality[:, i].view(1, -1, 1, 1) for i in range(3))
    return text, image, audio * given.audio_mask.view(1, 1, -1, 1)


def fitting_of(request: ExportRequest, folder: Path, recorded: Recorded | None, role: str) -> Fitting:
    """What was recorded for roundings of `role` that look at data, read back."""
    if recorded is None:
        return Fitting()
    if recorded.calls:
        path = recorded.calls.get(role)
        return Fitting(calls=torch.load(folder / path, weights_only=True) if path else ())
    if role != "denoise":
        return Fitting()
    clip, plan = request.clips[0], request.plan
    dit = request.source.transformer()
    tables = step_tables(dit, plan)
    rope = dit.rope(torch.empty(1, *_latents(request, clip)))
    kept = {name: f"{role}.{position}" for role, names in CONDITION_PROGRAMS.items() for position, name in enumerate(names)}
    given = Conditions(**{n: torch.from_numpy(recorded.array(folder, kept.get(n, n))) for n in Conditions.names()})

    def calls(index: int) -> Calls:
        found = []
        for step, name in zip(recorded.steps, recorded.blocks[index], strict=True):
            modulation = torch.from_numpy(tables["modulation"][step : step + 1])
            layer: LayerConditions = given.layer(index)
            found.append((torch.from_numpy(np.load(folder / name)), modulation, rope, layer, _weights(plan, step, clip, given)))
        return found

    return Fitting(of_block=calls)
