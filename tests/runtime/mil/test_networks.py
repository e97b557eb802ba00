"""Networks as exports make them: torch.export, coremltools, a saved package, run here; whole, compressed, and damaged.

Measured against torch's float32 (signal to noise): 67 dB in half precision, 72 dB with the file's weights and all else in float32.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import coremltools as ct
import coremltools.optimize.coreml as cto
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from echoedge.runtime.engines.mil import Function, Observations, Package, compare


class Network(nn.Module):
    """A transformer block with modulation, attention and rotary embedding over latents; then frames out of them, causal in time."""

    def __init__(self, dim: int = 32, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.last = nn.LayerNorm(dim, elementwise_affine=False), nn.LayerNorm(dim)
        self.qkv, self.o = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.ffn = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(approximate="tanh"), nn.Linear(4 * dim, dim))
        self.inner, self.group = nn.Conv3d(dim, 16, 3), nn.GroupNorm(4, 16)
        self.grown, self.out = nn.ConvTranspose2d(16, 8, 4, 2, 1), nn.Conv2d(8, 3, 3, padding=1)
        angles = torch.arange(12)[:, None] / 100 ** (torch.arange(dim // heads // 2) / 8)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def turned(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return torch.cat([a * self.cos - b * self.sin, b * self.cos + a * self.sin], -1)

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """x [1, 12, dim] (3 frames of 2x2), modulation [1, 1, 2 dim] -> [3, 3, 8, 8]."""
        shift, scale = modulation.chunk(2, -1)
        y = self.norm(x) * (1 + scale) + shift
        q, k, v = self.qkv(y).view(1, 12, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(self.turned(q), self.turned(k), v)
        x = x + self.o(y.transpose(1, 2).reshape(1, 12, -1))
        x = x + self.ffn(self.last(x))
        frames = x.transpose(1, 2).reshape(1, -1, 3, 2, 2)
        frames = self.inner(F.pad(frames, (1, 1, 1, 1, 2, 0)))[0].transpose(0, 1)
        frames = F.interpolate(F.silu(self.group(frames)), scale_factor=2.0)
        return torch.tanh(self.out(self.grown(frames)))


INPUTS = {"x": torch.randn(1, 12, 32, generator=torch.Generator().manual_seed(1)), "modulation": torch.full((1, 1, 64), 0.1)}
ARRAYS = {name: x.numpy() for name, x in INPUTS.items()}


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(3)
    return Network().eval().requires_grad_(False)


def converted(network: Network) -> Any:
    exported = torch.export.export(network, tuple(INPUTS.values())).run_decompositions({})
    return ct.convert(
        exported, outputs=[ct.TensorType(name="frames", dtype=np.float32)], minimum_deployment_target=ct.target.iOS18,
        compute_precision=ct.precision.FLOAT16, skip_model_load=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def model(network: Network) -> Any:
    return converted(network)


@pytest.fixture(scope="module")
def path(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("network") / "network.mlpackage"
    model.save(str(found))
    return found


@pytest.fixture(scope="module")
def function(path: Path) -> Function:
    return Package.open(path).function()


def noise(found: np.ndarray, expected: Tensor) -> float:
    """Signal to noise in dB."""
    error = found.astype(np.float64) - expected.double().numpy()
    return float(10 * np.log10(expected.double().square().sum().item() / np.square(error).sum()))


def test_it_computes_what_torch_computes(network: Network, function: Function) -> None:
    expected = network(*INPUTS.values())
    seen = Observations()
    assert noise(function.run(ARRAYS)["frames"], expected) > 57  # 10 dB below what was measured
    assert noise(function.run(ARRAYS, "fp32", tap=seen)["frames"], expected) > 62
    assert seen.first_not_finite is None and seen.tightest(1)[0].headroom > 1000
    wanted = {"linear", "layer_norm", "scaled_dot_product_attention", "gelu", "conv", "conv_transpose", "upsample_nearest_neighbor"}
    assert wanted <= function.counts.keys()  # none was taken apart


def test_a_weight_of_another_sign_is_named(network: Network, path: Path, function: Function, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(path, tmp_path / "copy.mlpackage"))
    weights = copy / "Data/com.apple.CoreML/weights/weight.bin"
    held, wanted = weights.read_bytes(), network.ffn[2].weight.half().numpy().tobytes()
    assert held.count(wanted) == 1
    at = held.index(wanted)
    turned = (np.frombuffer(wanted, np.uint16) ^ 0x8000).tobytes()
    weights.write_bytes(held[:at] + turned + held[at + len(wanted) :])
    found = compare(Package.open(copy).function(), function, ARRAYS, 1e-3)
    assert found.first is not None and found.first.type == "linear" and found.first.relative == pytest.approx(2, rel=0.2)


HOW = {
    "int4 in blocks": (
        cto.linear_quantize_weights,
        cto.OpLinearQuantizerConfig(mode="linear", dtype="uint4", granularity="per_block", block_size=16, weight_threshold=0),
    ),
    "3 bit in groups": (
        cto.palettize_weights,
        cto.OpPalettizerConfig(mode="uniform", nbits=3, granularity="per_grouped_channel", group_size=16, weight_threshold=0),
    ),
}


@pytest.mark.parametrize("how", HOW)
def test_compressed_it_is_what_coremltools_decompresses(model: Any, function: Function, tmp_path: Path, how: str) -> None:
    compress, config = HOW[how]
    small = compress(model, cto.OptimizationConfig(op_type_configs={"linear": config}))
    small.save(str(tmp_path / "small.mlpackage"))
    cto.decompress_weights(small).save(str(tmp_path / "large.mlpackage"))
    package, large = Package.open(tmp_path / "small.mlpackage"), Package.open(tmp_path / "large.mlpackage")
    assert sum(n for name, n in package.function().counts.items() if name.startswith("constexpr_")) == 4
    assert package.weight_bytes < 0.85 * large.weight_bytes
    same = compare(package.function(), large.function(), ARRAYS, 0.0)
    assert same.first is None and same.results > 30
    lost = compare(package.function(), function, ARRAYS, 1e-3)
    assert lost.first is not None and lost.first.type == "linear"  # the first that has compressed weights
