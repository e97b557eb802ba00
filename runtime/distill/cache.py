"""What a checkpoint's encoders make of clips, made once: known frames, voice and portrait by window, the prompts' rows for all.

A shard is a file that depends on its number alone, so that encoding goes on after a kill. The manifest `clips.json` says of every
window where it comes from and what was measured of it, also of those that were not taken.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from ...core.config import ClipSpec
from ...core.errors import CheckpointError, ConfigError, InputError
from ...core.files import atomic_file, file_sha256, require_free_disk
from ...core.model.architecture import ComponentName
from ...core.train.train_dit import mouth_latent_mask
from ...core.versions import library_versions
from ...core.weights.checkpoints import Checkpoint
from ..play.pictures import to_signed
from ..play.player import Player
from .clips import Cuts

FORMAT = "echoedge.clips/1"
MANIFEST = "clips.json"
SHARD = 4  # windows
FEATURES = ("y", "audio", "image", "mouth")
ENCODERS: tuple[ComponentName, ...] = ("vae", "clip", "wav2vec2")

Float32 = NDArray[np.float32]


def digest_of_files(checkpoint: Checkpoint, name: ComponentName) -> str:
    """SHA-256 of the files of a component.

    Raises:
        CheckpointError: it is not there.
    """
    if not checkpoint.paths[name]:
        raise CheckpointError(f"{checkpoint.folder} has no {name}, which a student is taught with. Give a folder that has it.")
    return hashlib.sha256("".join(f"{file_sha256(path)}\n" for path in checkpoint.paths[name]).encode()).hexdigest()


@dataclass(frozen=True)
class Encoded:
    """Windows, encoded, in `folder`. prompts: rows [L, text_dim] by prompt; said: the prompt of each window. made_from: what the
    features depend on, as a word."""

    folder: Path
    said: Sequence[str]
    prompts: Mapping[str, Float32]
    made_from: str

    def __len__(self) -> int:
        return len(self.said)

    def features(self, window: int) -> dict[str, np.ndarray]:
        """y [20, F, h, w], audio (flash [T, layers, channels], preview [2T, channels]), image [L, image_dim] in half precision, and
        mouth uint8 [1, 1, h, w], of one window."""
        with safe_open(_file(self.folder, window // SHARD), "numpy") as file:
            return {name: file.get_slice(name)[window % SHARD : window % SHARD + 1][0] for name in FEATURES}


def encode_clips(
    folder: Path,
    cuts: Sequence[Cuts],
    player: Player,
    clip: ClipSpec,
    encoders: Mapping[str, str],
    prompts: Mapping[str, Float32],
    said: Sequence[str],
    told: Callable[[int, int], None] = lambda *_: None,
) -> Encoded:
    """The windows that were taken of `cuts`, encoded by `player` in `folder` where they are not there yet; `told(done, of)` in
    windows. `encoders`: SHA-256 of their weights by name; `said`: the prompt of each window, one of `prompts`.

    Raises:
        ConfigError: the folder holds clips of other weights, videos, prompts or checks.
        ResourceError: they do not fit on the disk.
    """
    rows = [{"file": each.name, "sha256": each.sha256, **row} for each in cuts for row in each.rows]
    taken = [row for row in rows if row["reason"] is None]
    told_of = [{**row, "prompt": prompt} for row, prompt in zip(taken, said, strict=True)]
    words = {text: hashlib.sha256(np.ascontiguousarray(prompts[text]).tobytes()).hexdigest() for text in sorted(set(prompts))}
    basis = {
        "encoders": dict(encoders), "clip": str(clip), "prompts": words,
        "windows": hashlib.sha256(json.dumps(told_of, sort_keys=True).encode()).hexdigest(),
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    _require_same(folder / MANIFEST, basis)
    total = len(taken)
    shards = range(-(-total // SHARD))
    left = [shard for shard in shards if not _file(folder, shard).exists()]
    require_free_disk(folder, len(left) * SHARD * _bytes_of_window(player, clip))
    shapes: dict[str, list[int]] = {}
    places = [(each, index) for each in cuts for index in range(len(each.portraits))]
    for shard in left:
        some = places[shard * SHARD : (shard + 1) * SHARD]
        arrays = _encoded(some, player, clip)
        with atomic_file(_file(folder, shard), force=True) as temporary:
            save_file(arrays, temporary)
        told(min(total, (shard + 1) * SHARD), total)
    with safe_open(_file(folder, 0), "numpy") as file:
        shapes = {name: file.get_slice(name).get_shape()[1:] for name in FEATURES}
    manifest = {
        "format": FORMAT, "basis": basis, "windows": told_of, "not taken": [row for row in rows if row["reason"] is not None],
        "shapes": shapes, "versions": library_versions(),
    }  # fmt: skip
    _write_json(folder / MANIFEST, manifest)
    return Encoded(folder, list(said), prompts, hashlib.sha256(json.dumps(basis, sort_keys=True).encode()).hexdigest())


def prompts_of(cuts: Sequence[Cuts], data: Path, prompts: Mapping[str, Float32], own: set[str]) -> list[str]:
    """Of each window that was taken its prompt: what stands in the .txt file beside its video, else those of the pack in turn.
    `own`: prompts of the pack that no clip is asked for: those of guidance.

    Raises:
        InputError: the pack has no prompt, or not the one that stands beside a video.
    """
    usual = sorted(text for text in prompts if text not in own)
    if not usual:
        raise InputError("The pack of prompts holds none that a clip could have. Make one with `echoedge checkpoint prompts`.")
    found: list[str] = []
    for each in cuts:
        beside = (data / each.name).with_suffix(".txt")
        text = beside.read_text(encoding="utf-8").strip() if beside.is_file() else None
        if text is not None and text not in prompts:
            raise InputError(
                f"{beside} asks for the prompt {text!r}, which the pack does not hold. Add it with `echoedge checkpoint prompts`."
            )
        for _ in each.taken:
            found.append(usual[len(found) % len(usual)] if text is None else text)
    return found


def _require_same(path: Path, basis: Mapping[str, Any]) -> None:
    """Writes what the folder is made from, or refuses a folder that is made from something else."""
    if not path.exists():
        _write_json(path, {"format": FORMAT, "basis": basis})
        return
    known = json.loads(path.read_text(encoding="utf-8"))["basis"]
    other = [name for name in basis if known.get(name) != basis[name]]
    if other:
        raise ConfigError(f"{path.parent} holds clips of other {' and '.join(other)}. Use another folder, or delete this one.")


def _encoded(some: Sequence[tuple[Cuts, int]], player: Player, clip: ClipSpec) -> dict[str, np.ndarray]:
    """One encoder after the other, so that each is loaded once for a shard."""
    pictures = [to_signed(each.portraits[index]) for each, index in some]
    audio = [player.listen(each.voices[index], clip.frames) for each, index in some]
    image = [player.recognise(picture)[0] for picture in pictures]
    y = [player.look(picture[None], clip.latent_frames)[0] for picture in pictures]
    mouth = mouth_latent_mask(np.stack([each.mouths[index] for each, index in some]), clip).numpy().astype(np.uint8)
    half = {name: np.stack(found).astype(np.float16) for name, found in (("y", y), ("audio", audio), ("image", image))}
    return half | {"mouth": mouth}


def _bytes_of_window(player: Player, clip: ClipSpec) -> int:
    playing = player.config.playing
    latent = clip.latent_frames * clip.latent_height * clip.latent_width
    heard = clip.frames * playing.hearing.rows_per_frame * 12 * 768  # of the released encoder
    return 2 * (20 * latent + heard + 257 * 1280)


def _file(folder: Path, shard: int) -> Path:
    return folder / f"clips-{shard:05d}.safetensors"


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with atomic_file(path, force=True) as temporary:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
