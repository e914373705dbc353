"""What is counted is what the answers said: the callers' rows, each once, who was asked first, why it moved on."""

from __future__ import annotations

import datetime as dt
import gc
from typing import Any

import numpy as np
import pytest

from featurechaos import FeatureClient
from featurechaos.errors import StoreTimeout
from featurechaos.faults import Outage
from featurechaos.impact import ImpactMonitor
from featurechaos.testing import ManualClock, MemoryStore

CONFIG: dict[str, Any] = {
    "project": "t",
    "sources": {"primary": {"type": "memory", "role": "primary"}, "standby": {"type": "memory", "role": "snapshot"}},
    "views": [{"name": "v", "join_keys": {"k": "int64"}, "features": {"f": {"dtype": "float32"}}, "ttl_s": 100}],
    "policy": {"retry": None, "breaker": None, "last_known": None},
    "chaos": {"enabled": True, "max_share": 1.0},
}


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> FeatureClient:
    monkeypatch.setenv("FEATURECHAOS_CHAOS", "armed")
    return FeatureClient.from_config(CONFIG, clock=ManualClock())


def store(client: FeatureClient, name: str) -> MemoryStore:
    found = client.store(name)
    assert isinstance(found, MemoryStore)
    return found


def put(client: FeatureClient, source: str, ages: dict[int, float]) -> None:
    at = [dt.datetime.fromtimestamp(client.clock.wall() - age, dt.UTC) for age in ages.values()]
    batch = client._batch("v", {"k": list(ages), "f": [0.9] * len(ages), "event_timestamp": at})
    store(client, source).put(batch.ask, batch.blobs)


def counted(client: FeatureClient, name: str) -> list[tuple[Any, ...]]:
    return sorted(tuple(one.values()) for one in client.stats()[name] if one.get("value"))


def test_an_expired_row_that_the_primary_serves_itself_is_no_fallback(client: FeatureClient) -> None:
    put(client, "primary", {1: 500.0})

    client.get_online_features(["v:f"], {"k": [1, 1]})

    assert counted(client, "row_fallbacks_total") == []
    assert counted(client, "rows_total") == [("v", "PRIMARY", "EXPIRED", "false", 2)]


def test_rows_are_the_callers_and_carry_who_was_asked_first_and_why_not(client: FeatureClient) -> None:
    put(client, "primary", {1: 1.0, 2: 500.0})
    put(client, "standby", {2: 2.0})

    client.get_online_features(["v:f"], {"k": [1, 2, 2, 3, None]})

    assert counted(client, "row_fallbacks_total") == [("v", "primary", "EXPIRED", "false", 2)]
    assert counted(client, "keys_null_total") == [("v", 1)]
    assert sum(one[-1] for one in counted(client, "rows_total")) == 5


def test_exhausted_rows_are_counted_like_all_rows(client: FeatureClient) -> None:
    store(client, "primary").fail_with = StoreTimeout("late")

    client.get_online_features(["v:f"], {"k": [1, 1, 2]})

    assert counted(client, "rows_exhausted_total") == [("v", "false", 3)]
    assert counted(client, "row_fallbacks_total") == [("v", "primary", "TIMEOUT", "false", 3)]


def test_what_a_fault_did_is_told_apart(client: FeatureClient) -> None:
    put(client, "primary", {1: 1.0})

    with client.chaos.inject(Outage("primary"), share=1.0, lease_s=60, seed=1, reason="a test"):
        client.get_online_features(["v:f"], {"k": [1]})

    assert counted(client, "rows_exhausted_total") == [("v", "true", 1)]
    assert counted(client, "row_fallbacks_total") == [("v", "primary", "REFUSED", "true", 1)]


def test_a_monitor_is_among_the_metrics_of_its_client(client: FeatureClient) -> None:
    put(client, "primary", {1: 1.0, 2: 1.0})
    monitor = ImpactMonitor(client, lambda r: np.asarray(r.columns["f"]), threshold=0.5, sample_share=1.0)
    monitor.predict(client.get_online_features(["v:f"], {"k": [1, 2]}))
    assert monitor.flush(10)

    assert sum(one[-1] for one in counted(client, "pairs_total")) == 2

    monitor.close()
    del monitor
    gc.collect()
    assert counted(client, "pairs_total") == [], "the client does not keep it alive"
