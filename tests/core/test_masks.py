"""core/model/masks.py: the mask of every task, mask latents, and the conditions made from them."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch import Tensor

from echoedge.core.config import ClipSpec
from echoedge.core.errors import ConfigError
from echoedge.core.model.masks import (
    Box,
    Task,
    condition_latents,
    mask_latents,
    masked_video,
    parse_tasks,
    resize_mask,
    task_mask,
)

from .tiny import TINY_CLIP, tiny_config, tiny_vae

CLIP = TINY_CLIP
MOUTH = Box(y0=18, y1=26, x0=16, x1=32)
KNOWN = {Task.T2V: [], Task.A2V: [], Task.I2V: [0], Task.LAST: [8], Task.FLF2V: [0, 8]}  # frames, of 9

# ---- names -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", list(Task))
def test_a_task_is_parsed_by_its_name(task: Task) -> None:
    assert parse_tasks(task.value) == {task}


def test_tasks_are_joined_by_plus_in_any_case_and_order() -> None:
    assert parse_tasks("i2v+a2v") == parse_tasks(" A2V + I2V ") == {Task.I2V, Task.A2V}


@pytest.mark.parametrize(
    ("text", "bad", "near"), [("i2w", "i2w", "i2v"), ("t2v+lipsinc", "lipsinc", "lipsync"), ("FLF2", "flf2", "flf2v")]
)
def test_an_unknown_task_is_refused_with_the_list_and_the_nearest(text: str, bad: str, near: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_tasks(text)
    message = str(error.value)
    assert f"There is no task {bad!r}. Choose from t2v, i2v, last, flf2v, lipsync, a2v, joined by '+'." in message
    assert message.endswith(f"Did you mean {near!r}?")


@pytest.mark.parametrize("text", ["", "+", "i2v+", "i2v,a2v", "xyzzy"])
def test_what_is_no_task_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="There is no task"):
        parse_tasks(text)


# ---- masks -----------------------------------------------------------------------------------------------------------------------


def known_frames(mask: Tensor) -> list[int]:
    assert mask.flatten(1).amax(1).tolist() == mask.flatten(1).amin(1).tolist()
    return (mask[:, 0, 0] == 0).nonzero().flatten().tolist()


@pytest.mark.parametrize("task", KNOWN)
def test_mask_of_a_task(task: Task) -> None:
    mask = task_mask(frozenset({task}), CLIP)
    assert mask.dtype == torch.float32
    assert mask.shape == (9, 32, 48)
    assert known_frames(mask) == KNOWN[task]


@pytest.mark.parametrize(("a", "b"), list(combinations(KNOWN, 2)))
def test_joined_tasks_know_what_any_of_them_knows(a: Task, b: Task) -> None:
    assert known_frames(task_mask(frozenset({a, b}), CLIP)) == sorted({*KNOWN[a], *KNOWN[b]})


def test_lipsync_paints_the_mouth_of_every_frame() -> None:
    mask = task_mask(frozenset({Task.LIPSYNC}), CLIP, MOUTH)
    expected = torch.zeros(9, 32, 48)
    expected[:, 18:26, 16:32] = 1
    assert torch.equal(mask, expected)


def test_lipsync_with_a_first_frame_knows_that_frames_mouth() -> None:
    mask = task_mask(parse_tasks("lipsync+i2v"), CLIP, MOUTH)
    assert not mask[0].any()
    assert torch.equal(mask[1:], task_mask(parse_tasks("lipsync"), CLIP, MOUTH)[1:])


def test_lipsync_with_t2v_is_lipsync() -> None:
    assert torch.equal(task_mask(parse_tasks("lipsync+t2v+a2v"), CLIP, MOUTH), task_mask(parse_tasks("lipsync"), CLIP, MOUTH))


def test_the_last_frame_of_one_frame_is_the_first() -> None:
    clip = ClipSpec(height=32, width=48, frames=1)
    assert not task_mask(parse_tasks("last"), clip).any()


def test_lipsync_without_a_box_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"say where the mouth is, as a Box\(y0, y1, x0, x1\)"):
        task_mask(frozenset({Task.LIPSYNC}), CLIP)


@pytest.mark.parametrize("box", [(-1, 8, 0, 8), (0, 33, 0, 8), (0, 8, -1, 8), (0, 8, 0, 49), (8, 8, 0, 8), (0, 8, 9, 8)])
def test_a_box_outside_the_frame_or_empty_is_refused(box: tuple[int, int, int, int]) -> None:
    with pytest.raises(ConfigError, match=rf"Box\(y0={box[0]}, .*\) does not lie within a 32x48 frame"):
        task_mask(frozenset({Task.LIPSYNC}), CLIP, Box(*box))


def test_a_box_may_be_the_whole_frame() -> None:
    assert task_mask(frozenset({Task.LIPSYNC}), CLIP, Box(0, 32, 0, 48)).all()


# ---- mask latents ----------------------------------------------------------------------------------------------------------------


def test_first_frame_fills_all_channels_of_the_first_latent_frame() -> None:
    latents = mask_latents(task_mask(parse_tasks("i2v"), CLIP), 4, 6)
    assert latents.shape == (4, 3, 4, 6)
    assert latents[:, 0].eq(1).all()
    assert not latents[:, 1:].any()


def test_last_frame_is_the_last_channel_of_the_last_latent_frame() -> None:
    latents = mask_latents(task_mask(parse_tasks("last"), CLIP), 4, 6)
    assert latents[3, 2].eq(1).all()
    assert int(latents.count_nonzero()) == 4 * 6


def test_a_mask_counts_from_a_half_on() -> None:
    mask = torch.tensor([0.0, 0.49, 0.5, 1.0, 255.0]).view(5, 1, 1).expand(5, 8, 8)
    assert mask_latents(mask, 1, 1).flatten().tolist() == [1, 1, 1, 0, 1, 0, 1, 0]  # [4, 2]: frame 0 four times, then 1 … 4
    video = torch.full((5, 3, 8, 8), 0.25)
    assert masked_video(video, mask)[:, 0, 0, 0].tolist() == [0.25, 0.25, 0, 0, 0]


@pytest.mark.parametrize("first_apart", [False, True])
def test_resizing_samples_the_middle_of_each_cell(first_apart: bool) -> None:
    mask = torch.rand(2, 4, 3, 16, 24)
    cells = mask.unfold(3, 8, 8).unfold(4, 8, 8)  # [2, 4, 3, 2, 3, 8, 8]
    ours = resize_mask(mask, 3, 2, 3, first_apart)
    torch.testing.assert_close(ours, cells[..., 3:5, 3:5].mean((-2, -1)), rtol=0, atol=1e-6)  # measured: equal
    assert (ours - cells.mean((-2, -1))).abs().max() > 0.1  # no antialiasing: the rest of a cell does not count


def test_resizing_in_time_keeps_the_first_frame_apart() -> None:
    mask = torch.tensor([8.0, 1.0, 2.0, 3.0, 4.0]).view(1, 1, 5, 1, 1)
    assert resize_mask(mask, 3, 1, 1).flatten().tolist() == [8.0, 1.5, 3.5]
    whole = resize_mask(mask, 3, 1, 1, first_apart=False).flatten().tolist()
    assert whole == pytest.approx([8 - 7 / 3, 2.0, 3 + 2 / 3], abs=1e-5)  # sampled at 1/3, 2, 11/3
    assert resize_mask(mask, 1, 1, 1).flatten().tolist() == [8.0]
    with pytest.raises(ConfigError, match="A mask of one frame cannot become 2 frames"):
        resize_mask(mask[:, :, :1], 2, 1, 1)


# ---- conditions ------------------------------------------------------------------------------------------------------------------

VAE = tiny_vae(tiny_config().vae)
VIDEO = torch.rand(9, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1


@torch.no_grad()
def conditioned(tasks: str, encode_unknown: bool) -> tuple[Tensor, list[int]]:
    """y, and how many frames each call of the encoder got."""
    lengths = []

    def encode(video: Tensor) -> Tensor:
        lengths.append(video.shape[1])
        return VAE.encode(video)

    return condition_latents(VIDEO, task_mask(parse_tasks(tasks), CLIP, MOUTH), CLIP, encode, encode_unknown), lengths


@pytest.mark.parametrize("encode_unknown", [False, True])
@pytest.mark.parametrize("tasks", ["t2v", "a2v", "t2v+a2v"])
def test_where_all_is_to_paint_the_conditions_are_zero_and_nothing_is_encoded(tasks: str, encode_unknown: bool) -> None:
    y, lengths = conditioned(tasks, encode_unknown)
    assert y.shape == (1, 20, 3, 4, 6)
    assert not y.any()
    assert lengths == []


@pytest.mark.parametrize("tasks", ["i2v", "last", "flf2v", "lipsync", "lipsync+i2v"])
@torch.no_grad()
def test_with_encode_unknown_the_whole_masked_video_is_encoded(tasks: str) -> None:
    y, lengths = conditioned(tasks, encode_unknown=True)
    mask = task_mask(parse_tasks(tasks), CLIP, MOUTH)
    assert lengths == [9]
    assert torch.equal(y[0, :4], mask_latents(mask, 4, 6))
    assert torch.equal(y[:, 4:], VAE.encode(masked_video(VIDEO, mask)[None]))
    assert y[:, 4:].abs().amax((0, 1, 3, 4)).min() > 0.01  # mid grey is not zero once encoded


@pytest.mark.parametrize(
    ("tasks", "encoded", "known"), [("i2v", 1, [0]), ("last", 9, [2]), ("flf2v", 9, [0, 2]), ("lipsync", 9, [0, 1, 2])]
)
@torch.no_grad()
def test_without_encode_unknown_encoding_stops_and_unknown_frames_are_zero(tasks: str, encoded: int, known: list[int]) -> None:
    y, lengths = conditioned(tasks, encode_unknown=False)
    everything, _ = conditioned(tasks, encode_unknown=True)
    assert lengths == [encoded]
    assert torch.equal(y[:, :4], everything[:, :4])
    for frame in range(3):
        if frame in known:
            torch.testing.assert_close(y[:, 4:, frame], everything[:, 4:, frame], rtol=0, atol=1e-5)  # measured: 9.5e-7 of 1.9
        else:
            assert not y[:, 4:, frame].any()


@torch.no_grad()
def test_a_group_with_one_known_frame_is_encoded() -> None:
    mask = torch.ones(9, 32, 48)
    mask[2] = 0
    y = condition_latents(VIDEO, mask, CLIP, VAE.encode, encode_unknown=False)
    assert [bool(y[:, 4:, frame].any()) for frame in range(3)] == [False, True, False]
    assert [int(y[0, channel, 1].mean()) for channel in range(4)] == [0, 1, 0, 0]
