"""What a player makes of a prompt, of features and of known frames before any program runs; numpy alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..config import AUDIO_RADIUS, TEMPORAL_STRIDE, ClipSpec
from ..errors import ConfigError

Array = NDArray[Any]
Float32 = NDArray[np.float32]
PAD_ID = 256
_MASK_CHANNELS = TEMPORAL_STRIDE  # of a latent frame: one for each of its video frames
_HIDDEN = -1e9  # the bias of rows that are not read
Indexable = TypeVar("Indexable", bound=Any)  # an array of numpy or torch


# -- prompts ---------------------------------------------------------------------------------------------------------------------


def byte_ids(prompt: str, text_len: int, pad_id: int = PAD_ID) -> tuple[NDArray[np.int64], int]:
    """A prompt in any language as UTF-8 bytes: ids [1, text_len] padded with `pad_id`, and how many bytes count.

    A prompt beyond text_len bytes is cut at a character's end.
    """
    data = prompt.encode("utf-8", errors="replace")[:text_len]
    data = data.decode("utf-8", errors="ignore").encode("utf-8")
    ids = np.full((1, text_len), pad_id, np.int64)
    ids[0, : len(data)] = list(data)
    return ids, len(data)


def check_prompt(length: int, text_len: int) -> None:
    """Refuses, with a ConfigError, a prompt of more than `text_len` tokens."""
    if length > text_len:
        raise ConfigError(f"A prompt has {length} tokens; this model reads {text_len}. Shorten it.")


def pad_text(embeddings: Sequence[Array], text_len: int) -> Array:
    """Prompts [L_i, text_dim] -> [B, text_len, text_dim], zero rows behind. Upstream attends to all of them.

    Raises:
        ConfigError: a prompt has more than `text_len` rows.
    """
    check_prompt(max(len(embedding) for embedding in embeddings), text_len)
    return np.stack([_with_zero_rows(embedding, text_len) for embedding in embeddings])


def collapse_padding(embedding: Array, text_len: int, rows: int) -> tuple[Array, Array]:
    """One prompt [L, text_dim] as `rows` rows that attend exactly like `text_len` zero-padded ones: ([rows, text_dim], bias
    [rows]).

    The padding rows of upstream are equal, so m of them weigh like one whose logit is raised by log m. Rows behind that one are
    masked by a bias of -1e9.

    Raises:
        ConfigError: the prompt does not fit into rows - 1 rows.
    """
    bias = padding_bias(len(embedding), text_len, rows).astype(embedding.dtype)
    return _with_zero_rows(embedding, rows), bias


def padding_bias(length: int, text_len: int, rows: int) -> NDArray[np.float64]:
    """The bias [rows] of a prompt of `length` tokens whose padding is one row (see `collapse_padding`, which raises the same)."""
    padding = text_len - length
    if padding < 0 or length + (padding > 0) > rows:
        raise ConfigError(f"A prompt has {length} tokens; this bundle reads up to {min(text_len, rows - 1)}. Shorten it.")
    bias = np.full(rows, _HIDDEN)
    bias[:length] = 0.0
    if padding:
        bias[length] = math.log(padding)
    return bias


def _with_zero_rows(embedding: Array, rows: int) -> Array:
    return np.concatenate([embedding, np.zeros((rows - len(embedding), embedding.shape[1]), embedding.dtype)])


def cut_sentence(read: int, unit: str, left_out: int) -> str:
    """What there is to say of a prompt of which only the first `read` `unit` count."""
    return f"The prompt is longer than this model reads: its first {read:,} {unit} count, {left_out:,} are left out."


# -- speech ----------------------------------------------------------------------------------------------------------------------


def frame_windows(features: Indexable, radius: int = AUDIO_RADIUS) -> Indexable:
    """Speech features [B, T, …] -> [B, T, 2·radius + 1, …]: each frame with its neighbours, clamped at the ends; an array or a
    tensor, as it was given."""
    frames = features.shape[1]
    index = np.arange(frames)[:, None] + np.arange(-radius, radius + 1)
    return features[:, index.clip(0, frames - 1)]


# -- known frames ----------------------------------------------------------------------------------------------------------------


def known_latents(known: Float32, clip: ClipSpec, encode: Callable[[Float32], Float32], encode_unknown: bool) -> Float32:
    """The model's `y` [1, 20, F, h, w] of a clip whose first frames are known: mask latents, then masked-video latents.

    known: [n, 3, H, W] in [-1, 1], n from 1; encode: video [1, T, 3, H, W] -> latents [1, 16, F, h, w]. What
    `tasks.condition_latents` does for any mask: with `encode_unknown` the whole clip is encoded, unknown frames at mid grey;
    without it encoding stops with the group of the last known frame.
    """
    latent = (clip.latent_frames, clip.latent_height, clip.latent_width)
    flags = np.arange(clip.frames) < len(known)
    groups = np.concatenate([flags[:1].repeat(TEMPORAL_STRIDE), flags[1:]]).reshape(-1, TEMPORAL_STRIDE)  # [F, 4]
    frames = clip.frames if encode_unknown else 1 + TEMPORAL_STRIDE * -(-(len(known) - 1) // TEMPORAL_STRIDE)
    video = np.zeros((1, frames, *known.shape[1:]), np.float32)
    video[0, : len(known)] = known
    encoded = encode(video)
    y = np.zeros((1, _MASK_CHANNELS + encoded.shape[1], *latent), np.float32)
    y[0, :_MASK_CHANNELS] = groups.T[:, :, None, None]
    y[:, _MASK_CHANNELS:, : encoded.shape[2]] = encoded
    return y
