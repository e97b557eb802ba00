"""`echoedge serve-programs`: a real bundle played through two pipes gives what it gives in one process; faults are answers."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echoedge.core.bundle import Bundle
from echoedge.core.errors import EngineError
from echoedge.runtime.engines import open_engine
from echoedge.runtime.play.player import Player, PlayerConfig
from echoedge.runtime.serving.programs import Server, _answer_all

from ...commands import Run, complaint
from .client import Client, ServedError, message, parsed

BUNDLE = Path(__file__).parents[2] / "data" / "bundles" / "format-1"  # compiled by ExecuTorch for XNNPACK; a few hundred kilobytes
RUN = {"do": "run", "program": "image_encoder", "method": "forward"}


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with Client(BUNDLE) as client:
        yield client


def portrait() -> dict[str, np.ndarray]:
    shape = Bundle.open(BUNDLE).input_shape("image_encoder", "portrait")
    return {"portrait": np.random.default_rng(1).uniform(-1, 1, shape).astype(np.float32)}


def played(engine: Any) -> tuple[np.ndarray, np.ndarray]:
    bundle, rng = Bundle.open(BUNDLE), np.random.default_rng(2)
    config = PlayerConfig.of(bundle)
    speech = (0.1 * rng.standard_normal(2 * config.clip.frames * config.clip.samples_per_frame - 5)).astype(np.float32)
    player = Player(config, engine)
    made = player.generate(portrait()["portrait"][0], speech, "a woman nods", 2**63 + 5)
    return made.latents, np.stack(list(player.frames_of(made)))


def test_a_bundle_plays_through_pipes_to_the_bit(client: Client) -> None:
    here, there = played(open_engine(Bundle.open(BUNDLE))), played(client)
    for one, other in zip(here, there, strict=True):
        assert (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
    assert np.ptp(here[0]) > 0.1
    assert here[1].shape[0] > 1


def test_the_greeting_tells_what_plays(client: Client) -> None:
    bundle = Bundle.open(BUNDLE)
    told = client.greeting
    assert (told["protocol"], told["ok"], told["engine"], told["clip"]) == (1, True, "executorch", str(bundle.clip))
    assert set(told["programs"]) == set(bundle.roles)
    assert told["threads"] >= 1


FAULTS: dict[str, tuple[dict[str, Any], Any, str, str]] = {
    "program": ({"program": "denoize"}, None, "engine", "no program 'denoize'. It has: "),
    "method": ({"method": "backward"}, None, "engine", "no method 'backward'. It has: forward"),
    "no method": ({"method": None}, None, "protocol", "method is 'None'; it has to be a text"),
    "verb": ({"do": "walk"}, None, "protocol", "do is 'walk'; choose from: run, load, free, shutdown"),
    "no verb": ({"do": 7}, None, "protocol", "do is '7'"),
    "shape": ({}, lambda p: {"portrait": p["portrait"][:, :2]}, "engine", "takes portrait as float32 [1, 3, "),
    "dtype": ({}, lambda p: {"portrait": p["portrait"].astype(np.int32)}, "engine", "not int32"),
    "missing": ({}, lambda _: {}, "engine", "image_encoder.forward takes portrait; the call lacks portrait."),
    "more": ({}, lambda p: {**p, "voice": p["portrait"]}, "engine", "the call has no voice"),
    "loading what is not there": ({"do": "load", "program": "x"}, lambda _: {}, "engine", "no program 'x'"),
    "freeing what is not there": ({"do": "free", "program": "x"}, lambda _: {}, "engine", "no program 'x'"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_an_answer_and_the_next_call_works(name: str, client: Client) -> None:
    header, change, kind, told = FAULTS[name]
    right = client.ask(RUN, portrait())[1]["tokens"]
    with pytest.raises(ServedError) as refused:
        client.ask({**RUN, **header}, change(portrait()) if change else portrait())
    assert (refused.value.kind, refused.value.fatal) == (kind, False)
    assert told in str(refused.value)
    answer, found = client.ask(RUN, portrait())
    assert found["tokens"].tobytes() == right.tobytes()
    assert 0 < answer["seconds"] < 60


def test_a_header_that_is_none_is_an_answer(client: Client) -> None:
    client.send(message(None, portrait(), raw=b"{not json"))
    answer = client.receive()
    assert answer is not None
    assert (answer[0]["id"], answer[0]["ok"], answer[0]["fatal"], answer[0]["error"]["kind"]) == (None, False, False, "protocol")
    client.ask(RUN, portrait())


def test_programs_are_loaded_and_freed(client: Client) -> None:
    client.ask({"do": "free"})
    assert client.ask({"do": "free"})[0]["freed"] == 0
    assert client.ask({"do": "load", "program": "vae_decode"})[0]["seconds"] > 0
    first = client.ask(RUN, portrait())[1]["tokens"]
    assert client.ask({"do": "free", "program": "image_encoder"})[0]["freed"] == 1
    assert client.ask({"do": "free", "program": "image_encoder"})[0]["freed"] == 0
    assert client.ask(RUN, portrait())[1]["tokens"].tobytes() == first.tobytes()
    assert client.ask({"do": "free"})[0]["freed"] == 2


def started(bundle: Path, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "echoedge.cli", "serve-programs", str(bundle), *options]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.parametrize(
    ("sent", "status", "answers"),
    [
        (b"", 0, []), (message({"do": "shutdown", "id": "end"}) + b"not read any more", 0, [{"id": "end", "ok": True}]),
        (b"GET / HTTP/1.1\r\n\r\n", 2, ["begins with b'GET '"]), (message(RUN)[:30], 2, ["A header ends after"]),
        (b"EEP1\0", 2, ["The lengths of a message"]),
    ],
)  # fmt: skip
def test_how_it_ends(sent: bytes, status: int, answers: list[Any]) -> None:
    process = started(BUNDLE)
    out, err = process.communicate(sent, timeout=100)
    stream = io.BytesIO(out)
    told = [found[0] for found in iter(lambda: parsed(stream.read), None)]
    assert told.pop(0)["ok"]
    assert process.returncode == status
    assert b"Traceback" not in err
    assert len(told) == len(answers)
    for one, wanted in zip(told, answers, strict=True):
        if isinstance(wanted, dict):
            assert one == wanted
        else:
            assert wanted in one["error"]["message"]
            assert (one["error"]["kind"], one["fatal"]) == ("protocol", True)


@pytest.mark.parametrize(
    ("place", "options", "kind", "told"),
    [
        ("nothing.echoedge", (), "bundle", "There is no bundle nothing.echoedge"),
        (BUNDLE, ("--clip", "8x8x9"), "config", "--clip is '8x8x9'"),
        (BUNDLE, ("--engine", "steam"), "engine", "There is no engine 'steam'"),
        (BUNDLE, ("--engine", "onnx"), "engine", "the onnx engine cannot play it"),
    ],
)  # fmt: skip
def test_what_cannot_be_opened_is_the_greeting(place: Any, options: tuple[str, ...], kind: str, told: str) -> None:
    process = started(place, *options)
    out, err = process.communicate(b"", timeout=100)
    stream = io.BytesIO(out)
    found = parsed(stream.read)
    assert found is not None
    assert (found[0]["ok"], found[0]["fatal"], found[0]["error"]["kind"]) == (False, True, kind)
    assert told in found[0]["error"]["message"]
    assert (process.returncode, stream.read()) == (2, b"")
    assert b"Traceback" not in err


def test_a_bundle_that_is_replaced_is_told(tmp_path: Path) -> None:
    copy = tmp_path / "b.echoedge"
    shutil.copytree(BUNDLE, copy)
    with Client(copy) as client:
        path = next((copy / "programs").glob("image_encoder*"))
        path.write_bytes(path.read_bytes()[::-1])
        with pytest.raises(ServedError, match="was replaced while it was in use") as refused:
            client.ask(RUN, portrait())
        assert (refused.value.kind, refused.value.fatal) == ("bundle", False)


def test_a_keyboard_is_no_player(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    assert "reads messages of another process, not a keyboard" in complaint(run("serve-programs", BUNDLE))


def test_nobody_reads_any_more() -> None:
    process = started(BUNDLE)
    assert process.stdout is not None and process.stdin is not None and process.stderr is not None
    assert parsed(process.stdout.read) is not None
    process.stdout.close()
    process.stdin.write(2 * message(RUN, portrait()))
    process.stdin.close()
    assert process.wait(timeout=100) == 2
    assert b"Traceback" not in process.stderr.read()


# ---- any sequence of messages ----------------------------------------------------------------------------------------------------


class Echo:
    """An engine that gives back as many numbers as the program has outputs, or fails."""

    name, threads = "echo", 1

    def has(self, program: str) -> bool:
        return True

    def run(self, program: str, method: str, inputs: Any) -> list[np.ndarray]:
        if inputs[0].flat[0] < 0:
            raise EngineError("It fails.")
        return [inputs[0]]


# By name: the message, the id that its answer has, and whether it is one of success.
PARTS: dict[str, tuple[bytes, Any, bool]] = {
    "right": (message(RUN | {"id": 1}, portrait()), 1, True),
    "fails": (message(RUN | {"id": 2}, {"portrait": -np.abs(portrait()["portrait"])}), 2, False),
    "no tensors": (message(RUN | {"id": 3}), 3, False),
    "load": (message({"do": "load", "id": 4}), 4, False),
    "no verb": (message({"id": [5]}), [5], False),
    "no object": (message([6]), None, False),
    "no text": (message(None, raw=b"\xff"), None, False),
    "listed wrongly": (message(RUN | {"id": 7, "tensors": [{"name": "portrait"}]}), 7, False),
}
SHUTDOWN = message({"do": "shutdown"})
TAILS = st.sampled_from([b"", SHUTDOWN, message(RUN, portrait())[:-1]]) | st.binary(min_size=1, max_size=30)


@settings(max_examples=60, deadline=None)
@given(parts=st.lists(st.sampled_from(sorted(PARTS)), max_size=6), tail=TAILS)
def test_every_message_has_its_answer_in_its_place(parts: list[str], tail: bytes) -> None:
    bundle, sink = _opened(), io.BytesIO()
    sent = b"".join(PARTS[part][0] for part in parts) + tail
    ended_well = _answer_all(Server(bundle, bundle.clip, Echo()), io.BytesIO(sent), sink)
    stream = io.BytesIO(sink.getvalue())
    answers = [found[0] for found in iter(lambda: parsed(stream.read), None)]
    assert ended_well == (tail in (b"", SHUTDOWN))
    assert [(told["id"], told["ok"]) for told in answers[: len(parts)]] == [PARTS[part][1:] for part in parts]
    assert not any(told.get("fatal") for told in answers[: len(parts)])
    assert [told.get("fatal", False) for told in answers[len(parts) :]] == ([tail != SHUTDOWN] if tail else [])


def _opened(_kept: list[Bundle] = []) -> Bundle:  # noqa: B006
    if not _kept:
        _kept.append(Bundle.open(BUNDLE))
    return _kept[0]
