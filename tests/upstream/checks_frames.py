"""What goes into the model as pictures and what is done with its frames, against upstream's: face masks, reference videos, colours,
chunks of long clips."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch import Tensor

from echoedge.core.model.conditions import face_mask
from echoedge.core.model.masks import Box
from echoedge.core.plan.long_video import ChunkJoiner, pixel_chunks, to_uint8
from echoedge.runtime.play.colour import match_colours
from echoedge.runtime.play.pictures import reference_video

from .goldens import Array, Comparison, Golden, check

UNKNOWN = 255  # in upstream's masks


@check("ip_mask")
def face_masks(case: Golden) -> Iterator[Comparison]:
    recorded = case.tensors()
    for key, call in case.call.items():
        mask = face_mask(Box(*call["face_box_y1y2x1x2"]), *call["image_hw"], *call["sample_hw"])
        yield f"out/mask{key}", mask, recorded[f"out/mask{key}"]


@check("image_prep")
def reference_videos(case: Golden) -> Iterator[Comparison]:
    """Case 2 begins with the picture; case 3 with the picture and its mirror image."""
    recorded, call = case.tensors(), case.call
    picture = recorded["in/image_hwc"].numpy()
    begins = {"2": ("", [picture]), "3": ("_list", [picture, np.ascontiguousarray(picture[:, ::-1])])}
    for key, (suffix, pictures) in begins.items():
        video, mask = reference_video(pictures, call[f"video_length_{key}"], *call["sample_size_hw"])
        planes = np.moveaxis(video, -1, 0)[None].astype(np.float32) / np.float32(255)
        yield f"out/v{key}{suffix}", planes, recorded[f"out/v{key}{suffix}"]
        yield f"out/mask{key}{suffix}", mask[None, None] * UNKNOWN, recorded[f"out/mask{key}{suffix}"]
        yield f"out/clip{key}_hwc", video[0], recorded[f"out/clip{key}_hwc"]


@check("postprocess")
def colours(case: Golden) -> Iterator[Comparison]:
    """Allowed: 2 levels. Measured: 1."""
    recorded = case.tensors()
    source, reference = (recorded[f"in/{name}"].numpy() for name in ("source", "reference"))
    yield "out/result", match_colours(source, reference, upstream_compat=True), recorded["out/result"]


def frames_first(video: Tensor) -> Array:
    """[1, C, T, H, W] <-> [T, C, H, W]."""
    return video[0].transpose(0, 1).float().numpy()


@check("long_video_pixel")
def pixel_space(case: Golden) -> Iterator[Comparison]:
    """What a chunk continues may be off by one level: upstream cuts the fraction off, and a sum may be rounded either way."""
    recorded, call = case.tensors(), case.call
    for key, result in case.results.items():
        chunks = pixel_chunks(int(key), call["partial_video_length"], call["overlap"], upstream_compat=True)
        calls = [{"num_frames": c.frames, "audio": list(c.audio), "known_frames": c.known} for c in chunks]
        yield f"results/{key}/calls", calls, result["calls"]
        joiner, finished = ChunkJoiner(chunks), []
        for index in range(len(chunks)):
            name = f"mid/v{key}/chunk{index}/cond_video_known"
            if index and name in recorded:
                known, theirs = to_uint8(joiner.known, upstream_compat=True), frames_first(recorded[name])
                yield name, known.shape, theirs.shape
                yield f"{name} within a level", bool(np.abs(known - theirs).max() <= 1), True
            finished.append(joiner.add(frames_first(recorded[f"in/v{key}/chunk{index}"])))
        sample = np.concatenate(finished)
        yield f"results/{key}/frames_out", len(sample), result["frames_out"]
        yield f"out/v{key}/sample", sample.swapaxes(0, 1)[None], recorded[f"out/v{key}/sample"]
