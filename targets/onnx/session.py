"""ONNX Runtime: graphs loaded for a device, with proof of what runs where.

The library reports on its users unless it is told not to before it is imported: `library` tells it.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...core.errors import EngineError
from .stale import stale_dimension, told

SUFFIX, WEIGHTS = ".onnx", "weights.data"  # of a method's graph, and the file beside it that all of a program's share
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}  # by device
_RECORD_PLACES = "session.record_ep_graph_assignment_info"
# Without it sums of two products of 8 bits are cut off at 16 bits on x86 without VNNI (onnxruntime 1.31.1, MatMulInteger).
_EXACT_PRODUCTS = "session.x64quantprecision"
_HARMLESS = ("Shape", "Gather", "Slice", "Concat", "Cast", "Range", "Squeeze", "Unsqueeze", "Reshape", "Add", "Mul", "Div", "Where")


def library() -> Any:
    """onnxruntime, which keeps to itself.

    Raises:
        EngineError: it is not installed.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineError(
            f"The engine onnx needs onnxruntime, which is not here ({error}). pip install 'echoedge[onnx]'"
        ) from error
    return onnxruntime


def provider(device: str) -> str:
    """The execution provider of a device.

    Raises:
        EngineError: this onnxruntime does not have it.
    """
    name, here = PROVIDERS[device], library().get_available_providers()
    if name not in here:
        raise EngineError(
            f"The bundle is for {device}, and this onnxruntime has no {name}; it has {', '.join(here)}. Install onnxruntime-gpu in "
            "place of onnxruntime on a machine with that device, or export with --device cpu."
        )
    return name


@dataclass(frozen=True)
class Placed:
    """Which provider runs what of a graph, as the session says: operator -> count, by provider."""

    nodes: Mapping[str, Mapping[str, int]]

    def elsewhere(self, wanted: str) -> dict[str, int]:
        """Operators that another provider runs, without those that only compute shapes."""
        found: Counter[str] = Counter()
        for name, operators in self.nodes.items():
            if name != wanted:
                found.update({op: n for op, n in operators.items() if op not in _HARMLESS})
        return dict(found)


def open_session(path: Path, device: str, threads: int = 0, profile: Path | None = None) -> Any:
    """A graph, ready to run. `threads`: 0 leaves the library's choice; `profile`: the stem of the file that a profile goes to.

    Raises:
        EngineError: the device is not here, the file is damaged, or a part of it would silently run on another device.
    """
    ort, name = library(), provider(device)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    options.add_session_config_entry(_RECORD_PLACES, "1")
    options.add_session_config_entry(_EXACT_PRODUCTS, "1")
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    _require_whole(path)
    try:
        session = ort.InferenceSession(str(path), options, providers=[name])
    except Exception as error:  # the library's own kinds have no common one
        if "out of bounds" in str(error):
            raise EngineError(
                f"{path.with_name(WEIGHTS)} is cut off: {path.name} reads more than it has. Copy the bundle again."
            ) from error
        stale = _stale(path)
        if stale is not None:
            raise EngineError(told(path, stale)) from error
        raise EngineError(f"{path} cannot be loaded by ONNX Runtime ({_first_line(error)}). Export the bundle again.") from error
    session.disable_fallback()
    require_placed(path.name, placed(session), name, session.get_providers())
    return session


def _stale(path: Path) -> str | None:
    """As `stale_dimension`, where the package onnx is here and reads the file."""
    try:
        return stale_dimension(path)
    except Exception:  # what the runtime said is told then
        return None


def _require_whole(path: Path) -> None:
    data = path.with_name(WEIGHTS)
    if not path.is_file() or not data.is_file():
        missing = path if not path.is_file() else data
        raise EngineError(f"{missing} is not there. Copy the bundle again, or export it again.")


def placed(session: Any) -> Placed:
    found: dict[str, Counter[str]] = {}
    for subgraph in session.get_provider_graph_assignment_info():
        counts = found.setdefault(subgraph.ep_name, Counter())
        counts.update(node.op_type for node in subgraph.get_nodes())
    return Placed({name: dict(counts) for name, counts in found.items()})


def require_placed(label: str, found: Placed, wanted: str, providers: Sequence[str]) -> None:
    """Refuses a session that runs elsewhere than it was asked to.

    Raises:
        EngineError: the provider is not in the session, or another one runs operators that compute.
    """
    if wanted not in providers:
        raise EngineError(f"{label} was to run on {wanted}, and the session fell back to {', '.join(providers)}. Mend its driver.")
    outside = found.elsewhere(wanted)
    if outside:
        listed = ", ".join(f"{operator} ×{count}" for operator, count in sorted(outside.items()))
        raise EngineError(
            f"Of {label} these run on another device than {wanted}: {listed}. Export with --device cpu to play there."
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__


# ---- which attention ------------------------------------------------------------------------------------------------------------

_KERNEL = re.compile(r"ONNX Attention: using ([A-Za-z ]+)")


@contextmanager
def heard() -> Iterator[list[str]]:
    """What the library writes to the system's error stream meanwhile; the list has it, as one text, at the end."""
    told: list[str] = []
    sys.stderr.flush()
    with tempfile.TemporaryFile() as file:
        kept = os.dup(2)
        try:
            os.dup2(file.fileno(), 2)
            yield told
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            told.append(file.read().decode(errors="replace"))


def require_flash(label: str, log: str) -> None:
    """Refuses a call on CUDA whose verbose log does not name flash attention.

    Raises:
        EngineError: attention ran as something else, which the message names.
    """
    kernels = Counter(name.strip() for name in _KERNEL.findall(log))
    if not any(name.startswith("Flash") for name in kernels):
        listed = ", ".join(f"{name} ×{count}" for name, count in kernels.items()) or "nothing that the log names"
        raise EngineError(
            f"{label} was to use flash attention on CUDA, and it used {listed}. It needs fp16 and heads of at most 256 "
            "channels; see that ORT_DISABLE_FLASH_ATTENTION is not set, and export with --device cuda --precision fp16."
        )


# ---- what a call does -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Profiled:
    """One call: kernels, FLOPs and seconds by (provider, operator), of the graph as the runtime runs it."""

    kernels: Mapping[tuple[str, str], int]
    flops: Mapping[tuple[str, str], int]
    seconds: Mapping[tuple[str, str], float]

    @property
    def operators(self) -> dict[str, int]:
        """How many kernels each provider ran."""
        return _by_provider(self.kernels)

    @property
    def flops_by_provider(self) -> dict[str, int]:
        return _by_provider(self.flops)

    def slowest(self, most: int = 3) -> dict[str, float]:
        """Operators by their share of the time, the largest first."""
        total, found = sum(self.seconds.values()) or 1.0, Counter[str]()
        for (_, operator), seconds in self.seconds.items():
            found[operator] += seconds / total  # type: ignore[assignment]
        return dict(found.most_common(most))


def _by_provider(counts: Mapping[tuple[str, str], int]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for (name, _), count in counts.items():
        found[name] += count
    return dict(found)


def profile(path: Path, device: str, inputs: Mapping[str, Any], threads: int = 0) -> Profiled:
    """Runs a graph twice and tells what the second call did. Raises as `open_session`."""
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(path, device, threads, Path(folder) / "profile")
        feed = {name: np.asarray(value) for name, value in inputs.items()}
        session.run(None, feed)
        session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text())
    ran = [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]
    kernels, flops, seconds = Counter[tuple[str, str]](), Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for event in ran[len(ran) // 2 :]:
        known = event["args"]
        place = (known["provider"], known["op_name"])
        kernels[place] += 1
        flops[place] += flops_of(known["op_name"], _shapes(known, "input"), _shapes(known, "output"))
        seconds[place] += event["dur"] / 1e6  # type: ignore[assignment]
    return Profiled(dict(kernels), dict(flops), dict(seconds))


def _shapes(known: Mapping[str, Any], side: str) -> list[list[int]]:
    return [next(iter(each.values())) for each in known.get(f"{side}_type_shape", [])]


def flops_of(operator: str, inputs: Sequence[Sequence[int]], outputs: Sequence[Sequence[int]]) -> int:
    """Of matrix products, convolutions and attention; two for a multiplication and addition. Others have none."""
    if not inputs or not outputs:
        return 0
    out = math.prod(outputs[0])
    if operator in ("MatMul", "FusedMatMul", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "MatMulNBits"):
        return 2 * out * inputs[0][-1]
    if operator in ("Gemm", "FusedGemm"):
        return 2 * out * (math.prod(inputs[0]) // outputs[0][0])
    if operator in ("Conv", "FusedConv", "NhwcFusedConv"):
        return 2 * out * math.prod(inputs[1][1:])
    if operator == "ConvTranspose":
        return 2 * math.prod(inputs[0]) * math.prod(inputs[1][1:])
    if operator in ("Attention", "MultiHeadAttention"):
        q, k = inputs[0], inputs[1]
        return 4 * math.prod(q[:-1]) * q[-1] * k[-2]
    return 0
