"""Lambdas as classes: Android has no LambdaMetafactory, and Debian's dexer leaves what asks for it as it is.

Kotlin makes a lambda by an `invokedynamic` whose bootstrap method is LambdaMetafactory's. Each becomes an `invokestatic` of the
same length, of a class made here, which keeps what the lambda has captured and calls the method that holds its body. That method
may be private; it is opened to its package. What comes out runs on a Java machine just as well, which is how it is tested.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

_METAFACTORY = ("java/lang/invoke/LambdaMetafactory", "metafactory")
_INVOKE_DYNAMIC, _INVOKE_STATIC, _TABLE, _LOOKUP, _WIDE, _IINC = 0xBA, 0xB8, 0xAA, 0xAB, 0xC4, 0x84
_TEXT, _CLASS, _STRING, _METHOD, _NAME_AND_TYPE, _METHOD_HANDLE, _METHOD_TYPE, _DYNAMIC = (
    1,
    7,
    8,
    10,
    12,
    15,
    16,
    18,
)  # of constants
_PUBLIC, _PRIVATE, _STATIC, _INTERFACE_CLASS = 0x0001, 0x0002, 0x0008, 0x0200
_VIRTUAL, _STATIC_KIND, _NEW, _INTERFACE = 5, 6, 8, 9  # kinds of method handles
_TYPE = re.compile(r"\[*(?:[BCDFIJSZ]|L[^;]+;)")
_BOXES = {
    "B": ("java/lang/Byte", "byteValue"), "C": ("java/lang/Character", "charValue"), "D": ("java/lang/Double", "doubleValue"),
    "F": ("java/lang/Float", "floatValue"), "I": ("java/lang/Integer", "intValue"), "J": ("java/lang/Long", "longValue"),
    "S": ("java/lang/Short", "shortValue"), "Z": ("java/lang/Boolean", "booleanValue"),
}  # fmt: skip
_SIZES = {3: 4, 4: 4, 5: 8, 6: 8, 7: 2, 8: 2, 9: 4, 10: 4, 11: 4, 12: 4, 15: 3, 16: 2, 17: 4, 18: 4, 19: 2, 20: 2}


class Unknown(ValueError):
    """A call site of another kind than lambdas have."""


@dataclass(frozen=True)
class _Lambda:
    """A call site: the interface's method and its erased type, what is `given` (captured), and the method that is called."""

    interface: str
    name: str
    erased: str
    given: tuple[str, ...]
    kind: int
    tag: int  # of the constant that names the method: 10, or 11 of an interface
    owner: str
    method: str
    descriptor: str


def as_classes(data: bytes) -> list[tuple[str, bytes]]:
    """A class without lambdas that are made when it runs, then the classes that they became; names and bytes.

    Raises:
        Unknown: it has a call site that is no lambda.
    """
    host = _Host(data)
    return host.rewritten()


class _Host:
    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)
        self.constants: dict[int, tuple[int, bytes]] = {}
        self.places: dict[int, int] = {}
        self.count = struct.unpack_from(">H", data, 8)[0]
        at, index = 10, 1
        while index < self.count:
            tag = data[at]
            size = 2 + struct.unpack_from(">H", data, at + 1)[0] if tag == 1 else _SIZES[tag]
            self.places[index] = at
            self.constants[index] = (tag, bytes(data[at + 1 : at + 1 + size]))
            at += 1 + size
            index += 2 if tag in (5, 6) else 1
        self.end = at  # of the constants
        self.flags_at = at
        self.name = self.text_of(struct.unpack_from(">H", data, at + 2)[0])
        self.methods: dict[tuple[str, str], int] = {}  # where a method's access flags stand
        self.sites: list[tuple[int, int]] = []  # where a call site's instruction stands, and its constant
        self.bootstraps: list[tuple[int, list[int]]] = []
        self.bootstraps_at = 0  # where the name of their attribute stands
        self._read(at)

    # ---- constants ----

    def numbers(self, index: int, form: str = ">HH") -> tuple[int, ...]:
        return struct.unpack(form, self.constants[index][1])

    def text(self, index: int) -> str:
        return self.constants[index][1][2:].decode("utf-8")

    def text_of(self, index: int) -> str:
        """Of a class, a string, a type of a method."""
        return self.text(self.numbers(index, ">H")[0])

    def pair(self, index: int) -> tuple[str, str]:
        name, descriptor = self.numbers(index)
        return self.text(name), self.text(descriptor)

    # ---- what is in it ----

    def _read(self, at: int) -> None:
        at += 6
        at += 2 + 2 * struct.unpack_from(">H", self.data, at)[0]
        for part in ("field", "method"):
            number = struct.unpack_from(">H", self.data, at)[0]
            at += 2
            for _ in range(number):
                flags, name, descriptor, attributes = struct.unpack_from(">HHHH", self.data, at)
                if part == "method":
                    self.methods[self.text(name), self.text(descriptor)] = at
                at = self._attributes(at + 8, attributes)
        self._attributes(at + 2, struct.unpack_from(">H", self.data, at)[0])

    def _attributes(self, at: int, number: int) -> int:
        for _ in range(number):
            name, size = struct.unpack_from(">HI", self.data, at)
            if self.text(name) == "Code":
                length = struct.unpack_from(">I", self.data, at + 10)[0]
                self._code(at + 14, length)
            elif self.text(name) == "BootstrapMethods":
                self.bootstraps_at = at
                self._bootstraps(at + 6)
            at += 6 + size
        return at

    def _bootstraps(self, at: int) -> None:
        number = struct.unpack_from(">H", self.data, at)[0]
        at += 2
        for _ in range(number):
            handle, count = struct.unpack_from(">HH", self.data, at)
            self.bootstraps.append((handle, list(struct.unpack_from(f">{count}H", self.data, at + 4))))
            at += 4 + 2 * count

    def _code(self, begin: int, length: int) -> None:
        at = begin
        while at < begin + length:
            op = self.data[at]
            if op == _INVOKE_DYNAMIC:
                self.sites.append((at, struct.unpack_from(">H", self.data, at + 1)[0]))
            at += self._length(op, at, begin)

    def _length(self, op: int, at: int, begin: int) -> int:
        if op in (_TABLE, _LOOKUP):
            padded = at + 1 + (-(at + 1 - begin) % 4)
            if op == _TABLE:
                low, high = struct.unpack_from(">ii", self.data, padded + 4)
                return int(padded + 12 + 4 * (high - low + 1) - at)
            return int(padded + 8 + 8 * struct.unpack_from(">i", self.data, padded + 4)[0] - at)
        if op == _WIDE:
            return 6 if self.data[at + 1] == _IINC else 4
        return _instruction(op)

    # ---- what becomes of it ----

    def rewritten(self) -> list[tuple[str, bytes]]:
        made: list[tuple[str, bytes]] = []
        added = _Constants(self.count)
        for number, (at, constant) in enumerate(self.sites):
            found = self._lambda(constant)
            name = f"{self.name}$$Lambda${number}"
            made.append((name, _class_of(name, found)))
            descriptor = f"({''.join(found.given)})L{found.interface};"
            self.data[at] = _INVOKE_STATIC
            struct.pack_into(">HH", self.data, at + 1, added.method(10, name, "make", descriptor), 0)
            place = self.methods.get((found.method, found.descriptor)) if found.owner == self.name else None
            if place is not None:
                self._open(place, found)
        if not made:
            return [(self.name, bytes(self.data))]
        struct.pack_into(">H", self.data, self.bootstraps_at, added.text("Lambdas"))  # an attribute that nobody knows
        for index in self.constants:
            self._forget(index)
        struct.pack_into(">H", self.data, 8, added.next)
        return [(self.name, bytes(self.data[: self.end] + added.data + self.data[self.end :])), *made]

    def _forget(self, index: int) -> None:
        """Makes of a constant that only call sites had use for another one of its length, which the dexer does not carry along."""
        tag, data = self.constants[index]
        if tag == _METHOD and self.text_of(self.numbers(index)[0]) == _METAFACTORY[0]:
            tag = _DYNAMIC
        if tag == _DYNAMIC:  # a name and its type
            self._replace(index, _NAME_AND_TYPE, self.constants[self.numbers(index)[1]][1])
        elif tag == _METHOD_HANDLE:
            self._replace(index, _TEXT, b"\0\1x")
        elif tag == _METHOD_TYPE or (tag == _CLASS and self.text_of(index) == _METAFACTORY[0]):
            self._replace(index, _STRING, data)

    def _replace(self, index: int, tag: int, data: bytes) -> None:
        at = self.places[index]
        self.data[at : at + 1 + len(data)] = bytes((tag,)) + data

    def _open(self, place: int, found: _Lambda) -> None:
        flags = struct.unpack_from(">H", self.data, place)[0]
        if flags & _PRIVATE and not flags & _STATIC and found.kind != _NEW:
            raise Unknown(f"{self.name}.{found.method} is private and of an object: who calls it elsewhere would call it otherwise")
        shared = _PUBLIC if struct.unpack_from(">H", self.data, self.flags_at)[0] & _INTERFACE_CLASS else 0
        struct.pack_into(">H", self.data, place, flags & ~_PRIVATE | shared)  # an interface knows public and private alone

    def _lambda(self, constant: int) -> _Lambda:
        bootstrap, type_at = self.numbers(constant)
        name, descriptor = self.pair(type_at)
        handle, arguments = self.bootstraps[bootstrap]
        _, maker = self.numbers(handle, ">BH")
        owner_at, pair_at = self.numbers(maker)
        if (self.text_of(owner_at), self.pair(pair_at)[0]) != _METAFACTORY or len(arguments) != 3:
            raise Unknown(f"{self.name} asks {self.text_of(owner_at)}.{self.pair(pair_at)[0]} for code when it runs")
        given, interface = _types(descriptor)
        kind, called = self.numbers(arguments[1], ">BH")
        called_owner, called_pair = self.numbers(called)
        method, called_type = self.pair(called_pair)
        tag, owner = self.constants[called][0], self.text_of(called_owner)
        return _Lambda(interface[1:-1], name, self.text_of(arguments[0]), given, kind, tag, owner, method, called_type)


class _Constants:
    """Constants that are added behind others, each once."""

    def __init__(self, first: int) -> None:
        self.next, self.data = first, bytearray()
        self._known: dict[bytes, int] = {}

    def _add(self, entry: bytes) -> int:
        if entry not in self._known:
            self._known[entry] = self.next
            self.next += 1
            self.data += entry
        return self._known[entry]

    def text(self, text: str) -> int:
        encoded = text.encode("utf-8")
        return self._add(struct.pack(">BH", 1, len(encoded)) + encoded)

    def type(self, name: str) -> int:
        return self._add(struct.pack(">BH", 7, self.text(name)))

    def method(self, tag: int, owner: str, name: str, descriptor: str) -> int:
        """Of a field (9), a method (10), a method of an interface (11)."""
        pair = self._add(struct.pack(">BHH", 12, self.text(name), self.text(descriptor)))
        return self._add(struct.pack(">BHH", tag, self.type(owner), pair))


# ---- the class of a lambda ------------------------------------------------------------------------------------------------------


def _class_of(name: str, what: _Lambda) -> bytes:
    """final class: a field for each captured value, a constructor, `make`, and the interface's method."""
    constants = _Constants(1)
    given = "".join(what.given)
    fields = [f"f{index}" for index in range(len(what.given))]
    begin = b"\x2a\xb7" + struct.pack(">H", constants.method(10, "java/lang/Object", "<init>", "()V"))
    made = b"\xbb" + struct.pack(">H", constants.type(name)) + b"\x59"
    slot_begin, slot_made = 1, 0
    for field, kind in zip(fields, what.given, strict=True):
        begin += b"\x2a" + _load(kind, slot_begin) + b"\xb5" + struct.pack(">H", constants.method(9, name, field, kind))
        made += _load(kind, slot_made)
        slot_begin, slot_made = slot_begin + _slots(kind), slot_made + _slots(kind)
    made += b"\xb7" + struct.pack(">H", constants.method(10, name, "<init>", f"({given})V")) + b"\xb0"
    body, slots = _body(constants, name, what, fields)
    methods = [
        (0x0000, "<init>", f"({given})V", begin + b"\xb1", slot_begin + 3, slot_begin),
        (0x0008, "make", f"({given})L{what.interface};", made, slot_made + 2, slot_made),
        (0x0001, what.name, what.erased, body, slots + slot_begin + 4, slots),
    ]
    out = struct.pack(">HHHHH", 0x1030, constants.type(name), constants.type("java/lang/Object"), 1, constants.type(what.interface))
    out += struct.pack(">H", len(fields))
    for field, kind in zip(fields, what.given, strict=True):
        out += struct.pack(">HHHH", 0x0012, constants.text(field), constants.text(kind), 0)
    out += struct.pack(">H", len(methods))
    for flags, title, descriptor, code, stack, local in methods:
        out += struct.pack(">HHHH", flags, constants.text(title), constants.text(descriptor), 1)
        attribute = struct.pack(">HHI", stack, local, len(code)) + code + struct.pack(">HH", 0, 0)
        out += struct.pack(">HI", constants.text("Code"), len(attribute)) + attribute
    out += struct.pack(">H", 0)
    return b"\xca\xfe\xba\xbe" + struct.pack(">HHH", 0, 52, constants.next) + bytes(constants.data) + out


def _body(constants: _Constants, name: str, what: _Lambda, fields: list[str]) -> tuple[bytes, int]:
    """Calls the method with what was captured and what is given now; and how many places of locals that takes."""
    taken, returned = _types(what.erased)
    wanted, gives = _types(what.descriptor)
    if what.kind in (_VIRTUAL, _INTERFACE):
        wanted = (f"L{what.owner};" if not what.owner.startswith("[") else what.owner, *wanted)
    code = b""
    if what.kind == _NEW:
        code += b"\xbb" + struct.pack(">H", constants.type(what.owner)) + b"\x59"
        gives = f"L{what.owner};"
    for field, kind in zip(fields, what.given, strict=True):
        code += b"\x2a\xb4" + struct.pack(">H", constants.method(9, name, field, kind))
    slot = 1
    if len(wanted) != len(what.given) + len(taken):
        raise Unknown(f"{what.owner}.{what.method} takes {len(wanted)} values, and {len(what.given) + len(taken)} are given")
    for kind, target in zip(taken, wanted[len(what.given) :], strict=True):
        code += _load(kind, slot) + _turned(constants, kind, target)
        slot += _slots(kind)
    call = constants.method(what.tag, what.owner, what.method, what.descriptor)
    opcode = {_VIRTUAL: b"\xb6", _STATIC_KIND: b"\xb8", _NEW: b"\xb7", _INTERFACE: b"\xb9"}.get(what.kind)
    if opcode is None:
        raise Unknown(f"{what.owner}.{what.method} is called in a way (kind {what.kind}) that lambdas do not use")
    code += opcode + struct.pack(">H", call)
    if what.kind == _INTERFACE:
        code += struct.pack(">BB", sum(map(_slots, wanted)), 0)
    if returned == "V":
        pops = {"V": b"", "J": b"\x58", "D": b"\x58"}
        return code + pops.get(gives, b"\x57") + b"\xb1", slot
    if gives == "V":
        raise Unknown(f"{what.owner}.{what.method} gives nothing where {returned} is wanted")
    return code + _turned(constants, gives, returned) + _RETURNS.get(returned, b"\xb0"), slot


_RETURNS = {"J": b"\xad", "F": b"\xae", "D": b"\xaf", **dict.fromkeys("BCISZ", b"\xac")}
_LOADS = {"J": 0x16, "F": 0x17, "D": 0x18, **dict.fromkeys("BCISZ", 0x15)}


def _load(kind: str, slot: int) -> bytes:
    return struct.pack(">BB", _LOADS.get(kind, 0x19), slot)


def _slots(kind: str) -> int:
    return 2 if kind in "JD" else 1


def _turned(constants: _Constants, kind: str, target: str) -> bytes:
    """A value of one type as another: cast, boxed or unboxed."""
    if kind == target or target == "Ljava/lang/Object;" and kind not in _BOXES:
        return b""
    if kind in _BOXES and target in _BOXES:
        raise Unknown(f"a lambda is given {kind} where it takes {target}")
    if kind in _BOXES:
        box = _BOXES[kind][0]
        return b"\xb8" + struct.pack(">H", constants.method(10, box, "valueOf", f"({kind})L{box};"))
    if target in _BOXES:
        box, value = _BOXES[target]
        return b"\xc0" + struct.pack(">HBH", constants.type(box), 0xB6, constants.method(10, box, value, f"(){target}"))
    return b"\xc0" + struct.pack(">H", constants.type(target if target.startswith("[") else target[1:-1]))


def _types(descriptor: str) -> tuple[tuple[str, ...], str]:
    """Parameters and result of a method's descriptor."""
    inner, _, result = descriptor[1:].rpartition(")")
    return tuple(_TYPE.findall(inner)), result


def _instruction(op: int) -> int:
    """Length of an instruction, but for those whose length lies in them."""
    if op in (0x10, 0x12, 0xA9, 0xBC) or 0x15 <= op <= 0x19 or 0x36 <= op <= 0x3A:
        return 2
    if op in (0x11, 0x13, 0x14, _IINC, 0xBB, 0xBD, 0xC0, 0xC1, 0xC6, 0xC7) or 0x99 <= op <= 0xA8 or 0xB2 <= op <= 0xB8:
        return 3
    if op == 0xC5:
        return 4
    return 5 if op in (0xB9, _INVOKE_DYNAMIC, 0xC8, 0xC9) else 1
