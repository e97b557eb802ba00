"""The other player's eyes: pictures; and what it reads of a bundle, with the checks that it cannot do without."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .peer import F32, F64, Answer, Given, RefusedError, document, refuse

# ---- pictures --------------------------------------------------------------------------------------------------------------------


def orient(given: Given, wrong: str) -> Answer:
    p, o = given["pixels"], given["orientation"]
    if wrong == "turned the other way" and o in (6, 8):
        o = 14 - o
    turns: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1], 5: lambda a: a.swapaxes(0, 1),
        6: lambda a: a.swapaxes(0, 1)[:, ::-1], 7: lambda a: a[::-1, ::-1].swapaxes(0, 1), 8: lambda a: a.swapaxes(0, 1)[::-1],
    }  # fmt: skip
    return {"pixels": turns[o](p)}


def matte(given: Given, wrong: str) -> Answer:
    c, alpha = given["pixels"][..., :3].astype(int), given["pixels"][..., 3:].astype(int)
    t = c * alpha + 128 * (255 - alpha)
    if wrong == "a matte that is cut off":
        return {"pixels": (t // 255).astype(np.uint8)}
    if wrong == "black behind":
        t = c * alpha
    t += 128
    return {"pixels": ((t >> 8) + t >> 8).astype(np.uint8)}


def part(given: Given, wrong: str) -> Answer:
    rows, columns, height, width = (given[key] for key in ("image_height", "image_width", "height", "width"))
    if given["crop"]:
        top, left, size = given["crop"]
        refuse(min(top, left) < 0 or size < 16)
        across = size * (width / height)
        refuse(top + size > rows or left + across > columns + 0.5)
        return {"part": np.array([top, left, size, min(across, columns - left)], F64)}
    scale = min(columns / width, rows / height)
    left, top = (columns - width * scale) / 2, (rows - height * scale) / 2
    high, wide = min(height * scale, rows - top), min(width * scale, columns - left)
    if wrong == "whole pixels":
        top, left, high, wide = (float(round(value)) for value in (top, left, high, wide))
    if min(high / rows, wide / columns) < 0.95:
        if given["face"]:
            y, x, size = given["face"]
            top = min(max(0.0, y + size / 2 - 0.45 * high), rows - high)
            left = min(max(0.0, x + size / 2 - wide / 2), columns - wide)
        elif wrong != "always in the middle":
            top = 0.1 * (rows - high)
    return {"part": np.array([top, left, high, wide], F64)}


def kernel(x: float) -> float:
    return float(np.sinc(x) * np.sinc(x / 3)) if abs(x) < 3 else 0.0


def taps(size: int, start: float, end: float, out: int, wrong: str) -> list[tuple[int, list[int]]]:
    """Of every output the first pixel and the weights in 2^-22."""
    low, high = (start, end) if wrong == "a box in double" else (float(F32(start)), float(F32(end)))
    scale = (high - low if wrong == "a box in double" else float(F32(high) - F32(low))) / out
    stretch = 1.0 if wrong == "no wider when smaller" else max(scale, 1.0)
    found = []
    for j in range(out):
        centre = low + (j + 0.5) * scale
        first, last = max(0, int(centre - 3 * stretch + 0.5)), min(size, int(centre + 3 * stretch + 0.5))
        weights = [kernel((i + first - centre + 0.5) * (1.0 / stretch)) for i in range(last - first)]
        total = 0.0
        for weight in weights:
            total += weight
        shares = [weight / total if total else weight for weight in weights]
        found.append((first, [math.trunc(share * 2**22 + math.copysign(0.5, share)) for share in shares]))
    return found


def along(p: np.ndarray, start: float, end: float, out: int, wrong: str) -> np.ndarray:
    """The first axis of [n, ...] resized."""
    if out == len(p) and start == 0 and end == len(p):
        return p
    rows = []
    for first, weights in taps(len(p), start, end, out, wrong):
        total = np.tensordot(np.array(weights), p[first : first + len(weights)].astype(np.int64), 1)
        rows.append(total / 2**22 if wrong == "not rounded between" else ((1 << 21) + total >> 22).clip(0, 255))
    made = np.stack(rows)
    return made if wrong == "not rounded between" else made.astype(np.uint8)


def resized(p: np.ndarray, box: np.ndarray, height: int, width: int, wrong: str = "") -> np.ndarray:
    left, top, right, bottom = box.tolist()
    if wrong == "down and then across":
        return along(along(p, top, bottom, height, wrong).swapaxes(0, 1), left, right, width, wrong).swapaxes(0, 1)
    inner = "" if wrong == "not rounded between" else wrong
    if wrong == "not rounded between":
        wide = np.stack(
            [
                np.tensordot(np.array(w), p.swapaxes(0, 1)[f : f + len(w)].astype(F64), 1)
                for f, w in taps(p.shape[1], left, right, width, "")
            ]
        )
        high = wide.swapaxes(0, 1) / 2**22
        rows = [np.tensordot(np.array(w), high[f : f + len(w)], 1) / 2**22 for f, w in taps(p.shape[0], top, bottom, height, "")]
        return np.rint(np.stack(rows)).clip(0, 255).astype(np.uint8)
    across = along(p.swapaxes(0, 1), left, right, width, inner).swapaxes(0, 1)
    return along(across, top, bottom, height, inner)


def resize(given: Given, wrong: str) -> Answer:
    return {"pixels": resized(given["pixels"], given["box"], given["height"], given["width"], wrong)}


def to_portrait(p: np.ndarray, wrong: str = "") -> np.ndarray:
    if wrong == "v · (2 / 255) - 1":
        return (p.astype(F32) * F32(2 / 255) - F32(1)).transpose(2, 0, 1)
    if wrong == "blue first":
        p = p[..., ::-1]
    return (p.astype(F32) / F32(255) * F32(2) - F32(1)).transpose(2, 0, 1)


def signed(given: Given, wrong: str) -> Answer:
    return {"portrait": to_portrait(given["pixels"], wrong)}


def portrait(given: Given, wrong: str) -> Answer:
    p, height, width = given["pixels"], given["height"], given["width"]
    sizes = {"image_height": p.shape[0], "image_width": p.shape[1], "height": height, "width": width, "crop": None, "face": None}
    top, left, high, wide = part(sizes, wrong)["part"]
    box = np.array([left, top, min(left + wide, p.shape[1]), min(top + high, p.shape[0])])
    return {"portrait": to_portrait(resized(p, box, height, width))}


# ---- manifests and plans ---------------------------------------------------------------------------------------------------------

PART = re.compile(r"[A-Za-z0-9_-]([A-Za-z0-9._+-]*[A-Za-z0-9_+-])?")


def field(content: Any, name: str, kind: type | tuple[type, ...], some: bool = False) -> Any:
    """A field that has to be there, of a type; `some`: not empty."""
    refuse(not isinstance(content, dict) or name not in content, f"no {name}")
    value = content[name]
    refuse(not isinstance(value, kind) or (isinstance(value, bool) and kind in (int, float, (int, float))), f"{name} is {value!r}")
    refuse(some and not value, f"{name} is empty")
    return value


def of_name(name: str) -> str:
    refuse(not all(PART.fullmatch(one) for one in name.split("/")), name)
    return name


def entry(content: Any) -> None:
    refuse(not re.fullmatch("[0-9a-f]{64}", field(content, "sha256", str)))
    refuse(field(content, "bytes", int) < 0)


def read_manifest(data: bytes) -> Any:
    try:
        content = document(data.decode())
    except UnicodeDecodeError as error:
        raise RefusedError(str(error)) from error
    refuse(not isinstance(content, dict) or content.get("format") != "echoedge.bundle/2", "format")
    for one in field(content, "clips", list, some=True):
        for name in ("height", "width", "frames", "fps", "sample_rate"):
            refuse(field(one, name, int) < 1)
    playing = field(content, "playing", dict)
    hearing = field(playing, "hearing", dict)
    for name in ("rows_per_frame", "neighbours", "beyond_frames", "tail_frames", "context_frames"):
        field(hearing, name, int)
    for name in (
        "latent_channels",
        "temporal_stride",
        "spatial_stride",
        "patch",
        "mask_channels",
        "text_length",
        "text_rows",
        "text_dim",
    ):
        field(playing, name, int)
    refuse(playing.get("text_ids") not in (None, "utf-8 bytes"))
    files = field(content, "files", dict)
    for name, one in files.items():
        of_name(name)
        entry(one)
    for program in field(content, "programs", dict).values():
        field(program, "role", str)
        field(program, "methods", dict)
        artifact = field(program, "artifact", dict)
        of_name(field(artifact, "path", str))
        entry(artifact)
        refuse(artifact.get("kind") not in ("pte", "file", "folder"))
        refuse(artifact.get("data") is not None and artifact["data"] not in files)
    return content


def manifest(given: Given, wrong: str) -> Answer:
    data = given["manifest"].read_bytes()
    content = json.loads(data) if wrong == "no checks" else read_manifest(data)
    shapes = ["{height}x{width}x{frames}".format(**one) for one in content["clips"]]
    found = {}
    for clip in (None, given["clip"]):
        for name, program in content["programs"].items():
            if program["clip"] == clip or wrong == "the last program of a role":
                artifact = program["artifact"]
                told = {"name": name, "path": artifact["path"], "prefix": artifact.get("prefix", ""), "data": artifact.get("data")}
                found[program["role"]] = told
    return {"clips": shapes, "programs": found, "checksum": "checksum" in content}


def rows(content: Any, name: str, count: int) -> list[Any]:
    found = field(content, name, list)
    refuse(len(found) != count, f"{name} has {len(found)} rows")
    return found


def read_plan(data: bytes) -> Any:
    content = document(data)
    refuse(not isinstance(content, dict) or content.get("format") != "echoedge.plan/1", "format")
    names = [field(branch, "name", str) for branch in field(content, "branches", list, some=True)]
    steps = len(field(content, "timesteps", list, some=True))
    for i, row in enumerate(rows(content, "solver", steps)):
        refuse(len(row) != i + 2 or not all(isinstance(value, (int, float)) for value in row))
    for name in ("guidance", "reuse"):
        refuse(any(len(row) != len(names) for row in rows(content, name, steps)))
    refuse(any(len(row) != 3 for row in rows(content, "modality_weights", steps)))
    slots = content.get("residual_slots")
    refuse(slots is not None and len(slots) != len(names))
    slots = list(range(len(names))) if slots is None else slots
    filled = set()
    for weights, flags in zip(content["guidance"], content["reuse"], strict=True):
        for b, (weight, reused) in enumerate(zip(weights, flags, strict=True)):
            refuse(reused and slots[b] not in filled, "reuse of nothing")
            filled |= {slots[b]} if weight and not reused else set()
    rule, drawn = field(content, "window", (dict, type(None))), field(content, "noise", dict)
    if rule is not None:
        refuse(not 0 <= field(rule, "overlap", int) < field(rule, "length", int))
        refuse(rule.get("anchor") not in ("window", "clip"))
    refuse(drawn.get("generator") != "philox4x32-10/box-muller/1")
    refuse(not 0 <= field(drawn, "seed", int) < 2**64)
    return content


def plan(given: Given, wrong: str) -> Answer:
    data = given["plan"].read_bytes()
    content = json.loads(data) if wrong == "no checks" else read_plan(data)
    weights = content["guidance"]
    evaluated = [[b for b, weight in enumerate(row) if weight != 0] for row in weights]
    ran = sum(not content["reuse"][i][b] for i, row in enumerate(evaluated) for b in row)
    if wrong == "branches of weight zero run":
        evaluated = [list(range(len(row))) for row in weights]
    seed = content["noise"]["seed"]
    return {
        "steps": len(weights), "branches": [branch["name"] for branch in content["branches"]], "evaluations": ran,
        "evaluated": evaluated, "seed": int(float(seed)) if wrong == "a seed through a double" else seed,
    }  # fmt: skip


# ---- tensors and files -----------------------------------------------------------------------------------------------------------


def tensors(given: Given, wrong: str) -> Answer:
    data = given["safetensors"].read_bytes()
    refuse(len(data) < 8)
    size = int.from_bytes(data[:8], "little")
    refuse(size > len(data) - 8)
    content, body, found = document(data[8 : 8 + size]), data[8 + size :], {}
    for name, told in content.items():
        if name == "__metadata__":
            continue
        begin, end = told["data_offsets"]
        if wrong == "offsets from the file's beginning":
            begin, end, body = begin, end, data
        refuse(told["dtype"] != "F32" or not 0 <= begin <= end <= len(body) or end - begin != 4 * math.prod(told["shape"]))
        found[name] = np.frombuffer(body[begin:end], "<f4").reshape(told["shape"])
    return {"tensors": found}


def files(folder: Path) -> Callable[[Given, str], Answer]:
    """The names of folders are within that of the vectors."""

    def check(given: Given, wrong: str) -> Answer:
        root = folder / given["folder"]
        refuse(not (root / "manifest.json").is_file(), "no manifest")
        content = read_manifest((root / "manifest.json").read_bytes())
        wanted = dict(content["files"])
        wanted |= {program["artifact"]["path"]: program["artifact"] for program in content["programs"].values()}
        for name, told in wanted.items():
            refuse(not (root / name).is_file(), f"no {name}")
            data = (root / name).read_bytes()
            refuse(len(data) != told["bytes"], f"{name} has another size")
            refuse(wrong != "sizes alone" and hashlib.sha256(data).hexdigest() != told["sha256"], f"{name} was altered")
        if wrong == "only listed files":
            there = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
            refuse(there != {*wanted, "manifest.json"}, "a file more")
        return {}

    return check


KINDS: dict[str, Callable[[Given, str], Answer]] = {
    "orient": orient, "matte": matte, "part": part, "resize": resize, "signed": signed, "portrait": portrait, "manifest": manifest,
    "plan": plan, "tensors": tensors,
}  # fmt: skip
