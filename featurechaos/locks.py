"""Locks that a forked child never inherits held: gunicorn forks while the parent's threads read."""

from __future__ import annotations

import os
import threading
import weakref


class Locked:
    """Something with one lock, `self._lock`, made anew in a forked child."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        _ALL.add(self)

    def forked(self) -> None:
        """In a child, before anything else: let go of what is the parent's alone."""


_ALL: weakref.WeakSet[Locked] = weakref.WeakSet()


def _renew() -> None:
    for each in list(_ALL):
        each._lock = threading.Lock()  # noqa: SLF001 - of this file
        each.forked()


os.register_at_fork(after_in_child=_renew)
