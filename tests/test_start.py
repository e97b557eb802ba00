"""Every command starts with what it needs: in a fresh process, what it has imported when it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from echoedge.core.weights.nano import assets

DEMO = assets() / "demo"
# Runs a command and tells of its modules: third parties' by name, and our own that hold torch.
TOLD = """
import json, runpy, sys
try:
    {run}
except SystemExit as end:
    assert not end.code, end.code
own = [n for n, m in sys.modules.items() if n.startswith("echoedge.") and "torch" in vars(m)]
print("\\n" + json.dumps([sorted(sys.modules), own]))
"""
COMMAND_LINE = "sys.argv = ['echoedge', *{arguments!r}]; runpy.run_module('echoedge.cli', run_name='__main__')"
LIBRARIES = "import av, numpy, PIL.Image, PIL.ImageOps, psutil, pydantic, rich.progress, rich.table, safetensors.numpy, typer.core"
COMPANIONS = {"annotated_types", "attr", "markdown_it", "mdurl", "pygments"}  # rich and pydantic import them when they are used
RUNTIME = {
    "executorch", "executorch.extension", "executorch.extension.pybindings", "executorch.extension.pybindings._portable_lib",
    "executorch.extension.pybindings.data_loader",
}  # fmt: skip
HEAVY = ("diffusers", "transformers", "torchao", "scipy", "executorch.exir", "executorch.runtime", "yaml", "pyloudnorm")


def modules(code: str) -> tuple[set[str], list[str]]:
    """All modules after `code` has run in a fresh process, and those of this package that hold torch."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", TOLD.format(run=code)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    everything, own = json.loads(ended.stdout.splitlines()[-1])
    return set(everything), own


def roots(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names


@cache
def allowed(with_torch: bool) -> frozenset[str]:
    """Top-level names that the libraries of a player bring when they are imported alone."""
    return frozenset(roots(modules(LIBRARIES + (", torch, filelock" if with_torch else ""))[0])) | COMPANIONS | {"echoedge"}


def unwanted(code: str, with_torch: bool) -> set[str]:
    """What `code` imports and a player does not need: top-level names; of executorch and of this package, modules."""
    found, own = modules(code)
    packages = {name for name in roots(found) - allowed(with_torch) if not name.startswith(("__editable__", "_"))}
    if with_torch:
        packages -= {"executorch"}
    return packages | {name for name in found if name.partition(".")[0] == "executorch"} - RUNTIME | set(own)


def animated(bundle: Path, folder: Path) -> list[str]:
    return [
        "animate", str(bundle), "--image", str(DEMO / "ada.png"), "--audio", str(DEMO / "hello.wav"), "--out",
        str(folder / "clip.mp4"), "--force", "--json",
    ]  # fmt: skip


@pytest.mark.parametrize("command", ["--help", "inspect --help", "inspect"])
def test_what_only_reads_imports_no_torch(command: str, bundle_path: Path) -> None:
    arguments = command.split() + ([str(bundle_path)] if command == "inspect" else [])
    assert unwanted(COMMAND_LINE.format(arguments=arguments), with_torch=False) == set()


@pytest.mark.parametrize("command", ["animate", "verify", "bench"])
def test_what_plays_imports_no_exporter(command: str, bundle_path: Path, tmp_path: Path) -> None:
    """torch is there for the runtime's module, which takes its tensors; nothing of this package computes with it."""
    more = {"verify": ["verify", str(bundle_path), "--json"], "bench": ["bench", str(bundle_path), "--runs", "1", "--json"]}
    arguments = more.get(command) or animated(bundle_path, tmp_path)
    assert unwanted(COMMAND_LINE.format(arguments=arguments), with_torch=True) == set()


def test_what_serves_programs_imports_no_exporter(bundle_path: Path) -> None:
    serve = (
        "import io; from echoedge import api; sink = io.BytesIO(); "
        f"assert api.serve_programs({str(bundle_path)!r}, io.BytesIO(), sink); assert sink.getvalue().startswith(b'EEP1')"
    )
    assert unwanted(serve, with_torch=True) == set()


def test_an_exporter_would_be_seen() -> None:
    seen = unwanted("import executorch.runtime, echoedge.core.model.transformer", with_torch=True)
    assert {"torchao", "executorch.exir", "executorch.runtime", "echoedge.core.model.transformer"} <= seen
    assert unwanted("import torch", with_torch=False) >= {"torch"}
    assert "scipy" in unwanted("import scipy.signal", with_torch=True)
    assert not any(name.split(".")[0] in HEAVY or name in HEAVY for name in allowed(with_torch=True))


@pytest.mark.parametrize("first", ["player", "exporter"])
def test_player_and_exporter_share_one_runtime(first: str, bundle_path: Path) -> None:
    """Loaded twice under two names, the module would register its operators twice and end the process."""
    player = (
        "from echoedge.core.bundle import Bundle; from echoedge.runtime.engines import open_engine; import numpy as np; "
        f"bundle = Bundle.open({str(bundle_path)!r}); engine = open_engine(bundle); "
        "spec = bundle.program('audio_encoder').methods['forward'].inputs[0]; "
        "out = engine.run('audio_encoder', 'forward', [np.ones(spec.shape, np.float32)]); assert np.isfinite(out[0]).all(); "
        "from echoedge.targets.executorch import program_file"
    )
    exporter = "import executorch.exir, torchao; from executorch.runtime import Runtime; rt = Runtime.get()"
    order = (player, exporter) if first == "player" else (exporter, player)
    check = (
        "from executorch.extension.pybindings import portable_lib; "
        "assert portable_lib._load_program is program_file.runtime()._load_program; "
        "assert tuple(rt.backend_registry.registered_backend_names) == program_file.registered_backends()"
    )
    modules("; ".join((*order, check)))


@pytest.mark.slow
def test_twenty_runs_under_load_give_the_same_bytes(bundle_path: Path, tmp_path: Path) -> None:
    """Busy processors, and unwritten memory that holds another byte in every run."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        films = set()
        for number in range(20):
            environment = {**os.environ, "MALLOC_PERTURB_": str(1 + 12 * number)}
            command = [sys.executable, "-m", "echoedge.cli", *animated(bundle_path, tmp_path)]
            subprocess.run(command, env=environment, capture_output=True, check=True)
            films.add((tmp_path / "clip.mp4").read_bytes())
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert len(films) == 1
