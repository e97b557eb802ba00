"""A pool of drawn clips on disk, so that training reads memory-mapped arrays instead of drawing the same heads again."""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..config import NANO_CLIP, ClipSpec
from .puppets import PuppetClip, draw_clip


@dataclass(frozen=True)
class Pool:
    """N clips: frames uint8 [N, T, H, W, 3]; waveforms float32 [N, samples]; openings [N, T]; boxes [N, 4] (y0, y1, x0, x1);
    prompts."""

    frames: np.ndarray
    waveforms: np.ndarray
    openings: np.ndarray
    boxes: np.ndarray
    prompts: list[str]

    def __len__(self) -> int:
        return len(self.prompts)


def _draw(task: tuple[int, int, int]) -> PuppetClip:
    seed, frames, size = task
    return draw_clip(seed, frames=frames, size=size)


def open_pool(folder: Path, count: int, first_seed: int = 0, clip: ClipSpec = NANO_CLIP, processes: int = 2) -> Pool:
    """The pool of seeds first_seed … first_seed+count-1, drawn into `folder` on first use.

    The folder is complete when its `pool.json` exists; anything else found there is drawn again.
    """
    samples = clip.frames * clip.samples_per_frame
    files = {
        "frames": ((count, clip.frames, clip.height, clip.width, 3), np.uint8),
        "waveforms": ((count, samples), np.float32),
        "openings": ((count, clip.frames), np.float32),
        "boxes": ((count, 4), np.int32),
    }
    index = folder / "pool.json"
    description = {"count": count, "first_seed": first_seed, "frames": clip.frames, "size": clip.height}
    if not (index.exists() and json.loads(index.read_text())["description"] == description):
        folder.mkdir(parents=True, exist_ok=True)
        index.unlink(missing_ok=True)
        arrays = {
            name: np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=dtype, shape=shape)
            for name, (shape, dtype) in files.items()
        }
        prompts = []
        tasks = [(first_seed + i, clip.frames, clip.height) for i in range(count)]
        with multiprocessing.get_context("spawn").Pool(processes) as workers:
            for i, drawn in enumerate(workers.imap(_draw, tasks, chunksize=16)):
                arrays["frames"][i] = drawn.frames
                arrays["waveforms"][i] = drawn.waveform[:samples]
                arrays["openings"][i] = drawn.opening
                arrays["boxes"][i] = drawn.mouth_box
                prompts.append(drawn.prompt)
        for array in arrays.values():
            array.flush()
        index.write_text(json.dumps({"description": description, "prompts": prompts}))
    loaded = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in files}
    return Pool(prompts=json.loads(index.read_text())["prompts"], **loaded)
