"""The generated classes of Core ML's file format, out of coremltools, which is not imported for them.

The whole library takes ten seconds to import and tells on standard error what it cannot do on this machine; its folder of generated
classes stands alone. Where the library is imported already, its own classes are used; they are the same.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from ....core.errors import EngineError

_ALONE = "_coremltools_generated"


def generated(module: str) -> Any:
    """A module of generated classes: "Model_pb2", "MIL_pb2" or "FeatureTypes_pb2".

    Raises:
        EngineError: coremltools is not installed.
    """
    package = sys.modules.get("coremltools.proto") or sys.modules.get(_ALONE) or _alone()
    return getattr(package, module)


def _alone() -> Any:
    try:
        found = importlib.util.find_spec("coremltools")
        if found is None or not found.submodule_search_locations:
            raise ImportError("there is no module coremltools")
        folder = Path(found.submodule_search_locations[0]) / "proto"
        spec = importlib.util.spec_from_file_location(_ALONE, folder / "__init__.py", submodule_search_locations=[str(folder)])
        if spec is None or spec.loader is None:
            raise ImportError(f"{folder} is not a package")
        package = importlib.util.module_from_spec(spec)
        sys.modules[_ALONE] = package
        try:
            spec.loader.exec_module(package)
        except BaseException:
            del sys.modules[_ALONE]
            raise
    except (ImportError, OSError) as error:
        raise EngineError(
            f"Reading Core ML packages needs coremltools, which is not here ({error}). pip install 'echoedge[coreml]'"
        ) from error
    return package
