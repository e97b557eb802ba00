"""runtime/bench/devices/runner.py, the player of a board; and the whole way by ssh with a bundle that plays."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from echoedge.core.bundle import Bundle
from echoedge.core.bundle.device_job import CONTRACT, JOB, PORTRAIT, RESULT, SAID, SPEECH, Job, Result, Status
from echoedge.core.errors import InputError
from echoedge.runtime.bench.clip import Course
from echoedge.runtime.bench.devices.runner import DONE, FAILED, hello, run_job
from echoedge.runtime.bench.machine import this_machine
from echoedge.runtime.play.material import demo_material

from .lab import Lab


def job_of(bundle: Bundle, folder: Path, **changes: Any) -> Path:
    """The folder of a job as the host leaves it on a board."""
    folder.mkdir()
    (folder / "bundle").symlink_to(bundle.root)
    case = demo_material(bundle.clip, whole=False)
    (folder / PORTRAIT).write_bytes(np.ascontiguousarray(case.portrait, "<f4").tobytes())
    (folder / SPEECH).write_bytes(np.ascontiguousarray(case.speech, "<f4").tobytes())
    given = {
        "job": "0123abcd", "clip": str(bundle.clip), "decoder": None, "engine": "auto", "prompt": case.prompt, "seed": case.seed,
        "threads": None, "warm_up": 2, "runs": 2, "sustained_s": 0.3, "reload": True, "cool": None,
    }  # fmt: skip
    (folder / JOB).write_text(Job(**{**given, **changes}).model_dump_json())  # type: ignore[arg-type]
    return folder


def played(folder: Path) -> tuple[int, list[Status]]:
    lines: list[str] = []
    ended = run_job(folder, lines.append)
    assert all(line.startswith(SAID) and "\n" not in line for line in lines)
    return ended, [Status.model_validate_json(line.removeprefix(SAID)) for line in lines]


def test_a_job_is_played_and_told(bundle: Bundle, tmp_path: Path) -> None:
    folder = job_of(bundle, tmp_path / "job")
    ended, statuses = played(folder)
    assert ended == DONE
    assert [each.state for each in statuses if each.state != "sustaining"] == ["loading", *["playing"] * 5, "done"]
    assert [each.done for each in statuses if each.state == "playing"] == [1, 2, 3, 4, 5]
    assert {each.job for each in statuses} == {"0123abcd"} and {each.contract for each in statuses} == {CONTRACT}
    result = Result.model_validate_json((folder / RESULT).read_bytes(), strict=True)
    record = result.record
    assert (record.runs, record.workload.shape, record.manifest_sha256) == (2, str(bundle.clip), bundle.manifest_sha256)
    assert (record.machine, record.on_device) == (this_machine(), None)
    assert result.ends_s and result.ends_s == sorted(result.ends_s) and result.ends_s[-1] >= 0.3
    assert result.ends_s[0] < 20 * record.clip.median / 1000


def test_what_is_wrong_with_a_job_is_told_to_who_asked(bundle: Bundle, tmp_path: Path) -> None:
    for number, (changes, words) in enumerate(
        [
            ({"contract": 2}, "version 2 of the contract"),
            ({"clip": "64x64x9"}, "plays: 32x32x9"),
            ({"engine": "fast"}, "no engine 'fast'"),
        ]
    ):
        ended, statuses = played(job_of(bundle, tmp_path / str(number), **changes))
        assert (ended, statuses[-1].state, statuses[-1].fault) == (FAILED, "failed", "job")
        assert words in statuses[-1].message
    folder = job_of(bundle, tmp_path / "cut")
    (folder / PORTRAIT).write_bytes(b"\0" * 8)
    assert "portrait.f32 of the job has 2 numbers; the clip takes 3072" in played(folder)[1][-1].message
    (folder / PORTRAIT).unlink()
    assert "portrait.f32 of the job cannot be read" in played(folder)[1][-1].message
    assert not (folder / RESULT).exists()


def test_where_there_is_no_job_nobody_is_answered(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"job\.json cannot be read"):
        run_job(tmp_path, print)
    (tmp_path / JOB).write_text(json.dumps({"format": "echoedge.job/1"}))
    with pytest.raises(InputError, match="is no job"):
        run_job(tmp_path, print)


def test_who_is_greeted_says_what_it_is(tmp_path: Path) -> None:
    said = hello(tmp_path, "0123abcd")
    assert (said.job, said.state, said.contract) == ("0123abcd", "ready", CONTRACT)
    assert said.app.startswith("echoedge ") and said.free_bytes is not None and said.free_bytes > 0


@pytest.mark.slow
def test_a_board_plays_a_bundle_by_ssh(bundle: Bundle, lab: Lab) -> None:
    """ssh and scp stand for the network; what plays is the command line in a process of its own, in another folder."""
    lab.program(lab.home / "device-bin" / "echoedge", f'exec {sys.executable} -m echoedge.cli "$@"')
    lab.bundle = bundle
    record = lab.bench("ssh:board", runs=2, course=Course(warm_up=1, sustained=2.0))
    own = record.on_device
    assert own is not None and own.sustained is not None
    assert (record.manifest_sha256, record.runs, record.machine) == (bundle.manifest_sha256, 2, this_machine())
    assert own.app.startswith("echoedge ") and own.sustained.ends_s[-1] >= 2
    assert record.first_load_ms and record.second_load_ms
    assert lab.left() == [] and lab.folders_left() == []
