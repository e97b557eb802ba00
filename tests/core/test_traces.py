"""core/bundle/traces.py: values in a few numbers, which travel and tell values apart."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from echoedge.core.bundle import Method, TensorSpec
from echoedge.core.bundle.golden import Given, Golden
from echoedge.core.bundle.traces import MOST, Mark, Trace, Traces, inputs_of, most_of, places, stand_in
from echoedge.core.errors import BundleError


def mark(value: np.ndarray, name: str = "x") -> Mark:
    return Mark.of(name, value.astype(np.float32), MOST)


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape)


def test_places_are_those_that_the_format_says() -> None:
    assert places("x", 5, 8).tolist() == [0, 1, 2, 3, 4]
    data = hashlib.shake_256(b"linear_3").digest(64)
    assert places("linear_3", 1000, 8).tolist() == [int.from_bytes(data[8 * i : 8 * i + 8], "little") % 1000 for i in range(8)]
    assert places("linear_4", 1000, 8).tolist() != places("linear_3", 1000, 8).tolist()


def test_a_mark_tells_values_apart_that_are_alike_in_size() -> None:
    value = drawn(16, 16)
    known = mark(value)
    assert known.difference(mark(value.copy())) == 0.0
    for other in (value.T, -value, np.roll(value, 1, 0), value + 0.2, value[::-1], value * 1.1):
        assert known.difference(mark(other)) > 0.05
    assert known.difference(mark(value * 1.001)) == pytest.approx(0.001, rel=0.7)


def test_what_is_not_finite() -> None:
    value = drawn(200)
    masked = value.copy()
    masked[:50] = -np.inf
    assert mark(masked).difference(mark(masked)) == 0.0
    assert mark(value).difference(mark(masked)) == mark(masked).difference(mark(value)) == float("inf")
    assert mark(masked).rms == pytest.approx(float(np.sqrt(np.mean(np.square(value[50:])))), rel=1e-6)
    assert mark(np.zeros(4)).difference(mark(np.full(4, 0.5))) == 0.5


def traces() -> Traces:
    values = {"a": drawn(3, 4), "b": drawn(40, 5), "none": np.zeros((0, 2))}
    marks = {name: mark(value, name) for name, value in values.items()}
    return Traces({"denoise": {"forward": Trace(1, MOST, marks, {"a": "reference", "b": "proof", "none": "proof"})}})


def test_they_come_back_as_they_were_written(tmp_path: Path) -> None:
    traces().write(tmp_path / "one")
    trace = Traces.read(tmp_path / "one").programs["denoise"]["forward"]
    before = traces().programs["denoise"]["forward"]
    assert (trace.call, trace.most, trace.sources) == (before.call, before.most, before.sources)
    assert list(trace.marks) == list(before.marks)
    assert all(before.marks[name].difference(found) == 0.0 for name, found in trace.marks.items())


@pytest.mark.parametrize("wrong", ["not an object", "a tensor gone", "an element more", "another source"])
def test_damaged_ones_are_refused(wrong: str) -> None:
    index, tensors = traces().index(), traces().tensors()
    values = index["programs"]["denoise"]["forward"]["values"]
    if wrong == "not an object":
        index["programs"]["denoise"] = 3
    elif wrong == "a tensor gone":
        del tensors["denoise.forward.sizes"]
    elif wrong == "an element more":
        tensors["denoise.forward.samples"] = np.append(tensors["denoise.forward.samples"], np.float32(1))
    else:
        values[0][2] = "guess"
    with pytest.raises(BundleError, match="traces.json is damaged"):
        Traces.of(index, tensors)


def test_a_trace_is_small() -> None:
    for values in (1, 300, 3000, 8000):
        assert 8 <= most_of(values) <= MOST and most_of(values) * values <= max(1 << 16, 8 * values)


def test_what_does_not_travel_has_a_stand_in() -> None:
    golden = Golden()
    known = drawn(1, 4).astype(np.float32)
    golden.add_call("denoise", "forward", [known, Given("text_conditions", "forward", 0, 0)], [known])
    specs = tuple(TensorSpec(name=name, dtype="float32", shape=(1, 4)) for name in ("latents", "text_k"))
    record = Method(inputs=specs, outputs=specs[:1])
    first, second = inputs_of(0, golden, "denoise", "forward", record)
    assert np.array_equal(first, known) and np.array_equal(second, stand_in("denoise", "text_k", (1, 4)))
    assert not np.array_equal(second, stand_in("denoise", "text_v", (1, 4)))
    large = stand_in("denoise", "text_k", (30, 100, 100))
    assert large.dtype == np.float32 and abs(float(large.mean())) < 0.02 and abs(float(large.std()) - 1) < 0.02
    with pytest.raises(BundleError, match="of call 3, which is not recorded"):
        inputs_of(3, golden, "denoise", "forward", record)
