"""A real cluster of three shards, and what it does to reads when it loses one, moves a slot or promotes a replica."""

from __future__ import annotations

import asyncio
import gc
import select
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from featurechaos.demo.clusters import ClusterNode, ValkeyCluster
from featurechaos.demo.servers import ValkeyServer
from featurechaos.errors import StoreRefused, StoreTimeout, StoreUnavailable
from featurechaos.model import View
from featurechaos.stores import Partial
from featurechaos_redis import RedisStore
from featurechaos_redis.chart import slot_of
from featurechaos_redis.cluster import ClusterStore
from tests.redis.conftest import spec
from tests.redis.test_pool import just_failed

if TYPE_CHECKING:
    from tests.redis.conftest import Kit

pytestmark = [pytest.mark.live, pytest.mark.long]

IDS = [f"user-{at}" for at in range(60)]
LONG_S, SLACK_S = 10.0, 0.25
Opener = Callable[..., ClusterStore]


@pytest.fixture(scope="module")
def cluster() -> Iterator[ValkeyCluster]:
    """One cluster for the file; a test that hurts it mends it."""
    with ValkeyCluster() as cluster:
        yield cluster


@pytest.fixture
def opened(kit: Kit) -> Iterator[Opener]:
    with ExitStack() as stack:

        def make(url: str, **settings: Any) -> ClusterStore:
            made: ClusterStore = RedisStore.open(spec(url, mode="cluster", **settings), kit.place)
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture
def store(cluster: ValkeyCluster, opened: Opener, kit: Kit) -> ClusterStore:
    """A store that has written some rows and knows the map."""
    for node in cluster.nodes:
        node.ask("FLUSHALL")
    made = opened(cluster.url)
    made.write(kit.batch(IDS, 5), kit.now() + LONG_S)
    made.write(kit.batch(IDS, 5, view=kit.other), kit.now() + LONG_S)
    return made


def key_of(view: View, id_: str) -> bytes:
    return view.head + id_.encode() + b"}"


def of_node(cluster: ValkeyCluster, node: ClusterNode, kit: Kit) -> list[int]:
    """The places of the ids whose rows a node has."""
    return [at for at, id_ in enumerate(IDS) if cluster.node_of(slot_of(key_of(kit.view, id_))) is node]


def wait_for(kit: Kit, is_true: Callable[[], bool], most_s: float = 20.0) -> None:
    until = kit.now() + most_s
    while not is_true():
        assert kit.now() < until
        select.select([], [], [], 0.02)


def whole(kit: Kit, store: ClusterStore) -> bool:
    try:
        return bool(store.read([kit.ask(IDS)], kit.now() + 1) == [kit.batch(IDS, 5).blobs])
    except StoreUnavailable:
        return False


def test_rows_of_all_shards_come_back_in_one_read(kit: Kit, store: ClusterStore, cluster: ValkeyCluster) -> None:
    for node in cluster.nodes:
        node.ask("CONFIG", "RESETSTAT")

    answers = store.read([kit.ask([*IDS, "nobody"]), kit.ask(IDS, kit.other)], kit.now() + LONG_S)

    assert answers == [[*kit.batch(IDS, 5).blobs, None], kit.batch(IDS, 5, view=kit.other).blobs]
    calls = [node.ask("INFO", "commandstats")["cmdstat_mget"]["calls"] for node in cluster.nodes]
    assert all(calls)
    assert sum(calls) == len({slot_of(key_of(kit.view, id_)) for id_ in [*IDS, "nobody"]}), "the views share a slot"
    assert store.stats()["shards"] == 3
    mark = store.watermark(kit.view, kit.now() + LONG_S)
    assert mark is not None
    assert mark[0] == 5
    assert store.health(kit.now() + LONG_S) < LONG_S


def test_walk_finds_every_row_of_every_shard(kit: Kit, store: ClusterStore) -> None:
    pages = list(store.rows(kit.view, page=10, rows_per_s=1e6, wait=lambda _: None))

    found = {id_.decode(): blob for ids, blobs in pages for id_, blob in zip(ids, blobs, strict=True)}
    assert found == dict(zip(IDS, kit.batch(IDS, 5).blobs, strict=True))


def test_pending_read_of_all_shards_can_be_waited_for_and_abandoned(kit: Kit, store: ClusterStore) -> None:
    for _ in range(5):
        left = store.begin([kit.ask(IDS)], kit.now() + LONG_S)
        left.abandon()
        left.abandon()
        assert kit.finished(store.begin([kit.ask(IDS)], kit.now() + LONG_S)) == [kit.batch(IDS, 5).blobs]
    assert kit.finished(store.begin([kit.ask([])], kit.now() + LONG_S)) == [[]]


def test_first_read_may_be_a_pending_one(kit: Kit, store: ClusterStore, cluster: ValkeyCluster, opened: Opener) -> None:
    fresh = opened(cluster.url)

    assert kit.finished(fresh.begin([kit.ask(IDS)], kit.now() + LONG_S)) == [kit.batch(IDS, 5).blobs]


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_dead_shard_costs_its_own_rows_and_no_time_past_the_deadline(
    kit: Kit, store: ClusterStore, cluster: ValkeyCluster, how: str
) -> None:
    victim = cluster.nodes[1]
    dead = of_node(cluster, victim, kit)
    blobs = kit.batch(IDS, 5).blobs
    assert 5 < len(dead) < 50

    if how == "killed":
        victim.kill()
    else:
        victim.freeze()
    try:
        for _ in range(5):
            begun = kit.now()
            (answer,) = store.read([kit.ask(IDS)], begun + 0.1)
            took_s = kit.now() - begun

            assert isinstance(answer, Partial)
            ((error, lost),) = answer.lost
            assert sorted(lost.tolist()) == dead
            assert answer.rows == [None if at in dead else blob for at, blob in enumerate(blobs)]
            assert error.shard == f"127.0.0.1:{victim.port}"
            assert isinstance(error, StoreTimeout) == (how == "frozen")
            assert took_s < 0.1 + SLACK_S
        alive = [id_ for at, id_ in enumerate(IDS) if at not in dead]
        assert None not in store.read([kit.ask(alive)], kit.now() + LONG_S)[0]  # type: ignore[operator]
        with pytest.raises(StoreUnavailable) as caught:
            store.read([kit.ask([IDS[dead[0]]])], kit.now() + 0.1)
        assert caught.value.shard == f"127.0.0.1:{victim.port}"
    finally:
        if how == "killed":
            cluster.restart()
        else:
            victim.thaw()
            cluster.wait()
    wait_for(kit, lambda: not isinstance(store.read([kit.ask(IDS)], kit.now() + LONG_S)[0], Partial))


def test_write_that_a_shard_did_not_take_says_how_many_rows(
    kit: Kit, store: ClusterStore, cluster: ValkeyCluster
) -> None:
    # Of the shards that hold neither the layout nor the watermark, for either of which a write fails whole.
    layout = kit.ask([]).layout
    fixed = [f"fc:proj:layout:{layout.hash:016x}".encode(), b"fc:proj:watermark:alpha"]
    busy = {cluster.node_of(slot_of(key)).port for key in fixed}
    victim = next(node for node in cluster.nodes if node.port not in busy)
    dead = of_node(cluster, victim, kit)

    victim.freeze()
    try:
        counts = store.write(kit.batch(IDS, 6), kit.now() + 0.2)
    finally:
        victim.thaw()
        cluster.wait()

    assert (counts.written, counts.older, counts.failed) == (len(IDS) - len(dead), 0, len(dead))
    assert counts.is_late
    assert f"127.0.0.1:{victim.port}" in str(counts.error)
    mark = store.watermark(kit.view, kit.now() + LONG_S)
    assert mark is not None
    assert mark[0] == 5, "not everything up to 6 is written"


def test_write_in_the_pause_after_a_failed_dial_of_a_shard_is_taken(kit: Kit, store: ClusterStore) -> None:
    for node in store._cluster.chart.nodes():
        just_failed(node.pool)
        node.pool._purge()

    counts = store.write(kit.batch(IDS, 6), kit.now() + LONG_S)

    assert (counts.written, counts.failed) == (len(IDS), 0)


def test_async_write_in_the_pause_after_a_failed_dial_of_a_shard_is_taken(kit: Kit, cluster: ValkeyCluster) -> None:
    store = RedisStore.aopen(spec(cluster.url, mode="cluster"), kit.place)

    async def act() -> Any:
        try:
            await store.health(kit.now() + LONG_S)
            for node in store._loop().chart.nodes():
                just_failed(node.pool)
                for link in node.pool._idle[:]:
                    node.pool._idle.remove(link)
                    node.pool.drop(link)
            return await store.write(kit.batch(IDS, 7), kit.now() + LONG_S)
        finally:
            await store.close()

    counts = asyncio.run(act())

    assert (counts.written + counts.older, counts.failed) == (len(IDS), 0)


def test_restart_of_a_node_between_reads_costs_no_row(kit: Kit, store: ClusterStore, cluster: ValkeyCluster) -> None:
    assert whole(kit, store)

    cluster.nodes[0].kill()
    cluster.restart()
    (answer,) = store.read([kit.ask(IDS)], kit.now() + LONG_S)

    assert isinstance(answer, list)
    assert answer.count(None) < len(IDS), "it came back empty, the others did not"


def test_moved_slot_costs_one_hop_and_is_learned(kit: Kit, store: ClusterStore, cluster: ValkeyCluster) -> None:
    slot = slot_of(key_of(kit.view, IDS[0]))
    was = cluster.node_of(slot)
    to = next(node for node in cluster.nodes if node is not was)

    # Who asked for the map a moment ago does not ask again for one slot: that one is known from the redirection.
    wait_for(kit, lambda: store._cluster.scout._pace.may(kit.now()))
    cluster.move(slot, to)
    try:
        for node in cluster.nodes:
            node.ask("CONFIG", "RESETSTAT")
        assert whole(kit, store)
        assert store.write(kit.batch(IDS, 5), kit.now() + LONG_S).written == len(IDS)
        assert whole(kit, store)

        assert moved(was) == 1
        wait_for(kit, lambda: slots_asked(cluster) >= 1)
        assert slots_asked(cluster) == 1
    finally:
        cluster.move(slot, was)
    assert whole(kit, store)


def moved(node: ClusterNode) -> int:
    return int(node.ask("INFO", "errorstats").get("errorstat_MOVED", {}).get("count", 0))


def slots_asked(cluster: ValkeyCluster) -> int:
    stats = [node.ask("INFO", "commandstats") for node in cluster.nodes]
    return sum(each.get("cmdstat_cluster|slots", {}).get("calls", 0) for each in stats)


@pytest.mark.parametrize("moved_keys", [[], ["alpha"], ["alpha", "beta"]], ids=["none", "some", "all"])
def test_slot_that_is_just_moving_is_read_and_written_whole(
    kit: Kit, store: ClusterStore, cluster: ValkeyCluster, moved_keys: list[str]
) -> None:
    views = {"alpha": kit.view, "beta": kit.other}
    asks = [kit.ask([IDS[0]]), kit.ask([IDS[0]], kit.other)]
    slot = slot_of(key_of(kit.view, IDS[0]))
    was = cluster.node_of(slot)
    to = next(node for node in cluster.nodes if node is not was)
    before = store.read(asks, kit.now() + LONG_S)
    assert None not in [row for answer in before for row in answer]  # type: ignore[union-attr]

    cluster.move(slot, to, leave_open=True, keys=[key_of(views[name], IDS[0]) for name in moved_keys])
    try:
        assert store.read(asks, kit.now() + LONG_S) == before
        assert store.write(kit.batch([IDS[0]], 6), kit.now() + LONG_S).written == 1
        assert store.write(kit.batch([IDS[0]], 4), kit.now() + LONG_S).older == 1
        assert store.read(asks, kit.now() + LONG_S) == [kit.batch([IDS[0]], 6).blobs, before[1]]
        assert store.stats()["dialled"] <= 8, "being sent elsewhere costs no connection"
    finally:
        for key in was.ask("CLUSTER", "GETKEYSINSLOT", slot, 100):
            was.ask("MIGRATE", "127.0.0.1", to.port, key, 0, 5000)
        cluster.settle(slot, to)
        cluster.move(slot, was)
    assert store.read(asks, kit.now() + LONG_S) == [kit.batch([IDS[0]], 6).blobs, before[1]]


def test_rows_are_whole_and_true_while_slots_go_back_and_forth(
    kit: Kit, store: ClusterStore, cluster: ValkeyCluster, seed: int
) -> None:
    blobs = dict(zip(IDS, kit.batch(IDS, 5).blobs, strict=True))
    wrong: list[Any] = []
    counts: Counter[str] = Counter()
    stop = threading.Event()

    def reads(number: int) -> None:
        draw = Random(seed + number)
        while not stop.wait(0.002):
            ids = [*draw.sample(IDS, 7), f"nobody-{draw.randint(0, 99)}"]
            until = kit.now() + LONG_S
            asks = [kit.ask(ids), kit.ask(ids, kit.other)]
            answers = store.read(asks, until) if draw.random() < 0.7 else kit.finished(store.begin(asks, until))
            counts["reads"] += 1
            if answers[0] != [*(blobs[id_] for id_ in ids[:-1]), None]:
                wrong.append((ids, answers[0]))
            if answers[1] != [*(blobs_of_other[id_] for id_ in ids[:-1]), None]:
                wrong.append((ids, answers[1]))

    blobs_of_other = dict(zip(IDS, kit.batch(IDS, 5, view=kit.other).blobs, strict=True))
    together = [threading.Thread(target=guarded, args=(reads, number, wrong)) for number in range(4)]
    for thread in together:
        thread.start()
    for turn in range(6):
        slot = slot_of(key_of(kit.view, IDS[turn]))
        was = cluster.node_of(slot)
        to = cluster.nodes[(cluster.nodes.index(was) + 1) % 3]
        cluster.move(slot, to)
        cluster.move(slot, was)
    stop.set()
    for thread in together:
        thread.join(30)

    assert not wrong
    assert counts["reads"] > 20


def guarded(work: Callable[[int], None], number: int, wrong: list[Any]) -> None:
    try:
        work(number)
    except Exception as error:  # noqa: BLE001 - told by the thread that waits
        wrong.append(error)


def test_store_left_unclosed_is_collected_with_its_sockets(kit: Kit, cluster: ValkeyCluster) -> None:
    store = RedisStore.open(spec(cluster.url, mode="cluster", options={"client_name": "left"}), kit.place)
    store.health(kit.now() + LONG_S)
    assert sum(named(node, "left") for node in cluster.nodes) >= 3
    seen = weakref.ref(store)
    gc.disable()
    try:
        del store

        # Without the cycle collector: nothing in a store refers back to it.
        wait_for(kit, lambda: seen() is None)
        wait_for(kit, lambda: not any(named(node, "left") for node in cluster.nodes))
    finally:
        gc.enable()


def named(node: ClusterNode, name: str) -> int:
    """How many connections of that name a node has."""
    return sum(each["name"] == name for each in node.ask("CLIENT LIST"))


def test_first_node_of_the_config_may_be_dead(
    kit: Kit, store: ClusterStore, cluster: ValkeyCluster, opened: Opener
) -> None:
    hosts = cluster.url.removeprefix("redis://")

    assert whole(kit, opened(f"redis://127.0.0.1:1,{hosts}"))


def test_with_nobody_there_a_read_fails_at_once(kit: Kit, opened: Opener) -> None:
    lonely = opened("redis://127.0.0.1:1,127.0.0.1:2")

    for _ in range(3):
        begun = kit.now()
        with pytest.raises(StoreUnavailable, match="no node told who serves which slots") as caught:
            lonely.read([kit.ask(IDS)], begun + LONG_S)
        assert kit.now() - begun < LONG_S / 2
        assert caught.value.shard == ""


def test_silent_nodes_end_a_read_by_its_deadline(kit: Kit, opened: Opener, silent: Callable[[], int]) -> None:
    lonely = opened(f"redis://127.0.0.1:{silent()},127.0.0.1:{silent()}", connect_timeout_s=0.5)

    begun = kit.now()
    with pytest.raises(StoreTimeout):
        lonely.read([kit.ask(IDS)], begun + 0.1)

    assert 0.09 < kit.now() - begun < 0.1 + SLACK_S


def test_server_that_is_no_cluster_is_told_so(kit: Kit, opened: Opener) -> None:
    with (
        ValkeyServer() as alone,
        pytest.raises(StoreUnavailable, match="cluster support disabled"),
    ):
        opened(alone.url).read([kit.ask(IDS)], kit.now() + LONG_S)


def test_password_is_every_nodes(kit: Kit, opened: Opener) -> None:
    with ValkeyCluster(password="s3cret/@,x") as guarded:
        store = opened(guarded.url, options={"protocol": 3})
        store.write(kit.batch(IDS, 5), kit.now() + LONG_S)
        assert whole(kit, store)
        wrong = opened(guarded.url.replace("s3cret", "wr0ng"))
        with pytest.raises(StoreRefused) as caught:
            wrong.read([kit.ask(IDS)], kit.now() + LONG_S)
        assert "wr0ng" not in str(caught.value)


def test_promoted_replica_is_found(kit: Kit, opened: Opener) -> None:
    with ValkeyCluster(replicas=1) as cluster:
        store = opened(cluster.url)
        store.write(kit.batch(IDS, 5), kit.now() + LONG_S)
        wait_for(kit, lambda: cluster.replicas[0].ask("DBSIZE") == cluster.nodes[0].ask("DBSIZE"))
        assert whole(kit, store)

        cluster.nodes[0].kill()
        (answer,) = store.read([kit.ask(IDS)], kit.now() + 1)
        assert isinstance(answer, Partial)
        wait_for(kit, lambda: whole(kit, store))

        assert store.write(kit.batch(IDS, 5), kit.now() + LONG_S).written == len(IDS)


def test_close_ends_everything_and_is_told_to_who_comes_late(
    kit: Kit, store: ClusterStore, cluster: ValkeyCluster
) -> None:
    others = set(threading.enumerate())
    assert whole(kit, store)

    store.close()
    store.close()

    assert not [each for each in set(threading.enumerate()) - others if "featurechaos" in each.name]
    assert (store.stats()["open"], store.stats()["dialling"]) == (0, 0)
    with pytest.raises(StoreUnavailable, match="closed"):
        store.read([kit.ask(IDS)], kit.now() + 1)


def test_async_reads_meet_a_dead_shard_and_a_moving_slot_alike(
    kit: Kit, store: ClusterStore, cluster: ValkeyCluster
) -> None:
    victim = cluster.nodes[1]
    dead = of_node(cluster, victim, kit)
    blobs = kit.batch(IDS, 5).blobs
    slot = slot_of(key_of(kit.view, IDS[0]))
    was = cluster.node_of(slot)
    to = next(node for node in cluster.nodes if node is not was)

    async def act() -> None:
        astore = RedisStore.aopen(spec(cluster.url, mode="cluster"), kit.place)
        try:
            assert await astore.read([kit.ask(IDS)], kit.now() + LONG_S) == [blobs]
            assert await astore.health(kit.now() + LONG_S) < LONG_S
            victim.freeze()
            for _ in range(3):
                begun = kit.now()
                (answer,) = await astore.read([kit.ask(IDS)], begun + 0.1)
                assert kit.now() - begun < 0.1 + SLACK_S
                assert isinstance(answer, Partial)
                assert [(type(error), sorted(at.tolist())) for error, at in answer.lost] == [(StoreTimeout, dead)]
            victim.thaw()
            cluster.wait()
            cluster.move(slot, to, leave_open=True)
            assert await astore.read([kit.ask(IDS)], kit.now() + LONG_S) == [blobs]
            cluster.settle(slot, to)
            assert await astore.read([kit.ask(IDS)], kit.now() + LONG_S) == [blobs]
            cluster.move(slot, was)
            assert await astore.read([kit.ask(IDS)], kit.now() + LONG_S) == [blobs]
            assert astore.stats()["shards"] == 3
        finally:
            await astore.close()
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(act())
