"""What a clip's windows are conditioned on, by guidance branch: each key and value made once; numpy and a way to run programs.

Text and portrait are the same in every window, so their programs run once for each text and strength, and for each portrait or its
absence; the known frames once per clip, where windows start from the picture as clips do; the voice once per window, and silence
once per clip.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle import Hearing
from ..config import TEMPORAL_STRIDE
from ..plan import Branch, SamplingPlan, Window, WindowRule
from .hearing import window_inputs, window_rows

Array = NDArray[Any]
Float32 = NDArray[np.float32]
RunProgram = Callable[[str, str, Sequence[Array]], Sequence[Array]]
CONDITIONS = (  # of a window and branch, in the order of the denoising program's inputs
    "patch_bias", "text_k", "text_v", "text_bias", "image_k", "image_v", "audio_k", "audio_v", "audio_mask",
)  # fmt: skip


@dataclass(frozen=True)
class ClipInputs:
    """A clip, encoded.

    y [1, 20, F, h, w]: which frames are known, and their latents, of the whole clip or of one window, which then serves them all.
    image [1, L, image_dim]. text: rows [1, R, text_dim] and their bias [1, R] by the condition's name. audio: rows of features as
    the encoder gives them, with their neighbours where the model hears those. mask [1, S]: which tokens of a frame hear. fixed:
    programs have fixed shapes, so that missing rows are zeros.
    """

    y: Float32
    image: Float32
    text: Mapping[str, tuple[Float32, Float32]]
    audio: Float32
    mask: Float32
    latent_frames: int
    rule: WindowRule
    hearing: Hearing
    fixed: bool = True

    def heard(self, span: Window) -> Float32:
        """The window's rows with a batch axis; one that hears beyond its last frame hears, at the clip's end, all that is left."""
        first = self.hearing.rows_per_frame * TEMPORAL_STRIDE * span.start
        last = span.end == self.latent_frames and self.hearing.beyond_frames
        end = None if last else first + window_rows(self.hearing, span.length)
        return np.ascontiguousarray(self.audio[None, first:end])

    def known(self, span: Window) -> Float32:
        """The window's part of `y`."""
        first = span.start if self.rule.anchor == "clip" else 0
        return np.ascontiguousarray(self.y[:, :, first : first + span.length])

    def voice(self, branch: Branch, heard: Float32, span: Window) -> list[Float32]:
        """What a branch hears of that, as the condition program takes it."""
        sound = branch.hear(heard, self.hearing.rows_per_frame)[0]
        return window_inputs(sound, self.hearing, span.length if self.fixed else None)

    def words(self, branch: Branch) -> Float32:
        return self.text[branch.text][0] * np.float32(branch.text_scale)

    def picture(self, branch: Branch) -> Float32:
        return self.image if branch.image else np.zeros_like(self.image)


def step_inputs(
    plan: SamplingPlan, tables: Mapping[str, Array], step: int, latents: Float32, conditions: Sequence[Array]
) -> list[Array]:
    """What the denoising program takes: a window's latents [C, F, h, w], and its `CONDITIONS`."""
    rows = [tables[name][step : step + 1] for name in ("time", "modulation")]
    return [latents[None], *rows, plan.modality(step, latents.shape[1])[None], *conditions]


@dataclass
class Conditioner:
    """Makes the conditions of windows with the programs of a bundle."""

    plan: SamplingPlan
    given: ClipInputs
    run: RunProgram
    _made: dict[Hashable, Sequence[Array]] = field(default_factory=dict)

    def window(self, span: Window) -> list[list[Array]]:
        """By branch, as `CONDITIONS` says."""
        given, heard, own = self.given, self.given.heard(span), {}  # type: ignore[var-annotated]
        every = own if given.rule.anchor == "clip" else self._made

        def once(kept: dict[Hashable, Sequence[Array]], key: Hashable, role: str, make: Callable[[], Any]) -> Sequence[Array]:
            if key not in kept:
                inputs = make()
                kept[key] = self.run(role, "forward", inputs if isinstance(inputs, list) else [inputs])
            return kept[key]

        row = []
        for branch in self.plan.branches:
            words, sound = partial(given.words, branch), partial(given.voice, branch, heard, span)
            text = once(self._made, ("text", branch.text, branch.text_scale), "text_conditions", words)
            image = once(self._made, ("image", branch.image), "image_conditions", partial(given.picture, branch))
            patches = once(every, ("y", span.length), "patch_conditions", partial(given.known, span))
            voices, key = (own if branch.audio else self._made), ("audio", branch.audio, branch.audio_shift, heard.shape[1])
            audio = once(voices, key, "audio_conditions", sound)
            row.append([*patches, *text, given.text[branch.text][1], *image, *audio, given.mask])
        return row


@dataclass
class JointConditioner:
    """As `Conditioner`, with the one program that bundles of format 1 have for all conditions. What branches or windows have in
    common is made again and held once."""

    plan: SamplingPlan
    given: ClipInputs
    run: RunProgram
    _held: dict[Hashable, Array] = field(default_factory=dict)

    def window(self, span: Window) -> list[list[Array]]:
        """By branch, as `CONDITIONS` says."""
        given, heard, own = self.given, self.given.heard(span), {}  # type: ignore[var-annotated]
        every = own if given.rule.anchor == "clip" else self._held
        row = []
        for branch in self.plan.branches:
            inputs = [given.known(span), given.words(branch), given.picture(branch), *given.voice(branch, heard, span)]
            encoded = self.run("encode_conditions", "forward", inputs)
            words, picture = (branch.text, branch.text_scale), (branch.image,)
            voice, voices = (branch.audio, branch.audio_shift, heard.shape[1]), own if branch.audio else self._held
            places = [
                (every, ("y", span.length)), (self._held, ("text k", *words)), (self._held, ("text v", *words)),
                (self._held, ("image k", *picture)), (self._held, ("image v", *picture)), (voices, ("audio k", *voice)),
                (voices, ("audio v", *voice)),
            ]  # fmt: skip
            patch_bias, text_k, text_v, *others = (
                store.setdefault(key, value) for (store, key), value in zip(places, encoded, strict=True)
            )
            row.append([patch_bias, text_k, text_v, given.text[branch.text][1], *others, given.mask])
        return row
