"""The built-in model as Core ML packages, the whole way: exported, proven, verified and played by the interpreter."""

from __future__ import annotations

from pathlib import Path

import pytest

from echoedge.core.weights.nano import assets

from ..commands import Run

DEMO = assets() / "demo"


@pytest.mark.slow
def test_nano_goes_the_whole_way(tmp_path: Path, run: Run) -> None:
    """Measured: 132 s on one thread, beside a conversion of flash."""
    bundle, clip = tmp_path / "nano.echoedge", tmp_path / "clip.mp4"
    run("export", "--target", "coreml", "--frames", "5", "--weights", "int8", "--out", bundle)
    told = run("verify", bundle, "--engine", "mil")
    assert told.status == 0 and "Equal within the bundle's thresholds" in told.out
    picture, voice = DEMO / "ada.png", DEMO / "hello.wav"
    played = run("animate", bundle, "--image", picture, "--audio", voice, "--prompt", "a woman nods", "--out", clip)
    assert played.status == 0 and clip.stat().st_size > 0
