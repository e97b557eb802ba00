"""core/model/vae.py: which weights recorded clips depend on, streaming against whole clips, the size of Wan 2.1's autoencoder."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from echoedge.core.config import FLASH, NANO, VAEConfig
from echoedge.core.errors import ConfigError
from echoedge.core.model.vae import VAE, CausalConv3d, ChannelNorm, NearestDouble
from echoedge.core.train.train_vae import inflate

from ..upstream.checks_vae import channels_first, decode_streaming, encode_streaming, in_chunks, vae_of
from ..upstream.goldens import excess, golden
from .tiny import tiny_vae

CONFIG = VAEConfig(dim=4, res_blocks=1)

# ---- weights and frames --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coder", ["encoder", "decoder"])
@torch.no_grad()
def test_every_weight_counts(coder: str) -> None:
    case = golden("vae_encode_T5H24W16" if coder == "encoder" else "vae_decode_T2h3w2")
    recorded, vae = case.tensors(), vae_of(case)

    def distance() -> float:
        if coder == "encoder":
            return excess(vae.encode(channels_first(recorded["in/x"])), recorded["out/mode"], case.tolerance)
        return excess(channels_first(vae.decode(recorded["in/z"])), recorded["out/video"], case.tolerance)

    noise = torch.Generator().manual_seed(0)
    for key, parameter in vae.named_parameters():
        if key.startswith((coder, "conv1." if coder == "encoder" else "conv2.")):
            kept = parameter.clone()
            parameter.add_(0.1 * torch.randn(kept.shape, generator=noise))
            moved = distance()
            parameter.copy_(kept)
            assert moved > 5, key  # measured: 13 tolerances at least
    assert distance() < 1


def test_frames_beyond_whole_groups_of_four_are_not_used() -> None:
    vae, video = tiny_vae(CONFIG), torch.rand(1, 8, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        assert torch.equal(vae.encode(video), vae.encode(video[:, :5]))


# ---- streaming -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("res_blocks", [1, 2])
@torch.no_grad()
def test_streaming_encode_is_the_whole_clips(res_blocks: int) -> None:
    vae, video = tiny_vae(VAEConfig(dim=4, res_blocks=res_blocks)), torch.rand(2, 17, 3, 24, 16) * 2 - 1
    whole = vae.encode(video)
    torch.testing.assert_close(encode_streaming(vae, video)[0], whole, rtol=0, atol=2e-5)  # measured: 1.7e-6 of 3
    alone = torch.cat([vae.encode_chunk(chunk[:, -1:], None)[0] for chunk in in_chunks(video)], 2)
    assert (alone - whole)[:, :, 1:].abs().max() > 0.05


@pytest.mark.parametrize("res_blocks", [1, 2])
@torch.no_grad()
def test_streaming_decode_is_the_whole_clips(res_blocks: int) -> None:
    vae, latents = tiny_vae(VAEConfig(dim=4, res_blocks=res_blocks)), torch.randn(2, 16, 5, 3, 2)
    whole = vae.decode(latents)
    assert whole.shape == (2, 17, 3, 24, 16)
    assert (whole.abs() < 1).float().mean() > 0.99
    torch.testing.assert_close(decode_streaming(vae, latents)[0], whole, rtol=0, atol=2e-5)  # measured: 7.2e-7
    alone = torch.cat([vae.decode_chunk(latent, None)[0] for latent in latents.split(1, 2)], 1)
    assert (alone - whole[:, [0, 4, 8, 12, 16]])[:, 1:].abs().max() > 0.05


@torch.no_grad()
def test_a_chunk_leaves_its_state_alone() -> None:
    vae, latents = tiny_vae(CONFIG), torch.randn(1, 16, 2, 2, 2)
    _, past = vae.decode_chunk(latents[:, :, :1], None)
    before = [state.clone() for state in past]
    once, again = (vae.decode_chunk(latents[:, :, 1:], past)[0] for _ in range(2))
    assert torch.equal(once, again)
    assert all(torch.equal(a, b) for a, b in zip(before, past, strict=True))


@pytest.mark.parametrize(("res_blocks", "encoder", "decoder"), [(2, 24, 32), (1, 16, 24)])
@torch.no_grad()
def test_state_has_one_entry_for_each_temporal_convolution(res_blocks: int, encoder: int, decoder: int) -> None:
    vae = tiny_vae(VAEConfig(dim=4, res_blocks=res_blocks))
    for part, entries in ((vae.encoder, encoder), (vae.decoder, decoder)):
        assert sum(isinstance(module, CausalConv3d) and module.taps > 1 for module in part.modules()) == entries
    assert len(vae.encode_chunk(torch.zeros(1, 1, 3, 16, 16), None)[1]) == encoder
    assert len(vae.decode_chunk(torch.zeros(1, 16, 1, 2, 2), None)[1]) == decoder


@torch.no_grad()
def test_state_keeps_its_shapes() -> None:
    vae = tiny_vae(CONFIG)
    shapes = []
    past = None
    for chunk in in_chunks(torch.zeros(1, 13, 3, 16, 16)):
        past = vae.encode_chunk(chunk, past)[1]
        shapes.append([state.shape for state in past])
    assert shapes[0] == shapes[1] == shapes[2] == shapes[3]
    shapes, past = [], None
    for _ in range(4):
        past = vae.decode_chunk(torch.zeros(1, 16, 1, 2, 2), past)[1]
        shapes.append([state.shape for state in past])
    assert shapes[0] == shapes[1] == shapes[2] == shapes[3]


@torch.no_grad()
def test_latents_do_not_see_the_future() -> None:
    vae, video = tiny_vae(CONFIG), torch.rand(1, 13, 3, 16, 16) * 2 - 1
    changed = video.clone()
    changed[:, 5] = 0
    difference = (vae.encode(video) - vae.encode(changed)).abs().amax((0, 1, 3, 4))
    assert torch.equal(difference > 1e-4, torch.tensor([False, False, True, True]))


@torch.no_grad()
def test_video_does_not_see_the_future() -> None:
    vae, latents = tiny_vae(CONFIG), torch.randn(1, 16, 4, 2, 2)
    changed = latents.clone()
    changed[:, :, 2] = 0
    difference = (vae.decode(latents) - vae.decode(changed)).abs().amax((0, 2, 3, 4))
    assert torch.equal(difference > 1e-4, torch.arange(13) >= 5)


# ---- Wan 2.1 ---------------------------------------------------------------------------------------------------------------------


def test_full_size() -> None:
    with torch.device("meta"):
        vae = VAE(FLASH.vae)
    parts = {"encoder": 53_596_928, "decoder": 73_295_603}  # each with its 1x1x1 convolution
    for name, conv in (("encoder", vae.conv1), ("decoder", vae.conv2)):
        modules = (getattr(vae, name), conv)
        assert sum(parameter.numel() for module in modules for parameter in module.parameters()) == parts[name]
    assert sum(parameter.numel() for parameter in vae.parameters()) == 126_892_531


def test_latent_statistics_are_not_part_of_a_checkpoint() -> None:
    with torch.device("meta"):
        assert not [key for key in VAE(FLASH.vae).state_dict() if "latents" in key]


def test_statistics_have_one_value_for_each_latent_channel() -> None:
    with pytest.raises(ConfigError, match="latents_std has 3 values for 16 latent channels"):
        VAEConfig(latents_std=(1.0, 1.0, 1.0))


@torch.no_grad()
def test_statistics_normalise_what_is_encoded_and_restore_it_before_decoding() -> None:
    plain = tiny_vae(VAEConfig(dim=4, res_blocks=1, latents_mean=(0.0,) * 16, latents_std=(1.0,) * 16))
    vae = tiny_vae(CONFIG)
    mean, std = (torch.tensor(values).view(1, 16, 1, 1, 1) for values in (CONFIG.latents_mean, CONFIG.latents_std))
    video = torch.rand(1, 5, 3, 16, 16) * 2 - 1
    torch.testing.assert_close(vae.encode(video) * std + mean, plain.encode(video), rtol=0, atol=1e-5)  # measured: 2.4e-7 of 2.7
    latents = torch.randn(1, 16, 2, 2, 2)
    assert torch.equal(vae.decode(latents), plain.decode(latents * std + mean))


# ---- parts -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kernel", "stride"), [((3, 3), 1), ((3, 1), 1), ((3, 1), 2), ((1, 1), 1)])
@pytest.mark.parametrize("with_past", [False, True])
@pytest.mark.parametrize("frames", [1, 4])
@torch.no_grad()
def test_causal_convolution_is_a_3d_convolution(kernel: tuple[int, int], stride: int, with_past: bool, frames: int) -> None:
    conv = CausalConv3d(3, 5, kernel, frame_stride=stride).double()
    torch.nn.init.normal_(conv.weight)
    torch.nn.init.normal_(conv.bias)
    kt, k = kernel
    x = torch.randn(2, frames + (kt - 1 if stride == 2 else 0), 3, 4, 6, dtype=torch.float64)  # strided ones get their past in x
    past = torch.randn(2, kt - 1, 3, 4, 6, dtype=torch.float64) if with_past and stride == 1 and kt > 1 else None
    before = torch.zeros(2, kt - 1, 3, 4, 6, dtype=torch.float64) if past is None else past
    whole = channels_first(x if stride == 2 else torch.cat([before, x], 1))
    theirs = channels_first(F.conv3d(whole, conv.weight, conv.bias, stride=(stride, 1, 1), padding=(0, k // 2, k // 2)))
    torch.testing.assert_close(conv(x, past), theirs, rtol=0, atol=1e-12)  # measured: 1.4e-14 of 28
    if kt > 1:
        conv.weight.copy_(conv.weight.flip(2))
        assert (conv(x, past) - theirs).abs().max() > 0.1


@pytest.mark.parametrize("gamma_dims", [2, 3])
def test_channel_norm_is_the_formula(gamma_dims: int) -> None:
    norm = ChannelNorm(6, gamma_dims).double()
    torch.nn.init.normal_(norm.gamma)
    x = torch.randn(2, 3, 6, 4, 5, dtype=torch.float64)
    x[0, 0, :, 0, 0] = 0
    gamma = norm.gamma.view(6, 1, 1)
    theirs = x / x.square().sum(2, keepdim=True).sqrt().clamp_min(1e-12) * 6**0.5 * gamma
    torch.testing.assert_close(norm(x), theirs, rtol=0, atol=1e-13)  # measured: 1.8e-15 of 5
    assert not norm(x)[0, 0, :, 0, 0].any()


def test_nearest_doubling_repeats_pixels() -> None:
    x = torch.randn(2, 3, 4, 5)
    assert torch.equal(NearestDouble()(x), x.repeat_interleave(2, 2).repeat_interleave(2, 3))


# ---- inflation -------------------------------------------------------------------------------------------------------------------


def inflated(vae: VAE, monkeypatch: pytest.MonkeyPatch | None = None) -> VAE:
    """An inflated copy; with a monkeypatch without the noise that tells the frames of a group apart."""
    vae = copy.deepcopy(vae)
    if monkeypatch is not None:
        monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    inflate(vae)
    return vae


@torch.no_grad()
def test_inflated_encoder_acts_frame_by_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    vae = inflated(tiny_vae(CONFIG), monkeypatch)
    video = torch.rand(2, 13, 3, 16, 16) * 2 - 1
    apart = torch.cat([vae.encode(video[:, i : i + 1]) for i in (0, 4, 8, 12)], 2)  # a group's newest frame
    torch.testing.assert_close(vae.encode(video), apart, rtol=0, atol=1e-5)  # measured: 7.2e-7 of 2.5
    assert (tiny_vae(CONFIG).encode(video) - apart).abs().max() > 0.1


@torch.no_grad()
def test_inflated_decoder_acts_frame_by_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    vae = inflated(tiny_vae(CONFIG), monkeypatch)
    latents = torch.randn(2, 16, 4, 2, 2)
    apart = torch.cat([vae.decode(latent) for latent in latents.split(1, 2)], 1)
    torch.testing.assert_close(
        vae.decode(latents), apart[:, [0] + [1] * 4 + [2] * 4 + [3] * 4], rtol=0, atol=1e-5
    )  # measured: equal
    assert (tiny_vae(CONFIG).decode(latents)[:, [0, 4, 8, 12]] - apart).abs().max() > 0.1


@torch.no_grad()
def test_inflated_time_convolutions_differ_a_little_from_frame_to_frame() -> None:
    torch.manual_seed(0)
    vae = inflated(tiny_vae(CONFIG))
    latents = torch.randn(2, 16, 2, 2, 2)
    group = vae.decode(latents)[:, 1:]
    spread = (group - group.mean(1, keepdim=True)).abs().mean() / group.abs().mean()
    assert 0.01 < spread < 0.3  # measured: 0.025


@torch.no_grad()
def test_inflation_leaves_single_frames_alone() -> None:
    vae, frame = tiny_vae(CONFIG), torch.rand(2, 1, 3, 16, 16) * 2 - 1
    assert torch.equal(inflated(vae).encode(frame), vae.encode(frame))
    assert torch.equal(inflated(vae).decode(vae.encode(frame)), vae.decode(vae.encode(frame)))


def test_nano_has_the_plain_statistics() -> None:
    assert set(NANO.vae.latents_mean) == {0.0}
    assert set(NANO.vae.latents_std) == {1.0}
