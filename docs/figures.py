"""docs/FIGURES.md, made from records/*.json and the prose of docs/FIGURES.template.md.

    python docs/figures.py            writes the page                  (make figures)
    python docs/figures.py --check    fails where page and records differ     (make lint)

1. records    a file per measurement: what was run, where, when, under which conditions, and rows of figures
2. template   Markdown with two kinds of blocks, fenced by three backticks:

    record peers                                       the conditions of records/peers.json, as a paragraph
    table peers.blocks where setting=same-step tokens=448
    peer | peer                                        header | field
    wall | seconds | ,.1f ms x1000                     header | field | format [unit] [xFACTOR]

   A format is Python's, `min` for seconds as minutes, or `percent` with its digits (`percent.1`) for shares. Empty: not measured.
3. page       every figure stands in a cell of its own; a record's conditions stand on the page that shows it

It lies beside what it writes, outside the package's floors, so that no wheel has it.
"""

from __future__ import annotations

import datetime
import json
import re
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from echoedge.core.errors import ConfigError
from echoedge.core.files import atomic_file

REPOSITORY = Path(__file__).resolve().parents[1]
RECORDS, TEMPLATE, PAGE = "records", "docs/FIGURES.template.md", "docs/FIGURES.md"
WIDTH = 140

Value = float | tuple[float, float] | str | None  # a figure, its range, a word in its place, or not measured
Row = dict[str, Value]
Text = Annotated[str, Field(min_length=3)]


# ---- 1. Records -----------------------------------------------------------------------------------------------------------------


class Measurement(BaseModel):
    """One measurement. `command`: what was run, None where it was no command of this repository; `source`: what measures it again,
    and whether that writes this file; `figures`: rows by the table's name, fields named with their units (`wall_ms`, `psnr_db`),
    the same in all rows of a table."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    format: Literal["echoedge.figures/1"] = "echoedge.figures/1"
    command: Text | None
    source: Text
    date: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    hardware: Text
    versions: dict[str, str]
    conditions: Text
    figures: Annotated[dict[str, Annotated[list[Row], Field(min_length=1)]], Field(min_length=1)]

    @field_validator("figures", mode="before")
    @classmethod
    def _ranges(cls, tables: object) -> object:
        """JSON has lists, and integers that are figures."""
        if not isinstance(tables, dict):
            return tables
        return {name: [_plain(row) for row in rows] if isinstance(rows, list) else rows for name, rows in tables.items()}

    @field_validator("figures")
    @classmethod
    def _same_fields(cls, tables: dict[str, list[Row]]) -> dict[str, list[Row]]:
        for name, rows in tables.items():
            for number, row in enumerate(rows[1:], 2):
                if odd := sorted(set(row) ^ set(rows[0])):
                    raise ValueError(f"row {number} of table {name!r} and row 1 do not both have {', '.join(odd)}")
        return tables


def _plain(row: object) -> object:
    def value(given: object) -> object:
        if isinstance(given, list):
            return tuple(map(value, given))
        return float(given) if isinstance(given, int) and not isinstance(given, bool) else given

    return {name: value(given) for name, given in row.items()} if isinstance(row, dict) else row


def read_records(folder: Path) -> dict[str, Measurement]:
    """The records of a folder by name, without the suffix.

    Raises:
        ConfigError: a file is no record; the sentence names the file and what is wrong with it.
    """
    found = {}
    for path in sorted(folder.glob("*.json")):
        try:
            found[path.stem] = Measurement.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, one['loc'])) or 'the file'}: {one['msg']}" for one in error.errors()[:3])
            raise ConfigError(f"{RECORDS}/{path.name} is not a record ({wrong}). Measure it again, or mend the file.") from error
        except ValueError as error:
            raise ConfigError(f"{RECORDS}/{path.name} is not JSON ({error}). Measure it again, or mend the file.") from error
    return found


def write_figures(
    path: Path,
    *,
    command: str,
    source: str,
    hardware: str,
    versions: Mapping[str, str],
    conditions: str,
    figures: Mapping[str, list[Row]],
) -> None:
    """Writes what a command has just measured, in place of what was measured before; the date is today's (UTC).

    Raises:
        pydantic.ValidationError: a figure is not finite, rows of a table differ in their fields, or conditions are missing.
    """
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    record = Measurement(
        command=command, source=source, date=today, hardware=hardware, versions=dict(versions), conditions=conditions,
        figures=dict(figures),
    )  # fmt: skip
    with atomic_file(path, force=True) as temporary:
        temporary.write_text(json.dumps(record.model_dump(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


# ---- 2. Template ----------------------------------------------------------------------------------------------------------------


def _conditions(name: str, record: Measurement) -> str:
    versions = "; " + ", ".join(f"{library} {version}" for library, version in record.versions.items()) if record.versions else ""
    measured = f"Measured by `{record.command}`" if record.command else "Measured by a script that is not kept"
    place = f"[{RECORDS}/{name}.json](../{RECORDS}/{name}.json)"
    words = f"{record.conditions} {record.hardware}{versions}. {measured}, {record.date}: {place}. Again: {record.source}"
    return textwrap.fill(words, WIDTH, break_long_words=False, break_on_hyphens=False)


def _cell(value: Value, given: str) -> str:
    """A figure in the format of its column: "12,345.6 ms"."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, tuple):
        low, high = (_cell(end, given) for end in value)
        _, _, unit = high.partition(" ")
        return f"{low.removesuffix(f' {unit}') if unit else low}–{high}"
    words = given.split()
    if words and re.fullmatch(r"x[0-9.e-]+", words[-1]):
        value *= float(words.pop()[1:])
    how, unit = words[0] if words else ".10g", " ".join(words[1:])
    if how == "min":
        return f"{round(value) // 60} min {round(value) % 60} s"
    if how.startswith("percent"):
        return f"{100 * value:{how.removeprefix('percent') or '.0'}f} %"
    if how.endswith("d"):
        value = round(value)
    return f"{value:{how}} {unit}".rstrip()


def _table(rows: list[Row], columns: list[list[str]], where: dict[str, str], place: str) -> str:
    shown = [row for row in rows if all(_cell(row.get(field), "") == wanted for field, wanted in where.items())]
    if not shown:
        raise ConfigError(f"{place}: no row has {where}. Mend {TEMPLATE} or measure again.")
    for column in columns:
        if len(column) not in (2, 3) or column[1] not in rows[0]:
            raise ConfigError(
                f"{place}: {' | '.join(column)!r} is no column of it, which is header | field | format. "
                f"Fields: {', '.join(rows[0])}."
            )
    lines = [[column[0] for column in columns], ["---"] * len(columns)]
    lines += [[_cell(row[column[1]], column[2] if len(column) > 2 else "") for column in columns] for row in shown]
    return "\n".join("|" + "".join(f" {cell} |" if cell else " |" for cell in line) for line in lines)


def render(template: str, records: Mapping[str, Measurement]) -> str:
    """The page.

    Raises:
        ConfigError: the template asks for a record, table, row or field that is not there; a record is shown without its
            conditions, or not at all.
    """
    conditions: set[str] = set()
    tables: set[str] = set()

    def block(match: re.Match[str]) -> str:
        head, *body = match["body"].strip().splitlines()
        kind, name, *rest = head.split()
        name, _, table = name.partition(".")
        place = f"{RECORDS}/{name}.json"
        if name not in records:
            raise ConfigError(f"{TEMPLATE} shows {place}, which is missing. Measure it again, or take it out of the template.")
        if kind == "record":
            conditions.add(name)
            return _conditions(name, records[name])
        if table not in records[name].figures:
            raise ConfigError(f"{place} has no table {table!r}. It has: {', '.join(records[name].figures)}.")
        tables.add(name)
        where = dict(word.split("=", 1) for word in rest[1:])
        return _table(records[name].figures[table], [[part.strip() for part in line.split("|")] for line in body], where, place)

    page = re.sub(r"^```(?P<body>(?:record|table) [^`]*)```$", block, template, flags=re.MULTILINE)
    for name in sorted(set(records)):
        if name not in tables:
            raise ConfigError(f"{RECORDS}/{name}.json stands in no table of {TEMPLATE}. Show it, or delete it.")
        if name not in conditions:
            raise ConfigError(f"{TEMPLATE} shows {RECORDS}/{name}.json without its conditions: put ```record {name}``` above.")
    return f"<!-- Made by `make figures` from {RECORDS}/ and {TEMPLATE}: change those. -->\n\n{page}"


# ---- 3. Page --------------------------------------------------------------------------------------------------------------------


def check(root: Path) -> None:
    """Raises:
    ConfigError: the page of the repository in `root` is not what its records and its template say.
    """
    expected = render((root / TEMPLATE).read_text(encoding="utf-8"), read_records(root / RECORDS)).splitlines()
    found = (root / PAGE).read_text(encoding="utf-8").splitlines()
    for number, (left, right) in enumerate(zip([*found, ""], [*expected, ""], strict=False), 1):
        if left != right:
            raise ConfigError(f"{PAGE}, line {number}, says {left!r} where the records say {right!r}. Run `make figures`.")
    if len(found) != len(expected):
        raise ConfigError(f"{PAGE} has {len(found)} lines where the records make {len(expected)}. Run `make figures`.")


def main(arguments: list[str]) -> None:
    if arguments not in ([], ["--check"]):
        raise SystemExit(f"{' '.join(arguments)!r} is not known. Give nothing, which writes {PAGE}, or --check.")
    try:
        if arguments:
            check(REPOSITORY)
        else:
            page = render((REPOSITORY / TEMPLATE).read_text(encoding="utf-8"), read_records(REPOSITORY / RECORDS))
            (REPOSITORY / PAGE).write_text(page, encoding="utf-8")
    except ConfigError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main(sys.argv[1:])
