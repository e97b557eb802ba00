"""The libraries that decide what a bundle is and how it plays, and their versions here."""

from __future__ import annotations

import importlib.metadata

LIBRARIES = ("echoedge", "torch", "torchao", "executorch", "diffusers", "numpy")
OPTIONAL = ("onnx", "onnxscript", "onnxruntime", "coremltools", "coreai-core", "coreai-torch")  # of extras


def library_versions() -> dict[str, str]:
    """Versions by name, read from what is installed without importing it; "not installed" where it is not."""
    versions = {}
    for name in (*LIBRARIES, *OPTIONAL):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            if name in LIBRARIES:
                versions[name] = "not installed"
    return versions
