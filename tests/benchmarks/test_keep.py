"""benchmarks/keep.py: what commands print becomes the records that the page is made from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from echoedge.docs.figures import RECORDS, REPOSITORY, Measurement, read_records
from echoedge.runtime.bench.presets import PRESETS
from echoedge.runtime.studies.hearing_study import ContextRow

from ..bench_records import bench_record
from .keep import keep_baseline, keep_hearing, keep_operators, keep_published, keep_quantisation, keep_savings

COMMITTED = read_records(REPOSITORY / RECORDS)


def kept(folder: Path, name: str, keep: Callable[..., None], *told: Any) -> Measurement:
    keep(folder / f"{name}.json", *told)
    return read_records(folder)[name]


def fields(record: Measurement) -> dict[str, set[str]]:
    return {table: set(rows[0]) for table, rows in record.figures.items()}


def test_the_committed_savings_are_those_of_the_code(tmp_path: Path) -> None:
    record = kept(tmp_path, "hoist-savings", keep_savings)
    assert record.figures == COMMITTED["hoist-savings"].figures
    assert record.conditions == COMMITTED["hoist-savings"].conditions


def test_the_committed_published_run_is_the_one_of_the_code(tmp_path: Path) -> None:
    record = kept(tmp_path, "published", keep_published)
    assert record.figures == COMMITTED["published"].figures
    assert sum(float(str(row["seconds"])) for row in record.figures["stages"]) == pytest.approx(72.08)


def test_a_baseline_is_kept_and_says_what_has_not_run_on_a_gpu(tmp_path: Path) -> None:
    measured = [bench_record(workload={"preset": "nano"}, savings=saved, mode="eager").to_dict() for saved in (True, False)]
    told = {
        "format": "echoedge.baseline/1", "preset": "nano", "model": "nano", "layers": 6, "precision": "fp32", "decoder": "full",
        "weights": {"kind": "built-in", "seed": None, "components": {"vae": "a" * 64}, "source_sha256": None}, "plan": {},
        "clip": {"height": 64, "width": 64, "frames": 25, "fps": 25, "sample_rate": 16000}, "prompt": "", "seed": 0,
        "mouth_box": None, "noise_sha256": "b" * 64, "frames_kept": [0], "measured": measured,
        "arrays": {"name": "a.safetensors", "sha256": "c" * 64, "bytes": 1},
    }  # fmt: skip
    record = kept(tmp_path, "baseline", keep_baseline, told)
    assert fields(record) == fields(COMMITTED["baseline"])
    rows = record.figures["measured"]
    assert [row["way"] for row in rows[:2]] == ["eager, with savings", "eager, without savings"]
    assert {row["preset"] for row in rows if row["way"] == "not run on a GPU"} == set(PRESETS)
    on_gpu = [one | {"machine": one["machine"] | {"kind": "cuda"}} for one in measured]
    rows = kept(tmp_path, "baseline", keep_baseline, told | {"measured": on_gpu}).figures["measured"]
    assert {row["preset"] for row in rows if row["way"] == "not run on a GPU"} == set(PRESETS) - {"nano"}


def test_operators_are_kept(tmp_path: Path) -> None:
    part = {
        "name": "block",
        "count": 1,
        "seconds": 0.1,
        "cpu_seconds": 0.2,
        "flops": 10,
        "gflops": 5.0,
        "of_peak": None,
        "share": 1.0,
    }
    told = {
        "device": "A CPU", "threads": 2, "load_average": 0.5, "model": "nano", "clip": "64x64x25", "tokens": 112, "text_rows": 64,
        "weights": "int8", "rounds": 5, "peak_fp32": 170.0, "peak_int8": 800.0, "parts": [part],
    }  # fmt: skip
    record = kept(tmp_path, "operators", keep_operators, told)
    assert fields(record) == fields(COMMITTED["operators"])
    assert record.figures["peak"][1]["gflops"] == 800
    assert record.hardware == "A CPU"
    with pytest.raises(ValueError, match="finite"):
        keep_operators(tmp_path / "operators.json", told | {"peak_int8": float("nan")})


def test_quantisation_is_kept(tmp_path: Path) -> None:
    tables = json.loads((REPOSITORY / RECORDS / "quantisation.json").read_text())["figures"]
    told = {
        "model": "5a" * 32,
        "plan": "nano",
        "probed": "6 clips",
        "played": 32,
        **tables,
        "full_precision": tables["full_precision"][0],
    }
    assert kept(tmp_path, "quantisation", keep_quantisation, told).figures == COMMITTED["quantisation"].figures


def test_hearing_is_kept_in_the_order_that_it_names(tmp_path: Path) -> None:
    rows = [vars(ContextRow(1.0, 18, 0.8, 13.5, 0.9))]
    alone, compiled = ({"random_weights": True, "compiled": how, "rows": rows} for how in (False, True))
    record = kept(tmp_path, "hearing", keep_hearing, alone, alone, compiled)
    assert fields(record) == fields(COMMITTED["hearing"])
    with pytest.raises(SystemExit, match="in this order"):
        keep_hearing(tmp_path / "hearing.json", alone, compiled, alone)
