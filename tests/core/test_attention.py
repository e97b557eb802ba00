"""core/model/attention.py: against upstream's rotary tables and independent float64 implementations in numpy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from echoedge.core.model.attention import (
    PROJECTIONS,
    Attention,
    CrossAttention,
    LayerConditions,
    Riflex,
    Rotary,
    SelfAttention,
    rope_tables,
)

from ..upstream.goldens import golden
from .tiny import randomised, tiny_config

B, FRAMES, S, HEADS, DIM = 2, 3, 4, 2, 48
N, HEAD = FRAMES * S, DIM // HEADS
LENGTHS = {"text": 5, "image": 3, "audio": 2}  # audio: tokens of one frame
MODALITIES = tuple(LENGTHS)
Array = np.ndarray[Any, np.dtype[np.float64]]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cross_attention(coupled: bool) -> CrossAttention:
    torch.manual_seed(0)
    return randomised(CrossAttention(tiny_config(), coupled)).double()


def layer_conditions() -> LayerConditions:
    rows = {"text": LENGTHS["text"], "image": LENGTHS["image"], "audio": FRAMES * LENGTHS["audio"]}
    names = [f"{name}_{kv}" for name in rows for kv in "kv"]
    pairs = {name: noise(B, rows[name[:-2]], DIM, seed=10 + i) for i, name in enumerate(names)}
    return LayerConditions(**pairs, text_bias=noise(B, LENGTHS["text"], seed=50))


def modality_weights() -> tuple[Tensor, Tensor, Tensor]:
    """Weights of text and image by frame, of audio by token."""
    return tuple(noise(B, FRAMES, S if name == "audio" else 1, 1, seed=60 + i).abs() for i, name in enumerate(MODALITIES))  # type: ignore


def linear(layer: nn.Linear, x: Array) -> Array:
    y = x @ layer.weight.detach().numpy().T
    return y if layer.bias is None else y + layer.bias.detach().numpy()


def rms(norm: nn.RMSNorm, x: Array) -> Array:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + norm.eps) * norm.weight.detach().numpy()


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def expected(layer: CrossAttention, x: Tensor, conditions: LayerConditions, weights: tuple[Tensor, ...]) -> Array:
    """Cross-attention of every token in turn, in float64."""
    q = rms(layer.norm_q, linear(layer.q, x.numpy())).reshape(B, FRAMES, S, HEADS, HEAD)
    weight = [np.broadcast_to(w.numpy(), (B, FRAMES, S, 1))[..., 0] for w in weights]
    heads = {name: getattr(conditions, name).numpy().reshape(B, -1, HEADS, HEAD) for name in
             ("text_k", "text_v", "image_k", "image_v", "audio_k", "audio_v")}  # fmt: skip
    out = np.zeros((B, FRAMES, S, HEADS, HEAD))
    for b, f, s, h in np.ndindex(B, FRAMES, S, HEADS):
        mine = slice(f * LENGTHS["audio"], (f + 1) * LENGTHS["audio"])
        keys = [heads["text_k"][b, :, h], heads["image_k"][b, :, h], heads["audio_k"][b, mine, h]]
        values = [heads["text_v"][b, :, h], heads["image_v"][b, :, h], heads["audio_v"][b, mine, h]]
        logits = [k @ q[b, f, s, h] / np.sqrt(HEAD) for k in keys]
        logits[0] = logits[0] + conditions.text_bias[b].numpy()
        if layer.coupled:
            shares = np.split(softmax(np.concatenate(logits)), np.cumsum([len(part) for part in logits])[:2])
        else:
            shares = [softmax(part) for part in logits]
        out[b, f, s, h] = sum(weight[i][b, f, s] * (shares[i] @ values[i]) for i in range(3))
    return linear(layer.o, out.reshape(B, N, DIM))


@torch.no_grad()
def run(layer: CrossAttention, x: Tensor, conditions: LayerConditions, weights: tuple[Tensor, ...]) -> Tensor:
    return layer(x, conditions, weights)


def ones_but(**values: float) -> tuple[Tensor, ...]:
    return tuple(torch.full((B, FRAMES, 1, 1), values.get(name, 1.0), dtype=torch.float64) for name in MODALITIES)


X = noise(B, N, DIM, seed=99)

# ---- rotary embedding ------------------------------------------------------------------------------------------------------------


def thirds(table: Tensor, head_dim: int, frames: int, height: int, width: int) -> Tensor:
    """Upstream's table [position, d/2, 2] -> every token's angles [N, d/2, 2], as upstream gathers them."""
    parts = table.split([head_dim // 2 - 2 * (head_dim // 6), head_dim // 6, head_dim // 6], dim=1)
    grid = (frames, height, width, -1, 2)
    return torch.cat(
        [
            parts[0][:frames].view(frames, 1, 1, -1, 2).expand(grid),
            parts[1][:height].view(1, height, 1, -1, 2).expand(grid),
            parts[2][:width].view(1, 1, width, -1, 2).expand(grid),
        ],
        3,
    ).flatten(0, 2)


@pytest.mark.parametrize("head_dim", [24, 32, 128])
@pytest.mark.parametrize("grid", [(3, 5, 7), (64, 1, 2), (1, 64, 64)])
def test_rotary_tables_are_upstreams_for_every_token(head_dim: int, grid: tuple[int, int, int]) -> None:
    recorded = thirds(golden("rope_tables").tensors()[f"out/freqs_d{head_dim}"], head_dim, *grid)
    ours = torch.stack(rope_tables(head_dim, *grid), -1)
    assert ours.dtype == torch.float32
    assert (ours.double() - recorded).abs().max() <= 2**-25  # half a unit of float32 below 1: rounded once
    assert (ours.double().flip(-1) - recorded).abs().max() > 0.5


@pytest.mark.parametrize("name", ["dit_flash_b_riflex_k3", "dit_preview_b_riflex_k3"])
def test_riflex_tables_are_upstreams(name: str) -> None:
    case = golden(name)
    recorded = case.tensors()["mid/freqs16_real_imag"]
    config, call = case.config, case.call["riflex"]
    head_dim = config["dim"] // config["num_heads"]
    riflex = Riflex(frames=call["L_test"], index=call["k"], scale=call["L_test_scale"])
    theirs = thirds(recorded, head_dim, 16, 3, 5)
    assert (torch.stack(rope_tables(head_dim, 16, 3, 5, riflex), -1).double() - theirs).abs().max() <= 2**-25
    for other in (None, replace(riflex, index=riflex.index - 1), replace(riflex, scale=1.0)):
        assert (torch.stack(rope_tables(head_dim, 16, 3, 5, other), -1).double() - theirs).abs().max() > 0.1


def test_rotary_turns_adjacent_pairs() -> None:
    cos, sin = (table.double() for table in rope_tables(HEAD, FRAMES, 2, 2))
    x = noise(B, N, HEADS, HEAD)
    turned = torch.view_as_complex(x.unflatten(-1, (-1, 2))) * torch.complex(cos, sin)[:, None]
    torch.testing.assert_close(Rotary()(x, cos, sin), torch.view_as_real(turned).flatten(-2), rtol=0, atol=1e-14)  # measured: equal
    assert not torch.allclose(Rotary()(x, cos, -sin), torch.view_as_real(turned).flatten(-2), atol=0.1)


# ---- self-attention --------------------------------------------------------------------------------------------------------------


def test_self_attention_is_the_formula() -> None:
    torch.manual_seed(0)
    layer = randomised(SelfAttention(tiny_config())).double()
    cos, sin = (table.double() for table in rope_tables(HEAD, FRAMES, 2, 2))
    phase = np.exp(1j * np.arctan2(sin.numpy(), cos.numpy()))[:, None]  # [N, 1, d/2]

    def turned(y: Array) -> Array:
        pairs = y.reshape(B, N, HEADS, HEAD // 2, 2)
        return (pairs[..., 0] + 1j * pairs[..., 1]) * phase

    q, k = turned(rms(layer.norm_q, linear(layer.q, X.numpy()))), turned(rms(layer.norm_k, linear(layer.k, X.numpy())))
    logits = np.einsum("bnhd,bmhd->bhnm", q, k.conj()).real / np.sqrt(HEAD)
    v = linear(layer.v, X.numpy()).reshape(B, N, HEADS, HEAD)
    theirs = linear(layer.o, np.einsum("bhnm,bmhd->bnhd", softmax(logits), v).reshape(B, N, DIM))
    with torch.no_grad():
        # cos and sin are rounded to float32, so their squares do not sum to 1: 6e-8
        np.testing.assert_allclose(layer(X, cos, sin).numpy(), theirs, rtol=0, atol=1e-6)  # measured: 5.0e-8 of 2.2
        assert abs(layer(X, cos.roll(1, 0), sin.roll(1, 0)).numpy() - theirs).max() > 1e-3


def test_attention_is_softmax_over_the_tokens() -> None:
    q, k, v = (noise(B, N, HEADS, HEAD, seed=i) for i in range(3))
    shares = softmax(np.einsum("bnhd,bmhd->bhnm", q.numpy(), k.numpy()) / np.sqrt(HEAD))
    np.testing.assert_allclose(Attention()(q, k, v).numpy(), np.einsum("bhnm,bmhd->bnhd", shares, v.numpy()), rtol=0, atol=1e-13)


# ---- cross-attention -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coupled", [False, True])
def test_cross_attention_is_the_formula(coupled: bool) -> None:
    layer, conditions, weights = cross_attention(coupled), layer_conditions(), modality_weights()
    ours = run(layer, X, conditions, weights).numpy()
    np.testing.assert_allclose(ours, expected(layer, X, conditions, weights), rtol=0, atol=1e-12)  # measured: 2.7e-15
    layer.coupled = not coupled
    assert abs(ours - expected(layer, X, conditions, weights)).max() > 0.1


def test_decoupled_is_three_attentions_summed() -> None:
    layer, conditions, weights = cross_attention(coupled=False), layer_conditions(), modality_weights()

    def frames(x: Tensor) -> Tensor:
        return x.view(B * FRAMES, -1, DIM)

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = (x.view(len(x), -1, HEADS, HEAD).transpose(1, 2) for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).reshape(B, FRAMES, S, DIM)

    with torch.no_grad():
        q = layer.norm_q(layer.q(X))
        parts = (
            attend(q, conditions.text_k, conditions.text_v, conditions.text_bias[:, None, None]),
            attend(q, conditions.image_k, conditions.image_v),
            attend(frames(q), frames(conditions.audio_k), frames(conditions.audio_v)),
        )
        theirs = layer.o(sum(w * part for w, part in zip(weights, parts, strict=True)).view(B, N, DIM))
    torch.testing.assert_close(run(layer, X, conditions, weights), theirs, rtol=0, atol=1e-12)  # measured: 2.2e-15


@pytest.mark.parametrize("kept", MODALITIES)
def test_coupled_with_one_audible_modality_is_that_modality_alone(kept: str) -> None:
    layer = cross_attention(coupled=True)
    conditions = layer_conditions()
    with torch.no_grad():
        layer.q.bias.view(HEADS, HEAD)[:, 0] = 30.0  # every query points along the first channel of its head
        assert layer.norm_q(layer.q(X)).view(B, N, HEADS, HEAD)[..., 0].min() > 1
    for name in set(MODALITIES) - {kept}:
        away = torch.zeros(HEADS, HEAD, dtype=torch.float64)
        away[:, 0] = -1e4  # a logit of -2000 or less
        conditions = replace(conditions, **{f"{name}_k": getattr(conditions, f"{name}_k") + away.flatten()})
    coupled = run(layer, X, conditions, ones_but())
    layer.coupled = False
    alone = run(layer, X, conditions, ones_but(**dict.fromkeys(set(MODALITIES) - {kept}, 0.0)))
    torch.testing.assert_close(coupled, alone, rtol=0, atol=1e-12)  # measured: equal
    assert (coupled - run(layer, X, conditions, ones_but())).abs().max() > 0.1


@pytest.mark.parametrize("removed", MODALITIES)
def test_a_weight_of_zero_removes_that_modality_and_nothing_else(removed: str) -> None:
    layer, conditions = cross_attention(coupled=False), layer_conditions()
    alone = {name: run(layer, X, conditions, ones_but(**dict.fromkeys(set(MODALITIES) - {name}, 0.0))) for name in MODALITIES}
    without = run(layer, X, conditions, ones_but(**{removed: 0.0}))
    others = sum(alone[name] for name in MODALITIES if name != removed) - layer.o.bias.detach()
    torch.testing.assert_close(without, others, rtol=0, atol=1e-12)  # measured: 2.2e-15
    assert (run(layer, X, conditions, ones_but()) - without).abs().max() > 0.1


@pytest.mark.parametrize("removed", MODALITIES)
@pytest.mark.parametrize("coupled", [False, True])
def test_keys_of_a_removed_modality_still_compete_where_coupled(removed: str, coupled: bool) -> None:
    layer, conditions, weights = cross_attention(coupled), layer_conditions(), ones_but(**{removed: 0.0})
    other = replace(conditions, **{f"{removed}_k": getattr(conditions, f"{removed}_k").roll(1, -1)})
    assert torch.equal(run(layer, X, conditions, weights), run(layer, X, other, weights)) != coupled


@pytest.mark.parametrize("coupled", [False, True])
@pytest.mark.parametrize("frame", range(FRAMES))
def test_audio_of_a_frame_reaches_its_own_tokens_only(coupled: bool, frame: int) -> None:
    layer, conditions, weights = cross_attention(coupled), layer_conditions(), ones_but()
    k, v = conditions.audio_k.clone(), conditions.audio_v.clone()
    mine = slice(frame * LENGTHS["audio"], (frame + 1) * LENGTHS["audio"])
    k[:, mine] += 1.0
    v[:, mine] -= 1.0
    before = run(layer, X, conditions, weights)
    after = run(layer, X, replace(conditions, audio_k=k, audio_v=v), weights)
    changed = (before != after).any(-1).view(B, FRAMES, S)
    assert changed[:, frame].all()
    assert int(changed.sum()) == B * S


def test_weights_act_frame_by_frame() -> None:
    layer, conditions = cross_attention(coupled=True), layer_conditions()
    weights = ones_but()
    image = weights[1].clone()
    image[:, 1] = 0.5
    changed = (run(layer, X, conditions, weights) != run(layer, X, conditions, (weights[0], image, weights[2]))).any(-1)
    assert changed.view(B, FRAMES, S)[:, 1].all()
    assert int(changed.sum()) == B * S


@pytest.mark.parametrize(("variant", "biased"), [("flash", True), ("preview", False)])
def test_audio_projections_have_a_bias_in_flash_alone(variant: Any, biased: bool) -> None:
    layer = CrossAttention(tiny_config(variant), coupled=False)
    assert (layer.k_audio.bias is not None, layer.v_audio.bias is not None) == (biased, biased)


def test_keys_values_normalise_keys_and_not_values() -> None:
    layer = cross_attention(coupled=False)
    tokens = [noise(B, 3, DIM, seed=i) for i in range(3)]
    with torch.no_grad():
        pairs = [y.numpy() for kind, rows in zip(PROJECTIONS, tokens, strict=True) for y in layer.keys_values(kind, rows)]
    for i, (suffix, token) in enumerate(zip(("", "_img", "_audio"), tokens, strict=True)):
        k, v, norm = (getattr(layer, name + suffix) for name in ("k", "v", "norm_k"))
        np.testing.assert_allclose(pairs[2 * i], rms(norm, linear(k, token.numpy())), rtol=0, atol=1e-13)  # measured: 1.3e-15
        np.testing.assert_allclose(pairs[2 * i + 1], linear(v, token.numpy()), rtol=0, atol=1e-13)
