"""core/model/tiny_vae.py: streaming against whole clips, what memory and trimming are for, export, and which weights are refused.

Upstream's recorded values: tests/upstream/checks_tiny_vae.py.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from echoedge.core.config import FLASH
from echoedge.core.errors import CheckpointError, ConfigError
from echoedge.core.model.programs import StreamChunk
from echoedge.core.model.tiny_vae import TAEW, Grow, MemoryBlock, TinyVAE, TinyVAEConfig
from echoedge.core.model.vae import VAE, Stream

from .tiny import randomised

CONFIG = TinyVAEConfig(encoder_width=6, decoder_widths=(10, 8, 6, 4), blocks=2)
LENGTHS = [1, 2, 5]  # latent frames
SIZES = [(2, 2), (3, 5)]  # latent pixels


def small(config: TinyVAEConfig = CONFIG) -> TinyVAE:
    """Random weights; nearly all of what it decodes lies within -1 … 1, so that clamping hides nothing."""
    torch.manual_seed(0)
    vae = randomised(TinyVAE(config))
    with torch.no_grad():
        vae.decoder[-1].weight.mul_(0.2)
        vae.decoder[-1].bias.fill_(0.5)
    return vae


def film(frames: int, height: int, width: int, batch: int = 2) -> Tensor:
    return torch.rand(batch, frames, 3, 8 * height, 8 * width) * 2 - 1


@torch.no_grad()
def encode_streaming(vae: TinyVAE, chunks: list[Tensor], forget: bool = False) -> Tensor:
    latents, past = [], None
    for chunk in chunks:
        latent, past = vae.encode_chunk(chunk, None if forget else past)
        latents.append(latent)
    return torch.cat(latents, 2)


@torch.no_grad()
def decode_streaming(vae: TinyVAE, latents: Tensor) -> Tensor:
    frames, past = [], None
    for latent in latents.split(1, 2):
        chunk, past = vae.decode_chunk(latent, past)
        frames.append(chunk)
    return torch.cat(frames, 1)


# ---- streaming -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", LENGTHS)
@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_streaming_decode_is_the_whole_clips(frames: int, size: tuple[int, int]) -> None:
    vae, latents = small(), torch.randn(2, 16, frames, *size)
    whole = vae.decode(latents)
    assert whole.shape == (2, 4 * frames - 3, 3, 8 * size[0], 8 * size[1])
    assert (whole.abs() < 1).float().mean() > 0.99
    torch.testing.assert_close(decode_streaming(vae, latents), whole, rtol=0, atol=2e-5)  # measured: equal


@pytest.mark.parametrize("frames", [1, 4, 5, 7, 9, 17])
@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_streaming_encode_is_the_whole_clips(frames: int, size: tuple[int, int]) -> None:
    vae, video = small(), film(frames, *size)
    whole = vae.encode(video)
    assert whole.shape == (2, 16, -(-frames // 4), *size)
    streamed = encode_streaming(vae, list(video.split(4, 1)))
    torch.testing.assert_close(streamed, whole, rtol=0, atol=2e-5)  # measured: equal


@torch.no_grad()
def test_a_first_chunk_of_one_frame_counts_four_times() -> None:
    vae, video = small(), film(9, 2, 3)
    streamed = encode_streaming(vae, [video[:, :1], video[:, 1:5], video[:, 5:]])
    repeated = vae.encode(torch.cat([video[:, :1]] * 3 + [video], 1))
    torch.testing.assert_close(streamed, repeated, rtol=0, atol=2e-5)  # measured: equal
    assert (streamed - vae.encode(video)).abs().max() > 0.1  # three frames late
    torch.testing.assert_close(vae.encode_chunk(video[:, :1], None)[0], vae.encode(video[:, :1]), rtol=0, atol=0)


@torch.no_grad()
def test_without_memory_the_chunks_do_not_fit() -> None:
    vae, latents, video = small(), torch.randn(1, 16, 3, 2, 3), film(9, 2, 3)
    whole = vae.decode(latents)
    alone = torch.cat([vae.decode_chunk(latent, None)[0] for latent in latents.split(1, 2)], 1)
    assert (alone - whole[:, [0, 4, 8]])[:, 1:].abs().max() > 0.05
    forgetful = encode_streaming(vae, list(video.split(4, 1)), forget=True)
    assert (forgetful - vae.encode(video))[:, :, 1:].abs().max() > 0.05


@pytest.mark.parametrize("entry", range(6))
@torch.no_grad()
def test_every_entry_of_the_memory_counts(entry: int) -> None:
    vae, latents, video = small(), torch.randn(1, 16, 2, 2, 3), film(8, 2, 3, batch=1)
    for step, chunks in ((vae.decode_chunk, latents.split(1, 2)), (vae.encode_chunk, video.split(4, 1))):
        _, past = step(chunks[0], None)
        assert len(past) == 6
        forgotten = [torch.zeros_like(state) if i == entry else state for i, state in enumerate(past)]
        assert (step(chunks[1], forgotten)[0] - step(chunks[1], past)[0]).abs().max() > 0.01  # measured: 0.06 at least


@torch.no_grad()
def test_memory_keeps_its_shapes_however_long_the_clip() -> None:
    vae = small()
    for step, chunk in ((vae.decode_chunk, torch.randn(1, 16, 1, 2, 3)), (vae.encode_chunk, film(4, 2, 3, batch=1))):
        _, past = step(chunk, None)
        shapes = [state.shape for state in past]
        for _ in range(5):
            _, past = step(chunk, past)
            assert [state.shape for state in past] == shapes


@torch.no_grad()
def test_a_chunk_leaves_its_memory_alone() -> None:
    vae, latents = small(), torch.randn(1, 16, 2, 2, 2)
    _, past = vae.decode_chunk(latents[:, :, :1], None)
    before = [state.clone() for state in past]
    once, again = (vae.decode_chunk(latents[:, :, 1:], past)[0] for _ in range(2))
    assert torch.equal(once, again)
    assert all(torch.equal(a, b) for a, b in zip(before, past, strict=True))


# ---- what is dropped, what is seen -----------------------------------------------------------------------------------------------


def untrimmed(vae: TinyVAE, latents: Tensor) -> Tensor:
    """All four frames of every latent frame, by a plain reading of the layers: [B, 4F, 3, H, W] in [-1, 1]."""
    frames = [latents[:, :, f] for f in range(latents.shape[2])]
    for layer in vae.decoder:
        if isinstance(layer, MemoryBlock):
            before = [torch.zeros_like(frames[0]), *frames]
            frames = [F.relu(layer.conv(torch.cat([x, past], 1)) + x) for x, past in zip(frames, before, strict=False)]
        elif isinstance(layer, Grow):
            grown = [layer.conv(F.interpolate(x, scale_factor=2)) for x in frames]
            frames = [part for x in grown for part in x.chunk(layer.stride, 1)]
        else:
            frames = [layer(x) for x in frames]
    return torch.stack(frames, 1).clamp(0, 1) * 2 - 1


@torch.no_grad()
def test_the_first_three_frames_are_dropped_and_no_others() -> None:
    vae, latents = small(), torch.randn(2, 16, 3, 2, 3)
    everything, video = untrimmed(vae, latents), vae.decode(latents)
    torch.testing.assert_close(video, everything[:, 3:], rtol=0, atol=2e-5)  # measured: 1.7e-6
    for start in range(3):
        assert (video - everything[:, start : start + 9]).abs().max() > 0.05


@torch.no_grad()
def test_video_does_not_see_the_future() -> None:
    vae, latents = small(), torch.randn(1, 16, 4, 2, 2)
    changed = latents.clone()
    changed[:, :, 2] = 0
    difference = (vae.decode(latents) - vae.decode(changed)).abs().amax((0, 2, 3, 4))
    assert torch.equal(difference > 1e-4, torch.arange(13) >= 5)


@torch.no_grad()
def test_latents_see_three_frames_ahead() -> None:
    vae, video = small(), film(13, 2, 2, batch=1)
    changed = video.clone()
    changed[:, 7] = 0
    difference = (vae.encode(video) - vae.encode(changed)).abs().amax((0, 1, 3, 4))
    assert torch.equal(difference > 1e-4, torch.tensor([False, True, True, True]))


# ---- weights ---------------------------------------------------------------------------------------------------------------------


def weights(config: TinyVAEConfig = CONFIG) -> dict[str, Tensor]:
    return {name: torch.randn(shape) for name, shape in config.tensors().items()}


def test_full_size() -> None:
    shapes = TAEW.tensors()
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == 11_315_539
    with torch.device("meta"):
        assert sum(p.numel() for p in VAE(FLASH.vae).parameters()) > 11 * 11_315_539
    assert shapes["encoder.12.conv.weight"] == (64, 64, 1, 1)
    assert shapes["decoder.19.conv.weight"] == (128, 64, 1, 1)


@torch.no_grad()
def test_weights_are_taken_over_in_float32() -> None:
    state = weights()
    vae = TinyVAE.from_tensors({name: tensor.half() for name, tensor in state.items()}, CONFIG)
    assert not vae.training
    assert {p.dtype for p in vae.parameters()} == {torch.float32}
    for name, parameter in vae.named_parameters():
        assert torch.equal(parameter, state[name].half().float())
    assert vae.decode(torch.randn(1, 16, 1, 2, 2)).dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda t: t.pop("encoder.0.bias"), r"1 missing \(encoder\.0\.bias\)"),
        (lambda t: t.update({"decoder.2.weight": torch.zeros(1)}), r"1 unexpected \(decoder\.2\.weight\)"),
        (lambda t: t.update({"decoder.1.bias": torch.zeros(3)}), r"1 of another shape \(decoder\.1\.bias is \[3\], not \[10\]\)"),
        (lambda t: t.update({f"vae.{name}": t.pop(name) for name in list(t)}), r"missing .* unexpected \(vae\."),
    ],
)
def test_other_weights_are_refused_by_name(change: Any, complaint: str) -> None:
    tensors = weights()
    change(tensors)
    with pytest.raises(CheckpointError, match=rf"of the tiny autoencoder: .*{complaint}"):
        TinyVAE.from_tensors(tensors, CONFIG)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"encoder_width": 0}, "encoder_width is 0"),
        ({"blocks": 1.5}, r"blocks is 1\.5"),
        ({"latent_channels": -1}, "latent_channels is -1"),
        ({"decoder_widths": (8, 8, 8)}, r"decoder_widths is \(8, 8, 8\); it must be 4"),
        ({"decoder_widths": (8, 0, 8, 8)}, "decoder_widths is"),
    ],
)
def test_configurations_that_cannot_be(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        TinyVAEConfig(**options)


# ---- programs --------------------------------------------------------------------------------------------------------------------


def chunk_inputs(vae: TinyVAE, encode: bool, first: bool) -> list[Tensor]:
    """As programs call it: the first chunk of an encoder is one frame."""
    start = film(1, 2, 3, batch=1) if encode else torch.randn(1, 16, 1, 2, 3)
    if first:
        return [start]
    with torch.no_grad():
        state = StreamChunk(vae, encode, first=True)(start)[1:]  # type: ignore[arg-type]
    return [film(4, 2, 3, batch=1) if encode else torch.randn(1, 16, 1, 2, 3), *state]


@pytest.mark.parametrize("encode", [False, True])
@pytest.mark.parametrize("first", [False, True])
@torch.no_grad()
def test_a_chunk_is_exported_and_computes_the_same(encode: bool, first: bool) -> None:
    vae = small()
    inputs = chunk_inputs(vae, encode, first)
    module = StreamChunk(vae, encode, first).eval()  # type: ignore[arg-type]
    exported = torch.export.export(module, tuple(inputs))
    theirs, ours = exported.module()(*inputs), module(*inputs)
    assert len(ours) == 7
    for a, b in zip(theirs, ours, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)  # measured: equal
    ranks = {"conv": set(), "other": set()}  # type: dict[str, set[int]]
    for node in exported.graph.nodes:
        if node.op == "call_function" and isinstance(node.meta.get("val"), Tensor):
            name = str(node.target)
            if not any(word in name for word in ("view", "reshape", "squeeze")):
                ranks["conv" if "conv" in name else "other"].add(node.meta["val"].dim())
    assert ranks["conv"] == {4}
    if not (encode and first):  # there the one frame is repeated before frames are folded into the batch
        assert ranks["other"] == {4}


@torch.no_grad()
def test_growth_before_doubling_is_growth_after_it() -> None:
    grow = Grow(5, 2).double()
    x = torch.randn(3, 5, 2, 4, dtype=torch.float64)
    theirs = grow.conv(F.interpolate(x, scale_factor=2)).reshape(6, 5, 4, 8)
    torch.testing.assert_close(grow(x), theirs, rtol=0, atol=1e-14)


@torch.no_grad()
def test_a_memory_block_reads_the_frame_before() -> None:
    block = MemoryBlock(3)
    nn.init.zeros_(block.conv[0].weight)
    for channel in range(3):
        block.conv[0].weight[channel, 3 + channel, 1, 1] = 1.0  # the past alone
    for index in (2, 4):
        nn.init.dirac_(block.conv[index].weight)
    for index in (0, 2, 4):
        nn.init.zeros_(block.conv[index].bias)
    x, stream = torch.rand(2 * 3, 3, 4, 4), Stream([torch.rand(2, 3, 4, 4)])
    assert stream.past is not None
    frames = x.view(2, 3, 3, 4, 4)
    expected = frames + torch.cat([stream.past[0][:, None], frames[:, :2]], 1)
    torch.testing.assert_close(block(x, 2, stream).view(2, 3, 3, 4, 4), expected, rtol=0, atol=1e-6)
    assert torch.equal(stream.kept[0], frames[:, 2])


# ---- benchmarks: pytest --benchmark-only -----------------------------------------------------------------------------------------


@pytest.mark.benchmark(group="decode 4 frames of 64x64, full width, one thread")
@pytest.mark.parametrize("kind", ["VAE", "TinyVAE"])
@torch.no_grad()
def test_decode(benchmark: Any, kind: str) -> None:
    vae = (VAE(FLASH.vae) if kind == "VAE" else TinyVAE()).eval()
    latent = torch.randn(1, 16, 1, 8, 8)
    state = vae.decode_chunk(latent, vae.decode_chunk(latent, None)[1])[1]  # of a later chunk
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        video, _ = benchmark.pedantic(vae.decode_chunk, args=(latent, state), rounds=5, warmup_rounds=1)
    finally:
        torch.set_num_threads(threads)
    assert video.shape == (1, 4, 3, 64, 64)
