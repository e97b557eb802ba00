"""Long clips in pixel space: chunks that continue one another, each from frames that are known, cross-faded where they overlap.

The preview variant's way to clips that are longer than the model sees at once (UPSTREAM §6). Every chunk is a clip of its own: its
first `known` frames are given, the portrait for the first chunk and the last frames of what is already there for the others.

    chunks = pixel_chunks(total_frames=200, length=113, overlap=8)
    joiner = ChunkJoiner(chunks)
    for chunk in chunks:
        given = to_uint8(joiner.known) if chunk.start else portrait
        for frame in joiner.add(generate(given, chunk.frames, audio[slice(*chunk.audio)])):
            write(frame)

Frames are [T, ...], time first; what a frame is does not matter here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..config import TEMPORAL_STRIDE
from ..errors import ConfigError, InputError

Frames = NDArray[np.floating[Any]]

AUDIO_TOKENS_PER_FRAME = 2  # 50 Hz features at 25 frames a second
SHORTEST = 1 + TEMPORAL_STRIDE  # frames; the preview variant has no audio for a single latent frame


@dataclass(frozen=True)
class Chunk:
    """Frames start … start + frames - 1 of a clip, generated at once.

    The first `known` of them are given. The last `surplus` lie behind the clip's end and are dropped: the model makes 4n+1 frames.
    """

    start: int
    frames: int
    known: int
    surplus: int = 0

    @property
    def end(self) -> int:
        """The first frame of the clip that the chunk does not reach."""
        return self.start + self.frames - self.surplus

    @property
    def audio(self) -> tuple[int, int]:
        """The chunk's 50 Hz audio tokens, [first, last). With a surplus they reach beyond the clip's: pad with silence."""
        return AUDIO_TOKENS_PER_FRAME * self.start, AUDIO_TOKENS_PER_FRAME * (self.start + self.frames)


def pixel_chunks(total_frames: int, length: int, overlap: int, upstream_compat: bool = False) -> list[Chunk]:
    """The chunks of a clip: `length` frames each, `overlap` of them shared with the chunk before, the last one as long as need be.

    Each has 4n+1 frames. The last one ends with the clip, so it overlaps by up to three frames more; a clip of one chunk that is
    not 4n+1 frames long has a surplus. Upstream rounds the last chunk down and loses up to three frames of the clip;
    `upstream_compat` does so too.

    Raises:
        ConfigError: a number cannot work: less than one frame, a length that is not 4n+1 or below 5, an overlap that is below 1 or
            leaves nothing new, or, as upstream, a last chunk that is rounded down below the overlap.
    """
    if total_frames < 1:
        raise ConfigError(f"The clip has {total_frames} frames; it must have at least 1.")
    if length < SHORTEST or (length - 1) % TEMPORAL_STRIDE:
        near = max(SHORTEST, (length - 1) // TEMPORAL_STRIDE * TEMPORAL_STRIDE + 1)
        raise ConfigError(f"A chunk of {length} frames cannot be generated; it must be 4n+1, at least {SHORTEST}. Take {near}.")
    if not 1 <= overlap < length:
        raise ConfigError(f"Chunks of {length} frames cannot overlap by {overlap}; choose 1 to {length - 1}.")
    hop = length - overlap
    starts = range(0, max(1, total_frames - overlap), hop)
    chunks = [Chunk(start, length, overlap if start else 1) for start in starts[:-1]]
    return [*chunks, _last_chunk(total_frames, starts[-1], overlap, upstream_compat)]


def _last_chunk(total_frames: int, start: int, overlap: int, upstream_compat: bool) -> Chunk:
    """The chunk from `start` to the end of the clip, or thereabouts."""
    left = total_frames - start
    if upstream_compat:
        frames = (left - 1) // TEMPORAL_STRIDE * TEMPORAL_STRIDE + 1
        if start and frames < overlap:
            raise ConfigError(
                f"A clip of {total_frames} frames would end with a chunk of {frames}, fewer than the overlap of {overlap}: "
                "upstream fails here. Change the overlap, or leave upstream_compat off."
            )
        return Chunk(start, frames, overlap if start else 1)
    frames = max(SHORTEST, -(-(left - 1) // TEMPORAL_STRIDE) * TEMPORAL_STRIDE + 1)
    if start:
        return Chunk(total_frames - frames, frames, overlap + frames - left)
    return Chunk(0, frames, 1, surplus=frames - left)


def cross_fade(old: Frames, new: Frames) -> Frames:
    """[O, ...] from `old` to `new`, linearly: the first frame is all old, the last one all new. A single frame is old."""
    weights = np.linspace(0, 1, len(old), dtype=new.dtype).reshape(-1, *(1,) * (new.ndim - 1))
    return old * (1 - weights) + new * weights


class ChunkJoiner:
    """Joins the frames of chunks as they come; holds no more than the frames that the next chunk continues."""

    def __init__(self, chunks: Sequence[Chunk]) -> None:
        self.chunks = list(chunks)
        self._index = 0
        self._held: Frames | None = None

    @property
    def known(self) -> Frames:
        """The frames [known, ...] that the next chunk begins with.

        Raises:
            InputError: there are none, before the first chunk and after the last.
        """
        if self._held is None:
            raise InputError("No frames are known before the first chunk and after the last.")
        return self._held

    def add(self, frames: Frames) -> Frames:
        """The next chunk's frames [T, ...] -> those of the clip that are now finished, in order.

        Raises:
            InputError: the clip has no further chunk, or the chunk another number of frames.
        """
        if self._index == len(self.chunks):
            raise InputError(f"The clip has {len(self.chunks)} chunks; there is no place for another.")
        chunk = self.chunks[self._index]
        if len(frames) != chunk.frames:
            raise InputError(f"Chunk {self._index} came with {len(frames)} frames; it must have {chunk.frames}.")
        self._index += 1
        frames = frames[: chunk.end - chunk.start]
        if self._held is not None:
            frames = np.concatenate([cross_fade(self._held, frames[: chunk.known]), frames[chunk.known :]])
        if self._index == len(self.chunks):
            self._held = None
            return frames
        finished = self.chunks[self._index].start - chunk.start
        self._held = frames[finished:].copy()  # a view would hold the whole chunk
        return frames[:finished]


def to_uint8(frames: Frames, upstream_compat: bool = False) -> NDArray[np.uint8]:
    """Values in [0, 1], clipped, as 0 … 255, rounded. Upstream cuts the fraction off, which darkens by half a level each time that
    a chunk continues another; `upstream_compat` does so too."""
    scaled = np.clip(frames, 0, 1) * np.float32(255)
    return (scaled if upstream_compat else np.rint(scaled)).astype(np.uint8)
