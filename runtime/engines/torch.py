"""Programs in full precision, in PyTorch: those of the built-in model, whose bundles are compared with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from ...core.bundle import Bundle
from ...core.errors import EngineError
from ...core.model.programs import EntryPoints, build_programs
from ...core.weights.nano import load_nano, nano_digest, student_path, weights_path
from .base import Array, check_inputs, contiguous


class TorchEngine:
    """Runs the programs of the reference model, float32."""

    name = "torch"

    def __init__(self, programs: Mapping[str, EntryPoints]) -> None:
        self.programs = programs

    @classmethod
    def for_bundle(cls, bundle: Bundle) -> TorchEngine:
        """The model that `bundle` was compiled from, the teacher or the student.

        Raises:
            EngineError: its weights are none of those that ship with this package.
        """
        record = bundle.manifest.model
        if record.preset != "nano":
            raise EngineError(
                f"The bundle was compiled from {record.preset}, whose weights do not ship with EchoEdge. Use --engine executorch."
            )
        shipped = {nano_digest(path): path for path in (weights_path(), student_path())}
        if record.source_sha256 not in shipped:
            known = " and ".join(f"{digest[:12]}…" for digest in shipped)
            raise EngineError(
                f"The bundle was compiled from other weights of nano (SHA-256 {record.source_sha256[:12]}…) than this package has "
                f"({known}). Export it again."
            )
        model, reuse = load_nano(bundle.model, shipped[record.source_sha256]), "denoise_reusing" in bundle.roles
        return cls(build_programs(model, bundle.clip, bundle.manifest.playing.text_rows, reuse))

    @property
    def threads(self) -> int:
        return torch.get_num_threads()

    def has(self, program: str) -> bool:
        return program in self.programs

    def run(self, program: str, method: str, inputs: Sequence[Array]) -> list[Array]:
        try:
            entry = self.programs[program][method]
        except KeyError as error:
            raise EngineError(f"The model has no program {program}.{method}.") from error
        wanted = [(name, str(value.dtype).removeprefix("torch."), tuple(value.shape)) for name, value in entry.inputs.items()]
        check_inputs(f"{program}.{method}", wanted, inputs)
        outputs = entry.run(*(torch.from_numpy(contiguous(array)) for array in inputs))
        return [tensor.numpy() for tensor in outputs]
