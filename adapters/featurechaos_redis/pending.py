"""A read that never blocks: for hedging and for several sources on one thread."""

from __future__ import annotations

import os
import selectors
import threading
from collections.abc import Callable
from typing import Any, Generic, NoReturn, TypeVar

from featurechaos.errors import StoreTimeout, translating
from featurechaos.stores import Answer
from featurechaos_redis.connections import WOULD_BLOCK, Link
from featurechaos_redis.errors import ERRORS, DialFailure, Dropped
from featurechaos_redis.pool import Pool, settle
from featurechaos_redis.wire import Replies, check_rows

Said = TypeVar("Said")


class _Scratch(threading.local):
    """Where bytes land for a moment: one a thread, since making one takes as long as reading a small row."""

    def __init__(self) -> None:
        self.buffer = bytearray(1 << 16)


_scratch = _Scratch()


class Exchange(Generic[Said]):
    """One pipeline under way: waiting for a connection, then for room to send, then for the replies.

    `fileno()` is readable when `advance` is worth calling. A pooled connection found dead is replaced once.
    `expect` tells a connection what comes; `finish` makes of the replies what `advance` gives. `is_patient` is the
    ticket's in the pool's line.
    """

    def __init__(
        self,
        pool: Pool,
        command: bytes,
        *,
        source: str,
        until: float,
        now: Callable[[], float],
        expect: Callable[[Replies], None],
        finish: Callable[[list[Any]], Said],
        settle: Callable[[Pool, Link, list[Any]], None] = settle,
        is_patient: bool = False,
    ) -> None:
        self._pool, self._command, self._is_patient = pool, command, is_patient
        self._source, self._until, self._now = source, until, now
        self._expect, self._finish, self._settle = expect, finish, settle
        self._link: Link | None = None
        self._bell: _Bell | None = None
        self._room: selectors.BaseSelector | None = None
        self._unsent = memoryview(command)
        self._is_replaced = False
        try:
            self._depart()
        except (
            BaseException
        ):  # A context manager entered on failures only: around every step it costs a small read 3 %.
            self.abandon()
            with translating(ERRORS, source=self._source):
                raise

    def fileno(self) -> int:
        if self._bell is not None:
            return self._bell.fileno()
        if self._room is not None:
            # Readable when the socket takes more: the caller only ever waits to read.
            return self._room.fileno()  # type: ignore[attr-defined, no-any-return]
        if self._link is None:
            msg = "this read has ended"
            raise ValueError(msg)
        return int(self._link.sock.fileno())

    def advance(self) -> Said | None:
        """Take what has come without blocking: the result once all has, else None."""
        try:
            answers = self._step()
            if answers is None and self._now() >= self._until:
                self._late()
        except BaseException:
            self.abandon()
            with translating(ERRORS, source=self._source):
                raise
        return answers

    def abandon(self) -> None:
        self._hush()
        if self._link is not None:
            self._pool.drop(self._link)
            self._link = None

    def _late(self) -> NoReturn:
        if self._bell is not None:
            raise self._pool.late()
        msg = f"source {self._source!r}: no answer in time"
        raise StoreTimeout(msg)

    def _step(self) -> Said | None:
        try:
            return self._receive() if self._met() and self._sent() else None
        except TimeoutError:
            raise
        except OSError as error:
            self._replace(error)
            return None

    def _depart(self) -> None:
        """Send on an idle connection, or ask to be told when there is one."""
        link = self._pool.poll()
        if link is None:
            self._bell = _Bell(self._pool, is_patient=self._is_patient)
        try:
            if link is not None:
                self._adopt(link)
            if self._met():
                self._sent()
        except OSError as error:
            self._replace(error)

    def _replace(self, error: OSError) -> None:
        """Once: go on with another connection where this one had died in the pool."""
        link, self._link = self._link, None
        if link is None or not self._pool.is_stale(link, error) or self._is_replaced:
            raise error
        self._is_replaced = True
        self._hush()
        self._unsent = memoryview(self._command)
        self._depart()

    def _met(self) -> bool:
        """Whether there is a connection now."""
        if self._bell is None:
            return self._link is not None
        link, failure = self._bell.link, self._bell.failure
        if failure is not None:
            failure.tell()
        if link is None:
            return False
        self._bell.link = None
        self._hush()
        self._adopt(link)
        return True

    def _adopt(self, link: Link) -> None:
        self._link = link
        link.sock.setblocking(False)
        link.clear()
        self._expect(link.replies)

    def _sent(self) -> bool:
        """Whether the whole command has left."""
        link = self._link
        if link is None:
            return False
        while self._unsent:
            try:
                self._unsent = self._unsent[link.sock.send(self._unsent) :]
            except WOULD_BLOCK:
                if self._room is None:
                    self._room = selectors.DefaultSelector()
                    self._room.register(link.sock, selectors.EVENT_WRITE)
                return False
        if self._room is not None:
            self._room.close()
            self._room = None
        return True

    def _receive(self) -> Said | None:
        link = self._link
        if link is None:
            return None
        buffer = _scratch.buffer
        while True:
            try:
                size = link.sock.recv_into(buffer)
            except WOULD_BLOCK:
                return None
            if not size:
                msg = "the server closed the connection"
                raise Dropped(msg)
            replies = link.replies.feed(buffer, size)
            if replies is not None:
                self._link = None
                self._settle(self._pool, link, replies)
                return self._finish(replies)

    def _hush(self) -> None:
        if self._bell is not None:
            self._bell.close()
            self._bell = None
        if self._room is not None:
            self._room.close()
            self._room = None


class PendingRead(Exchange[list[Answer]]):
    """One MGET under way; `finish` splits its rows."""

    def __init__(
        self,
        pool: Pool,
        command: bytes,
        count: int,
        *,
        source: str,
        until: float,
        now: Callable[[], float],
        finish: Callable[[list[Any]], list[Answer]],
    ) -> None:
        super().__init__(
            pool,
            command,
            source=source,
            until=until,
            now=now,
            expect=lambda replies: replies.expect_rows(count),
            finish=lambda replies: finish(check_rows(replies[0], count)),
        )


class Nothing:
    """A read of no rows: over as soon as it is looked at."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._reader, writer = os.pipe()
        os.close(writer)  # A pipe nobody writes to is ready at once.
        self._is_open = True

    def fileno(self) -> int:
        return self._reader

    def advance(self) -> list[Answer]:
        self.abandon()
        return [[] for _ in range(self._count)]

    def abandon(self) -> None:
        if self._is_open:
            os.close(self._reader)
            self._is_open = False


class _Bell:
    """A place in the pool's line that rings by making a pipe readable."""

    def __init__(self, pool: Pool, *, is_patient: bool) -> None:
        self.link: Link | None = None
        self.failure: DialFailure | None = None
        self.is_patient = is_patient
        self._pool = pool
        self._reader, self._writer = os.pipe()
        pool.queue(self)

    def fileno(self) -> int:
        return self._reader

    def ring(self) -> None:
        os.write(self._writer, b"!")  # Once, so it never blocks.

    def close(self) -> None:
        self._pool.leave(self)  # First: the pool rings under its lock, and not after this.
        if self.link is not None:
            self._pool.give(self.link)
        os.close(self._reader)
        os.close(self._writer)
