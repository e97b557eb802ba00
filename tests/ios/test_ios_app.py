"""The iOS app and what adapts runtimes to the engine, as far as Linux can tell: every file parses, backends are type-checked
against our own declarations of the runtimes' interfaces, plists and project have what a build needs, and what a benchmark's player
says is read by the host's own code. No SDK of Apple's is here."""

from __future__ import annotations

import json
import os
import plistlib
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from echoedge.core.bundle.device_job import CONTRACT, SAID, Result, Status

from ..players import VARIANTS, found_in
from .engine import ROOT, SOURCES, build, needs_swift

DEMO = SOURCES.parent
APP = DEMO / "App"
STUBS = Path(__file__).parent / "stubs"
WORD = "0123abcd"  # of the job that the app's own tests play

OPEN_FRAMEWORKS = {"Dispatch", "EchoEdgeAppCore", "EchoEdgeCore", "Foundation", "FoundationNetworking", "Glibc", "XCTest"}
# What each backend calls of its runtime, and what it is called in the twin, which must not compile.
WRONG = {
    "ExecuTorch": (".unload(program.prefix", ".unloadMethod(program.prefix"),
    "CoreML": ("configuration.computeUnits", "configuration.computeUnit"),
    "CoreAI": ("loadFunction(named:", "loadFunctions(named:"),
}


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder that a compiler in a Debian of its own sees, too."""
    folder = Path(build().OUT) / f"app-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    yield folder
    shutil.rmtree(folder)


def compiled(*arguments: object) -> subprocess.CompletedProcess[str]:
    """swiftc; folders are called as it sees them."""
    tools = build().toolchain()
    words = [str(tools.outside(each)) if isinstance(each, Path) else str(each) for each in arguments]
    ended: subprocess.CompletedProcess[str] = tools.run(["swiftc", *words])
    return ended


def swift_files(*folders: Path) -> list[Path]:
    return sorted(path for folder in folders for path in folder.rglob("*.swift") if ".build" not in path.parts)


# ---- what is read without a compiler ----


def guarded_imports(text: str) -> Iterator[tuple[str, bool]]:
    """Every module that a file imports, and whether it stands within #if canImport(…) of that module."""
    conditions: list[str] = []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("#if "):
            conditions.append(stripped[4:])
        elif stripped.startswith("#elseif ") and conditions:
            conditions[-1] = stripped[8:]
        elif stripped.startswith("#else") and conditions:
            conditions[-1] = ""
        elif stripped.startswith("#endif") and conditions:
            conditions.pop()
        elif found := re.match(r"(?:@\w+ )*import (?:class |struct |enum |func )?(\w+)", stripped):
            yield found[1], any(f"canImport({found[1]})" in each for each in conditions)


def unguarded(text: str) -> list[str]:
    return [name for name, inside in guarded_imports(text) if name not in OPEN_FRAMEWORKS and not inside]


def test_sources_import_apples_frameworks_only_where_they_are() -> None:
    found = {path.name: names for path in swift_files(SOURCES) if (names := unguarded(path.read_text(encoding="utf-8")))}
    assert found == {}
    for runtime in WRONG:
        (path,) = swift_files(SOURCES / f"{runtime}Backend")
        text = path.read_text(encoding="utf-8")
        assert text.startswith(f"#if canImport({runtime})\n") and text.rstrip().endswith("#endif"), "not wholly inside"
    assert unguarded("import UIKit\n#if canImport(CoreML)\nimport CoreML\nimport Vision\n#endif\nimport CoreML\n") == [
        "UIKit", "Vision", "CoreML",
    ]  # fmt: skip


def test_no_models_name_stands_in_app_or_sources() -> None:
    texts = [*swift_files(APP, SOURCES), *APP.rglob("*.strings"), *APP.rglob("*.plist"), APP / "project.yml"]
    assert len(texts) > 30
    assert found_in(VARIANTS, texts) == []
    assert VARIANTS.search('if model == "Flash"')


def lacking(info: dict[str, Any]) -> list[str]:
    """What a device would refuse, or a user miss, of an Info.plist."""
    texts = ["NSCameraUsageDescription", "NSMicrophoneUsageDescription", "CFBundleIdentifier", "CFBundleShortVersionString"]
    flags = ["UIFileSharingEnabled", "LSSupportsOpeningDocumentsInPlace", "UISupportsDocumentBrowser", "LSRequiresIPhoneOS"]
    missing = [key for key in texts if not isinstance(info.get(key), str) or not info[key]]
    return missing + [key for key in flags if info.get(key) is not True]


def test_plists_have_what_the_app_needs() -> None:
    info = plistlib.loads((APP / "Resources/Info.plist").read_bytes())
    assert lacking(info) == []
    for key in ("NSMicrophoneUsageDescription", "UIFileSharingEnabled"):
        assert lacking({name: value for name, value in info.items() if name != key}) == [key]
    assert len(set(info["UISupportedInterfaceOrientations~ipad"])) == 4, "an iPad's windows turn every way"
    (kind,) = info["UTExportedTypeDeclarations"]
    assert kind["UTTypeTagSpecification"]["public.filename-extension"] == ["echoedge"]
    assert info["CFBundleDocumentTypes"][0]["LSItemContentTypes"] == [kind["UTTypeIdentifier"]]
    rights = plistlib.loads((APP / "Resources/EchoEdge.entitlements").read_bytes())
    assert rights == {"com.apple.developer.kernel.increased-memory-limit": True}
    privacy = plistlib.loads((APP / "Resources/PrivacyInfo.xcprivacy").read_bytes())
    assert privacy["NSPrivacyTracking"] is False and privacy["NSPrivacyCollectedDataTypes"] == []
    kinds = [each["NSPrivacyAccessedAPIType"] for each in privacy["NSPrivacyAccessedAPITypes"]]
    reasons = {each.removeprefix("NSPrivacyAccessedAPICategory") for each in kinds}
    used = "".join(path.read_text(encoding="utf-8") for path in swift_files(APP, SOURCES))
    called = {
        "FileTimestamp": "contentModificationDateKey", "DiskSpace": "volumeAvailableCapacity", "SystemBootTime": "systemUptime",
        "UserDefaults": "@AppStorage",
    }  # fmt: skip
    assert reasons == {kind for kind, call in called.items() if call in used}, "a reason without a call, or a call without a reason"
    for path in (APP / "Resources/Assets.xcassets").rglob("Contents.json"):
        json.loads(path.read_text(encoding="utf-8"))


def wrong_in(project: dict[str, Any]) -> list[str]:
    """What XcodeGen or a build would stumble over in a project.yml of the app's folder."""
    found = []
    for name, package in project["packages"].items():
        pins = [key for key in ("revision", "exactVersion", "branch", "path") if key in package]
        if len(pins) != 1 or (pins == ["branch"] and not re.fullmatch(r"swiftpm-\d+\.\d+\.\d+", package["branch"])):
            found.append(f"package {name}")
        if "path" in package and not (APP / package["path"] / "Package.swift").is_file():
            found.append(f"path of {name}")
    for target in project["targets"].values():
        settings = target["settings"]["base"]
        places = [each["path"] for each in target["sources"]] + [settings["INFOPLIST_FILE"], settings["CODE_SIGN_ENTITLEMENTS"]]
        found += [f"source {place}" for place in places if not (APP / place).exists()]
        found += [f"package of {each['product']}" for each in target["dependencies"] if each["package"] not in project["packages"]]
        if settings["PRODUCT_BUNDLE_IDENTIFIER"] != "ai.echoedge.demo":
            found.append("bundle identifier")
    return found


def project() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((APP / "project.yml").read_text(encoding="utf-8"))
    return found


def test_the_project_names_what_is_there() -> None:
    assert wrong_in(project()) == []
    twin = project()
    twin["packages"]["ExecuTorch"]["branch"] = "main"
    twin["targets"]["EchoEdge"]["sources"].append({"path": "../Sources/None"})
    twin["targets"]["EchoEdge"]["settings"]["base"]["PRODUCT_BUNDLE_IDENTIFIER"] = "com.example"
    assert wrong_in(twin) == ["package ExecuTorch", "source ../Sources/None", "bundle identifier"]


def test_the_app_pins_the_runtime_that_exports() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    exported = re.search(r'"executorch==?([\d.]+)', text) or re.search(r'"executorch[^"]*?([\d]+\.[\d]+\.[\d]+)', text)
    assert exported is not None
    found = project()
    assert found["packages"]["ExecuTorch"]["branch"] == f"swiftpm-{found['settings']['base']['EXECUTORCH_VERSION']}"
    assert found["settings"]["base"]["EXECUTORCH_VERSION"].split(".")[:2] == exported[1].split(".")[:2]
    products = re.findall(r'\.library\(name: "(\w+)"', (DEMO / "Package.swift").read_text(encoding="utf-8"))
    own = [each["product"] for each in found["targets"]["EchoEdge"]["dependencies"] if each["package"] == "EchoEdge"]
    assert set(own) <= set(products)


def test_every_text_of_the_screen_is_in_one_place() -> None:
    strings = (APP / "Resources/en.lproj/Localizable.strings").read_text(encoding="utf-8")
    pairs = re.findall(r'^"([^"]+)" = "([^"]+)";$', strings, re.MULTILINE)
    assert len(pairs) == len(strings.strip().splitlines()) == len(dict(pairs))
    used = {key for path in swift_files(APP) for key in re.findall(r'say\("([^"]+)"\)', path.read_text(encoding="utf-8"))}
    assert used == set(dict(pairs))
    bare = re.compile(r'\b(?:Text|Button|Section|Picker|Label|navigationTitle)\("')
    assert [path.name for path in swift_files(APP) if bare.search(path.read_text(encoding="utf-8"))] == []
    assert bare.search('Button("Play") {}')


# ---- what a compiler says ----


@needs_swift
def test_every_file_parses(scratch: Path) -> None:
    files = swift_files(APP, SOURCES, DEMO / "Tests", STUBS)
    copied = []
    for number, path in enumerate(files):
        copied.append(scratch / str(number) / path.name)
        copied[-1].parent.mkdir()
        shutil.copy(path, copied[-1])
    ended = compiled("-frontend", "-parse", *copied)
    assert ended.returncode == 0, ended.stdout
    broken = scratch / "broken.swift"
    broken.write_text(copied[0].read_text(encoding="utf-8").rstrip().removesuffix("}"), encoding="utf-8")
    assert compiled("-frontend", "-parse", broken).returncode != 0


class Checked:
    """Modules that are compiled into a folder as far as their callers need them, and files that are checked against them."""

    def __init__(self, scratch: Path) -> None:
        self.scratch, self.modules = scratch, scratch / "modules"
        self.modules.mkdir()
        self.module("EchoEdgeCore", swift_files(SOURCES / "EchoEdgeCore"))
        self.module("EchoEdgeAppCore", swift_files(SOURCES / "EchoEdgeAppCore"))

    def module(self, name: str, files: list[Path]) -> None:
        """Bodies are skipped: `make ios-test` compiles them."""
        options = ["-swift-version", "5", "-parse-as-library", "-wmo", "-Xfrontend", "-experimental-skip-all-function-bodies"]
        made = ["-emit-module", "-module-name", name, "-emit-module-path", self.modules / f"{name}.swiftmodule"]
        ended = compiled(*options, *made, "-I", self.modules, *self._copied(name, {path.name: path.read_text() for path in files}))
        assert ended.returncode == 0, ended.stdout

    def said(self, name: str, texts: dict[str, str]) -> str:
        """What the compiler says of files as one module: types, and what is used before it is set."""
        options = ["-emit-sil", "-o", self.scratch / f"{name}.sil", "-wmo", "-swift-version", "5", "-parse-as-library"]
        ended = compiled(*options, "-module-name", name, "-I", self.modules, *self._copied(name, texts))
        assert ended.stdout or ended.returncode == 0
        return ended.stdout

    def _copied(self, name: str, texts: dict[str, str]) -> list[Path]:
        folder = self.scratch / name
        folder.mkdir(exist_ok=True)
        for file, text in texts.items():
            (folder / file).write_text(text, encoding="utf-8")
        return [folder / file for file in texts]


@pytest.fixture
def checked(scratch: Path) -> Checked:
    return Checked(scratch)


def backends() -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for runtime in WRONG for path in swift_files(SOURCES / f"{runtime}Backend")}


@needs_swift
def test_backends_call_what_their_runtimes_have(checked: Checked) -> None:
    for runtime, (right, wrong) in WRONG.items():
        checked.module(runtime, [STUBS / f"{runtime}.swift"])
        ((name, text),) = [(name, text) for name, text in backends().items() if name.startswith(runtime)]
        assert right in text
        assert checked.said(f"{runtime}Backend", {name: text}) == ""
        said = checked.said(f"{runtime}Backend", {name: text.replace(right, wrong)})
        assert re.search(r"error: .*(has no member|extraneous|incorrect)", said), said


@needs_swift
def test_the_app_behind_its_views_calls_what_there_is(checked: Checked) -> None:
    for module in [*WRONG, "CoreMedia", "CoreVideo", "os", "Darwin", "SwiftUI", "UIKit", "AVFoundation"]:
        checked.module(module, [path for path in swift_files(STUBS) if path.stem == module])
    parts = [APP / "Sources" / f"{name}.swift" for name in ("AppModel", "Backends", "FilmWriter", "Phone", "Places")]
    texts = {path.name: path.read_text(encoding="utf-8") for path in [*parts, STUBS / "app/Parts.swift"]} | backends()
    assert checked.said("EchoEdge", texts) == ""
    for name, right, wrong in (
        ("AppModel.swift", "Words.verdict(rows)", "Words.verdicts(rows)"),
        ("Backends.swift", "CoreMLPrograms(bundle, Places.compiled, ", "CoreMLPrograms(bundle, "),
        ("FilmWriter.swift", "writer.finishWriting { done.signal() }", "writer.finish { done.signal() }"),
        ("FilmWriter.swift", "        format = try FilmWriter.soundFormat(clip.sampleRate)\n", ""),
    ):
        assert right in texts[name]
        assert "error: " in checked.said("EchoEdge", texts | {name: texts[name].replace(right, wrong)})


@needs_swift
def test_what_the_player_says_is_what_the_host_reads(scratch: Path) -> None:
    script = build()
    if not (script.OUT / "test").is_dir():
        pytest.skip("The app's tests are not built: run make ios-test once.")
    tools = script.toolchain()
    told = str(tools.outside(scratch / "told"))
    ended = script.swift(tools, "test", "--filter", "BenchTest.testAJobIsPlayedAndItsRecordIsWhole", ECHOEDGE_APP_OUT=told)
    assert ended.returncode == 0, ended.stdout
    result = Result.model_validate_json((scratch / "told/result.json").read_text(encoding="utf-8"))
    assert result.job == WORD and result.record.machine.place == "phone" and result.record.runs == 2
    assert result.record.on_device is None and result.ends_s
    lines = (scratch / "told/console.txt").read_text(encoding="utf-8").splitlines()
    statuses = [Status.model_validate_json(line.removeprefix(SAID)) for line in lines if line.startswith(SAID)]
    assert len(statuses) == len(lines) > 5
    assert {each.job for each in statuses} == {WORD} and {each.contract for each in statuses} == {CONTRACT}
    assert [statuses[0].state, statuses[-1].state] == ["loading", "done"]
    assert statuses[-1].done == statuses[-1].total == 4
    with pytest.raises(ValueError, match="state"):
        Status.model_validate_json(lines[0].removeprefix(SAID).replace('"loading"', '"dreaming"'))
