"""What a program computes, counted on a module without weights: products with their shapes, and bytes of what has no products.

A product is a linear layer, a convolution, or one of two activations. Bytes are those that each operator without products
would read and write; views are free. Nothing here knows a device or a recipe: how a layer is stored decides later what a product
costs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ...core.bundle import CONDITION_PROGRAMS, Hearing
from ...core.config import ClipSpec, ModelConfig
from ...core.model.architecture import Architecture, skeleton
from ...core.model.encoders import NanoEncoders
from ...core.model.pretrained_image import PictureEncoder
from ...core.model.pretrained_speech import SpeechEncoder
from ...core.model.programs import EntryPoint, hearing_for
from ...core.model.tiny_vae import TinyVAE
from ...core.model.transformer import DiT
from ...core.model.vae import VAE, CausalConv3d, ChannelNorm
from ...core.weights.source import Making, Part, entry_points

Kind = Literal["linear", "convolution", "activations"]
FLOAT = 4
_BLOCKS = (*CONDITION_PROGRAMS, "denoise")  # roles whose work grows with the transformer's blocks
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, CausalConv3d)


@dataclass(frozen=True)
class Product:
    """One product. `module`: the layer's name in its program, as recipes' patterns match it. `shape`: of a linear layer (rows,
    inputs, outputs); of a convolution (pictures, inputs, rows, columns, outputs, kernel rows, kernel columns, stride, groups); of
    two activations (batch, rows, depth, columns). `flops`: of the model, two per multiplication and addition. `weights`: elements
    of them. A portable program makes `operators` convolutions of one over `frames`, which hold its weights `kernels` times over
    (targets/rewrites/causal_convolution.py); `shape` is that of each."""

    kind: Kind
    module: str
    shape: tuple[int, ...]
    flops: int
    weights: int
    operators: int = 1
    kernels: float = 1.0
    frames: int = 1

    @property
    def computed(self) -> int:
        """FLOPs of a compiled program."""
        return self.operators * shape_flops(self.kind, self.shape)


def shape_flops(kind: Kind, shape: tuple[int, ...]) -> int:
    """Of one operator."""
    if kind != "convolution":
        return 2 * math.prod(shape)
    pictures, inputs, rows, columns, outputs, high, wide, stride, groups = shape
    out = (1 if rows == 1 else -(-rows // stride)) * -(-columns // stride)
    return 2 * pictures * out * outputs * high * wide * inputs // groups


@dataclass(frozen=True)
class Counted:
    """One call of a method. `moved`: bytes that operators without products read and write; `operators`: how many there are of
    those; `passed`: bytes of inputs and outputs; `around`: of `moved`, what belongs to convolutions over several frames: their
    sums, and norms and activations of a program that has such."""

    products: tuple[Product, ...]
    moved: int
    operators: int
    passed: int
    around: int = 0

    @property
    def flops(self) -> int:
        return sum(product.flops for product in self.products)


@dataclass(frozen=True)
class HollowSource:
    """The modules of a model by their sizes, none with weights: a `ModelSource` whose programs can be counted and not run."""

    sizes: Architecture
    built_in: bool

    @property
    def config(self) -> ModelConfig:
        return self.sizes.transformer

    @property
    def held(self) -> None:
        return None

    @property
    def reads_text(self) -> bool:
        return self.built_in

    def digests(self, decoders: tuple[str, ...]) -> dict[str, str]:
        return {}

    def part(self, name: Part) -> nn.Module:
        sizes = self.sizes
        if name == "vae":
            return skeleton(VAE, self.config.vae)
        if name == "tiny_vae":
            return skeleton(TinyVAE, sizes.tiny_vae)
        if self.built_in:
            encoders = skeleton(NanoEncoders, self.config)
            return {"audio_encoder": encoders.audio, "image_encoder": encoders.image, "text_encoder": encoders.text}[name]
        return skeleton(SpeechEncoder, sizes.wav2vec2) if name == "audio_encoder" else skeleton(PictureEncoder, sizes.clip)

    def transformer(self, *only: str) -> DiT:
        return skeleton(DiT, self.config)

    def hearing(self, context_frames: int) -> Hearing:
        return Hearing.of(self.config) if self.built_in else hearing_for(self.config, self.sizes.wav2vec2, context_frames)


class _Counter(TorchDispatchMode):
    """Counts operators as they pass; `inside` is the name of the layer with weights that runs now, "" between layers."""

    def __init__(self) -> None:
        super().__init__()
        self.products: list[Product] = []
        self.moved = self.operators = self.around = 0
        self.inside = ""
        self.layer: nn.Module | None = None
        self.beside = False  # in a norm or an activation between convolutions

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in ("addmm", "mm", "bmm", "baddbmm"):
            first, second = (args[1], args[2]) if name in ("addmm", "baddbmm") else (args[0], args[1])
            self._product(first, second)
        elif name == "convolution":
            self._convolution(args, result)
        elif "scaled_dot_product" in name:
            self._attention(args[0], args[1])
        elif not _is_view(func) and not isinstance(self.layer, CausalConv3d):  # whose windows no compiled program makes
            tensors = [x for x in (*args, *_several(result)) if isinstance(x, Tensor)]
            moved = sum(x.numel() * x.element_size() for x in tensors)
            self.moved += moved
            self.around += moved if self.beside else 0
            self.operators += 1
        return result

    def _product(self, a: Tensor, b: Tensor) -> None:
        batch = a.shape[0] if a.dim() == 3 else 1
        rows, depth, columns = a.shape[-2], a.shape[-1], b.shape[-1]
        flops = 2 * batch * rows * depth * columns
        if isinstance(self.layer, nn.Linear):
            self.products.append(Product("linear", self.inside, (batch * rows, depth, columns), flops, depth * columns))
        else:
            self.products.append(Product("activations", self.inside, (batch, rows, depth, columns), flops, 0))

    def _convolution(self, args: Any, result: Tensor) -> None:
        x, weight, stride, groups = args[0], args[1], args[3], args[8]
        flops = 2 * result.numel() * weight[0].numel()
        rows, columns = (1, x.shape[2]) if x.dim() == 3 else x.shape[-2:]
        kernel = (1, weight.shape[2]) if weight.dim() == 3 else weight.shape[-2:]
        pictures, inputs, operators, kernels, frames = x.shape[0], x.shape[1], 1, 1.0, 1
        if isinstance(self.layer, CausalConv3d) and inputs > self.layer.weight.shape[1]:
            operators, kernels = _over_frames(self.layer, x)
            self._sums(self.layer, x.shape[0], result[0].numel(), operators)
            pictures, inputs, frames = 1, self.layer.weight.shape[1], x.shape[0]
        shape = (pictures, inputs, int(rows), int(columns), weight.shape[0], *map(int, kernel), int(stride[-1]), int(groups))
        self.products.append(Product("convolution", self.inside, shape, flops, weight.numel(), operators, kernels, frames))

    def _sums(self, conv: CausalConv3d, frames: int, out: int, convolutions: int) -> None:
        """What a portable program adds up around the convolutions of one over frames, and joins: `out` numbers a frame come out."""
        inputs = out * conv.weight.shape[1] // conv.weight.shape[0]  # of a frame; these keep a picture's size
        pairs = max(0, conv.taps * frames - convolutions) // 2
        alone = frames - 2 * pairs
        moved = FLOAT * (12 * pairs * (inputs + out) + 3 * (conv.taps - 1) * alone * out + 2 * frames * out)
        self.moved += moved
        self.around += moved
        self.operators += 8 * pairs + (conv.taps - 1) * alone + 1

    def _attention(self, q: Tensor, k: Tensor) -> None:
        batch, rows, width, keys = math.prod(q.shape[:-2]), q.shape[-2], q.shape[-1], k.shape[-2]
        for shape in ((batch, rows, width, keys), (batch, rows, keys, width)):
            self.products.append(Product("activations", self.inside, shape, 2 * math.prod(shape), 0))
        self.moved += 4 * FLOAT * batch * rows * keys  # logits: written, read by the softmax, which writes them again, and read
        self.operators += 1


def _over_frames(conv: CausalConv3d, windows: Tensor) -> tuple[int, float]:
    """Convolutions that a portable program makes of one over several frames, and their kernels by the taps that are used.
    `windows`: [frames, taps · channels, rows, columns]."""
    taps, frames = windows.shape[1] // conv.weight.shape[1], windows.shape[0]
    pairs = frames // 2 if conv.taps == taps == 3 and conv.frame_stride == 1 else 0
    alone = frames - 2 * pairs
    kernels = (6 if alone else 4) if pairs else taps  # the oldest tap is also one of the pairs' four
    return 4 * pairs + taps * alone, kernels / taps


def _several(result: Any) -> tuple[Any, ...]:
    return tuple(result) if isinstance(result, (tuple, list)) else (result,)


def _is_view(func: Any) -> bool:
    """Whether the result is memory that an argument has, or computes no values."""
    aliases = any(returned.alias_info is not None and not returned.alias_info.is_write for returned in func._schema.returns)
    return aliases or func.overloadpacket.__name__ in ("detach", "empty", "zeros", "new_zeros", "new_empty", "full", "_unsafe_view")


@torch.no_grad()
def counted(method: EntryPoint) -> Counted:
    """One call of a method whose module has no weights."""
    counter = _Counter()

    def enter(name: str, layer: nn.Module) -> Any:
        def hook(*_: Any) -> None:
            counter.inside, counter.layer = name, layer

        return hook

    def leave(*_: Any) -> None:
        counter.inside, counter.layer = "", None

    def beside(is_so: bool) -> Any:
        def hook(*_: Any) -> None:
            counter.beside = is_so

        return hook

    hooks = []
    for name, module in method.module.named_modules():
        if isinstance(module, (ChannelNorm, nn.SiLU)):
            hooks.append(module.register_forward_pre_hook(beside(True)))
            hooks.append(module.register_forward_hook(beside(False)))
        if isinstance(module, _LAYERS):
            hooks.append(module.register_forward_pre_hook(enter(name, module)))
            hooks.append(module.register_forward_hook(leave))
    inputs = [x.to("meta") for x in method.inputs.values()]
    try:
        with counter:
            outputs = _several(method.module(*inputs))
    finally:
        for hook in hooks:
            hook.remove()
    passed = sum(x.numel() * x.element_size() for x in (*inputs, *outputs))
    around = counter.around if any(product.frames > 1 for product in counter.products) else 0
    return Counted(tuple(counter.products), counter.moved, counter.operators, passed, around)


@lru_cache(maxsize=256)
def methods_of(source: HollowSource, role: str, clip: ClipSpec, making: Making) -> Mapping[str, Counted]:
    """The methods of a program by name, one call of each. Blocks that are alike are counted once."""
    config = source.config
    if role not in _BLOCKS or config.coupled_layers or config.layers <= 2:
        return _methods_of(source, role, clip, making)
    fewer = [_methods_of(_with_layers(source, layers), role, clip, making) for layers in (1, 2)]
    return {name: _repeated(one, two, config.layers) for (name, one), two in zip(fewer[0].items(), fewer[1].values(), strict=True)}


def _methods_of(source: HollowSource, role: str, clip: ClipSpec, making: Making) -> Mapping[str, Counted]:
    return {name: counted(method) for name, method in entry_points(source, role, clip, making).items()}


def _with_layers(source: HollowSource, layers: int) -> HollowSource:
    return replace(source, sizes=replace(source.sizes, transformer=replace(source.config, layers=layers)))


def _repeated(one: Counted, two: Counted, layers: int) -> Counted:
    """Of `layers` blocks, by what the second of two adds to the first, its layers named as those of each further block."""
    added = list(two.products)
    for product in one.products:
        added.remove(product)
    more = layers - 1
    products = [
        replace(product, module=product.module.replace(".blocks.1.", f".blocks.{index}."))
        for index in range(1, layers)
        for product in added
    ]
    return Counted(
        (*one.products, *products), one.moved + more * (two.moved - one.moved),
        one.operators + more * (two.operators - one.operators), one.passed + more * (two.passed - one.passed),
    )  # fmt: skip
