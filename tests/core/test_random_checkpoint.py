"""core/weights/random_checkpoint.py: the layout and sizes of the released files, their numbers, and how they get onto the disk."""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import sys
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from echoedge.core import files
from echoedge.core.config import PRESETS, Variant
from echoedge.core.errors import ConfigError, OutputError, ResourceError
from echoedge.core.model.architecture import Architecture
from echoedge.core.weights import random_checkpoint
from echoedge.core.weights.accounts import BASE_FOLDER, NEEDED_FOR, OVERLAY_FILE
from echoedge.core.weights.checkpoints import (
    Checkpoint,
    load_image_encoder,
    load_speech_encoder,
    load_text_encoder,
    load_tiny_vae,
    load_tokenizer,
    load_transformer,
    load_vae,
)
from echoedge.core.weights.random_checkpoint import (
    RECORD,
    RELEASED_TYPES,
    draw,
    statistics,
    write_pth,
    write_random_checkpoint,
    write_safetensors,
)

from .tiny import tiny_inputs
from .tiny_checkpoint import tiny_sizes

EVERYTHING = tuple(NEEDED_FOR)
VAE_FILE = f"{BASE_FOLDER}/Wan2.1_VAE.pth"
both = pytest.mark.parametrize("variant", ["flash", "preview"])


def write(folder: Path, variant: Variant = "flash", **options: Any) -> dict[str, int]:
    options = {"components": EVERYTHING} | options
    return write_random_checkpoint(folder, variant, architecture=tiny_sizes(variant), **options)


def digests(folder: Path) -> dict[str, str]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("random") / "flash"
    write(path)
    return path


# ---- layout and sizes ------------------------------------------------------------------------------------------------------------


@both
def test_the_folder_is_a_whole_checkpoint(variant: Variant, tmp_path: Path) -> None:
    sizes = write(tmp_path / "out", variant)
    found = Checkpoint.open(tmp_path / "out")
    assert found.variant == variant
    assert {a.name: a.status for a in found.accounts(tiny_sizes(variant))} == dict.fromkeys(EVERYTHING, "complete")
    assert sizes == {name: (tmp_path / "out" / name).stat().st_size for name in sizes}
    assert json.loads((tmp_path / "out" / RECORD).read_text())["model"] == variant


@pytest.mark.parametrize(
    ("path", "published"),
    [  # bytes of the files as published: the tensors, and what surrounds them
        ("models_t5_umt5-xxl-enc-bf16.pth", 11_361_920_418),
        ("models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth", 4_772_359_047),
        ("Wan2.1_VAE.pth", 507_609_880),
        ("taew2_1.pth", 22_679_486),
    ],
)
def test_full_size_files_are_as_large_as_the_published_ones(path: str, published: int) -> None:
    full = random_checkpoint.random_files(Architecture(PRESETS["flash"]), None, base=True)
    size = {Path(file.path).name: file.bytes for file in full}[path]
    assert size < published < 1.003 * size  # pickles and names take 0.001 % (T5) to 0.2 % (the tiny VAE)


@pytest.mark.parametrize(("model", "tensors", "parameters"), [("flash", 1203, 1_863_772_992), ("preview", 1076, 1_707_215_168)])
def test_full_size_transformers_have_the_released_tensors(model: str, tensors: int, parameters: int) -> None:
    base, own, *_ = random_checkpoint.random_files(Architecture(PRESETS[model]), None, base=True)
    assert len(own.shapes) == tensors
    assert own.bytes == 2 * parameters
    assert base.bytes == 2 * 1_564_428_608


def test_the_libraries_read_the_files(folder: Path) -> None:
    assert len(load_file(folder / OVERLAY_FILE)) == 111
    for path in folder.rglob("*.pth"):
        tensors = torch.load(path, weights_only=True, mmap=True)
        assert all(tensor.data_ptr() % 64 == 0 and tensor.is_contiguous() for tensor in tensors.values())
        whole = torch.load(path, weights_only=True)
        assert all(torch.equal(tensor, whole[name]) for name, tensor in tensors.items())
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None  # every checksum is right


def test_hugging_face_reads_the_speech_folder(folder: Path) -> None:
    from transformers import Wav2Vec2Model

    model, told = Wav2Vec2Model.from_pretrained(folder / "chinese-wav2vec2-base", output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["mismatched_keys"]
    ours = load_speech_encoder(Checkpoint.open(folder), config=tiny_sizes().wav2vec2)
    sound = torch.randn(1, 400)
    with torch.no_grad():
        normal = (sound - sound.mean()) / torch.sqrt(sound.var(correction=0) + 1e-7)
        assert torch.allclose(ours.per_token(sound), model.eval()(normal).last_hidden_state, atol=1e-5)  # measured 1.1e-6


def test_the_tokenizer_splits_any_text(folder: Path) -> None:
    tokenizer = load_tokenizer(Checkpoint.open(folder))
    found = tokenizer.ids("A woman says: «Grüezi, 你好!»", 64)
    ids = found.ids[: int(found.mask.sum())].tolist()
    assert ids[-1] == 1
    assert 2 not in ids  # nothing is unknown
    assert max(ids) < tiny_sizes().text_encoder.vocab
    assert tokenizer.tokenizer.decode(ids[:-1]).strip() == "A woman says: «Grüezi, 你好!»"


def test_every_model_computes_with_the_folder(folder: Path) -> None:
    """Activations neither vanish nor grow: their deviation stays near 1 through every module."""
    found, sizes = Checkpoint.open(folder), tiny_sizes()
    inputs = tiny_inputs(sizes.transformer)
    with torch.no_grad():
        model = load_transformer(found, torch.float32, config=sizes.transformer)
        arguments = [inputs[name] for name in ("latents", "y", "text", "image", "audio")]
        velocity = model(arguments[0], torch.tensor([500.0]), *arguments[1:])
        frames = load_vae(found, config=sizes.transformer.vae).decode(torch.randn(1, 16, 2, 4, 4))
        tiny = load_tiny_vae(found, config=sizes.tiny_vae).decode(torch.randn(1, 16, 2, 4, 4))
        seen = load_image_encoder(found, config=sizes.clip)(torch.rand(1, 3, 30, 30) * 2 - 1)
        heard = load_speech_encoder(found, config=sizes.wav2vec2).per_token(torch.randn(1, 400))
        text = load_text_encoder(found, torch.float32, config=sizes.text_encoder)
        ids = torch.tensor([[5, 9, 200, 1]])
        read = text(ids, torch.ones_like(ids))
    for result in (velocity, frames, tiny, seen, heard, read):
        assert result.isfinite().all()
        assert 0.1 < result.std() < 10


def test_without_the_base_and_in_another_type(tmp_path: Path) -> None:
    sizes = write(tmp_path / "out", components=["transformer", "clip"], base=False, dtype=torch.float16)
    assert list(sizes) == [OVERLAY_FILE, f"{BASE_FOLDER}/models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"]
    accounts = {a.name: a for a in Checkpoint.open(tmp_path / "out").accounts(tiny_sizes())}
    assert {accounts[name].status for name in ("transformer", "clip")} == {"complete"}
    assert accounts["transformer"].types == {"fp16": 107}
    assert accounts["clip"].types == {"fp16": 29}
    assert accounts["vae"].status == "absent"


def test_files_have_their_released_types(folder: Path) -> None:
    accounts = Checkpoint.open(folder).accounts(tiny_sizes())
    short = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
    assert {a.name: list(a.types) for a in accounts if a.types} == {name: [short[t]] for name, t in RELEASED_TYPES.items()}


# ---- the numbers -----------------------------------------------------------------------------------------------------------------


def test_a_seed_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "again")
    write(tmp_path / "other", seed=1)
    again, other, first = digests(tmp_path / "again"), digests(tmp_path / "other"), digests(folder)
    assert again == first
    weights = [name for name in first if name.endswith((".pth", ".bin", ".safetensors"))]
    assert all(first[name] != other[name] for name in weights)


def test_a_tensor_does_not_depend_on_what_else_is_written(folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "vae", components=["vae"])
    write(tmp_path / "own", components=["tiny_vae", "transformer"], base=False, dtype=torch.float32)
    assert digests(tmp_path / "vae")[VAE_FILE] == digests(folder)[VAE_FILE]
    rounded, exact = load_file(folder / OVERLAY_FILE), load_file(tmp_path / "own" / OVERLAY_FILE)
    assert all(torch.equal(rounded[name], tensor.bfloat16()) for name, tensor in exact.items())


def test_base_and_overlay_hold_different_numbers(folder: Path) -> None:
    base, own = load_file(folder / BASE_FOLDER / "diffusion_pytorch_model.safetensors"), load_file(folder / OVERLAY_FILE)
    assert base.keys() == {name for name in own if "audio" not in name}
    assert not any(torch.equal(tensor, own[name]) for name, tensor in base.items())


def whole(pieces: Iterator[torch.Tensor]) -> torch.Tensor:
    return torch.cat(list(pieces))


@pytest.mark.parametrize("piece", [1, 7, 1000, 4096])
def test_the_size_of_the_pieces_does_not_matter(piece: int) -> None:
    expected = whole(draw("vae", "conv1.weight", 4096, 0.5, 0.1, seed=3))
    assert torch.equal(whole(draw("vae", "conv1.weight", 4096, 0.5, 0.1, 3, piece)), expected)
    assert not torch.equal(whole(draw("vae", "conv2.weight", 4096, 0.5, 0.1, 3)), expected)
    assert not torch.equal(whole(draw("clip", "conv1.weight", 4096, 0.5, 0.1, 3)), expected)


def test_a_draw_is_what_its_description_says() -> None:
    """Recomputed with Python's integers: four 16-bit numbers of one 64-bit word, their sum scaled to deviation 1."""
    seed = int.from_bytes(hashlib.sha256(b"5/vae/conv1.bias").digest(), "big")
    words = [int(word) for word in np.random.PCG64DXSM(seed).random_raw(200)]
    sums = [sum(word >> shift & 0xFFFF for shift in (0, 16, 32, 48)) for word in words]
    expected = [(total - 131070) / math.sqrt((65536**2 - 1) / 3) for total in sums]
    found = whole(draw("vae", "conv1.bias", 200, 0.0, 1.0, 5))
    assert np.allclose(found.numpy(), expected, rtol=3e-7, atol=0)  # float32 rounds twice
    many = whole(draw("x", "y", 1 << 20, 2.0, 3.0, 0)).double()
    assert abs(many.mean() - 2) < 0.02  # 6 standard errors
    assert abs(many.std() - 3) < 0.02
    assert (many - 2).abs().max() <= 3 * math.sqrt(12)
    assert 0.65 < ((many - 2).abs() < 3).double().mean() < 0.68  # bell-shaped: a uniform one has 0.577 there, a normal one 0.683


@pytest.mark.parametrize(
    ("component", "name", "shape", "mean", "deviation"),
    [
        ("transformer", "blocks.0.ffn.2.weight", (1536, 8960), 0, 8960**-0.5),
        ("transformer", "patch_embedding.weight", (1536, 36, 1, 2, 2), 0, 1 / 12),
        ("transformer", "blocks.0.norm3.weight", (1536,), 1, 0.05),
        ("transformer", "blocks.0.norm3.bias", (1536,), 0, 0.02),
        ("transformer", "blocks.0.modulation", (1, 6, 1536), 0, 1536**-0.5),
        ("vae", "decoder.middle.0.residual.0.gamma", (384, 1, 1, 1), 1, 0.05),
        ("vae", "decoder.middle.0.residual.6.weight", (384, 384, 3, 3, 3), 0, 0.3 * (384 * 27) ** -0.5),
        ("text_encoder", "token_embedding.weight", (256384, 4096), 0, 1),
        ("text_encoder", "blocks.3.attn.q.weight", (4096, 4096), 0, 1 / 512),
        ("text_encoder", "blocks.3.attn.k.weight", (4096, 4096), 0, 1 / 64),
        ("clip", "log_scale", (), 2.659260036932778, 0),
        ("clip", "visual.cls_embedding", (1, 1, 1280), 0, 1280**-0.5),
        ("wav2vec2", "wav2vec2.feature_extractor.conv_layers.1.conv.weight", (512, 512, 3), 0, (2 / 1536) ** 0.5),
        ("wav2vec2", "wav2vec2.encoder.pos_conv_embed.conv.weight_g", (1, 1, 128), 6**0.5, 0.02),
    ],
)
def test_the_scale_of_each_kind_of_tensor(component: str, name: str, shape: tuple[int, ...], mean: float, deviation: float) -> None:
    assert statistics(component, name, shape, Architecture()) == pytest.approx((mean, deviation))


# ---- onto the disk ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write_file", [write_safetensors, write_pth])
def test_no_tensor_is_ever_whole_in_memory(write_file: Any, tmp_path: Path) -> None:
    shapes = {"a": (3000, 3000), "b": (5,)}

    def pieces(name: str) -> Iterator[bytes]:
        for piece in draw("x", name, math.prod(shapes[name]), 0.0, 1.0, 0):
            yield piece.numpy().tobytes()

    tracemalloc.start()
    write_file(tmp_path / "file.bin", shapes, torch.float32, pieces)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (tmp_path / "file.bin").stat().st_size > 36_000_000
    assert peak < 12_000_000  # measured 7.4 MB: the words, sums and bytes of one piece


def test_progress_ends_at_the_total_of_each_component(tmp_path: Path) -> None:
    told: dict[str, list[tuple[int, int]]] = {}
    sizes = write(tmp_path / "out", progress=lambda name, done, total: told.setdefault(name, []).append((done, total)))
    assert list(told) == [name for name in EVERYTHING if name != "tokenizer"]
    for steps in told.values():
        assert [done for done, _ in steps] == sorted(done for done, _ in steps)
        assert steps[-1][0] == steps[-1][1]
    assert told["vae"][-1][1] < sizes[VAE_FILE]  # of the tensors alone


def test_what_is_there_is_not_replaced_unasked(tmp_path: Path) -> None:
    write(tmp_path / "out", components=["vae"])
    before = digests(tmp_path / "out")
    with pytest.raises(OutputError, match=r"out exists\. Give another name or --force\."):
        write(tmp_path / "out", seed=1)
    assert digests(tmp_path / "out") == before
    write(tmp_path / "out", components=["vae"], seed=1, force=True)
    assert digests(tmp_path / "out")[VAE_FILE] != before[VAE_FILE]


def test_force_does_not_replace_real_weights(tmp_path: Path) -> None:
    own = tmp_path / "out" / OVERLAY_FILE
    own.parent.mkdir(parents=True)
    own.write_bytes(b"precious")
    with pytest.raises(OutputError, match=rf"has no {RECORD}: it is some other folder"):
        write(tmp_path / "out", force=True)
    assert own.read_bytes() == b"precious"


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, SystemExit])
def test_an_interrupted_run_leaves_nothing(error: type[BaseException], tmp_path: Path) -> None:
    def stop(name: str, *_: int) -> None:
        if name == "clip":
            raise error

    with pytest.raises(error):
        write(tmp_path / "out", progress=stop)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_a_killed_run_leaves_no_folder_under_the_name(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        write(tmp_path / "out", progress=lambda name, *_: os.kill(os.getpid(), signal.SIGKILL) if name == "vae" else None)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert not (tmp_path / "out").exists()
    assert [path.name.endswith(".partial") for path in tmp_path.iterdir()] == [True]
    write(tmp_path / "out")


def test_the_disk_is_checked_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: SimpleNamespace(free=18_000_000_000))
    with pytest.raises(ResourceError, match=r"23\.9 GB of disk is needed .* 18\.0 GB is free"):
        write_random_checkpoint(tmp_path / "out", "flash", EVERYTHING)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "nano"}, "nano's weights are built in; a checkpoint is of flash or preview"),
        ({"model": "flsh"}, "There is no model 'flsh'"),
        ({"components": ["vae", "unet"]}, "'unet' is no component. Choose from: transformer, vae, clip"),
        ({"components": []}, "'nothing' is no component"),
        ({"seed": -1}, "The seed is -1"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        write_random_checkpoint(tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())
