"""The app's APK: that what it is made of is what a phone takes, and that each check of the build finds what it is there for."""

from __future__ import annotations

import re
import shutil
import subprocess
import zipfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from .engine import ROOT, apk, app_files, built, common, kotlin, needs_apk_tools, needs_kotlin, sdk

pytestmark = needs_apk_tools
APP = ROOT / "android_demo" / "app" / "src" / "main"
SHIMS = APP / "kotlin" / "ai" / "echoedge" / "demo" / "Shims.kt"


@cache
def made() -> apk.Built:
    return apk.build()


@cache
def libraries() -> dict[str, apk.ClassFile]:
    tools = sdk.sdk()
    return apk.read_jars([tools.android, tools.executorch])


@cache
def own() -> dict[str, apk.ClassFile]:
    return apk.read_jars([apk.FOLDER / "classes.jar"])


def test_it_is_small_whole_and_holds_no_runtime() -> None:
    """Measured: 914,177 bytes."""
    found = made()
    assert found.path.stat().st_size < 3_000_000
    assert {name.split("/")[0] for name in found.parts} <= {
        "AndroidManifest.xml",
        "res",
        "resources.arsc",
        "classes.dex",
        "META-INF",
    }
    assert found.dex.call_sites == 0
    assert not any(name.startswith("org/pytorch") for name in found.dex.classes)
    assert {"ai/echoedge/demo/MainActivity", "ai/echoedge/demo/BenchActivity", "echoedge/engine/Player"} <= found.dex.classes
    assert any(owner == "org/pytorch/executorch/Module" and name == "execute" for owner, name, _ in found.dex.methods)
    assert len(found.dex.methods) > 8000 and len(found.dex.methods) < 65_536


def test_a_second_build_is_the_same_to_the_byte_and_fetches_nothing() -> None:
    first = made().path.read_bytes()
    ended = built("apk")
    assert ended.returncode == 0, ended.stderr
    assert made().path.read_bytes() == first
    assert "runs no model until it is built with Gradle" in ended.stdout and "Fetching" not in ended.stderr


def test_what_the_code_refers_to_and_is_not_there_is_found() -> None:
    """A method less in Android's class library, in ExecuTorch's, and a class less of ours: each is one line."""
    dex = made().dex
    assert apk.missing(dex, own(), libraries()) == []

    def without(name: str, member: str) -> dict[str, apk.ClassFile]:
        read = libraries()[name]
        kept = frozenset(each for each in read.members if each[0] != member)
        assert kept != read.members
        return libraries() | {name: replace(read, members=kept)}

    found = apk.missing(dex, own(), without("android/media/MediaMuxer", "writeSampleData"))
    assert len(found) == 1 and found[0].startswith("android/media/MediaMuxer.writeSampleData (I")
    found = apk.missing(dex, own(), without("org/pytorch/executorch/Module", "loadMethod"))
    assert found == ["org/pytorch/executorch/Module.loadMethod (Ljava/lang/String;)V"]
    found = apk.missing(dex, own(), without("org/pytorch/executorch/DType", "HALF"))
    assert found == ["org/pytorch/executorch/DType.HALF Lorg/pytorch/executorch/DType;"]
    fewer = {name: read for name, read in own().items() if name != "echoedge/engine/Wav"}
    assert "class echoedge/engine/Wav" in apk.missing(dex, fewer, libraries())
    with pytest.raises(common.Wrong, match="refers to what does not exist"):
        apk.check_links(dex, fewer, libraries())


def test_lambdas_that_are_left_as_they_are_are_found(tmp_path: Path) -> None:
    """Android's machine lacks the class that makes them: dx does not mind, the build does."""
    jar = apk.engine()
    classes = {each.name: (each, data) for _, data in apk.class_bytes([jar]) for each in [apk.read_class(data)]}
    dex = apk.read_dex(apk.dex_of(sdk.sdk(), classes, tmp_path).read_bytes())
    assert dex.call_sites > 20
    with pytest.raises(common.Wrong, match="a class that Android lacks"):
        apk.check_links(dex, {}, {})


def test_the_manifest_asks_for_what_is_needed_and_no_more(tmp_path: Path) -> None:
    tools = sdk.sdk()

    def said(change: tuple[str, str] | None) -> list[str]:
        source = tmp_path / "source"
        shutil.rmtree(source, ignore_errors=True)
        shutil.copytree(APP, source)
        if change is not None:
            path = source / "AndroidManifest.xml"
            text = path.read_text(encoding="utf-8")
            assert change[0] in text
            path.write_text(text.replace(*change, 1), encoding="utf-8")
        out = tmp_path / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        base, _ = apk.link_resources(tools, source, out)
        tree = apk.read_tree(tools.run("aapt2", "dump", "xmltree", "--file", "AndroidManifest.xml", base))
        return apk.mistakes(tree, apk.PACKAGE, apk.MINIMUM, apk.TARGET)

    assert said(None) == []
    for change, word in (
        (('android.permission.RECORD_AUDIO"', 'android.permission.CAMERA"'), "asked of the user"),
        (("<uses-feature", '<uses-permission android:name="android.permission.VIBRATE" /><uses-feature'), "asked of the user"),
        (('.SharedFiles"\n            android:authorities', '.SharedFiles2"\n            android:authorities'), "may reach"),
        (
            ('android:exported="false"\n            android:grantUri', 'android:exported="true"\n            android:grantUri'),
            "may reach",
        ),
        (("android.intent.category.LAUNCHER", "android.intent.category.DEFAULT"), "launcher"),
        (('android:allowBackup="false"', 'android:allowBackup="true"'), "backed up"),
        (('android:allowBackup="false"', 'android:allowBackup="false" android:debuggable="true"'), "debugged"),
    ):
        mistakes = said(change)
        assert len(mistakes) == 1 and word in mistakes[0], (change, mistakes)


def test_a_changed_apk_is_refused(tmp_path: Path) -> None:
    tools, copy = sdk.sdk(), tmp_path / "copy.apk"
    shutil.copy(made().path, copy)
    apk.check_apk(tools, copy)
    data = bytearray(copy.read_bytes())
    data[len(data) // 3] ^= 1
    copy.write_bytes(data)
    with pytest.raises(common.Wrong, match="apksigner refuses"):
        apk.check_apk(tools, copy)
    with zipfile.ZipFile(made().path) as archive, zipfile.ZipFile(copy, "w") as shifted:
        shifted.writestr("x", b"x")  # everything behind it is out of step
        for name in archive.namelist():
            shifted.writestr(archive.getinfo(name), archive.read(name))
    with pytest.raises(common.Wrong, match="zipalign"):
        apk.check_apk(tools, copy)


def test_what_is_asked_for_by_name_is_known_and_is_not_in_the_class_library() -> None:
    asked = made().shims
    assert asked == {
        "android.app.NotificationChannel": 26, "android.app.NotificationManager.createNotificationChannel": 26,
        "android.app.Notification$Builder.<init>": 26, "android.content.Context.startForegroundService": 26,
        "android.app.Activity.setShowWhenLocked": 27, "android.app.Activity.setTurnScreenOn": 27,
        "android.os.PowerManager.getCurrentThermalStatus": 29,
    }  # fmt: skip
    assert apk.callable_already(asked, libraries()) == []
    older = {"android.os.PowerManager.isInteractive": 20, "android.media.MediaMuxer": 18, "android.os.PowerManager.none": 99}
    assert apk.callable_already(older, libraries()) == ["android.os.PowerManager.isInteractive", "android.media.MediaMuxer"]
    code = SHIMS.read_text(encoding="utf-8")
    assert len(re.findall(r"getMethod|getConstructor|forName", code)) == len(asked) + 1  # the channel's class and its constructor
    others = [path for path in app_files() if path != SHIMS and path.suffix == ".kt"]
    assert not any(re.search(r"\b(getMethod|Class\.forName|newInstance)\b", path.read_text(encoding="utf-8")) for path in others)


def test_every_word_on_the_screen_is_a_string_and_every_picture_is_described() -> None:
    layouts = sorted((APP / "res").glob("layout*/*.xml"))
    assert len(layouts) == 2
    ids = []
    for path in layouts:
        text = path.read_text(encoding="utf-8")
        assert re.findall(r'android:(?:text|hint|contentDescription)="(?!@string/)', text) == []
        assert text.count("<ImageView") == len(re.findall(r"<ImageView[^>]*contentDescription", text)) == 2
        ids.append(sorted(re.findall(r'"@\+id/(\w+)"', text)))
    assert ids[0] == ids[1] and len(ids[0]) > 15  # both ways of holding the phone show the same
    strings = re.findall(r'<string name="(\w+)"', (APP / "res" / "values" / "strings.xml").read_text(encoding="utf-8"))
    used = "".join(path.read_text(encoding="utf-8") for path in app_files())
    assert [name for name in strings if f"R.string.{name}" not in used and f"@string/{name}" not in used] == []


def test_only_one_class_knows_the_runtime() -> None:
    knows = [path.name for path in app_files() if "org.pytorch" in path.read_text(encoding="utf-8")]
    assert knows == ["EtPrograms.kt"]
    assert not any("import android" in path.read_text(encoding="utf-8") for path in app_files() if "appcore" in path.parts)


@needs_kotlin
def test_lambdas_as_classes_pass_the_same_tests() -> None:
    """What is dexed, run by a Java machine that verifies every class: the core's tests and the engine's player."""
    ended = built("plain")
    assert ended.returncode == 0, ended.stderr
    jars = ended.stdout.strip()
    for _, data in apk.class_bytes([Path(jar) for jar in jars.split(":") if Path(jar).name in ("engine.jar", "kotlin-stdlib.jar")]):
        assert len(apk.as_classes(data)) == 1  # none is left
    names = [f"echoedge.appcore.{name}" for name in kotlin.APPCORE.tests()] + ["echoedge.engine.PlayerTest"]
    command = [common.java(), "-Xverify:all", "-XX:TieredStopAtLevel=1", "-cp", jars, "org.junit.runner.JUnitCore", *names]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout[-3000:]
    assert int(re.findall(r"OK \((\d+) tests?\)", ended.stdout)[0]) > 50
