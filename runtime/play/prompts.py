"""Prompt packs: embeddings of prompts in a safetensors file, read without torch."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...core.errors import InputError

_TYPES = {"F32": np.float32, "F16": np.float16, "F64": np.float64, "BF16": np.uint16}


def read_prompts(path: Path, text_dim: int) -> dict[str, NDArray[np.float32]]:
    """A prompt pack: {prompt: rows [L, text_dim] float32}, in the order of the file; kept as bf16, fp16, fp32 or fp64.

    Raises:
        InputError: it is not a safetensors file of such rows.
    """
    from safetensors import SafetensorError, deserialize

    try:
        found = deserialize(path.read_bytes())
    except (OSError, SafetensorError, ValueError, struct.error) as error:
        raise InputError(
            f"The prompt pack {path} cannot be read ({error}). Make one with `echoedge checkpoint prompts`."
        ) from error
    pack = {}
    for prompt, tensor in found:
        kind, shape = tensor["dtype"], list(tensor["shape"])
        if len(shape) != 2 or shape[1] != text_dim or kind not in _TYPES:
            raise InputError(
                f"In {path} the prompt {prompt!r} has shape {shape} of {kind}; this model's are [tokens, {text_dim}] of floats. "
                "The pack is another model's."
            )
        numbers = np.frombuffer(tensor["data"], _TYPES[kind]).reshape(shape)
        # bfloat16 is the upper half of a float32
        pack[prompt] = (numbers.astype(np.uint32) << 16).view(np.float32) if kind == "BF16" else numbers.astype(np.float32)
    return pack
