"""The table of devices, and its rules: every figure with its unit, where it comes from, and how sure it is.

A rate is cores × clock × operations per cycle, of the cores that a runtime's threads run on. Nothing is taken for known
that is not: a device without a figure says None, and the forecast leaves out what it would need.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ...core.errors import ConfigError, InputError

FORMAT = "echoedge.devices/1"
HOST = "host"
# published: by the maker; reported: measured or written by others; derived: computed from such figures; assumed: nobody's figure;
# measured: on this machine, now.
Sureness = Literal["published", "reported", "derived", "assumed", "measured"]
System = Literal["android", "ios", "linux", "other"]
Text = Annotated[str, Field(min_length=3, max_length=500)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Figure(_Record):
    """A number with its source. `value`: bytes, or bytes or operations per second."""

    value: Annotated[float, Field(gt=0)]
    kind: Sureness
    source: Text


class Core(_Record):
    """A processor core: operations per cycle, two for a multiplication and addition, at the widths that its vector units have."""

    int8: Annotated[int, Field(gt=0)]
    fp16: Annotated[int, Field(gt=0)]
    fp32: Annotated[int, Field(gt=0)]
    kind: Sureness
    source: Text


class Cores(_Record):
    """`count` cores of one kind at their highest clock, hertz."""

    core: Text
    count: Annotated[int, Field(ge=1, le=256)]
    hertz: Annotated[float, Field(ge=1e8, le=1e10)]


class Entry(_Record):
    """A device as the table holds it. `app_bytes`: the most that the system lets one app hold. `bandwidth`: of memory, and
    `storage`: of sequential reads, bytes per second, None where no source says. `clocks_source`: of cores and clocks."""

    name: Annotated[str, Field(min_length=2, max_length=60)]
    system: System
    chip: Text
    memory_bytes: Figure
    app_bytes: Figure
    cores: Annotated[tuple[Cores, ...], Field(min_length=1)]
    clocks_kind: Sureness
    clocks_source: Text
    bandwidth: Figure | None = None
    storage: Figure | None = None

    @model_validator(mode="after")
    def _within_its_memory(self) -> Entry:
        if self.app_bytes.value > self.memory_bytes.value:
            raise ValueError(f"app_bytes {self.app_bytes.value:.0f} is more than memory_bytes {self.memory_bytes.value:.0f}")
        return self


class Table(_Record):
    """A file of devices. `reached`: the share of a rate that products reach, by what is multiplied; `process_bytes`: of an app
    before it loads a program; `packing`: bytes of weights per second that a runtime lays out anew while it loads them."""

    format: Literal["echoedge.devices/1"] = "echoedge.devices/1"
    reached: Figure
    process_bytes: Figure
    packing: Figure
    cores: Annotated[dict[str, Core], Field(min_length=1)]
    devices: Annotated[tuple[Entry, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _names(self) -> Table:
        seen: set[str] = set()
        for device in self.devices:
            key = device.name.casefold()
            if key in seen or key == HOST:
                raise ValueError(f"the name {device.name!r} stands twice or is taken")
            seen.add(key)
            for part in device.cores:
                if part.core not in self.cores:
                    raise ValueError(f"{device.name} has cores {part.core!r}, which the file's `cores` do not describe")
        if self.reached.value > 1:
            raise ValueError(f"reached is {self.reached.value}; it is a share, at most 1")
        return self


@dataclass(frozen=True)
class Device:
    """What a forecast needs of a device. `rates`: products per second by type, int8, fp16 and fp32, at their peak; `reached`: the
    share of it that they reach. `threads`: cores that compute."""

    name: str
    system: str
    chip: str
    memory_bytes: Figure
    app_bytes: Figure
    rates: Mapping[str, Figure]
    reached: Figure
    process_bytes: Figure
    packing: Figure
    bandwidth: Figure | None
    storage: Figure | None
    threads: int

    def to_dict(self) -> dict[str, Any]:
        figures = {name: getattr(self, name) for name in ("memory_bytes", "app_bytes", "reached", "process_bytes", "packing")}
        figures |= {"bandwidth": self.bandwidth, "storage": self.storage}
        return {
            "name": self.name, "system": self.system, "chip": self.chip, "threads": self.threads,
            **{name: None if figure is None else figure.model_dump() for name, figure in figures.items()},
            "rates": {name: figure.model_dump() for name, figure in self.rates.items()},
        }  # fmt: skip


def rate_of(entry: Entry, cores: Mapping[str, Core], kind: Literal["int8", "fp16", "fp32"]) -> Figure:
    """Cores × clock × operations per cycle, as sure as its least sure part."""
    value = sum(part.count * part.hertz * getattr(cores[part.core], kind) for part in entry.cores)
    told = " + ".join(f"{part.count} × {part.hertz / 1e9:g} GHz × {getattr(cores[part.core], kind)}" for part in entry.cores)
    assumed = "assumed" in (entry.clocks_kind, *(cores[part.core].kind for part in entry.cores))
    return Figure(value=value, kind="assumed" if assumed else "derived", source=f"{told} operations per cycle")


def devices_of(table: Table) -> dict[str, Device]:
    """The devices of a table by name."""
    return {
        entry.name: Device(
            entry.name, entry.system, entry.chip, entry.memory_bytes, entry.app_bytes,
            {kind: rate_of(entry, table.cores, kind) for kind in ("int8", "fp16", "fp32")},  # type: ignore[arg-type]
            table.reached, table.process_bytes, table.packing, entry.bandwidth, entry.storage,
            sum(part.count for part in entry.cores),
        )
        for entry in table.devices
    }  # fmt: skip


def read_table(path: Path | None = None) -> Table:
    """The table that ships, or a file of the same form.

    Raises:
        InputError: the file cannot be read, or is no such table; the sentence names the place.
    """
    where = path or Path(str(files(__package__).joinpath("devices.json")))
    try:
        return Table.model_validate(json.loads(where.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(f"The devices of {where} cannot be read: {error.strerror}.") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise InputError(
            f"{where} is no table of devices ({place}: {first['msg']}). docs/FIT.md shows one; the table that ships is one too."
        ) from error
    except ValueError as error:
        raise InputError(f"{where} is no JSON ({error}). Mend the file.") from error


def find_device(devices: Mapping[str, Device], name: str) -> Device:
    """A device by its name; capitals and spaces do not matter.

    Raises:
        ConfigError: there is none of that name; the message lists near names.
    """
    keys = {_key(known): known for known in devices}
    if _key(name) in keys:
        return devices[keys[_key(name)]]
    near = difflib.get_close_matches(_key(name), keys, n=3, cutoff=0.5)
    hint = f" Did you mean {', '.join(repr(keys[one]) for one in near)}?" if near else ""
    raise ConfigError(
        f"There is no device {name!r} in the table.{hint} `echoedge fit --devices` lists all; describe your own in a file for "
        "--device-file, or take host, which is this machine."
    )


def _key(name: str) -> str:
    return "".join(name.casefold().split())
