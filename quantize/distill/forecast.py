"""What training a student will take of memory and time, before it begins; counted, and for time measured on this machine.

Tensors without data go through one step of a student of one block and of two; what autograd keeps of it is counted, and every
further block keeps as much. Gradients grow while what was kept is freed, but freed memory is not the same memory: both count.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch

from ...core.bundle import Hearing
from ...core.config import ClipSpec, ModelConfig
from ...core.memory import Need
from ...core.model.architecture import skeleton
from ...core.model.transformer import DiT
from ...core.train.loop import recompute_blocks
from .student import Student, student_config
from .training import Distilling

FLOAT = 4
PROCESS = 550_000_000  # a process with torch loaded
MOMENTS = 2  # of AdamW
BUILT = 4  # wholes in a process while it builds: the teacher, the student, and the average, which is copied once
SAVED = 4  # wholes in a checkpoint: student, average, moments
_TRIED = 0.2  # seconds that a measurement of speed takes


@dataclass(frozen=True)
class Step:
    """One step of the optimiser on a batch. kept: bytes that autograd keeps; block: of one block; flops: of the forward pass."""

    parameters: int
    kept: int
    block: int
    flops: int


def count_step(config: ModelConfig, clip: ClipSpec, batch: int, recompute: bool, bf16: bool) -> Step:
    """Of a student of the teacher `config`, on lessons of clips of that shape."""
    config = student_config(config)
    own = replace(config, layers=1, coupled_layers=min(1, config.coupled_layers))
    one, two = (_counted(replace(own, layers=layers), clip, batch, recompute, bf16) for layers in (1, 2))
    more = config.layers - 1
    block = two[0] - one[0]
    full = block
    if recompute:  # and one block as if it were not recomputed: that which is under way
        small, large = (_counted(replace(own, layers=layers), clip, batch, False, bf16) for layers in (1, 2))
        full = large[0] - small[0]
    attention = config.layers * 4 * batch * clip.tokens**2 * config.dim  # which the counter of this library leaves out
    parameters = sum(each.numel() for each in skeleton(DiT, config).parameters())
    kept = one[0] + more * block + (full if recompute else 0)
    return Step(parameters, kept, full, one[1] + more * (two[1] - one[1]) + attention)


def _counted(config: ModelConfig, clip: ClipSpec, batch: int, recompute: bool, bf16: bool) -> tuple[int, int]:
    """Bytes that autograd keeps besides parameters, and floating-point operations."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils.flop_counter import FlopCounterMode

    latent = (clip.latent_frames, clip.latent_height, clip.latent_width)
    path, audio, per_frame = config.audio_path, config.audio, Hearing.of(config).rows_per_frame
    rows = (clip.frames, audio.layers, audio.channels) if path.per_frame else (per_frame * clip.frames, audio.channels)
    kept: dict[int, torch.UntypedStorage] = {}
    with FakeTensorMode(), FlopCounterMode(display=False) as counter:
        student = Student(DiT(config))
        if recompute:
            recompute_blocks(student.dit)
        parameters = {each.untyped_storage()._cdata for each in student.parameters()}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in parameters:
                kept[storage._cdata] = storage
            return tensor

        given = {
            "y": torch.empty(batch, 20, *latent), "audio": torch.empty(batch, *rows),
            "image": torch.empty(batch, config.image_tokens, config.image_dim),
            "text": torch.empty(batch, config.text_len, config.text_dim),
        }  # fmt: skip
        hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        with hooks, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            level = torch.empty(batch)
            velocity = student(torch.empty(batch, 16, *latent), level, level, torch.empty(batch, 3, latent[0]), given)
            loss = velocity.float().square().mean()
        total = sum(storage.nbytes() for storage in kept.values())
        del loss
    return total, counter.get_total_flops()


def training_need(step: Step, processes: int = 1, on_this: int = 1) -> Need:
    """Bytes on a machine that holds `on_this` of `processes` processes; `step`: of the whole batch."""
    share, whole = on_this / processes, FLOAT * step.parameters
    standing = {
        "the student": whole, "its average": whole, "gradients": whole, "AdamW's moments": MOMENTS * whole,
        "activations": step.kept,
    }  # fmt: skip
    terms = {name: round(share * count) for name, count in standing.items()} | {"the processes": on_this * PROCESS}
    building = on_this * BUILT * whole - sum(terms[name] for name in list(standing)[:-1])
    if on_this > 1 and building > 0:
        terms["whole models in each process, while they are built"] = building
    fewer = "A smaller model, or more machines: torchrun spreads it."
    remedies = dict.fromkeys(standing, fewer) | {
        "activations": "Switch on --recompute, or take a smaller --batch, --size or --frames.",
        "whole models in each process, while they are built": "Start fewer processes on this machine.",
    }
    return Need(terms, remedies)


@dataclass(frozen=True)
class Speed:
    """Of this machine: floating-point operations a second, and parameters a second that AdamW and the average move."""

    flops: float
    parameters: float

    @classmethod
    def measured(cls, config: ModelConfig, device: torch.device, bf16: bool = False) -> Speed:
        """By a product as wide as the feed-forward's, and by AdamW on as many parameters."""
        rows = torch.randn(256, config.dim, device=device)
        weight = torch.nn.Parameter(torch.randn(config.ffn_dim, config.dim, device=device))
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            products = _per_second(lambda: torch.nn.functional.linear(rows, weight), device)
        optimiser, average = torch.optim.AdamW([weight]), torch.zeros_like(weight)
        weight.grad = torch.randn_like(weight)

        def update() -> None:
            torch.nn.utils.clip_grad_norm_([weight], 1.0)
            optimiser.step()
            average.lerp_(weight.detach(), 0.1)

        updates = _per_second(update, device)
        return cls(2 * rows.shape[0] * weight.numel() * products, weight.numel() * updates)


def _per_second(action: object, device: torch.device) -> float:
    """How often in a second, once it has been done."""
    assert callable(action)
    action()
    began, count = time.perf_counter(), 0
    while count == 0 or time.perf_counter() - began < _TRIED:
        action()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        count += 1
    return count / (time.perf_counter() - began)


def training_seconds(step: Step, training: Distilling, speed: Speed, processes: int = 1) -> float:
    """Of the whole run. A backward pass costs two forward ones, and one more where blocks are recomputed."""
    passes = 4 if training.recompute else 3
    each = (passes * step.flops / speed.flops + step.parameters / speed.parameters) / processes
    return training.steps * each


def lessons_seconds(step: Step, batch: int, lessons: int, evaluations: int, speed: Speed) -> float:
    """Of so many trajectories of the teacher of so many evaluations each, one after the other."""
    return lessons * evaluations * step.flops / batch / speed.flops
