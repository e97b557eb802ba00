"""The selection of cases that is committed: every kind, the cheapest, with what tests name, within its bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from . import select_goldens
from .goldens import cases
from .select_goldens import copy, selection

SIZES = {
    "small": ("a", 10, "w1"),
    "large": ("a", 500, "w2"),
    "other": ("b", 300, "w2"),
    "plain": ("c", 5, None),
    "c2": ("c", 9, None),
}


def test_a_case_of_an_error_does_not_stand_for_its_kind(source: Path) -> None:
    data = json.loads((source / "plain.json").read_text())
    (source / "plain.json").write_text(json.dumps(data | {"results": {"error": "ValueError: no"}}))
    assert [case.name for case in selection(cases(source), [])] == ["c2", "large", "other"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Kind a: 10 bytes with 1000 of weights, or 500 with the 2000 that kind b needs anyway."""
    folder = tmp_path / "source"
    folder.mkdir()
    for name, (kind, size, weights) in SIZES.items():
        data = {"kind": kind, "weights": f"{weights}.safetensors" if weights else None}
        (folder / f"{name}.json").write_text(json.dumps(data))
        (folder / f"{name}.safetensors").write_bytes(bytes(size))
    (folder / "w1.safetensors").write_bytes(bytes(1000))
    (folder / "w2.safetensors").write_bytes(bytes(2000))
    (folder / "w1.json").write_text('{"kind": "weights"}')
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_every_kind_is_there_and_weights_are_shared(source: Path) -> None:
    assert [case.name for case in selection(cases(source), [])] == ["large", "other", "plain"]
    assert [case.name for case in selection(cases(source), ["small"])] == ["other", "plain", "small"]
    assert [case.name for case in selection(cases(source), ["c2"])] == ["c2", "large", "other"]


def test_the_target_holds_the_selection_and_nothing_else(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "old.json").write_text("{}")
    chosen = selection(cases(source), [])
    size = copy(chosen, target)
    files = ["large", "other", "plain"]
    assert names(target) == sorted(
        ["w2.safetensors", *(f"{name}.{suffix}" for name in files for suffix in ("json", "safetensors"))]
    )
    assert size == sum(path.stat().st_size for path in target.iterdir())
    assert not any(case.missing() for case in cases(target))


def test_too_much_is_refused_before_anything_changes(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "old.json").write_text("{}")
    monkeypatch.setattr(select_goldens, "MAX_BYTES", 2000)
    with pytest.raises(ValueError, match="at most 2,000 may be committed"):
        copy(selection(cases(source), []), target)
    assert names(target) == ["old.json"]


def test_what_is_not_there_is_refused(source: Path) -> None:
    with pytest.raises(ValueError, match="There is no case nobody"):
        selection(cases(source), ["nobody", "small"])
    (source / "w2.safetensors").unlink()
    with pytest.raises(ValueError, match=r"The set lacks .*w2\.safetensors"):
        selection(cases(source), [])
