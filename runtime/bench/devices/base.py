"""One device: reached, asked how it is, sent what is new to it, told to play, and left as it was found."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ....core.bundle.device_job import Job, Status
from ....core.bundle.device_record import Means
from .readings import Reading

ANSWER_S = 60.0  # until a player that was started says that it is there
SILENT_S = 900.0  # between two statuses: one clip of a large model on a small device
PUSHED = "pushed.json"  # on the device: {path in the bundle: SHA-256} of the files that are there whole
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Listed:
    """A device that a tool sees. state: the tool's word, "device" or "connected" where it can be used."""

    serial: str
    state: str
    name: str


class Device(ABC):
    """Errors are DeviceErrors of the table in `faults`. From `begin` to `end` the device belongs to one benchmark; `end` may
    be called at any moment, twice too."""

    means: ClassVar[Means]
    serial: str
    app: str
    folder: str  # of the job, on the device
    device_cools: ClassVar[bool] = False  # whether the player waits itself, since nobody else can read how warm it is

    @property
    @abstractmethod
    def name(self) -> str:
        """What sentences call it."""

    @abstractmethod
    def check(self) -> None:
        """That it is there, lets itself be used, and has the player."""

    @abstractmethod
    def begin(self, word: str, folders: Sequence[str], keep: bool) -> Status:
        """Makes the folders of the bundle, starts the player once, and gives what it says of itself."""

    @abstractmethod
    def known(self) -> dict[str, str]:
        """SHA-256 by path of the bundle's files that are on the device from an earlier time."""

    @abstractmethod
    def push(self, files: Mapping[str, Path], known: Mapping[str, str]) -> Iterator[str]:
        """Sends files by their path in the job's folder, and gives each path when it is there. What lies there and is neither in
        `known` (paths in the bundle) nor sent is removed first."""

    @abstractmethod
    def reading(self) -> Reading:
        """How warm it is, its battery, its clocks."""

    @abstractmethod
    def play(self, job: Job) -> Iterator[Status]:
        """Starts the job, and gives a status whenever there is news, the last one done or failed."""

    @abstractmethod
    def result(self) -> str:
        """What the player wrote when it was done."""

    @abstractmethod
    def end(self, landed: Mapping[str, str] | None) -> bool:
        """Ends the player and removes what was sent: all of it, or, with `landed` (SHA-256 by path), all but these files of the
        bundle. False: the device could not be asked, and has to do so by itself."""

    def peak_pss(self) -> int | None:
        """The most of its player's proportional share of memory that was seen, bytes; None: not told."""
        return None
