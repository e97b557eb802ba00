"""The smallest model that has every part, and its bundle: what the tests of targets, runtime and the command line play."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from echoedge.core.bundle import MANIFEST, Manifest
from echoedge.core.config import AudioConfig, ClipSpec, VAEConfig
from echoedge.core.model.encoders import NanoEncoders
from echoedge.core.model.programs import EntryPoints, Model, build_programs
from echoedge.core.model.vae import VAE, CausalConv3d, ChannelNorm, Downsample, Upsample
from echoedge.core.plan import SamplingPlan, WindowRule
from echoedge.core.plan.phases import PhaseWeights
from echoedge.core.plan.samplers import PLAN_PRESETS, PlanOptions, build_plan
from echoedge.core.sampling.hearing import playing_of
from echoedge.core.weights.source import HeldSource
from echoedge.quantize.recipes import PRESETS
from echoedge.runtime.engines.torch import TorchEngine
from echoedge.runtime.export import pipeline
from echoedge.runtime.export.pipeline import export_bundle
from echoedge.runtime.export.record import step_tables
from echoedge.runtime.export.request import ExportRequest
from echoedge.runtime.play.material import demo_material
from echoedge.runtime.play.player import PlayerConfig, Progress
from echoedge.runtime.registry import Registered

from .core.tiny import randomised, tiny_config, tiny_dit
from .core.tiny_bundle import contents
from .inline import Inline

CLIP = ClipSpec(height=32, width=32, frames=9)  # 3 latent frames of 4x4, 4 tokens each
OPTIONS = replace(PLAN_PRESETS["nano"], steps=2, modality=PhaseWeights(), window=WindowRule(length=3, overlap=1))
HOLLOW = Registered(f"{__package__}.toy.hollow", f"{__package__}.toy.engine")  # compiles nothing
TOY = Registered(f"{__package__}.toy.target", f"{__package__}.toy.engine")
SOURCE = "0" * 64  # the SHA-256 of weights that lie in no file


def bare_vae(config: VAEConfig, seed: int) -> VAE:
    """A VAE that halves, doubles and streams like every other but has no residual blocks: those take longest to compile."""
    torch.manual_seed(seed)
    vae = VAE(config)
    d, z = config.dim, config.latent_channels
    vae.encoder.downsamples = nn.Sequential(
        Downsample(d, temporal=False), Downsample(d, temporal=True), Downsample(d, temporal=True)
    )
    vae.decoder.conv1 = CausalConv3d(z, 8 * d, (3, 3))
    vae.decoder.upsamples = nn.Sequential(
        Upsample(8 * d, temporal=True), Upsample(4 * d, temporal=True), Upsample(2 * d, temporal=False)
    )
    vae.decoder.head = nn.Sequential(ChannelNorm(d, 3), nn.SiLU(), CausalConv3d(d, 3, (3, 3)))
    vae.encoder.middle, vae.decoder.middle = nn.Sequential(), nn.Sequential()
    vae.initialise()
    return randomised(vae, seed)


def small_model(seed: int = 0) -> Model:
    """One coupled and one decoupled block of width 32, a bare VAE of width 4, encoders; random weights, the same everywhere."""
    return _small_model(seed)


@cache
def _small_model(seed: int) -> Model:
    config = tiny_config(
        dim=32, ffn_dim=64, audio=AudioConfig(layers=1, channels=6, hidden=10, tokens=2),
        vae=VAEConfig(dim=4, multipliers=(1, 1, 1, 1), res_blocks=1),
    )  # fmt: skip
    torch.manual_seed(seed)
    encoders = randomised(NanoEncoders(config, CLIP), seed)
    model = Model(config, tiny_dit(config, seed), bare_vae(config.vae, seed), encoders)
    for module in (model.dit, model.vae, encoders):
        module.requires_grad_(False)
    return model


@cache
def small_plan(options: PlanOptions = OPTIONS) -> SamplingPlan:
    """The plan of `options`; modulation vectors, where they are asked for, are those of the small model."""
    return build_plan(options, lambda steps: small_model().dit.step_tables(torch.tensor(steps))[1].flatten(1).double().numpy())


@cache
def small_programs(seed: int = 0, reuse: bool = False) -> dict[str, EntryPoints]:
    model = small_model(seed)
    return build_programs(model, CLIP, model.config.text_len, reuse)


def small_player_config(options: PlanOptions = OPTIONS, **changes: Any) -> PlayerConfig:
    """What a player needs to know of the small model under a plan."""
    model, plan, programs = small_model(), small_plan(options), small_programs()
    samples = programs["audio_encoder"]["forward"].inputs["waveform"].shape[1]
    return replace(PlayerConfig(playing_of(model.config), CLIP, plan, step_tables(model.dit, plan), samples), **changes)


def small_engine(seed: int = 0, reuse: bool = False) -> TorchEngine:
    """The small model in full precision."""
    return TorchEngine(small_programs(seed, reuse))


def small_request(weights: str = "int8", target: str = "executorch") -> ExportRequest:
    source = HeldSource(small_model(), SOURCE)
    material, other = (demo_material(CLIP, whole=True, number=number) for number in range(2))
    rows = source.config.text_len
    return ExportRequest(source, (CLIP,), small_plan(), PRESETS[weights], (material,), other, target, text_rows=rows)


def export_small(
    path: Path, weights: str = "int8", progress: Progress | Callable[..., None] = lambda *_: None, target: str = "executorch"
) -> Manifest:
    """The bundle of the small model; most of the time goes to lowering the denoiser."""
    return export_bundle(small_request(weights, target), path, progress=progress)


def export_apple(path: Path) -> None:
    """The small model's bundle for Core ML, in this process."""
    request = small_request("int8", "coreml")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "JobRunner", Inline)
        export_bundle(replace(request, options=request.compiler.options()), path)


def changed_bundle(path: Path, copy: Path, name: str, data: bytes) -> Path:
    """A copy of a bundle with `data` as its file `name` and a manifest that agrees: only what reads the file can object."""
    shutil.copytree(path, copy)
    (copy / name).write_bytes(data)
    manifest = contents(copy)
    stored = (program["artifact"] for program in manifest["programs"].values())
    entry = manifest["files"].get(name) or next(artifact for artifact in stored if artifact["path"] == name)
    entry |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    (copy / MANIFEST).write_text(json.dumps(manifest))
    return copy


def demanding_bundle(path: Path, copy: Path, psnr_db: float, *rows: str) -> Path:
    """A copy of a bundle that demands `psnr_db` of the rows named (all by default)."""
    shutil.copytree(path, copy)
    manifest = contents(copy)
    demanded = {name: program["demanded"] for name, program in manifest["programs"].items()} | manifest["parity"]["demanded"]
    for name in rows or demanded:
        demanded[name]["psnr_db"] = psnr_db
    (copy / MANIFEST).write_text(json.dumps(manifest))
    return copy
