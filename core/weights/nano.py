"""The built-in model: nano's weights ship with the package, in half precision on disk and float32 in memory."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import NANO, ModelConfig
from ..errors import CheckpointError
from ..files import atomic_file, file_sha256
from .passport import STUDENT, Passport

if TYPE_CHECKING:
    from ..model.encoders import NanoEncoders
    from ..model.programs import Model
    from ..model.transformer import DiT
    from ..model.vae import VAE

WEIGHTS = "nano.safetensors"
WORLD = "world"  # in the file's metadata


def assets() -> Path:
    """The package's folder of weights and demo files."""
    return Path(str(files(__package__.rpartition(".")[0]).joinpath("assets")))


def weights_path() -> Path:
    return assets() / "nano" / WEIGHTS


def nano_digest(path: Path | None = None) -> str:
    """SHA-256 of a weights file, the shipped one by default: the source that a bundle's manifest names."""
    return file_sha256(path or weights_path())


def read_passport(path: Path | None = None) -> Passport | None:
    """What the student in a weights file, the shipped one by default, was taught; None of a teacher's.

    Raises:
        CheckpointError: the file cannot be read, or its passport is of another version.
    """
    path = path or weights_path()
    told = _metadata(path).get(STUDENT)
    return None if told is None else Passport.read(told, str(path))


def read_world(path: Path | None = None) -> str:
    """The drawn world that a weights file, the shipped one by default, was trained in; "calm" where it does not say.

    Raises:
        CheckpointError: the file cannot be read.
    """
    return _metadata(path or weights_path()).get(WORLD, "calm")


def _metadata(path: Path) -> dict[str, str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}). Install the package again, or run echoedge train nano.") from error


def load_nano(config: ModelConfig = NANO, path: Path | None = None) -> Model:
    """nano in float32, ready to run: a teacher, or a student where the file has a passport.

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
    if read_passport(path) is not None:
        config = replace(config, flow_map=True)
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


def save_nano(
    path: Path, dit: DiT, vae: VAE, encoders: NanoEncoders, passport: Passport | None = None, world: str = "calm"
) -> None:
    """Writes the weights file, in place of one that is there; non-persistent buffers stay out. `passport`: of a student; `world`:
    the drawn one, which a file names unless it is calm."""
    import torch
    from safetensors.torch import save_file

    parts = {"dit": dit, "vae": vae, "encoders": encoders}
    tensors = {f"{p}.{k}": v.to(torch.float16).contiguous() for p, module in parts.items() for k, v in module.state_dict().items()}
    told = ({} if passport is None else {STUDENT: passport.model_dump_json()}) | ({} if world == "calm" else {WORLD: world})
    with atomic_file(path, force=True) as temporary:
        save_file(tensors, temporary, told)
