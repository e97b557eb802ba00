"""Typed errors. Each message quotes the bad value and says what to do next; the CLI prints it as it is."""


class EchoEdgeError(Exception):
    """Base of every error that a user can cause and mend."""


class ConfigError(EchoEdgeError, ValueError):
    """A model, clip, sampler or recipe option has a value that cannot work."""


class InputError(EchoEdgeError, ValueError):
    """An image, a sound or a prompt cannot be used."""


class BundleError(EchoEdgeError):
    """A bundle is missing, incomplete, altered or of an unknown format."""


class OutputError(EchoEdgeError):
    """An output path exists already or cannot be written."""


class CheckpointError(EchoEdgeError):
    """A checkpoint lacks tensors, has unexpected ones, or shapes that do not fit."""


class ExportError(EchoEdgeError):
    """A program could not be compiled, or the compiled file does not compute what the reference computes."""


class EngineError(EchoEdgeError):
    """An engine is not installed, or cannot run a bundle's programs."""


class ResourceError(EchoEdgeError):
    """Too little disk or memory for what was asked."""


class TrainingError(EchoEdgeError):
    """A training has come to what cannot be gone on from."""


class DeviceError(EchoEdgeError):
    """A phone or a board cannot be reached, cannot play, or stopped playing. `fault`: its name in docs/DEVICE_BENCH.md."""

    def __init__(self, message: str, fault: str = "") -> None:
        super().__init__(message)
        self.fault = fault
