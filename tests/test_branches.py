"""Several plans on one thread over real sockets: late, failing and lying peers, and connections that are let go."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from featurechaos.clock import SystemClock
from featurechaos.effects import All, First, Plan, Read, Sleep
from featurechaos.engine import World, run
from featurechaos.errors import StoreTimeout, StoreUnavailable
from featurechaos.stores import Answer, Ask, Store
from featurechaos.testing import ManualClock, MemoryStore
from tests.layers.kit import ask_of

CLOCK = SystemClock()
SLACK_S = 0.5
"""How late a busy machine may wake us."""


@dataclass(eq=False)
class Peer:
    """A server on the other end of socket pairs: it answers each read after a while, with what it is told."""

    after_s: float | None = 0.0
    says: bytes = b"yes"
    begun: list[Reading] = field(default_factory=list)
    error_at_begin: Exception | None = None

    def begin(self, asks: Sequence[Ask], until: float) -> Reading:
        if self.error_at_begin is not None:
            raise self.error_at_begin
        read = Reading(self.says)
        self.begun.append(read)
        if self.after_s is not None:
            timer = threading.Timer(self.after_s, read.answer)
            timer.daemon = True
            timer.start()
        return read

    def read(self, asks: Sequence[Ask], until: float, *, as_of_us: int | None = None) -> list[Answer]:
        raise AssertionError("a store with `begin` is never read blocking here")

    @property
    def left_open(self) -> int:
        return sum(read.ours.fileno() != -1 for read in self.begun)


class Reading:
    """A read under way on its own pair of sockets."""

    def __init__(self, says: bytes) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.ours.setblocking(False)
        self.says, self.is_abandoned, self.advances = says, 0, 0

    def answer(self) -> None:
        with contextlib.suppress(OSError):
            self.theirs.sendall(self.says)
        self.theirs.close()

    def fileno(self) -> int:
        return self.ours.fileno()

    def advance(self) -> list[Answer] | None:
        self.advances += 1
        try:
            got = self.ours.recv(99)
        except BlockingIOError:
            return None
        if got == b"odd":
            raise ValueError("an error that is none of ours, with the connection still open")
        self.ours.close()
        if got != b"yes":
            raise StoreUnavailable(f"it said {got!r}")
        return [[got]]

    def abandon(self) -> None:
        self.is_abandoned += 1
        self.ours.close()
        self.theirs.close()


def world_of(**stores: Any) -> World:
    return World(cast("dict[str, Store]", stores))


def reading(source: str, within_s: float = 5.0) -> Plan[Any]:
    return (yield Read(source, [ask_of([1])], CLOCK.monotonic() + within_s))


def side_by_side(*plans: Plan[Any]) -> Plan[Any]:
    return (yield All(plans))


def race(*plans: Plan[Any], after_s: float) -> Plan[Any]:
    return (yield First(plans, after_s))


def timed(plan: Plan[Any], world: World) -> tuple[Any, float]:
    """What came of a plan, and the seconds it took."""
    begun = CLOCK.monotonic()
    try:
        result = run(plan, world)
    except StoreUnavailable as error:
        result = error
    return result, CLOCK.monotonic() - begun


def test_two_late_sources_are_waited_for_together() -> None:
    world = world_of(a=Peer(0.3), b=Peer(0.3), c=Peer(0.3))

    result, took_s = timed(side_by_side(reading("a"), reading("b"), reading("c")), world)

    assert result == [[[b"yes"]]] * 3
    assert 0.3 <= took_s < 0.3 + SLACK_S, "and not one after another"


def test_results_come_in_the_order_of_the_plans() -> None:
    world = world_of(a=Peer(0.05), b=MemoryStore(), c=Peer(0.0))

    result, _ = timed(side_by_side(reading("a"), reading("b"), reading("c")), world)

    assert result == [[[b"yes"]], [[None]], [[b"yes"]]]


def test_a_source_that_never_answers_is_left_at_its_time() -> None:
    frozen = Peer(None)

    result, took_s = timed(side_by_side(reading("a", 0.1), reading("b")), world_of(a=frozen, b=Peer(0.01)))

    assert isinstance(result, StoreTimeout)
    assert str(result) == "source 'a' gave no answer in time"
    assert 0.1 <= took_s < 0.1 + SLACK_S
    assert frozen.begun[0].is_abandoned
    assert not frozen.left_open


def test_two_frozen_sources_cost_the_time_of_one() -> None:
    def caught(source: str) -> Plan[str]:
        try:
            yield from reading(source, 0.1)
        except StoreTimeout:
            return "late"
        return "answered"

    result, took_s = timed(side_by_side(caught("a"), caught("b")), world_of(a=Peer(None), b=Peer(None)))

    assert result == ["late", "late"]
    assert 0.1 <= took_s < 0.1 + SLACK_S


@pytest.mark.parametrize("how", ["closed", "nonsense", "at begin"])
def test_an_error_of_a_read_is_the_plans_to_handle(how: str) -> None:
    bad = Peer(0.01, b"" if how == "closed" else b"no")
    bad.error_at_begin = StoreUnavailable("it said nothing") if how == "at begin" else None

    def failing_over() -> Plan[Any]:
        try:
            return (yield from reading("bad"))
        except StoreUnavailable:
            return (yield from reading("good"))

    result, _ = timed(side_by_side(failing_over(), reading("good")), world_of(bad=bad, good=Peer(0.02)))

    assert result == [[[b"yes"]], [[b"yes"]]]


def test_a_read_that_raises_anything_else_loses_its_connection() -> None:
    odd = Peer(0.01, b"odd")

    result, _ = timed(side_by_side(reading("odd"), reading("good")), world_of(odd=odd, good=Peer(0.02)))

    assert isinstance(result, StoreUnavailable)
    assert odd.begun[0].is_abandoned
    assert not odd.left_open


def test_the_first_error_ends_the_others_and_closes_their_connections() -> None:
    slow = Peer(None)

    result, took_s = timed(side_by_side(reading("slow"), reading("bad")), world_of(slow=slow, bad=Peer(0.02, b"no")))

    assert isinstance(result, StoreUnavailable)
    assert took_s < SLACK_S
    assert not slow.left_open


def test_a_late_source_is_hedged_and_the_losers_connection_closed() -> None:
    frozen = Peer(None)
    world = world_of(frozen=frozen, quick=Peer(0.01))
    for _ in range(5):
        result, took_s = timed(race(reading("frozen"), reading("quick"), after_s=0.03), world)

        assert result == [[b"yes"]]
        assert 0.04 <= took_s < 0.04 + SLACK_S

    assert [read.is_abandoned for read in frozen.begun] == [1] * 5
    assert not frozen.left_open


def test_a_source_in_time_is_not_hedged() -> None:
    spare = Peer(0.0)

    result, _ = timed(race(reading("quick"), reading("spare"), after_s=5.0), world_of(quick=Peer(0.01), spare=spare))

    assert result == [[b"yes"]]
    assert not spare.begun


def test_the_late_one_still_wins_if_the_hedge_is_later() -> None:
    hedge = Peer(None)

    result, took_s = timed(race(reading("a"), reading("b"), after_s=0.02), world_of(a=Peer(0.08), b=hedge))

    assert result == [[b"yes"]]
    assert 0.08 <= took_s < 0.08 + SLACK_S
    assert hedge.begun[0].is_abandoned


def test_a_failed_first_is_followed_at_once_and_a_failed_hedge_is_not_the_end() -> None:
    world = world_of(bad=Peer(0.0, b"no"), good=Peer(0.05))

    assert timed(race(reading("bad"), reading("good"), after_s=5.0), world)[0] == [[b"yes"]]
    result, took_s = timed(race(reading("good"), reading("bad"), after_s=0.01), world)

    assert result == [[b"yes"]]
    assert took_s < 1


def test_when_every_one_is_late_the_time_is_that_of_the_last() -> None:
    frozen = Peer(None)

    result, took_s = timed(race(reading("f", 0.1), reading("f", 0.15), after_s=0.02), world_of(f=frozen))

    assert isinstance(result, StoreTimeout)
    assert 0.1 <= took_s < 0.15 + SLACK_S
    assert not frozen.left_open


def test_an_interrupt_closes_every_connection() -> None:
    a, b = Peer(None), Peer(None)

    def interrupted() -> Plan[Any]:
        yield Sleep(0.01)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(side_by_side(reading("a"), reading("b"), interrupted()), world_of(a=a, b=b))

    assert (a.left_open, b.left_open) == (0, 0)


def test_waiting_is_not_spinning() -> None:
    late = Peer(0.2)

    run(side_by_side(reading("late"), reading("late")), world_of(late=late))

    assert max(read.advances for read in late.begun) < 20


def test_plans_of_plans_wait_on_the_same_sockets() -> None:
    world = world_of(a=Peer(0.03), frozen=Peer(None))

    nested = side_by_side(race(reading("frozen", 1.0), reading("a"), after_s=0.01), reading("a"))
    result, took_s = timed(nested, world)

    assert result == [[[b"yes"]], [[b"yes"]]]
    assert took_s < 1


@pytest.mark.parametrize("inner", [All, First])
def test_branches_of_branches_do_not_hold_up_their_siblings(inner: Any) -> None:
    clock = ManualClock()
    world = World({}, sleep=clock.advance, monotonic=clock.monotonic)
    begun, ended = clock.monotonic(), []

    def waiting(seconds: float) -> Plan[float]:
        yield Sleep(seconds)
        ended.append(seconds)
        return seconds

    def grouped(seconds: float) -> Plan[Any]:
        return (yield All([waiting(seconds)]) if inner is All else First([waiting(seconds)], 0.0))

    run(side_by_side(grouped(3.0), grouped(2.0), waiting(1.0)), world)

    assert clock.monotonic() - begun == 3.0, "and not the sum"
    assert ended == [1.0, 2.0, 3.0]


def test_a_race_in_a_branch_starts_its_next_on_time() -> None:
    clock = ManualClock()
    world = World({}, sleep=clock.advance, monotonic=clock.monotonic)
    begun: list[float] = []

    def waiting(seconds: float) -> Plan[float]:
        begun.append(clock.monotonic() - 1000)
        yield Sleep(seconds)
        return seconds

    assert run(side_by_side(race(waiting(9.0), waiting(1.0), after_s=2.0), waiting(5.0)), world) == [1.0, 5.0]
    assert begun == [0.0, 0.0, 2.0]


def test_an_error_in_a_branch_of_a_branch_is_its_plans_to_handle_and_closes_the_rest() -> None:
    frozen = Peer(None)

    def caught() -> Plan[Any]:
        try:
            yield from side_by_side(reading("frozen"), reading("bad"))
        except StoreUnavailable:
            return frozen.left_open
        return "no error"

    world = world_of(frozen=frozen, bad=Peer(0.01, b"no"), quick=Peer(0.02))

    assert run(side_by_side(caught(), reading("quick")), world) == [0, [[b"yes"]]]


def test_a_peer_that_trickles_is_left_at_its_time_too() -> None:
    class Trickle(Peer):
        def begin(self, asks: Sequence[Ask], until: float) -> Reading:
            read = super().begin(asks, until)
            read.advance = lambda: None  # type: ignore[method-assign]
            read.theirs.sendall(b"y" * 5000)
            return read

    trickling = Trickle(None)

    result, took_s = timed(side_by_side(reading("t", 0.1), reading("quick")), world_of(t=trickling, quick=Peer(0.0)))

    assert isinstance(result, StoreTimeout)
    assert 0.1 <= took_s < 0.1 + SLACK_S
