"""The drawn heads: what is seen is measured from pixels, with tools independent of the drawing code."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import center_of_mass

from echoedge.core.errors import InputError
from echoedge.core.metrics import voice
from echoedge.core.train import people
from echoedge.core.train.people import HEAD_ACTIONS, PROMPTS, prompt_text
from echoedge.core.train.portraits import regions
from echoedge.core.train.puppets import HELD_OUT_SEED, draw_clip

SILENCE = np.zeros(1, np.float32)


def shift_between(a: np.ndarray, b: np.ndarray) -> tuple[int, int]:
    """How far (rows, columns) the content of `b` lies from that of `a`, by phase-free cross-correlation of whole frames."""
    x, y = (v.astype(np.float64).mean(-1) for v in (a, b))
    peak = np.fft.ifft2(np.conj(np.fft.fft2(x - x.mean())) * np.fft.fft2(y - y.mean())).real
    row, column = np.unravel_index(int(np.argmax(peak)), peak.shape)
    half = x.shape[0] // 2
    return (int(row) + half) % (2 * half) - half, (int(column) + half) % (2 * half) - half


def moved(seed: int, head: str, face: str = "") -> np.ndarray:
    """One silent clip, so that only the prompt's motion shows."""
    return draw_clip(seed, 33, 64, head_action=head, face_action=face, waveform=SILENCE).frames


def test_a_clip_has_the_promised_shapes_and_ranges() -> None:
    clip = draw_clip(5)
    assert clip.frames.dtype == np.uint8 and clip.frames.shape == (25, 64, 64, 3)
    assert clip.waveform.dtype == np.float32 and clip.waveform.shape == (16000,) and np.abs(clip.waveform).max() <= 1.0
    assert clip.opening.dtype == np.float32 and clip.opening.shape == (25,)
    assert 0.0 <= clip.opening.min() < 0.3 and 0.7 < clip.opening.max() <= 1.0
    y0, y1, x0, x1 = clip.mouth_box
    assert 0 <= y0 < y1 <= 64 and 0 <= x0 < x1 <= 64 and x1 - x0 >= 18 and y1 - y0 >= 10
    assert clip.prompt in PROMPTS


def test_a_clip_depends_on_its_seed_alone() -> None:
    first, again, other = draw_clip(11, 9), draw_clip(11, 9), draw_clip(12, 9)
    assert np.array_equal(first.frames, again.frames) and np.array_equal(first.waveform, again.waveform)
    assert first.prompt == again.prompt and first.identity == again.identity
    assert first.identity != other.identity and np.abs(first.frames.astype(int) - other.frames).mean() > 10


def test_neighbouring_and_held_out_seeds_are_different_people() -> None:
    people = {draw_clip(seed, 1, 16).identity for seed in (*range(40), *range(HELD_OUT_SEED, HELD_OUT_SEED + 40))}
    assert len(people) == 80


@pytest.mark.parametrize(("frames", "size"), [(1, 64), (97, 64), (25, 96), (9, 128)])
def test_every_length_and_size_is_drawn(frames: int, size: int) -> None:
    clip = draw_clip(3, frames, size)
    assert clip.frames.shape == (frames, size, size, 3) and len(clip.waveform) == frames * 640
    if frames > 1:  # motion is continuous: no frame differs from the one before by much
        step = np.abs(np.diff(clip.frames.astype(np.float32), axis=0)).mean(axis=(1, 2, 3))
        assert step.max() < 8.0  # measured up to 5.5; a cut to another person is above 20


def test_a_large_picture_reduced_is_the_small_picture() -> None:
    """Drawing is resolution independent. Twin: the picture of another seed is far away."""
    small, large, other = draw_clip(9, 1, 64).frames[0], draw_clip(9, 1, 256).frames[0], draw_clip(10, 1, 64).frames[0]
    reduced = large.astype(np.float64).reshape(64, 4, 64, 4, 3).mean(axis=(1, 3))
    assert np.abs(reduced - small).mean() < 2.5  # measured 1.3
    assert np.abs(reduced - other).mean() > 20


def test_the_mouth_opens_with_the_audio() -> None:
    """Changes inside the mouth box follow loudness given by hand; outside the face almost nothing moves when the head is still."""
    time = np.arange(16000) / 16000
    loudness = 0.5 - 0.5 * np.cos(2 * np.pi * 2.0 * time)
    audio = loudness * np.sin(2 * np.pi * 220 * time)
    for seed in range(6):
        clip = draw_clip(seed, head_action="stays still", face_action="", waveform=audio)
        y0, y1, x0, x1 = clip.mouth_box
        change = np.abs(clip.frames[:, y0:y1, x0:x1].astype(np.float64) - clip.frames[0, y0:y1, x0:x1]).mean(axis=(1, 2, 3))
        assert np.corrcoef(change, loudness[320::640])[0, 1] > 0.9
        assert np.array_equal(clip.frames[:, :8], np.broadcast_to(clip.frames[:1, :8], clip.frames[:, :8].shape))


def test_silence_keeps_the_mouth_shut() -> None:
    clip = draw_clip(4, head_action="stays still", face_action="", waveform=SILENCE)
    y0, y1, x0, x1 = clip.mouth_box
    assert not clip.opening.any()
    assert np.ptp(clip.frames[:, y0:y1, x0:x1].astype(int), axis=0).max() == 0


def test_the_mouth_box_holds_what_the_audio_moves() -> None:
    """With and without audio, frames differ inside the box; outside only by the chin, which drops a little."""
    for seed in range(8):
        spoken = draw_clip(seed, 25)
        silent = draw_clip(seed, 25, waveform=SILENCE)
        y0, y1, x0, x1 = spoken.mouth_box
        change = np.abs(spoken.frames.astype(float) - silent.frames).sum(axis=(0, 3))
        assert change[y0:y1, x0:x1].sum() > 0.85 * change.sum()


@pytest.mark.parametrize(("head", "row", "column"), [("turns left", 0, -1), ("turns right", 0, 1), ("nods", 1, 0)])
def test_the_head_moves_as_the_prompt_says(head: str, row: int, column: int) -> None:
    for seed in (1, 2, 3):
        frames = moved(seed, head)
        still = moved(seed, "stays still")
        steps = np.asarray([shift_between(frames[0], frame) for frame in frames])
        assert max(abs(v) for frame in still for v in shift_between(still[0], frame)) == 0
        if row:
            assert steps[:, 0].max() >= 1 and np.abs(steps[:, 1]).max() == 0
        else:
            assert (steps[:, 1] * column).max() >= 1 and np.abs(steps[:, 0]).max() == 0


def test_tilting_moves_the_crown_aside_and_left_mirrors_right() -> None:
    for seed in (1, 2, 3):
        offsets = []
        for head in ("tilts left", "tilts right"):
            frames = moved(seed, head)[:, :20].astype(np.float64)
            change = np.abs(frames - frames[0]).sum(axis=-1)
            darker = [center_of_mass(np.abs(frame - frames.mean(axis=(0, 1, 2)))[..., 1])[1] for frame in frames]
            assert change.max() > 50
            offsets.append(darker[20] - darker[0])
        assert offsets[0] * offsets[1] < 0


@pytest.mark.parametrize("face", ["smiles", "raises brows"])
def test_the_face_acts_where_it_should(face: str) -> None:
    frames = moved(6, "stays still", face).astype(float)
    still = moved(6, "stays still", "").astype(float)
    change = np.abs(frames - still).sum(axis=(0, 2, 3))
    brows, mouth = change[:22].sum(), change[36:].sum()
    if face == "smiles":
        assert mouth > 0 and brows == 0
    else:
        assert brows > 0 and mouth == 0


def test_eyes_blink() -> None:
    """In four silent, still seconds the eye region changes for a few frames and comes back."""
    clip = draw_clip(2, 101, head_action="stays still", face_action="", waveform=SILENCE)
    assert 2 <= int((clip.motion.eyes < 0.5).sum()) <= 25
    eyes = clip.frames[:, 20:36].astype(float)
    closed = int(np.argmin(clip.motion.eyes))
    opened = int(np.argmax(clip.motion.eyes))
    assert eyes[opened].max() > eyes[closed].max() - 1 and np.abs(eyes[opened] - eyes[closed]).mean() > 4


def test_frame_zero_may_show_any_mouth_unless_it_is_asked_to_be_closed() -> None:
    first = np.asarray([draw_clip(seed, 5, 16).opening[0] for seed in range(60)])
    assert (first < 0.2).any() and (first > 0.6).any()
    assert all(draw_clip(seed, 5, 16, closed_start=True).opening[0] == 0.0 for seed in range(20))


def test_every_prompt_is_short_and_unique() -> None:
    assert len(set(PROMPTS)) == len(PROMPTS) > 500
    assert max(len(prompt.encode()) for prompt in PROMPTS) <= 64


def test_prompts_name_what_is_drawn() -> None:
    for seed in range(30):
        clip = draw_clip(seed, 1, 16)
        who = clip.identity
        assert clip.prompt.startswith(f"a {who.subject} with {who.hair} hair") and ("glasses" in clip.prompt) == who.glasses
        assert clip.face_action in clip.prompt and (clip.head_action in clip.prompt or clip.head_action == "stays still")


def test_skin_hair_and_backgrounds_vary() -> None:
    first = np.stack([draw_clip(seed, 1, 32, head_action="stays still").frames[0] for seed in range(40)]).astype(float)
    cheeks, corners = first[:, 17:19, 10:13].mean(axis=(1, 2)), first[:, :3, :3].mean(axis=(1, 2))
    assert np.ptp(cheeks.mean(axis=1)) > 100 and np.ptp(corners.mean(axis=1)) > 100


def test_the_background_never_moves_whatever_the_prompt() -> None:
    """Twin: right beside it, at the rim of the margin, something does."""
    for seed in range(4):
        where = regions(draw_clip(seed, 1).identity)
        moved_at = np.zeros((64, 64), bool)
        for head in HEAD_ACTIONS:
            frames = draw_clip(seed, 33, head_action=head, face_action="smiles").frames
            moved_at |= (frames != frames[:1]).any(axis=(0, 3))
        assert where.background.mean() > 0.2 and not (moved_at & where.background).any()
        rim = np.zeros_like(moved_at)
        for axis in (0, 1):
            for step in (-3, -2, -1, 1, 2, 3):
                rim |= np.roll(where.background, step, axis)
        assert (moved_at & rim & ~where.background).sum() > 50
        assert not (where.head & where.background).any() and 0.2 < where.head.mean() < 0.7


def test_the_points_are_where_the_face_is_drawn() -> None:
    """At the eyes' points blinking changes the picture, at the mouth's point speech does; both scale with the size."""
    for size in (64, 128):
        clip = draw_clip(2, 101, size, head_action="stays still", face_action="", waveform=SILENCE)
        where = regions(clip.identity, size)
        spoken = draw_clip(2, 25, size, head_action="stays still", face_action="").frames.astype(float)
        frames = clip.frames.astype(float)
        for y, x in (where.left_eye, where.right_eye):
            assert np.ptp(frames[:, round(y), round(x)], axis=0).max() > 50
        y, x = where.mouth
        assert np.ptp(spoken[:, round(y), round(x)], axis=0).max() > 50
        assert np.ptp(frames[:, round(y), round(x)], axis=0).max() == 0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: regions(draw_clip(0, 1).identity, 8), "size is 8"),
        (lambda: draw_clip(0, 0), "frames is 0"),
        (lambda: draw_clip(0, 5, 8), "size is 8"),
        (lambda: draw_clip(0, 5, head_action="flies"), "flies"),
        (lambda: draw_clip(0, 5, face_action="sneezes"), "sneezes"),
        (lambda: draw_clip(0, 5, waveform=np.zeros((2, 100), np.float32)), "mono"),
        (lambda: draw_clip(-1), "seed is -1"),
        (lambda: prompt_text("robot", "red", False, "nods", ""), "robot"),
        (lambda: prompt_text("man", "green", False, "nods", ""), "green"),
    ],
)
def test_what_cannot_work_says_so(call, words: str) -> None:
    with pytest.raises(InputError, match=words):
        call()


def test_opening_is_the_shared_loudness() -> None:
    """The opening is proportional to `voice.envelope` above its threshold, so that metric and mouth agree on one definition."""
    clip = draw_clip(21)
    loudness = voice.envelope(clip.waveform, 25)
    inside = (loudness > 0.1) & (clip.opening < 1.0)
    fit = np.polyfit(loudness[inside], clip.opening[inside], 1)
    assert np.abs(np.polyval(fit, loudness[inside]) - clip.opening[inside]).max() < 1e-5
    assert people.mouth_opening(np.zeros(3, np.float32)).max() == 0.0
