"""A record of a benchmark, for tests of what reads and compares them."""

from __future__ import annotations

from typing import Any

from echoedge.core.bundle.bench_record import BenchRecord, Machine, Spread, Workload
from echoedge.core.bundle.engine_record import EngineRecord


def spread(median: float) -> Spread:
    return Spread(median=median, p10=median, p90=median)


def bench_record(milliseconds: float = 1000.0, *, workload: dict[str, Any] | None = None, **changes: Any) -> BenchRecord:
    """A clip of 25 frames that took so long, half of it to decode; `workload` and `changes` replace fields."""
    played: dict[str, Any] = {
        "model": "nano", "layers": 6, "height": 64, "width": 64, "frames": 25, "fps": 25, "steps": 8, "branches": 2,
        "evaluations": 16, "decoder": "full", "prompt": "a man",
    }  # fmt: skip
    stages = {"listen": 0.0, "look": 0.1, "prepare": 0.1, "denoise": 0.3, "decode": 0.5}
    fields: dict[str, Any] = {
        "date": "2026-11-28T02:00:00Z", "manifest_sha256": None,
        "engine": EngineRecord(name="executorch", target="executorch/xnnpack", weights="int8", precision="fp32"),
        "mode": "ahead-of-time", "savings": True,
        "machine": Machine(place="phone", kind="npu", name="A phone", cores=None, memory_bytes=None, os="An OS", os_build="1A2"),
        "threads": 4, "versions": {"app": "1"}, "workload": Workload(**played | (workload or {})), "runs": 3,
        "stages": {name: spread(share * milliseconds) for name, share in stages.items()},
        "programs": {"denoise": spread(0.3 * milliseconds)}, "clip": spread(milliseconds), "step": spread(0.3 * milliseconds / 16),
        "first_frame": spread(0.6 * milliseconds), "cpu_ms": None, "first_load_ms": 80.0, "second_load_ms": None, "frames": 25,
        "fps": 25 / milliseconds * 1000, "fps_without_decode": 50 / milliseconds * 1000, "realtime_factor": 1000 / milliseconds,
        "peak_rss_bytes": 300_000_000, "peak_device_bytes": None, "disk_bytes": 17_000_000, "thermal_before": {"battery": 31.0},
        "thermal_after": {"battery": 34.5}, "load_average_before": None, "load_average_after": None,
    }  # fmt: skip
    return BenchRecord(**fields | changes)
