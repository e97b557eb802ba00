"""Cold starts: wall and CPU time from the shell to the end of a command, medians of several runs in fresh processes.

    python tests/benchmarks/start.py BUNDLE [--runs 7] [--beside FOLDER BUNDLE]

`--beside`: another build, a folder that holds it under the name `echoedge`, and a bundle of nano that it has exported; its runs are
taken in turn with this build's. Prints JSON. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import wave
from pathlib import Path

from echoedge.core.weights.nano import assets
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--beside", nargs=2, metavar=("FOLDER", "BUNDLE"))
    asked = parser.parse_args()
    builds: dict[str, tuple[str | None, Path]] = {"this": (os.environ.get("PYTHONPATH"), asked.bundle)}
    if asked.beside:
        builds["beside"] = (asked.beside[0], Path(asked.beside[1]))
    told: dict[str, object] = {"device": device_name(), "load_average": os.getloadavg()[0], "runs": asked.runs}
    with tempfile.TemporaryDirectory() as scratch:
        for name in commands(asked.bundle, Path(scratch)):
            found: dict[str, list[tuple[float, float]]] = {build: [] for build in builds}
            for number in range(asked.runs + 1):  # the first run of each warms the page cache and is left out
                for build, (path, bundle) in builds.items():
                    taken = timed(commands(bundle, Path(scratch))[name], path)
                    if number:
                        found[build].append(taken)
            medians = {build: [statistics.median(column) for column in zip(*runs, strict=True)] for build, runs in found.items()}
            told[name] = {build: {"wall": round(wall, 3), "cpu": round(cpu, 3)} for build, (wall, cpu) in medians.items()}
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
