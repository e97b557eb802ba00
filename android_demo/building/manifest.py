"""What an APK's manifest says, read from `aapt2 dump xmltree`, and what this app's has to say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

PERMISSIONS = (
    "android.permission.RECORD_AUDIO",  # hold to record
    "android.permission.INTERNET",  # bundles from an address
    "android.permission.FOREGROUND_SERVICE",  # work goes on while the phone is turned or put aside
    "android.permission.FOREGROUND_SERVICE_DATA_SYNC",  # as above, from API 34 on
    "android.permission.POST_NOTIFICATIONS",  # its notification, from API 33 on
    "android.permission.WAKE_LOCK",  # without it, work stands still soon after the screen has gone dark
)
EXPORTED = {"MainActivity": True, "BenchActivity": True, "WorkService": False, "SharedFiles": False}
_ELEMENT = re.compile(r"^( *)E: (\S+) \(line=\d+\)")
_ATTRIBUTE = re.compile(r'^ *A: (?:\S*:)?(\w+)(?:\(0x[0-9a-f]+\))?=(?:"([^"]*)"|(\S+))')


@dataclass
class Element:
    """Of the manifest: its attributes by their plain names, and what lies in it."""

    name: str
    attributes: dict[str, str] = field(default_factory=dict)
    children: list[Element] = field(default_factory=list)

    def find(self, name: str) -> Iterator[Element]:
        """Every element of a name in it, at any depth."""
        for child in self.children:
            if child.name == name:
                yield child
            yield from child.find(name)


def read_tree(text: str) -> Element:
    """Raises ValueError: there is no manifest in it."""
    root, stack = Element(""), [(-1, Element(""))]
    stack[0] = (-1, root)
    for line in text.splitlines():
        if found := _ELEMENT.match(line):
            depth = len(found[1])
            while stack[-1][0] >= depth:
                stack.pop()
            element = Element(found[2])
            stack[-1][1].children.append(element)
            stack.append((depth, element))
        elif found := _ATTRIBUTE.match(line):
            stack[-1][1].attributes[found[1]] = found[2] if found[2] is not None else found[3]
    if not root.children:
        raise ValueError("no manifest")
    return root.children[0]


def mistakes(manifest: Element, package: str, minimum: int, target: int) -> list[str]:
    """What it says and should not, or does not say and should; one sentence each."""
    found = []

    def want(what: str, is_it: object, should: object) -> None:
        if is_it != should:
            found.append(f"{what} is {is_it!r}, and should be {should!r}.")

    want("the package", manifest.attributes.get("package"), package)
    sdk = next(manifest.find("uses-sdk"), Element("")).attributes
    want("the lowest API", sdk.get("minSdkVersion"), str(minimum))
    want("the target API", sdk.get("targetSdkVersion"), str(target))
    asked = [each.attributes.get("name") for each in manifest.find("uses-permission")]
    want("what is asked of the user", sorted(map(str, asked)), sorted(PERMISSIONS))
    parts = [part for kind in ("activity", "service", "provider", "receiver") for part in manifest.find(kind)]
    exported = {
        str(part.attributes.get("name")).removeprefix(f"{package}."): part.attributes.get("exported") == "true" for part in parts
    }
    want("what other apps may reach", exported, EXPORTED)
    begin = [
        str(part.attributes.get("name")).removeprefix(f"{package}.")
        for part in manifest.find("activity")
        for each in part.find("category")
        if each.attributes.get("name") == "android.intent.category.LAUNCHER"
    ]
    want("what the launcher starts", begin, ["MainActivity"])
    filters = {str(part.attributes.get("name")) for part in parts for _ in part.find("intent-filter")}
    want("what has filters of intents", filters, {f"{package}.MainActivity"})
    app = next(manifest.find("application"), Element("")).attributes
    want("whether it may be backed up", app.get("allowBackup"), "false")
    want("whether it may be debugged", app.get("debuggable"), None)
    return found
