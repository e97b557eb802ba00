"""Ends commands at drawn moments by SIGHUP, SIGINT, SIGTERM and SIGKILL, and looks at what they leave.

    python tests/benchmarks/kills.py [--verbs animate export train search] [--moments 20] [--record records/kills.json]

After each end: nothing under the output's name that is not whole, and nothing else in the folder that `echoedge doctor` does not
name. Then the same command, left alone, has to finish. Prints JSON; exit status 1 where something was wrong.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from echoedge.core.bundle import Bundle
from echoedge.core.errors import EchoEdgeError
from echoedge.core.versions import library_versions
from echoedge.core.weights.nano import assets, load_nano, weights_path
from echoedge.docs.figures import Row, write_figures
from echoedge.quantize.recipes import read_recipe
from echoedge.runtime.bench.clip import device_name
from echoedge.runtime.play.clips import read_clip

SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
DEMO = assets() / "demo"


@dataclass(frozen=True)
class Verb:
    """A command, what it writes, how to see that this is whole, what else of it may lie in the folder, and seconds within which it
    is ended."""

    words: list[str]
    output: str
    whole: Callable[[Path], object]
    beside: tuple[str, ...]
    within: float


def verbs(bundle: Path) -> dict[str, Verb]:
    speech = ["--image", str(DEMO / "ada.png"), "--audio", str(DEMO / "hello.wav")]
    train = ["--clips", "64", "--steps", "6", "--workdir", "training", "--start", str(weights_path()), "--keep-vae"]
    search = ["--max-bytes", "100000000", "--clips", "1", "--played", "2", "--work", "searching"]
    return {
        "animate": Verb(["animate", str(bundle), *speech, "--out", "clip.mp4"], "clip.mp4", read_clip, (), 2.5),
        "export": Verb(["export", "--frames", "5", "--out", "a.echoedge"], "a.echoedge", Bundle.open, (), 25.0),
        "train": Verb(
            ["train", "nano", "--out", "w.safetensors", *train], "w.safetensors", lambda path: load_nano(path=path), ("training",),
            25.0,
        ),
        "search": Verb(
            ["quantize", "search", "--out", "r.json", *search], "r.json", lambda path: read_recipe(str(path)), ("searching",), 25.0
        ),
    }  # fmt: skip


def started(verb: Verb, folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "echoedge.cli", *verb.words], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip


def named_by_doctor(folder: Path) -> set[str]:
    told = subprocess.run(
        [sys.executable, "-m", "echoedge.cli", "doctor", "--json"], cwd=folder, capture_output=True, check=False
    ).stdout
    return {Path(one["path"]).name for one in json.loads(told)["leftovers"]}


def wrong_in(folder: Path, verb: Verb) -> list[str]:
    """What lies in the folder and should not; a whole output may."""
    found = []
    output = folder / verb.output
    if output.exists():
        try:
            verb.whole(output)
        except EchoEdgeError as error:
            found.append(f"{verb.output} is not whole: {error}")
    # metrics and curves stand beside trained weights
    others = {path.name for path in folder.iterdir()} - {verb.output, *verb.beside, "metrics.json", "training.png"}
    found += [f"{name} is not named by doctor" for name in sorted(others - named_by_doctor(folder))]
    return found


def ended(name: str, verb: Verb, moments: int, folder: Path) -> tuple[Row, list[str]]:
    """Ends the command `moments` times, then lets it finish."""
    rng, wrong, finished = random.Random(name), list[str](), 0
    for moment in range(moments):
        number = SIGNALS[moment % len(SIGNALS)]
        process = started(verb, folder)
        after = rng.uniform(0.05, verb.within)
        time.sleep(after)
        finished += process.poll() is not None
        process.send_signal(number)
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            wrong.append(f"{name}: {number.name} after {after:.1f} s of run {moment + 1} had not ended it a minute later")
            process.kill()
            process.wait()
        time.sleep(1.5)  # its own processes end with it
        wrong += [f"{name}, {number.name}: {sentence}" for sentence in wrong_in(folder, verb)]
        output = folder / verb.output
        if output.is_file():
            output.unlink()
        elif output.is_dir():
            break  # finished; what is there is not replaced
    if not (folder / verb.output).exists():
        status = started(verb, folder).wait()
        if status:
            wrong.append(f"{name}: left alone, it ended with exit status {status}")
    wrong += [f"{name}, left alone: {sentence}" for sentence in wrong_in(folder, verb)]
    return {"command": name, "ended": moment + 1, "had_finished": finished, "wrong": len(wrong)}, wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--verbs", nargs="+", default=["animate", "export", "train", "search"])
    parser.add_argument("--moments", type=int, default=20)
    parser.add_argument("--bundle", type=Path, required=True, help="a bundle of nano, for animate")
    parser.add_argument("--record", type=Path, metavar="FILE", help="keep the figures there: records/kills.json")
    asked = parser.parse_args()
    rows, wrong = list[Row](), list[str]()
    for name in asked.verbs:
        with tempfile.TemporaryDirectory() as scratch:
            row, found = ended(name, verbs(asked.bundle.resolve())[name], asked.moments, Path(scratch))
            rows.append(row)
            wrong += found
    print(json.dumps({"rows": rows, "wrong": wrong}, indent=1))
    if asked.record:
        write_figures(
            asked.record, command="python tests/benchmarks/kills.py --bundle BUNDLE", source="the same with `--record`.",
            hardware=device_name(), versions=library_versions(), figures={"commands": rows},
            conditions="SIGHUP, SIGINT, SIGTERM and SIGKILL in turn, at drawn moments; nano, short trainings and searches.",
        )  # fmt: skip
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
