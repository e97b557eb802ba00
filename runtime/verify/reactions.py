"""Whether the inputs matter: what another prompt, voice, portrait, first frame or seed changes, and what in full precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...core.bundle import Bundle
from ...core.bundle.golden import Golden
from ...core.bundle.reactions import INPUTS, Demand, Input, Reactions, Recorded, change, kept, size
from ..engines.base import Engine
from ..play.material import Material
from ..play.player import PlayerConfig
from ..play.reactions import Asked, react, reacting_player

NOT_RECORDED = "the bundle was exported before full precision's changes were recorded; export it again"
NO_BRANCH = "the bundle's plan has no branch that takes in every input"
NO_DEMAND = "the bundle demands nothing of it"


@dataclass(frozen=True)
class Reaction:
    """What one input changes. size: full precision's change of the velocity as a share of the velocity, RMS; share: of that change,
    in its direction, what is kept as compiled; cosine: between the two changes. None: not measured. `missing`: why."""

    name: Input
    size: float | None = None
    share: float | None = None
    cosine: float | None = None
    demanded: Demand | None = None
    missing: str | None = None

    @property
    def unjudged(self) -> str | None:
        """Why the row is neither passed nor failed; None if it is one of the two."""
        if self.missing or self.demanded is None or self.size is None:
            return self.missing or NO_DEMAND
        if not self.size >= self.demanded.least:
            return (
                f"in full precision another {self.name} changes the velocity by {self.size:.2%} alone, and what such weights blur "
                f"is up to {self.demanded.least:.2%}"
            )
        return None

    @property
    def passed(self) -> bool:
        if self.unjudged is not None or self.demanded is None or self.share is None:
            return False
        return self.share >= self.demanded.share

    @property
    def failed(self) -> bool:
        return self.unjudged is None and not self.passed

    def sentence(self) -> str:
        """What is wrong, for people; empty where nothing is."""
        if not self.failed or self.share is None or self.demanded is None:
            return ""
        wanted = f"of what it changes in full precision {self.demanded.share:.0%} are demanded"
        if self.share < 0:
            return f"Another {self.name} changes the clip the wrong way: {wanted}, and {self.share:.1%} are kept."
        return f"Another {self.name} changes the clip too little: {wanted}, and {self.share:.1%} are kept."

    def to_dict(self) -> dict[str, Any]:
        """For scripts; `passed` is null where nothing was judged."""
        told = {name: None if (value := getattr(self, name)) is None else round(value, 6) for name in ("size", "share", "cosine")}
        return {
            "name": self.name, "judged": self.unjudged is None, "reason": self.unjudged,
            "passed": self.passed if self.unjudged is None else None, **told,
            "demanded": None if self.demanded is None else self.demanded.model_dump(),
        }  # fmt: skip


def reactions_of(
    bundle: Bundle, golden: Golden, engine: Engine, progress: Callable[[int, int], None] = lambda *_: None
) -> tuple[Reaction, ...]:
    """Asks `engine` for the velocities that were recorded in full precision: from portrait, voice, prompt and seed, by the player.

    Raises:
        BundleError: the record is damaged.
    """
    recorded = Reactions.of(golden.index, golden.tensors)
    if recorded is None:
        missing = NO_BRANCH if "reactions" in golden.index else NOT_RECORDED
        return tuple(Reaction(name, missing=missing) for name in INPUTS)

    def material(of: Recorded) -> Material:
        return Material(golden.tensors[of.portrait], golden.tensors[of.speech], of.prompt, of.seed)

    full = {name: golden.tensors[key] for name, key in recorded.velocities.items()}
    player = reacting_player(PlayerConfig.of(bundle), engine, recorded.repeated)
    asked, changed = Asked(recorded.step, recorded.branch), [name for name in INPUTS if name in full]
    found = react(player, asked, material(recorded.given), material(recorded.other), changed, progress)

    def row(name: Input) -> Reaction:
        if name not in full:
            return Reaction(name, demanded=recorded.demanded, missing=recorded.unchanged[name])
        with np.errstate(invalid="ignore"):  # what is not finite keeps nothing
            share, angle = kept(change(full, name), change(found, name))
        return Reaction(name, size(full, name), share, angle, recorded.demanded)

    return tuple(map(row, INPUTS))
