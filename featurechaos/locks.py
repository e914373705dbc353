"""Locks that a forked child never inherits held: gunicorn forks while the parent's threads read."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar, overload

T = TypeVar("T")


class Locked:
    """Something with one lock, `self._lock`, made anew in a forked child."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        _ALL.add(self)

    def forked(self) -> None:
        """In a child, before anything else: let go of what is the parent's alone."""


_ALL: weakref.WeakSet[Locked] = weakref.WeakSet()


def _renew() -> None:
    everything = list(_ALL)
    for each in everything:
        each._lock = threading.Lock()  # noqa: SLF001 - of this file
    for each in everything:  # Only now: one may want another's lock.
        each.forked()


os.register_at_fork(after_in_child=_renew)


class cached_property(Generic[T]):  # noqa: N801 - the name it has in `functools`
    """As in `functools`, without the lock that Python 3.11 puts around the property of all instances.

    Under it one thread's work holds up every other's, and a fork that finds it held leaves it held in the
    child for ever. Without it two threads may do the work of one instance twice; the value is the same.
    """

    def __init__(self, make: Callable[[Any], T]) -> None:
        self._make, self.__doc__ = make, make.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type) -> T: ...
    def __get__(self, instance: object | None, owner: type) -> Self | T:
        if instance is None:
            return self
        value = instance.__dict__[self._name] = self._make(instance)
        return value
