"""core/weights/streamed.py: blocks read one at a time compute what the whole model computes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from echoedge.core.config import Variant
from echoedge.core.errors import CheckpointError
from echoedge.core.weights.checkpoints import Checkpoint, load_transformer
from echoedge.core.weights.streamed import StreamedBlocks, stream_transformer

from .tiny import TINY_CLIP, tiny_inputs
from .tiny_checkpoint import playable_sizes


@pytest.mark.parametrize("variant", ["flash", "preview"])
@torch.no_grad()
def test_it_equals_the_whole_model(variant: Variant, folders: dict[Variant, Path]) -> None:
    config = playable_sizes(variant).transformer
    checkpoint = Checkpoint.open(folders[variant])
    whole, streamed = load_transformer(checkpoint, torch.float32, config=config), stream_transformer(checkpoint, config)
    given = tiny_inputs(config, TINY_CLIP)
    timestep = torch.tensor([640.0])
    wanted = whole(timestep=timestep, **given)
    error = (streamed(timestep=timestep, **given) - wanted).abs().max() / wanted.abs().max()
    assert error < 1e-5  # measured: 3e-7, from where in memory the weights begin
    whole.blocks[1].ffn[0].weight[0, 0] += 1.0
    assert (whole(timestep=timestep, **given) - wanted).abs().max() / wanted.abs().max() > 1e-4


def test_no_block_stays_in_memory(folders: dict[Variant, Path]) -> None:
    config = playable_sizes("flash").transformer
    dit = stream_transformer(Checkpoint.open(folders["flash"]), config)
    assert isinstance(dit.blocks, StreamedBlocks)
    assert len(dit.blocks) == config.layers
    assert not any(name.startswith("blocks.") for name, _ in dit.named_parameters())
    first, again = dit.blocks.block(0), dit.blocks.block(0)
    assert first is not again
    assert torch.equal(first.ffn[0].weight, again.ffn[0].weight)
    assert not torch.equal(first.ffn[0].weight, dit.blocks.block(1).ffn[0].weight)


def test_a_file_that_went_away_is_reported(folders: dict[Variant, Path], tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "flash"
    shutil.copytree(folders["flash"], copy)
    dit = stream_transformer(Checkpoint.open(copy), playable_sizes("flash").transformer)
    shutil.rmtree(copy / "transformer")
    with pytest.raises(CheckpointError, match="diffusion_pytorch_model"):
        next(iter(dit.blocks))
