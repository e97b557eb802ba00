"""`echoedge fit`: tables, JSON, exit status, and one sentence for every mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .commands import Run, complaint


def test_the_devices_are_listed(run: Run) -> None:
    told = run("fit", "--devices")
    assert told.status == 0
    assert "Pixel 9 Pro" in told.out
    assert "iPhone 17 Pro" in told.out
    assert "…" not in told.out  # no figure is cut off, in 80 columns
    listed = json.loads(run("fit", "--devices", "--json").out)
    assert all(one["rates"]["int8"]["source"] for one in listed)


def test_nano_fits_a_phone(run: Run) -> None:
    told = run("fit", "--device", "Pixel 9")
    assert told.status == 0
    assert "It fits Pixel 9" in " ".join(told.out.split())
    assert "nobody measured these rates" in " ".join(told.out.split())


def test_what_does_not_fit_ends_with_status_1(run: Run) -> None:
    told = run("fit", "--device", "pixel 9", "--within", "0.001", "--json")
    assert told.status == 1
    found = json.loads(told.out)
    assert found["forecast"]["fits"] is False
    assert found["forecast"]["within"] == 0.001


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--device", "iPhone 61"), "There is no device 'iPhone 61' in the table. Did you mean"),
        (("--device", "Pixel 9", "--threads", "2"), "--threads is 2; it goes with --device host"),
        (("--device", "Pixel 9", "--size", "64"), "--size is '64'"),
        (("--device-file", "mine.json"), "--device-file is mine.json; it goes with a --device that it describes"),
        (("--devices", "--model", "flash"), "--model goes without --devices"),
        (("--device", "Pixel 9", "--steps", "3"), "3"),
    ],
)
def test_a_mistake_is_one_sentence(arguments: tuple[str, ...], told: str, run: Run) -> None:
    assert told in complaint(run("fit", *arguments))


def test_a_device_of_ones_own(run: Run, tmp_path: Path) -> None:
    from echoedge.runtime.fit.devices import read_table

    table = read_table().model_dump(mode="json")
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(table | {"devices": [table["devices"][0] | {"name": "Prototype 3"}]}))
    found = json.loads(run("fit", "--device", "prototype 3", "--device-file", path, "--json").out)
    assert found["device"]["name"] == "Prototype 3"
    assert "no device 'Pixel 9'" in complaint(run("fit", "--device", "Pixel 9", "--device-file", path))
