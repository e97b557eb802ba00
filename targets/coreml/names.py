"""What compiler and engines agree on of a program's folder and its packages; engines do not import the compiler."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

PACKAGE = ".mlpackage"  # METHOD.mlpackage has one method of a program
FUNCTIONS = f"functions{PACKAGE}"  # in their place: a package with a function for each method

# What Core ML may run programs on, and what coremltools calls it.
UNITS = {"all": "ALL", "gpu": "CPU_AND_GPU", "ane": "CPU_AND_NE", "cpu": "CPU_ONLY"}
LAYOUTS = ("gpu", "ane")  # of the transformer's step: tokens before channels, or as the Neural Engine has them
ROW = 32  # numbers that inputs of the second layout may be filled up by
LARGEST = 32768.0  # what stands for numbers that half precision does not hold: masks, which are added to something


def package_of(folder: Path, method: str) -> Path:
    together = folder / FUNCTIONS
    return together if together.is_dir() else folder / f"{method}{PACKAGE}"


def output_names(inputs: Iterable[str], outputs: Iterable[str]) -> list[str]:
    """What outputs are called in a package, which has each name once."""
    taken = set(inputs)
    return [f"new_{name}" if name in taken else name for name in outputs]
