"""The open connections of one event loop.

A dial is a task of its own: a cancelled caller does not cancel it, and the next caller gets what it opened.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from featurechaos.errors import StoreTimeout, StoreUnavailable
from featurechaos_redis.alinks import ALink, ALinker
from featurechaos_redis.errors import DialFailure

_MOST_DIALS = 4
_PAUSE_FIRST_S, _PAUSE_MOST_S = 0.005, 0.1


class APool:
    """At most `most` connections, last in, first out; as `Pool`, on one loop and so without a lock."""

    def __init__(
        self,
        linker: ALinker,
        *,
        source: str,
        most: int,
        now: Callable[[], float],
        secrets: tuple[str, ...],
    ) -> None:
        self._linker, self._source, self._most, self._now = linker, source, most, now
        self._secrets = secrets
        self._idle: list[ALink] = []
        self._links: set[ALink] = set()
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._dials: set[asyncio.Task[None]] = set()
        self._dialled = self._failures = 0
        self._failure: DialFailure | None = None
        self._pause_s, self._paused_until = _PAUSE_FIRST_S, float("-inf")
        self._closed = False

    def poll(self) -> ALink | None:
        """An idle connection if there is one."""
        while self._idle:
            link = self._idle.pop()
            if link.is_open:
                return link
            self._links.discard(link)
            link.close()
        return None

    async def take(self, until: float) -> ALink:
        """A connection of the caller's own, by `until`; give it back or drop it. Errors as `Pool.take`."""
        failures = self._failures
        loop = asyncio.get_running_loop()
        while True:
            link = self._pick(failures)
            if link is not None:
                return link
            waiter: asyncio.Future[None] = loop.create_future()
            self._waiters.append(waiter)
            self._summon()
            timer = loop.call_later(max(0.0, until - self._now()), _wake, waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled():
                    self._tell(1)  # It was woken for something another waiter can use.
                raise
            finally:
                timer.cancel()
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
            if not self._idle and self._failures == failures and not self._closed and self._now() >= until:
                in_use = len(self._links)
                msg = (
                    f"source {self._source!r}: no connection in time "
                    f"({in_use} of at most {self._most} in use, {len(self._dials)} being dialled)"
                )
                raise StoreTimeout(msg)

    def _pick(self, failures: int) -> ALink | None:
        link = self.poll()
        if link is not None:
            return link
        if self._closed:
            msg = f"source {self._source!r}: the client is closed"
            raise StoreUnavailable(msg)
        failure = self._failure
        if failure is not None and (failures != self._failures or self._now() < self._paused_until):
            failure.tell()
        return None

    def give(self, link: ALink) -> None:
        """Give back a connection on which no reply is outstanding."""
        if self._closed or not link.is_open:
            self.drop(link)
            return
        self._idle.append(link)
        self._tell(1)

    def settle(self, link: ALink) -> None:
        """Give a connection back if its replies have wholly come; else it was given up, and is closed."""
        if link.is_busy or link.is_spent:
            self.drop(link)
        else:
            self.give(link)

    def drop(self, link: ALink) -> None:
        """Close a connection: its read failed or was given up."""
        self._links.discard(link)
        link.close()
        self._tell(1)  # There may be room for another one now.

    def purge(self) -> None:
        """Close every idle connection: one of them was found dead, so all likely are."""
        dead, self._idle = self._idle, []
        for link in dead:
            self._links.discard(link)
            link.close()

    def _tell(self, count: int) -> None:
        while count and self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                count -= 1

    def _summon(self) -> None:
        """One dial for each waiter, within the bounds."""
        wanted = min(len(self._waiters), _MOST_DIALS, self._most - len(self._links))
        while len(self._dials) < wanted and len(self._links) + len(self._dials) < self._most:
            dial = asyncio.get_running_loop().create_task(self._dial(), name="featurechaos-redis-dial")
            self._dials.add(dial)
            dial.add_done_callback(self._dials.discard)

    async def _dial(self) -> None:
        try:
            link = await self._linker.open()
        except Exception as error:  # noqa: BLE001 - handed to the callers that wait for this dial
            self._failed(error)
            return
        self._dialled += 1
        self._failure, self._pause_s = None, _PAUSE_FIRST_S
        if self._closed:
            link.close()
            return
        self._links.add(link)
        self._idle.append(link)
        self._tell(1)

    def _failed(self, error: Exception) -> None:
        self._failure = DialFailure.of(error, source=self._source, secrets=self._secrets)
        self._failures += 1
        self._paused_until = self._now() + self._pause_s
        self._pause_s = min(2 * self._pause_s, _PAUSE_MOST_S)
        self._tell(len(self._waiters))

    async def close(self) -> None:
        """Close every connection, those in use too, and end the dials."""
        self._closed = True
        links, self._idle = list(self._links), []
        self._links.clear()
        for link in links:
            link.close()
        self._tell(len(self._waiters))
        dials = list(self._dials)
        for dial in dials:
            dial.cancel()
        await asyncio.gather(*dials, return_exceptions=True)
        # A transport closes its socket in a callback of the next turn.
        await asyncio.sleep(0)

    def stats(self) -> dict[str, int]:
        """Counts, as `Pool.stats`."""
        return {
            "open": len(self._links),
            "idle": len(self._idle),
            "waiting": len(self._waiters),
            "dialling": len(self._dials),
            "dialled": self._dialled,
            "dial_failures": self._failures,
        }


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
