"""Connections that keep an absolute deadline, whatever the server does.

redis-py's timeouts are for each recv, each address, each step of a handshake: a server trickling a byte
every 10 ms made 20 ms last 123. Here the time left is set before each send and recv. Of redis-py's
connection classes this uses what is public, and `_sock` and `_wrap_socket_with_ssl`.
"""

from __future__ import annotations

import select
import ssl
from collections.abc import Callable
from typing import Any, Protocol, cast

from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.retry import Retry

from featurechaos_redis.errors import Dropped, NotAsked
from featurechaos_redis.resp3 import replies
from featurechaos_redis.spec import RedisSpec
from featurechaos_redis.wire import Replies

_BUFFER_BYTES = 1 << 17
WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)

Now = Callable[[], float]


class Link(Protocol):
    """One connection to a server; used by one read at a time."""

    sock: Any
    replies: Replies
    is_proven: bool
    """Whether it has ever answered."""

    def open(self) -> None:
        """Connect, within the connect timeout; raises redis-py's errors and the OS's."""

    def ask(self, command: bytes, until: float) -> list[Any]:
        """Send, and take the replies that `replies` was told to expect, by `until`.

        Raises TimeoutError, Dropped, OSError, BadReply; after any of them only `close` makes sense,
        except after NotAsked, a TimeoutError that came before the first byte.
        """

    def clear(self) -> None:
        """Take what has come while nothing was asked; raises Dropped or OSError if the connection is of no more use."""

    def close(self) -> None:
        """Close the socket now; in a forked child without disturbing the parent's."""


class _Bounded:
    """A mixin over redis-py's connection classes: asks and shakes hands by absolute time."""

    _sock: Any
    sock: Any
    replies: Replies
    is_proven: bool
    connect: Callable[[], None]
    disconnect: Callable[[], None]

    def __init__(self, *, now: Now, connect_timeout_s: float, **options: Any) -> None:
        self._now, self._connect_timeout_s = now, connect_timeout_s
        self._connect_until = float("inf")
        self._buffer = bytearray(_BUFFER_BYTES)
        self.replies = replies(options)
        self.sock = None
        self.is_proven = False
        super().__init__(**options)

    def open(self) -> None:
        self._connect_until = self._now() + self._connect_timeout_s
        self.connect()
        self.sock = self._sock
        poller = select.poll()
        poller.register(self.sock, select.POLLIN)
        self._wait = poller.poll

    def close(self) -> None:
        self.disconnect()

    def ask(self, command: bytes, until: float) -> list[Any]:
        sock, buffer, now, feed = self.sock, self._buffer, self._now, self.replies.feed
        left = until - now()
        if left <= 0:
            msg = "no time left to ask"
            raise NotAsked(msg)
        if self._wait(0):
            sock.setblocking(False)
            self.clear()
        sock.settimeout(left)
        sock.sendall(command)
        while True:
            sock.settimeout(_positive(until - now()))
            size = sock.recv_into(buffer)
            if not size:
                msg = "the server closed the connection"
                raise Dropped(msg)
            replies = feed(buffer, size)
            if replies is not None:
                return replies

    def clear(self) -> None:
        try:
            size = self.sock.recv_into(self._buffer)
        except WOULD_BLOCK:
            return
        if not size:
            msg = "the server closed the connection"
            raise Dropped(msg)
        if not self.replies.idle(bytes(self._buffer[:size])):
            msg = "bytes came that nobody had asked for"
            raise Dropped(msg)

    # redis-py reads these two wherever it sets a timeout while it connects: for each address, before TLS.
    @property
    def socket_connect_timeout(self) -> float:
        return _positive(self._connect_until - self._now())

    @socket_connect_timeout.setter
    def socket_connect_timeout(self, _: float | None) -> None:
        """Bounded by connect_timeout_s."""

    @property
    def socket_timeout(self) -> float:
        return _positive(self._connect_until - self._now())

    @socket_timeout.setter
    def socket_timeout(self, _: float | None) -> None:
        """Bounded by connect_timeout_s."""

    def greet(self) -> None:
        """AUTH and SELECT as redis-py does them, over a socket that keeps the dial's deadline."""
        sock = self._sock
        timed = self._sock = _Timed(sock, lambda: self.socket_timeout)
        cast("Any", self).on_connect()
        self._sock = sock
        timed.let_go()


class _Timed:
    """A socket whose every recv and send gets only the time left."""

    def __init__(self, sock: Any, left: Callable[[], float]) -> None:
        self._sock, self._left = sock, left

    def recv_into(self, buffer: bytearray) -> int:
        self._sock.settimeout(self._left())
        return cast("int", self._sock.recv_into(buffer))

    def recv(self, size: int) -> bytes:
        self._sock.settimeout(self._left())
        return cast("bytes", self._sock.recv(size))

    def sendall(self, data: bytes) -> None:
        self._sock.settimeout(self._left())
        self._sock.sendall(data)

    def let_go(self) -> None:
        """Refer to the connection no longer: redis-py's parser keeps this, and the two would be a cycle."""
        self._left = float

    def settimeout(self, seconds: float | None) -> None:
        """The time left is set before each call instead."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


def _positive(left: float) -> float:
    """A timeout a socket takes: zero would mean not to wait, and hide that the time is up."""
    if left <= 0:
        msg = "no answer in time"
        raise TimeoutError(msg)
    return left


class _Polled(_Bounded):
    """Asks without the two system calls a socket's timeout costs with each send and recv: four in all, not eight."""

    def open(self) -> None:
        super().open()
        self.sock.setblocking(False)

    def ask(self, command: bytes, until: float) -> list[Any]:  # noqa: C901 - in a straight line: each call costs
        sock, buffer, now, wait, feed = self.sock, self._buffer, self._now, self._wait, self.replies.feed
        if until <= now():
            msg = "no time left to ask"
            raise NotAsked(msg)
        if wait(0):  # a hundredth of a read of one row: what is left of another's reply must not begin this one's
            self.clear()
        try:
            sent = sock.send(command)
        except BlockingIOError:
            sent = 0
        if sent < len(command):
            sock.settimeout(_positive(until - now()))
            sock.sendall(memoryview(command)[sent:])
            sock.setblocking(False)
        while True:
            left = until - now()
            if left <= 0:
                msg = "no answer in time"
                raise TimeoutError(msg)
            if not wait(1000 * left):
                continue
            try:
                size = sock.recv_into(buffer)
            except BlockingIOError:
                continue
            if not size:
                msg = "the server closed the connection"
                raise Dropped(msg)
            replies = feed(buffer, size)
            if replies is not None:
                return replies


class TcpLink(_Polled, Connection):  # type: ignore[misc] # Its timeouts are ours.
    """Over TCP."""


class UnixLink(_Polled, UnixDomainSocketConnection):  # type: ignore[misc] # Its timeouts are ours.
    """Over a unix socket."""


class TlsLink(_Bounded, SSLConnection):  # type: ignore[misc] # Its timeouts are ours.
    """Over TLS, with one SSLContext for all connections of a store."""

    def __init__(self, *, contexts: Contexts, **options: Any) -> None:
        self._contexts = contexts
        super().__init__(**options)

    def _wrap_socket_with_ssl(self, sock: Any) -> Any:
        try:
            sock.settimeout(self.socket_timeout)
            if any(getattr(self, name, None) for name in ("ssl_validate_ocsp", "ssl_validate_ocsp_stapled")):
                return super()._wrap_socket_with_ssl(sock)  # type: ignore[no-untyped-call]
            return self._contexts.of(self).wrap_socket(sock, server_hostname=self.host)
        except BaseException:
            sock.close()
            raise


class Contexts:
    """The SSLContext of a store, made on the first dial: redis-py makes one a connection, 30 ms each."""

    def __init__(self) -> None:
        self._made: ssl.SSLContext | None = None

    def of(self, link: Any) -> ssl.SSLContext:
        if self._made is None:
            self._made = _context(link)
        return self._made


def _context(link: Any) -> ssl.SSLContext:
    """What redis-py would make for a connection, from the options it took."""
    context = ssl.create_default_context()
    context.check_hostname = link.check_hostname
    context.verify_mode = link.cert_reqs
    for flag in getattr(link, "ssl_include_verify_flags", None) or ():
        context.verify_flags |= flag
    for flag in getattr(link, "ssl_exclude_verify_flags", None) or ():
        context.verify_flags &= ~flag
    if link.certfile or link.keyfile:
        context.load_cert_chain(link.certfile, link.keyfile, link.certificate_password)
    if link.ca_certs is not None or link.ca_path is not None or link.ca_data is not None:
        context.load_verify_locations(cafile=link.ca_certs, capath=link.ca_path, cadata=link.ca_data)
    if link.ssl_min_version is not None:
        context.minimum_version = link.ssl_min_version
    if link.ssl_ciphers:
        context.set_ciphers(link.ssl_ciphers)
    return context


def driver_options(spec: RedisSpec) -> dict[str, Any]:
    """Everything redis-py's connection classes, sync or async, are told."""
    return {
        **spec.address.driver_options,
        "protocol": 2,  # No push messages between a command and its reply, unless the options want it.
        **spec.connection_options,
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 0,
    }


def keep_quiet(connection: Any, spec: RedisSpec) -> None:
    """Leave out CLIENT SETINFO, two round trips a dial, unless the options ask for it."""
    if not {"driver_info", "lib_name", "lib_version"} & spec.options.keys():
        connection.driver_info = connection.lib_name = connection.lib_version = None


def linker(spec: RedisSpec, now: Now) -> Callable[[], Link]:
    """A maker of connections to a source, not open yet; TypeError for options redis-py does not know."""
    scheme = spec.address.scheme
    kind: Any = {"redis": TcpLink, "rediss": TlsLink, "unix": UnixLink}[scheme]
    options = {**driver_options(spec), "redis_connect_func": kind.greet}
    if scheme == "rediss":
        options["contexts"] = Contexts()

    def link() -> Link:
        made = kind(now=now, connect_timeout_s=spec.connect_timeout_s, **options)
        keep_quiet(made, spec)
        return cast("Link", made)

    return link
