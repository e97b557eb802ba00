"""A player of bundles that does what docs/BUNDLE.md says; run(name of a program, method, inputs) -> outputs comes from outside."""

import json
import math

import numpy as np

MASK, F32, F64, U64 = 0xFFFFFFFF, np.float32, np.float64, np.uint64


def read_tensors(path):
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    return {key: np.frombuffer(body[slice(*t["data_offsets"])], "<f4").reshape(t["shape"]) for key, t in header.items()}


def combine(weights, arrays):
    products = [array.astype(F64) * weight for weight, array in zip(weights, arrays, strict=True) if weight != 0]
    return sum(products[1:], products[0]).astype(F32)


def noise(seed, shape):  # [frames, channels, height, width]
    c0, c1 = np.meshgrid(np.arange(-(-math.prod(shape[1:]) // 4), dtype=U64), np.arange(shape[0], dtype=U64))  # [frames, blocks]
    c2, c3, k0, k1 = c0 * 0, c0 * 0, seed & MASK, seed >> 32
    for _ in range(10):
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & MASK, (p0 >> 32) ^ c3 ^ k1, p0 & MASK
        k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
    u = (np.stack([c0, c1, c2, c3]).astype(F64) + 0.5) / 2.0**32
    m, exponent = np.frexp(u[0::2])
    low, q = m < 0.7071067811865476, np.floor(4 * u[1::2] + 0.5)
    s, y = (m * (1 + low) - 1) / (m * (1 + low) + 1), (4 * u[1::2] - q) * 1.5707963267948966
    log = (exponent - low) * 0.6931471805599453 + 2 * s * np.polyval([1 / odd for odd in range(21, 0, -2)], s * s)
    cos = np.polyval([(-1) ** (k // 2) / math.factorial(k) for k in range(18, -1, -2)], y * y)
    sin = np.polyval([(-1) ** (k // 2) / math.factorial(k) for k in range(17, 0, -2)], y * y) * y
    turned = [np.choose(q.astype(int) % 4, row) for row in ([cos, -sin, -cos, sin], [sin, cos, -sin, -cos])] * np.sqrt(-2 * log)
    return turned.astype(F32).transpose(2, 3, 1, 0).reshape(shape[0], -1)[:, : math.prod(shape[1:])].reshape(shape).swapaxes(0, 1)


def moments(sound, length, stride):
    windows = np.lib.stride_tricks.sliding_window_view(sound, length)[::stride].astype(F64)
    mean, factor = windows.sum(0) / len(windows), np.zeros((length, length))
    matrix = windows.T @ windows / len(windows) - np.outer(mean, mean)
    for j in range(length):
        rest = matrix[j:, j] - factor[j:, :j] @ factor[j, :j]
        if rest[0] > 1e-13 * max(matrix.diagonal().max(), 0):
            factor[j:, j] = rest / np.sqrt(rest[0])
    return np.concatenate([mean[None], factor.T])[None].astype(F32)


class Player:
    def __init__(self, folder, run):
        self.run, manifest = run, json.loads((folder / "manifest.json").read_bytes())
        self.clip, self.playing, self.hearing = manifest["clips"][0], manifest["playing"], manifest["playing"]["hearing"]
        shape, programs = "{height}x{width}x{frames}".format(**self.clip), manifest["programs"].items()
        self.programs = {p["role"]: (name, p["methods"]) for clip in (None, shape) for name, p in programs if p["clip"] == clip}
        packs = [read_tensors(folder / name) for name in manifest["files"] if name.startswith("prompts/")]
        self.prompts = {prompt: rows for pack in packs for prompt, rows in pack.items()}
        self.plan, self.tables = json.loads((folder / "plan.json").read_bytes()), read_tensors(folder / "step_tables.safetensors")
        self.stride, self.rate = self.playing["temporal_stride"], self.clip["sample_rate"] // self.clip["fps"]

    def call(self, role, method="forward", **given):  # inputs by name -> outputs by name; the manifest has their order
        name, specs = self.programs[role][0], self.programs[role][1][method]
        outputs = self.run(name, method, [np.ascontiguousarray(given[spec["name"]]) for spec in specs["inputs"]])
        return dict(zip((spec["name"] for spec in specs["outputs"]), outputs, strict=True))

    def stream(self, role, source, result, chunks):
        state = {}
        for index, chunk in enumerate(chunks):
            state = self.call(role, "next" if index else "first", **{source: chunk}, **state)
            yield state.pop(result)

    def listen(self, speech, frames):
        tail, context, rows, near = (self.hearing[k] for k in ("tail_frames", "context_frames", "rows_per_frame", "neighbours"))
        samples = next(i["shape"][1] for i in self.programs["audio_encoder"][1]["forward"]["inputs"] if i["name"] == "waveform")
        (reach, more), total, heard, given = divmod(samples, self.rate), frames + tail, [], {}
        sound = np.pad(speech[: frames * self.rate + more], (0, total * self.rate))[: total * self.rate + more]
        if self.hearing["window"]:
            voice = sound[: (min(frames, -(-len(speech) // self.rate)) + tail) * self.rate].astype(F64)
            sound = ((sound - voice.mean()) / np.sqrt(voice.var() + 1e-7)).astype(F32)
            given["moments"] = moments(sound[: len(voice)], *self.hearing["window"])
        while len(heard) < frames * rows:
            first = len(heard) // rows
            start = max(0, min(first - context, total - reach))
            last = frames if start + reach >= total else min(frames, start + reach - max(context, tail))
            given["waveform"] = np.pad(sound[start * self.rate :], (0, samples))[None, :samples]
            given["present"] = (np.arange(rows * reach - rows + 1) < rows * min(total - start, reach) - rows + 1).astype(F32)[None]
            heard.extend(self.call("audio_encoder", **given)["features"][0][(first - start) * rows : (last - start) * rows])
        return np.array(heard)[np.clip(np.arange(frames)[:, None] + np.arange(-near, near + 1), 0, frames - 1) if near else ...]

    def look(self, portrait, count):
        grey = [np.zeros((1, self.stride, *portrait.shape), F32)] * (count - 1 if self.playing["encode_unknown"] else 0)
        latents = np.concatenate(list(self.stream("vae_encode", "video", "latents", [portrait[None, None], *grey])), 2)
        y = np.pad(latents, ((0, 0), (self.playing["mask_channels"], 0), (0, count - latents.shape[2]), (0, 0), (0, 0)))
        y[:, : self.playing["mask_channels"], 0] = 1
        return y

    def read(self, name):
        length, rows, pad = (self.playing[key] for key in ("text_length", "text_rows", "pad_id"))
        found = self.prompts.get(prompt := self.said.get(name, name))
        if found is None:
            data = prompt.encode("utf-8", "replace")[:length].decode("utf-8", "ignore").encode()
            ids = np.array([[*data, *[pad] * (length - len(data))]], np.int64)
            found = self.call("text_encoder", ids=ids)["embeddings"][0][: len(data)]
        bias = [0.0] * len(found) + [math.log(max(1, length - len(found)))] * (len(found) < length) + [-1e9] * rows
        return {"text": np.pad(found, ((0, rows - len(found)), (0, 0)))[None], "text_bias": np.array(bias[:rows], F32)[None]}

    def conditions(self, branch, sound, y, image):
        rows = self.hearing["rows_per_frame"] * (self.stride * (y.shape[2] - 1) + 1 + self.hearing["beyond_frames"])
        sound, audio = sound[:rows], np.zeros((1, rows, *sound.shape[1:]), F32)
        audio[0, : len(sound)] = np.roll(sound, branch["audio_shift"] * self.hearing["rows_per_frame"], 0) if branch["audio"] else 0
        made = {**self.read(branch["text"]), "y": y, "audio": audio, "audio_present": np.array([np.arange(rows) < len(sound)], F32)}
        made |= {"image": image if branch["image"] else np.zeros_like(image), "text": made["text"] * F32(branch["text_scale"])}
        for role in ("text_conditions", "image_conditions", "audio_conditions", "patch_conditions"):
            made |= self.call(role, **made)
        return made | {"audio_mask": np.ones((1, y[0, 0, 0].size // self.playing["patch"] ** 2), F32)}

    def play(self, portrait, speech, prompt, seed):  # [3, H, W] in [-1, 1]; [n] -> latents [C, F, h, w]; frames [T, H, W, 3]
        frames, plan, rule = -(-len(speech) // self.rate), self.plan, self.plan["window"] or {"overlap": 0, "anchor": "window"}
        needed, length = (-(-(n - 1) // self.stride) + 1 for n in (frames, self.clip["frames"]))  # latent frames
        total, own = max(needed, length), int(rule["anchor"] == "clip")  # own: a window knows what the clip does
        heard, y = self.listen(speech, self.stride * (total - 1) + 1), self.look(portrait, total if own else length)
        image, self.said = self.call("image_encoder", portrait=portrait[None])["tokens"], {"prompt": prompt, **plan["texts"]}
        starts, given = [*range(0, total - length, length - rule["overlap"]), total - length], []
        share, slots, residuals = np.zeros((len(starts), total)), plan["residual_slots"] or range(len(plan["branches"])), {}
        for k, start in enumerate(starts):
            sound, known = heard[self.hearing["rows_per_frame"] * self.stride * start :], y[:, :, own * start :][:, :, :length]
            given.append([self.conditions(branch, sound, known, image) for branch in plan["branches"]])
            shared = starts[k - 1] + length - start if k else 0
            rise = np.clip((np.arange(length) + (shared == 0)) / max(1, shared - 1), 0, 1)
            share[:k, start : start + length] *= 1 - rise
            share[k, start : start + length] = rise
        history = [x := noise(seed, (total, self.playing["latent_channels"], *y.shape[3:]))]
        for step, weights in enumerate(plan["guidance"]):
            parts, rows = np.zeros((len(starts), *x.shape), F32), {name: table[[step]] for name, table in self.tables.items()}
            rows["modality_weights"] = np.broadcast_to(np.array(plan["modality_weights"][step], F32), (3, length))[None]
            for k, start in enumerate(starts):
                velocities, rows["latents"] = [x] * len(weights), x[None, :, start : start + length]
                for b in np.flatnonzero(weights):
                    role, kept = "denoise_reusing" if plan["reuse"][step][b] else "denoise", residuals.get((k, slots[b]), {})
                    made = self.call(role, **rows, **given[k][b], **kept)
                    velocities[b], residuals[k, slots[b]] = made.pop("velocity")[0], made or kept
                parts[k, :, start : start + length] = combine(weights, velocities)
            history.append(np.stack([combine(share[:, f], parts[:, :, f]) for f in range(total)], 1))
            x = combine(plan["solver"][step], history)
        chunks = (x[None, :, [f]] for f in range(needed))
        videos = self.stream(next(iter(self.playing["decoders"].values())), "latents", "video", chunks)
        pixels = np.concatenate([np.rint((video[0].transpose(0, 2, 3, 1) + 1) * F32(127.5)) for video in videos])
        return x, np.clip(pixels[:frames], 0, 255).astype(np.uint8)
