"""core/bundle/device_record.py: speed over many minutes by closed form, and a record that contradicts itself."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from echoedge.core.bundle.bench_record import BenchRecord
from echoedge.core.bundle.device_job import JOB, RESULT, STATUS, Job, Result, Status, job_schema
from echoedge.core.bundle.device_record import DeviceRun, DeviceState, Sustained
from echoedge.docs import schema

from ..bench_records import bench_record

FRAMES = 25


def every(seconds: float, until: float, begin: float = 0.0) -> list[float]:
    """Ends of clips that take `seconds` each."""
    count = round((until - begin) / seconds)
    return [begin + seconds * (n + 1) for n in range(count)]


def test_a_device_that_slows_down_to_half_at_a_time() -> None:
    """600 s; clips of 2 s until 300 s, of 4 s behind: 12.5, then 6.25 frames per second; windows of 30 s, the beginning is 60 s."""
    found = Sustained.of(600, every(2, 300) + every(4, 600, 300), FRAMES)
    assert (found.first_fps, found.throttled_at_s) == (12.5, 300.0)
    assert [window.fps for window in found.windows[:10]] == [12.5] * 10
    assert {window.fps for window in found.windows[10:]} == {6.25}
    assert [window.start_s for window in found.windows[:20]] == [30.0 * n for n in range(20)]


@pytest.mark.parametrize(("slower", "at"), [(1.10, None), (1.12, 300.0), (1.0, None), (0.5, None)])
def test_nine_tenths_of_the_beginning_are_the_limit(slower: float, at: float | None) -> None:
    """1 / 1.10 = 0.909 is above 0.9 and 1 / 1.12 = 0.893 below it."""
    assert Sustained.of(600, every(1, 300) + every(slower, 600, 300), FRAMES).throttled_at_s == at


def test_one_slow_clip_is_no_throttling() -> None:
    ends = every(1, 300) + [309.0] + every(1, 600, 309)
    assert Sustained.of(600, ends, FRAMES).throttled_at_s is None


def test_a_clip_that_ends_just_before_a_window_is_counted_as_it_is_written_down() -> None:
    """29.99997 s are written as 30 s, which lie in the next window; a record that counts it in the one before is refused."""
    found = Sustained.of(600, [10.0, 29.99997, 45.0], FRAMES)
    assert [(window.start_s, window.clips) for window in found.windows] == [(0.0, 1), (30.0, 2)]
    assert found.disagrees(FRAMES) is None
    moved = found.model_copy(update={"windows": [each.model_copy(update={"clips": 3 - each.clips}) for each in found.windows]})
    assert "windows" in str(moved.disagrees(FRAMES))


def test_clips_longer_than_a_window() -> None:
    """The beginning has no clip: the first one stands for it. Windows in which none was finished are left out."""
    found = Sustained.of(600, [100.0, 200.0, 300.0, 450.0, 600.0], FRAMES)
    assert found.first_fps == 0.25
    assert [(window.start_s, window.fps) for window in found.windows] == [
        (90.0, 0.25), (180.0, 0.25), (300.0, 0.25), (450.0, pytest.approx(0.1667, abs=1e-4)),
        (600.0, pytest.approx(0.1667, abs=1e-4)),
    ]  # fmt: skip
    assert found.throttled_at_s == 450.0


def test_ends_that_do_not_grow_are_refused() -> None:
    for ends in ([], [1.0, 1.0], [2.0, 1.0], [0.0]):
        with pytest.raises(ValueError, match="growing"):
            Sustained.of(60, ends, FRAMES)


def on_device(**changes: Any) -> dict[str, Any]:
    own = DeviceRun(
        via="adb", serial=None, app="demo 1", warm_up=1, cool="status none", cooled_s=3.0, pushed_bytes=7, before=DeviceState(),
        after=DeviceState(thermal_status="light"), peak_pss_bytes=5, sustained=Sustained.of(600, every(2, 600), FRAMES),
    )  # fmt: skip
    told = own.model_dump()
    told["sustained"] |= changes
    return told


def test_a_record_of_a_device_is_read_again_and_earlier_ones_too() -> None:
    record = bench_record(on_device=on_device())
    assert BenchRecord.model_validate_json(record.to_json(), strict=True) == record
    earlier = record.to_dict()
    del earlier["on_device"]
    assert BenchRecord.model_validate_json(json.dumps(earlier), strict=True).on_device is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"first_fps": 25.0}, "first_fps is 25, but the clips' times make it 12.5"),
        ({"throttled_at_s": 90.0}, "throttled_at_s is 90.0"),
        ({"windows": [{"start_s": 0.0, "clips": 1, "fps": 1.0}]}, "windows are not"),
        ({"ends_s": [3.0, 2.0]}, "growing"),
    ],
)  # fmt: skip
def test_a_sustained_run_that_contradicts_its_times_is_none(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        bench_record(on_device=on_device(**changes))


def test_the_committed_schema_takes_the_three_files() -> None:
    """By a validator that knows nothing of the models."""
    validators = pytest.importorskip("jsonschema")
    schema.check(schema.JOBS)
    whole = json.loads(job_schema())
    job = Job(
        job="0123abcd", clip="64x64x25", decoder=None, engine="auto", prompt="a man", seed=0, threads=None, warm_up=1, runs=3,
        sustained_s=None, reload=True, cool=None,
    )  # fmt: skip
    status = Status(job="0123abcd", state="playing", contract=1, app="demo 1", done=1, total=5)
    result = Result(job="0123abcd", app="demo 1", record=bench_record())
    validator = validators.Draft202012Validator(whole)
    for name, told in ((JOB, job), (STATUS, status), (RESULT, result)):
        fields = json.loads(told.model_dump_json())
        assert validator.is_valid({name: fields}), name
        assert not validator.is_valid({name: fields | {"speed": 1}}), name
        assert not validator.is_valid({name: {key: value for key, value in fields.items() if key != "job"}}), name
