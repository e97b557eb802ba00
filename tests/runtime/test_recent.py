"""runtime/engines/recent.py: what was used last stays, as far as it fits."""

from __future__ import annotations

from echoedge.runtime.engines.recent import Recent


def test_the_ones_that_were_not_used_for_longest_go_first() -> None:
    closed: list[str] = []
    recent = Recent[str, str](10, closed.append)
    for name in ("a", "b"):
        assert recent.get(name, lambda: 4, name.upper) == name.upper()
    assert recent.get("a", lambda: 4, lambda: "loaded again") == "A"  # it is used now
    recent.get("c", lambda: 4, lambda: "C")
    assert recent.keys == ("a", "c") and closed == ["B"]
    recent.get("d", lambda: 10, lambda: "D")  # it fits alone
    assert recent.keys == ("d",) and closed == ["B", "A", "C"]
    recent.get("e", lambda: 11, lambda: "E")  # one always stays, whatever its size
    assert recent.keys == ("e",)
    recent.clear()
    assert recent.keys == () and closed[-2:] == ["D", "E"]


def test_one_that_cannot_be_loaded_is_not_held() -> None:
    recent = Recent[str, int](10)
    recent.get("a", lambda: 1, lambda: 1)
    for _ in range(2):
        try:
            recent.get("b", lambda: 1, lambda: 1 // 0)
        except ZeroDivisionError:
            continue
        raise AssertionError("it was held")
    assert recent.keys == ("a",)
