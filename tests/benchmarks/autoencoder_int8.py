"""Video encoders and decoders for XNNPACK with convolutions of fp32 and of 8 bits, side by side in one run, and how near they come
to full precision: nano's on a drawn clip and the released size's encoder with random weights as the preset int8 rounds them, the
tiny decoder of the released size with random weights as a recipe may, which rounds its memory blocks.

python tests/benchmarks/autoencoder_int8.py [--rounds 15] [--size 256] [--record records/autoencoder_int8.json]
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from echoedge.core.config import FLASH, NANO_CLIP, TEMPORAL_STRIDE, ClipSpec
from echoedge.core.metrics.psnr import psnr
from echoedge.core.model.programs import EntryPoints, vae_decode_program, vae_encode_program
from echoedge.core.model.tiny_vae import TAEW, TinyVAE
from echoedge.core.model.vae import VAE
from echoedge.core.train.evaluate import held_out
from echoedge.core.versions import library_versions
from echoedge.core.weights.nano import load_nano
from echoedge.docs.figures import Row, write_figures
from echoedge.quantize.recipes import PRESETS, Rule, WeightRecipe
from echoedge.runtime.bench.clip import device_name
from echoedge.runtime.play.pictures import to_signed
from echoedge.targets.executorch.lower import compile_program
from echoedge.targets.executorch.program_file import ProgramFile, set_threads

Values = NDArray[np.float32]
OF_TINY = tuple(Rule(layers="convolution", modules=m, weights="int8") for m in ("*.present", "*.before", "*.later.*"))
TINY = WeightRecipe(name="memory-blocks", rules=OF_TINY)
WEIGHTS = ("fp32", "int8")
PICTURE = 2.0  # a pixel is from -1 to 1


@dataclass(frozen=True)
class Subject:
    """`chunks`: what a clip's calls are given beside the state; `judged`: else the weights are drawn, and what comes out is no
    picture."""

    title: str
    role: str
    program: EntryPoints
    chunks: Sequence[Tensor]
    judged: bool
    int8: WeightRecipe = PRESETS["int8"]


def of_nano() -> list[Subject]:
    """nano's encoder and decoder, a held-out clip and its latents."""
    vae = load_nano().vae
    video = torch.from_numpy(np.stack([to_signed(frame) for frame in held_out(1)[0].frames]))[None]
    chunks = [video[:, :1], *video[:, 1:].split(TEMPORAL_STRIDE, 1)]
    return [
        Subject("nano's encoder, 64×64", "vae_encode", vae_encode_program(vae, NANO_CLIP), chunks, True),
        Subject("nano's decoder, 64×64", "vae_decode", vae_decode_program(vae, NANO_CLIP), vae.encode(video).split(1, 2), True),
    ]


def of_full_width(size: int) -> list[Subject]:
    """The encoder and the tiny decoder of the released size, drawn weights."""
    torch.manual_seed(0)
    clip = ClipSpec(size, size, 9)
    vae, tiny = (model.eval().requires_grad_(False) for model in (VAE(FLASH.vae), TinyVAE(TAEW)))
    latents = torch.randn(1, 16, 3, clip.latent_height, clip.latent_width)
    video = torch.randn(1, clip.frames, 3, size, size).mul_(0.5).clamp_(-1, 1)
    chunks = [video[:, :1], *video[:, 1:].split(TEMPORAL_STRIDE, 1)]
    return [
        Subject(f"full width's encoder, {size}×{size}", "vae_encode", vae_encode_program(vae, clip), chunks, False),
        Subject(f"tiny decoder, {size}×{size}", "tiny_decode", vae_decode_program(tiny, clip), latents.split(1, 2), False, TINY),
    ]


def played(run: Callable[[str, list[Values]], Sequence[Values]], chunks: Sequence[Tensor], axis: int) -> Values:
    """All calls of a clip, the state of each from the one before."""
    made: list[Values] = []
    state: list[Values] = []
    for number, chunk in enumerate(chunks):
        result, *state = run("next" if number else "first", [chunk.numpy(), *state])
        made.append(np.array(result))
    return np.concatenate(made, axis)


def measured(subject: Subject, rounds: int, folder: Path) -> list[Row]:
    recipes = {"fp32": PRESETS["fp32"], "int8": subject.int8}
    files: dict[str, tuple[ProgramFile, int]] = {}
    for weights in WEIGHTS:
        (folder / weights).mkdir(parents=True)
        built = compile_program(subject.role, subject.program, recipes[weights], folder / weights)
        files[weights] = (ProgramFile(built.path), built.layers.get("int8", 0))
    wall, cpu = {weights: list[float]() for weights in WEIGHTS}, {weights: list[float]() for weights in WEIGHTS}
    given = [x.numpy() for x in subject.program["next"].drawn().values()]
    for turn in range(rounds + 1):
        for weights in WEIGHTS:
            began, spent = time.perf_counter(), time.process_time()
            files[weights][0].run("next", given)
            if turn:  # the first loads
                wall[weights].append(time.perf_counter() - began)
                cpu[weights].append(time.process_time() - spent)

    def in_full(method: str, inputs: list[Values]) -> list[Values]:
        return [x.numpy() for x in subject.program[method].run(*map(torch.from_numpy, inputs))]

    axis = 2 if subject.role == "vae_encode" else 1  # of frames
    full = played(in_full, subject.chunks, axis)
    span = float(full.max() - full.min()) if subject.role == "vae_encode" else PICTURE
    rows: list[Row] = []
    for weights in WEIGHTS:
        file, rounded = files[weights]
        rows.append(
            {
                "program": subject.title, "weights": weights, "rounded": rounded, "cpu_ms": 1e3 * float(np.median(cpu[weights])),
                "wall_ms": 1e3 * float(np.median(wall[weights])),
                "times_faster": float(np.median(cpu["fp32"]) / np.median(cpu[weights])),
                "psnr_db": psnr(full, played(file.run, subject.chunks, axis), span) if subject.judged else None,
                "file_mb": file.path.stat().st_size / 1e6,
            }
        )  # fmt: skip
        print(rows[-1], flush=True)
    return rows


@torch.no_grad()
def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--rounds", type=int, default=15)
    words.add_argument("--size", type=int, default=256, help="of the full width's picture")
    words.add_argument("--record", type=Path)
    given = words.parse_args()
    torch.set_num_threads(1)
    set_threads(1)
    rows: list[Row] = []
    for subject in (*of_nano(), *of_full_width(given.size)):
        with tempfile.TemporaryDirectory() as folder:
            rows += measured(subject, given.rounds, Path(folder))
    if given.record:
        versions = library_versions()
        write_figures(
            given.record, command=shlex.join(["python", *sys.argv]),
            source=f"`{shlex.join(['python', *sys.argv])}` writes this file.", hardware=device_name(),
            versions={name: versions[name] for name in ("torch", "executorch") if name in versions},
            conditions=f"XNNPACK, one thread, method `next` (four frames), medians of {given.rounds} in turn. Load average at the "
            f"end {os.getloadavg()[1]:.1f}. nano: a held-out clip of 25 frames. Full width: drawn weights; of the tiny decoder a "
            "recipe of its own.",
            figures={"programs": rows},
        )  # fmt: skip


if __name__ == "__main__":
    main()
