"""core/train/margins.py: undesired twins are predicted worse than the clips, by a model that knows the difference."""

from __future__ import annotations

import numpy as np
import pytest

from echoedge.core.errors import InputError
from echoedge.core.model.programs import Model
from echoedge.core.model.transformer import DiT
from echoedge.core.train.evaluate import held_out
from echoedge.core.train.margins import preference_margins
from echoedge.core.train.preference import ALL_BUT_LATENT, Negative
from echoedge.core.weights.nano import load_nano

from .tiny import randomised


@pytest.fixture(scope="module")
def nano() -> Model:
    return load_nano()


def test_nano_predicts_undesired_twins_worse(nano: Model) -> None:
    margins = preference_margins(nano, held_out(8), seeds=(0, 1))
    assert set(margins) == {kind.value for kind in ALL_BUT_LATENT}
    for kind, ratios in margins.items():
        assert ratios.shape == (2, 8)
        assert ratios.mean() > 1.02, kind


def test_a_model_that_knows_nothing_minds_no_misaligned_voice(nano: Model) -> None:
    ignorant = Model(nano.config, randomised(DiT(nano.config), 0), nano.vae, nano.encoders)
    ratios = preference_margins(ignorant, held_out(4), (Negative.SHIFTED_AUDIO,))[Negative.SHIFTED_AUDIO]
    assert np.abs(ratios - 1).max() < 0.02


def test_audio_that_is_late_by_nothing_is_the_clip_itself(nano: Model) -> None:
    ratios = preference_margins(nano, held_out(2), (Negative.SHIFTED_AUDIO,), shift=25)[Negative.SHIFTED_AUDIO]
    np.testing.assert_allclose(ratios, 1.0, rtol=1e-5)


def test_a_single_clip_has_no_other_voice(nano: Model) -> None:
    with pytest.raises(InputError, match="There are 1 clips"):
        preference_margins(nano, held_out(1))
