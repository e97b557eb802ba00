"""The app's APK: compiled, dexed, linked with its resources, aligned, signed with a key of this machine, and looked at.

What comes out has no native libraries: ExecuTorch's Java classes are not in it either, only referred to. It runs a model when it
is built with Gradle, which fetches `org.pytorch:executorch-android`.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .classfile import ClassFile, class_bytes, reached, read_class, read_jars
from .common import DEMO, OUT, Missing, Wrong, class_path, java, say
from .dex import Dex, read_dex
from .kotlin import STDLIB, appcore, compiled, compiler, engine
from .lambdas import as_classes
from .links import missing
from .manifest import mistakes, read_tree
from .sdk import Sdk, sdk
from .shims import asked_by_name, callable_already

APP = DEMO / "app" / "src" / "main"
FOLDER = OUT / "apk"
APK = OUT / "echoedge-demo.apk"
SHIMS = Path("kotlin/ai/echoedge/demo/Shims.kt")
PACKAGE = "ai.echoedge.demo"
MINIMUM, TARGET = 26, 35
EXECUTORCH = "org/pytorch/"
PASSWORD = "android"  # of a debug key, as Android's own tools choose it: it protects nothing


@dataclass
class Built:
    """What was made: `parts` in bytes, and what was found in it. `shims`: what is asked for by name, with the API that has it."""

    path: Path
    seconds: float
    dex: Dex
    classes: int
    left_out: int
    shims: dict[str, int]
    parts: dict[str, int] = field(default_factory=dict)


def build() -> Built:
    """Builds and checks it.

    Raises:
        Missing: a tool is not to be had.
        Wrong: a tool refuses what it is given, or the APK refers to something that does not exist, or is not what it should be.
        SystemExit: the compiler refuses the sources.
    """
    tools = sdk()
    began = time.monotonic()
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    base, generated = link_resources(tools, APP, FOLDER)
    own = [engine(), appcore()]
    app = compiled("app", [APP / "kotlin", generated], [*own, tools.android, tools.executorch], ("-no-jdk",))
    kept, left_out = chosen([app, *own], compiler() / STDLIB)
    dexed = dex_of(tools, kept, FOLDER)
    dex = read_dex(dexed.read_bytes())
    libraries = read_jars([tools.android, tools.executorch])
    shims = asked_by_name((APP / SHIMS).read_text(encoding="utf-8"))
    if known := callable_already(shims, libraries):
        raise Wrong(f"{known[0]} is asked for by name and is in the class library. Call it.")
    check_links(dex, {name: read for name, (read, _) in kept.items()}, libraries)
    with zipfile.ZipFile(base, "a") as archive:
        entry = zipfile.ZipInfo("classes.dex", (1980, 1, 1, 0, 0, 0))
        entry.compress_type = zipfile.ZIP_DEFLATED
        archive.writestr(entry, dexed.read_bytes(), compresslevel=9)
    aligned = FOLDER / "aligned.apk"
    tools.run("zipalign", "-f", "-p", "4", base, aligned)
    sign(tools, aligned, APK)
    check_apk(tools, APK)
    with zipfile.ZipFile(APK) as archive:
        parts = {info.filename: info.compress_size for info in archive.infolist()}
    return Built(APK, time.monotonic() - began, dex, len(kept), left_out, shims, parts)


def told(built: Built) -> str:
    """What is printed of it."""
    code = built.parts["classes.dex"]
    return "\n".join(
        (
            f"{built.path}: {built.path.stat().st_size:,} bytes, of them {code:,} of code ({built.classes} classes; "
            f"{built.left_out} of Kotlin's library that nothing names were left out), in {built.seconds:.1f} s.",
            f"{len(built.dex.methods):,} methods and {len(built.dex.fields):,} fields are referred to, and each exists. "
            "Signed with a debug key of this machine.",
            "Asked for by name, for API 23's class library has none of it: "
            + ", ".join(f"{name} (API {api})" for name, api in built.shims.items())
            + ".",
            "It holds no native libraries and none of ExecuTorch's classes: it runs no model until it is built with Gradle, which "
            "fetches the real library (android_demo/README.md).",
        )
    )


# ---- what it is made from -------------------------------------------------------------------------------------------------------


def link_resources(tools: Sdk, source: Path, folder: Path) -> tuple[Path, Path]:
    """An APK of manifest and resources, and the folder of the Java file that names them."""
    compiled_resources, base, generated = folder / "resources.zip", folder / "base.apk", folder / "generated"
    manifest = folder / "AndroidManifest.xml"
    stated = (source / manifest.name).read_text(encoding="utf-8")
    manifest.write_text(
        stated.replace("<manifest ", f'<manifest package="{PACKAGE}" ', 1).replace("${executorchVersion}", "none"), encoding="utf-8"
    )
    tools.run("aapt2", "compile", "--dir", source / "res", "-o", compiled_resources)
    tools.run(
        "aapt2", "link", "-I", tools.framework, "--manifest", manifest, "--java", generated,
        "--min-sdk-version", MINIMUM, "--target-sdk-version", TARGET, "--version-code", 1, "--version-name", version(),
        "--no-resource-removal", "-o", base, compiled_resources,
    )  # fmt: skip
    return base, generated


def version() -> str:
    """Of the app: EchoEdge's own."""
    found = re.search(r'^__version__ = "([^"]+)"', (DEMO.parent / "__init__.py").read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise Wrong("__init__.py has no __version__.")
    return found[1]


def chosen(jars: Sequence[Path], library: Path) -> tuple[dict[str, tuple[ClassFile, bytes]], int]:
    """Classes of `jars`, and of `library` those that they name, directly or through others of it, lambdas as classes of their own;
    and how many were left out."""
    plain = (each for _, data in class_bytes([*jars, library]) for each in as_classes(data))
    read = {name: (read_class(data), data) for name, data in plain}
    own = read_jars(jars)
    kept = reached(own, {name: each for name, (each, _) in read.items()})
    return {name: read[name] for name in sorted(kept)}, len(read) - len(kept)


def dex_of(tools: Sdk, classes: Mapping[str, tuple[ClassFile, bytes]], folder: Path) -> Path:
    """Raises Wrong: dx refuses a class, or they are too many for one file."""
    jar, dexed = folder / "classes.jar", folder / "classes.dex"
    with zipfile.ZipFile(jar, "w") as archive:
        for name, (_, data) in classes.items():
            archive.writestr(zipfile.ZipInfo(f"{name}.class", (1980, 1, 1, 0, 0, 0)), data)
    say(f"Dexing {len(classes)} classes …")
    launch = [java(), "-Xmx1g", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", str(tools.dx), "com.android.dx.command.Main"]
    command = [*launch, "--dex", f"--min-sdk-version={MINIMUM}", f"--output={dexed}", str(jar)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode or not dexed.is_file():
        raise Wrong(f"dx refuses: {(ended.stderr or ended.stdout).strip()[:2000]}")
    return dexed


def sign(tools: Sdk, unsigned: Path, signed: Path) -> None:
    """With a key that is made once for this machine. Raises Missing: keytool or the signer fails."""
    key = OUT / "debug.keystore"
    if not key.is_file():
        keytool = Path(java()).with_name("keytool")
        options = (
            "-genkeypair",
            "-keyalg",
            "RSA",
            "-keysize",
            "2048",
            "-validity",
            "10000",
            "-alias",
            "debug",
            "-dname",
            "CN=debug",
        )
        secrets = ("-storepass", PASSWORD, "-keypass", PASSWORD, "-storetype", "PKCS12", "-keystore", str(key))
        ended = subprocess.run([str(keytool), *options, *secrets], capture_output=True, text=True, check=False)
        if ended.returncode:
            raise Missing(f"keytool failed: {ended.stdout.strip()[:500]}")
    signer(tools, "sign", "--ks", key, "--ks-pass", f"pass:{PASSWORD}", "--min-sdk-version", MINIMUM, "--out", signed, unsigned)
    signed.with_name(signed.name + ".idsig").unlink(missing_ok=True)


def signer(tools: Sdk, *arguments: object) -> str:
    """What the signer says. Raises Wrong: it refuses."""
    command = [java(), "-cp", class_path(tools.signer), "com.android.apksigner.ApkSignerTool", *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise Wrong(f"apksigner refuses: {(ended.stderr or ended.stdout).strip()[:1000]}")
    return ended.stdout


# ---- what is looked at ----------------------------------------------------------------------------------------------------------


def check_links(dex: Dex, own: Mapping[str, ClassFile], libraries: Mapping[str, ClassFile]) -> None:
    """Raises Wrong: it refers to what is not there, or asks for what Android's virtual machine lacks."""
    if dex.call_sites:
        raise Wrong(f"{dex.call_sites} lambdas are made when they run, by a class that Android lacks.")
    if held := [name for name in dex.classes if name.startswith(EXECUTORCH)]:
        raise Wrong(f"{held[0]} is in the APK; ExecuTorch's classes come with its library.")
    if lines := missing(dex, own, libraries):
        raise Wrong("The code refers to what does not exist:\n" + "\n".join(lines[:40]))


def check_apk(tools: Sdk, path: Path) -> None:
    """Raises Wrong: it is not aligned, its signature does not hold, or its manifest is not this app's."""
    tools.run("zipalign", "-c", "-p", "4", path)
    told_of = signer(tools, "verify", "--verbose", "--min-sdk-version", MINIMUM, path)
    if "Verified using v2 scheme (APK Signature Scheme v2): true" not in told_of:
        raise Wrong(f"apksigner does not verify {path.name} by its second scheme: {told_of.strip()[:300]}")
    stated = read_tree(tools.run("aapt2", "dump", "xmltree", "--file", "AndroidManifest.xml", path))
    if found := mistakes(stated, PACKAGE, MINIMUM, TARGET):
        raise Wrong("The manifest is not as it should be: " + " ".join(found))
    with zipfile.ZipFile(path) as archive:
        if archive.getinfo("resources.arsc").compress_type != zipfile.ZIP_STORED:  # from API 30 on it is mapped
            raise Wrong("resources.arsc is compressed; phones refuse such an app.")
