"""What is worked out once is worked out without a lock that others would wait for, or a fork inherit."""

from __future__ import annotations

import threading
import weakref

import pytest

from featurechaos import locks
from featurechaos.locks import Locked, cached_property


class Sum:
    """Something whose work another thread may be in the middle of."""

    def __init__(self, numbers: list[int], gate: threading.Event) -> None:
        self.numbers, self.gate, self.begun = numbers, gate, threading.Event()
        self.times = 0

    @cached_property
    def total(self) -> int:
        """All of them."""
        self.begun.set()
        self.gate.wait(10)
        self.times += 1
        return sum(self.numbers)


def test_it_is_worked_out_once() -> None:
    gate = threading.Event()
    gate.set()
    one = Sum([1, 2], gate)

    assert [one.total, one.total] == [3, 3]
    assert one.times == 1
    assert Sum.total.__doc__ == "All of them."


def test_one_instance_does_not_wait_for_another() -> None:
    shut, opened = threading.Event(), threading.Event()
    opened.set()
    slow, quick = Sum([1], shut), Sum([2], opened)
    thread = threading.Thread(target=lambda: slow.total)
    thread.start()
    assert slow.begun.wait(10)
    found: list[int] = []
    other = threading.Thread(target=lambda: found.append(quick.total))

    other.start()
    other.join(5)
    was_held = other.is_alive()
    shut.set()
    thread.join()
    other.join()

    assert not was_held
    assert found == [2]


class Other(Locked):
    """One that lets go of another's in a child, under that one's lock."""

    def __init__(self, one: Locked) -> None:
        super().__init__()
        self.one, self.had_it = one, False

    def forked(self) -> None:
        self.had_it = self.one._lock.acquire(blocking=False)


def test_in_a_child_every_lock_is_free_before_anybody_wants_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "_ALL", weakref.WeakSet())
    ones = [Locked() for _ in range(30)]
    others = [Other(one) for one in ones]
    for one in ones:
        one._lock.acquire()  # as another thread of the parent had it

    locks._renew()

    assert all(other.had_it for other in others)
