"""What an engine has loaded: the last that were used, as many as a number of bytes holds."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """`keep_bytes`: of what stays loaded together; one always stays, the one that is asked for. `close`: what frees one, beside
    forgetting it."""

    def __init__(self, keep_bytes: int, close: Callable[[Value], object] = lambda _: None) -> None:
        self.keep_bytes, self.close = keep_bytes, close
        self._held: dict[Key, tuple[Value, int]] = {}  # the one used last is the last

    @property
    def keys(self) -> tuple[Key, ...]:
        """Of all that is loaded, the one used last at the end."""
        return tuple(self._held)

    def get(self, key: Key, size: Callable[[], int], load: Callable[[], Value]) -> Value:
        """What is held under a key. If it is not, it is loaded, and before that as many of the others go as its `size`, of bytes,
        asks for, the ones first that were not used for longest."""
        if key in self._held:
            self._held[key] = self._held.pop(key)
            return self._held[key][0]
        more = size()
        while self._held and sum(held for _, held in self._held.values()) + more > self.keep_bytes:
            self._drop()
        value = load()
        self._held[key] = value, more
        return value

    def clear(self) -> None:
        while self._held:
            self._drop()

    def drop(self, key: Key) -> bool:
        """Frees what is held under a key -> whether there was anything."""
        held = key in self._held
        if held:
            value, _ = self._held.pop(key)
            self.close(value)
        return held

    def _drop(self) -> None:
        self.drop(next(iter(self._held)))
