"""Noise: bits of the counter-based generator, uniforms, doubles before the last rounding, and latents."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from ...core.plan import noise, philox
from ...core.plan.normals import box_muller
from .group import Group

# Blocks whose float32 are others where NumPy's log, cos and sin are taken: all of them that 240 million drawn values have.
HARD = (
    (1444355914, 3703409214, 3180916816, 1071971524),
    (2470038500, 1613083304, 883338109, 3221225472),
    (2853873915, 2927590382, 923153578, 3221227716),
    (4278945249, 2147483695, 2402640394, 884388634),
    (3752971643, 1330879787, 3089600600, 1073940098),
    (382166499, 3221225347, 447856779, 440031468),
    (2610501464, 625943064, 1106818175, 723022554),
    (754802615, 1400442455, 427896938, 2147475994),
    (4283025930, 3221224673, 3788018317, 890080386),
)
_EDGES = (
    0,
    1,
    2**29 - 1,
    2**29,
    2**30 - 1,
    2**30,
    3 * 2**29,
    2**31 - 1,
    2**31,
    3 * 2**30,
    2**32 - 2,
    2**32 - 1,
    0xB504F333,
    0xB504F334,
)
_SHAPES = (
    ("a window of nano", 0, (16, 3, 4, 4), 0), ("no multiple of four", 1, (3, 2, 3, 5), 0),
    ("one value", 2**32 - 1, (1, 1, 1, 1), 0),
    ("the largest seed", 2**64 - 1, (2, 2, 3, 3), 0), ("a seed above 2^63", 2**63, (1, 1, 2, 2), 0),
    ("a seed above 2^32", 2**32 + 7, (4, 1, 2, 3), 0), ("later frames", 12345, (2, 2, 3, 3), 1000),
    ("many values", 42, (16, 5, 16, 16), 2),
)  # fmt: skip


def build() -> Group:
    group = Group("noise")
    counters = np.array(
        [
            [0, 0, 0, 0],
            [2**32 - 1] * 4,
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [1, 0, 0, 0],
            [0, 1, 0, 0],
            [7, 8, 9, 10],
        ],
        np.uint64,
    ).T
    for number, key in enumerate(((0, 0), (2**32 - 1, 2**32 - 1), (0xA4093822, 0x299F31D0))):
        given = {"counter": counters.astype(np.uint32), "key": list(key)}
        group.case("philox", f"philox {number}", given, {"words": philox(counters, key)})
    counter = np.zeros((4, 1500), np.uint64)
    counter[0] = np.arange(1500)
    _normals(
        group, "drawn", philox(counter, (2024, 1)), "a platform's log, cos and sin give other doubles, and so do fused operations"
    )
    _normals(group, "edges", np.array([[one, other, other, one] for one in _EDGES for other in _EDGES], np.uint32).T)
    _normals(group, "hard", np.array(HARD, np.uint32).T, "a platform's log, cos and sin give other float32")
    for name, seed, shape, first in _SHAPES:
        given = {"seed": seed, "shape": list(shape), "first_frame": first}
        group.case("noise", name, given, {"latents": noise(seed, shape, first)})
    for name, seed in (("a negative seed", -1), ("a seed of 65 bits", 2**64)):
        given = {"seed": str(seed), "shape": [1, 1, 1, 1], "first_frame": 0}
        group.refused("noise", name, given, partial(noise, seed, (1, 1, 1, 1)))
    return group


def _normals(group: Group, name: str, words: NDArray[np.uint32], trap: str | None = None) -> None:
    made = box_muller(np.ascontiguousarray(words))
    expected = {
        "uniforms": made.uniforms, "logarithms": made.logarithms, "cosines": made.cosines, "sines": made.sines,
        "doubles": made.normals, "floats": made.normals.astype(np.float32),
    }  # fmt: skip
    group.case("normals", name, {"words": words}, expected, trap=trap)
