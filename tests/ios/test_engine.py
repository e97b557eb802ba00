"""The Swift engine: that its own tests pass on this build's golden vectors, what it is made of, and how it is built."""

from __future__ import annotations

import re
import stat
import subprocess
from pathlib import Path

import pytest

from ..commands import process
from ..players import VARIANTS, bit_moved, code_lines, found_in, vouched_for
from .engine import SOURCES, build, built, engine_files, needs_swift

FOREIGN = re.compile(r"^\s*(@\w+ )?import (?!Foundation$)", re.MULTILINE)
CRYPTO = "#if canImport(CryptoKit)\n    import CryptoKit\n#endif\n"  # SHA-256 in hardware, of the system; else our own
UNSAFE = re.compile(r"\btry!|\bas!|fatalError\(|JSONSerialization|unowned|addingProduct|\bfma\(")


@needs_swift
def test_it_passes_its_own_tests_on_the_vectors_of_this_build(tmp_path: Path) -> None:
    assert process("vectors", "--out", tmp_path / "vectors").returncode == 0
    ended = built("test", ECHOEDGE_VECTORS=str(tmp_path / "vectors"))
    assert ended.returncode == 0, ended.stdout[-4000:]
    vectors, tests = map(int, re.findall(r"^(\d+) (?:golden vectors|tests of the Swift engine)", ended.stdout, re.MULTILINE))
    assert vectors > 400 and tests > 30 and "skipped" not in ended.stdout


@needs_swift
def test_a_vector_that_differs_fails(tmp_path: Path) -> None:
    """Another number in a file of vectors that the index still vouches for is found."""
    folder = tmp_path / "vectors"
    assert process("vectors", "--out", folder).returncode == 0
    name = bit_moved(folder)
    ended = built("test", "VectorsTest", ECHOEDGE_VECTORS=str(folder))
    assert ended.returncode == 1 and "noise.bin is not what the index says" in ended.stdout
    vouched_for(folder)
    ended = built("test", "VectorsTest", ECHOEDGE_VECTORS=str(folder))
    assert ended.returncode == 1
    assert f"{name}: latents [0] is" in ended.stdout and "passed, in" not in ended.stdout


def test_it_knows_no_variant_by_name_and_no_library(tmp_path: Path) -> None:
    files = engine_files()
    assert len(files) > 20
    assert found_in(VARIANTS, [*files, *SOURCES.rglob("*.swift")]) == []
    assert found_in(FOREIGN, files) == ["Sha256.swift"]
    assert not FOREIGN.search((SOURCES / "EchoEdgeCore" / "Sha256.swift").read_text().replace(CRYPTO, ""))
    assert found_in(UNSAFE, files) == []
    one = tmp_path / "Bad.swift"
    one.write_text('import CoreML\nlet wide = model == "flash"\nlet all = try! open()\n')
    assert found_in(VARIANTS, [one]) == found_in(FOREIGN, [one]) == found_in(UNSAFE, [one]) == ["Bad.swift"]


def test_it_needs_no_package_and_the_core_needs_no_other_target() -> None:
    package = (SOURCES.parent / "Package.swift").read_text()
    assert ".package(" not in package and '.target(name: "EchoEdgeCore")' in package
    assert package.startswith("// swift-tools-version: 5.9\n")


def test_files_are_short_enough_to_read() -> None:
    for path in SOURCES.parent.rglob("*.swift"):
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) <= 600 and max(map(len, lines)) <= 132, path
    assert code_lines("/* x\ny */\nlet a = 1  // one\n\n/// two\n") == 1


def swift(folder: Path, says: str) -> dict[str, str]:
    """An environment whose only Swift is a script that says so."""
    folder.mkdir()
    script = folder / "swift"
    script.write_text(f"#!/bin/sh\necho '{says}'\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return {"PATH": str(folder), "ECHOEDGE_IOS_OUT": str(folder / "out"), "ECHOEDGE_SWIFT_CHROOT": ""}


def test_a_swift_of_the_system_is_told_by_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = build()
    assert script.version("Swift version 5.9.2 (swift-5.9.2-RELEASE)\nTarget: x86_64") == (5, 9)
    assert script.version("Apple Swift version 6.1 (swiftlang-6.1.0.110.21)") == (6, 1)
    assert script.version("OpenStack Object Storage 2.3") is None
    monkeypatch.delenv("ECHOEDGE_SWIFT_CHROOT", raising=False)
    for number, (says, good) in enumerate([("Swift version 6.0.3", True), ("Swift version 5.8", False), ("swift 2.3", False)]):
        with monkeypatch.context() as changed:
            changed.setenv("PATH", swift(tmp_path / str(number), says)["PATH"])
            assert script.native() is good


def test_what_is_missing_is_said_in_a_sentence(tmp_path: Path) -> None:
    nothing = {"PATH": str(tmp_path), "ECHOEDGE_IOS_OUT": str(tmp_path / "out"), "ECHOEDGE_SWIFT_CHROOT": ""}
    ended = built("test", **nothing)
    assert (ended.returncode, ended.stdout) == (3, "")
    assert "There is no Swift here." in ended.stderr and "Install Swift 5.9" in ended.stderr and "Traceback" not in ended.stderr
    old = swift(tmp_path / "old", "Swift version 5.7.3")
    ended = built("player", **old)
    assert ended.returncode == 3 and "is no Swift 5.9 or later" in ended.stderr
    ended = built("test", **(nothing | {"ECHOEDGE_SWIFT_CHROOT": str(tmp_path / "none")}))
    assert ended.returncode == 3 and "ECHOEDGE_SWIFT_CHROOT names" in ended.stderr
    assert not (tmp_path / "out").exists()


def test_an_unknown_verb_or_test_is_told_what_there_is() -> None:
    ended = built("fly")
    assert ended.returncode == 2 and "build.py test" in ended.stderr
    ended = built("test", "NoTest")
    assert ended.returncode == 3 and "There is no test NoTest" in ended.stderr and "VectorsTest" in ended.stderr


def test_a_mount_does_not_outlive_the_command_that_needs_it(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "file").write_text("seen")
    (tmp_path / "it's there").mkdir()
    command = build().apart({tmp_path / "here": tmp_path / "it's there"}, ["cat", str(tmp_path / "it's there" / "file")])
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode and "ermitted" in ended.stderr:
        pytest.skip("Nobody may mount here.")
    assert ended.stdout == "seen" and list((tmp_path / "it's there").iterdir()) == []
    killed = build().apart({tmp_path / "here": tmp_path / "it's there"}, ["sh", "-c", "kill -9 $$"])
    assert subprocess.run(killed, capture_output=True, check=False).returncode == -9
    assert list((tmp_path / "it's there").iterdir()) == []
    failed = build().apart({tmp_path / "none": tmp_path / "it's there"}, ["echo", "ran"])
    ended = subprocess.run(failed, capture_output=True, text=True, check=False)
    assert ended.returncode and "ran" not in ended.stdout


def test_the_mirror_is_the_one_that_the_system_uses() -> None:
    mirror = build().configured_mirror
    stanzas = (
        "Types: deb\nURIs: http://a.example/security\nSuites: x-security\nComponents: main\nSigned-By: /k/debian.gpg\n\n"
        "Types: deb\nURIs: http://a.example/debian\nSuites: x x-updates\nComponents: main\nSigned-By: /k/debian.gpg\n"
    )
    assert mirror([stanzas]) == "http://a.example/debian"
    other = "Types: deb\nURIs: http://b.example/node\nSuites: nodistro\nSigned-By: /k/node.gpg\n"
    assert mirror([other]) is None and mirror([other, stanzas]) == "http://a.example/debian"
    line = "# deb http://c.example/debian x main\ndeb [signed-by=/k] http://d.example/debian x main contrib\n"
    assert mirror([line]) == "http://d.example/debian"
    assert mirror(["deb http://e.example/debian-security x-security main\n", ""]) is None


def test_counts_are_those_of_the_run_that_passed() -> None:
    script = build()
    said = "\t Executed 14 tests, with 0 failures (0 unexpected)\n\t Executed 33 tests, with 0 failures (0 unexpected)\n"
    assert script.counted(said) == (33, 0)
    assert script.counted("Executed 33 tests, with 12 tests skipped and 0 failures (0 unexpected)") == (21, 12)
    assert script.counted("Executed 33 tests, with 1 failure (0 unexpected)\nExecuted 2 tests, with 0 failures") == (0, 0)
    assert script.counted("error: no such module") == (0, 0)
    lines = ["[3/9] Compiling", "Test Case 'A.b' passed (0.1 seconds)", "a.swift:1: error: it is wrong", "559 golden vectors: 1 x."]
    assert [line for line in lines if script.worth_reading(line)] == lines[2:]
