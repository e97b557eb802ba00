"""The app's side of a benchmark: what its core writes is what Python's host reads."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from echoedge.core.bundle import Bundle
from echoedge.core.bundle.device_job import CONTRACT, Job, Result, Status
from echoedge.core.bundle.device_record import Sustained
from echoedge.runtime.bench.clip import Course

from ..runtime.devices.lab import PHONE, Lab
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


AM = """import os, subprocess, sys
from pathlib import Path

if sys.argv[1] == "force-stop":
    os.execv(sys.executable, [sys.executable, "-S", {phone!r}, "am", *sys.argv[1:]])
extras = dict(zip(sys.argv[sys.argv.index("--es") + 1 :: 3], sys.argv[sys.argv.index("--es") + 2 :: 3]))
home = Path(os.environ["FAKE_DEVICE"])
folder = home / "root/sdcard/Android/data/ai.echoedge.demo/files/bench"
words = [*{app!r}, extras["bench"], str(folder), extras["job"], *{served!r}, str(folder / "bundle")]
log = (home / "app.log").open("a")
app = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
(home / "app.pid").write_text(str(app.pid))
print("Starting: Intent {{ cmp=ai.echoedge.demo/.BenchActivity (has extras) }}\\nStatus: ok\\nComplete")
"""


def test_echoedge_bench_measures_the_apps_core_through_adb(
    bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host's adb against a phone that is not there, whose app is the Kotlin core playing a real bundle's programs."""
    lab = Lab(tmp_path / "lab", Bundle.open(bundle_path), monkeypatch)
    launch = [common.java(), "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", class_path(), "echoedge.appcore.BenchMainKt"]
    served = [sys.executable, "-m", "echoedge.cli", "serve-programs"]
    script = tmp_path / "am.py"
    script.write_text(AM.format(phone=str(PHONE), app=launch, served=served))
    lab.program(lab.home / "device-bin" / "am", f'exec {sys.executable} {script} "$@"')
    record = lab.bench("adb", runs=1, course=Course(sustained=0.01, reload=False))
    assert record.on_device is not None and record.on_device.app == "EchoEdge demo 0"
    assert record.on_device.sustained is not None and len(record.on_device.sustained.ends_s) == 1
    assert record.machine.place == "phone" and record.runs == 1 and record.engine.name == "executorch"
    assert lab.left() == []  # nothing of it stays on the device
