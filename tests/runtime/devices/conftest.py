from __future__ import annotations

from pathlib import Path

import pytest

from echoedge.core.bundle import Bundle
from echoedge.runtime.export import pipeline
from echoedge.runtime.registry import REGISTRY

from ...bundles import HOLLOW, small_request
from ...inline import Inline
from .lab import Lab


@pytest.fixture(scope="session")
def hollow(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with every file and nothing compiled: what is sent to devices that are not there."""
    path = tmp_path_factory.mktemp("hollow") / "small.echoedge"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "JobRunner", Inline)
        patch.setitem(REGISTRY, "hollow", HOLLOW)
        pipeline.export_bundle(small_request("fp32", "hollow"), path)
    return Bundle.open(path)


@pytest.fixture
def lab(hollow: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    return Lab(tmp_path / "lab", hollow, monkeypatch)
