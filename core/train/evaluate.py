"""How good nano is, on heads and voices that training never saw. Everything is measured from pixels.

1. `generate.sample_and_decode` lets a model make every clip from one noise seed: a run. 2. `measure` applies every metric to every
clip of every run. 3. `table` gives means and spreads; `evaluate` is 2 and 3. 4. `separated` says which metrics tell two models or
plans apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import asdict, astuple, dataclass
from functools import cache, lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from ..errors import InputError
from ..metrics.drift import background_drift
from ..metrics.following import Landmarks, SmileReader, fit_smile, head_action, head_track, mouth_picture
from ..metrics.frechet import frechet_video_distance
from ..metrics.identity import identity_similarity, region_score
from ..metrics.latent import latent_error
from ..metrics.lipsync import correlation, lag, lipsync, shuffled_lipsync
from ..metrics.motion import STILL_ENERGY, mouth_motion, region_energy
from ..metrics.mouth import mouth_amplitude, mouth_opening
from ..metrics.psnr import psnr
from ..model.vae import VAE
from .generate import Sampled, Video, to_pixels
from .people import FACE_ACTIONS, Identity
from .portraits import Regions, regions
from .puppets import HELD_OUT_SEED, PuppetClip, draw_clip
from .train_vae import video_tensor


@dataclass(frozen=True)
class VAEMetrics:
    """Reconstruction of held-out clips: PSNR in dB over the clip and in the mouth box, and what is left of lip-sync and mouth
    motion. `mouth_correlation` is that of the mouth's opening with the truth's, both measured from pixels."""

    clips: int
    psnr_db: float
    mouth_psnr_db: float
    lipsync: float
    mouth_amplitude_share: float
    mouth_correlation: float


@dataclass(frozen=True)
class ClipMetrics:
    """Generated held-out clips: per-clip lip-sync (mean, lowest), against other clips' audio, mouth motion against the truth's,
    identity."""

    clips: int
    lipsync: float
    lipsync_lowest: float
    lipsync_shuffled: float
    mouth_amplitude_share: float
    identity: float


def held_out(count: int, first: int = 5000, frames: int = 25, world: str = "calm") -> list[PuppetClip]:
    """Clips of identities and voices outside the training seeds; those of both worlds have them in common."""
    return [draw_clip(HELD_OUT_SEED + first + i, frames, world=world) for i in range(count)]


@torch.no_grad()
def score_vae(vae: VAE, clips: list[PuppetClip]) -> tuple[VAEMetrics, list[Video]]:
    """The autoencoder's own ceiling: what no generator behind it can exceed."""
    rebuilt = [to_pixels(vae.decode(vae.encode(video_tensor(clip.frames)[None])))[0] for clip in clips]
    mouths = [clip.mouth_box for clip in clips]
    pairs = list(zip(clips, rebuilt, mouths, strict=True))
    score = VAEMetrics(
        clips=len(clips),
        psnr_db=_mean(psnr(c.frames, r, 255.0) for c, r, _ in pairs),
        mouth_psnr_db=_mean(psnr(c.frames[:, a:b, x:y], r[:, a:b, x:y], 255.0) for c, r, (a, b, x, y) in pairs),
        lipsync=_mean(lipsync(r, c.waveform, box) for c, r, box in pairs),
        mouth_amplitude_share=_mean(mouth_amplitude(r, box) / mouth_amplitude(c.frames, box) for c, r, box in pairs),
        mouth_correlation=_mean(correlation(mouth_opening(r, box), mouth_opening(c.frames, box)) for c, r, box in pairs),
    )
    return score, rebuilt


def score_clips(videos: list[Video], clips: list[PuppetClip]) -> ClipMetrics:
    """Judges generated videos against the clips whose portrait, voice and prompt they were made from."""
    pairs = list(zip(videos, clips, strict=True))
    each = [lipsync(video, clip.waveform, clip.mouth_box) for video, clip in pairs]
    return ClipMetrics(
        clips=len(clips),
        lipsync=_mean(each),
        lipsync_lowest=min(each),
        lipsync_shuffled=shuffled_lipsync([(video, clip.waveform, clip.mouth_box) for video, clip in pairs]),
        mouth_amplitude_share=_mean(mouth_amplitude(v, c.mouth_box) / mouth_amplitude(c.frames, c.mouth_box) for v, c in pairs),
        identity=_mean(float(identity_similarity(v, c.frames[0], c.mouth_box, _person(c)).mean()) for v, c in pairs),
    )


def _mean(values: object) -> float:
    return float(np.mean(list(values)))  # type: ignore[call-overload]


def as_metrics(*scores: VAEMetrics | ClipMetrics) -> dict[str, dict[str, float]]:
    """{"VAEMetrics": {...}, "ClipMetrics": {...}}, rounded for a table."""
    return {type(score).__name__: {key: round(value, 4) for key, value in asdict(score).items()} for score in scores}


# --- The full set of metrics ------------------------------------------------------------------------------------------------------

Measures = dict[str, NDArray[np.float64]]
"""Metric -> [seeds, clips], or [seeds, 1] where it judges a whole set; nan where a clip has no such figure."""

READER_SEED, READER_CLIPS = 500_000, 90  # drawn clips, on the training side of the seeds, from which a smile is learnt
SECONDS_OF_DRIFT = 2  # clips shorter than this have no drift


@cache
def smile_reader() -> SmileReader:
    """A reader fitted to drawn clips of training seeds, half of which smile: as drawn, and softened a little with noise, as decoded
    clips are. It takes some seconds, once per process.

    Measured on 72 held-out clips, balanced accuracy: drawn 0.96, rebuilt by the shipped VAE 0.86. Without the softened copies the
    rebuilt ones reach 0.80. On 72 of the lively world: drawn and softened 0.95; a reader fitted to lively clips reads no better.
    """
    others = [face for face in FACE_ACTIONS if face != "smiles"]
    clips = [
        draw_clip(READER_SEED + i, face_action="smiles" if i % 2 else others[i // 2 % len(others)]) for i in range(READER_CLIPS)
    ]
    versions = [clip.frames for clip in clips] + [_decoded_look(clip) for clip in clips]
    points = [landmarks(regions_of(clip.identity, 64)) for clip in clips] * 2
    return fit_smile([mouth_picture(v, at) for v, at in zip(versions, points, strict=True)], [c.motion.smile for c in clips] * 2)


def _decoded_look(clip: PuppetClip) -> Video:
    soft = gaussian_filter(clip.frames.astype(np.float32), (0.3, 0.7, 0.7, 0))
    return np.asarray(np.clip(soft + np.random.default_rng(clip.seed).normal(0.0, 3.0, soft.shape), 0, 255), np.uint8)


@lru_cache(maxsize=256)
def regions_of(who: Identity, size: int, world: str = "calm") -> Regions:
    """`puppets.regions`, remembered: every run and control of a clip asks for the same."""
    return regions(who, size, world)


def _person(clip: PuppetClip) -> NDArray[np.bool_] | None:
    """Where identity is looked for: everywhere, but not on a wall that moves."""
    if clip.world == "calm":
        return None
    where = regions_of(clip.identity, clip.frames.shape[1], clip.world)
    return where.head | where.shoulders


def still_of(clip: PuppetClip) -> NDArray[np.bool_]:
    """What has to stay as the portrait has it."""
    where = regions_of(clip.identity, clip.frames.shape[1], clip.world)
    return where.background if clip.world == "calm" else where.shoulders


def _moving(clip: PuppetClip) -> dict[str, NDArray[np.bool_]]:
    """Where a lively clip moves without its voice: the wall, and the head above the mouth; where a calm one does, nothing is."""
    if clip.world == "calm":
        return {}
    where = regions_of(clip.identity, clip.frames.shape[1], clip.world)
    above = where.head.copy()
    above[clip.mouth_box[0] :] = False
    return {"wall_energy": where.background & ~where.shoulders, "head_energy": above}


def landmarks(where: Regions) -> Landmarks:
    """The points that `metrics.following` starts from."""
    return Landmarks(where.left_eye, where.right_eye, where.mouth)


def measure_clip(video: Video, truth: PuppetClip, reference: Video | None = None, only: Set[str] | None = None) -> dict[str, float]:
    """Every metric of one clip, uint8 [T, H, W, 3], against the drawn clip whose portrait, voice and prompt it was made from.

    - `lipsync`, `lag_frames`: correlation, and the frames by which the sound comes after the mouth (of 1 s clips trust the median).
    - `mouth_energy`, `mouth_amplitude`: ratios to the truth; nan where its mouth is still.
    - `background_psnr_db`, `background_ssim`: against the portrait, where the head never comes; in the lively world on the
      shoulders alone, since the wall moves.
    - `face_psnr_db`, `face_ssim`: against the truth, where the head is at rest, outside the mouth box. In the lively world another
      draw of the truth falls short of it too (`metrics.openness`).
    - `identity`: `metrics.identity.identity_similarity` to the portrait, mean over frames; in the lively world on the person alone.
    - `follows_head`, `follows_smile`: 1.0 where head and smile do what the prompt says.
    - `drift_db_per_s`: of what `background_psnr_db` looks at; nan below two seconds.
    - `reference_psnr_db`, `reference_amplitude`: against the same clip in full precision (where given): frames, mouth amplitude.

    `only` names the metrics that are wanted; others may be left out.

    Raises:
        InputError: the clips differ in shape.
    """
    if video.shape != truth.frames.shape:
        raise InputError(f"The clip has shape {video.shape}, its truth {truth.frames.shape}; they must be equal.")
    where, box, portrait = regions_of(truth.identity, truth.frames.shape[1], truth.world), truth.mouth_box, truth.frames[0]
    face = where.head.copy()
    face[box[0] : box[1], box[2] : box[3]] = False

    def sync() -> tuple[float, ...]:
        found = lag(video, truth.waveform, box, truth.fps, truth.sample_rate)
        return found.at_zero, float(found.frames)

    def mouth() -> tuple[float, ...]:
        found = mouth_motion(video, truth.frames, box)
        return found.energy, found.amplitude

    def background() -> tuple[float, ...]:
        return astuple(region_score(video, portrait, still_of(truth)))

    def likeness() -> tuple[float, ...]:
        return astuple(region_score(video, truth.frames, face))

    def person() -> tuple[float, ...]:
        return (float(identity_similarity(video, portrait, box, _person(truth)).mean()),)

    def following() -> tuple[float, ...]:
        track = head_track(video, landmarks(where))
        smiles = smile_reader().smiles(mouth_picture(video, landmarks(where), track))
        return float(head_action(track) == truth.head_action), float(smiles == (truth.face_action == "smiles"))

    def drift() -> tuple[float, ...]:
        if len(video) < SECONDS_OF_DRIFT * truth.fps:
            return (float("nan"),)
        return (background_drift(video, still_of(truth), truth.fps).slope_db_per_s,)

    groups: tuple[tuple[tuple[str, ...], Callable[[], tuple[float, ...]]], ...] = (
        (("lipsync", "lag_frames"), sync),
        (("mouth_energy", "mouth_amplitude"), mouth),
        (("background_psnr_db", "background_ssim"), background),
        (("face_psnr_db", "face_ssim"), likeness),
        (("identity",), person),
        (("follows_head", "follows_smile"), following),
        (("drift_db_per_s",), drift),
    )
    found: dict[str, float] = {}
    for names, figures in groups:
        if only is None or not only.isdisjoint(names):
            found |= zip(names, figures(), strict=True)
    if reference is not None:
        found["reference_psnr_db"] = psnr(reference, video, 255.0)
        found["reference_amplitude"] = mouth_motion(video, reference, box).amplitude
    return found


def measure(
    runs: Sequence[Sampled], clips: Sequence[PuppetClip], reference: Sequence[Sampled] | None = None, only: Set[str] | None = None
) -> Measures:
    """Every metric of every clip of every run, and of the set: `lipsync_shuffled`, and `frechet`. Of lively clips, whose own motion
    nothing determines, also `wall_energy` and `head_energy`: how much wall, and head above the mouth, change from frame to frame in
    all clips together, against the truth. A sampler that gives the mean of what could be is far below 1.

    `reference` holds the same seeds' runs in full precision; with latents on both sides there is a `latent_error` as well.
    `only` names the metrics that are wanted; others may be left out.

    Raises:
        InputError: there are fewer than two clips, or runs, clips and reference do not match.
    """
    if not runs or len(clips) < 2 or any(len(t.videos) != len(clips) for t in runs):
        raise InputError(
            f"There are {len(clips)} clips, and runs of {[len(t.videos) for t in runs]}; give at least one run, and two clips "
            "in each."
        )
    if reference is not None and [len(t.videos) for t in reference] != [len(t.videos) for t in runs]:
        raise InputError(
            f"There are {len(runs)} runs and {len(reference)} of the reference; they must have the same seeds and clips."
        )
    rows: dict[str, list[list[float]]] = {}
    for number, made in enumerate(runs):
        wanted = None if reference is None else reference[number]
        each = [
            measure_clip(v, c, None if wanted is None else wanted.videos[i], only)
            for i, (v, c) in enumerate(zip(made.videos, clips, strict=True))
        ]
        if wanted is not None and wanted.latents is not None and made.latents is not None:
            for found, ours, theirs in zip(each, made.latents, wanted.latents, strict=True):
                found["latent_error"] = latent_error(ours, theirs)
        spoken = [(v, c.waveform, c.mouth_box) for v, c in zip(made.videos, clips, strict=True)]
        together = {}
        if only is None or "lipsync_shuffled" in only:
            together["lipsync_shuffled"] = shuffled_lipsync(spoken, fps=clips[0].fps, sample_rate=clips[0].sample_rate)
        if only is None or "frechet" in only:
            together["frechet"] = frechet_video_distance(made.videos, [c.frames for c in clips])
        for name in _moving(clips[0]):
            if only is None or name in only:
                together[name] = _energy_share(made.videos, clips, name)
        for name in each[0]:
            rows.setdefault(name, []).append([found[name] for found in each])
        for name, value in together.items():
            rows.setdefault(name, []).append([value])
    return {name: np.asarray(values, np.float64) for name, values in rows.items()}


def _energy_share(videos: Sequence[Video], clips: Sequence[PuppetClip], name: str) -> float:
    places = [_moving(clip)[name] for clip in clips]
    wanted = sum(region_energy(clip.frames, where) for clip, where in zip(clips, places, strict=True))
    found = sum(region_energy(video, where) for video, where in zip(videos, places, strict=True))
    return found / wanted if wanted > STILL_ENERGY else float("nan")


def table(measures: Mapping[str, NDArray[np.float64]]) -> dict[str, dict[str, float | int | None]]:
    """JSON-ready: per metric the mean, the spread over clips (standard deviation of the clips' means over seeds), the spread over
    seeds (of the seeds' means over clips), the median, the lowest, the highest and how many figures there are. None where there are
    too few."""
    return {name: _summary(values) for name, values in measures.items()}


def _summary(values: NDArray[np.float64]) -> dict[str, float | int | None]:
    known = values[np.isfinite(values)]
    by_clip, by_seed = ([float(np.mean(v[np.isfinite(v)])) for v in rows if np.isfinite(v).any()] for rows in (values.T, values))

    def rounded(value: np.floating) -> float:
        return round(float(value), 4)

    return {
        "mean": rounded(known.mean()) if len(known) else None,
        "over_clips": rounded(np.std(by_clip, ddof=1)) if len(by_clip) > 1 else None,
        "over_seeds": rounded(np.std(by_seed, ddof=1)) if len(by_seed) > 1 else None,
        "median": rounded(np.median(known)) if len(known) else None,
        "lowest": rounded(known.min()) if len(known) else None,
        "highest": rounded(known.max()) if len(known) else None,
        "figures": int(len(known)),
    }


def evaluate(
    runs: Sequence[Sampled], clips: Sequence[PuppetClip], reference: Sequence[Sampled] | None = None
) -> dict[str, dict[str, float | int | None]]:
    """`table` of `measure`: how good the runs of one or several seeds are, ready for a report.

    Raises:
        InputError: as `measure`.
    """
    return table(measure(runs, clips, reference))


CHANCE = 0.005
"""Two-sided probability of a paired t test below which two sets count as different. With 17 metrics, 1 comparison in 12 of equal
sets would still name one."""
FEWEST_PAIRS = 3


def separated(a: Measures, b: Measures) -> dict[str, dict[str, float | bool | None]]:
    """Which metrics tell two sets of runs of the same clips and seeds apart. JSON-ready.

    Per metric that both have: the mean of `b` minus `a`, the paired t statistic over clips (each the mean over its seeds), and
    whether its probability by chance is below `CHANCE`. Metrics of a whole set are paired over seeds. Fewer than `FEWEST_PAIRS`
    pairs have no t and are not judged.

    Raises:
        InputError: a metric has different numbers of clips or seeds.
    """
    from scipy.stats import t as student

    found: dict[str, dict[str, float | bool | None]] = {}
    for name in (name for name in a if name in b):
        if a[name].shape != b[name].shape:
            raise InputError(f"{name} has {a[name].shape} seeds and clips on one side, {b[name].shape} on the other.")
        pairs = (b[name] - a[name]).mean(axis=0 if a[name].shape[1] > 1 else 1)
        pairs = pairs[np.isfinite(pairs)]
        mean = float(pairs.mean()) if len(pairs) else None
        t = None
        if mean is not None and len(pairs) >= FEWEST_PAIRS:
            error = float(pairs.std(ddof=1) / np.sqrt(len(pairs)))
            t = 0.0 if mean == 0.0 else float(np.clip(mean / max(error, 1e-12), -999.0, 999.0))
        found[name] = {
            "difference": None if mean is None else round(mean, 4),
            "t": None if t is None else round(t, 2),
            "separated": None if t is None else bool(2.0 * student.sf(abs(t), len(pairs) - 1) < CHANCE),
        }
    return found
