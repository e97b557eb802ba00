"""cli/app.py: help, doctor, inspect, verify and bench end to end, and one sentence for what a user can get wrong with them."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import save_file

from echoedge import __version__
from echoedge.core.bundle import MANIFEST, Bundle
from echoedge.core.bundle.bench_record import BenchRecord
from echoedge.core.bundle.golden import GOLDEN, GOLDEN_INDEX
from echoedge.core.bundle.records import read_records, write_record
from echoedge.core.versions import library_versions
from echoedge.core.work import WorkFolder
from echoedge.runtime import engines
from echoedge.runtime.bench import clip as bench
from echoedge.runtime.play.setting import Wanted
from echoedge.runtime.verify.parity import NO_CLIP
from echoedge.targets.executorch.program_file import set_threads
from echoedge.targets.rewrites.hoist import REWRITES
from echoedge.targets.rewrites.savings import savings

from .bundles import CLIP, changed_bundle, demanding_bundle, small_engine
from .commands import Run, complaint, process
from .core.tiny_bundle import contents
from .test_animate_cli import altered, broken_bundle, made

COMMANDS = ["export", "animate", "verify", "bench", "inspect", "doctor", "demo", "train", "vectors", "serve-programs"]


# ---- help, version, wrong usage --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS), ["train", "nano"], ["train", "study"]])
def test_help(command: list[str], run: Run) -> None:
    ended = run(*command, "--help")
    assert ended.status == 0
    assert "Usage: echoedge" in ended.out
    assert " ".join(command) in ended.out


def test_help_lists_every_command(run: Run) -> None:
    told = run("--help").out
    assert all(re.search(rf"\b{name}\b", told) for name in COMMANDS)


def test_version(run: Run) -> None:
    assert run("--version").out.strip() == __version__


@pytest.mark.parametrize(
    "arguments",
    [
        ["sing"], ["verify"], ["animate", "x.echoedge"], ["inspect", "--loud"], ["export", "--out", "x", "--jobs", "0"],
        ["export", "--out", "x", "--steps", "many"], ["export", "--out", "x", "--frames", "0"], ["bench", "x", "--runs", "0"],
        ["animate", "x", "--image", "a", "--audio", "b", "--out", "c", "--seed", "one"],
    ],
)  # fmt: skip
def test_wrong_usage_is_explained(arguments: list[str], run: Run) -> None:
    ended = run(*arguments)
    assert ended.status == 2
    assert "Usage: echoedge" in ended.err
    assert "Traceback" not in ended.err


def test_as_a_process_of_its_own() -> None:
    ended = process("--version")
    assert (ended.returncode, ended.stdout.strip(), ended.stderr) == (0, __version__, "")
    failed = process("inspect", "gone.echoedge")
    assert failed.returncode == 2
    assert failed.stderr.strip() == "bundle: There is no bundle gone.echoedge. Check the name, or export one."


# ---- doctor and inspect ----------------------------------------------------------------------------------------------------------


def test_doctor(run: Run) -> None:
    ended = run("doctor")
    assert ended.status == 0, ended
    assert "Next: echoedge demo" in ended.out


def test_doctor_as_json(run: Run) -> None:
    told = json.loads(run("doctor", "--json").out)
    assert told["healthy"] is True
    assert {check["name"] for check in told["checks"]} >= {"python", "memory", "executorch", "video codec", "nano"}
    assert all(check["passed"] for check in told["checks"])


def test_doctor_says_what_is_missing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("echoedge.runtime.play.clips.H264_ENCODERS", ("none-such",))
    ended = run("doctor", "--json")
    assert ended.status == 1
    assert [check["name"] for check in json.loads(ended.out)["checks"] if not check["passed"]] == ["video codec"]
    assert "Mend what is missing" in run("doctor").out


def test_doctor_names_what_killed_runs_left_and_deletes_that_alone(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".clip.mp4.ffffff0-0123abcd.partial.mp4").write_bytes(bytes(2000))
    (tmp_path / "thesis.partial").write_text("mine")
    elsewhere = tmp_path / "elsewhere"
    with WorkFolder(elsewhere / ".a.echoedge.work", "export"):
        (elsewhere / ".a.echoedge.work" / "weights").write_bytes(bytes(3000))
        told = run("doctor", elsewhere).out
        assert ".clip.mp4.ffffff0-0123abcd.partial.mp4, 2.00 kB: half of clip.mp4, of a run that was killed" in told
        assert "doctor --clean" in told and ".work" not in told
    left = json.loads(run("doctor", elsewhere, "--clean", "--json").out)["leftovers"]
    assert [entry["deleted"] for entry in left] == [True, True]
    assert [set(entry) for entry in left] == [{"path", "bytes", "what", "deleted"}] * 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "thesis.partial"]
    assert list(elsewhere.iterdir()) == []
    assert complaint(run("doctor", tmp_path / "nowhere")).startswith(f"{tmp_path / 'nowhere'} cannot be read")


def test_inspect(run: Run, bundle_path: Path) -> None:
    ended = run("inspect", bundle_path)
    assert ended.status == 0
    shape = "clip      32x32x9 (height, width, frames a window), 25 fps"
    for word in ("denoise", "vae_decode.next", shape, "unipc, 2 steps", "embedding ×1", "100.0 %", "1.17 kB cross the border"):
        assert word in ended.out, word


def test_inspect_as_json(run: Run, bundle_path: Path) -> None:
    told = json.loads(run("inspect", bundle_path, "--json").out)
    added = {"records", "damaged_records"}
    assert {key: value for key, value in told.items() if key not in added} == json.loads((bundle_path / MANIFEST).read_text())
    assert (told["records"], told["damaged_records"]) == ([], {})


def test_inspect_of_a_bundle_without_savings_on_record(run: Run, bundle_path: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle_path, tmp_path / "b")
    manifest = contents(tmp_path / "b")
    del manifest["savings"]
    (tmp_path / "b" / MANIFEST).write_text(json.dumps(manifest))
    ended = run("inspect", tmp_path / "b")
    assert ended.status == 0
    assert "not on record in this bundle" in ended.out and "Out of the step" not in ended.out
    assert "not on record" not in run("inspect", bundle_path).out
    assert json.loads(run("inspect", tmp_path / "b", "--json").out)["savings"] == []
    assert "Out of the step" in run("inspect", tmp_path / "b", "--time").out


def test_inspect_says_what_left_the_step(run: Run, bundle_path: Path) -> None:
    bundle = Bundle.open(bundle_path)
    rows = {row["name"]: row for row in json.loads(run("inspect", bundle_path, "--json").out)["savings"]}
    assert list(rows) == [*(rewrite.name for rewrite in REWRITES), "all"]
    rows_of_text = bundle.manifest.playing.text_rows
    assert list(rows.values()) == [s.model_dump() for s in savings(bundle.model, bundle.clip, bundle.plan(), rows_of_text)]
    # Every condition of a branch but the audio mask, as the exporter measured them.
    assert rows["all"]["kept_bytes"] == bundle.manifest.memory["conditions_bytes_per_branch"] - 4 * CLIP.tokens_per_frame
    told = run("inspect", bundle_path).out
    for row in rows.values():
        line = next(line for line in told.splitlines() if line.startswith(f"│ {row['name']} "))
        share, parameters = (cell.strip() for cell in line.split("│")[3:5])
        assert share == f"{100 * (1 - row['flops_with'] / row['flops_without']):.2f} %"
        assert parameters == (f"{row['parameters']:,}" if row["parameters"] else "–")


def test_inspect_names_strange_files(run: Run, bundle_path: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle_path, tmp_path / "b")
    (tmp_path / "b" / "notes [red].txt").write_text("mine")
    assert "not part of the bundle: notes [red].txt" in run("inspect", tmp_path / "b").out


# ---- verify and bench ------------------------------------------------------------------------------------------------------------


def test_verify_passes(run: Run, bundle_path: Path) -> None:
    ended = run("verify", bundle_path)
    assert ended.status == 0, ended.out
    assert "FAILED" not in ended.out
    assert "not judged" not in ended.out
    assert "Equal within the bundle's thresholds. Next: echoedge bench" in ended.out


def test_verify_fails_with_status_1(run: Run, bundle_path: Path, tmp_path: Path) -> None:
    ended = run("verify", demanding_bundle(bundle_path, tmp_path / "b", 120.0, "denoise"))
    assert ended.status == 1
    assert ended.out.count("FAILED") == 1
    assert "A threshold failed." in ended.out


@pytest.mark.parametrize(("psnr", "status"), [(40.0, 0), (120.0, 1)])
def test_verify_as_json(psnr: float, status: int, run: Run, bundle_path: Path, tmp_path: Path) -> None:
    ended = run("verify", demanding_bundle(bundle_path, tmp_path / "b", psnr, "denoise"), "--json")
    told = json.loads(ended.out)
    assert ended.status == status
    assert told["passed"] is (status == 0)
    assert told["complete"] is True
    assert all(row["judged"] and row["reason"] is None for row in (*told["rows"], told["lipsync"]))
    assert {row["name"] for row in told["rows"]} == {*Bundle.open(bundle_path).manifest.programs, "latents", "frames"}


def test_verify_tells_what_each_input_changes(run: Run, bundle_path: Path, tmp_path: Path) -> None:
    told = run("verify", bundle_path).out
    rows = [line.split("│")[1:-1] for line in told.split("What another input changes")[1].splitlines() if line.startswith("│")]
    assert [row[0].strip() for row in rows] == ["prompt", "voice", "portrait", "first frame", "seed"]
    assert {row[3].strip() for row in rows} == {"95 %"}
    index = json.loads((bundle_path / GOLDEN_INDEX).read_text())
    index["reactions"]["velocities"] |= {"voice": index["reactions"]["velocities"]["seed"]}  # as if the voice should do that
    ended = run("verify", changed_bundle(bundle_path, tmp_path / "b", GOLDEN_INDEX, json.dumps(index).encode()))
    assert ended.status == 1
    assert ended.out.count("FAILED") == 1
    assert "Another voice changes the clip too little: of what it changes in full precision 95% are demanded" in ended.out
    found = json.loads(run("verify", tmp_path / "b", "--json").out)["inputs"]
    assert [each["name"] for each in found if not each["passed"]] == ["voice"]


def test_verify_against_a_baseline(run: Run, bundle_path: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(bundle_path)
    index, tensors = json.loads(bundle.path(GOLDEN_INDEX).read_text()), bundle.read_tensors(GOLDEN)
    clip = {name: tensors[index["clip"][name]] for name in ("latents", "frames")}
    save_file(clip, tmp_path / "same.safetensors")
    save_file({"latents": clip["latents"], "frames": 255 - clip["frames"]}, tmp_path / "other.safetensors")
    assert run("verify", bundle_path, "--baseline", tmp_path / "same.safetensors").status == 0
    assert run("verify", bundle_path, "--baseline", tmp_path / "other.safetensors").status == 1


def without_clip(bundle_path: Path, copy: Path, **changes: Any) -> Path:
    """The bundle as those of the released models are: nothing of a clip on record."""
    index = json.loads((bundle_path / GOLDEN_INDEX).read_text()) | {"clip": {}, "settings": {}} | changes
    return changed_bundle(bundle_path, copy, GOLDEN_INDEX, json.dumps(index).encode())


def test_verify_says_what_was_not_judged(run: Run, bundle_path: Path, tmp_path: Path) -> None:
    path = without_clip(bundle_path, tmp_path / "b")
    ended = run("verify", path)
    assert ended.status == 0
    rows = {line.split("│")[1].strip(): line.split("│")[-2].strip() for line in ended.out.splitlines() if line.startswith("│")}
    unjudged = {name for name, said in rows.items() if said == f"not judged: {NO_CLIP}"}
    assert unjudged == {"latents", "frames", "lip-sync"}
    assert {said for name, said in rows.items() if name not in unjudged} == {"passed"}
    assert "What was judged is equal within the bundle's thresholds; 3 of 18 rows were not judged." in ended.out
    told = json.loads(run("verify", path, "--json").out)
    assert (told["passed"], told["complete"]) == (True, False)
    silent = {row["name"]: row for row in told["rows"] if not row["judged"]} | {"lip-sync": told["lipsync"]}
    assert set(silent) == unjudged
    assert all(row["passed"] is None and row["reason"] == NO_CLIP for row in silent.values())


def test_verify_of_a_bundle_that_demands_nothing_is_no_pass(run: Run, bundle_path: Path, tmp_path: Path) -> None:
    path = without_clip(bundle_path, tmp_path / "b", reactions={})
    manifest = contents(path)
    manifest["parity"]["demanded"] = {}
    for program in manifest["programs"].values():
        program["demanded"] = None
    (path / MANIFEST).write_text(json.dumps(manifest))
    ended = run("verify", path)
    assert ended.status == 1
    assert "Nothing was judged: this says nothing about the bundle." in ended.out
    assert "passed" not in ended.out
    told = json.loads(run("verify", path, "--json").out)
    assert (told["passed"], told["complete"]) == (False, False)


def test_a_golden_that_proves_nothing_is_one_sentence(run: Run, bundle_path: Path, tmp_path: Path) -> None:
    index = json.loads((bundle_path / GOLDEN_INDEX).read_text())
    path = changed_bundle(bundle_path, tmp_path / "b", GOLDEN_INDEX, json.dumps(index | {"programs": {}}).encode())
    assert "it records no program" in complaint(run("verify", path, "--json"))


def test_verify_records_what_it_found_beside_the_manifest(run: Run, bundle_path: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle_path, tmp_path / "b")
    before = (tmp_path / "b" / MANIFEST).read_bytes()
    told = json.loads(run("verify", tmp_path / "b", "--record", "--json").out)
    assert (tmp_path / "b" / MANIFEST).read_bytes() == before
    (record,) = read_records(Bundle.open(tmp_path / "b")).own
    assert record.figures == told
    assert (record.verb, record.engine.name, record.versions) == ("verify", "executorch", library_versions())
    denoise = next(row["measured"]["psnr_db"] for row in told["rows"] if row["name"] == "denoise")
    said = run("inspect", tmp_path / "b").out
    line = next(line for line in said.splitlines() if line.startswith("verify"))
    assert "executorch (executorch/xnnpack, weights int8, computing in fp32)" in line
    assert f"denoise {denoise:.1f} dB" in line
    assert "not part of the bundle" not in said


def test_figures_of_another_engine_are_never_the_bundles(
    run: Run, bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "_torch", lambda *_: small_engine())  # the small model's weights do not ship
    manifest = contents(bundle_path)
    manifest["programs"]["denoise"]["measured"] = {"psnr_db": 54.3, "cosine": 0.9999, "max_abs": 0.1}
    shutil.copytree(bundle_path, tmp_path / "b")
    (tmp_path / "b" / MANIFEST).write_text(json.dumps(manifest))
    before = (tmp_path / "b" / MANIFEST).read_bytes()
    assert run("verify", tmp_path / "b", "--engine", "torch", "--record").status == 0
    assert (tmp_path / "b" / MANIFEST).read_bytes() == before
    assert [path.name.split("-", 1)[1] for path in (tmp_path / "b" / "records").iterdir()] == ["verify-torch.json"]
    said = run("inspect", tmp_path / "b").out
    at_export = next(line for line in said.splitlines() if line.startswith("parity    at export: "))
    assert "denoise 54.3 dB" in at_export
    line = next(line for line in said.splitlines() if line.startswith("verify"))
    assert "torch (reference, weights fp32, computing in fp32)" in line
    assert re.search(r"denoise (≥ 1[45]\d|1[34]\d\.\d) dB", line)
    told = json.loads(run("inspect", tmp_path / "b", "--json").out)
    assert told["records"][0]["engine"]["name"] == "torch"
    assert told["programs"]["denoise"]["measured"]["psnr_db"] == 54.3


def test_inspect_names_damaged_records_and_those_of_other_manifests(run: Run, bundle_path: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle_path, tmp_path / "b")
    for name, text in (("1-verify-torch.json", "{}"), ("2-bench-torch.json", "{[red]"), ("3-verify-executorch.json", "")):
        (tmp_path / "b" / "records").mkdir(exist_ok=True)
        (tmp_path / "b" / "records" / name).write_text(text)
    ended = run("inspect", tmp_path / "b")
    assert ended.status == 0
    assert len(re.findall(r"^damaged   records/[123]-\w+-\w+\.json: ", ended.out, re.MULTILINE)) == 3
    assert len(json.loads(run("inspect", tmp_path / "b", "--json").out)["damaged_records"]) == 3
    shutil.rmtree(tmp_path / "b" / "records")
    write_record(Bundle.open(tmp_path / "b"), "verify", "torch", "a machine", 1, {}, "ninety-nine decibels", {})
    (tmp_path / "b" / MANIFEST).write_text(json.dumps(contents(tmp_path / "b")))
    said = run("inspect", tmp_path / "b").out
    assert "ninety-nine" not in said
    assert "1 of another manifest, not shown: records/" in said


def test_verify_over_clips_is_for_models_whose_weights_are_here(run: Run, bundle_path: Path) -> None:
    assert "whose weights do not ship" in complaint(run("verify", bundle_path, "--clips", 2, "--json"))


def test_bench(run: Run, bundle_path: Path) -> None:
    ended = run("bench", bundle_path, "--runs", 1)
    assert ended.status == 0
    for word in ("1 listen", "4 denoise", "frames per second", "executorch int8", "not of a phone"):
        assert word in ended.out, word


def test_bench_as_json_and_recorded(run: Run, bundle_path: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle_path, tmp_path / "b")
    before = (tmp_path / "b" / MANIFEST).read_bytes()
    (speed,) = json.loads(run("bench", tmp_path / "b", "--runs", 2, "--json", "--record").out)
    assert speed["runs"] == 2
    assert (tmp_path / "b" / MANIFEST).read_bytes() == before
    (record,) = read_records(Bundle.open(tmp_path / "b")).own
    assert record.model_dump(mode="json") == speed
    line = next(line for line in run("inspect", tmp_path / "b").out.splitlines() if line.startswith("bench"))
    assert f"{speed['fps']:.1f} frames per second" in line


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--decoder", "tiny", "--decoder is 'tiny'; .* has: full"), ("--clip", "64x64x9", "--clip is '64x64x9'; .* plays: 32x32x9"),
        ("--prompts", "gone.safetensors", "The prompt pack gone.safetensors cannot be read"),
        ("--engine", "torch", "whose weights do not ship"),
    ],
)  # fmt: skip
def test_bench_refuses_what_the_bundle_does_not_have(option: str, value: str, message: str, run: Run, bundle_path: Path) -> None:
    assert re.search(message, complaint(run("bench", bundle_path, option, value, "--json")))


def test_bench_plays_what_it_is_asked_for(run: Run, bundle_path: Path) -> None:
    asked = ("--decoder", "full", "--clip", "32X32x9", "--prompt", "a man", "--threads", 1, "--runs", 1)
    try:
        (speed,) = json.loads(run("bench", bundle_path, *asked, "--json").out)
        told = run("bench", bundle_path, *asked).out
    finally:
        set_threads(os.cpu_count() or 1)
    assert (speed["workload"]["decoder"], speed["workload"]["prompt"], speed["threads"]) == ("full", "a man", 1)
    assert "decoder full; prompt 'a man'" in told
    assert re.search(r"threads +│ +1 ", told)


def test_bench_compares_engines_in_processes_of_their_own(run: Run, bundle_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That they are processes is tests/runtime/test_bench.py's to show."""
    apart: list[str] = []

    def measure_here(bundle: Bundle, wanted: Wanted, runs: int, progress: Any) -> BenchRecord:
        apart.append(wanted.engine)
        return bench.measure(bundle, wanted, runs, progress)

    monkeypatch.setattr(bench, "measure_apart", measure_here)
    assert "whose weights do not ship" in complaint(run("bench", bundle_path, "--engine", "auto,torch", "--runs", 1, "--json"))
    assert apart == []  # refused before the first was measured
    monkeypatch.setattr(engines, "_torch", lambda *_: small_engine())
    told = run("bench", bundle_path, "--engine", "auto, torch", "--runs", 1).out
    assert apart == ["auto", "torch"]
    assert re.search(r"executorch int8 +┃ +torch fp32", told)
    assert re.search(r"peak memory of its process │ +[\d,]+ MB │ +[\d,]+ MB │", told)


@pytest.mark.parametrize("command", ["verify", "bench", "inspect"])
def test_every_command_refuses_an_altered_bundle(command: str, run: Run, bundle_path: Path, tmp_path: Path) -> None:
    path = broken_bundle(tmp_path, bundle_path, lambda p: altered(p / "programs/vae_decode.pte"))
    assert "vae_decode.pte was altered" in complaint(run(command, path))


@pytest.mark.parametrize("name", ["gone.safetensors", "text.safetensors"])
def test_verify_refuses_a_bad_baseline(name: str, run: Run, bundle_path: Path, tmp_path: Path) -> None:
    made(tmp_path / "text.safetensors", b"hello")
    sentence = complaint(run("verify", bundle_path, "--baseline", tmp_path / name, "--json"))
    assert f"{name} cannot be read" in sentence
