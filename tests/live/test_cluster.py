"""A cluster loses one of its three shards under a client that reads: the other shards' rows stay the primary's."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from featurechaos import AsyncFeatureClient, Cause, FeatureClient, Origin, PartialWrite, Status
from featurechaos.demo.clusters import ClusterNode, ValkeyCluster
from featurechaos_redis.chart import slot_of
from tests.live.conftest import eventually, now

pytestmark = [pytest.mark.live, pytest.mark.long]

# Long enough for a machine that others use; what is looked at is not how fast, but that each is kept.
TIMEOUT_S, DEADLINE_S, SLACK_S = 0.4, 1.2, 0.3
KEYS = [f"N{number}" for number in range(90)]
FEATURES = ["plane:seats", "engine:power"]
DAY_US = 86_400_000_000


def config(cluster: ValkeyCluster) -> dict[str, Any]:
    return {
        "project": "sharded",
        "sources": {"primary": {"type": "redis", "mode": "cluster", "url": cluster.url, "timeout_s": TIMEOUT_S}},
        "views": [
            {"name": "plane", "join_keys": {"tailnum": "string"}, "features": {"seats": {"dtype": "int32"}}},
            {"name": "engine", "join_keys": {"tailnum": "string"}, "features": {"power": {"dtype": "float32"}}},
        ],
        "policy": {
            "deadline_s": DEADLINE_S,
            "breaker": {"min_calls": 6, "slow_s": 0.3, "open_s": 0.5, "healthy_s": 0.2, "ramp_s": 0.3},
        },
    }


@pytest.fixture
def cluster() -> Iterator[ValkeyCluster]:
    with ValkeyCluster() as cluster:
        yield cluster


def fill(client: FeatureClient) -> None:
    for view, feature in (("plane", "seats"), ("engine", "power")):
        table = {"tailnum": KEYS, feature: list(range(90)), "event_timestamp": table_times()}
        client.write_to_online_store(view, table)


def table_times() -> Any:
    return np.full(len(KEYS), 1_700_000_000_000_000 + DAY_US).view("M8[us]")


def dead_rows(cluster: ValkeyCluster, victim: ClusterNode) -> Any:
    """Which rows a shard has, bool (n,)."""
    return np.array([cluster.node_of(slot_of(key.encode())) is victim for key in KEYS])


def check(response: Any, dead: Any, causes: set[Cause]) -> set[int]:
    """Every row whole and true to its origin; gives the causes met."""
    met: set[int] = set()
    for view, feature in (("plane", "seats"), ("engine", "power")):
        truth = response.provenance(view)
        assert response.columns[feature].tolist() == list(range(90))
        assert set(truth.origin[~dead].tolist()) == {Origin.PRIMARY}
        assert set(truth.status.tolist()) == {Status.PRESENT}
        assert set(truth.cause[~dead].tolist()) == {Cause.NONE}
        assert set(truth.origin[dead].tolist()) == {Origin.LAST_KNOWN}
        assert set(truth.cause[dead].tolist()) <= causes
        met |= set(truth.cause[dead].tolist())
    return met


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_rows_of_two_shards_stay_the_primarys_while_the_third_is_away(cluster: ValkeyCluster, how: str) -> None:
    victim = cluster.nodes[1]
    shard = f"primary/127.0.0.1:{victim.port}"
    dead = dead_rows(cluster, victim)
    causes = {Cause.BREAKER_OPEN, Cause.TIMEOUT if how == "frozen" else Cause.REFUSED}
    heard: list[tuple[str, str]] = []
    with FeatureClient.from_config(config(cluster)) as client:
        client.listen(lambda name, about, fields: heard.append((name, about)))
        fill(client)
        ask: Any = {"features": FEATURES, "entity_rows": {"tailnum": KEYS}}
        assert not client.get_online_features(**ask).any_degraded

        if how == "killed":
            victim.kill()
        else:
            victim.freeze()
        answers: list[Any] = []
        threads = [threading.Thread(target=lambda: answers.append(timed(client, ask))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        answers += [timed(client, ask) for _ in range(16)]

        met = set().union(*(check(response, dead, causes) for _, response in answers))
        assert met == causes, "the shard's own breaker opened on the way"
        assert max(took for took, _ in answers) < DEADLINE_S + SLACK_S
        assert ("breaker.opened", shard) in heard
        assert ("breaker.opened", "primary") not in heard
        states = {each["source"]: each["value"] for each in client.stats()["breaker_state"]}
        assert states.keys() == {"primary", *(f"primary/127.0.0.1:{node.port}" for node in cluster.nodes)}
        assert {name for name, state in states.items() if state} <= {shard}
        told = client.status()["sources"]["primary"]
        assert told["state"] == "closed"
        assert told["shards"].keys() == states.keys() - {"primary"}
        assert shard in told["shards"][shard]["incident"]
        assert client.ready()
        assert not client.ready(full=True)
        if how == "killed":
            with pytest.raises(PartialWrite) as caught:
                fill(client)
            assert caught.value.report.sources["primary"].failed >= int(dead.sum())

        if how == "killed":
            cluster.restart()
            eventually(lambda: refilled(client))
        else:
            victim.thaw()
        eventually(lambda: not client.get_online_features(**ask).any_degraded)
        eventually(lambda: client.get_online_features(**ask) and ("breaker.closed", shard) in heard)
        assert client.ready(full=True)


def timed(client: FeatureClient, ask: Any) -> tuple[float, Any]:
    begun = now()
    response = client.get_online_features(**ask)
    return now() - begun, response


def refilled(client: FeatureClient) -> bool:
    try:
        fill(client)
    except PartialWrite:
        return False
    return True


def test_async_client_serves_two_shards_too(cluster: ValkeyCluster) -> None:
    victim = cluster.nodes[2]
    dead = dead_rows(cluster, victim)
    with FeatureClient.from_config(config(cluster)) as client:
        fill(client)

    async def act() -> None:
        async with AsyncFeatureClient.from_config(config(cluster)) as client:
            ask: Any = {"features": FEATURES, "entity_rows": {"tailnum": KEYS}}
            assert not (await client.get_online_features(**ask)).any_degraded
            assert await client.ready(full=True)
            victim.freeze()
            met = set()
            for _ in range(12):
                begun = now()
                response = await client.get_online_features(**ask)
                assert now() - begun < DEADLINE_S + SLACK_S
                met |= check(response, dead, {Cause.TIMEOUT, Cause.BREAKER_OPEN})
            assert met == {Cause.TIMEOUT, Cause.BREAKER_OPEN}
            assert await client.ready()
            assert not await client.ready(full=True)
            victim.thaw()
            until = now() + 20
            while (await client.get_online_features(**ask)).any_degraded:
                assert now() < until
                await asyncio.sleep(0.02)

    asyncio.run(act())
