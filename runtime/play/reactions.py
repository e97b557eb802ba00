"""What a clip's first window is answered in one step, and how the answer changes with each input alone.

1. encode      portrait, speech and prompt of two materials, by the player
2. conditions  of the first window in one branch, of both
3. velocities  as given, then with one input after the other taken from the other material

Each program is run for both materials before the next one: an engine that holds one program at a time loads each once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ...core.bundle.reactions import AS_GIVEN, Input
from ...core.config import TEMPORAL_STRIDE
from ...core.plan import SamplingPlan, windows
from ...core.plan.phases import PROMPT
from ...core.sampling.conditioning import CONDITIONS, ClipInputs, Conditioner, RunProgram, step_inputs
from ..engines.around import Around
from ..engines.base import Array, Engine
from .material import Material
from .player import Float32, Player, PlayerConfig, StepTables

CHANGED: dict[Input, tuple[str, ...]] = {  # conditions that are made of an input
    "prompt": ("text_k", "text_v", "text_bias"),
    "voice": ("audio_k", "audio_v"),
    "portrait": ("image_k", "image_v"),
    "first frame": ("patch_bias",),
    "seed": (),
}
Told = Callable[[int, int], None]


class Asked(NamedTuple):
    """Indices of a plan's step and branch."""

    step: int
    branch: int


class TwoChunks(Around):
    """Encodes two chunks of a video and repeats the second: of what is known nothing is later, and every further one costs as
    much."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self._second: list[Array] = []

    def run(self, program: str, method: str, inputs: Sequence[Array]) -> list[Array]:
        following = (program, method) == ("vae_encode", "next")
        if following and self._second:
            return self._second
        outputs = self.engine.run(program, method, inputs)
        if program == "vae_encode":
            self._second = outputs if following else []
        return outputs


def reacting_player(config: PlayerConfig, engine: Engine, repeated: bool) -> Player:
    """A player for `react`. Without a text encoder it knows the empty prompt, of no rows, beside those of its packs. `repeated`:
    see `TwoChunks`."""
    if not engine.has("text_encoder"):
        nothing = np.zeros((0, config.playing.text_dim), np.float32)
        config = replace(config, prompts={"": nothing, **config.prompts})
    return Player(config, TwoChunks(engine) if repeated else engine)


def asked_of(plan: SamplingPlan, length: int) -> Asked | None:
    """The first step and branch of a plan that takes in all inputs of a window of `length` latent frames; None if there is none."""
    for step in range(plan.steps):
        for index in plan.evaluated(step):
            branch = plan.branches[index]
            reads = branch.text == PROMPT and PROMPT not in plan.texts and branch.text_scale > 0
            if reads and branch.image and branch.audio and not plan.reuse[step][index] and plan.modality(step, length).any(1).all():
                return Asked(step, index)
    return None


def encode(player: Player, materials: Sequence[Material]) -> list[ClipInputs]:
    """What the conditions of each material's clip are made from, in a branch that reads the prompt."""
    frames = [player.length(each.speech)[1] for each in materials]
    spans = [TEMPORAL_STRIDE * (count - 1) + 1 for count in frames]
    audio = [player.neighbourhoods(player.listen(each.speech, span)) for each, span in zip(materials, spans, strict=True)]
    known = [player.look(each.portrait[None], player.known_frames(count)) for each, count in zip(materials, frames, strict=True)]
    images = [player.recognise(each.portrait) for each in materials]
    texts = [{PROMPT: player.read(each.prompt)} for each in materials]
    return [player.given(*each) for each in zip(audio, known, images, texts, frames, strict=True)]


def conditions(run: RunProgram, plan: SamplingPlan, asked: Asked, clips: Iterable[ClipInputs]) -> list[list[Array]]:
    """`CONDITIONS` of each clip's first window in the branch that is asked."""
    alone = plan.model_copy(update={"branches": (plan.branches[asked.branch],)})
    return [Conditioner(alone, clip, run).window(windows(clip.latent_frames, clip.rule)[0])[0] for clip in clips]


def velocities(
    run: RunProgram,
    plan: SamplingPlan,
    tables: StepTables,
    asked: Asked,
    made: Sequence[Sequence[Array]],
    starts: Sequence[Float32],
    inputs: Sequence[Input],
    told: Told = lambda *_: None,
) -> dict[str, Float32]:
    """The first window's velocities [C, F, h, w]: as given, and with each of `inputs` of the other one.

    made, starts: the window's `CONDITIONS` and its noise [C, F, h, w], of both.
    """
    (given, other), found = made, {}

    def answer(latents: Float32, mixed: Sequence[Array], name: str) -> None:
        found[name] = run("denoise", "forward", step_inputs(plan, tables, asked.step, latents, mixed))[0][0]
        told(len(found), len(inputs) + 1)

    answer(starts[0], given, AS_GIVEN)
    for name in inputs:
        taken = CHANGED[name]
        mixed = [theirs if each in taken else ours for each, ours, theirs in zip(CONDITIONS, given, other, strict=True)]
        answer(starts[name == "seed"], mixed, name)
    return found


def react(
    player: Player, asked: Asked, given: Material, other: Material, inputs: Sequence[Input], told: Told = lambda *_: None
) -> dict[str, Float32]:
    """`velocities` by the player's own way, from what a user gives to it."""
    config, run = player.config, player.engine.run
    clips = encode(player, (given, other))
    length = windows(clips[0].latent_frames, clips[0].rule)[0].length
    starts = [np.ascontiguousarray(player.start(each.seed, clips[0].latent_frames)[:, :length]) for each in (given, other)]
    tables = config.step_tables() if callable(config.step_tables) else config.step_tables
    return velocities(run, config.plan, tables, asked, conditions(run, config.plan, asked, clips), starts, inputs, told)
