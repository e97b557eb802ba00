"""core/metrics/silence.py and core/train/silence.py: what of a mouth's motion is there where nobody speaks."""

from __future__ import annotations

import numpy as np
import pytest

from echoedge.core.errors import InputError
from echoedge.core.metrics.silence import silence
from echoedge.core.metrics.voice import SAMPLE_RATE, frame_rms
from echoedge.core.train.puppets import HELD_OUT_SEED, draw_clip
from echoedge.core.train.silence import BACKGROUNDS, MARGIN_SECONDS, Background, noise, quiet_clip

SPEAKING = np.tile([0.0, 1.0], 150)  # mean and standard deviation ½
SPOKEN = np.arange(600) < 300


@pytest.mark.parametrize(
    ("resting", "opening", "motion"),
    [
        (np.full(300, 0.0), 0.0, 0.0), (np.full(300, 0.5), 1.0, 0.0),  # shut; hanging open, though still
        (SPEAKING, 1.0, 1.0), (0.1 * SPEAKING, 0.1, 0.1), (np.full(300, -0.1), -0.2, 0.0),
    ],
)  # fmt: skip
def test_shares_are_of_what_the_mouth_does_in_speech(resting: np.ndarray, opening: float, motion: float) -> None:
    for scale, offset in ((1.0, 0.0), (0.05, 0.3)):  # a picture of less contrast, a mouth with a moustache
        found = silence(offset + scale * np.concatenate([SPEAKING, resting]), SPOKEN, ~SPOKEN)
        assert found.opening == pytest.approx(opening, abs=1e-9)
        assert found.motion == pytest.approx(motion, abs=1e-9)


def test_frames_that_are_neither_do_not_count() -> None:
    track, quiet = np.concatenate([SPEAKING, np.zeros(300)]), ~SPOKEN
    track[300:310], quiet[300:310] = 5.0, False
    assert silence(track, SPOKEN, quiet).motion == 0.0


def test_what_cannot_be_judged_is_refused() -> None:
    with pytest.raises(InputError, match="0 are quiet"):
        silence(SPEAKING, np.ones(300, bool), np.zeros(300, bool))
    with pytest.raises(InputError, match="shapes"):
        silence(SPEAKING, SPOKEN, ~SPOKEN)
    with pytest.raises(InputError, match="too short"):
        quiet_clip(0, seconds=(MARGIN_SECONDS, 3.0, 6.0))


@pytest.mark.parametrize("name", [name for name, background in BACKGROUNDS.items() if background])
def test_noise_has_its_level_and_its_colour(name: str) -> None:
    background = BACKGROUNDS[name]
    assert background is not None
    made = noise(np.random.default_rng(0), 20 * SAMPLE_RATE, background)
    assert 20 * np.log10(np.sqrt(np.mean(made.astype(np.float64) ** 2))) == pytest.approx(background.dbfs, abs=0.01)
    power = np.abs(np.fft.rfft(made)) ** 2
    frequency = np.fft.rfftfreq(len(made), 1 / SAMPLE_RATE)
    levels = [10 * np.log10(power[(frequency >= low) & (frequency < 1.2 * low)].mean()) for low in (200, 400, 800, 1600)]
    assert -np.diff(levels) == pytest.approx(background.octave_db, abs=0.5)


def test_a_drawn_mouth_is_shut_where_nobody_speaks_and_another_voice_is_told_from_it() -> None:
    one = quiet_clip(HELD_OUT_SEED + 5000, Background(-50.0, 6.0), (1.0, 2.0, 1.0))
    assert len(one.clip.frames) == len(one.quiet) == 100
    assert frame_rms(one.clip.waveform, 100)[one.quiet] == pytest.approx(10 ** (-50 / 20), rel=0.6)
    drawn = one.judged(one.clip.frames)
    assert drawn.opening < 0.05
    assert drawn.motion < 0.1
    speaking = draw_clip(one.clip.seed, 100)  # the same person, who speaks all the time
    assert one.judged(speaking.frames).opening > 0.5
    assert one.judged(speaking.frames).motion > 0.5
