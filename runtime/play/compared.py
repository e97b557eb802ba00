"""A player that keeps what each stage gave, so that two that play the same clip can be compared where they first differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..engines.around import Around
from ..engines.base import Array, Engine
from .player import Float32, Generated, Player, PlayerConfig, Progress, silent


class FirstStep(Around):
    """Keeps the velocities that the first step's `branches` evaluations gave."""

    def __init__(self, engine: Engine, branches: int) -> None:
        super().__init__(engine)
        self.branches = branches
        self.velocities: list[Array] = []

    def run(self, program: str, method: str, inputs: Sequence[Any]) -> list[Any]:
        outputs = self.engine.run(program, method, inputs)
        if program == "denoise" and len(self.velocities) < self.branches:
            self.velocities.append(outputs[0][0])
        return outputs


class ComparedPlayer(Player):
    """A player of clips of one window. `seen`: of the clip that was played last, by the names of `core.bundle.baseline`; one
    dictionary for all clips."""

    def __init__(self, config: PlayerConfig, engine: Engine, progress: Progress = silent, decoder: str | None = None) -> None:
        super().__init__(config, engine, progress, decoder)
        self.seen: dict[str, Array] = {}

    def generate(
        self, portrait: Float32, speech: Float32, prompt: str = "", seed: int = 0, audio_mask: Float32 | None = None
    ) -> Generated:
        self.seen.clear()
        made = super().generate(portrait, speech, prompt, seed, audio_mask)
        self.seen["latents"] = made.latents
        return made

    def listen(self, speech: Float32, frames: int) -> Float32:
        self.seen["features"] = super().listen(speech, frames)
        return self.seen["features"]

    def recognise(self, portrait: Float32) -> Float32:
        self.seen["image"] = super().recognise(portrait)
        return self.seen["image"]

    def look(self, known: Float32, latent_frames: int) -> Float32:
        self.seen["y"] = super().look(known, latent_frames)
        return self.seen["y"]

    def sample(self, *given: Any, **named: Any) -> tuple[Float32, int]:
        engine = self.engine
        self.engine = first = FirstStep(engine, len(self.config.plan.evaluated(0)))
        try:
            return super().sample(*given, **named)
        finally:
            self.engine = engine
            self.seen["velocity"] = np.stack(first.velocities) if first.velocities else np.empty(0, np.float32)

    def frames_of(self, made: Generated) -> Iterator[NDArray[np.uint8]]:
        kept = []
        for frame in super().frames_of(made):
            kept.append(frame)
            yield frame
        self.seen["frames"] = np.stack(kept)
