"""Ends commands at drawn moments by SIGHUP, SIGINT, SIGTERM and SIGKILL, and looks at what they leave.

    python tests/benchmarks/kills.py --bundle BUNDLE [--verbs animate export train search] [--moments 20] [--journal FILE]
        [--record records/kills.json]

After each end: no process of it goes on, nothing lies under the output's name that is not whole, and nothing else in the folder
that `echoedge doctor` does not name. Then the same command starts again, or goes on; after the last moment it is left alone and has
to finish. With a journal, moments that are in it are not done again. Prints JSON; exit status 1 where something was wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from echoedge.core.bundle import Bundle
from echoedge.core.errors import EchoEdgeError
from echoedge.core.versions import library_versions
from echoedge.core.weights.nano import assets, load_nano, weights_path
from echoedge.docs.figures import Row, write_figures
from echoedge.quantize.recipes import read_recipe
from echoedge.runtime.bench.clip import device_name
from echoedge.runtime.play.clips import read_clip

Moment = dict[str, Any]  # when a command was ended by what, and what was wrong then
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
    with (folder.parent / "said.txt").open("wb") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "echoedge.cli", *verb.words], cwd=folder, stdout=subprocess.DEVNULL, stderr=said,
            start_new_session=True,
        )  # fmt: skip


def said_by(folder: Path) -> str:
    """The last line of what the command wrote to its error stream."""
    lines = (folder.parent / "said.txt").read_text(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "nothing")


def waited(process: subprocess.Popen[bytes], seconds: float) -> str | None:
    """Waits until the process and those that it started have ended; what is wrong where they do not, and they are killed."""
    limit = time.monotonic() + seconds
    try:
        process.wait(timeout=seconds)
        while time.monotonic() < limit:
            os.killpg(process.pid, 0)
            time.sleep(0.1)
    except ProcessLookupError:
        return None
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return f"had not ended after {seconds:.0f} s"
    os.killpg(process.pid, signal.SIGKILL)
    return f"left processes that had not ended after {seconds:.0f} s"


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


def ended_once(verb: Verb, number: signal.Signals, after: float, folder: Path) -> Moment:
    """Starts the command, ends it by a signal after so many seconds, and looks at what it leaves. A whole output is deleted."""
    process = started(verb, folder)
    time.sleep(after)
    status = process.poll()
    wrong = [f"it ended by itself with exit status {status}: {said_by(folder)}"] if status else []
    process.send_signal(number)
    late = waited(process, 60)
    wrong += [*([late] if late else []), *wrong_in(folder, verb)]
    output = folder / verb.output
    if output.is_dir():
        shutil.rmtree(output)
    output.unlink(missing_ok=True)
    return {"had_finished": status is not None, "wrong": wrong}


def left_alone(verb: Verb, folder: Path) -> Moment:
    status = started(verb, folder).wait()
    wrong = [f"left alone, it ended with exit status {status}: {said_by(folder)}"] if status else []
    return {"had_finished": True, "wrong": [*wrong, *wrong_in(folder, verb)]}


def moments_of(name: str, verb: Verb, count: int, folder: Path, done: list[Moment], keep: Callable[[Moment], None]) -> None:
    """Ends the command `count` times, then lets it finish; what is in `done` is not done again."""
    rng, known = random.Random(name), {row["moment"] for row in done}
    for moment in range(count):
        number, after = SIGNALS[moment % len(SIGNALS)], rng.uniform(0.05, verb.within)
        if moment not in known:
            row = ended_once(verb, number, after, folder)
            keep({"command": name, "moment": moment, "signal": number.name, "after": round(after, 2), **row})
    if "left alone" not in known:
        keep({"command": name, "moment": "left alone", **left_alone(verb, folder)})


def summary(name: str, rows: list[Moment]) -> Row:
    drawn = [row for row in rows if row["moment"] != "left alone"]
    finished, wrong = (sum(bool(row[key]) for row in some) for key, some in (("had_finished", drawn), ("wrong", rows)))
    return {"command": name, "ended": len(drawn), "had_finished": finished, "wrong": wrong}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--verbs", nargs="+", default=["animate", "export", "train", "search"])
    parser.add_argument("--moments", type=int, default=20)
    parser.add_argument("--bundle", type=Path, required=True, help="a bundle of nano, for animate")
    parser.add_argument("--journal", type=Path, metavar="FILE", help="keep every moment there, and go on behind what it holds")
    parser.add_argument("--record", type=Path, metavar="FILE", help="keep the figures there: records/kills.json")
    asked = parser.parse_args()
    for number in (
        signal.SIGHUP,
        signal.SIGINT,
    ):  # who starts this in the background may have switched them off, for the commands too
        signal.signal(number, signal.default_int_handler)
    journal: Path | None = asked.journal
    done = [json.loads(line) for line in journal.read_text().splitlines()] if journal and journal.exists() else list[Moment]()

    def keep(row: Moment) -> None:
        done.append(row)
        if journal:
            with journal.open("a") as file:
                file.write(json.dumps(row) + "\n")

    for name in asked.verbs:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch, "a folder")
            folder.mkdir()
            own = [row for row in done if row["command"] == name]
            moments_of(name, verbs(asked.bundle.resolve())[name], asked.moments, folder, own, keep)
    by_name = {name: [row for row in done if row["command"] == name] for name in asked.verbs}
    rows = [summary(name, own) for name, own in by_name.items()]
    wrong = [f"{row['command']}, {row['moment']}: {sentence}" for row in done for sentence in row["wrong"]]
    print(json.dumps({"rows": rows, "wrong": wrong}, indent=1))
    if asked.record:
        write_figures(
            asked.record, command="python tests/benchmarks/kills.py --bundle BUNDLE", source="the same with `--record`.",
            hardware=device_name(), versions=library_versions(), figures={"commands": rows},
            conditions="SIGHUP, SIGINT, SIGTERM and SIGKILL in turn, at moments drawn from one seed for each command; nano, short "
            "trainings and searches. Ended: how often; some had finished before their moment. Wrong: something half under an "
            "output's name, something beside it that `doctor` does not name, a process that goes on, the next run refused, or the "
            "same command, left alone, not finishing.",
        )  # fmt: skip
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
