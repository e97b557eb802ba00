"""Soup-of-Tasks and Soup-of-Modals: which task a training sample shows and which conditions it lacks (EchoMimicV3, arXiv
2507.03905).

Tasks differ in their masks only, so that one model learns them all. Against intuition the hard task comes first, alone, and the
easier ones join: a model that starts on easy ones learns to copy what is given. The sampling weights are an exponential moving
average that moves from the hard task to the mixture. A share of samples carries another task's mask over its own content, so that
the content decides, not the label.

A modality is dropped as guidance drops it: empty text, zero image features, zero audio features. Every branch that a plan
evaluates has to be a combination that training has shown.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError
from ..model.masks import Task, parse_tasks
from ..plan import Branch, check_number

MODALITIES = ("text", "image", "audio")
_WITHOUT_PICTURE = frozenset({Task.T2V, Task.A2V})


def picture_of(name: str) -> str:
    """What of the picture the tasks joined in `name` give, one text per mask: "" for nothing, "i2v", "i2v+lipsync"."""
    return "+".join(sorted(parse_tasks(name) - _WITHOUT_PICTURE))


def has_audio(name: str) -> bool:
    """Whether the tasks joined in `name` come with speech: a2v and lip-sync do."""
    return bool(parse_tasks(name) & {Task.A2V, Task.LIPSYNC})


@dataclass(frozen=True)
class TaskSoup:
    """The mixture: names of tasks joined by "+" (`core.model.masks`) and their weights, above 0, of any sum.

    With `hard`, one of the names, training starts on that task alone, and after n steps the weights are `decay`^n of the way from
    the mixture to it (0 ≤ decay < 1). `mislabelled` (0 … below 1) is the share of samples that show another task's mask.

    Raises:
        ConfigError: a name or number is out of range, or samples are to be mislabelled and all tasks have the same mask.
    """

    weights: tuple[tuple[str, float], ...] = (
        ("i2v+a2v", 0.5), ("a2v", 0.1), ("t2v", 0.05), ("i2v", 0.1), ("flf2v+a2v", 0.1), ("i2v+lipsync", 0.15),
    )  # fmt: skip
    hard: str | None = "a2v"
    decay: float = 0.99
    mislabelled: float = 0.05

    def __post_init__(self) -> None:
        if not self.weights:
            raise ConfigError('A TaskSoup needs at least one task, such as ("i2v+a2v", 1.0).')
        for name, weight in self.weights:
            parse_tasks(name)
            check_number(f"weight of {name!r}", weight, 0.0, 1e6)
            if weight == 0:
                raise ConfigError(f"The weight of {name!r} is 0; leave the task out.")
            if self.names.count(name) > 1:
                raise ConfigError(f"The task {name!r} appears twice; add up its weights.")
        if self.hard is not None and self.hard not in self.names:
            raise ConfigError(f"The hard task is {self.hard!r}; choose one of the mixture: {', '.join(self.names)}.")
        for what in ("decay", "mislabelled"):
            check_number(what, getattr(self, what), 0.0, 1.0)
            if getattr(self, what) == 1.0:
                raise ConfigError(f"{what} is 1; it must be below 1, or the mixture is never reached.")
        if self.mislabelled and len({picture_of(name) for name in self.names}) < 2:
            raise ConfigError(
                f"mislabelled is {self.mislabelled}, but all of {', '.join(self.names)} have the same mask. Set it to 0."
            )

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.weights)

    def at(self, step: int) -> npt.NDArray[np.float64]:
        """Probability of each task at `step` (0 …): the moving average in closed form, so that a resumed run needs no state."""
        mixture = np.array([weight for _, weight in self.weights], np.float64)
        mixture /= mixture.sum()
        if self.hard is None:
            return mixture
        alone = np.array([name == self.hard for name in self.names], np.float64)
        return mixture + self.decay**step * (alone - mixture)

    def wrong_labels(self, rng: np.random.Generator, task: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """task [B], indices of `names` -> whose mask each sample shows, [B]: mostly its own, else one that differs from it."""
        shown = task.copy()
        if not self.mislabelled:
            return shown
        pictures = [picture_of(name) for name in self.names]
        for i in np.flatnonzero(rng.random(len(task)) < self.mislabelled):
            shown[i] = rng.choice([k for k, picture in enumerate(pictures) if picture != pictures[task[i]]])
        return shown


@dataclass(frozen=True)
class ModalSoup:
    """Shares of samples that lack some conditions: text, image, audio joined by "+" and a share; the rest lack none.

    Raises:
        ConfigError: an unknown modality, a combination given twice, or shares that leave nothing.
    """

    drops: tuple[tuple[str, float], ...] = (
        ("audio", 0.1), ("text", 0.06), ("text+audio", 0.05), ("image", 0.03), ("image+audio", 0.02), ("text+image", 0.02),
        ("text+image+audio", 0.02),
    )  # fmt: skip

    def __post_init__(self) -> None:
        seen = set()
        for name, share in self.drops:
            check_number(f"share without {name!r}", share, 0.0, 1.0)
            combination = _parse_modalities(name)
            if combination in seen:
                raise ConfigError(f"{name!r} appears twice; add up its shares.")
            seen.add(combination)
        if sum(share for _, share in self.drops) >= 1.0:
            raise ConfigError("The shares of dropped modalities reach 1; no sample would have all its conditions.")

    def kept(self, rng: np.random.Generator, size: int) -> npt.NDArray[np.bool_]:
        """[size, 3]: which of text, image, audio each sample has."""
        shares = [share for _, share in self.drops]
        chosen = rng.choice(len(shares) + 1, size, p=[*shares, 1.0 - sum(shares)])
        rows = [[m not in _parse_modalities(name) for m in MODALITIES] for name, _ in self.drops] + [[True] * 3]
        return np.array(rows)[chosen]

    def unseen(self, branches: Iterable[Branch]) -> list[str]:
        """Names of the branches of a plan whose combination of conditions training would never show."""
        shown: set[frozenset[str]] = {_parse_modalities(name) for name, share in self.drops if share > 0} | {frozenset()}
        return [branch.name for branch in branches if _dropped(branch) not in shown]


def _parse_modalities(name: str) -> frozenset[str]:
    parts = frozenset(part.strip() for part in name.split("+"))
    if not parts <= set(MODALITIES):
        raise ConfigError(f"There is no modality {name!r}. Choose from {', '.join(MODALITIES)}, joined by '+'.")
    return parts


def _dropped(branch: Branch) -> frozenset[str]:
    """A negative text is a text: only the empty one, or one scaled to 0, is a missing text."""
    text = bool(branch.text) and branch.text_scale > 0
    return frozenset(name for name, kept in zip(MODALITIES, (text, branch.image, branch.audio), strict=True) if not kept)
