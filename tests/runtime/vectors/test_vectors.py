"""Golden vectors: another player that follows docs/PLAYERS.md passes all of them, one with a likely mistake does not."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from echoedge.core.bundle.records import parse_record
from echoedge.core.errors import OutputError
from echoedge.runtime.vectors.write import write_vectors

from . import peer, peer_bundles, peer_sounds
from .peer import RefusedError, differs, resolved

ROOT = Path(__file__).parents[3]
MOST_BYTES = 3_000_000


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
    "combine": ("sums in float32", "products rounded to float32", "from zero", "weights of zero count", "from the last term", "fused"),
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
