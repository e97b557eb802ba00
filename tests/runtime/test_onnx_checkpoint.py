"""The target onnx on checkpoints: one bundle of every program, proven on each listed shape, that plays a shape which is not listed.

Jobs run in this process here; that they run in processes of their own is test_jobs.py's to show.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from echoedge.core.bundle import Bundle
from echoedge.core.config import ClipSpec, Variant
from echoedge.core.plan.samplers import NEGATIVE_PROMPT, PLAN_PRESETS, build_plan
from echoedge.quantize.recipes import PRESETS
from echoedge.runtime.engines import open_engine
from echoedge.runtime.export import pipeline
from echoedge.runtime.export.pipeline import export_bundle, jobs_of
from echoedge.runtime.export.request import ExportRequest
from echoedge.runtime.play.material import demo_material
from echoedge.runtime.play.player import Player, PlayerConfig
from echoedge.runtime.verify.parity import read_golden, verify
from echoedge.targets.onnx.target import TARGET

from ..core.tiny_checkpoint import playable_sizes
from ..inline import Inline
from .test_export_checkpoint import CLIP, NAMES, OTHER, PROMPT, request_for

pytest.importorskip("onnx", reason="the extra onnx is not installed")
pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")

UNLISTED = ClipSpec(48, 32, 13)


def request_of(variant: Variant, folder: Path) -> ExportRequest:
    """Two shapes of a model, for ONNX Runtime."""
    width, generator = playable_sizes(variant).transformer.text_dim, np.random.default_rng(4)
    texts = (PROMPT, NEGATIVE_PROMPT) if variant == "preview" else (PROMPT,)
    request = request_for(
        folder, variant, PRESETS["int8"], target="onnx", clips=(CLIP, OTHER),
        prompts={text: generator.standard_normal((5, width), np.float32) for text in texts},
        plan=build_plan(replace(PLAN_PRESETS[variant], steps=2)),
    )  # fmt: skip
    return replace(request, options=TARGET.options())


def test_what_serves_every_shape_is_compiled_once_and_proven_on_each(folders: dict[Variant, Path]) -> None:
    names = [job.name for job in jobs_of(request_of("flash", folders["flash"]))[0]]
    assert len(set(names)) == len(names)
    compiled = {name.removeprefix("compile ") for name in names if name.startswith("compile ")}
    assert compiled == NAMES | {"vae_decode"}
    proofs = {name.removeprefix("proof of ") for name in names if name.startswith("proof of ")}
    assert proofs >= compiled and "denoise-32x32x9" in proofs and "vae_decode-32x32x9" in proofs
    assert not any(name.startswith("data of ") for name in names)  # there is nothing to merge
    assert {"reference of the step", "reference of the step-32x32x9"} <= set(names)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["preview", "flash"])
def test_one_bundle_is_proven_on_listed_shapes_and_plays_others(
    variant: Variant, folders: dict[Variant, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every program, compiled, verified and played at three shapes; two minutes a model."""
    request = request_of(variant, folders[variant])
    monkeypatch.setattr(pipeline, "JobRunner", Inline)
    export_bundle(request, tmp_path / "one.echoedge")
    bundle = Bundle.open(tmp_path / "one.echoedge")
    programs = bundle.manifest.programs
    assert set(programs) == NAMES | {"vae_decode"} and not any(program.clip for program in programs.values())
    index = read_golden(bundle).index["programs"]
    calls = {name: sum(len(found) for found in methods.values()) for name, methods in index.items()}
    assert calls["image_encoder"] == 2 and calls["vae_encode"] >= 4  # of either shape
    assert verify(bundle, open_engine(bundle)).passed
    for clip in (*request.clips, UNLISTED):
        player = Player(PlayerConfig.of(bundle, clip), open_engine(bundle, "auto", clip))
        material = demo_material(clip, whole=False)
        frames = np.stack(list(player.frames_of(player.generate(material.portrait, material.speech, PROMPT, 0))))
        assert frames.shape == (clip.frames, clip.height, clip.width, 3)
