"""What a workload needs of a device: memory, disk, seconds; by the forecast that an export goes by, and a device's rates.

1. bytes     of weights as they are stored, and as a runtime lays them out when it loads a program
2. memory    a process, the programs that are loaded, conditions, states, activations, latents
3. seconds   of products by their type, and of memory that everything else moves
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from ...core.bundle import DECODE_PROGRAMS
from ...core.memory import Need
from ..export.forecast import (
    FLOAT,
    PROGRAM_BYTES,
    bits_of,
    condition_bytes,
    picture_bytes,
    program_weights,
    step_activations,
)
from .counting import Counted, Product
from .devices import Device
from .workload import Call, Workload

Type = Literal["int8", "fp32"]
WEIGHTS, FILE, CONDITIONS, STATE = "weights", "a program's file", "conditions", "states of the encoder and the decoder"
ACTIVATIONS, LATENTS, PROCESS = "activations", "latents and frames", "the process"
POINTERS = "pointers of convolutions"
POINTER = 8  # bytes
STREAMS = ("vae_encode", *DECODE_PROGRAMS.values())


# ---- 1. Bytes -------------------------------------------------------------------------------------------------------------------


def bits(work: Workload, role: str, product: Product) -> float:
    """That a weight of this product takes; 0 of products of two activations."""
    if product.kind == "activations":
        return 0
    if product.kind == "linear":
        return bits_of(work.recipe, role, product.module)
    rule = work.recipe.rule_for(role, product.module, "convolution")
    return 8 if rule is not None and rule.weights == "int8" else 8 * FLOAT


def type_of(work: Workload, role: str, product: Product) -> Type:
    """What it multiplies: a layer whose weights are rounded has its inputs rounded to 8 bits, too."""
    return "int8" if 0 < bits(work, role, product) < 8 * FLOAT else "fp32"


def packed_bytes(work: Workload, role: str) -> int:
    """Of a program's weights when all of its methods that are called are loaded: each method lays out its own."""
    used = [call for call in work.calls if call.role == role]
    return sum(_packed(work, role, call.counted) for call in used)


def _packed(work: Workload, role: str, counted: Counted) -> int:
    """A layer that runs twice in a method is laid out once."""
    layers = {(product.module, product.weights): product for product in counted.products if product.weights}
    return sum(int(product.weights * product.kernels * bits(work, role, product)) // 8 for product in layers.values())


def pointer_bytes(work: Workload, role: str) -> int:
    """Of a program whose methods that are called are loaded: XNNPACK keeps for each convolution of windows larger than a pixel
    where each row of each window begins."""
    return sum(pointers(product) for call in work.calls if call.role == role for product in call.counted.products)


def pointers(product: Product) -> int:
    """Of one product, in bytes."""
    if product.kind != "convolution":
        return 0
    _, _, rows, columns, _, high, wide, stride, _ = product.shape
    out = (1 if rows == 1 else -(-rows // stride)) * -(-columns // stride)
    return POINTER * high * wide * out * product.operators if high * wide > 1 else 0


def file_bytes(work: Workload) -> dict[str, int]:
    """Of each program, by role."""
    return program_weights(work.sizes, work.recipe, work.roles, work.built_in)


def disk_bytes(work: Workload) -> int:
    """Of the bundle."""
    return sum(file_bytes(work).values()) + PROGRAM_BYTES * len(work.roles)


# ---- 2. Memory ------------------------------------------------------------------------------------------------------------------


def memory(work: Workload, process: int, together: bool) -> Need:
    """The most that a player holds. `process`: before it loads a program; `together`: programs stay loaded, else each is freed
    before the next."""
    config, clip = work.sizes.transformer, work.clip
    packed = {role: packed_bytes(work, role) for role in work.roles}
    pointed = {role: pointer_bytes(work, role) for role in work.roles}
    branches = len(work.plan.branches)
    streams = ("vae_encode", DECODE_PROGRAMS[work.decoder])
    state = sum(streamed_bytes(work, role) for role in streams) if together else max(streamed_bytes(work, r) for r in streams)
    latent = FLOAT * config.latent_channels * clip.latent_height * clip.latent_width
    history = (
        (work.plan.steps + 2) * min(work.latent_frames, work.windows_held * work.rule.length) + 2 * work.latent_frames
    ) * latent
    terms = {
        PROCESS: process,
        WEIGHTS: sum(packed.values()) if together else max(packed.values()),
        POINTERS: sum(pointed.values()) if together else max(pointed.values()),
        FILE: max(file_bytes(work).values()),
        CONDITIONS: work.windows_held * branches * condition_bytes(config, clip, work.text_rows),
        STATE: state,
        ACTIVATIONS: max(step_activations(config, clip), picture_bytes(config, clip)),
        LATENTS: history,
    }
    smaller = "a smaller --size or fewer --frames."
    remedies = {
        WEIGHTS: "coarser --weights, int8 or int4.", FILE: "coarser --weights, int8 or int4.", CONDITIONS: smaller,
        ACTIVATIONS: smaller, POINTERS: "a smaller --size.", STATE: "--decoder tiny, or a smaller --size.",
        LATENTS: "a shorter film.",
    }  # fmt: skip
    return Need(terms, remedies)


def streamed_bytes(work: Workload, role: str) -> int:
    """What the calls of a streaming program are given and give: its state twice, and pictures."""
    return max(call.counted.passed for call in work.calls if call.role == role)


# ---- 3. Seconds -----------------------------------------------------------------------------------------------------------------


class Rates(Protocol):
    """How long a device takes for what is counted."""

    def product(self, product: Product, kind: Type, bits: float) -> float: ...

    def moved(self, counted: Counted, pictures: bool) -> float:
        """For all operators of a call that have no products. `pictures`: they are an autoencoder's, else a transformer's."""
        ...

    def loading(self, stored: int, packed: int) -> float | None:
        """Seconds until a program of so many bytes is loaded; None where it is not known how fast its storage is."""
        ...


@dataclass(frozen=True)
class TableRates:
    """Of a device in the table: products at the share of its peak that they reach, or as fast as weights can be read."""

    device: Device

    def product(self, product: Product, kind: Type, bits: float) -> float:
        device = self.device
        computing = product.computed / (device.rates[kind].value * device.reached.value)
        reading = product.weights * product.kernels * bits / 8 / device.bandwidth.value if device.bandwidth else 0.0
        return max(computing, reading)

    def moved(self, counted: Counted, pictures: bool) -> float:
        return counted.moved / self.device.bandwidth.value if self.device.bandwidth else 0.0

    def loading(self, stored: int, packed: int) -> float | None:
        device = self.device
        return stored / device.storage.value + packed / device.packing.value if device.storage else None


@dataclass(frozen=True)
class Seconds:
    """Of a film: by stage, and by what takes them: products of 8-bit integers, of float32, memory."""

    stages: Mapping[str, float]
    kinds: Mapping[str, float]
    load: float | None

    @property
    def total(self) -> float:
        return sum(self.stages.values())


def seconds(work: Workload, rates: Rates) -> Seconds:
    stages: dict[str, float] = {}
    kinds = {"products of 8-bit integers": 0.0, "products of float32": 0.0, "memory that is moved": 0.0}
    names: dict[Type, str] = {"int8": "products of 8-bit integers", "fp32": "products of float32"}
    for call in work.calls:
        taken = call_seconds(work, call, rates)
        for kind, name in names.items():
            kinds[name] += call.times * taken[kind]
        kinds["memory that is moved"] += call.times * taken["moved"]
        stages[call.stage] = stages.get(call.stage, 0.0) + call.times * sum(taken.values())
    stored = file_bytes(work)
    loads = [rates.loading(stored[role], packed_bytes(work, role)) for role in work.roles]
    return Seconds(stages, kinds, None if None in loads else sum(load for load in loads if load is not None))


def call_seconds(work: Workload, call: Call, rates: Rates) -> dict[str, float]:
    """Of one call, by type of product, and of the rest ("moved")."""
    taken: dict[str, float] = {"int8": 0.0, "fp32": 0.0, "moved": rates.moved(call.counted, call.role in STREAMS)}
    for product in call.counted.products:
        kind = type_of(work, call.role, product)
        taken[kind] += rates.product(product, kind, bits(work, call.role, product))
    return taken


def flops_by_type(work: Workload) -> dict[str, int]:
    """Of a film's compiled programs, two per multiplication and addition."""
    found: dict[str, Any] = {"int8": 0, "fp32": 0}
    for call in work.calls:
        for product in call.counted.products:
            found[type_of(work, call.role, product)] += call.times * product.computed
    return found
