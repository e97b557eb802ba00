"""quantize/distill/forecast.py: what is counted on tensors without data is what autograd keeps of real ones."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from echoedge.core.config import ClipSpec
from echoedge.core.model.transformer import DiT
from echoedge.core.train.loop import recompute_blocks
from echoedge.quantize.distill.forecast import BUILT, PROCESS, Step, count_step, lessons_seconds, training_need, training_seconds
from echoedge.quantize.distill.forecast import Speed as MeasuredSpeed
from echoedge.quantize.distill.student import Student, student_config
from echoedge.quantize.distill.training import Distilling

from ..core.tiny_checkpoint import playable_sizes

CLIP = ClipSpec(64, 48, 9)


def kept_by_autograd(variant: str, layers: int, batch: int, recompute: bool) -> int:
    """Bytes of all storages that one real forward pass leaves for the backward one, parameters aside."""
    config = replace(student_config(playable_sizes(variant).transformer), layers=layers)  # type: ignore[arg-type]
    student = Student(DiT(config))
    if recompute:
        recompute_blocks(student.dit)
    own, kept = {each.data_ptr() for each in student.parameters()}, {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    shape = (CLIP.latent_frames, CLIP.latent_height, CLIP.latent_width)
    audio = (CLIP.frames, config.audio.layers, 12) if config.audio_path.per_frame else (2 * CLIP.frames, 12)
    given = {
        "y": torch.randn(batch, 20, *shape), "audio": torch.randn(batch, *audio),
        "image": torch.randn(batch, config.image_tokens, config.image_dim),
        "text": torch.randn(batch, config.text_len, config.text_dim),
    }  # fmt: skip
    level = torch.rand(batch)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = student(torch.randn(batch, 16, *shape), level, level, torch.ones(batch, 3, shape[0]), given).square().mean()
    assert loss.requires_grad
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("variant", ["flash", "preview"])
@pytest.mark.parametrize("batch", [1, 3])
def test_what_is_kept_is_counted_without_data(variant: str, batch: int) -> None:
    config = replace(playable_sizes(variant).transformer, layers=4)  # type: ignore[arg-type]
    step = count_step(config, CLIP, batch, recompute=False, bf16=False)
    assert step.kept == kept_by_autograd(variant, 4, batch, recompute=False)
    thrifty = count_step(config, CLIP, batch, recompute=True, bf16=False)
    assert thrifty.kept - thrifty.block == kept_by_autograd(variant, 4, batch, recompute=True)
    assert thrifty.kept < 0.75 * step.kept and thrifty.block == step.block
    assert step.parameters == sum(each.numel() for each in DiT(student_config(config)).parameters())


def test_a_larger_clip_keeps_and_costs_more() -> None:
    config = playable_sizes("flash").transformer
    small, large = (count_step(config, clip, 1, False, False) for clip in (CLIP, ClipSpec(96, 96, 9)))
    assert large.kept > 1.5 * small.kept and large.flops > 1.5 * small.flops and large.parameters == small.parameters


def test_bytes_by_what_they_are_for() -> None:
    step = Step(parameters=1000_000_000, kept=7_000_000_000, block=1, flops=10**12)
    alone = training_need(step)
    assert alone.total == 4 * 5 * 10**9 + 7 * 10**9 + PROCESS
    pair = training_need(step, processes=2, on_this=2)
    assert pair.total == max(2 * BUILT * 4 * 10**9, 20 * 10**9) + 7 * 10**9 + 2 * PROCESS
    assert training_need(step, processes=4, on_this=1).total == 5 * 10**9 + 7 * 10**9 // 4 + PROCESS


def test_time_is_that_of_passes_and_updates() -> None:
    step, speed = Step(10**9, 0, 0, 10**12), MeasuredSpeed(flops=10**11, parameters=10**9)
    training = Distilling(steps=100, batch=2)
    assert training_seconds(step, training, speed) == pytest.approx(100 * (3 * 10 + 1))
    assert training_seconds(step, replace(training, recompute=True), speed) == pytest.approx(100 * (4 * 10 + 1))
    assert lessons_seconds(step, 2, 3, 24, speed) == pytest.approx(3 * 24 * 5)
    found = MeasuredSpeed.measured(playable_sizes("flash").transformer, torch.device("cpu"))
    assert found.flops > 1e6 and found.parameters > 1e3
