"""`echoedge train study`: how good trained weights of nano are, and what each part of the method is worth.

Every section writes its figures to `<section>.json` and its pictures beside it, and is not done again for the same weights. All
clips are of people, voices and prompts that training never saw; every section says which, and which noise seeds it used.

vae        reconstructions: what no generator behind the autoencoder can exceed
choices    PhDA (uniform against phase-aware modality weights) and guidance scales, on clips that no other section uses
generated  image-to-video with speech, every metric
tasks      T2V, I2V, FLF2V, lip-sync, A2V, each with the metric that it exists for and a control
switches   audio guidance, PhDA and negative guidance, each turned off
parts      preference steps and wrong labels: against weights of runs that left them out
long       twenty seconds: drift, lip-sync, seams against hard cuts, memory against length
silence    six seconds before and behind speech, with what a room adds to them
voice      a voice from another synthesiser (espeak-ng)
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.config import NANO_CLIP, TEMPORAL_STRIDE
from ...core.errors import ConfigError
from ...core.files import atomic_file, file_sha256
from ...core.memory import peak_bytes
from ...core.metrics.lipsync import lipsync
from ...core.metrics.psnr import psnr
from ...core.metrics.seams import seam_jump
from ...core.metrics.voice import SAMPLE_RATE
from ...core.model.programs import Model, build_programs
from ...core.plan import SamplingPlan, WindowRule, windows
from ...core.plan.phases import PhaseWeights
from ...core.plan.samplers import PLAN_PRESETS, VOICE_EARLY, AudioGuidance, NoGuidance, PlanOptions, build_plan
from ...core.sampling.hearing import playing_of
from ...core.train.evaluate import Measures, held_out, measure, score_vae, separated, still_of, table
from ...core.train.generate import Sampled, sample_and_decode
from ...core.train.margins import preference_margins
from ...core.train.puppets import HELD_OUT_SEED, PuppetClip, draw_clip, draw_voice
from ...core.train.silence import BACKGROUNDS, SECONDS, quiet_clips
from ...core.train.speech import espeak, espeak_available
from ...core.train.train_dit import PARTS
from ...core.weights.nano import load_nano, read_world
from ..engines.torch import TorchEngine
from ..export.record import step_tables
from ..play.contact_sheet import SheetRow, SheetStyle, contact_sheet
from ..play.player import Player, PlayerConfig
from ..play.speech import normalise_loudness

Video = NDArray[np.uint8]
Json = dict[str, Any]
Report = Callable[[str], None]

SEEDS = (0, 1000, 2000)  # of noise; further apart than there are clips
PLAN, NEGATIVE_PLAN = PLAN_PRESETS["nano"], PLAN_PRESETS["nano-png"]
TEST_CLIPS, TEST_FIRST = 32, 5000  # held-out clips of the reported figures
CHOICE_CLIPS, CHOICE_FIRST = 24, 12_000  # held-out clips on which settings are chosen
VAE_SETS = (5000, 9000, 20_000)
SHEET_CLIPS = 3

PHASE_CANDIDATES: dict[str, PhaseWeights] = {
    "audio late": PhaseWeights(((1.0, (1.0, 1.0, 0.8)), (0.3, (1.0, 1.0, 1.3)))),
    "audio early": VOICE_EARLY,
    "audio up": PhaseWeights(((1.0, (1.0, 1.0, 1.2)),)),
    "portrait late": PhaseWeights(((1.0, (1.0, 1.0, 1.0)), (0.3, (1.0, 1.3, 1.0)))),
    "text early": PhaseWeights(((1.0, (1.4, 1.0, 1.0)), (0.6, (1.0, 1.0, 1.0)))),
}
"""PhDA schedules over τ (1 = noise, 0 = clean) as strengths of text, portrait and audio; uniform is always among them."""

GUIDANCE_SCALES = (1.0, 1.25, 1.5, 2.0)

WRONG_LABEL = "t2v"  # a portrait that the mask denies

SENTENCES = (
    "The quick brown fox jumps over the lazy dog.",
    "Good morning everybody, today we talk about small models.",
    "Please tell me when the next train leaves for the city.",
    "Two plus two is four, and nobody here would doubt that.",
)
VOICES = ("en-us", "en-gb+f3", "en-us+m5")


@dataclass(frozen=True)
class Study:
    """What is studied, and where the figures go. `without`: weights of runs that left out a part of the method
    (`train_dit.PARTS`)."""

    weights: Path
    out: Path
    without: Mapping[str, Path]
    report: Report

    @property
    def model(self) -> Model:
        return load_nano(path=self.weights)

    @property
    def world(self) -> str:
        """That of the weights."""
        return read_world(self.weights)


def run_study(study: Study, only: Sequence[str] = ()) -> dict[str, Json]:
    """Does the sections named (all by default) and returns their records by name.

    Raises:
        ConfigError: a section, or a part left out of training, is unknown.
        CheckpointError: weights cannot be read or are not nano's.
    """
    unknown = [name for name in only if name not in SECTIONS] + [name for name in study.without if name not in PARTS]
    if unknown:
        raise ConfigError(
            f"There is no section or part {unknown[0]!r}. Sections: {', '.join(SECTIONS)}; parts: {', '.join(PARTS)}."
        )
    for path in (study.weights, *study.without.values()):
        load_nano(path=path)  # what cannot be read is refused before anything is measured
    if not only and not espeak_available():
        study.report("voice is left out: espeak-ng is not installed")
    study.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Json] = {}
    for name in only or [name for name in SECTIONS if name != "voice" or espeak_available()]:
        path, basis = study.out / f"{name}.json", _basis(study, name)
        with suppress(OSError, ValueError):
            record = json.loads(path.read_text())
            if isinstance(record, dict) and record.get("basis") == basis:
                found[name] = record
                continue
        study.report(f"{name} …")
        text = json.dumps({"basis": basis, **SECTIONS[name](study)}, indent=1, allow_nan=False) + "\n"
        with atomic_file(path, force=True) as partial:
            partial.write_text(text)
        found[name] = json.loads(text)
    return found


def _basis(study: Study, section: str) -> Json:
    """What a section's figures depend on: weights, plans, candidates and numbers of clips. Another basis is measured anew."""
    weights = {"studied": file_sha256(study.weights)}
    if section == "parts":
        weights |= {name: file_sha256(path) for name, path in study.without.items()}
    plans = [build_plan(PLAN).to_json(), build_plan(NEGATIVE_PLAN).to_json(), *map(repr, PHASE_CANDIDATES.items())]
    numbers = [
        SEEDS,
        TEST_CLIPS,
        TEST_FIRST,
        CHOICE_CLIPS,
        CHOICE_FIRST,
        VAE_SETS,
        GUIDANCE_SCALES,
        LONG_SECONDS,
        LONG_CLIPS,
        SILENT_CLIPS,
        SENTENCES,
    ]
    text = json.dumps([plans, numbers, VOICES, MEMORY_SECONDS])
    return {"weights": weights, "settings_sha256": hashlib.sha256(text.encode()).hexdigest()}


# ---- the autoencoder, and what is generated from portrait and speech -------------------------------------------------------------


def study_vae(study: Study) -> Json:
    model, record = study.model, {}
    for first in VAE_SETS:
        clips = held_out(TEST_CLIPS, first, world=study.world)
        score, rebuilt = score_vae(model.vae, clips)
        record[str(HELD_OUT_SEED + first)] = _rounded(asdict(score))
        if first == VAE_SETS[0]:
            rows = [
                row
                for c, r in list(zip(clips, rebuilt, strict=True))[:4]
                for row in (SheetRow("drawn", c.frames), SheetRow("rebuilt", r))
            ]
            _save(study, "vae", rows, title="Held-out clips through the autoencoder")
    means = {key: float(np.mean([one[key] for one in record.values()])) for key in next(iter(record.values()))}
    return {"clip_seeds_from": record, "mean": _rounded(means | {"clips": TEST_CLIPS * len(VAE_SETS)})}


def study_generated(study: Study) -> Json:
    model, clips = study.model, held_out(TEST_CLIPS, TEST_FIRST, world=study.world)
    runs = [sample_and_decode(model, clips, build_plan(PLAN), seed=seed) for seed in SEEDS]
    _sheet(study, "generated", "Portrait and speech in, clip out", clips, runs[0].videos)
    rebuilt = Sampled(score_vae(model.vae, clips)[1])
    return {
        "clips": _seeds_of(clips), "noise_seeds": SEEDS, "plan": _described(PLAN),
        "metrics": table(measure(runs, clips)),
        "rebuilt": table(measure([rebuilt], clips)),
        "drawn": table(measure([Sampled([c.frames for c in clips])], clips)),
    }  # fmt: skip


def study_choices(study: Study) -> Json:
    model, clips = study.model, held_out(CHOICE_CLIPS, CHOICE_FIRST, world=study.world)

    def measured(options: PlanOptions) -> Measures:
        return measure([sample_and_decode(model, clips, build_plan(options), seed=seed) for seed in SEEDS[:2]], clips)

    schedules = {"uniform": PhaseWeights(), **PHASE_CANDIDATES}
    scales = {f"{scale:g}": measured(replace(PLAN, guidance=AudioGuidance(scale))) for scale in GUIDANCE_SCALES}
    phases = {name: measured(replace(PLAN, modality=weights)) for name, weights in schedules.items()}
    return {
        "clips": _seeds_of(clips), "noise_seeds": SEEDS[:2], "plan": _described(PLAN),
        "schedules": {name: asdict(weights) for name, weights in schedules.items()},
        "guidance": {name: table(found) for name, found in scales.items()},
        "phases": {name: table(found) for name, found in phases.items()},
        "phases_minus_uniform": {n: separated(phases["uniform"], found) for n, found in phases.items() if n != "uniform"},
    }  # fmt: skip


# ---- all tasks from one set of weights -------------------------------------------------------------------------------------------


def study_tasks(study: Study) -> Json:
    model, clips = study.model, held_out(TEST_CLIPS, TEST_FIRST, world=study.world)
    voices = [replace(c, waveform=clips[i - 1].waveform) for i, c in enumerate(clips)]
    others = [clips[i - 1] for i in range(len(clips))]
    silent = replace(PLAN, guidance=NoGuidance())

    def runs_of(task: str, options: PlanOptions) -> list[Sampled]:
        return [sample_and_decode(model, clips, build_plan(options), seed=seed, task=task) for seed in SEEDS]

    study.report("  portrait and speech alone")
    unaided = table(_measured(runs_of("i2v+a2v", PLAN), clips))
    every: tuple[tuple[str, str, str, PlanOptions, list[PuppetClip]], ...] = (
        ("T2V", "t2v", "Prompt in, clip out", silent, _other_prompts(clips)),
        ("I2V", "i2v", "Portrait and prompt in, clip out", silent, others),
        ("FLF2V", "flf2v+a2v", "First and last frame and speech in, clip out", PLAN, voices),
        ("lip-sync", "i2v+lipsync", "All but the mouth and speech in, clip out", PLAN, voices),
        ("A2V", "a2v", "Speech and prompt in, clip out", PLAN, voices),
    )  # fmt: skip
    record: Json = {"clips": _seeds_of(clips), "noise_seeds": SEEDS, "portrait_and_speech_alone": unaided, "tasks": {}}
    for name, task, title, options, controls in every:
        study.report(f"  {name}")
        runs = runs_of(task, options)
        _sheet(study, name.lower().replace("-", ""), title, clips, runs[0].videos)
        record["tasks"][name] = {
            "task": task, "plan": _described(options), "metrics": table(_measured(runs, clips)),
            "control": table(_measured(runs, controls)),
        }  # fmt: skip
    return record


def _other_prompts(clips: Sequence[PuppetClip]) -> list[PuppetClip]:
    """Each clip with the actions of the next one that moves its head otherwise and disagrees about the smile, if there is one."""
    changed = []
    for i, clip in enumerate(clips):
        following = [clips[(i + k) % len(clips)] for k in range(1, len(clips))]
        smiles = clip.face_action == "smiles"
        differing = (c for c in following if c.head_action != clip.head_action and (c.face_action == "smiles") != smiles)
        other = next(differing, clip)
        changed.append(replace(clip, head_action=other.head_action, face_action=other.face_action))
    return changed


def _measured(runs: Sequence[Sampled], clips: Sequence[PuppetClip]) -> Measures:
    """`measure`, and two figures of tasks that give frames: the last frame and everything but the mouth, against the clip."""
    found = measure(runs, clips)
    pairs = [[(v, c) for v, c in zip(one.videos, clips, strict=True)] for one in runs]
    found["last_frame_psnr_db"] = np.array([[psnr(c.frames[-1], v[-1], 255.0) for v, c in row] for row in pairs])
    found["outside_mouth_psnr_db"] = np.array([[psnr(*_outside(c, v), 255.0) for v, c in row] for row in pairs])
    return found


def _outside(clip: PuppetClip, video: Video) -> tuple[Video, Video]:
    y0, y1, x0, x1 = clip.mouth_box
    outside = np.ones(video.shape[1:3], bool)
    outside[y0:y1, x0:x1] = False
    return clip.frames[:, outside], video[:, outside]


# ---- every part turned off -------------------------------------------------------------------------------------------------------


def study_switches(study: Study) -> Json:
    model, clips = study.model, held_out(TEST_CLIPS, TEST_FIRST, world=study.world)

    def measured(options: PlanOptions) -> Measures:
        return measure([sample_and_decode(model, clips, build_plan(options), seed=seed) for seed in SEEDS], clips)

    base = measured(PLAN)
    found = {
        "audio guidance": (base, measured(replace(PLAN, guidance=NoGuidance()))),
        "PhDA schedule": (base, measured(replace(PLAN, modality=PhaseWeights()))),
        "negative guidance (PNG)": (measured(NEGATIVE_PLAN), base),
    }
    return {
        "clips": _seeds_of(clips), "noise_seeds": SEEDS, "plan": _described(PLAN), "negatives": _described(NEGATIVE_PLAN)["phases"],
        "switches": _compared(found),
    }  # fmt: skip


def study_parts(study: Study) -> Json:
    model, clips = study.model, held_out(TEST_CLIPS, TEST_FIRST, world=study.world)

    def measured(model: Model, shown: str | None = None) -> Measures:
        return measure([sample_and_decode(model, clips, build_plan(PLAN), seed=seed, shown=shown) for seed in SEEDS], clips)

    def margins(model: Model) -> Measures:
        return {f"margin, {kind}": values for kind, values in preference_margins(model, clips, seeds=SEEDS).items()}

    found: dict[str, tuple[Measures, Measures]] = {}
    base = measured(model) | margins(model) if study.without else {}
    for name, path in study.without.items():
        study.report(f"  {PARTS[name]}")
        other = load_nano(path=path)
        found[PARTS[name]] = (base, measured(other) | margins(other))
        if name == "labels":
            found[f"{PARTS[name]}, shown a wrong label"] = (measured(model, WRONG_LABEL), measured(other, WRONG_LABEL))
    return {"clips": _seeds_of(clips), "noise_seeds": SEEDS, "plan": _described(PLAN), "switches": _compared(found)}


def _compared(pairs: Mapping[str, tuple[Measures, Measures]]) -> Json:
    return {name: {"on": table(on), "off": table(off), "off_minus_on": separated(on, off)} for name, (on, off) in pairs.items()}


# ---- long clips and other voices, through the player -----------------------------------------------------------------------------


def player_of(model: Model, plan: SamplingPlan) -> Player:
    """A player of nano in full precision, without a bundle."""
    programs = build_programs(model, NANO_CLIP, model.config.text_len)
    samples = programs["audio_encoder"]["forward"].inputs["waveform"].shape[1]
    return Player(
        PlayerConfig(playing_of(model.config), NANO_CLIP, plan, step_tables(model.dit, plan), samples), TorchEngine(programs)
    )


def _played(player: Player, clip: PuppetClip, seed: int) -> Video:
    """The clip's portrait, voice and prompt, played; as many frames as the drawn clip has."""
    portrait = clip.frames[0].transpose(2, 0, 1).astype(np.float32) / 127.5 - 1
    return np.stack(list(player.frames_of(player.generate(portrait, clip.waveform, clip.prompt, seed))))[: len(clip.frames)]


LONG_SECONDS = 20
LONG_CLIPS = 6
MEMORY_SECONDS = (5, 20, 60)
CUT = WindowRule(length=NANO_CLIP.latent_frames, overlap=0)


def study_long(study: Study) -> Json:
    model, frames = study.model, 25 * LONG_SECONDS - 25 * LONG_SECONDS % TEMPORAL_STRIDE + 1
    clips = [draw_clip(HELD_OUT_SEED + TEST_FIRST + i, frames, world=study.world) for i in range(LONG_CLIPS)]
    rules = {"long video guidance": PLAN.window or CUT, "hard cuts": CUT}
    record: Json = {"clips": _seeds_of(clips), "seconds": LONG_SECONDS, "noise_seeds": [SEEDS[0] + i for i in range(LONG_CLIPS)]}
    videos = {}
    for name, rule in rules.items():
        study.report(f"  {name}")
        player = player_of(model, build_plan(replace(PLAN, window=rule)))
        videos[name] = [_played(player, clip, SEEDS[0] + i) for i, clip in enumerate(clips)]
        figures = [_long_figures(video, clip, seams_of(frames, rule)) for video, clip in zip(videos[name], clips, strict=True)]
        record[name] = {key: [round(one[key], 4) for one in figures] for key in figures[0]}
        record[name]["mean"] = _rounded({key: float(np.mean([one[key] for one in figures])) for key in figures[0]})
        by_second = np.mean([_background_by_second(video, clip) for video, clip in zip(videos[name], clips, strict=True)], axis=0)
        record[name]["background_psnr_db_by_second"] = [round(float(value), 2) for value in by_second]
        record[name]["window"] = rule.model_dump()
    drawn = [_long_figures(c.frames, c, seams_of(frames, rules["long video guidance"])) for c in clips]
    record["drawn"] = _rounded({key: float(np.mean([one[key] for one in drawn])) for key in drawn[0]})
    seconds = np.linspace(0, frames - 1, 24).astype(int)
    rows = [SheetRow("drawn", clips[0].frames[seconds]), *(SheetRow(name, made[0][seconds]) for name, made in videos.items())]
    _save(study, "long", rows, fps=24 / LONG_SECONDS, columns=12, title=f"{LONG_SECONDS} seconds")
    study.report("  memory")
    record["peak_mib"] = {str(seconds): _peak_of(study.weights, seconds) for seconds in MEMORY_SECONDS}
    return record


def seams_of(frames: int, rule: WindowRule) -> list[int]:
    """The video frames with which the windows' shares change: one where windows are cut hard, each step of a cross-fade else."""
    total = (frames - 1) // TEMPORAL_STRIDE + 1
    spans = windows(total, rule)
    shares = np.zeros((len(spans), total))
    for row, span in zip(shares, spans, strict=True):
        row[span.start : span.end] = span.weights
    changed = np.flatnonzero((shares[:, 1:] != shares[:, :-1]).any(axis=0)) + 1
    return [TEMPORAL_STRIDE * (int(frame) - 1) + 1 for frame in changed]


def _background_by_second(video: Video, clip: PuppetClip) -> list[float]:
    """PSNR in dB of each full second's background to the portrait's."""
    background = still_of(clip)
    portrait = clip.frames[0][background]
    seconds = [video[start : start + 25][:, background] for start in range(0, len(video) - 24, 25)]
    return [psnr(np.broadcast_to(portrait, second.shape), second, 255.0) for second in seconds]


def _long_figures(video: Video, clip: PuppetClip, seams: Sequence[int]) -> dict[str, float]:
    first, *_, last = _background_by_second(video, clip)
    return {
        "background_psnr_first_s_db": first, "background_psnr_last_s_db": last, "drift_db": last - first,
        "lipsync": lipsync(video, clip.waveform, clip.mouth_box), "seam_jump": seam_jump(video, seams, TEMPORAL_STRIDE),
    }  # fmt: skip


def _peak_of(weights: Path, seconds: int) -> float:
    """Peak memory in MiB of a process of its own that plays so many seconds and writes no file."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_play_and_measure, (weights, seconds))


def _play_and_measure(weights: Path, seconds: int) -> float:
    player = player_of(load_nano(path=weights), build_plan(PLAN))
    clip = draw_clip(HELD_OUT_SEED + TEST_FIRST, 1)
    speech = (0.1 * np.random.default_rng(0).standard_normal(seconds * SAMPLE_RATE)).astype(np.float32)
    portrait = clip.frames[0].transpose(2, 0, 1).astype(np.float32) / 127.5 - 1
    for _ in player.frames_of(player.generate(portrait, speech, clip.prompt)):
        pass
    return round(peak_bytes() / 2**20, 1)


SILENT_CLIPS, SILENT_SECONDS = 6, SECONDS
CHATTER = "another voice, −20 dBFS"


def study_silence(study: Study) -> Json:
    """What is heard passes the loudness control of the player, as every recording does."""
    player = player_of(study.model, build_plan(PLAN))
    record: Json = {"noise_seeds": [SEEDS[0] + i for i in range(SILENT_CLIPS)], "backgrounds": {}}
    for name, background in [*BACKGROUNDS.items(), (CHATTER, None)]:
        study.report(f"  {name}")
        drawn = quiet_clips(SILENT_CLIPS, TEST_FIRST, background, SILENT_SECONDS)
        heard = [one.clip for one in drawn]
        if name == CHATTER:  # the control: a mouth that follows it fails
            heard = [replace(clip, waveform=with_chatter(clip)) for clip in heard]
        heard = [replace(clip, waveform=normalise_loudness(clip.waveform, SAMPLE_RATE)) for clip in heard]
        videos = [_played(player, clip, SEEDS[0] + i) for i, clip in enumerate(heard)]
        if name == next(reversed(BACKGROUNDS)):
            moments = np.linspace(0, len(videos[0]) - 1, 36).astype(int)
            rows = [SheetRow("drawn", heard[0].frames[moments]), SheetRow("generated", videos[0][moments])]
            _save(study, "silence", rows, fps=36 * 25 / len(videos[0]), columns=12, title=f"{name} around three seconds of speech")
        figures = [asdict(one.judged(video)) for one, video in zip(drawn, videos, strict=True)]
        record["backgrounds"][name] = {key: [round(one[key], 4) for one in figures] for key in figures[0]}
        record["backgrounds"][name]["mean"] = _rounded({key: float(np.mean([one[key] for one in figures])) for key in figures[0]})
        record |= {"clips": _seeds_of(heard)}
    truth = [asdict(one.judged(one.clip.frames)) for one in drawn]
    return record | {"drawn": _rounded({key: float(np.mean([one[key] for one in truth])) for key in truth[0]})}


def with_chatter(clip: PuppetClip) -> NDArray[np.float32]:
    """A clip's sound and another's voice over all of it, at an RMS of −20 dBFS."""
    other = draw_voice(clip.seed + 1, clip.identity, len(clip.waveform) / SAMPLE_RATE)
    return np.asarray(clip.waveform + 0.1 * other / np.sqrt(np.mean(other**2)), np.float32)


def study_voice(study: Study) -> Json:
    player = player_of(study.model, build_plan(PLAN))
    rows: list[Json] = []
    shown: list[tuple[PuppetClip, Video]] = []
    for i, (voice, sentence) in enumerate((v, s) for v in VOICES for s in SENTENCES):
        speech = espeak(sentence, voice, words_per_minute=130).waveform
        frames = len(speech) * 25 // SAMPLE_RATE // TEMPORAL_STRIDE * TEMPORAL_STRIDE - TEMPORAL_STRIDE + 1
        clip = draw_clip(HELD_OUT_SEED + TEST_FIRST + i, frames, waveform=speech, world=study.world)
        videos = [_played(player, clip, seed + i) for seed in SEEDS]
        if voice == VOICES[0]:
            shown.append((clip, videos[0]))
        rows.append(
            {
                "voice": voice, "sentence": sentence, "frames": frames,
                "drawn": round(lipsync(clip.frames, clip.waveform, clip.mouth_box), 4),
                "generated": [round(lipsync(video, clip.waveform, clip.mouth_box), 4) for video in videos],
            }
        )  # fmt: skip
    clip, video = shown[0]
    rows_shown = [SheetRow("drawn", clip.frames), SheetRow("generated", video, clip.prompt)]
    _save(study, "voice", rows_shown, audio=clip.waveform, columns=12, title=f"espeak-ng: {SENTENCES[0]}")
    by_seed = np.array([row["generated"] for row in rows])
    return {
        "speaker": "espeak-ng, 130 words per minute", "noise_seeds": SEEDS, "clips": rows,
        "drawn": round(float(np.mean([row["drawn"] for row in rows])), 4),
        "generated": round(float(by_seed.mean()), 4),
        "over_seeds": round(float(by_seed.mean(0).std(ddof=1)), 4) if len(SEEDS) > 1 else None,
        "lowest_clip": round(float(by_seed.mean(1).min()), 4),
    }  # fmt: skip


# ---- what sections share ---------------------------------------------------------------------------------------------------------


def _sheet(study: Study, name: str, title: str, clips: Sequence[PuppetClip], videos: Sequence[Video]) -> None:
    rows = [
        row
        for clip, video in list(zip(clips, videos, strict=True))[:SHEET_CLIPS]
        for row in (SheetRow("drawn", clip.frames, clip.prompt), SheetRow("generated", video))
    ]
    _save(study, name, rows, title=title)


def _save(study: Study, name: str, rows: Sequence[SheetRow], fps: float = 25, **options: Any) -> None:
    """A contact sheet that is small enough for documentation: 256 colours, one pixel per point."""
    sheet = contact_sheet(rows, fps=fps, style=SheetStyle(scale=1), **options)
    with atomic_file(study.out / f"{name}.png", force=True) as temporary:
        sheet.quantize(256).save(temporary, optimize=True)


def _seeds_of(clips: Sequence[PuppetClip]) -> Json:
    return {"count": len(clips), "first_seed": clips[0].seed, "frames": len(clips[0].frames)}


def _described(options: PlanOptions) -> Json:
    plan = build_plan(options)
    guidance = options.guidance
    scale = guidance.scale if isinstance(guidance, AudioGuidance) else 1.0
    return {"solver": plan.solver_name, "steps": plan.steps, "shift": plan.shift, "audio_guidance": scale,
            "phases": [asdict(phase) for phase in options.phases], "modality": asdict(options.modality)}  # fmt: skip


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {key: round(value, 4) for key, value in values.items()}


SECTIONS: dict[str, Callable[[Study], Json]] = {
    "vae": study_vae, "choices": study_choices, "generated": study_generated, "tasks": study_tasks, "switches": study_switches,
    "parts": study_parts, "long": study_long, "silence": study_silence, "voice": study_voice,
}  # fmt: skip
