"""What damage does: bytes of a bundle changed anywhere, and files of every kind with anything in them. Only typed errors."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import shutil
import wave
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from echoedge.core.bundle import MANIFEST, Bundle, Manifest
from echoedge.core.bundle.records import keep_bench, read_records, write_record
from echoedge.core.errors import BundleError, EchoEdgeError
from echoedge.core.plan import SamplingPlan
from echoedge.runtime.play.pictures import read_portrait
from echoedge.runtime.play.speech import read_speech

from .bench_records import bench_record
from .commands import Run, complaint
from .core.tiny_bundle import contents, edit

# ---- a bundle --------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def copy(bundle_path: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle_path, tmp_path / "a bundle.echoedge"))


def files_of(bundle: Path) -> list[Path]:
    return sorted(path for path in bundle.rglob("*") if path.is_file())


def flips(bundle: Path, count: int, seed: int) -> Iterator[tuple[Path, int]]:
    """Places that are drawn among all bytes of a bundle; every second one among those of its manifest, which are few."""
    files, rng = files_of(bundle), random.Random(seed)
    sizes = np.cumsum([path.stat().st_size for path in files])
    for number, place in enumerate(rng.choices(range(int(sizes[-1])), k=count)):
        index = int(np.searchsorted(sizes, place, side="right"))
        if number % 2:
            yield bundle / MANIFEST, place % (bundle / MANIFEST).stat().st_size
        else:
            yield files[index], place - (int(sizes[index - 1]) if index else 0)


def unnoticed(bundle: Path, count: int, seed: int = 0) -> list[tuple[str, int]]:
    """Of `count` bytes, changed one after the other, those after which the bundle opens, or the error names another file."""
    found = []
    for path, place in flips(bundle, count, seed):
        with path.open("r+b") as file:
            file.seek(place)
            (byte,) = file.read(1)
            file.seek(place)
            file.write(bytes([byte ^ 1 << (place + seed) % 8]))
        try:
            Bundle.open(bundle)
            found.append((path.name, place))
        except BundleError as error:
            if path.relative_to(bundle).as_posix() not in str(error):
                found.append((path.name, place))
        with path.open("r+b") as file:
            file.seek(place)
            file.write(bytes([byte]))
    return found


def test_no_changed_byte_goes_unnoticed(copy: Path) -> None:
    assert unnoticed(copy, 80) == []
    Bundle.open(copy)


def test_without_its_checksum_a_manifest_hides_changed_digits(copy: Path) -> None:
    """What bundles of earlier versions could not tell."""
    edit(copy, lambda _: None)
    Bundle.open(copy)
    assert {name for name, _ in unnoticed(copy, 200)} == {MANIFEST}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"fps": 25', b'"fps": 24'),  # a value that could be meant
        (b'"executorch"', b'"executorch" '),  # the same content
        (b'"checksum"', b'"Checksum"'),
        (b'"checksum": "', b'"checksum": "0'),
        (b"}\n", b"}\n\n"),
    ],
)
def test_other_bytes_are_another_manifest(old: bytes, new: bytes, copy: Path) -> None:
    data = (copy / MANIFEST).read_bytes()
    start = data.rindex(old)
    (copy / MANIFEST).write_bytes(data[:start] + new + data[start + len(old) :])
    with pytest.raises(BundleError, match=r"manifest\.json (was altered|is not valid)"):
        Bundle.open(copy)


def test_the_checksum_is_of_the_bytes_with_zeros_in_its_place(bundle_path: Path) -> None:
    """As docs/BUNDLE.md tells it to players in other languages."""
    data = (bundle_path / MANIFEST).read_bytes()
    told = json.loads(data)["checksum"].encode()
    assert data.count(told) == 1
    assert hashlib.sha256(data.replace(told, b"0" * 64)).hexdigest().encode() == told
    assert list(json.loads(data))[-1] == "checksum"


@pytest.mark.slow
def test_a_thousand_changed_bytes_of_nano_are_noticed() -> None:
    """Of the bundle that ECHOEDGE_BUNDLE names, which is changed and mended a thousand times."""
    place = os.environ.get("ECHOEDGE_BUNDLE")
    if not place:
        pytest.skip("ECHOEDGE_BUNDLE names no bundle")
    assert unnoticed(Path(place), 1000) == []
    Bundle.open(place)


def swapped(bundle: Path) -> str:
    one, two = sorted(bundle.glob("programs/*.pte"))[:2]
    data = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(data)
    return f"programs/{one.name}"


def cut(bundle: Path) -> str:
    path = max(bundle.glob("programs/*.pte"), key=lambda path: path.stat().st_size)
    path.write_bytes(path.read_bytes()[:-1])
    return f"programs/{path.name}"


def gone(bundle: Path) -> str:
    (bundle / "plan.json").unlink()
    return "plan.json"


def without_manifest(bundle: Path) -> str:
    (bundle / MANIFEST).unlink()
    return MANIFEST


@pytest.mark.parametrize("damage", [swapped, cut, gone, without_manifest])
def test_animate_names_the_file_before_it_plays(damage: Callable[[Path], str], copy: Path, run: Run, tmp_path: Path) -> None:
    name = damage(copy)
    film = tmp_path / "clip.mp4"
    nothing = tmp_path / "not there"  # the bundle is looked at before portrait and voice are
    assert name in complaint(run("animate", copy, "--image", nothing, "--audio", nothing, "--out", film))
    assert not film.exists()


def test_a_foreign_file_is_named_by_inspect_and_changes_nothing(copy: Path, run: Run) -> None:
    (copy / "programs" / "notes.txt").write_text("mine")
    ended = run("inspect", copy)
    assert ended.status == 0
    assert "programs/notes.txt" in ended.out


# ---- files with anything in them -------------------------------------------------------------------------------------------------


@st.composite
def changed(draw: st.DrawFn, data: bytes) -> bytes:
    """The data with some bytes changed, cut out, or doubled."""
    result = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(result) - 1)))
        kind = draw(st.sampled_from(["change", "cut", "insert", "end"]))
        if kind == "change" and result:
            result[at] = draw(st.integers(0, 255))
        elif kind == "cut":
            del result[at : at + draw(st.integers(1, 40))]
        elif kind == "insert":
            result[at:at] = draw(st.binary(min_size=1, max_size=20))
        else:
            del result[at:]
    return bytes(result)


def a_wav() -> bytes:
    file, time = io.BytesIO(), np.arange(4000) / 16000
    with wave.open(file, "wb") as writer:
        writer.setparams((1, 2, 16000, 0, "NONE", ""))
        writer.writeframes((9000 * np.sin(2 * np.pi * 220 * time)).astype("<i2").tobytes())
    return file.getvalue()


def a_picture(kind: str) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (6, 6, 3), np.uint8).repeat(6, 0).repeat(6, 1)
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def a_record(bundle: Bundle) -> bytes:
    write_record(bundle, "bench", "torch", "a processor", 2, {"torch": "2"}, "fast", {"fps": 3})
    (path,) = bundle.record_files()
    return path.read_bytes()


def a_benchmark(bundle: Bundle) -> bytes:
    return keep_bench(bundle, bench_record(manifest_sha256=bundle.manifest_sha256)).read_bytes()


def read_record(data: bytes, bundle: Bundle) -> None:
    (path,) = bundle.record_files()
    path.write_bytes(data)
    read_records(bundle)


def without_checksum(bundle: Bundle) -> bytes:
    """A manifest whose damage is not found by its checksum."""
    return json.dumps(contents(bundle.root), indent=1).encode()


def written(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


READERS: dict[str, tuple[Callable[[Bundle], bytes], Callable[[bytes, Path, Bundle], object]]] = {
    "manifest": (lambda bundle: without_checksum(bundle), lambda data, *_: Manifest.from_json(data)),
    "plan": (lambda bundle: bundle.path("plan.json").read_bytes(), lambda data, *_: SamplingPlan.from_json(data)),
    "record": (a_record, lambda data, _, bundle: read_record(data, bundle)),
    "benchmark": (a_benchmark, lambda data, _, bundle: read_record(data, bundle)),
    "wav": (lambda _: a_wav(), lambda data, folder, _: read_speech(written(folder, "a.wav", data))),
    "png": (lambda _: a_picture("png"), lambda data, folder, _: read_portrait(written(folder, "a.png", data), 32, 32)),
    "jpeg": (lambda _: a_picture("jpeg"), lambda data, folder, _: read_portrait(written(folder, "a.jpg", data), 32, 32)),
}  # fmt: skip


def fuzzed(kind: str, examples: int, folder: Path, bundle: Bundle) -> int:
    """How many of the examples were refused; any error that is not ours fails, and so does one of the file as it was."""
    make, read = READERS[kind]
    whole = make(bundle)
    read(whole, folder, bundle)
    refused = 0

    @settings(max_examples=examples, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(changed(whole))
    def once(data: bytes) -> None:
        nonlocal refused
        try:
            read(data, folder, bundle)
        except EchoEdgeError:
            refused += 1

    once()
    return refused


@pytest.mark.parametrize("kind", READERS)
def test_what_is_damaged_is_read_or_refused(kind: str, copy: Path, tmp_path: Path) -> None:
    refused = fuzzed(kind, 25, tmp_path, Bundle.open(copy))
    assert refused > 0 or kind in ("record", "benchmark")  # a damaged record is told, not raised


@pytest.mark.slow
@pytest.mark.parametrize("kind", READERS)
def test_two_thousand_damages_of_every_kind(kind: str, copy: Path, tmp_path: Path) -> None:
    fuzzed(kind, 2000, tmp_path, Bundle.open(copy))
