"""Hot paths, each on its own: a step by engine, what the player adds to it, a decoded latent frame, the speech encoder.

    make bench                                                  all of them, beside the run that was kept last, with ratios
    make bench ARGS="tests/benchmarks/test_hot_paths.py"        these alone

Everything runs on one thread: on a shared machine several wait for one another.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from echoedge.core.bundle import Bundle
from echoedge.core.config import FLASH, NANO_CLIP, ClipSpec
from echoedge.core.model.pretrained_speech import WAV2VEC2_BASE
from echoedge.core.model.programs import build_programs
from echoedge.core.plan import noise
from echoedge.core.weights.nano import load_nano
from echoedge.runtime.engines import open_engine
from echoedge.runtime.engines.around import Around
from echoedge.runtime.engines.base import Array, Engine
from echoedge.runtime.engines.torch import TorchEngine
from echoedge.runtime.play.material import demo_material
from echoedge.runtime.play.player import Player
from echoedge.targets.executorch.program_file import set_threads
from echoedge.targets.executorch.program_file import threads as program_threads

from ..bundles import CLIP, small_engine, small_player_config, small_programs

SECONDS = 2  # of speech that the released encoder hears


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads(), program_threads()
    torch.set_num_threads(1)
    set_threads(1)
    yield
    torch.set_num_threads(before[0])
    set_threads(before[1])


@pytest.fixture(scope="module")
def nano() -> TorchEngine:
    model = load_nano()
    return TorchEngine(build_programs(model, NANO_CLIP, model.config.text_len))


def drawn(engine: TorchEngine, program: str, method: str) -> list[Array]:
    return [tensor.numpy() for tensor in engine.programs[program][method].drawn().values()]


# ---- a step, by engine -----------------------------------------------------------------------------------------------------------


@pytest.mark.benchmark(group="step of nano, 64x64x25")
def test_step_of_nano_in_torch(benchmark: Any, nano: TorchEngine) -> None:
    inputs = drawn(nano, "denoise", "forward")
    (velocity,) = benchmark.pedantic(nano.run, ("denoise", "forward", inputs), rounds=20, warmup_rounds=2)
    assert velocity.shape == inputs[0].shape


@pytest.fixture(params=["torch fp32", "executorch int8"])
def engine(request: pytest.FixtureRequest, bundle_path: Any) -> Engine:
    return small_engine() if request.param == "torch fp32" else open_engine(Bundle.open(bundle_path))


@pytest.mark.benchmark(group="step of the small model, 12 tokens of width 32")
def test_step(benchmark: Any, engine: Engine) -> None:
    inputs = [tensor.numpy() for tensor in small_programs()["denoise"]["forward"].inputs.values()]
    (velocity,) = benchmark(engine.run, "denoise", "forward", inputs)
    assert velocity.shape == (1, 16, CLIP.latent_frames, CLIP.latent_height, CLIP.latent_width)


# ---- the player around it --------------------------------------------------------------------------------------------------------


class Answers(Around):
    """Gives what was given before, at once: what is left is the player's own work."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.known: dict[tuple[str, str], list[Array]] = {}

    def run(self, program: str, method: str, inputs: Any) -> list[Array]:
        if (program, method) not in self.known:
            self.known[program, method] = self.engine.run(program, method, inputs)
        return self.known[program, method]


@pytest.mark.benchmark(group="the player alone, a clip of 9 frames and 4 evaluations")
def test_what_the_player_adds(benchmark: Any) -> None:
    case, player = demo_material(CLIP, whole=False), Player(small_player_config(), Answers(small_engine()))

    def clip() -> int:
        return sum(1 for _ in player.frames_of(player.generate(case.portrait, case.speech, case.prompt, 0)))

    assert clip() == CLIP.frames
    assert benchmark(clip) == CLIP.frames


@pytest.mark.benchmark(group="noise of a clip of 256x256x25")
def test_noise(benchmark: Any) -> None:
    shape = ClipSpec(256, 256, 25)
    made = benchmark(noise, 0, (16, shape.latent_frames, shape.latent_height, shape.latent_width))
    assert made.dtype == np.float32


# ---- decoding --------------------------------------------------------------------------------------------------------------------


@pytest.mark.benchmark(group="decode 4 frames of nano, 64x64")
def test_decode_of_nano_in_torch(benchmark: Any, nano: TorchEngine) -> None:
    inputs = drawn(nano, "vae_decode", "next")
    video = benchmark.pedantic(nano.run, ("vae_decode", "next", inputs), rounds=10, warmup_rounds=1)[0]
    assert video.shape == (1, 4, 3, NANO_CLIP.height, NANO_CLIP.width)


@pytest.mark.benchmark(group="decode 4 frames of the small model, 32x32")
def test_decode(benchmark: Any, engine: Engine) -> None:
    inputs = [tensor.numpy() for tensor in small_programs()["vae_decode"]["next"].inputs.values()]
    video = benchmark(engine.run, "vae_decode", "next", inputs)[0]
    assert video.shape == (1, 4, 3, CLIP.height, CLIP.width)


# ---- hearing ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.benchmark(group="speech encoder of nano, 1 s")
def test_speech_encoder_of_nano(benchmark: Any, nano: TorchEngine) -> None:
    (features,) = benchmark(nano.run, "audio_encoder", "forward", drawn(nano, "audio_encoder", "forward"))
    assert features.shape[1] == NANO_CLIP.frames


@pytest.mark.benchmark(group=f"speech encoder of flash, full width, {SECONDS} s")
@torch.no_grad()
def test_speech_encoder_of_flash(benchmark: Any) -> None:
    config, generator = WAV2VEC2_BASE, torch.Generator().manual_seed(0)
    encoder = config.build({name: 0.02 * torch.randn(shape, generator=generator) for name, shape in config.tensors().items()})
    frames = SECONDS * NANO_CLIP.fps
    waveform = torch.randn(1, frames * NANO_CLIP.samples_per_frame, generator=generator)
    features = benchmark.pedantic(encoder.per_frame, (waveform, frames), rounds=5, warmup_rounds=1)
    assert features.shape == (1, frames, FLASH.audio.layers, FLASH.audio.channels)
