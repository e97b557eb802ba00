"""core/model/pretrained_text.py: the prompt encoder computes what umT5 does, and its tokenizer gives the library's ids."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from echoedge.core.errors import CheckpointError, InputError
from echoedge.core.model.pretrained_text import PromptEncoderConfig, PromptTokenizer

from .test_pretrained import PROMPT, random_tensors


def bucket(distance: int, buckets: int, max_distance: int) -> int:
    """Of a key `distance` tokens behind (negative) or ahead of its query: half of the buckets for each side; near ones exact, far
    ones by the logarithm."""
    half = buckets // 2
    side, distance, exact = (half if distance > 0 else 0), abs(distance), half // 2
    if distance < exact:
        return side + distance
    return side + min(half - 1, exact + int(math.log(distance / exact) / math.log(max_distance / exact) * (half - exact)))


def umt5(tensors: dict[str, Tensor], config: PromptEncoderConfig, ids: Tensor) -> Tensor:
    """The encoder written out in float64 under the released names, for one prompt [L] without padding."""
    w = {name: tensor.double() for name, tensor in tensors.items()}

    def norm(x: Tensor, name: str) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + config.eps).sqrt() * w[f"{name}.weight"]

    length = len(ids)
    table = torch.tensor([[bucket(k - q, config.buckets, config.max_distance) for k in range(length)] for q in range(length)])
    x = w["token_embedding.weight"][ids]
    for i in range(config.layers):
        y = norm(x, f"blocks.{i}.norm1")
        q, k, v = ((y @ w[f"blocks.{i}.attn.{n}.weight"].T).view(length, config.heads, -1).transpose(0, 1) for n in "qkv")
        bias = w[f"blocks.{i}.pos_embedding.embedding.weight"][table].permute(2, 0, 1)
        attended = ((q @ k.mT + bias).softmax(-1) @ v).transpose(0, 1).reshape(length, -1)
        x = x + attended @ w[f"blocks.{i}.attn.o.weight"].T
        y = norm(x, f"blocks.{i}.norm2")
        gate = F.gelu(y @ w[f"blocks.{i}.ffn.gate.0.weight"].T, approximate="tanh")
        x = x + (gate * (y @ w[f"blocks.{i}.ffn.fc1.weight"].T)) @ w[f"blocks.{i}.ffn.fc2.weight"].T
    return norm(x, "norm")


def prompt_ids(length: int) -> Tensor:
    return torch.randint(1, PROMPT.vocab, (1, length), generator=torch.Generator().manual_seed(length))


@torch.no_grad()
def test_the_prompt_encoder_is_umt5() -> None:
    tensors = random_tensors(PROMPT)
    module, ids = PROMPT.build(tensors), prompt_ids(40)
    ours, theirs = module(ids, torch.ones_like(ids)), umt5(tensors, PROMPT, ids[0])
    assert (ours[0] - theirs).abs().max() < 1e-4  # measured: 3.6e-6 of 3.6
    changes: list[dict[str, int]] = [{"max_distance": 128}, {"buckets": 4}]
    for change in changes:
        other = replace(PROMPT, **change)
        assert (umt5(tensors, other, ids[0]) - ours[0]).abs().max() > 0.01, change


@torch.no_grad()
def test_padding_does_not_reach_the_prompt() -> None:
    module, ids = PROMPT.build(random_tensors(PROMPT)), prompt_ids(7)
    alone = module(ids, torch.ones_like(ids))
    padded = F.pad(ids, (0, 5))
    mask = (padded != 0).long()
    torch.testing.assert_close(module(padded, mask)[:, :7], alone, rtol=0, atol=2e-5)  # measured: 1.1e-6 of 3.8
    assert (module(padded, torch.ones_like(mask))[:, :7] - alone).abs().max() > 0.01


WORDS = ["<pad>", "</s>", "<unk>", "▁a", "▁man", "▁sings", "▁", "s"]


def write_tokenizer(folder: Path, words: list[str] = WORDS, end: bool = True, truncate: int | None = None) -> Path:
    """A T5 tokenizer of a few words, as the library stores it."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    tokenizer = Tokenizer(models.Unigram([(word, -float(i)) for i, word in enumerate(words)], unk_id=2))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Strip(left=False), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    if end:
        identity = tokenizer.token_to_id("</s>")
        tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", identity)])
    if truncate:
        tokenizer.enable_truncation(truncate)
        tokenizer.enable_padding(length=truncate, pad_id=2)
    tokenizer.add_special_tokens(words[:3])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def test_a_prompt_ends_and_is_padded(tmp_path: Path) -> None:
    tokenizer = PromptTokenizer(write_tokenizer(tmp_path))
    ids, mask, cut = tokenizer.ids("a man sings", max_length=8)
    assert ids.tolist() == [3, 4, 5, 1, 0, 0, 0, 0]
    assert mask.tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    assert (ids.dtype, mask.dtype, cut) == (torch.int64, torch.int64, 0)
    assert tokenizer.ids("").ids.tolist() == [1] + [0] * 511


@pytest.mark.parametrize(
    ("max_length", "ids", "cut"),
    [(4, [3, 4, 5, 1], 0), (3, [3, 4, 1], 1), (2, [3, 1], 2)],
)
def test_a_long_prompt_is_cut_before_its_end(tmp_path: Path, max_length: int, ids: list[int], cut: int) -> None:
    found = PromptTokenizer(write_tokenizer(tmp_path)).ids("a man sings", max_length)
    assert (found.ids.tolist(), found.mask.tolist(), found.cut) == (ids, [1] * max_length, cut)


@pytest.mark.parametrize("prompt", ["a man sings", "a man a man a man sings", "", "man", "a  ß 🙂 man "])
@pytest.mark.parametrize("max_length", [4, 12])
def test_ids_are_the_librarys(tmp_path: Path, prompt: str, max_length: int) -> None:
    """As upstream asks for them: padding to max_length, truncation, special tokens."""
    from transformers import T5TokenizerFast

    library = T5TokenizerFast(tokenizer_file=str(write_tokenizer(tmp_path) / "tokenizer.json"), extra_ids=0)
    theirs = library(prompt, padding="max_length", max_length=max_length, truncation=True, return_tensors="pt")
    ids, mask, _ = PromptTokenizer(tmp_path).ids(prompt, max_length)
    assert torch.equal(ids, theirs.input_ids[0])
    assert torch.equal(mask, theirs.attention_mask[0])


def test_a_tokenizers_own_limits_do_not_count(tmp_path: Path) -> None:
    tokenizer = PromptTokenizer(write_tokenizer(tmp_path, truncate=3))
    assert tokenizer.ids("a man sings", max_length=6).ids.tolist() == [3, 4, 5, 1, 0, 0]


def test_what_is_not_text_becomes_question_marks(tmp_path: Path) -> None:
    tokenizer = PromptTokenizer(write_tokenizer(tmp_path))
    assert torch.equal(tokenizer.ids("a man \udcff").ids, tokenizer.ids("a man ?").ids)


def test_other_tokenizers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.json"):
        PromptTokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": ')
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is not a tokenizer"):
        PromptTokenizer(tmp_path)
    with pytest.raises(CheckpointError, match="not the tokenizer of a T5"):
        PromptTokenizer(write_tokenizer(tmp_path, end=False))
    with pytest.raises(CheckpointError, match=r"<pad> under 0 \(here: 2\)"):
        PromptTokenizer(write_tokenizer(tmp_path, words=["<unk>", "</s>", "<pad>", "▁a"]))


def test_no_room_for_a_token_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="max_length is 1"):
        PromptTokenizer(write_tokenizer(tmp_path)).ids("a man", max_length=1)
