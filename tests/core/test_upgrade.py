"""core/bundle/upgrade.py: a bundle of format 1, made by the version that wrote that format, opens, verifies and plays."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echoedge.core.bundle import MANIFEST, Bundle, Figures, FolderArtifact, Hearing, Manifest, PteFile
from echoedge.core.bundle.reactions import INPUTS
from echoedge.core.errors import BundleError
from echoedge.runtime.engines import open_engine
from echoedge.runtime.play.player import Player, PlayerConfig
from echoedge.runtime.verify.parity import verify

from ..commands import Run

OLD = Path(__file__).parents[1] / "data" / "bundles" / "format-1"
# What the version that wrote it measured: program -> dB.
MEASURED = {"audio_encoder": 52.93, "encode_conditions": 50.48, "denoise": 59.37, "latents": 56.24, "frames": 46.78}


def manifest() -> dict[str, Any]:
    data: dict[str, Any] = json.loads((OLD / MANIFEST).read_text())
    assert data["format"] == "echoedge.bundle/1"
    return data


def parsed(data: dict[str, Any]) -> Manifest:
    return Manifest.from_json(json.dumps(data))


def test_every_field_is_where_format_2_has_it() -> None:
    old, bundle = manifest(), Bundle.open(OLD)
    new = bundle.manifest
    assert new.format == "echoedge.bundle/2"
    assert bundle.manifest_sha256 not in new.to_json().decode()
    assert new.clips[0].model_dump() == old["clip"]
    assert (new.target.name, new.target.backend, new.target.precision) == (old["target"], "xnnpack", "fp32")
    assert bundle.roles == tuple(old["programs"])
    for name, program in new.programs.items():
        was = old["programs"][name]
        assert (program.path, program.artifact.sha256, program.artifact.bytes) == (was["path"], was["sha256"], was["bytes"])
        assert program.clip == (None if name == "text_encoder" else str(bundle.clip))
        assert program.layers == old["weights"]["settings"]["layers"][name]
        assert program.demanded == Figures(**old["parity"]["thresholds"][name])
        assert program.measured == Figures(**old["parity"]["measured"][name])
        assert {method: taken.model_dump() for method, taken in program.placement.items()} == was["delegation"]
    assert "layers" not in new.weights.settings
    assert set(new.parity.demanded) == {"latents", "frames"}
    playing, config = new.playing, bundle.model
    assert (playing.text_length, playing.text_rows, playing.text_ids) == (config.text_len, config.text_len, "utf-8 bytes")
    assert playing.hearing == Hearing(neighbours=2)
    assert playing.decoders == {"full": "vae_decode"}


def test_it_verifies_as_the_version_that_wrote_it_did() -> None:
    bundle = Bundle.open(OLD)
    verdict = verify(bundle, open_engine(bundle))
    assert verdict.passed
    assert [part.name for part in verdict.parts if part.unjudged] == list(INPUTS)  # recorded by later versions
    found = {row.name: row.measured.psnr_db for row in verdict.rows}
    assert {name: found[name] for name in MEASURED} == pytest.approx(MEASURED, abs=0.5)


def test_it_plays_with_its_one_program_for_all_conditions() -> None:
    bundle = Bundle.open(OLD)
    player, clip = Player(PlayerConfig.of(bundle), open_engine(bundle)), bundle.clip
    portrait = np.random.default_rng(1).uniform(-1, 1, (3, clip.height, clip.width)).astype(np.float32)
    speech = np.sin(np.arange(2 * clip.frames * clip.samples_per_frame) / 30).astype(np.float32)
    frames = np.stack(list(player.frames_of(player.generate(portrait, speech, "a man"))))
    assert frames.shape == (2 * clip.frames, clip.height, clip.width, 3)
    assert frames.std() > 1


def test_it_is_inspected(run: Run) -> None:
    ended = run("inspect", OLD)
    assert ended.status == 0, ended.err
    assert "encode_conditions" in ended.out


def test_what_earlier_versions_left_out() -> None:
    old = manifest()
    for name in ("hearing", "savings", "precision", "other_clips", "backend"):
        old.pop(name, None)
    new = parsed(old | {"benchmarks": [{"device": "test"}]})
    assert (new.target.backend, new.target.precision, new.savings) == ("xnnpack", None, ())
    assert new.playing.hearing == Hearing(neighbours=2)  # of flash
    config = old["model"]["config"] | {"variant": "preview"}
    with pytest.raises(BundleError, match="digest"):  # its configuration was changed, which the digest tells
        parsed(old | {"model": old["model"] | {"config": config}})


def test_further_shapes_are_told_by_their_programs_names() -> None:
    old = manifest()
    other = old["clip"] | {"frames": old["clip"]["frames"] + 4}
    shape = f"{other['height']}x{other['width']}x{other['frames']}"
    twin = copy.deepcopy(old["programs"]["denoise"]) | {"path": "programs/twin.pte"}
    old["programs"][f"denoise-{shape}"] = twin
    new = parsed(old | {"other_clips": [other]})
    assert [clip.frames for clip in new.clips] == [old["clip"]["frames"], other["frames"]]
    assert (new.programs[f"denoise-{shape}"].role, new.programs[f"denoise-{shape}"].clip) == ("denoise", shape)
    assert new.programs["denoise"].clip != shape
    assert isinstance(new.programs["denoise"].artifact, PteFile)


def test_a_folder_is_a_folder() -> None:
    old = manifest()
    from echoedge.core.bundle import FileEntry, folder_sha256

    inside = {"programs/denoise.mlpackage/w": FileEntry(sha256="0" * 64, bytes=7)}
    old["programs"]["denoise"] |= {"path": "programs/denoise.mlpackage", "sha256": folder_sha256(inside), "bytes": 7}
    old["files"] |= {path: entry.model_dump() for path, entry in inside.items()}
    assert isinstance(parsed(old).programs["denoise"].artifact, FolderArtifact)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda old: old.pop("clip"), "damaged .*clip"),
        (lambda old: old.pop("programs"), "damaged .*programs"),
        (lambda old: old["programs"].pop("encode_conditions"), "damaged .*encode_conditions"),
        (lambda old: old.update(colour="red"), "colour: Extra inputs"),
        (lambda old: old.update(benchmarks="fast", benchmark=1), "benchmark: Extra inputs"),
        (lambda old: old["programs"]["denoise"].update(weight=1), "programs.denoise.weight: Extra inputs"),
        (lambda old: old.update(other_clips=7), "damaged"),
        (lambda old: old["clip"].update(frames=24), r"frames is 24; it must be 4n\+1"),
    ],
)
def test_what_is_damaged_is_refused(change: Callable[[dict[str, Any]], Any], words: str) -> None:
    old = manifest()
    change(old)
    with pytest.raises(BundleError, match=words):
        parsed(old)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_changed_value_is_a_manifest_or_a_sentence(data: st.DataObject) -> None:
    changed = manifest()
    here: Any = changed
    while True:
        key = data.draw(st.sampled_from(list(here) if isinstance(here, dict) else list(range(len(here)))))
        if isinstance(here[key], dict | list) and here[key] and data.draw(st.booleans()):
            here = here[key]
            continue
        if data.draw(st.booleans()):
            here[key] = data.draw(JSON)
        else:
            del here[key]
        break
    try:
        made = parsed(changed)
    except BundleError:
        return
    assert Manifest.from_json(made.to_json()) == made


def test_the_folder_is_what_was_written(tmp_path: Path) -> None:
    """Its hashes still hold it: one byte off and it is refused."""
    shutil.copytree(OLD, tmp_path / "old")
    path = tmp_path / "old" / "programs" / "denoise.pte"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(BundleError, match=r"denoise\.pte was altered"):
        Bundle.open(tmp_path / "old")
