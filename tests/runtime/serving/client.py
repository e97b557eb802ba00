"""A client of `echoedge serve-programs`, written from docs/PLAYERS.md; what programs take it reads of the manifest."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from echoedge.core.bundle import Bundle

HEAD = struct.Struct("<4sIQ")


class ServedError(Exception):
    """An answer that is an error."""

    def __init__(self, answer: dict[str, Any]) -> None:
        super().__init__(answer["error"]["message"])
        self.kind, self.fatal = answer["error"]["kind"], answer["fatal"]


def message(header: Any, tensors: dict[str, np.ndarray] | None = None, *, raw: bytes | None = None) -> bytes:
    """`raw`: a header that is no JSON, or not of these tensors."""
    tensors = tensors or {}
    if tensors and raw is None:
        listed = [{"name": name, "dtype": str(array.dtype), "shape": list(array.shape)} for name, array in tensors.items()]
        header = {**header, "tensors": listed}
    told = json.dumps(header).encode() if raw is None else raw
    body = b"".join(np.ascontiguousarray(array).tobytes() for array in tensors.values())
    return HEAD.pack(b"EEP1", len(told), len(body)) + told + body


def parsed(read: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """The next message of a stream; None at its end."""
    start = read(HEAD.size)
    if not start:
        return None
    magic, size, length = HEAD.unpack(start)
    assert magic == b"EEP1"
    header, body = json.loads(read(size)), read(length)
    assert len(body) == length
    tensors, place = {}, 0
    for told in header.get("tensors", []):
        count = int(np.prod(told["shape"]))
        tensors[told["name"]] = np.frombuffer(body, told["dtype"], count, place).reshape(told["shape"])
        place += count * np.dtype(told["dtype"]).itemsize
    assert place == length
    return header, tensors


class Client:
    """A process of `serve-programs`. It is an engine: what a player asks `run`."""

    name = "served"

    def __init__(self, bundle: Path, *options: str) -> None:
        command = [sys.executable, "-m", "echoedge.cli", "serve-programs", str(bundle), *options]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.number = 0
        greeting = self.receive()
        assert greeting is not None, self.end()
        self.greeting = greeting[0]
        self.methods: dict[str, Any] = {}
        if self.greeting["ok"]:
            programs = Bundle.open(bundle).manifest.model_dump(mode="json")["programs"]
            self.methods = {role: programs[name]["methods"] for role, name in self.greeting["programs"].items()}

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def threads(self) -> int:
        return int(self.greeting["threads"])

    def has(self, program: str) -> bool:
        return program in self.methods

    def run(self, program: str, method: str, inputs: Any) -> list[np.ndarray]:
        specs = self.methods[program][method]
        tensors = {spec["name"]: array for spec, array in zip(specs["inputs"], inputs, strict=True)}
        _, found = self.ask({"do": "run", "program": program, "method": method}, tensors)
        assert list(found) == [spec["name"] for spec in specs["outputs"]]
        return list(found.values())

    def ask(
        self, header: dict[str, Any], tensors: dict[str, np.ndarray] | None = None
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        self.number += 1
        self.send(message({**header, "id": self.number}, tensors))
        answer = self.receive()
        assert answer is not None
        assert answer[0]["id"] == self.number
        if not answer[0]["ok"]:
            raise ServedError(answer[0])
        return answer

    def send(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def receive(self) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
        assert self.process.stdout is not None
        return parsed(self.process.stdout.read)

    def end(self) -> tuple[int, bytes, bytes]:
        """Closes the input -> status, what was still on standard output, and standard error."""
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err
