"""core/bundle/bench_record.py: one record for host, GPU and phone; its JSON Schema is the committed one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from echoedge.core.bundle import Bundle
from echoedge.core.bundle.bench_record import BenchRecord, Spread, bench_schema, clip_rates
from echoedge.core.bundle.records import keep_bench, read_records
from echoedge.core.errors import BundleError
from echoedge.docs import schema

from ..bench_records import bench_record, spread


def test_the_committed_schema_is_the_models(tmp_path: Path) -> None:
    schema.check()
    old = tmp_path / "bench.schema.json"
    old.write_text(schema.SCHEMA.read_text().replace("echoedge.bench/1", "echoedge.bench/0"))
    with pytest.raises(SystemExit, match=r"is not the schema of core/bundle/bench_record\.py\. Run `make figures`"):
        schema.check(old)


def test_the_schema_takes_what_the_model_writes_and_no_less() -> None:
    """By a validator that knows nothing of the model."""
    validator = pytest.importorskip("jsonschema").Draft202012Validator(json.loads(bench_schema()))
    told = json.loads(bench_record().to_json())
    assert validator.is_valid(told)
    assert BenchRecord.model_validate_json(json.dumps(told), strict=True) == bench_record()
    for name in told:
        without = {key: value for key, value in told.items() if key != name}
        assert name in ("format", "on_device") or not validator.is_valid(without), name
    assert not validator.is_valid(told | {"speed": 1})
    assert not validator.is_valid(told | {"machine": told["machine"] | {"place": "fridge"}})


def test_a_spread_is_numpys_percentiles() -> None:
    seconds = [0.004, 0.001, 0.003, 0.002, 0.010]
    found = Spread.of(seconds)
    p10, median, p90 = np.percentile(1000 * np.array(seconds), [10, 50, 90])
    assert (found.p10, found.median, found.p90) == pytest.approx((p10, median, p90), abs=5e-4)
    assert Spread.of([0.5]) == spread(500.0)


def test_rates_follow_from_times() -> None:
    assert clip_rates(50, 25, 1000.0, 500.0) == {"fps": 50.0, "fps_without_decode": 100.0, "realtime_factor": 2.0}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fps": 40.0}, "fps is 40, but the clip's times make it 25"), ({"realtime_factor": 0.5}, "realtime_factor is 0.5"),
        ({"fps_without_decode": 25.0}, "fps_without_decode is 25"), ({"stages": {"decode": spread(500.0)}}, "stages has no listen"),
        ({"clip": {"median": 1000.0, "p10": 1001.0, "p90": 1002.0}}, "are not in this order"), ({"threads": 0}, "threads"),
        ({"format": "echoedge.bench/2"}, "format"), ({"date": "yesterday"}, "date"), ({"cpu_ms": float("nan")}, "cpu_ms"),
    ],
)  # fmt: skip
def test_a_record_that_contradicts_itself_is_none(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        bench_record(**change)


def test_a_phones_record_lies_in_the_bundle_like_the_hosts(bundle_path: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(shutil.copytree(bundle_path, tmp_path / "b.echoedge"))
    record = bench_record(manifest_sha256=bundle.manifest_sha256)
    path = keep_bench(bundle, record)
    assert path.relative_to(bundle.root).as_posix() == "records/20261128T020000Z-bench-executorch.json"
    assert read_records(bundle).own == (record,)
    assert (record.verb, record.device) == ("bench", "A phone")
    path.write_text(path.read_text().replace('"fps": 25.0', '"fps": 99.0'))
    assert "fps is 99, but the clip's times make it 25" in next(iter(read_records(bundle).damaged.values()))
    (bundle.root / "manifest.json").write_bytes(b"{}")
    with pytest.raises(BundleError, match=r"exported again in the meantime.* Run bench again"):
        keep_bench(bundle, record)
