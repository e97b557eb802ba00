"""targets/rewrites/apple.py: patches in five dimensions, attention whole or in chunks, and programs that compute the same."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from echoedge.core.config import NANO, ClipSpec
from echoedge.core.model.encoders import NanoImageEncoder
from echoedge.core.model.programs import EntryPoint, denoise_program, denoise_reusing_program
from echoedge.core.model.transformer import patchify, unpatchify
from echoedge.targets.rewrites import attention as chunks
from echoedge.targets.rewrites.apple import (
    MOST_DIMENSIONS,
    chunked_attention,
    flat_patches,
    flat_picture,
    make_apple,
)
from echoedge.targets.rewrites.fused import fused_attention

from ...core.tiny import TINY_CLIP, randomised, tiny_config, tiny_dit
from .common import off, require_same_streams

pytestmark = pytest.mark.usefixtures("double_precision")


@torch.no_grad()
def test_patches_and_pictures() -> None:
    x, tokens = torch.randn(1, 5, 3, 4, 6), torch.randn(1, 18, 20)
    assert torch.equal(flat_patches(x), patchify(x))
    assert torch.equal(flat_picture(tokens, 3, 4, 6), unpatchify(tokens, 3, 4, 6))
    assert not torch.equal(flat_patches(x.transpose(3, 4)), patchify(x))
    assert not torch.equal(flat_picture(tokens, 3, 6, 4).flatten(), unpatchify(tokens, 3, 4, 6).flatten())


@pytest.mark.parametrize("attend", [fused_attention, chunked_attention])
@torch.no_grad()
def test_attention(attend: object, monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v, bias = torch.randn(2, 7, 24), torch.randn(2, 5, 24), torch.randn(2, 5, 24), torch.randn(2, 1, 1, 5)
    monkeypatch.setattr(chunks, "LOGITS", 6 * 3 * 5)  # three queries at a time, and a tail of one
    logits = torch.einsum("bqhd,bkhd->bhqk", q.view(2, 7, 3, 8), k.view(2, 5, 3, 8)) / 8**0.5 + bias
    expected = torch.einsum("bhqk,bkhd->bqhd", logits.softmax(-1), v.view(2, 5, 3, 8)).reshape(2, 7, 24)
    assert off(attend(3, q, k, v, bias), expected) < 1e-12
    assert off(attend(3, q, k, v, None), expected) > 1e-2
    assert off(attend(2, q, k, v, bias), expected) > 1e-2


def agrees(entry: EntryPoint, whole: bool) -> float:
    ours, given = make_apple(entry.module, tuple(entry.inputs.values()), whole), list(entry.drawn(3).values())
    found = ours(*given)
    found = found if isinstance(found, tuple) else (found,)
    return max(off(ours_, expected) for ours_, expected in zip(found, entry.run(*given), strict=True))


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "chunked"])
@pytest.mark.parametrize("clip", [TINY_CLIP, ClipSpec(16, 48, 5)], ids=str)
@torch.no_grad()
def test_a_step(clip: ClipSpec, whole: bool) -> None:
    dit = tiny_dit(tiny_config()).double()
    for program in (denoise_program(dit, clip, 12, reuse=True), denoise_reusing_program(dit, clip)):
        assert agrees(program["forward"], whole) < 1e-5  # its rotary tables are float32
    entry = denoise_program(dit, clip, 12)["forward"]
    given, ours = list(entry.drawn(3).values()), make_apple(entry.module, tuple(entry.inputs.values()), whole)
    given[6], given[8] = given[8], given[6]  # nobody can mistake an input for another
    with pytest.raises((RuntimeError, ValueError)):
        ours(*given)


@torch.no_grad()
def test_the_vae_frame_by_frame() -> None:
    for whole in (True, False):
        require_same_streams(partial(make_apple, whole=whole))


@torch.no_grad()
def test_a_portrait() -> None:
    encoder = randomised(NanoImageEncoder(NANO)).double()
    portrait = torch.rand(1, 3, 64, 64).double()
    assert off(make_apple(encoder)(portrait), encoder(portrait)) < 1e-12
    assert off(make_apple(encoder)(portrait.transpose(2, 3)), encoder(portrait)) > 1e-3


@torch.no_grad()
def test_nothing_has_more_dimensions_than_apple_takes() -> None:
    entry = denoise_program(tiny_dit(tiny_config()), TINY_CLIP, 12)["forward"]
    assert most_dimensions(make_apple(entry.module, tuple(entry.inputs.values())), entry) == MOST_DIMENSIONS
    assert most_dimensions(entry.module, entry) > MOST_DIMENSIONS


def most_dimensions(module: nn.Module, entry: EntryPoint) -> int:
    from torch.overrides import TorchFunctionMode

    class Widest(TorchFunctionMode):
        most = 0

        def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            found = func(*args, **(kwargs or {}))
            if isinstance(found, torch.Tensor):
                self.most = max(self.most, found.ndim)
            return found

    with Widest() as seen:
        module(*entry.inputs.values())
    return seen.most
