"""Golden vectors: another player that follows docs/PLAYERS.md passes all of them, one with a likely mistake does not."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from echoedge.core.bundle.records import parse_record
from echoedge.core.errors import OutputError
from echoedge.core.plan import SamplingPlan
from echoedge.core.plan.samplers import PLAN_PRESETS
from echoedge.runtime.vectors import json_numbers, write
from echoedge.runtime.vectors.write import GROUPS, write_vectors

from ...commands import Run, complaint
from . import peer, peer_bundles, peer_sounds
from .peer import RefusedError, differs, resolved

ROOT = Path(__file__).parents[3]
MOST_BYTES = 3_000_000
PAGE = ROOT / "docs" / "PLAYERS.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("vectors") / "vectors"
    write_vectors(out)
    return out


def cases(folder: Path, kind: str | None = None) -> Iterator[dict[str, Any]]:
    for group in json.loads((folder / "index.json").read_bytes())["groups"].values():
        for case in json.loads((folder / group["file"]).read_bytes())["cases"]:
            if kind in (None, case["kind"]):
                yield case


def record(given: Any, _: str) -> dict[str, Any]:
    try:
        parse_record(given["record"].read_bytes())
    except ValueError as error:
        raise RefusedError(str(error)) from error
    return {}


def kinds(folder: Path) -> dict[str, Any]:
    """How the other player computes each kind; records are written by players and read by EchoEdge alone."""
    return {**peer.KINDS, **peer_sounds.KINDS, **peer_bundles.KINDS, "files": peer_bundles.files(folder), "record": record}


def fault(folder: Path, case: dict[str, Any], wrong: str = "") -> str | None:
    """Why the other player fails a case; None where it passes."""
    compute, given = kinds(folder)[case["kind"]], resolved(folder, case["given"])
    try:
        found = compute(given, wrong)
    except RefusedError as error:
        return None if "error" in case or case.get("optional") else f"refused: {error}"
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        if wrong:
            return f"failed: {error!r}"
        raise
    if "error" in case:
        return "not refused" if case["error"]["must"] else None
    return differs(case, resolved(folder, case["expected"]), found)


def test_another_player_passes_every_vector(folder: Path) -> None:
    faults = {case["name"]: told for case in cases(folder) if (told := fault(folder, case)) is not None}
    assert not faults
    assert {case["kind"] for case in cases(folder)} == set(kinds(folder))


# By kind, what is easily done in another way; each is caught by a vector of that kind.
MISTAKES = {
    "numbers": ("narrowed from the text",),
    "integers": ("a seed through a double", "a signed seed"),
    "normals": ("a platform's log and cos", "uniforms without the half", "noise in float32"),
    "noise": ("half of the seed", "frames from zero"),
    "combine": (
        "sums in float32",
        "products rounded to float32",
        "from zero",
        "weights of zero count",
        "from the last term",
        "fused",
    ),
    "text_scale": ("a scale in double",),
    "step": ("sums in float32", "guidance as a difference", "from the last term"),
    "loop": ("every branch its own residual", "windows share residuals"),
    "windows": ("the last window keeps the hop", "a share that never reaches one", "shares in float32"),
    "blend": ("sums in float32",),
    "clip": ("a frame that is begun is left out",),
    "wav": ("full scale is 32767", "the left channel alone", "channels that cancel are added"),
    "resample": ("straight lines", "a centre that is one off", "silence beyond the ends", "no room for the filter's slope"),
    "level": ("a mean in float32", "every mean"),
    "loudness": ("no weighting", "no gate"),
    "normalise": ("another target",),
    "speech": ("not resampled", "not clipped"),
    "readings": ("the tail is forgotten",),
    "normalised": ("silence counts", "no least variance"),
    "moments": ("moments in float32", "the mean is not taken away", "every pivot", "rows of the factor"),
    "present": ("as many rows as frames have",),
    "hear": ("silence counts as voice", "rows that are one off"),
    "neighbours": ("neighbours around the ends",),
    "audio": ("late by rows", "early"),
    "ids": ("a character is cut",),
    "text": ("rows that programs take",),
    "known": ("every frame is known",),
    "orient": ("turned the other way",),
    "matte": ("a matte that is cut off", "black behind"),
    "part": ("whole pixels", "always in the middle"),
    "resize": ("a box in double", "no wider when smaller", "not rounded between", "down and then across"),
    "signed": ("v · (2 / 255) - 1", "blue first"),
    "portrait": ("always in the middle", "whole pixels"),
    "pixels": ("halves up", "pixels in double", "cut off"),
    "yuv": ("BT.601", "full range", "red and blue exchanged"),
    "times": ("times are summed", "times are cut off", "halves of times to even"),
    "sound": ("sound at rounded edges", "sound beyond one"),
    "spread": ("the nearest run", "decimals of the text"),
    "manifest": ("no checks", "the last program of a role"),
    "plan": ("no checks", "branches of weight zero run", "a seed through a double"),
    "tensors": ("offsets from the file's beginning",),
    "files": ("sizes alone", "only listed files"),
}
RIGHT = {"string", "document", "philox", "modality", "record"}  # no likely mistake, or one that another kind has


@pytest.mark.parametrize(("kind", "wrong"), [(kind, wrong) for kind, every in MISTAKES.items() for wrong in every])
def test_a_player_with_a_mistake_is_caught(kind: str, wrong: str, folder: Path) -> None:
    with np.errstate(all="ignore"):
        assert any(fault(folder, case, wrong) for case in cases(folder, kind))


def test_every_kind_has_a_mistake_that_is_caught(folder: Path) -> None:
    assert set(MISTAKES) | RIGHT == set(kinds(folder))
    assert not set(MISTAKES) & RIGHT


# ---- the folder ------------------------------------------------------------------------------------------------------------------


def test_the_folder_is_what_its_index_says(folder: Path) -> None:
    index = json.loads((folder / "index.json").read_bytes())
    assert index["format"] == "echoedge.vectors/1"
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    told = {name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in found.items()}
    assert told.pop("index.json")["bytes"] < 100_000
    assert told == index["files"]
    assert sum(map(len, found.values())) <= MOST_BYTES
    names = [case["name"] for case in cases(folder)]
    assert len(names) == len(set(names)) == sum(group["cases"] for group in index["groups"].values())
    for group in index["groups"].values():
        for array in references(json.loads((folder / group["file"]).read_bytes())):
            assert array["offset"] % 8 == 0
            size = math.prod(array["shape"]) * np.dtype(array["dtype"]).itemsize
            assert array["offset"] + size <= len(found[array["file"]])


def references(value: Any) -> Iterator[dict[str, Any]]:
    """Every array that JSON refers to."""
    if isinstance(value, dict) and "dtype" in value:
        yield value
    elif isinstance(value, (dict, list)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from references(inner)


def test_made_again_every_byte_is_the_same(folder: Path) -> None:
    for build in GROUPS:
        for name, data in build().written().items():
            assert (folder / name).read_bytes() == data, name


def test_every_plan_that_ships_is_stepped_through(folder: Path) -> None:
    """The teacher's, the released models', and the student's by each number of its steps, Euler's with one branch."""
    stepped = {case["name"].removeprefix("steps/step/steps of ") for case in cases(folder, "step")}
    assert stepped >= {*PLAN_PRESETS, "student-1", "student-2", "student-4"}
    for steps in (1, 2, 4):
        plan = SamplingPlan.from_json((folder / "plans" / f"student-{steps}.json").read_text())
        assert (plan.steps, len(plan.branches)) == (steps, 1)


def test_no_number_that_comes_out_is_none(folder: Path) -> None:
    for case in cases(folder):
        for array in references(case.get("expected")):
            assert np.isfinite(resolved(folder, array)).all(), case["name"]


def test_a_folder_is_not_replaced_by_accident(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="exists"):
        write_vectors(folder)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("dear")
    with pytest.raises(OutputError):
        write_vectors(tmp_path / "photos", force=True)
    assert (tmp_path / "photos" / "a.jpg").read_text() == "dear"


def test_the_command_writes_them(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "GROUPS", (json_numbers.build,))
    count = len(json_numbers.build().cases)
    told = json.loads(run("vectors", "--out", tmp_path / "v", "--json").out)
    assert told == {"folder": str(tmp_path / "v"), "groups": {"numbers": count}}
    assert sorted(path.name for path in (tmp_path / "v").iterdir()) == ["index.json", "numbers.bin", "numbers.json"]
    assert "exists" in complaint(run("vectors", "--out", tmp_path / "v"))
    assert f"{count} cases are in" in run("vectors", "--out", tmp_path / "v", "--force").out


def test_bounds_have_room_and_no_more(folder: Path) -> None:
    """Of what is a sum in an order of the player's own, the largest difference from another player's: above nothing, and well below
    the bound that is allowed. Measured: resampled 1.0e-5 of 2e-5 (FFmpeg's norm), speech 3.0e-5 of 6e-5 (louder), normalised 4.8e-7
    of 1e-6 (one rounding of values up to 4), levels of colour 1 of 1 and 1 of 2."""
    most: dict[tuple[str, str, float], float] = {}
    for case in cases(folder):
        if "within" not in case:
            continue
        expected, given = resolved(folder, case["expected"]), resolved(folder, case["given"])
        found = kinds(folder)[case["kind"]](given, "")
        for field, bound in case["within"].items():
            one, other = (np.atleast_1d(np.asarray(values[field], np.float64)) for values in (expected, found))
            common = min(len(one), len(other))
            off = float(np.abs(one[:common] - other[:common]).max())
            key = (case["kind"], field, bound)
            most[key] = max(most.get(key, 0.0), off)
    assert len(most) >= 10
    for (kind, field, bound), off in most.items():
        assert off <= (bound if kind == "yuv" else 0.6 * bound), (kind, field)


# ---- facts from outside ----------------------------------------------------------------------------------------------------------


def test_bits_are_those_of_its_inventors(folder: Path) -> None:
    """Known answers of Philox4x32-10 (Salmon et al., Random123, kat_vectors): counters and keys of zeros, of ones, of π."""
    known = {
        (0, 0): "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
        (1, 1): "408f276d 41c83b0e a20bc7c6 6d5451fd",
        (2, 2): "d16cfe09 94fdcceb 5001e420 24126ea1",
    }
    drawn = [resolved(folder, case["expected"])["words"] for case in cases(folder, "philox")]
    for (key, column), words in known.items():
        assert [f"{word:08x}" for word in drawn[key][:, column]] == words.split()


def test_a_resampled_tone_is_that_tone(folder: Path) -> None:
    """Beside what is expected a closed form: SciPy's polyphase filter and FFmpeg's agree on a sound that both pass."""
    from scipy.signal import resample_poly

    for case in cases(folder, "resample"):
        given = resolved(folder, case["given"])
        if "noise" not in case["name"]:
            continue
        expected = resolved(folder, case["expected"])["wave"]
        up, down = (side // math.gcd(given["to"], given["from"]) for side in (given["to"], given["from"]))
        other = resample_poly(given["wave"].astype(np.float64), up, down, window=("kaiser", 9.0))
        common = slice(60, min(len(other), len(expected)) - 60)
        alike = float(np.corrcoef(other[common], expected[common])[0, 1])
        assert alike > 0.98, case["name"]  # the two differ where noise is near the limit that is cut off
        assert float(np.corrcoef(other[common], np.roll(expected, 1)[common])[0, 1]) < 0.9, case["name"]


def test_the_page_tells_every_kind_and_field(folder: Path) -> None:
    page = PAGE.read_text()
    for case in cases(folder):
        assert f"\n| {case['kind']} | " in page, case["kind"]
        for field in [*case["given"], *case.get("expected", {})]:
            assert f"`{field}`" in page, (case["name"], field)
