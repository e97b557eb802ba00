"""core/weights/checkpoints.py at full size: what loading the released flash transformer costs. Writes 3.7 GB; run with -m slow."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from echoedge.core.weights.accounts import OVERLAY_FILE
from echoedge.core.weights.checkpoints import Checkpoint
from echoedge.core.weights.random_checkpoint import write_random_checkpoint

LOADING = """
import json, sys
import torch
from echoedge.core.weights.checkpoints import Checkpoint, load_transformer

def memory():
    own = dict(line.split(":", 1) for line in open("/proc/self/status") if line.startswith(("VmRSS", "VmHWM", "RssAnon")))
    return {key: int(value.split()[0]) * 1024 for key, value in own.items()}

checkpoint = Checkpoint.open(sys.argv[1])
before = memory()
model = load_transformer(checkpoint, getattr(torch, sys.argv[2]))
loaded = memory()
for parameter in model.parameters():
    parameter.view(-1)[::512].sum()  # a number of every page
touched = memory()
print(json.dumps({
    "parameters": sum(parameter.numel() for parameter in model.parameters()),
    "peak": touched["VmHWM"] - before["VmRSS"],
    "anonymous": loaded["RssAnon"] - before["RssAnon"],
}))
"""


EXAMINING = """
import json, sys
from echoedge.core.model.architecture import Architecture
from echoedge.core.weights.checkpoints import Checkpoint

def memory(key):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(key))

checkpoint = Checkpoint.open(sys.argv[1])
layout = Architecture(checkpoint.config()).layout("transformer")
account = checkpoint.account("transformer", layout)
before = memory("VmRSS")
account = checkpoint.examined(account, layout)
print(json.dumps({"status": account.status, "peak": memory("VmHWM") - before}))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("full") / "flash"
    write_random_checkpoint(path, "flash", ["transformer"], base=False)
    return path


def load_in_a_child(folder: Path, dtype: str) -> dict[str, int]:
    run = [sys.executable, "-c", LOADING, str(folder), dtype]
    return json.loads(subprocess.run(run, capture_output=True, text=True, check=True, timeout=600).stdout)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_flash_loads_within_the_size_of_its_file(folder: Path) -> None:
    account = Checkpoint.open(folder).accounts()[0]
    assert (account.status, account.found, account.parameters) == ("complete", 1203, 1_863_772_992)
    size = (folder / OVERLAY_FILE).stat().st_size
    mapped = load_in_a_child(folder, "bfloat16")
    assert mapped["parameters"] == 1_792_948_032
    assert mapped["peak"] < 1.3 * size  # measured 0.98, every page touched: q_audio is never read
    assert mapped["anonymous"] < 0.03 * size  # measured 0.019: the timestep MLP in float32
    converted = load_in_a_child(folder, "float16")
    assert converted["peak"] < 1.3 * size  # measured 1.04: the copy, and at most 256 MB of the file
    assert converted["anonymous"] > 0.9 * size  # a copy it is: mapping is what the first one spares


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_looking_at_every_value_of_flash_holds_little_of_it(folder: Path) -> None:
    run = [sys.executable, "-c", EXAMINING, str(folder)]
    told = json.loads(subprocess.run(run, capture_output=True, text=True, check=True, timeout=600).stdout)
    assert told["status"] == "complete"
    assert told["peak"] < 1e9  # measured 0.3 GB: 256 MB of the file, and a piece
