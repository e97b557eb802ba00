"""targets/rewrites/channels_first.py: the step with channels in the second axis computes what the reference does, whatever tokens
fill of a row, and in whatever chunks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from echoedge.core.config import ClipSpec
from echoedge.core.model.programs import EntryPoint, denoise_program, denoise_reusing_program
from echoedge.core.model.transformer import patchify, unpatchify
from echoedge.targets.rewrites import channels_first as ours
from echoedge.targets.rewrites.apple import make_apple
from echoedge.targets.rewrites.channels_first import Attended, Laid, Picture, attended, channels_first, filled, fitted
from echoedge.targets.rewrites.guarded_norm import GuardedRMSNorm

from ...core.tiny import TINY_CLIP, tiny_config, tiny_dit
from .common import off, relative

pytestmark = pytest.mark.usefixtures("double_precision")
TALL = ClipSpec(64, 64, 17)  # 80 tokens, which are filled up to 96; 16 a frame
IN_CHUNKS = 64 * 96  # logits: 64 queries at a time, and a tail of 32


def laid(entry: EntryPoint) -> Laid:
    inputs = tuple(entry.inputs.values())
    made = channels_first(make_apple(entry.module, inputs), inputs)
    assert isinstance(made, Laid)
    return made


def given_to(entry: EntryPoint) -> dict[str, Tensor]:
    given = entry.drawn(3)
    if "text_bias" in given:
        given["text_bias"][0, -3:] = -1e9
        given["audio_mask"] = (given["audio_mask"] > 0).to(given["audio_mask"].dtype)
    return given


@torch.no_grad()
def results(entry: EntryPoint, module: Laid) -> list[Tensor]:
    found = module(*module.given(given_to(entry)).values())
    return list(found) if isinstance(found, tuple) else [found]


def furthest(found: list[Tensor], expected: tuple[Tensor, ...]) -> float:
    return max(relative(each.reshape(known.shape), known) for each, known in zip(found, expected, strict=True))


@pytest.mark.parametrize("clip", [TINY_CLIP, TALL, ClipSpec(32, 128, 5)], ids=str)
@pytest.mark.parametrize("logits", [ours.LOGITS, IN_CHUNKS], ids=["at once", "in chunks"])
def test_a_step(clip: ClipSpec, logits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "LOGITS", logits)
    dit = tiny_dit(tiny_config()).double()
    for program in (denoise_program(dit, clip, 12, reuse=True), denoise_reusing_program(dit, clip)):
        entry = program["forward"]
        expected = entry.run(*given_to(entry).values())
        assert furthest(results(entry, laid(entry)), expected) < 1e-4  # of half precision's least number; measured: 8.3e-6
        with monkeypatch.context() as patch:
            patch.setattr(ours, "SMALLEST", 0.0)
            assert furthest(results(entry, laid(entry)), expected) < 1e-12  # measured: 1.1e-15


def without_the_tail(parts: list[Tensor], axis: int = 0) -> Tensor:
    if axis == 3 and len(parts) > 1:
        parts = [*parts[:-1], torch.zeros_like(parts[-1])]
    return parts[0] if len(parts) == 1 else torch.cat(parts, axis)


HARMS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "the tail of the queries dropped": lambda patch: patch.setattr(ours, "joined", without_the_tail),
    "softmax over the queries": lambda patch: patch.setattr(torch, "softmax", lambda x, _: F.softmax(x, 3)),
    "nothing masked": lambda patch: patch.setattr(ours, "MASKED", 0.0),
    "queries of another scale": lambda patch: patch.setattr(ours, "_scaled", lambda *_: None),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_broken_step_is_seen(harm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "LOGITS", IN_CHUNKS)
    entry = denoise_program(tiny_dit(tiny_config()).double(), TALL, 12)["forward"]
    expected = entry.run(*given_to(entry).values())
    assert furthest(results(entry, laid(entry)), expected) < 1e-4
    HARMS[harm](monkeypatch)
    assert furthest(results(entry, laid(entry)), expected) > 1e-2  # measured: 0.19 of the masks, the least


@torch.no_grad()
def test_attention_of_one_head_is_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v, bias = torch.randn(96, 8), torch.randn(40, 8), torch.randn(40, 8), torch.randn(40)
    expected = F.scaled_dot_product_attention(q[None], k[None], v[None], bias.expand(1, 96, 40), scale=1.0)[0]

    def found(*parts: slice) -> Tensor:
        sets = [Attended(k[None, part, None], v[part].T[None, :, None], bias[None, part, None, None]) for part in parts]
        return torch.stack(attended(q.T[None, :, None], sets)).sum(0)[0, :, 0].T

    for logits in (1 << 20, 64 * 40):
        monkeypatch.setattr(ours, "LOGITS", logits)
        assert off(found(slice(None)), expected) < 1e-12
        assert off(found(slice(0, 7), slice(7, None)), expected) < 1e-12  # one softmax over two sets
        assert off(found(slice(0, 7)), expected) > 1e-2


@pytest.mark.parametrize("kind", ["rms", "layer"])
@torch.no_grad()
def test_norms_along_channels(kind: str) -> None:
    made: Any = nn.RMSNorm(48, 1e-6) if kind == "rms" else nn.LayerNorm(48, 1e-6)
    for parameter in made.parameters():
        parameter.copy_(torch.rand_like(parameter) + 0.5)
    norm: nn.Module = ours.ChannelsRMSNorm(GuardedRMSNorm(made)) if kind == "rms" else ours.ChannelsLayerNorm(made)

    def along(x: Tensor) -> Tensor:
        return norm(x.T[None, :, None])[0, :, 0].T

    x = torch.randn(32, 48)
    for scale in (1e-4, 1.0, 300.0):
        assert off(along(scale * x), made(scale * x)) < 1e-4  # measured: 2.7e-5; of squares of half precision 300 is infinite
    assert off(along(x), made(x.flip(1))) > 0.1
    assert off(along(torch.zeros(32, 48)), made(torch.zeros(32, 48))) == 0
    large = (300.0 * x).half()
    norm.half()
    assert off(along(large).double(), made(large.double())) < 2e-2
    assert not torch.isfinite((large * large).sum(1)).all()


@pytest.mark.parametrize(
    ("frames", "height", "width", "selected", "groups"),
    [(3, 8, 64, 1 << 22, 12), (5, 8, 8, 1 << 22, 1), (4, 8, 8, 1 << 22, 2), (5, 8, 8, 0, 20)],
    ids=["a pair of rows", "all rows", "eight pairs", "rows that are no multiple"],
)
@torch.no_grad()
def test_pictures_to_tokens_and_back(
    frames: int, height: int, width: int, selected: int, groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ours, "SELECTED", selected)
    x = torch.randn(1, 3, frames, height, width)
    picture = Picture(3, frames, height, width)
    assert picture.shape[2] == groups
    tokens = picture.tokens(x.reshape(picture.shape))
    count = picture.count
    assert tokens.shape == (1, 12, filled(count) // 32, 32)
    assert torch.equal(tokens.reshape(12, -1)[:, :count].T, patchify(x)[0])
    assert not tokens.reshape(12, -1)[:, count:].any()
    assert not torch.equal(tokens.reshape(12, -1)[:, :count].T, patchify(x.flip(4))[0])
    assert torch.equal(picture.latents(tokens).reshape(x.shape), unpatchify(patchify(x), frames, height, width))
    plain = torch.randn(1, count, 12)
    assert torch.equal(picture.plain(picture.channels(plain)), plain)


def test_other_modules_stay_themselves_and_numbers_are_only_moved() -> None:
    linear = nn.Linear(4, 4)
    assert channels_first(linear) is linear
    assert fitted(torch.arange(3.0), (1, 4)).tolist() == [[0.0, 1.0, 2.0, 0.0]]


@torch.no_grad()
def test_layers_keep_their_names_and_weights() -> None:
    entry = denoise_program(tiny_dit(tiny_config()).double(), TINY_CLIP, 12)["forward"]
    inputs = tuple(entry.inputs.values())
    apple = make_apple(entry.module, inputs)
    convolutions = {name: part for name, part in channels_first(apple, inputs).named_modules() if isinstance(part, ours.Pointwise)}
    layers = {name: part for name, part in apple.named_modules() if isinstance(part, nn.Linear) and part.weight is not None}
    assert convolutions.keys() == layers.keys() and len(layers) > 10
    for name, layer in layers.items():
        assert convolutions[name].weight.data_ptr() == layer.weight.data_ptr()
