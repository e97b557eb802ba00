"""What ExecuTorch can lower a program to. XNNPACK runs on any CPU, this machine's included; the others are lowered ahead of time
and only checked structurally: they run on devices that a compiling machine does not have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...core.errors import ConfigError, ExportError
from ...core.plan import check_choice


def _xnnpack() -> Any:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

    return XnnpackPartitioner()


def _vulkan() -> Any:
    from executorch.backends.vulkan.partitioner.vulkan_partitioner import VulkanPartitioner

    return VulkanPartitioner({"force_fp16": True})


def _coreml() -> Any:
    import coremltools
    from executorch.backends.apple.coreml.compiler import CoreMLBackend
    from executorch.backends.apple.coreml.partition import CoreMLPartitioner

    specs = CoreMLBackend.generate_compile_specs(
        compute_precision=coremltools.precision.FLOAT16, minimum_deployment_target=coremltools.target.iOS18
    )
    return CoreMLPartitioner(compile_specs=specs, lower_full_graph=False)


def _mps() -> Any:
    from executorch.backends.apple.mps.partition import MPSPartitioner
    from executorch.exir.backend.backend_details import CompileSpec

    return MPSPartitioner([CompileSpec("use_fp16", bytes([True]))])


@dataclass(frozen=True)
class Backend:
    """`title`: for people; `identifier`: the name that a lowered program carries. `executed`: programs are run and compared when
    they are compiled. `weights`: the schemes that it computes correctly. `needs`: a package beside executorch."""

    name: str
    title: str
    identifier: str
    build: Callable[[], Any]
    executed: bool
    weights: tuple[str, ...]
    needs: str | None = None

    def partitioner(self) -> Any:
        """Raises ExportError: the backend's compiler is not installed."""
        try:
            return self.build()
        except ImportError as error:
            remedy = f"Install it: pip install 'echoedge[{self.needs}]'." if self.needs else "Install executorch again."
            raise ExportError(f"The compiler of the backend {self.name} is not installed ({error}). {remedy}") from error

    def check_weights(self, used: set[str]) -> None:
        """Raises ConfigError: a recipe has weights that this backend does not run as they are meant."""
        wrong = sorted(used - set(self.weights))
        if wrong:
            raise ConfigError(f"The backend {self.title} takes {' and '.join(self.weights)} weights, not {', '.join(wrong)}.")


BACKENDS = {
    backend.name: backend
    for backend in (
        Backend("xnnpack", "XNNPACK", "XnnpackBackend", _xnnpack, True, ("fp32", "int8", "int4")),
        Backend("vulkan", "Vulkan", "VulkanBackend", _vulkan, False, ("fp32",)),
        Backend("coreml", "Core ML", "CoreMLBackend", _coreml, False, ("fp32",), "coreml"),
        Backend("mps", "Metal Performance Shaders", "MPSBackend", _mps, False, ("fp32",)),
    )
}


def backend(name: str) -> Backend:
    """Raises ConfigError: there is no such backend; the message lists them."""
    check_choice("backend", name, tuple(BACKENDS))
    return BACKENDS[name]
