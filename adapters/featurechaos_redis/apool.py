"""The open connections of one event loop.

A dial is a task of its own: a cancelled caller does not cancel it, and the next caller gets what it opened.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

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
        self._line: deque[asyncio.Future[ALink]] = deque()
        self._dials: set[asyncio.Task[Any] | None] = set()
        self._dialled = self._failures = 0
        self._failure: DialFailure | None = None
        self._pause_s, self._paused_until = _PAUSE_FIRST_S, float("-inf")
        self._closed = False

    def poll(self) -> ALink | None:
        """An idle connection if there is one and nobody in line for it."""
        return None if self._line else self._pop()

    def _pop(self) -> ALink | None:
        while self._idle:
            link = self._idle.pop()
            if link.is_open:
                return link
            self._links.discard(link)
            link.close()
        return None

    async def take(self, until: float, *, is_patient: bool = False) -> ALink:
        """A connection of the caller's own, by `until`; give it back or drop it. Errors as `Pool.take`."""
        loop = asyncio.get_running_loop()
        if is_patient:
            await self._outwait(until)
        ticket: asyncio.Future[ALink] = loop.create_future()
        self._queue(ticket)
        timer = loop.call_later(max(0.0, until - self._now()), self._expire, ticket)
        try:
            return await ticket
        except asyncio.CancelledError:
            if ticket.done() and not ticket.cancelled() and ticket.exception() is None:
                self.give(ticket.result())  # It came as we were cancelled.
            raise
        finally:
            timer.cancel()

    async def _outwait(self, until: float) -> None:
        """Wait until the pause after a failed dial is over, or `until`: the next failure is this caller's to hear."""
        failure = self._failure
        while failure is not None and failure is self._failure and not self._closed:
            left_s = min(self._paused_until, until) - self._now()
            if left_s <= 0:
                return
            await asyncio.sleep(left_s)

    def _queue(self, ticket: asyncio.Future[ALink]) -> None:
        self._line.append(ticket)
        self._serve()
        if ticket.done():
            return
        if self._closed:
            self._turn_away(DialFailure(StoreUnavailable, f"source {self._source!r}: the client is closed"))
        elif self._failure is not None and self._now() < self._paused_until:
            self._turn_away(self._failure)
        else:
            self._order()

    def _expire(self, ticket: asyncio.Future[ALink]) -> None:
        if not ticket.done():
            in_use = len(self._links) - len(self._idle)
            ticket.set_exception(
                StoreTimeout(
                    f"source {self._source!r}: no connection in time "
                    f"({in_use} of at most {self._most} in use, {len(self._dials)} being dialled)"
                )
            )

    def _serve(self) -> None:
        """Hand idle connections to the line, the first in it first."""
        self._forget_gone()
        while self._line and (link := self._pop()) is not None:
            self._line.popleft().set_result(link)
            self._forget_gone()

    def _turn_away(self, failure: DialFailure) -> None:
        """Tell the whole line that there will be nothing."""
        while self._line:
            ticket = self._line.popleft()
            if not ticket.done():
                ticket.set_exception(failure.error())

    def _forget_gone(self) -> None:
        """Drop tickets of callers that were cancelled or ran out of time from the front of the line."""
        while self._line and self._line[0].done():
            self._line.popleft()

    def give(self, link: ALink) -> None:
        """Give back a connection on which no reply is outstanding."""
        if self._closed or not link.is_open:
            self.drop(link)
            return
        self._idle.append(link)
        self._serve()

    def settle(self, link: ALink) -> None:
        """Give a connection back after its replies, unless one says that it serves us no longer."""
        if not link.is_proven:
            link.is_proven = True
            self._failure, self._pause_s = None, _PAUSE_FIRST_S
        if link.is_spent:
            self.drop(link)
        else:
            self.give(link)

    def drop(self, link: ALink) -> None:
        """Close a connection: its read failed or was given up."""
        self._links.discard(link)
        link.close()
        self._order()

    def is_stale(self, link: ALink, error: BaseException) -> bool:
        """As `Pool.is_stale`."""
        is_cut_off = isinstance(error, OSError) and not isinstance(error, TimeoutError)
        if is_cut_off and not link.is_proven:
            self._fail(error)
        self.drop(link)
        if not is_cut_off or not link.is_proven:
            return False
        dead, self._idle = self._idle, []
        for sister in dead:
            self._links.discard(sister)
            sister.close()
        self._order()
        return True

    def _order(self) -> None:
        """A dial for each caller in line, within the bounds."""
        if self._closed:
            return
        self._forget_gone()
        wanted = min(len(self._line), _MOST_DIALS, self._most - len(self._links))
        while len(self._dials) < wanted:
            dial = asyncio.get_running_loop().create_task(self._dial(), name="featurechaos-redis-dial")
            self._dials.add(dial)
            dial.add_done_callback(self._dials.discard)

    async def _dial(self) -> None:
        this = asyncio.current_task()
        try:
            link = await self._linker.open()
        except Exception as error:  # noqa: BLE001 - handed to the callers that wait for this dial
            self._dials.discard(this)
            self._fail(error)
            return
        # Before anyone is told, since who is told may order the next dial before this task is done.
        self._dials.discard(this)
        self._dialled += 1
        if self._closed:
            link.close()
            return
        self._links.add(link)
        self._idle.append(link)
        self._serve()
        self._order()

    def _fail(self, error: BaseException) -> None:
        self._failure = DialFailure.of(error, source=self._source, secrets=self._secrets)
        self._failures += 1
        self._paused_until = self._now() + self._pause_s
        self._pause_s = min(2 * self._pause_s, _PAUSE_MOST_S)
        self._turn_away(self._failure)

    async def close(self) -> None:
        """Close every connection, those in use too, and end the dials."""
        self._closed = True
        links, self._idle = list(self._links), []
        self._links.clear()
        for link in links:
            link.close()
        self._turn_away(DialFailure(StoreUnavailable, f"source {self._source!r}: the client is closed"))
        dials = [dial for dial in self._dials if dial is not None]
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
            "waiting": sum(not ticket.done() for ticket in self._line),
            "dialling": len(self._dials),
            "dialled": self._dialled,
            "dial_failures": self._failures,
        }
