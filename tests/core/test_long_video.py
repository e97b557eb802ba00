"""core/plan/long_video.py: no frame is lost, chunks join into the clip in constant memory, and upstream's way is an option.

Upstream's recorded chunks and clips: tests/upstream/checks_frames.py.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from echoedge.core.errors import ConfigError, InputError
from echoedge.core.plan.long_video import Chunk, ChunkJoiner, Frames, cross_fade, pixel_chunks, to_uint8

SETTINGS = [(25, 5), (113, 8), (9, 8), (5, 1), (25, 24), (13, 7)]  # length, overlap


def clip(frames: int) -> Frames:
    return np.random.default_rng(frames).random((frames, 2, 3), np.float32)


def parts(chunks: list[Chunk]) -> list[Frames]:
    """What a model might make: every chunk another film."""
    return [np.random.default_rng(index).random((chunk.frames, 2, 3), np.float32) for index, chunk in enumerate(chunks)]


def joined(chunks: list[Chunk], films: list[Frames]) -> Frames:
    joiner = ChunkJoiner(chunks)
    return np.concatenate([joiner.add(film) for film in films])


# ---- chunks ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "overlap"), SETTINGS)
def test_chunks_cover_the_clip_and_each_can_be_generated(length: int, overlap: int) -> None:
    for total in range(1, 3 * length + 10):
        chunks = pixel_chunks(total, length, overlap)
        assert chunks[0].start == 0
        assert chunks[0].known == 1
        assert chunks[-1].end == total
        for chunk in chunks:
            assert chunk.frames % 4 == 1
            assert 5 <= chunk.frames <= length
            assert chunk.known < chunk.frames
            assert chunk.audio == (2 * chunk.start, 2 * (chunk.start + chunk.frames))
        for before, after in pairwise(chunks):
            assert before.start < after.start < before.end < after.end
            assert after.known == before.end - after.start >= overlap
            assert before.surplus == after.surplus == 0
        for before, after in pairwise(chunks[:-1]):
            assert (after.start - before.start, after.known) == (length - overlap, overlap)


@pytest.mark.parametrize(("length", "overlap"), SETTINGS)
def test_a_surplus_is_what_one_short_chunk_generates_too_many(length: int, overlap: int) -> None:
    for total in range(1, length + 1):
        (chunk,) = pixel_chunks(total, length, overlap)
        assert chunk.frames == max(5, total + -(total - 1) % 4)
        assert chunk.surplus == chunk.frames - total


def test_the_end_of_the_clip_is_kept_and_upstreams_way_loses_it() -> None:
    """Upstream's defect: the last chunk is rounded down to 4n+1 frames."""
    lost = set()
    for total in range(26, 130):
        ours = pixel_chunks(total, 25, 5)
        assert len(joined(ours, parts(ours))) == total
        theirs = pixel_chunks(total, 25, 5, upstream_compat=True)
        left = total - theirs[-1].start
        assert theirs[-1] == Chunk(20 * (len(theirs) - 1), left - (left - 1) % 4, 5)
        assert all(chunk == Chunk(20 * index, 25, 5 if index else 1) for index, chunk in enumerate(theirs[:-1]))
        assert len(joined(theirs, parts(theirs))) == total - (left - 1) % 4
        lost.add(total - theirs[-1].end)
        assert ours[:-1] == theirs[:-1]
    assert lost == {0, 1, 2, 3}


def test_a_last_chunk_that_would_bring_nothing_new_reaches_further_back() -> None:
    assert pixel_chunks(46, 25, 5, upstream_compat=True)[-1] == Chunk(40, 5, 5)  # only cross-fades what is there
    assert pixel_chunks(46, 25, 5)[-1] == Chunk(37, 9, 8)


def test_a_last_chunk_shorter_than_the_overlap_is_upstreams_alone() -> None:
    with pytest.raises(ConfigError, match=r"end with a chunk of 5, fewer than the overlap of 6: upstream fails here"):
        pixel_chunks(26, 25, 6, upstream_compat=True)
    chunks = pixel_chunks(26, 25, 6)
    assert len(joined(chunks, parts(chunks))) == 26


@pytest.mark.parametrize("total", [1, 2, 5, 17, 24, 25])
def test_a_clip_that_fits_is_one_chunk(total: int) -> None:
    (theirs,) = pixel_chunks(total, 25, 5, upstream_compat=True)
    assert theirs == Chunk(0, (total - 1) // 4 * 4 + 1, 1)
    chunks = pixel_chunks(total, 25, 5)
    film = clip(chunks[0].frames)
    np.testing.assert_array_equal(joined(chunks, [film]), film[:total])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0, 25, 5), "The clip has 0 frames"),
        ((50, 24, 5), r"A chunk of 24 frames cannot be generated; it must be 4n\+1, at least 5\. Take 21"),
        ((50, 1, 0), r"at least 5\. Take 5"),
        ((50, 25, 25), "Chunks of 25 frames cannot overlap by 25; choose 1 to 24"),
        ((50, 25, 30), "cannot overlap by 30"),
        ((50, 25, 0), "cannot overlap by 0"),
        ((50, 25, -1), "cannot overlap by -1"),
    ],
)
@pytest.mark.parametrize("upstream_compat", [False, True])
def test_chunks_that_cannot_be(arguments: tuple[int, int, int], words: str, upstream_compat: bool) -> None:
    with pytest.raises(ConfigError, match=words):
        pixel_chunks(*arguments, upstream_compat=upstream_compat)


# ---- joining ---------------------------------------------------------------------------------------------------------------------


def test_cross_fade_is_linear_with_both_ends() -> None:
    old, new = clip(5), clip(6)[:5]
    weights = np.array([0, 0.25, 0.5, 0.75, 1]).reshape(5, 1, 1)
    faded = cross_fade(old, new)
    assert faded.dtype == np.float32
    np.testing.assert_allclose(faded, (1 - weights) * old + weights * new, rtol=0, atol=1e-6)  # measured: 3e-8
    np.testing.assert_array_equal(faded[[0, -1]], [old[0], new[-1]])
    np.testing.assert_array_equal(cross_fade(old[:1], new[:1]), old[:1])


@pytest.mark.parametrize("total", [25, 26, 45, 61, 64, 100])
@pytest.mark.parametrize("overlap", [1, 5, 16, 24])
def test_cut_and_joined_is_the_clip(total: int, overlap: int) -> None:
    """Overlaps of more than half a chunk reach back over several chunks."""
    film, chunks = clip(total), pixel_chunks(total, 25, overlap)
    cut = [film[chunk.start : chunk.start + chunk.frames] for chunk in chunks]
    np.testing.assert_allclose(joined(chunks, cut), film, rtol=0, atol=1e-6)  # measured: 1.8e-7
    cut[-1] = np.roll(cut[-1], 1, 0)  # a frame late
    assert np.abs(joined(chunks, cut) - film).max() > 0.1


@pytest.mark.parametrize("upstream_compat", [False, True])
@pytest.mark.parametrize(("total", "length", "overlap"), [(61, 25, 5), (100, 25, 5), (70, 25, 17), (32, 5, 2)])
def test_streaming_is_joining_the_whole(total: int, length: int, overlap: int, upstream_compat: bool) -> None:
    chunks = pixel_chunks(total, length, overlap, upstream_compat)
    films = parts(chunks)
    whole = films[0]
    for chunk, film in zip(chunks[1:], films[1:], strict=True):
        assert len(whole) - chunk.known == chunk.start
        whole = np.concatenate([whole[: -chunk.known], cross_fade(whole[-chunk.known :], film[: chunk.known]), film[chunk.known :]])
    np.testing.assert_array_equal(joined(chunks, films), whole)


def test_a_chunk_continues_the_last_frames_of_what_is_there_in_constant_memory() -> None:
    chunks = pixel_chunks(100, 25, 5)
    joiner, finished = ChunkJoiner(chunks), np.zeros((0, 2, 3), np.float32)
    for chunk, film in zip(chunks, parts(chunks), strict=True):
        if chunk.start:
            assert joiner.known.shape == (chunk.known, 2, 3)
            assert joiner.known.base is None  # and keeps nothing else alive
            assert len(finished) == chunk.start
            sofar = np.concatenate([finished, joiner.known])
        finished = np.concatenate([finished, joiner.add(film)])
        if chunk.start:
            np.testing.assert_array_equal(finished[: chunk.start], sofar[: chunk.start])
            np.testing.assert_array_equal(finished[chunk.start], sofar[chunk.start])  # the fade begins with the old frame
    assert len(finished) == 100


def test_chunks_that_do_not_belong() -> None:
    chunks = pixel_chunks(45, 25, 5)
    joiner = ChunkJoiner(chunks)
    with pytest.raises(InputError, match="No frames are known before the first chunk"):
        _ = joiner.known
    with pytest.raises(InputError, match="Chunk 0 came with 24 frames; it must have 25"):
        joiner.add(clip(24))
    for film in parts(chunks):
        joiner.add(film)
    with pytest.raises(InputError, match="The clip has 2 chunks"):
        joiner.add(clip(25))


# ---- 8 bits ----------------------------------------------------------------------------------------------------------------------


def test_levels_are_rounded_and_upstreams_are_cut_off() -> None:
    """Upstream's defect: frames that are continued or saved lose the fraction of a level."""
    values = np.array([0, 0.4, 0.6, 127.49, 127.51, 254.6, 255], np.float32) / 255
    assert to_uint8(values).tolist() == [0, 0, 1, 127, 128, 255, 255]
    assert to_uint8(values, upstream_compat=True).tolist() == [0, 0, 0, 127, 127, 254, 255]


def test_levels_survive() -> None:
    levels = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(to_uint8(levels.astype(np.float32) / 255), levels)
    assert to_uint8(np.array([-1.0, 2.0], np.float32)).tolist() == [0, 255]


def test_cutting_off_darkens_by_half_a_level() -> None:
    values = clip(10_000)
    for upstream_compat, expected in ((False, 0.0), (True, -0.5)):
        shift = to_uint8(values, upstream_compat).mean(dtype=np.float64) - 255 * values.mean(dtype=np.float64)
        assert shift == pytest.approx(expected, abs=0.01)  # measured: -0.0016 and -0.4997
