"""Two runs on one output: of every verb that writes the second is refused before it does anything, and told who holds it."""

from __future__ import annotations

import inspect
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from echoedge import api, api_players, api_studies
from echoedge.core.errors import EchoEdgeError, OutputError
from echoedge.core.files import CLAIM
from echoedge.core.work import claimed

from .commands import Run, complaint

# Arguments that are wrong at the first look: who looks at them before the claim says something else.
GIVEN: dict[str, dict[str, Any]] = {
    "export": {"model": "nothing"},
    "animate": {"image": "nothing", "audio": "nothing"},
    "train": {"workdir": "training", "clips": 64},
    "distill": {"workdir": "distillation"},
    "distill_checkpoint": {"checkpoint": "nothing", "data": "nothing", "prompts": "nothing"},
    "study": {"only": ["nothing"]},
    "steps_study": {"students": ["nothing"]},
    "contact_sheet": {"bundle": "nothing", "clip": "nothing", "image": "nothing"},
    "make_random": {"model": "nothing"},
    "encode_prompts": {"folder": "nothing", "texts": []},
    "record_baseline": {"preset": "nothing"},
    "search_recipe": {},
    "compare_roundings": {"work": "photos"},
    "write_vectors": {},
}  # fmt: skip
LONG = ("train", "distill")  # where nothing is wrong
RECORDING: dict[str, dict[str, Any]] = {"verify": {"engine": "nothing"}, "bench": {"engines": ["nothing"]}}
HOLDING = """
import sys, time
from contextlib import ExitStack
from echoedge.core.work import claimed
with ExitStack() as held:
    for path in sys.argv[1:]:
        held.enter_context(claimed(path, "animation"))
    print("ready", flush=True)
    time.sleep(60)
"""


@contextmanager
def held(*paths: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds these outputs."""
    process = subprocess.Popen([sys.executable, "-c", HOLDING, *map(str, paths)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def writes(verb: str) -> bool:
    parameters = inspect.signature(getattr(api, verb)).parameters
    return bool({"out", "record"} & parameters.keys())


MODULES = (api.__name__, api_players.__name__, api_studies.__name__)


def public() -> set[str]:
    return {name for name, what in vars(api).items() if inspect.isfunction(what) and what.__module__ in MODULES and name[0] != "_"}


def test_every_verb_that_writes_is_here() -> None:
    """A verb that is new and writes fails this: it has to be refused below."""
    assert {verb for verb in public() if writes(verb)} == GIVEN.keys() | RECORDING.keys()


def test_the_second_run_is_refused_at_once(bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("dear")
    bundle, output = tmp_path / "b.echoedge", tmp_path / "new folder" / "ausgabe é.json"
    shutil.copytree(bundle_path, bundle)
    calls = {verb: {**given, "out": output} for verb, given in GIVEN.items()}
    calls |= {verb: {**given, "bundle": bundle, "record": True} for verb, given in RECORDING.items()}
    with held(output, bundle / "records") as process:
        for verb, given in calls.items():
            began = time.process_time()
            with pytest.raises(OutputError) as refused:
                getattr(api, verb)(**given)
            place = output if "out" in given else bundle / "records"
            assert str(refused.value).startswith(f"{place} is used by another animation, process {process.pid}, which is running")
            assert time.process_time() - began < 5 or verb in LONG  # they import torch first
        with pytest.raises(EchoEdgeError, match="no engine 'nothing'"):
            api.verify(bundle, **RECORDING["verify"])  # without a record nothing is written
    for verb, given in calls.items():
        if verb in LONG:
            continue
        with pytest.raises(EchoEdgeError) as wrong:
            getattr(api, verb)(**given)
        assert "is used by" not in str(wrong.value), verb
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.echoedge", "distillation", "new folder", "photos", "training"]


def test_a_demo_holds_its_folder(run: Run, tmp_path: Path) -> None:
    with claimed(tmp_path / "demo", "demo"):
        assert "demo is used by another demo, process" in complaint(run("demo", "--out", tmp_path / "demo"))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_who_was_ended_holds_nothing(number: signal.Signals, tmp_path: Path) -> None:
    with held(tmp_path / "clip.mp4") as process:
        process.send_signal(number)
        process.wait(timeout=20)
        left = [path.name for path in tmp_path.iterdir()]
        assert left == ([f".clip.mp4{CLAIM}"] if number == signal.SIGKILL else [])
        with claimed(tmp_path / "clip.mp4", "animation"):
            pass
    assert list(tmp_path.iterdir()) == []
