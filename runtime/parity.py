"""Parity: compiled against full precision, program by program on recorded calls, then a whole clip, then the mouth."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.bundle import Bundle, Figures
from ..core.config import ClipSpec
from ..core.errors import BundleError, InputError
from ..core.golden import GOLDEN, GOLDEN_INDEX, Golden, compare
from ..core.metrics.agreement import falls_short, figures
from ..core.metrics.lipsync import lipsync
from ..core.metrics.psnr import cosine, max_abs, psnr
from ..core.nano import assets
from ..core.plan import SamplingPlan
from .engines.base import Array, Engine
from .media import fit_speech, normalise_loudness, read_portrait, read_speech, to_signed
from .player import Player, Score

if TYPE_CHECKING:
    from ..core.programs import Model, Program

LIPSYNC_SHARE = 0.95  # of full precision's lip-sync that a compiled bundle must keep
KEPT_CALLS = 2  # recorded per method: the first and the last
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Row:
    """One comparison: the worst over a program's recorded calls and outputs, or a whole clip's. `demanded` empty fields: not
    judged."""

    name: str
    measured: Figures
    demanded: Figures

    @property
    def passed(self) -> bool:
        return not falls_short(self.measured, self.demanded)


@dataclass(frozen=True)
class Verdict:
    """All rows, and the lip-sync of the clip in full precision and as compiled; None where no clip was played."""

    rows: tuple[Row, ...]
    lipsync_reference: float | None = None
    lipsync_measured: float | None = None
    lipsync_clips: int = 1

    @property
    def lipsync_passed(self) -> bool:
        if self.lipsync_reference is None or self.lipsync_measured is None:
            return True
        lost = (1 - LIPSYNC_SHARE) * abs(self.lipsync_reference)  # abs: an equal clip passes, in step with the voice or not
        return self.lipsync_measured >= self.lipsync_reference - lost

    @property
    def passed(self) -> bool:
        return self.lipsync_passed and all(row.passed for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """For scripts: JSON-ready."""
        return {
            "passed": self.passed,
            "lipsync": None if self.lipsync_reference is None or self.lipsync_measured is None else {
                "reference": round(self.lipsync_reference, 4), "measured": round(self.lipsync_measured, 4),
                "demanded_share": LIPSYNC_SHARE, "clips": self.lipsync_clips, "passed": self.lipsync_passed,
            },
            "rows": [
                {
                    "name": row.name, "passed": row.passed,
                    "measured": row.measured.model_dump(), "demanded": row.demanded.model_dump(),
                }
                for row in self.rows
            ],
        }  # fmt: skip


class _Recorder:
    """An engine that keeps the first and the last call of every method."""

    name = "recorder"

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.calls: dict[tuple[str, str], list[tuple[list[Array], list[Array]]]] = {}

    def has(self, program: str) -> bool:
        return self.engine.has(program)

    def run(self, program: str, method: str, inputs: Sequence[Array]) -> list[Array]:
        outputs = self.engine.run(program, method, inputs)
        calls = self.calls.setdefault((program, method), [])
        del calls[KEPT_CALLS - 1 :]
        calls.append((list(inputs), outputs))
        return outputs


def demo_case(clip: ClipSpec, frames: int) -> dict[str, Any]:
    """A demo portrait and the first `frames` frames of a demo voice that lasts as long, with the mouth's place in the picture."""
    folder = assets() / "demo"
    demo = json.loads((folder / "demo.json").read_text())
    portrait = demo["portraits"][0]
    voice = next((v for v in demo["voices"] if v["frames"] >= frames), demo["voices"][-1])
    top, bottom, left, right = portrait["mouth_box"]
    return {
        "portrait": read_portrait(folder / portrait["file"], clip.height, clip.width),
        "speech": fit_speech(read_speech(folder / voice["file"], clip.sample_rate), frames, clip.fps, clip.sample_rate),
        "prompt": portrait["prompt"],
        "seed": 0,
        "mouth_box": [round(top * clip.height), round(bottom * clip.height), round(left * clip.width), round(right * clip.width)],
    }


def record_golden(
    model: Model, programs: dict[str, Program], plan: SamplingPlan, tables: Mapping[str, np.ndarray], clip: ClipSpec
) -> Golden:
    """Plays the demo case in full precision and keeps every program's first and last call, and the clip itself."""
    from .engines.torch import TorchEngine

    samples = programs["audio_encoder"]["forward"].inputs["waveform"].shape[1]
    rows = programs["encode_conditions"]["forward"].inputs["text"].shape[1]
    recorder = _Recorder(TorchEngine(programs))
    player = Player(Score(model.config, clip, plan, tables, rows, samples), recorder)
    case = demo_case(clip, 2 * clip.frames - 1)  # two windows, so that streaming and blending are on record too
    take = player.perform(case["portrait"], case["speech"], case["prompt"], case["seed"])
    frames = np.stack(list(player.frames_of(take)))
    golden = Golden()
    for (program, method), calls in recorder.calls.items():
        for inputs, outputs in calls:
            golden.add_call(program, method, inputs, outputs)
    arrays = {"portrait": case["portrait"], "speech": case["speech"], "latents": take.latents, "frames": frames}
    golden.index["clip"] = {name: golden.add(array) for name, array in arrays.items()}
    golden.index["settings"] = {key: case[key] for key in ("prompt", "seed", "mouth_box")}
    return golden


def verify(bundle: Bundle, engine: Engine, baseline: Path | None = None, progress: Progress = lambda *_: None) -> Verdict:
    """Compares `engine` playing `bundle` with the bundle's recorded full-precision run, or with `baseline`'s latents and frames.

    Raises:
        BundleError: the bundle carries no goldens.
        InputError: the baseline is not a safetensors file with `latents` and `frames` of the golden clip's shapes.
    """
    golden = read_golden(bundle)
    wanted = bundle.manifest.parity.thresholds
    rows: list[Row] = []

    def judge(name: str, found: Figures) -> None:
        rows.append(Row(name, found, wanted.get(name, Figures())))
        progress("programs", len(rows), len(golden.index["programs"]))

    compare(golden, engine.run, done=judge)
    if not golden.index["clip"]:  # its programs are too large for a clip to be made in full precision at export
        if baseline is not None:
            raise InputError(f"{bundle.root} holds no recorded clip to compare with; --baseline goes with bundles that do.")
        return Verdict(tuple(rows))
    clip, settings = {name: golden.tensors[key] for name, key in golden.index["clip"].items()}, golden.index["settings"]
    player = Player(Score.of(bundle), engine)
    take = player.perform(clip["portrait"], clip["speech"], settings["prompt"], settings["seed"])
    frames = np.stack(list(player.frames_of(take)))
    reference = _baseline(baseline, clip) if baseline else clip
    rows.append(Row("latents", figures(reference["latents"], take.latents), wanted.get("latents", Figures())))
    rows.append(Row("frames", _frame_figures(reference["frames"], frames), wanted.get("frames", Figures())))
    progress("clip", 1, 1)
    box = tuple(settings["mouth_box"])
    fps = bundle.clip.fps
    before, after = (lipsync(video, clip["speech"], box, fps) for video in (reference["frames"], frames))
    return Verdict(tuple(rows), before, after)


def read_golden(bundle: Bundle) -> Golden:
    """The recorded calls that travel with a bundle.

    Raises:
        BundleError: it carries none, or they are damaged.
    """
    tensors = bundle.read_tensors(GOLDEN)
    try:
        index = json.loads(bundle.path(GOLDEN_INDEX).read_text())
        used = [
            *index["clip"].values(),
            *(k for m in index["programs"].values() for c in m.values() for call in c for k in _keys(call)),
        ]
        missing = [key for key in used if key not in tensors]
        if missing or not isinstance(index["settings"], dict):
            raise KeyError(missing[0] if missing else "settings")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"{GOLDEN_INDEX} of {bundle.root} is damaged ({error}). Export the bundle again.") from error
    return Golden(tensors, index)


def _keys(call: Mapping[str, Any]) -> list[str]:
    """The arrays that a recorded call names."""
    expected = [entry["key"] if isinstance(entry, dict) else entry for entry in call["outputs"] if entry is not None]
    return [source for source in call["inputs"] if isinstance(source, str)] + expected


def lipsync_over(bundle: Bundle, engine: Engine, clips: int, progress: Progress = lambda *_: None) -> tuple[float, float]:
    """Mean lip-sync over drawn clips of held-out identities and voices: in full precision with torch, and as `engine` plays them.

    Raises:
        EngineError: the model's full-precision weights are not at hand.
    """
    from ..core.train.evaluate import held_out
    from .engines.torch import TorchEngine

    engines: tuple[Engine, Engine] = (TorchEngine.for_bundle(bundle), engine)
    score, fps = Score.of(bundle), bundle.clip.fps
    found: tuple[list[float], list[float]] = ([], [])
    for index, clip in enumerate(held_out(clips)):
        portrait = to_signed(clip.frames[0])
        speech = normalise_loudness(clip.waveform, bundle.clip.sample_rate)
        for scores, each in zip(found, engines, strict=True):
            player = Player(score, each)
            frames = np.stack(list(player.frames_of(player.perform(portrait, speech, clip.prompt, index))))
            scores.append(lipsync(frames, clip.waveform, clip.mouth_box, fps))
        progress("clips", index + 1, clips)
    return float(np.mean(found[0])), float(np.mean(found[1]))


def _frame_figures(reference: Array, measured: Array) -> Figures:
    """As `figures`, with the peak of 8-bit pixels."""
    a, b = reference.astype(np.float64), measured.astype(np.float64)
    return Figures(psnr_db=psnr(a, b, 255.0), cosine=cosine(a, b), max_abs=max_abs(a, b))


def _baseline(path: Path, clip: Mapping[str, Array]) -> dict[str, Array]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"The baseline {path} cannot be read ({error}). It is a safetensors file with `latents` and `frames`."
        ) from error
    for name in ("latents", "frames"):
        if name not in found or found[name].shape != clip[name].shape:
            shape = list(found[name].shape) if name in found else "missing"
            raise InputError(f"The baseline {path} has {name} {shape}; the bundle's clip has {list(clip[name].shape)}.")
    return found
