"""The Kotlin engine: that its own tests pass on this build's golden vectors, what it is made of, and how it is built."""

from __future__ import annotations

import os
import re
import struct
import sys
import zipfile
from pathlib import Path

import pytest

from ..commands import process
from ..players import VARIANTS, bit_moved, code_lines, found_in, vouched_for
from .engine import app_files, built, common, engine_files, kotlin, needs_kotlin

FOREIGN = re.compile(r"^import (?!kotlin\.|java\.|echoedge\.)", re.MULTILINE)
JAVA_8 = 52  # major version of class files


@needs_kotlin
def test_it_passes_its_own_tests_on_the_vectors_of_this_build(tmp_path: Path) -> None:
    assert process("vectors", "--out", tmp_path / "vectors").returncode == 0
    ended = built("test", ECHOEDGE_VECTORS=str(tmp_path / "vectors"))
    assert ended.returncode == 0, ended.stdout[-4000:]
    vectors, tests = map(int, re.findall(r"^(\d+) (?:golden vectors|tests of the Kotlin engine)", ended.stdout, re.MULTILINE))
    assert vectors > 400 and tests > 2 * vectors


@needs_kotlin
def test_a_vector_that_differs_fails(tmp_path: Path) -> None:
    """Another number in a file of vectors that the index still vouches for is found."""
    folder = tmp_path / "vectors"
    assert process("vectors", "--out", folder).returncode == 0
    bit_moved(folder)
    assert built("test", "VectorsTest", ECHOEDGE_VECTORS=str(folder)).returncode == 1  # the index still tells of other bytes
    vouched_for(folder)
    ended = built("test", "VectorsTest", ECHOEDGE_VECTORS=str(folder))
    assert ended.returncode == 1
    assert "latents [0] is" in ended.stdout and "Failures: 1" in ended.stdout


def test_it_knows_no_variant_by_name_and_no_library(tmp_path: Path) -> None:
    files = engine_files()
    assert len(files) > 15
    assert len(app_files()) > 25
    assert found_in(VARIANTS, [*files, *app_files()]) == []
    assert found_in(FOREIGN, files) == []
    one = tmp_path / "Bad.kt"
    one.write_text('package echoedge.engine\nimport android.os.Build\nval wide = model == "flash"\n')
    assert found_in(VARIANTS, [one]) == found_in(FOREIGN, [one]) == ["Bad.kt"]


@needs_kotlin
def test_it_is_bytecode_that_phones_take() -> None:
    jar = Path(built("engine").stdout.strip())
    with zipfile.ZipFile(jar) as archive:
        classes = [archive.read(name) for name in archive.namelist() if name.endswith(".class")]
    assert len(classes) > 40
    for each in classes:
        assert struct.unpack_from(">IHH", each)[2] == JAVA_8
        assert b"Landroid/" not in each and b"org/pytorch/" not in each


def test_a_compiler_that_is_not_what_was_published_is_not_unpacked(tmp_path: Path) -> None:
    packed = tmp_path / "kotlin.tgz"
    packed.write_bytes(b"something else")
    with pytest.raises(common.Missing, match="not what was published"):
        common.check_sha512(packed, kotlin.KOTLIN_SHA512)
    common.check_sha512(packed, "NFJPgMVW1OXAHj7S0GASZTwC1DbKo++ACCVQFfne/x8A6KcK42g9BtGbXcn7TBMPqkVZ+wrRygXGPpLmFuJJ+A==")


def test_what_is_missing_is_said_in_a_sentence(tmp_path: Path) -> None:
    environment = {"PATH": str(tmp_path), "JAVA_HOME": "", "ECHOEDGE_ANDROID_OUT": str(tmp_path / "out")}
    ended = built("test", **environment)
    assert (ended.returncode, ended.stdout) == (3, "")
    assert "There is no JDK here." in ended.stderr and "apt-get install" in ended.stderr and "Traceback" not in ended.stderr
    (tmp_path / "lib").mkdir()
    (tmp_path / "bin").mkdir()
    (tmp_path / "lib" / "ct.sym").touch()
    (tmp_path / "bin" / "java").write_text("#!/bin/sh\n")
    (tmp_path / "bin" / "java").chmod(0o755)
    ended = built("engine", **(environment | {"JAVA_HOME": str(tmp_path)}))
    assert ended.returncode == 3 and "npm fetches" in ended.stderr
    (tmp_path / "lib" / "ct.sym").unlink()
    assert "without a compiler" in built("engine", **(environment | {"JAVA_HOME": str(tmp_path)})).stderr


def test_an_unknown_verb_is_told_what_there_is() -> None:
    ended = built("fly")
    assert ended.returncode == 2 and "build.py test" in ended.stderr


def test_lines_of_code_are_counted_without_comments() -> None:
    assert code_lines("/** what\n * it is */\nval a = 1 // one\n\n// two\n/* x */ val b = 2\n") == 2
    assert sys.version_info >= (3, 11) and os.name == "posix"
