"""The built-in model: nano's weights ship with the package, in half precision on disk and float32 in memory.

Two files do: the teacher's, which takes any number of steps with guidance, and its student's, which takes few of one forward each.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import NANO, ModelConfig
from ..errors import CheckpointError, ConfigError
from ..files import atomic_file, file_sha256
from .passport import STUDENT, Passport

if TYPE_CHECKING:
    from torch import nn

    from ..model.encoders import NanoEncoders
    from ..model.programs import Model
    from ..model.transformer import DiT
    from ..model.vae import VAE

WEIGHTS, STUDENT_WEIGHTS = "nano.safetensors", "student.safetensors"
STUDENT_STEPS = 2  # that the shipped student takes unless it is told otherwise
WORLD = "world"  # in the file's metadata
PARTS = ("dit.", "vae.", "encoders.")


def assets() -> Path:
    """The package's folder of weights and demo files."""
    return Path(str(files(__package__.rpartition(".")[0]).joinpath("assets")))


def weights_path() -> Path:
    return assets() / "nano" / WEIGHTS


def student_path() -> Path:
    """The weights file of the student that ships."""
    return assets() / "nano" / STUDENT_WEIGHTS


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


@dataclass(frozen=True)
class Inspected:
    """What a weights file of nano holds. passport: of a student; parameters: in memory, by part; bytes: of the file."""

    path: Path
    sha256: str
    world: str
    passport: Passport | None
    parameters: dict[str, int]
    bytes: int

    def to_dict(self) -> dict[str, Any]:
        return {
            "file": str(self.path), "model": "nano", "sha256": self.sha256, "world": self.world, "bytes": self.bytes,
            "parameters": self.parameters, "student": None if self.passport is None else self.passport.model_dump(mode="json"),
        }  # fmt: skip


def is_nano(path: Path) -> bool:
    """Whether a file is one that `train nano` or `distill nano` wrote, by the names of its tensors."""
    from safetensors import SafetensorError, safe_open

    if path.suffix != ".safetensors" or not path.is_file():
        return False
    try:
        with safe_open(path, "numpy") as file:
            names = list(file.keys())
    except (OSError, SafetensorError):
        return False
    return bool(names) and all(name.startswith(PARTS) for name in names)


def inspect_nano(path: Path) -> Inspected:
    """Reads a whole weights file of nano.

    Raises:
        CheckpointError: as `load_nano`.
    """
    model = load_nano(path=path)
    modules: dict[str, nn.Module | None] = {"transformer": model.dit, "VAE": model.vae, "encoders": model.encoders}
    counts = {name: sum(p.numel() for p in module.parameters()) for name, module in modules.items() if module is not None}
    return Inspected(path, nano_digest(path), read_world(path), read_passport(path), counts, path.stat().st_size)


def _metadata(path: Path) -> dict[str, str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}). Install the package again, or run echoedge train nano.") from error


def load_nano(config: ModelConfig = NANO, path: Path | None = None) -> Model:
    """nano in float32, ready to run: a teacher, or a student where the file has a passport. What a student's file leaves out is the
    shipped teacher's.

    Raises:
        CheckpointError: the file is missing, unreadable, or its tensors are not exactly the model's; or it leaves out what belongs
            to another teacher.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from ..model.encoders import NanoEncoders
    from ..model.programs import Model
    from ..model.transformer import DiT
    from ..model.vae import VAE
    from .difference import restored

    path = path or weights_path()
    passport = read_passport(path)
    if passport is not None:
        config = replace(config, flow_map=True)
    modules = {"dit": DiT(config), "vae": VAE(config.vae), "encoders": NanoEncoders(config)}
    try:
        tensors = load_file(path)
        if passport is not None and all(name.startswith("dit.") for name in tensors):
            if passport.teacher != nano_digest():
                raise CheckpointError(
                    f"{path} holds a student's transformer alone, and its teacher ({passport.teacher[:12]}…) is not the one that "
                    f"ships ({nano_digest()[:12]}…). Teach it again: echoedge distill nano."
                )
            taught_by = load_file(weights_path())
            tensors = restored(tensors, taught_by) | {k: v for k, v in taught_by.items() if not k.startswith("dit.")}
        tensors = {name: value.float() for name, value in tensors.items()}
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
    path: Path,
    dit: DiT,
    vae: VAE,
    encoders: NanoEncoders,
    passport: Passport | None = None,
    world: str = "calm",
    small: bool = False,
) -> None:
    """Writes the weights file, in place of one that is there; non-persistent buffers stay out. `passport`: of a student, whose file
    holds the transformer alone where its teacher is the one that ships; `world`: the drawn one, which a file names unless it is
    calm; `small`: a student of that teacher as its difference (`difference.py`).

    Raises:
        ConfigError: `small`, and it is no student of the teacher that ships.
    """
    import torch
    from safetensors.torch import load_file, save_file

    from .difference import differences

    parts: dict[str, nn.Module] = {"dit": dit, "vae": vae, "encoders": encoders}
    if passport is not None and passport.teacher == nano_digest():
        parts = {"dit": dit}
    elif small:
        raise ConfigError("Only a student of the teacher that ships is kept as its difference from it. Leave --small.")
    tensors = {f"{p}.{k}": v.to(torch.float16).contiguous() for p, module in parts.items() for k, v in module.state_dict().items()}
    if small:
        exact = {f"dit.{name}": value.float() for name, value in dit.state_dict().items()}
        tensors = differences(exact, load_file(weights_path()))
    told = ({} if passport is None else {STUDENT: passport.model_dump_json()}) | ({} if world == "calm" else {WORLD: world})
    with atomic_file(path, force=True) as temporary:
        save_file(tensors, temporary, told)
