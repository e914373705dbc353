"""A reply that nobody asked for lies on an idle connection: it is never the next reader's."""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from redis import Redis

from featurechaos_redis import AsyncRedisStore, RedisStore
from featurechaos_redis.wire import Encoder

if TYPE_CHECKING:
    from featurechaos.demo.servers import ValkeyServer
    from tests.redis.conftest import Kit, TlsFront

pytestmark = pytest.mark.live

IDS, OTHERS = [f"user-{at}" for at in range(20)], [f"nobody-{at}" for at in range(20)]


def until_readable(sock: Any) -> None:
    """Wait without letting an event loop run."""
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    assert poller.poll(5000)


def leave_a_reply(kit: Kit, store: RedisStore, ids: list[str]) -> None:
    """On the idle connection there is now the answer to a read of these."""
    command, _ = Encoder().mget([kit.ask(ids)])
    link = store._pool.take(kit.now() + 5)
    link.sock.settimeout(5)
    link.sock.sendall(command)
    until_readable(link.sock)
    if store._spec.address.scheme != "rediss":
        link.sock.setblocking(False)
    store._pool.give(link)


def read(kit: Kit, store: RedisStore, ids: list[str]) -> Any:
    return store.read([kit.ask(ids)], kit.now() + 5)


def read_pending(kit: Kit, store: RedisStore, ids: list[str]) -> Any:
    return kit.finished(store.begin([kit.ask(ids)], kit.now() + 5))


@pytest.mark.parametrize("n", [1, 20])
@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("reading", [read, read_pending])
@pytest.mark.parametrize("way", ["tcp", "unix", "tls"])
def test_stray_reply_is_not_the_next_readers(
    way: str,
    reading: Callable[..., Any],
    protocol: int,
    n: int,
    kit: Kit,
    valkey: ValkeyServer,
    tls: TlsFront,
    opened: Callable[..., RedisStore],
) -> None:
    url = {"tcp": valkey.url, "unix": f"unix://{valkey.unixsocket_path}", "tls": tls.url}[way]
    trust = {"ssl_ca_certs": str(tls.certificate)} if way == "tls" else {}
    store = opened(url, options={"protocol": protocol, **trust})
    written = kit.batch(IDS[:n], 5)
    store.write(written, kit.now() + 5)

    leave_a_reply(kit, store, OTHERS[:n])

    assert reading(kit, store, IDS[:n]) == [written.blobs]
    assert reading(kit, store, OTHERS[:n]) == [[None] * n]
    assert store.stats()["dialled"] == 2


@pytest.mark.parametrize("is_cancelled", [False, True])
@pytest.mark.parametrize("protocol", [2, 3])
def test_stray_reply_is_not_the_next_tasks(
    protocol: int,
    is_cancelled: bool,
    kit: Kit,
    valkey: ValkeyServer,
    admin: Redis,
    aopened: Callable[..., AsyncRedisStore],
) -> None:
    written, command = kit.batch(IDS, 5), Encoder().mget([kit.ask(OTHERS)])[0]

    async def act() -> dict[str, int]:
        store = aopened(valkey.url, options={"protocol": protocol})
        await store.write(written, kit.now() + 5)
        pool = store._pool(asyncio.get_running_loop())
        link = pool.poll()
        assert link is not None
        link._transport.write(command)
        until_readable(link._transport.get_extra_info("socket"))
        pool.give(link)
        if is_cancelled:
            task = asyncio.ensure_future(store.read([kit.ask(IDS)], kit.now() + 5))
            await asyncio.sleep(0)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        assert await store.read([kit.ask(IDS)], kit.now() + 5) == [written.blobs]
        stats = store.stats()
        await store.close()
        return stats

    stats = asyncio.run(act())
    assert stats["open"] == stats["idle"] == 1
    assert stats["dialled"] == 2
