"""Prompt following: what do head and mouth do, by the pixels alone?

The head is followed by its eyes: a patch around each eye of the first frame is searched for in every frame, and the two places give
how far the head has gone and how it is rolled (`head_track`). The action is the nearest of a few prototypes (`head_action`).

A smile moves the corners of the lips by a pixel while speech moves the lips by several, so it takes a fitted reader: ridge
regression from the mouth's picture, in the head's own frame, to how much of a smile it shows (`fit_smile`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates, median_filter

from ..errors import InputError
from .mouth import FAR, check_frames

Floats = NDArray[np.float64]
Point = tuple[float, float]
"""(y, x) in pixels; whole numbers are the centres of pixels."""

PROTOTYPES: dict[str, tuple[float, float, float]] = {
    "stays still": (0.0, 0.0, 0.0),
    "nods": (0.0, 0.26, 0.0),
    "turns left": (-0.36, 0.0, 0.0),
    "turns right": (0.36, 0.0, 0.0),
    "tilts left": (-0.21, 0.0, -0.125),
    "tilts right": (0.21, 0.0, 0.125),
}
"""Head action -> how far the eyes go right and down, in distances between the eyes, and how far they roll clockwise, in radians."""

SCALES = (0.36, 0.26, 0.125)
"""What counts as much along right, down and roll: a full turn, nod and tilt."""

_PATCH = 0.43  # half a side of an eye's patch, and below its reach, in distances between the eyes
_REACH = (0.35, 0.55)  # down, right
_GRID = (15, 25)  # rows and columns of the mouth's picture
_BLINK = 5  # frames of the median that hides a blink


@dataclass(frozen=True)
class Landmarks:
    """Where the eyes and the middle of the lips are in the first frame. Left and right are the viewer's."""

    left_eye: Point
    right_eye: Point
    mouth: Point

    def __post_init__(self) -> None:
        if not self.span >= 4.0:
            raise InputError(
                f"The eyes are at x = {self.left_eye[1]} and {self.right_eye[1]}; they must be at least 4 pixels apart."
            )

    @property
    def span(self) -> float:
        """Distance between the eyes, in pixels."""
        return self.right_eye[1] - self.left_eye[1]


@dataclass(frozen=True)
class HeadTrack:
    """Per frame, float64 [T], against the first: how far the eyes are to the right and down (in distances between the eyes) and how
    far they are rolled clockwise (radians)."""

    right: Floats
    down: Floats
    roll: Floats


def _peak(scores: Floats, at: NDArray[np.intp]) -> Floats:
    """Where a parabola through the best of [T, K] and its neighbours has its top: [T]."""
    rows, inner = np.arange(len(scores)), np.clip(at, 1, max(1, scores.shape[1] - 2))
    before, here, after = (scores[rows, np.clip(inner + k, 0, scores.shape[1] - 1)] for k in (-1, 0, 1))
    bend = before - 2.0 * here + after
    offset = np.where(bend < 0.0, 0.5 * (before - after) / np.where(bend < 0.0, bend, 1.0), 0.0)
    return np.asarray(np.where(at == inner, at + np.clip(offset, -0.5, 0.5), at), np.float64)


def _follow(grey: Floats, centre: Point, span: float) -> Floats:
    """Where the patch around `centre` in frame 0 lies in each frame of [T, H, W]: shifts (down, right) in pixels, [T, 2]."""
    half = max(2, round(_PATCH * span))
    height, width = grey.shape[1:]
    y, x = (int(np.clip(round(c), half, size - 1 - half)) for c, size in zip(centre, (height, width), strict=True))
    y0, y1, x0, x1 = y - half, y + half + 1, x - half, x + half + 1
    down, right = (max(1, round(r * span)) for r in _REACH)
    top, left = max(0, y0 - down), max(0, x0 - right)
    area = grey[:, top : y1 + down, left : x1 + right]
    patch = grey[0, y0:y1, x0:x1] - grey[0, y0:y1, x0:x1].mean()
    windows = sliding_window_view(area, patch.shape, axis=(1, 2))
    rows, columns = windows.shape[1:3]
    flat = windows.reshape(len(grey), rows * columns, -1)
    spread = flat.std(axis=-1) * np.sqrt(flat.shape[-1])
    score = (flat @ patch.ravel() / np.maximum(spread * np.linalg.norm(patch), 1e-6)).reshape(-1, rows, columns)
    best = score.reshape(len(grey), -1).argmax(axis=1)
    i, j = np.unravel_index(best, (rows, columns))
    frame = np.arange(len(grey))
    found = np.stack([_peak(score[frame, :, j], i) + top - y0, _peak(score[frame, i], j) + left - x0], axis=1)
    return np.asarray(found, np.float64)


def head_track(frames: NDArray[np.uint8], at: Landmarks) -> HeadTrack:
    """How the head moves, from uint8 frames [T, H, W, 3] and where the eyes are in the first; blinks are filtered out.

    Raises:
        InputError: the frames cannot be used or are too small for the eyes' patches.
    """
    check_frames(frames)
    if min(frames.shape[1:3]) < 2 * max(2, round(_PATCH * at.span)) + 1:
        raise InputError(f"Frames of {frames.shape[1]}×{frames.shape[2]} pixels are too small for eyes {at.span:.1f} pixels apart.")
    grey = frames.astype(np.float64).mean(axis=-1)
    lift = 0.12 * at.span  # the patch holds the brow too
    eyes = [_follow(grey, (y - lift, x), at.span) for y, x in (at.left_eye, at.right_eye)]
    left, right = (median_filter(track, (_BLINK, 1), mode="nearest") / at.span for track in eyes)
    return HeadTrack(
        right=(left[:, 1] + right[:, 1]) / 2, down=(left[:, 0] + right[:, 0]) / 2, roll=np.arctan(right[:, 0] - left[:, 0])
    )


def _extreme(track: Floats) -> float:
    """The 10th or the 90th percentile, whichever is further from 0."""
    low, high = np.percentile(track, [10, 90])
    return float(high if high >= -low else low)


def head_action(track: HeadTrack) -> str:
    """The nearest of `PROTOTYPES` to the furthest that the head goes.

    Measured on 180 held-out drawn clips of a second: 0.978 right; most of the others start with closed eyes.
    """
    found = np.asarray([_extreme(track.right), _extreme(track.down), _extreme(track.roll)]) / SCALES
    return min(PROTOTYPES, key=lambda name: float(((found - np.asarray(PROTOTYPES[name]) / SCALES) ** 2).sum()))


def mouth_picture(frames: NDArray[np.uint8], at: Landmarks, track: HeadTrack | None = None) -> Floats:
    """The mouth in the head's own frame: [T, 15 * 25], 0 = skin, about 1 = the most different from it in the clip.

    The picture spans 1.6 distances between the eyes in width and from a third above the lips' middle to two thirds below.

    Raises:
        InputError: as `head_track`.
    """
    track = head_track(frames, at) if track is None else track
    span = at.span
    across = np.linspace(-0.8, 0.8, _GRID[1])[None, :] * span
    down = np.linspace(-1 / 3, 0.6, _GRID[0])[:, None] * span
    eyes_y, eyes_x = (at.left_eye[0] + at.right_eye[0]) / 2, (at.left_eye[1] + at.right_eye[1]) / 2
    reach = at.mouth[0] - eyes_y
    pictures = []
    for t, frame in enumerate(frames.astype(np.float64)):
        sin, cos = np.sin(track.roll[t]), np.cos(track.roll[t])
        y = eyes_y + track.down[t] * span + cos * (reach + down) + sin * across
        x = eyes_x + track.right[t] * span + cos * across - sin * (reach + down)
        pictures.append(np.stack([map_coordinates(frame[..., c], [y, x], order=1, mode="nearest") for c in range(3)], axis=-1))
    patch = np.asarray(pictures).reshape(len(frames), -1, 3)
    contrast = np.minimum(np.sqrt(((patch - np.median(patch, axis=1)[:, None]) ** 2).sum(axis=-1)) / FAR, 1.0)
    return np.asarray(contrast / max(float(np.percentile(contrast, 98)), 1e-6), np.float64)


def _regressors(pictures: Floats) -> Floats:
    """[..., P] -> [..., 2 P + 3]: the picture, the picture times how open it is, and that openness."""
    openness = pictures.mean(axis=-1, keepdims=True)
    return np.concatenate([pictures, 3.0 * pictures * openness, openness, openness**2, np.ones_like(openness)], axis=-1)


@dataclass(frozen=True)
class SmileReader:
    """A fitted detector. `rise` above `threshold` is a smile."""

    weights: Floats
    threshold: float

    def rise(self, pictures: Floats) -> float:
        """How much more of a smile the later frames of [T, P] (from 0.4 of the clip on) show than the first; 0.0 for one frame."""
        levels = _regressors(pictures) @ self.weights
        later = levels[int(np.ceil(0.4 * len(levels))) :]
        return float(later.mean() - levels[0]) if len(levels) > 1 else 0.0

    def smiles(self, pictures: Floats) -> bool:
        return self.rise(pictures) > self.threshold


def fit_smile(pictures: Sequence[Floats], levels: Sequence[NDArray[np.floating]], ridge: float = 30.0) -> SmileReader:
    """Fits a reader to clips whose smile is known: pictures [T, P] (`mouth_picture`) and levels [T] in 0..1.

    The threshold is the one that tells clips with a smile (level above 0.5 somewhere) from those without with the best balanced
    accuracy; between equals the middle.

    Raises:
        InputError: the lists differ in length, or not both kinds of clip are among them.
    """
    if len(pictures) != len(levels):
        raise InputError(f"There are {len(pictures)} pictures and {len(levels)} tracks of levels; give one for each clip.")
    smiling = np.asarray([float(np.max(level)) > 0.5 for level in levels])
    if smiling.all() or not smiling.any():
        raise InputError(f"{int(smiling.sum())} of {len(smiling)} clips smile; fitting needs clips with and without a smile.")
    rows, wanted = _regressors(np.concatenate(list(pictures))), np.concatenate(list(levels)).astype(np.float64)
    weights = np.asarray(np.linalg.solve(rows.T @ rows + ridge * np.eye(rows.shape[1]), rows.T @ wanted), np.float64)
    reader = SmileReader(weights, 0.0)
    rises = np.asarray([reader.rise(p) for p in pictures])
    order = np.unique(rises)
    cuts = (order[1:] + order[:-1]) / 2 if len(order) > 1 else order
    right = np.asarray([(rises[smiling] > cut).mean() + (rises[~smiling] <= cut).mean() for cut in cuts])
    best = cuts[right >= right.max() - 1e-12]
    return SmileReader(weights, float(best[len(best) // 2]))
