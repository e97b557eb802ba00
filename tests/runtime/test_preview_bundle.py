"""A whole bundle of preview at toy width: exported, verified, and played over several windows as the reference plays them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from echoedge.core.bundle import Bundle, Hearing
from echoedge.core.checkpoints import Checkpoint
from echoedge.core.config import Variant
from echoedge.core.errors import EngineError
from echoedge.core.metrics.agreement import figures
from echoedge.core.plan import WindowRule
from echoedge.core.samplers import NEGATIVE_PROMPT, PLAN_PRESETS, build_plan
from echoedge.quantize.recipes import PRESETS
from echoedge.runtime.engines import open_engine
from echoedge.runtime.engines.base import Array, Engine
from echoedge.runtime.parity import verify
from echoedge.runtime.player import Player, Score
from echoedge.runtime.reference import Reference, Settings
from echoedge.targets import released
from echoedge.targets.released import ReleasedExport, export_released

from ..core.tiny_checkpoint import playable_sizes
from ..targets.test_released import CLIP, Inline, request_for, silent

FRAMES = 25  # three windows of nine frames that share a latent frame
PROMPT = "a woman talks"
FP32_DB = 80.0  # what a program of fp32 weights is asked for


@pytest.fixture(scope="module", params=["preview", pytest.param("flash", marks=pytest.mark.slow)])
def made(
    request: pytest.FixtureRequest, folders: dict[Variant, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Variant, ReleasedExport, Bundle]:
    """flash beside it: the same way, with one row of features a frame, and no negative prompt."""
    variant: Variant = request.param
    generator, width = np.random.default_rng(4), playable_sizes(variant).transformer.text_dim
    options = replace(PLAN_PRESETS[variant], steps=2, window=WindowRule(length=CLIP.latent_frames, overlap=1))
    prompts = {text: generator.standard_normal((5, width), np.float32) for text in (PROMPT, NEGATIVE_PROMPT)}
    wanted = request_for(folders[variant], variant, PRESETS["fp32"], plan=build_plan(options), prompts=prompts, decoders=("tiny",))
    path = tmp_path_factory.mktemp("preview") / f"{variant}.echoedge"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(released, "Workshop", Inline)
        export_released(wanted, path, silent)
    return variant, wanted, Bundle.open(path)


class Altered:
    """An engine whose `program` is given changed inputs."""

    name = "altered"

    def __init__(self, engine: Engine, program: str, change: Callable[[list[Array]], list[Array]]) -> None:
        self.engine, self.program, self.change = engine, program, change

    def has(self, program: str) -> bool:
        return self.engine.has(program)

    def run(self, program: str, method: str, inputs: Sequence[Array]) -> list[Array]:
        return self.engine.run(program, method, self.change([*inputs]) if program == self.program else inputs)


def voice(frames: int = FRAMES) -> np.ndarray:
    count = np.arange(frames * CLIP.samples_per_frame)
    return (0.2 * np.random.default_rng(2).standard_normal(len(count)) * np.abs(np.sin(count / 900))).astype(np.float32)


def played(wanted: ReleasedExport, bundle: Bundle, engine: Engine, score: Score | None = None) -> np.ndarray:
    return Player(score or Score.of(bundle), engine).perform(wanted.portrait, voice(), PROMPT, 3).latents


def test_it_verifies_itself(made: tuple[Variant, ReleasedExport, Bundle]) -> None:
    _, _, bundle = made
    verdict = verify(bundle, open_engine(bundle))
    assert not [row.name for row in verdict.rows if (row.measured.psnr_db or 0) < FP32_DB]
    assert {"audio_encoder", "encode_conditions", "denoise"} <= {row.name for row in verdict.rows}


def test_three_windows_are_those_of_the_reference(
    made: tuple[Variant, ReleasedExport, Bundle], folders: dict[Variant, Path]
) -> None:
    variant, wanted, bundle = made
    clip = replace(CLIP, frames=FRAMES)
    settings = Settings(steps=2, window=CLIP.frames, overlap=1, seed=3)
    sizes = playable_sizes(variant)
    reference = Reference(Checkpoint.open(folders[variant]), clip, settings, sizes, dict(wanted.prompts))
    expected = reference.player.perform(wanted.portrait, voice(), PROMPT, 3).latents
    assert expected.shape[1] == 7
    latents = played(wanted, bundle, open_engine(bundle))
    found = figures(expected, latents)
    assert found.psnr_db is not None and found.psnr_db > FP32_DB, found  # measured: 138 dB (preview), 134 dB (flash)

    def deaf(inputs: list[Array]) -> list[Array]:
        """The first layer's statistics are another voice's."""
        return [inputs[0], 0.5 * inputs[1], inputs[2]]

    def cut(inputs: list[Array]) -> list[Array]:
        """No window hears beyond its last frame."""
        return [*inputs[:4], np.where(np.arange(inputs[4].shape[1]) < 2 * CLIP.frames, inputs[4], 0)]

    for program, change in (("audio_encoder", deaf), ("encode_conditions", cut)):
        if variant == "preview" or program == "audio_encoder":
            altered = Altered(open_engine(bundle), program, change)
            assert figures(expected, played(wanted, bundle, altered)).psnr_db < FP32_DB  # type: ignore[operator]


def test_frames_come_of_every_window(made: tuple[Variant, ReleasedExport, Bundle]) -> None:
    _, wanted, bundle = made
    player = Player(Score.of(bundle), open_engine(bundle))
    frames = np.stack(list(player.frames_of(player.perform(wanted.portrait, voice(), PROMPT, 3))))
    assert frames.shape == (FRAMES, CLIP.height, CLIP.width, 3)
    assert frames.std() > 1


def test_the_bundle_says_how_it_hears_and_what_it_stays_away_from(made: tuple[Variant, ReleasedExport, Bundle]) -> None:
    variant, _, bundle = made
    hearing, plan = bundle.manifest.hearing, bundle.plan()
    assert hearing is not None
    assert hearing.window == (10, 5)
    assert (hearing.rows_per_frame, hearing.beyond_frames, hearing.tail_frames) == ((1, 0, 0) if variant == "flash" else (2, 3, 1))
    assert plan.texts == ({} if variant == "flash" else {"negative": NEGATIVE_PROMPT})


def test_a_program_that_wants_the_whole_voice_is_not_given_less(made: tuple[Variant, ReleasedExport, Bundle]) -> None:
    _, wanted, bundle = made
    plain = replace(Score.of(bundle), hears=Hearing())
    with pytest.raises(EngineError, match="audio_encoder.forward takes 3 inputs"):
        played(wanted, bundle, open_engine(bundle), plain)
