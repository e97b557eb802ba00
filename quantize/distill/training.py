"""Training of a student on its teacher's trajectories.

The average velocity from one noise level to another is (x_r - x_t) / (σ_r - σ_t) of two states of one trajectory: a regression,
without a second network. The guidance is in it, since the trajectories are guided. In a share of the batches the state that a step
begins with is the student's own (on-policy), and the target still ends where the teacher did. `matching` adds to it, `consistency`
takes its place, and `monitor` watches any of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from ...core.errors import ConfigError
from ...core.model.transformer import DiT
from ...core.plan import check_choice, check_number
from ...core.plan.samplers import PLAN_PRESETS, PlanOptions
from ...core.train.checkpoint import options_of
from ...core.train.distributed import World
from ...core.train.loop import Progress, Run, recompute_blocks, run_training
from ...core.train.optimisers import OPTIMISERS, Optimiser
from ..recipes import WeightRecipe, read_recipe
from .consistency import Consistency, without_spans
from .lessons import Drawn, Taught, stops
from .matching import Matcher, Matching
from .monitor import Monitor, Monitoring, Shown, Watch
from .rounding import Inputs, round_layers
from .start import Start
from .student import Student, error_in_steps, in_steps, student_of

Method = Literal["flow-map", "consistency"]
HELD_BACK = 48  # lessons, the last ones of a folder, that are never trained on


@dataclass(frozen=True)
class Distilling:
    """steps, batch, rate: of the optimiser, AdamW, or Muon for the matrices beside it; `mix`: the share of the samples that learn a
    step of so many; `on_policy`: the share of batches whose steps begin where the student itself has come to;
    `mouth_weight` multiplies errors in the mouth box; `weights`: the recipe through whose rounding, to the nearest, the student
    learns; `inputs`: whether it rounds those of its layers, too; `compiled`: whether the transformer is compiled for the machine
    before it trains; `method`: what it learns to say.

    Raises:
        ConfigError: a number is out of range, there is no such recipe, or two options do not go together.
    """

    steps: int = 7500
    batch: int = 12
    rate: float = 4e-4
    mix: tuple[tuple[int, float], ...] = ((1, 0.3), (2, 0.3), (4, 0.4))
    on_policy: float = 0.0
    mouth_weight: float = 3.0
    ema: float = 0.995
    warmup: int = 40
    seed: int = 1
    bf16: bool = False
    recompute: bool = False
    compiled: bool = False
    weights: str = "fp32"
    inputs: Inputs = "float"
    method: Method = "flow-map"
    optimiser: Optimiser = "adamw"
    matching: Matching = field(default_factory=Matching)
    monitor: Monitoring = field(default_factory=Monitoring)

    def __post_init__(self) -> None:
        check_choice("method", self.method, get_args(Method))
        if self.method == "consistency" and (self.on_policy or self.matching.share):
            raise ConfigError("On-policy steps and matching are a flow map's. Leave them, or give --method flow-map.")
        check_choice("optimiser", self.optimiser, get_args(Optimiser))
        check_number("rate", self.rate, 0.0, 10.0)
        check_number("on_policy", self.on_policy, 0.0, 1.0)
        if not self.mix or any(count < 1 or share <= 0 for count, share in self.mix):
            raise ConfigError(f"mix is {self.mix}; give numbers of steps from 1, each with a share above 0.")
        check_choice("inputs", self.inputs, get_args(Inputs))
        if not self.recipe.rules and self.inputs != "float":
            raise ConfigError(f"inputs are {self.inputs!r}, which goes with rounded weights. Choose weights int8 or int4.")

    @property
    def recipe(self) -> WeightRecipe:
        """Of the transformer's layers, which are linear; convolutions of what nobody trains are no option of a run."""
        return read_recipe(self.weights).nearest().without_convolutions()

    def rate_at(self, step: int) -> float:
        """A linear warm-up, and a cosine to a fiftieth: one step gains from high rates, four from low ones."""
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        progress = min(1.0, (step - self.warmup) / max(1, self.steps - self.warmup))
        return self.rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


def train_student(
    teacher: DiT | Callable[[], DiT],
    drawn: Taught,
    workdir: Path,
    training: Distilling,
    world: World | None = None,
    save_every: int = 200,
    held_back: int | None = None,
    base: Start | None = None,
    options: PlanOptions = PLAN_PRESETS["nano"],
    told: Callable[[Progress], None] = lambda _: None,
    shown: Shown = lambda *_: None,
    ticked: Callable[[int, int], None] = lambda *_: None,
) -> DiT:
    """Trains, or resumes, a student of `teacher`, which plays by `options`; writes `student.pt` and `student.log`. It begins as
    `base`, or as its teacher. The result is the averaged transformer, which computes through the weights that it was taught
    through. `teacher`: as that of `student_of`; `held_back`: so many lessons, the last ones, are never trained on, `HELD_BACK` by
    default. `told` hears of each line of the log that has losses, `ticked(steps taken, of how many)` of each step; `shown`
    sees what the monitor looks at before each checkpoint.

    Raises:
        ConfigError: `workdir` holds a run with other options, lessons or base, or there are too few lessons; the recipe is none
            that a student learns through; matching, consistency or Muon is asked of several processes.
        TrainingError: its clips leave the range of the teacher's.
    """
    world, held_back = world or World(), HELD_BACK if held_back is None else held_back
    if world.size > 1 and (training.matching.share or training.method == "consistency" or training.optimiser == "muon"):
        raise ConfigError(f"Matching, consistency and Muon train in one process, and there are {world.size}. Leave torchrun out.")
    rows_here, usable = world.rows(training.batch), len(drawn) - held_back
    if usable < training.batch:
        raise ConfigError(f"There are {len(drawn)} lessons, of which {held_back} are held back; a batch takes {training.batch}.")
    levels, modality = torch.tensor(drawn.levels), torch.from_numpy(drawn.modality)
    counts = tuple(count for count, _ in training.mix)
    paths, shares = [stops(drawn.levels, count) for count in counts], np.array([share for _, share in training.mix])
    recipe = training.recipe

    def begun() -> Student:
        """The student before its first step."""
        torch.manual_seed(training.seed)
        dit = student_of(teacher)
        if base is not None:
            dit.load_state_dict(base.dit.state_dict())
        made = Student(round_layers(dit, recipe, training.inputs))
        return without_spans(made) if training.method == "consistency" else made

    def build() -> Student:
        made = begun()
        if training.recompute:
            recompute_blocks(made.dit)
        if training.compiled:
            made.dit.compile()
        return made

    matcher = consistency = None
    if training.matching.share:
        if not isinstance(drawn, Drawn) or not isinstance(teacher, DiT):
            raise ConfigError("Distribution matching is for students of nano. Leave the share of matching at 0.")
        matcher = Matcher(
            teacher, drawn, usable, paths, shares, training.matching, options, training.batch, training.seed, world.device,
            training.bf16, training.recompute,
        )  # fmt: skip
    if training.method == "consistency":
        consistency = Consistency(build, world)

    def loss_of(student: Student, step: int) -> tuple[str, Tensor]:
        rng = np.random.default_rng((training.seed, step))
        rows = rng.integers(0, usable, training.batch)
        own = rng.random() < training.on_policy
        each = rng.choice(len(counts), training.batch, p=shares / shares.sum())
        if own:  # the batch goes together, as far as its step begins
            each[:] = each[0]
        parts = rng.random(training.batch) if not own else np.full(training.batch, rng.random())
        begin, end = _segments(parts, [paths[kind] for kind in each])
        if consistency is not None:
            end = begin + 1
        batch = {name: x.to(world.device) for name, x in drawn.batch(rows[rows_here]).items()}
        begin, end = begin[rows_here], end[rows_here]
        some = torch.arange(len(begin))
        start, target = batch["states"][some, begin].float(), batch["states"][some, end].float()
        if own and begin[0] > 0:
            path = list(paths[each[0]])[: paths[each[0]].index(int(begin[0])) + 1]
            with torch.no_grad():
                noise = batch["states"][:, 0].float()
                start = in_steps(student, noise, levels[path].to(noise), modality[path[:-1]].to(noise), batch)[-1]
        low, high = levels[end].to(start), levels[begin].to(start)
        with torch.autocast(start.device.type, torch.bfloat16, enabled=training.bf16):
            if consistency is not None:
                consistency.follow(student)
                target, low = consistency.target(target, low, modality[end].to(start), batch), torch.zeros_like(low)
            velocity = student(start, high, low, modality[begin].to(start), batch)
        wanted = (target - start) / (low - high).view(-1, 1, 1, 1, 1)
        weight = 1 + (training.mouth_weight - 1) * batch["mouth"]
        loss = (weight * (velocity.float() - wanted).square()).mean()
        if matcher is not None and training.matching.matches(training.seed, step):
            moved = matcher.loss(student, step, training.rate_at(step))
            if moved is not None:
                return "matching", loss + moved
        return "on-policy" if own else "loss", loss

    companions = {} if matcher is None else {"fake": matcher.fake}
    companions |= {} if consistency is None else {"slow": consistency.slow}
    optimisers = {} if matcher is None else {"fake": matcher.optimiser}
    every = training.monitor.every
    run = Run(
        workdir / "student.pt", workdir / "student.log", _options(training, drawn, recipe, base), training.steps, training.seed,
        training.ema, training.rate_at, save_every=save_every, world=world, watch_every=every or training.steps,
        told=told, ticked=ticked, optimisers=OPTIMISERS[training.optimiser],
    )  # fmt: skip
    monitor = None
    if every and world.first:
        played = np.linspace(usable, len(drawn) - 1, training.monitor.lessons).round().astype(int)  # of all tasks
        by_count = dict(zip(counts, paths, strict=True))
        monitor = Monitor(drawn.batch(played), levels, modality, by_count, begun().eval(), world.device)
    beside = None if matcher is None else matcher.take_losses
    watch = Watch(monitor, run, beside, shown) if every or matcher is not None else None
    saved = run_training(run, build, loss_of, companions, optimisers, watch)
    result = begun()
    result.load_state_dict(saved["average"])
    result.eval().requires_grad_(False)
    if world.first:
        result.to(world.device)
        errors = {
            n: _held_back_error(result, drawn, usable, training.batch, levels, path, modality)
            for n, path in zip(counts, paths, strict=True)
        }
        result.to("cpu")
        (workdir / "held-back.json").write_text(json.dumps({str(n): round(error, 5) for n, error in errors.items()}) + "\n")
    return result.dit


def _options(training: Distilling, drawn: Taught, recipe: WeightRecipe, base: Start | None) -> str:
    """What a run's folder goes on with: what it is made from, and how. The monitor changes nothing. Parts that a run does without
    are left out, so that one from before there were such parts goes on."""
    known = json.loads(options_of(training, drawn.made_from, ("monitor",) if recipe.rules else ("monitor", "weights", "inputs")))
    without = {
        "method": training.method == "flow-map",
        "matching": not training.matching.share,
        "optimiser": training.optimiser == "adamw",
    }
    known = {name: value for name, value in known.items() if not without.get(name, False)}
    if recipe.rules:  # a recipe file may be another one tomorrow
        known["weights_rules"] = recipe.model_dump(mode="json")["rules"]
    if base is not None:
        known["start"] = base.digest
    return json.dumps(known, sort_keys=True)


def _held_back_error(
    student: Student, drawn: Taught, first: int, batch: int, levels: Tensor, path: Sequence[int], modality: Tensor
) -> float:
    """`error_in_steps` of the lessons from `first` on, a batch at a time."""
    parts = [np.arange(begin, min(begin + batch, len(drawn))) for begin in range(first, len(drawn), batch)]
    place = next(student.parameters()).device
    levels, modality = levels.to(place), modality.to(place)
    batches = ({name: x.to(place) for name, x in drawn.batch(rows).items()} for rows in parts)
    errors = [error_in_steps(student, each, levels, path, modality) for each in batches]
    return math.sqrt(sum(len(rows) * error**2 for rows, error in zip(parts, errors, strict=True)) / (len(drawn) - first))


def _segments(parts: np.ndarray, paths: Sequence[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
    """[B] places in 0 … 1 of B paths of levels -> the levels where a step begins and ends, [B] each."""
    at = [min(int(part * (len(path) - 1)), len(path) - 2) for part, path in zip(parts, paths, strict=True)]
    pairs = [(path[k], path[k + 1]) for k, path in zip(at, paths, strict=True)]
    begin, end = zip(*pairs, strict=True)
    return torch.tensor(begin), torch.tensor(end)
