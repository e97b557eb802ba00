"""core/tasks.py: upstream's mask latents and masked videos, the mask of every task, and the conditions made from them."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch import Tensor

from echoedge.core.config import ClipSpec
from echoedge.core.errors import ConfigError
from echoedge.core.tasks import Box, Task, condition_latents, mask_latents, masked_video, parse_tasks, task_mask

from .goldens import excess, golden, golden_names, golden_tensors
from .tiny import TINY_CLIP, tiny_config, tiny_vae

CLIP = TINY_CLIP
MOUTH = Box(y0=18, y1=26, x0=16, x1=32)
KNOWN = {Task.T2V: [], Task.A2V: [], Task.I2V: [0], Task.LAST: [8], Task.FLF2V: [0, 8]}  # frames, of 9

# ---- upstream --------------------------------------------------------------------------------------------------------------------

CONDITIONS = sorted(key.removeprefix("in/mask_") for key in golden_tensors("mask_condition") if key.startswith("in/mask_"))


def test_the_case_of_masks_is_there() -> None:
    assert "mask_condition" in golden_names("mask")
    assert len(CONDITIONS) == 3


@pytest.mark.parametrize("key", CONDITIONS)
def test_mask_latents_are_upstreams(key: str) -> None:
    recorded, tolerance = golden_tensors("mask_condition"), golden("mask_condition")["tolerance"]
    mask, theirs = recorded[f"in/mask_{key}"][0, 0], recorded[f"out/mask_latents_{key}"][0]
    assert excess(mask_latents(mask, 2, 3), theirs, tolerance) < 0.01  # measured: equal
    assert excess(mask_latents(1 - mask.clamp(0, 1), 2, 3), theirs, tolerance) > 10


@pytest.mark.parametrize("key", CONDITIONS)
def test_masked_video_is_upstreams(key: str) -> None:
    recorded, tolerance = golden_tensors("mask_condition"), golden("mask_condition")["tolerance"]
    video = recorded[f"in/video_{key}"][0].transpose(0, 1) * 2 - 1  # upstream's 0 … 1
    mask, theirs = recorded[f"in/mask_{key}"][0, 0], recorded[f"out/masked_video_{key}"][0].transpose(0, 1)
    assert excess(masked_video(video, mask), theirs, tolerance) < 0.01  # measured: equal
    assert excess(masked_video(video, mask.roll(1, 0)), theirs, tolerance) > 10


def resized(known: Tensor, height: int, width: int) -> Tensor:
    """Values in 0 … 1 [4, F, H, W] resized as `mask_latents` resizes them.

    Resizing is linear and the values of this case are multiples of 2^-24, so they are a sum of 24 masks of zeros and ones.
    A mask has four equal channels in its first latent frame, so that one is resized channel by channel.
    """
    _, frames, h, w = known.shape
    planes = (known.double() * 2**24).long()
    out = torch.zeros(4, frames, height, width, dtype=torch.float64)
    for bit in range(24):
        plane = (planes >> bit & 1).float()
        weight = 2.0 ** (bit - 24)
        for channel in range(4):
            out[channel, 0] += weight * mask_latents(1 - plane[channel, :1], height, width)[channel, 0]
        later = plane[:, 1:].transpose(0, 1).reshape(-1, h, w)
        out[:, 1:] += weight * mask_latents(1 - torch.cat([torch.ones(1, h, w), later]), height, width)[:, 1:]
    return out


@pytest.mark.skipif("resize_mask" not in golden_names("mask"), reason="this set of cases has no resize_mask")
@pytest.mark.parametrize("index", range(3))
def test_resizing_is_upstreams(index: int) -> None:
    recorded, tolerance = golden_tensors("resize_mask"), golden("resize_mask")["tolerance"]
    known = recorded[f"in/mask{index}"][0]
    for way in ("first_only", "plain"):  # upstream's two ways agree: no frame is mixed with another
        theirs = recorded[f"out/{way}{index}"][0]
        assert excess(resized(known, *theirs.shape[2:]), theirs, tolerance) < 0.01  # measured: 0.00034
        assert excess(resized(known.flip(-1), *theirs.shape[2:]), theirs, tolerance) > 10


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
