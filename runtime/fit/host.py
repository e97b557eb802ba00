"""The rates of this machine, measured for what is asked: the products that take most of a film, as compiled programs.

1. parts     products of a workload by their shapes, the largest first; and what has no products, on rows and on pictures
2. measure   each compiled as a program of a bundle is, in turn, round by round, medians
3. rates     a product that was measured takes what it took; another one goes by the nearest of its kind
"""

from __future__ import annotations

import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
import torch
from torch import Tensor, nn
from torch.nn import functional

from ...core.config import TEMPORAL_STRIDE
from ...core.files import available_memory
from ...core.model.programs import EntryPoint
from ...core.model.vae import CausalConv3d, ChannelNorm
from ...core.plan import check_count
from ...quantize.recipes import Rule, WeightRecipe
from ...targets.executorch.program_file import ProgramFile, set_threads, threads
from ...targets.rewrites.causal_convolution import PortableConv3d
from ..bench.machine import device_name
from ..bench.operators import Part, Ready, compile_part
from .counting import Counted, Kind, Product, counted, shape_flops
from .devices import HOST, Device, Figure
from .estimate import Type, bits, file_bytes, type_of
from .workload import Workload

Progress = Callable[[str, int, int], None]
MOST_PRODUCTS = 16  # compiled and timed, besides the largest of each kind; the others go by them
SHARE = 0.97  # of the FLOPs, beyond which nothing more is timed
ROWS, WIDTH = 448, 1536  # of what stands for operators on rows: a clip of 128x128x25 of flash
MOST_PIXELS = 256 * 256  # of what stands for operators on pictures
STREAMED = 2  # convolutions over frames one behind the other
CHAIN = 4  # layers one behind the other, so that what a program takes besides them counts for a quarter
COPY = 64 << 20  # bytes that are copied to learn how fast memory is
PACKED = (1024, 4096)  # inputs and outputs of the layer that is loaded to learn how fast loading is
RESIDENT = (
    "import echoedge.cli.app, echoedge.runtime.bench.clip, echoedge.runtime.play.animate; "
    "from echoedge.targets.executorch.program_file import runtime; runtime(); "
    "from echoedge.core.config import NANO_CLIP; from echoedge.runtime.play.material import demo_material; "
    "demo_material(NANO_CLIP, whole=False); "
    "from echoedge.core.memory import peak_bytes; print(peak_bytes())"
)
Key = tuple[Kind | Literal["streamed"], Type, float, tuple[int, ...]]  # streamed: frames, inputs, rows, columns, outputs


# ---- 1. Parts -------------------------------------------------------------------------------------------------------------------


class Rows(nn.Module):
    """Operators between the products of a transformer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.act = nn.LayerNorm(width, elementwise_affine=False), nn.GELU(approximate="tanh")

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        return x + self.act(self.norm(x) * (scale + 1.0) + scale)


class Pictures(nn.Module):
    """Operators between the convolutions of a VAE."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.act = ChannelNorm(channels, 3), nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.act(self.norm(x))) * 0.5


class Logits(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(x, -1)


class Matrices(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.bmm(a, b)


class Streamed(nn.Module):
    """Two convolutions over frames as a residual block has them, to and fro, x: [1, frames, inputs, rows, columns]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        sizes = _to_and_fro(inputs, outputs, STREAMED)
        self.norms = nn.ModuleList(ChannelNorm(channels, 3) for channels, _ in sizes)
        drawn = [CausalConv3d(*channels, (3, 3)) for channels in sizes]
        for convolution in drawn:
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="linear")
        self.convolutions = nn.ModuleList(map(PortableConv3d, drawn))

    def forward(self, x: Tensor, *past: Tensor) -> Tensor:
        for norm, convolution, before in zip(self.norms, self.convolutions, past, strict=True):
            x = convolution(functional.silu(norm(x)), before)
        return x


def key_of(product: Product, kind: Type, bits: float) -> Key:
    """What it is timed as."""
    _, inputs, rows, columns, outputs, *kernel = product.shape if product.frames > 1 else (0, 0, 0, 0, 0)
    if kernel[:2] == [3, 3]:
        return "streamed", kind, bits, (product.frames, inputs, rows, columns, outputs)
    return product.kind, kind, bits, product.shape


def keys_of(work: Workload) -> dict[Key, tuple[int, Product]]:
    """FLOPs of a film by what is multiplied, the most first, and one product of each."""
    found: dict[Key, tuple[int, Product]] = {}
    for call in work.calls:
        for product in call.counted.products:
            key = key_of(product, type_of(work, call.role, product), bits(work, call.role, product))
            total = found[key][0] if key in found else 0
            found[key] = (total + call.times * product.computed, product)
    return dict(sorted(found.items(), key=lambda item: -item[1][0]))


def chosen(work: Workload, most: int = MOST_PRODUCTS) -> list[Key]:
    """What is timed: as many as make `SHARE` of the FLOPs, `most` at most, and the largest of each kind and type."""
    every = keys_of(work)
    total, done, picked = sum(flops for flops, _ in every.values()), 0, list[Key]()
    for key, (flops, _) in every.items():
        first = not any(key[:2] == other[:2] for other in picked)
        if first or (done < SHARE * total and len(picked) < most):
            picked.append(key)
            done += flops
    return picked


def chained(key: Key) -> int:
    """Layers of the part that stands for a product."""
    kind, _, _, shape = key
    if kind == "streamed":
        return STREAMED
    return 1 if kind == "activations" or (kind == "convolution" and (shape[2] == 1 or shape[7] != 1)) else CHAIN


def part_of(key: Key) -> Part:
    """The product as a part of the operator bench: a layer, then one back to as many inputs, and again, since alone it would be
    timed with what turns its inputs and its results around."""
    kind, _, _, shape = key
    generator = torch.Generator().manual_seed(0)

    def randn(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    module: nn.Module
    given: tuple[Tensor, ...]
    if kind == "linear":
        rows, inputs, outputs = shape
        module = nn.Sequential(*(nn.Linear(*sizes) for sizes in _to_and_fro(inputs, outputs, chained(key))))
        given = (randn(1, rows, inputs),)
    elif kind == "activations":
        batch, rows, depth, columns = shape
        module, given = Matrices(), (randn(batch, rows, depth), randn(batch, depth, columns))
    elif kind == "streamed":
        frames, inputs, rows, columns, outputs = shape
        module = Streamed(inputs, outputs)
        past = (randn(1, 2, channels, rows, columns) for channels, _ in _to_and_fro(inputs, outputs, STREAMED))
        given = (randn(1, frames, inputs, rows, columns), *past)
    else:
        pictures, inputs, rows, columns, outputs, high, wide, stride, groups = shape
        step = (1 if rows == 1 else stride, stride)
        settings: dict[str, Any] = {"stride": step, "padding": (high // 2, wide // 2), "groups": groups}
        sizes = _to_and_fro(inputs, outputs, chained(key))
        module = nn.Sequential(*(nn.Conv2d(*each, (high, wide), **settings) for each in sizes))
        given = (randn(pictures, inputs, rows, columns),)
    return Part(kind, module.eval().requires_grad_(False), given, 1)


def _to_and_fro(inputs: int, outputs: int, count: int) -> list[tuple[int, int]]:
    return [(inputs, outputs) if number % 2 == 0 else (outputs, inputs) for number in range(count)]


def recipe_of(key: Key) -> WeightRecipe:
    """That stores its weights as the workload's does."""
    kind, multiplied, width, _ = key
    if multiplied == "fp32":
        return WeightRecipe(name="fp32")
    layers = "convolution" if kind in ("convolution", "streamed") else "linear"
    return WeightRecipe(name="timed", rules=(Rule(weights="int8" if width == 8 else "int4", layers=layers),))  # type: ignore[arg-type]


# ---- 2. Measure -----------------------------------------------------------------------------------------------------------------


def _medians(calls: Sequence[Callable[[], object]], rounds: int, progress: Progress) -> list[tuple[float, float]]:
    """Wall and CPU seconds of each call; the first round warms up."""
    taken: list[list[tuple[float, float]]] = [[] for _ in calls]
    for number in range(rounds + 1):
        for found, call in zip(taken, calls, strict=True):
            started, used = time.perf_counter(), time.process_time()
            call()
            found.append((time.perf_counter() - started, time.process_time() - used))
        progress("rounds", number + 1, rounds + 1)
    columns = [list(zip(*each[1:], strict=True)) for each in taken]
    return [(statistics.median(wall), statistics.median(cpu)) for wall, cpu in columns]


def _moved(module: nn.Module, *inputs: Tensor) -> Counted:
    named = {f"input_{number}": x for number, x in enumerate(inputs)}
    return counted(EntryPoint(module.to("meta"), named, ["y"]))


def process_bytes() -> int:
    """Resident bytes of a player's process that has read a portrait and a voice, before it loads a program."""
    told = subprocess.run([sys.executable, "-c", RESIDENT], capture_output=True, text=True, check=True)
    return int(told.stdout.split()[-1])


@dataclass(frozen=True)
class HostRates:
    """What products and the rest took here. `taken`: seconds by what is multiplied; `moving`, `painting`: bytes per second of
    operators without products, on rows and on pictures; `copying`: bytes per second; `call`: seconds of a call that computes
    nothing; `packing`: bytes of weights per second.
    `cpu`: the same in seconds that processors were at work, which other programs on the machine do not change much."""

    taken: dict[Key, float]
    moving: float
    painting: float
    copying: float
    call: float
    packing: float
    threads: int
    cpu: HostRates | None = None

    def product(self, product: Product, kind: Type, bits: float) -> float:
        key = key_of(product, kind, bits)
        if key in self.taken:
            return self.taken[key] * (1 if key[0] == "streamed" else product.operators)
        like = [other for other in self.taken if other[:2] == key[:2]] or [other for other in self.taken if other[1] == kind]
        one = _flops(key)
        nearest = min(like or self.taken, key=lambda other: abs(math.log(_flops(other) / one)))
        return product.computed / _flops(nearest) * self.taken[nearest]

    def moved(self, counted: Counted, pictures: bool) -> float:
        timed = counted.around if any(key[0] == "streamed" for key in self.taken) else 0
        return self.call + (counted.moved - timed) / (self.painting if pictures else self.moving) + counted.passed / self.copying

    def loading(self, stored: int, packed: int) -> float | None:
        return packed / self.packing

    def best(self, kind: Type) -> float | None:
        """The highest rate that a product of this type came to, per second."""
        return max((_flops(key) / seconds for key, seconds in self.taken.items() if key[1] == kind), default=None)


def _flops(key: Key) -> int:
    kind, _, _, shape = key
    if kind != "streamed":
        return shape_flops(kind, shape)
    frames, inputs, rows, columns, outputs = shape
    return (4 * (frames // 2) + 3 * (frames % 2)) * shape_flops("convolution", (1, inputs, rows, columns, outputs, 3, 3, 1, 1))


def measure_rates(work: Workload, rounds: int = 5, on: int | None = None, progress: Progress = lambda *_: None) -> HostRates:
    """Compiles and times what `work` multiplies most. `on`: so many threads, the runtime's choice by default.

    Raises:
        ConfigError: `rounds` or `on` is out of range.
        ExportError: a product cannot be compiled.
    """
    check_count("rounds", rounds, 1, 1000)
    if on is not None:
        check_count("threads", on, 1, 1024)
        set_threads(on)
    generator = torch.Generator().manual_seed(1)
    keys, rest = chosen(work), _rest(work, generator)
    with tempfile.TemporaryDirectory() as scratch:
        ready: list[Ready] = []
        total = len(keys) + len(rest) + 1
        for key in keys:
            progress("compile", len(ready), total)
            ready.append(compile_part(part_of(key), recipe_of(key), _folder(scratch, len(ready))))
        for module, given in rest:
            progress("compile", len(ready), total)
            part = Part(type(module).__name__, module.eval().requires_grad_(False), given, 1)
            ready.append(compile_part(part, WeightRecipe(name="fp32"), _folder(scratch, len(ready))))
        empty = compile_part(
            Part("empty", nn.Sequential(nn.ReLU()), (torch.zeros(1, 1, 8),), 1), WeightRecipe(name="fp32"), _folder(scratch, total)
        )
        packing = _packing(Path(scratch))
        progress("compile", total, total)
        source = np.ones(COPY, np.uint8)
        calls = [*(each.run for each in ready), empty.run, lambda: source.copy()]
        taken = _medians(calls, rounds, progress)
    moved = [_moved(module, *given).moved for module, given in rest]

    def rates(which: int, cpu: HostRates | None = None) -> HostRates:
        found = [max(1e-9, each[which]) for each in taken]
        call, own = found[-2], [max(1e-9, each - found[-2]) for each in found]
        products = [each / chained(key) for key, each in zip(keys, own, strict=False)]
        on_rows, on_logits, on_pictures = own[len(keys) : len(keys) + len(rest)]
        return HostRates(
            dict(zip(keys, products, strict=True)), sum(moved[:2]) / (on_rows + on_logits), moved[2] / on_pictures,
            COPY / found[-1], call, packing[which], threads(), cpu,
        )  # fmt: skip

    return rates(0, rates(1))


def _rest(work: Workload, generator: torch.Generator) -> list[tuple[nn.Module, tuple[Tensor, ...]]]:
    """What stands for operators without products: on rows, on logits, and on the clip's largest pictures, four frames of them. Few
    rows would be timed with what a call takes besides; small pictures lie near the processor, where memory is faster."""
    channels, clip = work.sizes.transformer.vae.dim, work.clip
    height = min(clip.height, MOST_PIXELS // clip.width)

    def randn(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    return [
        (Rows(WIDTH), (randn(1, ROWS, WIDTH), randn(1, 1, WIDTH))),
        (Logits(), (randn(12, ROWS, ROWS),)),
        (Pictures(channels), (randn(1, TEMPORAL_STRIDE, channels, height, clip.width),)),
    ]


def _folder(scratch: str, number: int) -> Path:
    folder = Path(scratch) / str(number)
    folder.mkdir()
    return folder


def _packing(scratch: Path) -> tuple[float, float]:
    """Bytes of weights per second of wall and of CPU time until a program of one large layer is loaded, its file in the system's
    cache."""
    inputs, outputs = PACKED
    folder = _folder(str(scratch), 10_000)
    part = Part("packed", nn.Sequential(nn.Linear(inputs, outputs)), (torch.zeros(1, 1, inputs),), 1)
    ready = compile_part(part, WeightRecipe(name="fp32"), folder)
    path = ready.file.path
    (taken,) = _medians([lambda: ProgramFile(path).run("forward", [part.inputs[0].numpy()])], 3, lambda *_: None)
    return 4 * inputs * outputs / max(1e-9, taken[0]), 4 * inputs * outputs / max(1e-9, taken[1])


# ---- 3. Device ------------------------------------------------------------------------------------------------------------------


def host_device(rates: HostRates) -> Device:
    """This machine as a device: what is free of its memory, and its measured rates."""

    def figure(value: float, source: str) -> Figure:
        return Figure(value=value, kind="measured", source=source)

    best = {kind: rates.best(kind) for kind in ("int8", "fp32")}  # type: ignore[arg-type]
    told = f"the fastest of the products that were timed, {rates.threads} threads"
    return Device(
        name=HOST, system="linux" if sys.platform == "linux" else "other", chip=device_name(),
        memory_bytes=figure(psutil.virtual_memory().total, "the system"), app_bytes=figure(available_memory(), "free now"),
        rates={kind: figure(value, told) for kind, value in best.items() if value is not None},
        reached=figure(1.0, "rates are of products as they are compiled"),
        process_bytes=figure(process_bytes(), "a player's process before it loads a program"),
        packing=figure(rates.packing, "a layer of 16 MB loaded from the system's cache"),
        bandwidth=figure(2 * rates.copying, "a copy of 64 MB, read and written"), storage=None, threads=rates.threads,
    )  # fmt: skip


def stays_loaded(work: Workload, free: int) -> bool:
    """Whether this machine's engine keeps all programs loaded: a third of the free memory holds their files."""
    return sum(file_bytes(work).values()) <= free // 3
