"""runtime/studies/hearing_study.py: what context buys, measured on the programs that bundles have."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from echoedge.core.config import ClipSpec, Variant
from echoedge.core.model.pretrained_speech import SpeechEncoder
from echoedge.core.sampling.hearing import CONTEXT_SECONDS
from echoedge.runtime.studies.hearing_study import PAUSE_SECONDS, PAUSES, measure_contexts, voice_with_pauses

from ..core.test_hearing import SPEECH
from ..core.tiny import randomised, tiny_config

CLIP = ClipSpec(height=32, width=32, frames=9)


@pytest.mark.parametrize("variant", ["flash", "preview"])
def test_more_context_is_nearer_to_the_whole_voice(variant: Variant) -> None:
    encoder, speech = randomised(SpeechEncoder(SPEECH)), voice_with_pauses()[: 16000 * 10]
    told: list[tuple[int, int]] = []
    rows = measure_contexts(encoder, tiny_config(variant), CLIP, speech, (0.04, 0.5, 10.0), progress=lambda *now: told.append(now))
    lowest = [row.lowest_cosine for row in rows]
    assert lowest == sorted(lowest)
    assert lowest[0] < 0.9
    assert rows[2].readings == 1
    assert lowest[2] > 0.99999  # all of it at once
    assert all(row.lowest_cosine <= row.mean_cosine for row in rows)
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_compiled_it_says_the_same() -> None:
    encoder, speech = randomised(SpeechEncoder(SPEECH)), voice_with_pauses()[16000 * 5 : 16000 * 8]
    (one,) = measure_contexts(encoder, tiny_config("flash"), CLIP, speech, (0.2,))
    (other,) = measure_contexts(encoder, tiny_config("flash"), CLIP, speech, (0.2,), compiled=True)
    assert other.readings == one.readings > 1
    assert other.lowest_cosine == pytest.approx(one.lowest_cosine, abs=1e-5)  # measured: 1e-7
    assert other.lowest_cosine != one.lowest_cosine  # another engine's rounding


def test_the_voice_has_two_pauses_at_minus_60_dbfs() -> None:
    speech = voice_with_pauses()
    assert len(speech) == 20 * 16000
    for start in PAUSES:
        pause = speech[round(start * 16000) : round((start + PAUSE_SECONDS) * 16000)]
        assert 20 * np.log10(pause.std()) == pytest.approx(-60, abs=0.2)
    assert 20 * np.log10(speech[: 6 * 16000].std()) > -35


def test_the_default_is_the_least_context_of_the_record_that_keeps_every_frame() -> None:
    record = json.loads((Path(__file__).parents[2] / "records" / "hearing.json").read_text())["figures"]
    for model in ("flash", "preview"):
        lowest = {row["context_seconds"]: row["lowest_cosine"] for row in record[model]}
        assert min(seconds for seconds, cosine in lowest.items() if cosine > 0.99) == CONTEXT_SECONDS
        assert any(cosine < 0.99 for cosine in lowest.values())
    alone = {row["context_seconds"]: row["lowest_cosine"] for row in record["flash"]}
    for row in record["flash_compiled"]:
        assert row["lowest_cosine"] == pytest.approx(alone[row["context_seconds"]], abs=1e-6)
