"""What is made of a large value again and again, made once: by its identity, not by its content."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class _Itself(Generic[T]):
    """Equal only to what holds the same object."""

    def __init__(self, value: T) -> None:
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and self.value is other.value


def once(make: Callable[[T], R], kept: int) -> Callable[[T], R]:
    """Have a pure function remember what it made of the last `kept` objects, which never change."""
    remembered = lru_cache(maxsize=kept)(lambda itself: make(itself.value))
    return lambda value: remembered(_Itself(value))
