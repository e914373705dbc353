"""A primary that sentinels watch: found before each dial, and found anew when it is another."""

from __future__ import annotations

import asyncio
import select
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from redis import Redis

from featurechaos.config import load
from featurechaos.demo.clusters import SentinelServer
from featurechaos.demo.servers import ValkeyServer
from featurechaos.errors import StoreRefused, StoreTimeout, StoreUnavailable
from featurechaos_redis import RedisStore
from featurechaos_redis.chart import At
from featurechaos_redis.errors import Dropped, error_reply
from featurechaos_redis.sentinel import check_role, replicas_of, whom
from tests.redis.conftest import spec

if TYPE_CHECKING:
    from tests.redis.conftest import Kit

IDS = [f"user-{at}" for at in range(20)]
LONG_S, SLACK_S = 10.0, 0.25
NAMED = {"service_name": "mymaster"}
PASSWORD, OWN = "servers-pass", "sentinels-pass"


pytestmark = pytest.mark.long


@dataclass(frozen=True, slots=True)
class Watched:
    """A primary, its replica, and the sentinel that watches both."""

    primary: ValkeyServer
    replica: ValkeyServer
    sentinel: SentinelServer

    @property
    def url(self) -> str:
        return f"redis://:{PASSWORD}@127.0.0.1:{self.sentinel.port}"

    @property
    def options(self) -> dict[str, Any]:
        return {**NAMED, "sentinel_kwargs": {"password": OWN}}

    def ask(self, *command: str) -> Any:
        with Redis(port=self.sentinel.port, password=OWN, protocol=2) as client:
            client.response_callbacks.clear()
            return client.execute_command(*command)

    def named(self) -> int:
        """The port of whom the sentinel names."""
        return int(self.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster")[1])

    def is_copied(self) -> bool:
        with Redis(port=self.replica.port, password=PASSWORD, protocol=2) as client:
            return bool(client.info("replication")["master_link_status"] == "up" and client.dbsize() > 0)

    def knows_replica(self) -> bool:
        return bool(replicas_of(self.ask("SENTINEL", "REPLICAS", "mymaster")))


@pytest.fixture
def watched(kit: Kit) -> Iterator[Watched]:
    with ExitStack() as stack:
        auth = ["--masterauth", PASSWORD]
        primary = stack.enter_context(ValkeyServer(password=PASSWORD, extra=auth))
        follow = ["--replicaof", "127.0.0.1", str(primary.port), "--repl-diskless-sync-delay", "0"]
        replica = stack.enter_context(ValkeyServer(password=PASSWORD, extra=[*auth, *follow]))
        sentinel = stack.enter_context(SentinelServer(primary, password=OWN, watched_password=PASSWORD))
        made = Watched(primary, replica, sentinel)
        wait_for(kit, made.knows_replica)
        yield made


@pytest.fixture
def opened(kit: Kit) -> Iterator[Callable[..., RedisStore]]:
    with ExitStack() as stack:

        def make(url: str, **settings: Any) -> RedisStore:
            made: RedisStore = RedisStore.open(spec(url, mode="sentinel", **settings), kit.place)
            stack.callback(made.close)
            return made

        yield make


def wait_for(kit: Kit, is_true: Callable[[], bool], most_s: float = 30.0) -> None:
    until = kit.now() + most_s
    while not is_true():
        assert kit.now() < until
        select.select([], [], [], 0.02)


def is_served(kit: Kit, store: RedisStore) -> bool:
    try:
        return store.read([kit.ask(IDS)], kit.now() + 1) == [kit.batch(IDS, 5).blobs]
    except StoreUnavailable:
        return False


@pytest.mark.live
def test_primary_is_found_and_found_again_after_it_was_killed(
    kit: Kit, watched: Watched, opened: Callable[..., RedisStore]
) -> None:
    store = opened(watched.url, options=watched.options)
    store.write(kit.batch(IDS, 5), kit.now() + LONG_S)
    assert is_served(kit, store)
    wait_for(kit, watched.is_copied)

    watched.primary.kill()
    with pytest.raises(StoreUnavailable):
        store.read([kit.ask(IDS)], kit.now() + 1)
    wait_for(kit, lambda: is_served(kit, store))

    assert watched.named() == watched.replica.port
    assert store.write(kit.batch(IDS, 6), kit.now() + LONG_S).written == len(IDS)


@pytest.mark.live
def test_frozen_primary_keeps_the_deadline_and_its_idle_connections_are_not_met_one_by_one(
    kit: Kit, watched: Watched, opened: Callable[..., RedisStore]
) -> None:
    store = opened(watched.url, options=watched.options)
    store.write(kit.batch(IDS, 5), kit.now() + LONG_S)
    wait_for(kit, watched.is_copied)
    fill_pool(kit, store)
    assert store.stats()["idle"] == 8

    watched.primary.freeze()
    begun = kit.now()
    with pytest.raises(StoreTimeout):
        store.read([kit.ask(IDS)], begun + 0.1)
    assert kit.now() - begun < 0.1 + SLACK_S
    wait_for(kit, lambda: watched.named() == watched.replica.port)
    failed = 0
    while not is_served(kit, store):
        failed += 1
        assert failed < 4
    watched.primary.thaw()
    for _ in range(20):
        assert is_served(kit, store)


def fill_pool(kit: Kit, store: RedisStore) -> None:
    """Have eight connections open at once."""
    links = [store._pool.take(kit.now() + LONG_S) for _ in range(8)]
    for link in links:
        store._pool.give(link)


@pytest.mark.live
def test_replica_is_read_where_the_role_says_so_and_the_primary_where_none_is_well(
    kit: Kit, watched: Watched, opened: Callable[..., RedisStore]
) -> None:
    opened(watched.url, options=watched.options).write(kit.batch(IDS, 5), kit.now() + LONG_S)
    wait_for(kit, watched.is_copied)

    second = opened(watched.url, options=watched.options, role="replica")

    assert is_served(kit, second)
    assert gets(watched.replica) > 0
    assert not second.writable
    watched.replica.kill()
    wait_for(kit, lambda: not watched.knows_replica())
    wait_for(kit, lambda: is_served(kit, second))
    assert gets(watched.primary) > 0


def gets(server: ValkeyServer) -> int:
    with Redis(port=server.port, password=PASSWORD, protocol=2) as client:
        return int(client.info("commandstats").get("cmdstat_mget", {}).get("calls", 0))


@pytest.mark.live
def test_sentinels_that_are_gone_or_silent_are_passed_over(
    kit: Kit, watched: Watched, opened: Callable[..., RedisStore], silent: Callable[[], int]
) -> None:
    user, at, host = watched.url.rpartition("@")
    store = opened(f"{user}{at}127.0.0.1:1,127.0.0.1:{silent()},{host}", options=watched.options)

    begun = kit.now()
    assert store.write(kit.batch(IDS, 5), begun + LONG_S).written == len(IDS)
    assert kit.now() - begun < 3
    fill_pool(kit, store)
    assert kit.now() - begun < 4, "the one that answered is asked first"


@pytest.mark.live
@pytest.mark.parametrize(
    ("settings", "kind", "says"),
    [
        ({"service_name": "another"}, StoreUnavailable, "no sentinel knows a primary called 'another'"),
        ({"sentinel_kwargs": {"password": "wr0ng"}}, StoreRefused, "no connection"),
        ({"sentinel_kwargs": {}}, StoreRefused, "NOAUTH"),
    ],
)
def test_what_sentinels_do_not_tell_is_said_plainly(
    kit: Kit,
    watched: Watched,
    opened: Callable[..., RedisStore],
    settings: dict[str, Any],
    kind: type[Exception],
    says: str,
) -> None:
    store = opened(watched.url, options={**watched.options, **settings})

    with pytest.raises(kind, match=says) as caught:
        store.read([kit.ask(IDS)], kit.now() + LONG_S)

    assert "wr0ng" not in str(caught.value)


@pytest.mark.live
def test_close_leaves_no_thread(kit: Kit, watched: Watched, opened: Callable[..., RedisStore]) -> None:
    before = set(threading.enumerate())
    store = opened(watched.url, options=watched.options)
    store.health(kit.now() + LONG_S)
    watched.primary.freeze()
    with pytest.raises(StoreTimeout):
        store.read([kit.ask(IDS)], kit.now() + 0.05)

    store.close()

    assert not [each for each in set(threading.enumerate()) - before if "featurechaos" in each.name]
    assert store.stats()["open"] == 0
    watched.primary.thaw()


@pytest.mark.live
def test_async_reads_find_the_new_primary_too(kit: Kit, watched: Watched) -> None:
    async def served(store: Any) -> bool:
        try:
            return bool(await store.read([kit.ask(IDS)], kit.now() + 1) == [kit.batch(IDS, 5).blobs])
        except StoreUnavailable:
            return False

    async def act() -> None:
        store = RedisStore.aopen(spec(watched.url, mode="sentinel", options=watched.options), kit.place)
        try:
            await store.write(kit.batch(IDS, 5), kit.now() + LONG_S)
            assert await served(store)
            await asyncio.gather(*(served(store) for _ in range(8)))
            wait_for(kit, watched.is_copied)
            watched.primary.freeze()
            begun = kit.now()
            with pytest.raises(StoreTimeout):
                await store.read([kit.ask(IDS)], begun + 0.1)
            assert kit.now() - begun < 0.1 + SLACK_S
            until = kit.now() + 30
            while watched.named() != watched.replica.port:
                assert kit.now() < until
                await asyncio.sleep(0.02)
            failed = 0
            while not await served(store):
                failed += 1
                assert failed < 4
            assert (await store.write(kit.batch(IDS, 6), kit.now() + LONG_S)).written == len(IDS)
        finally:
            watched.primary.thaw()
            await store.close()
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(act())


def told(replies: list[Any], **settings: Any) -> Any:
    """Whom a sentinel that gives these replies names."""
    found = whom(spec("redis://a", mode="sentinel", options=NAMED, **settings))
    try:
        next(found)
        for reply in replies:
            found.send(reply)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it asks on")


def replica(port: int, flags: bytes = b"slave", link: bytes = b"ok") -> list[bytes]:
    return [b"ip", b"10.0.0.1", b"port", b"%d" % port, b"flags", flags, b"master-link-status", link]


def test_what_a_sentinel_says_is_read() -> None:
    assert told([[b"10.0.0.1", b"7"]]) == [At("10.0.0.1", 7)]
    assert told([None]) == told([b"?"]) == []
    assert told([[replica(8), replica(9)]], role="replica") == [At("10.0.0.1", 8), At("10.0.0.1", 9)]
    ailing = [replica(8, b"s_down,slave"), replica(9, link=b"err")]
    assert told([ailing, [b"10.0.0.2", b"7"]], role="replica") == [At("10.0.0.2", 7)]
    with pytest.raises(Exception, match="NOAUTH"):
        told([error_reply("NOAUTH Authentication required.")])


@pytest.mark.parametrize("reply", [None, b"x", [b"x"], [[b"ip"]], [[b"ip", b"h", b"flags", b"slave", b"port", b"x"]]])
def test_replicas_that_can_not_be_read_are_none(reply: Any) -> None:
    assert replicas_of(reply) == []


def test_server_that_is_no_primary_is_not_taken_for_one() -> None:
    settings = spec("redis://a", mode="sentinel", options=NAMED)

    with pytest.raises(Dropped, match="says that it is none"):
        check_role([b"slave", b"h", 1, b"connected", 0], settings, At("h", 1))
    check_role([b"master", 0, []], settings, At("h", 1))
    check_role(error_reply("NOPERM no permissions to run the 'role' command"), settings, At("h", 1))


def test_role_of_a_config_reaches_the_store() -> None:
    settings = load(
        {
            "project": "p",
            "sources": {
                "primary": {"type": "redis", "url": "redis://a"},
                "second": {
                    "type": "redis",
                    "mode": "sentinel",
                    "url": "redis://a,b",
                    "role": "replica",
                    "options": NAMED,
                },
            },
            "views": [{"name": "v", "join_keys": {"k": "string"}, "features": {"f": {"dtype": "int32"}}}],
            "policy": {"deadline_s": 0.1},
        }
    )

    assert [settings.sources[name].spec.role for name in ("primary", "second")] == [None, "replica"]  # type: ignore[attr-defined]
