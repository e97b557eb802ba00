"""A player that does what docs/BUNDLE.md says, with numpy alone, plays bundles to the bits of our own."""

from __future__ import annotations

import ast
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from echoedge.core.bundle import Bundle, BundleWriter, ClipRecord, Method, ModelRecord, TargetRecord, TensorSpec, WeightsRecord
from echoedge.core.bundle.manifest import PlayingRecord
from echoedge.core.config import ClipSpec, Variant
from echoedge.core.errors import EngineError
from echoedge.core.model.programs import EntryPoint
from echoedge.core.plan import SamplingPlan, WindowRule, noise
from echoedge.core.plan.phases import Phase
from echoedge.core.plan.samplers import AudioGuidance, PlanOptions, TextAudioGuidance, build_plan
from echoedge.core.weights.source import OF_EVERY_SHAPE, CheckpointSource, Making, SourcePrograms, unit
from echoedge.runtime.engines.base import Engine
from echoedge.runtime.engines.executorch import ExecuTorchEngine
from echoedge.runtime.engines.torch import TorchEngine
from echoedge.runtime.export.record import step_tables
from echoedge.runtime.play.player import Player, PlayerConfig

from ..core.tiny_checkpoint import playable_sizes
from . import player as stranger

SOURCE = Path(stranger.__file__)
CLIP = ClipSpec(height=32, width=32, frames=9)
PROMPT = "a woman speaks"
ROWS = 6  # of a prompt, of the 12 that the toy models read
CONTEXT = 6  # video frames

Played = tuple[np.ndarray, np.ndarray]


def portrait() -> np.ndarray:
    return np.random.default_rng(1).uniform(-1, 1, (3, CLIP.height, CLIP.width)).astype(np.float32)


def voice(frames: float) -> np.ndarray:
    count = round(frames * CLIP.samples_per_frame)
    rng = np.random.default_rng(2)
    return (0.2 * rng.standard_normal(count) * np.abs(np.sin(np.arange(count) / 900))).astype(np.float32)


def ours(folder: Path, engine: Engine, speech: np.ndarray, prompt: str, seed: int) -> Played:
    player = Player(PlayerConfig.of(Bundle.open(folder)), engine)
    made = player.generate(portrait(), speech, prompt, seed)
    return made.latents, np.stack(list(player.frames_of(made)))


def theirs(folder: Path, engine: Engine, speech: np.ndarray, prompt: str, seed: int) -> Played:
    latents, frames = stranger.Player(folder, engine.run).play(portrait(), speech, prompt, seed)
    return latents, frames


def same(one: Played, other: Played) -> bool:
    return all(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in zip(one, other, strict=True))


def changed(folder: Path, copy: Path, name: str, change: Callable[[Any], None]) -> Path:
    """A copy of a bundle whose `name` says something else."""
    shutil.copytree(folder, copy)
    data = json.loads((copy / name).read_text())
    change(data)
    (copy / name).write_text(json.dumps(data))
    return copy


# ---- the player itself -----------------------------------------------------------------------------------------------------------


def imported(source: str) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add("." * node.level + (node.module or "").split(".")[0])
    return found


def test_the_player_is_short_and_needs_numpy_alone() -> None:
    source = SOURCE.read_text()
    assert len(source.splitlines()) <= 150
    assert max(map(len, source.splitlines())) <= 132
    assert imported(source) <= {"numpy", *sys.stdlib_module_names}
    assert not {'"config"', '"variant"', "flash", "preview", "nano"} & {word for word in source.replace("[", " ").split()}


def test_imports_are_found_wherever_they_stand() -> None:
    source = "def f():\n    from echoedge.core import plan\n    from . import x\nimport torch.nn"
    assert imported(source) == {"echoedge", ".", "torch"}


@pytest.mark.parametrize("seed", [0, 7, 2**64 - 1])
def test_noise_is_the_same_numbers(seed: int) -> None:
    assert stranger.noise(seed, (3, 5, 3, 7)).tobytes() == noise(seed, (5, 3, 3, 7)).tobytes()
    assert stranger.noise(seed, (3, 5, 3, 7)).tobytes() != noise(seed ^ 1, (5, 3, 3, 7)).tobytes()


# ---- a compiled bundle -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compiled(bundle_path: Path) -> tuple[Path, ExecuTorchEngine, Played]:
    engine = ExecuTorchEngine(Bundle.open(bundle_path))
    return bundle_path, engine, ours(bundle_path, engine, *ARGUMENTS)


def test_a_compiled_bundle_plays_to_the_bit(compiled: tuple[Path, ExecuTorchEngine, Played]) -> None:
    folder, engine, expected = compiled
    plan = Bundle.open(folder).plan()
    assert len(plan.branches) > 1 and expected[1].shape == (16, 32, 32, 3)
    assert same(theirs(folder, engine, *ARGUMENTS), expected)


def test_a_clip_shorter_than_a_window_plays_to_the_bit(compiled: tuple[Path, ExecuTorchEngine, Played]) -> None:
    folder, engine, _ = compiled
    cut_within_a_letter = "große Wortü"  # 13 bytes
    expected = ours(folder, engine, voice(6), cut_within_a_letter, 3)
    assert expected[1].shape == (6, 32, 32, 3)
    assert same(theirs(folder, engine, voice(6), cut_within_a_letter, 3), expected)


ARGUMENTS = (voice(15.5), "große", 3)


def otherwise(
    folder: Path, copy: Path, engine: Engine, expected: Played, arguments: Any, place: tuple[str, ...], value: Any
) -> bool:
    """Whether a bundle whose manifest has `value` at `place` plays other bits, or is refused by its programs."""

    def change(manifest: Any) -> None:
        record = manifest["playing"]
        for key in place[:-1]:
            record = record[key]
        assert record[place[-1]] != value
        record[place[-1]] = value

    other = changed(folder, copy, "manifest.json", change)
    try:
        return not same(theirs(other, engine, *arguments), expected)
    except EngineError:
        return True


@pytest.mark.parametrize(
    ("place", "value"), [(("encode_unknown",), False), (("text_length",), 11), (("pad_id",), 32), (("hearing", "neighbours"), 1)]
)
def test_another_number_plays_something_else(
    compiled: tuple[Path, ExecuTorchEngine, Played], tmp_path: Path, place: tuple[str, ...], value: Any
) -> None:
    folder, engine, expected = compiled
    assert otherwise(folder, tmp_path / "other", engine, expected, ARGUMENTS, place, value)


# ---- bundles of the released models at toy size ----------------------------------------------------------------------------------


def method_of(entry: EntryPoint) -> Method:
    inputs = [TensorSpec(name=n, dtype=str(x.dtype).removeprefix("torch."), shape=tuple(x.shape)) for n, x in entry.inputs.items()]
    outputs = [TensorSpec(name=s.name, dtype=str(s.dtype).removeprefix("torch."), shape=s.shape) for s in entry.output_specs()]
    return Method(inputs=tuple(inputs), outputs=tuple(outputs))


def released_plan(variant: Variant) -> SamplingPlan:
    """Two windows that fade into each other, guidance, a text of its own, speech that comes late, and residuals that are reused."""
    guidance = TextAudioGuidance(text=4.0, audio=2.9, neg_scale=1.5, neg_steps=1) if variant == "preview" else AudioGuidance(2.5)
    options = PlanOptions(
        solver="euler" if variant == "preview" else "unipc", steps=3, guidance=guidance,
        window=WindowRule(length=3, overlap=2, anchor="window" if variant == "preview" else "clip"),
        phases=(Phase(1.0, 0.5, misaligned=0.3),) if variant == "flash" else (),
        texts=(("negative", "a blurred picture"),),
    )  # fmt: skip
    plan = build_plan(options)
    last = [weight != 0 and index == 0 for index, weight in enumerate(plan.guidance[-1])]
    slots = (0,) * len(plan.branches) if variant == "flash" else None
    return plan.model_copy(update={"reuse": (*plan.reuse[:-1], tuple(last)), "residual_slots": slots})


@pytest.fixture(scope="module", params=["preview", "flash"])
def released(request: Any, folders: dict[Variant, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Engine, Played]:
    """A bundle whose programs are run in PyTorch: their files are placeholders."""
    variant: Variant = request.param
    source = CheckpointSource(str(folders[variant]), variant, playable_sizes(variant))
    plan, making = released_plan(variant), Making(ROWS, reuse=True, context_frames=CONTEXT)
    programs = dict(SourcePrograms(source, CLIP, making))
    folder = tmp_path_factory.mktemp("stranger") / f"{variant}.echoedge"
    placeholder = folder.parent / "program"
    rng = np.random.default_rng(5)
    texts = [PROMPT, *plan.texts.values(), ""]
    pack = {text: rng.standard_normal((n, 20)).astype(np.float32) for n, text in enumerate(texts, 3)}
    with BundleWriter(folder) as writer:
        writer.add_bytes("plan.json", plan.to_json().encode())
        writer.add_tensors("step_tables.safetensors", step_tables(source.transformer(), plan))
        writer.add_tensors("prompts/pack.safetensors", pack)
        for role in programs:
            path = placeholder.with_name(f"{role}.bin")
            path.write_text(role)
            shapes = unit(source, role, CLIP, making).methods  # without weights
            methods = {name: method_of(entry) for name, entry in shapes.items()}
            clip = None if role in OF_EVERY_SHAPE else str(CLIP)
            writer.add_program(role, path, role=role, clip=clip, methods=methods, kind="file")
        hearing = source.hearing(CONTEXT)
        writer.finish(
            model=ModelRecord.of(source.config, "0" * 64), clips=[ClipRecord.of(CLIP)], target=TargetRecord(name="torch"),
            weights=WeightsRecord(name="fp32"), versions={},
            playing=PlayingRecord.of(
                source.config, text_rows=ROWS, reads_text=False, hearing=hearing, decoders={"full": "vae_decode"}
            ),
        )  # fmt: skip
    engine = TorchEngine(programs)
    return folder, engine, ours(folder, engine, *SPOKEN)


SPOKEN = (voice(45.3), PROMPT, 11)  # longer than the encoder reads at once


def test_a_released_model_plays_to_the_bit(released: tuple[Path, Engine, Played]) -> None:
    folder, engine, expected = released
    plan = Bundle.open(folder).plan()
    assert len(plan.branches) > 1 and any(any(row) for row in plan.reuse) and expected[1].shape == (46, 32, 32, 3)
    assert any(branch.audio_shift for branch in plan.branches) if folder.stem == "flash" else "negative" in plan.texts
    assert np.isfinite(expected[0]).all() and len(np.unique(expected[1])) > 20
    assert same(theirs(folder, engine, *SPOKEN), expected)
    assert not same(theirs(folder, engine, *SPOKEN[:2], 12), expected)


NUMBERS = [
    (("hearing", "neighbours"), 1),
    (("hearing", "beyond_frames"), 2),
    (("hearing", "tail_frames"), 2),
    (("hearing", "context_frames"), 5),
    (("hearing", "window"), [10, 4]),
    (("encode_unknown",), False),
    (("text_length",), 11),
]


@pytest.mark.parametrize(("place", "value"), NUMBERS)
def test_another_number_plays_a_released_model_otherwise(
    released: tuple[Path, Engine, Played], tmp_path: Path, place: tuple[str, ...], value: Any
) -> None:
    folder, engine, expected = released
    assert otherwise(folder, tmp_path / "other", engine, expected, SPOKEN, place, value)
