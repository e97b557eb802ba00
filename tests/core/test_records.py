"""core/bundle/records.py: what was measured lies beside the manifest, is of one manifest and one engine, and breaks nothing."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from echoedge.core.bundle import MANIFEST, Bundle
from echoedge.core.bundle.records import Verb, read_records, write_record
from echoedge.core.errors import BundleError, OutputError

from .tiny_bundle import contents


def kept(bundle: Bundle, verb: Verb = "verify", engine: str = "executorch", **figures: Any) -> Path:
    return write_record(bundle, verb, engine, "a machine", 2, {"torch": "2"}, "all is well", figures)


@pytest.fixture
def root(bundle_path: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle_path, tmp_path / "b.echoedge"))


def test_a_record_lies_beside_a_manifest_that_stays_as_it_is(root: Path) -> None:
    before = (root / MANIFEST).read_bytes()
    path = kept(Bundle.open(root), denoise=1.5)
    assert re.fullmatch(r"records/\d{8}T\d{6}Z-verify-executorch\.json", path.relative_to(root).as_posix())
    assert (root / MANIFEST).read_bytes() == before
    opened = Bundle.open(root)
    assert opened.extra_files() == ()
    (record,) = read_records(opened).own
    assert record.manifest_sha256 == hashlib.sha256(before).hexdigest()
    assert (record.verb, record.device, record.threads, record.versions) == ("verify", "a machine", 2, {"torch": "2"})
    assert (record.summary, record.figures) == ("all is well", {"denoise": 1.5})
    assert record.date.replace("-", "").replace(":", "") == path.name[:16]


def test_a_record_says_whose_figures_they_are(root: Path) -> None:
    bundle = Bundle.open(root)
    kept(bundle)
    kept(bundle, engine="torch")
    engines = {record.engine.name: record.engine for record in read_records(bundle).own}
    own, reference = engines["executorch"], engines["torch"]
    assert (own.target, own.weights, own.precision) == ("executorch/xnnpack", "int8", "fp32")
    assert (reference.target, reference.weights, reference.precision) == ("reference", "fp32", "fp32")
    assert "torch (reference, weights fp32" in str(reference)


def test_names_are_unique_within_a_second(root: Path) -> None:
    bundle = Bundle.open(root)
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda number: kept(bundle, number=number), range(24)))
    assert len(set(paths)) == 24
    found = read_records(bundle)
    assert sorted(record.figures["number"] for record in found.own) == list(range(24))  # type: ignore[type-var]
    assert not found.damaged


def test_a_record_of_another_manifest_is_set_apart(root: Path) -> None:
    path = kept(Bundle.open(root))
    manifest = contents(root)
    (root / MANIFEST).write_text(json.dumps(manifest))  # the same content in other bytes
    found = read_records(Bundle.open(root))
    assert (found.own, found.others) == ((), (path.relative_to(root).as_posix(),))


def test_figures_of_a_bundle_that_was_replaced_meanwhile_are_not_kept(root: Path) -> None:
    bundle = Bundle.open(root)
    (root / MANIFEST).write_bytes((root / MANIFEST).read_bytes() + b"\n")
    with pytest.raises(BundleError, match="was exported again in the meantime"):
        kept(bundle)
    assert not (root / "records").exists()


DAMAGE = {
    "empty": (b"", "Invalid JSON"),
    "cut": (b'{"format": "echoedge.record/1", "verb', "Invalid JSON"),
    "no record": (b"[]", "object"),
    "another format": (b'{"format": "echoedge.record/9"}', "format: "),
    "no text": (b"\xff\xfe\x00", "Invalid JSON|unicode"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_record_is_named_and_hides_no_other(damage: str, root: Path) -> None:
    kept(Bundle.open(root))
    content, words = DAMAGE[damage]
    (root / "records" / "20260101T000000Z-bench-torch.json").write_bytes(content)
    bundle = Bundle.open(root)
    found = read_records(bundle)
    assert len(found.own) == 1
    assert list(found.damaged) == ["records/20260101T000000Z-bench-torch.json"]
    assert re.search(words, next(iter(found.damaged.values())))
    assert bundle.extra_files() == ()


def test_a_field_that_no_record_has_is_damage(root: Path) -> None:
    path = kept(Bundle.open(root))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"threads": 0}))
    found = read_records(Bundle.open(root))
    assert not found.own
    assert found.damaged[path.relative_to(root).as_posix()].startswith("threads: ")


def test_what_is_no_record_is_still_a_strange_file(root: Path) -> None:
    (root / "records" / "deep").mkdir(parents=True)
    (root / "records" / "notes.txt").touch()
    (root / "records" / "deep" / "a.json").touch()
    assert Bundle.open(root).extra_files() == ("records/deep/a.json", "records/notes.txt")


def test_a_figure_that_json_lacks_leaves_nothing(root: Path) -> None:
    with pytest.raises(BundleError, match="figures of verify cannot be kept"):
        kept(Bundle.open(root), value=float("nan"))
    assert not (root / "records").exists()


def test_a_file_in_the_folders_place(root: Path) -> None:
    (root / "records").touch()
    with pytest.raises(OutputError, match="records is a file; records go into a folder"):
        kept(Bundle.open(root))


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_bundle_that_may_not_be_written(root: Path) -> None:
    root.chmod(0o500)
    with pytest.raises(OutputError, match="records cannot be written"):
        kept(Bundle.open(root))
