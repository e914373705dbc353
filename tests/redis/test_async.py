"""The async store: the same answers, and cancelling never hands a reply to the wrong request."""

from __future__ import annotations

import asyncio
import gc
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from redis import Redis

from featurechaos.demo.proxy import TrickleProxy
from featurechaos.demo.servers import ValkeyServer
from featurechaos.errors import StoreTimeout, StoreUnavailable
from featurechaos_redis import AsyncRedisStore

if TYPE_CHECKING:
    from tests.redis.conftest import Kit, Stalls

pytestmark = pytest.mark.live

T = TypeVar("T")
AsyncOpener = Callable[..., AsyncRedisStore]
IDS = [f"user-{at}" for at in range(200)]
SLACK_S = 0.01


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    with ValkeyServer(unixsocket=True) as server:
        yield server


def using(store: AsyncRedisStore, act: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run on a fresh loop and close the store on it."""

    async def run() -> T:
        try:
            return await act()
        finally:
            await store.close()

    return asyncio.run(run())


def clients(server: ValkeyServer) -> int:
    with Redis(port=server.port, protocol=2) as admin:
        return len(admin.client_list()) - 1


@pytest.mark.parametrize("way", ["tcp", "unix"])
def test_rows_written_are_the_rows_read(kit: Kit, server: ValkeyServer, aopened: AsyncOpener, way: str) -> None:
    store = aopened(server.url if way == "tcp" else f"unix://{server.unixsocket_path}?db=2")
    written = kit.batch(IDS, 5)

    async def act() -> list[Any]:
        assert (await store.write(written, kit.now() + 5)).written == len(IDS)
        assert (await store.write(kit.batch(IDS[:3], 4), kit.now() + 5)).older == 3
        hashes = [written.ask.layout.hash, 1]
        found = await store.layouts("proj", hashes, kit.now() + 5)
        assert found == {written.ask.layout.hash: written.ask.layout.describe()}
        mark = await store.watermark(kit.view, kit.now() + 5)
        assert mark is not None
        assert mark[0] == 5
        assert await store.health(kit.now() + 5) < 5
        assert await store.read([kit.ask([])], kit.now() + 5) == [[]]
        with pytest.raises(StoreUnavailable, match="no history"):
            await store.read([kit.ask(IDS)], kit.now() + 5, as_of_us=1)
        return await store.read([kit.ask([*IDS, "nobody"]), kit.ask(IDS[:1], kit.other)], kit.now() + 5)

    assert using(store, act) == [[*written.blobs, None], [None]]
    assert clients(server) == 0


def test_cancel_storm_hands_no_reply_to_another_request_and_leaks_no_client(
    kit: Kit, server: ValkeyServer, aopened: AsyncOpener, seed: int
) -> None:
    store = aopened(server.url, max_connections=16)
    written = kit.batch(IDS, 5).blobs
    draw = random.Random(seed)
    ends: Counter[str] = Counter()

    async def one() -> None:
        picked = draw.sample(range(len(IDS)), draw.randint(1, 5))
        ask, wait_s = kit.ask([IDS[at] for at in picked]), draw.uniform(0.0002, 0.05)
        try:
            async with asyncio.timeout(wait_s if draw.random() < 0.7 else wait_s / 20):
                (answer,) = await store.read([ask], kit.now() + 10)
        except TimeoutError:
            ends["cancelled"] += 1
            return
        assert answer == [written[at] for at in picked]
        ends["right"] += 1

    async def act() -> dict[str, int]:
        await store.write(kit.batch(IDS, 5), kit.now() + 5)
        for _ in range(60):
            await asyncio.gather(*(one() for _ in range(40)))
        await settle(lambda: store.stats()["dialling"] == store.stats()["waiting"] == 0, kit)
        stats = store.stats()
        await settle(lambda: clients(server) == stats["open"], kit)
        return stats

    stats = using(store, act)

    assert sum(ends.values()) == 2400
    assert ends["right"] > 300
    assert ends["cancelled"] > 100
    assert stats["open"] == stats["idle"] <= 16
    wait_gone(kit, server)


@pytest.mark.parametrize("hurt", ["frozen", "trickle", "paused"])
def test_read_ends_by_its_deadline(
    kit: Kit, stalls: Stalls, server: ValkeyServer, aopened: AsyncOpener, hurt: str
) -> None:
    with TrickleProxy(server.port) as proxy, Redis(port=server.port, protocol=2) as admin:
        store = aopened(f"redis://127.0.0.1:{proxy.port}")
        late: list[tuple[float, float]] = []

        async def one() -> None:
            until = kit.now() + 0.04
            with pytest.raises(StoreTimeout):
                await store.read([kit.ask(IDS[:20])], until)
            late.append((until, kit.now()))

        async def act() -> None:
            await store.write(kit.batch(IDS, 5), kit.now() + 5)
            if hurt == "frozen":
                server.freeze()
            elif hurt == "trickle":
                proxy.turn("trickle", every_s=0.005)
            else:
                admin.client_pause(3000, all=True)
            for _ in range(5):
                await asyncio.gather(*(one() for _ in range(8)))
            if hurt == "frozen":
                server.thaw()
            proxy.turn("pass")

        using(store, act)

    beyond = [(until, end) for until, end in late if end > until + SLACK_S]
    assert len(late) == 40
    assert not [end - until for until, end in beyond if not stalls.excuse(until - 0.04, end)]


def test_dead_server_is_told_at_once_and_a_restarted_one_serves(
    kit: Kit, server: ValkeyServer, aopened: AsyncOpener
) -> None:
    store = aopened(server.url)

    async def act() -> list[Any]:
        await store.write(kit.batch(IDS, 5), kit.now() + 5)
        server.kill()
        begun = kit.now()
        for _ in range(20):
            with pytest.raises(StoreUnavailable, match="primary"):
                await store.read([kit.ask(IDS)], kit.now() + 10)
        assert kit.now() - begun < 5
        assert store.stats()["dial_failures"] < 20
        server.restart()
        await asyncio.sleep(0.15)  # Longer than the longest pause between two dials.
        return await store.read([kit.ask(IDS[:2])], kit.now() + 10)

    assert using(store, act) == [[None, None]]


def test_connection_dead_in_the_pool_is_replaced_within_the_same_read(
    kit: Kit, server: ValkeyServer, aopened: AsyncOpener
) -> None:
    store = aopened(server.url)

    async def act() -> None:
        for _ in range(3):
            assert await store.read([kit.ask(["a"])], kit.now() + 10) == [[None]]
            server.restart()
            assert await store.read([kit.ask(["a"])], kit.now() + 10) == [[None]]

    using(store, act)


def test_exhausted_pool_serves_callers_in_turn(kit: Kit, server: ValkeyServer, aopened: AsyncOpener) -> None:
    store = aopened(server.url, max_connections=2)
    order: list[int] = []

    async def one(at: int) -> None:
        await store.read([kit.ask([IDS[at]])], kit.now() + 10)
        order.append(at)

    async def act() -> int:
        await store.health(kit.now() + 5)
        await asyncio.gather(*(one(at) for at in range(100)))
        return store.stats()["open"]

    assert using(store, act) <= 2
    assert sorted(order) == list(range(100))
    assert max(abs(at - place) for place, at in enumerate(order)) <= 4


def test_cancelled_dial_is_not_lost_and_serves_the_next(kit: Kit, server: ValkeyServer, aopened: AsyncOpener) -> None:
    store = aopened(server.url)

    async def act() -> int:
        first = asyncio.ensure_future(store.read([kit.ask(["a"])], kit.now() + 10))
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        await store.read([kit.ask(["a"])], kit.now() + 10)
        return store.stats()["dialled"]

    assert using(store, act) == 1


def test_each_loop_has_connections_of_its_own(kit: Kit, server: ValkeyServer, aopened: AsyncOpener) -> None:
    store = aopened(server.url)

    async def act() -> tuple[Any, int]:
        return await store.read([kit.ask(["a"])], kit.now() + 5), store.stats()["dialled"]

    loops = [asyncio.new_event_loop() for _ in range(2)]
    got = [loop.run_until_complete(act()) for loop in loops]
    for loop in loops:
        loop.run_until_complete(store.close())
        loop.run_until_complete(asyncio.sleep(0.01))
        loop.close()

    assert [answer for answer, _ in got] == [[[None]]] * 2
    assert [dialled for _, dialled in got] == [1, 2]
    wait_gone(kit, server)


def test_closed_store_refuses_and_leaves_no_task_and_no_client(
    kit: Kit, server: ValkeyServer, aopened: AsyncOpener
) -> None:
    store = aopened(server.url)

    async def act() -> None:
        await store.health(kit.now() + 5)
        server.freeze()
        under_way = [asyncio.ensure_future(store.read([kit.ask(["a"])], kit.now() + 10)) for _ in range(5)]
        await asyncio.sleep(0.01)
        await store.close()
        await store.close()
        for each in under_way:
            with pytest.raises(StoreUnavailable):
                await each
        with pytest.raises(StoreUnavailable, match="closed"):
            await store.read([kit.ask(["a"])], kit.now() + 1)
        assert len(asyncio.all_tasks()) == 1
        server.thaw()

    asyncio.run(act())

    gc.collect()
    wait_gone(kit, server)


async def settle(is_true: Callable[[], bool], kit: Kit) -> None:
    until = kit.now() + 10
    while not is_true():
        assert kit.now() < until
        await asyncio.sleep(0.01)


def wait_gone(kit: Kit, server: ValkeyServer) -> None:
    until = kit.now() + 10
    while clients(server):
        assert kit.now() < until


def test_awaitables_are_what_the_protocol_says(aopened: AsyncOpener) -> None:
    close: Callable[[], Awaitable[None]] = aopened("redis://127.0.0.1:1").close

    asyncio.run(close())  # type: ignore[arg-type]
