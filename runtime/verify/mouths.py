"""The mouth under compression: lip-sync and mouth motion of a compiled bundle beside full precision, over held-out clips; and the
mouth where nobody speaks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...core.bundle import Bundle
from ...core.metrics.silence import Silence
from ...core.train.evaluate import held_out, measure
from ...core.train.generate import Sampled
from ...core.train.puppets import PuppetClip
from ...core.train.silence import BACKGROUNDS, SECONDS, quiet_clips
from ..engines.base import Engine
from ..engines.torch import TorchEngine
from ..play.pictures import to_signed
from ..play.player import Player, PlayerConfig
from ..play.speech import normalise_loudness

PLAYED_FIRST = 5000  # of the held-out clips on which mouths are judged
LOUDEST = "pink noise, −40 dBFS"  # of `BACKGROUNDS`

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Mouth:
    """Means over clips: lip-sync, and mouth-motion energy against the drawn truth's."""

    lipsync: float
    mouth_energy: float

    def shares(self, full: Mouth) -> Mouth:
        """Of full precision's."""
        return Mouth(self.lipsync / full.lipsync, self.mouth_energy / full.mouth_energy)


def mouth_of(videos: Sequence[NDArray[np.uint8]], clips: Sequence[PuppetClip]) -> Mouth:
    """Means over the clips that the videos were made from; two at least."""
    found = measure([Sampled(list(videos))], clips, only={"lipsync", "mouth_energy"})
    return Mouth(*(float(np.nanmean(found[name])) for name in ("lipsync", "mouth_energy")))


def mouths_of_bundle(bundle: Bundle, engine: Engine, clips: int, progress: Progress = lambda *_: None) -> tuple[Mouth, Mouth]:
    """Plays the same portraits, voices and seeds in full precision with torch and with `engine`: their mouths, in this order.

    Raises:
        EngineError: the model's full-precision weights are not at hand.
    """
    truths = held_out(clips, PLAYED_FIRST, bundle.clip.frames)
    players = [Player(PlayerConfig.of(bundle), each) for each in (TorchEngine.for_bundle(bundle), engine)]
    videos: tuple[list[NDArray[np.uint8]], ...] = ([], [])
    for index, truth in enumerate(truths):
        portrait, speech = to_signed(truth.frames[0]), normalise_loudness(truth.waveform, bundle.clip.sample_rate)
        for played, player in zip(videos, players, strict=True):
            played.append(np.stack(list(player.frames_of(player.generate(portrait, speech, truth.prompt, index)))))
        progress(index + 1, clips)
    full, measured = (mouth_of(played, truths) for played in videos)
    return full, measured


def silence_of_bundle(
    bundle: Bundle,
    engine: Engine,
    clips: int,
    progress: Progress = lambda *_: None,
    background: str = LOUDEST,
    seconds: tuple[float, float, float] = SECONDS,
) -> Silence:
    """The mouth where nobody speaks, the mean over held-out clips of silence, speech and silence, all over one of `BACKGROUNDS`."""
    player, found = Player(PlayerConfig.of(bundle), engine), []
    for index, drawn in enumerate(quiet_clips(clips, PLAYED_FIRST, BACKGROUNDS[background], seconds)):
        clip = drawn.clip
        speech = normalise_loudness(clip.waveform, bundle.clip.sample_rate)
        made = player.generate(to_signed(clip.frames[0]), speech, clip.prompt, index)
        found.append(drawn.judged(np.stack(list(player.frames_of(made)))))
        progress(index + 1, clips)
    return Silence(*(float(np.mean([getattr(one, name) for one in found])) for name in ("opening", "motion")))
