"""A primary freezes under a client that hedges: its replica answers, the budget holds, nothing is left open."""

from __future__ import annotations

import asyncio
import datetime as dt
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
from redis import Redis

from featurechaos import AsyncFeatureClient, Cause, FeatureClient, Origin, Response
from featurechaos.clock import SystemClock
from featurechaos.demo.servers import ValkeyServer
from tests.live.conftest import eventually, now, open_files

pytestmark = [pytest.mark.live, pytest.mark.slow]

TIMEOUT_S, DEADLINE_S, AFTER_S = 2.0, 5.0, 0.010
KEYS = list(range(1, 9))
Servers = dict[str, ValkeyServer]


@pytest.fixture
def servers() -> Iterator[Servers]:
    with ExitStack() as stack:
        yield {name: stack.enter_context(ValkeyServer()) for name in ("primary", "second")}


def config_of(servers: Servers, **policy: Any) -> dict[str, Any]:
    """Patient but for the hedge: what is answered sooner than `TIMEOUT_S` was hedged."""
    return {
        "project": "hedged",
        "sources": {
            name: {"type": "redis", "url": server.url, "timeout_s": TIMEOUT_S} for name, server in servers.items()
        },
        "views": [{"name": "v", "join_keys": {"k": "int64"}, "features": {"f": {"dtype": "float32"}}}],
        "policy": {
            "deadline_s": DEADLINE_S,
            "breaker": None,
            "last_known": None,
            "retry": {"attempts": 1, "budget_ratio": 0.1, "budget_burst": 1000},
            "hedge": {"after_min_s": 0.001, "after_max_s": AFTER_S},
            **policy,
        },
    }


@pytest.fixture
def fill(servers: Servers) -> Callable[[dict[str, Any]], None]:
    """The same rows on both, ten times as high on the replica."""

    def filled(config: dict[str, Any]) -> None:
        at = [dt.datetime.fromtimestamp(SystemClock().wall() - 1, dt.UTC)] * len(KEYS)
        with FeatureClient.from_config(config) as client:
            for name, times in (("primary", 1.0), ("second", 10.0)):
                batch = client._batch("v", {"k": KEYS, "f": [times * key for key in KEYS], "event_timestamp": at})
                client.store(name).write(batch, now() + 5)

    return filled


def total(client: Any, name: str, **labels: str) -> int:
    values = client.stats()[name]
    return int(sum(one["value"] for one in values if all(one[key] == value for key, value in labels.items())))


def check_replica(response: Response) -> None:
    """Every row is the replica's and says so."""
    truth = response.provenance("v")
    assert response.columns["f"].tolist() == [10.0 * key for key in KEYS]
    assert set(truth.origin.tolist()) == {Origin.REPLICA}
    assert set(truth.cause.tolist()) == {Cause.TIMEOUT}
    assert not response.any_degraded


def connections(server: ValkeyServer) -> int:
    """What the server has open, but for who asks."""
    with Redis.from_url(server.url) as asked:
        return len(asked.client_list()) - 1


def counts(client: Any) -> tuple[int, int, int, int]:
    """Hedges made and used, hedges refused, and calls to the primary that were left."""
    return (
        total(client, "hedges_total", source="second"),
        total(client, "hedges_won_total", source="second"),
        total(client, "hedges_denied_total"),
        total(client, "source_calls_total", source="primary", outcome="cancelled"),
    )


def check_counts(client: Any, before: tuple[int, int, int, int], frozen: int) -> None:
    """Since then every request was hedged, and the call it had made was left."""
    made = [after - earlier for after, earlier in zip(counts(client), before, strict=True)]
    assert made == [frozen, frozen, 0, frozen]
    assert total(client, "source_calls_total", source="primary", outcome="timeout") == 0


def test_threads_are_answered_by_the_replica_after_the_wait(
    servers: Servers, fill: Callable[[dict[str, Any]], None], tell: Callable[[str], None]
) -> None:
    config, took_s, errors = config_of(servers), [], []
    fill(config)
    with FeatureClient.from_config(config) as client:

        def asked(count: int, *, hedged: bool) -> None:
            for _ in range(count):
                try:
                    response = client.get_online_features(["v:f"], {"k": KEYS})
                    if hedged:
                        check_replica(response)
                        took_s.append(response.elapsed_s)
                except Exception as error:  # noqa: BLE001 - told on the main thread
                    errors.append(error)

        def side_by_side(count: int, *, hedged: bool) -> None:
            threads = [threading.Thread(target=asked, args=(count,), kwargs={"hedged": hedged}) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
                assert not thread.is_alive()

        side_by_side(30, hedged=False)
        before = threading.active_count(), len(open_files())
        counted = counts(client)
        servers["primary"].freeze()
        side_by_side(25, hedged=True)
        check_counts(client, counted, 100)
        servers["primary"].thaw()

        assert errors == []
        assert len(took_s) == 100
        middle_s = float(np.median(took_s))
        tell(f"frozen primary, threads: median {middle_s * 1000:.1f} ms, most {max(took_s) * 1000:.1f} ms")
        assert middle_s < TIMEOUT_S / 4
        assert max(took_s) < TIMEOUT_S, "none waited for the primary's time"
        # What it had on its way is closed there too, and the pool is not larger than the load was.
        eventually(lambda: connections(servers["primary"]) <= 8)
        eventually(lambda: threading.active_count() <= before[0])
        eventually(lambda: len(open_files()) <= before[1] + 8)
        side_by_side(10, hedged=False)
        assert errors == []
    assert connections(servers["primary"]) == connections(servers["second"]) == 0


def test_tasks_are_answered_by_the_replica_after_the_wait(
    servers: Servers, fill: Callable[[dict[str, Any]], None], tell: Callable[[str], None]
) -> None:
    config = config_of(servers)
    fill(config)
    took_s: list[float] = []

    async def day() -> None:
        async with AsyncFeatureClient.from_config(config) as client:

            async def asked(count: int, *, hedged: bool) -> None:
                for _ in range(count):
                    response = await client.get_online_features(["v:f"], {"k": KEYS})
                    if hedged:
                        check_replica(response)
                        took_s.append(response.elapsed_s)

            await asyncio.gather(*(asked(20, hedged=False) for _ in range(4)))
            tasks, threads, files = len(asyncio.all_tasks()), threading.active_count(), len(open_files())
            counted = counts(client)
            servers["primary"].freeze()
            await asyncio.gather(*(asked(25, hedged=True) for _ in range(4)))
            check_counts(client, counted, 100)
            servers["primary"].thaw()

            assert threading.active_count() == threads
            for _ in range(500):
                if len(asyncio.all_tasks()) <= tasks and len(open_files()) <= files + 8:
                    break
                await asyncio.sleep(0.01)
            assert len(asyncio.all_tasks()) <= tasks
            assert len(open_files()) <= files + 8
            await asyncio.gather(*(asked(5, hedged=False) for _ in range(4)))

    asyncio.run(day())

    middle_s = float(np.median(took_s))
    tell(f"frozen primary, tasks: median {middle_s * 1000:.1f} ms, most {max(took_s) * 1000:.1f} ms")
    assert len(took_s) == 100
    assert middle_s < TIMEOUT_S / 4
    assert max(took_s) < TIMEOUT_S
    eventually(lambda: connections(servers["primary"]) == connections(servers["second"]) == 0)


def test_the_budget_bounds_retries_and_hedges_together(
    servers: Servers, fill: Callable[[dict[str, Any]], None]
) -> None:
    config = config_of(servers, retry={"attempts": 2, "budget_ratio": 0.1, "budget_burst": 3}, deadline_s=DEADLINE_S)
    for source in config["sources"].values():
        source["timeout_s"] = 0.200
    config["policy"]["hedge"] = {"after_min_s": 0.001, "after_max_s": 0.005}
    fill(config_of(servers))
    with FeatureClient.from_config(config) as client:
        for _ in range(40):
            client.get_online_features(["v:f"], {"k": KEYS})
        servers["primary"].freeze()
        try:
            for _ in range(20):
                check_replica(client.get_online_features(["v:f"], {"k": KEYS}))
        finally:
            servers["primary"].thaw()

        extra = total(client, "retries_total") + total(client, "hedges_total")
        first = total(client, "source_calls_total") - extra
        assert extra <= 0.1 * first + 3
        assert total(client, "hedges_total") > 0
        assert total(client, "hedges_denied_total") > 0, "and most had to wait for the primary's time"
