"""Parity: compiled against full precision, program by program on recorded calls, then what each input changes, then a whole clip
and its mouth."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...core.bundle import Bundle, Figures
from ...core.bundle.agreement import demands, falls_short, figures, lowest
from ...core.bundle.golden import GOLDEN, GOLDEN_INDEX, Given, Golden, compare
from ...core.bundle.reactions import Reactions
from ...core.errors import BundleError, InputError
from ...core.metrics.lipsync import lipsync
from ...core.metrics.psnr import in_words
from ...core.metrics.silence import Silence
from ..engines.base import Array, Engine
from ..play.pictures import to_signed
from ..play.player import Player, PlayerConfig
from ..play.speech import normalise_loudness
from .operators import Naming, Wrong
from .reactions import Reaction, reactions_of

LIPSYNC_SHARE = 0.95  # of full precision's lip-sync that a compiled bundle must keep
OPEN_IN_SILENCE = 0.10  # of its opening in speech, at most
CLIP_ARRAYS, CLIP_SETTINGS = ("portrait", "speech", "latents", "frames"), ("prompt", "seed", "mouth_box")  # of a recorded clip
Progress = Callable[[str, int, int], None]


NOTHING_DEMANDED = "the bundle demands nothing of it"
NO_CALLS = "the bundle has no recorded calls of it"
NO_CLIP = "the bundle has no recorded clip, so none was played"


@dataclass(frozen=True)
class Row:
    """One comparison: the worst over a program's recorded calls and outputs, or a whole clip's. `missing`: why there was nothing to
    compare; `operator`: of a program that fails, the first operator that differs, where that can be told."""

    name: str
    measured: Figures
    demanded: Figures
    missing: str | None = None
    operator: Wrong | None = None

    @property
    def unjudged(self) -> str | None:
        """Why the row is neither passed nor failed; None if it is one of the two."""
        return self.missing or (None if demands(self.demanded) else NOTHING_DEMANDED)

    @property
    def passed(self) -> bool:
        """Judged, and nothing falls short."""
        return self.unjudged is None and not falls_short(self.measured, self.demanded)

    @property
    def failed(self) -> bool:
        return self.unjudged is None and not self.passed

    def to_dict(self) -> dict[str, Any]:
        """For scripts; `passed` is null where nothing was judged."""
        return {
            "name": self.name, "judged": self.unjudged is None, "reason": self.unjudged,
            "passed": self.passed if self.unjudged is None else None,
            "measured": self.measured.model_dump(), "demanded": self.demanded.model_dump(),
            "first_differing": None if self.operator is None else self.operator.to_dict(),
        }  # fmt: skip


@dataclass(frozen=True)
class Lipsync:
    """Lip-sync of a clip, or its mean over `clips` of them, in full precision and as compiled. None: no clip was played."""

    reference: float | None = None
    measured: float | None = None
    clips: int = 1

    @property
    def unjudged(self) -> str | None:
        return NO_CLIP if self.reference is None or self.measured is None else None

    @property
    def passed(self) -> bool:
        if self.reference is None or self.measured is None:
            return False
        lost = (1 - LIPSYNC_SHARE) * abs(self.reference)  # abs: an equal clip passes, in step with the voice or not
        return self.measured >= self.reference - lost

    @property
    def failed(self) -> bool:
        return self.unjudged is None and not self.passed

    def to_dict(self) -> dict[str, Any]:
        """For scripts; as `Row.to_dict`."""
        return {
            "judged": self.unjudged is None, "reason": self.unjudged, "passed": self.passed if self.unjudged is None else None,
            "reference": None if self.reference is None else round(self.reference, 4),
            "measured": None if self.measured is None else round(self.measured, 4),
            "demanded_share": LIPSYNC_SHARE, "clips": self.clips,
        }  # fmt: skip


@dataclass(frozen=True)
class ShutMouth:
    """The mouth where nobody speaks, its mean over `clips` (`mouths.silence_of_bundle`)."""

    measured: Silence
    clips: int
    demanded: float = OPEN_IN_SILENCE
    unjudged: None = None

    @property
    def passed(self) -> bool:
        return self.measured.opening <= self.demanded

    @property
    def failed(self) -> bool:
        return not self.passed

    def to_dict(self) -> dict[str, Any]:
        """For scripts; as `Row.to_dict`."""
        return {
            "judged": True, "reason": None, "passed": self.passed, "opening": round(self.measured.opening, 4),
            "motion": round(self.measured.motion, 4), "demanded_opening": self.demanded, "clips": self.clips,
        }  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """All rows, what each input changes, the lip-sync, and the mouth in silence where that was asked for. What was not judged has
    neither passed nor failed, and says why."""

    rows: tuple[Row, ...]
    lipsync: Lipsync = Lipsync()
    reactions: tuple[Reaction, ...] = ()
    silence: ShutMouth | None = None

    @property
    def parts(self) -> tuple[Row | Reaction | Lipsync | ShutMouth, ...]:
        return (*self.rows, *self.reactions, self.lipsync, *([] if self.silence is None else [self.silence]))

    @property
    def failed(self) -> bool:
        """Something that was judged falls short."""
        return any(part.failed for part in self.parts)

    @property
    def passed(self) -> bool:
        """Something was judged, and all that was passes. See `complete`."""
        return not self.failed and any(part.passed for part in self.parts)

    @property
    def complete(self) -> bool:
        """Nothing was left unjudged."""
        return all(part.unjudged is None for part in self.parts)

    def to_dict(self) -> dict[str, Any]:
        """For scripts: JSON-ready."""
        return {
            "passed": self.passed, "complete": self.complete, "lipsync": self.lipsync.to_dict(),
            "silence": None if self.silence is None else self.silence.to_dict(),
            "rows": [row.to_dict() for row in self.rows], "inputs": [reaction.to_dict() for reaction in self.reactions],
        }  # fmt: skip

    def summary(self) -> str:
        """The figures in a line."""
        measured = [f"{row.name} {in_words(row.measured.psnr_db)}" for row in self.rows if not row.missing]
        measured += [f"{each.name} keeps {each.share:.1%}" for each in self.reactions if each.share is not None]
        return f"{', '.join(measured)}. {self.sentence()}"

    def sentence(self) -> str:
        """What can be said of the bundle in one sentence, and no more than that."""
        unjudged = sum(part.unjudged is not None for part in self.parts)
        if self.failed:
            return "A threshold failed."
        if not self.passed:
            return "Nothing was judged: this says nothing about the bundle."
        if unjudged:
            return f"What was judged is equal within the bundle's thresholds; {unjudged} of {len(self.parts)} rows were not judged."
        return "Equal within the bundle's thresholds."


def verify(bundle: Bundle, engine: Engine, baseline: Path | None = None, progress: Progress = lambda *_: None) -> Verdict:
    """Compares `engine` playing `bundle` with the bundle's recorded full-precision run, or with `baseline`'s latents and frames,
    and what each input changes with what it changed there.

    A program that is given what another one makes is asked for no more than that one. Of a Core ML program that falls short, the
    first operator that differs is looked for.

    Raises:
        BundleError: the bundle carries no goldens, or they are damaged or prove nothing.
        InputError: the baseline is not a safetensors file with `latents` and `frames` of the golden clip's shapes.
    """
    golden = read_golden(bundle)
    if baseline is not None and not golden.index["clip"]:
        raise InputError(f"{bundle.root} holds no recorded clip to compare with; --baseline goes with bundles that do.")
    wanted = bundle.manifest.demanded
    rows: list[Row] = []
    naming = Naming(bundle, golden, engine)

    def demanded(name: str) -> Figures:
        return lowest([wanted.get(each, Figures()) for each in (name, *golden.makers(name))])

    def judge(name: str, found: Figures) -> None:
        row = Row(name, found, demanded(name))
        rows.append(replace(row, operator=naming.of(name)) if row.failed else row)
        progress("programs", len(rows), len(golden.index["programs"]))

    compare(golden, engine.run, done=judge)
    unheard = [name for name in bundle.manifest.programs if name not in golden.index["programs"]]
    rows += [Row(name, Figures(), wanted.get(name, Figures()), NO_CALLS) for name in unheard]
    reactions = reactions_of(bundle, golden, engine, partial(progress, "inputs"))
    if not golden.index["clip"]:  # its programs are too large for a clip to be made in full precision at export
        rows += [Row(name, Figures(), wanted.get(name, Figures()), NO_CLIP) for name in ("latents", "frames")]
        return Verdict(tuple(rows), reactions=reactions)
    clip, settings = {name: golden.tensors[key] for name, key in golden.index["clip"].items()}, golden.index["settings"]
    player = Player(PlayerConfig.of(bundle), engine)
    made = player.generate(clip["portrait"], clip["speech"], settings["prompt"], settings["seed"])
    frames = np.stack(list(player.frames_of(made)))
    reference = _baseline(baseline, clip) if baseline else clip
    rows.append(Row("latents", figures(reference["latents"], made.latents), wanted.get("latents", Figures())))
    rows.append(Row("frames", figures(reference["frames"], frames, peak=255.0), wanted.get("frames", Figures())))
    progress("clip", 1, 1)
    box = tuple(settings["mouth_box"])
    fps = bundle.clip.fps
    before, after = (lipsync(video, clip["speech"], box, fps) for video in (reference["frames"], frames))
    return Verdict(tuple(rows), Lipsync(before, after), reactions)


def read_golden(bundle: Bundle) -> Golden:
    """The recorded calls that travel with a bundle.

    Raises:
        BundleError: it carries none, or they are damaged.
    """
    tensors = bundle.read_tensors(GOLDEN)
    try:
        index = json.loads(bundle.path(GOLDEN_INDEX).read_text())
        if index["clip"]:
            lacking = [name for name in CLIP_ARRAYS if name not in index["clip"]]
            lacking += [name for name in CLIP_SETTINGS if name not in index["settings"]]
            if lacking:
                raise KeyError(f"its clip has no {lacking[0]}")
        used = [
            *index["clip"].values(),
            *(k for m in index["programs"].values() for c in m.values() for call in c for k in _keys(call)),
        ]
        missing = [key for key in used if key not in tensors]
        if missing or not isinstance(index["settings"], dict):
            raise KeyError(missing[0] if missing else "settings")
        if not index["programs"]:
            raise KeyError("it records no program")
        Reactions.of(index, tensors)
    except (ValueError, KeyError, TypeError, AttributeError, BundleError) as error:
        raise BundleError(f"{GOLDEN_INDEX} of {bundle.root} is damaged ({error}). Export the bundle again.") from error
    return Golden(tensors, index)


def _keys(call: Mapping[str, Any]) -> list[str]:
    """The arrays that a recorded call names; what other calls make has to be named in full."""
    for source in call["inputs"]:
        if not isinstance(source, str):
            Given(**source)
    expected = [entry["key"] if isinstance(entry, dict) else entry for entry in call["outputs"] if entry is not None]
    return [source for source in call["inputs"] if isinstance(source, str)] + expected


def lipsync_over(bundle: Bundle, engine: Engine, clips: int, progress: Progress = lambda *_: None) -> tuple[float, float]:
    """Mean lip-sync over drawn clips of held-out identities and voices: in full precision with torch, and as `engine` plays them.

    Raises:
        EngineError: the model's full-precision weights are not at hand.
    """
    from ...core.train.evaluate import held_out
    from ..engines.torch import TorchEngine

    engines: tuple[Engine, Engine] = (TorchEngine.for_bundle(bundle), engine)
    config, fps = PlayerConfig.of(bundle), bundle.clip.fps
    found: tuple[list[float], list[float]] = ([], [])
    for index, clip in enumerate(held_out(clips)):
        portrait = to_signed(clip.frames[0])
        speech = normalise_loudness(clip.waveform, bundle.clip.sample_rate)
        for scores, each in zip(found, engines, strict=True):
            player = Player(config, each)
            frames = np.stack(list(player.frames_of(player.generate(portrait, speech, clip.prompt, index))))
            scores.append(lipsync(frames, clip.waveform, clip.mouth_box, fps))
        progress("clips", index + 1, clips)
    return float(np.mean(found[0])), float(np.mean(found[1]))


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
