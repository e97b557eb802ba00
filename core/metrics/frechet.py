"""Fréchet distance between two sets of clips, on the features of a fixed random network of 3D convolutions.

The distance of two Gaussians with means m and covariances S is |m₁ - m₂|² + tr(S₁ + S₂ - 2 (S₁ S₂)^½) (Dowson & Landau 1982);
clips enter it as feature vectors, as in the Fréchet video distance (Unterthiner et al. 2018). The features come from a network that
nobody trained: three layers of 3D convolutions with weights drawn from `FEATURE_SEED`, which see colours, edges and motion, but no
meaning. They need no download and are the same everywhere; their figures are comparable with each other only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import InputError
from .mouth import check_frames

FEATURE_SEED = 20250
FEATURES = 36
"""Length of a clip's feature vector: three figures for each of 12 channels."""

_CHANNELS = (3, 12, 16, FEATURES // 3)


def _layers() -> list[torch.Tensor]:
    """Weights [out, in, 3, 3, 3] in float64. Every second kernel of the first layer sums to 0 over time: it sees only change."""
    rng = np.random.default_rng(FEATURE_SEED)
    layers = []
    for index, (inner, outer) in enumerate(zip(_CHANNELS[:-1], _CHANNELS[1:], strict=True)):
        weights = rng.standard_normal((outer, inner, 3, 3, 3)) * np.sqrt(2.0 / (inner * 27))
        if index == 0:
            weights[::2] -= weights[::2].mean(axis=2, keepdims=True)
        layers.append(torch.from_numpy(weights))
    return layers


def video_features(clips: Sequence[NDArray[np.uint8]]) -> NDArray[np.float64]:
    """One vector per clip, float64 [N, FEATURES]; each clip is uint8 [T, H, W, 3], of any length and size.

    Layers: values in [-1, 1]; three convolutions of 3×3×3 with strides (1, 2, 2), (2, 2, 2), (2, 2, 2), edges repeated, ReLU
    between them. Figures per channel: mean, standard deviation over space of the mean over time, and root mean square change from
    one time step to the next (0 for a single one).

    Raises:
        InputError: there is no clip, or one has another shape or type.
    """
    if not clips:
        raise InputError("There are no clips to compute features of.")
    layers = _layers()
    strides = ((1, 2, 2), (2, 2, 2), (2, 2, 2))
    rows = []
    for clip in clips:
        check_frames(clip)
        x = torch.from_numpy(clip.astype(np.float64) / 127.5 - 1.0).permute(3, 0, 1, 2)[None]  # [1, 3, T, H, W]
        for index, (weights, stride) in enumerate(zip(layers, strides, strict=True)):
            x = torch.nn.functional.pad(x, (1, 1, 1, 1, 1, 1), mode="replicate")
            x = torch.nn.functional.conv3d(x, weights, stride=stride)
            if index + 1 < len(layers):
                x = x.relu()
        x = x[0]  # [C, T', H', W']
        change = (x.diff(dim=1) if x.shape[1] > 1 else torch.zeros_like(x)).square().mean(dim=(1, 2, 3)).sqrt()
        rows.append(torch.cat([x.mean(dim=(1, 2, 3)), x.mean(dim=1).std(dim=(1, 2), correction=0), change]).numpy())
    return np.stack(rows)


def gaussian_distance(
    mean: NDArray[np.float64],
    covariance: NDArray[np.float64],
    other_mean: NDArray[np.float64],
    other_covariance: NDArray[np.float64],
) -> float:
    """Fréchet distance (squared 2-Wasserstein) of two Gaussians: means [D], covariances [D, D], symmetric and not negative.

    The trace of (S₁ S₂)^½ is taken from the eigenvalues of S₁^½ S₂ S₁^½, which stay real where a covariance is singular.

    Raises:
        InputError: shapes do not fit.
    """
    size = (len(mean), len(mean))
    if mean.ndim != 1 or other_mean.shape != mean.shape or covariance.shape != size or other_covariance.shape != size:
        raise InputError(
            f"Means have shapes {mean.shape} and {other_mean.shape}, covariances {covariance.shape} and {other_covariance.shape}; "
            "they must be [D] and [D, D]."
        )
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    middle = root @ other_covariance @ root
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh((middle + middle.T) / 2), 0.0)).sum()
    shift = mean - other_mean
    return float(max(0.0, shift @ shift + np.trace(covariance) + np.trace(other_covariance) - 2.0 * cross))


def frechet_distance(features: NDArray[np.float64], truth: NDArray[np.float64]) -> float:
    """Fréchet distance of two sets of feature vectors, [N, D] and [M, D], as Gaussians of their means and sample covariances.

    With few vectors the estimate is too high; compare sets of equal size only.

    Raises:
        InputError: shapes do not fit, or a set has fewer than two vectors.
    """
    if features.ndim != 2 or truth.ndim != 2 or features.shape[1] != truth.shape[1] or min(len(features), len(truth)) < 2:
        raise InputError(f"The features have shapes {features.shape} and {truth.shape}; they must be [N, D] with N of at least 2.")
    sets = [
        (v.mean(axis=0), np.atleast_2d(np.cov(v, rowvar=False)))
        for v in (np.asarray(features, np.float64), np.asarray(truth, np.float64))
    ]
    return gaussian_distance(*sets[0], *sets[1])


def frechet_video_distance(clips: Sequence[NDArray[np.uint8]], truth: Sequence[NDArray[np.uint8]]) -> float:
    """Fréchet distance of two sets of clips, per feature and with each feature in units of its standard deviation over the truth.

    0 = equal; 1 = a shift by one standard deviation, or all variety lost. The same people in both sets make it sensitive: sets of
    24 different people are about 0.3 apart (0.23 to 1.42 over 12 draws).

    Raises:
        InputError: a set has fewer than two clips, a clip cannot be used, or all of the truth is one and the same clip.
    """
    wanted, found = video_features(truth), video_features(clips)
    scale = wanted.std(axis=0)
    if len(truth) > 1 and not (scale > 1e-12).any():
        raise InputError("All clips of the truth are the same; a distance in units of their variance has no meaning.")
    scale = np.where(scale > 1e-12, scale, 1.0)
    return frechet_distance(found / scale, wanted / scale) / FEATURES
