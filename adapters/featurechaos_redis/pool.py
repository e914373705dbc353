"""Open connections, dialled where no caller waits on the network.

A caller takes the connection given back last. If there is none it stands in line, no longer than its
own deadline, while one of at most four dialler threads opens one; a connection that comes too late is
the next caller's. So names, connect, TLS and AUTH cost a caller nothing but its deadline.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from featurechaos.errors import StoreTimeout, StoreUnavailable
from featurechaos_redis.connections import Link
from featurechaos_redis.errors import DialFailure, MisplacedReply, RefusedReply

_MOST_DIALLERS = 4
_FAREWELLS = (RefusedReply, MisplacedReply)
_LINGER_S = 1.0
_PAUSE_FIRST_S, _PAUSE_MOST_S = 0.005, 0.1


class Ticket(Protocol):
    """A place in the line: the pool sets one of the first two and rings, once.

    A patient one stands through the pause after a failed dial, as a write does: it has seconds, and nobody else to ask.
    """

    link: Link | None
    failure: DialFailure | None
    is_patient: bool

    def ring(self) -> None: ...


class Pool:
    """At most `most` connections of one store, last in, first out; callers in line are served in turn.

    `make` gives a connection that is not open yet. A failed dial, or a new connection cut off before it
    answered (a balancer with nobody behind it), is told to every caller then in line and, for a pause of
    5 to 100 ms, to every later one that is not patient: so a dead server is dialled at most ten times a second.
    `secrets` are kept out of what is told. Thread-safe; survives a fork.
    """

    def __init__(
        self,
        make: Callable[[], Link],
        *,
        source: str,
        most: int,
        now: Callable[[], float],
        secrets: tuple[str, ...] = (),
    ) -> None:
        self._make, self._most, self._now = make, most, now
        self._source, self._secrets = source, secrets
        self._closed = False
        self._begin()
        _POOLS.add(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._ordered = threading.Condition(self._lock)
        self._idle: deque[Link] = deque()
        self._line: deque[Ticket] = deque()
        self._links: set[Link] = set()
        self._opening: set[Link] = set()
        self._threads: set[threading.Thread] = set()
        # Dials asked for and not yet ended, and those of them no thread has begun.
        self._orders = self._unclaimed = 0
        self._dialled = self._failures = 0
        self._failure: DialFailure | None = None
        self._pause_s, self._paused_until = _PAUSE_FIRST_S, float("-inf")

    def take(self, until: float, *, is_patient: bool = False) -> Link:
        """A connection of the caller's own, by `until`; give it back or drop it.

        Raises StoreTimeout; StoreUnavailable once closed; for a failed dial what it means, see `ERRORS`.
        """
        if not self._line:  # as `poll`; nearly every caller ends here
            try:
                return self._idle.pop()
            except IndexError:
                pass
        ticket = _Waiter(is_patient=is_patient)
        try:
            self.queue(ticket)
            ticket.wait(until - self._now())
        except BaseException:  # A signal's: what came for this caller is the next one's.
            self.leave(ticket)
            if ticket.link is not None:
                self.give(ticket.link)
            raise
        self.leave(ticket)
        if ticket.link is not None:
            return ticket.link
        if ticket.failure is not None:
            ticket.failure.tell()
        raise self.late()

    def give(self, link: Link) -> None:
        """Give back a connection on which no reply is outstanding."""
        self._idle.append(link)
        # In this order, and a caller gets in line before it looks: one of the two sees the other.
        if self._line or self._closed:
            with self._lock:
                self._serve()
                left = self._drain() if self._closed else []
            _close(left)

    def drop(self, link: Link) -> None:
        """Close a connection: its read failed or was given up."""
        with self._lock:
            self._links.discard(link)
            self._order()
        self._hire()
        link.close()

    def is_stale(self, link: Link, error: BaseException) -> bool:
        """Close a connection whose read failed; whether it had merely died in the pool, as its idle sisters have.

        One that was cut off before it ever answered counts as a dial that failed.
        """
        is_cut_off = isinstance(error, OSError) and not isinstance(error, TimeoutError)
        if is_cut_off and not link.is_proven:
            with self._lock:
                self._fail(error)
        self.drop(link)
        if not is_cut_off or not link.is_proven:
            return False
        self._purge()
        return True

    def _purge(self) -> None:
        with self._lock:
            dead = self._drain()
            self._order()
        self._hire()
        _close(dead)

    def poll(self) -> Link | None:
        """An idle connection if there is one and nobody in line for it."""
        if self._line:
            return None
        try:
            return self._idle.pop()  # Without the lock: a deque's pop is atomic.
        except IndexError:
            return None

    def queue(self, ticket: Ticket) -> None:
        """Stand in line: the ticket rings once it has a connection, or the reason why there is none."""
        with self._lock:
            self._line.append(ticket)
            self._serve()
            if ticket.link is not None:
                return
            if self._closed:
                self._turn_away(DialFailure(StoreUnavailable, f"source {self._source!r}: the client is closed"))
            elif self._failure is not None and self._now() < self._paused_until and not ticket.is_patient:
                self._line.pop()  # Alone: who stands before it is patient.
                ticket.failure = self._failure
                ticket.ring()
            else:
                self._order()
        self._hire()

    def leave(self, ticket: Ticket) -> None:
        """Stand in line no longer; whatever the ticket has got stays the caller's."""
        with self._lock, contextlib.suppress(ValueError):
            self._line.remove(ticket)

    def late(self) -> StoreTimeout:
        """What to raise for a caller whose time ran out in line."""
        in_use = len(self._links) - len(self._idle)
        return StoreTimeout(
            f"source {self._source!r}: no connection in time "
            f"({in_use} of at most {self._most} in use, {self._orders} being dialled)"
        )

    def _serve(self) -> None:
        """Under the lock: hand idle connections to the line, the first in it first."""
        while self._line:
            try:
                link = self._idle.pop()
            except IndexError:
                return
            ticket = self._line.popleft()
            ticket.link = link
            ticket.ring()

    def _turn_away(self, failure: DialFailure) -> None:
        """Under the lock: tell the whole line that there will be nothing."""
        while self._line:
            ticket = self._line.popleft()
            ticket.failure = failure
            ticket.ring()

    def _order(self) -> None:
        """Under the lock: a dial for each caller in line, within the bounds."""
        if self._closed:
            return
        wanted = min(len(self._line), _MOST_DIALLERS, self._most - len(self._links))
        while self._orders < wanted:
            self._orders += 1
            self._unclaimed += 1
            self._ordered.notify_all()  # One may be waiting for a pause to be over.

    def _hire(self) -> None:
        """A dialler for each dial. Without the lock: a thread begins when the machine has a core for it."""
        while len(self._threads) < self._orders:
            with self._lock:
                if self._closed or len(self._threads) >= self._orders:
                    return
                thread = threading.Thread(target=self._work, name="featurechaos-redis-dialler", daemon=True)
                self._threads.add(thread)
            try:
                thread.start()
            except BaseException as error:
                with self._lock:
                    self._threads.discard(thread)
                    if isinstance(error, RuntimeError) and self._unclaimed:
                        self._orders -= 1
                        self._unclaimed -= 1
                        self._turn_away(DialFailure.of(error, source=self._source, secrets=()))
                if not isinstance(error, RuntimeError):  # A signal's; no more threads is no caller's matter.
                    raise
                return

    def _work(self) -> None:
        """A dialler: opens connections as they are ordered, and ends after a second without an order."""
        while (link := self._claim()) is not None:
            try:
                link.open()
            except Exception as error:  # noqa: BLE001 - handed to the callers that wait for this dial
                self._failed(link, error)
            else:
                self._arrived(link)

    def _claim(self) -> Link | None:
        with self._ordered:
            self._ordered.wait_for(lambda: self._unclaimed or self._closed, _LINGER_S)
            while self._unclaimed and not self._closed and (pause_s := self._paused_until - self._now()) > 0:
                self._ordered.wait(pause_s)
            if self._closed or not self._unclaimed:
                self._threads.discard(threading.current_thread())
                return None
            self._unclaimed -= 1
            link = self._make()
            self._opening.add(link)
            return link

    def _failed(self, link: Link, error: Exception) -> None:
        with self._lock:
            self._opening.discard(link)
            self._orders -= 1
            self._fail(error)
        link.close()

    def _fail(self, error: BaseException) -> None:
        """Under the lock: tell the line, and pause."""
        failure = DialFailure.of(error, source=self._source, secrets=self._secrets)
        self._failures += 1
        self._failure = failure
        self._paused_until = self._now() + self._pause_s
        self._pause_s = min(2 * self._pause_s, _PAUSE_MOST_S)
        self._turn_away(failure)

    def recover(self) -> None:
        """A new connection has answered: pauses begin short again."""
        with self._lock:
            self._failure, self._pause_s = None, _PAUSE_FIRST_S

    def _arrived(self, link: Link) -> None:
        with self._lock:
            self._opening.discard(link)
            self._orders -= 1
            self._dialled += 1
            is_late = self._closed
            if not is_late:
                self._links.add(link)
                self._idle.append(link)
                self._serve()
                self._order()
        self._hire()
        if is_late:
            link.close()

    def _drain(self) -> list[Link]:
        """Under the lock: take every idle connection out."""
        drained: list[Link] = []
        with contextlib.suppress(IndexError):
            while True:
                drained.append(self._idle.pop())
        self._links.difference_update(drained)
        return drained

    def close(self, wait_s: float = 0.0) -> None:
        """Close every connection, those in use too, and end the diallers; wait at most `wait_s` for them."""
        with self._lock:
            self._closed = True
            links = [*self._links, *self._opening]
            self._links.clear()
            self._idle.clear()
            self._turn_away(DialFailure(StoreUnavailable, f"source {self._source!r}: the client is closed"))
            self._ordered.notify_all()
            threads = list(self._threads)
        _close(links)
        end = self._now() + wait_s
        for thread in threads:
            if thread.ident is not None:  # else it is about to begin, and to end
                thread.join(max(0.0, end - self._now()))

    def stats(self) -> dict[str, int]:
        """Counts: connections open and idle, callers waiting, dials under way, dials so far, dials failed."""
        with self._lock:
            return {
                "open": len(self._links),
                "idle": len(self._idle),
                "waiting": len(self._line),
                "dialling": self._orders,
                "dialled": self._dialled,
                "dial_failures": self._failures,
            }

    def forget(self) -> None:
        """In a forked child: the parent's connections are the parent's; begin anew with none."""
        links = [*self._links, *self._opening]
        self._begin()
        _close(links)  # Closes the child's descriptors; a connection of another pid is not shut down.


class _Waiter:
    """A thread in the line."""

    __slots__ = ("_rung", "failure", "is_patient", "link")

    def __init__(self, *, is_patient: bool) -> None:
        self.link: Link | None = None
        self.failure: DialFailure | None = None
        self.is_patient = is_patient
        self._rung = threading.Lock()
        self._rung.acquire()

    def ring(self) -> None:
        self._rung.release()

    def wait(self, seconds: float) -> None:
        self._rung.acquire(timeout=max(0.0, seconds))


def settle(pool: Pool, link: Link, replies: list[Any]) -> None:
    """Give a connection back after its replies, unless one says that it serves us no longer."""
    if not link.is_proven:
        link.is_proven = True
        pool.recover()
    for reply in replies:
        if type(reply) is not list and isinstance(reply, _FAREWELLS):
            pool.drop(link)
            return
    pool.give(link)


def _close(links: list[Link]) -> None:
    for link in links:
        link.close()


_POOLS: weakref.WeakSet[Pool] = weakref.WeakSet()


def _forget_all() -> None:
    for pool in list(_POOLS):
        pool.forget()


os.register_at_fork(after_in_child=_forget_all)
