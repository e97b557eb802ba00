"""core/train/distributed.py: two processes under torchrun train as one does, and hand over to each other."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import echoedge
from echoedge.core.errors import ConfigError
from echoedge.core.train.checkpoint import load_checkpoint
from echoedge.core.train.distributed import World, join_world, load_model
from echoedge.core.train.train_dit import NanoModel, train_dit

from .tiny_training import CLIP, CONFIG, WHOLE_METHOD, tiny_cache, tiny_pool

STEPS = 2  # of 4: one supervised, one preference
TOLERANCE = 1e-5  # 6.7e-7 measured, parameters move by 3e-3: sums over two halves of the batch round otherwise


def train(folder: Path, steps: int, world: World | None = None) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    training = replace(WHOLE_METHOD, steps=steps)
    train_dit(CONFIG, tiny_cache(), tiny_pool(), folder, training, CLIP, report_every=1, save_every=1, world=world)
    saved = load_checkpoint(folder / "dit.pt")
    assert saved is not None and saved["step"] == steps
    return saved


def largest_difference(a: Any, b: Any) -> float:
    """Over all tensors of two nested states, which must have the same names."""
    if isinstance(a, torch.Tensor):
        return float((a - b).abs().max()) if a.numel() else 0.0
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        return max((largest_difference(a[key], b[key]) for key in a), default=0.0)
    return 0.0


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """alone: 2 steps in one process. pair, thrifty: 2 in two. handed: 1 in one process, then 1 in two. begun: 1 in two."""
    folder = tmp_path_factory.mktemp("runs")
    train(folder / "alone", STEPS)
    train(folder / "handed", 1)
    asked = []
    for name, steps in (("pair", STEPS), ("thrifty", STEPS), ("handed", STEPS), ("begun", 1)):
        (folder / name).mkdir(exist_ok=True)
        asked += [str(folder / name), str(steps), "recompute" if name == "thrifty" else "keep"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    paths = [str(Path(echoedge.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    worker = str(Path(__file__).with_name("train_worker.py"))
    ended = subprocess.run([*command, worker, *asked], capture_output=True, text=True, timeout=500, check=False, env=environment)
    assert ended.returncode == 0, ended.stderr[-4000:]
    return folder


def state(runs: Path, name: str) -> dict[str, Any]:
    saved = load_checkpoint(runs / name / "dit.pt")
    assert saved is not None
    return saved


@pytest.mark.parametrize("part", ["model", "average", "reference", "optimiser"])
def test_two_processes_train_as_one(runs: Path, part: str) -> None:
    assert largest_difference(state(runs, "alone")[part], state(runs, "pair")[part]) < TOLERANCE


def test_two_processes_that_recompute_their_blocks_train_as_one(runs: Path) -> None:
    assert largest_difference(state(runs, "alone"), state(runs, "thrifty")) < TOLERANCE


def test_half_of_the_batch_is_not_the_batch(runs: Path, tmp_path: Path) -> None:
    class Half(World):
        def rows(self, batch: int) -> slice:
            return slice(0, batch // 2)

    half = train(tmp_path / "half", STEPS, Half())
    assert largest_difference(state(runs, "alone")["model"], half["model"]) > 100 * TOLERANCE


def test_two_processes_go_on_where_one_stopped(runs: Path) -> None:
    assert largest_difference(state(runs, "alone"), state(runs, "handed")) < TOLERANCE


def test_one_process_goes_on_where_two_stopped(runs: Path) -> None:
    assert state(runs, "begun")["step"] == 1
    assert largest_difference(state(runs, "alone"), train(runs / "begun", STEPS)) < TOLERANCE


def test_both_processes_report_the_loss_of_the_whole_batch(runs: Path) -> None:
    alone, pair = ((runs / name / "dit.log").read_text().split(', "seconds"')[0] for name in ("alone", "pair"))
    assert alone == pair and '"loss"' in alone


def test_the_first_process_prepares_before_the_others(runs: Path) -> None:
    assert (runs / "order").read_text() == "0 1 "


# ---- in one process --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch", "size"), [(16, 1), (16, 4), (6, 3)])
def test_rows_cut_the_batch_into_equal_parts(batch: int, size: int) -> None:
    cut = [list(range(batch))[World(rank, size).rows(batch)] for rank in range(size)]
    assert sum(cut, []) == list(range(batch)) and {len(part) for part in cut} == {batch // size}


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ConfigError, match="batch of 16 does not divide among 3"):
        World(0, 3).rows(16)


def test_without_torchrun_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert join_world() == World()


def test_unknown_devices_are_refused() -> None:
    with pytest.raises(ConfigError, match="device is 'tpu'; choose cpu or cuda"):
        join_world("tpu")


def test_loading_is_strict() -> None:
    model = NanoModel(CONFIG, CLIP)
    weights = model.state_dict()
    weights.pop("dit.head.head.bias")
    with pytest.raises(ConfigError, match=r"not this model's: dit\.head\.head\.bias is in one alone"):
        load_model(model, weights)
