"""Apple's runtime: `.aimodel` folders, loaded and called by names, on the processor.

The runtime is asynchronous. All calls run in one event loop, which has a thread of its own, so that they work wherever they are
made from. It reads no `.aimodel` as it is on Linux: the library compiles one to a temporary folder when it is loaded.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ...core.errors import EngineError
from .library import INSTALL, RUNTIME, misfit, quiet

SUFFIX, BYTECODE, HASH = ".aimodel", "main.mlirb", "main.hash"
METHODS = "methods.json"  # beside a program's folders
FUNCTION = "main"
_MAGIC = b"ML\xefR"  # of MLIR's bytecode
Array = NDArray[Any]
Result = TypeVar("Result")


def require_runtime() -> None:
    """Raises EngineError: the package is missing, or another version than the one that it has to be."""
    wrong = misfit(RUNTIME)
    if wrong is not None:
        raise EngineError(f"The engine coreai needs {wrong}. {INSTALL}")


@dataclass(frozen=True)
class Signature:
    """How a method is called: the names of its inputs and outputs in the record's order, and of the folders that run for it, one
    after the other. Each takes what the call gives and what those before it have made."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    parts: tuple[str, ...]


def write_signatures(folder: Path, methods: Mapping[str, Signature]) -> None:
    (folder / METHODS).write_text(json.dumps({name: asdict(each) for name, each in methods.items()}, indent=1) + "\n")


def read_signature(folder: Path, method: str) -> Signature:
    """Of a program's method.

    Raises:
        EngineError: the folder does not tell.
    """
    path = folder / METHODS
    try:
        known = json.loads(path.read_text())[method]
        return Signature(*(tuple(str(name) for name in known[field.name]) for field in fields(Signature)))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineError(f"{path} does not tell how {method} is called ({error!r}). Export the bundle again.") from error


@cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="coreai", daemon=True).start()
    return loop


def _done(work: Coroutine[Any, Any, Result]) -> Result:
    return asyncio.run_coroutine_threadsafe(work, _loop()).result()


class Loaded:
    """One `.aimodel`, ready to run until it is closed.

    Raises:
        EngineError: the runtime is not here, or the folder is damaged, or the runtime refuses it.
    """

    def __init__(self, path: Path) -> None:
        require_runtime()
        self.path = path
        _require_whole(path)
        from coreai.authoring.asset import AIModelAsset

        try:
            with quiet():
                self._held = AIModelAsset.load(path).executable()
                self._function = _done(self._held.__aenter__()).load_function(FUNCTION)
        except Exception as error:  # the library's own kinds have no common one
            raise EngineError(f"{path} cannot be loaded by Core AI ({_first_line(error)}). Export the bundle again.") from error
        known = self._function.desc
        self.inputs = {name: (known.input_descriptor(name).dtype, known.input_descriptor(name).shape) for name in known.input_names}
        self.outputs = tuple(known.output_names)

    def run(self, given: Mapping[str, Array]) -> dict[str, Array]:
        """Arrays by name -> arrays by name, which are the caller's own. Whole numbers go in as the file's narrower ones.

        Raises:
            EngineError: an input is missing or too large for its type, or the runtime refuses.
        """
        import coreai.runtime as library

        feed: dict[str, Any] = {}
        for name, (dtype, _) in self.inputs.items():
            if name not in given:
                raise EngineError(f"{self.path} takes {name}, which is not given. It takes: {', '.join(self.inputs)}.")
            feed[name] = library.NDArray(_narrowed(name, given[name], dtype))

        try:
            found: Mapping[str, Any] = _done(self._function(feed))
            return {name: np.array(found[name].numpy()) for name in self.outputs}
        except Exception as error:  # the library's own kinds have no common one
            raise EngineError(f"{self.path} failed in Core AI: {_first_line(error)}") from error

    def close(self) -> None:
        """Frees it, and the temporary folder behind it."""
        del self._function
        _done(self._held.__aexit__(None, None, None))


class Chain:
    """A method of a program, ready to run until it is closed.

    Raises:
        EngineError: the program has no such method, or as `Loaded`.
    """

    def __init__(self, folder: Path, method: str) -> None:
        self.label, self.signature = f"{method} of {folder}", read_signature(folder, method)
        self.parts: list[Loaded] = []
        try:
            for name in self.signature.parts:
                self.parts.append(Loaded(folder / name))
        except EngineError:
            self.close()
            raise

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """Inputs and outputs in the record's order: the library gives its own in another.

        Raises:
            EngineError: as `Loaded.run`, or an output is missing.
        """
        given, made = dict(zip(self.signature.inputs, inputs, strict=True)), dict[str, Array]()
        for part in self.parts:
            made |= part.run(given | made if made else given)
        missing = [name for name in self.signature.outputs if name not in made]
        if missing:
            raise EngineError(f"{self.label} gives {', '.join(made)}, and no {missing[0]}. Export the bundle again.")
        return [made[name] for name in self.signature.outputs]

    def close(self) -> None:
        while self.parts:
            self.parts.pop().close()


def _require_whole(path: Path) -> None:
    """Refuses a folder whose program is none, or not the one that its hash is of: the runtime would end the process over it."""
    program, digest = path / BYTECODE, path / HASH
    if not program.is_file() or not digest.is_file():
        missing = program if not program.is_file() else digest
        raise EngineError(f"{missing} is not there. Copy the bundle again, or export it again.")
    with program.open("rb") as file:
        begin = file.read(len(_MAGIC))
        file.seek(0)
        found = hashlib.file_digest(file, "sha256").digest()
    if begin != _MAGIC or found != digest.read_bytes():
        raise EngineError(f"{program} is not the program that {HASH} beside it is of. Export the bundle again.")


def _narrowed(name: str, array: Array, dtype: str) -> Array:
    if str(array.dtype) == dtype:
        return np.ascontiguousarray(array)
    found = np.ascontiguousarray(array, np.dtype(dtype))
    if not np.array_equal(found, array):
        raise EngineError(f"{name} has values that are no {dtype}, which the file takes.")
    return found


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
