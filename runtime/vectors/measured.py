"""Records that players write of what they measured."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import numpy as np
from pydantic import ValidationError

from ...core.bundle.bench_record import BenchRecord, Machine, Spread, Workload, clip_rates
from ...core.bundle.engine_record import EngineRecord
from ...core.bundle.fields import first_mistakes
from ...core.bundle.records import parse_record
from ...core.errors import BundleError
from .group import Group

_HALVES = (
    8.5e-06,
    1.55e-05,
    2.95e-05,
    4.35e-05,
    5.05e-05,
    6.45e-05,
    0.0001415,
    0.0001625,
    0.0001905,
)  # of a thousandth, by their texts
_SECONDS = (
    [0.25], [1.0, 2.0], [0.1, 0.2, 0.3], [0.0123456, 0.0123466, 0.0123476, 0.5], [1.0005, 2.0015, 3.0025, 4.0035, 5.0045],
    [0.0000005, 0.0000015], [0.0025, 0.0035], *([s] for s in _HALVES), [1.23456789] * 7,
    [0.3, 0.1, 0.2, 0.9, 0.4, 0.8, 0.7, 0.6, 0.5, 1.0, 1.1],
)  # fmt: skip


def build() -> Group:
    group = Group("records")
    for number, seconds in enumerate(_SECONDS):
        spread = Spread.of(seconds)
        expected = {"median": spread.median, "p10": spread.p10, "p90": spread.p90}
        trap = "positions between two runs are linear; decimals of the double itself, not of its shortest text"
        group.case("spread", f"spread {number}", {"seconds": np.array(seconds)}, expected, trap=trap)
    good = record().to_json()
    parse_record(good.encode())
    group.case("record", "of a phone", {"record": group.file("records/phone.json", good.encode())}, {})
    content: dict[str, Any] = json.loads(good)
    for name, changes in {
        "a phone's place is unknown": {"machine": content["machine"] | {"place": "watch"}}, "no engine": {"engine": None},
        "a rate that contradicts the times": {"fps": 1.0}, "a date that is none": {"date": "2026-11-28 02:00:00"},
        "another format": {"format": "bench/9"},
        "percentiles in another order": {"step": {"median": 3.0, "p10": 2.0, "p90": 1.0}},
        "stages that are missing": {"stages": {}},
        "no runs": {"runs": 0}, "a field that nobody knows": {"surprise": 1}, "a number that is a text": {"threads": "4"},
    }.items():  # fmt: skip
        data = json.dumps(content | changes, indent=1).encode()
        given = {"record": group.file(f"records/{name.replace(' ', '-')}.json", data)}
        group.refused("record", name, given, partial(_parsed, data))
    return group


def _parsed(data: bytes) -> None:
    try:
        parse_record(data)
    except ValidationError as error:
        raise BundleError(f"The record is not valid: {first_mistakes(error)}.") from error


def record() -> BenchRecord:
    """What an app on a phone could have measured; its figures are made up, as its phone is."""
    shares = {"listen": 0.1, "look": 0.1, "prepare": 0.1, "denoise": 0.4, "decode": 0.3}
    stages = {name: Spread.of([share, 1.1 * share, 1.2 * share]) for name, share in shares.items()}
    clip = Spread.of([1.0, 1.1, 1.2])
    return BenchRecord(
        date="2026-01-02T03:04:05Z", manifest_sha256="0" * 64, mode="ahead-of-time", savings=True, threads=4,
        engine=EngineRecord(name="executorch", target="executorch/xnnpack", weights="int8", precision="fp32"),
        machine=Machine(place="phone", kind="cpu", name="A phone that nobody has", cores=8, memory_bytes=8 * 10**9, os="An OS",
            os_build="1"),
        versions={"app": "1"}, runs=3, stages=stages, programs={"denoise": Spread.of([0.4, 0.44, 0.48])}, clip=clip,
        workload=Workload(
            model="nano", layers=6, height=64, width=64, frames=25, fps=25, steps=2, branches=1, evaluations=2, decoder="full",
            prompt="a man"
        ),
        step=Spread.of([0.2, 0.22, 0.24]), first_frame=Spread.of([0.6, 0.66, 0.72]), cpu_ms=None, first_load_ms=80.5,
        second_load_ms=12.25,
        frames=25, **clip_rates(25, 25, clip.median, stages["decode"].median), peak_rss_bytes=300_000_000, peak_device_bytes=None,
        disk_bytes=17_000_000, thermal_before={"battery": 31.0}, thermal_after={"battery": 34.5}, load_average_before=None,
        load_average_after=None,
    )  # fmt: skip
