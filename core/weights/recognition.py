"""What a file of tensors is, by the names and shapes in it, whatever it is called."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..config import AUDIO_PATHS, Variant
from ..model.architecture import ComponentName
from .tensor_files import TensorInfo
from .wrappings import adapters_among

AUDIO_PARTS: dict[Variant, str] = {variant: f"{path.module}." for variant, path in AUDIO_PATHS.items()}


_SCALE = re.compile(
    r"(?:^|[._])(?:scale_(?:weight|input)|(?:weight|input|output)_scale(?:_\w+)?|scaled_fp8|weight_zero_point|comfy_quant|absmax"
    r"|quant_map|quant_state\.\w+|qweight|qzeros)$"
)


@dataclass(frozen=True)
class Kind:
    """What a file of tensors turned out to be. `place`: the component that it serves, if it is one that can be read."""

    what: str
    place: ComponentName | None = None


def recognise(tensors: Mapping[str, TensorInfo]) -> Kind | None:
    """What a file holds, judged by characteristic names and shapes; None where it resembles nothing known."""
    names = set(tensors)
    found = {name.removeprefix("wav2vec2."): info for name, info in tensors.items()}

    def has(*parts: str) -> bool:
        return any(part in name for name in names for part in parts)

    def size(name: str, axis: int = 0) -> int:
        shape = found[name].shape if name in found else ()
        return shape[axis] if axis < len(shape) else 0

    if adapters_among(names):
        return Kind("a LoRA adapter, not a whole model; take the merged checkpoint")
    if has("attn1.to_q.", "condition_embedder."):
        return Kind("a transformer in the layout of diffusers; take the original file, which has blocks.0.self_attn.q.weight")
    if "blocks.0.self_attn.q.weight" in names:
        width, channels = size("patch_embedding.weight"), size("patch_embedding.weight", 1)
        if size("blocks.0.self_attn.q.weight") == 5120:
            return Kind("a 14B transformer (width 5120); EchoMimicV3 is built on Wan2.1-Fun-1.3B-InP (width 1536)")
        if audio := audio_variant(names):
            return Kind(f"the {audio} transformer, of width {width}: it has {AUDIO_PARTS[audio]}*", "transformer")
        if channels == 16:
            return Kind("a text-to-video transformer (16 input channels); EchoMimicV3 needs Wan2.1-Fun-1.3B-InP (36)")
        return Kind(f"the base transformer of Wan ({channels} input channels) without EchoMimic's audio part", "transformer")
    if audio_variant(names):
        return Kind(f"only the audio part of the {audio_variant(names)} transformer", "transformer")
    if "decoder.1.weight" in names and "encoder.0.weight" in names:
        return Kind("a tiny autoencoder", "tiny_vae")
    if has("decoder.up_blocks.", "encoder.down_blocks."):
        return Kind("a VAE in the layout of diffusers; take Wan2.1_VAE.pth")
    if has("decoder.upsamples.", "encoder.downsamples."):
        latent = size("conv2.weight")
        if latent == 48:
            return Kind("the VAE of Wan 2.2 (48 latent channels); EchoMimicV3 needs Wan2.1_VAE.pth (16)")
        return Kind("the VAE of Wan 2.1", "vae")
    if "token_embedding.weight" in names and has("ffn.gate.0."):
        return Kind("the umT5 encoder", "text_encoder")
    if has("SelfAttention.q."):
        return Kind("a T5 in the layout of Hugging Face; take models_t5_umt5-xxl-enc-bf16.pth")
    if has("visual.transformer.resblocks."):
        return Kind("a CLIP in the layout of open_clip; take models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth")
    if has("vision_model.encoder.layers."):
        return Kind("a CLIP in the layout of Hugging Face; take models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth")
    if has("visual.transformer.0.attn.to_qkv"):
        return Kind("the CLIP of Wan", "clip")
    if has("feature_extractor.conv_layers.0.0."):
        return Kind("a wav2vec2 in the layout of fairseq; take the Hugging Face folder's pytorch_model.bin or model.safetensors")
    if has("feature_extractor.conv_layers.0.conv."):
        width = size("encoder.layer_norm.weight")
        if width == 1024:
            return Kind("a wav2vec2-large (width 1024); EchoMimicV3 needs a wav2vec2-base (768)")
        return Kind(f"a wav2vec2 of width {width}", "wav2vec2")
    return None


def scales_among(names: Iterable[str]) -> list[str]:
    """The names of tensors without which a quantised file's numbers mean nothing."""
    return [name for name in names if _SCALE.search(name)]


def audio_variant(names: Iterable[str]) -> Variant | None:
    """Whose audio part is among the names; flash where both are, whose accounting then shows the other's as unexpected."""
    return next((variant for variant, part in AUDIO_PARTS.items() if any(name.startswith(part) for name in names)), None)
