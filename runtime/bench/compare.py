"""Records of benchmarks beside each other: what does not compare is refused, by the field."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ...core.bundle.bench_record import BENCH_FORMAT, BenchRecord, Spread, Workload
from ...core.bundle.fields import first_mistakes
from ...core.errors import ConfigError, InputError

# What two clips must have in common for their times to be compared; the rest is what is compared.
ALIKE = ("model", "layers", "height", "width", "frames", "fps", "steps", "branches", "evaluations", "decoder")
AGAIN = "Measure again with `echoedge bench BUNDLE --record`, or `--json`."


@dataclass(frozen=True)
class Compared:
    """Records of one workload, and where each comes from; ratios are to the first."""

    names: tuple[str, ...]
    records: tuple[BenchRecord, ...]

    def speedups(self, record: BenchRecord) -> dict[str, float | None]:
        """How many times as fast as the first `record` is: by stage, the denoising step, the clip, the first frame. None where one
        of the two took no time that a clock shows."""
        first = self.records[0]
        pairs: dict[str, tuple[Spread, Spread]] = {stage: (first.stages[stage], record.stages[stage]) for stage in first.stages}
        pairs |= {name: (getattr(first, name), getattr(record, name)) for name in ("step", "clip", "first_frame")}
        return {
            name: round(before.median / after.median, 3) if before.median and after.median else None
            for name, (before, after) in pairs.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """For scripts: JSON-ready."""
        return {
            "workload": self.records[0].workload.model_dump(mode="json"),
            "records": [
                {"from": name, "speedup": self.speedups(record), "record": record.to_dict()}
                for name, record in zip(self.names, self.records, strict=True)
            ],
        }


def compare(named: Sequence[tuple[str, BenchRecord]]) -> Compared:
    """Records by name, the first one the measure of the others.

    Raises:
        ConfigError: there is one alone, or two are not of the same workload; the message names the field.
    """
    if len(named) < 2:
        raise ConfigError(f"--compare has {len(named)} record of a benchmark; it takes two at least. Give another file.")
    (first, own), *others = named
    for name, record in others:
        require_alike(first, own.workload, name, record.workload)
    return Compared(tuple(name for name, _ in named), tuple(record for _, record in named))


def require_alike(first: str, one: Workload, second: str, other: Workload) -> None:
    """Refuses, with a ConfigError that names the field, two workloads whose times say nothing of each other."""
    for field in ALIKE:
        left, right = getattr(one, field), getattr(other, field)
        if left != right:
            raise ConfigError(
                f"{first} and {second} do not compare: {field} is {left} in the one and {right} in the other. Measure both with "
                f"the same {field}."
            )


def read_benches(path: str | Path) -> tuple[tuple[str, BenchRecord], ...]:
    """The records of a file, each with its name: a record, the list that `bench --json` prints, or a baseline.

    Raises:
        InputError: it is none of these, or was written by an earlier version.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder; --compare takes records of benchmarks, such as those in a bundle's records/.")
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}). Give a record of a benchmark, JSON.") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON ({error}). Give a record of a benchmark. {AGAIN}") from error
    if isinstance(told, dict) and isinstance(told.get("measured"), list):
        told = told["measured"]
    found = told if isinstance(told, list) else [told]
    if not found:
        raise InputError(f"{path} holds no record of a benchmark. {AGAIN}")
    return tuple((_label(path, number, len(found)), _record(path, one)) for number, one in enumerate(found, 1))


def _label(path: Path, number: int, count: int) -> str:
    return path.name if count == 1 else f"{path.name} ({number})"


def _record(path: Path, told: Any) -> BenchRecord:
    form = told.get("format") if isinstance(told, dict) else None
    if form == "echoedge.record/1" and told.get("verb") == "bench" or isinstance(told, dict) and "stage_seconds" in told:
        raise InputError(f"{path} was written by an earlier version, whose benchmarks have no spread and no loading times. {AGAIN}")
    if form != BENCH_FORMAT:
        raise InputError(f"{path} is no record of a benchmark: its format is {form!r}, not {BENCH_FORMAT!r}. {AGAIN}")
    try:
        return BenchRecord.model_validate_json(json.dumps(told), strict=True)
    except ValidationError as error:
        raise InputError(f"{path} is no record of a benchmark ({first_mistakes(error)}). {AGAIN}") from error
