"""Texts as ids and rows, and what a clip knows of its frames."""

from __future__ import annotations

from functools import partial

import numpy as np

from ...core.config import ClipSpec
from ...core.sampling.inputs import byte_ids, collapse_padding, known_latents
from .group import Float32, Group, numbers

_PROMPTS = ("", "a woman nods", "Zoë lächelt", "她在微笑", "a 😀 b", "abcdefgh", "abcdefgé", "abcdef😀", "\n\t ", "x" * 40)


def build() -> Group:
    group = Group("inputs")
    for number, prompt in enumerate(_PROMPTS):
        for length, pad in ((8, 256), (64, 0)):
            ids, count = byte_ids(prompt, length, pad)
            given = {"prompt": prompt, "text_length": length, "pad_id": pad}
            trap = "a prompt that is cut within a character" if len(prompt.encode()) > 8 and length == 8 else None
            group.case("ids", f"prompt {number}, {length} ids", given, {"ids": ids, "length": count}, trap=trap)
    for rows, length, taken in (
        (5, 64, 8),
        (0, 64, 8),
        (63, 64, 64),
        (64, 64, 64),
        (7, 512, 8),
        (20, 300, 30),
        (1, 2, 2),
        (6, 7, 7),
    ):
        embedding = numbers(70 + rows, rows, 4) if rows else np.zeros((0, 4), np.float32)
        text, bias = collapse_padding(embedding, length, taken)
        given = {"rows": embedding, "text_length": length, "text_rows": taken}
        group.case("text", f"{rows} rows of {length} as {taken}", given, {"text": text[None], "text_bias": bias[None]})
    for rows, length, taken in ((8, 64, 8), (9, 64, 8), (65, 64, 65)):
        embedding = numbers(80 + rows, rows, 4)
        given = {"rows": embedding, "text_length": length, "text_rows": taken}
        call = partial(collapse_padding, embedding, length, taken)
        group.refused("text", f"{rows} rows do not fit {taken} of {length}", given, call)
    for encoded, frames in ((1, 7), (7, 7), (1, 1), (3, 3)):
        latents, clip = numbers(90 + frames, 1, 3, encoded, 2, 4), ClipSpec(16, 32, 4 * (frames - 1) + 1)
        portrait = np.zeros((1, 3, 16, 32), np.float32)
        y = known_latents(portrait, clip, partial(_encoded, latents), encode_unknown=encoded > 1)
        given = {"latents": latents, "mask_channels": 4, "frames": frames}
        group.case("known", f"{encoded} of {frames} latent frames", given, {"y": y})
    return group


def _encoded(latents: Float32, _: Float32) -> Float32:
    """What the encoder makes of the known frames: what is given."""
    return latents
