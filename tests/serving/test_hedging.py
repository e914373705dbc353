"""Clients that hedge: the same day for threads and asyncio, counted and explained, and nothing where it is off."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

import pytest

from featurechaos import AsyncFeatureClient, Cause, FeatureClient, Origin
from featurechaos.config import load
from featurechaos.errors import StoreUnavailable
from featurechaos.faults import Delay, Fault, Outage
from featurechaos.testing import ManualClock
from tests.virtual import awaited

CONFIG: dict[str, Any] = {
    "project": "t",
    "sources": {
        "primary": {"type": "memory"},
        "second": {"type": "memory"},
        "third": {"type": "memory"},
        "standby": {"type": "memory", "role": "snapshot"},
    },
    "views": [
        {"name": "v", "join_keys": {"k": "int64"}, "features": {"f": {"dtype": "float32"}}},
        {"name": "w", "join_keys": {"k": "int64"}, "features": {"g": {"dtype": "float32"}},
         "policy": {"order": ["third", "second", "standby"]}},
    ],
    "policy": {
        "deadline_s": 0.2,
        "retry": {"attempts": 1},
        "breaker": {"min_calls": 8, "failure_rate": 0.3, "window_s": 0.3, "open_s": 0.05, "healthy_s": 0.01,
                    "ramp_s": 0, "slow_s": 0.014},
        "last_known": None,
        "hedge": {"after_max_s": 0.005},
    },
    "chaos": {"enabled": True, "max_share": 1.0},
}  # fmt: skip
FEATURES = ["v:f", "w:g"]
ROWS = list(range(1, 9))


def settings(**policy: Any) -> Any:
    config = CONFIG | {"policy": CONFIG["policy"] | policy}
    return load(config, environ={"FEATURECHAOS_CHAOS": "armed"})


def fill(client: FeatureClient | AsyncFeatureClient, clock: ManualClock, stores: Mapping[str, Any]) -> None:
    """The primary has all rows, its replica all but the last, ten times as high."""
    at = dt.datetime.fromtimestamp(clock.wall() - 1, dt.UTC)
    for view, feature in (("v", "f"), ("w", "g")):
        for name, times in (("primary", 1.0), ("third", 1.0), ("second", 10.0), ("standby", 100.0)):
            keys = ROWS[:-1] if name == "second" else ROWS
            table = {"k": keys, feature: [times * key for key in keys], "event_timestamp": [at] * len(keys)}
            stores[name].write(client._batch(view, table), clock.monotonic() + 5)


def told(response: Any) -> Any:
    truth = {view: response.provenance(view) for view in ("v", "w")}
    facts = {view: [each.origin.tolist(), each.status.tolist(), each.cause.tolist(), each.injected.tolist()]
             for view, each in truth.items()}  # fmt: skip
    return response.to_dict(), facts


FAULTS: list[tuple[str, tuple[Fault, ...]]] = [
    ("plain", ()),
    ("slow", (Delay("primary", 0.003, spread=1.0),)),
    ("both slow", (Delay("primary", 0.006, spread=0.5), Delay("second", 0.004, spread=1.0))),
    ("third", (Delay("third", 0.030), Delay("primary", 0.001))),
    ("hangs", (Outage("primary", mode="hang"),)),
    ("plain again", ()),
]
"""A day: what is injected, a share of .5, for 40 requests each."""


def played(driver: str) -> tuple[list[Any], list[Any], Any]:
    clock = ManualClock()
    heard: list[Any] = []
    answers: list[Any] = []
    given: Any = {"share": 0.5, "lease_s": 900, "seed": 7, "reason": "a test", "control": False}

    def asked(number: int) -> dict[str, Any]:
        return {"features": FEATURES, "entity_rows": {"k": [1 + number % 8, 2]}, "request_id": f"r{number}"}

    def listen(name: str, about: str, fields: Mapping[str, Any]) -> None:
        heard.append((name, about, {key: value for key, value in fields.items() if key != "error"}))

    if driver == "sync":
        client = FeatureClient(settings(), clock)
        client._world.sleep = clock.advance
        client.listen(listen)
        fill(client, clock, client._world.stores)
        for _, faults in FAULTS:
            with client.chaos.inject(*faults, **given) if faults else _Nothing():
                for number in range(40):
                    clock.advance(0.01)
                    answers.append(told(client.get_online_features(**asked(number))))
        return answers, heard, counted(client.stats())

    async def day() -> Any:
        client = AsyncFeatureClient(settings(), clock)
        client.listen(listen)
        fill(client, clock, {name: store.store for name, store in client._world.stores.items()})  # type: ignore[attr-defined]
        for _, faults in FAULTS:
            with client.chaos.inject(*faults, **given) if faults else _Nothing():
                for number in range(40):
                    clock.advance(0.01)
                    answers.append(told(await client.get_online_features(**asked(number))))
        return counted(client.stats())

    return answers, heard, awaited(day(), clock)


class _Nothing:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def counted(stats: Any) -> dict[str, Any]:
    """Counters by name, without times."""
    kept = {}
    for name, values in stats.items():
        if name.endswith("_total"):
            kept[name] = sorted(tuple(sorted(one.items())) for one in values)
    return kept


def total(stats: Any, name: str, **labels: str) -> float:
    return sum(float(one["value"]) for one in stats[name] if all(one[key] == value for key, value in labels.items()))


def test_threads_and_asyncio_have_the_same_day() -> None:
    answers, heard, counters = played("sync")
    again, also_heard, also_counted = played("async")

    assert answers == again
    assert counters == also_counted
    # Two walks of one request go on side by side: whose note comes first is nobody's promise.
    assert sorted(map(repr, heard)) == sorted(map(repr, also_heard))
    names = [name for name, _, _ in heard]
    assert {"hedge.started", "hedge.used", "hedge.denied", "breaker.opened", "breaker.closed"} <= set(names)


def test_an_injected_delay_is_hedged_and_the_rows_say_so() -> None:
    clock = ManualClock()
    client = FeatureClient(settings(), clock)
    client._world.sleep = clock.advance
    fill(client, clock, client._world.stores)

    with client.chaos.inject(Delay("primary", 0.012), share=1.0, lease_s=9, seed=7, reason="x", control=False) as on:
        response = client.get_online_features(["v:f"], {"k": [1, 2]})

    truth = response.provenance("v")
    assert response.to_dict()["f"] == [10.0, 20.0]
    assert truth.origin.tolist() == [Origin.REPLICA] * 2
    assert truth.cause.tolist() == [Cause.TIMEOUT] * 2
    assert truth.injected.all(), "it was the fault that made the primary late"
    assert not response.any_degraded
    assert response.elapsed_s == pytest.approx(0.005)
    assert on.applied == 1
    stats = client.stats()
    assert total(stats, "hedges_total", source="second") == total(stats, "hedges_won_total", source="second") == 1
    assert total(stats, "source_calls_total", source="primary", outcome="cancelled") == 1
    assert total(stats, "row_fallbacks_total", view="v", cause="TIMEOUT") == 2

    clean = client.reference(response)
    assert clean.to_dict()["f"] == [1.0, 2.0], "and its reference is what the primary has"


def test_what_no_fault_has_touched_is_not_called_injected() -> None:
    clock = ManualClock()
    client = FeatureClient(settings(), clock)
    client._world.sleep = clock.advance
    fill(client, clock, client._world.stores)

    with client.chaos.inject(Delay("third", 0.012), share=1.0, lease_s=9, seed=7, reason="x", control=False):
        response = client.get_online_features(FEATURES, {"k": [1]})

    assert response.provenance("w").injected.all()
    assert not response.provenance("v").injected.any(), "another source's walk"


def test_a_row_that_the_replica_lacks_waits_for_the_primary() -> None:
    clock = ManualClock()
    client = FeatureClient(settings(), clock)
    client._world.sleep = clock.advance
    fill(client, clock, client._world.stores)

    with client.chaos.inject(Delay("primary", 0.012), share=1.0, lease_s=9, seed=7, reason="x", control=False):
        response = client.get_online_features(["v:f"], {"k": [1, 8]})

    assert response.to_dict()["f"] == [1.0, 8.0]
    assert response.provenance("v").origin.tolist() == [Origin.PRIMARY] * 2
    assert response.elapsed_s == pytest.approx(0.012)


def test_retries_and_hedges_together_keep_the_budget() -> None:
    clock = ManualClock()
    policy = {"retry": {"attempts": 3, "budget_ratio": 0.1, "budget_burst": 5}, "breaker": None, "deadline_s": 0.5}
    client = FeatureClient(settings(**policy), clock)
    client._world.sleep = clock.advance
    fill(client, clock, client._world.stores)
    store: Any = client.store("primary")

    for number in range(300):
        store.fail_with = StoreUnavailable("gone") if number % 3 == 0 else None
        fault = Delay("primary", 0.010)
        with client.chaos.inject(fault, share=1.0, lease_s=9, seed=number, reason="x", control=False):
            client.get_online_features(["v:f"], {"k": [1]})

    stats = client.stats()
    extra = total(stats, "retries_total") + total(stats, "hedges_total")
    first = total(stats, "source_calls_total") - extra
    assert extra <= 0.1 * first + 5
    assert extra > 0.08 * first, "and is used"
    assert min(total(stats, "retries_total"), total(stats, "hedges_total")) > 5
    assert total(stats, "retries_denied_total") > 0
    assert total(stats, "hedges_denied_total") > 0
    tokens = client.explain()["v"]["load_factor"]
    assert tokens == pytest.approx(1.1)


def test_a_hedge_is_explained() -> None:
    told_of = FeatureClient(settings(retry={"attempts": 2}), ManualClock()).explain()
    without = FeatureClient(settings(retry={"attempts": 2}, hedge=None), ManualClock()).explain()

    assert told_of["v"]["hedge"] == {"source": "primary", "to": "second", "after_s": 0.005}
    assert told_of["w"]["hedge"] == {"source": "third", "to": "second", "after_s": 0.005}
    assert told_of["v"]["worst_case_calls"] == without["v"]["worst_case_calls"] + 1
    assert told_of["v"]["worst_case_s"] == without["v"]["worst_case_s"]
    assert told_of["v"]["load_factor"] == without["v"]["load_factor"]
    assert without["v"]["hedge"] is None


def test_hedges_without_retries_have_a_budget_too() -> None:
    clock = ManualClock()
    client = FeatureClient(settings(retry=None), clock)
    client._world.sleep = clock.advance
    fill(client, clock, client._world.stores)

    for number in range(60):
        with client.chaos.inject(Delay("primary", 0.010), share=1.0, lease_s=9, seed=1, reason="x", control=False):
            client.get_online_features(["v:f"], {"k": [1]}, request_id=str(number))

    hedges = total(client.stats(), "hedges_total")
    assert 3 < hedges <= 0.1 * 60 + 3
    assert client.explain()["v"]["load_factor"] == pytest.approx(1.1)


def test_half_the_timeout_is_the_most_that_is_waited_unless_told() -> None:
    client = FeatureClient(settings(hedge={}), ManualClock())

    assert client.explain()["v"]["hedge"]["after_s"] == 0.0075
    gauges = {one["source"]: one["value"] for one in client.stats()["hedge_after_seconds"]}
    assert gauges == {"primary": 0.0075, "third": 0.0075}


def test_where_it_is_off_no_layer_is_in_the_way() -> None:
    client = FeatureClient(settings(hedge=None), ManualClock())

    assert client._serving.hedge is None
    assert client.stats()["hedge_after_seconds"] == []
