"""What quantisation does to nano: the error of the guided velocity, layer by layer and whole, and what is left of the mouth.

Errors are of a step's velocities on full-precision latents (no error of an earlier step comes in), on held-out clips. Quantised
layers run as torchao runs them in PyTorch: what the compiled layer computes, to the last bit where it is alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ...core.config import NANO_CLIP
from ...core.metrics.guidance import GuidanceError, guidance_error
from ...core.metrics.psnr import CAP
from ...core.model.conditions import Conditions
from ...core.model.programs import Denoise, EncodeConditions, Model
from ...core.model.transformer import DiT
from ...core.plan import SamplingPlan
from ...core.train.evaluate import held_out
from ...core.train.generate import decode, sample
from ...quantize.recipes import Rule, WeightRecipe
from ...quantize.schemes import weight_bytes
from ...quantize.weights import input_moments, linear_layers, quantise, quantise_layer
from ...targets.executorch.storage import stored_weight
from ...targets.rewrites.portable import make_portable
from ..export.calibration import CLIPS, calibration_samples, record
from ..verify.mouths import PLAYED_FIRST, Mouth, mouth_of

PROGRAMS = ("encode_conditions", "denoise")  # whose layers are searched; the encoders are small and stay int8
PROBE_FIRST = 12_000  # held-out clips on which errors are measured; mouths are judged on others
EVERY = 2  # of the plan's steps, one in so many is probed


def decibels(energy: float) -> float:
    """An error's energy relative to its signal's, as a signal-to-noise ratio; `CAP` at most."""
    return -10.0 * float(np.log10(max(energy, 10 ** (-CAP / 10))))


class Probe:
    """Full-precision runs of held-out clips, and what another transformer makes of the same latents and conditions."""

    def __init__(self, model: Model, plan: SamplingPlan, clips: int, every: int = EVERY) -> None:
        recorder = record(model, held_out(clips, PROBE_FIRST), plan, seed=0)
        self.encoded = recorder.encoded
        self.steps = range(0, plan.steps, every)
        self.weights = [plan.guidance[step] for step in self.steps]
        places = [(step, branch) for step in range(plan.steps) for branch in plan.evaluated(step)]
        calls = list(zip(places, recorder.denoised, recorder.velocities, strict=True))
        self.calls = [call for call in calls if call[0][0] in self.steps]
        self.full = self._by_step((place, velocity) for place, _, velocity in self.calls)

    @torch.no_grad()
    def conditions(self, dit: DiT) -> list[Conditions]:
        """By branch, as `dit` encodes them."""
        return [dit.encode_conditions(*given) for given in self.encoded]

    @torch.no_grad()
    def error(self, dit: DiT, conditions: Sequence[Conditions] | None = None) -> GuidanceError:
        conditions = conditions or self.conditions(dit)
        found = []
        for place, (latents, time, modulation, modality, _, rope), _ in self.calls:
            found.append((place, dit.denoise(latents, time, modulation, modality, conditions[place[1]], rope)))
        return guidance_error(self.weights, self.full, self._by_step(iter(found)))

    def _by_step(self, found: Iterator[tuple[tuple[int, int], Tensor]]) -> list[dict[int, Any]]:
        steps: dict[int, dict[int, Any]] = {step: {} for step in self.steps}
        for (step, branch), velocity in found:
            steps[step][branch] = velocity.numpy()
        return list(steps.values())


class SensitivityStudy:
    """nano, calibration samples of it, and probes to measure it with. `clips` are probed, `played` are played to the end."""

    def __init__(self, model: Model, plan: SamplingPlan, clips: int, played: int, calibration: int = CLIPS) -> None:
        self.model, self.plan = model, plan
        self.probe = Probe(model, plan, clips)
        self.samples = calibration_samples(model, plan, calibration)
        self.truths = held_out(played, PLAYED_FIRST)
        self.dit = cast(DiT, make_portable(model.dit))
        self.conditions = self.probe.conditions(self.dit)
        parts = programs_of(self.dit)
        self.layers: dict[str, nn.Linear] = {}  # by program/module
        self.moments: dict[str, list[Tensor]] = {}
        self._full: dict[int | None, Mouth] = {}
        for program, module in parts.items():
            layers = linear_layers(module)
            for name, moments in input_moments(module, layers, self.samples[program]).items():
                self.layers[f"{program}/{name}"], self.moments[f"{program}/{name}"] = layers[name], moments

    def mouth(self, dit: DiT, clips: int | None = None) -> Mouth:
        """Plays the first clips, all by default, to the end with `dit` and looks at the mouths."""
        model, truths = replace(self.model, dit=dit), self.truths[:clips]
        return mouth_of(decode(model, sample(model, truths, self.plan)), truths)

    def full_mouth(self, clips: int | None = None) -> Mouth:
        """As `mouth`, in full precision; played once."""
        if clips not in self._full:
            self._full[clips] = self.mouth(self.model.dit, clips)
        return self._full[clips]

    def quantised(self, recipe: WeightRecipe) -> DiT:
        """A copy of the transformer with the layers of both programs as `recipe` says."""
        dit = cast(DiT, make_portable(self.model.dit))
        for program, module in programs_of(dit).items():
            quantise(module, program, recipe, self.samples[program][0], store=stored_weight, samples=self.samples[program])
        return dit

    @contextmanager
    def with_layer(self, layer: str, rule: Rule) -> Iterator[DiT]:
        """The transformer with one layer quantised as `rule` says, until the block ends."""
        linear = self.layers[layer]
        full = linear.weight
        quantise_layer(linear, rule, stored_weight, self.moments[layer])
        try:
            yield self.dit
        finally:
            linear.weight = full

    def error_of(self, layer: str, dit: DiT) -> GuidanceError:
        """Of a transformer with this one layer quantised: layers of the step leave the conditions as they are."""
        return self.probe.error(dit, None if layer.startswith("encode_conditions/") else self.conditions)

    def bytes_of(self, recipe: WeightRecipe) -> int:
        """Of all layers' weights and scales."""
        total = 0
        for layer, linear in self.layers.items():
            program, _, module = layer.partition("/")
            rule = recipe.rule_for(program, module)
            shape = linear.out_features, linear.in_features
            total += weight_bytes(*shape, rule.weights, rule.group, rule.rows) if rule else weight_bytes(*shape, "fp32")
        return total


def programs_of(dit: DiT) -> dict[str, nn.Module]:
    """The transformer as the modules of its two programs, sharing its layers."""
    return {"encode_conditions": EncodeConditions(dit), "denoise": Denoise(dit, NANO_CLIP, keep_residual=False)}
