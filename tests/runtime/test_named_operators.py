"""verify on a bundle of Core ML packages: the first operator that is wrong is named, and none where the file is right."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from echoedge import api
from echoedge.core.bundle import MANIFEST, Bundle, Figures, FileEntry, folder_sha256
from echoedge.core.bundle.manifest import CHECKSUM
from echoedge.core.bundle.traces import TRACES, TRACES_INDEX, Traces
from echoedge.core.errors import BundleError, ExportError
from echoedge.runtime.engines import open_engine
from echoedge.runtime.engines.around import Around
from echoedge.runtime.export.compile import require_parity
from echoedge.runtime.verify.operators import WRONG, Naming, Wrong
from echoedge.runtime.verify.parity import read_golden, verify

from ..bundles import changed_bundle, demanding_bundle
from ..commands import Run
from ..core.tiny_bundle import contents
from .mil.changed import another, change, swapped, turned, without, written

pytest.importorskip("coremltools", reason="the extra coreml is not installed")


def swap(*pairs: tuple[int, int]) -> Any:
    def of(values: np.ndarray) -> np.ndarray:
        for one, other in pairs:
            values[[one, other]] = values[[other, one]]
        return values

    return of


def shifted(values: np.ndarray) -> np.ndarray:
    """A slice that is off by one along the second axis."""
    values[1] += 1
    return values


# By program: the function of its package, the operator's type, which of them, and what is wrong with it.
FIRST: dict[str, tuple[str | None, str, int, Any]] = {
    "audio_encoder": (None, "log", 0, another("exp", "epsilon")),  # unary
    "image_encoder": (None, "transpose", 0, written(perm=swap((0, 1)))),  # layout
    "text_encoder": (None, "slice_by_index", 0, written(begin=shifted, end=shifted)),  # slicing
    "vae_encode": ("next", "conv", 0, without("bias")),  # convolution
    "text_conditions": (None, "reduce_mean", 0, another("reduce_max")),  # reduction
    "image_conditions": (None, "gelu", 0, another("relu", "mode")),  # activation
    "audio_conditions": (None, "layer_norm", 0, written(epsilon=lambda _: np.float16(0.5))),  # normalization
    "patch_conditions": (None, "linear", 0, without("bias")),  # products; what it makes is the output
    "denoise": (None, "scaled_dot_product_attention", 1, swapped("key", "value")),  # products
    "vae_decode": ("first", "conv_transpose", 0, without("bias")),  # convolution
}
SECOND: dict[str, tuple[str | None, str, int, Any]] = {
    "audio_encoder": (None, "add", 0, another("sub")),  # binary
    "vae_encode": ("next", "concat", 0, turned("values")),  # layout
    "text_conditions": (None, "constexpr_blockwise_shift_scale", 0, written(scale=lambda scale: 1.5 * scale)),  # compression
    "image_conditions": (None, "linear", 1, without("bias")),  # products
    "denoise": (None, "sub", 0, another("add")),  # binary
    "vae_decode": ("next", "clip", 0, written(beta=lambda _: np.float16(0.0))),  # unary; the output
}


BECOMES = {"log": "exp", "gelu": "relu", "reduce_mean": "reduce_max", "add": "sub", "sub": "add"}
BECOMES["constexpr_blockwise_shift_scale"] = "linear"  # what reads it shows it


def mended(copy: Path) -> Path:
    """The manifest of what lies in the copy now, so that it opens."""
    manifest = contents(copy)
    for name, entry in manifest["files"].items():
        data = (copy / name).read_bytes()
        entry |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    for artifact in (program["artifact"] for program in manifest["programs"].values()):
        inside = {name: FileEntry(**each) for name, each in manifest["files"].items() if name.startswith(artifact["path"] + "/")}
        artifact |= {"sha256": folder_sha256(inside), "bytes": sum(each.bytes for each in inside.values())}
    manifest.pop(CHECKSUM, None)
    (copy / MANIFEST).write_text(json.dumps(manifest))
    return copy


def broken(apple: Path, copy: Path, wrongs: dict[str, tuple[str | None, str, int, Any]]) -> tuple[Path, dict[str, str]]:
    """A copy of the bundle with these operators wrong, and their names by program."""
    shutil.copytree(apple, copy)
    names = {}
    for program, (function, kind, place, wrong) in wrongs.items():
        (package,) = (copy / "programs" / program).glob("*.mlpackage")
        names[program] = change(package, kind, wrong, function, place)
    return mended(copy), names


def test_each_wrong_operator_is_named_in_words_and_for_scripts(apple: Path, tmp_path: Path, run: Run) -> None:
    copy, names = broken(apple, tmp_path / "wrong.echoedge", FIRST)
    shown = run("verify", copy)
    assert shown.status == 1
    for program, (function, kind, _, _) in FIRST.items():
        told = f"{program}: the first operator that is wrong in the file: {BECOMES.get(kind, kind)} '{names[program]}' of "
        assert f"{told}{function or 'forward'}, differs by " in shown.out.replace("\n", " ")


def test_a_second_set_of_them_for_scripts(apple: Path, tmp_path: Path) -> None:
    copy, names = broken(apple, tmp_path / "wrong.echoedge", SECOND)
    told = api.verify(copy, engine="mil-fp32").to_dict()
    rows = {row["name"]: row for row in told["rows"]}
    found = {name: row["first_differing"] for name, row in rows.items() if row["first_differing"]}
    assert not told["passed"] and {name: (each["where"], each["name"]) for name, each in found.items()} == {
        program: ("file", name) for program, name in names.items()
    }
    for program, (function, kind, _, _) in SECOND.items():
        assert not rows[program]["passed"] and found[program]["method"] == (function or "forward")
        assert found[program]["type"] == BECOMES.get(kind, kind) and found[program]["relative"] > 10 * WRONG


# ---- where no operator is wrong -------------------------------------------------------------------------------------------------


def named(path: Path, engine: str = "mil") -> dict[str, Wrong | None]:
    bundle = Bundle.open(path)
    naming = Naming(bundle, read_golden(bundle), Called(open_engine(bundle), engine))
    return {name: naming.of(name) for name in bundle.manifest.programs}


class Called(Around):
    """An engine under another name."""

    def __init__(self, engine: Any, name: str) -> None:
        super().__init__(engine)
        self.name = name


def test_no_operator_is_named_of_right_files(apple: Path) -> None:
    found = named(apple)
    assert found and all(each is not None and each.where == "nowhere" and each.compared > 0 for each in found.values())
    assert "the file is what was proven" in str(found["denoise"])
    assert found["denoise"] is not None and found["denoise"].to_dict()["name"] is None


def test_where_core_ml_plays_the_file_is_told_from_its_arithmetic(apple: Path) -> None:
    assert "right by the interpreter, and Core ML computes something else" in str(named(apple, "coreml")["denoise"])
    assert named(apple, "torch")["denoise"] is None


def test_weights_rounded_otherwise_within_the_bar_are_no_wrong_operator(apple: Path, tmp_path: Path) -> None:
    """A scale of half precision moved by its last bit or two, as another rounding may do it, beside one moved by a twentieth."""
    for by, where in ((1 + 2**-10, "nowhere"), (1.05, "file")):
        wrong = written(scale=lambda scale, by=by: scale * by)
        kind = "constexpr_blockwise_shift_scale"
        copy, names = broken(apple, tmp_path / f"{where}.echoedge", {"text_conditions": (None, kind, 0, wrong)})
        found = named(copy)["text_conditions"]
        assert found is not None and (found.where, found.name) == (where, names["text_conditions"] if where == "file" else "")


def test_a_row_that_fails_by_its_demand_alone_names_none(apple: Path, tmp_path: Path) -> None:
    copy = demanding_bundle(apple, tmp_path / "demanding.echoedge", 200.0, "patch_conditions")
    bundle = Bundle.open(copy)
    rows = {row.name: row for row in verify(bundle, open_engine(bundle)).rows}
    assert rows["patch_conditions"].failed and rows["patch_conditions"].operator is not None
    assert rows["patch_conditions"].operator.where == "nowhere"
    assert all(row.operator is None for name, row in rows.items() if name != "patch_conditions")


# ---- what travels ---------------------------------------------------------------------------------------------------------------


def test_most_values_are_torchs_and_small(apple: Path) -> None:
    bundle = Bundle.open(apple)
    traces = Traces.parsed(bundle.path(TRACES_INDEX).read_text(), bundle.read_tensors(TRACES))
    assert set(traces.programs) == set(bundle.manifest.programs)
    for name, methods in traces.programs.items():
        assert set(methods) == set(bundle.program(name).methods)
        for trace in methods.values():
            sources = list(trace.sources.values())
            assert sources.count("reference") > 0.85 * len(sources)  # the others are the converter's own: 0.88 at least here
    assert bundle.manifest.files[TRACES].bytes < 200_000


def test_bundles_without_traces_name_none_and_damaged_ones_are_told(apple: Path, tmp_path: Path) -> None:
    damage = b'{"programs": {"denoise": {"forward": 1}}}'
    bundle = Bundle.open(changed_bundle(apple, tmp_path / "damaged.echoedge", TRACES_INDEX, damage))
    with pytest.raises(BundleError, match="traces.json is damaged"):
        Naming(bundle, read_golden(bundle), open_engine(bundle)).of("denoise")
    files = {name: entry for name, entry in bundle.manifest.files.items() if name not in (TRACES, TRACES_INDEX)}
    bare = replace(bundle, manifest=bundle.manifest.model_copy(update={"files": files}))
    assert Naming(bare, read_golden(bundle), open_engine(bundle)).of("denoise") is None


def test_an_export_that_falls_short_names_the_operator() -> None:
    good, bad = Figures(psnr_db=40.0, cosine=0.999), Figures(psnr_db=12.0, cosine=0.5)
    require_parity("denoise", good, good, "in forward linear 'linear_3' differs by 0.5")
    with pytest.raises(ExportError, match="The first operator that is wrong: in forward linear 'linear_3' differs by 0.5"):
        require_parity("denoise", bad, good, "in forward linear 'linear_3' differs by 0.5")
