"""A bundle that is replaced while it plays: the player says so, or goes on where the files are the same; never a film of two."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from echoedge import api
from echoedge.core.bundle import MANIFEST, Bundle
from echoedge.core.errors import BundleError
from echoedge.core.files import atomic_folder
from echoedge.core.weights.nano import assets
from echoedge.runtime.engines import open_engine, watched

from ..bundles import changed_bundle

DEMO = assets() / "demo"
LISTENER, DECODER = "programs/audio_encoder.pte", "programs/vae_decode.pte"  # loaded first, and last: when the clip is denoised


@pytest.fixture(scope="module")
def other(bundle_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the same programs, two of them with other weights."""
    folder, path = tmp_path_factory.mktemp("other"), bundle_path
    for name in (LISTENER, DECODER):
        data = bytearray((path / name).read_bytes())
        for place in range(5 * len(data) // 16, len(data) // 2, 41):  # amid the constants
            data[place] ^= 2
        path = changed_bundle(path, folder / Path(name).stem, name, bytes(data))
    return path


@pytest.fixture
def playing(bundle_path: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle_path, tmp_path / "a.echoedge"))


def film(bundle: Path, out: Path, meanwhile: Callable[[], object] = lambda: None) -> bytes:
    """Plays the bundle; `meanwhile` is done once, when the clip is denoised and not yet decoded."""
    done: list[str] = []

    def progress(stage: str, step: int, steps: int) -> None:
        if stage == "denoise" and step == steps and not done:
            done.append(stage)
            meanwhile()

    api.animate(bundle, image=DEMO / "ada.png", audio=DEMO / "hello.wav", out=out, progress=progress, warn=lambda _: None)
    assert done
    return out.read_bytes()


def exported_again(old: Path, new: Path) -> None:
    """As `export --force` ends."""
    with atomic_folder(old, force=True, marker=MANIFEST) as temporary:
        shutil.copytree(new, temporary, dirs_exist_ok=True)


def synchronised(old: Path, new: Path) -> None:
    """As rsync does: beside, then renamed, one file after the other."""
    for name in (MANIFEST, LISTENER, DECODER):
        shutil.copy(new / name, old / "copy")
        os.replace(old / "copy", old / name)


def written_over(old: Path, new: Path) -> None:
    """As `cp` and `rsync --inplace` do."""
    (old / DECODER).write_bytes((new / DECODER).read_bytes())


def taken_away(old: Path, _: Path) -> None:
    shutil.rmtree(old)


def shrunk(old: Path, _: Path) -> None:
    """A file that is loaded already, and mapped into memory."""
    os.truncate(old / "programs" / "denoise.pte", 100)


@pytest.mark.parametrize("replace", [exported_again, synchronised, written_over, taken_away, shrunk])
def test_a_bundle_that_is_replaced_while_it_plays_is_told(
    replace: Callable[[Path, Path], None], playing: Path, other: Path, tmp_path: Path
) -> None:
    with pytest.raises(BundleError, match=r"a\.echoedge was replaced while it was in use: \S+ is not the file that was opened\."):
        film(playing, tmp_path / "clip.mp4", lambda: replace(playing, other))
    assert not (tmp_path / "clip.mp4").exists()


def test_the_same_files_play_on(playing: Path, bundle_path: Path, tmp_path: Path) -> None:
    """Exported again with the same weights, or only touched and linked to, as tools for backups do."""
    wanted = film(playing, tmp_path / "1.mp4")
    assert film(playing, tmp_path / "2.mp4", lambda: exported_again(playing, bundle_path)) == wanted

    def touched() -> None:
        os.utime(playing / DECODER)
        os.link(playing / DECODER, tmp_path / "link")

    assert film(playing, tmp_path / "3.mp4", touched) == wanted


def test_who_does_not_look_makes_one_film_of_two_bundles(
    playing: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the tests above are about: without the look both bundles go into one film, and nothing says so."""
    whole = [film(playing, tmp_path / "1.mp4"), film(other, tmp_path / "2.mp4")]
    monkeypatch.setattr(watched.Watched, "run", lambda self, *call: self.engine.run(*call))
    mixed = film(playing, tmp_path / "3.mp4", lambda: synchronised(playing, other))
    assert len({mixed, *whole}) == 3


def test_plan_and_tables_are_those_that_were_opened(playing: Path) -> None:
    for name, read in (
        ("plan.json", Bundle.plan),
        ("step_tables.safetensors", lambda b: b.read_tensors("step_tables.safetensors")),
    ):
        bundle = Bundle.open(playing)
        read(bundle)
        data = (playing / name).read_bytes()
        (playing / name).write_bytes(data.replace(b"1", b"2"))
        with pytest.raises(BundleError, match=f"was replaced while it was in use: {name}"):
            read(bundle)
        (playing / name).write_bytes(data)
        read(bundle)


def test_what_the_manifest_does_not_list_may_change(playing: Path) -> None:
    bundle = Bundle.open(playing)
    engine = open_engine(bundle)
    inputs = [
        np.zeros(tuple(map(int, spec.shape)), spec.dtype) for spec in bundle.program("text_encoder").methods["forward"].inputs
    ]
    engine.run("text_encoder", "forward", inputs)
    (playing / "prompts").mkdir(exist_ok=True)
    (playing / "records").mkdir()
    (playing / "records" / "1.json").write_text("{}")  # what no program is of may change
    engine.run("text_encoder", "forward", inputs)
