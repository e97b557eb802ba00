"""Another player, written from docs/PLAYERS.md and docs/BUNDLE.md with NumPy alone: what vectors must accept, and, with one likely
mistake in it, refuse. `wrong` names the mistake."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

F32, F64 = np.float32, np.float64
MASK = 0xFFFFFFFF
Given = Mapping[str, Any]
Answer = dict[str, Any]


class RefusedError(Exception):
    """What a player of this kind raises where something cannot be used."""


def refuse(condition: bool, why: str = "") -> None:
    if condition:
        raise RefusedError(why)


# ---- JSON ------------------------------------------------------------------------------------------------------------------------


def document(text: str | bytes) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        refuse(len({key for key, _ in pairs}) != len(pairs), "a key twice")
        return dict(pairs)

    def never(token: str) -> Any:
        raise RefusedError(token)

    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=never)
    except ValueError as error:
        raise RefusedError(str(error)) from error


def float_of_text(text: str) -> np.float32:
    """A text that is read as float32 at once."""
    exact, near = Fraction(text), F32(float(text))
    around = [value for way in (-np.inf, near, np.inf) if np.isfinite(value := np.nextafter(near, F32(way)))]
    found = min(around, key=lambda value: (abs(Fraction(float(value)) - exact), int(value.view(np.uint32)) & 1))
    return np.copysign(found, near)


def numbers(given: Given, wrong: str) -> Answer:
    doubles = np.array([float(json.loads(text)) for text in given["texts"]])
    floats = doubles.astype(F32)
    if wrong == "narrowed from the text":
        floats = np.array([float_of_text(text) for text in given["texts"]])
    return {"doubles": doubles, "floats": floats}


def integers(given: Given, wrong: str) -> Answer:
    kind = float if wrong == "a seed through a double" else int
    whole = [min(int(kind(text)), 2**64 - 1) for text in given["texts"]]
    if wrong == "a signed seed":
        whole = [min(value, 2**63 - 1) for value in whole]
    return {"values": np.array(whole, np.uint64)}


def string(given: Given, _: str) -> Answer:
    return {"utf8": np.frombuffer(document(given["text"]).encode(), np.uint8)}


def read_text(given: Given, _: str) -> Answer:
    document(given["text"])
    return {}


# ---- noise -----------------------------------------------------------------------------------------------------------------------


def block(counter: tuple[int, ...], key: tuple[int, int]) -> tuple[int, ...]:
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & MASK, (p0 >> 32) ^ c3 ^ k1, p0 & MASK
        k0, k1 = k0 + 0x9E3779B9 & MASK, k1 + 0xBB67AE85 & MASK
    return c0, c1, c2, c3


def philox(given: Given, _: str) -> Answer:
    words = [block(tuple(map(int, column)), tuple(given["key"])) for column in given["counter"].T]
    return {"words": np.array(words, np.uint32).T}


def logarithm(x: float) -> float:
    m, e = math.frexp(x)
    if m < 0.7071067811865476:
        m, e = m * 2, e - 1
    s = (m - 1) / (m + 1)
    a = 1 / 21
    for k in range(19, 0, -2):
        a = a * (s * s) + 1 / k
    return e * 0.6931471805599453 + (2 * s) * a


def turned(u: float) -> tuple[float, float]:
    t = math.floor(4 * u + 0.5)
    y = (4 * u - t) * 1.5707963267948966
    q, c, s = y * y, -1 / math.factorial(18), 1 / math.factorial(17)
    for k in range(16, -1, -2):
        c = c * q + (1, -1)[k // 2 % 2] / math.factorial(k)
    for k in range(15, 0, -2):
        s = s * q + (1, -1)[k // 2 % 2] / math.factorial(k)
    s = s * y
    return ((c, s), (-s, c), (-c, -s), (s, -c))[t % 4]


def normals(given: Given, wrong: str) -> Answer:
    half = 0.0 if wrong == "uniforms without the half" else 0.5
    u = (given["words"].astype(F64) + half) / 2.0**32
    if wrong == "a platform's log and cos":
        logs, angles = np.log(u[0::2]), 2 * math.pi * u[1::2]
        cosines, sines = np.cos(angles), np.sin(angles)
    else:
        logs = np.array([[logarithm(x) if x else -1e3 for x in row] for row in u[0::2].tolist()])
        pairs = np.array([[turned(x) for x in row] for row in u[1::2].tolist()])
        cosines, sines = pairs[..., 0], pairs[..., 1]
    radius = np.sqrt(-2 * logs)
    doubles = np.empty_like(u)
    doubles[0::2], doubles[1::2] = radius * cosines, radius * sines
    if wrong == "noise in float32":
        doubles[0::2] = radius.astype(F32) * cosines.astype(F32)
    return {
        "uniforms": u,
        "logarithms": logs,
        "cosines": cosines,
        "sines": sines,
        "doubles": doubles,
        "floats": doubles.astype(F32),
    }


def noise(given: Given, wrong: str) -> Answer:
    seed, (channels, frames, height, width) = int(given["seed"]), given["shape"]
    refuse(not 0 <= seed < 2**64)
    high = 0 if wrong == "half of the seed" else seed >> 32
    count = channels * height * width
    latents = np.empty((channels, frames, height, width), F32)
    for f in range(frames):
        number = f if wrong == "frames from zero" else given["first_frame"] + f
        words = np.array([block((b, number, 0, 0), (seed & MASK, high)) for b in range(-(-count // 4))], np.uint32).T
        values = normals({"words": words}, "")["floats"].T.reshape(-1)[:count]
        latents[:, f] = values.reshape(channels, height, width)
    return {"latents": latents}


# ---- steps -----------------------------------------------------------------------------------------------------------------------


def combine(weights: Any, arrays: Any, wrong: str = "") -> np.ndarray:
    pairs = [(float(w), a) for w, a in zip(weights, arrays, strict=True) if w != 0 or wrong == "weights of zero count"]
    refuse(not pairs)
    if wrong == "from the last term":
        pairs.reverse()
    if wrong == "sums in float32":
        total = F32(pairs[0][0]) * pairs[0][1]
        for w, a in pairs[1:]:
            total = total + F32(w) * a
        return total.astype(F32)
    if wrong == "products rounded to float32":
        return np.sum([(a.astype(F64) * w).astype(F32).astype(F64) for w, a in pairs], 0).astype(F32)
    total = pairs[0][1].astype(F64) * pairs[0][0] if wrong != "from zero" else 0.0 + pairs[0][1].astype(F64) * pairs[0][0]
    for w, a in pairs[1:]:
        wide = np.longdouble if wrong == "fused" else F64
        total = (a.astype(wide) * wide(w) + total).astype(F64)
    return total.astype(F32)


def combined(given: Given, wrong: str) -> Answer:
    with np.errstate(all="ignore"):
        return {"sum": combine(given["weights"], given["arrays"], wrong)}


def plan_of(given: Given) -> Any:
    return document(given["plan"].read_bytes())


def modality(given: Given, _: str) -> Answer:
    rows = [np.broadcast_to(np.array(row, F64).astype(F32), (3, given["frames"])) for row in plan_of(given)["modality_weights"]]
    return {"weights": np.stack(rows)}


def text_scale(given: Given, wrong: str) -> Answer:
    scale = given["scale"] if wrong == "a scale in double" else F32(given["scale"])
    return {"text": (given["rows"].astype(F64) * scale).astype(F32) if wrong == "a scale in double" else given["rows"] * scale}


def step(given: Given, wrong: str) -> Answer:
    plan, history, guided, latents = plan_of(given), [given["noise"]], [], []
    for i, weights in enumerate(plan["guidance"]):
        if wrong == "guidance as a difference" and len(weights) == 2 and weights[1]:
            one, other = given["velocities"][i]
            v = other + F32(weights[0]) * (one - other)
        else:
            v = combine(weights, given["velocities"][i], wrong)
        guided.append(v)
        history.append(v)
        latents.append(combine(plan["solver"][i], history, wrong))
    return {"guided": np.stack(guided), "latents": np.stack(latents)}


def loop(given: Given, wrong: str) -> Answer:
    plan, (channels, frames, height, width) = plan_of(given), given["shape"]
    starts, shares = windowed(frames, given["length"], given["overlap"])
    x = noise({"seed": given["seed"], "shape": given["shape"], "first_frame": 0}, "")["latents"]
    slots = plan["residual_slots"]
    slots = list(range(len(plan["branches"]))) if slots is None or wrong == "every branch its own residual" else slots
    history, residuals, count, reused = [x], {}, 0, 0
    for i, weights in enumerate(plan["guidance"]):
        parts = np.zeros((len(starts), channels, frames, height, width), F32)
        for k, start in enumerate(starts):
            own = x[:, start : start + given["length"]]
            made = [own] * len(weights)
            for b, weight in enumerate(weights):
                if not weight:
                    continue
                slot = (0 if wrong == "windows share residuals" else k, slots[b])
                if plan["reuse"][i][b] and slot in residuals:
                    made[b] = residuals[slot] + own * F32(0.5)
                    reused += 1
                else:
                    made[b] = own * F32(0.5 / (b + 1)) + F32(0.125 * (i + 1) - 0.0625 * k)
                    residuals[slot] = own * F32(0.25)
                    count += 1
            parts[k, :, start : start + given["length"]] = combine(weights, made)
        full = np.zeros((len(starts), frames))
        for k, start in enumerate(starts):
            full[k, start : start + given["length"]] = shares[k]
        history.append(np.stack([combine(full[:, f], parts[:, :, f]) for f in range(frames)], 1))
        x = combine(plan["solver"][i], history)
    return {"latents": x, "evaluations": count, "reused": reused}


# ---- windows ---------------------------------------------------------------------------------------------------------------------


def windowed(total: int, length: int, overlap: int, wrong: str = "") -> tuple[list[int], np.ndarray]:
    refuse(total < length)
    hop = length - overlap
    starts = [*range(0, total - length, hop), total - length]
    if wrong == "the last window keeps the hop":
        starts[-1] = hop * (len(starts) - 1)
    shares, reached = np.zeros((len(starts), max(total, starts[-1] + length))), 0
    for k, start in enumerate(starts):
        m = reached - start
        below = m if wrong == "a share that never reaches one" else max(1, m - 1)
        rise = np.array([j / max(1, below) if j < m else 1.0 for j in range(length)])
        if wrong == "shares in float32":
            rise = rise.astype(F32).astype(F64)
        shares[:k, start : start + length] *= 1 - rise
        shares[k, start : start + length] = rise
        reached = start + length
    return starts, np.stack([shares[k, start : start + length] for k, start in enumerate(starts)])


def windows(given: Given, wrong: str) -> Answer:
    total, length, overlap = given["total"], given["length"], given["overlap"]
    if given["upstream_compat"]:
        raise RefusedError("the original's long video")
    starts, shares = windowed(total, length, overlap, wrong)
    return {"starts": np.array(starts), "lengths": np.array([length] * len(starts)), "shares": shares}


def blend(given: Given, wrong: str) -> Answer:
    starts, shares = windowed(given["total"], given["length"], given["overlap"])
    frames = []
    for f in range(given["total"]):
        over = [k for k, start in enumerate(starts) if start <= f < start + given["length"]]
        weights = [shares[k][f - starts[k]] for k in over]
        frames.append(combine(weights, [given["velocities"][k][:, f - starts[k]] for k in over], wrong))
    return {"velocity": np.stack(frames, 1)}


def clip(given: Given, wrong: str) -> Answer:
    p = given["sample_rate"] // given["fps"]
    refuse(given["samples"] < p)
    frames = given["samples"] // p if wrong == "a frame that is begun is left out" else -(-given["samples"] // p)
    window = (given["frames"] - 1) // 4 + 1
    return {"frames": frames, "latent_frames": max(-(-(frames - 1) // 4) + 1, window)}


# ---- texts and known frames ------------------------------------------------------------------------------------------------------


def ids(given: Given, wrong: str) -> Answer:
    data = given["prompt"].encode()[: given["text_length"]]
    if wrong != "a character is cut":
        data = data.decode(errors="ignore").encode()
    row = [*data, *[given["pad_id"]] * (given["text_length"] - len(data))]
    return {"ids": np.array([row], np.int64), "length": len(data)}


def text(given: Given, wrong: str) -> Answer:
    rows, length, taken = given["rows"], given["text_length"], given["text_rows"]
    missing = length - len(rows)
    refuse(missing < 0 or len(rows) + (missing > 0) > taken)
    made, bias = np.zeros((1, taken, rows.shape[1]), F32), np.full((1, taken), -1e9, F32)
    made[0, : len(rows)], bias[0, : len(rows)] = rows, 0
    if missing:
        bias[0, len(rows)] = math.log(taken - len(rows) if wrong == "rows that programs take" else missing)
    return {"text": made, "text_bias": bias}


def known(given: Given, wrong: str) -> Answer:
    latents, masks = given["latents"], given["mask_channels"]
    _, channels, count, height, width = latents.shape
    y = np.zeros((1, masks + channels, given["frames"], height, width), F32)
    y[:, :masks, : given["frames"] if wrong == "every frame is known" else 1] = 1
    y[:, masks:, :count] = latents
    return {"y": y}


# ---- colour and time -------------------------------------------------------------------------------------------------------------


def pixels(given: Given, wrong: str) -> Answer:
    video = given["video"].transpose(0, 2, 3, 1)
    if wrong == "pixels in double":
        levels = np.rint((video.astype(F64) + 1) * 127.5)
    elif wrong == "halves up":
        levels = np.floor((video + F32(1)) * F32(127.5) + F32(0.5))
    elif wrong == "cut off":
        levels = np.trunc((video + F32(1)) * F32(127.5))
    else:
        levels = np.rint((video + F32(1)) * F32(127.5))
    return {"pixels": np.clip(levels, 0, 255).astype(np.uint8)}


def yuv(given: Given, wrong: str) -> Answer:
    r, g, b = np.moveaxis(given["pixels"] / 255.0, -1, 0)
    kr, kb = (0.299, 0.114) if wrong == "BT.601" else (0.2126, 0.0722)
    luma = kr * r + (1 - kr - kb) * g + kb * b
    low, y_range, c_range = (0, 255, 255) if wrong == "full range" else (16, 219, 224)
    cb, cr = (b - luma) / (2 - 2 * kb), (r - luma) / (2 - 2 * kr)
    if wrong == "red and blue exchanged":
        cb, cr = cr, cb
    quarter = [c.reshape(c.shape[0] // 2, 2, -1, 2).mean((1, 3)) for c in (cb, cr)]
    u, v = (np.rint(128 + c_range * c).clip(0, 255).astype(np.uint8) for c in quarter)
    return {"y": np.rint(low + y_range * luma).astype(np.uint8), "u": u, "v": v}


def times(given: Given, wrong: str) -> Answer:
    fps, scale = given["fps"], given["fps"]
    while scale < 10_000:
        scale *= 2
    ticks = np.arange(given["frames"], dtype=np.int64) * (scale // fps)
    exact = [Fraction(n * 10**6, fps) for n in range(given["frames"])]
    micro = [math.floor(t + Fraction(1, 2)) for t in exact]
    if wrong == "times are summed":
        micro = [n * round(10**6 / fps) for n in range(given["frames"])]
    if wrong == "times are cut off":
        micro = [math.floor(t) for t in exact]
    if wrong == "halves of times to even":
        micro = [round(t) for t in exact]
    return {"time_scale": scale, "ticks": ticks, "microseconds": np.array(micro, np.int64)}


def sound(given: Given, wrong: str) -> Answer:
    def edge(n: int) -> int:
        exact = Fraction(n * given["sample_rate"], given["fps"])
        return round(exact) if wrong == "sound at rounded edges" else math.floor(exact)

    ranges = np.array([[edge(n), edge(n + 1)] for n in range(given["frames"])], np.int64)
    made = np.zeros(ranges[-1, 1], F32)
    some = given["speech"][: len(made)]
    made[: len(some)] = some if wrong == "sound beyond one" else np.clip(some, -1, 1)
    return {"ranges": ranges, "sound": made}


# ---- records ---------------------------------------------------------------------------------------------------------------------


def spread(given: Given, wrong: str) -> Answer:
    runs = sorted(given["seconds"].tolist())

    def at(percent: int) -> float:
        place = (len(runs) - 1) * (percent / 100)
        low = math.floor(place)
        part, above = place - low, runs[min(low + 1, len(runs) - 1)]
        if wrong == "the nearest run":
            return 1000 * runs[round(place)]
        gap = above - runs[low]
        return 1000 * (runs[low] + gap * part if part < 0.5 else above - gap * (1 - part))

    def rounded(value: float) -> float:
        exact = Decimal(str(value)) if wrong == "decimals of the text" else Decimal(value)
        return float(exact.quantize(Decimal("0.001"), ROUND_HALF_EVEN))

    return {"median": rounded(at(50)), "p10": rounded(at(10)), "p90": rounded(at(90))}


KINDS: dict[str, Callable[[Given, str], Answer]] = {
    "numbers": numbers, "integers": integers, "string": string, "document": read_text, "philox": philox, "normals": normals,
    "noise": noise, "combine": combined, "modality": modality, "text_scale": text_scale, "step": step, "loop": loop,
    "windows": windows, "blend": blend, "clip": clip, "ids": ids, "text": text, "known": known, "pixels": pixels, "yuv": yuv,
    "times": times, "sound": sound, "spread": spread,
}  # fmt: skip


# ---- the folder ------------------------------------------------------------------------------------------------------------------


def resolved(folder: Path, value: Any) -> Any:
    """The value with arrays and paths in the place of references."""
    if isinstance(value, dict) and "dtype" in value:
        count = math.prod(value["shape"])
        found = np.fromfile(folder / value["file"], np.dtype(value["dtype"]).newbyteorder("<"), count, offset=value["offset"])
        return found.reshape(value["shape"])
    if isinstance(value, dict) and set(value) == {"file"}:
        return folder / value["file"]
    if isinstance(value, dict):
        return {key: resolved(folder, inner) for key, inner in value.items()}
    return value


def differs(case: Mapping[str, Any], expected: Any, found: Mapping[str, Any]) -> str | None:
    """What of an answer is not what the case expects; None where it is."""
    if set(expected) != set(found):
        return f"fields {sorted(found)} instead of {sorted(expected)}"
    for name, wanted in expected.items():
        one, other = wanted, found[name]
        bound = case.get("within", {}).get(name)
        if isinstance(one, np.ndarray):
            if case["kind"] in ("resample", "speech") and abs(len(one) - len(other)) == 1:
                one, other = one[: len(other)], other[: len(one)]
            if one.shape != np.shape(other) or (bound is None and one.dtype.kind == "f" and one.dtype != other.dtype):
                return f"{name} is {np.asarray(other).dtype} {np.shape(other)}"
            if bound is not None:
                most = float(np.abs(one.astype(F64) - other.astype(F64)).max(initial=0.0))
                if not most <= bound:
                    return f"{name} is off by {most:g}, {bound:g} is allowed"
            elif one.dtype.kind == "f" and one.tobytes() != np.ascontiguousarray(other).tobytes():
                return f"{name} has other bits"
            elif not np.array_equal(one, other):
                return f"{name} is not equal"
        elif isinstance(one, dict):
            told = differs({"kind": ""}, one, other)
            if told:
                return f"{name}: {told}"
        elif bound is not None and one is not None:
            if other is None or not abs(one - other) <= bound:
                return f"{name} is {other}, not {one}"
        elif one != other:
            return f"{name} is {other!r}, not {one!r}"
    return None
