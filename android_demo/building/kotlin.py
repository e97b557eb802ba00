"""Kotlin's compiler and JUnit, fetched once, and jars that are compiled where something has changed."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .classfile import class_bytes
from .common import DEMO, OUT, Missing, alone, beside, class_path, java, npm_package, say, sha256
from .lambdas import as_classes

KOTLIN = "kotlin-compiler@2.4.20"
KOTLIN_SHA512 = "IF5IVM7LpPhA/ntHQQpaVt1yxpaaQovtEVYLyqWMuaLr0XelLPPm7/sM6HLhtcRjjjoSsK7I7lP2kzYJkMy73w=="
COMPILER_JARS = (
    "kotlin-compiler.jar", "kotlin-stdlib.jar", "kotlin-reflect.jar", "kotlin-script-runtime.jar",
    "kotlinx-coroutines-core-jvm.jar", "annotations-13.0.jar",
)  # fmt: skip
STDLIB = "kotlin-stdlib.jar"
FLAGS = ("-jvm-target", "1.8", "-Werror", "-progressive")
DESKTOP = ("-Xjdk-release=1.8",)
JUNIT = {
    "junit4.jar": "junit/junit/4.13.2/junit-4.13.2.jar",
    "hamcrest.jar": "org/hamcrest/hamcrest-core/1.3/hamcrest-core-1.3.jar",
}
JUNIT_SHA256 = {  # of the Maven files; Debian's are vouched for by apt
    "junit4.jar": "8e495b634469d64fb8acfa3495a065cbacc8a0fff55ce1e31007be4c16dc57d3",
    "hamcrest.jar": "66fdef91e9739348df7a096aa384a5685f4e875584cce89386a7a47251c4d8e9",
}
DEBIAN_JARS = Path("usr/share/java")


@dataclass(frozen=True)
class Module:
    """A folder of Kotlin files. `package`: of its tests, which stand in files called …Test.kt."""

    name: str
    package: str

    @property
    def main(self) -> Path:
        return DEMO / self.name / "src" / "main"

    @property
    def test(self) -> Path:
        return DEMO / self.name / "src" / "test"

    def tests(self) -> list[str]:
        """Names of the classes of tests."""
        return sorted(path.stem for path in self.test.rglob("*Test.kt"))


ENGINE, APPCORE = Module("engine", "echoedge.engine"), Module("appcore", "echoedge.appcore")
MODULES = (ENGINE, APPCORE)


def compiler() -> Path:
    """The folder of the compiler's jars. Raises as `npm_package`."""
    members = [f"lib/{name}" for name in COMPILER_JARS]
    return npm_package(KOTLIN, KOTLIN_SHA512, "90 MB", members, OUT / KOTLIN.replace("@", "-"))


def junit() -> list[Path]:
    """JUnit 4's jars: of the system, of a Maven repository, or of Debian's package, which is unpacked and not installed.

    Raises:
        Missing: none of these has them.
    """
    folder = OUT / "junit"
    if folder.is_dir():
        return [folder / name for name in JUNIT]
    maven, system = Path.home() / ".m2" / "repository", Path("/") / DEBIAN_JARS
    with beside(folder) as scratch:
        if all((system / name).is_file() for name in JUNIT):
            places = {name: system / name for name in JUNIT}
        elif all(sha256(maven / path) == JUNIT_SHA256[name] for name, path in JUNIT.items()):
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


def compiled(name: str, sources: Sequence[Path], beside_it: Sequence[Path], flags: Sequence[str] = DESKTOP) -> Path:
    """A jar of the Kotlin files under folders, compiled against `beside_it` where they, those or the compiler have changed. Java
    files among them are read for what they declare, not compiled.

    Raises:
        SystemExit: the compiler refuses them; it has said why.
    """
    files = sorted(path for folder in sources for path in folder.rglob("*") if path.suffix in (".kt", ".java"))
    options = (*FLAGS, *flags)
    digest = hashlib.sha256("\0".join((KOTLIN, *options)).encode())
    for path in (*beside_it, *files):
        digest.update(f"\0{path.name}\0".encode() + path.read_bytes())
    stamp, jar = OUT / f"{name}.sha256", OUT / f"{name}.jar"
    with alone(name):
        if not (jar.is_file() and stamp.is_file() and stamp.read_text() == digest.hexdigest()):
            stamp.unlink(missing_ok=True)
            say(f"Compiling {len(files)} files: {name} …")
            _compile(files, beside_it, options, jar)
            stamp.write_text(digest.hexdigest())
    return jar


def _compile(files: Sequence[Path], beside_it: Sequence[Path], options: Sequence[str], jar: Path) -> None:
    runtime, folder = java(), compiler()
    jars = class_path(folder / name for name in COMPILER_JARS)
    launch = [runtime, "-Xmx1g", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", jars]
    own = ["org.jetbrains.kotlin.cli.jvm.K2JVMCompiler", "-no-stdlib", "-no-reflect", *options]
    given = class_path([folder / STDLIB, *beside_it])
    if subprocess.run([*launch, *own, "-cp", given, "-d", str(jar), *map(str, files)], check=False).returncode:
        sys.exit(1)


def engine() -> Path:
    """The engine's jar: bytecode of Java 8, its library of Java 8."""
    return compiled("engine", [ENGINE.main], ())


def appcore() -> Path:
    """The jar of what the app decides without Android."""
    return compiled("appcore", [APPCORE.main], [engine()])


def plain(jars: Sequence[Path]) -> list[Path]:
    """Jars as they are dexed, lambdas as classes, for a Java machine to try."""
    made = []
    for jar in jars:
        target = OUT / "plain" / jar.name
        target.parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(target, "w") as archive:
            for _, data in class_bytes([jar]):
                for name, each in as_classes(data):
                    archive.writestr(f"{name}.class", each)
        made.append(target)
    return made


def everything() -> list[Path]:
    """What runs the tests: tests, modules, JUnit, the standard library."""
    own, jars = [engine(), appcore()], junit()
    stdlib = compiler() / STDLIB
    engine_tests = compiled("engine-tests", [ENGINE.test], [own[0], *jars])
    return [engine_tests, compiled("appcore-tests", [APPCORE.test], [engine_tests, *own, *jars]), *own, *jars, stdlib]
