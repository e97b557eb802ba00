"""runtime/play/reference.py: a checkpoint's files become a clip, on the modules that they hold, and every option does something."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from echoedge.core.config import ClipSpec, Variant
from echoedge.core.errors import ConfigError, EngineError, InputError
from echoedge.core.model.architecture import Architecture
from echoedge.core.model.conditions import Conditions
from echoedge.core.model.masks import Task, mask_latents, task_mask
from echoedge.core.plan import noise
from echoedge.core.plan.samplers import NoGuidance, build_plan, scheduler_for
from echoedge.core.sampling.conditioning import Conditioner
from echoedge.core.sampling.inputs import frame_windows
from echoedge.core.weights import checkpoints
from echoedge.core.weights.checkpoints import Checkpoint
from echoedge.runtime.play.prompts import read_prompts
from echoedge.runtime.play.reference import (
    Reference,
    Settings,
    encode_prompts,
    memory_needed,
    peak_memory,
    plan_options,
)

from ..core.tensors import pad_text
from ..core.tiny_checkpoint import playable_sizes

CLIP = ClipSpec(32, 48, 9)


@pytest.fixture(scope="module", params=["flash", "preview"])
def variant(request: pytest.FixtureRequest) -> Variant:
    return request.param


def reference(folders: dict[Variant, Path], variant: Variant = "flash", clip: ClipSpec = CLIP, **options: Any) -> Reference:
    prompts = options.pop("prompts", {})
    settings = Settings(**{"steps": 2} | options)
    return Reference(Checkpoint.open(folders[variant]), clip, settings, playable_sizes(variant), prompts)


def portrait(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (3, CLIP.height, CLIP.width)).astype(np.float32)


def voice(frames: int = CLIP.frames, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(frames * CLIP.samples_per_frame)).astype(np.float32)


def played(model: Reference, prompt: str = "a man nods", speech: np.ndarray | None = None, **options: Any) -> np.ndarray:
    return np.stack(list(model.frames(portrait(), voice() if speech is None else speech, prompt, **options)))


# ---- the whole way ---------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def by_hand(folder: Path, variant: Variant, options: Any, negative_prompt: str) -> np.ndarray:
    """The clip by `DiT.forward`, the library's schedulers and the encoders' modules: no plan, no player, no engine."""
    sizes, checkpoint = playable_sizes(variant), Checkpoint.open(folder)
    config = sizes.transformer
    dit = checkpoints.load_transformer(checkpoint, torch.float32, config=config)
    vae = checkpoints.load_vae(checkpoint, config=config.vae)
    tokenizer = checkpoints.load_tokenizer(checkpoint)
    umt5 = checkpoints.load_text_encoder(checkpoint, torch.bfloat16, config=sizes.text_encoder)
    wav2vec2 = checkpoints.load_speech_encoder(checkpoint, config=sizes.wav2vec2)
    picture, waveform = torch.from_numpy(portrait())[None], torch.from_numpy(voice())[None]

    def text(prompt: str) -> torch.Tensor:
        ids, mask, _ = tokenizer.ids(prompt, config.text_len)
        return pad_text([umt5(ids[None], mask[None])[0, : int(mask.sum())].float()], config.text_len)

    if variant == "flash":
        audio = frame_windows(wav2vec2.per_frame(waveform, CLIP.frames))
    else:
        audio = wav2vec2.per_token(torch.nn.functional.pad(waveform, (0, 640)))[:, : 2 * CLIP.frames]
    known = torch.zeros(1, CLIP.frames, 3, CLIP.height, CLIP.width)
    known[:, 0] = picture
    mask = mask_latents(task_mask(frozenset({Task.I2V}), CLIP), CLIP.latent_height, CLIP.latent_width)[None]
    common = {
        "y": torch.cat([mask, vae.encode(known)], 1),
        "image": checkpoints.load_image_encoder(checkpoint, config=sizes.clip)(picture),
    }
    scheduler = scheduler_for(options.solver, "wan", options.steps, options.shift)
    x = torch.from_numpy(noise(0, (16, 3, CLIP.latent_height, CLIP.latent_width)))[None].double()
    for index, timestep in enumerate(scheduler.timesteps):
        model = partial(dit, x.float(), timestep.view(1), **common)

        def velocity(prompt: str, heard: torch.Tensor, scale: float = 1.0, model: Any = model) -> torch.Tensor:
            return model(text=text(prompt) * scale, audio=heard).double()

        silence = torch.zeros_like(audio)
        conditional, silent = velocity("a man nods", audio), velocity("a man nods", silence)
        guidance = options.guidance
        if variant == "flash":
            v = silent + guidance.scale * (conditional - silent)
        else:
            left = ((options.steps - index) / options.steps) ** 5
            falling = 0.5 + 0.25 * (1 - np.cos(np.pi * left))
            negative = velocity(negative_prompt, silence, guidance.neg_scale if index < guidance.neg_steps else 1.0)
            v = negative + guidance.text * falling * (silent - negative) + guidance.audio * falling * (conditional - silent)
        x = scheduler.step(v, timestep, x, return_dict=False)[0]
    video = (vae.decode(x.float())[0].permute(0, 2, 3, 1) + 1) * 127.5
    return video.round().to(torch.uint8).numpy()


def test_a_checkpoint_becomes_the_clip_that_its_modules_make(folders: dict[Variant, Path], variant: Variant) -> None:
    negative = {"negative_prompt": "blurry"} if variant == "preview" else {}
    model = reference(folders, variant, **negative)
    frames = played(model)
    assert frames.shape == (CLIP.frames, CLIP.height, CLIP.width, 3)
    expected = by_hand(folders[variant], variant, model.options, "blurry")
    assert np.abs(frames.astype(int) - expected).max() <= 1
    assert (frames != expected).mean() < 0.01
    other = played(reference(folders, variant, **negative), speech=voice(seed=1))
    assert np.abs(other.astype(int) - expected).max() > 1  # the voice matters
    assert model.evaluations == (4 if variant == "flash" else 6)
    assert set(model.seconds) == {"listen", "look", "prepare", "denoise", "decode"}


def test_one_part_is_in_memory_at_a_time(folders: dict[Variant, Path]) -> None:
    model = reference(folders)
    held: list[int] = []
    run = model.engine.run

    def watched(*arguments: Any) -> list[Any]:
        found = run(*arguments)
        held.append(len(model.engine._loaded))
        return found

    model.engine.run = watched  # type: ignore[method-assign]
    played(model)
    assert set(held) == {1}
    model.engine.resident = True
    played(model)
    assert max(held) >= 4


# ---- options ---------------------------------------------------------------------------------------------------------------------


def test_half_precision_is_close_and_not_equal(folders: dict[Variant, Path], variant: Variant) -> None:
    full, half = played(reference(folders, variant)), played(reference(folders, variant, dtype="bf16"))
    difference = np.abs(full.astype(float) - half).mean()
    assert 0 < difference < 4  # measured: flash 0.6, preview 0.8 of 255


def test_the_tiny_decoder_decodes(folders: dict[Variant, Path]) -> None:
    full, tiny = played(reference(folders)), played(reference(folders, decoder="tiny"))
    assert tiny.shape == full.shape
    assert (full != tiny).mean() > 0.5


def test_windows_play_a_clip_longer_than_one(folders: dict[Variant, Path], variant: Variant) -> None:
    long = replace(CLIP, frames=21)
    model = reference(folders, variant, long, window=9, overlap=1)
    frames = played(model, speech=voice(21))
    assert len(frames) == 21
    at_once = played(reference(folders, variant, long), speech=voice(21))
    assert (frames != at_once).mean() > 0.1
    assert model.evaluations == 3 * (4 if variant == "flash" else 6)


def test_chunks_continue_one_another(folders: dict[Variant, Path], variant: Variant) -> None:
    """21 frames as 13 and 13 that share 5: the second chunk starts from the first one's last frames, and they cross-fade there."""
    model = reference(folders, variant, replace(CLIP, frames=21), window=13, overlap=3, long_video="chunks")
    player, known, made = model.player, [], []
    look, video_of = player.look, player.video_of

    def watched_look(given: np.ndarray, latent_frames: int) -> np.ndarray:
        known.append(given)
        return look(given, latent_frames)

    def watched_video(*arguments: Any) -> Iterator[np.ndarray]:
        made.append(np.concatenate(list(video_of(*arguments))))
        yield made[-1]

    player.look, player.video_of = watched_look, watched_video  # type: ignore[method-assign]
    frames = played(model, speech=voice(21))
    assert model.evaluations == 2 * (4 if variant == "flash" else 6)
    first, second = (((video.transpose(0, 2, 3, 1) + 1) * 127.5).clip(0, 255) for video in made)
    assert len(first) == len(second) == 13
    np.testing.assert_array_equal(known[0], portrait()[None])
    np.testing.assert_allclose((known[1].transpose(0, 2, 3, 1) + 1) * 127.5, first[8:].round(), atol=1e-3)
    share = np.linspace(0, 1, 5)[:, None, None, None]
    expected = np.concatenate([first[:8], first[8:] * (1 - share) + second[:5] * share, second[5:]])
    assert np.abs(frames - expected).max() <= 0.501
    assert np.abs(first[8:] - second[:5]).max() > 2


def test_feature_reuse_skips_blocks(folders: dict[Variant, Path]) -> None:
    model = reference(folders, steps=8, reuse=1e9, upstream_compat=True)
    model_frames = played(model)
    assert model.evaluations == 10  # of 16: five of every eight calls are computed
    assert (model_frames != played(reference(folders, steps=8))).any()
    own = reference(folders, steps=8, reuse=0.3)
    played(own)
    assert own.evaluations == own.plan.evaluations


def test_the_audio_scale_and_a_mask_weaken_the_voice(folders: dict[Variant, Path]) -> None:
    plain, weak = (played(reference(folders, "preview", audio_scale=scale)) for scale in (1.0, 0.5))
    assert (plain != weak).any()
    masked = played(reference(folders, "preview"), audio_mask=np.zeros(6, np.float32))
    assert (plain != masked).any()
    settings: dict[str, Any] = {"guidance": 1.0, "upstream_compat": True, "window": 5, "overlap": 0}
    short = replace(CLIP, frames=9)
    compat, ignored = (
        played(reference(folders, "preview", short, **settings), audio_mask=mask) for mask in (None, np.zeros(6, np.float32))
    )
    np.testing.assert_array_equal(compat, ignored)  # the original skips the mask where guidance is off


def test_options_are_checked() -> None:
    for options, message in (
        ({"dtype": "int8"}, "dtype is 'int8'"), ({"decoder": "big"}, "decoder is 'big'"), ({"window": 80}, "such as 77"),
        ({"long_video": "loops"}, "long_video"), ({"device": "abacus"}, "no device 'abacus'"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            Settings(**options)  # type: ignore[arg-type]
    if not torch.cuda.is_available():
        with pytest.raises(EngineError, match="cannot compute on 'cuda'"):
            Settings(device="cuda")
    assert isinstance(plan_options("preview", Settings(guidance=1.0)).guidance, NoGuidance)


# ---- prompts ---------------------------------------------------------------------------------------------------------------------


def test_a_prompt_pack_stands_for_the_text_encoder(folders: dict[Variant, Path], tmp_path: Path) -> None:
    sizes, checkpoint = playable_sizes("flash"), Checkpoint.open(folders["flash"])
    save_file(encode_prompts(checkpoint, ["a man nods", ""], sizes), tmp_path / "pack.safetensors")
    pack = read_prompts(tmp_path / "pack.safetensors", sizes.transformer.text_dim)
    assert set(pack) == {"a man nods", ""}
    model = reference(folders, prompts=pack)
    del model.engine.parts["text_encoder"]
    np.testing.assert_array_equal(played(model), played(reference(folders)))
    with pytest.raises(InputError, match="no text encoder here; the known prompts are '', 'a man nods', not 'a dog'"):
        played(model, "a dog")
    with pytest.raises(InputError, match="another model's"):
        read_prompts(tmp_path / "pack.safetensors", 21)
    (tmp_path / "none.safetensors").write_bytes(b"no")
    with pytest.raises(InputError, match="cannot be read"):
        read_prompts(tmp_path / "none.safetensors", 20)


def test_a_prompt_that_is_cut_is_said_so(folders: dict[Variant, Path]) -> None:
    said: list[str] = []
    model = reference(folders)
    model.warn = said.append
    played(model, "a very long prompt that does not fit")
    assert said == ["The prompt is longer than this model reads: its first 12 tokens count, 26 are left out."]
    long = "a very long prompt that does not fit"
    pack = encode_prompts(Checkpoint.open(folders["flash"]), [long], playable_sizes("flash"), warn=said.append)
    assert len(pack[long]) == 12
    assert said[1:] == said[:1]


# ---- memory ----------------------------------------------------------------------------------------------------------------------


def test_the_memory_forecast_counts_the_released_model() -> None:
    sizes = Architecture()
    settings = Settings(dtype="bf16")

    def forecast(frames: int) -> dict[str, int]:
        plan = build_plan(plan_options("flash", settings, frames))
        return memory_needed(sizes, ClipSpec(512, 512, frames), plan, settings)

    needed = forecast(81)
    assert needed["transformer"] == 2 * 1_792_948_032
    keys = 512 + 257 + 2 * 32 * 21  # the prompt's, the picture's, and those of the voice and of silence
    assert needed["conditions"] == 2 * (2 * 30 * keys * 1536 + 21504 * 1536)
    longer = forecast(161)  # 41 latent frames in three windows of 21 that overlap by 4
    assert longer["conditions"] - needed["conditions"] == 2 * 2 * (2 * 30 * 32 * 21 * 1536)
    latent_frame = 4 * 16 * 64 * 64
    assert longer["one step"] - needed["one step"] == (10 + 2) * 20 * latent_frame  # history, noise and result
    minute, two = forecast(1601), forecast(3201)
    assert minute["conditions"] == two["conditions"]  # those of the windows under way
    assert two["one step"] - minute["one step"] == 2 * 400 * latent_frame  # noise and result alone
    assert peak_memory(needed, resident=False) == sum(needed.values()) - needed["vae"] - needed["speech encoder"]
    assert peak_memory(needed, resident=True) == sum(needed.values())
    assert two["speech encoder"] - minute["speech encoder"] == pytest.approx(64 * 16.4e6, rel=0.01)  # measured: 16.4 MB a second
    hour = forecast(90001)
    assert peak_memory(hour, resident=False) == hour["speech encoder"] > 50e9
    settings = Settings(dtype="bf16", long_video="chunks")
    assert forecast(161)["conditions"] == needed["conditions"]


def test_conditions_that_windows_and_branches_share_are_held_once(
    folders: dict[Variant, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = reference(folders, "preview", replace(CLIP, frames=21), window=9, overlap=1, steps=3)
    found: list[Any] = []
    window = Conditioner.window
    monkeypatch.setattr(Conditioner, "window", lambda *arguments: found.append(window(*arguments)) or found[-1])
    played(model, speech=voice(21))
    names = Conditions.names()
    branches = len(model.plan.branches)
    assert (len(found), branches) == (3, 4)  # the negative prompt with and without its scale
    kinds = {name: len({id(row[index]) for window in found for row in window}) for index, name in enumerate(names)}
    assert kinds["patch_bias"] == kinds["image_k"] == 1
    assert kinds["text_k"] == 3
    assert kinds["audio_k"] == 3 + 2  # the last window's silence is two tokens longer
