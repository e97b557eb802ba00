"""The transformer's step as Apple's Neural Engine has its tensors: channels in the second axis, and a last axis of 32.

    tokens      [1, C, N/32, 32]; what is modulated by channel then has rows of 32 too, which a [1, C, 1, 1] fills with one number
    attention   [1, d, 1, N] of each head; keys [1, L, 1, d], values [1, d, 1, L]; logits and their softmax [1, L, 1, queries]

`channels_first` makes it of a program that `make_apple` has rewritten, under the same names of layers, whose weights are those of
the linear layers with two axes more. Tokens, keys and values are filled up to a multiple of 32; what was filled is masked where it
would be attended to, and cut off at the end. Programs take and give the same numbers in the same order; `Laid.takes` tells in what
shapes, where they are others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import gcd, prod
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.config import PATCH
from ...core.model.attention import SelfAttention
from ...core.model.conditions import Conditions
from ...core.model.transformer import Block, Head
from .apple import FlatDenoise, FlatReusing
from .applied import applied
from .guarded_norm import SMALLEST, GuardedRMSNorm
from .rotary import HalfRotary
from .tensors import frozen, joined
from .whole import WholeCrossAttention

ROW = 32  # halves: 64 bytes, which rows are filled up to
MASKED = -30000.0  # added to logits, which half precision still holds then
LOGITS = 1 << 20  # of one head that exist at once, 2 MB
SELECTED = 1 << 22  # elements of a matrix that reorders


def filled(count: int) -> int:
    """The next multiple of `ROW`."""
    return -(-count // ROW) * ROW


def fitted(x: Tensor, shape: Sequence[int]) -> Tensor:
    """The numbers of `x` in their order, and zeros behind them, in another shape."""
    return F.pad(x.reshape(-1), (0, prod(shape) - x.numel())).view(*shape)


def _long(x: Tensor, axis: int, count: int) -> Tensor:
    """[1, ., ., .] with zeros behind it along an axis, `count` long."""
    missing = count - x.shape[axis]
    return F.pad(x, (0, 0) * (3 - axis) + (0, missing)) if missing else x


def _rows(x: Tensor) -> Tensor:
    """[1, C, 1, N] -> [1, C, N/32, 32]."""
    return x.reshape(1, x.shape[1], -1, ROW)


def _line(x: Tensor) -> Tensor:
    """[1, C, N/32, 32] -> [1, C, 1, N]."""
    return x.reshape(1, x.shape[1], 1, -1)


def _spread(x: Tensor) -> Tensor:
    """[1, m, C] -> [m, C, 1, 32], the same in a whole row."""
    _, count, dim = x.shape
    return x.reshape(count, 1, 1, dim).expand(count, ROW, 1, dim).transpose(1, 3)


def _column(weight: Tensor) -> nn.Parameter:
    return frozen(weight.view(1, -1, 1, 1))


# ---- layers ---------------------------------------------------------------------------------------------------------------------


class Pointwise(nn.Module):
    """A linear layer as a convolution of one pixel."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = frozen(linear.weight[:, :, None, None])
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias)


def _normalised(x: Tensor, epsilon: float) -> Tensor:
    """x / √(mean x² + ε) over channels, of |x| up to all that half precision holds. What is squared is at most 1, and the sum of
    squares, not their mean, keeps it so large that half precision's least normal number beside it is nothing."""
    count = x.shape[1]
    root = (epsilon * count) ** 0.5
    largest = x.abs().amax(1, keepdim=True).clamp_min(root)
    y, rest = x / largest, root / largest
    return y * (torch.rsqrt((y * y).sum(1, keepdim=True) + rest * rest + SMALLEST) * count**0.5)


class ChannelsRMSNorm(nn.Module):
    def __init__(self, norm: GuardedRMSNorm) -> None:
        super().__init__()
        self.epsilon, self.weight = norm.root**2, _column(norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        return _normalised(x, self.epsilon) * self.weight


class ChannelsLayerNorm(nn.Module):
    """Written out: an operator of its own would square what half precision cannot, with an epsilon that is none there."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.epsilon = norm.eps
        self.weight = None if norm.weight is None else _column(norm.weight)
        self.bias = None if norm.bias is None else _column(norm.bias)

    def forward(self, x: Tensor) -> Tensor:
        y = _normalised(x - x.mean(1, keepdim=True), self.epsilon)
        return y if self.weight is None else y * self.weight + self.bias


# ---- attention ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Attended:
    """What queries look at. keys: [1, L, 1, D]; values: [1, D, 1, L]; bias: None, or what is added to logits, [1, L, 1, 1] or
    [1, L, 1, N]."""

    keys: Tensor
    values: Tensor
    bias: Tensor | None

    def of_head(self, head: int, size: int) -> Attended:
        first, last = head * size, (head + 1) * size
        return Attended(self.keys[..., first:last], self.values[:, first:last], self.bias)


def attended(q: Tensor, sets: Sequence[Attended]) -> list[Tensor]:
    """One head, whose scale its queries have already: one softmax over the keys of all `sets`, and what each gives by its share.

    q: [1, d, 1, N] -> [1, d, 1, N] for each set. About `LOGITS` at once, in chunks of queries, of which the last may be shorter.
    """
    count, ends = q.shape[3], [0]
    for each in sets:
        ends.append(ends[-1] + each.keys.shape[1])
    most = filled(-(-count // -(-count * ends[-1] // LOGITS)))
    found: list[list[Tensor]] = [[] for _ in sets]
    for start in range(0, count, most):

        def cut(x: Tensor, start: int = start) -> Tensor:
            return x if most >= count or x.shape[3] == 1 else x[..., start : start + most]

        part, logits = cut(q), []
        for each in sets:
            product = torch.einsum("bkhc,bchq->bkhq", each.keys, part)
            logits.append(product if each.bias is None else product + cut(each.bias))
        shares = torch.softmax(joined(logits, 1), 1)
        for index, each in enumerate(sets):
            share = shares if len(sets) == 1 else shares[:, ends[index] : ends[index + 1]]
            found[index].append(torch.einsum("bchk,bkhq->bchq", each.values, share))
    return [joined(parts, 3) for parts in found]


def _scaled(norm: Any, size: int) -> None:
    """Has a norm of queries multiply by 1/√d."""
    norm.weight = frozen(norm.weight * size**-0.5)


class ChannelsSelfAttention(nn.Module):
    """The pairs that are turned lie half a head apart."""

    def __init__(self, original: SelfAttention) -> None:
        super().__init__()
        assert isinstance(original.rotary, HalfRotary)
        self.heads = original.heads
        self.products = 2 * self.heads  # einsum: two a head at least
        self.q, self.k, self.v, self.o = original.q, original.k, original.v, original.o
        self.norm_q, self.norm_k = original.norm_q, original.norm_k
        _scaled(self.norm_q, self.o.weight.shape[0] // self.heads)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], bias: Tensor | None) -> Tensor:
        """x [1, D, N/32, 32]; rope: cosines and sines [1, d/2, 1, N]; bias of the keys [1, N, 1, 1]."""
        dim, count = x.shape[1], x.shape[2] * ROW
        size = dim // self.heads
        cos, sin = rope

        def apart(y: Tensor) -> Tensor:  # [1, D, N/32, 32] -> [H, d, 1, N]
            return y.reshape(self.heads, size, 1, count)

        def turned(y: Tensor) -> Tensor:
            even, odd = y[:, : size // 2], y[:, size // 2 :]
            return torch.cat([even * cos - odd * sin, even * sin + odd * cos], 1)

        q, k = turned(apart(self.norm_q(self.q(x)))), turned(apart(self.norm_k(self.k(x)))).transpose(1, 3)
        v, outs = apart(self.v(x)), []
        for head in range(self.heads):
            own = slice(head, head + 1)
            outs += attended(q[own], [Attended(k[own], v[own], bias)])
        return self.o(_rows(torch.cat(outs, 1)))


class ChannelsCrossAttention(nn.Module):
    def __init__(self, original: WholeCrossAttention) -> None:
        super().__init__()
        self.heads, self.coupled = original.heads, original.coupled
        self.products = 6 * self.heads
        self.q, self.o, self.norm_q = original.q, original.o, original.norm_q
        _scaled(self.norm_q, self.o.weight.shape[0] // self.heads)

    def forward(self, x: Tensor, sets: Sequence[Attended], weights: Sequence[Tensor]) -> Tensor:
        """x [1, D, N/32, 32]; sets: text, image, audio; their weights [1, 1, 1, N]."""
        q = _line(self.norm_q(self.q(x)))
        size = q.shape[1] // self.heads
        outs: list[list[Tensor]] = [[] for _ in sets]
        for head in range(self.heads):
            own, looked = q[:, head * size : (head + 1) * size], [each.of_head(head, size) for each in sets]
            given = attended(own, looked) if self.coupled else [attended(own, [each])[0] for each in looked]
            for out, part in zip(outs, given, strict=True):
                out.append(part)
        read, seen, heard = (torch.cat(out, 1) * weight for out, weight in zip(outs, weights, strict=True))
        return self.o(_rows(read + seen + heard))


# ---- blocks ---------------------------------------------------------------------------------------------------------------------


def _scales_from_one(modulation: Tensor, scales: Sequence[int]) -> nn.Parameter:
    """[1, m, C] -> [m, C, 1, 1], the rows `scales` greater by 1."""
    wanted = modulation.detach().clone()[0, :, :, None, None]
    for row in scales:
        wanted[row] += 1.0
    return frozen(wanted)


class ChannelsBlock(nn.Module):
    def __init__(self, block: Block) -> None:
        super().__init__()
        self.modulation = _scales_from_one(block.modulation, (1, 4))
        self.norm1, self.norm2, self.norm3 = block.norm1, block.norm2, block.norm3
        self.self_attn, self.cross_attn, self.ffn = cast(Any, block.self_attn), cast(Any, block.cross_attn), block.ffn

    def forward(
        self,
        x: Tensor,
        modulation: Tensor,
        rope: tuple[Tensor, Tensor],
        bias: Tensor | None,
        sets: Sequence[Attended],
        weights: Sequence[Tensor],
    ) -> Tensor:
        """x [1, D, N/32, 32]; modulation [6, D, 1, 32]; the others as attention takes them."""
        m = self.modulation + modulation
        shift, scale, gate, late_shift, late_scale, late_gate = (m[i : i + 1] for i in range(6))
        x = x + self.self_attn(self.norm1(x) * scale + shift, rope, bias) * gate
        x = x + self.cross_attn(self.norm3(x), sets, weights)
        return x + self.ffn(self.norm2(x) * late_scale + late_shift) * late_gate


class ChannelsHead(nn.Module):
    def __init__(self, head: Head) -> None:
        super().__init__()
        self.modulation = _scales_from_one(head.modulation, (1,))
        self.norm, self.head = head.norm, head.head

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """x [1, D, N/32, 32], time [1, D] -> [1, 4·C, N/32, 32]."""
        m = self.modulation + _spread(time[:, None])
        return self.head(self.norm(x) * m[1:2] + m[0:1])


# ---- programs -------------------------------------------------------------------------------------------------------------------


class Picture(nn.Module):
    """Latents to tokens and back. A group of rows, in which the four offsets of a patch lie interleaved, is put in order by a
    product with a matrix of zeros and ones, for to take every second number is slow.

    A group is as many pairs of rows as fill a row of tokens; where they do not divide, all of them, if the matrix is not too large;
    else one, and rows remain that are no multiple of 32.
    """

    def __init__(self, channels: int, frames: int, height: int, width: int) -> None:
        super().__init__()
        pairs, columns = frames * height // PATCH, width // PATCH
        self.count = pairs * columns
        group = ROW // gcd(ROW, columns)
        if pairs % group:
            group = pairs if 16 * self.count * filled(self.count) <= SELECTED else 1
        self.together = filled(self.count) if group == pairs else group * columns  # tokens of a group
        self.shape = (1, channels, pairs // group, group * PATCH * width)
        places = torch.arange(self.shape[3]).view(group, PATCH, columns, PATCH).permute(1, 3, 0, 2).reshape(PATCH**2, -1)
        chosen = torch.zeros(PATCH**2, self.together, self.shape[3])
        chosen[:, : places.shape[1]].scatter_(2, places[..., None], 1.0)
        chosen = chosen.view(-1, self.shape[3])  # [4·tokens, numbers], patch offsets outer
        self.register_buffer("apart", chosen, persistent=False)
        self.register_buffer("interleaved", chosen.T.contiguous(), persistent=False)

    def tokens(self, latents: Tensor) -> Tensor:
        """Of `shape` -> [1, C·4, N/32, 32]."""
        _, channels, groups, _ = self.shape
        x = F.linear(latents, cast(Tensor, self.apart)).reshape(channels, groups, PATCH**2, self.together).transpose(1, 2)
        return _rows(_long(x.reshape(1, channels * PATCH**2, 1, -1), 3, filled(self.count)))

    def latents(self, x: Tensor) -> Tensor:
        """[1, 4·C, N/32, 32] -> of `shape`."""
        _, channels, groups, _ = self.shape
        x = _line(x)
        if x.shape[3] > groups * self.together:
            x = x[..., : groups * self.together]
        x = x.reshape(PATCH**2, channels, groups, self.together).permute(1, 2, 0, 3).reshape(1, channels, groups, -1)
        return F.linear(x, cast(Tensor, self.interleaved))

    def channels(self, x: Tensor) -> Tensor:
        """[1, N, D] -> [1, D, N/32, 32]."""
        return _rows(_long(x.view(1, self.count, 1, -1), 1, filled(self.count)).transpose(1, 3))

    def plain(self, x: Tensor) -> Tensor:
        """[1, D, N/32, 32] -> [1, N, D]."""
        x = _line(x).transpose(1, 3)
        return (x if x.shape[1] == self.count else x[:, : self.count]).reshape(1, self.count, -1)


class Laid(nn.Module):
    """A program in this layout. `takes`: the shapes of inputs that have another one than the program that it was made of."""

    takes: Mapping[str, tuple[int, ...]]

    def given(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Inputs by name, in the shapes that it takes."""
        return {name: fitted(x, self.takes[name]) if name in self.takes else x for name, x in inputs.items()}


class ChannelsDenoise(Laid):
    """The step. What is known of a clip's shape are matrices and masks."""

    cos: Tensor
    sin: Tensor
    mask_of_token: Tensor
    text_behind: Tensor | None
    image_behind: Tensor | None
    tokens_behind: Tensor | None
    other_frames: Tensor

    def __init__(self, program: FlatDenoise, inputs: Sequence[Tensor]) -> None:
        super().__init__()
        latents, _, _, modality_weights, *rest = inputs
        given = Conditions(*rest)
        _, channels, frames, height, width = latents.shape
        self.dit, self.keep_residual = program.dit, program.keep_residual
        self.picture = Picture(channels, frames, height, width)
        tokens, text = self.picture.count, given.text_bias.shape[1]
        self.takes = {"latents": self.picture.shape} | {
            name: (1, filled(x.numel()))
            for name, x in (
                ("modality_weights", modality_weights),
                ("text_bias", given.text_bias),
                ("audio_mask", given.audio_mask),
            )
        }
        wide, each = filled(tokens), tokens // frames

        def keep(name: str, value: Tensor | None) -> None:
            self.register_buffer(name, value, persistent=False)

        def behind(count: int) -> Tensor | None:  # masks what was filled up, [filled]
            return None if count == filled(count) else torch.where(torch.arange(filled(count)) < count, 0.0, MASKED)

        for name in ("cos", "sin"):  # [N, d/2] -> [1, d/2, 1, N]
            keep(name, _long(getattr(program, name).detach()[None, :, None], 1, wide).transpose(1, 3).contiguous())
        token = torch.arange(wide)
        frame = torch.where(token < tokens, token // each, -1)
        for index, name in enumerate(("text", "image", "audio")):  # of [text, image, audio] by frames, to tokens
            keep(f"{name}_of_token", _chosen(torch.where(frame < 0, -1, index * frames + frame), self.takes["modality_weights"][1]))
        keep("mask_of_token", _chosen(torch.where(frame < 0, -1, token % each), self.takes["audio_mask"][1]))
        for name, mask in (("tokens", behind(tokens)), ("image", behind(given.image_k.shape[2]))):
            keep(f"{name}_behind", None if mask is None else mask[None, :, None, None])
        keep("text_behind", behind(text))
        heard = given.audio_k.shape[2]
        key = torch.arange(filled(heard))
        own = torch.where(key < heard, key // (heard // frames), frames)[:, None] == frame[None]
        keep("other_frames", torch.where(own, 0.0, MASKED)[None, :, None])

    def forward(
        self, latents: Tensor, time: Tensor, modulation: Tensor, modality_weights: Tensor, *conditions: Tensor
    ) -> Tensor | tuple[Tensor, Tensor]:
        given, dit = Conditions(*conditions), cast(Any, self.dit)
        text, image, audio = (
            F.linear(modality_weights, getattr(self, f"{name}_of_token"))[:, None, None] for name in ("text", "image", "audio")
        )
        weights = (text, image, audio * F.linear(given.audio_mask, self.mask_of_token)[:, None, None])
        bias = given.text_bias if self.text_behind is None else given.text_bias + self.text_behind
        count = text.shape[3]
        biases = (bias.view(1, 1, 1, -1).expand(1, count, 1, -1).transpose(1, 3), self.image_behind, self.other_frames)
        x = dit.patch_embedding.noise(self.picture.tokens(latents)) + self.picture.channels(given.patch_bias)
        y, wide = x, _spread(modulation)
        for index, block in enumerate(dit.blocks):
            layer = given.layer(index)
            pairs = ((layer.text_k, layer.text_v), (layer.image_k, layer.image_v), (layer.audio_k, layer.audio_v))
            sets = [_attended(*pair, bias) for pair, bias in zip(pairs, biases, strict=True)]
            y = block(y, wide, (self.cos, self.sin), self.tokens_behind, sets, weights)
        velocity = self.picture.latents(dit.head(y, time))
        return (velocity, self.picture.plain(y - x)) if self.keep_residual else velocity


def _chosen(places: Tensor, count: int) -> Tensor:
    """A row with a one at each place, of none where that is negative: [places, count]."""
    return (places[:, None] == torch.arange(count)).to(torch.get_default_dtype())


def _attended(keys: Tensor, values: Tensor, bias: Tensor | None) -> Attended:
    """Of keys and values [1, L, D]."""
    k, v = (_long(x.reshape(1, x.shape[1], 1, -1), 1, filled(x.shape[1])) for x in (keys, values))
    return Attended(k, v.transpose(1, 3), bias)


class ChannelsReusing(Laid):
    def __init__(self, program: FlatReusing, inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self.patch_embedding, self.head = program.patch_embedding, program.head
        self.picture = Picture(*inputs[0].shape[1:])
        self.takes = {"latents": self.picture.shape}

    def forward(self, latents: Tensor, time: Tensor, residual: Tensor, patch_bias: Tensor) -> Tensor:
        x = cast(Any, self.patch_embedding).noise(self.picture.tokens(latents))
        x = x + self.picture.channels(patch_bias) + self.picture.channels(residual)
        return self.picture.latents(self.head(x, time))


_PARTS: Mapping[type[nn.Module], Any] = {
    GuardedRMSNorm: ChannelsRMSNorm,
    SelfAttention: ChannelsSelfAttention,
    WholeCrossAttention: ChannelsCrossAttention,
    nn.LayerNorm: ChannelsLayerNorm,
    nn.Linear: Pointwise,
    Block: ChannelsBlock,
    Head: ChannelsHead,
}
_PROGRAMS: Mapping[type[nn.Module], Any] = {FlatDenoise: ChannelsDenoise, FlatReusing: ChannelsReusing}


def channels_first(module: nn.Module, inputs: Sequence[Tensor] = ()) -> nn.Module:
    """A copy in this layout, sharing weights with the original, of a step or reusing step (of `inputs` of these shapes) or of a
    block that `make_apple` gave; other modules themselves."""
    if type(module) not in (*_PROGRAMS, Block):
        return module

    def rewrite(part: nn.Module) -> nn.Module | None:
        if type(part) in _PROGRAMS:
            return cast(nn.Module, _PROGRAMS[type(part)](part, inputs))
        if isinstance(part, (nn.Linear, GuardedRMSNorm)) and part.weight is None:
            return None  # idle
        rule = _PARTS.get(type(part))
        return rule(part) if rule else None

    return applied(module, rewrite)
