"""How far the interpreter of Core ML packages and Apple's Core AI runtime agree, by family of operators, beside torch in float32.

    python tests/benchmarks/agreement.py [--only FAMILY …] [--record records/apple_agreement.json]

Small modules of torch, one or more for each family of the interpreter, at the sizes of a step or a decoder. Each is converted to a
Core ML package, which the interpreter runs in float32 and in half precision, and to `.aimodel`s of float32 and float16, which
Apple's runtime runs. Weights and inputs are numbers that half precision holds, so that all compute with the same ones. A difference
is the root mean square of what two differ by, over that of the second. Minutes, most of them Apple's convolutions.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from echoedge.core.errors import EchoEdgeError
from echoedge.core.versions import library_versions
from echoedge.docs.figures import Row, Value, write_figures
from echoedge.quantize.recipes import PRESETS
from echoedge.quantize.weights import quantise
from echoedge.runtime.bench.clip import device_name
from echoedge.runtime.engines.mil.engine import Programs
from echoedge.runtime.engines.mil.function import Precision
from echoedge.targets.coreai.asset import Part, in_type
from echoedge.targets.coreai.asset import convert as convert_coreai
from echoedge.targets.coreai.session import SUFFIX, Loaded
from echoedge.targets.coreai.storage import settle
from echoedge.targets.coreml.convert import convert as convert_coreml
from echoedge.targets.coreml.convert import fill
from echoedge.targets.coreml.package import write_packages
from echoedge.targets.coreml.storage import Storing
from echoedge.targets.stored_weight import stored_weight

METHOD, OUT, IOS = "forward", "out", 18
DIM, HIDDEN, HEADS, TOKENS = 1536, 8960, 12, 448  # of the released step
FEW = 32  # tokens, where a product takes Apple's runtime on Linux long
Arrays = list[np.ndarray]


class Of(nn.Module):
    """A function of tensors as a module."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.function(*tensors)


class Then(nn.Module):
    """`last` of a module's result."""

    def __init__(self, module: nn.Module, last: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.module, self.last = module, last

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.last(self.module(*tensors))


@dataclass(frozen=True)
class Case:
    """`make`: the module; `shapes`: of its inputs, normal numbers times `scale`; `positive`: their magnitudes; `whole`: an input of
    whole numbers below that, after them; `weights`: the preset that rounds its linear layers."""

    family: str
    what: str
    make: Callable[[], nn.Module]
    shapes: Sequence[tuple[int, ...]]
    scale: float = 1.0
    positive: bool = False
    whole: tuple[int, int] | None = None  # length, end
    weights: str | None = None

    def inputs(self) -> list[Tensor]:
        draw = torch.Generator().manual_seed(len(self.what))
        found = [(torch.randn(shape, generator=draw) * self.scale).half().float() for shape in self.shapes]
        found = [(x.abs() + 0.0625).half().float() for x in found] if self.positive else found
        return found + ([torch.randint(self.whole[1], (self.whole[0],), generator=draw)] if self.whole else [])

    def module(self) -> nn.Module:
        torch.manual_seed(0)
        made = self.make().eval().requires_grad_(False)
        for tensor in (*made.parameters(), *made.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(tensor.half().float())
        return made


WIDE, PICTURE, SMALL = (1, TOKENS, DIM), (1, 48, 30, 52), (1, 48, 16, 26)
QKV = ((1, HEADS, TOKENS, DIM // HEADS),) * 3
CASES = (
    Case("activation", "gelu, exact", lambda: nn.GELU(), [(1, TOKENS, HIDDEN)]),
    Case("activation", "gelu, tanh", lambda: nn.GELU(approximate="tanh"), [(1, TOKENS, HIDDEN)]),
    Case("activation", "silu", lambda: nn.SiLU(), [(1, TOKENS, HIDDEN)]),
    Case("activation", "softmax", lambda: nn.Softmax(-1), [(1, HEADS, TOKENS, TOKENS)], 4.0),
    Case("binary", "x·y + x/(1 + y²)", lambda: Of(lambda x, y: x * y + x / (1 + y * y)), [WIDE, WIDE]),
    Case("binary", "where, max, min", lambda: Of(lambda x, y: torch.where(x > y, torch.maximum(x, -y), torch.minimum(x, y))),
         [WIDE, WIDE]),
    Case("compression", "linear, int8", lambda: nn.Linear(DIM, DIM), [(1, FEW, DIM)], weights="int8"),
    Case("convolution", "3×3 of 48 channels", lambda: nn.Conv2d(48, 48, 3, padding=1), [SMALL]),
    Case("convolution", "3×3×3 of 16 channels", lambda: nn.Conv3d(16, 16, 3, padding=1), [(1, 16, 2, 8, 13)]),
    Case("convolution", "transposed 4×4, stride 2", lambda: nn.ConvTranspose2d(48, 24, 4, 2, 1), [SMALL]),
    Case("gathering", "rows of a table", lambda: nn.Embedding(4096, DIM), [], whole=(512, 4096)),
    Case("layout", "patches and back", lambda: Of(_patches), [PICTURE]),
    Case("normalization", "layer norm", lambda: nn.LayerNorm(DIM), [WIDE], 8.0),
    Case("normalization", "group norm", lambda: nn.GroupNorm(8, 48), [PICTURE], 8.0),
    Case("normalization", "batch norm", lambda: nn.BatchNorm2d(48), [PICTURE], 8.0),
    Case("products", "linear, 1,536 → 8,960", lambda: nn.Linear(DIM, HIDDEN), [(1, FEW, DIM)]),
    Case("products", "linear, 8,960 → 1,536", lambda: nn.Linear(HIDDEN, DIM), [(1, FEW, HIDDEN)]),
    Case("products", "matmul of logits", lambda: Of(lambda q, k: q @ k.transpose(-1, -2)), QKV[:2]),
    Case("products", "attention", lambda: Of(lambda q, k, v: F.scaled_dot_product_attention(q, k, v)), QKV),
    Case("products", "attention, masked", lambda: Of(lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m)),
         [*QKV, (1, 1, TOKENS, TOKENS)], 2.0),
    Case("reduction", "mean", lambda: Of(lambda x: x.mean(-1)), [WIDE]),
    Case("reduction", "sum of squares", lambda: Of(lambda x: (x * x).sum(-1)), [WIDE]),
    Case("reduction", "maximum", lambda: Of(lambda x: x.amax(-1)), [WIDE]),
    Case("reduction", "running sum", lambda: Of(lambda x: torch.cumsum(x, 1)), [WIDE]),
    Case("resizing", "nearest, ×2", lambda: Of(lambda x: F.interpolate(x, scale_factor=2.0, mode="nearest")), [PICTURE]),
    Case("resizing", "bilinear, ×2",
         lambda: Of(lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)), [PICTURE]),
    Case("slicing", "every second, from the end", lambda: Of(lambda x: torch.cat([x[:, 1::2, 3:], x[:, -224:, :-3]], 1)), [WIDE]),
    Case("unary", "exp", lambda: Of(torch.exp), [WIDE]),
    Case("unary", "log", lambda: Of(torch.log), [WIDE], positive=True),
    Case("unary", "rsqrt", lambda: Of(torch.rsqrt), [WIDE], positive=True),
    Case("unary", "sin + cos", lambda: Of(lambda x: torch.sin(x) + torch.cos(x)), [WIDE], 8.0),
    Case("unary", "tanh", lambda: Of(torch.tanh), [WIDE]),
    Case("unary", "erf", lambda: Of(torch.erf), [WIDE]),
    Case("unary", "round, halves too", lambda: Of(lambda x: torch.round(torch.round(x * 8) / 2)), [WIDE]),
    Case("unary", "floor, sign, clamp", lambda: Of(lambda x: torch.floor(x) + torch.sign(x) + x.clamp(-0.5, 0.25)), [WIDE]),
)  # fmt: skip


def _patches(x: Tensor) -> Tensor:
    """[1, C, h, w] in patches of 2×2, padded by one, and turned."""
    _, c, h, w = x.shape
    patches = x.reshape(c, h // 2, 2, w // 2, 2).permute(1, 3, 0, 2, 4)
    return F.pad(patches.flatten(2).permute(2, 1, 0), (1, 1)).flip(0)


# ---- both sides -----------------------------------------------------------------------------------------------------------------


def _ended(error: Exception) -> str:
    """A refusal as a cell."""
    return f"refused: {type(error).__name__}" if not isinstance(error, EchoEdgeError) else "refused"


def run_coreml(case: Case, module: nn.Module, inputs: list[Tensor], folder: Path) -> dict[str, np.ndarray]:
    """What the interpreter makes of the package, by precision. Raises ExportError, EngineError."""
    named = {f"in_{place}": x for place, x in enumerate(inputs)}
    stored = {}
    if case.weights:
        storing = Storing(IOS)
        quantise(module, "denoise", PRESETS[case.weights], tuple(inputs), store=storing)
        stored = storing.take(module)
    converted = convert_coreml(case.what, copy.deepcopy(module).half(), named, [OUT], IOS)
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    fill(case.what, converted, {**tensors, **stored}.items())
    place = folder / "coreml"
    place.mkdir()
    write_packages({METHOD: converted}, place, case.what, IOS)
    arrays, precisions = [x.numpy() for x in inputs], ("fp32", "fp16")
    return {each: Programs(_precision(each)).run(place, METHOD, arrays)[0].astype(np.float64) for each in precisions}


def _precision(name: str) -> Precision:
    return "fp32" if name == "fp32" else "fp16"


def run_coreai(case: Case, module: nn.Module, inputs: list[Tensor], folder: Path, half: bool) -> np.ndarray:
    """What Apple's runtime makes of the file. Raises ExportError, EngineError."""
    named, precision = {f"in_{place}": x for place, x in enumerate(inputs)}, _precision("fp16" if half else "fp32")
    if case.weights:
        quantise(module, "denoise", PRESETS[case.weights], tuple(inputs), store=stored_weight)
        module = settle(Then(module, lambda x: x))
    path = folder / f"{precision}{SUFFIX}"
    convert_coreai(case.what, Part(in_type(module, precision), named, [OUT]), precision, path)
    loaded = Loaded(path)
    try:
        return loaded.run({name: x.numpy() for name, x in named.items()})[OUT].astype(np.float64)
    finally:
        loaded.close()


@torch.no_grad()
def expected(case: Case, inputs: list[Tensor]) -> np.ndarray:
    """torch, in float32, with the weights as they are rounded."""
    module = case.module()
    if case.weights:
        quantise(module, "denoise", PRESETS[case.weights], tuple(inputs), store=Storing(IOS))
    found: np.ndarray = module(*inputs).numpy().astype(np.float64)
    return found


def apart(found: np.ndarray | str, known: np.ndarray | str) -> Value:
    """The difference, relative to the second; in words where one of the two is."""
    for each in (found, known):
        if isinstance(each, str):
            return each
    assert isinstance(found, np.ndarray) and isinstance(known, np.ndarray)
    if found.shape != known.shape:
        return "another shape"
    if not np.isfinite(found).all():
        return "not finite"
    return float(np.sqrt(np.mean(np.square(found - known))) / (np.sqrt(np.mean(np.square(known))) or 1.0))


def measured(case: Case) -> Row:
    inputs = case.inputs()
    known, found = expected(case, inputs), dict[str, np.ndarray | str]()
    with tempfile.TemporaryDirectory() as folder:
        try:
            made = run_coreml(case, case.module(), inputs, Path(folder))
            found |= {f"mil_{precision}": each for precision, each in made.items()}
        except EchoEdgeError as error:
            print(f"  Core ML: {str(error)[:300]}", flush=True)
            found |= dict.fromkeys(("mil_fp32", "mil_fp16"), _ended(error))
        for half in (False, True):
            name = "coreai_fp16" if half else "coreai_fp32"
            try:
                found[name] = run_coreai(case, case.module(), inputs, Path(folder), half)
            except EchoEdgeError as error:
                print(f"  Core AI: {str(error)[:300]}", flush=True)
                found[name] = _ended(error)
    row: Row = {"family": case.family, "what": case.what}
    row |= {name: apart(each, known) for name, each in found.items()}
    return row | {f"both_{each}": apart(found[f"mil_{each}"], found[f"coreai_{each}"]) for each in ("fp32", "fp16")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="FAMILY", choices=sorted({case.family for case in CASES}))
    parser.add_argument("--record", type=Path, metavar="FILE")
    asked, rows = parser.parse_args(), list[Row]()
    for case in CASES:
        if not asked.only or case.family in asked.only:
            rows.append(measured(case))
            print(rows[-1], flush=True)
            if asked.record:
                keep(asked.record, rows)


def keep(path: Path, rows: list[Row]) -> None:
    versions = library_versions()
    write_figures(
        path, command="python tests/benchmarks/agreement.py",
        source=f"the same command with `--record {path.as_posix()}`, which writes this file.",
        hardware=device_name(), versions={name: versions[name] for name in ("torch", "coremltools", "coreai-core", "coreai-torch")},
        conditions=(
            "The same module, inputs and weights, all of which half precision holds, as a Core ML package (iOS 18), interpreted, "
            "and as an `.aimodel`, run by Apple's runtime on Linux; root mean square of the difference over that of the expected."
        ),
        figures={"families": rows},
    )  # fmt: skip


if __name__ == "__main__":
    main()
