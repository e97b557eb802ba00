"""Hearing: readings of the audio encoder, what each is given, and what a window takes of the features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...core.bundle import Hearing
from ...core.plan import Branch, Window, WindowRule
from ...core.sampling.conditioning import ClipInputs
from ...core.sampling.hearing import hear, moments, normalised, present, readings
from ...core.sampling.inputs import frame_windows
from .group import Float32, Group, numbers
from .sounds import spoken

PLAIN = Hearing(neighbours=2, context_frames=3)
WHOLE = Hearing(neighbours=2, context_frames=4, window=(10, 5))
TWO_ROWS = Hearing(rows_per_frame=2, beyond_frames=3, tail_frames=1, context_frames=2, window=(10, 5))
LONG_TAIL = Hearing(tail_frames=4, context_frames=1)
# Largest differences from another order of the sums (tests/runtime/vectors): normalised 4.8e-7, one rounding of values up to 4;
# moments 1.2e-7. A pivot's root magnifies what rounding leaves of a singular matrix, hence the bound on moments.
NORMALISED, MOMENTS = 1e-6, 2e-6

_READ = (
    (25, 25, PLAIN),
    (26, 25, PLAIN),
    (100, 25, PLAIN),
    (9, 25, PLAIN),
    (97, 13, WHOLE),
    (40, 40, TWO_ROWS),
    (60, 13, TWO_ROWS),
    (1, 9, TWO_ROWS),
    (40, 12, LONG_TAIL),
)


def build() -> Group:
    group = Group("hearing")
    for frames, reach, hearing in _READ:
        found = [(each.start, each.end, each.first, each.last) for each in readings(frames, reach, hearing)]
        given = {"frames": frames, "reach": reach, "hearing": _told(hearing)}
        name = f"{frames} frames, {reach} at once, context {hearing.context_frames}, tail {hearing.tail_frames}"
        group.case("readings", name, given, {"readings": np.array(found, np.int64)})
    given = {"frames": 30, "reach": 6, "hearing": _told(PLAIN)}
    group.refused("readings", "nothing left between contexts", given, lambda: list(readings(30, 6, PLAIN)), must=False)

    voice = spoken(0.2, 0.3)
    with_silence = np.concatenate([voice, np.zeros(2000, np.float32)])
    for name, sound, own in (
        ("voice", voice, len(voice)),
        ("silence behind", with_silence, len(voice)),
        ("lifted", voice + np.float32(0.3), 4000),
    ):
        expected = {"sound": normalised(sound, own)}
        group.case("normalised", name, {"sound": sound, "own": own}, expected, within={"sound": NORMALISED})
    tone = np.sin(np.arange(3000) * 0.2).astype(np.float32)
    for name, sound, length, stride in (
        ("noise", numbers(31, 4001), 10, 5), ("voice", normalised(voice, len(voice)), 10, 5),
        ("three taps", numbers(32, 500), 3, 2),
        ("a constant", np.full(500, 0.5, np.float32), 4, 2), ("a tone, a singular covariance", tone, 6, 3),
    ):  # fmt: skip
        given = {"sound": sound, "length": length, "stride": stride}
        group.case(
            "moments", name, given, {"moments": moments(sound, length, stride)}, within={"moments": MOMENTS},
            trap="sums in float32; a pivot that is zero or, by rounding, below",
        )  # fmt: skip
    for frames, reach, rows in ((5, 9, 1), (5, 9, 2), (9, 9, 2), (1, 4, 2), (12, 13, 3)):
        given = {"frames": frames, "reach": reach, "rows_per_frame": rows}
        group.case("present", f"{frames} of {reach} frames, {rows} rows", given, {"present": present(frames, reach, rows)})
    _heard(group)
    for frames, radius in ((7, 2), (1, 2), (3, 1), (5, 4)):
        features = numbers(frames, frames, 3)
        given = {"features": features, "neighbours": radius}
        group.case("neighbours", f"{radius} of {frames}", given, {"rows": frame_windows(features[None], radius)[0]})
    _taken(group)
    return group


def _told(hearing: Hearing) -> dict[str, Any]:
    return hearing.model_dump(mode="json")


def _heard(group: Group) -> None:
    for name, hearing, samples, frames, seconds in (
        ("plain, one reading", PLAIN, 13 * 40, 9, 9 * 40), ("plain, several", PLAIN, 13 * 40, 41, 37 * 40 + 11),
        ("plain, more samples", PLAIN, 13 * 40 + 17, 29, 29 * 40),
        ("whole statistics", WHOLE, 17 * 40, 33, 31 * 40 + 7), ("two rows", TWO_ROWS, 13 * 40, 29, 28 * 40 + 1),
        ("two rows, short", TWO_ROWS, 13 * 40, 9, 200),
        ("cut", PLAIN, 13 * 40, 9, 1000),
    ):  # fmt: skip
        speech = numbers(50 + samples + frames, seconds)
        calls: list[Sequence[Any]] = []

        def run(
            inputs: Sequence[Any], hearing: Hearing = hearing, samples: int = samples, calls: list[Sequence[Any]] = calls
        ) -> Float32:
            rows = hearing.rows_per_frame * (samples // 40) - hearing.rows_per_frame + 1
            calls.append(inputs)
            return np.stack([np.full(rows, len(calls) - 1), np.arange(rows)], 1).astype(np.float32)

        kept = hear(speech, frames, 40, samples, hearing, run)
        expected = {"waveforms": np.concatenate([inputs[0] for inputs in calls]), "kept": kept}
        within = {}
        if hearing.window is not None:
            expected |= {"moments": calls[0][1], "present": np.concatenate([inputs[2] for inputs in calls])}
            within = {"waveforms": NORMALISED, "moments": MOMENTS}
        given = {"speech": speech, "frames": frames, "sample_rate": 1000, "fps": 25, "samples": samples, "hearing": _told(hearing)}
        group.case("hear", name, given, expected, within=within)


def _taken(group: Group) -> None:
    for name, hearing, rows, start, length, total, branch in (
        ("as it is", PLAIN, 49, 4, 7, 13, {}), ("late", PLAIN, 49, 0, 7, 13, {"audio_shift": 8}),
        ("late by more than a window", PLAIN, 49, 6, 7, 13, {"audio_shift": 30}),
        ("not at all", PLAIN, 49, 0, 7, 13, {"audio": False}), ("two rows", TWO_ROWS, 98, 2, 3, 13, {}),
        ("two rows, the clip's end", TWO_ROWS, 98, 10, 3, 13, {}),
        ("two rows, late, the clip's end", TWO_ROWS, 98, 10, 3, 13, {"audio_shift": 2}),
        ("two rows, silent, the clip's end", TWO_ROWS, 98, 10, 3, 13, {"audio": False}),
    ):  # fmt: skip
        features, none = numbers(60 + rows, rows, 3), np.zeros((1, 1, 1, 1, 1), np.float32)
        rule = WindowRule(length=length, overlap=1)
        inputs = ClipInputs(none, none, {}, features, none, total, rule, hearing)
        span, asked = Window(start, length, (1.0,) * length), Branch.of("prompt", **branch)  # type: ignore[arg-type]
        made = inputs.voice(asked, inputs.heard(span), span)
        given = {
            "features": features, "hearing": _told(hearing), "start": start, "length": length, "latent_frames": total,
            "audio": asked.audio, "audio_shift": asked.audio_shift,
        }  # fmt: skip
        group.case("audio", name, given, dict(zip(("audio", "audio_present"), made, strict=False)))
