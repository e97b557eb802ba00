"""Folders of weights in upstream's layout and size, filled with random numbers: for everything that depends on shapes and not on
what was learned, such as export, memory, speed and file sizes, where the released weights are not at hand.

Each tensor is drawn by a generator of its own, seeded with (seed, component, tensor name), from sums of 16-bit integers. So a
tensor is the same to the last bit whatever else is written, on every machine. Tensors go to disk in pieces; none is ever whole in
memory.

A draw is bell-shaped: the sum of four uniform 16-bit integers, scaled (at most 3.46 standard deviations). Matrices have a standard
deviation of fan_in^-1/2, so that activations keep their size; norms are near 1, biases near 0.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config import preset
from ..errors import ConfigError
from ..files import atomic_folder, require_free_disk
from ..model.architecture import Architecture, ComponentName, TextTowerConfig, TransformerLayout, VAELayout
from ..model.pretrained import Shapes, weight_and_bias
from ..model.pretrained_image import PictureEncoderConfig
from ..plan import check_seed
from .accounts import BASE_FOLDER, NEEDED_FOR, OVERLAY_FILE
from .checkpoints import SPEECH_FILES

RECORD = "random_weights.json"  # in the folder: what was drawn; --force replaces only folders that have it
DEFAULT_COMPONENTS: tuple[ComponentName, ...] = ("transformer", "vae", "clip", "wav2vec2", "tokenizer", "tiny_vae")
RELEASED_TYPES: dict[ComponentName, torch.dtype] = {
    "transformer": torch.bfloat16, "vae": torch.float32, "clip": torch.float32, "wav2vec2": torch.float32,
    "text_encoder": torch.bfloat16, "tiny_vae": torch.float16,
}  # fmt: skip
_PIECE = 1 << 18  # elements drawn at once; the numbers do not depend on it
_SUM_MEAN = 2 * 65535.0  # of four uniform 16-bit integers
_SUM_DEVIATION = math.sqrt(4 * (65536**2 - 1) / 12)

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class RandomFile:
    """One file of tensors: where, what of, in which type. `stream` seeds them, so that base and overlay differ."""

    path: str
    component: ComponentName
    stream: str
    shapes: Shapes
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        return sum(torch.Size(shape).numel() for shape in self.shapes.values()) * self.dtype.itemsize


def random_record(folder: Path) -> dict[str, Any] | None:
    """What `write_random_checkpoint` left in the folder, or in the one that it lies in; None where weights are not random."""
    for place in (folder, folder.parent):
        try:
            content = json.loads((place / RECORD).read_text())
        except (OSError, ValueError):
            continue
        return content if isinstance(content, dict) else None
    return None


def write_random_checkpoint(
    folder: str | Path,
    model: str = "flash",
    components: Sequence[str] = DEFAULT_COMPONENTS,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    base: bool = True,
    force: bool = False,
    progress: Progress | None = None,
    architecture: Architecture | None = None,
) -> dict[str, int]:
    """Write `folder` in upstream's layout. -> bytes of each file of tensors, by its path in the folder.

    `dtype`: of all weights; without it, each file's released type. `base`: also Wan's own transformer, which the released folder
    has and which the full one beside it makes needless. `progress` is called with a component, its bytes done, its bytes in all.

    Raises:
        ConfigError: there is no such model or component, the model is built in, or the seed is out of range.
        OutputError: the folder exists and `force` is off, or it was not written by this function.
        ResourceError: too little disk.
    """
    config = preset(model)
    if config.name not in SPEECH_FILES:
        raise ConfigError(f"{model}'s weights are built in; a checkpoint is of {' or '.join(SPEECH_FILES)}.")
    check_seed(seed)
    names = _checked(components)
    sizes = architecture or Architecture(transformer=config)
    files = [file for file in random_files(sizes, dtype, base) if file.component in names]
    require_free_disk(folder, sum(file.bytes for file in files))
    with atomic_folder(folder, force, marker=RECORD) as temporary:
        for component in dict.fromkeys(file.component for file in files):
            _write_component(temporary, [file for file in files if file.component == component], seed, sizes, progress)
        _write_descriptions(temporary, sizes, names)
        record = {"model": model, "seed": seed, "components": list(names), "files": {file.path: str(file.dtype) for file in files}}
        _write_json(temporary / RECORD, record)
    return {file.path: (Path(folder) / file.path).stat().st_size for file in files}


def _checked(components: Sequence[str]) -> tuple[ComponentName, ...]:
    unknown = [name for name in components if name not in NEEDED_FOR]
    if unknown or not components:
        raise ConfigError(f"{unknown[0] if unknown else 'nothing'!r} is no component. Choose from: {', '.join(NEEDED_FOR)}.")
    return tuple(name for name in NEEDED_FOR if name in components)


# -- 1. which files ----------------------------------------------------------------------------------------------------------------


def random_files(sizes: Architecture, dtype: torch.dtype | None, base: bool) -> Iterator[RandomFile]:
    """Every file of tensors that a folder of random weights may have."""

    def file(path: str, component: ComponentName, shapes: Shapes, stream: str | None = None) -> RandomFile:
        return RandomFile(path, component, stream or component, shapes, dtype or RELEASED_TYPES[component])

    layout = TransformerLayout(sizes.transformer)
    whole = layout.tensors() | layout.dead
    if base:
        own = {name: shape for name, shape in whole.items() if "audio" not in name}
        yield file(f"{BASE_FOLDER}/diffusion_pytorch_model.safetensors", "transformer", own, "base")
    yield file(OVERLAY_FILE, "transformer", whole)
    yield file(f"{BASE_FOLDER}/Wan2.1_VAE.pth", "vae", VAELayout(sizes.transformer.vae).tensors())
    clip = f"{BASE_FOLDER}/models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"
    yield file(clip, "clip", _clip_shapes(sizes.clip, sizes.clip_text))
    shapes = sizes.wav2vec2.tensors() | {"masked_spec_embed": (sizes.wav2vec2.dim,)}
    yield file(SPEECH_FILES[sizes.transformer.variant], "wav2vec2", {f"wav2vec2.{key}": shape for key, shape in shapes.items()})
    yield file(f"{BASE_FOLDER}/models_t5_umt5-xxl-enc-bf16.pth", "text_encoder", sizes.text_encoder.tensors())
    yield file("taew2_1.pth", "tiny_vae", sizes.tiny_vae.tensors())


def _clip_shapes(config: PictureEncoderConfig, text: TextTowerConfig) -> Shapes:
    """The released file: the executed part of the visual tower, its rest, the text tower."""
    whole = replace(config, layers=config.layers + 1).tensors()  # of a tower with one layer more, all but the last are executed
    rest: Shapes = {"visual.head": (config.dim, text.out_dim), "log_scale": ()}
    rest |= weight_and_bias("visual.post_norm", config.dim)
    return whole | rest | {f"textual.{name}": shape for name, shape in text.tensors().items()}


# -- 2. which numbers --------------------------------------------------------------------------------------------------------------


def statistics(component: str, name: str, shape: tuple[int, ...], sizes: Architecture) -> tuple[float, float]:
    """Mean and standard deviation of a tensor's numbers."""
    leaf = name.rsplit(".", 1)[-1]
    fan_in = torch.Size(shape[1:]).numel()
    if name == "log_scale":
        return math.log(1 / 0.07), 0.0
    if leaf == "weight_g":  # the length of each tap, such that a channel's taps together have length 1
        return math.sqrt(sizes.wav2vec2.dim / shape[-1]), 0.02
    if leaf == "gamma" or (leaf == "weight" and len(shape) == 1):
        return 1.0, 0.05
    if leaf == "bias" or len(shape) <= 1:
        return 0.0, 0.02
    if leaf in ("modulation", "cls_embedding", "pos_embedding") or "pos_embedding." in name:
        return 0.0, shape[-1] ** -0.5
    if name == "token_embedding.weight":
        return 0.0, 1.0
    if component == "text_encoder" and name.endswith("attn.q.weight"):  # umT5 does not divide its logits by the heads' width
        return 0.0, (fan_in * sizes.text_encoder.attention_dim / sizes.text_encoder.heads) ** -0.5
    if component == "vae" and name.endswith(("residual.6.weight", "proj.weight")):  # depth starts near identity
        return 0.0, 0.3 * fan_in**-0.5
    if "conv_layers." in name or component == "tiny_vae":  # what a rectifier takes away
        return 0.0, math.sqrt(2 / fan_in)
    return 0.0, fan_in**-0.5


def draw(stream: str, name: str, count: int, mean: float, deviation: float, seed: int, piece: int = _PIECE) -> Iterator[Tensor]:
    """`count` float32 numbers of the tensor `name`, in pieces of `piece`; they depend on stream, name and seed alone."""
    key = hashlib.sha256(f"{seed}/{stream}/{name}".encode()).digest()
    bits = np.random.PCG64DXSM(int.from_bytes(key, "big"))
    scale, offset = np.float32(deviation / _SUM_DEVIATION), np.float32(mean)
    for start in range(0, count, piece):
        parts = bits.random_raw(min(piece, count - start)).view(np.uint16).reshape(-1, 4)
        total = parts[:, 0].astype(np.int32)
        for part in range(1, 4):
            total += parts[:, part]
        values = total.astype(np.float32)
        values -= np.float32(_SUM_MEAN)  # exact: below 2^24
        values *= scale
        values += offset
        yield torch.from_numpy(values)


def _write_component(folder: Path, files: list[RandomFile], seed: int, sizes: Architecture, progress: Progress | None) -> None:
    done, total = 0, sum(file.bytes for file in files)
    for file in files:

        def pieces(name: str, file: RandomFile = file) -> Iterator[bytes]:
            nonlocal done
            shape = file.shapes[name]
            mean, deviation = statistics(file.component, name, shape, sizes)
            for piece in draw(file.stream, name, torch.Size(shape).numel(), mean, deviation, seed):
                data = piece.to(file.dtype).view(torch.uint8).numpy().tobytes()
                yield data
                done += len(data)
                if progress is not None:
                    progress(file.component, done, total)

        path = folder / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        write = write_safetensors if path.suffix == ".safetensors" else write_pth
        write(path, file.shapes, file.dtype, pieces)


# -- 3. how they are stored --------------------------------------------------------------------------------------------------------

Pieces = Callable[[str], Iterator[bytes]]
_SAFETENSORS_NAMES = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}
_STORAGES = {torch.bfloat16: torch.BFloat16Storage, torch.float16: torch.HalfStorage, torch.float32: torch.FloatStorage}
_ALIGNMENT = 64


def write_safetensors(path: Path, shapes: Shapes, dtype: torch.dtype, pieces: Pieces) -> None:
    """A `.safetensors` file of the tensors `shapes`, whose little-endian bytes come in pieces, tensor by tensor."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + torch.Size(shape).numel() * dtype.itemsize
        header[name] = {"dtype": _SAFETENSORS_NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in shapes:
            file.writelines(pieces(name))


def write_pth(path: Path, shapes: Shapes, dtype: torch.dtype, pieces: Pieces) -> None:
    """The file that `torch.save` would write of an ordered dictionary of these tensors, without holding them in memory.

    A zip archive, uncompressed: a pickle that names the storages, and each storage as a record that starts at a multiple of 64
    bytes, so that it can be mapped.
    """
    with path.open("wb") as whole, zipfile.ZipFile(whole, "w") as archive:
        archive.writestr(zipfile.ZipInfo("archive/data.pkl"), _tensor_pickle(shapes, dtype))
        archive.writestr(zipfile.ZipInfo("archive/byteorder"), b"little")
        for index, (name, shape) in enumerate(shapes.items()):
            record = zipfile.ZipInfo(f"archive/data/{index}")
            record.file_size = torch.Size(shape).numel() * dtype.itemsize
            record.extra = _padding(whole.tell() + _ZIP_HEADER + len(record.filename))
            with archive.open(record, "w", force_zip64=True) as file:
                for piece in pieces(name):
                    file.write(piece)
        archive.writestr(zipfile.ZipInfo("archive/version"), b"3\n")


_ZIP_HEADER = 30 + 20  # before a record's data, besides its name: the fixed part, and the 64-bit sizes


def _padding(position: int) -> bytes:
    """A zip extra field that moves what would start at `position` to a multiple of the alignment."""
    length = -(position + 4) % _ALIGNMENT
    return struct.pack("<HH", 0x4246, length) + b"\0" * length


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: torch.dtype
    count: int


@dataclass(frozen=True)
class _StoredTensor:
    storage: _Storage
    shape: tuple[int, ...]


class _TensorPickler(pickle.Pickler):
    """Pickles `_StoredTensor` as torch.save pickles a tensor, with its storage by reference."""

    def persistent_id(self, obj: Any) -> Any:
        if isinstance(obj, _Storage):
            return ("storage", _STORAGES[obj.dtype], obj.key, "cpu", obj.count)
        return None

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, _StoredTensor):
            strides = torch.empty(obj.shape, device="meta").stride()
            return torch._utils._rebuild_tensor_v2, (obj.storage, 0, obj.shape, strides, False, OrderedDict())
        return NotImplemented


def _tensor_pickle(shapes: Shapes, dtype: torch.dtype) -> bytes:
    tensors = OrderedDict(
        (name, _StoredTensor(_Storage(str(index), dtype, torch.Size(shape).numel()), shape))
        for index, (name, shape) in enumerate(shapes.items())
    )
    buffer = io.BytesIO()
    _TensorPickler(buffer, protocol=2).dump(tensors)
    return buffer.getvalue()


# -- 4. what lies beside the weights -----------------------------------------------------------------------------------------------


def _write_descriptions(folder: Path, sizes: Architecture, names: Sequence[ComponentName]) -> None:
    config, speech = sizes.transformer, sizes.wav2vec2
    if "transformer" in names:
        _write_json(folder / BASE_FOLDER / "config.json", {
            "_class_name": "WanModel", "dim": config.dim, "eps": config.eps, "ffn_dim": config.ffn_dim,
            "freq_dim": config.freq_dim, "in_dim": config.in_channels, "model_type": "i2v", "num_heads": config.heads,
            "num_layers": config.layers, "out_dim": config.latent_channels, "text_len": config.text_len,
        })  # fmt: skip
    if "wav2vec2" in names:
        own = (folder / SPEECH_FILES[config.variant]).parent
        _write_json(own / "config.json", {
            "architectures": ["Wav2Vec2Model"], "model_type": "wav2vec2", "hidden_size": speech.dim,
            "num_hidden_layers": speech.layers, "num_attention_heads": speech.heads, "intermediate_size": speech.ffn_dim,
            "conv_dim": speech.conv_dims, "conv_kernel": speech.conv_kernels, "conv_stride": speech.conv_strides,
            "conv_bias": speech.conv_bias, "num_conv_pos_embeddings": speech.position_kernel,
            "num_conv_pos_embedding_groups": speech.position_groups, "layer_norm_eps": speech.eps,
            "num_feat_extract_layers": len(speech.conv_dims), "feat_extract_norm": "group", "feat_extract_activation": "gelu",
            "hidden_act": "gelu", "do_stable_layer_norm": False,
        })  # fmt: skip
        _write_json(own / "preprocessor_config.json", {
            "feature_extractor_type": "Wav2Vec2FeatureExtractor", "feature_size": 1, "sampling_rate": 16000, "padding_value": 0.0,
            "do_normalize": True, "return_attention_mask": False,
        })  # fmt: skip
    if "tokenizer" in names:
        write_tokenizer(folder / BASE_FOLDER / "google" / "umt5-xxl")


def write_tokenizer(folder: Path) -> None:
    """A tokenizer that splits any text into letters, digits, marks and, of everything else, bytes: not umT5's vocabulary, but with
    its special tokens (<pad> 0, </s> 1, <unk> 2) and its way of marking words and of ending a prompt.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    letters = "▁abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,;:!?'\"()-"
    vocabulary = [(token, 0.0) for token in ("<pad>", "</s>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)))]
    vocabulary += [(letter, -4.0) for letter in letters]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=2, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    _write_json(folder / "tokenizer_config.json", special | {"tokenizer_class": "PreTrainedTokenizerFast"})


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")
