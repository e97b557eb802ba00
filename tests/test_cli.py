"""cli/app.py: every command end to end, and one sentence for everything that a user can get wrong."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import pytest
from PIL import Image
from safetensors.numpy import save_file

from echoedge import __version__
from echoedge.core.bundle import MANIFEST, Bundle, Figures
from echoedge.core.bundle.golden import GOLDEN, GOLDEN_INDEX
from echoedge.core.bundle.records import read_records, write_record
from echoedge.core.versions import library_versions
from echoedge.core.weights.nano import assets
from echoedge.core.work import WorkFolder
from echoedge.runtime import engines
from echoedge.runtime.bench import clip as bench
from echoedge.runtime.bench.clip import Speed
from echoedge.runtime.export import pipeline
from echoedge.runtime.export.compile import Proof
from echoedge.runtime.play.media import read_clip, read_speech
from echoedge.runtime.play.setting import Wanted
from echoedge.runtime.registry import REGISTRY
from echoedge.runtime.verify.parity import NO_CLIP
from echoedge.targets.executorch.program_file import set_threads
from echoedge.targets.rewrites.hoist import REWRITES, savings

from .bundles import CLIP, HOLLOW, changed_bundle, demanding_bundle, small_engine
from .commands import Ended, Run
from .inline import Inline

DEMO = assets() / "demo"
COMMANDS = ["export", "animate", "verify", "bench", "inspect", "doctor", "demo", "train"]


# ---- running a command -----------------------------------------------------------------------------------------------------------


def process(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """The command line as a process of its own."""
    command = [sys.executable, "-m", "echoedge.cli", *map(str, arguments)]
    environment = os.environ | {"COLUMNS": "300"}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment, **options)


def complaint(ended: Ended) -> str:
    """The one sentence that a user reads, without its kind."""
    lines = [line for line in ended.err.splitlines() if line.strip()]
    assert ended.status == 2, ended
    assert "Traceback" not in ended.err
    assert ended.out == ""
    assert len(lines) == 1, lines
    kind, _, sentence = lines[0].partition(": ")
    assert re.fullmatch("[a-z]+", kind), lines
    assert sentence.rstrip().endswith((".", "?")), lines
    return sentence


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
    monkeypatch.setattr("echoedge.runtime.play.media.H264_ENCODERS", ("none-such",))
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
    manifest = json.loads((tmp_path / "b" / MANIFEST).read_text())
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


def test_verify_against_a_baseline(run: Run, bundle_path: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(bundle_path)
    index, tensors = json.loads(bundle.path(GOLDEN_INDEX).read_text()), bundle.read_tensors(GOLDEN)
    clip = {name: tensors[index["clip"][name]] for name in ("latents", "frames")}
    save_file(clip, tmp_path / "same.safetensors")
    save_file({"latents": clip["latents"], "frames": 255 - clip["frames"]}, tmp_path / "other.safetensors")
    assert run("verify", bundle_path, "--baseline", tmp_path / "same.safetensors").status == 0
    assert run("verify", bundle_path, "--baseline", tmp_path / "other.safetensors").status == 1


def without_clip(bundle_path: Path, copy: Path) -> Path:
    """The bundle as those of the released models are: nothing of a clip on record."""
    index = json.loads((bundle_path / GOLDEN_INDEX).read_text()) | {"clip": {}, "settings": {}}
    return changed_bundle(bundle_path, copy, GOLDEN_INDEX, json.dumps(index).encode())


def test_verify_says_what_was_not_judged(run: Run, bundle_path: Path, tmp_path: Path) -> None:
    path = without_clip(bundle_path, tmp_path / "b")
    ended = run("verify", path)
    assert ended.status == 0
    rows = {line.split("│")[1].strip(): line.split("│")[-2].strip() for line in ended.out.splitlines() if line.startswith("│")}
    unjudged = {name for name, said in rows.items() if said == f"not judged: {NO_CLIP}"}
    assert unjudged == {"latents", "frames", "lip-sync"}
    assert {said for name, said in rows.items() if name not in unjudged} == {"passed"}
    assert "What was judged is equal within the bundle's thresholds; 3 of 13 rows were not judged." in ended.out
    told = json.loads(run("verify", path, "--json").out)
    assert (told["passed"], told["complete"]) == (True, False)
    silent = {row["name"]: row for row in told["rows"] if not row["judged"]} | {"lip-sync": told["lipsync"]}
    assert set(silent) == unjudged
    assert all(row["passed"] is None and row["reason"] == NO_CLIP for row in silent.values())


def test_verify_of_a_bundle_that_demands_nothing_is_no_pass(run: Run, bundle_path: Path, tmp_path: Path) -> None:
    path = without_clip(bundle_path, tmp_path / "b")
    manifest = json.loads((path / MANIFEST).read_text())
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
    manifest = json.loads((bundle_path / MANIFEST).read_text())
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
    (tmp_path / "b" / MANIFEST).write_text(json.dumps(json.loads((tmp_path / "b" / MANIFEST).read_text())))
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
    assert speed["conditions"]["runs"] == 2
    assert (tmp_path / "b" / MANIFEST).read_bytes() == before
    (record,) = read_records(Bundle.open(tmp_path / "b")).own
    assert record.figures == speed
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
    conditions = speed["conditions"]
    assert (conditions["decoder"], conditions["prompt"], conditions["threads"]) == ("full", "a man", 1)
    assert "decoder full; prompt 'a man'" in told
    assert re.search(r"threads +│ +1 ", told)


def test_bench_compares_engines_in_processes_of_their_own(run: Run, bundle_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That they are processes is tests/runtime/test_bench.py's to show."""
    apart: list[str] = []

    def measure_here(bundle: Bundle, wanted: Wanted, runs: int, progress: Any) -> Speed:
        apart.append(wanted.engine)
        return bench.measure(bundle, wanted, runs, progress)

    monkeypatch.setattr(bench, "measure_apart", measure_here)
    assert "whose weights do not ship" in complaint(run("bench", bundle_path, "--compare", "--runs", 1, "--json"))
    assert apart == []  # refused before the first was measured
    monkeypatch.setattr(engines, "_torch", lambda *_: small_engine())
    told = run("bench", bundle_path, "--compare", "--runs", 1).out
    assert apart == ["auto", "torch"]
    assert re.search(r"executorch int8 +┃ torch fp32", told)
    assert re.search(r"peak memory of its process │ +\d+ MB │ +\d+ MB │", told)


# ---- animate ---------------------------------------------------------------------------------------------------------------------


def portrait_file(path: Path) -> Path:
    Image.open(DEMO / "ada.png").convert("RGB").save(path)
    return path


def speech_file(path: Path, codec: str, rate: int = 44100) -> Path:
    """hello.wav, a second long, in another container and codec."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        resampler = av.AudioResampler(format=stream.format, layout=stream.layout, rate=rate)
        source = av.open(str(DEMO / "hello.wav"))
        for frame in [*source.decode(audio=0), None]:
            for resampled in resampler.resample(frame):
                container.mux(stream.encode(resampled))
        container.mux(stream.encode(None))
        source.close()
    return path


FILES = {
    "png and wav": ("a.png", "a.wav", "pcm_s16le"), "jpg and mp3": ("a.jpg", "a.mp3", "mp3"),
    "webp and flac": ("a.webp", "a.flac", "flac"), "bmp and m4a": ("a.bmp", "a.m4a", "aac"),
}  # fmt: skip


@pytest.mark.parametrize("files", FILES)
def test_animate_makes_a_film_as_long_as_the_speech(files: str, run: Run, bundle_path: Path, tmp_path: Path) -> None:
    image, audio, codec = FILES[files]
    speech = speech_file(tmp_path / audio, codec)
    film = tmp_path / "films" / "clip.mp4"
    ended = run("animate", bundle_path, "--image", portrait_file(tmp_path / image), "--audio", speech, "--out", film)
    assert ended.status == 0, ended
    available = len(read_speech(speech)) // CLIP.samples_per_frame
    frames = (available - 1) // 4 * 4 + 1
    assert frames in (25, 29)  # MP3 pads its end
    assert f"{frames} frames" in ended.out
    clip = read_clip(film)
    assert clip.frames.shape == (frames, CLIP.height, CLIP.width, 3)
    assert clip.fps == 25
    assert clip.audio is not None
    assert len(clip.audio) / clip.sample_rate == pytest.approx(frames / 25, abs=0.1)
    assert np.sqrt(np.mean(clip.audio**2)) > 0.01
    assert [path.name for path in film.parent.iterdir()] == ["clip.mp4"]


@pytest.fixture
def given(bundle_path: Path, tmp_path: Path) -> dict[str, object]:
    """Options of `animate` that work, in order; a test changes one."""
    output = tmp_path / "out"
    output.mkdir()
    return {"bundle": bundle_path, "--image": DEMO / "ada.png", "--audio": DEMO / "hello.wav", "--out": output / "clip.mp4"}


def arguments(options: dict[str, object]) -> list[object]:
    bundle, *others = options.items()
    return ["animate", bundle[1], *(part for option in others for part in option)]


def test_animate_as_json(run: Run, given: dict[str, object]) -> None:
    ended = run(*arguments(given), "--json")
    told = json.loads(ended.out)
    assert (told["frames"], told["seconds"], told["engine"]) == (25, 1.0, "executorch")
    assert set(told["stage_seconds"]) == {"listen", "look", "prepare", "denoise", "decode"}
    assert told["evaluations"] == 3 * 2 * 2
    assert Path(told["clip"]).stat().st_size > 1000


def test_the_same_seed_makes_the_same_film(run: Run, given: dict[str, object], tmp_path: Path) -> None:
    films = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2**64 - 1)):
        film = tmp_path / f"{name}.mp4"
        assert run(*arguments(given | {"--out": film, "--seed": seed})).status == 0
        films.append(read_clip(film).frames)
    np.testing.assert_array_equal(films[0], films[1])
    assert (films[0] != films[2]).any()


@pytest.mark.parametrize(
    "prompt",
    ["", "她微笑着点头", "😀🎬", "[/red] [bold", "a 'quoted' prompt that goes on and on", "-", "\udcff\udcfe broken bytes"],
)
def test_any_prompt_plays(prompt: str, run: Run, given: dict[str, object]) -> None:
    ended = run(*arguments(given), f"--prompt={prompt}")
    assert ended.status == 0, ended
    assert "Traceback" not in ended.err


def test_a_prompt_that_is_cut_is_said_to_be(run: Run, given: dict[str, object]) -> None:
    ended = run(*arguments(given), "--prompt", "她微笑着点头")
    assert "The prompt is longer than this model reads; it ends after '她微笑着'." in ended.err


def test_a_portrait_of_20_megapixels_plays(run: Run, given: dict[str, object], tmp_path: Path) -> None:
    Image.new("RGB", (5000, 4000), (200, 150, 120)).save(tmp_path / "big.png", compress_level=1)
    assert run(*arguments(given | {"--image": tmp_path / "big.png"})).status == 0


def test_force_replaces_a_film(run: Run, given: dict[str, object]) -> None:
    film = Path(str(given["--out"]))
    film.write_bytes(b"old")
    assert "exists. Give another name or --force." in complaint(run(*arguments(given)))
    assert film.read_bytes() == b"old"
    assert run(*arguments(given), "--force").status == 0
    assert film.stat().st_size > 1000


# ---- what a user can get wrong ---------------------------------------------------------------------------------------------------


def made(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def silent_wav(path: Path) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16000, 16000, "NONE", ""))
        file.writeframes(bytes(32000))
    return path


def dot(path: Path) -> Path:
    Image.new("RGB", (1, 1)).save(path)
    return path


def broken_bundle(folder: Path, bundle: Path, change: Callable[[Path], object]) -> Path:
    copy = folder / "broken.echoedge"
    shutil.copytree(bundle, copy)
    change(copy)
    return copy


def altered(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


WRONG: dict[str, tuple[str, Callable[[Path, Path], object], str]] = {
    "audio that is not there": ("--audio", lambda t, _: t / "gone.wav", "There is no sound file .*gone.wav"),
    "audio that is a folder": ("--audio", lambda t, _: t, "is not a file"),
    "empty audio": ("--audio", lambda t, _: made(t / "a.wav", b""), "a.wav is empty"),
    "audio that is no audio": ("--audio", lambda t, _: made(t / "a.wav", b"hello" * 100), "not a sound file in a known format"),
    "audio cut in its header": ("--audio", lambda t, _: made(t / "a.wav", (DEMO / "hello.wav").read_bytes()[:30]), "a.wav"),
    "silent audio": ("--audio", lambda t, _: silent_wav(t / "a.wav"), "a.wav is silent"),
    "a picture as audio": ("--audio", lambda *_: DEMO / "ada.png", "has no sound track"),
    "an image that is not there": ("--image", lambda t, _: t / "gone.png", "There is no portrait .*gone.png"),
    "an empty image": ("--image", lambda t, _: made(t / "a.png", b""), "a.png is empty"),
    "an image that is no image": ("--image", lambda t, _: made(t / "a.png", b"hello" * 100), "not an image in a known format"),
    "an image cut off": ("--image", lambda t, _: made(t / "a.png", (DEMO / "ada.png").read_bytes()[:3000]), "a.png cannot be read"),
    "an image of one pixel": ("--image", lambda t, _: dot(t / "a.png"), "1 pixels wide and 1 high; it needs at least 16 a side"),
    "speech as an image": ("--image", lambda *_: DEMO / "hello.wav", "not an image in a known format"),
    "a bundle that is not there": ("bundle", lambda t, _: t / "gone.echoedge", "There is no bundle .*gone.echoedge"),
    "a file as a bundle": ("bundle", lambda t, _: made(t / "a.echoedge", b"x"), "is a file; a bundle is a folder"),
    "a folder that is no bundle": ("bundle", lambda t, _: t, "has no manifest.json"),
    "a bundle without a program": (
        "bundle", lambda t, b: broken_bundle(t, b, lambda p: (p / "programs/denoise.pte").unlink()), "denoise.pte is missing"
    ),
    "a bundle with a truncated program": (
        "bundle", lambda t, b: broken_bundle(t, b, lambda p: os.truncate(p / "programs/denoise.pte", 999)), "pte has 999 bytes"
    ),
    "a bundle with an altered program": (
        "bundle", lambda t, b: broken_bundle(t, b, lambda p: altered(p / "programs/denoise.pte")), "denoise.pte was altered"
    ),
    "a bundle with a truncated manifest": (
        "bundle", lambda t, b: broken_bundle(t, b, lambda p: os.truncate(p / MANIFEST, 999)), "manifest.json is cut off or damaged"
    ),
    "a seed below zero": ("--seed", lambda *_: -1, "seed is -1; it must be an integer from 0"),
    "a seed beyond 64 bits": ("--seed", lambda *_: 2**64, "seed is 18446744073709551616"),
    "an unknown engine": ("--engine", lambda *_: "cuda", "no engine 'cuda' here. Choose from: auto, executorch, torch"),
    "an engine without the weights": ("--engine", lambda *_: "torch", "whose weights do not ship"),
    "a folder as output": ("--out", lambda t, _: t / "out", "is a folder. Give the name of a file"),
    "an output inside a file": ("--out", lambda t, _: made(t / "file", b"") / "clip.mp4", "clip.mp4 cannot be written"),
    "an output that the system refuses": ("--out", lambda *_: "/proc/nobody/clip.mp4", "/proc/nobody/clip.mp4"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("nano", "--keep-vae"), "--keep-vae takes the VAE of a weights file: name it with --start"),
        (("nano", "--method", "ful"), "method is 'ful'.*Did you mean 'full'"),
        (("nano", "--method", "plain", "--without", "ndpo"), "The recipe has no preference steps"),
        (("study", "--without", "ndpo"), "--without is 'ndpo'; write PART=FILE"),
        (("study", "--only", "vea"), "no section or part 'vea'.*Sections: vae, choices"),
        (("study", "--without", "nothing=a.safetensors"), "no section or part 'nothing'"),
        (("study", "--weights", "gone.safetensors"), "gone.safetensors"),
    ],
)  # fmt: skip
def test_a_mistake_in_training_is_one_sentence_and_leaves_nothing(
    options: tuple[str, ...], expected: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert re.search(expected, complaint(run("train", *options)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake_is_one_sentence_and_leaves_nothing(
    mistake: str, run: Run, given: dict[str, object], bundle_path: Path, tmp_path: Path
) -> None:
    option, value, expected = WRONG[mistake]
    if "proc" in str(value(tmp_path, bundle_path) if option == "--out" else "") and not Path("/proc").is_dir():
        pytest.skip("this system has no /proc")
    shutil.rmtree(tmp_path)
    (tmp_path / "out").mkdir(parents=True)
    options = given | {option: value(tmp_path, bundle_path)}
    before = sorted(tmp_path.rglob("*"))
    assert re.search(expected, complaint(run(*arguments(options))))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the superuser may write everywhere")
def test_an_output_folder_without_permission(run: Run, given: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "out").chmod(0o500)
    assert "cannot be written (Permission denied" in complaint(run(*arguments(given)))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--model", "nanoo"], r"no model 'nanoo'\. Choose from: nano, flash, preview\. Did you mean 'nano'\?"),
        (["--model", "flash"], r"--checkpoint names the folder with the weights of flash"),
        (["--target", "tflite"], r"target is 'tflite'\. Choose from: executorch"),
        (["--weights", "int9"], r"no weights 'int9'\. Choose from fp32, int8, int4, .*Did you mean 'int8'\?"),
        (["--weights", "gone.json"], r"recipe gone\.json cannot be read"),
        (["--size", "large"], r"--size is 'large'; write HEIGHTxWIDTH"),
        (["--size", "²x64"], r"--size is '²x64'; write HEIGHTxWIDTH"),
        (["--size", "64x65"], r"width is 65; it must be a multiple of 16"),
        (["--size", "128x128"], r"nano was trained at 64x64"),
        (["--frames", "24"], r"frames is 24; it must be 4n\+1\. The nearest below is 21\."),
        (["--frames", "1"], r"--frames is 1; a window needs 5 frames at least"),
        (["--checkpoint", "somewhere"], r"--checkpoint is for flash and preview"),
    ],
)
def test_a_wrong_export_is_one_sentence_with_the_good_values(options: list[str], expected: str, run: Run, tmp_path: Path) -> None:
    assert re.search(expected, complaint(run("export", *options, "--out", tmp_path / "a.echoedge")))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["verify", "bench", "inspect"])
def test_every_command_refuses_an_altered_bundle(command: str, run: Run, bundle_path: Path, tmp_path: Path) -> None:
    path = broken_bundle(tmp_path, bundle_path, lambda p: altered(p / "programs/vae_decode.pte"))
    assert "vae_decode.pte was altered" in complaint(run(command, path))


@pytest.mark.parametrize("name", ["gone.safetensors", "text.safetensors"])
def test_verify_refuses_a_bad_baseline(name: str, run: Run, bundle_path: Path, tmp_path: Path) -> None:
    made(tmp_path / "text.safetensors", b"hello")
    sentence = complaint(run("verify", bundle_path, "--baseline", tmp_path / name, "--json"))
    assert f"{name} cannot be read" in sentence


def test_demo_does_not_replace_what_is_there(run: Run, tmp_path: Path) -> None:
    made(tmp_path / "clip.mp4", b"mine")
    assert "clip.mp4 exists. Give another folder with --out, or --force." in complaint(run("demo", "--out", tmp_path))
    assert "is a file; --out names a folder." in complaint(run("demo", "--out", tmp_path / "clip.mp4"))


# ---- export ----------------------------------------------------------------------------------------------------------------------


def test_export_says_what_it_made_and_what_comes_next(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """nano with the compiler standing aside: plan, reference run, goldens and manifest are real."""
    monkeypatch.setattr(pipeline, "JobRunner", Inline)
    monkeypatch.setitem(REGISTRY, "executorch", HOLLOW)
    unproven = run("export", "--out", tmp_path / "a.echoedge", "--weights", "fp32", "--frames", 5, "--steps", 1)
    assert "is ready, lowered to executorch: not executed on this host." in unproven.out
    monkeypatch.setattr(pipeline, "prove", lambda *_, **__: Proof(figures=Figures(psnr_db=99.0)))
    path = tmp_path / "nano.echoedge"
    ended = run("export", "--out", path, "--weights", "fp32", "--frames", 5, "--steps", 1)
    assert ended.status == 0, ended
    assert f"is ready. Next: echoedge verify {path}" in ended.out
    bundle = Bundle.open(path)
    assert (bundle.clip.frames, bundle.plan().steps, bundle.manifest.model.preset) == (5, 1, "nano")
    assert bundle.plan().window is not None
    assert "exists. Give another name or --force." in complaint(run("export", "--out", path))
    told = json.loads(run("export", "--out", path, "--frames", 5, "--steps", 1, "--force", "--json").out)
    assert told["bundle"] == str(path)
    assert set(told["programs"]) == set(bundle.manifest.programs)


# ---- interruptions ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_film_leaves_nothing(number: signal.Signals, given: dict[str, object], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with wave.open(str(tmp_path / "long.wav"), "wb") as file:  # five minutes: long enough to be interrupted on any machine
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(rng.integers(-9000, 9000, 300 * 16000).astype("<i2").tobytes())
    folder = tmp_path / "out"
    command = [sys.executable, "-m", "echoedge.cli", *map(str, arguments(given | {"--audio": tmp_path / "long.wav"}))]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(folder.iterdir()) and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert [path.name.startswith(".clip") for path in folder.iterdir()] == [True], "it has not begun"
    time.sleep(0.2)
    running.send_signal(number)
    _, told = running.communicate(timeout=60)
    assert running.returncode == 128 + number, told
    assert "Traceback" not in told
    assert ("Interrupted. Nothing was left behind." in told) == (number == signal.SIGINT)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_training_says_what_it_keeps_and_ends_its_processes(number: signal.Signals, tmp_path: Path) -> None:
    work = tmp_path / "work"
    command = [sys.executable, "-m", "echoedge.cli", "train", "nano", "--workdir", str(work), "--clips", "64"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert running.stdout is not None
    assert running.stdout.readline().startswith("1. pool")
    second = process("train", "nano", "--workdir", work, "--clips", 64)
    assert second.returncode == 2
    assert "is used by another training, which is running" in " ".join(second.stderr.split())
    helpers = psutil.Process(running.pid).children(recursive=True)
    assert helpers  # they draw clips
    (os.killpg if number == signal.SIGINT else os.kill)(running.pid, number)
    _, told = running.communicate(timeout=60)
    assert running.returncode == 128 + number, told
    kept = f"{work} keeps what was finished: the same command goes on from there." in " ".join(told.split())
    assert kept == (number == signal.SIGINT)
    assert psutil.wait_procs(helpers, timeout=20)[1] == []
    assert work.is_dir()


# ---- the whole way, compiled -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_nano_all_the_way(tmp_path: Path) -> None:
    """What `echoedge demo` does, with the real compiler and the trained weights."""
    demo = tmp_path / "demo"
    command = [sys.executable, "-m", "echoedge.cli", "demo", "--out", str(demo)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert sorted(path.name for path in demo.iterdir()) == ["clip.mp4", "contact_sheet.png", "nano.echoedge"]
    records = read_records(Bundle.open(demo / "nano.echoedge")).own
    assert sorted((record.verb, record.engine.name) for record in records) == [
        ("bench", "executorch"), ("bench", "torch"), ("verify", "executorch"),
    ]  # fmt: skip
    assert len(read_clip(demo / "clip.mp4").frames) == 97
    bundle = Bundle.open(demo / "nano.echoedge")
    assert bundle.program("denoise").delegation["forward"].other_ops == {}
