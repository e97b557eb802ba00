"""Video decoders for XNNPACK with convolutions of fp32 and of 8 bits, side by side in one run, and how near their frames come to
full precision: nano's on a drawn clip as the preset int8 rounds it, the tiny one of the released size with random weights on drawn
latents as a recipe may, which rounds its memory blocks.

python tests/benchmarks/decoder_int8.py [--rounds 15] [--size 256] [--record records/decoder_int8.json]
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from echoedge.core.config import NANO_CLIP, ClipSpec
from echoedge.core.metrics.psnr import psnr
from echoedge.core.model.programs import EntryPoints, vae_decode_program
from echoedge.core.model.tiny_vae import TAEW, TinyVAE
from echoedge.core.train.evaluate import held_out
from echoedge.core.versions import library_versions
from echoedge.core.weights.nano import load_nano
from echoedge.docs.figures import Row, write_figures
from echoedge.quantize.recipes import PRESETS, Rule, WeightRecipe
from echoedge.runtime.bench.clip import device_name
from echoedge.runtime.play.pictures import to_signed
from echoedge.targets.executorch.lower import compile_program
from echoedge.targets.executorch.program_file import ProgramFile, set_threads

Video = NDArray[np.float32]
OF_TINY = tuple(Rule(layers="convolution", modules=m, weights="int8") for m in ("*.present", "*.before", "*.later.*"))
TINY = WeightRecipe(name="memory-blocks", rules=OF_TINY)
RECIPES = ("fp32", "int8")


def nano() -> tuple[EntryPoints, list[Tensor]]:
    """nano's decoder and a held-out clip's latents."""
    vae = load_nano().vae
    frames = np.stack([to_signed(frame) for frame in held_out(1)[0].frames])
    return vae_decode_program(vae, NANO_CLIP), list(vae.encode(torch.from_numpy(frames)[None]).split(1, 2))


def tiny(size: int) -> tuple[EntryPoints, list[Tensor]]:
    """The tiny decoder at full width, torch's own initial weights."""
    torch.manual_seed(0)
    clip = ClipSpec(size, size, 9)
    latents = torch.randn(1, 16, 3, clip.latent_height, clip.latent_width)
    return vae_decode_program(TinyVAE(TAEW).eval().requires_grad_(False), clip), list(latents.split(1, 2))


def played(file: ProgramFile, latents: Sequence[Tensor]) -> Video:
    video, *state = file.run("first", [latents[0].numpy()])
    chunks = [video]
    for latent in latents[1:]:
        video, *state = file.run("next", [latent.numpy(), *state])
        chunks.append(video)
    return np.concatenate(chunks, 1)


def in_full(program: EntryPoints, latents: Sequence[Tensor]) -> Video:
    video, *state = program["first"].run(latents[0])
    chunks = [video]
    for latent in latents[1:]:
        video, *state = program["next"].run(latent, *state)
        chunks.append(video)
    return torch.cat(chunks, 1).numpy()


def measured(name: str, program: EntryPoints, latents: Sequence[Tensor], rounds: int, folder: Path, trained: bool) -> list[Row]:
    """`trained`: else it draws no picture, and how near it comes to one says nothing."""
    recipes = {"fp32": PRESETS["fp32"], "int8": PRESETS["int8"] if trained else TINY}
    files, rows, inputs = {}, list[Row](), list(program["next"].drawn().values())
    for weights in RECIPES:
        (folder / weights).mkdir(parents=True)
        built = compile_program(
            "tiny_decode" if name.startswith("tiny") else "vae_decode", program, recipes[weights], folder / weights
        )
        files[weights] = (ProgramFile(built.path), built.layers.get("int8", 0))
    wall, cpu = {weights: list[float]() for weights in RECIPES}, {weights: list[float]() for weights in RECIPES}
    given = [x.numpy() for x in inputs]
    for turn in range(rounds + 1):
        for weights in RECIPES:
            began, spent = time.perf_counter(), time.process_time()
            files[weights][0].run("next", given)
            if turn:  # the first loads
                wall[weights].append(time.perf_counter() - began)
                cpu[weights].append(time.process_time() - spent)
    full = in_full(program, latents)
    for weights in RECIPES:
        file, rounded = files[weights]
        rows.append(
            {
                "decoder": name, "weights": weights, "rounded": rounded, "cpu_ms": 1e3 * float(np.median(cpu[weights])),
                "wall_ms": 1e3 * float(np.median(wall[weights])),
                "times_faster": float(np.median(cpu["fp32"]) / np.median(cpu[weights])),
                "psnr_db": psnr(full, played(file, latents), 2.0) if trained else None, "file_mb": file.path.stat().st_size / 1e6,
            }
        )  # fmt: skip
        print(rows[-1], flush=True)
    return rows


@torch.no_grad()
def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--rounds", type=int, default=15)
    words.add_argument("--size", type=int, default=256, help="of the tiny decoder's picture")
    words.add_argument("--record", type=Path)
    given = words.parse_args()
    torch.set_num_threads(1)
    set_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = measured("nano, 64×64", *nano(), given.rounds, Path(folder) / "nano", trained=True)
        rows += measured(f"tiny, {given.size}×{given.size}", *tiny(given.size), given.rounds, Path(folder) / "tiny", trained=False)
    if given.record:
        versions = library_versions()
        write_figures(
            given.record, command=shlex.join(["python", *sys.argv]),
            source=f"`{shlex.join(['python', *sys.argv])}` writes this file.", hardware=device_name(),
            versions={name: versions[name] for name in ("torch", "executorch") if name in versions},
            conditions=f"XNNPACK, one thread, method `next` (four frames), medians of {given.rounds} in turn, other work beside. "
            "nano: a held-out clip of 25 frames. tiny: full width, torch's initial weights, a recipe of its own.",
            figures={"decoders": rows},
        )  # fmt: skip


if __name__ == "__main__":
    main()
