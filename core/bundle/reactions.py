"""How full precision's answer changes with each input alone, recorded at export: what a compiled bundle has to keep of it.

`reactions` of tests/golden.json. Two materials are recorded as they are given to a player: portrait, speech, prompt and seed. The
answer is the velocity of the first window in one step and branch, asked for as given, and with one input after the other taken from
the other material. A portrait goes in on two ways, as what is recognised ("portrait") and as what is encoded ("first frame").
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from ..errors import BundleError
from ..metrics.psnr import cosine
from .fields import Count, Record, first_mistakes

Array = NDArray[Any]
Input = Literal["prompt", "voice", "portrait", "first frame", "seed"]
INPUTS: tuple[Input, ...] = ("prompt", "voice", "portrait", "first frame", "seed")
AS_GIVEN: Literal["as given"] = "as given"
Key = Annotated[str, Field(min_length=1)]  # of an array of tests/golden.safetensors


class Recorded(Record):
    """A player's inputs. portrait: the key of [3, H, W]; speech: of [n]. The empty prompt has no rows where there is neither a text
    encoder nor a pack that holds it."""

    portrait: Key
    speech: Key
    prompt: str
    seed: Count


class Demand(Record):
    """share: of full precision's change, in its direction, that has to be kept. least: full precision's own change, as a share of
    its velocity (both RMS), below which nothing is judged: what the bundle's weights blur."""

    share: Annotated[float, Field(ge=0, le=1)]
    least: Annotated[float, Field(ge=0)]


class Reactions(Record):
    """step, branch: indices of the plan. velocities: keys of [C, F, h, w], "as given" and by the input that was changed; one that
    could not be changed is missing, and `unchanged` says why. repeated: two chunks of a portrait's video were encoded, and the
    second stood for those behind it. demanded: None until the programs are compiled."""

    step: Count
    branch: Count
    given: Recorded
    other: Recorded
    velocities: dict[Input | Literal["as given"], Key]
    unchanged: dict[Input, str] = {}
    repeated: bool = False
    demanded: Demand | None = None

    @model_validator(mode="after")
    def _every_input_is_there(self) -> Reactions:
        told = (AS_GIVEN, *INPUTS)
        missing = [name for name in told if (name in self.velocities) == (name in self.unchanged)]
        if missing:
            raise ValueError(f"{missing[0]} has to be among the velocities, or else among those that are unchanged")
        return self

    @property
    def keys(self) -> tuple[str, ...]:
        """Of every array that is named."""
        return (*self.velocities.values(), *(key for each in (self.given, self.other) for key in (each.portrait, each.speech)))

    @classmethod
    def of(cls, index: Mapping[str, Any], tensors: Mapping[str, Array]) -> Reactions | None:
        """What an index of goldens has of them; None where it was written before there were any.

        Raises:
            BundleError: they are damaged, or arrays are missing.
        """
        if not index.get("reactions"):
            return None
        try:
            found = cls.model_validate(index["reactions"])
        except ValidationError as error:
            raise BundleError(f"its reactions are not valid: {first_mistakes(error)}") from error
        missing = [key for key in found.keys if key not in tensors]
        if missing:
            raise BundleError(f"its reactions name the array {missing[0]!r}, which is not there")
        if len({tensors[key].shape for key in found.velocities.values()}) > 1:
            raise BundleError("the velocities of its reactions differ in shape")
        return found


def rms(array: Array) -> float:
    return float(np.sqrt(np.mean(np.square(array, dtype=np.float64))))


def change(velocities: Mapping[Any, Array], name: Input) -> NDArray[np.float64]:
    """What the input `name` alone changes of the velocity, float64."""
    return np.asarray(velocities[name], np.float64) - np.asarray(velocities[AS_GIVEN], np.float64)


def size(velocities: Mapping[Any, Array], name: Input) -> float:
    """RMS of that change over the velocity's own; 0 where the velocity is all zeros."""
    own = rms(velocities[AS_GIVEN])
    return rms(change(velocities, name)) / own if own else 0.0


def kept(reference: Array, measured: Array) -> tuple[float, float]:
    """Of a change in full precision and the same one as measured: the share of it that is kept, <m, r> / <r, r>, and their cosine.

    1 is all of it; 0 is none, or a change in another direction; below 0 is the opposite one. What is not finite keeps nothing.
    """
    if not (np.isfinite(reference).all() and np.isfinite(measured).all()):
        return 0.0, 0.0
    energy = float(np.vdot(reference, reference))
    return (float(np.vdot(measured, reference)) / energy if energy else 0.0), cosine(reference, measured)
