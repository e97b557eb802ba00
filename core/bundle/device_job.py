"""What a player on a device is asked, and what it answers: the contract of docs/DEVICE_BENCH.md as three small JSON files.

docs/device_job.schema.json is their JSON Schema. The host writes the job; the player writes its status again and again, and the
result once. Each names the job by a random word, so that nothing of an earlier one is taken for this one's.
"""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from .bench_record import BenchRecord
from .device_record import DeviceState, Seconds, ThermalStatus
from .fields import Count, Name, Record

CONTRACT = 1  # what player and host must have in common
JOB, STATUS, RESULT, PORTRAIT, SPEECH, BUNDLE = (
    "job.json", "status.json", "result.json", "portrait.f32", "speech.f32", "bundle",
)  # fmt: skip
SAID = "echoedge-status "  # in front of a status that a player prints in a line of its own
State = Literal["ready", "cooling", "loading", "playing", "sustaining", "done", "failed", "cleaned"]
Word = Annotated[str, Field(pattern=r"^[0-9a-z]{8,64}$")]


class CoolWish(Record):
    """What a player waits for that alone can read how warm its device is (iOS)."""

    status: ThermalStatus
    timeout_s: Seconds


class Job(Record):
    """What is played, in the folder that holds the job. bundle: a folder; portrait: [3, H, W] from -1 to 1, and speech: [n] at the
    clip's rate, both little-endian float32 and nothing else. clip: HEIGHTxWIDTHxFRAMES of the bundle. decoder, threads: None is the
    player's choice. warm_up: clips in front of the `runs` that count; then clips without a pause for sustained_s; then, with
    reload, one of a player that was opened again."""

    format: Literal["echoedge.job/1"] = "echoedge.job/1"
    job: Word
    contract: Annotated[int, Field(ge=1)] = CONTRACT
    bundle: Name = BUNDLE
    portrait: Name = PORTRAIT
    speech: Name = SPEECH
    clip: Name
    decoder: Literal["full", "tiny"] | None
    engine: Name
    prompt: str
    seed: Annotated[int, Field(ge=0)]
    threads: Annotated[int, Field(ge=1)] | None
    warm_up: Annotated[int, Field(ge=1)]
    runs: Annotated[int, Field(ge=1)]
    sustained_s: Annotated[float, Field(gt=0)] | None
    reload: bool
    cool: CoolWish | None


class Status(Record):
    """How far a player is. done of total: clips. contract, app: what it keeps to and its version. free_bytes: of the disk that
    holds the folder. fault: of a failed job, its name in the table; message: a sentence for people. pss_bytes: the peak yet."""

    format: Literal["echoedge.status/1"] = "echoedge.status/1"
    job: Word
    state: State
    contract: Annotated[int, Field(ge=1)]
    app: Name
    done: Annotated[int, Field(ge=0)] = 0
    total: Annotated[int, Field(ge=0)] = 0
    free_bytes: Count | None = None
    pss_bytes: Count | None = None
    thermal_status: ThermalStatus | None = None
    fault: Name | None = None
    message: str = ""


class Result(Record):
    """What a job came to. record: as any benchmark's, on_device null. cooled_s: waited by the player. before, after: as far as the
    player can tell. ends_s: of a sustained run, when each clip was finished."""

    format: Literal["echoedge.result/1"] = "echoedge.result/1"
    job: Word
    app: Name
    record: BenchRecord
    cooled_s: Seconds = 0.0
    before: DeviceState | None = None
    after: DeviceState | None = None
    peak_pss_bytes: Count | None = None
    ends_s: list[Seconds] | None = None


def job_schema() -> str:
    """The JSON Schema of the three, as docs/device_job.schema.json keeps it: by the name of the file."""
    kinds = {JOB: Job, STATUS: Status, RESULT: Result}
    schemas, common = TypeAdapter.json_schemas(
        [(name, "validation", TypeAdapter(kind)) for name, kind in kinds.items()], title="Jobs of benchmarks on devices"
    )
    listed = {name: schemas[name, "validation"] for name in kinds}
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", "properties": listed} | common
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"
