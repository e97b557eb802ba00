"""Builds and tests the Kotlin engine: `make android-test` from a fresh clone, with Python's standard library alone.

    python android_demo/build.py test       sets up what is missing, compiles what changed, runs JUnit, prints counts
    python android_demo/build.py engine     compiles the engine alone and prints the path of its jar
    python android_demo/build.py classpath  prints the class path of engine and tests, compiled as by `test`

What is needed: a JDK (11 or later; Debian: default-jdk-headless), npm for the compiler, and for JUnit one of: Debian's package
junit4, installed or to be had by apt, or a Maven repository in the home folder that holds it. What was fetched lies in out/android,
and a second run needs no network. Status 3: something is missing that only whoever runs this can install; the sentence says what.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ENGINE = ROOT / "android_demo" / "engine" / "src"
OUT = Path(os.environ.get("ECHOEDGE_ANDROID_OUT") or ROOT / "out" / "android")
MISSING = 3

KOTLIN = "kotlin-compiler@2.4.20"
KOTLIN_SHA512 = "IF5IVM7LpPhA/ntHQQpaVt1yxpaaQovtEVYLyqWMuaLr0XelLPPm7/sM6HLhtcRjjjoSsK7I7lP2kzYJkMy73w=="
COMPILER_JARS = (
    "kotlin-compiler.jar", "kotlin-stdlib.jar", "kotlin-reflect.jar", "kotlin-script-runtime.jar",
    "kotlinx-coroutines-core-jvm.jar", "annotations-13.0.jar",
)  # fmt: skip
STDLIB = "kotlin-stdlib.jar"
FLAGS = ("-jvm-target", "1.8", "-Xjdk-release=1.8", "-Werror", "-progressive")
JUNIT = {
    "junit4.jar": "junit/junit/4.13.2/junit-4.13.2.jar",
    "hamcrest.jar": "org/hamcrest/hamcrest-core/1.3/hamcrest-core-1.3.jar",
}
JUNIT_SHA256 = {  # of the Maven files; Debian's are vouched for by apt
    "junit4.jar": "8e495b634469d64fb8acfa3495a065cbacc8a0fff55ce1e31007be4c16dc57d3",
    "hamcrest.jar": "66fdef91e9739348df7a096aa384a5685f4e875584cce89386a7a47251c4d8e9",
}
DEBIAN_JARS = Path("usr/share/java")


class Missing(Exception):
    """Something that this script cannot fetch; the sentence says what to install."""


# ---- 1. what compiles and tests -------------------------------------------------------------------------------------------------


def java() -> str:
    """The Java launcher of a JDK.

    Raises:
        Missing: there is none, or a runtime without a compiler's library, which is where Java's own classes are looked up.
    """
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=str(Path(home) / "bin")) if home else shutil.which("java")
    if found is None:
        raise Missing("There is no JDK here. Install one (Debian: apt-get install default-jdk-headless), then run this again.")
    if not (Path(found).resolve().parents[1] / "lib" / "ct.sym").is_file():
        raise Missing(f"{found} belongs to a Java without a compiler. Install a JDK (Debian: default-jdk-headless).")
    return found


def compiler() -> Path:
    """The folder of the compiler's jars, fetched and checked once.

    Raises:
        Missing: npm is not there or cannot fetch it, or what came is not what was published.
    """
    folder = OUT / KOTLIN.replace("@", "-")
    if folder.is_dir():
        return folder
    npm = shutil.which("npm")
    if npm is None:
        raise Missing(f"npm fetches {KOTLIN}, and is not here. Install it (Debian: apt-get install npm), then run this again.")
    print(f"Fetching {KOTLIN} (90 MB, once) …", file=sys.stderr, flush=True)
    with _beside(folder) as scratch:
        ended = subprocess.run([npm, "pack", KOTLIN, "--silent"], cwd=scratch, capture_output=True, text=True, check=False)
        packed = next(scratch.glob("*.tgz"), None)
        if ended.returncode or packed is None:
            raise Missing(f"npm could not fetch {KOTLIN}: {' '.join(ended.stderr.split())[:300] or 'it said nothing'}.")
        check_sha512(packed, KOTLIN_SHA512)
        with tarfile.open(packed) as archive:
            for name in COMPILER_JARS:
                with (scratch / name).open("wb") as target, _member(archive, f"package/lib/{name}") as source:
                    shutil.copyfileobj(source, target)
        packed.unlink()
        scratch.rename(folder)
    return folder


def check_sha512(path: Path, expected: str) -> None:
    """Raises Missing: a file is not the one that was published. `expected`: base64, as the registry states it."""
    found = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    if found != expected:
        raise Missing(
            f"{path.name} has SHA-512 {found[:12]}…, not {expected[:12]}…: it is not what was published, and stays packed."
        )


def _member(archive: tarfile.TarFile, name: str):  # type: ignore[no-untyped-def]
    try:
        found = archive.extractfile(name)
    except KeyError:
        found = None
    if found is None:
        raise Missing(f"{KOTLIN} has no {name}. Report it.")
    return found


def junit() -> list[Path]:
    """JUnit 4's jars: of the system, of a Maven repository, or of Debian's package, which is unpacked and not installed.

    Raises:
        Missing: none of these has them.
    """
    folder = OUT / "junit"
    if folder.is_dir():
        return [folder / name for name in JUNIT]
    maven, system = Path.home() / ".m2" / "repository", Path("/") / DEBIAN_JARS
    with _beside(folder) as scratch:
        if all((system / name).is_file() for name in JUNIT):
            places = {name: system / name for name in JUNIT}
        elif all(_sha256(maven / path) == JUNIT_SHA256[name] for name, path in JUNIT.items()):
            places = {name: maven / path for name, path in JUNIT.items()}
        else:
            places = _of_debian(scratch)
        for name, place in places.items():
            shutil.copy(place, scratch / name)
        for each in scratch.iterdir():
            if each.name not in JUNIT:
                shutil.rmtree(each) if each.is_dir() else each.unlink()
        scratch.rename(folder)
    return [folder / name for name in JUNIT]


def _sha256(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _of_debian(scratch: Path) -> dict[str, Path]:
    remedy = "Install JUnit 4 (Debian: apt-get install junit4), then run this again."
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise Missing(f"JUnit 4 is not here. {remedy}")
    command = ["apt-get", "download", "--quiet", "junit4", "libhamcrest-java"]
    ended = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise Missing(f"apt-get could not download junit4 ({' '.join(ended.stderr.split())[:200]}). Run apt-get update. {remedy}")
    for package in scratch.glob("*.deb"):
        subprocess.run(["dpkg-deb", "--extract", package, scratch / "unpacked"], check=True)
    places = {name: scratch / "unpacked" / DEBIAN_JARS / name for name in JUNIT}
    if not all(place.is_file() for place in places.values()):
        raise Missing(f"Debian's junit4 does not have the jars that are known. {remedy}")
    return {name: place.resolve() for name, place in places.items()}


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A folder that is renamed to `target` when it is complete, and gone otherwise."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.", ignore_cleanup_errors=True) as scratch:
        inner = Path(scratch) / "made"
        inner.mkdir()
        yield inner


# ---- 2. compiling ---------------------------------------------------------------------------------------------------------------


def compiled(name: str, sources: Path, beside: Sequence[Path]) -> Path:
    """A jar of the Kotlin files under a folder, compiled against `beside` where they, those or the compiler have changed.

    Raises:
        SystemExit: the compiler refuses them; it has said why.
    """
    files = sorted(sources.rglob("*.kt"))
    digest = hashlib.sha256("\0".join((KOTLIN, *FLAGS)).encode())
    for path in (*beside, *files):
        digest.update(f"\0{path.name}\0".encode() + path.read_bytes())
    stamp, jar = OUT / f"{name}.sha256", OUT / f"{name}.jar"
    if jar.is_file() and stamp.is_file() and stamp.read_text() == digest.hexdigest():
        return jar
    runtime, folder = java(), compiler()
    print(f"Compiling {len(files)} Kotlin files: {name} …", file=sys.stderr, flush=True)
    launch = [runtime, "-Xmx1g", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", _path(folder / jar for jar in COMPILER_JARS)]
    own = ["org.jetbrains.kotlin.cli.jvm.K2JVMCompiler", "-no-stdlib", "-no-reflect", *FLAGS]
    ended = subprocess.run([*launch, *own, "-cp", _path([folder / STDLIB, *beside]), "-d", str(jar), *map(str, files)], check=False)
    if ended.returncode:
        stamp.unlink(missing_ok=True)
        sys.exit(1)
    stamp.write_text(digest.hexdigest())
    return jar


def _path(jars: Sequence[Path] | Iterator[Path]) -> str:
    return os.pathsep.join(map(str, jars))


def engine() -> Path:
    """The engine's jar: bytecode of Java 8, its library of Java 8."""
    return compiled("engine", ENGINE / "main", ())


def everything() -> list[Path]:
    """What runs the tests: engine, tests, JUnit, the standard library."""
    jars = [engine(), *junit(), compiler() / STDLIB]
    return [compiled("engine-tests", ENGINE / "test", jars[:-1]), *jars]


# ---- 3. testing -----------------------------------------------------------------------------------------------------------------


def test(arguments: Sequence[str]) -> int:
    """Runs JUnit on every class called …Test; `arguments`: names of some of them. Status 1 where one fails."""
    names = sorted(path.stem for path in (ENGINE / "test").rglob("*Test.kt"))
    unknown = [name for name in arguments if name not in names]
    if unknown:
        raise Missing(f"There is no test {unknown[0]}. There are: {', '.join(names)}.")
    jars = everything()
    command = [java(), "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", _path(jars), "org.junit.runner.JUnitCore"]
    ended = subprocess.run(
        [*command, *(f"echoedge.engine.{name}" for name in arguments or names)], text=True, capture_output=True, check=False
    )
    print("\n".join(line for line in ended.stdout.splitlines() if not re.match(r"^\s*at (org\.junit|java\.|jdk\.)", line)))
    print(ended.stderr, end="", file=sys.stderr)
    found = re.search(r"OK \((\d+) tests?\)", ended.stdout)
    if ended.returncode == 0 and found:
        print(f"{found[1]} tests of the Kotlin engine passed, in {len(arguments or names)} classes.")
    return ended.returncode


def main(arguments: Sequence[str]) -> int:
    verb, *rest = arguments or ("test",)
    try:
        if verb == "test":
            return test(rest)
        if verb in ("engine", "classpath") and not rest:
            print(engine() if verb == "engine" else _path(everything()))
            return 0
    except Missing as missing:
        print(missing, file=sys.stderr)
        return MISSING
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
