"""The app's side of a benchmark: what its core writes is what Python's host reads."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from echoedge.core.bundle.device_job import CONTRACT, Job, Result, Status
from echoedge.core.bundle.device_record import Sustained

from .engine import class_path, common, needs_kotlin

pytestmark = needs_kotlin
WORD = "0123456789abcdef"


def phone(*arguments: object) -> None:
    """`BenchMain.kt`, which does what the app does for a benchmark, with programs that are formulas."""
    command = [common.java(), "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", class_path(), "echoedge.appcore.BenchMainKt"]
    ended = subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def status(folder: Path) -> Status:
    return Status.model_validate_json((folder / "status.json").read_bytes(), strict=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    phone("material", tmp_path)
    return tmp_path


def job(**changes: object) -> Job:
    usual: dict[str, object] = {
        "job": WORD, "clip": "16x16x9", "decoder": None, "engine": "auto", "prompt": "a toy speaks", "seed": 2**64 - 1,
        "threads": 3, "warm_up": 2, "runs": 3, "sustained_s": None, "reload": True, "cool": None,
    }  # fmt: skip
    return Job.model_validate(usual | changes)


def test_it_answers_before_anything_is_sent(tmp_path: Path) -> None:
    phone("prepare", tmp_path / "files" / "bench", WORD)
    said = status(tmp_path / "files" / "bench")
    assert (said.job, said.state, said.contract) == (WORD, "ready", CONTRACT)
    assert said.free_bytes is not None and said.free_bytes > 0


def test_its_result_is_one_that_the_host_reads(folder: Path) -> None:
    (folder / "job.json").write_text(job().model_dump_json())
    phone("run", folder, WORD)
    assert (status(folder).state, status(folder).done, status(folder).total) == ("done", 6, 6)
    result = Result.model_validate_json((folder / "result.json").read_bytes(), strict=True)
    record = result.record
    assert result.job == WORD and result.ends_s is None and record.on_device is None
    assert record.manifest_sha256 == hashlib.sha256((folder / "bundle" / "manifest.json").read_bytes()).hexdigest()
    assert (record.runs, record.workload.shape, record.threads, record.machine.place) == (3, "16x16x9", 3, "phone")
    assert record.engine.name == "executorch" and record.second_load_ms is not None


def test_a_sustained_run_tells_when_each_clip_ended(folder: Path) -> None:
    (folder / "job.json").write_text(job(sustained_s=0.2, reload=False).model_dump_json())
    phone("run", folder, WORD)
    result = Result.model_validate_json((folder / "result.json").read_bytes(), strict=True)
    assert result.ends_s is not None and result.ends_s[-1] >= 0.2
    assert Sustained.of(0.2, result.ends_s, result.record.frames).windows


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"contract": 2}, "version 1"),
        ({"job": "f" * 16}, "was asked for"),
        ({"engine": "coreml"}, "coreml"),
        ({"clip": "8x8x5"}, "8x8x5"),
    ],
)
def test_what_it_cannot_play_is_a_status_that_says_so(folder: Path, changes: dict[str, object], said: str) -> None:
    (folder / "job.json").write_text(job(**changes).model_dump_json())
    phone("run", folder, WORD)
    last = status(folder)
    assert (last.job, last.state, last.fault) == (WORD, "failed", "job") and said in last.message
    assert not (folder / "result.json").exists()
