"""What `verify` and `bench` found, kept beside a bundle's manifest:

    records/20261127T143000Z-verify-executorch.json

A record names the manifest it is of by SHA-256 and the engine that played, so that its figures are never taken for another bundle's
or another engine's. The manifest does not list records and never changes for one. What `bench` writes is a `BenchRecord`, the same
that apps on phones write.
"""

from __future__ import annotations

import datetime
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, JsonValue, ValidationError

from ..errors import BundleError, OutputError
from ..files import atomic_file
from .bench_record import BENCH_FORMAT, DATE, BenchRecord
from .engine_record import EngineRecord
from .fields import MANIFEST, RECORDS, Record, first_mistakes
from .reader import Bundle

Verb = Literal["verify", "bench"]  # bench: of earlier versions, which had no record of its own
_STAMP = "%Y%m%dT%H%M%SZ"


class VerbRecord(Record):
    """One run of a verb. `summary`: the figures in a line, for people; `figures`: what the verb prints with --json."""

    format: Literal["echoedge.record/1"] = "echoedge.record/1"
    verb: Verb
    manifest_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    engine: EngineRecord
    device: str
    threads: Annotated[int, Field(ge=1)]
    versions: dict[str, str]
    date: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z$")]
    summary: str
    figures: dict[str, JsonValue]


@dataclass(frozen=True)
class Records:
    """The records of a bundle's folder: `own` are of this very manifest, by date; `others` are the files of those that are
    of another one; `damaged` says by file what is wrong with it."""

    own: tuple[VerbRecord | BenchRecord, ...]
    others: tuple[str, ...]
    damaged: Mapping[str, str]


@contextmanager
def recording(bundle: str | Path, use: str, wanted: bool, warn: Callable[[str], None]) -> Iterator[bool]:
    """Whether figures are to be kept in the bundle's folder, where one run at a time measures what is kept. A place that cannot be
    written is told before anything is measured. `use`: see `core.work.claimed`.

    Raises (on entering):
        OutputError: another run is measuring.
    """
    from ..work import claimed  # filelock, which reading records does without

    folder = Path(bundle) / RECORDS
    wanted = wanted and folder.parent.is_dir()  # the bundle is missed by who opens it
    if wanted and not os.access(folder if folder.is_dir() else folder.parent, os.W_OK):
        warn(f"{folder} cannot be written: the figures are not kept. Copy the bundle to where you may write, to keep them.")
        wanted = False
    with claimed(folder, use) if wanted else nullcontext():
        yield wanted


def write_record(
    bundle: Bundle,
    verb: Verb,
    engine: str,
    device: str,
    threads: int,
    versions: Mapping[str, str],
    summary: str,
    figures: Mapping[str, JsonValue],
) -> Path:
    """Keeps what `verb` found with the engine of that name in the bundle's folder. The manifest stays as it is.

    Raises:
        BundleError: a figure has no form in JSON, or the manifest is not the one that was opened any more.
        OutputError, ResourceError: the bundle cannot be written.
    """
    now = datetime.datetime.now(datetime.UTC)
    try:
        record = VerbRecord(
            verb=verb, manifest_sha256=bundle.manifest_sha256, engine=EngineRecord.of(bundle, engine), device=device,
            threads=threads, versions=dict(versions), date=now.strftime(DATE), summary=summary, figures=dict(figures),
        )  # fmt: skip
        return _keep(bundle, record, f"{now.strftime(_STAMP)}-{verb}-{engine}")
    except ValueError as error:  # ValidationError is one
        raise BundleError(f"The figures of {verb} cannot be kept: {error}.") from error


def keep_bench(bundle: Bundle, record: BenchRecord) -> Path:
    """Keeps a benchmark of the bundle in its folder. Raises as `write_record`."""
    stamp = datetime.datetime.strptime(record.date, DATE).strftime(_STAMP)
    return _keep(bundle, record, f"{stamp}-bench-{record.engine.name}")


def _keep(bundle: Bundle, record: VerbRecord | BenchRecord, stem: str) -> Path:
    if hashlib.sha256((bundle.root / MANIFEST).read_bytes()).hexdigest() != bundle.manifest_sha256:
        raise BundleError(
            f"{bundle.root} was exported again in the meantime: these figures are not its own. Run {record.verb} again."
        )
    text = json.dumps(record.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    path = _free_name(bundle.root / RECORDS, stem)
    try:
        with atomic_file(path, force=True) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def read_records(bundle: Bundle) -> Records:
    """Every record in the bundle's folder; none of them, however damaged, is an error."""
    own: list[VerbRecord | BenchRecord] = []
    others: list[str] = []
    damaged: dict[str, str] = {}
    for path in bundle.record_files():
        name = path.relative_to(bundle.root).as_posix()
        try:
            record = parse_record(path.read_bytes())
        except ValidationError as error:
            damaged[name] = first_mistakes(error, 1)
        except OSError as error:
            damaged[name] = error.strerror or str(error)
        else:
            if record.manifest_sha256 == bundle.manifest_sha256:
                own.append(record)
            else:
                others.append(name)
    return Records(tuple(own), tuple(others), damaged)


def parse_record(data: bytes) -> VerbRecord | BenchRecord:
    """Raises pydantic.ValidationError: the data is no record."""
    try:
        told = json.loads(data)
    except (ValueError, RecursionError):
        told = None  # what is wrong with it is said below
    kind: type[VerbRecord | BenchRecord] = VerbRecord
    if isinstance(told, dict) and told.get("format") == BENCH_FORMAT:
        kind = BenchRecord
    return kind.model_validate_json(data, strict=True)


def _free_name(folder: Path, stem: str) -> Path:
    """Claims a name that no other process has: the file is there, empty, when this returns."""
    for number in itertools.count(1):
        path = folder / f"{stem}{f'-{number}' if number > 1 else ''}.json"
        try:
            folder.mkdir(exist_ok=True)
            path.touch(exist_ok=False)
        except FileExistsError:
            if not folder.is_dir():
                raise OutputError(f"{folder} is a file; records go into a folder of that name. Move it away.") from None
            continue
        except OSError as error:
            raise OutputError(f"{folder} cannot be written ({error.strerror}). Copy the bundle to where you may write.") from error
        return path
    raise AssertionError("unreachable")
