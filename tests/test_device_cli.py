"""cli/bench.py with --device, and cli/bench_job.py: options, one sentence for a fault, and what is printed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from echoedge.cli.options import parse_duration
from echoedge.core.bundle.device_record import Sustained
from echoedge.core.bundle.records import read_records
from echoedge.core.errors import ConfigError

from .commands import Run, complaint
from .runtime.devices.lab import Lab


@pytest.fixture
def lab(bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:  # type: ignore[no-untyped-def]
    return Lab(tmp_path / "lab", bundle, monkeypatch)


def test_a_record_of_a_phone_is_printed_and_kept(run: Run, lab: Lab, bundle_path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "b.echoedge"
    shutil.copytree(bundle_path, copy)
    lab.write(ends=[2.0 * n for n in range(1, 31)])
    ended = run("bench", copy, "--device", "adb", "--runs", 3, "--sustained", "60s", "--record")
    assert ended.status == 0, ended.err
    for words in ("thermal status", "none to none", "81.0 to 81.0 %", "1 min without a pause", "nowhere", "422 MB", "of a phone"):
        assert words in ended.out, words
    (path,) = (copy / "records").glob("*.json")
    told = json.loads(path.read_text())
    assert told["on_device"]["via"] == "adb" and told["on_device"]["serial"] is None
    assert Sustained(**told["on_device"]["sustained"]).throttled_at_s is None
    (again,) = json.loads(run("bench", copy, "--device", "adb", "--runs", 3, "--json", "--with-serial").out)
    assert again["on_device"]["serial"] == "SERIAL1"
    from echoedge.core.bundle import Bundle

    assert len(read_records(Bundle.open(copy)).own) == 1


def test_a_fault_is_one_sentence(run: Run, lab: Lab, bundle_path: Path) -> None:
    lab.write(devices=[])
    ended = run("bench", bundle_path, "--device", "adb")
    assert "adb sees no device. Plug one in" in complaint(ended)
    assert ended.err.strip().startswith("device: ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "phone"], "--device is 'phone'; write adb"), (["--warm-up", 2], "--warm-up goes with --device"),
        (["--sustained", "10m"], "--sustained goes with --device"), (["--keep"], "--keep goes with --device"),
        (["--device", "host", "--sustained", "10"], "write a time with its unit"),
        (["--device", "host", "--sustained", "5s"], "must be from 60s to 6h"),
        (["--device", "adb", "--engine", "auto,torch"], "one engine"),
        (["--device", "adb", "--cool", "cold"], "--cool is 'cold'; write off"),
        (["--device", "host", "--keep"], "--keep goes with a phone"),
        (["--device", "adb", "--app", "a.b; reboot"], "of a phone it is an identifier such as ai.echoedge.demo"),
        (["--device", "ios", "--app", "demo"], "of a phone it is an identifier such as ai.echoedge.demo"),
    ],
)  # fmt: skip
def test_wrong_options_are_one_sentence(options: list[object], message: str, run: Run, bundle_path: Path) -> None:
    assert message in complaint(run("bench", bundle_path, *options))


def test_records_are_not_compared_on_a_device(run: Run, tmp_path: Path) -> None:
    assert "--device goes with a bundle that is played" in complaint(run("bench", "--compare", tmp_path, "--device", "host"))


def test_this_host_is_a_device_too(run: Run, bundle_path: Path) -> None:
    ended = run("bench", bundle_path, "--device", "host", "--runs", 1, "--warm-up", 2, "--json")
    (told,) = json.loads(ended.out)
    assert (told["on_device"]["via"], told["on_device"]["warm_up"], told["on_device"]["cool"]) == ("host", 2, None)
    assert (told["runs"], told["machine"]["place"]) == (1, "host")


def test_a_job_that_is_not_there(run: Run, tmp_path: Path) -> None:
    assert "There is no folder" in complaint(run("bench-job", tmp_path / "none"))
    assert "job.json cannot be read" in complaint(run("bench-job", tmp_path))
    ended = run("bench-job", tmp_path, "--hello", "0123abcd")
    assert ended.status == 0 and ended.out.startswith('echoedge-status {"format":"echoedge.status/1","job":"0123abcd"')


def test_times() -> None:
    assert [parse_duration(text, "--x", 0, 9999) for text in ("90s", "10m", "1.5h", " 2 M ")] == [90, 600, 5400, 120]
    for text in ("", "10", "m", "-1m", "1d", "٣m", "1e3s"):
        with pytest.raises(ConfigError, match="write a time with its unit"):
            parse_duration(text, "--x", 0, 9999)
