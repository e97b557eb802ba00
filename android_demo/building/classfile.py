"""What Java classes declare and refer to, read from their files (chapter 4 of the Java virtual machine's specification)."""

from __future__ import annotations

import re
import struct
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_SIZES = {3: 4, 4: 4, 5: 8, 6: 8, 7: 2, 8: 2, 9: 4, 10: 4, 11: 4, 12: 4, 15: 3, 16: 2, 17: 4, 18: 4, 19: 2, 20: 2}
_NAMES = re.compile(r"L([\w/$]+);")


@dataclass(frozen=True)
class ClassFile:
    """`members`: names and descriptors of its fields and methods; `parents`: classes it is made from; `mentions`: all it names."""

    name: str
    parents: tuple[str, ...]
    members: frozenset[tuple[str, str]]
    mentions: frozenset[str]


def read_class(data: bytes) -> ClassFile:
    """Raises ValueError: these are not the bytes of a class."""
    if data[:4] != b"\xca\xfe\xba\xbe":
        raise ValueError("no class file")
    texts, classes, at, index = {}, {}, 10, 1
    count = struct.unpack_from(">H", data, 8)[0]
    while index < count:
        tag = data[at]
        if tag == 1:
            size = struct.unpack_from(">H", data, at + 1)[0]
            texts[index] = data[at + 3 : at + 3 + size].decode("utf-8", "replace")
            at += 3 + size
        else:
            if tag == 7:
                classes[index] = struct.unpack_from(">H", data, at + 1)[0]
            at += 1 + _SIZES[tag]
        index += 2 if tag in (5, 6) else 1
    _, this, parent, interfaces = struct.unpack_from(">HHHH", data, at)
    at += 8
    own = struct.unpack_from(f">{interfaces}H", data, at)
    at += 2 * interfaces
    members = []
    for _ in range(2):  # fields, then methods
        number = struct.unpack_from(">H", data, at)[0]
        at += 2
        for _ in range(number):
            _, name, descriptor, attributes = struct.unpack_from(">HHHH", data, at)
            members.append((texts[name], texts[descriptor]))
            at += 8
            for _ in range(attributes):
                at += 6 + struct.unpack_from(">I", data, at + 2)[0]
    parents = tuple(texts[classes[each]] for each in (parent, *own) if each)
    named = {texts[each] for each in classes.values()}
    mentions = {each for each in named if not each.startswith("[")}
    for text in (*texts.values(), *(each for each in named if each.startswith("["))):
        if ";" in text:
            mentions.update(_NAMES.findall(text))
    return ClassFile(texts[classes[this]], parents, frozenset(members), frozenset(mentions))


def read_jars(jars: Iterable[Path]) -> dict[str, ClassFile]:
    """Classes of jars by name; of one in several the first."""
    found: dict[str, ClassFile] = {}
    for _, data in class_bytes(jars):
        read = read_class(data)
        found.setdefault(read.name, read)
    return found


def class_bytes(jars: Iterable[Path]) -> Iterator[tuple[str, bytes]]:
    """Files of classes in jars, but for those of other versions of Java and of modules."""
    for jar in jars:
        with zipfile.ZipFile(jar) as archive:
            for name in archive.namelist():
                if name.endswith(".class") and not name.startswith("META-INF/") and not name.endswith("module-info.class"):
                    yield name, archive.read(name)


def reached(begin: Iterable[str], classes: Mapping[str, ClassFile]) -> set[str]:
    """Those of `classes` that are named by others of them, from `begin` on."""
    found: set[str] = set()
    open_ends = [name for name in begin if name in classes]
    while open_ends:
        name = open_ends.pop()
        if name not in found:
            found.add(name)
            open_ends += [each for each in classes[name].mentions if each in classes and each not in found]
    return found
