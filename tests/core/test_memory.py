"""core/memory.py: a refusal says what the largest part is and what would make it smaller."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from echoedge.core import memory
from echoedge.core.errors import ResourceError
from echoedge.core.memory import Need, peak_bytes, require, resident_bytes, usable_cores

NEED = Need({"the process": 700_000_000, "weights": 2_000_000_000}, {"weights": "export with --weights int4."})


def test_what_fits_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 2_700_000_000)
    require(NEED, "compiling")


def test_a_refusal_names_the_largest_part_and_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 2_699_999_999)
    with pytest.raises(
        ResourceError,
        match=r"2\.70 GB of memory is needed for compiling, and 2\.70 GB is available\. It is 2\.00 GB for weights, 700 MB for the "
        r"process\. The cheapest remedy: export with --weights int4\.",
    ):
        require(NEED, "compiling")


def test_a_budget_counts_where_it_is_smaller_than_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 1 << 40)
    with pytest.raises(ResourceError, match=r"1\.00 GB is available"):
        require(NEED, "compiling", 1_000_000_000)


def test_a_part_without_a_remedy_has_the_general_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 0)
    with pytest.raises(ResourceError, match="larger machine"):
        require(Need({"latents": 5}), "playing")


def test_memory_of_processes() -> None:
    assert 0 < resident_bytes() <= 1.01 * peak_bytes()  # the system rounds its counts
    assert resident_bytes(os.getppid()) > 0
    assert resident_bytes(2**22 + 1) == 0  # nobody's number


def test_the_peak_stays_when_memory_is_returned() -> None:
    held = np.ones(30_000_000)
    peak = peak_bytes()
    assert peak > held.nbytes
    del held
    assert peak_bytes() >= 0.99 * peak
    assert resident_bytes() < peak - 100_000_000


def test_cores_are_those_that_this_process_may_use() -> None:
    """taskset, a tool of the system, takes cores away."""
    taskset = shutil.which("taskset")
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)
    if taskset is None:
        pytest.skip("no taskset on this system")
    told = "from echoedge.core.memory import usable_cores; print(usable_cores())"
    assert subprocess.run([taskset, "-c", "0", sys.executable, "-c", told], capture_output=True, text=True).stdout == "1\n"
