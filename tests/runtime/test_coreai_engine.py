"""runtime/engines/coreai.py: `.aimodel`s of a bundle, run by Apple's runtime on the processor."""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from echoedge.core.bundle import Bundle, BundleWriter, TargetRecord
from echoedge.core.errors import EngineError
from echoedge.core.metrics.psnr import psnr
from echoedge.core.weights.source import HeldSource, Making, unit
from echoedge.quantize.recipes import WeightRecipe
from echoedge.runtime.engines import open_engine
from echoedge.runtime.engines.coreai import CoreAIEngine
from echoedge.targets.base import Fitting
from echoedge.targets.coreai.target import TARGET

from ..bundles import CLIP, SOURCE, small_model, small_programs
from ..core.tiny_bundle import FIXED

pytest.importorskip("coreai_torch", reason="the extra coreai is not installed")

ROLES = ("text_encoder", "text_conditions")  # one of them takes whole numbers, the other has two outputs
HERE = TargetRecord(name="coreai", precision="fp32")


def write(root: Path, folder: Path, target: TargetRecord = HERE) -> Bundle:
    """A bundle of two programs of the small model, compiled where they are not there yet."""
    chosen, source = TARGET.options(), HeldSource(small_model(), SOURCE)
    with BundleWriter(root, force=False) as writer:
        for role in ROLES:
            made = unit(source, role, CLIP, Making(12))
            if not (folder / role).exists():
                TARGET.write([TARGET.lower(made, role, WeightRecipe(name="fp32"), chosen, None, Fitting())], folder, role, chosen)
            writer.add_program(role, folder / role, role=role, clip=None, methods=TARGET.methods(made), kind="folder")
        writer.finish(**FIXED | {"target": target})
    return Bundle.open(root)


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("assets")


@pytest.fixture(scope="module")
def bundle(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write(tmp_path_factory.mktemp("bundle") / "two.echoedge", assets)


def example(role: str) -> list[np.ndarray]:
    entry = small_programs()[role]["forward"]
    return [x.numpy() for x in (entry.inputs if role == "text_encoder" else entry.drawn(5)).values()]


@pytest.mark.parametrize("role", ROLES)
def test_it_computes_what_torch_computes(role: str, bundle: Bundle) -> None:
    import torch

    engine = open_engine(bundle)
    assert engine.name == "coreai" and engine.has(role) and not engine.has("denoise")
    wanted = small_programs()[role]["forward"].run(*map(torch.from_numpy, example(role)))
    found = engine.run(role, "forward", example(role))
    for a, b in zip(wanted, found, strict=True):
        assert b.dtype == np.float32 and psnr(a.numpy(), b, float(np.ptp(a.numpy()))) > 100
    if role == "text_conditions":  # keys and values are told apart by their names
        assert psnr(wanted[0].numpy(), found[1], 1.0) < 40


def test_outputs_are_the_callers_own_and_inputs_stay(bundle: Bundle) -> None:
    engine, (text,) = open_engine(bundle), example("text_conditions")
    given = np.asfortranarray(text)
    first = engine.run("text_conditions", "forward", [given])[0]
    kept = first.copy()
    engine.run("text_conditions", "forward", [-given])
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(given, text)
    np.testing.assert_array_equal(engine.run("text_conditions", "forward", [text])[0], kept)


def test_it_works_inside_another_event_loop(bundle: Bundle) -> None:
    engine = open_engine(bundle)

    async def call() -> np.ndarray:
        return engine.run("text_encoder", "forward", example("text_encoder"))[0]

    np.testing.assert_array_equal(asyncio.run(call()), engine.run("text_encoder", "forward", example("text_encoder"))[0])


def test_it_keeps_to_itself(bundle: Bundle, capfd: pytest.CaptureFixture[str]) -> None:
    open_engine(bundle).run("text_encoder", "forward", example("text_encoder"))
    assert capfd.readouterr() == ("", "")


def test_memory_is_given_back(bundle: Bundle) -> None:
    engine = CoreAIEngine(bundle, CLIP, keep_bytes=1)
    for role in ROLES:
        engine.run(role, "forward", example(role))
        assert engine.loaded == (f"programs/{role}/forward",)
    engine.release()
    assert engine.loaded == ()
    roomy = CoreAIEngine(bundle, CLIP)
    for role in ROLES:
        roomy.run(role, "forward", example(role))
    assert len(roomy.loaded) == 2


def test_what_it_cannot_run_it_refuses(bundle: Bundle, assets: Path, tmp_path: Path) -> None:
    engine = open_engine(bundle)
    with pytest.raises(EngineError, match=r"takes ids as int64 \[1, 12\], not int32 \[1, 12\]"):
        engine.run("text_encoder", "forward", [example("text_encoder")[0].astype(np.int32)])
    with pytest.raises(EngineError, match="ids has values that are no int32, which the file takes"):
        engine.run("text_encoder", "forward", [example("text_encoder")[0] + (1 << 32)])
    with pytest.raises(EngineError, match="has no method 'backward'"):
        engine.run("text_encoder", "backward", [])
    other = write(tmp_path / "other.echoedge", assets, TargetRecord(name="onnx", backend="cpu", precision="fp32"))
    with pytest.raises(EngineError, match="was compiled for onnx; the coreai engine cannot play it"):
        open_engine(other, "coreai")
    with pytest.raises(EngineError, match=rf"--threads is {engine.threads + 1}; coreai runs on {engine.threads} here"):
        open_engine(bundle, threads=engine.threads + 1)


def test_another_version_of_the_runtime_is_refused(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "1.0.0")
    with pytest.raises(EngineError, match=r"^The engine coreai needs coreai-core 1\.0\.0b3, and 1\.0\.0 is here\. pip install"):
        open_engine(bundle)


def _cut(folder: Path) -> None:
    path = folder / "forward.aimodel" / "main.mlirb"
    path.write_bytes(path.read_bytes()[:-100])


def _no_program(folder: Path) -> None:
    import hashlib

    path = folder / "forward.aimodel" / "main.mlirb"
    path.write_bytes(b"no program at all")
    path.with_name("main.hash").write_bytes(hashlib.sha256(b"no program at all").digest())


def _gone(folder: Path) -> None:
    (folder / "forward.aimodel" / "main.hash").unlink()


def _untold(folder: Path) -> None:
    (folder / "methods.json").write_text(json.dumps({"backward": {}}))


def _renamed(folder: Path) -> None:
    path = folder / "methods.json"
    path.write_text(path.read_text().replace('"text_v"', '"text_w"'))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_cut, r"main\.mlirb is not the program that main\.hash beside it is of\. Export the bundle again\."),
        (_no_program, r"main\.mlirb is not the program that main\.hash beside it is of\."),
        (_gone, r"main\.hash is not there\. Copy the bundle again"),
        (_untold, r"methods\.json does not tell how forward is called"),
        (_renamed, r"gives text_k, text_v, and no text_w\. Export the bundle again\."),
    ],
)
def test_a_damaged_program_under_an_honest_manifest_is_refused(
    damage: Callable[[Path], None], said: str, assets: Path, bundle: Bundle, tmp_path: Path
) -> None:
    assert bundle.roles  # its programs are compiled
    folder = tmp_path / "assets"
    shutil.copytree(assets, folder)
    damage(folder / "text_conditions")
    with pytest.raises(EngineError, match=said):
        open_engine(write(tmp_path / "damaged.echoedge", folder)).run("text_conditions", "forward", example("text_conditions"))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_whole_bundle_plays_and_is_proven(precision: str, tmp_path: Path) -> None:
    """Compiled, verified and played; a minute each."""
    from dataclasses import replace

    from echoedge.runtime.export.pipeline import export_bundle
    from echoedge.runtime.play.player import Player, PlayerConfig
    from echoedge.runtime.verify.parity import verify

    from ..bundles import small_request

    path = tmp_path / "small.echoedge"
    export_bundle(replace(small_request("int8", "coreai"), options=TARGET.options(precision=precision)), path)
    bundle = Bundle.open(path)
    assert bundle.manifest.target == TargetRecord(name="coreai", precision=precision)  # type: ignore[arg-type]
    verdict = verify(bundle, open_engine(bundle))
    assert verdict.passed and not verdict.failed
    player = Player(PlayerConfig.of(bundle, CLIP), open_engine(bundle, clip=CLIP))
    made = player.generate(np.zeros((3, 32, 32), np.float32), 0.1 * np.ones(9 * 640, np.float32), "a man")
    assert len(list(player.frames_of(made))) == 9
