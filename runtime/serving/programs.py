"""Requests in, answers out: the programs of one bundle, run by its engine, loaded when they are first asked for."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from ...core.bundle import Bundle
from ...core.config import ClipSpec
from ...core.errors import EchoEdgeError, EngineError
from ..engines import open_engine
from ..engines.around import Around
from ..engines.base import Engine, Loads, program_called, program_named
from ..play.setting import clip_of
from .wire import Array, ProtocolError, Sink, Source, header_of, receive, send, tensors_of

PROTOCOL: Final = 1
Answer = tuple[dict[str, Any], dict[str, Array]]


class _TooLittleMemory(EchoEdgeError):
    """What Python's own error of memory becomes."""


@dataclass
class Server:
    """Answers requests about a bundle's programs for clips of one shape."""

    bundle: Bundle
    clip: ClipSpec
    engine: Engine

    def greeting(self) -> dict[str, Any]:
        names = {role: self._name(role) for role in self.bundle.roles}
        return {
            "protocol": PROTOCOL, "ok": True, "engine": self.engine.name, "threads": self.engine.threads, "clip": str(self.clip),
            "programs": {role: name for role, name in names.items() if name is not None},
        }  # fmt: skip

    def run(self, header: dict[str, Any], tensors: dict[str, Array]) -> Answer:
        program, method = _text(header, "program"), _text(header, "method")
        specs = program_called(self.bundle, program, method, self.clip).methods[method]
        names = [spec.name for spec in specs.inputs]
        if set(names) != tensors.keys():
            lacking, strange = [name for name in names if name not in tensors], sorted(tensors.keys() - set(names))
            told = [f"lacks {', '.join(lacking)}"] * bool(lacking) + [f"has no {', '.join(strange)}"[:300]] * bool(strange)
            raise EngineError(f"{program}.{method} takes {', '.join(names)}; the call {' and '.join(told)}.")
        began = time.perf_counter()
        outputs = [np.asarray(output) for output in self.engine.run(program, method, [tensors[name] for name in names])]
        spent = time.perf_counter() - began
        return {"seconds": spent}, dict(zip((spec.name for spec in specs.outputs), outputs, strict=True))

    def load(self, header: dict[str, Any], _: dict[str, Array]) -> Answer:
        program, began = self._program(header), time.perf_counter()
        self.bundle.require_unchanged()
        self._loader().load(program)
        return {"seconds": time.perf_counter() - began}, {}

    def free(self, header: dict[str, Any], _: dict[str, Array]) -> Answer:
        program = self._program(header) if header.get("program") is not None else None
        return {"freed": self._loader().free(program)}, {}

    def _program(self, header: dict[str, Any]) -> str:
        program = _text(header, "program")
        program_named(self.bundle, program, self.clip)
        return program

    def _loader(self) -> Loads:
        inner = self.engine.engine if isinstance(self.engine, Around) else self.engine
        if not isinstance(inner, Loads):
            raise EngineError(f"The {inner.name} engine loads and frees programs by itself. Leave load and free out.")
        return inner

    def _name(self, role: str) -> str | None:
        try:
            found = self.bundle.program_for(role, self.clip)
        except EchoEdgeError:  # of another of the bundle's shapes alone
            return None
        return next(name for name, program in self.bundle.manifest.programs.items() if program is found)


VERBS: Final[dict[str, Callable[[Server, dict[str, Any], dict[str, Array]], Answer]]] = {
    "run": Server.run, "load": Server.load, "free": Server.free,
}  # fmt: skip
LAST: Final = "shutdown"


def serve(
    path: Path, source: Source, sink: Sink, *, engine: str = "auto", clip: str | None = None, threads: int | None = None
) -> bool:
    """Opens a bundle, greets, and answers every request until the source ends or `shutdown` comes. -> whether it ended so; else the
    last answer was a fatal error, or nobody reads answers any more. See docs/PLAYERS.md."""
    try:
        try:
            bundle = Bundle.open(path)
            shape = clip_of(bundle, clip)
            server = Server(bundle, shape, open_engine(bundle, engine, shape, threads))
        except EchoEdgeError as error:
            send(sink, {"protocol": PROTOCOL, **_refusal(None, error, fatal=True)})
            return False
        send(sink, server.greeting())
        return _answer_all(server, source, sink)
    except BrokenPipeError:
        return False


def _answer_all(server: Server, source: Source, sink: Sink) -> bool:
    while True:
        number = None
        try:
            raw = receive(source)
            if raw is None:
                return True
            header = header_of(raw)
            number = header.get("id")
            asked = _text(header, "do")
            if asked == LAST:
                send(sink, {"id": number, "ok": True})
                return True
            if asked not in VERBS:
                raise ProtocolError(f"do is {asked[:100]!r}; choose from: {', '.join(VERBS)}, {LAST}.")
            told, tensors = VERBS[asked](server, header, tensors_of(header, raw.body))
            send(sink, {"id": number, "ok": True, **told}, tensors)
        except MemoryError as error:
            _tell(sink, number, _TooLittleMemory(f"There is too little memory for this call ({error or 'no more is told'})."))
        except EchoEdgeError as error:
            if _tell(sink, number, error):
                return False


def _tell(sink: Sink, number: Any, error: EchoEdgeError) -> bool:
    """Answers with an error -> whether it is the last answer."""
    fatal = isinstance(error, ProtocolError) and error.fatal
    send(sink, _refusal(number, error, fatal))
    return fatal


def _refusal(number: Any, error: EchoEdgeError, fatal: bool) -> dict[str, Any]:
    kind = "resource" if isinstance(error, _TooLittleMemory) else type(error).__name__.removesuffix("Error").lower()
    return {"id": number, "ok": False, "error": {"kind": kind, "message": str(error)}, "fatal": fatal}


def _text(header: dict[str, Any], name: str) -> str:
    value = header.get(name)
    if not isinstance(value, str):
        raise ProtocolError(f"{name} is {str(value)[:100]!r}; it has to be a text.")
    return value
