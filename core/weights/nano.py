"""The built-in model: nano's weights ship with the package, in half precision on disk and float32 in memory."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import NANO, ModelConfig
from ..errors import CheckpointError
from ..files import atomic_file, file_sha256

if TYPE_CHECKING:
    from ..model.encoders import NanoEncoders
    from ..model.programs import Model
    from ..model.transformer import DiT
    from ..model.vae import VAE

WEIGHTS = "nano.safetensors"


def assets() -> Path:
    """The package's folder of weights and demo files."""
    return Path(str(files(__package__.rpartition(".")[0]).joinpath("assets")))


def weights_path() -> Path:
    return assets() / "nano" / WEIGHTS


def nano_digest() -> str:
    """SHA-256 of the weights file, the source that a bundle's manifest names."""
    return file_sha256(weights_path())


def load_nano(config: ModelConfig = NANO, path: Path | None = None) -> Model:
    """nano in float32, ready to run.

    Raises:
        CheckpointError: the file is missing, unreadable, or its tensors are not exactly the model's.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from ..model.encoders import NanoEncoders
    from ..model.programs import Model
    from ..model.transformer import DiT
    from ..model.vae import VAE

    path = path or weights_path()
    modules = {"dit": DiT(config), "vae": VAE(config.vae), "encoders": NanoEncoders(config)}
    try:
        tensors = {name: value.float() for name, value in load_file(path).items()}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}). Install the package again, or run echoedge train nano.") from error
    wanted = {f"{prefix}.{name}" for prefix, module in modules.items() for name in module.state_dict()}
    if wanted != set(tensors):
        missing, extra = sorted(wanted - set(tensors)), sorted(set(tensors) - wanted)
        raise CheckpointError(
            f"{path} does not hold this version of nano: {len(missing)} tensors are missing ({', '.join(missing[:3])}), "
            f"{len(extra)} are unknown ({', '.join(extra[:3])}). Install the package again, or run echoedge train nano."
        )
    for prefix, module in modules.items():
        own = {name.removeprefix(f"{prefix}."): value for name, value in tensors.items() if name.startswith(f"{prefix}.")}
        try:
            module.load_state_dict(own)
        except RuntimeError as error:
            raise CheckpointError(f"{path}: {error}") from error
        module.eval().requires_grad_(False)
    return Model(config, modules["dit"], modules["vae"], modules["encoders"])  # type: ignore[arg-type]


def save_nano(path: Path, dit: DiT, vae: VAE, encoders: NanoEncoders) -> None:
    """Writes the weights file, in place of one that is there; non-persistent buffers stay out."""
    import torch
    from safetensors.torch import save_file

    parts = {"dit": dit, "vae": vae, "encoders": encoders}
    tensors = {f"{p}.{k}": v.to(torch.float16).contiguous() for p, module in parts.items() for k, v in module.state_dict().items()}
    with atomic_file(path, force=True) as temporary:
        save_file(tensors, temporary)
