"""What a benchmark measured: one JSON record, the same from this host, from a GPU and from an app on a phone.

docs/bench.schema.json is its JSON Schema, which whoever writes records in another language holds them against; docs/BENCH.md tells
the fields. Times are milliseconds of wall time, sizes bytes. What a platform does not tell is null.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from .device_record import DeviceRun
from .engine_record import EngineRecord
from .fields import Count, Name, Record, Sha256

Stage = Literal["listen", "look", "prepare", "denoise", "decode"]
Milliseconds = Annotated[float, Field(ge=0)]
Rate = Annotated[float, Field(gt=0)]
DATE = "%Y-%m-%dT%H:%M:%SZ"
BENCH_FORMAT = "echoedge.bench/1"
_AGREE = 0.01  # share by which a rate may differ from the times that it follows from: both are rounded


class Spread(Record):
    """Milliseconds over the runs: the median, and the 10th and 90th percentile between the nearest two runs."""

    median: Milliseconds
    p10: Milliseconds
    p90: Milliseconds

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.p10 <= self.median <= self.p90:
            raise ValueError(f"p10 {self.p10:g}, median {self.median:g} and p90 {self.p90:g} are not in this order")
        return self

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Self:
        """Of the seconds of at least one run."""
        p10, median, p90 = (round(1000 * float(value), 3) for value in np.percentile(seconds, (10, 50, 90)))
        return cls(median=median, p10=p10, p90=p90)


class Workload(Record):
    """What was played. `preset`: its name in the table of baselines, None for a shape of a bundle's own; branches: of guidance;
    evaluations: how many times the blocks ran in one clip."""

    preset: Name | None = None
    model: Name
    layers: Annotated[int, Field(ge=1)]
    height: Annotated[int, Field(ge=1)]
    width: Annotated[int, Field(ge=1)]
    frames: Annotated[int, Field(ge=1)]
    fps: Annotated[int, Field(ge=1)]
    steps: Annotated[int, Field(ge=1)]
    branches: Annotated[int, Field(ge=1)]
    evaluations: Annotated[int, Field(ge=1)]
    decoder: Literal["full", "tiny"]
    prompt: str

    @property
    def shape(self) -> str:
        return f"{self.height}x{self.width}x{self.frames}"

    def __str__(self) -> str:
        return f"{self.model}, {self.layers} layers, {self.shape}, {self.steps} steps × {self.branches}, decoder {self.decoder}"


class Machine(Record):
    """Where. `place`: a phone's figure is never a host's; `kind`: what computes; `os_build` as the system tells it."""

    place: Literal["host", "phone"]
    kind: Literal["cpu", "cuda", "metal", "vulkan", "npu"]
    name: Name
    cores: Annotated[int, Field(ge=1)] | None
    memory_bytes: Count | None
    os: Name
    os_build: Name

    def __str__(self) -> str:
        return self.name if self.cores is None else f"{self.name}, {self.cores} cores"


class BenchRecord(Record):
    """One benchmark: the same clip played `runs` times by one engine after a first one.

    manifest_sha256: of the bundle that was played, None for a model without one. mode: "ahead-of-time" for compiled programs, eager
    or compiled (torch.compile) in PyTorch. savings: what does not change in a step was computed once; false: in every step, as
    published.

    stages, programs, clip: of one whole clip, loading excluded; of a program all its calls in a clip, waiting for the device
    included. step: of one evaluation of the denoising program. first_frame: until the first frame is out. first_load_ms,
    second_load_ms: opening the engine and what first calls took longer than later ones, in a new process, and again in the same
    one. realtime_factor: above 1 is faster than life. peak_rss_bytes: resident, of the process that measured.
    peak_device_bytes: of a device's own memory. disk_bytes: of what the engine reads its programs from. thermal: degrees Celsius
    by sensor. load_average: of the last minute. on_device: of a benchmark with --device, which records of other ones need not have.
    """

    format: Literal["echoedge.bench/1"] = "echoedge.bench/1"
    date: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z$")]
    manifest_sha256: Sha256 | None
    engine: EngineRecord
    mode: Literal["ahead-of-time", "eager", "compiled"]
    savings: bool
    machine: Machine
    threads: Annotated[int, Field(ge=1)]
    versions: dict[str, str]
    workload: Workload
    runs: Annotated[int, Field(ge=1)]
    stages: dict[Stage, Spread]
    programs: dict[Name, Spread]
    clip: Spread
    step: Spread
    first_frame: Spread
    cpu_ms: Milliseconds | None
    first_load_ms: Milliseconds | None
    second_load_ms: Milliseconds | None
    frames: Annotated[int, Field(ge=1)]
    fps: Rate
    fps_without_decode: Rate
    realtime_factor: Rate
    peak_rss_bytes: Count
    peak_device_bytes: Count | None
    disk_bytes: Count | None
    thermal_before: dict[str, float] | None
    thermal_after: dict[str, float] | None
    load_average_before: Annotated[float, Field(ge=0)] | None
    load_average_after: Annotated[float, Field(ge=0)] | None
    on_device: DeviceRun | None = None

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        """Rates follow from times: a record whose figures contradict one another is no record."""
        if lacking := [stage for stage in Stage.__args__ if stage not in self.stages]:  # type: ignore[attr-defined]
            raise ValueError(f"stages has no {lacking[0]}")
        rates = clip_rates(self.frames, self.workload.fps, self.clip.median, self.stages["decode"].median)
        for name, expected in rates.items():
            told = getattr(self, name)
            if abs(told - expected) > _AGREE * expected:
                raise ValueError(f"{name} is {told:g}, but the clip's times make it {expected:g}")
        sustained = None if self.on_device is None else self.on_device.sustained
        if sustained is not None and (wrong := sustained.disagrees(self.frames)):
            raise ValueError(wrong)
        return self

    @property
    def verb(self) -> str:
        return "bench"

    @property
    def device(self) -> str:
        return str(self.machine)

    @property
    def summary(self) -> str:
        """The figures in a line."""
        w = self.workload
        return (
            f"{w.shape}, {w.fps} fps, decoder {w.decoder}: {self.clip.median / 1000:.2f} s, {self.fps:.1f} frames per second, "
            f"realtime factor {self.realtime_factor:.2f}, peak memory {self.peak_rss_bytes / 1e6:.0f} MB; median of {self.runs}"
        )

    def to_dict(self) -> dict[str, object]:
        """For scripts: what a file of it holds."""
        return self.model_dump(mode="json")

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def clip_rates(frames: int, fps: int, clip_ms: float, decode_ms: float) -> dict[str, float]:
    """What follows from a clip's milliseconds and those of its last stage: rates by the record's field. A clip whose times are
    below the clock's is one of its ticks long."""
    tick = 1e-3
    whole, before = max(clip_ms, tick) / 1000, max(clip_ms - decode_ms, tick) / 1000
    return {"fps": frames / whole, "fps_without_decode": frames / before, "realtime_factor": frames / fps / whole}


def bench_schema() -> str:
    """The JSON Schema of a record, as docs/bench.schema.json keeps it."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"} | BenchRecord.model_json_schema(mode="serialization")
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def now() -> str:
    """The date of a record made now, UTC."""
    return datetime.datetime.now(datetime.UTC).strftime(DATE)
