"""The documents: every link and every path that they name is there, and the README stays short."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
PAGES = [
    "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "core/assets/README.md", "android_demo/README.md", "ios_demo/README.md",
    "ios_demo/App/README.md",
    *(path.relative_to(REPO).as_posix() for path in (REPO / "docs").glob("*.md")),
]  # fmt: skip
FOLDERS = "android_demo|cli|core|docs|findings|ios_demo|quantize|runtime|targets|tests"
# `tests/golden.…`, `tests/traces.…` and `records/…` are in bundles, too: only records' own files are ours.
NAMED = re.compile(rf"(?<![\w/.-])(?:(?:{FOLDERS})/[\w./*-]*|records/[\w-]+\.json)")
IN_BUNDLES = ("tests/golden.json", "tests/golden.safetensors", "tests/traces.json", "tests/traces.safetensors")


def anchors(page: str) -> set[str]:
    """What links into a Markdown page can name: its headings as GitHub spells them."""
    headings = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(page: Path, root: Path = REPO) -> list[str]:
    """The links and paths of a page that lead nowhere."""
    text, wrong = page.read_text(encoding="utf-8"), []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        name, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", name):
            continue
        place = page.parent / name if name else page
        if not place.exists() or (anchor and anchor not in anchors(place.read_text(encoding="utf-8"))):
            wrong.append(target)
    for name in NAMED.findall(re.sub(r"\]\([^)\s]+\)", "]", text)):
        path = name.rstrip(".").removesuffix("/")
        if path not in IN_BUNDLES and not any(root.glob(path)):
            wrong.append(name)
    return wrong


@pytest.mark.parametrize("name", PAGES)
def test_links_and_paths_lead_somewhere(name: str) -> None:
    assert broken(REPO / name) == []


def test_what_leads_nowhere_is_found(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "b.md").write_text("# Two: words, `three`\n")
    page = tmp_path / "a.md"
    page.write_text(
        "[good](docs/b.md#two-words-three) [web](https://example.org/x) [here](#none) [gone](docs/c.md) [anchor](docs/b.md#four)\n"
        "`docs/b.md`, docs/*.md; `core/nothing.py` and `tests/a/test_b.py`. In a sentence docs/.\n"
        "Not ours: x/core/y.py. (core/brackets.py)\n"
    )
    assert broken(page, tmp_path) == [
        "#none",
        "docs/c.md",
        "docs/b.md#four",
        "core/nothing.py",
        "tests/a/test_b.py",
        "core/brackets.py",
    ]


def test_the_readme_is_short() -> None:
    lines = (REPO / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 90
    cells = [cell for line in lines if line.startswith("|") for cell in line.split("|")]
    assert len(cells) > 20
    for cell in cells:
        words = re.sub(r"\]\([^)]*\)", "]", cell)
        assert len(re.findall(r"\d[\d.,]*", words)) <= 3, cell


def unknown_tests(page: str, known: set[str]) -> set[str]:
    """Tests that a page names and nobody has written; `test_beginning_…` stands for all that begin so."""
    named = re.findall(r"\b(test_\w+)(…?)(?!\w*\.py)", page)
    return {
        name
        for name, more in named
        if name not in known and not (more and any(each.startswith(name) for each in known)) and f"{name}.py" not in page
    }


def test_every_input_has_its_test() -> None:
    known = {name for path in (REPO / "tests").rglob("test_*.py") for name in re.findall(r"def (test_\w+)", path.read_text())}
    page = (REPO / "docs" / "INPUTS.md").read_text(encoding="utf-8")
    assert page.count("\n| ") > 60
    assert unknown_tests(page, known) == set()
    files = set(re.findall(r"\btest_\w+\.py", page))
    assert files <= {path.name for path in (REPO / "tests").rglob("test_*.py")}
    rows = [line.split("|")[-2] for line in page.splitlines() if line.startswith("| ") and not line.startswith("| input")]
    assert all("test" in cell or "`" in cell or cell.strip() == "the same" for cell in rows)
    assert unknown_tests("`test_nobody_wrote` `test_li…` `test_link_…`", {"test_links"}) == {"test_nobody_wrote", "test_link_"}
