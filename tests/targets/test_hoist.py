"""targets/rewrites/hoist.py: each rewrite alone is the naive step but for rounding, a wrong one far off; savings are counted."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from echoedge.core.bundle import Saving
from echoedge.core.config import FLASH, NANO, NANO_CLIP, PREVIEW, ClipSpec, ModelConfig
from echoedge.core.errors import ConfigError, ExportError
from echoedge.core.model.architecture import skeleton
from echoedge.core.model.attention import Riflex
from echoedge.core.model.programs import Denoise
from echoedge.core.model.transformer import DiT
from echoedge.core.plan import SamplingPlan
from echoedge.core.plan.samplers import PLAN_PRESETS, build_plan
from echoedge.core.weights.nano import load_nano
from echoedge.targets.rewrites.hoist import (
    DEAD_PARAMETERS,
    KEYS_VALUES,
    PATCH_BIAS,
    REWRITES,
    ROTARY_TABLES,
    STEP_TABLES,
    TEXT_PADDING,
    BranchInputs,
    HoistedStep,
    Prepared,
    Rewrite,
    accounting,
    strip,
)
from echoedge.targets.rewrites.portable import make_portable
from echoedge.targets.rewrites.savings import clip_flops, savings, step_work

from ..core.tensors import pad_text
from ..core.tiny import TINY_CLIP, randomised, tiny_config, tiny_dit, tiny_inputs

CLIP = TINY_CLIP
CONFIGS = {
    "flash": tiny_config(coupled_layers=0),
    "preview": tiny_config("preview", coupled_layers=0),
    "nano": tiny_config(coupled_layers=1),
}
TIMESTEPS = (999.0, 700.5, 250.0)
INDEX, PROMPT_ROWS, TEXT_ROWS = 1, 5, 7
# Relative to the largest magnitude of the velocity. Measured, 0 where not named: step tables, which are one product instead of n,
# 8.6e-16 and 5.6e-7; text padding 6.1e-16 and 3.8e-7; all together 8.6e-16 and 4.7e-7.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
WRONG = 1e-2  # a wrong rewrite is farther off than this; measured: 5.1e-2 at least
CHOICES = [*((rewrite,) for rewrite in REWRITES), REWRITES]


def named(choice: Collection[Rewrite]) -> str:
    names = [rewrite.name for rewrite in choice]
    return "all" if len(names) == len(REWRITES) else "+".join(names) or "naive"


def branch_inputs(
    config: ModelConfig, clip: ClipSpec = CLIP, dtype: torch.dtype = torch.float32, prompt_rows: int = PROMPT_ROWS, seed: int = 1
) -> tuple[Tensor, BranchInputs]:
    """Latents, and what one branch is given."""
    given = {name: value.to(dtype) for name, value in tiny_inputs(config, clip, seed=seed).items()}
    mask = (torch.arange(clip.tokens_per_frame) % 3 > 0).to(dtype)[None]
    return given["latents"], BranchInputs(given["y"], given["text"][0, :prompt_rows], given["image"], given["audio"], mask)


def weights(dtype: torch.dtype) -> Tensor:
    """Of the modalities, different in every frame."""
    return torch.linspace(0.5, 1.5, 3 * CLIP.latent_frames, dtype=dtype).view(1, 3, -1)


@torch.no_grad()
def naive(dit: DiT, latents: Tensor, inputs: BranchInputs, index: int = INDEX, riflex: Riflex | None = None) -> Tensor:
    """`DiT.forward`, which the recorded cases of the original are compared with."""
    timestep = torch.tensor(TIMESTEPS[index : index + 1], dtype=torch.float64)
    text = pad_text([inputs.prompt], dit.config.text_len)
    return dit(
        latents, timestep, inputs.y, text, inputs.image, inputs.audio, weights(latents.dtype), inputs.audio_mask, riflex=riflex
    )  # fmt: skip


def off(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max())


@torch.no_grad()
def stepped(step: HoistedStep, latents: Tensor, prepared: Prepared, index: int = INDEX) -> Tensor:
    return step(latents, index, prepared, weights(latents.dtype))


# ---- each rewrite alone, and all together, are the naive step --------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("rewrites", [(), *CHOICES], ids=named)
@torch.no_grad()
def test_equals_the_naive_step(rewrites: Collection[Rewrite], name: str, dtype: torch.dtype) -> None:
    dit = tiny_dit(CONFIGS[name]).to(dtype)
    latents, inputs = branch_inputs(CONFIGS[name], dtype=dtype)
    step = HoistedStep(dit, CLIP, TIMESTEPS, rewrites, TEXT_ROWS)
    prepared = step.prepare(inputs)
    for index in range(len(TIMESTEPS)):
        assert off(stepped(step, latents, prepared, index), naive(dit, latents, inputs, index)) <= TOLERANCE[dtype]


@pytest.mark.parametrize("rewrites", [(KEYS_VALUES,), (PATCH_BIAS,), (STEP_TABLES,), (KEYS_VALUES, PATCH_BIAS)], ids=named)
@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_dead_parameters_go_with_any_choice(rewrites: tuple[Rewrite, ...], name: str) -> None:
    dit = tiny_dit(CONFIGS[name]).double()
    latents, inputs = branch_inputs(CONFIGS[name], dtype=torch.float64)
    step = HoistedStep(dit, CLIP, TIMESTEPS, (*rewrites, DEAD_PARAMETERS))
    assert off(stepped(step, latents, step.prepare(inputs)), naive(dit, latents, inputs)) <= TOLERANCE[torch.float64]


@torch.no_grad()
def test_riflex_is_in_the_rotary_tables() -> None:
    config, riflex = CONFIGS["flash"], Riflex(frames=2, index=2)
    dit = tiny_dit(config).double()
    latents, inputs = branch_inputs(config, dtype=torch.float64)
    wanted = naive(dit, latents, inputs, riflex=riflex)
    for rewrites in ((), (ROTARY_TABLES,)):
        step = HoistedStep(dit, CLIP, TIMESTEPS, rewrites, riflex=riflex)
        assert off(stepped(step, latents, step.prepare(inputs)), wanted) <= TOLERANCE[torch.float64]
    assert off(naive(dit, latents, inputs), wanted) > WRONG


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_reusing_equals_the_reference(name: str) -> None:
    dit = tiny_dit(CONFIGS[name]).double()
    latents, inputs = branch_inputs(CONFIGS[name], dtype=torch.float64)
    residual = torch.randn(1, CLIP.tokens, dit.config.dim, dtype=torch.float64)
    plain, hoisted = (HoistedStep(dit, CLIP, TIMESTEPS, rewrites) for rewrites in ((), REWRITES))
    conditions = dit.encode_conditions(inputs.y, pad_text([inputs.prompt], dit.config.text_len), inputs.image, inputs.audio)
    time, _ = dit.step_tables(torch.tensor(TIMESTEPS[INDEX : INDEX + 1], dtype=torch.float64))
    wanted = dit.denoise_reusing(latents, time, residual, conditions.patch_bias)
    for step in (plain, hoisted):
        assert off(step.reusing(latents, INDEX, residual, step.prepare(inputs)), wanted) <= TOLERANCE[torch.float64]
    assert off(hoisted.reusing(latents, INDEX + 1, residual, hoisted.prepare(inputs)), wanted) > WRONG


# ---- a wrong one is not ----------------------------------------------------------------------------------------------------------


def of_another_timestep(step: HoistedStep, prepared: Prepared, _: Prepared) -> Prepared:
    assert step.tables is not None
    step.tables = (step.tables[0].roll(1, 0), step.tables[1].roll(1, 0))
    return prepared


def of_another_branch(_: HoistedStep, prepared: Prepared, other: Prepared) -> Prepared:
    return replace(prepared, keys_values=other.keys_values)


def of_another_picture(_: HoistedStep, prepared: Prepared, other: Prepared) -> Prepared:
    return replace(prepared, patch_bias=other.patch_bias)


def of_the_clip_on_its_side(step: HoistedStep, prepared: Prepared, _: Prepared) -> Prepared:
    """As many tokens, other rows and columns."""
    side = ClipSpec(CLIP.width, CLIP.height, CLIP.frames)
    step.rope = HoistedStep(step.whole, side, TIMESTEPS, (ROTARY_TABLES,)).rope
    return prepared


def of_one_padding_row(_step: HoistedStep, prepared: Prepared, _other: Prepared) -> Prepared:
    assert prepared.text_bias is not None
    return replace(prepared, text_bias=prepared.text_bias.clamp(max=0.0))


def of_other_weights(step: HoistedStep, prepared: Prepared, _: Prepared) -> Prepared:
    patches: Any = step.dit.patch_embedding
    patches.noise.weight = torch.nn.Parameter(step.whole.patch_embedding.weight[:, -16:].flatten(1), requires_grad=False)
    return prepared


Spoil = Callable[[HoistedStep, Prepared, Prepared], Prepared]
SPOILED: list[tuple[tuple[Rewrite, ...], Spoil]] = [
    ((STEP_TABLES,), of_another_timestep), ((KEYS_VALUES,), of_another_branch), ((PATCH_BIAS,), of_another_picture),
    ((ROTARY_TABLES,), of_the_clip_on_its_side), ((TEXT_PADDING,), of_one_padding_row),
    ((PATCH_BIAS, DEAD_PARAMETERS), of_other_weights),
]  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(("rewrites", "spoil"), SPOILED, ids=lambda value: getattr(value, "__name__", ""))
@torch.no_grad()
def test_a_wrong_rewrite_is_far_off(rewrites: tuple[Rewrite, ...], spoil: Spoil, name: str) -> None:
    dit = tiny_dit(CONFIGS[name]).double()
    latents, inputs = branch_inputs(CONFIGS[name], dtype=torch.float64)
    silent = replace(inputs, y=inputs.y.flip(2), audio=torch.zeros_like(inputs.audio))
    step = HoistedStep(dit, CLIP, TIMESTEPS, rewrites, TEXT_ROWS)
    prepared, wanted = step.prepare(inputs), naive(dit, latents, inputs)
    assert off(stepped(step, latents, prepared), wanted) <= TOLERANCE[torch.float64]
    assert off(stepped(step, latents, spoil(step, prepared, step.prepare(silent))), wanted) > WRONG


def test_another_shape_is_refused() -> None:
    latents, inputs = branch_inputs(CONFIGS["flash"])
    step = HoistedStep(tiny_dit(CONFIGS["flash"]), CLIP, TIMESTEPS)
    with pytest.raises(ConfigError, match=r"The latents are \[1, 16, 3, 6, 4\]; this step is for \[1, 16, 3, 4, 6\]\."):
        step(latents.transpose(3, 4), INDEX, step.prepare(inputs))


@pytest.mark.parametrize("index", [-1, 3])
def test_a_step_that_the_plan_has_not_is_refused(index: int) -> None:
    latents, inputs = branch_inputs(CONFIGS["flash"])
    step = HoistedStep(tiny_dit(CONFIGS["flash"]), CLIP, TIMESTEPS)
    with pytest.raises(ConfigError, match=f"There is no step {index}; the plan has 3, counted from 0"):
        step(latents, index, step.prepare(inputs))


def test_no_timesteps_are_refused() -> None:
    with pytest.raises(ConfigError, match="There are no timesteps"):
        HoistedStep(tiny_dit(CONFIGS["flash"]), CLIP, ())


# ---- parameters ------------------------------------------------------------------------------------------------------------------


def unread_by_the_step(dit: DiT, rewrites: Collection[Rewrite]) -> tuple[set[str], int]:
    """Whole parameters that the step's result does not depend on, and how many numbers that is, by differentiating it."""
    with torch.no_grad():
        latents, inputs = branch_inputs(dit.config)
        step = HoistedStep(dit, CLIP, TIMESTEPS, rewrites)
        prepared = step.prepare(inputs)
    step(latents, INDEX, prepared, weights(torch.float32)).square().sum().backward()
    unread, count = set(), 0
    for name, parameter in dit.named_parameters():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        columns = gradient.flatten(1).any(0) if name == "patch_embedding.weight" else gradient.any()[None]
        if not columns.any():
            unread.add(name)
        count += int((~columns).sum()) * parameter.numel() // len(columns)
    return unread, count


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("rewrites", [(), *CHOICES[:-2], REWRITES[:-1]], ids=named)
def test_the_account_is_what_gradients_say(rewrites: tuple[Rewrite, ...], name: str) -> None:
    dit = tiny_dit(CONFIGS[name])
    places = accounting(CONFIGS[name])
    unread, count = unread_by_the_step(dit, rewrites)
    assert count == sum(places.get(rewrite.name, 0) for rewrite in rewrites)
    kept = {key for key, _ in strip(dit, rewrites).named_parameters()}
    assert unread == {key for key, _ in dit.named_parameters() if key not in kept and key != "patch_embedding.weight"}


@pytest.mark.parametrize("config", [*CONFIGS.values(), FLASH, PREVIEW, NANO], ids=lambda config: f"{config.name}-{config.variant}")
def test_the_account_adds_up(config: ModelConfig) -> None:
    dit, places = skeleton(DiT, config), accounting(config)
    assert list(places) == ["step", "keys-values", "patch-bias", "step-tables"]
    assert sum(places.values()) == sum(parameter.numel() for parameter in dit.parameters())
    assert sum(parameter.numel() for parameter in strip(dit).parameters()) == places["step"]


def test_what_stays_is_shared_and_the_whole_model_is_left_alone() -> None:
    dit = tiny_dit(CONFIGS["flash"])
    before = {name: parameter.data_ptr() for name, parameter in dit.named_parameters()}
    mine = {name: parameter.data_ptr() for name, parameter in strip(dit).named_parameters() if "patch_embedding" not in name}
    assert mine and mine.items() <= before.items()
    assert {name: parameter.data_ptr() for name, parameter in dit.named_parameters()} == before


def test_what_went_says_so() -> None:
    step = strip(tiny_dit(CONFIGS["flash"]))
    latents, inputs = branch_inputs(CONFIGS["flash"])
    text = pad_text([inputs.prompt], step.config.text_len)
    with pytest.raises(ExportError, match="Channels 16 to 35 of the patch embedding are not in this step: it has 0 to 15"):
        step.encode_conditions(inputs.y, text, inputs.image, inputs.audio)
    with pytest.raises(ExportError, match="text_embedding is not in this step: keys-values took it out"):
        step.encode_conditions(inputs.y[:, :0], text, inputs.image, inputs.audio)
    step = strip(tiny_dit(CONFIGS["flash"]), (STEP_TABLES,))
    with pytest.raises(ExportError, match="time_projection is not in this step: step-tables took it out"):
        step.step_tables(torch.tensor([500.0]))


@torch.no_grad()
def test_a_stripped_model_makes_the_same_program() -> None:
    dit = tiny_dit(CONFIGS["nano"])
    latents, inputs = branch_inputs(CONFIGS["nano"])
    conditions = dit.encode_conditions(
        inputs.y, pad_text([inputs.prompt], 12), inputs.image, inputs.audio, None, None, inputs.audio_mask
    )
    time, modulation = dit.step_tables(torch.tensor(TIMESTEPS[INDEX : INDEX + 1], dtype=torch.float64))
    call = (latents, time, modulation, weights(torch.float32), *conditions.tensors())
    program = make_portable(Denoise(strip(dit), CLIP, keep_residual=False))
    assert off(program(*call), naive(dit, latents, inputs)) <= 1e-5  # measured: 3.3e-7, and as much without stripping
    assert sum(p.numel() for p in program.parameters()) == accounting(CONFIGS["nano"])["step"]


# ---- FLOPs -----------------------------------------------------------------------------------------------------------------------


@cache
def plan_with_reuse(steps: int = 3) -> SamplingPlan:
    """Two branches, one of them silent in the last step; the other reuses its features once."""
    fields = build_plan(replace(PLAN_PRESETS["flash"], steps=steps)).model_dump()
    assert len(fields["branches"]) == 2
    guidance = [list(row) for row in fields["guidance"]]
    guidance[-1] = [float(value == max(guidance[-1])) for value in guidance[-1]]
    running = guidance[-1].index(1.0)
    reuse = [[step == 1 and branch == running for branch in range(2)] for step in range(steps)]
    return SamplingPlan(**fields | {"guidance": guidance, "reuse": reuse})


@torch.no_grad()
def counted(dit: DiT, clip: ClipSpec, plan: SamplingPlan, rewrites: Collection[Rewrite], rows: int, device: str = "cpu") -> int:
    """FLOPs that torch counts while the step plays one window; what is computed at export is not part of it."""
    latents, inputs = branch_inputs(dit.config, clip, prompt_rows=rows - 1)
    latents = latents.to(device)
    inputs = BranchInputs(*(value.to(device) for value in vars(inputs).values()))
    step = HoistedStep(dit, clip, plan.timesteps, rewrites, rows)
    residual = torch.zeros(1, clip.tokens, dit.config.dim, device=device)
    # torch counts the attention of its mathematical form, not that of the fused CPU kernel
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        prepared = [step.prepare(inputs) for _ in plan.branches]
        for index in range(plan.steps):
            for branch in plan.evaluated(index):
                if plan.reuse[index][branch]:
                    step.reusing(latents, index, residual, prepared[branch])
                else:
                    step(latents, index, prepared[branch])
    return counter.get_total_flops()


@pytest.mark.parametrize("name", CONFIGS)
def test_flops_of_the_naive_step(name: str) -> None:
    config = CONFIGS[name]
    latents, inputs = branch_inputs(config)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        naive(tiny_dit(config), latents, inputs)
    assert sum(vars(step_work(config, CLIP, config.text_len)).values()) == counter.get_total_flops()
    assert sum(vars(step_work(config, CLIP, config.text_len - 1)).values()) != counter.get_total_flops()


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("rewrites", [(), *CHOICES, (KEYS_VALUES, TEXT_PADDING)], ids=named)
def test_flops_of_a_clip(rewrites: tuple[Rewrite, ...], name: str) -> None:
    config, plan = CONFIGS[name], plan_with_reuse()
    found = counted(tiny_dit(config), CLIP, plan, rewrites, TEXT_ROWS)
    assert clip_flops(config, CLIP, plan, rewrites, TEXT_ROWS) == found


@pytest.mark.parametrize("config", [FLASH, PREVIEW], ids=lambda config: config.name)
@pytest.mark.parametrize("rewrites", [(), (KEYS_VALUES,), (PATCH_BIAS,), (STEP_TABLES,), (TEXT_PADDING,), REWRITES], ids=named)
def test_flops_at_full_width(rewrites: tuple[Rewrite, ...], config: ModelConfig) -> None:
    dit, clip, plan = skeleton(DiT, replace(config, layers=2)), ClipSpec(256, 256, 25), plan_with_reuse()
    found = counted(dit, clip, plan, rewrites, 64, device="meta")
    assert clip_flops(dit.config, clip, plan, rewrites, 64) == found


def test_a_clip_of_one_frame() -> None:
    config, clip, plan = CONFIGS["flash"], ClipSpec(32, 48, 1), plan_with_reuse()
    assert clip_flops(config, clip, plan, (), TEXT_ROWS) == counted(tiny_dit(config), clip, plan, (), TEXT_ROWS)


# ---- savings ---------------------------------------------------------------------------------------------------------------------


def by_name(found: Sequence[Saving]) -> dict[str, Saving]:
    return {saving.name: saving for saving in found}


@pytest.mark.parametrize("name", CONFIGS)
def test_savings(name: str) -> None:
    config, plan = CONFIGS[name], plan_with_reuse()
    found = savings(config, CLIP, plan, TEXT_ROWS)
    assert [saving.name for saving in found] == [*(rewrite.name for rewrite in REWRITES), "all"]
    told, places = by_name(found), accounting(config)
    for choice in CHOICES:
        assert told[named(choice)].flops_with == clip_flops(config, CLIP, plan, choice, TEXT_ROWS)
    assert {saving.flops_without for saving in found} == {clip_flops(config, CLIP, plan)}
    dead = sum(parameter.numel() for parameter in tiny_dit(config).parameters()) - places["step"]
    assert {name: saving.parameters for name, saving in told.items()} == {
        "keys-values": places["keys-values"], "patch-bias": places["patch-bias"], "step-tables": places["step-tables"],
        "rotary-tables": 0, "text-padding": 0, "dead-parameters": dead, "all": dead,
    }  # fmt: skip
    assert 0 < told["all"].flops_with < min(saving.flops_with for saving in found[:-1])


def size(*tensors: Tensor | None) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_kept_bytes_are_those_of_the_tensors(name: str) -> None:
    config, plan = CONFIGS[name], plan_with_reuse()
    _, inputs = branch_inputs(config)
    told = by_name(savings(config, CLIP, plan, TEXT_ROWS))

    def held(*rewrites: Rewrite) -> tuple[HoistedStep, Prepared, list[Tensor]]:
        step = HoistedStep(tiny_dit(config), CLIP, plan.timesteps, rewrites, TEXT_ROWS)
        prepared = step.prepare(inputs)
        stacks = prepared.keys_values
        names = [f"{kind}_{part}" for kind in ("text", "image", "audio") for part in "kv"]
        return step, prepared, [getattr(stacks, name) for name in names] if stacks else []

    assert told["keys-values"].kept_bytes == size(*held(KEYS_VALUES)[2])
    assert told["patch-bias"].kept_bytes == size(held(PATCH_BIAS)[1].patch_bias)
    assert told["text-padding"].kept_bytes == size(held(TEXT_PADDING)[1].text_bias)
    tables, rope = held(STEP_TABLES)[0].tables, held(ROTARY_TABLES)[0].rope
    assert tables is not None and rope is not None
    assert told["step-tables"].kept_bytes == size(*tables)
    assert told["rotary-tables"].kept_bytes == size(*rope)
    _, prepared, stacks = held(*REWRITES)
    assert told["all"].kept_bytes == size(*stacks, prepared.patch_bias, prepared.text_bias)


def test_padding_that_is_not_collapsed_saves_nothing() -> None:
    told = by_name(savings(CONFIGS["flash"], CLIP, plan_with_reuse()))
    assert told["text-padding"].flops_with == told["text-padding"].flops_without
    assert told["keys-values"].flops_with < told["keys-values"].flops_without


@pytest.mark.parametrize("text_rows", [0, 13, 7.5])
def test_rows_that_the_model_does_not_read_are_refused(text_rows: Any) -> None:
    with pytest.raises(ConfigError, match=rf"text_rows is {text_rows}; it must be a whole number from 1 to 12"):
        savings(CONFIGS["flash"], CLIP, plan_with_reuse(), text_rows)


def test_every_rewrite_says_what_it_moves() -> None:
    assert len({rewrite.name for rewrite in REWRITES}) == len(REWRITES)
    assert all(rewrite.moves.endswith(".") and rewrite.moves[0].isupper() for rewrite in REWRITES)


# ---- benchmarks: pytest --benchmark-only -----------------------------------------------------------------------------------------


@torch.no_grad()
def bench(benchmark: Any, dit: DiT, clip: ClipSpec, rewrites: Collection[Rewrite], text_rows: int, rounds: int) -> None:
    """One step; what left it is done before the clock starts."""
    latents, inputs = branch_inputs(dit.config, clip, prompt_rows=min(60, text_rows - 1))
    step = HoistedStep(dit, clip, TIMESTEPS, rewrites, text_rows)
    prepared = step.prepare(inputs)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        velocity = benchmark.pedantic(step, args=(latents, INDEX, prepared), rounds=rounds, warmup_rounds=1)
    finally:
        torch.set_num_threads(threads)
    assert velocity.shape == latents.shape


@pytest.fixture(scope="module")
def wide() -> DiT:
    torch.manual_seed(0)
    return randomised(DiT(replace(FLASH, layers=2)))


@pytest.mark.benchmark(group="a step of flash with 2 blocks, 128x128, 9 frames, one thread")
@pytest.mark.parametrize("rewrites", [(), *CHOICES], ids=named)
def test_step_of_flash(benchmark: Any, wide: DiT, rewrites: tuple[Rewrite, ...]) -> None:
    bench(benchmark, wide, ClipSpec(128, 128, 9), rewrites, 64, rounds=5)


@pytest.mark.benchmark(group="a step of nano, 64x64, 25 frames, one thread")
@pytest.mark.parametrize("rewrites", [(), *CHOICES], ids=named)
def test_step_of_nano(benchmark: Any, rewrites: tuple[Rewrite, ...]) -> None:
    bench(benchmark, load_nano().dit, NANO_CLIP, rewrites, NANO.text_len, rounds=30)
