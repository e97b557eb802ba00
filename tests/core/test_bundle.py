"""core/bundle: writing, reading, and what both refuse. Manifests: test_manifest.py; format 1: test_upgrade.py."""

from __future__ import annotations

import hashlib
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from echoedge.core.bundle import (
    FORMAT,
    MANIFEST,
    Bundle,
    BundleWriter,
    ClipRecord,
    Figures,
    FileEntry,
    ModelRecord,
    TargetRecord,
    WeightsRecord,
    folder_sha256,
)
from echoedge.core.bundle import reader as module
from echoedge.core.bundle.manifest import OLD_FORMAT
from echoedge.core.config import FLASH, NANO, NANO_CLIP, ClipSpec
from echoedge.core.errors import BundleError, OutputError, ResourceError
from echoedge.core.plan import Branch, SamplingPlan

from .tiny_bundle import DENOISE, FIXED, METHODS, SHA, TENSORS, edit, write


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A program that is a folder, as Core ML has it."""
    folder = tmp_path / "build2" / "denoise.mlpackage"
    (folder / "Data" / "weights").mkdir(parents=True)
    (folder / "Manifest.json").write_text("{}")
    (folder / "Data" / "weights" / "weight.bin").write_bytes(b"w" * 100)
    return folder


# --- 1. round trip ----------------------------------------------------------------------------------------------------------------


def test_round_trip(root: Path, program: Path) -> None:
    bundle = Bundle.open(root)
    assert bundle.model == NANO
    assert bundle.clip == NANO_CLIP
    assert bundle.path("programs/denoise.pte").read_bytes() == program.read_bytes()
    assert bundle.program("denoise").methods == METHODS
    assert bundle.program("denoise").placement["forward"].other_ops == {"aten.cat": 2}
    assert bundle.program("denoise").measured == Figures(psnr_db=150, cosine=1)
    assert bundle.program_for("denoise") == bundle.program("denoise")
    assert bundle.roles == ("denoise",)
    assert bundle.input_shape("denoise", "latents") == (1, 16, 7, 8, 8)
    assert bundle.extra_files() == ()
    read = bundle.read_tensors("step_tables.safetensors")
    assert read.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert read[name].dtype == tensor.dtype
        assert read[name].shape == tensor.shape
        np.testing.assert_array_equal(read[name], tensor)


def test_same_content_gives_the_same_manifest(root: Path, program: Path, tmp_path: Path) -> None:
    write(tmp_path / "again", program)
    assert (tmp_path / "again" / MANIFEST).read_bytes() == (root / MANIFEST).read_bytes()


def test_hashes_are_those_of_the_files(root: Path) -> None:
    manifest = Bundle.open(root).manifest
    program = manifest.programs["denoise"]
    listed = {**manifest.files, program.path: FileEntry(sha256=program.artifact.sha256, bytes=program.artifact.bytes)}
    for path, entry in listed.items():
        data = (root / path).read_bytes()
        assert entry == FileEntry(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))


def test_a_bundle_can_be_moved(root: Path, tmp_path: Path) -> None:
    shutil.move(root, tmp_path / "elsewhere")
    Bundle.open(tmp_path / "elsewhere")


def test_program_folder(package: Path, tmp_path: Path) -> None:
    root = tmp_path / "core ml.echoedge"
    write(root, package, kind="folder", target=TargetRecord(name="coreml"))
    bundle = Bundle.open(root)
    record = bundle.program("denoise")
    assert bundle.path(record.path).is_dir()
    assert record.artifact.bytes == 102
    assert record.artifact.sha256 == folder_sha256(bundle.manifest.folder_files(record))
    (root / "programs/denoise.mlpackage/Data/weights/weight.bin").write_bytes(b"v" * 100)
    with pytest.raises(BundleError, match=r"weights/weight\.bin was altered"):
        Bundle.open(root)


def test_exporter_may_write_in_place(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "b") as writer:
        (writer.folder / "programs").mkdir()
        (writer.folder / "programs" / "denoise.pte").write_bytes(b"compiled")
        assert writer.add_program("denoise", writer.folder / "programs" / "denoise.pte", **DENOISE).artifact.bytes == 8
        writer.finish(**FIXED)
    assert Bundle.open(tmp_path / "b").path("programs/denoise.pte").read_bytes() == b"compiled"


def test_a_forgotten_file_is_noticed(tmp_path: Path) -> None:
    def forget() -> None:
        with BundleWriter(tmp_path / "b") as writer:
            (writer.folder / "debug.txt").write_text("left over")
            writer.finish(**FIXED)

    with pytest.raises(BundleError, match=r"debug\.txt: written into the bundle's folder"):
        forget()
    assert list(tmp_path.iterdir()) == []


def test_full_size_configuration(program: Path, tmp_path: Path) -> None:
    write(
        tmp_path / "b",
        program,
        model=ModelRecord.of(FLASH, SHA),
        clips=(ClipRecord.of(ClipSpec(512, 512, 81)), ClipRecord.of(NANO_CLIP)),
    )
    assert Bundle.open(tmp_path / "b").model == FLASH


def test_reads_the_plan(root: Path, tmp_path: Path) -> None:
    plan = SamplingPlan(
        solver_name="euler", schedule="wan", shift=1.0, timesteps=(1000.0,), sigmas=(1.0, 0.0), solver=((1.0, -1.0),),
        branches=(Branch.of("prompt"),), guidance=((1.0,),), modality_weights=(((1.0,), (1.0,), (1.0,)),), reuse=((False,),),
    )  # fmt: skip
    with BundleWriter(tmp_path / "b") as writer:
        writer.add_bytes("plan.json", plan.to_json().encode())
        writer.finish(**FIXED)
    assert Bundle.open(tmp_path / "b").plan() == plan
    with pytest.raises(BundleError):  # that file is JSON, but no plan
        Bundle.open(root).plan()
    with BundleWriter(tmp_path / "c") as writer:
        writer.finish(**FIXED)
    with pytest.raises(BundleError, match=r"no file 'plan\.json'"):
        Bundle.open(tmp_path / "c").plan()


# --- 2. what the writer refuses ---------------------------------------------------------------------------------------------------


def test_interruption_leaves_nothing(program: Path, tmp_path: Path) -> None:
    def interrupt() -> None:
        with BundleWriter(tmp_path / "b") as writer:
            writer.add_program("denoise", program, **DENOISE)
            raise KeyboardInterrupt

    before = sorted(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert sorted(tmp_path.iterdir()) == before


def test_without_finish_there_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="finish"), BundleWriter(tmp_path / "b") as writer:
        writer.add_bytes("a.bin", b"a")
    assert list(tmp_path.iterdir()) == []


def test_existing_bundle(root: Path, program: Path) -> None:
    with pytest.raises(OutputError, match="--force"):
        write(root, program)
    write(root, program, weights=WeightsRecord(name="int4"), force=True)
    assert Bundle.open(root).manifest.weights.name == "int4"
    shutil.rmtree(root)
    root.mkdir()
    (root / "thesis.tex").write_text("precious")
    with pytest.raises(OutputError, match="does not replace it"):
        write(root, program, force=True)
    assert (root / "thesis.tex").read_text() == "precious"


def test_too_little_disk_is_noticed_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ResourceError, match="of disk is needed"), BundleWriter(tmp_path / "b", expected_bytes=10**15):
        pytest.fail("the body must not run")

    def fill_up() -> None:
        with BundleWriter(tmp_path / "b") as writer:
            writer.add_bytes("small", b"abc")
            writer.add_bytes("large", b"abcd")

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=3))
    with pytest.raises(ResourceError, match="4 B of disk is needed"):
        fill_up()
    assert list(tmp_path.iterdir()) == []


BAD_PATHS = [
    "", ".", "..", "/etc/passwd", "../a", "a/../b", "a/./b", "a//b", "a/", "/a", "a\\b", "C:/a", "c:a", "a\0b", "a b", "a.",
    "a/.hidden", "é", "a\n", "manifest.json", "Manifest.JSON", "~", "x" * 201, "a/" * 50 + "..",
]  # fmt: skip


@pytest.mark.parametrize("name", BAD_PATHS)
def test_paths_that_could_leave_the_bundle(name: str, root: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError), BundleWriter(tmp_path / "b") as writer:
        writer.add_bytes(name, b"")
    edit(root, lambda data: data["files"].update({name: {"sha256": SHA, "bytes": 0}}))
    with pytest.raises(BundleError, match="not valid"):
        Bundle.open(root)


def test_paths_that_are_taken(program: Path, tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "b") as writer:
        writer.add_program("denoise", program, **DENOISE)
        writer.add_bytes("a.bin", b"")
        for name in ("a.bin", "A.bin", "programs/denoise.pte"):
            with pytest.raises(BundleError, match="already"):
                writer.add_bytes(name, b"")
        with pytest.raises(BundleError, match="already"):
            writer.add_program("denoise", program, **DENOISE)
        writer.add_bytes("b.bin", b"")
        writer.finish(**FIXED)
        with pytest.raises(BundleError, match="too late"):
            writer.add_bytes("c.bin", b"")


def test_content_that_cannot_be_written(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "b") as writer:
        with pytest.raises(BundleError, match="does not exist"):
            writer.add_file("a", tmp_path / "missing")
        with pytest.raises(BundleError, match="JSON"):
            writer.add_json("a", [float("nan")])
        with pytest.raises(BundleError, match="JSON"):
            writer.add_json("a", "\ud800")
        with pytest.raises(BundleError, match="safetensors"):
            writer.add_tensors("a", {"text": np.array(["text"])})
        (tmp_path / "empty").mkdir()
        with pytest.raises(BundleError, match="empty folder"):
            writer.add_program("p", tmp_path / "empty", kind="folder", **DENOISE)
        (tmp_path / "p.pte").write_bytes(b"p")
        with pytest.raises(BundleError, match="placement of backward"):
            writer.add_program("p", tmp_path / "p.pte", **DENOISE | {"placement": {"backward": DENOISE["placement"]["forward"]}})
        (writer.folder / "programs" / "p.pte").unlink()
        writer.finish(**FIXED)


def test_writer_must_be_entered(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="with BundleWriter"):
        BundleWriter(tmp_path / "b").add_bytes("a", b"")


# --- 3. what opening notices ------------------------------------------------------------------------------------------------------


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["programs/denoise.pte", "plan.json", "prompts/default.safetensors"])
@pytest.mark.parametrize(
    ("damage", "words", "needs_hash"),
    [
        (lambda path: path.unlink(), "is missing", False),
        (cut_off, r"has \d+ bytes instead of \d+", False),
        (flip_a_bit, r"was altered \(SHA-256 [0-9a-f]{12}… instead of [0-9a-f]{12}…\)", True),
    ],
)
def test_damage(root: Path, name: str, damage: Callable[[Path], None], words: str, needs_hash: bool) -> None:
    Bundle.open(root)
    damage(root / name)
    with pytest.raises(BundleError, match=rf"nano\.echoedge is not complete: {name} {words}.*Copy the bundle again"):
        Bundle.open(root)
    if needs_hash:
        Bundle.open(root, verify=False)
    else:
        with pytest.raises(BundleError, match=words):
            Bundle.open(root, verify=False)


def test_many_damaged_files_are_counted(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "b") as writer:
        for number in range(8):
            writer.add_bytes(f"{number}.bin", b"x")
        writer.finish(**FIXED)
    for number in range(8):
        (tmp_path / "b" / f"{number}.bin").unlink()
    with pytest.raises(BundleError, match="and 3 more"):
        Bundle.open(tmp_path / "b")


def test_not_a_bundle(root: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="There is no bundle"):
        Bundle.open(tmp_path / "missing")
    with pytest.raises(BundleError, match="is a file"):
        Bundle.open(root / "plan.json")
    with pytest.raises(BundleError, match=r"has no manifest\.json"):
        Bundle.open(tmp_path)
    (root / MANIFEST).write_bytes(b"")
    with pytest.raises(BundleError, match="cut off"):
        Bundle.open(root)


def test_manifest_of_absurd_size(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_MANIFEST_BYTES", 100)
    with pytest.raises(BundleError, match="no manifest is that large"):
        Bundle.open(root)


@pytest.mark.parametrize("found", ["echoedge.bundle/0", "echoedge.bundle/02x", "something else", None, 1])
def test_unknown_format(root: Path, found: Any) -> None:
    edit(root, lambda data: data.update(format=found))
    with pytest.raises(BundleError, match=rf"has format {found!r}; this version of EchoEdge reads '{OLD_FORMAT}' and '{FORMAT}'"):
        Bundle.open(root)


@pytest.mark.parametrize("found", ["echoedge.bundle/3", "echoedge.bundle/12"])
def test_a_newer_format_is_named_as_such(root: Path, found: str) -> None:
    edit(root, lambda data: data.update(format=found))
    with pytest.raises(BundleError, match=rf"'{found}'; it is newer than this version of EchoEdge, .*Install a newer EchoEdge\."):
        Bundle.open(root)


def test_extra_files_are_listed_not_fatal(root: Path) -> None:
    (root / "notes").mkdir()
    (root / "notes" / "a.txt").write_text("mine")
    (root / ".DS_Store").write_text("")
    assert Bundle.open(root).extra_files() == (".DS_Store", "notes/a.txt")


def test_names_that_are_not_there(root: Path) -> None:
    bundle = Bundle.open(root)
    with pytest.raises(BundleError, match=r"no file 'plan.jsn'\. It has: .*Did you mean 'plan\.json'"):
        bundle.path("plan.jsn")
    with pytest.raises(BundleError, match=r"no program 'decode'\. It has: denoise\."):
        bundle.program("decode")
    with pytest.raises(BundleError, match="no file"):
        bundle.path("../../etc/passwd")


def test_tensors_that_are_not(root: Path) -> None:
    bundle = Bundle.open(root)
    with pytest.raises(BundleError, match="cannot be read as arrays"):
        bundle.read_tensors("prompts/default.safetensors")
    with pytest.raises(BundleError, match="cannot be read as arrays"):
        bundle.read_tensors("programs/denoise.pte")


# --- 4. what is measured later ----------------------------------------------------------------------------------------------------


def test_the_writer_lists_no_records(tmp_path: Path) -> None:
    with (
        pytest.raises(BundleError, match=r"records/a\.json is where figures are kept that are measured after the export"),
        BundleWriter(tmp_path / "b") as writer,
    ):
        writer.add_json("records/a.json", {})


def test_a_figure_without_an_end_is_refused() -> None:
    """Equal tensors have a figure of their own (core/metrics/psnr.py)."""
    with pytest.raises(ValidationError, match="finite"):
        Figures(psnr_db=math.inf)


def test_no_torch() -> None:
    """A phone-sized environment reads bundles."""
    script = "import sys, echoedge.core.bundle; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
