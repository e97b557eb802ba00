"""What every part of the build needs: where things lie, what is missing, and files that are whole or not there."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

DEMO = Path(__file__).resolve().parents[1]
OUT = Path(os.environ.get("ECHOEDGE_ANDROID_OUT") or DEMO.parent / "out" / "android")


class Missing(Exception):
    """Something that the build cannot fetch; the sentence says what to install."""


class Wrong(Exception):
    """What was built is not as it should be; the sentence says where."""


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


def npm_package(name: str, sha512: str, size: str, members: Sequence[str], folder: Path) -> Path:
    """A folder with some files of a package of npm's, fetched and checked once. `members`: paths in the package; their last parts
    are the names here.

    Raises:
        Missing: npm is not there or cannot fetch it, or what came is not what was published.
    """
    if folder.is_dir():
        return folder
    npm = shutil.which("npm")
    if npm is None:
        raise Missing(f"npm fetches {name}, and is not here. Install it (Debian: apt-get install npm), then run this again.")
    say(f"Fetching {name} ({size}, once) …")
    with beside(folder) as scratch:
        ended = subprocess.run([npm, "pack", name, "--silent"], cwd=scratch, capture_output=True, text=True, check=False)
        packed = next(scratch.glob("*.tgz"), None)
        if ended.returncode or packed is None:
            raise Missing(f"npm could not fetch {name}: {' '.join(ended.stderr.split())[:300] or 'it said nothing'}.")
        check_sha512(packed, sha512)
        with tarfile.open(packed) as archive:
            for member in members:
                with (scratch / Path(member).name).open("wb") as target, _member(archive, name, member) as source:
                    shutil.copyfileobj(source, target)
        packed.unlink()
        scratch.rename(folder)
    return folder


def _member(archive: tarfile.TarFile, package: str, name: str) -> IO[bytes]:
    try:
        found = archive.extractfile(f"package/{name}")
    except KeyError:
        found = None
    if found is None:
        raise Missing(f"{package} has no {name}. Report it.")
    return found


def check_sha512(path: Path, expected: str) -> None:
    """Raises Missing: a file is not the one that was published. `expected`: base64, as the registry states it."""
    found = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    if found != expected:
        raise Missing(
            f"{path.name} has SHA-512 {found[:12]}…, not {expected[:12]}…: it is not what was published, and stays packed."
        )


def sha256(path: Path) -> str | None:
    """In hexadecimal digits; None: there is no such file."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


@contextmanager
def beside(target: Path) -> Iterator[Path]:
    """A folder that is renamed to `target` when it is complete, and gone otherwise."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.", ignore_cleanup_errors=True) as scratch:
        inner = Path(scratch) / "made"
        inner.mkdir()
        yield inner


@contextmanager
def alone(name: str) -> Iterator[None]:
    """One process at a time builds what is called so; others wait."""
    OUT.mkdir(parents=True, exist_ok=True)
    with (OUT / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def class_path(jars: Iterable[Path]) -> str:
    """As Java takes it."""
    return os.pathsep.join(map(str, jars))


def say(line: str) -> None:
    """How far the build is, for whoever waits."""
    print(line, file=sys.stderr, flush=True)
