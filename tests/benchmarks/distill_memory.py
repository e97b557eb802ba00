"""What training a student takes of memory beside what was forecast: two blocks of flash at full width, random weights, clips of
noise, one lesson a step; each way in a process of its own.

    python tests/benchmarks/distill_memory.py [--steps 20] [--size 128x128] [--frames 9] [--record records/distill_memory.json]
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from echoedge.cli.options import parse_size
from echoedge.core.config import FLASH, ClipSpec
from echoedge.core.memory import peak_bytes
from echoedge.core.model.transformer import DiT
from echoedge.docs.figures import Row, write_figures
from echoedge.quantize.distill.forecast import count_step, training_need
from echoedge.quantize.distill.monitor import Monitoring
from echoedge.quantize.distill.training import Distilling, train_student
from echoedge.runtime.bench.clip import device_name

CONFIG = replace(FLASH, layers=2)
WAYS = {"kept": {}, "recomputed": {"recompute": True}}
LESSONS = 3


@dataclass(frozen=True)
class Noise:
    """Lessons of a clip's shape that teach nothing; see `quantize.distill.lessons.Taught`."""

    clip: ClipSpec
    levels: tuple[float, ...] = (1.0, 0.0)
    made_from: str = "noise"

    def __len__(self) -> int:
        return LESSONS

    @property
    def modality(self) -> NDArray[np.float32]:
        return np.ones((2, 3, self.clip.latent_frames), np.float32)

    def batch(self, rows: NDArray[np.int64]) -> dict[str, torch.Tensor]:
        latent, count = (self.clip.latent_frames, self.clip.latent_height, self.clip.latent_width), len(rows)
        torch.manual_seed(int(rows[0]))
        return {
            "states": torch.randn(count, 2, 16, *latent).half(), "y": torch.randn(count, 20, *latent),
            "audio": torch.randn(count, self.clip.frames, CONFIG.audio.layers, CONFIG.audio.channels),
            "image": torch.randn(count, CONFIG.image_tokens, CONFIG.image_dim),
            "text": torch.randn(count, CONFIG.text_len, CONFIG.text_dim), "mouth": torch.zeros(count, 1, 1, *latent[1:]),
        }  # fmt: skip


def train(way: str, clip: ClipSpec, steps: int, folder: Path) -> int:
    """In this process. -> bytes at the peak."""
    torch.set_num_threads(1)
    training = Distilling(steps=steps, batch=1, monitor=Monitoring(0), mix=((1, 1.0),), rate=1e-5, **WAYS[way])  # type: ignore[arg-type]
    train_student(lambda: DiT(CONFIG), Noise(clip), folder, training, save_every=1 << 30, held_back=1)
    return peak_bytes()


def measured(way: str, clip: ClipSpec, steps: int) -> Row:
    size = f"{clip.height}x{clip.width}"
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--way", way, "--size", size, "--frames", str(clip.frames), "--steps", str(steps)]
        ended = subprocess.run([*command, "--folder", folder], capture_output=True, text=True, check=True)
    peak = int(ended.stdout.splitlines()[-1])
    training = Distilling(steps=steps, batch=1, monitor=Monitoring(0), **WAYS[way])  # type: ignore[arg-type]
    step = count_step(CONFIG, clip, 1, training.recompute, training.bf16)
    forecast = training_need(step).total
    return {
        "activations": way, "clip": str(clip), "steps": steps, "parameters": step.parameters,
        "activations_mb": round(step.kept / 1e6, 1), "forecast_gb": round(forecast / 1e9, 3),
        "peak_gb": round(peak / 1e9, 3), "ratio": round(forecast / peak, 3),
    }  # fmt: skip


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--steps", type=int, default=20)
    words.add_argument("--size", default="128x128")
    words.add_argument("--frames", type=int, default=9)
    words.add_argument("--record", type=Path)
    words.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    words.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = words.parse_args()
    clip = ClipSpec(*parse_size(given.size), given.frames)
    if given.way:
        print(train(given.way, clip, given.steps, given.folder))
        return
    rows = [measured(way, clip, given.steps) for way in WAYS]
    for row in rows:
        print(row)
    if given.record:
        write_figures(
            given.record, command=shlex.join(["python", "tests/benchmarks/distill_memory.py", *sys.argv[1:]]),
            source="the same command writes this file.", hardware=device_name(), versions={"torch": version("torch")},
            conditions="Two blocks of flash at full width (random weights), clips of noise, one lesson a step, float32, AdamW and "
            f"the average of the weights, {given.steps} steps on one thread.",
            figures={"training": rows},
        )  # fmt: skip


if __name__ == "__main__":
    main()
