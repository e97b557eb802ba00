"""How fast the parts of a transformer block run here: small compiled programs at the model's real shapes.

1. parts     a block and what it is made of, each a module with example inputs and its FLOPs
2. compile   portable, quantised, lowered and written as the step is; a program returns one row, so that no copy is timed
3. measure   all parts and this machine's matrix products in one loop, round by round, medians

The fraction of the peak says how much of the machine a part uses: the time that its products would take at the fastest matrix
product measured in the same rounds, over the time that it takes. Parts without products have none.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...core.config import ClipSpec, ModelConfig
from ...core.model.attention import CrossAttention, LayerConditions, rope_tables
from ...core.model.programs import EntryPoint
from ...core.model.transformer import Block
from ...core.plan import check_count
from ...quantize.recipes import WeightRecipe
from ...targets.executorch.lower import compile_program
from ...targets.executorch.program_file import ProgramFile, set_threads
from ...targets.rewrites.attention import ChunkedAttention
from ...targets.rewrites.cross_attention import PortableCrossAttention
from ...targets.rewrites.rotary import HalfRotary
from .clip import device_name

Progress = Callable[[str, int, int], None]
PEAK_SIZE = 2048  # rows, columns and depth of the matrix products that the peak is read off
TRIAL_SIZE = 256  # and of those that tell whether torch's integer product is one worth timing


# ---- 1. Parts -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """One part of a block: `count` of them are in it. FLOPs of one call: `weight_flops` of layers that hold weights, `other_flops`
    of products between activations; two per multiplication and addition."""

    name: str
    module: nn.Module
    inputs: tuple[Tensor, ...]
    count: int
    weight_flops: int = 0
    other_flops: int = 0


class OneRow(nn.Module):
    """Runs a module and returns the first row of its result, [1, 1, …]: what else it computed is not copied out. Its layers are
    named as those of a model's block, so that a recipe finds them."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([module])

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.blocks[0](*inputs)[:, :1]


class BlockCall(nn.Module):
    """A block on tensors alone; the clip's rotary tables and modality weights of one are constants."""

    cos: Tensor
    sin: Tensor

    def __init__(self, block: nn.Module, clip: ClipSpec, head_dim: int) -> None:
        super().__init__()
        self.block, self.frames = block, clip.latent_frames
        cos, sin = rope_tables(head_dim, self.frames, clip.latent_height // 2, clip.latent_width // 2)
        self.register_buffer("cos", cos)
        self.register_buffer("sin", sin)

    def forward(self, x: Tensor, modulation: Tensor, modality_weights: Tensor, *conditions: Tensor) -> Tensor:
        text, image, audio = (modality_weights[:, i : i + 1].reshape(1, self.frames, 1, 1) for i in range(3))
        return self.block(x, modulation, (self.cos, self.sin), LayerConditions(*conditions), (text, image, audio))


class CrossCore(nn.Module):
    """Cross-attention without the layers of its queries and its output."""

    def __init__(self, config: ModelConfig, frames: int) -> None:
        super().__init__()
        self.attention, self.frames = PortableCrossAttention(CrossAttention(config, coupled=False)), frames
        for name in ("q", "norm_q", "o"):
            setattr(self.attention, name, nn.Identity())

    def forward(self, x: Tensor, modality_weights: Tensor, *conditions: Tensor) -> Tensor:
        text, image, audio = (modality_weights[:, i : i + 1].reshape(1, self.frames, 1, 1) for i in range(3))
        return self.attention(x, LayerConditions(*conditions), (text, image, audio))


class Modulated(nn.Module):
    """x · (1 + scale) + shift before a branch of a block, x + branch · gate behind it, without the branch."""

    def forward(self, x: Tensor, m: Tensor) -> Tensor:
        return x + (x * (m[:, 1:2] + 1.0) + m[:, 0:1]) * m[:, 2:3]


def parts(config: ModelConfig, clip: ClipSpec, text_rows: int) -> list[Part]:
    """A decoupled block of random weights and its parts, keys and values given, a prompt of `text_rows` rows.

    Raises:
        ConfigError: `text_rows` is out of range.
    """
    check_count("text_rows", text_rows, 1, config.text_len)
    generator = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    d, ffn, n, f = config.dim, config.ffn_dim, clip.tokens, clip.latent_frames
    h, head = config.heads, config.head_dim
    lengths = (text_rows, config.image_tokens, f * config.audio.tokens)
    text, image, audio = ((randn(1, length, d), randn(1, length, d)) for length in lengths)
    conditions = (*text, torch.zeros(1, text_rows), *image, *audio)
    x, modulation, modality_weights = randn(1, n, d), 0.3 * randn(1, 6, d), torch.ones(1, 3, f)
    qkv = tuple(randn(1, n, h, head) for _ in range(3))
    square, wide = 2 * n * d * d, 2 * n * d * ffn
    own = 4 * n * n * d
    other = 4 * n * (text_rows + config.image_tokens + config.audio.tokens) * d  # a token hears its own frame's audio
    block = BlockCall(Block(config, coupled=False), clip, head)
    tables = rope_tables(head, f, clip.latent_height // 2, clip.latent_width // 2)
    feed_forward = nn.Sequential(nn.Linear(d, ffn), nn.GELU(approximate="tanh"), nn.Linear(ffn, d))
    return [
        Part("block", block, (x, modulation, modality_weights, *conditions), 1, 6 * square + 2 * wide, own + other),
        Part("linear, width to width", nn.Sequential(nn.Linear(d, d)), (x,), 6, square),
        Part("feed-forward", feed_forward, (x,), 1, 2 * wide),
        Part("self-attention core", ChunkedAttention(scaled=True), qkv, 1, 0, own),
        Part("cross-attention core", CrossCore(config, f), (x, modality_weights, *conditions), 1, 0, other),
        Part("layer norm", nn.Sequential(nn.LayerNorm(d, config.eps, elementwise_affine=False)), (x,), 3),
        Part("RMS norm", nn.Sequential(nn.RMSNorm(d, config.eps)), (x,), 3),
        Part("rotary embedding", HalfRotary(), (qkv[0], *tables), 2),
        Part("modulation and gate", Modulated(), (x, modulation), 2),
        Part("GELU", nn.Sequential(nn.GELU(approximate="tanh")), (randn(1, n, ffn),), 0),  # in the feed-forward already
    ]


# ---- 2. Compile -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ready:
    """A compiled part. `quantised`: its products with weights are those of 8-bit integers."""

    part: Part
    file: ProgramFile
    quantised: bool

    def run(self) -> None:
        self.file.run("forward", [tensor.numpy() for tensor in self.part.inputs])


def compile_part(part: Part, recipe: WeightRecipe, folder: Path) -> Ready:
    """Raises ExportError: it cannot be compiled, or the backend takes less than it should of it."""
    method = EntryPoint(OneRow(part.module), {f"input_{i}": tensor for i, tensor in enumerate(part.inputs)}, ["row"])
    compiled = compile_program("denoise", {"forward": method}, recipe, folder)
    return Ready(part, ProgramFile(compiled.path), any(name != "fp32" for name in compiled.layers))


# ---- 3. Measure -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PartSpeed:
    """`seconds`, `cpu_seconds`: medians of one call. `gflops`, `of_peak`: None where there are no products. `share`: of the block's
    time, all `count` of them together."""

    name: str
    count: int
    seconds: float
    cpu_seconds: float
    flops: int
    gflops: float | None
    of_peak: float | None
    share: float


@dataclass(frozen=True)
class OperatorSpeeds:
    """Parts of a block, with the conditions they were measured under; peaks in GFLOP/s."""

    device: str
    threads: int
    load_average: float
    model: str
    clip: str
    tokens: int
    text_rows: int
    weights: str
    rounds: int
    peak_fp32: float
    peak_int8: float
    parts: tuple[PartSpeed, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure_operators(
    config: ModelConfig,
    clip: ClipSpec,
    recipe: WeightRecipe,
    text_rows: int = 64,
    threads: int = 2,
    rounds: int = 9,
    progress: Progress = lambda *_: None,
) -> OperatorSpeeds:
    """Compiles a block and its parts, runs each once to warm up, then `rounds` times in turn on `threads` threads.

    Raises:
        ConfigError: `text_rows`, `threads` or `rounds` is out of range.
        ExportError: a part cannot be compiled.
    """
    check_count("threads", threads, 1, 1024)
    check_count("rounds", rounds, 1, 10_000)
    all_parts = parts(config, clip, text_rows)
    with tempfile.TemporaryDirectory() as scratch:
        ready = []
        for i, part in enumerate(all_parts):
            progress("compile", i, len(all_parts))
            folder = Path(scratch) / str(i)
            folder.mkdir()
            ready.append(compile_part(part, recipe, folder))
        progress("compile", len(all_parts), len(all_parts))
        set_threads(threads)
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            calls = [*(part.run for part in ready), *peak_products(PEAK_SIZE)]
            wall, cpu = _rounds(calls, rounds, progress)
        finally:
            torch.set_num_threads(before)
    product = 2 * PEAK_SIZE**3
    fp32, int8 = (product / seconds for seconds in wall[-2:])
    rows = tuple(
        _speed(r, seconds, used, wall[0], int8 if r.quantised else fp32, fp32)
        for r, seconds, used in zip(ready, wall, cpu, strict=False)
    )
    return OperatorSpeeds(
        device=device_name(), threads=threads, load_average=round(os.getloadavg()[0], 2), model=config.name,
        clip=str(clip), tokens=clip.tokens, text_rows=text_rows, weights=recipe.name,
        rounds=rounds, peak_fp32=fp32 / 1e9, peak_int8=int8 / 1e9, parts=rows,
    )  # fmt: skip


def _speed(ready: Ready, seconds: float, cpu_seconds: float, block: float, weight_peak: float, other_peak: float) -> PartSpeed:
    part = ready.part
    flops = part.weight_flops + part.other_flops
    ideal = part.weight_flops / weight_peak + part.other_flops / other_peak
    return PartSpeed(
        part.name, part.count, seconds, cpu_seconds, flops, flops / seconds / 1e9 if flops else None,
        ideal / seconds if flops else None, part.count * seconds / block,
    )  # fmt: skip


def peak_products(size: int) -> tuple[Callable[[], object], Callable[[], object]]:
    """Square matrix products of float32 and of 8-bit integers, as fast as torch has them. On some processors its product of
    integers is a plain loop, slower than that of floats: there the one of its quantised layers is taken, where oneDNN is."""
    slow = _least_seconds(integer_product(TRIAL_SIZE)) > _least_seconds(float_product(TRIAL_SIZE))
    return float_product(size), (quantised_product if slow and torch.backends.mkldnn.is_available() else integer_product)(size)


def float_product(size: int) -> Callable[[], Tensor]:
    a, b = torch.randn(size, size), torch.randn(size, size)
    return lambda: torch.mm(a, b)


def integer_product(size: int) -> Callable[[], Tensor]:
    a, b = _codes(size), _codes(size)
    return lambda: torch._int_mm(a, b)


def quantised_product(size: int) -> Callable[[], Tensor]:
    """What a layer gives whose inputs and weights [outputs, inputs] are of 8 bits, as float32."""
    weights, scales, zeros = _codes(size), torch.ones(size), torch.zeros(size, dtype=torch.int64)
    a, b = (_codes(size).int() + 128).to(torch.uint8), torch.ops.onednn.qlinear_prepack(weights, [size, size])
    layer = torch.ops.onednn.qlinear_pointwise
    return lambda: layer(a, 1.0, 128, b, scales, zeros, None, 1.0, 0, torch.float32, "none", [], "")


def _codes(size: int) -> Tensor:
    return torch.randint(-127, 128, (size, size), dtype=torch.int8)


def _least_seconds(call: Callable[[], object], calls: int = 5) -> float:
    """Of one call; the first prepares what later ones find, and others may be held up."""
    seconds = []
    for _ in range(calls):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _rounds(calls: Sequence[Callable[[], object]], rounds: int, progress: Progress) -> tuple[list[float], list[float]]:
    """Medians of wall and CPU seconds of each call; a round runs all of them in turn, the first one is a warm-up."""
    wall: list[list[float]] = [[] for _ in calls]
    cpu: list[list[float]] = [[] for _ in calls]
    for i in range(rounds + 1):
        for walls, cpus, call in zip(wall, cpu, calls, strict=True):
            started, cpu_started = time.perf_counter(), time.process_time()
            call()
            walls.append(time.perf_counter() - started)
            cpus.append(time.process_time() - cpu_started)
        progress("rounds", i + 1, rounds + 1)
    return [statistics.median(values[1:]) for values in wall], [statistics.median(values[1:]) for values in cpu]
