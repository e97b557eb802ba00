"""The engines in Kotlin and Swift: golden vectors passed, and beside Python's player on one bundle latents, frames, times.

    python tests/benchmarks/players.py [--bundle BUNDLE] [--seconds 2] [--runs 5] [--record records/players.json]

Without a bundle nano's student of two steps is exported first, in int8. All play the same portrait and voice in fresh processes,
in turn; an engine's programs run in `echoedge serve-programs`. Prints JSON; `--record` keeps it as docs/FIGURES.md shows it. Run
it on a quiet machine, with `make android-test` and `make ios-test` done once; `--engines` leaves one out.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
import wave
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from echoedge.core.bundle import Bundle
from echoedge.core.versions import library_versions
from echoedge.core.weights.nano import assets
from echoedge.docs.figures import Row, write_figures
from echoedge.runtime.bench.clip import device_name
from echoedge.runtime.play.pictures import read_portrait
from echoedge.runtime.play.setting import Setting, Wanted
from echoedge.runtime.play.speech import read_speech
from echoedge.tests.android.engine import SCRIPT as KOTLIN_BUILD
from echoedge.tests.android.engine import engine_files as kotlin_files
from echoedge.tests.ios.engine import SCRIPT as SWIFT_BUILD
from echoedge.tests.ios.engine import as_ppm
from echoedge.tests.ios.engine import engine_files as swift_files
from echoedge.tests.players import code_lines

PROMPT, SEED = "a woman speaks", 1
TIMES = ("to_first_denoise_ms", "whole_ms", "denoise_ms", "cpu_ms")
PORTRAIT = assets() / "demo" / "ada.png"


@dataclass(frozen=True)
class EngineBuild:
    """An engine: what builds and tests it, what starts its command line, its sources, and the picture that it reads."""

    name: str
    script: Path
    verb: str
    start: Callable[[str], list[str]]
    files: Callable[[], list[Path]]
    picture: Callable[[Path, Path], Path]

    def started(self) -> list[str]:
        """What starts its command line, built if need be."""
        command = [sys.executable, self.script, self.verb]
        return self.start(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _java(class_path: str) -> list[str]:
    return ["java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", class_path.strip(), "echoedge.engine.desktop.MainKt"]


ENGINES = {
    "kotlin": EngineBuild("Kotlin", KOTLIN_BUILD, "classpath", _java, kotlin_files, lambda picture, _: picture),
    "swift": EngineBuild("Swift", SWIFT_BUILD, "player", shlex.split, swift_files, as_ppm),
}


def parts(files: Iterable[str]) -> dict[str, list[str]]:
    """The engine's files by what they are for; what is named nowhere plays."""
    names, beside = [*files], ("Golden", "BenchRecord", "Memory")
    strict = ("Json", "Fields", "Manifest", "Plan", "Bundle", "Errors", "Ordered", "Sha256")
    named = {
        "plays": [name for name in names if name not in strict + beside],
        "reads a bundle and refuses what is wrong": [name for name in names if name in strict],
        "proves, records and forecasts": [name for name in names if name in beside],
    }
    return {**named, "the engine": names}


def spoken(folder: Path, seconds: float) -> Path:
    """A WAV of so many seconds of a demo voice, which is said again where it is shorter."""
    with wave.open(str(assets() / "demo" / "hello.wav"), "rb") as whole, wave.open(str(folder / "voice.wav"), "wb") as voice:
        voice.setparams(whole.getparams())
        samples = np.frombuffer(whole.readframes(whole.getnframes()), "<i2")
        voice.writeframes(np.resize(samples, round(seconds * whole.getframerate())).tobytes())
    return folder / "voice.wav"


def play(bundle: Path, audio: Path, out: Path) -> None:
    """Python's player as `echoedge animate` runs it, but for the film: writes what the engine's command line writes."""
    setting = Setting.of(Bundle.open(bundle), Wanted(prompt=PROMPT))
    clip = setting.clip
    portrait, speech = read_portrait(PORTRAIT, clip.height, clip.width), read_speech(audio, clip.sample_rate, clip.fps)
    player = setting.player(len(speech) / clip.sample_rate)
    run, told = player.engine.run, dict[str, Any]()

    def watched(program: str, method: str, inputs: Any) -> Any:
        if program == "denoise":
            told.setdefault("first_denoise_at", round(1000 * time.time()))
        return run(program, method, inputs)

    player.engine.run = watched  # type: ignore[method-assign]
    made = player.generate(portrait, speech, PROMPT, SEED)
    frames = np.stack(list(player.frames_of(made)))
    out.mkdir()
    made.latents.tofile(out / "latents.f32")
    frames.tofile(out / "frames.u8")
    (out / "played.json").write_text(json.dumps(told | {"frames": len(frames), "seconds": made.seconds}))


def commands(bundle: Path, audio: Path, folder: Path, engines: Iterable[str]) -> dict[str, list[str]]:
    """By player, with OUT where it writes."""
    served = [sys.executable, "-m", "echoedge.cli", "serve-programs", str(bundle)]
    given = ["--audio", str(audio), "--prompt", PROMPT, "--seed", str(SEED), "--out", "OUT", "--", *served]
    found = {"python": [sys.executable, __file__, "--play", str(bundle), str(audio), "OUT"]}
    for name in engines:
        image = ENGINES[name].picture(PORTRAIT, folder)
        found[name] = [*ENGINES[name].started(), "play", str(bundle), "--image", str(image), *given]
    return found


def timed(command: list[str], out: Path) -> dict[str, Any]:
    """One clip: what was told, with milliseconds to the first call of the denoiser, to the end, and of CPU in all."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.time()
    subprocess.run([str(out) if word == "OUT" else word for word in command], check=True, stdout=subprocess.DEVNULL)
    ended, after, told = time.time(), resource.getrusage(resource.RUSAGE_CHILDREN), json.loads((out / "played.json").read_text())
    first, denoise = told["first_denoise_at"] - 1000 * began, 1000 * told["seconds"]["denoise"]
    cpu = 1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return told | {"to_first_denoise_ms": first, "whole_ms": 1000 * (ended - began), "denoise_ms": denoise, "cpu_ms": cpu}


def held_to_vectors(folder: Path, engine: EngineBuild) -> Row:
    """How many golden vectors of this build, and tests in all, an engine has passed.

    Raises:
        SystemExit: it has not.
    """
    environment = os.environ | {"ECHOEDGE_VECTORS": str(folder)}
    ended = subprocess.run([sys.executable, engine.script, "test"], env=environment, capture_output=True, text=True, check=False)
    found = re.findall(rf"^(\d+) (?:golden vectors|tests of the {engine.name} engine\b.* passed)", ended.stdout, re.MULTILINE)
    if ended.returncode or len(found) != 2:
        sys.exit(f"The {engine.name} engine does not pass its tests:\n{ended.stdout[-2000:]}{ended.stderr[-2000:]}")
    return {"engine": engine.name, "vectors": int(found[0]), "tests": int(found[1])}


def line_rows(engines: Iterable[str]) -> list[Row]:
    """Lines of code by what they are for, of each engine."""
    rows: list[Row] = []
    for name in engines:
        files = {path.stem: code_lines(path.read_text(encoding="utf-8")) for path in ENGINES[name].files()}
        for part, names in parts(files).items():
            row = next((row for row in rows if row["part"] == part), None)
            if row is None:
                rows.append(row := {"part": part})
            row[name] = sum(files[each] for each in names)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--seconds", type=float, default=2.0, help="of speech: beyond one, windows")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--engines", nargs="+", choices=list(ENGINES), default=list(ENGINES), help="of those: all")
    parser.add_argument("--record", type=Path, metavar="FILE", help="keep the figures there: records/players.json")
    parser.add_argument("--play", nargs=3, type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.play:
        return play(*asked.play)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as scratch:
        folder, bundle = Path(scratch), asked.bundle
        vectors = ["vectors", "--out", str(folder / "vectors")]
        subprocess.run([sys.executable, "-m", "echoedge.cli", *vectors], check=True, stdout=subprocess.DEVNULL)
        passed = [held_to_vectors(folder / "vectors", ENGINES[name]) for name in asked.engines]
        if bundle is None:
            bundle = folder / "nano.echoedge"
            export = ["export", "--weights", "int8", "--steps", "2", "--jobs", "1", "--out", str(bundle)]
            subprocess.run([sys.executable, "-m", "echoedge.cli", *export], check=True)
        audio = spoken(folder, asked.seconds)
        players = commands(bundle, audio, folder, asked.engines)
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in players}
        for number in range(asked.runs + 1):  # the first run of each warms the page cache and is left out
            for name, command in players.items():
                taken = timed(command, folder / f"{name}-{number}")
                if number:
                    runs[name].append(taken)
        latents = [np.fromfile(folder / f"{name}-1" / "latents.f32", "<f4") for name in runs]
        frames = [np.fromfile(folder / f"{name}-1" / "frames.u8", np.uint8).astype(int) for name in runs]
        manifest = Bundle.open(bundle).manifest
    assert all(each.shape == kind[0].shape for kind in (latents, frames) for each in kind)
    bits = [array.view(np.uint32) for array in latents]
    rows: list[Row] = [
        {
            "player": name,
            **{key: round(statistics.median(run[key] for run in runs[name]), 1) for key in TIMES},
            "latents": latents[0].size,
            "latents_that_differ": int(np.sum(bits[place] != bits[0])),
            "frames": runs[name][0]["frames"],
            "largest_difference": int(np.abs(frames[place] - frames[0]).max()),
        }
        for place, name in enumerate(runs)
    ]
    for row in rows:
        row["start_by_python"] = round(row["to_first_denoise_ms"] / rows[0]["to_first_denoise_ms"], 3)  # type: ignore[operator]
    lines = line_rows(asked.engines)
    print(json.dumps({"vectors": passed, "players": rows, "lines": lines}, indent=1))
    if asked.record:
        shape = manifest.clips[0].spec()
        conditions = (
            f"{manifest.model.preset}, {manifest.weights.name}, {asked.seconds:g} s of speech, {shape}; medians of "
            f"{asked.runs} fresh processes each, in turn, load {load:.1f}. The Kotlin engine runs in a Java virtual machine, the "
            "Swift engine as a program of this processor, which is given the portrait as PPM; their programs run in a second "
            "process, of Python: a host's figures, no phone's. Differences are from Python's player."
        )
        source = f"`python tests/benchmarks/players.py --record {asked.record}`, which writes this file."
        write_figures(
            asked.record, command=shlex.join(["python", *sys.argv]), source=source, hardware=device_name(),
            versions=library_versions(), conditions=conditions, figures={"vectors": passed, "players": rows, "lines": lines},
        )  # fmt: skip
    return None


if __name__ == "__main__":
    main()
