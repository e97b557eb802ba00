"""JSON: numbers go through a double and are narrowed from there; what is no JSON is refused."""

from __future__ import annotations

import json
from fractions import Fraction
from functools import partial

import numpy as np

from ...core.bundle.manifest import read_document
from ...core.plan import philox
from .group import Group

_PLAIN = (
    "0", "-0", "-0.0", "0.0", "1", "-1", "0.1", "0.2", "1.3", "0.8", "0.30000000000000004", "1e2", "1E2", "1e+2", "1.5e-3",
    "123456789",
    "16777217", "9007199254740993", "1e23", "8.5e22", "3.4028234663852886e+38", "1.1754943508222875e-38", "1e-45",
    "2.2250738585072014e-308",
    "5e-324", "1e-400", "0.000001", "179769313486231570000000000000", "-2.5e-1",
)  # fmt: skip
_WHOLE = (
    "0",
    "1",
    "4294967295",
    "4294967296",
    "9007199254740993",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
)
_STRINGS = (
    '""', '"a"', '"\\""', '"\\\\ \\/ \\b\\f\\n\\r\\t"', '"\\u0041\\u00e9\\u4e2d"', '"\\ud83d\\ude00"', '"Zoë 中 😀"', '"\\u0000x"',
)  # fmt: skip
_GOOD = ("{}", "[]", ' {"a" : [1, 2.5, true, false, null, "x"]}\n', "[[[[]]]]", '"text"', "7", '{"a":{"b":[]},"c":0}', "\t[ ]\r\n")
_BAD = {
    "empty": "", "cut off": '{"a": [1, 2', "comma behind the last": "[1, 2,]", "comma in an object": '{"a": 1,}',
    "twice": '{"a": 1, "a": 2}',
    "twice, escaped": '{"a": 1, "\\u0061": 2}', "no number": '{"a": NaN}', "infinite": "[Infinity]", "beyond a double": "[1e400]",
    "leading zero": "[01]", "plus": "[+1]", "no digit before": "[.5]", "no digit behind": "[1.]", "no exponent": "[1e]",
    "single quotes": "{'a': 1}",
    "bare name": "{a: 1}", "no colon": '{"a" 1}', "no comma": "[1 2]", "behind the end": "{} {}", "raw control character": '"a\nb"',
    "unknown escape": '"\\x41"', "short escape": '"\\u12"', "comment": "{} // no", "capital": "[True]",
}  # fmt: skip
_MAY = ("beyond a double",)  # a player that reads it as infinity refuses it later, or never meets it


def midpoints(differing: int, agreeing: int) -> list[str]:
    """Texts of doubles that lie in the middle between two float32: the shortest text lies beside it, so that some read as float32
    at once are one bit off, and so many are not."""
    words = philox(np.stack([np.arange(1 << 12, dtype=np.uint64), *np.zeros((3, 1 << 12), np.uint64)]), (1, 2))
    wanted, found = {True: differing, False: agreeing}, dict[str, bool]()
    for word in words[0]:
        low = np.uint32((int(word) & 0x807FFFFF) | (0x38000000 + (int(word) >> 7 & 0x0F000000)))
        one, two = (float(np.array(bits, np.uint32).view(np.float32)) for bits in (low, low + np.uint32(1)))
        middle = (one + two) / 2
        text = repr(middle)
        beside = Fraction(text) - Fraction(middle)
        nearer = one if beside < 0 and one < two or beside > 0 and two < one else two  # what the text alone is nearest to
        off = beside != 0 and float(np.float32(middle)) != nearer
        if wanted[off] > 0:
            wanted[off] -= 1
            found[text] = off
    return list(found)


def build() -> Group:
    group = Group("numbers")
    for name, texts, trap in (
        ("plain", list(_PLAIN), None),
        ("midpoints", midpoints(40, 20), "a text that is read as float32 at once is one bit off"),
    ):
        doubles = np.array([float(json.loads(text)) for text in texts])
        group.case("numbers", name, {"texts": texts}, {"doubles": doubles, "floats": doubles.astype(np.float32)}, trap=trap)
    group.case(
        "integers", "seeds", {"texts": list(_WHOLE)}, {"values": np.array([json.loads(text) for text in _WHOLE], np.uint64)},
        trap="an integer that goes through a double, or a signed one, is another seed",
    )  # fmt: skip
    for number, text in enumerate(_STRINGS):
        utf8 = np.frombuffer(json.loads(text).encode(), np.uint8)
        group.case("string", f"string {number}", {"text": text}, {"utf8": utf8})
    for number, text in enumerate(_GOOD):
        read_document(text)
        group.case("document", f"document {number}", {"text": text}, {})
    for name, text in _BAD.items():
        group.refused("document", name, {"text": text}, partial(read_document, text), must=name not in _MAY)
    return group
