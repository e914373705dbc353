"""Connections for asyncio: redis-py's handshake, then a protocol of our own on the same transport.

Closing never awaits: an awaited close can itself be cancelled, and a reply left on a connection is
another user's data.
"""

from __future__ import annotations

import asyncio
import select
from typing import Any

from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection

from featurechaos_redis.connections import driver_options, keep_quiet
from featurechaos_redis.errors import BadReply, Dropped, MisplacedReply, RefusedReply
from featurechaos_redis.resp3 import replies
from featurechaos_redis.spec import RedisSpec
from featurechaos_redis.wire import Replies


class ALink(asyncio.Protocol):
    """One open connection; used by one read at a time."""

    def __init__(self, opened: Any, loop: asyncio.AbstractEventLoop, replies: Replies) -> None:
        # Kept: redis-py's object owns the stream writer, which closes the transport when collected.
        self._opened, self._loop = opened, loop
        self._transport: asyncio.Transport = opened._writer.transport  # noqa: SLF001 - there is no public way
        self.replies = replies
        self._reply: asyncio.Future[list[Any]] | None = None
        self.is_open = True
        self.at: tuple[str, int] | None = None
        # Whether the server said that this connection serves us no longer.
        self.is_spent = False
        # Whether it has ever answered.
        self.is_proven = False
        self._transport.set_protocol(self)
        self._poller = select.poll()
        self._poller.register(self._transport.get_extra_info("socket"), select.POLLIN)

    @property
    def has_unread(self) -> bool:
        """Whether something has come that the loop has not read yet: bytes, or the end."""
        return bool(self._poller.poll(0))

    @property
    def is_busy(self) -> bool:
        """Whether a reply is still to come."""
        return self._reply is not None

    def ask(self, command: bytes) -> asyncio.Future[list[Any]]:
        """Send; the replies that `replies` was told to expect. Fails with Dropped, OSError or BadReply."""
        reply = self._reply = self._loop.create_future()
        if self.is_open:
            self._transport.write(command)
        else:
            self._fail(Dropped("the server closed the connection"))
        return reply

    def expire(self) -> None:
        """End the read under way: its time is up."""
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(TimeoutError("no answer in time"))

    def close(self) -> None:
        """Close now, without awaiting."""
        self.is_open = False
        self._transport.abort()
        self._opened._reader = self._opened._writer = None  # noqa: SLF001 - else it warns of an open connection

    def data_received(self, data: bytes) -> None:
        if not self.is_open:
            return
        if self._reply is None:
            if not self.replies.idle(data):
                self.close()  # Bytes nobody asked for: what follows could not be told apart.
            return
        try:
            replies = self.replies.feed(data, len(data))
        except BadReply as error:
            self._fail(error)
            self.close()  # Else the next bytes could pass for the end of this reply, and the connection for clean.
            return
        if replies is not None:
            self.is_spent = any(isinstance(each, RefusedReply | MisplacedReply) for each in replies)
            reply, self._reply = self._reply, None
            if not reply.done():
                reply.set_result(replies)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        self._fail(exc if isinstance(exc, OSError) else Dropped("the server closed the connection"))

    def eof_received(self) -> None:
        """The transport closes itself."""

    def _fail(self, error: Exception) -> None:
        # The read stays busy, so that its connection is closed and not pooled.
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(error)


class ALinker:
    """Opens connections of one source, each within its connect timeout.

    TypeError for options redis-py does not know.
    """

    def __init__(self, spec: RedisSpec) -> None:
        kinds: dict[str, Any] = {
            "redis": Connection,
            "rediss": SSLConnection,
            "unix": UnixDomainSocketConnection,
        }
        self._spec = spec
        self._kind = kinds[spec.address.scheme]
        self._options = {
            **driver_options(spec),
            "socket_connect_timeout": spec.connect_timeout_s,
            "socket_timeout": spec.connect_timeout_s,
        }
        self._ssl: Any = self._make().ssl_context if spec.address.scheme == "rediss" else None
        if self._ssl is None:
            self._make()

    def _make(self) -> Any:
        made = self._kind(**self._options)
        keep_quiet(made, self._spec)
        return made

    async def open(self, at: tuple[str, int] | None = None) -> ALink:
        """Connect, perhaps to another host and port, and introduce ourselves; raises redis-py's and the OS's errors."""
        made = self._make()
        if at is not None:
            made.host, made.port = at
        try:
            async with asyncio.timeout(self._spec.connect_timeout_s):
                if self._ssl is not None:
                    # Shared, and read off the loop: it takes 30 ms of CPU.
                    await asyncio.to_thread(self._ssl.get)
                    made.ssl_context = self._ssl
                await made.connect()
                return ALink(made, asyncio.get_running_loop(), replies(self._options))
        except BaseException:
            writer = getattr(made, "_writer", None)
            if writer is not None:
                writer.transport.abort()
                made._reader = made._writer = None  # noqa: SLF001 - else it warns of an open connection
            raise
