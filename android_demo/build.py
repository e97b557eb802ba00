"""Builds and tests the Kotlin engine and the Android app, with Python's standard library alone.

    python android_demo/build.py test       sets up what is missing, compiles what changed, runs JUnit, prints counts
    python android_demo/build.py engine     compiles the engine alone and prints the path of its jar
    python android_demo/build.py classpath  prints the class path of engine, app core and tests, compiled as by `test`
    python android_demo/build.py plain      prints that class path with lambdas as classes, as the app has them
    python android_demo/build.py apk        builds, aligns, signs and checks the app, and prints what it is and is not

What is needed: a JDK (11 or later; Debian: default-jdk-headless), npm for the compiler, and for JUnit one of: Debian's package
junit4, installed or to be had by apt, or a Maven repository in the home folder that holds it. `apk` needs Debian's apt besides;
packages of Android's tools are unpacked and not installed. What was fetched lies in out/android, and a second run needs no
network. Status 3: something is missing that only whoever runs this can install; the sentence says what. Status 1: a test fails,
or what was built is not as it should be.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence

from building import apk
from building.common import Missing, Wrong, class_path, java
from building.kotlin import MODULES, engine, everything, plain

MISSING = 3


def test(arguments: Sequence[str]) -> int:
    """Runs JUnit on every class called …Test; `arguments`: names of some of them. Status 1 where one fails."""
    places = {name: f"{module.package}.{name}" for module in MODULES for name in module.tests()}
    unknown = [name for name in arguments if name not in places]
    if unknown:
        raise Missing(f"There is no test {unknown[0]}. There are: {', '.join(places)}.")
    jars = everything()
    command = [java(), "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", class_path(jars), "org.junit.runner.JUnitCore"]
    chosen = [places[name] for name in arguments or places]
    ended = subprocess.run([*command, *chosen], text=True, capture_output=True, check=False)
    print("\n".join(line for line in ended.stdout.splitlines() if not re.match(r"^\s*at (org\.junit|java\.|jdk\.)", line)))
    print(ended.stderr, end="", file=sys.stderr)
    found = re.search(r"OK \((\d+) tests?\)", ended.stdout)
    if ended.returncode == 0 and found:
        print(f"{found[1]} tests of the Kotlin engine and the app's core passed, in {len(chosen)} classes.")
    return ended.returncode


def main(arguments: Sequence[str]) -> int:
    verb, *rest = arguments or ("test",)
    try:
        if verb == "test":
            return test(rest)
        if verb in ("engine", "classpath") and not rest:
            print(engine() if verb == "engine" else class_path(everything()))
            return 0
        if verb == "plain" and not rest:
            print(class_path(plain(everything())))
            return 0
        if verb == "apk" and not rest:
            print(apk.told(apk.build()))
            return 0
    except (Missing, Wrong) as fault:
        print(fault, file=sys.stderr)
        return MISSING if isinstance(fault, Missing) else 1
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
