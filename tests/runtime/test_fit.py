"""`fit`: closed forms of memory and time on a made-up device, the table's rules, changes, and what was measured at full size."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from echoedge.core.bundle import DECODE_PROGRAMS
from echoedge.core.config import FLASH, ClipSpec
from echoedge.core.errors import ConfigError, InputError
from echoedge.core.model.architecture import Architecture
from echoedge.core.plan.samplers import PLAN_PRESETS
from echoedge.quantize.recipes import PRESETS
from echoedge.runtime.export.forecast import FLOAT, condition_bytes, picture_bytes, state_bytes, step_activations
from echoedge.runtime.export.request import plan_of
from echoedge.runtime.fit import estimate
from echoedge.runtime.fit.counting import Counted, Product
from echoedge.runtime.fit.devices import Device, Figure, devices_of, find_device, read_table
from echoedge.runtime.fit.estimate import STREAMS, TableRates, memory, packed_bytes, seconds
from echoedge.runtime.fit.fit import Fit, alternatives, fit
from echoedge.runtime.fit.workload import Workload, changed, workload

RECORDS = Path(__file__).parents[2] / "records"
NARROW = Architecture(replace(FLASH, layers=2, dim=128, heads=2, ffn_dim=256))
SMALL = ClipSpec(128, 128, 9)


def figure(value: float) -> Figure:
    return Figure(value=value, kind="assumed", source="made up for a test")


def device(app: float = 1e12, **fields: Any) -> Device:
    given: dict[str, Any] = {
        "name": "Made up", "system": "android", "chip": "none", "memory_bytes": figure(2 * app), "app_bytes": figure(app),
        "rates": {"int8": figure(8e12), "fp16": figure(4e12), "fp32": figure(2e12)}, "reached": figure(0.5),
        "process_bytes": figure(100e6), "packing": figure(1e9), "bandwidth": figure(10e9), "storage": figure(2e9), "threads": 4,
    }  # fmt: skip
    return Device(**(given | fields))


@pytest.fixture(scope="module")
def nano() -> Workload:
    return workload("nano", "int8")


@pytest.fixture(scope="module")
def narrow() -> Workload:
    """flash, two narrow blocks, with the released encoders and decoders."""
    plan = plan_of(PLAN_PRESETS["flash"], SMALL, 4)
    return Workload(NARROW, False, SMALL, PRESETS["int8"], plan)


# ---- devices --------------------------------------------------------------------------------------------------------------------


def test_the_table_says_where_every_figure_comes_from() -> None:
    devices = devices_of(read_table())
    phones = [one for one in devices.values() if one.system in ("android", "ios") and "iPad" not in one.name]
    assert len(phones) >= 10
    assert {"Pixel 9", "iPhone 16 Pro"} <= devices.keys()
    for one in devices.values():
        for kind, rate in one.rates.items():
            assert rate.kind in ("derived", "assumed"), (one.name, kind)  # nobody publishes a processor's rates
        assert one.app_bytes.value <= one.memory_bytes.value
        assert one.rates["int8"].value > one.rates["fp16"].value > one.rates["fp32"].value
    pi = devices["Raspberry Pi 5 (8 GB)"]
    assert pi.rates["fp32"].value == 4 * 2.4e9 * 2 * 4 * 2  # cores, clock, pipes, lanes, a multiplication and an addition
    assert pi.bandwidth is not None
    assert pi.bandwidth.value == 4267e6 * 4


def test_a_device_is_found_by_its_name_and_near_names_are_told() -> None:
    devices = devices_of(read_table())
    assert find_device(devices, "pixel 9").name == "Pixel 9"
    assert find_device(devices, "iphone16pro").name == "iPhone 16 Pro"
    with pytest.raises(ConfigError, match="no device 'Pixle 9' in the table. Did you mean 'Pixel 9'"):
        find_device(devices, "Pixle 9")
    with pytest.raises(ConfigError) as none:
        find_device(devices, "#")
    assert "Did you mean" not in str(none.value)


def shipped() -> dict[str, Any]:
    return read_table().model_dump(mode="json")


def test_devices_of_a_file_take_the_tables_place(tmp_path: Path) -> None:
    table = shipped()
    mine = table["devices"][0] | {"name": "My board"}
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(table | {"devices": [mine]}))
    assert list(devices_of(read_table(path))) == ["My board"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"format": "echoedge.devices/2"}, "format"),
        ({"devices": []}, "devices"),
        ({"more": 1}, "more"),
        ({"reached": {"value": 2.0, "kind": "assumed", "source": "a test"}}, "at most 1"),
        ({"cores": {"None": {"int8": 1, "fp16": 1, "fp32": 1, "kind": "assumed", "source": "a test"}}}, "which the file's `cores`"),
    ],
)
def test_a_file_that_is_no_table_is_named(change: dict[str, Any], told: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(shipped() | change))
    with pytest.raises(InputError, match=f"mine.json is no table of devices .*{told}"):
        read_table(path)
    path.write_text("{")
    with pytest.raises(InputError, match="is no JSON"):
        read_table(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_table(tmp_path / "none.json")


def test_a_figure_without_a_source_is_refused(tmp_path: Path) -> None:
    table = shipped()
    table["devices"][0]["memory_bytes"] = {"value": 1e9, "kind": "published"}
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(table))
    with pytest.raises(InputError, match="source"):
        read_table(path)


# ---- time -----------------------------------------------------------------------------------------------------------------------


def test_time_is_flops_by_rate_or_bytes_by_bandwidth() -> None:
    rates = TableRates(device())
    many = Product("linear", "a", (1000, 100, 100), 2 * 10**7, 10**4)
    assert rates.product(many, "int8", 8) == pytest.approx(2e7 / 4e12)
    assert rates.product(many, "fp32", 32) == pytest.approx(2e7 / 1e12)
    one = Product("linear", "a", (1, 1000, 1000), 2 * 10**6, 10**6)
    assert rates.product(one, "int8", 8) == pytest.approx(1e6 / 10e9)  # weights are read once a call
    assert rates.moved(Counted((), 5 * 10**6, 1, 0), False) == pytest.approx(5e6 / 10e9)
    assert rates.loading(2 * 10**9, 10**9) == pytest.approx(1 + 1)
    unknown = TableRates(device(bandwidth=None, storage=None))
    assert unknown.loading(1, 1) is None
    assert unknown.product(one, "int8", 8) == pytest.approx(2e6 / 4e12)


def test_a_films_time_is_that_of_its_calls(nano: Workload) -> None:
    rates = TableRates(device())
    found = seconds(nano, rates)
    by_hand: dict[str, float] = {}
    for call in nano.calls:
        products = sum(
            rates.product(p, estimate.type_of(nano, call.role, p), estimate.bits(nano, call.role, p)) for p in call.counted.products
        )
        by_hand[call.stage] = by_hand.get(call.stage, 0.0) + call.times * (
            products + rates.moved(call.counted, call.role in STREAMS)
        )
    assert found.stages == pytest.approx(by_hand)
    assert sum(found.kinds.values()) == pytest.approx(found.total)
    four = seconds(workload("nano", "int8", steps=4), rates)
    assert four.stages["denoise"] == pytest.approx(2 * found.stages["denoise"])  # two steps by default
    assert four.stages["decode"] == pytest.approx(found.stages["decode"])


def test_calls_are_those_of_the_player(nano: Workload) -> None:
    def times(work: Workload) -> dict[tuple[str, str], int]:
        return {(call.role, call.method): call.times for call in work.calls}

    assert times(nano) == {
        ("audio_encoder", "forward"): 1, ("image_encoder", "forward"): 1, ("text_encoder", "forward"): 1,
        ("vae_encode", "first"): 1,
        ("text_conditions", "forward"): 1, ("image_conditions", "forward"): 1, ("audio_conditions", "forward"): 1,
        ("patch_conditions", "forward"): 1, ("denoise", "forward"): 2, ("vae_decode", "first"): 1, ("vae_decode", "next"): 6,
    }  # fmt: skip
    longer = times(workload("nano", "int8", seconds=3.0))  # 75 frames, 20 latent frames, windows of 7 that share 3
    assert longer["denoise", "forward"] == 2 * longer["audio_conditions", "forward"] > 2
    assert longer["vae_decode", "next"] == 19


def test_a_block_took_as_long_as_its_products_say() -> None:
    """A block of flash that was measured, beside the same products at the peaks of the same rounds. What has no products is left
    out: a tenth of the time (records/operators.json)."""
    record = json.loads((RECORDS / "operators.json").read_text())["figures"]
    peak = {row["products"]: 1e9 * row["gflops"] for row in record["peak"]}
    rates = {"int8": figure(peak["int8"]), "fp16": figure(peak["float32"]), "fp32": figure(peak["float32"])}
    rate = TableRates(device(rates=rates, reached=figure(1.0), bandwidth=None))
    clip = ClipSpec(256, 256, 25)
    sizes = [Architecture(replace(FLASH, layers=layers)) for layers in (1, 2)]
    works = [Workload(size, False, clip, PRESETS["int8"], plan_of(PLAN_PRESETS["flash"], clip, 1)) for size in sizes]
    taken = []
    for work in works:
        call = next(call for call in work.calls if call.role == "denoise")
        taken.append(sum(estimate.call_seconds(work, call, rate).values()))
    measured = record["parts"][0]["seconds"]
    assert 0.8 * measured < taken[1] - taken[0] < measured
    slow = TableRates(device(rates=rates | {"int8": rates["fp32"]}, reached=figure(1.0), bandwidth=None))
    call = next(call for call in works[0].calls if call.role == "denoise")
    assert sum(estimate.call_seconds(works[0], call, slow).values()) > 2 * measured


# ---- memory ---------------------------------------------------------------------------------------------------------------------


def test_memory_is_the_exports_forecast(narrow: Workload) -> None:
    config, need = NARROW.transformer, memory(narrow, 1000, together=False)
    packed = {role: packed_bytes(narrow, role) for role in narrow.roles}
    assert need.terms[estimate.PROCESS] == 1000
    assert need.terms[estimate.WEIGHTS] == max(packed.values()) == packed["image_encoder"]
    assert need.terms[estimate.CONDITIONS] == 2 * condition_bytes(config, SMALL, 64)  # two branches
    assert need.terms[estimate.ACTIVATIONS] == max(step_activations(config, SMALL), picture_bytes(config, SMALL))
    together = memory(narrow, 1000, together=True)
    assert together.terms[estimate.WEIGHTS] == sum(packed.values())
    assert together.total > need.total


@pytest.mark.parametrize("role", ["vae_encode", "vae_decode"])
def test_states_are_as_large_as_the_export_takes_them_for(narrow: Workload, role: str) -> None:
    """What a call is given and gives, less pictures and latents, is the state twice."""
    picture = FLOAT * 3 * SMALL.height * SMALL.width
    passed = estimate.streamed_bytes(narrow, role)
    assert (passed - 4 * picture) / 2 == pytest.approx(state_bytes(FLASH, SMALL, role), rel=0.01)
    assert role in (*DECODE_PROGRAMS.values(), "vae_encode")


def test_full_size_programs_took_as_much_memory_as_forecast() -> None:
    """Programs of flash that were loaded and run alone: their file, and their weights laid out anew, beside the process. The
    process is what a program of 1 MB took."""
    rows = {row["program"]: row for row in json.loads((RECORDS / "export-flash.json").read_text())["figures"]["programs"]}
    process = 1e9 * rows["patch_conditions"]["proof_gb"]
    clip = ClipSpec(256, 256, 25)
    work = Workload(Architecture(), False, clip, PRESETS["int8"], plan_of(PLAN_PRESETS["flash"], clip, 8))
    for role in ("image_encoder", "audio_encoder"):
        held = process + estimate.file_bytes(work)[role] + packed_bytes(work, role)
        assert held == pytest.approx(1e9 * rows[role]["proof_gb"], rel=0.2), role
        assert held - packed_bytes(work, role) < 0.9e9 * rows[role]["proof_gb"]  # one copy alone would be too little


# ---- the answer -----------------------------------------------------------------------------------------------------------------


def answer(work: Workload, **fields: Any) -> Fit:
    one = device(**fields)
    return fit(work, one, TableRates(one))


def test_what_fits_needs_no_change(narrow: Workload) -> None:
    found = answer(narrow)
    assert found.fits
    assert (found.change, found.tried) == (None, 0)


def test_the_cheapest_change_is_found_by_trying(narrow: Workload) -> None:
    need = memory(narrow, 100_000_000, together=False).total
    tiny = memory(changed(narrow, decoder="tiny"), 100_000_000, together=False).total
    assert tiny <= need
    found = answer(narrow, app=need - 1)
    assert not found.fits
    assert found.change is not None
    assert found.change.forecast.fits
    assert found.change.forecast.need.total < need
    first = next(options for options, other in alternatives(narrow) if memory(other, 100_000_000, together=False).total < need)
    assert found.change.options == first
    hopeless = answer(narrow, app=1e6)
    assert hopeless.change is None
    assert hopeless.tried == len(list(alternatives(narrow)))


def test_changes_begin_with_what_costs_the_picture_least(narrow: Workload, nano: Workload) -> None:
    options = [" ".join(each) for each, _ in alternatives(narrow)]
    assert options[:3] == ["--decoder tiny", "--frames 5", "--weights mixed"]
    assert options[-1].startswith("--decoder tiny --frames 5 --weights int4 --steps 1 --size 64x64")
    assert [" ".join(each) for each, _ in alternatives(nano) if len(each) == 1] == [
        "--frames 13", "--frames 9", "--frames 5", "--weights mixed", "--weights int4", "--steps 1",
    ]  # fmt: skip


def test_too_slow_is_mended_by_fewer_steps(nano: Workload) -> None:
    one = device()
    rates = TableRates(one)
    usual = fit(nano, one, rates).forecast.per_second
    found = fit(nano, one, rates, within=0.95 * usual)
    assert not found.fits
    assert found.forecast.dominant.startswith("time for")
    assert found.change is not None
    assert found.change.forecast.per_second <= 0.95 * usual
    with pytest.raises(ConfigError, match="within"):
        fit(nano, one, rates, within=0.0)


def test_the_answer_in_json(nano: Workload) -> None:
    found = json.loads(json.dumps(answer(nano, app=1e6).to_dict()))
    assert found["format"] == "echoedge.fit/1"
    assert set(found) == {"format", "device", "forecast", "change", "tried"}
    assert found["forecast"]["fits"] is False
    assert sum(found["forecast"]["memory_terms"].values()) == found["forecast"]["memory_bytes"]
    assert sum(found["forecast"]["stage_seconds"].values()) == pytest.approx(found["forecast"]["seconds"])
    assert found["device"]["rates"]["int8"] == {"value": 8e12, "kind": "assumed", "source": "made up for a test"}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"model": "flush"}, "no model 'flush'"),
        ({"weights": "int3"}, "no weights 'int3'"),
        ({"weights": "pal4"}, "pal4"),
        ({"decoder": "tiny"}, "nano has the full one alone"),
        ({"size": (128, 128)}, "reads no other"),
        ({"steps": 3}, "3"),
        ({"frames": 10}, "frames is 10"),
        ({"seconds": 0.0}, "seconds"),
    ],
)
def test_a_wrong_option_is_a_sentence(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        workload(**options)


def test_the_page_shows_a_table_that_can_be_read(tmp_path: Path) -> None:
    page = (RECORDS.parent / "docs" / "FIT.md").read_text(encoding="utf-8")
    path = tmp_path / "mine.json"
    path.write_text(page.partition("```json\n")[2].partition("```")[0])
    board = find_device(devices_of(read_table(path)), "my board")
    assert board.rates["int8"].value == 4 * 2.4e9 * 64
