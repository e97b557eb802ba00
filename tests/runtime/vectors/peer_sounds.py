"""The other player's ears: WAV files, resampling, loudness, and what the audio encoder is given."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np

from .peer import F32, F64, Answer, Given, refuse


def read_wav(path: Path, wrong: str = "") -> tuple[int, np.ndarray]:
    """-> rate, one channel float32 [n]."""
    data = path.read_bytes()
    refuse(data[:4] != b"RIFF" or data[8:12] != b"WAVE", "no WAV file")
    place, form, samples = 12, None, None
    while place + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, place)
        body = data[place + 8 : place + 8 + size]
        if name == b"fmt ":
            form = body
        if name == b"data":
            samples = body
            break
        place += 8 + size + size % 2
    refuse(form is None or samples is None, "no format or no samples")
    assert form is not None and samples is not None
    kind, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", form)
    if kind == 0xFFFE:
        kind = struct.unpack_from("<H", form, 24)[0]
    samples = samples[: len(samples) // (channels * bits // 8) * (channels * bits // 8)]
    if kind == 3:
        wave = np.frombuffer(samples, f"<f{bits // 8}").astype(F32)
    elif bits == 8:
        wave = ((np.frombuffer(samples, np.uint8).astype(F64) - 128) / 128).astype(F32)
    else:
        raw = np.frombuffer(samples, np.uint8).reshape(-1, bits // 8)
        whole = np.zeros((len(raw), 8), np.uint8)
        whole[:, 8 - bits // 8 :] = raw
        integers = whole.view("<i8")[:, 0] >> 64 - bits
        full = 2.0 ** (bits - 1) - (1 if wrong == "full scale is 32767" else 0)
        wave = (integers / full).astype(F32)
    wave = wave.reshape(-1, channels)
    if channels == 1:
        return rate, wave[:, 0]
    refuse(channels > 2)
    if wrong == "the left channel alone":
        return rate, wave[:, 0].copy()
    power = np.square(wave, dtype=F64).sum(0)
    if power.min() > 0 and wrong != "channels that cancel are added":
        lags = range(-rate // 100, rate // 100 + 1)
        left, right = wave.astype(F64).T
        n = len(left)
        across = [float((left[max(0, k) : n + min(0, k)] * right[max(0, -k) : n - max(0, k)]).sum()) for k in lags if abs(k) < n]
        if max(across, key=abs) / math.sqrt(power.prod()) < -0.5:
            return rate, wave[:, power.argmax()].copy()
    return rate, (wave[:, 0] * F32(0.5) + wave[:, 1] * F32(0.5)).astype(F32)


def wav(given: Given, wrong: str) -> Answer:
    rate, wave = read_wav(given["wav"], wrong)
    return {"sample_rate": rate, "wave": wave}


def resampled(x: np.ndarray, rate: int, to: int, wrong: str = "") -> np.ndarray:
    if rate == to:
        return x
    g = min(1.0, (1.0 if wrong == "no room for the filter's slope" else 0.97) * to / rate)
    taps = math.ceil(32 / g)
    taps += taps % 2
    centre = (taps - 1) // 2 + (wrong == "a centre that is one off")
    mirrored = np.concatenate([x[1 : taps + 1][::-1], x, x[::-1][:taps]])
    front = len(x[1 : taps + 1])
    if wrong == "silence beyond the ends":
        mirrored = np.concatenate([np.zeros(front), x, np.zeros(taps)])
    mirrored = np.concatenate([np.zeros(taps), mirrored, np.zeros(2 * taps)]).astype(F64)
    front += taps
    made, kernels = np.empty(-(-len(x) * to // rate), F32), {}
    for j in range(len(made)):
        whole, part = divmod(j * rate, to)
        f = part / to
        if wrong == "straight lines":
            made[j] = mirrored[front + whole] * (1 - f) + mirrored[front + whole + 1] * f
            continue
        if part not in kernels:
            u = np.arange(taps) - centre - f
            w = np.sinc(u * g) * np.i0(9 * np.sqrt(np.maximum(0, 1 - (2 * u / taps) ** 2)))
            kernels[part] = w / w.sum()
        start = front + whole - centre
        made[j] = kernels[part] @ mirrored[start : start + taps]
    return made


def resample(given: Given, wrong: str) -> Answer:
    return {"wave": resampled(given["wave"], given["from"], given["to"], wrong)}


def levelled(wave: np.ndarray, wrong: str = "") -> np.ndarray:
    if wrong == "a mean in float32":
        total = F32(0)
        for value in wave:
            total = total + value
        mean = float(total / F32(len(wave)))
    else:
        mean = math.fsum(wave.tolist()) / max(1, len(wave))
    return wave - F32(mean) if abs(mean) > 1e-3 or wrong == "every mean" else wave


def level(given: Given, wrong: str) -> Answer:
    return {"wave": levelled(given["wave"], wrong)}


def measured(wave: np.ndarray, rate: int, wrong: str = "") -> float | None:
    """Loudness, the filters sample by sample."""
    wave = np.resize(wave, max(math.ceil(0.4 * rate), len(wave)))
    filtered = [float(value) for value in wave]
    for b, a in () if wrong == "no weighting" else (shelf(rate), high_pass(rate)):
        x1 = x2 = y1 = y2 = 0.0
        made = []
        for x0 in filtered:
            y0 = b[0] * x0 + b[1] * x1 + b[2] * x2 - a[1] * y1 - a[2] * y2
            made.append(y0)
            x1, x2, y1, y2 = x0, x1, y0, y1
        filtered = made
    squares, powers = np.square(filtered), []
    for k in range(round((len(wave) / rate - 0.4) / 0.1) + 1):
        some = squares[int(0.4 * k * 0.25 * rate) : int(0.4 * (k * 0.25 + 1) * rate)]
        powers.append(math.fsum(some.tolist()) / (0.4 * rate))
    levels = [-0.691 + 10 * math.log10(p) if p else -math.inf for p in powers]
    heard = [p for p, one in zip(powers, levels, strict=True) if one >= -70]
    if not heard:
        return None
    gate = -0.691 + 10 * math.log10(sum(heard) / len(heard)) - 10
    if wrong == "no gate":
        gate = -math.inf
        kept = powers
    else:
        kept = [p for p, one in zip(powers, levels, strict=True) if one > gate and one > -70]
    return -0.691 + 10 * math.log10(sum(kept) / len(kept))


def shelf(rate: int) -> tuple[list[float], list[float]]:
    a, w = 10 ** (4 / 40), 2 * math.pi * 1500 / rate
    cos, alpha = math.cos(w), math.sin(w) / (2 * math.sqrt(0.5))
    root = 2 * math.sqrt(a) * alpha
    b = [a * (a + 1 + (a - 1) * cos + root), -2 * a * (a - 1 + (a + 1) * cos), a * (a + 1 + (a - 1) * cos - root)]
    c = [a + 1 - (a - 1) * cos + root, 2 * (a - 1 - (a + 1) * cos), a + 1 - (a - 1) * cos - root]
    return [value / c[0] for value in b], [value / c[0] for value in c]


def high_pass(rate: int) -> tuple[list[float], list[float]]:
    w = 2 * math.pi * 38 / rate
    cos, alpha = math.cos(w), math.sin(w) / (2 * 0.5)
    return [(1 + cos) / 2 / (1 + alpha), -(1 + cos) / (1 + alpha), (1 + cos) / 2 / (1 + alpha)], [
        1.0, -2 * cos / (1 + alpha), (1 - alpha) / (1 + alpha),
    ]  # fmt: skip


def loudness(given: Given, wrong: str) -> Answer:
    return {"lufs": measured(given["wave"], given["sample_rate"], wrong)}


def normalise(given: Given, wrong: str) -> Answer:
    found = measured(given["wave"], given["sample_rate"])
    if found is None or abs(found) > 100:
        return {"wave": given["wave"]}
    target = -24.0 if wrong == "another target" else -23.0
    return {"wave": (given["wave"] * 10 ** ((target - found) / 20)).astype(F32)}


def speech(given: Given, wrong: str) -> Answer:
    rate, wave = read_wav(given["wav"])
    refuse(not np.isfinite(wave).all())
    to = given["sample_rate"]
    if wrong != "not resampled":
        wave = resampled(wave, rate, to)
    wave = levelled(wave) if len(wave) else wave
    refuse(len(wave) * given["fps"] < to, "short")
    refuse(float(np.abs(wave).max(initial=0)) < 10 ** (-60 / 20), "silent")
    found = measured(wave, to)
    refuse(found is None or found < -70, "silent")
    made = (wave * 10 ** ((-23 - (found or 0.0)) / 20)).astype(F32)
    return {"speech": made if wrong == "not clipped" else np.clip(made, -1, 1)}


# ---- hearing ---------------------------------------------------------------------------------------------------------------------


def all_readings(frames: int, reach: int, hearing: Given, wrong: str = "") -> list[tuple[int, int, int, int]]:
    context, tail = hearing["context_frames"], hearing["tail_frames"]
    total, first, found = frames + tail, 0, []
    while first < frames:
        start = max(0, min(first - context, total - reach))
        behind = context if wrong == "the tail is forgotten" else max(context, tail)
        last = frames if start + reach >= total else min(frames, start + reach - behind)
        refuse(last <= first)
        found.append((start, start + reach, first, last))
        first = last
    return found


def readings(given: Given, wrong: str) -> Answer:
    return {"readings": np.array(all_readings(given["frames"], given["reach"], given["hearing"], wrong), np.int64)}


def unit(sound: np.ndarray, own: int, wrong: str = "") -> np.ndarray:
    some = sound if wrong == "silence counts" else sound[:own]
    values = some.astype(F64)
    mean = math.fsum(values.tolist()) / len(values)
    variance = math.fsum(((values - mean) ** 2).tolist()) / len(values)
    return ((sound - mean) / math.sqrt(variance + (0 if wrong == "no least variance" else 1e-7))).astype(F32)


def normalised(given: Given, wrong: str) -> Answer:
    return {"sound": unit(given["sound"], given["own"], wrong)}


def statistics(sound: np.ndarray, length: int, stride: int, wrong: str = "") -> np.ndarray:
    kind = F32 if wrong == "moments in float32" else F64
    windows = np.stack([sound[i : i + length] for i in range(0, len(sound) - length + 1, stride)]).astype(kind)
    mean, square = kind(0) + windows[0] * 0, np.zeros((length, length), kind)
    for w in windows:
        mean, square = mean + w, square + np.outer(w, w)
    mean, square = mean / kind(len(windows)), square / kind(len(windows))
    matrix = square if wrong == "the mean is not taken away" else square - np.outer(mean, mean)
    factor, largest = np.zeros((length, length)), float(matrix.diagonal().max())
    for j in range(length):
        pivot = float(matrix[j, j] - sum(factor[j, k] ** 2 for k in range(j)))
        if pivot > 1e-13 * largest or wrong == "every pivot":
            factor[j, j] = np.sqrt(pivot)
            for i in range(j + 1, length):
                factor[i, j] = (matrix[i, j] - sum(factor[i, k] * factor[j, k] for k in range(j))) / factor[j, j]
    columns = factor if wrong == "rows of the factor" else factor.T
    return np.concatenate([mean[None], columns])[None].astype(F32)


def moments(given: Given, wrong: str) -> Answer:
    return {"moments": statistics(given["sound"], given["length"], given["stride"], wrong)}


def rows_there(frames: int, reach: int, r: int, wrong: str = "") -> np.ndarray:
    less = 0 if wrong == "as many rows as frames have" else r - 1
    return np.array([[1.0 if i < r * frames - less else 0.0 for i in range(r * reach - (r - 1))]], F32)


def present(given: Given, wrong: str) -> Answer:
    return {"present": rows_there(given["frames"], given["reach"], given["rows_per_frame"], wrong)}


def hear(given: Given, wrong: str) -> Answer:
    hearing, samples, frames = given["hearing"], given["samples"], given["frames"]
    p, r, tail = given["sample_rate"] // given["fps"], hearing["rows_per_frame"], hearing["tail_frames"]
    (reach, more), total = divmod(samples, p), frames + tail
    given_sound = given["speech"][: frames * p + more]
    sound = np.zeros(total * p + more + samples, F32)
    sound[: len(given_sound)] = given_sound
    whole, answer = total * p + more, {}
    if hearing["window"]:
        own = (min(frames, -(-len(given["speech"]) // p)) + tail) * p
        own = whole if wrong == "silence counts as voice" else own
        sound[:whole] = unit(sound[:whole], own)
        answer["moments"] = statistics(sound[:own], *hearing["window"])
    waves, kept, flags = [], [], []
    for number, (start, end, first, last) in enumerate(all_readings(frames, reach, hearing)):
        waves.append(sound[start * p : start * p + samples])
        flags.append(rows_there(min(total, end) - start, reach, r)[0])
        offset = 1 if wrong == "rows that are one off" else 0
        kept += [(number, row + offset) for row in range((first - start) * r, (last - start) * r)]
    if hearing["window"]:
        answer["present"] = np.stack(flags)
    return answer | {"waveforms": np.stack(waves), "kept": np.array(kept, F32)}


def neighbours(given: Given, wrong: str) -> Answer:
    frames, a = len(given["features"]), given["neighbours"]
    index = np.arange(frames)[:, None] + np.arange(-a, a + 1)
    index = index % frames if wrong == "neighbours around the ends" else index.clip(0, frames - 1)
    return {"rows": given["features"][index]}


def audio(given: Given, wrong: str) -> Answer:
    hearing, features, length = given["hearing"], given["features"], given["length"]
    r, beyond = hearing["rows_per_frame"], hearing["beyond_frames"]
    count, first = r * (4 * (length - 1) + 1 + beyond), 4 * r * given["start"]
    found = features[first:] if given["start"] + length == given["latent_frames"] and beyond else features[first : first + count]
    shift = given["audio_shift"] * (1 if wrong == "late by rows" else r)
    found = np.roll(found, -shift if wrong == "early" else shift, 0) if given["audio"] else np.zeros_like(found)
    made = np.zeros((1, count, features.shape[1]), F32)
    made[0, : len(found)] = found
    answer = {"audio": made}
    if beyond:
        answer["audio_present"] = (np.arange(count) < len(found)).astype(F32)[None]
    return answer


KINDS: dict[str, Callable[[Given, str], Answer]] = {
    "wav": wav, "resample": resample, "level": level, "loudness": loudness, "normalise": normalise, "speech": speech,
    "readings": readings, "normalised": normalised, "moments": moments, "present": present, "hear": hear, "neighbours": neighbours,
    "audio": audio,
}  # fmt: skip
