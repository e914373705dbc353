"""What is written is what is read, and the newest event time wins."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from redis import Redis

from featurechaos import codec
from featurechaos.errors import StoreUnavailable
from featurechaos.stores import AsyncStore, Batch, Store
from featurechaos_redis import AsyncRedisStore, RedisStore

if TYPE_CHECKING:
    from featurechaos.demo.servers import ValkeyServer
    from tests.redis.conftest import Kit

pytestmark = pytest.mark.live

SMALLEST, LARGEST = int(np.iinfo(np.int64).min), int(np.iinfo(np.int64).max)


def test_rows_written_are_the_rows_read_and_missing_ones_are_none(kit: Kit, store: RedisStore) -> None:
    written = kit.batch(["a", "bb", "c"], 1_700_000_000_000_000)

    counts = store.write(written, kit.now() + 5)
    blobs, _, _ = kit.blobs(store, ["c", "nobody", "a", "bb"])

    assert (counts.written, counts.older) == (3, 0)
    assert blobs == [written.blobs[2], None, written.blobs[0], written.blobs[1]]


def test_several_views_are_one_round_trip(kit: Kit, store: RedisStore, admin: Redis) -> None:
    store.write(kit.batch(["a"], 5), kit.now() + 5)
    store.write(kit.batch(["b"], 6, view=kit.other), kit.now() + 5)
    admin.config_resetstat()

    asks = [kit.ask(["a", "b"]), kit.ask([]), kit.ask(["a", "b"], kit.other)]
    answers: list[Any] = store.read(asks, kit.now() + 5)

    assert [[row is not None for row in rows] for rows in answers] == [[True, False], [], [False, True]]
    assert admin.info("commandstats")["cmdstat_mget"]["calls"] == 1


def test_read_of_no_rows_asks_nobody(kit: Kit, opened: Callable[..., RedisStore]) -> None:
    nobody_there = opened("redis://127.0.0.1:1")

    assert nobody_there.read([kit.ask([])], kit.now() + 5) == [[]]
    assert nobody_there.read([], kit.now() + 5) == []


def test_thousands_of_rows_are_written_and_read(kit: Kit, store: RedisStore) -> None:
    ids = [f"user-{at}" for at in range(3210)]
    written = kit.batch(ids, 7)

    counts = store.write(written, kit.now() + 20)

    assert counts.written == len(ids)
    assert store.read([kit.ask(ids)], kit.now() + 20) == [written.blobs]


def test_key_of_another_type_reads_as_missing_and_is_replaced(kit: Kit, store: RedisStore, admin: Redis) -> None:
    admin.hset("fc:proj:alpha:{a}", "field", "1")

    before = store.read([kit.ask(["a"])], kit.now() + 5)
    store.write(kit.batch(["a"], 1), kit.now() + 5)

    assert before == [[None]]
    assert kit.times(store, ["a"]) == [1]


@pytest.mark.parametrize(
    ("stored", "offered", "wins"),
    [
        (5, 6, True),
        (6, 5, False),
        (5, 5, True),
        (0, -1, False),
        (-1, 0, True),
        (-2, -1, True),
        (SMALLEST, SMALLEST + 1, True),
        (SMALLEST + 1, SMALLEST, False),
        (SMALLEST, 0, True),
        (LARGEST, LARGEST - 1, False),
        (LARGEST - 1, LARGEST, True),
        (LARGEST, SMALLEST, False),
        (2**53, 2**53 + 1, True),
        (2**53 + 1, 2**53, False),
        (2**32, 2**32 - 1, False),
        (2**32 - 1, 2**32, True),
        (2**31, 2**31 - 1, False),
        (-(2**32), -(2**32) - 1, False),
        (-(2**32) - 1, -(2**32), True),
        (-(2**53) - 1, -(2**53), True),
        (1_700_000_000_000_000, 1_700_000_000_000_001, True),
    ],
)
def test_newer_or_equal_event_time_wins(kit: Kit, store: RedisStore, stored: int, offered: int, wins: bool) -> None:
    store.write(kit.batch(["a"], stored, score=1.0), kit.now() + 5)

    counts = store.write(kit.batch(["a"], offered, score=2.0), kit.now() + 5)

    assert (counts.written, counts.older) == ((1, 0) if wins else (0, 1))
    assert kit.scores(store, ["a"]) == [2.0 if wins else 1.0]
    assert kit.times(store, ["a"]) == [max(stored, offered)]


def test_each_row_of_a_batch_is_judged_alone(kit: Kit, store: RedisStore) -> None:
    store.write(kit.batch(["a", "b", "c"], [10, 20, 30]), kit.now() + 5)

    counts = store.write(kit.batch(["a", "b", "c", "d"], [20, 20, 20, 20]), kit.now() + 5)

    assert (counts.written, counts.older) == (3, 1)
    assert kit.times(store, ["a", "b", "c", "d"]) == [20, 20, 30, 20]


@pytest.mark.parametrize("foreign", [b"", b"short", b"\x01\xfc" + b"\xff" * 20, b"{" + b"\x7f" * 60])
def test_stored_value_that_is_no_row_is_replaced(kit: Kit, store: RedisStore, admin: Redis, foreign: bytes) -> None:
    admin.set("fc:proj:alpha:{a}", foreign)

    counts = store.write(kit.batch(["a"], SMALLEST), kit.now() + 5)

    assert (counts.written, counts.older) == (1, 0)
    assert kit.times(store, ["a"]) == [SMALLEST]


def test_tombstone_is_kept_by_the_same_rule(kit: Kit, store: RedisStore) -> None:
    store.write(kit.batch(["a", "b"], 10), kit.now() + 5)
    ask = kit.ask(["a", "b"])
    times = np.array([11, 9], np.int64)
    buried = codec.encode_tombstones(ask.layout, times, ask.keys.own)

    counts = store.write(Batch(ask, buried, times), kit.now() + 5)
    (first, second), _, _ = kit.blobs(store, ["a", "b"])

    assert (counts.written, counts.older) == (1, 1)
    assert first == buried[0]
    assert second != buried[1]


def test_writers_at_the_same_time_leave_the_newest(kit: Kit, store: RedisStore) -> None:
    ids = [f"user-{at}" for at in range(20)]
    order = np.random.default_rng(7).permutation(160).reshape(8, 20)
    counts = []

    def write(times: list[int]) -> None:
        for each in times:
            counts.append(store.write(kit.batch(ids, each, score=float(each)), kit.now() + 20))  # noqa: PERF401

    threads = [threading.Thread(target=write, args=(part.tolist(),)) for part in order]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert len(counts) == 160
    assert kit.times(store, ids) == [159] * 20
    assert kit.scores(store, ids) == [159.0] * 20


def test_rows_expire_only_where_told(
    kit: Kit, store: RedisStore, opened: Callable[..., RedisStore], valkey: ValkeyServer, admin: Redis
) -> None:
    store.write(kit.batch(["stays"], 5), kit.now() + 5)
    opened(valkey.url, expire_s=100.5).write(kit.batch(["goes"], 5), kit.now() + 5)

    assert admin.pttl("fc:proj:alpha:{stays}") == -1
    assert 90_000 < admin.pttl("fc:proj:alpha:{goes}") <= 100_500


def test_layout_is_kept_beside_the_rows_and_read_back(kit: Kit, store: RedisStore, admin: Redis) -> None:
    layout = kit.ask(["a"]).layout
    store.write(kit.batch(["a"], 5), kit.now() + 5)

    found = store.layouts("proj", [layout.hash, 12345], kit.now() + 5)

    assert found == {layout.hash: layout.describe()}
    assert codec.Layout.from_description(found[layout.hash]).hash == layout.hash
    assert admin.get(f"fc:proj:layout:{layout.hash:016x}") == layout.describe()
    assert store.layouts("proj", [], kit.now() + 5) == {}


def test_layout_is_there_again_after_the_server_lost_everything(kit: Kit, store: RedisStore, admin: Redis) -> None:
    layout = kit.ask(["a"]).layout
    store.write(kit.batch(["a"], 5), kit.now() + 5)
    admin.flushall()
    admin.script_flush()

    store.write(kit.batch(["a"], 5), kit.now() + 5)

    assert layout.hash in store.layouts("proj", [layout.hash], kit.now() + 5)
    assert kit.times(store, ["a"]) == [5]


@pytest.mark.parametrize(
    "times",
    [[5, 9, 7], [-5, -9], [2**53, 2**53 + 1, 2**53], [SMALLEST, LARGEST, 0], [10**9, 10**9 - 1], [-1, 0]],
)
def test_watermark_is_the_newest_event_time_ever_written(kit: Kit, store: RedisStore, times: list[int]) -> None:
    assert store.watermark(kit.view, kit.now() + 5) is None

    for each in times:
        store.write(kit.batch(["a"], each), kit.now() + 5)

    mark = store.watermark(kit.view, kit.now() + 5)
    assert mark is not None
    assert mark[0] == max(times)
    assert abs(mark[1] / 1e6 - kit.place.clock.wall()) < 60
    assert store.watermark(kit.other, kit.now() + 5) is None


def test_watermark_that_is_not_ours_is_refused_when_read_and_replaced_when_written(
    kit: Kit, store: RedisStore, admin: Redis
) -> None:
    admin.set("fc:proj:watermark:alpha", "yesterday")

    with pytest.raises(StoreUnavailable, match="two integers"):
        store.watermark(kit.view, kit.now() + 5)
    store.write(kit.batch(["a"], 5), kit.now() + 5)

    mark = store.watermark(kit.view, kit.now() + 5)
    assert mark is not None
    assert mark[0] == 5


def test_watermark_is_readable_by_a_person(kit: Kit, store: RedisStore, admin: Redis) -> None:
    store.write(kit.batch(["a"], 1_700_000_000_000_000), kit.now() + 5)

    stored = admin.get("fc:proj:watermark:alpha")

    assert re.fullmatch(r"b'1700000000000000 \d{16}'", repr(stored))


def test_walk_gives_every_row_of_one_view_and_no_other(kit: Kit, store: RedisStore, admin: Redis) -> None:
    ids = [f"user-{at}" for at in range(250)]
    written = kit.batch(ids, 5)
    store.write(written, kit.now() + 5)
    store.write(kit.batch(ids, 5, view=kit.other), kit.now() + 5)
    admin.set("fc:proj:alpha:{unfinished", "x")
    waits: list[float] = []

    pages = list(store.rows(kit.view, rows_per_s=1000.0, page=100, wait=waits.append))

    found = {id_: blob for ids_, blobs in pages for id_, blob in zip(ids_, blobs, strict=True)}
    assert found == dict(zip(written.ask.keys.ids, written.blobs, strict=True))
    assert waits
    assert max(waits) <= 0.1
    assert sum(waits) > 0.05 * len(waits)


def test_walk_takes_a_view_name_literally(kit: Kit, store: RedisStore, admin: Redis) -> None:
    from dataclasses import replace

    odd = replace(kit.view, project="p*", base="v[a-c]?")
    admin.set(odd.head + b"1}", b"ours")
    admin.set(b"fc:pq:va1:{1}", b"theirs")

    assert list(store.rows(odd)) == [([b"1"], [b"ours"])]


def test_history_is_refused(kit: Kit, store: RedisStore) -> None:
    with pytest.raises(StoreUnavailable, match="no history"):
        store.read([kit.ask(["a"])], kit.now() + 5, as_of_us=1)


def test_unix_socket_and_database_number_are_taken_from_the_url(
    kit: Kit, opened: Callable[..., RedisStore], valkey: ValkeyServer, admin: Redis
) -> None:
    store = opened(f"unix://{valkey.unixsocket_path}?db=3")
    store.write(kit.batch(["a"], 5), kit.now() + 5)

    assert kit.times(store, ["a"]) == [5]
    assert admin.dbsize() == 0
    assert json.loads(json.dumps(admin.info("keyspace")))["db3"]["keys"] == 3


def test_stores_have_the_agreed_shape(
    store: RedisStore, aopened: Callable[..., AsyncRedisStore], opened: Callable[..., RedisStore]
) -> None:
    bare: Store = store
    other: AsyncStore = aopened("redis://127.0.0.1:1")

    assert isinstance(bare, Store)
    assert bare.bounded
    assert bare.writable
    assert not opened("redis://127.0.0.1:1", role="replica").writable
    assert not aopened("redis://127.0.0.1:1", role="replica").writable
    assert callable(other.read)


def test_ping_is_timed_and_counted(kit: Kit, store: RedisStore) -> None:
    took = store.health(kit.now() + 5)

    assert 0 < took < 5
    assert store.stats() == {
        "open": 1,
        "idle": 1,
        "waiting": 0,
        "dialling": 0,
        "dialled": 1,
        "dial_failures": 0,
    }
