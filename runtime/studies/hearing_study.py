"""How much context the speech encoder needs: features of a voice heard in parts, as a bundle hears it, beside those of the voice
heard at once."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...core.config import ClipSpec, ModelConfig
from ...core.metrics.psnr import cosine
from ...core.model.architecture import Architecture
from ...core.model.pretrained_speech import SpeechEncoder
from ...core.model.programs import EntryPoints, audio_encoder_program, hearing_for
from ...core.sampling.hearing import hear, lengthened
from ...core.train.speech import synthesise
from ...core.weights.checkpoints import Checkpoint, load_speech_encoder
from ...core.weights.random_checkpoint import random_record
from ...quantize.recipes import PRESETS
from ...targets.executorch.lower import compile_program
from ...targets.executorch.program_file import ProgramFile
from ..play.speech import normalise_loudness, read_speech

Float32 = NDArray[np.float32]
CONTEXTS = (0.0, 0.5, 1.0, 2.0, 4.0, 6.0)  # seconds
VOICE_SECONDS, PAUSES, PAUSE_SECONDS, PAUSE_DBFS = 20.0, (6.0, 13.0), 1.5, -60.0
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ContextRow:
    """Cosine of each video frame's features with those of the voice heard at once: the lowest, where it is, and the mean."""

    context_seconds: float
    readings: int
    lowest_cosine: float
    lowest_at_seconds: float
    mean_cosine: float


def voice_with_pauses(sample_rate: int = 16000) -> Float32:
    """20 s of drawn speech with two pauses of 1.5 s at -60 dBFS, at -23 LUFS."""
    speech = normalise_loudness(synthesise(11, VOICE_SECONDS).waveform, sample_rate)
    generator = np.random.default_rng(0)
    for start in PAUSES:
        first, count = round(start * sample_rate), round(PAUSE_SECONDS * sample_rate)
        speech[first : first + count] = 10 ** (PAUSE_DBFS / 20) * generator.standard_normal(count)
    return speech


@dataclass(frozen=True)
class HearingStudy:
    """What context buys: a row for each, of a voice of `seconds`. `random_weights`: the figures then say nothing of speech."""

    rows: tuple[ContextRow, ...]
    seconds: float
    random_weights: bool


def study_hearing(folder: Path, audio: Path | None, contexts: Sequence[float], compiled: bool) -> HearingStudy:
    """`measure_contexts` with the speech encoder of a folder of released weights, on a recording or `voice_with_pauses`.

    Raises:
        CheckpointError: the encoder is missing or not what it should be.
        InputError: the recording cannot be read.
    """
    checkpoint, clip = Checkpoint.open(folder), ClipSpec(256, 256, 25)
    sizes = Architecture(checkpoint.config())
    speech = voice_with_pauses(clip.sample_rate) if audio is None else read_speech(audio, clip.sample_rate, clip.fps)
    encoder = load_speech_encoder(checkpoint, config=sizes.wav2vec2)
    rows = measure_contexts(encoder, sizes.transformer, clip, speech, contexts, compiled)
    return HearingStudy(tuple(rows), len(speech) / clip.sample_rate, random_record(checkpoint.folder) is not None)


@torch.no_grad()
def measure_contexts(
    encoder: SpeechEncoder,
    config: ModelConfig,
    clip: ClipSpec,
    speech: Float32,
    contexts: Sequence[float] = CONTEXTS,
    compiled: bool = False,
    progress: Progress = lambda *_: None,
) -> list[ContextRow]:
    """One row for each number of seconds on either side. `compiled`: the programs are compiled in fp32 and run by ExecuTorch, as in
    a bundle; by default PyTorch runs them."""
    frames = len(speech) // clip.samples_per_frame
    speech = speech[: frames * clip.samples_per_frame]
    hearing = hearing_for(config, encoder.config, 0)
    if hearing.rows_per_frame == 1:
        expected = encoder.per_frame(torch.from_numpy(speech)[None], frames)[0].numpy()
    else:
        whole = lengthened(speech, len(speech) + hearing.tail_frames * clip.samples_per_frame)
        expected = encoder.per_token(torch.from_numpy(whole)[None])[0].numpy()
    expected = expected[: frames * hearing.rows_per_frame].reshape(frames, -1)
    rows = []
    for number, seconds in enumerate(contexts):
        context = round(seconds * clip.fps)
        program = audio_encoder_program(encoder, clip, config.variant, context)
        samples = program["forward"].inputs["waveform"].shape[1]
        chosen = hearing.model_copy(update={"context_frames": context})
        calls: list[int] = []
        with _running(program, compiled) as run:
            heard = hear(speech, frames, clip.samples_per_frame, samples, chosen, run, lambda done, _: calls.append(done))  # noqa: B023
        cosines = np.array([cosine(a, b) for a, b in zip(expected, heard.reshape(frames, -1), strict=True)])
        lowest = int(cosines.argmin())
        rows.append(ContextRow(seconds, calls[-1], float(cosines[lowest]), lowest / clip.fps, float(cosines.mean())))
        progress(number + 1, len(contexts))
    return rows


@contextmanager
def _running(program: EntryPoints, compiled: bool) -> Iterator[Callable[[Sequence[Any]], Any]]:
    """The program as a function of its inputs; what was compiled goes at the end."""
    if not compiled:
        yield lambda inputs: program["forward"].run(*(torch.from_numpy(value) for value in inputs))[0][0].numpy()
        return
    with tempfile.TemporaryDirectory() as folder:
        file = ProgramFile(compile_program("audio_encoder", program, PRESETS["fp32"], Path(folder)).path)
        yield lambda inputs: file.run("forward", inputs)[0][0]
        file.release()
