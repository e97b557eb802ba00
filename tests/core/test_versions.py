"""core/versions.py: what is installed, and what is not."""

from __future__ import annotations

import pytest
import torch

from echoedge.core import versions


def test_versions_are_those_that_are_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    assert torch.__version__.startswith(versions.library_versions()["torch"])
    monkeypatch.setattr(versions, "LIBRARIES", ("torch", "no-such-library"))
    assert versions.library_versions()["no-such-library"] == "not installed"
