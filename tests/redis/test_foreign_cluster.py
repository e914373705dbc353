"""Hashes and JSON over the shards of a cluster: a shard that is gone costs its own rows."""

from __future__ import annotations

import asyncio
import json
import select
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from featurechaos.clock import SystemClock
from featurechaos.codec import Layout, column, decode, encode_keys
from featurechaos.demo.clusters import ValkeyCluster
from featurechaos.errors import StoreError
from featurechaos.model import DType, Feature, JoinKey, Verdict, View
from featurechaos.readings import rows_of
from featurechaos.stores import Ask, Columns, Partial, Place
from featurechaos_redis import RedisSpec, RedisStore
from featurechaos_redis.chart import slot_of

pytestmark = [pytest.mark.live, pytest.mark.long]

CLOCK = SystemClock()
VIEW = View(
    "flights",
    "plane",
    "plane",
    (JoinKey("tailnum", DType.parse("string"), "tailnum"),),
    (Feature("seats", DType.parse("int32")), Feature("maker", DType.parse("string"))),
)
NAMES = [f"N{at}" for at in range(60)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[ValkeyCluster]:
    with ValkeyCluster() as cluster:
        for at, name in enumerate(NAMES):
            put(cluster, "hash", name, {"seats": at, "maker": "x" * at})
            put(cluster, "json", name, {"seats": at, "maker": "x" * at})
        for layout in ("hash", "json"):
            put(cluster, layout, "bad", {"seats": "many", "maker": "m"})
            of(cluster, key(layout, "list")).ask("LPUSH", key(layout, "list"), "x")
        yield cluster


@pytest.fixture(params=["hash", "json"])
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def key(layout: str, name: str) -> bytes:
    return f"{layout}:plane:{name}".encode()


def of(cluster: ValkeyCluster, stored: bytes) -> Any:
    return cluster.node_of(slot_of(stored))


def put(cluster: ValkeyCluster, layout: str, name: str, row: Mapping[str, Any]) -> None:
    stored = key(layout, name)
    if layout == "hash":
        of(cluster, stored).ask("HSET", stored, *(part for pair in row.items() for part in pair))
    else:
        of(cluster, stored).ask("SET", stored, json.dumps(row))


def spec_of(cluster: ValkeyCluster, layout: str) -> RedisSpec:
    settings = {"url": cluster.url, "mode": "cluster", "layout": layout, "key": layout + ":{view}:{tailnum}"}
    return RedisSpec.model_validate(settings)


@pytest.fixture
def store(cluster: ValkeyCluster, layout: str) -> Iterator[Any]:
    store = RedisStore.open(spec_of(cluster, layout), Place("primary", "flights", (VIEW,), CLOCK))
    yield store
    store.close()


def ask_of(names: list[str]) -> Ask:
    keys, _, _ = encode_keys(VIEW.join_keys, [names])
    return Ask(VIEW, Layout.of(VIEW), keys)


def soon() -> float:
    return CLOCK.monotonic() + 10


def test_rows_of_all_shards_come_back_in_the_order_asked(store: Any) -> None:
    names = [*NAMES[::-1], "gone", "bad", "list"]
    ask = ask_of(names)

    (answer,) = store.read([ask], soon())

    assert isinstance(answer, Columns)
    rows, _ = rows_of(ask, answer, {})
    wanted = [Verdict.FRESH] * len(NAMES) + [Verdict.MISSING, Verdict.CORRUPT, Verdict.CORRUPT]
    assert rows.verdicts.tolist() == wanted
    assert column(rows, "seats")[: len(NAMES)].tolist() == list(range(len(NAMES)))[::-1]
    assert column(rows, "maker")[1] == "x" * 58


def test_a_shard_that_is_gone_costs_its_own_rows(store: Any, cluster: ValkeyCluster, layout: str) -> None:
    names = [*NAMES, "gone", "bad", "list"]
    whole, other = ask_of(names), ask_of(NAMES[:1])
    store.read([whole], soon())
    lost = next(node for node in cluster.nodes if node is not of(cluster, key(layout, NAMES[0])))
    away = [at for at, name in enumerate(names) if of(cluster, key(layout, name)) is lost]
    assert 0 < len(away) < len(names)

    lost.freeze()
    try:
        first, second = store.read([whole, other], CLOCK.monotonic() + 0.3)
        pending = store.begin([whole], CLOCK.monotonic() + 0.3)
        while (again := pending.advance()) is None:
            select.select([pending.fileno()], [], [], 0.05)
    finally:
        lost.thaw()
        cluster.wait()

    assert isinstance(second, Columns)
    for answer in (first, again[0]):
        assert isinstance(answer, Partial)
        assert np.concatenate([places for _, places in answer.lost]).tolist() == away
        rows, _ = rows_of(whole, answer, {})
        kept = [at for at in range(len(NAMES)) if at not in away]
        assert rows.verdicts[away].tolist() == [Verdict.UNANSWERED] * len(away)
        assert column(rows, "seats")[kept].tolist() == kept
        odd = {"gone": Verdict.MISSING, "bad": Verdict.CORRUPT, "list": Verdict.CORRUPT}
        for name, verdict in odd.items():
            at = names.index(name)
            assert rows.verdicts[at] == (Verdict.UNANSWERED if at in away else verdict)


def test_rows_of_lost_shards_alone_are_an_error(store: Any, cluster: ValkeyCluster, layout: str) -> None:
    store.read([ask_of(NAMES)], soon())
    lost = of(cluster, key(layout, NAMES[0]))

    lost.freeze()
    try:
        with pytest.raises(StoreError):
            store.read([ask_of(NAMES[:1])], CLOCK.monotonic() + 0.2)
        assert store.layouts("flights", [0], CLOCK.monotonic() + 5) == {}, "the other shards answer"
    finally:
        lost.thaw()
        cluster.wait()


def test_a_walk_finds_every_row_of_every_shard(store: Any) -> None:
    found = {known: blob for ids, blobs in store.rows(VIEW, page=9) for known, blob in zip(ids, blobs, strict=True)}

    good = sorted(known for known, blob in found.items() if blob)
    assert sorted(known.decode() for known in good) == sorted(NAMES)
    assert sorted(known for known, blob in found.items() if not blob) == [b"bad", b"list"]
    keys, _, _ = encode_keys(VIEW.join_keys, [[known.decode() for known in good]])
    rows, _ = decode([found[known] for known in good], keys.own, Layout.of(VIEW))
    assert dict(zip(good, column(rows, "seats").tolist(), strict=True)) == {
        name.encode(): at for at, name in enumerate(NAMES)
    }


def test_the_async_store_answers_the_same(store: Any, cluster: ValkeyCluster, layout: str) -> None:
    ask = ask_of([*NAMES, "gone", "bad"])

    async def answered() -> Any:
        made = RedisStore.aopen(spec_of(cluster, layout), Place("primary", "flights", (VIEW,), CLOCK))
        try:
            return await made.read([ask], soon())
        finally:
            await made.close()

    (got,), (wanted,) = asyncio.run(answered()), store.read([ask], soon())
    rows, again = (rows_of(ask, each, {})[0] for each in (got, wanted))
    assert rows.words.tobytes() == again.words.tobytes()
    assert rows.tails == again.tails
