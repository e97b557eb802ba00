"""targets/rewrites/attention.py: chunks of queries attend as all at once, in little memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from echoedge.core.model.attention import Attention
from echoedge.core.model.programs import EntryPoint
from echoedge.quantize.recipes import PRESETS
from echoedge.runtime.bench.operators import OneRow
from echoedge.targets.executorch.half_products import multiplies_bfloat16, products_in
from echoedge.targets.executorch.lower import compile_program
from echoedge.targets.rewrites import attention
from echoedge.targets.rewrites.attention import ChunkedAttention, query_chunk

from .common import HEAD, HEADS, B, N, off


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("chunk", [1, 5, 6, 17, 18, 768])
def test_chunked_attention(chunk: int, scaled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "LOGITS", chunk * B * HEADS * N)
    products: list[int] = []
    softmax = torch.softmax
    monkeypatch.setattr(torch, "softmax", lambda x, dim: products.append(x.shape[1]) or softmax(x, dim))
    q, k, v = (torch.randn(B, N, HEADS, HEAD) for _ in range(3))
    asked = q * HEAD**-0.5 if scaled else q
    ours = ChunkedAttention(scaled)(asked, k, v)
    assert off(ours, Attention()(q, k, v)) < 5e-6  # measured: 5.1e-7 of 1.3
    assert max(products) <= chunk
    assert sum(products) == N
    assert max(products) - min(products) <= len(products)  # chunks of one size, but for what does not divide
    assert off(ours, Attention()(k, q, v)) > 0.1
    assert off(ChunkedAttention(not scaled)(asked, k, v), ours) > 0.1


@pytest.mark.parametrize(("tokens", "chunk"), [(448, 448), (1792, 1792), (5376, 768)])
def test_chunks_of_the_released_model(tokens: int, chunk: int) -> None:
    assert query_chunk(12, tokens, tokens) == chunk
    assert query_chunk(12, 4096, 10**9) == 1


@pytest.mark.slow
@pytest.mark.parametrize("products", ["fp32", "bf16"])
def test_attention_of_5376_tokens_takes_little_memory(products: str, tmp_path: Path) -> None:
    """The released model's self-attention at 448×448×25 frames, executed in a process of its own."""
    if products == "bf16" and not multiplies_bfloat16():
        pytest.skip("this processor does not multiply bfloat16")
    qkv = {name: torch.randn(1, 5376, 12, 128) for name in "qkv"}
    method = EntryPoint(OneRow(ChunkedAttention(scaled=True)), qkv, ["row"])
    with products_in(products):
        path = compile_program("attention", {"forward": method}, PRESETS["fp32"], tmp_path).path
    program = (
        "import sys, numpy as np; from pathlib import Path\n"
        "from echoedge.core.memory import peak_bytes; from echoedge.targets.executorch.program_file import ProgramFile\n"
        "file = ProgramFile(Path(sys.argv[1])); qkv = [np.ones((1, 5376, 12, 128), np.float32) for _ in range(3)]\n"
        "before = peak_bytes(); file.run('forward', qkv); print(peak_bytes() - before)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    taken = int(ended.stdout.split()[-1])
    assert (
        0.2e9 < taken < 0.6e9
    )  # measured: 0.33 GB, and 0.40 in bfloat16; all logits at once would be 1.4 GB and as much for their softmax
