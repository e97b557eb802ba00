"""cli/options.py: every form is read, everything else is a ConfigError that quotes it, and no text raises another error."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import typer
from hypothesis import example, given
from hypothesis import strategies as st

from echoedge.cli import app as cli
from echoedge.cli import options as cli_options
from echoedge.cli.options import (
    distinct,
    parse_box,
    parse_bytes,
    parse_crop,
    parse_duration,
    parse_names,
    parse_numbers,
    parse_seconds,
    parse_shape,
    parse_shapes,
    parse_size,
)
from echoedge.core.config import SIZE_MULTIPLE, ClipSpec
from echoedge.core.errors import ConfigError
from echoedge.core.model.masks import Box

from .commands import Run

PARSERS: dict[str, Callable[[str], Any]] = {
    "parse_names": lambda text: parse_names(text, "--o"),
    "parse_numbers": lambda text: parse_numbers(text, "--o"),
    "parse_seconds": lambda text: parse_seconds(text, "--o"),
    "parse_duration": lambda text: parse_duration(text, "--o", 1.0, 86400.0),
    "parse_size": lambda text: parse_size(text, "--o"),
    "parse_shape": lambda text: parse_shape(text, "--o"),
    "parse_shapes": lambda text: parse_shapes([text, text], "--o"),
    "parse_box": lambda text: parse_box(text, "--o"),
    "parse_crop": lambda text: parse_crop(text),
    "parse_bytes": lambda text: parse_bytes(text, "--o"),
    "distinct": lambda text: distinct([text, text], "--o"),
}
# Texts that are nearly right: parts of every form, digits of other scripts, signs, points, exponents, nothing.
NEARLY = st.lists(
    st.sampled_from([*"0123456789xX,.-+ _eE²٣४\x00\n\udcff", "GB", "GiB", "K", "x64", "64", "1_0", "9" * 30, "9" * 5000, "full"])
).map("".join)


def test_every_parser_is_fuzzed() -> None:
    public = {name for name, _ in inspect.getmembers(cli_options, inspect.isfunction) if not name.startswith("_")}
    assert public == set(PARSERS)


@pytest.mark.parametrize("name", PARSERS)
@given(text=st.text() | NEARLY)
@example(text="²x64")
@example(text="9" * 5000 + "x64")
@example(text="64x64x²")
@example(text="²,1,2,3")
@example(text="1" * 400 + "GB")
@example(text="0.0000000000000001KiB")
@example(text="")
def test_nothing_but_a_config_error_escapes(name: str, text: str) -> None:
    with suppress(ConfigError):
        PARSERS[name](text)


# ---- sizes and shapes ------------------------------------------------------------------------------------------------------------

SIDES = st.integers(1, 64).map(lambda n: n * SIZE_MULTIPLE)
CLIPS = st.builds(ClipSpec, SIDES, SIDES, st.integers(0, 40).map(lambda n: 4 * n + 1))


@given(clip=CLIPS)
def test_a_printed_shape_is_read_back(clip: ClipSpec) -> None:
    assert parse_shape(str(clip), "--clip") == clip
    size = str(clip).rpartition("x")[0]
    assert parse_size(size) == (clip.height, clip.width)


def test_height_comes_first() -> None:
    assert str(ClipSpec(32, 48, 9)) == "32x48x9"
    assert parse_size(" 32 X 48 ") == (32, 48)
    assert parse_shape("32x48x9", "--also") == ClipSpec(32, 48, 9)
    assert parse_shapes(["32x48x9", "48x32x9"], "--also") == (ClipSpec(32, 48, 9), ClipSpec(48, 32, 9))


NO_SIZES = ["", "64", "64x", "x64", "64x64x9", "²x64", "٣٢x64", "6.4x64", "64,64", "1234567890x64"]


@pytest.mark.parametrize("text", NO_SIZES)
def test_what_is_no_size_is_quoted(text: str) -> None:
    with pytest.raises(ConfigError, match=rf"^--size is {re.escape(repr(text))}; write HEIGHTxWIDTH, such as 256x256\.$"):
        parse_size(text)


@pytest.mark.parametrize("text", ["32x48", "32x48x²", "32x48x9x1"])
def test_what_is_no_shape_is_quoted(text: str) -> None:
    with pytest.raises(ConfigError, match=rf"^--also is '{text}'; write HEIGHTxWIDTHxFRAMES"):
        parse_shape(text, "--also")
    with pytest.raises(ConfigError, match="frames is 10; it must be 4n"):
        parse_shape("32x48x10", "--also")


# ---- lists -----------------------------------------------------------------------------------------------------------------------


def test_lists() -> None:
    assert parse_names("full, tiny", "--decoders") == ("full", "tiny")
    assert parse_numbers("15,0, 29", "--blocks") == (15, 0, 29)
    assert parse_seconds("0, 0.5,2", "--contexts") == (0.0, 0.5, 2.0)
    assert parse_box("0,40, 0,60", "--face") == Box(0, 40, 0, 60)
    assert parse_crop("0, 120,800") == (0, 120, 800)
    assert distinct(["", "a"], "--list", empty=True) == ("", "a")


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda: parse_names("full,full", "--decoders"), "--decoders names 'full' twice"),
        (lambda: parse_names("full, full", "--decoders"), "--decoders names 'full' twice"),
        (lambda: parse_names("full,", "--decoders"), "--decoders has an empty entry"),
        (lambda: parse_names("", "--decoders"), "--decoders has an empty entry"),
        (lambda: parse_numbers("0,15,00", "--blocks"), "--blocks names '0' twice"),
        (lambda: parse_seconds("0,0.0", "--contexts"), "--contexts names '0.0' twice"),
        (lambda: parse_seconds("0,-1", "--contexts"), "--contexts is '0,-1'; write seconds from 0 to 30"),
        (lambda: parse_numbers("0,,15", "--blocks"), "--blocks is '0,,15'; write numbers with commas"),
        (lambda: parse_numbers("0,1 5", "--blocks"), "--blocks is '0,1 5'; write numbers"),
        (lambda: parse_shapes(["32x32x9", "032x32x9"], "--also"), "--also names '32x32x9' twice"),
        (lambda: parse_box("1,2,3", "--face"), "--face is '1,2,3'; write TOP,BOTTOM,LEFT,RIGHT"),
        (lambda: parse_crop("0,120"), "--crop is '0,120'; write TOP,LEFT,SIZE in pixels of the portrait, such as 0,120,800"),
        (lambda: parse_crop("0,-1,800"), "--crop is '0,-1,800'; write TOP,LEFT,SIZE"),
        (lambda: parse_crop("0,12.5,800"), "--crop is '0,12.5,800'; write TOP,LEFT,SIZE"),
        (lambda: parse_crop("0,120,0"), "--crop is '0,120,0', of no size; write TOP,LEFT,SIZE"),
        (lambda: distinct(["a", "a"], "--only"), "--only names 'a' twice"),
        (lambda: distinct([" "], "--only"), "--only has an empty entry"),
    ],
)
def test_twins_and_empty_entries_are_refused(read: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        read()


# What a list option is given twice over, and empty; a command that takes another list has to be added here.
LISTS: dict[tuple[str, str], tuple[list[str], list[str], list[str]]] = {
    ("export", "--also"): (["--model", "flash"], ["--also", "32x32x9", "--also", "32x32x9"], ["--also", ""]),
    ("export", "--decoders"): (["--model", "flash"], ["--decoders", "full,full"], ["--decoders", "full,"]),
    ("quantize search", "--blocks"): (["--target-db", "30", "--size", "32x48"], ["--blocks", "0,0"], ["--blocks", "0,"]),
    ("checkpoint make-random", "--components"): (["made"], ["--components", "vae,vae"], ["--components", "vae,,clip"]),
    ("checkpoint hearing", "--contexts"): (["made"], ["--contexts", "1,1"], ["--contexts", "1,"]),
    ("distill checkpoint", "--student-steps"): (
        ["--checkpoint", "c", "--data", "d", "--prompts", "p", "--out", "o"],
        ["--student-steps", "1,1"],
        ["--student-steps", "1,"],
    ),
    ("distill study", "--task"): (["student"], ["--task", "t2v", "--task", "t2v"], ["--task", ""]),
    ("train nano", "--without"): ([], ["--without", "ndpo", "--without", "ndpo"], ["--without", ""]),
    ("train study", "--only"): ([], ["--only", "vae", "--only", "vae"], ["--only", ""]),
    ("train study", "--without"): ([], ["--without", "ndpo=a", "--without", "ndpo=b"], ["--without", "=a"]),
}


def list_options() -> set[tuple[str, str]]:
    """Options of the whole command line that take several values: those that may be repeated, and those whose help shows commas."""
    found = set()

    def walk(command: Any, path: str) -> None:
        for name, child in getattr(command, "commands", {}).items():
            walk(child, f"{path} {name}".strip())
        for parameter in command.params:
            if parameter.param_type_name != "option":
                continue
            commas = "," in str(parameter.default or "") or re.search(r"\d,\d", parameter.help or "")
            if parameter.multiple or commas:
                found.add((path, parameter.opts[0]))

    walk(typer.main.get_command(cli.app), "")
    return found


def test_every_list_option_is_known() -> None:
    assert list_options() == set(LISTS)


@pytest.mark.parametrize(("command", "option"), LISTS)
def test_every_list_option_refuses_twins_and_empty_entries(
    command: str, option: str, run: Run, folders: dict[str, Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    base, twins, empty = LISTS[command, option]
    checkpoint = ["--checkpoint", folders["flash"], "--out", "a.json" if "search" in command else "a.echoedge"]
    base = [*base, *(checkpoint if "export" in command or "search" in command else [])]
    for given_twice in (twins, empty):
        ended = run(*command.split(), *base, *given_twice)
        assert ended.status == 2, ended
        assert len(ended.err.strip().splitlines()) == 1, ended.err
        assert ended.err.strip().startswith(f"config: {option} "), ended.err
    assert not list(tmp_path.iterdir())


# ---- memory ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("4GB", 4 * 10**9),
        ("3.5 GiB", 7 << 29),
        (" 90mb ", 90 * 10**6),
        ("0.001GB", 10**6),
        ("1000TB", 10**15),
        ("2048KiB", 2 << 20),
    ],
)
def test_amounts_of_memory(text: str, amount: int) -> None:
    assert parse_bytes(text, "--memory") == amount


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("4", "--memory is '4': 4GB or 4GiB? Write the unit."),
        ("512M", "--memory is '512M': 512MB or 512MiB? Write the unit."),
        ("0GB", "--memory is '0GB'; it must be from 1MB to 1000TB, such as 4GB."),
        ("999kB", "--memory is '999kB'; it must be from 1MB"),
        ("5000TB", "--memory is '5000TB'; it must be from 1MB"),
        ("4 parsec", "--memory is '4 parsec'; there is no unit 'parsec'"),
        ("-4GB", "--memory is '-4GB'; write an amount such as 4GB or 3.5GiB."),
        ("٤GB", "--memory is '٤GB'; write an amount"),
        ("", "--memory is ''; write an amount"),
        ("1e3GB", "--memory is '1e3GB'; write an amount"),
    ],
)
def test_what_is_no_amount_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        parse_bytes(text, "--memory")
