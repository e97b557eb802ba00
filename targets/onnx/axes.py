"""Names of the dimensions that a caller chooses: a clip's latent frames, rows and columns, and what follows from them.

A program is traced at a probe's sizes, which are no clip's, with these dimensions free; whatever shape a clip has, it plays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...core.bundle import Hearing, Method, TensorSpec
from ...core.config import PATCH, TEMPORAL_STRIDE, ClipSpec, ModelConfig
from ...core.errors import ExportError
from ...core.sampling.hearing import window_rows

FIXED_ROLES = ("audio_encoder", "text_encoder", "text_conditions", "image_conditions")  # no clip's shape changes what they take
PROBE = ClipSpec(height=96, width=160, frames=13)  # 4 latent frames of 12x20: no two of its sizes are equal

Shape = Sequence[int | str]


@dataclass(frozen=True)
class Axes:
    """Sizes by name, for a model: of a clip, and as `torch.export` takes them. `portraits`: whether the image encoder takes any."""

    config: ModelConfig
    portraits: bool = True

    def sizes(self, clip: ClipSpec) -> dict[str, int]:
        """Of a clip; of heights and widths of `n` times the latents' see `named`."""
        return {
            "frames": clip.latent_frames, "height": clip.latent_height, "width": clip.latent_width, "tokens": clip.tokens,
            "tokens_per_frame": clip.tokens_per_frame, "audio_tokens": clip.latent_frames * self.config.audio.tokens,
            "heard_rows": window_rows(Hearing.of(self.config), clip.latent_frames),
        }  # fmt: skip

    def size(self, name: int | str, clip: ClipSpec) -> int:
        """Of a dimension, for a clip."""
        if isinstance(name, int):
            return name
        base, _, times = name.partition("_x")
        return self.sizes(clip)[base] * int(times or 1)

    def named(self, role: str, name: str, shape: Sequence[int], clip: ClipSpec) -> tuple[int | str, ...]:
        """The shape of a program's input or output `name`, made for `clip`, with names where the clip's shape decides."""
        if role in FIXED_ROLES or (role == "image_encoder" and (name != "portrait" or not self.portraits)):
            return tuple(shape)
        found: list[int | str] = list(shape)
        for axis, dimension in self._free(role, name, shape, clip).items():
            if self.size(dimension, clip) != shape[axis]:
                raise ExportError(
                    f"{name} of {role} is {list(shape)} for clips of {clip}; its dimension {axis} should be {dimension}, which is "
                    f"{self.size(dimension, clip)}. Report it."
                )
            found[axis] = dimension
        return tuple(found)

    def _free(self, role: str, name: str, shape: Sequence[int], clip: ClipSpec) -> Mapping[int, str]:
        if name in ("latents", "velocity", "y"):
            whole = role in ("denoise", "denoise_reusing", "patch_conditions")
            return {**({2: "frames"} if whole else {}), 3: "height", 4: "width"}
        table: Mapping[str, Mapping[int, str]] = {
            "modality_weights": {2: "frames"}, "patch_bias": {1: "tokens"}, "residual": {1: "tokens"},
            "audio_k": {2: "audio_tokens"}, "audio_v": {2: "audio_tokens"}, "audio_mask": {1: "tokens_per_frame"},
            "audio": {1: "heard_rows"}, "audio_present": {1: "heard_rows"},
        }  # fmt: skip
        if name in table:
            return table[name]
        if name in ("video", "portrait") or name.startswith("state_"):
            last, times = len(shape), shape[-2] // clip.latent_height
            suffix = f"_x{times}" if times > 1 else ""
            return {last - 2: f"height{suffix}", last - 1: f"width{suffix}"}
        return {}

    def dim(self, name: int | str, dims: Mapping[str, Any]) -> Any:
        """As `torch.export` takes it. `dims`: the free ones, "frames", and half of a latent frame's height and width."""
        import torch

        if isinstance(name, int):
            return None
        frames = dims["frames"]
        hearing = Hearing.of(self.config)
        heard = TEMPORAL_STRIDE * hearing.rows_per_frame * frames
        beyond = hearing.rows_per_frame * (1 - TEMPORAL_STRIDE + hearing.beyond_frames)
        if name in ("tokens", "tokens_per_frame"):
            return torch.export.Dim.DYNAMIC  # products, which torch checks when it is traced
        base, _, times = name.partition("_x")
        if base in ("height", "width"):
            return PATCH * int(times or 1) * dims[base]
        return {
            "frames": frames,
            "audio_tokens": self.config.audio.tokens * frames if self.config.audio.tokens > 1 else frames,
            "heard_rows": heard + beyond if beyond else heard,
        }[name]


def free_dims() -> dict[str, Any]:
    """The dimensions that others follow from: latent frames, and half of a latent frame's rows and columns."""
    import torch

    return {
        "frames": torch.export.Dim("frames", min=2, max=1024),
        "height": torch.export.Dim("half_height", min=1, max=1024),
        "width": torch.export.Dim("half_width", min=1, max=1024),
    }


def method_of(role: str, method: Method, clip: ClipSpec, axes: Axes) -> Method:
    """A method's record with names for the dimensions that are free."""

    def freed(specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        return tuple(
            spec.model_copy(update={"shape": axes.named(role, spec.name, [int(n) for n in spec.shape], clip)}) for spec in specs
        )

    return Method(inputs=freed(method.inputs), outputs=freed(method.outputs))
