"""Which folders are in the package: the repository's root is `echoedge`, and its floors are found rather than listed.

Everything else about the package is in pyproject.toml.
"""

import warnings

from setuptools import find_namespace_packages, setup

FLOORS = ("core", "quantize", "targets", "runtime", "cli")

if __name__ == "__main__":  # it lies in the package's folder: importing it does nothing
    # Folders of data are packages without modules; what Python has compiled is none.
    found = find_namespace_packages(include=[*FLOORS, *(f"{floor}.*" for floor in FLOORS)], exclude=["*.__pycache__"])
    warnings.filterwarnings(
        "ignore", message="Editable installation"
    )  # it warns of folders named as the package, which is the root
    # Its own name keeps this file out of the package.
    setup(script_name="setup.py", package_dir={"echoedge": "."}, packages=["echoedge", *(f"echoedge.{name}" for name in found)])
