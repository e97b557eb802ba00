"""runtime/verify/mouths.py: what is kept of the mouth, of drawn clips whose mouths are known."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from echoedge.core.config import NANO_CLIP
from echoedge.core.train.evaluate import held_out
from echoedge.runtime.verify import mouths
from echoedge.runtime.verify.mouths import PLAYED_FIRST, Mouth, mouth_of, mouths_of_bundle

TRUTHS = held_out(3, PLAYED_FIRST)


def frozen(frames: np.ndarray) -> np.ndarray:
    return np.repeat(frames[:1], len(frames), axis=0)


def test_the_drawn_truth_moves_as_much_as_itself_and_a_frozen_face_does_not() -> None:
    true = mouth_of([clip.frames for clip in TRUTHS], TRUTHS)
    assert true.mouth_energy == pytest.approx(1.0)
    assert true.lipsync > 0.9  # measured: 0.96
    assert mouth_of([frozen(clip.frames) for clip in TRUTHS], TRUTHS) == Mouth(0.0, 0.0)


def test_shares_of_full_precision() -> None:
    assert Mouth(0.9, 0.45).shares(Mouth(0.9, 0.9)) == Mouth(1.0, 0.5)


class Drawn:
    """A player that shows the drawn clip of each seed, as its engine changes it."""

    def __init__(self, _: object, engine: Any) -> None:
        self.change = engine

    def generate(self, portrait: np.ndarray, speech: np.ndarray, prompt: str, seed: int) -> Any:
        clip = TRUTHS[seed]
        assert np.array_equal(np.rint((portrait + 1) * 127.5).astype(np.uint8).transpose(1, 2, 0), clip.frames[0])
        assert prompt == clip.prompt
        assert len(speech) == len(clip.waveform)
        return clip

    def frames_of(self, clip: Any) -> Iterator[np.ndarray]:
        return iter(self.change(clip.frames))


def test_the_same_clips_are_played_in_full_precision_and_by_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mouths, "Player", Drawn)
    monkeypatch.setattr(mouths.PlayerConfig, "of", lambda _: None)
    monkeypatch.setattr(mouths.TorchEngine, "for_bundle", lambda _: lambda frames: frames)
    seen: list[tuple[int, int]] = []
    bundle: Any = SimpleNamespace(clip=NANO_CLIP)
    full, measured = mouths_of_bundle(bundle, frozen, 3, lambda *at: seen.append(at))  # type: ignore[arg-type]
    assert full == mouth_of([clip.frames for clip in TRUTHS], TRUTHS)
    assert measured == Mouth(0.0, 0.0)
    assert seen == [(1, 3), (2, 3), (3, 3)]
