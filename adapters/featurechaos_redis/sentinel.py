"""Who the primary is, asked of sentinels: before each dial, and once more where a connection failed.

After "Guidelines for Redis clients with support for Redis Sentinel": the sentinel that answered goes first, what
it names is asked for its role, and whatever fails begins with the sentinels again.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Generator
from random import Random
from typing import Any, cast

from featurechaos.errors import StoreUnavailable
from featurechaos_redis.alinks import ALink, ALinker
from featurechaos_redis.apool import APool
from featurechaos_redis.chart import At, Pace
from featurechaos_redis.connections import Contexts, Link, Now, TcpLink, TlsLink, driver_options, keep_quiet, linker
from featurechaos_redis.errors import ERRORS, Dropped, ErrorReply
from featurechaos_redis.pool import Pool
from featurechaos_redis.spec import RedisSpec
from featurechaos_redis.wire import command

ROLE = command(b"ROLE")
_RNG = Random()
_AILING = (b"s_down", b"o_down", b"disconnected")

Found = Generator[bytes, Any, list[At]]
"""Something asked of one sentinel: yields commands, is sent replies, returns whom to dial, if it knows."""


def whom(spec: RedisSpec) -> Found:
    """The primary; for a source of role replica its replicas that are well, if there is any."""
    name = str(spec.options["service_name"]).encode()
    if spec.role == "replica":
        replicas = replicas_of((yield command(b"SENTINEL", b"REPLICAS", name)))
        if replicas:
            return replicas
    reply = yield command(b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", name)
    if isinstance(reply, Exception):
        raise reply
    try:
        return [] if reply is None else [At(reply[0].decode(), int(reply[1]))]
    except (TypeError, ValueError, IndexError, AttributeError):
        return []


def replicas_of(reply: Any) -> list[At]:
    """The replicas of an answer to SENTINEL REPLICAS that are up and follow their primary."""
    found = []
    for each in reply if isinstance(reply, list) else ():
        with contextlib.suppress(TypeError, ValueError, KeyError, AttributeError):
            told = dict(zip(each[::2], each[1::2], strict=False))
            flags = told[b"flags"].split(b",")
            if not any(flag in flags for flag in _AILING) and told.get(b"master-link-status", b"ok") == b"ok":
                found.append(At(told[b"ip"].decode(), int(told[b"port"])))
    return found


def check_role(reply: Any, spec: RedisSpec, at: At) -> None:
    """Raise Dropped for a server that says it is not what it was named as; one that may not say is believed."""
    if isinstance(reply, ErrorReply) or spec.role == "replica":
        return
    role = reply[0] if isinstance(reply, list) and reply else reply
    if role != b"master":
        msg = f"{at} is named as the primary {spec.options['service_name']!r} and says that it is none"
        raise Dropped(msg)


def unknown(spec: RedisSpec) -> StoreUnavailable:
    return StoreUnavailable(f"no sentinel knows a primary called {spec.options['service_name']!r}")


class Finder:
    """Asks sentinels in turn, each within its share of the connect timeout. Thread-safe."""

    def __init__(self, spec: RedisSpec, now: Now) -> None:
        self._spec, self._now = spec, now
        self._sentinels = [(each.connect_timeout_s, linker(each, now)) for each in spec.sentinels()]

    def find(self) -> list[At]:
        """Whom to dial: any of these; raises the last sentinel's failure, or StoreUnavailable where none knows."""
        failure: Exception = unknown(self._spec)
        for one in list(self._sentinels):
            try:
                found = self._asked(*one)
            except tuple(ERRORS) as error:
                failure = error
            else:
                if found:
                    self._sentinels = [one, *(each for each in self._sentinels if each is not one)]
                    return found
        raise failure

    def _asked(self, most_s: float, make: Callable[[], Link]) -> list[At]:
        until = self._now() + most_s
        link = make()
        try:
            link.open()
            found = whom(self._spec)
            asked = next(found)
            while True:
                link.replies.expect(1)
                reply = link.ask(asked, until)[0]
                try:
                    asked = found.send(reply)
                except StopIteration as stop:
                    return cast("list[At]", stop.value)
        finally:
            link.close()


class _Watched:
    """A mixin over our connections: to whoever the sentinels name when it is opened."""

    host: str
    port: int
    replies: Any
    ask: Callable[[bytes, float], list[Any]]
    _now: Now
    _connect_timeout_s: float

    def __init__(self, *, finder: Finder, spec: RedisSpec, **options: Any) -> None:
        self._finder, self._spec = finder, spec
        super().__init__(**options)

    def open(self) -> None:
        at = _RNG.choice(self._finder.find())
        self.host, self.port = at
        super().open()  # type: ignore[misc] # A connection's.
        self.replies.expect(1)
        check_role(self.ask(ROLE, self._now() + self._connect_timeout_s)[0], self._spec, at)


class WatchedTcpLink(_Watched, TcpLink):  # type: ignore[misc] # As TcpLink.
    """Over TCP."""


class WatchedTlsLink(_Watched, TlsLink):  # type: ignore[misc] # As TlsLink.
    """Over TLS."""


class WatchedPool(Pool):
    """The connections of a source that sentinels watch.

    Once one had to be closed the sentinels are asked, on a thread of its own, whether there is another primary; idle
    connections to the old one go before a caller meets them.
    """

    def __init__(self, spec: RedisSpec, *, source: str, now: Now) -> None:
        finder = Finder(spec, now)
        self._finder, self._wait_s = finder, spec.connect_timeout_s
        super().__init__(
            _maker(spec, finder, now), source=source, most=spec.max_connections, now=now, secrets=spec.secrets
        )

    @classmethod
    def checked(cls, spec: RedisSpec, *, source: str, now: Now) -> WatchedPool:
        """One whose options redis-py knows; TypeError or ValueError otherwise."""
        made = cls(spec, source=source, now=now)
        made._make()
        for each in spec.sentinels():
            linker(each, now)()
        return made

    def _begin(self) -> None:
        super()._begin()
        self._looker: threading.Thread | None = None
        self._pace = Pace(Random())

    def drop(self, link: Link) -> None:
        super().drop(link)
        if self._looker is None and self._pace.may(self._now()):
            with self._lock:
                self._look()

    def _look(self) -> None:
        """Under the lock."""
        if self._looker is not None or self._closed:
            return
        self._looker = threading.Thread(target=self._find, name="featurechaos-redis-sentinel", daemon=True)
        try:
            self._looker.start()
        except RuntimeError:  # No more threads, or the interpreter is ending.
            self._looker = None

    def _find(self) -> None:
        gone: list[Link] = []
        found: list[At] = []
        with contextlib.suppress(*ERRORS, StoreUnavailable):  # Whoever dials next is told.
            found = self._finder.find()
        with self._lock:
            if found:
                gone = self._forget_others(found)
            self._looker = None
            self._pace.ended(self._now(), is_new=bool(gone))
        for link in gone:
            link.close()

    def _forget_others(self, found: list[At]) -> list[Link]:
        """Under the lock: take idle connections to anyone else out."""
        idle = self._drain()
        kept = [link for link in idle if At(link.host, link.port) in found]  # type: ignore[attr-defined]
        self._links.update(kept)
        self._idle.extend(reversed(kept))
        self._serve()
        self._order()
        return [link for link in idle if link not in kept]

    def close(self, wait_s: float = 0.0) -> None:
        super().close(wait_s)
        looker = self._looker
        if looker is not None:
            looker.join(wait_s)


def _maker(spec: RedisSpec, finder: Finder, now: Now) -> Callable[[], Link]:
    is_tls = spec.address.scheme == "rediss"
    kind: Any = WatchedTlsLink if is_tls else WatchedTcpLink
    options = {**driver_options(spec), "redis_connect_func": kind.greet}
    if is_tls:
        options["contexts"] = Contexts()

    def link() -> Link:
        made = kind(finder=finder, spec=spec, now=now, connect_timeout_s=spec.connect_timeout_s, **options)
        keep_quiet(made, spec)
        return cast("Link", made)

    return link


class WatchedALinker(ALinker):
    """Opens connections to whoever the sentinels name then."""

    def __init__(self, spec: RedisSpec) -> None:
        super().__init__(spec)
        self._sentinels = [(each.connect_timeout_s, ALinker(each)) for each in spec.sentinels()]

    async def find(self) -> list[At]:
        """As `Finder.find`."""
        failure: Exception = unknown(self._spec)
        for one in list(self._sentinels):
            try:
                found = await self._asked(*one)
            except tuple(ERRORS) as error:
                failure = error
            else:
                if found:
                    self._sentinels = [one, *(each for each in self._sentinels if each is not one)]
                    return found
        raise failure

    async def open(self, at: tuple[str, int] | None = None) -> ALink:
        found = _RNG.choice(await self.find())
        link = await super().open(found)
        try:
            async with asyncio.timeout(self._spec.connect_timeout_s):
                link.replies.expect(1)
                check_role((await link.ask(ROLE))[0], self._spec, found)
        except BaseException:
            link.close()
            raise
        link.at = found
        return link

    async def _asked(self, most_s: float, linker: ALinker) -> list[At]:
        async with asyncio.timeout(most_s):
            link = await linker.open()
            try:
                found = whom(self._spec)
                asked = next(found)
                while True:
                    link.replies.expect(1)
                    reply = (await link.ask(asked))[0]
                    try:
                        asked = found.send(reply)
                    except StopIteration as stop:
                        return cast("list[At]", stop.value)
            finally:
                link.close()


class WatchedAPool(APool):
    """As `WatchedPool`, on one loop."""

    def __init__(self, linker: ALinker, **settings: Any) -> None:
        assert isinstance(linker, WatchedALinker)
        super().__init__(linker, **settings)
        self._finder = linker
        self._looker: asyncio.Task[None] | None = None
        self._pace = Pace(Random())

    def drop(self, link: ALink) -> None:
        super().drop(link)
        if self._looker is None and self._pace.may(self._now()) and not self._closed:
            self._looker = asyncio.get_running_loop().create_task(self._find(), name="featurechaos-redis-sentinel")

    async def _find(self) -> None:
        gone: list[ALink] = []
        try:
            with contextlib.suppress(*ERRORS, StoreUnavailable):  # Whoever dials next is told.
                found = await self._finder.find()
                gone = [link for link in self._idle if link.at not in found]
        finally:
            self._looker = None
            self._pace.ended(self._now(), is_new=bool(gone))
        self._idle = [link for link in self._idle if link not in gone]
        for link in gone:
            self._links.discard(link)
            link.close()
        self._order()

    async def close(self) -> None:
        looker = self._looker
        await super().close()
        if looker is not None:
            looker.cancel()
            await asyncio.gather(looker, return_exceptions=True)
