"""The step of flash at full size, thirty blocks from a checkpoint of random weights: parity of the files. Run with -m slow.

Writes 3.7 GB, or reads the folder that ECHOEDGE_FLASH names; fp32 takes 16 GB of memory.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from echoedge.core.config import FLASH, ClipSpec
from echoedge.core.metrics.psnr import psnr
from echoedge.core.model.architecture import Architecture
from echoedge.core.model.conditions import Conditions
from echoedge.core.model.programs import denoise_program
from echoedge.core.weights.checkpoints import Checkpoint
from echoedge.core.weights.random_checkpoint import write_random_checkpoint
from echoedge.core.weights.source import CheckpointSource, Making, unit
from echoedge.core.weights.streamed import stream_transformer
from echoedge.quantize.recipes import PRESETS
from echoedge.targets.executorch.backends import backend
from echoedge.targets.executorch.blockwise import TransformerParts, lower_unit, quantised_step
from echoedge.targets.executorch.lower import write_programs
from echoedge.targets.executorch.program_file import ProgramFile

CLIP = ClipSpec(128, 128, 25)  # 448 tokens
ROWS = 64
# Against eager float32, and against eager PyTorch of the same quantisation. Measured: see docs/FIGURES.md.
LEAST = {"fp32": (90.0, 90.0), "int8": (45.0, 45.0), "int4": (30.0, 45.0)}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = os.environ.get("ECHOEDGE_FLASH")
    if folder is None:
        folder = str(tmp_path_factory.mktemp("full") / "flash")
        write_random_checkpoint(Path(folder), "flash", ["transformer"], base=False)
    return Checkpoint.open(folder)


@pytest.fixture(scope="module")
def call(checkpoint: Checkpoint) -> tuple[list[torch.Tensor], np.ndarray]:
    """Inputs of the step, conditions encoded from noise, and what eager float32 makes of them."""
    dit, generator = stream_transformer(checkpoint), torch.Generator().manual_seed(0)
    drawn = list(denoise_program(dit, CLIP, ROWS)["forward"].drawn().values())
    with torch.no_grad():
        time, modulation = dit.step_tables(torch.tensor([749.0]))
        given = {"y": (1, 20, 7, 16, 16), "text": (1, ROWS, 4096), "image": (1, 257, 1280), "audio": (1, 25, 5, 12, 768)}
        conditions = dit.encode_conditions(**{name: torch.randn(shape, generator=generator) for name, shape in given.items()})
        inputs = [drawn[0], time, modulation, torch.ones(1, 3, 7), *conditions.tensors()]
        return inputs, dit.denoise(*inputs[:4], Conditions(*inputs[4:])).numpy()


@pytest.mark.slow
@pytest.mark.parametrize("weights", list(LEAST))
def test_thirty_blocks_compute_what_they_should(
    weights: str, checkpoint: Checkpoint, call: tuple[list[torch.Tensor], np.ndarray], tmp_path: Path
) -> None:
    inputs, reference = call
    source = CheckpointSource(str(checkpoint.folder), "flash", Architecture(FLASH))
    parts = TransformerParts(unit(source, "denoise", CLIP, Making(ROWS)), PRESETS[weights], backend("xnnpack"), way="stamped")
    (compiled,) = write_programs([lower_unit(parts)], tmp_path / "denoise.pte")
    assert compiled.placement["forward"].delegate_calls == FLASH.layers + 2
    found = ProgramFile(compiled.path).run("forward", [tensor.numpy() for tensor in inputs])[0]
    print(f"\n{weights}: {compiled.path.stat().st_size / 1e6:.0f} MB, {psnr(reference, found, float(np.ptp(reference))):.1f} dB")
    assert psnr(reference, found, float(np.ptp(reference))) > LEAST[weights][0]
    compiled.path.unlink()
    if weights != "fp32":
        with torch.no_grad():
            same = quantised_step(parts)(*inputs)[0].numpy()
        print(f"{weights}: {psnr(same, found, float(np.ptp(same))):.1f} dB against the same quantisation in PyTorch")
        assert psnr(same, found, float(np.ptp(same))) > LEAST[weights][1]
    other = np.roll(reference, 1, axis=-1)  # what is not the model's output is far away
    assert psnr(other, found, float(np.ptp(other))) < 25
