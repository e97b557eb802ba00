"""runtime/bench/compare.py: records of one workload beside each other; another workload is refused by the field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from echoedge.core.bundle.bench_record import BenchRecord
from echoedge.core.errors import ConfigError, InputError
from echoedge.runtime.bench.compare import ALIKE, compare, read_benches

from ..bench_records import bench_record
from ..commands import Run


def kept(folder: Path, name: str, record: BenchRecord) -> Path:
    path = folder / name
    path.write_text(record.to_json())
    return path


def test_speedups_are_ratios_of_medians() -> None:
    compared = compare([("a", bench_record(1000.0)), ("b", bench_record(250.0))])
    assert compared.speedups(compared.records[1]) == dict.fromkeys(
        ("look", "prepare", "denoise", "decode", "step", "clip", "first_frame"), 4.0
    ) | {"listen": None}
    assert compared.speedups(compared.records[0])["clip"] == 1.0


OTHER: dict[str, Any] = {
    "model": "flash", "layers": 30, "height": 32, "width": 32, "frames": 17, "fps": 24, "steps": 4, "branches": 1, "evaluations": 8,
    "decoder": "tiny",
}  # fmt: skip


@pytest.mark.parametrize("field", ALIKE)
def test_another_workload_is_refused_by_its_field(field: str) -> None:
    rates = {"realtime_factor": 25 / 24} if field == "fps" else {}
    other = bench_record(workload={field: OTHER[field]}, **rates)
    told = getattr(bench_record().workload, field)
    with pytest.raises(ConfigError, match=rf"^a and b do not compare: {field} is {told} in the one and {OTHER[field]} in"):
        compare([("a", bench_record()), ("b", other)])


def test_what_is_compared_may_differ() -> None:
    others = [
        bench_record(mode="eager", savings=False, threads=1, disk_bytes=None),
        bench_record(workload={"preset": "x", "prompt": "y"}),
    ]  # fmt: skip
    assert len(compare([("a", bench_record()), *(("b", other) for other in others)]).records) == 3


def test_files_of_every_kind_that_holds_records(tmp_path: Path) -> None:
    one, two = bench_record(1000.0), bench_record(500.0)
    told = [one.to_dict(), two.to_dict()]
    (tmp_path / "printed.json").write_text(json.dumps(told))
    (tmp_path / "baseline.json").write_text(json.dumps({"format": "echoedge.baseline/1", "measured": told}))
    assert read_benches(kept(tmp_path, "a.json", one)) == (("a.json", one),)
    for name in ("printed.json", "baseline.json"):
        assert read_benches(tmp_path / name) == ((f"{name} (1)", one), (f"{name} (2)", two))


OLD = {"format": "echoedge.record/1", "verb": "bench", "figures": {"fps": 3}}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (json.dumps(OLD), "was written by an earlier version, whose benchmarks have no spread"),
        (json.dumps([{"stage_seconds": {}}]), "was written by an earlier version"),
        (json.dumps(OLD | {"verb": "verify"}), "its format is 'echoedge.record/1', not 'echoedge.bench/1'"),
        ("[]", "holds no record"), ("3", "its format is None"), ("{", "is not JSON"), ("[" * 100_000, "is not JSON"),
        (json.dumps({"format": "echoedge.bench/1"}), r"is no record of a benchmark \(date: Field required"),
    ],
)  # fmt: skip
def test_what_is_no_record_is_told_in_a_sentence(content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(InputError, match=words):
        read_benches(tmp_path / "a.json")


def test_the_command_sets_records_side_by_side(tmp_path: Path, run: Run) -> None:
    files = [kept(tmp_path, "slow.json", bench_record(1000.0)), kept(tmp_path, "fast.json", bench_record(250.0))]
    told = run("bench", "--compare", *files)
    assert told.status == 0
    for words in (
        "nano, 6 layers, 64x64x25, 8 steps × 2",
        "executorch/xnnpack",
        "int8 in fp32",
        "4.00",
        "on the device that it names",
    ):
        assert words in told.out, words
    printed = json.loads(run("bench", "--compare", *files, "--json").out)
    assert [one["speedup"]["clip"] for one in printed["records"]] == [1.0, 4.0]
    other = kept(tmp_path, "other.json", bench_record(workload={"steps": 4}))
    assert "slow.json and other.json do not compare: steps is 8" in run("bench", "--compare", files[0], other).err
    assert "--compare has 1 record" in run("bench", "--compare", files[0]).err
    assert "--runs goes with a bundle that is played" in run("bench", "--compare", *files, "--runs", 2).err
    assert "is a folder; --compare takes records" in run("bench", "--compare", tmp_path, files[0]).err
    assert "bench plays one bundle, and 2 paths are given" in run("bench", *files).err
