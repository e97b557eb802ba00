"""runtime/verify/reactions.py: what ignores an input, or takes it for another, fails the row of that input, though parity on one
prompt, voice and portrait is perfect."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from echoedge.core.bundle import Bundle
from echoedge.core.bundle.golden import GOLDEN, GOLDEN_INDEX, Golden
from echoedge.core.bundle.reactions import AS_GIVEN, INPUTS, Demand, Input, Reactions, change, kept, size
from echoedge.core.config import Variant
from echoedge.core.errors import BundleError
from echoedge.core.model.attention import PROJECTIONS, Modality
from echoedge.core.model.conditions import Conditions
from echoedge.core.model.programs import build_programs
from echoedge.core.plan.samplers import PLAN_PRESETS, AudioGuidance, PlanOptions, build_plan
from echoedge.core.sampling.conditioning import CONDITIONS
from echoedge.quantize.schemes import SCHEMES
from echoedge.runtime.engines import open_engine
from echoedge.runtime.engines.around import Around
from echoedge.runtime.engines.base import Array, Engine
from echoedge.runtime.engines.torch import TorchEngine
from echoedge.runtime.export import record
from echoedge.runtime.export.pack import _without_effect
from echoedge.runtime.play.player import Player, PlayerConfig
from echoedge.runtime.play.reactions import Asked, TwoChunks, asked_of, react, reacting_player
from echoedge.runtime.verify.parity import Verdict, read_golden, verify
from echoedge.runtime.verify.reactions import NO_DEMAND, NOT_RECORDED, Reaction, reactions_of
from echoedge.targets.bars import COMPUTE_REACTIONS, WEIGHT_REACTIONS, reaction_bar

from ..bundles import CLIP, changed_bundle, small_engine, small_model, small_plan
from .test_export_checkpoint import request_for


def found(bundle: Bundle, engine: Engine) -> dict[str, Reaction]:
    return {each.name: each for each in reactions_of(bundle, read_golden(bundle), engine)}


def failed(reactions: dict[str, Reaction]) -> set[str]:
    return {name for name, each in reactions.items() if each.failed}


# ---- what is sound ---------------------------------------------------------------------------------------------------------------


def test_a_compiled_bundle_keeps_what_each_input_changes(bundle: Bundle) -> None:
    """int8; measured: shares 0.985 to 1.011, cosines from 0.9959."""
    reactions = found(bundle, open_engine(bundle))
    assert tuple(reactions) == INPUTS
    for each in reactions.values():
        assert each.passed, each
        assert each.share == pytest.approx(1, abs=0.02)
        assert each.cosine is not None and each.cosine > 0.98
        assert each.demanded == WEIGHT_REACTIONS["int8"]
        assert each.sentence() == ""


def test_full_precision_keeps_all_of_it(bundle: Bundle) -> None:
    for each in found(bundle, small_engine()).values():
        assert (each.share, each.cosine) == (pytest.approx(1, abs=1e-4), pytest.approx(1, abs=1e-6))


def test_each_size_is_that_of_whole_clips_that_begin_so(bundle: Bundle) -> None:
    """The recorded velocity is the one that the player's own loop asks for first."""
    golden = read_golden(bundle)
    recorded = Reactions.of(golden.index, golden.tensors)
    assert recorded is not None

    class First(Around):
        velocity: Array | None = None

        def run(self, program: str, method: str, inputs: Sequence[Array]) -> list[Array]:
            outputs = super().run(program, method, inputs)
            if program == "denoise" and self.velocity is None:
                self.velocity = outputs[0][0]
            return outputs

    for name, changed in ((AS_GIVEN, {}), ("prompt", {"prompt"}), ("voice", {"speech"}), ("seed", {"seed"})):
        engine = First(small_engine())
        told = {each: getattr(recorded.other if each in changed else recorded.given, each) for each in ("prompt", "speech", "seed")}
        portrait, speech = golden.tensors[recorded.given.portrait], golden.tensors[told["speech"]]
        Player(PlayerConfig.of(bundle), engine).generate(portrait, speech, told["prompt"], told["seed"])
        assert engine.velocity is not None
        np.testing.assert_allclose(engine.velocity, golden.tensors[recorded.velocities[name]], atol=1e-5)  # type: ignore[index]


@pytest.mark.parametrize("variant", ["flash", "preview"])
def test_what_is_recorded_in_parts_is_what_a_player_asks(variant: Variant, folders: dict[Variant, Path], tmp_path: Path) -> None:
    """Of a checkpoint, whose encoders and step are recorded by different jobs; with one prompt in the pack beside the empty one."""
    request = request_for(folders[variant], variant)
    encoders = record.record_encoders(request, tmp_path)
    golden = record.record_step(request, tmp_path, encoders).read_golden(tmp_path)
    recorded = Reactions.of(golden.index, golden.tensors)
    assert recorded is not None
    assert recorded.repeated
    assert (recorded.given.prompt, recorded.other.prompt) == request.texts == ("a woman talks", "")
    engine = TorchEngine(record._programs(request, 0))
    config = record._player(
        request, 0, engine.programs, engine, record.step_tables(request.source.transformer(), request.plan)
    ).config
    player = reacting_player(config, engine, recorded.repeated)
    again = react(player, Asked(recorded.step, recorded.branch), *record._both(request), INPUTS)
    for name, velocity in again.items():
        np.testing.assert_allclose(velocity, golden.tensors[recorded.velocities[name]], atol=1e-5)  # type: ignore[index]
        assert name == AS_GIVEN or size(again, name) > 1e-4  # type: ignore[arg-type]


def test_a_pack_of_no_prompts_leaves_none_to_change(folders: dict[Variant, Path]) -> None:
    request = request_for(folders["flash"], prompts={})
    assert request.texts == ("",)
    golden = Golden()
    zeros = np.zeros((1, 1), np.float32)
    record._keep_reactions(request, golden, lambda _, inputs: dict.fromkeys((AS_GIVEN, *inputs), zeros))
    recorded = Reactions.of(golden.index, golden.tensors)
    assert recorded is not None
    assert recorded.unchanged == {"prompt": record.NO_PROMPTS}
    assert set(recorded.velocities) == {AS_GIVEN, *INPUTS} - {"prompt"}


# ---- what ignores an input -------------------------------------------------------------------------------------------------------


@cache
def without(modality: Modality) -> TorchEngine:
    """The small model with zeros for the weights of a modality's keys and values."""
    model = copy.deepcopy(small_model())
    for block in model.dit.blocks:
        for name in PROJECTIONS[modality][:2]:
            for parameter in getattr(block.cross_attn, name).parameters():  # type: ignore[union-attr,operator]
                parameter.data.zero_()
    return TorchEngine(build_programs(model, CLIP, model.config.text_len))


@pytest.mark.parametrize(("modality", "name"), [("text", "prompt"), ("audio", "voice"), ("image", "portrait")])
def test_a_branch_of_zeros_fails_its_row(modality: Modality, name: str, bundle: Bundle) -> None:
    reactions = found(bundle, without(modality))
    assert name in failed(reactions)
    assert abs(reactions[name].share or 0) < 0.1
    others = [each for each in ("prompt", "voice", "portrait") if each != name]
    assert all((reactions[each].share or 0) > 0.5 for each in others)


class Baked(Around):
    """What a program gave in its first call is what it always gives, as where a compiler took an example for a constant."""

    def __init__(self, engine: Engine, program: str) -> None:
        super().__init__(engine)
        self.program, self.baked = program, {}  # type: ignore[var-annotated]

    def run(self, program: str, method: str, inputs: Sequence[Array]) -> list[Array]:
        if program != self.program:
            return super().run(program, method, inputs)
        if method not in self.baked:
            self.baked[method] = super().run(program, method, inputs)
        return self.baked[method]


@pytest.mark.parametrize(
    ("program", "name"),
    [
        ("text_encoder", "prompt"), ("text_conditions", "prompt"), ("image_encoder", "portrait"),
        ("image_conditions", "portrait"), ("patch_conditions", "first frame"),
    ],
)  # fmt: skip
def test_an_input_that_is_baked_in_passes_every_other_row_and_fails_its_own(program: str, name: str, bundle: Bundle) -> None:
    """This is what parity on one prompt does not see: every program, and the clip, equals full precision."""
    verdict = verify(bundle, Baked(small_engine(), program))
    assert not any(row.failed for row in verdict.rows)
    assert not verdict.lipsync.failed
    assert verdict.failed
    assert {each.name for each in verdict.reactions if each.failed} == {name}
    (row,) = (each for each in verdict.reactions if each.failed)
    assert row.share == 0
    assert row.sentence() == (
        f"Another {name} changes the clip too little: of what it changes in full precision 95% are demanded, and 0.0% are kept."
    )


@pytest.mark.parametrize(
    ("program", "name"), [("audio_encoder", "voice"), ("audio_conditions", "voice"), ("vae_encode", "first frame")]
)
def test_what_is_called_several_times_and_baked_in_fails_its_row(program: str, name: str, bundle: Bundle) -> None:
    reactions = found(bundle, Baked(small_engine(), program))
    assert name in failed(reactions)
    assert reactions[name].share == 0


def test_a_player_that_ignores_the_seed_fails_its_row(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    start = Player.start
    monkeypatch.setattr(Player, "start", lambda self, _, latent_frames: start(self, 0, latent_frames))
    assert failed(found(bundle, small_engine())) == {"seed"}


class Noiseless(Around):
    """A denoiser with the first clip's noise in it."""

    latents: Array | None = None

    def run(self, program: str, method: str, inputs: Sequence[Array]) -> list[Array]:
        if program == "denoise":
            self.latents = inputs[0] if self.latents is None else self.latents
            inputs = [self.latents, *inputs[1:]]
        return super().run(program, method, inputs)


def test_a_denoiser_that_reads_no_latents_fails_the_row_of_the_seed(bundle: Bundle) -> None:
    assert failed(found(bundle, Noiseless(small_engine()))) == {"seed"}


class Exchanged(Around):
    """An encoder that gives for each of two inputs what belongs to the other."""

    def __init__(self, engine: Engine, program: str, pair: Sequence[Array]) -> None:
        super().__init__(engine)
        self.program, self.pair = program, pair

    def run(self, program: str, method: str, inputs: Sequence[Array]) -> list[Array]:
        if program == self.program:
            inputs = [self.pair[np.array_equal(inputs[0], self.pair[0])], *inputs[1:]]
        return super().run(program, method, inputs)


def test_a_port_that_takes_one_input_for_the_other_fails(bundle: Bundle) -> None:
    """It reacts as much as it should, and the wrong way: a ratio of sizes would pass it."""
    golden = read_golden(bundle)
    recorded = Reactions.of(golden.index, golden.tensors)
    assert recorded is not None
    pair = [golden.tensors[each.portrait][None] for each in (recorded.given, recorded.other)]
    reactions = found(bundle, Exchanged(small_engine(), "image_encoder", pair))
    assert "portrait" in failed(reactions)
    assert reactions["portrait"].share == pytest.approx(-1, abs=1e-4)
    assert "changes the clip the wrong way" in reactions["portrait"].sentence()


class Broken(Around):
    def run(self, program: str, method: str, inputs: Sequence[Array]) -> list[Array]:
        outputs = super().run(program, method, inputs)
        return [np.full_like(output, np.nan) for output in outputs] if program == "denoise" else outputs


def test_not_a_number_keeps_nothing(bundle: Bundle) -> None:
    reactions = found(bundle, Broken(small_engine()))
    assert failed(reactions) == set(INPUTS)
    json.dumps([each.to_dict() for each in reactions.values()], allow_nan=False)


# ---- what is not judged ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def index(bundle: Bundle) -> dict[str, Any]:
    return dict(json.loads(bundle.path(GOLDEN_INDEX).read_text()))


def with_index(bundle_path: Path, copy: Path, index: object) -> Bundle:
    return Bundle.open(changed_bundle(bundle_path, copy, GOLDEN_INDEX, json.dumps(index).encode()))


def test_a_bundle_of_an_earlier_version_says_so(bundle_path: Path, tmp_path: Path, index: dict[str, Any]) -> None:
    del index["reactions"]
    verdict = verify(with_index(bundle_path, tmp_path / "b", index), small_engine())
    assert {each.name: each.unjudged for each in verdict.reactions} == dict.fromkeys(INPUTS, NOT_RECORDED)
    assert verdict.passed
    assert not verdict.complete
    assert verdict.sentence() == "What was judged is equal within the bundle's thresholds; 5 of 18 rows were not judged."


def test_a_bundle_that_demands_nothing_judges_nothing(bundle_path: Path, tmp_path: Path, index: dict[str, Any]) -> None:
    index["reactions"]["demanded"] = None
    reactions = found(with_index(bundle_path, tmp_path / "b", index), Baked(small_engine(), "text_encoder"))
    assert {each.unjudged for each in reactions.values()} == {NO_DEMAND}
    assert reactions["prompt"].share == 0


def altered(bundle: Bundle, name: Input, factor: float) -> Golden:
    """The bundle's goldens as if full precision had reacted to an input by `factor` of what it does."""
    golden = read_golden(bundle)
    recorded = Reactions.of(golden.index, golden.tensors)
    assert recorded is not None
    full = {each: golden.tensors[key] for each, key in recorded.velocities.items()}
    less = Golden(dict(golden.tensors), copy.deepcopy(golden.index))
    key = less.add((full[AS_GIVEN] + factor * change(full, name)).astype(np.float32))
    less.index["reactions"]["velocities"][name] = key
    return less


def test_where_full_precision_hardly_reacts_nothing_is_judged_and_the_export_says_so(bundle: Bundle) -> None:
    golden = altered(bundle, "prompt", 0.01)
    rows = {each.name: each for each in reactions_of(bundle, golden, small_engine())}
    assert rows["prompt"].unjudged == (
        "in full precision another prompt changes the velocity by 0.18% alone, and what such weights blur is up to 1.20%"
    )
    assert not rows["prompt"].passed and not rows["prompt"].failed
    assert all(each.passed for name, each in rows.items() if name != "prompt")
    demand = rows["prompt"].demanded
    assert demand is not None
    (said,) = _without_effect(golden, demand)
    assert said.startswith("In full precision another prompt changes the velocity by 0.18% alone")
    assert not list(_without_effect(read_golden(bundle), demand))


def test_a_change_in_full_precision_that_the_bundle_overdoes_is_kept(bundle: Bundle) -> None:
    """Too much is parity's to judge."""
    golden = altered(bundle, "portrait", 0.5)
    (row,) = (each for each in reactions_of(bundle, golden, small_engine()) if each.name == "portrait")
    assert row.passed
    assert row.share == pytest.approx(2, rel=1e-3)


def test_damaged_records_are_named(bundle_path: Path, tmp_path: Path, index: dict[str, Any], bundle: Bundle) -> None:
    whole = index["reactions"]
    shape = json.dumps(whole["given"])
    wrong = [
        (whole | {"velocities": {}}, "as given has to be among the velocities"),
        (whole | {"velocities": whole["velocities"] | {"seed": "gone"}}, "name the array 'gone', which is not there"),
        (whole | {"velocities": whole["velocities"] | {"seed": whole["given"]["speech"]}}, "differ in shape"),
        (whole | {"unchanged": {"seed": "both"}}, "seed has to be among the velocities, or else"),
        (whole | {"step": -1}, "step: Input should be greater than or equal to 0"),
        (whole | {"given": json.loads(shape) | {"mood": "good"}}, "given.mood: Extra inputs are not permitted"),
        (whole | {"demanded": {"share": 2, "least": 0}}, "demanded.share: Input should be less than or equal to 1"),
    ]
    for number, (reactions, told) in enumerate(wrong):
        damaged = with_index(bundle_path, tmp_path / f"{number}", index | {"reactions": reactions})
        with pytest.raises(BundleError, match=rf"golden\.json of .* is damaged .*{told}.*Export the bundle again\."):
            verify(damaged, small_engine())
    assert GOLDEN in bundle.manifest.files


# ---- parts -----------------------------------------------------------------------------------------------------------------------


def test_what_is_kept_of_a_change() -> None:
    r = np.asarray([3.0, 4.0])
    assert kept(r, r) == (1.0, pytest.approx(1.0))
    assert kept(r, 0.5 * r) == (0.5, pytest.approx(1.0))
    assert kept(r, -r) == (-1.0, pytest.approx(-1.0))
    assert kept(r, np.asarray([-4.0, 3.0])) == (0.0, pytest.approx(0.0))  # as large, in another direction
    assert kept(r, np.asarray([8.0, -6.0]) + r) == (pytest.approx(1.0), pytest.approx(1 / np.sqrt(5)))  # blurred by twice itself
    assert kept(r, np.asarray([np.nan, 0.0])) == kept(np.asarray([np.inf, 0.0]), r) == (0.0, 0.0)
    assert kept(0 * r, r) == (0.0, 0.0)


def test_the_size_of_a_change() -> None:
    velocities = {AS_GIVEN: np.asarray([2.0, 2.0]), "seed": np.asarray([2.0, 3.0])}
    assert size(velocities, "seed") == pytest.approx(np.sqrt(0.5) / 2)
    assert size({AS_GIVEN: np.zeros(2), "seed": np.ones(2)}, "seed") == 0


@pytest.mark.parametrize(("share", "passed"), [(0.8, True), (0.79, False), (1.5, True), (-1.0, False), (float("nan"), False)])
def test_a_row_is_a_gate(share: float, passed: bool) -> None:
    row = Reaction("voice", 0.1, share, 0.9, Demand(share=0.8, least=0.05))
    assert (row.passed, row.failed, row.unjudged) == (passed, not passed, None)
    assert Verdict((), reactions=(row,)).passed is passed
    assert bool(row.sentence()) is not passed


def test_a_row_for_scripts() -> None:
    row = Reaction("voice", 0.12345678, 0.5, 0.9, Demand(share=0.8, least=0.05))
    assert row.to_dict() == {
        "name": "voice", "judged": True, "reason": None, "passed": False, "size": 0.123457, "share": 0.5, "cosine": 0.9,
        "demanded": {"share": 0.8, "least": 0.05},
    }  # fmt: skip


def test_the_coarsest_weights_between_an_input_and_the_velocity_set_the_bar() -> None:
    layers = {"text_encoder": {"int8": 3}, "denoise": {"fp32": 2, "int4": 0}, "vae_decode": {"int4": 1}}
    assert reaction_bar(layers, "fp32") == WEIGHT_REACTIONS["int8"]
    assert reaction_bar(layers | {"denoise": {"int4": 1}}, "fp32") == WEIGHT_REACTIONS["int4"]
    assert reaction_bar({}, "fp32") == WEIGHT_REACTIONS["fp32"]
    assert reaction_bar(layers, "bf16") == Demand(share=WEIGHT_REACTIONS["int8"].share, least=COMPUTE_REACTIONS["bf16"].least)
    assert set(WEIGHT_REACTIONS) == set(SCHEMES)


def test_the_branch_that_is_asked_takes_in_every_input() -> None:
    assert asked_of(small_plan(), 3) == Asked(0, 0)
    deaf = small_plan().branches[1]
    assert not deaf.audio
    plan = small_plan().model_copy(update={"branches": (deaf, small_plan().branches[0])})
    assert asked_of(plan, 3) == Asked(0, 1)
    assert asked_of(small_plan().model_copy(update={"branches": (deaf, deaf)}), 3) is None
    mute = small_plan().model_copy(update={"modality_weights": [[[1.0], [1.0], [0.0]], [[1.0], [1.0], [1.0]]]})
    assert asked_of(mute, 3) == Asked(1, 0)
    for name in ("nano", "flash", "preview"):
        assert asked_of(build_plan(PLAN_PRESETS[name]), 7) is not None
    assert asked_of(build_plan(PlanOptions(guidance=AudioGuidance(scale=0.0))), 7) is None


def test_the_conditions_are_those_of_the_model() -> None:
    assert Conditions.names() == list(CONDITIONS)


def test_a_portraits_unknown_frames_are_encoded_once() -> None:
    class Counting:
        name, threads = "counting", 1

        def __init__(self) -> None:
            self.calls: list[str] = []

        def has(self, program: str) -> bool:
            return True

        def run(self, program: str, method: str, inputs: Sequence[Array]) -> list[Array]:
            self.calls.append(method)
            return [np.full(1, len(self.calls))]

    counting = Counting()
    engine = TwoChunks(counting)
    given = [engine.run("vae_encode", method, [])[0][0] for method in ("first", "next", "next", "first", "next", "next")]
    assert given == [1, 2, 2, 3, 4, 4]
    assert counting.calls == ["first", "next"] * 2
