"""What a dex file holds and refers to: its tables of types, fields, methods and classes (Android's "Dalvik executable format")."""

from __future__ import annotations

import struct
from dataclasses import dataclass

_MAP_CALL_SITES = 0x0007


@dataclass(frozen=True)
class Dex:
    """Names are as class files have them: java/lang/String. `methods` and `fields`: (class, name, descriptor); `call_sites`: how
    many instructions ask for a class of the virtual machine that Android lacks."""

    types: frozenset[str]
    methods: frozenset[tuple[str, str, str]]
    fields: frozenset[tuple[str, str, str]]
    classes: frozenset[str]
    strings: frozenset[str]
    call_sites: int


def read_dex(data: bytes) -> Dex:
    """Raises ValueError: it is none."""
    if data[:4] != b"dex\n":
        raise ValueError("no dex file")
    header = struct.unpack_from("<20I", data, 32)
    (map_at, n_strings, strings_at, n_types, types_at, n_protos, protos_at, n_fields, fields_at, n_methods, methods_at, n_classes,
     classes_at) = header[5:18]  # fmt: skip
    strings = [_text(data, struct.unpack_from("<I", data, strings_at + 4 * i)[0]) for i in range(n_strings)]
    types = [strings[struct.unpack_from("<I", data, types_at + 4 * i)[0]] for i in range(n_types)]
    protos = []
    for i in range(n_protos):
        _, returned, parameters = struct.unpack_from("<III", data, protos_at + 12 * i)
        given: tuple[int, ...] = ()
        if parameters:
            given = struct.unpack_from(f"<{struct.unpack_from('<I', data, parameters)[0]}H", data, parameters + 4)
        protos.append(f"({''.join(types[each] for each in given)}){types[returned]}")
    fields, methods = set(), set()
    for i in range(n_fields):
        owner, kind, name = struct.unpack_from("<HHI", data, fields_at + 8 * i)
        fields.add((_name(types[owner]), strings[name], types[kind]))
    for i in range(n_methods):
        owner, kind, name = struct.unpack_from("<HHI", data, methods_at + 8 * i)
        methods.add((_name(types[owner]), strings[name], protos[kind]))
    defined = {_name(types[struct.unpack_from("<I", data, classes_at + 32 * i)[0]]) for i in range(n_classes)}
    calls = 0
    for i in range(struct.unpack_from("<I", data, map_at)[0]):
        kind, _, size, _ = struct.unpack_from("<HHII", data, map_at + 4 + 12 * i)
        calls += size if kind == _MAP_CALL_SITES else 0
    named = {_name(each) for each in types if each.lstrip("[").startswith("L")}
    return Dex(frozenset(named), frozenset(methods), frozenset(fields), frozenset(defined), frozenset(strings), calls)


def _name(descriptor: str) -> str:
    inner = descriptor.lstrip("[")
    return inner[1:-1] if inner.startswith("L") else inner


def _text(data: bytes, at: int) -> str:
    while data[at] & 0x80:  # the length in characters, of no use here
        at += 1
    end = data.index(b"\0", at + 1)
    return data[at + 1 : end].decode("utf-8", "replace")
