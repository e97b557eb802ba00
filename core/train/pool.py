"""A pool of drawn clips on disk, so that training reads memory-mapped arrays instead of drawing the same heads again."""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..config import NANO_CLIP, ClipSpec
from ..errors import ConfigError
from ..files import atomic_file, reserve
from ..sampling.inputs import byte_ids
from .puppets import PuppetClip, check_world, draw_clip


@dataclass(frozen=True)
class Asked:
    """Which inputs B samples ask for: the clip, whose audio, late by `shift` video frames (what leaves at the end comes back at the
    start), at which gain, which frame is the portrait (0 or -1), and a text other than the clip's own."""

    clip: np.ndarray
    audio: np.ndarray
    shift: np.ndarray
    gain: np.ndarray
    picture: np.ndarray
    text: list[str | None]


class SampleSource(Protocol):
    """Where training samples come from, besides their cached latents."""

    @property
    def boxes(self) -> np.ndarray: ...

    def __len__(self) -> int: ...

    def inputs(self, asked: Asked, text_len: int) -> dict[str, Tensor]: ...


@dataclass(frozen=True)
class ClipPool:
    """N clips: frames uint8 [N, T, H, W, 3]; waveforms float32 [N, samples]; openings [N, T]; boxes [N, 4] (y0, y1, x0, x1);
    prompts."""

    frames: np.ndarray
    waveforms: np.ndarray
    openings: np.ndarray
    boxes: np.ndarray
    prompts: list[str]

    def __len__(self) -> int:
        return len(self.prompts)

    def inputs(self, asked: Asked, text_len: int) -> dict[str, Tensor]:
        """What nano's encoders read: waveform [B, samples], ids [B, text_len], portrait [B, 3, H, W]."""
        samples = self.waveforms.shape[1] // self.frames.shape[1]
        sound = [np.roll(self.waveforms[i], shift * samples) for i, shift in zip(asked.audio, asked.shift, strict=True)]
        texts = [self.prompts[i] if text is None else text for i, text in zip(asked.clip, asked.text, strict=True)]
        pixels = torch.from_numpy(self.frames[asked.clip, asked.picture])
        return {
            "waveform": torch.from_numpy((np.stack(sound) * asked.gain[:, None]).astype(np.float32)),
            "ids": torch.from_numpy(np.concatenate([byte_ids(text, text_len)[0] for text in texts])),
            "portrait": pixels.movedim(-1, -3).float() / 127.5 - 1,
        }


@dataclass(frozen=True)
class FeaturePool:
    """N clips as a released model reads them, encoded before by its frozen encoders; arrays may be memory-mapped.

    audio: features [N, T, layers, channels] (flash, one row per video frame) or [N, L, channels] (preview); text [N, text_len,
    text_dim] with its padding; image [N, image_tokens, image_dim]; boxes [N, 4], the mouths in pixels; texts: embeddings
    [text_len, text_dim] of the empty text "" and of negatives' names; frames_per_clip: video frames, T.
    """

    audio: np.ndarray
    text: np.ndarray
    image: np.ndarray
    boxes: np.ndarray
    texts: dict[str, np.ndarray]
    frames_per_clip: int

    def __len__(self) -> int:
        return len(self.text)

    def inputs(self, asked: Asked, text_len: int) -> dict[str, Tensor]:
        """What the transformer reads: audio, text, image. There is no gain, and the picture is the clip's own."""
        for name in {text for text in asked.text if text is not None} - set(self.texts):
            raise ConfigError(
                f"The text {name!r} has no embedding here; there are {', '.join(map(repr, self.texts))}. Encode it too."
            )
        rows = self.audio.shape[1] / self.frames_per_clip
        sound = [np.roll(self.audio[i], round(shift * rows), 0) for i, shift in zip(asked.audio, asked.shift, strict=True)]
        texts = [self.text[i] if text is None else self.texts[text] for i, text in zip(asked.clip, asked.text, strict=True)]
        arrays = {"audio": np.stack(sound), "text": np.stack(texts), "image": self.image[asked.clip]}
        return {name: torch.from_numpy(np.array(array, np.float32)) for name, array in arrays.items()}


def _draw(task: tuple[int, int, int, str]) -> PuppetClip:
    seed, frames, size, world = task
    return draw_clip(seed, frames=frames, size=size, world=world)


def open_pool(
    folder: Path, count: int, first_seed: int = 0, clip: ClipSpec = NANO_CLIP, processes: int = 2, world: str = "calm"
) -> ClipPool:
    """The pool of seeds first_seed … first_seed+count-1 in a world, drawn into `folder` on first use.

    The folder is complete when its `pool.json` exists; anything else found there is drawn again.

    Raises:
        ConfigError: the folder holds clips of another world, from which more may have been made than is drawn here.
        InputError: there is no such world.
    """
    check_world(world)
    samples = clip.frames * clip.samples_per_frame
    files = {
        "frames": ((count, clip.frames, clip.height, clip.width, 3), np.uint8),
        "waveforms": ((count, samples), np.float32),
        "openings": ((count, clip.frames), np.float32),
        "boxes": ((count, 4), np.int32),
    }
    index = folder / "pool.json"
    description = {"count": count, "first_seed": first_seed, "frames": clip.frames, "size": clip.height, "world": world}
    found = {"world": "calm"} | json.loads(index.read_text())["description"] if index.exists() else None
    if found is not None and found["world"] != world:
        raise ConfigError(f"{folder} holds clips of the {found['world']} world, not the {world} one. Use another folder.")
    if found != description:
        folder.mkdir(parents=True, exist_ok=True)
        index.unlink(missing_ok=True)
        arrays = {
            name: np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=dtype, shape=shape)
            for name, (shape, dtype) in files.items()
        }
        for name, array in arrays.items():
            reserve(folder / f"{name}.npy", array.offset + array.nbytes)
        prompts = []
        tasks = [(first_seed + i, clip.frames, clip.height, world) for i in range(count)]
        with multiprocessing.get_context("spawn").Pool(processes) as workers:
            for i, drawn in enumerate(workers.imap(_draw, tasks, chunksize=16)):
                arrays["frames"][i] = drawn.frames
                arrays["waveforms"][i] = drawn.waveform[:samples]
                arrays["openings"][i] = drawn.opening
                arrays["boxes"][i] = drawn.mouth_box
                prompts.append(drawn.prompt)
        for array in arrays.values():
            array.flush()
        with atomic_file(index) as temporary:
            temporary.write_text(json.dumps({"description": description, "prompts": prompts}))
    loaded = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in files}
    return ClipPool(prompts=json.loads(index.read_text())["prompts"], **loaded)
