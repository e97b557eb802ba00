"""What the records of a manifest are made of: types of fields, and words about what is wrong with them."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

MANIFEST = "manifest.json"
RECORDS = "records"
_MAX_PATH_LENGTH: Final = 200
_PATH_PART = re.compile(r"[A-Za-z0-9_-]([A-Za-z0-9._+-]*[A-Za-z0-9_+-])?")


def bundle_path(value: str) -> str:
    """A path that means the same file on every system: relative, "/" between parts, letters, digits and "._+-"."""
    if len(value) > _MAX_PATH_LENGTH or not all(_PATH_PART.fullmatch(part) for part in value.split("/")):
        raise ValueError(f"{short(repr(value))} is not a path inside a bundle: letters, digits and '._+-', parts joined by '/'")
    if value.casefold() == MANIFEST:
        raise ValueError(f"{MANIFEST} cannot list itself")
    if value.split("/")[0].casefold() == RECORDS:
        raise ValueError(f"{short(value)} is where figures are kept that are measured after the export")
    return value


BundlePath = Annotated[str, AfterValidator(bundle_path)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, lt=1 << 63)]
Name = Annotated[str, Field(min_length=1, max_length=_MAX_PATH_LENGTH)]


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def short(text: str) -> str:
    return text if len(text) <= 120 else text[:120] + "…"


def first_mistakes(error: ValidationError, count: int = 3) -> str:
    mistakes = error.errors(include_url=False, include_context=False, include_input=False)
    told = [(short(".".join(map(str, mistake["loc"]))), short(mistake["msg"])) for mistake in mistakes[:count]]
    more = [f"and {len(mistakes) - count} more"] if len(mistakes) > count else []
    return "; ".join([f"{place}: {message}" if place else message for place, message in told] + more)
