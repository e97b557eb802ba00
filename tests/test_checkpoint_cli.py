"""cli/checkpoint.py: folders of weights on the command line, written and inspected, and one sentence for what goes wrong."""

from __future__ import annotations

import hashlib
import json
import re
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from safetensors.torch import load_file, save_file

from echoedge.cli import app as cli
from echoedge.cli.options import parse_seconds
from echoedge.core.model import architecture
from echoedge.core.sampling.hearing import CONTEXT_SECONDS
from echoedge.core.train.speech import synthesise
from echoedge.core.weights import checkpoints, random_checkpoint
from echoedge.core.weights.accounts import BASE_FOLDER, OVERLAY_FILE
from echoedge.core.weights.nano import student_path, weights_path
from echoedge.core.weights.random_checkpoint import RECORD
from echoedge.runtime.play import reference
from echoedge.runtime.studies import hearing_study
from echoedge.runtime.studies.hearing_study import CONTEXTS

from .commands import Ended, Run
from .core.tiny_checkpoint import tiny_sizes

VAE_FILE = f"{BASE_FOLDER}/Wan2.1_VAE.pth"


@pytest.fixture(autouse=True)
def _tiny_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """flash and preview at toy width."""
    for module in (architecture, checkpoints, random_checkpoint, reference, hearing_study):
        monkeypatch.setattr(module, "Architecture", lambda transformer: tiny_sizes(transformer.variant))


@pytest.fixture
def folder(run: Run, tmp_path: Path) -> Path:
    path = tmp_path / "flash"
    assert run("checkpoint", "make-random", path).status == 0
    return path


def row(table: str, component: str) -> list[str]:
    """The cells of a component's first line."""
    line = next(line for line in table.splitlines() if re.match(rf"│ {component} +│", line))
    return [cell.strip() for cell in line.strip("│").split("│")]


def digests(folder: Path) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def sentence(ended: Ended) -> str:
    assert ended.status == 2, ended
    assert ended.out == ""
    assert len(ended.err.strip().splitlines()) == 1
    return ended.err.strip()


# ---- make-random -----------------------------------------------------------------------------------------------------------------


def test_make_random_lists_its_files_and_the_next_command(run: Run, tmp_path: Path) -> None:
    ended = run("checkpoint", "make-random", "--model", "preview", tmp_path / "a", "--components", "transformer, vae")
    assert ended.status == 0
    for name in (OVERLAY_FILE, VAE_FILE):
        assert re.search(rf"\d+ kB  {re.escape(name)}\n", ended.out)
    assert f"Next: echoedge inspect {tmp_path / 'a'}" in ended.out
    assert json.loads((tmp_path / "a" / RECORD).read_text())["components"] == ["transformer", "vae"]


def test_make_random_as_json_with_every_option(run: Run, tmp_path: Path) -> None:
    options = ("--components", "transformer", "--no-base", "--dtype", "fp32", "--seed", "7", "--json")
    told = json.loads(run("checkpoint", "make-random", tmp_path / "a", *options).out)
    assert told == {"folder": str(tmp_path / "a"), "files": {OVERLAY_FILE: (tmp_path / "a" / OVERLAY_FILE).stat().st_size}}
    seventh = load_file(tmp_path / "a" / OVERLAY_FILE)
    assert {tensor.dtype for tensor in seventh.values()} == {torch.float32}
    run("checkpoint", "make-random", tmp_path / "a", *options, "--seed", "8", "--force")
    assert not torch.equal(load_file(tmp_path / "a" / OVERLAY_FILE)["head.modulation"], seventh["head.modulation"])


def test_make_random_replaces_only_what_it_wrote(folder: Path, run: Run, tmp_path: Path) -> None:
    assert "flash exists. Give another name or --force." in sentence(run("checkpoint", "make-random", folder))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    assert "some other folder" in sentence(run("checkpoint", "make-random", tmp_path / "mine", "--force"))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--components", "unet"], "'unet' is no component. Choose from: transformer, vae"),
        (["--components", ""], "--components has an empty entry"),
        (["--model", "nano"], "nano's weights are built in"),
        (["--model", "flahs"], "Did you mean 'flash'?"),
        (["--dtype", "int8"], "--dtype is 'int8'; choose from: bf16, fp16, fp32, released."),
        (["--seed", "-1"], "The seed is -1"),
    ],
)
def test_a_wrong_option_is_one_sentence(options: list[str], expected: str, run: Run, tmp_path: Path) -> None:
    assert expected in sentence(run("checkpoint", "make-random", tmp_path / "a", *options))
    assert not list(tmp_path.iterdir())


# ---- inspect ---------------------------------------------------------------------------------------------------------------------


def test_inspect_says_what_is_there(folder: Path, run: Run) -> None:
    before = digests(folder)
    ended = run("inspect", folder)
    assert ended.status == 0
    assert f"{folder}: flash" in ended.out
    assert row(ended.out, "transformer")[1:4] == ["111 / 111", "113,214", "bf16"]
    assert f"transformer  {OVERLAY_FILE}, " in ended.out
    assert row(ended.out, "vae")[-1] == row(ended.out, "tokenizer")[-1] == "complete"
    assert row(ended.out, "text_encoder")[-1] == "absent; for new prompts"
    assert "transformer: 4 of 111 tensors are dropped; q_audio is dead weight" in ended.out
    assert f"transformer: none is read from {BASE_FOLDER}/diffusion_pytorch_model.safetensors." in ended.out
    assert "Random weights, seed 0" in ended.out
    assert digests(folder) == before


def test_inspect_as_json(folder: Path, run: Run) -> None:
    told = json.loads(run("inspect", folder, "--json").out)
    assert (told["variant"], told["complete"], told["random"]["seed"]) == ("flash", True, 0)
    transformer = told["components"][0]
    assert (transformer["found"], transformer["expected"], transformer["used"]) == (111, 111, 107)
    assert {part["name"]: part["status"] for part in told["components"]}["text_encoder"] == "absent"


def test_real_weights_are_not_called_random(folder: Path, run: Run) -> None:
    (folder / RECORD).unlink()
    assert "Random" not in run("inspect", folder).out


def without(folder: Path, names: tuple[str, ...]) -> None:
    tensors = {name: tensor for name, tensor in load_file(folder / OVERLAY_FILE).items() if not name.startswith(names)}
    save_file(tensors, folder / OVERLAY_FILE)


@pytest.mark.parametrize("as_json", [False, True])
def test_something_incomplete_is_exit_status_1(as_json: bool, folder: Path, run: Run) -> None:
    without(folder, ("audio_injection.proj1",))
    ended = run("inspect", folder, *(["--json"] if as_json else []))
    assert ended.status == 1
    if as_json:
        assert json.loads(ended.out)["complete"] is False
        return
    assert row(ended.out, "transformer")[-1] == "incomplete: 4 missing"
    assert "4 missing: audio_injection.proj1.weight, audio_injection.proj1.bias, audio_injection.proj1_vf.weight" in ended.out
    assert "transformer: These files do not hold the flash transformer (107 of 111 tensors fit)" in ended.out


def test_a_transformer_has_to_be_there(run: Run, tmp_path: Path) -> None:
    run("checkpoint", "make-random", tmp_path / "a", "--components", "vae")
    ended = run("inspect", tmp_path / "a")
    assert ended.status == 1
    assert "no EchoMimic transformer" in ended.out
    assert "There is no transformer: looked for" in ended.out


def test_a_damaged_file_is_one_row_among_the_others(folder: Path, run: Run) -> None:
    path = folder / VAE_FILE
    path.write_bytes(path.read_bytes()[:-500])
    ended = run("inspect", folder)
    assert ended.status == 1
    assert row(ended.out, "vae")[-1] == "unreadable"
    assert row(ended.out, "transformer")[-1] == "complete"
    assert f"vae: {path} is damaged" in ended.out


def changed(folder: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    tensors = load_file(folder / OVERLAY_FILE)
    tensors[name] = change(tensors[name])
    save_file(tensors, folder / OVERLAY_FILE)


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("head.head.bias", lambda t: t * torch.nan, "head.head.bias holds 64 NaN"),
        ("blocks.1.ffn.0.weight", torch.zeros_like, "blocks.1.ffn.0.weight is all zeros"),
        ("blocks.1.ffn.0.weight", lambda t: t * 5000, "times as large as in the other blocks"),
    ],
)
def test_numbers_that_cannot_be_meant_are_exit_status_1(
    name: str, change: Callable[[torch.Tensor], torch.Tensor], expected: str, folder: Path, run: Run
) -> None:
    changed(folder, name, change)
    ended = run("inspect", folder)
    assert ended.status == 1
    assert row(ended.out, "transformer")[-1] == "damaged: 1 with numbers that cannot be meant"
    assert row(ended.out, "vae")[-1] == "complete"
    said = next(line for line in ended.out.splitlines() if line.startswith("transformer: The numbers"))
    assert str(folder / OVERLAY_FILE) in said
    assert expected in said
    ended = run("inspect", folder, "--json")
    told = json.loads(ended.out)
    assert (ended.status, told["complete"], told["components"][0]["status"]) == (1, False, "damaged")
    ((path, phrases),) = told["components"][0]["wrong_values"].items()
    assert path == str(folder / OVERLAY_FILE)
    assert expected in phrases[0]


def test_biases_of_zeros_are_no_damage(folder: Path, run: Run) -> None:
    changed(folder, "blocks.1.ffn.0.bias", torch.zeros_like)
    changed(folder, "head.head.weight", torch.zeros_like)
    ended = run("inspect", folder, "--json")
    assert ended.status == 0
    assert json.loads(ended.out)["components"][0]["wrong_values"] == {}


def test_inspect_says_what_was_taken(folder: Path, run: Run) -> None:
    tensors = load_file(folder / OVERLAY_FILE)
    assert "are read without" not in run("inspect", folder).out
    ema = {f"_orig_mod.{name}": tensor for name, tensor in tensors.items()}
    torch.save({"generator": tensors, "generator_ema": ema}, folder / "transformer" / "checkpoint-9.pth")
    (folder / OVERLAY_FILE).unlink()
    ended = run("inspect", folder)
    assert ended.status == 0
    assert (
        "transformer: The tensors of checkpoint-9.pth are those of 'generator_ema'; those of 'generator' are left aside.\n"
        in ended.out
    )
    assert "transformer: The names of checkpoint-9.pth are read without '_orig_mod'.\n" in ended.out
    assert len(json.loads(run("inspect", folder, "--json").out)["components"][0]["notes"]) == 2


@pytest.mark.parametrize("suffix", ["gguf", "safetensors"])
def test_a_gguf_file_may_be_inspected(suffix: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / "alone").mkdir()
    path = tmp_path / "alone" / f"model.{suffix}"
    path.write_bytes(b"GGUF\x03\0\0\0" + bytes(64))
    ended = run("inspect", path)
    assert ended.status == 1
    assert f"transformer: {path} is a GGUF file, which holds quantised weights. Take the file in bf16, fp16 or fp32" in ended.out


def test_a_file_of_weights_may_be_inspected(folder: Path, run: Run) -> None:
    ended = run("inspect", folder / OVERLAY_FILE)
    assert ended.status == 0
    assert row(ended.out, "transformer")[-1] == "complete"


def test_nanos_weights_say_whose_they_are(run: Run, tmp_path: Path) -> None:
    student = run("inspect", student_path())
    assert student.status == 0 and "a student of the teacher with SHA-256 5a052c8b43d69a6a" in student.out
    assert "1 or 2 or 4 steps of one forward" in student.out and "calm drawn world" in student.out
    told = json.loads(run("inspect", weights_path(), "--json").out)
    stored = load_file(weights_path())
    assert told["parameters"]["VAE"] == sum(value.numel() for name, value in stored.items() if name.startswith("vae."))
    assert (told["model"], told["student"], told["sha256"]) == (
        "nano",
        None,
        hashlib.sha256(weights_path().read_bytes()).hexdigest(),
    )
    assert "these are weights" in sentence(run("inspect", student_path(), "--time"))
    lacking = tmp_path / "lacking.safetensors"
    save_file(dict(list(stored.items())[1:]), lacking)
    assert "does not hold this version of nano: 1 tensors are missing" in sentence(run("inspect", lacking))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda _: None, "a.thing"),
        (lambda path: path.mkdir(), "manifest.json"),
        (lambda path: (path / "photos").mkdir(parents=True), "holds no part of EchoMimicV3"),
    ],
)
def test_what_is_neither_bundle_nor_checkpoint(make: Callable[[Path], Any], expected: str, run: Run, tmp_path: Path) -> None:
    make(tmp_path / "a.thing")
    assert expected in sentence(run("inspect", tmp_path / "a.thing"))


def test_help(run: Run) -> None:
    assert "make-random" in run("checkpoint", "--help").out
    assert "--no-base" in run("checkpoint", "make-random", "--help").out


# ---- hearing ---------------------------------------------------------------------------------------------------------------------


def test_hearing_prints_a_row_for_each_context(run: Run, folder: Path, tmp_path: Path) -> None:
    voice = tmp_path / "voice.wav"
    speech = synthesise(3, 2.0).waveform
    with wave.open(str(voice), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes((speech * 32000).astype("<i2").tobytes())
    told = json.loads(run("checkpoint", "hearing", folder, "--audio", voice, "--contexts", "0.2,2", "--json").out)
    assert told["random_weights"] is True
    assert [row["context_seconds"] for row in told["rows"]] == [0.2, 2.0]
    ended = run("checkpoint", "hearing", folder, "--audio", voice, "--contexts", "2")
    assert ended.status == 0
    assert "A voice of 2.0 s heard in parts" in ended.out
    assert "Random weights" in ended.out


@pytest.mark.parametrize("text", ["", "1,", "a", "-1", "1e9", "nan"])
def test_hearing_refuses_what_is_no_list_of_seconds(run: Run, folder: Path, text: str) -> None:
    ended = run("checkpoint", "hearing", folder, "--contexts", text)
    assert ended.status == 2
    assert "--contexts is" in ended.err


def test_defaults_of_the_command_line_are_those_of_the_code() -> None:
    """Typed there, for the help is printed without the modules that know them."""
    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    exported = {p.name: p.default for p in commands["export"].params}
    assert exported["context_seconds"] == CONTEXT_SECONDS
    measured = {p.name: p.default for p in commands["checkpoint"].commands["hearing"].params}["contexts"]
    assert parse_seconds(measured, "--contexts") == CONTEXTS
    assert CONTEXT_SECONDS in CONTEXTS
