"""Bundles: manifests, plans, tensors and files, whole ones and such as a player refuses."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from safetensors.numpy import save

from ...core.bundle import (
    MANIFEST,
    Bundle,
    BundleWriter,
    ClipRecord,
    Hearing,
    Manifest,
    Method,
    ModelRecord,
    PlayingRecord,
    TargetRecord,
    TensorSpec,
    WeightsRecord,
)
from ...core.bundle.manifest import CHECKSUM
from ...core.config import NANO, NANO_CLIP, ClipSpec
from ...core.plan import SamplingPlan
from .group import Group, numbers, saved
from .steps import plans

_WIDE = ClipSpec(64, 96, 13)
_SOURCE = hashlib.sha256(b"no weights").hexdigest()
Change = Callable[[dict[str, Any]], object]


def build() -> Group:
    group = Group("bundle")
    with TemporaryDirectory() as name:
        folder = Path(name)
        whole = _written(folder / "whole.echoedge")
        _manifests(group, (whole / MANIFEST).read_bytes())
        _files(group, whole)
        _tensors(group, folder)
    _plans(group)
    return group


def _written(root: Path) -> Path:
    """A bundle of a few hundred bytes: programs of two shapes in one file, one of every shape, weights beside them, prompts."""
    latents = TensorSpec(name="latents", dtype="float32", shape=(1, 16, 7, 8, 8))
    denoise = {"forward": Method(inputs=(latents,), outputs=(latents.model_copy(update={"name": "velocity"}),))}
    encode = {"forward": Method(inputs=(TensorSpec(name="ids", dtype="int64", shape=(1, 64)),), outputs=())}
    code = saved(root.parent, "denoise.pte", b"no program, but of some length" * 3)
    other = saved(root.parent, "text.pte", b"no program either")
    fixed: dict[str, Any] = {
        "model": ModelRecord.of(NANO, _SOURCE), "clips": (ClipRecord.of(NANO_CLIP), ClipRecord.of(_WIDE)),
        "target": TargetRecord(name="executorch", backend="xnnpack", precision="fp32"), "weights": WeightsRecord(name="int8"),
        "versions": {"echoedge": "0"},
        "playing": PlayingRecord.of(
            NANO, text_rows=64, reads_text=True, hearing=Hearing(neighbours=2, context_frames=3), decoders={"full": "vae_decode"}
        ),
    }  # fmt: skip
    with BundleWriter(root) as writer:
        writer.add_bytes("plan.json", plans()["nano"].to_json().encode())
        writer.add_tensors("step_tables.safetensors", {"time": numbers(1, 8, 4), "modulation": numbers(2, 8, 6, 4)})
        writer.add_tensors(
            "prompts/all.safetensors", {"": numbers(3, 1, 4), "a woman nods": numbers(4, 5, 4), "Zoë lächelt": numbers(5, 3, 4)}
        )
        writer.add_bytes("programs/weights.ptd", b"shared weights")
        for name, clip, prefix in (("denoise", NANO_CLIP, "a_"), (f"denoise-{_WIDE}", _WIDE, "b_")):
            writer.add_program(
                name, code, kind="pte", role="denoise", clip=str(clip), methods=denoise, prefix=prefix, data="programs/weights.ptd"
            )
        writer.add_program("text_encoder", other, kind="pte", role="text_encoder", clip=None, methods=encode)
        writer.finish(**fixed)
    return root


# ---- manifests -------------------------------------------------------------------------------------------------------------------


def _manifests(group: Group, data: bytes) -> None:
    content = json.loads(data)
    for clip in (NANO_CLIP, _WIDE):
        _read(group, f"whole, {clip}", data, str(clip))
    plain = {key: value for key, value in content.items() if key != CHECKSUM}
    _read(group, "without a checksum", json.dumps(plain, ensure_ascii=True).encode(), str(NANO_CLIP))
    turned = json.dumps(dict(reversed(plain.items())), ensure_ascii=False, indent=3).encode()
    _read(group, "in another order", turned, str(NANO_CLIP))

    for name, raw in {
        "cut off": data[: len(data) // 2], "empty": b"", "a list": b"[]", "not UTF-8": data.replace(b"xnnpack", b"xnn\xff\xfe"),
        "a key twice": data.replace(b'"versions": {', b'"versions": {"a": "1", "a": "2",', 1),
        "not a number": data.replace(b'"mask_channels": 4', b'"mask_channels": NaN', 1),
    }.items():  # fmt: skip
        _refused(group, name, raw)
    for name, raw in {
        "checksum of other bytes": data.replace(b'"int8"', b'"int4"', 1),
        "checksum that is not last": json.dumps({CHECKSUM: content[CHECKSUM], **plain}).encode(),
    }.items():
        _refused(group, name, raw, must=False)
    for name, change, must in _CHANGES:
        changed = deepcopy(plain)
        change(changed)
        _refused(group, name, json.dumps(changed).encode(), must=must)


def _at(*keys: Any) -> Callable[[Any], Change]:
    """What puts a value at a place of a manifest."""

    def put(value: Any) -> Change:
        def change(content: Any) -> None:
            for key in keys[:-1]:
                content = content[key]
            content[keys[-1]] = value

        return change

    return put


def _without(*keys: Any) -> Change:
    def change(content: Any) -> None:
        for key in keys[:-1]:
            content = content[key]
        del content[keys[-1]]

    return change


def _listed(path: str) -> Change:
    return lambda content: content["files"].update({path: {"sha256": "0" * 64, "bytes": 1}})


_CHANGES: tuple[tuple[str, Change, bool], ...] = (
    ("a newer format", _at("format")("echoedge.bundle/3"), True), ("another format", _at("format")("other/2"), True),
    ("no format", _without("format"), True), ("a format that is a number", _at("format")(2), True),
    ("no clips", _without("clips"), True), ("an empty list of clips", _at("clips")([]), True),
    ("a height that is a text", _at("clips", 0, "height")("64"), True),
    ("frames that are no 4n+1", _at("clips", 0, "frames")(24), False),
    ("a rate of no whole frame", _at("clips", 0, "fps")(30), False),
    ("a clip twice", lambda content: content["clips"].append(content["clips"][0]), False),
    ("no playing", _without("playing"), True), ("no hearing", _without("playing", "hearing"), True),
    ("a count below zero", _at("playing", "text_rows")(-1), False),
    ("another text encoder", _at("playing", "text_ids")("sentencepiece"), True), ("no programs", _without("programs"), True),
    ("a program without methods", _without("programs", "denoise", "methods"), True),
    ("a program without a file", _without("programs", "denoise", "artifact"), True),
    ("an artifact of another kind", _at("programs", "denoise", "artifact", "kind")("exe"), True),
    ("a program of a shape that is not there", _at("programs", "denoise", "clip")("8x8x9"), False),
    ("two programs for one role", _at("programs", f"denoise-{_WIDE}", "clip")(str(NANO_CLIP)), False),
    ("no files", _without("files"), True),
    ("a file outside", _listed("../outside"), True), ("a file from the root", _listed("/etc/passwd"), True),
    ("a file behind a dot", _listed("a/./b"), True),
    ("a file with a backslash", _listed("a\\b"), True), ("a file with a drive", _listed("C:a"), True),
    ("an empty name", _listed("a//b"), True),
    ("the manifest itself", _listed("manifest.json"), False), ("a record", _listed("records/a.json"), False),
    ("two files on a phone", _listed("PLAN.json"), False), ("a hash that is none", _at("files", "plan.json", "sha256")("12"), True),
    ("a size that is none", _at("files", "plan.json", "bytes")(-1), True),
    ("weights that are not listed", _at("programs", "denoise", "artifact", "data")("programs/none.ptd"), True),
    ("a field that nobody knows", _at("surprise")(1), False),
)  # fmt: skip


def _read(group: Group, name: str, data: bytes, clip: str) -> None:
    manifest = Manifest.from_json(data)
    bundle, shape = Bundle(Path("bundle"), manifest), next(each.spec() for each in manifest.clips if str(each.spec()) == clip)
    programs = {}
    for role in bundle.roles:
        found = bundle.program_for(role, shape)
        own = next(key for key, program in manifest.programs.items() if program is found)
        programs[role] = {"name": own, "path": found.path, "prefix": found.prefix, "data": found.data}
    expected = {"clips": [str(each) for each in bundle.clips], "programs": programs, "checksum": CHECKSUM in json.loads(data)}
    given = {"manifest": group.file(f"manifests/{name.replace(', ', '-').replace(' ', '-')}.json", data), "clip": clip}
    group.case("manifest", name, given, expected)


def _refused(group: Group, name: str, data: bytes, must: bool = True) -> None:
    given = {"manifest": group.file(f"manifests/{name.replace(' ', '-')}.json", data), "clip": str(NANO_CLIP)}
    group.refused("manifest", name, given, lambda: Manifest.from_json(data), must=must)


# ---- plans -----------------------------------------------------------------------------------------------------------------------


def _plans(group: Group) -> None:
    for name, plan in plans().items():
        data = plan.to_json().encode()
        expected = {
            "steps": plan.steps, "branches": [branch.name for branch in plan.branches], "evaluations": plan.evaluations,
            "evaluated": [list(plan.evaluated(step)) for step in range(plan.steps)], "seed": plan.noise.seed,
        }  # fmt: skip
        group.case("plan", f"plan {name}", {"plan": group.file(f"plans/{name}.json", data)}, expected)
    text = plans()["reuse"].to_json()
    content = json.loads(text)
    for name, raw in {
        "a plan that is cut off": text[:100], "a plan with a key twice": text.replace('"noise"', '"window": null, "noise"', 1),
        "a plan with no number": text.replace('"shift": 3.0', '"shift": NaN', 1), "a plan that is a list": "[]",
    }.items():  # fmt: skip
        _refused_plan(group, name, raw.encode())
    for name, change, must in _PLAN_CHANGES:
        changed = deepcopy(content)
        change(changed)
        _refused_plan(group, name, json.dumps(changed).encode(), must)


def _early(content: Any) -> None:
    content["reuse"][0][0] = True


def _shorter(field: str) -> Change:
    return lambda content: content[field].pop()


_PLAN_CHANGES: tuple[tuple[str, Change, bool], ...] = (
    ("a plan of another format", _at("format")("echoedge.plan/2"), True), ("a plan without a format", _without("format"), True),
    ("another generator", _at("noise", "generator")("mt19937"), True), ("a seed of 65 bits", _at("noise", "seed")(2**64), True),
    ("a seed with a fraction", _at("noise", "seed")(0.5), True), ("no solver", _without("solver"), True),
    ("a solver row less", _shorter("solver"), True),
    ("a coefficient less", lambda content: content["solver"][2].pop(), True),
    ("a coefficient that is a text", _at("solver", 0, 0)("1"), True),
    ("a row of guidance less", _shorter("guidance"), True),
    ("a weight of guidance less", lambda content: content["guidance"][1].pop(), True),
    ("guidance that scales", _at("guidance", 0)([1.5, 0.5]), False), ("no branches", _at("branches")([]), True),
    ("two branches of one name", _at("branches", 1, "name")("prompt"), False), ("reuse before anything was computed", _early, True),
    ("a row of reuse less", _shorter("reuse"), True), ("slots for other branches", _at("residual_slots")([0]), True),
    ("weights for two kinds", lambda content: content["modality_weights"][0].pop(), True),
    ("an overlap of a window", _at("window", "overlap")(7), True),
    ("a window of no length", _at("window", "length")(0), True), ("another anchor", _at("window", "anchor")("middle"), True),
    ("noise that stays", lambda content: content["sigmas"].__setitem__(-1, 0.1), False),
    ("timesteps that rise", lambda content: content["timesteps"].reverse(), False),
    ("a field of a plan that nobody knows", _at("surprise")(1), False),
)  # fmt: skip


def _refused_plan(group: Group, name: str, data: bytes, must: bool = True) -> None:
    given = {"plan": group.file(f"plans/bad-{name.replace(' ', '-')}.json", data)}
    group.refused("plan", name, given, lambda: SamplingPlan.from_json(data), must=must)


# ---- tensors and files -----------------------------------------------------------------------------------------------------------


def _header(content: str, body: bytes, length: int | None = None) -> bytes:
    data = content.encode()
    return (len(data) if length is None else length).to_bytes(8, "little") + data + body


def _tensors(group: Group, folder: Path) -> None:
    good = {"a": numbers(1, 2, 3), "": numbers(2, 1, 4), "Zoë 中": numbers(3, 5), "none": np.zeros((0, 4), np.float32)}
    padded = _header('{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}     ', numbers(4, 2).tobytes())
    for number, data in enumerate((save(good), save(good, {"made": "by hand"}), padded)):
        found = _as_file(folder / f"good-{number}", data)
        group.case(
            "tensors",
            f"tensors {number}",
            {"safetensors": group.file(f"tensors/good-{number}.safetensors", data)},
            {"tensors": found},
        )
    body = numbers(5, 4).tobytes()
    one = '{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'
    bad = {
        "nothing": b"", "seven bytes": b"\x01\0\0\0\0\0\0", "a header that is longer than the file": _header(one, body, 1 << 20),
        "a header beyond all memory": _header(one, body, (1 << 63) + 5), "a header that is no JSON": _header("{a}", body),
        "numbers that are cut off": _header(one, body[:12]),
        "a shape that does not fit": _header(one.replace("[4]", "[5]"), body),
        "offsets that run backwards": _header(one.replace("[0,16]", "[16,0]"), body),
        "offsets below zero": _header(one.replace("[0,16]", "[-16,0]"), body),
    }  # fmt: skip
    for number, (name, data) in enumerate(bad.items()):
        place = folder / f"bad-{number}"
        given = {"safetensors": group.file(f"tensors/bad-{number}.safetensors", data)}
        group.refused("tensors", name, given, partial(_as_file, place, data), hide=f"{folder}/")


def _as_file(root: Path, data: bytes) -> dict[str, np.ndarray]:
    """What a bundle with this file of prompts reads from it."""
    name = "prompts/p.safetensors"
    entries = {name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}}
    saved(root, name, data)
    plain = json.loads((root.parent / "whole.echoedge" / MANIFEST).read_bytes()) | {"programs": {}, "files": entries}
    plain.pop(CHECKSUM)
    saved(root, MANIFEST, json.dumps(plain).encode())
    return Bundle.open(root).read_tensors(name)


def _files(group: Group, whole: Path) -> None:
    contents = {path.relative_to(whole).as_posix(): path.read_bytes() for path in sorted(whole.rglob("*")) if path.is_file()}
    changes: dict[str, dict[str, bytes | None]] = {
        "whole": {}, "with a file more": {"notes.txt": b"no file of the bundle"}, "with a record": {"records/a.json": b"{}"},
        "altered": {"programs/weights.ptd": b"shared weightz"}, "cut": {"programs/text.pte": b"no program"},
        "longer": {"programs/text.pte": b"no program either."},
        "missing": {"prompts/all.safetensors": None}, "without a program": {"programs/denoise.pte": None},
        "without a manifest": {MANIFEST: None},
    }  # fmt: skip
    for name, change in changes.items():
        place = f"bundles/{name.replace(' ', '-')}"
        files = {path: data for path, data in (contents | change).items() if data is not None}
        root = whole.parent / place
        for path, data in files.items():
            group.file(f"{place}/{path}", data)
            saved(root, path, data)
        given = {"folder": place}
        if name == "whole" or name.startswith("with "):
            Bundle.open(root)
            group.case("files", name, given, {})
        else:
            group.refused("files", name, given, partial(Bundle.open, root), hide=f"{whole.parent}/")
