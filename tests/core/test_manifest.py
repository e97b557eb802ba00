"""core/bundle/manifest.py: what a manifest refuses, field by field, and that damage of any kind raises nothing but BundleError."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echoedge.core.bundle import MANIFEST, Bundle, FileEntry, Manifest
from echoedge.core.errors import BundleError

from .tiny_bundle import FIXED, SHA, contents, edit


def set_at(*keys: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(data: Any) -> None:
        for key in keys[:-1]:
            data = data[key]
        data[keys[-1]] = value

    return change


def another(data: dict[str, Any]) -> dict[str, Any]:
    """The denoising program once more, in another file."""
    program = copy.deepcopy(data["programs"]["denoise"])
    program["artifact"]["path"] = "programs/twin.pte"
    return program


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data.pop("clips"), "clips: Field required"),
        (set_at("colour", value="red"), "colour: Extra inputs"),
        (set_at("target", value="toaster"), "target: "),
        (set_at("target", "precision", value="int8"), "target.precision: "),
        (set_at("clips", value=[]), "there is no clip shape"),
        (lambda data: data["clips"].append(data["clips"][0]), "a clip shape is listed twice: 64x64x25, 64x64x25"),
        (set_at("clips", 0, "frames", value=24), r"frames is 24; it must be 4n\+1"),
        (set_at("clips", 0, "fps", value=0), "clips.0: "),
        (set_at("clips", 0, "height", value="64"), "clips.0.height: "),
        (set_at("model", "config", "heads", value=0), "model: "),
        (set_at("model", "config", "heads", value="%9999999999d"), "model: .*heads"),
        (set_at("model", "config", "layers", value=7), "the model configuration has digest"),
        (set_at("model", "config", "audio", value=[]), "model: .*audio"),
        (set_at("model", "config_digest", value="abc"), "model.config_digest"),
        (set_at("model", "source_sha256", value=SHA.upper()), "model.source_sha256"),
        (set_at("programs", "denoise", "artifact", "bytes", value=-1), "programs.denoise.artifact.pte.bytes"),
        (set_at("programs", "denoise", "artifact", "bytes", value=1 << 63), "programs.denoise.artifact.pte.bytes"),
        (set_at("programs", "denoise", "artifact", "path", value="../denoise.pte"), "programs.denoise.artifact.pte.path"),
        (set_at("programs", "denoise", "artifact", "path", value="plan.json"), "plan.json is listed twice"),
        (set_at("programs", "denoise", "artifact", "path", value="PLAN.json"), "listed twice, as PLAN.json"),
        (set_at("files", "plan.json/inner", value={"sha256": SHA, "bytes": 1}), "lies inside plan.json"),
        (set_at("files", "programs/denoise.pte/inner", value={"sha256": SHA, "bytes": 1}), "is a file with files inside"),
        (set_at("programs", "denoise", "placement", value={"b": {"delegate_calls": 1, "delegated_ops": 1}}), "placement of b"),
        (set_at("programs", "denoise", "artifact", "kind", value="tape"), "artifact: .*tape"),
        (set_at("programs", "denoise", "artifact", "kind", value="folder"), "artifact.folder.data: Extra"),
        (set_at("programs", "denoise", "clip", value="64x64x9"), "denoise is for clips of 64x64x9; the bundle has 64x64x25"),
        (lambda data: data["programs"].update(twin=another(data)), "denoise and twin are both the denoise of 64x64x25"),
        (set_at("programs", "denoise", "methods", "forward", "inputs", 0, "shape", value=["Rows!"]), "shape"),
        (set_at("playing", "hearing", "neighbours", value=-1), "playing.hearing.neighbours: "),
        (set_at("parity", "demanded", "denoise", value={}), "parity.demanded.denoise"),
        (set_at("programs", "denoise", "methods", "forward", "inputs", 0, "dtype", value="float31"), "dtype"),
        (set_at("programs", "denoise", "methods", "forward", "inputs", 0, "shape", value=[-1]), "shape"),
        (set_at("programs", "denoise", "measured", "psnr_db", value=True), "psnr_db"),
        (set_at("files", value=[]), "files: "),
    ],
)
def test_wrong_fields(root: Path, change: Callable[[dict[str, Any]], None], words: str) -> None:
    edit(root, change)
    with pytest.raises(BundleError, match=rf"(?s)nano\.echoedge: manifest\.json is not valid: .*{words}.*Copy the bundle again"):
        Bundle.open(root)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b'"name": "executorch"', b'"name": "executorch", "name": "onnx"', "'name' occurs twice"),
        (b'"weights": 1000', b'"weights": NaN', "NaN is not a finite number"),
        (b'"weights": 1000', b'"weights": -Infinity', "-Infinity is not a finite number"),
        (b'"weights": 1000', b'"weights": 1e999', "1e999 is not a finite number"),
        (b'"weights": 1000', b'"weights": ' + b"9" * 5000, "cut off or damaged"),
        (b'"weights": 1000', b'"weights": ' + b"[" * 100_000, "cut off or damaged"),
        (b'"int8",', b'"\xff",', "cut off or damaged"),
        (b'"int8",', b'"\\ud800",', "not valid"),
    ],
)
def test_json_that_python_would_accept(root: Path, old: bytes, new: bytes, words: str) -> None:
    data = json.dumps(contents(root), indent=1, ensure_ascii=False).encode()
    assert data.count(old) == 1
    (root / MANIFEST).write_bytes(data.replace(old, new))
    with pytest.raises(BundleError, match=words):
        Bundle.open(root)


def example() -> Manifest:
    entry = FileEntry(sha256=SHA, bytes=7)
    return Manifest(**FIXED, programs={}, files={"plan.json": entry, "prompts/a.safetensors": entry})


def parse(data: bytes) -> Manifest | None:
    """A manifest, or None where `BundleError` says that it is none; any other exception passes and fails the test."""
    try:
        return Manifest.from_json(data)
    except BundleError:
        return None


def test_manifest_round_trip() -> None:
    assert Manifest.from_json(example().to_json()) == example()


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200))
def test_garbage(data: bytes) -> None:
    assert parse(data) is None


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_cut_is_noticed(data: st.DataObject) -> None:
    whole = example().to_json()
    assert parse(whole[: data.draw(st.integers(0, len(whole) - 3))]) is None  # the last two characters are "}\n"


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_flipped_byte_is_safe(data: st.DataObject) -> None:
    whole = bytearray(example().to_json())
    whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    parse(bytes(whole))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_changed_value_is_safe(data: st.DataObject) -> None:
    """Replace, remove or rename something anywhere: either a manifest that survives its own round trip, or BundleError."""
    changed = copy.deepcopy(json.loads(example().to_json()))
    here: Any = changed
    while True:
        keys = list(here) if isinstance(here, dict) else list(range(len(here)))
        key = data.draw(st.sampled_from(keys))
        if isinstance(here[key], dict | list) and here[key] and data.draw(st.booleans()):
            here = here[key]
            continue
        action: Literal["replace", "remove", "rename"] = data.draw(st.sampled_from(["replace", "remove", "rename"]))
        if action == "rename" and isinstance(here, dict):
            here[data.draw(st.text(max_size=8))] = here.pop(key)
        elif action == "remove":
            del here[key]
        else:
            here[key] = data.draw(JSON)
        break
    manifest = parse(json.dumps(changed).encode())
    assert manifest is None or Manifest.from_json(manifest.to_json()) == manifest
