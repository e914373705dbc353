"""Open connections, dialled where no caller waits on the network.

A caller takes the connection given back last. If there is none it waits, no longer than its own
deadline, while one of at most four dialler threads opens one; a connection that comes too late is the
next caller's. So names, connect, TLS and AUTH cost a caller nothing but its deadline.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from featurechaos.errors import StoreTimeout, StoreUnavailable
from featurechaos_redis.connections import Link
from featurechaos_redis.errors import DialFailure, MisplacedReply, RefusedReply

_MOST_DIALLERS = 4
_LINGER_S = 1.0
_PAUSE_FIRST_S, _PAUSE_MOST_S = 0.005, 0.1


class Pool:
    """At most `most` connections of one store, last in, first out. Thread-safe; survives a fork.

    `make` gives a connection that is not open yet. A failed dial is told to every caller then waiting
    and, for a pause of 5 to 100 ms, to every later one: so a dead server is dialled at most ten times
    a second. `secrets` are kept out of what is told.
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
        lock = threading.Lock()
        self._changed = threading.Condition(lock)
        self._wanted = threading.Condition(lock)
        self._idle: deque[Link] = deque()
        self._links: set[Link] = set()
        self._opening: set[Link] = set()
        self._bells: set[int] = set()
        self._waiting = 0
        # Dials asked for and not yet ended, and those of them no thread has begun.
        self._orders = self._unclaimed = 0
        self._threads: set[threading.Thread] = set()
        self._dialled = self._failures = 0
        self._failure: DialFailure | None = None
        self._pause_s, self._paused_until = _PAUSE_FIRST_S, float("-inf")

    def take(self, until: float) -> Link:
        """A connection of the caller's own, by `until`; give it back or drop it.

        Raises StoreTimeout; StoreUnavailable once closed; for a failed dial what it means, see `ERRORS`.
        """
        try:
            return self._idle.pop()  # Without the lock: a deque's pop is atomic.
        except IndexError:
            return self._wait(until)

    def give(self, link: Link) -> None:
        """Give back a connection on which no reply is outstanding."""
        self._idle.append(link)
        # In this order, and a waiter counts itself before it looks: one of the two sees the other.
        if self._waiting or self._closed:
            with self._changed:
                self._tell(1)
                left = self._drain() if self._closed else []
            _close(left)

    def drop(self, link: Link) -> None:
        """Close a connection: its read failed or was given up."""
        with self._changed:
            self._links.discard(link)
            self._tell(1)  # There may be room for another one now.
        link.close()

    def purge(self) -> None:
        """Close every idle connection: one of them was found dead, so all likely are."""
        with self._changed:
            dead = self._drain()
            self._tell(1)
        _close(dead)

    def is_late(self, until: float) -> bool:
        return self._now() >= until

    @contextlib.contextmanager
    def _counted(self) -> Iterator[int]:
        """Under the lock: one more waits; gives the failures seen so far, which are not its own."""
        with self._changed:
            self._waiting += 1
            try:
                yield self._failures
            finally:
                self._waiting -= 1

    def _wait(self, until: float) -> Link:
        with self._counted() as failures:
            while True:
                link = self._pick(failures)
                if link is not None:
                    return link
                left = until - self._now()
                if left <= 0:
                    msg = f"source {self._source!r}: no connection in time ({self._describe()})"
                    raise StoreTimeout(msg)
                self._changed.wait(left)

    def _pick(self, failures: int) -> Link | None:
        """Under the lock: an idle connection; or raise why there will be none; or see that one is dialled."""
        with contextlib.suppress(IndexError):
            return self._idle.pop()
        if self._closed:
            msg = f"source {self._source!r}: the client is closed"
            raise StoreUnavailable(msg)
        failure = self._failure
        if failure is not None and (failures != self._failures or self._now() < self._paused_until):
            failure.tell()
        self._summon()
        return None

    # A read that must not block watches instead: it is counted as waiting, and told by a byte in a pipe.

    def watch(self, bell: int) -> int:
        """Count a waiter told by a byte written to `bell`; gives the mark that `pick` wants."""
        with self._changed:
            self._waiting += 1
            self._bells.add(bell)
            return self._failures

    def unwatch(self, bell: int) -> None:
        with self._changed:
            if bell in self._bells:
                self._bells.discard(bell)
                self._waiting -= 1

    def poll(self) -> Link | None:
        """An idle connection if there is one."""
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def pick(self, mark: int) -> Link | None:
        """For a watcher: a connection if there is one now; raises what ended a dial since `mark`."""
        with self._changed:
            return self._pick(mark)

    def _tell(self, count: int) -> None:
        """Under the lock: something changed that `count` waiters may use."""
        self._changed.notify(count)
        for bell in self._bells:
            with contextlib.suppress(BlockingIOError):
                os.write(bell, b"!")

    def _summon(self) -> None:
        """Under the lock: one dial for each waiter, within the bounds."""
        if self._waiting <= self._orders or self._orders >= _MOST_DIALLERS:
            return
        if len(self._links) + self._orders >= self._most:
            return
        if len(self._threads) <= self._orders:
            thread = threading.Thread(target=self._dial, name="featurechaos-redis-dialler", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # No more threads, or the interpreter is ending.
                msg = f"source {self._source!r}: no thread to connect with: {error}"
                raise StoreUnavailable(msg) from error
            self._threads.add(thread)
        self._orders += 1
        self._unclaimed += 1
        self._wanted.notify()

    def _dial(self) -> None:
        """A dialler: opens connections as they are ordered, and ends after a second without an order."""
        while self._claim():
            link = self._make()
            with self._changed:
                self._opening.add(link)
            try:
                link.open()
            except Exception as error:  # noqa: BLE001 - handed to the callers that wait for this dial
                self._failed(link, error)
            else:
                self._arrived(link)

    def _claim(self) -> bool:
        with self._wanted:
            self._wanted.wait_for(lambda: self._unclaimed or self._closed, _LINGER_S)
            if self._closed or not self._unclaimed:
                self._threads.discard(threading.current_thread())
                return False
            self._unclaimed -= 1
            return True

    def _failed(self, link: Link, error: Exception) -> None:
        failure = DialFailure.of(error, source=self._source, secrets=self._secrets)
        with self._changed:
            self._opening.discard(link)
            self._orders -= 1
            self._failures += 1
            self._failure = failure
            self._paused_until = self._now() + self._pause_s
            self._pause_s = min(2 * self._pause_s, _PAUSE_MOST_S)
            self._tell(self._waiting)
        link.close()

    def _arrived(self, link: Link) -> None:
        with self._changed:
            self._opening.discard(link)
            self._orders -= 1
            self._dialled += 1
            self._failure, self._pause_s = None, _PAUSE_FIRST_S
            is_late = self._closed
            if not is_late:
                self._links.add(link)
                self._idle.append(link)
                self._tell(1)
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
        with self._changed:
            self._closed = True
            links = [*self._links, *self._opening]
            self._links.clear()
            self._idle.clear()
            threads = list(self._threads)
            self._tell(self._waiting)
            self._wanted.notify_all()
        _close(links)
        end = self._now() + wait_s
        for thread in threads:
            thread.join(max(0.0, end - self._now()))

    def stats(self) -> dict[str, int]:
        """Counts: connections open and idle, callers waiting, dials under way, dials so far, dials failed."""
        with self._changed:
            return {
                "open": len(self._links),
                "idle": len(self._idle),
                "waiting": self._waiting,
                "dialling": self._orders,
                "dialled": self._dialled,
                "dial_failures": self._failures,
            }

    def _describe(self) -> str:
        in_use = len(self._links) - len(self._idle)
        return f"{in_use} of at most {self._most} in use, {self._orders} being dialled"

    def forget(self) -> None:
        """In a forked child: the parent's connections are the parent's; begin anew with none."""
        links = [*self._links, *self._opening]
        self._begin()
        _close(links)  # Closes the child's descriptors; a connection of another pid is not shut down.


def settle(pool: Pool, link: Link, replies: list[Any]) -> None:
    """Give a connection back after its replies, unless one says that it serves us no longer."""
    for reply in replies:
        if isinstance(reply, RefusedReply | MisplacedReply):
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
