"""The released model in full precision, in PyTorch: clips of any shape, any floating-point type, CPU or CUDA.

Nothing is compiled and nothing is padded: what `animate --checkpoint` plays with. Bundles of the released model carry calls that
were recorded with the same modules. The parts are loaded when a stage needs them and released when the next stage needs another, so
that memory holds one of them at a time; or all of them stay (`resident`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...core.bundle import CONDITION_PROGRAMS, Hearing
from ...core.config import TEMPORAL_STRIDE, ModelConfig
from ...core.errors import EngineError
from ...core.model.attention import Riflex
from ...core.model.conditions import Conditions
from ...core.model.transformer import DiT

Loader = Callable[[], nn.Module]
# Which part of the model each program needs.
PART_OF = {
    "audio_encoder": "speech_encoder", "image_encoder": "image_encoder", "text_encoder": "text_encoder", "vae_encode": "vae",
    **dict.fromkeys(CONDITION_PROGRAMS, "transformer"), "denoise": "transformer", "denoise_reusing": "transformer",
    "vae_decode": "decoder",
}  # fmt: skip


class ReferenceEngine:
    """Runs the model's programs directly on its modules.

    `parts` load the modules: transformer, vae, decoder (a VAE or a TinyVAE; the `vae` itself by default), image_encoder
    (PictureEncoder), speech_encoder (SpeechEncoder) and text_encoder (PromptEncoder); a program whose part is missing does not
    exist. `samples_per_frame` are those of one video frame. `keep_residuals` makes `denoise` return what feature reuse needs.
    `compiled`: the blocks and the VAE go through torch.compile, which takes minutes at the first call of each shape.
    """

    name = "torch"

    def __init__(
        self,
        config: ModelConfig,
        parts: Mapping[str, Loader],
        samples_per_frame: int,
        device: str = "cpu",
        riflex: Riflex | None = None,
        keep_residuals: bool = False,
        resident: bool = False,
        compiled: bool = False,
    ) -> None:
        self.compiled = compiled
        self.config, self.parts, self.samples_per_frame = config, dict(parts), samples_per_frame
        self.parts.setdefault("decoder", self.parts["vae"])
        self.device, self.riflex, self.keep_residuals, self.resident = device, riflex, keep_residuals, resident
        self._loaded: dict[Loader, nn.Module] = {}
        self._fast: dict[str, Callable[..., Any]] = {}  # what was compiled of the parts that are loaded
        self._rope: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}

    @property
    def threads(self) -> int:
        return torch.get_num_threads()

    def has(self, program: str) -> bool:
        return PART_OF.get(program) in self.parts

    @torch.no_grad()
    def run(self, program: str, method: str, inputs: Sequence[Any]) -> list[Any]:
        if not self.has(program):
            raise EngineError(f"This checkpoint cannot run {program}.{method}: it has no {PART_OF.get(program, 'such program')}.")
        return getattr(self, f"_{program}")(method, *inputs)

    def step_tables(self, timesteps: Sequence[float], spans: Sequence[float] | None = None) -> dict[str, NDArray[np.float32]]:
        """The timestep's vectors for a plan's steps: time [n, D] and modulation [n, 6, D], float32. `spans`: as those of
        `DiT.step_tables`."""
        given = (timesteps, spans)
        levels = (None if each is None else torch.tensor(each, dtype=torch.float64, device=self.device) for each in given)
        with torch.no_grad():
            time, modulation = self._transformer.step_tables(*levels)  # type: ignore[arg-type]
        return {"time": time.float().cpu().numpy(), "modulation": modulation.float().cpu().numpy()}

    def release(self) -> None:
        """Frees what is loaded now."""
        self._loaded.clear()
        self._fast.clear()
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()

    # -- parts and tensors ---------------------------------------------------------------------------------------------------------

    def _part(self, name: str) -> Any:
        loader = self.parts[name]
        if loader not in self._loaded:
            if not self.resident:
                self.release()
            self._loaded[loader] = loader()
        return self._loaded[loader]

    @property
    def _transformer(self) -> DiT:
        return self._part("transformer")

    def _call(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function itself, or what torch has compiled it to."""
        if not self.compiled:
            return function
        if name not in self._fast:
            self._fast[name] = torch.compile(function, dynamic=False)
        return self._fast[name]

    def _in(self, module: nn.Module, *values: Any) -> list[Tensor]:
        """Arrays, or tensors of this engine, in the module's type."""
        dtype = next(module.parameters()).dtype
        return [torch.as_tensor(value).to(self.device, dtype) for value in values]

    @staticmethod
    def _out(value: Tensor) -> NDArray[np.float32]:
        return value.float().cpu().numpy()

    # -- programs ------------------------------------------------------------------------------------------------------------------

    def _audio_encoder(self, method: str, waveform: Any) -> list[Any]:
        """[1, n] -> flash: [1, T, layers, channels]; preview: [1, 2T, channels]. A voice of exactly T frames gives preview one
        token less than it needs, so silence follows it."""
        frames = waveform.shape[1] // self.samples_per_frame
        encoder = self._part("speech_encoder")
        if self.config.audio_path.per_frame:
            return [self._out(encoder.per_frame(*self._in(encoder, waveform), frames))]
        padded = np.pad(waveform, ((0, 0), (0, self.samples_per_frame)))
        return [self._out(encoder.per_token(*self._in(encoder, padded)))[:, : 2 * frames]]

    def _image_encoder(self, method: str, portrait: Any) -> list[Any]:
        encoder = self._part("image_encoder")
        return [self._out(encoder(*self._in(encoder, portrait)))]

    def _text_encoder(self, method: str, ids: Any) -> list[Any]:
        """ids [1, L], 0 behind the prompt -> [1, L, text_dim]."""
        tokens = torch.as_tensor(ids).to(self.device)
        return [self._out(self._part("text_encoder")(tokens, (tokens != 0).to(tokens.dtype)))]

    def _vae_encode(self, method: str, video: Any, *state: Tensor) -> list[Any]:
        vae = self._part("vae")
        latents, kept = self._call("encode", vae.encode_chunk)(*self._in(vae, video), None if method == "first" else list(state))
        return [self._out(latents), *kept]

    def _vae_decode(self, method: str, latents: Any, *state: Tensor) -> list[Any]:
        vae = self._part("decoder")
        video, kept = self._call("decode", vae.decode_chunk)(*self._in(vae, latents), None if method == "first" else list(state))
        return [self._out(video), *kept]

    def _text_conditions(self, method: str, text: Any) -> list[Any]:
        dit = self._transformer
        return [*dit.text_keys_values(*self._in(dit, text))]

    def _image_conditions(self, method: str, image: Any) -> list[Any]:
        dit = self._transformer
        return [*dit.image_keys_values(*self._in(dit, image))]

    def _audio_conditions(self, method: str, audio: Any, *present: Any) -> list[Any]:
        """Of as many latent frames as the rows cover."""
        dit, frames = self._transformer, audio.shape[1] // Hearing.of(self.config).rows_per_frame
        latent_frames = (frames - 1) // TEMPORAL_STRIDE + 1
        sound, *there = self._in(dit, audio, *present)
        return [*dit.audio_keys_values(sound, latent_frames, *there)]

    def _patch_conditions(self, method: str, y: Any) -> list[Any]:
        dit = self._transformer
        return [dit.patch_bias(*self._in(dit, y))]

    def _denoise(self, method: str, latents: Any, time: Any, modulation: Any, modality: Any, *conditions: Any) -> list[Any]:
        dit = self._transformer
        x, time, modulation, modality = self._in(dit, latents, time, modulation, modality)
        if x.shape not in self._rope:
            self._rope = {x.shape: dit.rope(x, self.riflex)}
        given = Conditions(*self._in(dit, *conditions))
        velocity, residual = self._call("denoise", dit.denoise_keeping)(x, time, modulation, modality, given, self._rope[x.shape])
        return [self._out(velocity), residual] if self.keep_residuals else [self._out(velocity)]

    def _denoise_reusing(self, method: str, latents: Any, time: Any, residual: Tensor, patch_bias: Tensor) -> list[Any]:
        dit = self._transformer
        latents, time = self._in(dit, latents, time)
        return [self._out(dit.denoise_reusing(latents, time, residual, patch_bias))]
