"""What is counted of programs, beside closed forms, torch's own count of FLOPs, and full-size files that were once exported."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from echoedge.core.config import NANO, NANO_CLIP, ClipSpec
from echoedge.core.model.architecture import Architecture
from echoedge.core.model.programs import EntryPoint
from echoedge.core.model.vae import CausalConv3d
from echoedge.core.weights.nano import load_nano
from echoedge.core.weights.source import HeldSource, Making, entry_points
from echoedge.quantize.recipes import PRESETS
from echoedge.runtime.export.forecast import bits_of, program_weights, step_bytes
from echoedge.runtime.fit import counting
from echoedge.runtime.fit.counting import HollowSource, counted, methods_of
from echoedge.runtime.fit.estimate import pointers
from echoedge.targets.rewrites.causal_convolution import PortableConv3d

RECORDS = Path(__file__).parents[2] / "records"
TOY = replace(NANO, layers=5, coupled_layers=0)
SOURCE = HollowSource(Architecture(NANO), True)
MAKING = Making(NANO.text_len)


def method(module: nn.Module, *inputs: torch.Tensor) -> EntryPoint:
    return EntryPoint(module.to("meta"), {f"x{i}": x for i, x in enumerate(inputs)}, ["y"])


class Both(nn.Module):
    """A layer, a product of its result with itself, and a softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layer(x)
        return torch.softmax(torch.bmm(y, y.transpose(1, 2)), -1)


def test_products_are_told_apart_with_their_shapes() -> None:
    found = counted(method(Both(), torch.zeros(2, 5, 6)))
    layer, product = found.products
    assert (layer.kind, layer.module, layer.shape, layer.flops, layer.weights) == (
        "linear",
        "layer",
        (10, 6, 8),
        2 * 10 * 6 * 8,
        48,
    )
    assert (product.kind, product.shape, product.flops, product.weights) == ("activations", (2, 5, 8, 5), 2 * 2 * 5 * 8 * 5, 0)
    assert found.moved == 2 * 4 * 2 * 5 * 5  # the softmax reads and writes the logits; views are free
    assert found.passed == 4 * (2 * 5 * 6 + 2 * 5 * 5)
    assert counted(method(Both(), torch.zeros(2, 7, 6))).flops != found.flops


def test_convolutions_have_closed_forms() -> None:
    plain = counted(method(nn.Conv2d(3, 4, 3, stride=2, padding=1), torch.zeros(2, 3, 8, 10))).products[0]
    assert plain.shape == (2, 3, 8, 10, 4, 3, 3, 2, 1)
    assert plain.flops == 2 * 2 * 4 * (4 * 5) * (3 * 9)
    assert plain.weights == 4 * 3 * 9
    streamed = counted(method(CausalConv3d(3, 4, (3, 3)), torch.zeros(1, 2, 3, 8, 8), torch.zeros(1, 2, 3, 8, 8))).products[0]
    assert streamed.flops == 2 * 2 * 4 * 64 * (3 * 3 * 9)  # two frames, three taps each
    assert streamed.weights == 4 * 9 * 9
    first = counted(method(CausalConv3d(3, 4, (3, 3)), torch.zeros(1, 1, 3, 8, 8))).products[0]
    assert first.weights == streamed.weights // 3  # of a clip's first frame the other taps would read zeros


@pytest.mark.parametrize(("frames", "past", "stride"), [(1, None, 1), (1, 2, 1), (2, 2, 1), (4, 2, 1), (5, 2, 1), (4, 1, 2)])
def test_what_a_portable_program_makes_of_a_convolution_over_frames(frames: int, past: int | None, stride: int) -> None:
    """Beside the rewritten convolution itself, whose operators and weights are looked at as it runs."""
    conv = CausalConv3d(3, 4, (3, 3), frame_stride=stride)
    before = () if past is None else (torch.zeros(1, past, 3, 8, 8),)
    given = (torch.zeros(1, frames, 3, 8, 8), *before)
    if stride == 2:  # it is given its past as frames
        given = (torch.zeros(1, frames + 1, 3, 8, 8),)
    portable, ran = PortableConv3d(conv), list[nn.Conv2d]()
    for part in portable.modules():
        if isinstance(part, nn.Conv2d):
            part.register_forward_hook(lambda layer, *_: ran.append(layer))
    portable(*given)
    found = counted(method(conv, *given)).products[0]
    assert found.operators == len(ran)
    assert found.kernels * found.weights == sum(layer.weight.numel() for layer in set(ran))
    assert found.computed == sum(2 * 8 * 8 * layer.weight.numel() for layer in ran)
    assert (found.computed < found.flops) == (stride == 1 and frames > 1)


def test_pointers_are_for_windows_larger_than_a_pixel() -> None:
    product = counted(method(nn.Conv2d(3, 4, 3, stride=2, padding=1), torch.zeros(1, 3, 8, 10))).products[0]
    assert pointers(product) == 8 * 9 * 4 * 5
    assert pointers(replace(product, operators=3)) == 3 * pointers(product)
    assert pointers(counted(method(nn.Conv2d(3, 4, 1), torch.zeros(1, 3, 8, 10))).products[0]) == 0
    assert pointers(counted(method(nn.Linear(3, 4), torch.zeros(2, 3))).products[0]) == 0


@pytest.mark.parametrize("role", ["audio_encoder", "image_encoder", "vae_encode", "text_conditions", "denoise", "vae_decode"])
def test_every_product_of_nano_is_counted_as_torch_counts_it(role: str) -> None:
    """The model with its weights, really run; attention in products, for torch has no count of its fused form on processors."""
    for name, real in entry_points(HeldSource(load_nano(), ""), role, NANO_CLIP, MAKING).items():
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as torchs:
            real.run(*real.inputs.values())
        found = methods_of(SOURCE, role, NANO_CLIP, MAKING)[name]
        assert found.flops == torchs.get_total_flops()
        assert found.flops != methods_of(SOURCE, role, ClipSpec(64, 64, 9), MAKING)[name].flops or role in (
            "image_encoder", "vae_encode", "text_conditions", "vae_decode",
        )  # fmt: skip


def test_blocks_that_are_alike_are_counted_once() -> None:
    """Five blocks by way of two, and all five run: the same products of the same layers."""
    source = HollowSource(Architecture(TOY), True)
    quick, whole = methods_of(source, "denoise", NANO_CLIP, MAKING), counting._methods_of(source, "denoise", NANO_CLIP, MAKING)
    assert sorted(map(str, quick["forward"].products)) == sorted(map(str, whole["forward"].products))
    assert quick["forward"].moved == whole["forward"].moved
    four = methods_of(HollowSource(Architecture(replace(TOY, layers=4)), True), "denoise", NANO_CLIP, MAKING)
    assert four["forward"].flops < quick["forward"].flops


def test_layers_are_named_as_recipes_name_them() -> None:
    """The bytes of the step's layers, one by one, are those of the export's forecast."""
    found, recipe = methods_of(SOURCE, "denoise", NANO_CLIP, MAKING)["forward"], PRESETS["int4"]
    layers = {product.module: product for product in found.products if product.kind == "linear" and ".blocks." in product.module}
    named = sum(int(product.weights * bits_of(recipe, "denoise", name)) // 8 for name, product in layers.items())
    head = next(product for product in found.products if product.module.endswith("head.head"))
    assert named + 4 * head.weights == pytest.approx(
        step_bytes(Architecture(NANO), recipe), rel=0.01
    )  # which has the head's biases
    unnamed = sum(int(product.weights * bits_of(recipe, "denoise", "")) // 8 for product in layers.values())
    assert unnamed > 1.2 * named


@pytest.mark.parametrize(("weights", "decoders"), [("int4", "tiny"), ("int8", "full,tiny")])
def test_full_size_files_were_as_large_as_forecast(weights: str, decoders: str) -> None:
    """Against exports of flash that were measured: within a tenth, program by program where they are large."""
    record = json.loads((RECORDS / "export-flash.json").read_text())["figures"]
    coders = {"tiny": ("tiny_decode",), "full,tiny": ("vae_decode", "tiny_decode")}[decoders]
    roles = (
        "audio_encoder", "image_encoder", "vae_encode", "text_conditions", "image_conditions", "audio_conditions",
        "patch_conditions", "denoise", *coders,
    )  # fmt: skip
    recipe = PRESETS[weights].without_convolutions()  # the record is from before convolutions were rounded
    found = program_weights(Architecture(), recipe, roles)
    whole = next(row for row in record["bundles"] if (row["weights"], row["decoders"]) == (weights, decoders))
    assert sum(found.values()) == pytest.approx(1e9 * whole["programs_gb"], rel=0.1)
    assert found["denoise"] == pytest.approx(1e6 * whole["step_mb"], rel=0.05)
    for row in record["programs"]:
        if row["program"] in found and row["program"] != "denoise" and row["file_mb"] > 60:
            assert found[row["program"]] == pytest.approx(1e6 * row["file_mb"], rel=0.15), row["program"]
    assert program_weights(Architecture(), PRESETS["fp32"], ["denoise"])["denoise"] > 3 * found["denoise"]
