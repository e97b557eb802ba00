"""Windows of long clips: starts, shares, blends; how long a clip is."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from ...core.config import ClipSpec
from ...core.plan import WindowRule, blend, windows
from ...runtime.play.player import clip_length
from .group import Group, numbers

_CUTS = (
    (7, 7, 3), (8, 7, 3), (11, 7, 3), (12, 7, 3), (30, 7, 3), (9, 7, 0), (14, 7, 0), (15, 7, 1), (10, 7, 6), (9, 3, 2), (3, 1, 0),
    (1, 1, 0),
    (100, 21, 6), (23, 21, 20),
)  # fmt: skip
_COMPAT = ((10, 4, 1, 0), (10, 4, 1, 1), (11, 4, 2, 1), (3, 4, 1, 0), (13, 5, 3, 2))
_SAMPLES = (640, 641, 1280, 16000, 15999, 16001, 3200, 3201, 12345, 160000)


def build() -> Group:
    group = Group("windows")
    for total, length, overlap in _CUTS:
        _cut(group, total, WindowRule(length=length, overlap=overlap), 0)
    for total, length, overlap, step in _COMPAT:
        _cut(group, total, WindowRule(length=length, overlap=overlap, upstream_compat=True), step)
    for total, length, overlap in ((6, 7, 3), (0, 3, 1)):
        given = {"total": total, "length": length, "overlap": overlap, "upstream_compat": False, "step": 0}
        rule = WindowRule(length=length, overlap=overlap)
        group.refused("windows", f"{total} frames in windows of {length}", given, partial(windows, total, rule))
    for total, length, overlap in ((8, 7, 3), (12, 7, 3), (10, 7, 6), (9, 7, 0), (15, 7, 1)):
        rule = WindowRule(length=length, overlap=overlap)
        spans = windows(total, rule)
        velocities = numbers(total, len(spans), 2, length, 2, 2)
        arrays: dict[str, Any] = {"velocities": velocities}
        sizes = {"total": total, "length": length, "overlap": overlap}
        group.case(
            "blend",
            f"blend of {total} frames in {length} - {overlap}",
            sizes | arrays,
            {"velocity": blend(list(zip(spans, velocities, strict=True)))},
        )
    for samples in _SAMPLES:
        for frames in (25, 5):
            clip = ClipSpec(64, 64, frames)
            found, latent_frames = clip_length(samples, clip)
            given = {"samples": samples, "sample_rate": clip.sample_rate, "fps": clip.fps, "frames": frames}
            expected = {"frames": found, "latent_frames": latent_frames}
            group.case("clip", f"{samples} samples, windows of {frames}", given, expected)
    clip = ClipSpec(64, 64, 25)
    given = {"samples": 639, "sample_rate": 16000, "fps": 25, "frames": 25}
    group.refused("clip", "less than a frame", given, lambda: clip_length(639, clip))
    return group


def _cut(group: Group, total: int, rule: WindowRule, step: int) -> None:
    spans = windows(total, rule, step)
    shares = np.zeros((len(spans), rule.length))
    for row, span in zip(shares, spans, strict=True):
        row[: span.length] = span.weights
    expected = {
        "starts": np.array([span.start for span in spans], np.int64),
        "lengths": np.array([span.length for span in spans], np.int64),
    }
    given = {"total": total, "length": rule.length, "overlap": rule.overlap, "upstream_compat": rule.upstream_compat, "step": step}
    name = f"{total} frames in {rule.length} - {rule.overlap}" + (f", upstream, step {step}" if rule.upstream_compat else "")
    group.case("windows", name, given, {**expected, "shares": shares}, optional=rule.upstream_compat)
