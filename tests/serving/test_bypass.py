"""FEATURECHAOS_BYPASS=1: one plain read of the first source, nothing else, and every row says so."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Any

import pytest

from featurechaos import AsyncFeatureClient, Cause, Exhausted, FeatureClient, Origin, Status
from featurechaos.config import load
from featurechaos.errors import ChaosRefused, StoreUnavailable
from featurechaos.faults import Outage
from featurechaos.testing import ManualClock, MemoryStore

CONFIG: dict[str, Any] = {
    "project": "t",
    "sources": {
        "primary": {"type": "memory"},
        "second": {"type": "memory"},
        "standby": {"type": "memory", "role": "snapshot"},
    },
    "views": [
        {"name": "v", "join_keys": {"k": "int64"}, "ttl_s": 60,
         "features": {"f": {"dtype": "float32", "default": -1.0}, "g": {"dtype": "float32"}}},
        {"name": "still", "join_keys": {"k": "int64"}, "features": {"h": {"dtype": "float32"}},
         "policy": {"order": ["standby"]}},
    ],
    "policy": {"deadline_s": 0.5, "on_missing": "fallback", "hedge": {}},
    "chaos": {"enabled": True, "max_share": 1.0},
}  # fmt: skip
ENVIRON = {"FEATURECHAOS_BYPASS": "1", "FEATURECHAOS_CHAOS": "armed"}


def client_of(**environ: str) -> FeatureClient:
    """Rows 1 and 2 on every source, row 2 too old on the primary; the others' values are higher."""
    client = FeatureClient(load(CONFIG, environ=environ), ManualClock())
    fill(client, {name: client.store(name) for name in CONFIG["sources"]})
    return client


def fill(client: Any, stores: dict[str, Any]) -> None:
    for times, (name, store) in enumerate(stores.items(), 1):
        for age_s, keys in ((1, [1]), (100 if name == "primary" else 1, [2])):
            at = [dt.datetime.fromtimestamp(client.clock.wall() - age_s, dt.UTC)]
            for view, columns in (("v", {"f": [times], "g": [times]}), ("still", {"h": [times]})):
                store.write(client._batch(view, {"k": keys, **columns, "event_timestamp": at}), 1e9)


def told(response: Any, view: str = "v") -> list[tuple[Origin, Status, Cause]]:
    truth = response.provenance(view)
    return [(Origin(o), Status(s), Cause(c)) for o, s, c in zip(truth.origin, truth.status, truth.cause, strict=True)]


def test_only_the_first_source_is_read_and_once() -> None:
    client = client_of(**ENVIRON)

    response = client.get_online_features(["v:f", "v:g"], {"k": [1, 2, 3]})

    assert response.to_dict()["f"] == [1.0, 1.0, -1.0]
    assert response.to_dict()["g"] == [1.0, 1.0, None]
    assert told(response) == [
        (Origin.PRIMARY, Status.PRESENT, Cause.NONE),
        (Origin.PRIMARY, Status.EXPIRED, Cause.NONE),
        (Origin.DEFAULT, Status.NOT_FOUND, Cause.MISSING),
    ]
    reads = {name: client.store(name).reads for name in CONFIG["sources"]}  # type: ignore[attr-defined]
    assert reads == {"primary": 1, "second": 0, "standby": 0}


def test_without_it_the_others_are_read() -> None:
    client = client_of(FEATURECHAOS_BYPASS="0")

    assert client.get_online_features(["v:f"], {"k": [1, 2]}).to_dict()["f"] == [1.0, 2.0]


def test_a_word_that_does_not_set_it_is_told(caplog: pytest.LogCaptureFixture) -> None:
    client = client_of(FEATURECHAOS_BYPASS="true")

    assert client.status()["bypass"] is False
    assert "FEATURECHAOS_BYPASS: only '1' sets it" in caplog.text
    assert "FEATURECHAOS_CHAOS" not in caplog.text


def test_a_source_that_fails_is_asked_once_and_left_at_that() -> None:
    client = client_of(**ENVIRON)
    response = client.get_online_features(["v:f"], {"k": [1]})
    store: Any = client.store("primary")
    store.fail_with = StoreUnavailable("gone")

    for number in range(1, 31):
        response = client.get_online_features(["v:f", "v:g"], {"k": [1]})
        assert store.reads == 1 + number, "no retry, and no breaker"

    assert told(response) == [(Origin.DEFAULT, Status.UNAVAILABLE, Cause.REFUSED)]
    assert (response.to_dict()["f"], response.to_dict()["g"]) == ([-1.0], [None])
    assert response.any_degraded
    with pytest.raises(Exhausted):
        client.get_online_features(["v:f"], {"k": [1]}, on_exhausted="raise")


def test_a_view_without_an_online_source_is_read_as_before() -> None:
    client = client_of(**ENVIRON)

    response = client.get_online_features(["still:h"], {"k": [1]})

    assert response.to_dict()["h"] == [3.0]
    assert told(response, "still")[0][0] == Origin.SNAPSHOT


def test_nothing_can_be_injected() -> None:
    client = client_of(**ENVIRON)

    with pytest.raises(ChaosRefused, match="FEATURECHAOS_BYPASS"):
        client.chaos.inject(Outage("primary"), share=1.0, lease_s=9, seed=7, reason="x")


def test_it_is_told(caplog: pytest.LogCaptureFixture) -> None:
    client = client_of(**ENVIRON)

    client.ready()

    assert client.status()["bypass"] is True
    assert client_of().status()["bypass"] is False
    assert "FEATURECHAOS_BYPASS=1" in caplog.text
    assert client.explain()["v"]["worst_case_calls"] == 1


def test_asyncio_is_bypassed_alike() -> None:
    async def day() -> Any:
        async with AsyncFeatureClient(load(CONFIG, environ=ENVIRON), ManualClock()) as client:
            stores: dict[str, MemoryStore] = {name: each.store for name, each in client._world.stores.items()}  # type: ignore[attr-defined]
            fill(client, stores)
            return told(await client.get_online_features(["v:f"], {"k": [1, 3]})), stores["second"].reads

    facts, reads = asyncio.run(day())

    assert [each[0] for each in facts] == [Origin.PRIMARY, Origin.DEFAULT]
    assert reads == 0
