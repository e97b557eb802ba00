"""core/bundle/golden.py: recorded calls find what computes something else, also where inputs come from other calls."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from echoedge.core.bundle.golden import Given, Golden, compare
from echoedge.core.errors import BundleError

X = np.linspace(-1, 1, 1000, dtype=np.float32)


def double(_program: str, _method: str, inputs: Sequence[Any]) -> list[Any]:
    """Every program doubles its last input; the second output is its state."""
    return [2 * inputs[-1], 2 * inputs[-1] + 1]


def chain() -> Golden:
    """One program that makes what another reads, which goes on from its own state."""
    golden = Golden()
    golden.add_call("make", "forward", [X], [2 * X, None])
    golden.add_call("use", "first", [Given("make", "forward", 0, 0)], [4 * X, None])
    golden.add_call("use", "next", [X, Given("use", "first", 0, 1)], [8 * X + 2, None])
    return golden


def test_what_computes_the_same_agrees() -> None:
    found = compare(chain(), double)
    assert {name: figures.psnr_db for name, figures in found.items()} == {"make": 150.0, "use": 150.0}


@pytest.mark.parametrize("wrong", ["make", "use"])
def test_what_computes_something_else_does_not(wrong: str) -> None:
    def off(program: str, method: str, inputs: Sequence[Any]) -> list[Any]:
        return [value * (1.01 if program == wrong else 1.0) for value in double(program, method, inputs)]

    found = compare(chain(), off)
    assert (found[wrong].psnr_db or 0) < 60
    if wrong == "use":
        assert found["make"].psnr_db == 150.0
    else:  # an error of what it is given is an error of what it gives
        assert (found["use"].psnr_db or 0) < 60


def test_a_program_can_be_judged_alone() -> None:
    def off(program: str, method: str, inputs: Sequence[Any]) -> list[Any]:
        assert program == "use"
        return double(program, method, inputs)

    found = compare(chain(), off, ["use"], given=lambda source: 2 * X if source.program == "make" else None)
    assert found["use"].psnr_db == 150.0


def test_what_nobody_reads_any_more_goes() -> None:
    """The conditions of one clip shape are not held while another's are made; what is still to be read is."""
    golden, held, alive = chain(), [], {}
    golden.add_call("other", "forward", [X], [2 * X, None])

    def watched(program: str, method: str, inputs: Sequence[Any]) -> list[Any]:
        alive[program] = sum(kept() is not None for kept in held)
        outputs = double(program, method, inputs)
        if program == "make":
            held.append(weakref.ref(outputs[0]))
        return outputs

    compare(golden, watched)
    assert (alive["use"], alive["other"]) == (1, 0)


def test_one_program_of_a_record() -> None:
    golden = Golden()
    golden.add_call("make", "forward", [X], [2 * X, None], most=100)
    golden.add_call("other", "forward", [X + 1], [2 * X + 2])
    alone = golden.of("make")
    assert set(alone.index["programs"]) == {"make"}
    assert len(alone.tensors) == 2
    assert compare(alone, double)["make"].psnr_db == 150.0
    with pytest.raises(KeyError):
        golden.of("nobody")


def test_large_outputs_are_kept_in_part() -> None:
    golden = Golden()
    golden.add_call("make", "forward", [X], [2 * X], most=100)
    assert sum(array.size for array in golden.tensors.values()) == 1000 + 100
    assert compare(golden, lambda *call: double(*call)[:1])["make"].psnr_db == 150.0
    moved = compare(golden, lambda *call: [np.roll(double(*call)[0], 1)])["make"]
    assert (moved.psnr_db or 0) < 60


def test_arrays_are_kept_once() -> None:
    golden = Golden()
    assert golden.add(X) == golden.add(X.copy())
    assert golden.add(X.reshape(10, 100)) != golden.add(X)


def test_an_input_that_nobody_made_is_reported() -> None:
    with pytest.raises(BundleError, match="calls of use need an output of make, which has not been run"):
        compare(chain(), double, ["use"])


def test_another_number_of_outputs_is_reported() -> None:
    with pytest.raises(BundleError, match=r"make\.forward gives 1 outputs; its record has 2"):
        compare(chain(), lambda *call: double(*call)[:1])


def test_calls_that_come_to_others_stand_behind_them() -> None:
    """What reads an output of such a call goes on reading the same one."""
    goldens = []
    for value in (1.0, 2.0):
        golden, x = Golden(), np.full(3, value, np.float32)
        golden.add_call("make", "forward", [x], [x * 10])
        golden.add_call(f"read-{value:g}", "forward", [Given("make", "forward", 0, 0)], [x * 100])
        goldens.append(golden)
    one, other = goldens
    one.merge(other)
    assert [len(one.index["programs"][name]["forward"]) for name in ("make", "read-1", "read-2")] == [2, 1, 1]
    found = compare(one, lambda *call: [call[2][0] * np.float32(10)])
    assert {name: each.max_abs for name, each in found.items()} == {"make": 0, "read-1": 0, "read-2": 0}
    one.index["programs"]["read-2"]["forward"][0]["inputs"][0]["call"] = 0  # as before calls were counted on
    assert compare(one, lambda *call: [call[2][0] * np.float32(10)])["read-2"].max_abs == 100
