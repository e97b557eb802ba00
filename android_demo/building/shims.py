"""What the app asks of Android by name, because the class library that it is compiled against is older: read from Shims.kt."""

from __future__ import annotations

import re
from collections.abc import Mapping

from .classfile import ClassFile

_SINCE = re.compile(r"\bAPI (\d+): ")  # in the comment in front of a function
_MEMBER = re.compile(r'([\w.]+)::class\.java\s*\.get(Method|Constructor)\((?:"(\w+)")?')
_CLASS = re.compile(r'Class\.forName\("([\w.]+)"\)')
_IMPORT = re.compile(r"^import (android\.[\w.]+\.)(\w+)$", re.MULTILINE)


def asked_by_name(text: str) -> dict[str, int]:
    """Classes and members that Kotlin code asks for by name, and the API that its comment says they are of."""
    packages = {name: package for package, name in _IMPORT.findall(text)}
    found: dict[str, int] = {}
    begins = list(_SINCE.finditer(text))
    for since, after in zip(begins, [*begins[1:], None], strict=True):
        body = text[since.end() : after.start() if after else len(text)]
        for name in _CLASS.findall(body):
            found[name] = int(since[1])
        for owner, kind, member in _MEMBER.findall(body):
            outer = owner.split(".")[0]
            if outer in packages:
                found[f"{packages[outer]}{owner.replace('.', '$')}.{member if kind == 'Method' else '<init>'}"] = int(since[1])
    return found


def callable_already(asked: Mapping[str, int], libraries: Mapping[str, ClassFile]) -> list[str]:
    """Those of them that the class library has: they are not to be asked for by name. Constructors are not looked at."""
    return [name for name in asked if _has(name, libraries)]


def _has(name: str, libraries: Mapping[str, ClassFile]) -> bool:
    owner, _, member = name.rpartition(".")
    read = libraries.get(owner.replace(".", "/"))
    if read is None:
        return name.replace(".", "/") in libraries
    return member != "<init>" and any(member == each for each, _ in read.members)
