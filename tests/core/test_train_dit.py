"""core/train/train_dit.py: what a batch holds, the plain recipe, every branch's conditions, killed runs, released models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import torch
from torch import Tensor

from echoedge.core import files
from echoedge.core.config import ModelConfig
from echoedge.core.errors import ConfigError
from echoedge.core.model.masks import Box, Task, condition_latents, mask_latents, parse_tasks, task_mask
from echoedge.core.train import checkpoint
from echoedge.core.train import train_dit as module
from echoedge.core.train.checkpoint import load_checkpoint, save_checkpoint
from echoedge.core.train.loop import recompute_blocks
from echoedge.core.train.pool import FeaturePool
from echoedge.core.train.preference import NDPO, Negative, freeze_mouth
from echoedge.core.train.soup import ModalSoup, TaskSoup
from echoedge.core.train.train_dit import (
    METHODS,
    DiTTraining,
    LatentCache,
    NanoModel,
    assemble,
    cache_extras,
    cache_latents,
    draw,
    leave_out,
    mouth_latent_mask,
    sft_loss,
    train_dit,
)
from echoedge.core.train.train_vae import video_tensor

from .tensors import byte_ids
from .tiny import randomised, tiny_config, tiny_vae
from .tiny_training import CACHED, CLIP, CLIPS, CONFIG, WHOLE_METHOD, tiny_cache, tiny_pool, tiny_training

Batch = dict[str, Tensor]


def batch_of(training: DiTTraining, step: int = 0, cache: LatentCache | None = None) -> tuple[Any, Batch]:
    cache = cache or tiny_cache()
    drawn = draw(cache, np.random.default_rng((training.seed, step)), training, step, CLIP.frames)
    return drawn, assemble(cache, tiny_pool(), drawn, slice(0, training.batch), training, CONFIG, CLIP)


def names_of(drawn: Any, training: DiTTraining) -> list[str]:
    return [training.soup.names[k] for k in drawn.task]


def texts_of(batch: Batch) -> list[str]:
    return [bytes(row[row < 256].tolist()).decode() for row in batch["ids"]]


# ---- the plain recipe ------------------------------------------------------------------------------------------------------------


def plain_batch(cache: LatentCache, training: DiTTraining, step: int) -> Batch:
    """The shipped recipe, written down a second time: the order of its random draws is part of it."""
    pool, rng, size = tiny_pool(), np.random.default_rng((training.seed, step)), training.batch
    task = rng.choice(3, size, p=[0.8, 0.08, 0.12])  # i2v, t2v, lip-sync, all with speech
    index = rng.integers(0, CLIPS, size)
    index[task == 2] = rng.integers(0, CACHED, int((task == 2).sum()))
    y = torch.zeros(size, 20, *cache.latents.shape[2:])
    for i in range(size):
        if task[i] == 0:
            y[i, :4, 0] = 1.0
            y[i, 4:, 0] = cache.latents[index[i], :, 0]
        elif task[i] == 2:
            y[i] = cache.lipsync[index[i]]
    gain = 10 ** (rng.uniform(-5.0, 5.0, (size, 1)) / 20)
    keep_text = rng.random(size) >= 0.1
    return {
        "latents": cache.latents[index],
        "y": y,
        "waveform": torch.from_numpy((pool.waveforms[index] * gain).astype(np.float32)),
        "ids": torch.cat([byte_ids(pool.prompts[i] if keep else "", 64)[0] for i, keep in zip(index, keep_text, strict=True)]),
        "portrait": video_tensor(pool.frames[index, :1])[:, 0],
        "has_portrait": torch.from_numpy(task != 1).float(),
        "has_audio": torch.from_numpy(rng.random(size) >= 0.1).float(),
        "mouth": mouth_latent_mask(pool.boxes[index], CLIP),
        "sigma": shifted_logit_normal(rng, size),
    }


def shifted_logit_normal(rng: np.random.Generator, size: int) -> Tensor:
    odds = 3.0 * np.exp(rng.normal(0.0, 1.0, size))  # σ / (1-σ), shifted by 3
    return torch.from_numpy(odds / (1 + odds)).float()


@pytest.mark.parametrize("step", [0, 7])
def test_the_defaults_draw_the_plain_recipe(step: int) -> None:
    training = DiTTraining(batch=64)
    _, batch = batch_of(training, step)
    expected = plain_batch(tiny_cache(), training, step)
    assert batch.keys() == expected.keys()
    for name, value in expected.items():
        if name == "sigma":  # the same number by another formula
            assert torch.allclose(batch[name], value, rtol=1e-6)
        else:
            assert torch.equal(batch[name], value), name


def test_the_defaults_are_the_plain_method() -> None:
    assert METHODS["plain"] == DiTTraining()
    assert (DiTTraining().tasks, DiTTraining().modals, DiTTraining().ndpo, DiTTraining().captions) == (None,) * 4


def test_an_option_changes_the_draw() -> None:
    plain, soup = (batch_of(tiny_training(batch=64, **options))[1] for options in ({}, {"modals": ModalSoup()}))
    assert not torch.equal(plain["has_audio"], soup["has_audio"])


# ---- tasks -----------------------------------------------------------------------------------------------------------------------


def test_every_task_has_its_own_conditions() -> None:
    training = tiny_training(batch=256, tasks=TaskSoup(hard=None, mislabelled=0.0), modals=ModalSoup(()))
    cache = tiny_cache()
    drawn, batch = batch_of(training)
    seen = set()
    for row, name in enumerate(names_of(drawn, training)):
        seen.add(name)
        clip, y = int(drawn.clip[row]), batch["y"][row]
        if name in ("t2v", "a2v"):
            assert not y.any() and not batch["has_portrait"][row]
        elif name in ("i2v", "i2v+a2v"):
            assert torch.equal(y[4:, 0], cache.latents[clip, :, 0]) and not y[:, 1:].any() and (y[:4, 0] == 1).all()
        else:
            stored = cache.lipsync if name == "i2v+lipsync" else cache.pictures["flf2v"]
            assert clip < CACHED and torch.equal(y, stored[clip])
        assert bool(batch["has_audio"][row]) == (name in ("a2v", "i2v+a2v", "flf2v+a2v", "i2v+lipsync"))
        assert torch.equal(batch["latents"][row], cache.latents[clip])
    assert seen == set(training.soup.names)


def test_training_starts_on_the_hard_task_alone() -> None:
    training = tiny_training(batch=128, tasks=TaskSoup(hard="a2v", decay=0.9))
    assert set(names_of(batch_of(training, 0)[0], training)) == {"a2v"}
    assert set(names_of(batch_of(training, 200)[0], training)) == set(training.soup.names)


def test_a_wrong_label_changes_the_mask_and_not_the_content() -> None:
    right = tiny_training(batch=200, tasks=TaskSoup(hard=None, mislabelled=0.0), modals=ModalSoup(()))
    wrong = replace(right, tasks=TaskSoup(hard=None, mislabelled=0.5))
    (drawn, a), (mislabelled, b) = batch_of(right), batch_of(wrong)
    assert (drawn.task == mislabelled.task).all() and (drawn.clip == mislabelled.clip).all()
    assert torch.equal(a["y"][:, 4:], b["y"][:, 4:])
    changed = (a["y"][:, :4] != b["y"][:, :4]).flatten(1).any(1).numpy()
    assert changed.tolist() == (mislabelled.shown != mislabelled.task).tolist() and 60 < changed.sum() < 140
    names, box = wrong.soup.names, Box(*tiny_pool().boxes[0].tolist())
    for row in np.flatnonzero(changed):
        mask = task_mask(parse_tasks(names[mislabelled.shown[row]]), CLIP, box)
        assert torch.equal(b["y"][row, :4], mask_latents(mask, CLIP.latent_height, CLIP.latent_width))


def test_the_last_frame_is_the_portrait_where_only_it_is_known() -> None:
    training = tiny_training(batch=8, tasks=TaskSoup((("last+a2v", 1.0),), hard=None, mislabelled=0.0))
    cache = replace(tiny_cache(), pictures={"last": tiny_cache().lipsync})
    drawn, batch = batch_of(training, cache=cache)
    assert torch.equal(batch["portrait"], video_tensor(tiny_pool().frames[drawn.clip, -1:])[:, 0])


def test_a_task_that_was_not_cached_is_refused() -> None:
    training = tiny_training(tasks=TaskSoup((("last", 1.0),), hard=None, mislabelled=0.0))
    with pytest.raises(ConfigError, match="task 'last' are not cached"):
        batch_of(training)


# ---- modalities ------------------------------------------------------------------------------------------------------------------


def test_a_dropped_modality_does_not_reach_the_model() -> None:
    """What is dropped can be anything: the velocity does not change. What is kept matters."""
    model = randomised(NanoModel(CONFIG, CLIP))
    _, batch = batch_of(tiny_training(tasks=TaskSoup((("i2v+a2v", 1.0),), hard=None, mislabelled=0.0), modals=ModalSoup(())))
    noisy = torch.randn_like(batch["latents"])
    for flag, name in (("has_audio", "waveform"), ("has_portrait", "portrait")):
        other = batch | {name: torch.randn_like(batch[name])}
        assert not torch.allclose(model(noisy, batch), model(noisy, other))
        without = {flag: torch.zeros_like(batch[flag])}
        assert torch.equal(model(noisy, batch | without), model(noisy, other | without))


def test_kept_conditions_are_those_of_the_draw() -> None:
    training = tiny_training(batch=300, tasks=TaskSoup((("i2v+a2v", 1.0),), hard=None, mislabelled=0.0), modals=ModalSoup())
    drawn, batch = batch_of(training)
    flags = np.stack([[bool(t) for t in texts_of(batch)], batch["has_portrait"].numpy() > 0, batch["has_audio"].numpy() > 0], 1)
    assert (flags == drawn.kept).all()
    assert len(np.unique(flags, axis=0)) == 8  # all combinations


# ---- what is encoded once --------------------------------------------------------------------------------------------------------


def test_caches_hold_what_the_encoder_gives_and_are_read_back(tmp_path: Path) -> None:
    vae, pool = tiny_vae(CONFIG.vae), tiny_pool(8)
    training = tiny_training(lipsync_clips=3, tasks=TaskSoup(), ndpo=NDPO(least_shift=2))
    cache = cache_latents(vae, pool, tmp_path / "latents.pt", 8, 3, CLIP)
    full = cache_extras(vae, pool, cache, tmp_path, training, CLIP)
    assert set(full.pictures) == {"flf2v"} and full.frozen is not None
    frames, boxes = video_tensor(pool.frames[:3]), torch.from_numpy(pool.boxes[:3])
    with torch.no_grad():
        frozen = vae.encode(freeze_mouth(frames, boxes))
        mask = task_mask(frozenset({Task.FLF2V}), CLIP)
        y = torch.cat([condition_latents(video, mask, CLIP, vae.encode, False) for video in frames])
    assert torch.allclose(full.frozen, frozen, rtol=1e-3, atol=1e-3)  # kept in half precision: 5e-4 of a value
    assert torch.allclose(full.pictures["flf2v"], y, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(full.frozen, cache.latents[:3], rtol=1e-3, atol=1e-3)
    made = {path: path.read_bytes() for path in tmp_path.iterdir()}
    again = cache_extras(vae, pool, cache_latents(vae, pool, tmp_path / "latents.pt", 8, 3, CLIP), tmp_path, training, CLIP)
    assert again.frozen is not None and torch.equal(again.frozen, full.frozen)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == made  # read, not encoded


def test_a_pool_of_fewer_clips_than_are_asked_for_gives_all(tmp_path: Path) -> None:
    vae, pool = tiny_vae(CONFIG.vae), tiny_pool(2)
    cache = cache_latents(vae, pool, tmp_path / "latents.pt", 5, 5, CLIP)
    assert (len(cache.latents), len(cache.lipsync)) == (2, 2)
    training = replace(WHOLE_METHOD, lipsync_clips=5)
    extra = cache_extras(vae, pool, cache, tmp_path, training, CLIP)
    assert extra.frozen is not None
    assert {len(extra.frozen), *(len(y) for y in extra.pictures.values())} == {2}


@pytest.mark.parametrize("change", ["vae", "clips", "lipsync"])
def test_a_cache_of_something_else_is_made_again(change: str, tmp_path: Path) -> None:
    vae, pool, training = tiny_vae(CONFIG.vae), tiny_pool(8), tiny_training(lipsync_clips=2, tasks=TaskSoup())
    first = cache_extras(vae, pool, cache_latents(vae, pool, tmp_path / "latents.pt", 6, 2, CLIP), tmp_path, training, CLIP)
    other = randomised(tiny_vae(CONFIG.vae), 3) if change == "vae" else vae
    clips, few = (4, 2) if change == "clips" else (6, 1 if change == "lipsync" else 2)
    cache = cache_latents(other, pool, tmp_path / "latents.pt", clips, few, CLIP)
    second = cache_extras(other, pool, cache, tmp_path, replace(training, lipsync_clips=few), CLIP)
    assert (len(second.latents), len(second.lipsync), len(second.pictures["flf2v"])) == (clips, few, few)
    assert torch.equal(second.latents[:4], first.latents[:4]) == (change != "vae")
    assert torch.equal(second.pictures["flf2v"][:1], first.pictures["flf2v"][:1]) == (change != "vae")


def test_the_plain_recipe_encodes_nothing_more(tmp_path: Path) -> None:
    cache = cache_extras(None, tiny_pool(), tiny_cache(), tmp_path, tiny_training(), CLIP)  # type: ignore[arg-type]
    assert cache.pictures == {} and cache.frozen is None and list(tmp_path.iterdir()) == []


# ---- killed runs -----------------------------------------------------------------------------------------------------------------


SIX_STEPS = replace(WHOLE_METHOD, steps=6)


def run(folder: Path, training: DiTTraining = SIX_STEPS, save_every: int = 2) -> NanoModel:
    folder.mkdir(exist_ok=True)
    return train_dit(CONFIG, tiny_cache(), tiny_pool(), folder, training, CLIP, report_every=2, save_every=save_every)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    run(folder)
    return folder


@pytest.mark.parametrize("at", [0, 1, 2, 3, 5])
def test_a_run_killed_in_a_step_repeats_itself(whole_run: Path, at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = module.draw

    def dying(cache: LatentCache, rng: np.random.Generator, training: DiTTraining, step: int, frames: int) -> Any:
        if step == at:
            raise Killed
        return drawn(cache, rng, training, step, frames)

    with monkeypatch.context() as patch:
        patch.setattr(module, "draw", dying)
        with pytest.raises(Killed):
            run(tmp_path)
    run(tmp_path)
    assert same(load_checkpoint(tmp_path / "dit.pt"), load_checkpoint(whole_run / "dit.pt"))


@pytest.mark.parametrize("at", [2, 4, 6])
@pytest.mark.parametrize("while_", ["writing", "renaming"])
def test_a_run_killed_in_a_checkpoint_repeats_itself(
    whole_run: Path, at: int, while_: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def writes_half(state: dict[str, Any], file: IO[bytes]) -> None:
        if state["step"] == at:
            file.write(b"PK\x03\x04 half a checkpoint")
            raise Killed
        torch_save(state, file)

    def renames_not(source: Path, target: Path) -> None:
        if load_checkpoint(source)["step"] == at:  # type: ignore[index]
            raise Killed
        replace_file(source, target)

    torch_save, replace_file = torch.save, files.os.replace
    with monkeypatch.context() as patch:
        if while_ == "writing":
            patch.setattr(checkpoint.torch, "save", writes_half)
        else:
            patch.setattr(files.os, "replace", renames_not)
        with pytest.raises(Killed):
            run(tmp_path)
    run(tmp_path)
    assert same(load_checkpoint(tmp_path / "dit.pt"), load_checkpoint(whole_run / "dit.pt"))


@pytest.mark.parametrize("lost", ["optimiser", "reference", "average"])
def test_every_part_of_a_checkpoint_counts(lost: str, tmp_path: Path) -> None:
    """The run is cut after step 5, amid preference steps; without one part of the state it ends elsewhere."""
    training = replace(WHOLE_METHOD, steps=6, ndpo=NDPO(share=1.0, cycle=6, least_shift=2))
    run(tmp_path, replace(training, steps=5), save_every=5)
    state = load_checkpoint(tmp_path / "dit.pt")
    assert state is not None
    run(tmp_path, training)
    good = load_checkpoint(tmp_path / "dit.pt")
    fresh = NanoModel(CONFIG, CLIP)
    if lost == "optimiser":
        state["optimiser"]["state"] = {}
    else:
        state[lost] = {name: torch.randn_like(value) for name, value in fresh.state_dict().items()}
    save_checkpoint(tmp_path / "dit.pt", state)
    run(tmp_path, training)
    assert not same(load_checkpoint(tmp_path / "dit.pt"), good)


def test_a_run_with_other_options_is_not_resumed(tmp_path: Path) -> None:
    run(tmp_path, replace(SIX_STEPS, steps=2))
    with pytest.raises(ConfigError, match=r"dit\.pt belongs to a run with rate 0\.1, not 0\.2\. Use the same options, or another"):
        run(tmp_path, replace(SIX_STEPS, rate=0.2))
    with pytest.raises(ConfigError, match=r"a run with ndpo(\.beta)? "):
        run(tmp_path, replace(SIX_STEPS, ndpo=None))
    with pytest.raises(ConfigError, match=r"with ndpo\.beta 100\.0, not 50\.0"):
        run(tmp_path, replace(SIX_STEPS, ndpo=replace(SIX_STEPS.ndpo, beta=50.0)))
    with pytest.raises(ConfigError, match="made_from '', not 'another'"):
        train_dit(CONFIG, replace(tiny_cache(), made_from="another"), tiny_pool(), tmp_path, SIX_STEPS, CLIP)
    run(tmp_path, SIX_STEPS)  # more steps are
    with pytest.raises(ConfigError, match="has taken 6 steps already, more than the 4"):
        run(tmp_path, replace(SIX_STEPS, steps=4))
    state = load_checkpoint(tmp_path / "dit.pt")
    assert state is not None
    save_checkpoint(tmp_path / "dit.pt", {key: value for key, value in state.items() if key != "options"})
    with pytest.raises(ConfigError, match="earlier version"):
        run(tmp_path, SIX_STEPS)


def test_parts_are_left_out_one_by_one() -> None:
    full = METHODS["full"]
    assert full.ndpo and full.captions and full.tasks
    assert leave_out(full, ["ndpo"]) == replace(full, ndpo=None)
    assert leave_out(full, ["captions", "labels"]) == replace(full, captions=None, tasks=replace(full.tasks, mislabelled=0.0))
    with pytest.raises(ConfigError, match="no preference steps"):
        leave_out(METHODS["plain"], ["ndpo"])
    with pytest.raises(ConfigError, match="label"):
        leave_out(full, ["lables"])


def test_another_seed_trains_another_model(whole_run: Path, tmp_path: Path) -> None:
    run(tmp_path, replace(SIX_STEPS, seed=2))
    assert not same(load_checkpoint(tmp_path / "dit.pt"), load_checkpoint(whole_run / "dit.pt"))


def test_a_finished_run_is_loaded_and_training_changes_nothing(whole_run: Path) -> None:
    before = (whole_run / "dit.pt").read_bytes()
    model = run(whole_run)
    saved = load_checkpoint(whole_run / "dit.pt")
    assert saved is not None and same(dict(model.state_dict()), saved["average"])
    assert (whole_run / "dit.pt").read_bytes() == before
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_training_starts_from_given_weights(tmp_path: Path) -> None:
    weights = randomised(NanoModel(CONFIG, CLIP)).state_dict()
    training = tiny_training(steps=1, rate=1e-12)
    model = train_dit(CONFIG, tiny_cache(), tiny_pool(), tmp_path, training, CLIP, start=weights)
    assert all(torch.allclose(value, weights[name], atol=1e-9) for name, value in model.state_dict().items())


def test_training_without_steps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="0 steps"):
        run(tmp_path, tiny_training(steps=0))


# ---- memory and precision --------------------------------------------------------------------------------------------------------


def gradients(training: DiTTraining) -> dict[str, Tensor]:
    torch.manual_seed(0)
    model = randomised(NanoModel(CONFIG, CLIP))
    if training.recompute:
        recompute_blocks(model.dit)
    _, batch = batch_of(training)
    torch.manual_seed(1)
    sft_loss(model, batch, torch.randn_like(batch["latents"]), training).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def test_recomputed_blocks_have_the_same_gradients() -> None:
    plain, recomputed = gradients(tiny_training()), gradients(tiny_training(recompute=True))
    assert plain.keys() == recomputed.keys()
    assert all(torch.equal(plain[name], recomputed[name]) for name in plain)


def test_bfloat16_gives_nearly_the_same_gradients_in_float32() -> None:
    exact, rough = gradients(tiny_training()), gradients(tiny_training(bf16=True))
    assert {gradient.dtype for gradient in rough.values()} == {torch.float32}
    a, b = (torch.cat([each[name].flatten() for name in exact]) for each in (exact, rough))
    assert 0.99 < torch.nn.functional.cosine_similarity(a, b, 0) < 0.9999999  # bfloat16 has 8 bits


# ---- released models, from features ----------------------------------------------------------------------------------------------


def feature_pool(config: ModelConfig) -> FeaturePool:
    rng = np.random.default_rng(0)
    rows = (CLIP.frames, config.audio.layers) if config.variant == "flash" else (2 * CLIP.frames,)
    return FeaturePool(
        audio=rng.normal(size=(CLIPS, *rows, config.audio.channels)).astype(np.float32),
        text=rng.normal(size=(CLIPS, config.text_len, config.text_dim)).astype(np.float32),
        image=rng.normal(size=(CLIPS, config.image_tokens, config.image_dim)).astype(np.float32),
        boxes=tiny_pool().boxes,
        texts={name: rng.normal(size=(config.text_len, config.text_dim)).astype(np.float32) for name in ("", *Negative)},
        frames_per_clip=CLIP.frames,
    )


@pytest.mark.parametrize("variant", ["flash", "preview"])
def test_a_released_model_is_tuned_on_features_by_the_same_code(variant: Any, tmp_path: Path) -> None:
    config = tiny_config(variant)
    picture = {name: tiny_cache().lipsync for name in ("i2v", "flf2v")}
    cache = replace(tiny_cache(), pictures=picture, encode_unknown=True)
    weights = randomised(NanoModel(config, CLIP, encoders=False)).state_dict()
    assert all(name.startswith("dit.") for name in weights)
    training = replace(WHOLE_METHOD, steps=4)
    pool = feature_pool(config)
    model = train_dit(config, cache, pool, tmp_path, training, CLIP, encoders=False, start=weights)
    assert model.encoders is None
    moved = [name for name, value in model.state_dict().items() if not torch.equal(value, weights[name])]
    assert len(moved) > 0.9 * len(weights)


def test_features_are_shifted_by_video_frames() -> None:
    for variant, rows in (("flash", 1), ("preview", 2)):
        pool = feature_pool(tiny_config(variant))  # type: ignore[arg-type]
        one = np.array([3])
        asked = module.Asked(one, one, np.array([2]), np.ones(1), np.zeros(1, int), [None])
        late = pool.inputs(asked, 12)["audio"][0].numpy()
        assert np.array_equal(late[2 * rows :], pool.audio[3][: -2 * rows])


def test_a_text_without_embedding_is_refused() -> None:
    pool = replace(feature_pool(tiny_config()), texts={"": np.zeros((12, 20), np.float32)})
    one = np.array([0])
    with pytest.raises(ConfigError, match="'out of step' has no embedding"):
        pool.inputs(module.Asked(one, one, one, np.ones(1), one, ["out of step"]), 12)
