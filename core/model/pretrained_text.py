"""umT5-XXL, the released encoder of prompts: token ids and their mask [B, L] -> embeddings [B, L, dim]; and its tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, ConfigError, InputError
from .pretrained import EncoderConfig, Shapes, assign, require_counts

_POSITIONS = "pos_embedding.embedding"
_PROMPT_BLOCK = {  # released name -> the library's
    "norm1": "layer.0.layer_norm",
    "attn.q": "layer.0.SelfAttention.q",
    "attn.k": "layer.0.SelfAttention.k",
    "attn.v": "layer.0.SelfAttention.v",
    "attn.o": "layer.0.SelfAttention.o",
    _POSITIONS: "layer.0.SelfAttention.relative_attention_bias",
    "norm2": "layer.1.layer_norm",
    "ffn.gate.0": "layer.1.DenseReluDense.wi_0",
    "ffn.fc1": "layer.1.DenseReluDense.wi_1",
    "ffn.fc2": "layer.1.DenseReluDense.wo",
}


@dataclass(frozen=True)
class PromptEncoderConfig(EncoderConfig):
    """umT5's encoder, XXL by default. `attention_dim` is shared by the heads and need not be `dim`; `shared_positions`: all layers
    use one table of relative positions."""

    vocab: int = 256384
    dim: int = 4096
    attention_dim: int = 4096
    ffn_dim: int = 10240
    heads: int = 64
    layers: int = 24
    buckets: int = 32
    max_distance: int = 128
    shared_positions: bool = False
    eps: float = 1e-6

    title = "prompt encoder (umT5)"

    def __post_init__(self) -> None:
        require_counts(self, "vocab", "dim", "attention_dim", "ffn_dim", "heads", "layers", "buckets", "max_distance")
        if self.attention_dim % self.heads:
            raise ConfigError(f"attention_dim {self.attention_dim} does not divide into {self.heads} heads.")

    def tensors(self) -> Shapes:
        dim, inner = self.dim, self.attention_dim
        block: Shapes = {
            "norm1": (dim,), "attn.q": (inner, dim), "attn.k": (inner, dim), "attn.v": (inner, dim), "attn.o": (dim, inner),
            _POSITIONS: (self.buckets, self.heads), "norm2": (dim,), "ffn.gate.0": (self.ffn_dim, dim),
            "ffn.fc1": (self.ffn_dim, dim), "ffn.fc2": (dim, self.ffn_dim),
        }  # fmt: skip
        shapes: Shapes = {"token_embedding.weight": (self.vocab, dim), "norm.weight": (dim,)}
        for index in range(self.layers):
            shapes |= {self._released_name(index, name): shape for name, shape in block.items()}
        return shapes

    def build(self, tensors: Mapping[str, Tensor]) -> PromptEncoder:
        self.require_exactly(tensors)
        state = {
            "encoder.embed_tokens.weight": tensors["token_embedding.weight"],
            "encoder.final_layer_norm.weight": tensors["norm.weight"],
        }
        for index in range(self.layers):
            for released, library in _PROMPT_BLOCK.items():
                state[f"encoder.block.{index}.{library}.weight"] = tensors[self._released_name(index, released)]
        return assign(PromptEncoder, self, state)

    def _released_name(self, layer: int, name: str) -> str:
        return f"{name}.weight" if self.shared_positions and name == _POSITIONS else f"blocks.{layer}.{name}.weight"


UMT5_XXL = PromptEncoderConfig()


class PromptEncoder(nn.Module):
    def __init__(self, config: PromptEncoderConfig) -> None:
        from transformers import UMT5Config, UMT5EncoderModel

        super().__init__()
        library = UMT5Config(
            vocab_size=config.vocab, d_model=config.dim, d_kv=config.attention_dim // config.heads, d_ff=config.ffn_dim,
            num_layers=config.layers, num_heads=config.heads, relative_attention_num_buckets=config.buckets,
            relative_attention_max_distance=config.max_distance, dropout_rate=0.0, layer_norm_epsilon=config.eps,
            feed_forward_proj="gated-gelu",
        )  # fmt: skip
        self.encoder = UMT5EncoderModel(library).encoder
        if config.shared_positions:
            blocks: Any = self.encoder.block
            attentions = [block.layer[0].SelfAttention for block in blocks]
            for attention in attentions[1:]:
                attention.relative_attention_bias = attentions[0].relative_attention_bias

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids [B, L]; mask [B, L], 1 for a prompt's tokens and 0 for padding -> [B, L, dim].

        Rows of padding are not zero; cut them off. A prompt's rows do not depend on how much padding follows.
        """
        return self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state


class PromptIds(NamedTuple):
    """A prompt as the encoder reads it: ids and mask [L], int64, and how many of the prompt's tokens did not fit."""

    ids: Tensor
    mask: Tensor
    cut: int


class PromptTokenizer:
    """The tokenizer of a folder that holds `tokenizer.json`, read without any network.

    Raises:
        CheckpointError: the folder has no such file, or it is not that of a T5: it does not end prompts with </s> or pad with 0.
    """

    PAD = 0

    def __init__(self, folder: str | Path) -> None:
        from tokenizers import Tokenizer

        path = Path(folder) / "tokenizer.json"
        if not path.is_file():
            raise CheckpointError(f"{folder} has no tokenizer.json. Give the folder of the prompt encoder's tokenizer.")
        try:
            self.tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing narrower
            raise CheckpointError(f"{path} is not a tokenizer ({error}). Fetch it again.") from error
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        end, pad = self.tokenizer.token_to_id("</s>"), self.tokenizer.token_to_id("<pad>")
        if pad != self.PAD or self.tokenizer.encode("").ids != [end]:
            raise CheckpointError(
                f"{path} is not the tokenizer of a T5, which ends a prompt with </s> and has <pad> under {self.PAD} (here: {pad}). "
                "Give the folder of the prompt encoder's tokenizer."
            )

    def ids(self, prompt: str, max_length: int = 512) -> PromptIds:
        """The prompt's tokens and </s>, padded to `max_length`; of a longer prompt the first ones and </s>.

        Raises:
            InputError: `max_length` leaves no room for a token and </s>.
        """
        if max_length < 2:
            raise InputError(f"max_length is {max_length}; it must be at least 2, for a token and </s>.")
        prompt = prompt.encode("utf-8", errors="replace").decode("utf-8")
        encoding = self.tokenizer.encode(prompt, add_special_tokens=False)
        cut = max(0, len(encoding.ids) - (max_length - 1))
        encoding.truncate(len(encoding.ids) - cut)
        found = self.tokenizer.post_process(encoding).ids
        padding = max_length - len(found)
        return PromptIds(torch.tensor(found + [self.PAD] * padding), torch.tensor([1] * len(found) + [0] * padding), cut)
