"""From a checkpoint of the released model to a bundle, on a machine that cannot hold the model.

1. source      what the files are: hashes of everything that is read
2. reference   each program's recorded calls in full precision, the transformer's blocks streamed from their file
3. programs    each compiled in a process of its own
4. proof       each file run once, alone, with the data file that ships, and compared with the record of its shape
5. bundle      everything hashed, written beside, renamed

Stages 2 to 4 are tasks of a workshop beside the bundle: a run that was killed goes on behind what it had finished, and the folder
goes when the bundle is there.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...core.bundle import (
    DECODE_PROGRAMS,
    MANIFEST,
    BundleWriter,
    ClipRecord,
    Delegation,
    Figures,
    Hearing,
    Manifest,
    Method,
    ModelRecord,
    Parity,
    Recipe,
    shaped_name,
)
from ...core.bundle.golden import GOLDEN, GOLDEN_INDEX, Given, Golden, compare
from ...core.config import TEMPORAL_STRIDE, ClipSpec
from ...core.errors import CheckpointError, ConfigError, ExportError
from ...core.files import available_memory, check_folder, file_sha256, folder_bytes, require_free_disk
from ...core.memory import Need
from ...core.model.architecture import Architecture, ComponentName
from ...core.model.attention import LayerConditions
from ...core.model.conditions import Conditions
from ...core.model.masks import Task as SoupTask
from ...core.model.masks import condition_latents, task_mask
from ...core.model.programs import (
    CONDITION_INPUTS,
    EntryPoints,
    audio_encoder_program,
    denoise_program,
    encode_conditions_program,
    hearing_for,
    image_encoder_program,
    vae_decode_program,
    vae_encode_program,
)
from ...core.model.transformer import DiT
from ...core.plan import SamplingPlan, check_number, noise
from ...core.sampling.hearing import CONTEXT_SECONDS, hear, window_inputs
from ...core.sampling.inputs import collapse_padding, frame_windows
from ...core.versions import library_versions
from ...core.weights import checkpoints
from ...core.weights.checkpoints import Checkpoint
from ...core.weights.streamed import stream_transformer
from ...quantize.recipes import WeightRecipe
from ...targets.bars import precision_of, thresholds_for
from ...targets.executorch.backends import BACKENDS, backend
from ...targets.executorch.blockwise import Request as BlockwiseRequest
from ...targets.executorch.blockwise import Way, lower_denoise, lower_encode_conditions
from ...targets.executorch.half_products import Products, multiplies_bfloat16
from ...targets.executorch.lower import DATA_SUFFIX, SUFFIX, Compiled, Lowered, lower_program, write_programs
from ...targets.executorch.program_file import ProgramFile
from ...targets.rewrites.hoist import savings
from .forecast import CALIBRATION_STEPS, condition_bytes, disk_bytes, needs, step_activations
from .jobs import Done, Progress, Task, Workshop, record_path
from .nano import STEP_TABLES, method_records, require_parity, step_tables

DECODERS: dict[str, ComponentName] = {"full": "vae", "tiny": "tiny_vae"}
LAYOUTS = ("separate", "one")
TEXT_ROWS = 64  # rows of a collapsed prompt: 63 tokens and the padding
KEPT_ELEMENTS = 1 << 18  # of an output that is recorded; of larger ones every n-th element
DATA_ALIGNMENT = 16  # of a constant in a data file, as XNNPACK wants it
ONE_FILE = "model"
_COMPONENTS: tuple[ComponentName, ...] = ("transformer", "vae", "clip", "wav2vec2")


@dataclass(frozen=True)
class ReleasedExport:
    """What to compile. `clips`: the shapes, the main one first; programs of further shapes share the main one's weights. `prompts`:
    packs of prompt embeddings that travel in the bundle. `layout`: a file for each program, or one for all. `decoders`: full, tiny
    or both. `way`: how the transformer's blocks are compiled (see `blockwise`); `products`: the type of products between
    activations (see `half_products`); `context_seconds`: what the speech encoder reads on either side of what is kept."""

    checkpoint: str
    model: str | None
    sizes: Architecture
    clips: tuple[ClipSpec, ...]
    plan: SamplingPlan
    recipe: WeightRecipe
    backend: str = "xnnpack"
    decoders: tuple[str, ...] = ("full", "tiny")
    layout: str = "separate"
    text_rows: int = TEXT_ROWS
    way: Way = "auto"
    products: Products = "fp32"
    context_seconds: float = CONTEXT_SECONDS
    prompts: Mapping[str, Any] = field(default_factory=dict)  # {prompt: rows [L, text_dim]}
    portraits: tuple[Any, ...] = ()  # of each clip shape, [3, H, W] in [-1, 1], for the recorded calls
    speeches: tuple[Any, ...] = ()  # of each clip shape, [n] at its rate, one clip long

    def __post_init__(self) -> None:
        for name in self.decoders:
            if name not in DECODERS:
                raise ConfigError(f"There is no decoder {name!r}. Choose from: {', '.join(DECODERS)}.")
        if self.layout not in LAYOUTS:
            raise ConfigError(f"layout is {self.layout!r}. Choose from: {', '.join(LAYOUTS)}.")
        if self.layout == "one" and len(self.clips) > 1:
            raise ConfigError("One file holds the programs of one clip shape. Take --layout separate for several shapes.")
        if not self.decoders or any(len(set(given)) != len(given) for given in (self.decoders, self.clips)):
            raise ConfigError("At least one decoder is needed, and every decoder and clip shape once.")
        pictures = [np.shape(portrait) for portrait in self.portraits]
        if pictures != [(3, clip.height, clip.width) for clip in self.clips]:
            raise ConfigError(f"Portraits are {pictures}; every clip shape needs one of its own size, [3, height, width].")
        sounds = [np.shape(speech) for speech in self.speeches]
        if sounds != [(clip.frames * clip.samples_per_frame,) for clip in self.clips]:
            raise ConfigError(f"Speeches are {sounds}; every clip shape needs one of its own length, frames × samples of a frame.")
        chosen = backend(self.backend)
        chosen.check_weights({rule.weights for rule in self.recipe.rules} or {"fp32"})
        check_number("context_seconds", self.context_seconds, 0.1, 30.0)
        if self.products == "bf16" and (self.backend != "xnnpack" or not multiplies_bfloat16()):
            raise ConfigError(
                "products are 'bf16', which is for XNNPACK on processors that multiply bfloat16, as this one would have to for the "
                "proof. Choose fp32."
            )
        if self.recipe.needs_samples and not chosen.executed:
            raise ConfigError(f"The recipe {self.recipe.name!r} is fitted to data, which goes with the backend xnnpack.")

    def label(self, name: str, shape: int) -> str:
        """What `name` is called for the clip shape of that index."""
        return shaped_name(name, self.clips[shape]) if shape else name

    def opened(self) -> Checkpoint:
        return Checkpoint.open(self.checkpoint, self.model)

    @property
    def hearing(self) -> Hearing:
        """How a player hears with the audio encoder's program."""
        context = round(self.context_seconds * self.clips[0].fps)
        return hearing_for(self.sizes.transformer, self.sizes.wav2vec2, context)

    @property
    def external(self) -> bool:
        """Whether weights lie in data files, which programs of several shapes share."""
        return len(self.clips) > 1


# ---- 1. Source ------------------------------------------------------------------------------------------------------------------


def source_hashes(request: ReleasedExport) -> dict[str, str]:
    """SHA-256 of what each component's programs are made from: of its files, in the order in which they are read."""
    checkpoint, found = request.opened(), {}
    wanted = [*_COMPONENTS, *(["tiny_vae"] if "tiny" in request.decoders else [])]
    for name in wanted:
        layout = request.sizes.layout(name)  # type: ignore[arg-type]
        assert layout is not None
        account = checkpoint.account(name, layout)  # type: ignore[arg-type]
        if account.status != "complete":
            raise CheckpointError(account.complaint())
        used = [path for path in account.files if account.origins.get(path)]
        digest = hashlib.sha256("".join(f"{file_sha256(path)}\n" for path in used).encode())
        found[str(name)] = digest.hexdigest()
    return found


# ---- 2. Reference ---------------------------------------------------------------------------------------------------------------


def _load(request: ReleasedExport, name: str) -> Any:
    checkpoint, sizes = request.opened(), request.sizes
    loaders: dict[str, Callable[[], Any]] = {
        "vae": lambda: checkpoints.load_vae(checkpoint, config=sizes.transformer.vae),
        "tiny_vae": lambda: checkpoints.load_tiny_vae(checkpoint, config=sizes.tiny_vae),
        "clip": lambda: checkpoints.load_image_encoder(checkpoint, config=sizes.clip),
        "wav2vec2": lambda: checkpoints.load_speech_encoder(checkpoint, config=sizes.wav2vec2),
    }
    return loaders[name]()


def _program(request: ReleasedExport, name: str, clip: ClipSpec) -> EntryPoints:
    """A program that is not one of the transformer's."""
    makers: dict[str, Callable[[], EntryPoints]] = {
        "audio_encoder": lambda: audio_encoder_program(
            _load(request, "wav2vec2"), clip, request.sizes.transformer.variant, request.hearing.context_frames
        ),
        "image_encoder": lambda: image_encoder_program(_load(request, "clip"), clip),
        "vae_encode": lambda: vae_encode_program(_load(request, "vae"), clip),
        "vae_decode": lambda: vae_decode_program(_load(request, "vae"), clip),
        "tiny_decode": lambda: vae_decode_program(_load(request, "tiny_vae"), clip),
    }
    return makers[name]()


def shape_folder(request: ReleasedExport, folder: Path, shape: int) -> Path:
    """Where what is recorded of a clip shape lies."""
    clip = request.clips[shape]
    own = folder / f"{clip.height}x{clip.width}x{clip.frames}"
    own.mkdir(exist_ok=True)
    return own


def _save_golden(golden: Golden, folder: Path, name: str) -> dict[str, Any]:
    from safetensors.numpy import save_file

    save_file(golden.tensors, folder / f"golden-{name}.safetensors")
    (folder / f"golden-{name}.json").write_text(json.dumps(golden.index))
    return {}


def _read_golden(folder: Path, name: str) -> Golden:
    from safetensors.numpy import load_file

    return Golden(load_file(folder / f"golden-{name}.safetensors"), json.loads((folder / f"golden-{name}.json").read_text()))


def _outputs(program: EntryPoints, method: str, *inputs: Any) -> list[Any]:
    return [tensor.numpy() for tensor in program[method].run(*(torch.as_tensor(value) for value in inputs))]


def record_encoders(request: ReleasedExport, folder: Path, shape: int = 0) -> dict[str, Any]:
    """Calls of the audio, image and video encoders on the portrait and the speech, and what the condition encoding reads."""
    clip, golden, folder = request.clips[shape], Golden(), shape_folder(request, folder, shape)
    np.save(folder / "audio_encoder.npy", _record_voice(request, shape, golden))
    given = request.portraits[shape][None]
    outputs = _outputs(_program(request, "image_encoder", clip), "forward", given)
    golden.add_call(request.label("image_encoder", shape), "forward", [given], outputs, KEPT_ELEMENTS)
    np.save(folder / "image_encoder.npy", outputs[0])
    program, label = _program(request, "vae_encode", clip), request.label("vae_encode", shape)
    latents: list[Any] = []

    def encode(video: torch.Tensor) -> torch.Tensor:
        """As a player does, the first frame alone, then four at a time; but only two chunks: of what is known nothing is later."""
        state: list[Any] = []
        for index, chunk in enumerate([video[:, :1], *([video[:, 1 : 1 + TEMPORAL_STRIDE]] if video.shape[1] > 1 else ())]):
            method = "next" if index else "first"
            result, *kept = _outputs(program, method, chunk, *state)
            given = [chunk.numpy(), *(Given(label, "first", 0, 1 + i) for i in range(len(state)))]
            golden.add_call(label, method, given, [result, *[None] * len(kept)], KEPT_ELEMENTS)
            state = kept
            latents.append(result)
        return torch.from_numpy(np.concatenate([latents[0], *[latents[-1]] * (clip.latent_frames - 1)], 2))

    video = torch.zeros(clip.frames, 3, clip.height, clip.width)
    video[0] = torch.from_numpy(request.portraits[shape])
    mask = task_mask(frozenset({SoupTask.I2V, SoupTask.A2V}), clip)
    y = condition_latents(video, mask, clip, encode, request.sizes.transformer.encode_unknown)
    np.save(folder / "y.npy", y.numpy())
    return _save_golden(golden, folder, "encoders")


def _record_voice(request: ReleasedExport, shape: int, golden: Golden) -> Any:
    """Rows of features that the clip's speech has; records the calls that hear it: repeated, so that it fills a reading, and alone,
    which leaves most of one empty."""
    clip, speech, hearing = request.clips[shape], request.speeches[shape], request.hearing
    program = _program(request, "audio_encoder", clip)

    def run(inputs: Sequence[Any]) -> Any:
        outputs = _outputs(program, "forward", *inputs)
        golden.add_call(request.label("audio_encoder", shape), "forward", inputs, outputs, KEPT_ELEMENTS)
        return outputs[0][0]

    samples = program["forward"].inputs["waveform"].shape[1]
    frames = samples // clip.samples_per_frame - hearing.tail_frames
    hear(np.resize(speech, samples), frames, clip.samples_per_frame, samples, hearing, run)
    return hear(speech, clip.frames, clip.samples_per_frame, samples, hearing, run)


@torch.no_grad()
def record_step(request: ReleasedExport, folder: Path, shape: int = 0) -> dict[str, Any]:
    """The condition encoding and one denoising step in full precision; the conditions stay in the folder for the proof, and, where
    rounding looks at data, what each block is given in a few steps of the main shape: shapes share weights."""
    clip, plan, config = request.clips[shape], request.plan, request.sizes.transformer
    folder, encode = shape_folder(request, folder, shape), request.label("encode_conditions", shape)
    dit, golden = stream_transformer(request.opened(), config), Golden()
    y, image = np.load(folder / "y.npy"), np.load(folder / "image_encoder.npy")
    heard, hearing = np.load(folder / "audio_encoder.npy"), request.hearing
    heard = frame_windows(heard[None], hearing.neighbours)[0] if hearing.neighbours else heard
    rows, bias = _prompt(request)
    inputs = [y, rows, image, *window_inputs(heard, hearing, clip.latent_frames)]
    conditions = dit.encode_conditions(*(torch.from_numpy(value) for value in inputs))
    outputs = [getattr(conditions, name).numpy() for name in CONDITION_INPUTS]
    for name, value in zip(CONDITION_INPUTS, outputs, strict=True):
        np.save(folder / f"condition-{name}.npy", value)
    golden.add_call(encode, "forward", inputs, outputs, KEPT_ELEMENTS)

    tables, step = step_tables(dit, plan), plan.steps // 2
    given = Conditions(**{name: getattr(conditions, name) for name in CONDITION_INPUTS}, text_bias=torch.from_numpy(bias),
                       audio_mask=torch.ones(1, clip.tokens_per_frame))  # fmt: skip
    latents = noise(plan.noise.seed, (config.latent_channels, clip.latent_frames, clip.latent_height, clip.latent_width))[None]
    modality = plan.modality(step, clip.latent_frames)[None]
    time, modulation = tables["time"][step : step + 1], tables["modulation"][step : step + 1]
    x, t, m, w = (torch.from_numpy(value) for value in (latents, time, modulation, modality))
    velocity, residual = dit.denoise_keeping(x, t, m, w, given)
    sources: list[Any] = [latents, time, modulation, modality]
    for name in Conditions.names():
        made = name in CONDITION_INPUTS
        sources.append(Given(encode, "forward", 0, CONDITION_INPUTS.index(name)) if made else getattr(given, name).numpy())
    results = [velocity.numpy(), *([residual.numpy()] if _keeps_residual(plan) else [])]
    golden.add_call(request.label("denoise", shape), "forward", sources, results, KEPT_ELEMENTS)
    if request.recipe.needs_samples and not shape:
        _record_calls(dit, clip, plan, tables, given, folder)
    return _save_golden(golden, folder, "step")


def record_decoders(request: ReleasedExport, folder: Path, shape: int = 0) -> dict[str, Any]:
    """The first two latent frames of a clip of noise through each decoder."""
    clip, golden = request.clips[shape], Golden()
    size = (request.sizes.transformer.latent_channels, clip.latent_frames, clip.latent_height, clip.latent_width)
    latents = noise(request.plan.noise.seed + 1, size)[None]
    for decoder in request.decoders:
        name = DECODE_PROGRAMS[decoder]
        program, label, state = _program(request, name, clip), request.label(name, shape), []  # type: ignore[var-annotated]
        for index, method in enumerate(program):
            chunk = np.ascontiguousarray(latents[:, :, index : index + 1])
            video, *kept = _outputs(program, method, chunk, *state)
            given: list[Any] = [chunk, *(Given(label, "first", 0, 1 + i) for i in range(len(state)))]
            golden.add_call(label, method, given, [video, *[None] * len(kept)], KEPT_ELEMENTS)
            state = kept
    return _save_golden(golden, shape_folder(request, folder, shape), "decoders")


def _keeps_residual(plan: SamplingPlan) -> bool:
    return any(any(row) for row in plan.reuse)


def _prompt(request: ReleasedExport) -> tuple[Any, Any]:
    """Rows [1, text_rows, text_dim] and bias of the bundle's first prompt; without one, of an empty text."""
    config = request.sizes.transformer
    embedding = np.zeros((1, config.text_dim), np.float32)
    if request.prompts:
        embedding = np.asarray(next(iter(request.prompts.values())), np.float32)
    rows, bias = collapse_padding(embedding, config.text_len, request.text_rows)
    return rows[None], bias[None]


@torch.no_grad()
def _record_calls(dit: DiT, clip: ClipSpec, plan: SamplingPlan, tables: Mapping[str, Any], given: Conditions, folder: Path) -> None:
    """What goes into each block at steps spread over the plan, from noise: the tokens, in files by block and step."""
    steps = sorted({round(i * (plan.steps - 1) / max(1, CALIBRATION_STEPS - 1)) for i in range(CALIBRATION_STEPS)})
    shape = (1, dit.config.latent_channels, clip.latent_frames, clip.latent_height, clip.latent_width)
    rope = dit.rope(torch.empty(shape))
    tokens = {step: dit.embed(torch.from_numpy(noise(step, shape[1:])[None]), given) for step in steps}
    for index, block in enumerate(dit.blocks):
        for step in steps:
            np.save(folder / f"block-{index}-step-{step}.npy", tokens[step].numpy())
            modulation = torch.from_numpy(tables["modulation"][step : step + 1])
            weights = _weights(plan, step, clip, given)
            tokens[step] = block(tokens[step], modulation, rope, given.layer(index), weights)


def _weights(plan: SamplingPlan, step: int, clip: ClipSpec, given: Conditions) -> tuple[torch.Tensor, ...]:
    modality = torch.from_numpy(plan.modality(step, clip.latent_frames)[None])
    text, image, audio = (modality[:, i].view(1, -1, 1, 1) for i in range(3))
    return text, image, audio * given.audio_mask.view(1, 1, -1, 1)


def recorded_calls(request: ReleasedExport, folder: Path, dit: DiT) -> Callable[[int], Sequence[Sequence[Any]]]:
    """The calibration calls of a block, read back."""
    if not request.recipe.needs_samples:
        return lambda _: ()
    clip, plan, folder = request.clips[0], request.plan, shape_folder(request, folder, 0)
    tables = step_tables(dit, plan)
    shape = (1, dit.config.latent_channels, clip.latent_frames, clip.latent_height, clip.latent_width)
    rope = dit.rope(torch.empty(shape))
    golden = _read_golden(folder, "step")
    call = golden.index["programs"]["denoise"]["forward"][0]["inputs"]
    stored = dict(zip(Conditions.names(), call[4:], strict=True))

    def value(name: str) -> torch.Tensor:
        if name in CONDITION_INPUTS:
            return torch.from_numpy(np.load(folder / f"condition-{name}.npy", mmap_mode="c"))
        return torch.from_numpy(golden.tensors[stored[name]])

    given = Conditions(**{name: value(name) for name in Conditions.names()})

    def calls(index: int) -> Sequence[Sequence[Any]]:
        found = []
        for path in sorted(folder.glob(f"block-{index}-step-*.npy")):
            step = int(path.stem.rsplit("-", 1)[1])
            modulation = torch.from_numpy(tables["modulation"][step : step + 1])
            layer: LayerConditions = given.layer(index)
            found.append((torch.from_numpy(np.load(path)), modulation, rope, layer, _weights(plan, step, clip, given)))
        return found

    return calls


# ---- 3. Programs ----------------------------------------------------------------------------------------------------------------


def program_names(request: ReleasedExport) -> tuple[str, ...]:
    """The programs of one clip shape, in the order in which a player runs them."""
    decode = tuple(DECODE_PROGRAMS[name] for name in request.decoders)
    return ("audio_encoder", "image_encoder", "vae_encode", "encode_conditions", "denoise", *decode)


def _lower(request: ReleasedExport, folder: Path, name: str, clip: ClipSpec) -> tuple[Lowered, list[str], dict[str, Method]]:
    """A program in the backend's hands, what there is to say of how it got there, and its methods."""
    said: list[str] = []
    external = name if request.external else None
    if name not in ("denoise", "encode_conditions"):
        program = _program(request, name, clip)
        recipe_name = "vae_decode" if name == "tiny_decode" else name
        lowered = lower_program(recipe_name, program, request.recipe, BACKENDS[request.backend], external, request.products)
        return Lowered(name, lowered.methods, lowered.layers), said, method_records(program)
    dit = stream_transformer(request.opened(), request.sizes.transformer)
    keep = _keeps_residual(request.plan)
    way: Way = request.way if request.backend == "xnnpack" else "plain"
    samples = recorded_calls(request, folder, dit)
    wanted = BlockwiseRequest(
        dit,
        clip,
        request.text_rows,
        request.recipe,
        BACKENDS[request.backend],
        keep,
        way,
        external,
        samples,
        said.append,
        request.products,
    )
    if name == "denoise":
        return lower_denoise(wanted), said, method_records(denoise_program(_shapes(request), clip, request.text_rows, keep))
    records = method_records(encode_conditions_program(_shapes(request), clip, request.text_rows))
    return lower_encode_conditions(wanted), said, records


def _shapes(request: ReleasedExport) -> DiT:
    from ...core.model.architecture import skeleton

    return skeleton(DiT, request.sizes.transformer)


def compile_one(request: ReleasedExport, folder: Path, name: str, shape: int) -> dict[str, Any]:
    """Compiles one program for the clip shape of that index to a file of its own."""
    label = request.label(name, shape)
    own = folder / f"compiled-{label}"
    shutil.rmtree(own, ignore_errors=True)  # what a killed run may have left
    own.mkdir()
    lowered, said, methods = _lower(request, folder, name, request.clips[shape])
    (compiled,) = write_programs([lowered], own / f"{label}{SUFFIX}")
    return _compiled_record(compiled, methods, said)


def compile_together(request: ReleasedExport, folder: Path) -> dict[str, Any]:
    """Compiles all programs of the one clip shape into one file."""
    parts = {name: _lower(request, folder, name, request.clips[0]) for name in program_names(request)}
    compiled = write_programs([lowered for lowered, _, _ in parts.values()], folder / f"{ONE_FILE}{SUFFIX}", together=True)
    return {
        name: _compiled_record(result, methods, said)
        for (name, (_, said, methods)), result in zip(parts.items(), compiled, strict=True)
    }


def _compiled_record(compiled: Compiled, methods: Mapping[str, Method], said: Sequence[str]) -> dict[str, Any]:
    return {
        "path": str(compiled.path), "data": str(compiled.data) if compiled.data else None, "prefix": compiled.prefix,
        "delegation": {name: record.model_dump() for name, record in compiled.delegation.items()}, "layers": compiled.layers,
        "methods": {name: record.model_dump(mode="json") for name, record in methods.items()}, "said": list(said),
    }  # fmt: skip


def merge_data(files: Sequence[Path], out: Path) -> None:
    """One data file with everything that `files` hold, each constant once: they are named by their content."""
    from executorch.exir._serialize.data_serializer import DataEntry, DataPayload
    from executorch.extension.flat_tensor.serialize.serialize import (
        FlatTensorHeader,
        FlatTensorSerializer,
        _deserialize_to_flat_tensor,
    )

    buffers: list[bytes] = []
    named: dict[str, DataEntry] = {}
    for path in files:
        with path.open("rb") as file:  # its index alone, then the constants that are new: files are as large as the model
            header = FlatTensorHeader.from_bytes(file.read(8 + FlatTensorHeader.EXPECTED_LENGTH)[8:])
            file.seek(0)
            index = _deserialize_to_flat_tensor(file.read(header.flatbuffer_offset + header.flatbuffer_size))
            for entry in index.named_data:
                if entry.key not in named:
                    named[entry.key] = DataEntry(len(buffers), DATA_ALIGNMENT, entry.tensor_layout)
                    segment = index.segments[entry.segment_index]
                    file.seek(header.segment_base_offset + segment.offset)
                    buffers.append(file.read(segment.size))
    with out.open("wb") as target:
        FlatTensorSerializer().serialize(DataPayload(buffers, named)).write_to_file(target)


def merge_shapes(request: ReleasedExport, folder: Path, name: str) -> dict[str, Any]:
    """The data file that a program's shapes share, as it goes into the bundle; None where no weights lie outside."""
    records = [_compiled(request, folder, name, shape) for shape in range(len(request.clips))]
    files = [Path(record["data"]) for record in records if record["data"]]
    if not files:
        return {"path": None}
    out = folder / f"{name}{DATA_SUFFIX}"
    merge_data(files, out)
    return {"path": str(out)}


def _result(folder: Path, task: str) -> dict[str, Any]:
    """What a task that has ended well returned."""
    return dict(json.loads(record_path(folder, task).read_text())["result"])


def _compiled(request: ReleasedExport, folder: Path, name: str, shape: int) -> dict[str, Any]:
    """What was compiled for a clip shape, with the data file that ships as its `data`."""
    if request.layout == "one":
        return dict(_result(folder, "programs")[name])
    return _result(folder, f"compile {request.label(name, shape)}")


# ---- 4. Proof -------------------------------------------------------------------------------------------------------------------

_GOLDEN_OF = {
    "audio_encoder": "encoders", "image_encoder": "encoders", "vae_encode": "encoders", "encode_conditions": "step",
    "denoise": "step", "vae_decode": "decoders", "tiny_decode": "decoders",
}  # fmt: skip


def prove(request: ReleasedExport, folder: Path, name: str, shape: int = 0) -> dict[str, Any]:
    """Runs a compiled program on the recorded calls of its shape, from the files that ship, and refuses one that computes something
    else.

    What other programs make is taken from the record, in full precision: each program is judged alone.
    """
    own, label = shape_folder(request, folder, shape), request.label(name, shape)
    golden, record = _read_golden(own, _GOLDEN_OF[name]), _compiled(request, folder, name, shape)
    if not BACKENDS[request.backend].executed:
        return {"figures": None, "delegates": check_structure(Path(record["path"]), BACKENDS[request.backend].identifier)}
    data = _result(folder, f"data of {name}")["path"] if record["data"] else None
    file = ProgramFile(Path(record["path"]), Path(data) if data else None)

    def given(source: Given) -> Any:
        return np.load(own / f"condition-{CONDITION_INPUTS[source.output]}.npy", mmap_mode="c")

    def run(program: str, method: str, inputs: Sequence[Any]) -> list[Any]:
        outputs = file.run(record["prefix"] + method, inputs, golden.used(program, method))
        file.release()
        return outputs

    found = compare(golden, run, [label], given)[label]
    require_parity(label, found, thresholds_for({label: record["layers"]}, precision_of(request.backend, request.products))[label])
    return {"figures": found.model_dump()}


def check_structure(path: Path, identifier: str) -> int:
    """That the file is a program whose delegates are this backend's. Returns how many there are."""
    from executorch.exir._serialize import _deserialize_pte_binary

    program = _deserialize_pte_binary(path.read_bytes()).program
    found = [delegate.id for plan in program.execution_plan for delegate in plan.delegates]
    if not found or set(found) != {identifier}:
        raise ExportError(
            f"{path.name} has delegates of {', '.join(sorted(set(found))) or 'no backend'}, not of {identifier} alone."
        )
    return len(found)


# ---- 5. Bundle ------------------------------------------------------------------------------------------------------------------


def workshop_folder(out: Path) -> Path:
    """Where the work on a bundle lies until it is finished."""
    out = Path(os.path.abspath(out))
    return out.with_name(f".{out.name}.work")


def request_key(request: ReleasedExport, sources: Mapping[str, str]) -> str:
    """What a compiled program depends on; two requests with one key may share their work."""
    content = {
        "sources": dict(sources), "config": request.sizes.transformer.to_dict(), "clips": [asdict(clip) for clip in request.clips],
        "plan": request.plan.to_json(), "recipe": request.recipe.model_dump(), "backend": request.backend, "layout": request.layout,
        "decoders": request.decoders, "text_rows": request.text_rows, "way": request.way, "products": request.products,
        "hearing": request.hearing.model_dump(),
        "versions": library_versions(),
        "prompts": {name: hashlib.sha256(np.asarray(rows).tobytes()).hexdigest() for name, rows in request.prompts.items()},
        "portraits": [hashlib.sha256(np.asarray(portrait).tobytes()).hexdigest() for portrait in request.portraits],
        "speeches": [hashlib.sha256(np.asarray(speech).tobytes()).hexdigest() for speech in request.speeches],
    }  # fmt: skip
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def tasks_of(request: ReleasedExport) -> list[Task]:
    """What has to be done, and after what."""
    tasks = []
    fitted = ("reference of the step",) if request.recipe.needs_samples else ()
    for shape, clip in enumerate(request.clips):
        need = _needs(request, clip)
        references = {kind: request.label(f"reference of the {kind}", shape) for kind in ("encoders", "step", "decoders")}
        for kind, work in (("encoders", record_encoders), ("step", record_step), ("decoders", record_decoders)):
            before = (references["encoders"],) if kind == "step" else ()
            recording = partial(work, shape=shape)
            tasks.append(Task(references[kind], "reference", recording, need[f"reference of the {kind}"], before))
        for name in program_names(request):
            label, made = request.label(name, shape), "programs"
            if request.layout == "separate":
                made, after = f"compile {label}", fitted if name == "denoise" else ()
                tasks.append(Task(made, "programs", partial(compile_one, name=name, shape=shape), need[name], after))
            data = (f"data of {name}",) if request.external else ()
            after = (made, references[_GOLDEN_OF[name]], *data)
            proving = partial(prove, name=name, shape=shape)
            tasks.append(Task(f"proof of {label}", "proof", proving, need[f"proof of {name}"], after))
    need = _needs(request, request.clips[0])
    if request.layout == "one":
        tasks.append(Task("programs", "programs", compile_together, need["programs"], fitted))
    for name in program_names(request) if request.external else ():
        every = tuple(f"compile {request.label(name, shape)}" for shape in range(len(request.clips)))
        tasks.append(Task(f"data of {name}", "programs", partial(merge_shapes, name=name), need[f"data of {name}"], every))
    return sorted(tasks, key=lambda task: (len(task.after) > 0, -task.need.total))


def disk_needed(request: ReleasedExport) -> int:
    """Bytes of the workshop and of the bundle beside it, when both are whole."""
    decoders = [DECODE_PROGRAMS[name] for name in request.decoders]
    return disk_bytes(request.sizes, request.clips, request.recipe, request.text_rows, decoders, request.external)


def _needs(request: ReleasedExport, clip: ClipSpec) -> dict[str, Need]:
    return needs(request.sizes, clip, request.recipe, request.text_rows, [DECODE_PROGRAMS[name] for name in request.decoders])


def export_released(
    request: ReleasedExport,
    out: Path,
    progress: Progress,
    force: bool = False,
    jobs: int = 2,
    budget: int | None = None,
    warn: Callable[[str], None] = print,
) -> Manifest:
    """Writes the bundle `out`. `jobs` processes at once, as far as `budget` bytes of memory allow (all that is free, by default).

    Raises:
        OutputError, ResourceError: `out` exists or cannot be written; disk or memory is short.
        CheckpointError: a component is missing or not what it should be.
        ExportError: a program could not be compiled, a backend took too little of it, or its file computes something else.
    """
    check_folder(out, force, marker=MANIFEST)  # the bundle's own folder is made last: a kill leaves the workshop and nothing else
    place = workshop_folder(out)
    require_free_disk(place, max(0, disk_needed(request) - folder_bytes(place)))
    sources = source_hashes(request)
    workshop = Workshop(place, request_key(request, sources), jobs, available_memory() if budget is None else budget)
    with workshop:
        done = workshop.run(tasks_of(request), request, progress)
        manifest = _write_bundle(request, sources, workshop, done, out, force, warn)
        workshop.remove()
    return manifest


def _write_bundle(
    request: ReleasedExport,
    sources: Mapping[str, str],
    workshop: Workshop,
    done: Mapping[str, Done],
    out: Path,
    force: bool,
    warn: Callable[[str], None],
) -> Manifest:
    """Everything that the tasks have made, under the bundle's name."""
    programs, data = _records(request, done), _shared_data(request, done)
    needed = sum(path.stat().st_size for path in {*data.values(), *(Path(record["path"]) for record in programs.values())})
    with BundleWriter(out, force, expected_bytes=needed) as writer:
        for record in programs.values():
            for line in record["said"]:
                warn(line)
        dit = stream_transformer(request.opened(), request.sizes.transformer)
        writer.add_bytes("plan.json", request.plan.to_json().encode())
        writer.add_tensors(STEP_TABLES, step_tables(dit, request.plan))
        del dit
        golden = Golden()
        for shape in range(len(request.clips)):
            for part in ("encoders", "step", "decoders"):
                golden.merge(_read_golden(shape_folder(request, workshop.folder, shape), part))
        writer.add_tensors(GOLDEN, golden.tensors)
        writer.add_json(GOLDEN_INDEX, golden.index)
        if request.prompts:
            packs = {name: np.asarray(rows, np.float32) for name, rows in request.prompts.items()}
            writer.add_tensors("prompts/prompts.safetensors", packs)
        for path in data.values():
            writer.add_file(f"programs/{path.name}", path)
        shapes = range(len(request.clips))
        for name, label in ((name, request.label(name, shape)) for shape in shapes for name in program_names(request)):
            record = programs[label]
            methods = {key: Method.model_validate(value) for key, value in record["methods"].items()}
            delegation = {key: Delegation.model_validate(value) for key, value in record["delegation"].items()}
            shared = f"programs/{data[name].name}" if record["data"] else None
            writer.add_program(label, record["path"], methods, delegation, record["prefix"], shared)
        recipe = json.loads(request.recipe.model_dump_json())
        measured = {
            label: Figures.model_validate(result)
            for label in programs
            if (result := done[f"proof of {label}"].result["figures"]) is not None
        }
        layers = {label: record["layers"] for label, record in programs.items()}
        precision = precision_of(request.backend, request.products)
        return writer.finish(
            model=ModelRecord.of(request.sizes.transformer, _digest(sources)),
            clip=ClipRecord.of(request.clips[0]),
            other_clips=[ClipRecord.of(clip) for clip in request.clips[1:]],
            target="executorch",
            backend=request.backend,
            hearing=request.hearing,
            weights=Recipe(name=recipe.pop("name"), settings={**recipe, "layers": layers, "sources": sources}),  # type: ignore[dict-item]
            versions=library_versions(),
            parity=Parity(thresholds=thresholds_for(layers, precision), measured=measured),
            precision=precision,
            memory=_memory(request, {name: record["methods"] for name, record in programs.items()}, done, workshop.peak_bytes),
            savings=savings(request.sizes.transformer, request.clips[0], request.plan, request.text_rows),
        )


def _digest(sources: Mapping[str, str]) -> str:
    return hashlib.sha256("".join(f"{name} {value}\n" for name, value in sorted(sources.items())).encode()).hexdigest()


def _records(request: ReleasedExport, done: Mapping[str, Done]) -> dict[str, dict[str, Any]]:
    """What was compiled, by the program's name in the bundle."""
    if request.layout == "one":
        return dict(done["programs"].result)
    labels = [request.label(name, shape) for shape in range(len(request.clips)) for name in program_names(request)]
    return {label: done[f"compile {label}"].result for label in labels}


def _shared_data(request: ReleasedExport, done: Mapping[str, Done]) -> dict[str, Path]:
    """By program, the data file that its shapes share, which their proofs have read."""
    names = program_names(request) if request.external else ()
    return {name: Path(path) for name in names if (path := done[f"data of {name}"].result["path"])}


def _memory(request: ReleasedExport, methods: Mapping[str, Any], done: Mapping[str, Done], peak: int) -> dict[str, Any]:
    """Bytes that a player holds beside the programs' weights, and what the export took. `methods`: of the main shape's programs."""

    def state(name: str) -> int:
        inputs = methods[name].get("next", {"inputs": ()})["inputs"]
        return sum(4 * math.prod(spec["shape"]) for spec in inputs if spec["name"].startswith("state_"))

    clip, config = request.clips[0], request.sizes.transformer
    latents = 4 * config.latent_channels * clip.latent_frames * clip.latent_height * clip.latent_width
    return {
        "conditions_bytes_per_branch": condition_bytes(request.sizes, clip, request.text_rows),
        "latents_bytes": latents,
        "step_bytes": step_activations(config, clip),
        **{
            f"{name}_state_bytes": state(name)
            for name in program_names(request)
            if name in ("vae_encode", *DECODE_PROGRAMS.values())
        },
        "export_peak_bytes": peak,
        "export_peak_bytes_by_task": {name: task.peak_bytes for name, task in done.items()},
        "export_seconds_by_task": {name: round(task.seconds, 1) for name, task in done.items()},
    }
