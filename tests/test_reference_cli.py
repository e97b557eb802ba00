"""`animate --checkpoint` and `checkpoint prompts`: the released model's way on the command line, at toy width."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from echoedge.core.config import Variant
from echoedge.core.model import architecture
from echoedge.core.weights import checkpoints
from echoedge.core.weights.nano import assets
from echoedge.runtime.play import reference
from echoedge.runtime.play.clips import read_clip

from .commands import Ended, Run
from .core.tiny_checkpoint import playable_sizes

DEMO = assets() / "demo"
PORTRAIT, VOICE = DEMO / "ada.png", DEMO / "hello.wav"


@pytest.fixture(autouse=True)
def _tiny_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """flash and preview at toy width."""
    for module in (architecture, checkpoints, reference):
        monkeypatch.setattr(module, "Architecture", lambda transformer: playable_sizes(transformer.variant))


@pytest.fixture
def animate(run: Run, folders: dict[Variant, Path], tmp_path: Path) -> Run:
    def command(*options: object, variant: Variant = "flash") -> Ended:
        return run(
            "animate", "--checkpoint", folders[variant], "--image", PORTRAIT, "--audio", VOICE, "--out", tmp_path / "clip.mp4",
            "--prompt", "a man", "--size", "48x64", "--frames", "9", "--steps", "2", *options,
        )  # fmt: skip

    return command


def sentence(ended: Ended) -> str:
    """The one line that a refused command prints."""
    assert ended.status == 2
    assert "Traceback" not in ended.err
    return ended.err.strip().splitlines()[-1]


@pytest.mark.parametrize("variant", ["flash", "preview"])
def test_a_checkpoint_is_played(animate: Run, tmp_path: Path, variant: Variant) -> None:
    told = json.loads(animate("--json", variant=variant).out)
    clip = read_clip(tmp_path / "clip.mp4")
    height, width = told["size"]
    assert clip.frames.shape == (9, height, width, 3)
    assert height % 16 == width % 16 == 0
    assert height * width <= 48 * 64
    assert told["evaluations"] == (4 if variant == "flash" else 6)
    assert told["model"] == "tiny"
    assert told["frames"] == 9
    assert "denoise" in told["stage_seconds"]
    assert "exists" in sentence(animate())
    assert animate("--force").status == 0


@pytest.mark.parametrize(
    "options",
    [
        ("--seed", 5), ("--shift", 2), ("--riflex",), ("--audio-guidance", 6), ("--solver", "euler"),
        ("--dtype", "bf16"), ("--decoder", "tiny"),
        ("--window", 5, "--overlap", 0), ("--window", 5, "--overlap", 1, "--long-video", "chunks"), ("--prompt", "a woman"),
        ("--window", 5, "--overlap", 0, "--anchor", "clip", "--seed", 0, "--resident"), ("--match-colours",),
        ("--crop", "0,100,300"),
    ],
    ids=str,
)  # fmt: skip
def test_every_option_does_something(animate: Run, tmp_path: Path, options: tuple[object, ...]) -> None:
    assert animate().status == 0
    plain = read_clip(tmp_path / "clip.mp4").frames.astype(float)
    assert animate("--force", *options).status == 0
    assert np.abs(read_clip(tmp_path / "clip.mp4").frames - plain).max() > 2


@pytest.mark.parametrize(
    "options",
    [("--guidance", 9), ("--negative-prompt", "a dog"), ("--face", "0,16,0,16"), ("--audio-scale", 0.2), ("--guidance", 1),
     ("--crop", "100,100,300", "--face", "100,250,100,250")],
    ids=str,
)  # fmt: skip
def test_every_option_of_preview_does_something(animate: Run, tmp_path: Path, options: tuple[object, ...]) -> None:
    assert animate(variant="preview").status == 0
    plain = read_clip(tmp_path / "clip.mp4").frames.astype(float)
    assert animate("--force", *options, variant="preview").status == 0
    assert np.abs(read_clip(tmp_path / "clip.mp4").frames - plain).max() > 2


def test_what_cannot_work_is_one_sentence(animate: Run, run: Run, folders: dict[Variant, Path], tmp_path: Path) -> None:
    for options, message in (
        (("--guidance", 4), "guidance is 4.0; flash has no text guidance"),
        (("--negative-prompt", "a dog"), "negative_prompt is 'a dog'; flash has no text guidance"),
        (("--anchor", "clip", "--long-video", "chunks"), "chunks continue the frames before them"),
        (("--audio-scale", 0.5), "only preview's audio attention"),
        (("--device", "cuda:77"), "cannot compute on 'cuda:77'"),
        (("--face", "1,2,3,4"), "flash hears it everywhere"),
        (("--crop", "100,0,500"), "ends at row 600 and column 500"),
        (("--crop", "0"), "--crop is '0'; write TOP,LEFT,SIZE"),
        (("--engine", "executorch"), "A checkpoint is played by torch"),
        (("--model", "preview"), "flash"),
        (("--dtype", "int8"), "dtype is 'int8'"),
        (("--size", "big"), "--size is 'big'"),
        (("--window", 6), "such as 5"),
        (("--prompts", tmp_path / "none"), "The prompt pack"),
    ):
        assert message in sentence(animate(*options)), options
        assert not (tmp_path / "clip.mp4").exists()
    assert "write TOP,BOTTOM,LEFT,RIGHT" in sentence(animate("--face", "1,2", variant="preview"))
    common = ("--image", PORTRAIT, "--audio", VOICE, "--out", tmp_path / "clip.mp4")
    assert "one of the two" in sentence(run("animate", *common))
    assert "one of the two" in sentence(run("animate", tmp_path, "--checkpoint", folders["flash"], *common))
    assert "--steps goes with --checkpoint" in sentence(run("animate", tmp_path, "--steps", "3", *common))


def test_a_pack_of_prompts(animate: Run, run: Run, folders: dict[Variant, Path], tmp_path: Path) -> None:
    pack = tmp_path / "pack.safetensors"
    ended = run("checkpoint", "prompts", folders["flash"], "a man", "a bee", "--out", pack)
    assert ended.status == 0
    assert re.search(r"\d+ tokens +'a bee'", ended.out)
    assert set(load_file(pack)) == {"a man", "a bee"}
    assert "exists" in sentence(run("checkpoint", "prompts", folders["flash"], "a", "--out", pack))
    assert animate().status == 0
    plain = (tmp_path / "clip.mp4").read_bytes()
    assert animate("--force", "--prompts", pack).status == 0
    assert (tmp_path / "clip.mp4").read_bytes() == plain
