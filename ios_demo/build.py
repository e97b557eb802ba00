"""Builds and tests the Swift engine: `make ios-test` from a fresh clone, with Python's standard library alone.

    python ios_demo/build.py test [CLASS …]   builds the package, checks its layout, runs XCTest, prints counts and times
    python ios_demo/build.py player           builds the command-line player and prints how it is called

What is needed: Swift 5.9 or later on PATH. Where there is none, a Debian trixie of its own is set up once in out/ios, with the
Swift that Debian has: that takes root on Linux, debootstrap and 2.9 GB, and is said before. ECHOEDGE_SWIFT_CHROOT names one that
is there already. Golden vectors are those of the folder that ECHOEDGE_VECTORS names. Status 3: something is missing that only
whoever runs this can install; the sentence says what.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "ios_demo"
OUT = Path(os.environ.get("ECHOEDGE_IOS_OUT") or ROOT / "out" / "ios")
MISSING = 3
LEAST = (5, 9)
SUITE = "trixie"
PACKAGES = ("swiftlang", "libc6-dev", "libstdc++-14-dev", "binutils-gold", "ca-certificates", "git")
LOADERS = {  # of a processor: what starts programs, and where the C library lies
    "x86_64": ("lib64/ld-linux-x86-64.so.2", "usr/lib/x86_64-linux-gnu"),
    "aarch64": ("lib/ld-linux-aarch64.so.1", "usr/lib/aarch64-linux-gnu"),
}
INSIDE = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
FORMATTED = ("Package.swift", "Sources", "Tests", "App")


class Missing(Exception):
    """Something that this script cannot fetch; the sentence says what to install."""


# ---- 1. a toolchain -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Native:
    """A Swift of this system."""

    static = False

    def run(self, command: Sequence[str], **more: str) -> subprocess.CompletedProcess[str]:
        return _run(command, os.environ | more, cwd=PACKAGE)

    def outside(self, path: Path) -> Path:
        """How a command calls a folder of this system."""
        return path

    def call(self, program: Path) -> list[str]:
        """What starts a program that was built."""
        return [str(program)]


@dataclass(frozen=True)
class Chroot:
    """A Swift in a Debian of its own, with the package, its build and the vectors mounted into it.

    Mounts live in a namespace of the one command that needs them, so that none outlives it, whatever happens.
    """

    root: Path
    static = True  # what is built runs outside, where there is no library of Swift

    def run(self, command: Sequence[str], **more: str) -> subprocess.CompletedProcess[str]:
        OUT.mkdir(parents=True, exist_ok=True)
        mounts = {Path("/proc"): "/proc", PACKAGE: "/echoedge/package", OUT: "/echoedge/out"}
        if "ECHOEDGE_VECTORS" in more:
            mounts[Path(more["ECHOEDGE_VECTORS"]).resolve()] = "/echoedge/vectors"
            more["ECHOEDGE_VECTORS"] = "/echoedge/vectors"
        for place in mounts.values():
            (self.root / place[1:]).mkdir(parents=True, exist_ok=True)
        inside = ["chroot", str(self.root), "/usr/bin/env", "--chdir=/echoedge/package", *command]
        return _run(apart({here: self.root / there[1:] for here, there in mounts.items()}, inside), INSIDE | more)

    def outside(self, path: Path) -> Path:
        return Path("/echoedge/out") / path.relative_to(OUT)

    def call(self, program: Path) -> list[str]:
        """By this Debian's own loader: its C library may be newer than the system's."""
        loader, libraries = LOADERS[platform.machine()]
        return [str(self.root / loader), "--library-path", str(self.root / libraries), str(program)]


def apart(mounts: Mapping[Path, Path], command: Sequence[str]) -> list[str]:
    """A command with folders bound to other places, in a mount namespace that ends with it."""
    binds = [f"mount --bind {shlex.quote(str(here))} {shlex.quote(str(there))}" for here, there in mounts.items()]
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", " && ".join([*binds, f"exec {shlex.join(command)}"])]


def _run(command: Sequence[str], environment: Mapping[str, str], cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=environment, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )


def version(said: str) -> tuple[int, int] | None:
    """Of what `swift --version` says; None: it is no Swift."""
    found = re.search(r"Swift version (\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else None


def native() -> bool:
    """Whether this system has a Swift that is new enough."""
    found = shutil.which("swift")
    return found is not None and (version(_run([found, "--version"], os.environ).stdout) or (0, 0)) >= LEAST


def toolchain() -> Native | Chroot:
    """The Swift that is there, or one that is set up now.

    Raises:
        Missing: there is none, and none can be set up here.
    """
    if native():
        return Native()
    swift, named, own = shutil.which("swift"), os.environ.get("ECHOEDGE_SWIFT_CHROOT"), OUT / "trixie"
    remedy = f"Install Swift {LEAST[0]}.{LEAST[1]} or later (swift.org), then run this again."
    old = f"{swift} is no Swift {LEAST[0]}.{LEAST[1]} or later." if swift else "There is no Swift here."
    if named and not os.path.lexists(Path(named) / "usr/bin/swift"):
        raise Missing(f"ECHOEDGE_SWIFT_CHROOT names {named}, where there is no Swift. Leave it out, or name another.")
    lacks = [name for name in ("unshare", "chroot", "mount") if shutil.which(name) is None]
    if sys.platform != "linux" or platform.machine() not in LOADERS or os.geteuid() != 0 or lacks:
        why = f"there is no {', '.join(lacks)}" if lacks else f"that takes root on Linux, on {' or '.join(LOADERS)}"
        raise Missing(f"{old} A Debian with one could be set up in {OUT}, but {why}. {remedy}")
    if _run(apart({Path("/proc"): Path("/proc")}, ["true"]), os.environ).returncode:
        raise Missing(f"{old} A Debian with one could be set up in {OUT}, but this system lets nobody mount. {remedy}")
    if named:
        return Chroot(Path(named).resolve())
    if not own.is_dir():
        if shutil.which("debootstrap") is None:
            raise Missing(f"{old} debootstrap could set one up. Install it (apt-get install debootstrap), or: {remedy}")
        set_up(own)
    return Chroot(own)


def set_up(root: Path) -> None:
    """A Debian with Swift at a folder, which is there when it is complete.

    Raises:
        Missing: it could not be made; the message has the last words of what failed.
    """
    print(f"Setting up Debian {SUITE} with a Swift in {root}: 0.6 GB to fetch, 2.9 GB of disk, once …", flush=True)
    partial = root.with_name(f".{root.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # nothing is mounted there: mounts ended with the run that made them
    partial.parent.mkdir(parents=True, exist_ok=True)
    mirror = configured_mirror(_sources())
    command = ["debootstrap", "--variant=minbase", SUITE, str(partial), *([mirror] if mirror else [])]
    _must(_run(apart({}, command), os.environ), "debootstrap")
    install = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", *PACKAGES]
    _must(Chroot(partial).run(install), "apt-get")
    _must(Chroot(partial).run(["apt-get", "clean"]), "apt-get")
    partial.rename(root)


def _must(ended: subprocess.CompletedProcess[str], what: str) -> None:
    if ended.returncode:
        last = " ".join(ended.stdout.split())[-300:] or "it said nothing"
        raise Missing(f"{what} failed: {last}. Run this again, which begins anew, or install Swift (swift.org).")


def _sources() -> list[str]:
    places = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*.sources"))]
    return [path.read_text(encoding="utf-8", errors="replace") for path in places if path.is_file()]


def configured_mirror(sources: Iterable[str]) -> str | None:
    """Where this system has its Debian from, of the texts of its sources; None: they do not say, and debootstrap has its own."""
    for text in sources:
        for stanza in re.split(r"\n\s*\n", text):
            fields = dict(re.findall(r"^(URIs|Suites|Signed-By):\s*(.+)$", stanza, re.MULTILINE))
            suites, keys = fields.get("Suites", ""), fields.get("Signed-By", "debian")
            if "URIs" in fields and "security" not in suites and "debian" in keys:
                return fields["URIs"].split()[0]
        for line in re.findall(r"^deb\s+(?:\[[^\]]*\]\s+)?(\S+)\s+(\S+)\s+.*\bmain\b", text, re.MULTILINE):
            if "security" not in line[1] and re.search(r"/debian/?$", line[0]):
                return str(line[0])
    return None


# ---- 2. building and testing ----------------------------------------------------------------------------------------------------


def swift(tools: Native | Chroot, verb: str, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """`swift build` or `swift test` of the package, optimised, each in its own folder: one's flags would undo the other's work."""
    scratch = str(tools.outside(OUT / verb))
    return tools.run(["swift", verb, "--configuration", "release", "--scratch-path", scratch, *arguments], **more)


def player(tools: Native | Chroot) -> list[str]:
    """What starts the command-line player, built if need be.

    Raises:
        SystemExit: the compiler refuses it; it has said why.
    """
    linking = ["--static-swift-stdlib"] if tools.static else []
    ended = swift(tools, "build", "--product", "echoedge-play", *linking)
    if ended.returncode:
        sys.exit(ended.stdout)
    return tools.call(OUT / "build" / "release" / "echoedge-play")


def test(classes: Sequence[str]) -> int:
    """Runs XCTest on every class of tests; `classes`: names of some of them. Status 1 where one fails."""
    known = sorted(path.stem for path in (PACKAGE / "Tests").rglob("*Test.swift"))
    unknown = [name for name in classes if name not in known]
    if unknown:
        raise Missing(f"There is no test {unknown[0]}. There are: {', '.join(known)}.")
    tools = toolchain()
    said = " ".join(tools.run(["swift", "--version"]).stdout.split())
    print(f"{said.split(' Target')[0]}, {'in a Debian of its own' if isinstance(tools, Chroot) else 'of this system'}.", flush=True)
    began = time.monotonic()
    if laid_out(tools):
        return 1
    player(tools)
    built = time.monotonic()
    print(f"Built in {built - began:.0f} s.", flush=True)
    vectors = os.environ.get("ECHOEDGE_VECTORS")
    filters = [word for name in classes for word in ("--filter", name)]
    ended = swift(tools, "test", *filters, **({"ECHOEDGE_VECTORS": str(Path(vectors).resolve())} if vectors else {}))
    print("\n".join(line for line in ended.stdout.splitlines() if worth_reading(line)))
    passed, skipped = counted(ended.stdout)
    if ended.returncode == 0 and passed:
        left = f" {skipped} were skipped: ECHOEDGE_VECTORS names no vectors." if skipped else ""
        taken = time.monotonic() - built
        print(f"{passed} tests of the Swift engine passed, in {len(classes or known)} classes and {taken:.0f} s.{left}")
    return ended.returncode or (0 if passed else 1)


def laid_out(tools: Native | Chroot) -> int:
    """Status 1, and the lines said: where files are not laid out as swift-format does. A Swift before 6 has none."""
    if tools.run(["swift", "format", "--version"]).returncode:
        print("This Swift has no swift-format: the layout of the files was not checked.")
        return 0
    files = [name for name in FORMATTED if (PACKAGE / name).exists()]
    ended = tools.run(["swift", "format", "lint", "--strict", "--recursive", "--configuration", ".swift-format", *files])
    print(ended.stdout, end="")
    return 1 if ended.returncode else 0


def counted(said: str) -> tuple[int, int]:
    """How many tests XCTest says have passed, and how many were skipped; 0 where any has failed."""
    found = re.findall(r"Executed (\d+) tests?, with (?:(\d+) tests? skipped and )?(\d+) failures?", said)
    if not found or any(failed != "0" for *_, failed in found):
        return 0, 0
    tests, skipped, _ = max(found, key=lambda each: int(each[0]))
    return int(tests) - int(skipped or 0), int(skipped or 0)


def worth_reading(line: str) -> bool:
    """Of what a build and XCTest say: no steps, and no test that began or passed."""
    steps = r"\[\d+/\d+\]|Test (Case|Suite) '.*' (started|passed)|\s*Executed |\W*Test run|\W*Testing Library|Build"
    return not re.match(steps, line)


def main(arguments: Sequence[str]) -> int:
    verb, *rest = arguments or ("test",)
    try:
        if verb == "test":
            return test(rest)
        if verb == "player" and not rest:
            print(shlex.join(player(toolchain())))
            return 0
    except Missing as missing:
        print(missing, file=sys.stderr)
        return MISSING
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
