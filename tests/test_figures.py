"""docs/figures.py: the page is what the records say, and a record that says too little is refused by name."""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from echoedge.core.errors import ConfigError
from echoedge.docs.figures import PAGE, RECORDS, REPOSITORY, TEMPLATE, check, read_records, render, write_figures

GOOD: dict[str, Any] = {
    "format": "echoedge.figures/1", "command": "make it", "source": "the same command.", "date": "2026-11-27", "hardware": "A CPU",
    "versions": {"torch": "2.13.0"}, "conditions": "Two threads, medians of 7.",
    "figures": {"tools": [{"tool": "ours", "tokens": 448, "wall_s": 0.1234, "psnr_db": 61.25}, {"tool": "theirs", "tokens": 1792,
    "wall_s": [1.5, 2], "psnr_db": None}]},
}  # fmt: skip
SMALL = """# Page

```record a```

```table a.tools
tool | tool
wall | wall_s | ,.1f ms x1000
```
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The repository's own page, template and records, to be changed."""
    shutil.copytree(REPOSITORY / RECORDS, tmp_path / RECORDS)
    (tmp_path / "docs").mkdir()
    for name in (TEMPLATE, PAGE):
        shutil.copy(REPOSITORY / name, tmp_path / name)
    return tmp_path


def kept(folder: Path, **changes: Any) -> Path:
    """A folder with the one record a.json, changed; None takes a field out."""
    content = {name: value for name, value in (copy.deepcopy(GOOD) | changes).items() if value is not None or name == "command"}
    (folder / "a.json").write_text(json.dumps(content))
    return folder


# ---- The repository's own -------------------------------------------------------------------------------------------------------


def test_the_committed_page_is_made_of_the_committed_records() -> None:
    check(REPOSITORY)


def test_a_changed_figure_changes_the_page_and_is_found(root: Path) -> None:
    path = root / RECORDS / "peers.json"
    text = path.read_text()
    assert '"seconds": 0.1259,' in text
    path.write_text(text.replace('"seconds": 0.1259,', '"seconds": 0.1161,'))
    with pytest.raises(ConfigError, match=r"docs/FIGURES\.md, line \d+, says '.*125\.9 ms.*' where .* '.*116\.1 ms.*make figures"):
        check(root)
    page = render((root / TEMPLATE).read_text(), read_records(root / RECORDS))
    changed = [pair for pair in zip(page.splitlines(), (root / PAGE).read_text().splitlines(), strict=True) if len(set(pair)) > 1]
    assert len(changed) == 1


@pytest.mark.parametrize("ending", ["one line more\n", ""])
def test_a_page_with_more_or_fewer_lines_is_found(root: Path, ending: str) -> None:
    page = (root / PAGE).read_text()
    (root / PAGE).write_text(page + ending if ending else page[: page.rindex("|", 0, -2)])
    with pytest.raises(ConfigError, match=r"docs/FIGURES\.md"):
        check(root)


def test_every_cell_holds_one_figure_and_rows_fit_a_page() -> None:
    rows = [line for line in (REPOSITORY / PAGE).read_text().splitlines() if line.startswith("|") and "---" not in line]
    assert len(rows) > 150
    for row in rows:
        assert len(row) <= 140
        for cell in row.strip("| ").split(" | ")[1:]:
            assert not re.search(r"\d, \d| / ", cell), row


def test_ratios_of_the_first_run_are_those_of_the_times() -> None:
    record = read_records(REPOSITORY / RECORDS)["peers"].figures
    held = [row for row in record["ratios"] if row["run"] == "first"]
    assert len(held) == 6
    for row in held:
        times = {
            str(one["peer"]): one["seconds"] for one in record["blocks"] if all(one[k] == row[k] for k in ("setting", "tokens"))
        }
        best = min(seconds for peer, seconds in times.items() if peer.startswith(str(row["rival"])))
        assert row["int8"] == pytest.approx(times["echoedge int8"] / best, abs=0.0051)
        assert row["int8_bf16"] == pytest.approx(times["echoedge int8, bf16 attention"] / best, abs=0.0051)


def test_the_same_step_for_all_comes_before_the_published_one() -> None:
    page = (REPOSITORY / PAGE).read_text()
    assert 0 < page.index("### The same step for all") < page.index("### As the model is published")


# ---- Records --------------------------------------------------------------------------------------------------------------------


def test_a_page_of_one_record(tmp_path: Path) -> None:
    page = render(SMALL, read_records(kept(tmp_path)))
    assert "| tool | wall |\n| --- | --- |\n| ours | 123.4 ms |\n| theirs | 1,500.0–2,000.0 ms |" in page
    said = " ".join(page.split())
    assert "Two threads, medians of 7. A CPU; torch 2.13.0. Measured by `make it`, 2026-11-27: [records/a.json]" in said
    assert "Measured by a script that is not kept" in " ".join(render(SMALL, read_records(kept(tmp_path, command=None))).split())


@pytest.mark.parametrize(
    ("form", "shown"),
    [
        ("", "1234.5"),
        (",.0f s", "1,234 s"),
        ("min", "20 min 34 s"),
        ("percent.1", "123450.0 %"),
        (",d MB", "1,234 MB"),
        (".2f x0.001", "1.23"),
    ],
)
def test_formats(tmp_path: Path, form: str, shown: str) -> None:
    records = read_records(kept(tmp_path, figures={"tools": [{"tool": "ours", "wall_s": 1234.5}]}))
    assert f"| ours | {shown} |" in render(SMALL.replace(",.1f ms x1000", form), records)


def test_rows_are_chosen(tmp_path: Path) -> None:
    page = render(SMALL.replace("a.tools", "a.tools where tokens=1792"), read_records(kept(tmp_path)))
    assert "theirs" in page
    assert "ours" not in page.partition("| ---")[2]
    with pytest.raises(ConfigError, match=r"records/a\.json: no row has \{'tokens': '5'\}"):
        render(SMALL.replace("a.tools", "a.tools where tokens=5"), read_records(tmp_path))


ROWS = GOOD["figures"]["tools"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"conditions": None}, "conditions: Field required"),
        ({"conditions": ""}, "conditions: String should have at least 3"),
        ({"hardware": None}, "hardware: Field required"),
        ({"source": None}, "source: Field required"),
        ({"date": "yesterday"}, "date: String should match"),
        ({"devise": "x"}, "devise: Extra inputs are not permitted"),
        ({"figures": {}}, "figures: Dictionary should have at least 1"),
        ({"figures": {"tools": []}}, r"figures\.tools: List should have at least 1"),
        ({"figures": {"tools": [{"wall_s": float("nan")}]}}, r"figures\.tools\.0\.wall_s.*finite"),
        ({"figures": {"tools": [{"wall_s": [1.0, float("inf")]}]}}, r"figures\.tools\.0\.wall_s.*finite"),
        ({"figures": {"tools": [*ROWS, ROWS[0] | {"wall": 1}]}}, "row 3 of table 'tools'.*have wall"),
    ],
)  # fmt: skip
def test_what_is_no_record_is_refused_by_name(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=rf"records/a\.json is not a record \(.*{words}.*\)\. Measure it again"):
        read_records(kept(tmp_path, **changes))


def test_what_is_not_json_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ConfigError, match=r"records/a\.json is not JSON"):
        read_records(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace("a.tools", "b.tools"), r"shows records/b\.json, which is missing"),
        (lambda text: text.replace("```record a```", ""), r"shows records/a\.json without its conditions"),
        (lambda text: text.partition("```table")[0], r"records/a\.json stands in no table"),
        (lambda text: text.replace("a.tools", "a.tool"), r"records/a\.json has no table 'tool'\. It has: tools"),
        (
            lambda text: text.replace("wall_s", "wall_ms"),
            r"'wall \| wall_ms.*' is no column of it.*Fields: tool, tokens, wall_s, psnr_db",
        ),
    ],
)
def test_a_template_that_asks_for_what_is_not_there(tmp_path: Path, change: Callable[[str], str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        render(change(SMALL), read_records(kept(tmp_path)))


def test_commands_write_what_is_read(tmp_path: Path) -> None:
    given = {name: value for name, value in GOOD.items() if name not in ("format", "date")}
    write_figures(tmp_path / "a.json", **given)
    write_figures(tmp_path / "a.json", **given)  # again: the newer one counts
    record = read_records(tmp_path)["a"]
    assert record.figures == read_records(kept(tmp_path))["a"].figures
    with pytest.raises(ValueError, match="finite"):
        write_figures(tmp_path / "a.json", **(given | {"figures": {"tools": [{"wall_s": float("nan")}]}}))
