"""ICC profiles written byte by byte (ICC.1:2010), and the colours that they stand for in closed form."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable

import numpy as np

D50 = np.array([0.9642, 1.0, 0.8249])
SRGB_PRIMARIES = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
P3_PRIMARIES = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
D65 = (0.3127, 0.3290)
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def xyz(chromaticity: tuple[float, float]) -> np.ndarray:
    x, y = chromaticity
    return np.array([x / y, 1.0, (1 - x - y) / y])


def to_xyz(primaries: tuple[tuple[float, float], ...]) -> np.ndarray:
    """Linear RGB with the white of D65 -> XYZ: [3, 3]."""
    columns = np.stack([xyz(primary) for primary in primaries], axis=1)
    return columns * np.linalg.solve(columns, xyz(D65))


def d65_to_d50() -> np.ndarray:
    return np.linalg.inv(BRADFORD) @ np.diag(BRADFORD @ D50 / (BRADFORD @ xyz(D65))) @ BRADFORD


def decoded(levels: np.ndarray) -> np.ndarray:
    """sRGB's curve: levels -> linear light in [0, 1]."""
    share = levels / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def encoded(light: np.ndarray) -> np.ndarray:
    """The inverse of `decoded`, cut off at sRGB's edge."""
    light = np.clip(light, 0, 1)
    return 255 * np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def p3_as_srgb(levels: np.ndarray) -> np.ndarray:
    """Display P3 [..., 3] -> sRGB, in levels."""
    return encoded(decoded(levels) @ (np.linalg.inv(to_xyz(SRGB_PRIMARIES)) @ to_xyz(P3_PRIMARIES)).T)


def lab_as_srgb(lab: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of D50 [..., 3] -> sRGB, in levels."""
    lightness, a, b = np.moveaxis(lab, -1, 0)
    root = (lightness + 16) / 116
    roots = np.stack([root + a / 500, root, root - b / 200], axis=-1)
    light = np.where(roots > 6 / 29, roots**3, 3 * (6 / 29) ** 2 * (roots - 4 / 29)) * D50
    return encoded(light @ (np.linalg.inv(to_xyz(SRGB_PRIMARIES)) @ np.linalg.inv(d65_to_d50())).T)


def _fixed(values: np.ndarray | list[float]) -> bytes:
    return b"".join(struct.pack(">i", round(float(value) * 65536)) for value in values)


def _text(words: str) -> bytes:
    coded = words.encode("utf-16-be")
    return b"mluc" + struct.pack(">IIIHHII", 0, 1, 12, 0x656E, 0x5553, len(coded), 28) + coded


def _profile(kind: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    tags = {b"desc": _text("for tests"), b"cprt": _text("none"), b"wtpt": b"XYZ " + bytes(4) + _fixed(D50)} | tags
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4sI", start + len(body), bytes(4), 0x04300000) + kind + space + connection
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + _fixed(D50) + bytes(48)
    assert len(head) == 128
    return head + table + body


def rgb_profile(primaries: tuple[tuple[float, float], ...], black: bool = False) -> bytes:
    """A display with these primaries, D65 and sRGB's curve; `black`: whose lights are all off."""
    curve = b"para" + bytes(4) + struct.pack(">HH", 3, 0) + _fixed([2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045])
    columns = (d65_to_d50() @ to_xyz(primaries)).T * (not black)
    tags = {name + b"XYZ": b"XYZ " + bytes(4) + _fixed(column) for name, column in zip((b"r", b"g", b"b"), columns, strict=True)}
    return _profile(b"mntr", b"RGB ", b"XYZ ", tags | {name + b"TRC": curve for name in (b"r", b"g", b"b")})


def linear_grey_profile() -> bytes:
    """Grey levels that are linear light."""
    return _profile(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": b"curv" + bytes(4) + struct.pack(">I", 0)})


def cmyk_profile(colour: Callable[[np.ndarray], np.ndarray]) -> bytes:
    """A press: `colour` gives the L*a*b* of inks [4] in [0, 1], and is linear in each, as the table of two steps is."""
    ramp = bytes(range(256))
    table = b""
    for inks in itertools.product((0.0, 1.0), repeat=4):
        lightness, a, b = colour(np.array(inks))
        table += bytes([round(lightness * 2.55), round(a) + 128, round(b) + 128])
    unit = _fixed([1, 0, 0, 0, 1, 0, 0, 0, 1])
    data = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + unit + ramp * 4 + table + ramp * 3
    return _profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": data})
