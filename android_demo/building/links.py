"""That everything an APK's code refers to is there: in itself, in Android's class library, or in ExecuTorch's classes.

dx and the signer do not look; a phone would, at the first call. Debian's class library is API 23's: what Java's own classes have
gained since, up to API 26 where the app begins, is listed here by hand, and nothing of Android's own is.
"""

from __future__ import annotations

from collections.abc import Mapping

from .classfile import ClassFile
from .dex import Dex

# Of Java's classes, what API 23 lacks and is referred to: the API that has it.
_BOXES = (("Boolean", "Z"), ("Byte", "B"), ("Double", "D"), ("Float", "F"), ("Integer", "I"), ("Long", "J"), ("Short", "S"))
SINCE: dict[str, int] = {
    "class java/time/Instant": 26,
    "class java/util/function/BiConsumer": 24,
    "class java/util/function/Function": 24,
    "class java/lang/invoke/MethodHandles$Lookup": 26,
    "java/lang/Math.multiplyExact (II)I": 24,
    "java/util/Map.forEach (Ljava/util/function/BiConsumer;)V": 24,
    "java/util/Map.getOrDefault (Ljava/lang/Object;Ljava/lang/Object;)Ljava/lang/Object;": 24,
    "java/util/concurrent/ConcurrentMap.computeIfAbsent (Ljava/lang/Object;Ljava/util/function/Function;)Ljava/lang/Object;": 24,
    "java/util/regex/Matcher.end (Ljava/lang/String;)I": 26,
    "java/util/regex/Matcher.group (Ljava/lang/String;)Ljava/lang/String;": 26,
    "java/util/regex/Matcher.start (Ljava/lang/String;)I": 26,
    **{f"java/lang/{box}.hashCode ({kind})I": 24 for box, kind in _BOXES},
    **{f"java/lang/{box}.compareUnsigned ({kind}{kind})I": 26 for box, kind in _BOXES if kind in "IJ"},
    **{f"java/lang/{box}.divideUnsigned ({kind}{kind}){kind}": 26 for box, kind in _BOXES if kind in "IJ"},
    **{f"java/lang/{box}.remainderUnsigned ({kind}{kind}){kind}": 26 for box, kind in _BOXES if kind in "IJ"},
}
ANNOTATIONS = ("dalvik/annotation/", "org/jetbrains/annotations/")  # nobody looks them up when code runs
BEGINS = 26  # the app's lowest API


def missing(dex: Dex, own: Mapping[str, ClassFile], libraries: Mapping[str, ClassFile]) -> list[str]:
    """Classes and members that `dex` refers to and neither `own`, what it was made from, nor `libraries` has, as lines."""
    classes = {**libraries, **own}
    named = {name for name in dex.types if not name.startswith(ANNOTATIONS)}
    found = {f"class {name}" for name in named if name not in classes}
    for owner, name, descriptor in dex.methods | dex.fields:
        if owner in classes:
            declared, unknown = _declared(classes, owner, name, descriptor)
            if not declared:
                found |= {f"class {each}" for each in unknown} or {f"{owner}.{name} {descriptor}"}
    return sorted(line for line in found if SINCE.get(line, BEGINS + 1) > BEGINS)


def _declared(classes: Mapping[str, ClassFile], owner: str, name: str, descriptor: str) -> tuple[bool, set[str]]:
    """Whether a class or one that it is made from declares a member, and which of those are not known."""
    waiting, seen, unknown = [owner, "java/lang/Object"], set[str](), set[str]()
    while waiting:
        each = waiting.pop()
        if each in seen:
            continue
        seen.add(each)
        read = classes.get(each)
        if read is None:
            unknown.add(each)
        elif (name, descriptor) in read.members:
            return True, set()
        else:
            waiting += read.parents
    return False, unknown
