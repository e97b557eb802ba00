"""Every case recorded from upstream against product code, and proof that a wrong result, a wrong file or a lazy check fails."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from echoedge.core.errors import ConfigError

from .goldens import (
    CHECKS,
    FOLDER,
    PLACEHOLDER,
    Check,
    Comparison,
    Golden,
    GoldenError,
    cases,
    check,
    errors,
    excess,
    fault,
    faults,
)

for module in sorted(Path(__file__).parent.glob("checks_*.py")):
    import_module(f".{module.stem}", __package__)

CASES = cases()
COMPLETE = sorted(
    (case for case in CASES if not case.missing() and case.error is None), key=lambda case: -case.tensors_path.stat().st_size
)
SMALLEST = {case.kind: case for case in COMPLETE}  # the last of each kind


def require_cases(folder: Path) -> None:
    assert cases(folder), f"{folder} holds no cases (*.json of another kind than weights). Point ECHOEDGE_GOLDENS at a set of them."


def test_the_folder_holds_cases() -> None:
    require_cases(FOLDER)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_upstream(case: Golden) -> None:
    found = faults(case)
    assert not found, "\n".join(found)


# ---- what must fail --------------------------------------------------------------------------------------------------------------


def perturbed(tensor: Tensor, tolerance: dict[str, Any]) -> Tensor:
    """One element, the smallest, moved by three times what the tolerance allows: by 3 where it allows nothing, but a bool flips."""
    if tensor.dtype == torch.bool:
        return torch.cat([~tensor.flatten()[:1], tensor.flatten()[1:]]).view(tensor.shape)
    flat = tensor.flatten().clone()
    index = int(flat.double().abs().argmin())
    match tolerance:
        case {"type": "allclose", "rtol": rtol, "atol_times_absmax": atol}:
            allowed = rtol * float(flat[index].abs()) + atol * float(flat.double().abs().max())
        case {"type": "max_abs_diff", "value": value}:
            allowed = value
        case _:
            allowed = 0.0
    step = 3 * allowed or 3.0
    if not flat.is_floating_point():
        step = max(1, math.ceil(step))
        step = step if int(flat[index]) + step <= torch.iinfo(flat.dtype).max else -step
    flat[index] = (flat[index].double() + step).to(flat.dtype)
    return flat.view(tensor.shape)


def comparable(tensor: Tensor) -> bool:
    return tensor.numel() > 0 and bool(torch.isfinite(tensor.double()).all())


@pytest.mark.parametrize("kind", SMALLEST)
def test_a_perturbed_record_fails(kind: str, tmp_path: Path) -> None:
    """Each out/* tensor of a case, moved in the file: the check must compare that file's tensor, all of it, and see the change."""
    case = SMALLEST[kind]
    assert kind in CHECKS, f"{case.name} is of the kind {kind!r}, which has no check."
    for path in case.files:
        (tmp_path / path.name).symlink_to(path)
    other = Golden(case.name, tmp_path, case.data)
    other.tensors_path.unlink()
    changed = {
        name: perturbed(tensor, case.tolerance)
        for name, tensor in case.tensors().items()
        if name.startswith("out/") and name != PLACEHOLDER and comparable(tensor)
    }
    save_file(case.tensors() | changed, other.tensors_path)
    found = " ".join(faults(other))
    for name in changed:
        assert f"{case.name}, {name}: " in found, name
    for what, ours, theirs in CHECKS[kind](case):  # what the results say is not in the file
        if isinstance(theirs, np.ndarray) and theirs.size and what not in changed:
            assert fault((what, ours, perturbed(torch.from_numpy(theirs), case.tolerance)), case.tolerance), what


@pytest.fixture
def checks() -> Iterator[None]:
    """Checks that a test registers are forgotten after it."""
    kept = dict(CHECKS)
    yield
    CHECKS.clear()
    CHECKS.update(kept)


RECORDED = {"in/x": torch.tensor([1.0, 2.0]), "out/y": torch.tensor([2.0, 4.0]), "out/z": torch.tensor([3, 6])}
TOLERANCE = {"type": "allclose", "rtol": 1e-3, "atol_times_absmax": 1e-3}


def written(folder: Path, **changes: Any) -> Golden:
    """A case of doubling and tripling, with weights."""
    data = {"kind": "doubling", "tolerance": TOLERANCE, "weights": "weights.safetensors", "results": {"count": 2}} | changes
    (folder / "a.json").write_text(json.dumps(data))
    save_file(RECORDED, folder / "a.safetensors")
    save_file({"w": torch.ones(1)}, folder / "weights.safetensors")
    return Golden("a", folder, data)


def doubling(case: Golden) -> Iterator[Comparison]:
    recorded = case.tensors()
    yield "out/y", 2 * recorded["in/x"] * case.weights()["w"], recorded["out/y"]
    yield "out/z", (3 * recorded["in/x"]).long(), recorded["out/z"]
    yield "results/count", 2, case.results["count"]


def with_changes(**wrong: Any) -> Check:
    """The check above with other values of ours."""
    return lambda case: ((what, wrong.get(what.split("/")[1], ours), theirs) for what, ours, theirs in doubling(case))


@pytest.mark.usefixtures("checks")
def test_a_right_check_passes(tmp_path: Path) -> None:
    check("doubling")(doubling)
    assert faults(written(tmp_path)) == []
    assert faults(written(tmp_path, tolerance={"kind": "allclose", "rtol": 1e-3, "atol_times_absmax": 0.0})) == []


@pytest.mark.usefixtures("checks")
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"y": torch.tensor([2.0, 5.0])},
            "a, out/y: 1 of 2 elements are off, the worst by 125 times the tolerance at (1,)",
        ),
        ({"y": torch.tensor([torch.nan, 4.0])}, "a, out/y: 1 of 2 elements are off, the worst by inf times the tolerance at (0,)"),
        ({"y": torch.tensor([[2.0, 4.0]])}, "a, out/y: ours has the shape (1, 2), theirs (2,)."),
        ({"z": torch.tensor([3, 7])}, "a, out/z: 1 of 2 elements are off"),
        ({"count": 3}, "a, results/count: ours is 3, theirs 2."),
    ],
)
def test_a_wrong_result_names_case_tensor_and_place(wrong: dict[str, Any], message: str, tmp_path: Path) -> None:
    check("doubling")(with_changes(**wrong))
    assert [text.startswith(message) for text in faults(written(tmp_path))] == [True]


@pytest.mark.usefixtures("checks")
def test_a_check_that_leaves_something_out_fails(tmp_path: Path) -> None:
    check("doubling")(lambda case: list(doubling(case))[:1])
    assert faults(written(tmp_path)) == ["a: the check of 'doubling' left out out/z."]
    CHECKS["doubling"] = lambda _: []
    assert faults(written(tmp_path)) == ["a: the check of 'doubling' compared nothing."]


def raising(error: Exception) -> Check:
    def check_of_it(_: Golden) -> Iterator[Comparison]:
        raise error
        yield

    return check_of_it


@pytest.mark.usefixtures("checks")
def test_where_upstream_raised_an_error_a_typed_one_is_demanded(tmp_path: Path) -> None:
    """A case with an error that passes here fails, and so does one without that raises here."""
    refused = written(tmp_path, results={"error": "RuntimeError: sizes do not match"})
    said = "a: upstream raised 'RuntimeError: sizes do not match'; an EchoEdgeError has to be raised here, and "
    CHECKS["doubling"] = raising(ConfigError("width is 7; it must be a multiple of 16."))
    assert faults(refused) == []
    CHECKS["doubling"] = doubling
    assert faults(written(tmp_path)) == []
    assert faults(refused) == [f"{said}KeyError was, which is none ('count')."]
    CHECKS["doubling"] = lambda _: list(doubling(written(tmp_path)))
    assert faults(refused) == [f"{said}nothing was."]
    CHECKS["doubling"] = raising(RuntimeError("mat1 and mat2"))
    assert faults(refused) == [f"{said}RuntimeError was, which is none (mat1 and mat2)."]
    CHECKS["doubling"] = raising(ConfigError("width is 7."))
    with pytest.raises(ConfigError, match="width is 7"):
        faults(written(tmp_path))


def test_an_unknown_kind_fails_with_the_list(tmp_path: Path) -> None:
    (text,) = faults(written(tmp_path))
    assert text.startswith("a is of the kind 'doubling', which has no check. Known kinds: ")
    assert all(kind in text for kind in ("transformer_flash", "scheduler", "vae_decode"))
    assert faults(written(tmp_path, kind=None))


@pytest.mark.usefixtures("checks")
@pytest.mark.parametrize("name", ["a.safetensors", "weights.safetensors"])
@pytest.mark.parametrize("parts", [False, True])
def test_a_missing_file_is_named(name: str, parts: bool, tmp_path: Path) -> None:
    check("doubling")(doubling)
    case = written(tmp_path, **({"weights": {"vae": "weights.safetensors"}} if parts else {}))
    (tmp_path / name).unlink()
    assert faults(case) == [f"a lacks {tmp_path / name}."]
    with pytest.raises(GoldenError, match=rf"a needs .*/{name}, which is not there"):
        case.tensors() if name == "a.safetensors" else case.weights("vae" if parts else None)


@pytest.mark.usefixtures("checks")
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    check("doubling")(doubling)
    case = written(tmp_path)
    data = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "a.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(GoldenError, match=r"a\.safetensors cannot be read"):
        faults(case)
    (tmp_path / "b.json").write_text('{"kind": ')
    with pytest.raises(GoldenError, match=r"b\.json is not JSON"):
        cases(tmp_path)


def test_weights_are_asked_for_by_part_where_there_are_parts(tmp_path: Path) -> None:
    assert written(tmp_path).weights()["w"] == 1
    with pytest.raises(GoldenError, match="there is no file for part 'vae'"):
        written(tmp_path).weights("vae")
    with pytest.raises(GoldenError, match="there is no file for part None"):
        written(tmp_path, weights={"vae": "weights.safetensors"}).weights()


def test_a_folder_without_cases_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    (folder / "weights_a.json").write_text('{"kind": "weights"}')
    for empty in (folder, tmp_path / "missing"):
        with pytest.raises(AssertionError, match=r"holds no cases .* Point ECHOEDGE_GOLDENS at a set of them\."):
            require_cases(empty)


@pytest.mark.usefixtures("checks")
def test_a_kind_has_one_check() -> None:
    check("doubling")(doubling)
    with pytest.raises(ValueError, match="Kind 'doubling' has two checks"):
        check("tripling", "doubling")(doubling)


# ---- distances -------------------------------------------------------------------------------------------------------------------


def test_errors_are_multiples_of_the_tolerance() -> None:
    theirs = np.array([0.0, 10.0, -20.0])
    moved = theirs + [0.02, 0.06, 0.0]
    assert errors(moved, theirs, TOLERANCE).tolist() == pytest.approx([1.0, 2.0, 0.0])  # allowed 0.02, 0.03, 0.04
    assert excess(moved, theirs, TOLERANCE, absmax=40.0) == pytest.approx(1.2)  # allowed 0.04, 0.05, 0.06
    assert excess(moved, theirs, {"type": "max_abs_diff", "value": 0.03}) == pytest.approx(2.0)
    assert excess(moved, theirs, {"kind": "max_abs_diff", "value": 0.12}) == pytest.approx(0.5)
    assert excess(theirs, theirs, {"type": "exact"}) == 0.0
    assert excess(moved, theirs, {"type": "exact"}) == np.inf


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.bfloat16, torch.float16, torch.float64])
def test_every_recorded_type_is_compared(dtype: torch.dtype) -> None:
    theirs = torch.tensor([1, 0, 1]).to(dtype)
    for tolerance in (TOLERANCE, {"type": "exact"}, {"type": "max_abs_diff", "value": 0.5}):
        assert excess(theirs.clone(), theirs, tolerance) == 0.0
        assert excess(perturbed(theirs, tolerance), theirs, tolerance) > 1.0


def test_what_is_not_a_number_agrees_only_with_itself() -> None:
    theirs = np.array([np.nan, np.inf, 1.0])
    assert excess(theirs, theirs, TOLERANCE) == 0.0
    for ours in ([0.0, np.inf, 1.0], [np.nan, 0.0, 1.0], [np.nan, np.inf, np.nan], [np.nan, -np.inf, 1.0]):
        assert excess(ours, theirs, TOLERANCE) == np.inf
    assert excess(np.zeros(3), np.zeros(3), TOLERANCE) == 0.0
    assert excess(np.full(3, 1e-9), np.zeros(3), TOLERANCE) == np.inf
    assert excess(np.zeros((0, 2)), np.zeros((0, 2)), TOLERANCE) == 0.0


def test_what_cannot_be_compared_raises() -> None:
    with pytest.raises(ValueError, match=r"ours is \(2,\), theirs \(3,\)"):
        excess(np.zeros(2), np.zeros(3), TOLERANCE)
    for tolerance in ({"type": "close"}, {"type": "allclose", "rtol": 1.0}, TOLERANCE | {"atol": 1.0}, {}):
        with pytest.raises(ValueError, match="There is no rule for the tolerance"):
            excess(np.zeros(2), np.zeros(2), tolerance)
