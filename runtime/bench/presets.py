"""What baselines are recorded at: named shapes and samplings, as data."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field

from ...core.config import NANO_CLIP, ClipSpec
from ...core.errors import ConfigError
from ...core.weights.nano import STUDENT_STEPS


@dataclass(frozen=True)
class Preset:
    """A workload: `branches` of guidance in each of `steps`; two are as published, one is without guidance. `student`: of the
    built-in model's student."""

    name: str
    model: str
    clip: ClipSpec
    steps: int
    branches: int
    student: bool = False

    @property
    def evaluations(self) -> int:
        return self.steps * self.branches


@dataclass(frozen=True)
class PublishedRun:
    """What others have published of a preset's workload; nothing of it was measured here. Seconds of wall time."""

    preset: str
    source: str
    device: str
    precision: str
    total_seconds: tuple[float, ...]
    peak_process_gib: tuple[float, ...]
    stage_seconds: Mapping[str, float] = field(default_factory=dict)


SAMPLINGS = {"": (8, 2), "-4x1": (4, 1)}  # steps, branches
CONSUMER = ClipSpec(512, 512, 17)  # the shape of the only figure that anybody has published of a consumer's machine
SHAPES = (ClipSpec(256, 256, 25), ClipSpec(384, 384, 49), ClipSpec(512, 512, 81))

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        *(Preset(f"nano{suffix}", "nano", NANO_CLIP, *counts) for suffix, counts in SAMPLINGS.items()),
        Preset("nano-student", "nano", NANO_CLIP, STUDENT_STEPS, 1, student=True),
        *(Preset(f"flash-{clip}{suffix}", "flash", clip, *counts) for clip in SHAPES for suffix, counts in SAMPLINGS.items()),
        Preset(f"flash-{CONSUMER}", "flash", CONSUMER, 8, 2),
    )
}

# docs/FIRST_SMOKE.md of that repository: one run stage by stage, and the total of a second one under another load.
PUBLISHED = PublishedRun(
    preset=f"flash-{CONSUMER}", source="github.com/guilhermesilveira/echomimic-v3-mlx",
    device="Mac mini, M4 Pro, 20 GPU cores, 64 GB", precision="bf16", total_seconds=(73.27, 115.76),
    peak_process_gib=(37.02, 16.55),
    stage_seconds={
        "wav2vec2": 4.48, "umT5": 4.50, "CLIP": 1.24, "VAE encode": 5.38, "denoise": 47.10, "VAE decode": 9.38,
    },
)  # fmt: skip


def find_preset(name: str) -> Preset:
    """Raises ConfigError: there is no preset of that name; the message lists them and the nearest."""
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"There is no preset {name!r}. Choose from: {', '.join(PRESETS)}.{hint}")
    return PRESETS[name]
