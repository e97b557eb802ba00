"""runtime/play/setting.py: what a user asks for is found in the bundle, or refused with what is there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from echoedge.core.bundle import Bundle, ClipRecord
from echoedge.core.config import ClipSpec
from echoedge.core.errors import ConfigError, InputError
from echoedge.core.plan.samplers import PLAN_PRESETS, build_plan
from echoedge.runtime.play.setting import Setting, Wanted, own_prompts

from ..bundles import CLIP, small_player_config


def silent(bundle: Bundle, **prompts: np.ndarray) -> Setting:
    """Of the bundle without its text encoder, with these prompts of its own."""
    programs = {name: program for name, program in bundle.manifest.programs.items() if name != "text_encoder"}
    deaf = replace(bundle, manifest=bundle.manifest.model_copy(update={"programs": programs}))
    setting = Setting.of(deaf, Wanted())
    return replace(setting, config=replace(setting.config, prompts=prompts))


def rows(bundle: Bundle, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((3, bundle.model.text_dim), np.float32)


def test_what_is_left_open_is_the_bundles(bundle: Bundle) -> None:
    setting = Setting.of(bundle, Wanted())
    assert (setting.clip, setting.decoder, setting.config.prompts) == (CLIP, None, {})
    assert setting.player(1.0).decoder == "vae_decode"


def test_a_shape_is_found_by_its_name(bundle: Bundle) -> None:
    other = ClipSpec(48, 32, 5)
    programs = {name: program.model_copy(update={"clip": None}) for name, program in bundle.manifest.programs.items()}
    clips = (*bundle.manifest.clips, ClipRecord.of(other))
    several = replace(bundle, manifest=bundle.manifest.model_copy(update={"clips": clips, "programs": programs}))
    assert Setting.of(several, Wanted(clip="48x32x5")).clip == other
    with pytest.raises(ConfigError, match=r"--clip is '48x32'; .* plays: 32x32x9, 48x32x5\."):
        Setting.of(several, Wanted(clip="48x32"))


def test_a_decoder_is_found_by_its_name(bundle: Bundle) -> None:
    assert Setting.of(bundle, Wanted(decoder="full")).decoder == "vae_decode"
    with pytest.raises(ConfigError, match=r"--decoder is 'tiny'; .* has: full\."):
        Setting.of(bundle, Wanted(decoder="tiny"))


def test_a_pack_lies_beside_the_bundles_own_prompts(bundle: Bundle, tmp_path: Path) -> None:
    save_file({"a man": rows(bundle)}, tmp_path / "pack.safetensors")
    config = Setting.of(bundle, Wanted(prompts=tmp_path / "pack.safetensors")).config
    np.testing.assert_array_equal(config.prompts["a man"], rows(bundle))
    save_file({"a man": np.zeros((3, 7), np.float32)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="The pack is another model's"):
        Setting.of(bundle, Wanted(prompts=tmp_path / "other.safetensors"))


# ---- the prompt ------------------------------------------------------------------------------------------------------------------


def test_where_text_is_read_nothing_has_to_be_known(bundle: Bundle) -> None:
    setting = Setting.of(bundle, Wanted())
    assert setting.prompt(None, "") == ""
    assert setting.prompt(None, "a demo's") == "a demo's"
    assert setting.prompt("mine", "a demo's") == "mine"


def test_the_one_prompt_that_is_known_is_played(bundle: Bundle) -> None:
    assert silent(bundle, talks=rows(bundle)).prompt(None, "") == "talks"
    assert silent(bundle, talks=rows(bundle)).prompt("other", "") == "other"  # the player refuses it, with what is known


def test_of_several_prompts_one_has_to_be_named(bundle: Bundle) -> None:
    several = silent(bundle, talks=rows(bundle), nods=rows(bundle, 1))
    with pytest.raises(InputError, match=r"Say with --prompt which of its prompts to play: 'talks', 'nods'\."):
        several.prompt(None, "")
    assert several.prompt(None, "", any_of_several=True) == "talks"


@pytest.mark.parametrize("any_of_several", [False, True])
def test_without_prompts_it_says_how_to_make_some(any_of_several: bool, bundle: Bundle) -> None:
    with pytest.raises(InputError, match=r"no text encoder and no prompts\. Give some with --prompts PACK; make it with: echoedge"):
        silent(bundle).prompt(None, "a demo's", any_of_several)


def test_what_the_plan_needs_for_itself_is_not_what_a_clip_is_asked_for(bundle: Bundle) -> None:
    """nano-png pushes away from a negative text."""
    config = replace(small_player_config(), plan=build_plan(replace(PLAN_PRESETS["nano-png"], steps=4)))
    own = own_prompts(config)
    assert own == {branch.text for branch in config.plan.branches} - {"prompt"}
    assert own
    assert own_prompts(small_player_config()) == set()
    (negative,) = own
    setting = silent(bundle)
    setting = replace(setting, config=replace(config, prompts={negative: rows(bundle), "talks": rows(bundle, 1)}))
    assert setting.prompt(None, "") == setting.prompt(None, "", any_of_several=True) == "talks"
