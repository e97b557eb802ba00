"""Cold starts: wall and CPU time from the shell to the end of a command, medians of several runs in fresh processes.

    python tests/benchmarks/start.py BUNDLE [--runs 7] [--beside FOLDER BUNDLE] [--record records/start.json]

`--beside`: another build, a folder that holds it under the name `echoedge`, and a bundle of nano that it has exported; its runs are
taken in turn with this build's. Prints JSON; `--record` keeps it as docs/FIGURES.md shows it. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
import wave
from pathlib import Path

from echoedge.core.versions import library_versions
from echoedge.core.weights.nano import assets
from echoedge.docs.figures import Row, write_figures
from echoedge.runtime.bench.clip import device_name

SPEECH_SECONDS = 0.3


def spoken(folder: Path) -> Path:
    """A WAV of the first 0.3 s of a demo voice."""
    with wave.open(str(assets() / "demo" / "hello.wav"), "rb") as whole, wave.open(str(folder / "short.wav"), "wb") as short:
        short.setparams(whole.getparams())
        short.writeframes(whole.readframes(round(SPEECH_SECONDS * whole.getframerate())))
    return folder / "short.wav"


def commands(bundle: Path, folder: Path) -> dict[str, list[str]]:
    portrait, speech, clip = assets() / "demo" / "ada.png", spoken(folder), folder / "clip.mp4"
    animate = ["animate", str(bundle), "--image", str(portrait), "--audio", str(speech), "--out", str(clip), "--force"]
    return {"animate": [*animate, "--prompt", "a woman speaks"], "inspect": ["inspect", str(bundle)], "--help": ["--help"]}


def timed(arguments: list[str], path: str | None) -> tuple[float, float]:
    """Wall and CPU seconds of one command."""
    environment = {**os.environ, **({"PYTHONPATH": path} if path else {})}
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-m", "echoedge.cli", *arguments], env=environment, check=True, capture_output=True)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def row_of(command: str, medians: dict[str, tuple[float, ...]]) -> Row:
    """A row of the record: medians of this build and of the one beside it, None without one."""
    row: Row = {"command": command}
    for build, prefix in (("this", ""), ("beside", "beside_")):
        for kind, seconds in zip(("wall", "cpu"), medians.get(build, (None, None)), strict=True):
            row[f"{prefix}{kind}_s"] = None if seconds is None else round(seconds, 3)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--beside", nargs=2, metavar=("FOLDER", "BUNDLE"))
    parser.add_argument("--record", type=Path, metavar="FILE", help="keep the figures there: records/start.json")
    asked = parser.parse_args()
    builds: dict[str, tuple[str | None, Path]] = {"this": (os.environ.get("PYTHONPATH"), asked.bundle)}
    if asked.beside:
        builds["beside"] = (asked.beside[0], Path(asked.beside[1]))
    load, rows = os.getloadavg()[0], []
    with tempfile.TemporaryDirectory() as scratch:
        for name in commands(asked.bundle, Path(scratch)):
            found: dict[str, list[tuple[float, float]]] = {build: [] for build in builds}
            for number in range(asked.runs + 1):  # the first run of each warms the page cache and is left out
                for build, (path, bundle) in builds.items():
                    taken = timed(commands(bundle, Path(scratch))[name], path)
                    if number:
                        found[build].append(taken)
            medians = {
                build: tuple(statistics.median(column) for column in zip(*runs, strict=True)) for build, runs in found.items()
            }
            rows.append(row_of(name, medians))
    print(json.dumps(rows, indent=1))
    if asked.record:
        source = f'`make bench-start ARGS="--record {asked.record} --beside FOLDER BUNDLE"`, which writes this file.'
        beside = Path(asked.beside[0]).name if asked.beside else "nothing"
        conditions = (
            f"From the shell to the end of the command, fresh processes, medians of {asked.runs}, builds in turn, load {load:.1f}. "
            f"`animate` makes an MP4 of nano from {SPEECH_SECONDS} s of speech. Beside: {beside}."
        )
        write_figures(
            asked.record, command=shlex.join(["python", *sys.argv]), source=source, hardware=device_name(),
            versions=library_versions(), conditions=conditions, figures={"commands": rows},
        )  # fmt: skip


if __name__ == "__main__":
    main()
