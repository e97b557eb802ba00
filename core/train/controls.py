"""Negative controls: the drawn truth, spoiled in ways that each metric of `evaluate` must notice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from .evaluate import Measures, measure
from .generate import Sampled, Video
from .puppets import PuppetClip

BARS: dict[str, tuple[float, float]] = {
    "lipsync": (0.7, 1.0),
    "lag_frames": (-1.0, 1.0),
    "mouth_energy": (0.5, 2.0),
    "mouth_amplitude": (0.7, 1.4),
    "background_psnr_db": (28.0, 150.0),
    "background_ssim": (0.9, 1.0),
    "face_psnr_db": (24.0, 150.0),
    "face_ssim": (0.85, 1.0),
    "identity": (0.65, 1.0),
    "follows_head": (0.9, 1.0),
    "follows_smile": (0.9, 1.0),
    "drift_db_per_s": (-0.5, 0.5),
    "frechet": (0.0, 0.5),
}
"""Between which values a metric's mean over a set must lie. The drawn truth does; its spoiled twin must not."""


@dataclass(frozen=True)
class Control:
    """A way to spoil clips: `spoil(clips)` gives what is shown and what it is judged against, which `metrics` must refuse."""

    name: str
    metrics: tuple[str, ...]
    spoil: Callable[[Sequence[PuppetClip]], tuple[list[Video], list[PuppetClip]]]


def _pixels(change: Callable[[PuppetClip], Video]) -> Callable[[Sequence[PuppetClip]], tuple[list[Video], list[PuppetClip]]]:
    return lambda clips: ([change(clip) for clip in clips], list(clips))


def _fade(clip: PuppetClip) -> Video:
    """Grows away from the first frame's colours by 8 levels a second, after noise of 3 levels that every frame has."""
    noisy = clip.frames + np.random.default_rng(clip.seed).normal(0.0, 3.0, clip.frames.shape)
    ramp = 8.0 * np.arange(len(noisy)) / clip.fps
    return np.asarray(np.clip(noisy + np.where(noisy < 128, 1, -1) * ramp[:, None, None, None], 0, 255), np.uint8)


def _freeze_mouth(clip: PuppetClip) -> Video:
    frames, (y0, y1, x0, x1) = clip.frames.copy(), clip.mouth_box
    frames[:, y0:y1, x0:x1] = frames[0, y0:y1, x0:x1]
    return frames


def _soften(clip: PuppetClip) -> Video:
    return np.asarray(gaussian_filter(clip.frames.astype(np.float32), (0, 2, 2, 0)) + 0.5, np.uint8)


def _exchange_voices(clips: Sequence[PuppetClip]) -> tuple[list[Video], list[PuppetClip]]:
    return [c.frames for c in clips], [replace(c, waveform=clips[i - 1].waveform) for i, c in enumerate(clips)]


def _exchange_prompts(clips: Sequence[PuppetClip]) -> tuple[list[Video], list[PuppetClip]]:
    other = [clips[i - 1] for i in range(len(clips))]
    swapped = [replace(c, head_action=o.head_action, face_action=o.face_action) for c, o in zip(clips, other, strict=True)]
    return [c.frames for c in clips], swapped


def delay_voice(clip: PuppetClip, frames: int) -> PuppetClip:
    """The clip with its sound later by so many video frames, silence in front (negative: earlier, silence at the end)."""
    by = round(frames * clip.sample_rate / clip.fps)
    samples = np.zeros_like(clip.waveform)
    if by >= 0:
        samples[by:] = clip.waveform[: len(samples) - by]
    else:
        samples[:by] = clip.waveform[-by:]
    return replace(clip, waveform=samples)


LATE = 4
CONTROLS: tuple[Control, ...] = (
    Control("shuffled audio", ("lipsync",), _exchange_voices),
    Control(
        f"audio {LATE} frames late", ("lipsync", "lag_frames"),
        lambda clips: ([c.frames for c in clips], [delay_voice(c, LATE) for c in clips]),
    ),
    Control("time reversed", ("lipsync",), _pixels(lambda clip: np.ascontiguousarray(clip.frames[::-1]))),
    Control("frozen mouth", ("lipsync", "mouth_energy", "mouth_amplitude"), _pixels(_freeze_mouth)),
    Control("blurred", ("mouth_energy", "face_psnr_db", "face_ssim", "frechet"), _pixels(_soften)),
    Control(
        "wrong identity", ("background_psnr_db", "background_ssim", "face_psnr_db", "face_ssim", "identity"),
        lambda clips: ([clips[i - 1].frames for i in range(len(clips))], list(clips)),
    ),
    Control("shuffled prompts", ("follows_head", "follows_smile"), _exchange_prompts),
    Control("fading", ("drift_db_per_s",), _pixels(_fade)),
)  # fmt: skip
"""Every metric of `BARS` is refused by one of them."""


def controls(clips: Sequence[PuppetClip]) -> list[dict[str, Any]]:
    """Spoils drawn clips as each of `CONTROLS` says. JSON-ready rows: control, metric, what the truth and what the control
    measures, the bar, and whether the truth passes and the control fails. Use 24 clips of two seconds; shorter ones have no drift.

    Raises:
        InputError: there are fewer than two clips.
    """

    def within(metric: str, value: float) -> bool:
        low, high = BARS[metric]
        return low <= value <= high

    true = _means(measure([Sampled([c.frames for c in clips])], clips, only=set(BARS)))
    rows: list[dict[str, Any]] = []
    for control in CONTROLS:
        videos, judged = control.spoil(clips)
        spoiled = _means(measure([Sampled(videos)], judged, only=set(control.metrics)))
        rows += [
            {
                "control": control.name, "metric": metric, "truth": true[metric], "spoiled": spoiled[metric],
                "bar": list(BARS[metric]),
                "truth_passes": within(metric, true[metric]), "control_fails": not within(metric, spoiled[metric]),
            }
            for metric in control.metrics
            if metric in true and metric in spoiled
        ]  # fmt: skip
    return rows


def _means(measures: Measures) -> dict[str, float]:
    """Metric -> mean; the median for the lag, whose outliers are whole syllables. Metrics without a figure are left out."""
    known = {name: values[np.isfinite(values)] for name, values in measures.items()}
    return {name: float(np.median(v) if name == "lag_frames" else v.mean()) for name, v in known.items() if len(v)}
