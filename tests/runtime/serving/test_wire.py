"""Messages: whatever comes in, an answer goes out or the input is called no message; nothing waits for bytes that are there."""

from __future__ import annotations

import io
import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echoedge.runtime.serving.wire import (
    DTYPES,
    LENGTHS,
    MAGIC,
    MOST_BODY,
    MOST_HEADER,
    ProtocolError,
    header_of,
    receive,
    send,
    tensors_of,
)

from .client import message, parsed

SHAPES = st.lists(st.integers(0, 4), max_size=4).map(tuple)
ARRAYS = st.builds(
    lambda dtype, shape, seed: (np.random.default_rng(seed).integers(0, 2, shape)).astype(dtype),
    st.sampled_from(DTYPES),
    SHAPES,
    st.integers(0, 99),
)
TENSORS = st.dictionaries(st.text(max_size=8), ARRAYS, max_size=5)


class Trickle(io.BytesIO):
    """A pipe that gives one to three bytes at a time, whatever is asked for."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(3, size or 0)) if size and size > 0 else super().read(size)

    def write(self, data: Any, /) -> int:
        return super().write(bytes(data[:5]))


def read(data: bytes, kind: type[io.BytesIO] = io.BytesIO) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    raw = receive(kind(data))
    if raw is None:
        return None
    header = header_of(raw)
    return header, tensors_of(header, raw.body)


@given(tensors=TENSORS, number=st.integers() | st.text() | st.none())
def test_what_is_sent_arrives_by_the_bit(tensors: dict[str, np.ndarray], number: Any) -> None:
    sink = Trickle()
    send(sink, {"id": number}, tensors)
    for found in (
        read(sink.getvalue()),
        read(sink.getvalue(), Trickle),
        parsed(io.BytesIO(sink.getvalue()).read),
        read(message({"id": number}, tensors)),
    ):
        assert found is not None
        header, arrays = found
        assert header["id"] == number
        assert list(arrays) == list(tensors)
        for name, array in tensors.items():
            assert (arrays[name].dtype, arrays[name].shape, arrays[name].tobytes()) == (array.dtype, array.shape, array.tobytes())
    arrays = (read(sink.getvalue()) or ({}, {}))[1]
    assert all(array.flags.aligned and array.flags.writeable for array in arrays.values())  # as torch takes them


def test_a_message_is_what_the_page_says() -> None:
    sink = io.BytesIO()
    send(sink, {"ok": True}, {"x": np.array([1.5, -2], np.float32)})
    header = b'{"ok": true, "tensors": [{"name": "x", "dtype": "float32", "shape": [2]}]}'
    assert sink.getvalue() == b"EEP1" + struct.pack("<IQ", len(header), 8) + header + bytes.fromhex("0000c03f000000c0")


@settings(max_examples=400)
@given(data=st.binary(max_size=80) | st.builds(lambda tail: MAGIC + tail, st.binary(max_size=80)))
def test_no_bytes_are_too_strange(data: bytes) -> None:
    try:
        found = read(data)
    except ProtocolError:
        return
    assert (found is None) == (not data)


HEADERS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.sampled_from(["float32", "bool", "x"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["tensors", "name", "dtype", "shape", "id"]), inner, max_size=5)
    ),
    max_leaves=20,
)


@settings(max_examples=400)
@given(header=HEADERS, body=st.binary(max_size=40))
def test_no_header_is_too_strange(header: Any, body: bytes) -> None:
    told = json.dumps(header).encode()
    try:
        found = read(LENGTHS.pack(MAGIC, len(told), len(body)) + told + body)
    except ProtocolError as error:
        refusal = error
    else:
        refusal = None
    if refusal is not None:
        assert not refusal.fatal
        assert len(str(refusal)) < 700
        return
    assert isinstance(header, dict)
    assert found is not None
    assert sum(array.nbytes for array in found[1].values()) == len(body)


@given(data=st.builds(lambda tensors: message({"do": "run"}, tensors), TENSORS), share=st.floats(0, 1, exclude_max=True))
def test_a_message_that_ends_early_is_fatal(data: bytes, share: float) -> None:
    cut = data[: int(share * len(data))]
    if not cut:
        assert read(cut) is None
        return
    with pytest.raises(ProtocolError, match="ends after") as ended:
        receive(io.BytesIO(cut))
    assert ended.value.fatal


ONE = {"name": "x", "dtype": "float32", "shape": [2]}
EIGHT = bytes(8)


@pytest.mark.parametrize(
    ("listed", "body", "told"),
    [
        (7, b"", "tensors is 7"), ([7], b"", "listed as 7"), ([{"name": "x"}], b"", "needs a name, a dtype and a shape"),
        ([ONE | {"dtype": "complex64"}], EIGHT, "'complex64'; messages have float32"),
        ([ONE | {"shape": [-2]}], EIGHT, "the shape"),
        ([ONE | {"shape": [2.0]}], EIGHT, "the shape"), ([ONE | {"shape": [True]}], EIGHT, "the shape"),
        ([ONE | {"shape": [1] * 17}], EIGHT, "the shape"),
        ([ONE | {"shape": [1 << 40, 1 << 40]}], EIGHT, "the shape"), ([ONE | {"shape": [1 << 30] * 9}], EIGHT, "take"),
        ([ONE], bytes(7), "take 8 bytes; the body has 7"),
        ([ONE], bytes(9), "take 8 bytes; the body has 9"), ([ONE, ONE], bytes(16), "'x' is there twice"),
        ([], b"1", "take 0 bytes"),
        ([ONE | {"dtype": "bool"}], b"\x01\x02", "other than 0 and 1"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_tensors_is_said(listed: Any, body: bytes, told: str) -> None:
    header = json.dumps({"tensors": listed}).encode()
    with pytest.raises(ProtocolError, match=told) as wrong:
        read(LENGTHS.pack(MAGIC, len(header), len(body)) + header + body)
    assert not wrong.value.fatal


@pytest.mark.parametrize(
    "header",
    [b"", b"{", b"\xff\xfe", b"[]", b"7", b'{"id": NaN}', b'{"id": 1e999}', b"[" * 100_000, b'{"id": ' + b"9" * 5000 + b"}"],
)
def test_what_is_no_header_is_said(header: bytes) -> None:
    with pytest.raises(ProtocolError, match="The header is") as wrong:
        read(LENGTHS.pack(MAGIC, len(header), 0) + header)
    assert not wrong.value.fatal
    assert len(str(wrong.value)) < 400


@pytest.mark.parametrize(
    ("start", "told"),
    [
        (LENGTHS.pack(b"EEP2", 2, 0), "begins with b'EEP2'"), (b"{\"do\": \"run\"}\n\n\n", "begins with"),
        (LENGTHS.pack(MAGIC, MOST_HEADER + 1, 0), "a header of 1,048,577 bytes"),
        (LENGTHS.pack(MAGIC, 2, MOST_BODY + 1), "a body of 2,147,483,648 bytes"),
        (LENGTHS.pack(MAGIC, 2**32 - 1, 2**64 - 1), "a header of"),
    ],
)  # fmt: skip
def test_what_is_no_message_is_fatal_before_more_is_read(start: bytes, told: str) -> None:
    source = io.BytesIO(start + b"more")
    with pytest.raises(ProtocolError, match=told) as wrong:
        receive(source)
    assert wrong.value.fatal
    assert source.read() == b"more"


def test_a_length_is_not_believed_before_its_bytes_came() -> None:
    """A body that is announced and does not come takes no memory."""
    import tracemalloc

    tracemalloc.start()
    with pytest.raises(ProtocolError, match="ends after 3 of 2,147,483,647 bytes"):
        receive(io.BytesIO(LENGTHS.pack(MAGIC, 2, MOST_BODY) + b"{}" + b"abc"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 << 20


def test_a_tensor_of_another_type_is_not_sent() -> None:
    sink = io.BytesIO()
    with pytest.raises(ProtocolError, match="x is float64; messages have"):
        send(sink, {}, {"x": np.zeros(2)})
    assert sink.getvalue() == b""
