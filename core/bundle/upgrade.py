"""Format 1 as format 2: what bundles of earlier versions say, read as the present manifest.

Format 1 had one shape beside others, programs whose names told what they were for, bars and figures apart from the programs, and
left to the player what follows from the model's configuration.
"""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter, ValidationError

from ..config import ClipSpec, ModelConfig
from ..errors import BundleError
from .fields import MANIFEST, first_mistakes
from .programs import DECODE_PROGRAMS

_DAMAGED = "Copy the bundle again, or export it again."
_OF_EVERY_SHAPE = ("text_encoder",)


def upgraded(old: dict[str, Any]) -> dict[str, Any]:
    """A manifest of format 2 with what one of format 1 says, still to be validated.

    Raises:
        BundleError: a field that the translation reads is missing or of another kind.
    """
    try:
        return _upgraded(old)
    except ValidationError as error:
        raise BundleError(f"{MANIFEST} is not valid: {first_mistakes(error)}. {_DAMAGED}") from error
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, IndexError) as error:
        raise BundleError(f"{MANIFEST} of format 1 is damaged ({type(error).__name__}: {error}). {_DAMAGED}") from error


def _upgraded(old: dict[str, Any]) -> dict[str, Any]:
    clips = [old["clip"], *old.get("other_clips", [])]
    shapes = [str(TypeAdapter(ClipSpec).validate_python(clip)) for clip in clips]
    parity, layers = old.get("parity", {}), old["weights"].get("settings", {}).get("layers", {})
    settings = {key: value for key, value in old["weights"].get("settings", {}).items() if key != "layers"}
    demanded, measured = parity.get("thresholds", {}), parity.get("measured", {})
    programs = {
        name: _program(name, record, shapes, old["files"], layers.get(name, {}), demanded.get(name), measured.get(name))
        for name, record in old["programs"].items()
    }
    known = {"format", "model", "clip", "other_clips", "target", "backend", "precision", "weights", "versions", "programs", "files",
             "parity", "memory", "savings", "hearing", "benchmarks"}  # fmt: skip
    return {
        "format": "echoedge.bundle/2", "model": old["model"], "clips": clips,
        "target": {"name": old["target"], "backend": old.get("backend", "xnnpack"), "precision": old.get("precision")},
        "weights": {**old["weights"], "settings": settings}, "versions": old["versions"], "programs": programs,
        "files": old["files"], "playing": _playing(old),
        "parity": {"demanded": {name: demanded[name] for name in ("latents", "frames") if name in demanded}},
        "memory": old.get("memory", {}), "savings": old.get("savings", []),
        **{key: value for key, value in old.items() if key not in known},  # strangers are refused as such
    }  # fmt: skip


def _program(
    name: str, old: dict[str, Any], shapes: list[str], files: dict[str, Any], layers: dict[str, int], demanded: Any, measured: Any
) -> dict[str, Any]:
    shape = next((shape for shape in shapes[1:] if name.endswith(f"-{shape}")), None)
    role = name.removesuffix(f"-{shape}") if shape else name
    folder = any(path.startswith(f"{old['path']}/") for path in files)
    artifact = {"kind": "folder" if folder else "pte", "path": old["path"], "sha256": old["sha256"], "bytes": old["bytes"]}
    if not folder:
        artifact |= {"prefix": old.get("prefix", ""), "data": old.get("data")}
    strangers = set(old) - {"path", "sha256", "bytes", "methods", "delegation", "prefix", "data"}
    return {
        "role": role, "clip": None if role in _OF_EVERY_SHAPE else shape or shapes[0], "methods": old["methods"],
        "artifact": artifact, "placement": old.get("delegation", {}), "layers": layers, "demanded": demanded, "measured": measured,
        **{key: old[key] for key in strangers},
    }  # fmt: skip


def _playing(old: dict[str, Any]) -> dict[str, Any]:
    from .manifest import Hearing, PlayingRecord

    config = ModelConfig.from_dict(old["model"]["config"])
    hearing = old.get("hearing")
    if hearing is None:  # a whole voice at once, as the two variants hear it
        hearing = Hearing.of(config).model_dump(mode="json")
    inputs = old["programs"]["encode_conditions"]["methods"]["forward"]["inputs"]
    rows = next(spec["shape"][1] for spec in inputs if spec["name"] == "text")
    decoders = {name: role for name, role in DECODE_PROGRAMS.items() if role in old["programs"]}
    record = PlayingRecord.of(
        config, text_rows=rows, reads_text="text_encoder" in old["programs"], hearing=Hearing(**hearing), decoders=decoders
    )
    return record.model_dump(mode="json")
