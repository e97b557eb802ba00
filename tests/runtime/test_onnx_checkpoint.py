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
from echoedge.runtime.export.pipeline import export_bundle
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


@pytest.mark.parametrize("variant", ["preview", "flash"])
def test_one_bundle_is_proven_on_listed_shapes_and_plays_others(
    variant: Variant, folders: dict[Variant, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    width, generator = playable_sizes(variant).transformer.text_dim, np.random.default_rng(4)
    texts = (PROMPT, NEGATIVE_PROMPT) if variant == "preview" else (PROMPT,)
    request = request_for(
        folders[variant], variant, PRESETS["int8"], target="onnx", clips=(CLIP, OTHER),
        prompts={text: generator.standard_normal((5, width), np.float32) for text in texts},
        plan=build_plan(replace(PLAN_PRESETS[variant], steps=2)),
    )  # fmt: skip
    request = replace(request, options=TARGET.options())
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
