"""runtime/play/material.py: the demo portrait and voice fit any clip."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from echoedge.core.config import ClipSpec
from echoedge.core.errors import ConfigError
from echoedge.runtime.play.material import demo_material

from ..bundles import CLIP


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("clip", [CLIP, ClipSpec(80, 48, 25), ClipSpec(16, 256, 5, fps=50, sample_rate=48000)], ids=str)
def test_the_demo_material_fits_the_clip(clip: ClipSpec, whole: bool) -> None:
    material = demo_material(clip, whole)
    material.check(clip, whole)
    assert material.speech.shape == ((2 * clip.frames - 1 if whole else clip.frames) * clip.samples_per_frame,)
    assert np.abs(material.speech).max() > 0.01
    assert material.mouth_box is not None
    top, bottom, left, right = material.mouth_box
    assert 0 < top < bottom <= clip.height
    assert 0 < left < right <= clip.width


def test_material_of_another_size_is_refused() -> None:
    material = demo_material(CLIP, whole=False)
    with pytest.raises(
        ConfigError, match=r"A portrait is \(3, 32, 32\); the clip 48x32x9 needs one of its own size, \(3, 48, 32\)"
    ):
        material.check(replace(CLIP, height=48), whole=False)
    with pytest.raises(ConfigError, match=r"A speech is \(\d+,\); the clip 32x32x13 needs one of its own length"):
        material.check(replace(CLIP, frames=13), whole=False)
    with pytest.raises(ConfigError, match="A speech is"):
        demo_material(CLIP, whole=True).check(CLIP, whole=False)


def test_another_seed_or_prompt_is_other_material() -> None:
    material = demo_material(CLIP, whole=False)
    others = (replace(material, seed=1), replace(material, prompt="a cat"), demo_material(CLIP, whole=True))
    assert len({each.digest for each in (material, *others)}) == 4
