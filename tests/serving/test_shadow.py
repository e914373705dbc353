"""What the tiers behind the first source would have answered, on stores whose rows are known."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from featurechaos import AsyncFeatureClient, FeatureClient
from featurechaos.errors import StoreUnavailable
from featurechaos.faults import Delay, Stale
from featurechaos.layers.breaker import State
from featurechaos.sampling import is_sampled
from featurechaos.shadow import differs
from featurechaos.testing import ManualClock
from tests.faults.kit import DAY_S, House
from tests.serving.kit import DTYPES

SHADOW = {"share": 1.0, "max_per_s": 10_000}
POLICY: dict[str, Any] = {"retry": None, "last_known": None, "breaker": None, "shadow": SHADOW, "deadline_s": 0.5}
VIEWS = [
    {
        "name": "v",
        "join_keys": {"k": "int64"},
        "features": {"f": {"dtype": "float32", "default": 2.0}, "s": {"dtype": "string"}},
        "ttl_s": DAY_S,
    },
    {"name": "w", "join_keys": {"k": "int64"}, "features": {"g": {"dtype": "float32"}}, "ttl_s": None},
]


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> House:
    """A primary with rows 1 to 4, a replica that lacks one and lags on another, an image of yesterday."""
    made = House(monkeypatch, policy=POLICY)
    made.has("primary", {1: 1.0, 2: 2.0, 3: 3.0, 4: 4.0}, age_s=10)
    made.has("second", {1: 1.0, 2: 2.0}, age_s=10)
    made.has("second", {3: 3.5}, age_s=40)
    made.has("standby", {1: 1.0, 2: 20.0}, age_s=3610)
    return made


def compared(client: FeatureClient) -> Mapping[str, Any]:
    """Work off what waits; what is told then."""
    while client._compare() == 0.0:
        pass
    told: Mapping[str, Any] = client.status()["shadow"]
    return told


def tier(told: Mapping[str, Any], name: str, view: str = "v") -> dict[str, Any]:
    (found,) = [one for one in told["views"][view] if one["tier"] == name]
    return found  # type: ignore[no-any-return]


def test_each_tier_is_compared_by_itself(house: House) -> None:
    house.get([1, 2, 3, 4])

    told = compared(house.client)

    assert [one["tier"] for one in told["views"]["v"]] == ["second", "standby"]
    assert tier(told, "second") == {
        "tier": "second", "origin": "REPLICA", "rows": 4, "answered": 0.75, "other": 0.333333,
        "behind_s": 10.0, "behind_most_s": 30.0,
        "features": {"f": {"other": 0.333333, "mean_abs": 0.5, "most_abs": 0.5}},
    }  # fmt: skip
    assert tier(told, "standby") == {
        "tier": "standby", "origin": "SNAPSHOT", "rows": 4, "answered": 0.5, "other": 0.5,
        "behind_s": 3600.0, "behind_most_s": 3600.0,
        "features": {"f": {"other": 0.5, "mean_abs": 18.0, "most_abs": 18.0}},
    }  # fmt: skip
    assert (told["compared"], told["dropped"], told["failed"]) == (1, 0, 0)
    assert told["sources"]["second"] == {"reads": 1, "failed": 0, "skipped": 0, "mean_s": 0.0, "most_s": 0.0}


def test_rows_count_as_the_caller_has_them(house: House) -> None:
    house.get([1, 3, 3, 3, 99])

    second = tier(compared(house.client), "second")

    assert (second["rows"], second["answered"], second["other"]) == (4, 1.0, 0.75)


def test_last_known_rows_are_those_of_before_the_read(monkeypatch: pytest.MonkeyPatch) -> None:
    house = House(monkeypatch, policy=POLICY | {"last_known": {"keep_s": 900}, "order": ["primary"]})
    house.has("primary", {1: 1.0, 2: 2.0}, age_s=100)
    house.get([1])
    house.get([1, 2])

    assert tier(compared(house.client), "last_known")["rows"] == 3
    assert tier(compared(house.client), "last_known")["answered"] == pytest.approx(1 / 3)


def test_a_last_known_row_that_has_changed_is_another_value(monkeypatch: pytest.MonkeyPatch) -> None:
    house = House(monkeypatch, policy=POLICY | {"last_known": {"keep_s": 900}, "order": ["primary"]})
    house.has("primary", {1: 1.0}, age_s=100)
    house.get([1])
    house.has("primary", {1: 1.5}, age_s=40)
    house.get([1])

    kept = tier(compared(house.client), "last_known")

    assert (kept["rows"], kept["answered"], kept["other"], kept["behind_most_s"]) == (2, 0.5, 1.0, 60.0)


def test_the_default_is_a_tier_of_views_that_have_one(monkeypatch: pytest.MonkeyPatch) -> None:
    house = House(monkeypatch, policy=POLICY | {"order": ["primary"]}, views=VIEWS)
    house.client.write_to_online_store(
        "v", {"k": [1, 2], "f": [2.0, 3.0], "s": [None, None], "event_timestamp": [_date(house)] * 2}
    )
    house.client.write_to_online_store("w", {"k": [1, 2], "g": [2.0, 3.0], "event_timestamp": [_date(house)] * 2})
    house.get([1, 2], features=["v:f", "v:s", "w:g"])
    house.get([1, 2], features=["v:s"])

    told = compared(house.client)

    assert list(told["views"]) == ["v"]
    default = tier(told, "default")
    assert (default["rows"], default["answered"], default["other"], default["behind_s"]) == (2, 1.0, 0.5, None)
    assert default["features"]["s"]["other"] == 0.0


def _date(house: House) -> Any:
    return np.datetime64(int((house.clock.wall() - 60) * 1e6), "us")


@pytest.mark.parametrize(("on_expired", "answered"), [("fallback", 1.0), ("serve", 1.0), ("default", 0.0)])
def test_a_tier_answers_what_the_policy_would_serve(
    monkeypatch: pytest.MonkeyPatch, on_expired: str, answered: float
) -> None:
    house = House(monkeypatch, policy=POLICY | {"on_expired": on_expired, "order": ["primary", "standby"]})
    house.has("primary", {1: 1.0})
    house.has("standby", {1: 1.0}, age_s=2 * DAY_S)
    house.get([1])

    assert tier(compared(house.client), "standby")["answered"] == answered


def test_rows_that_changed_since_the_request_are_left_out(house: House) -> None:
    house.get([1, 2])
    house.clock.advance(5)
    house.has("second", {1: 9.0}, age_s=1)

    second = tier(compared(house.client), "second")

    assert (second["rows"], second["answered"], second["other"]) == (1, 1.0, 0.0)


def test_the_caller_may_write_to_its_columns(house: House) -> None:
    response = house.get([1, 2])
    response.columns["f"][:] = 77
    response.provenance("v").event_time[:] = 0

    second = tier(compared(house.client), "second")

    assert (second["other"], second["behind_s"]) == (0.0, 0.0)


def test_requests_are_drawn_by_their_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    house = House(monkeypatch, policy=POLICY | {"shadow": {"share": 0.2, "max_per_s": 10_000}})
    house.has("primary", {1: 1.0})
    ids = [f"request-{at}" for at in range(100)]
    for one in ids:
        house.get(request_id=one)
        compared(house.client)

    told = compared(house.client)

    assert told["compared"] == sum(is_sampled(one, 0.2) for one in ids) > 5
    assert house.store("second").reads == told["compared"]


@pytest.mark.parametrize("shadow", [None, {"share": 0}])
def test_off_is_off(monkeypatch: pytest.MonkeyPatch, shadow: Any) -> None:
    house = House(monkeypatch, policy=POLICY | {"shadow": shadow})
    house.has("primary", {1: 1.0})
    house.get()

    assert house.client._compare() is None
    assert (house.store("second").reads, house.client.status()["shadow"]) == (0, None)
    assert house.client.stats()["shadow"] is None


@pytest.mark.parametrize("fault", [Delay("primary", delay_s=0.001), Stale("v", age_s=3600, visible=True)])
def test_what_a_fault_touched_is_not_compared(house: House, fault: Any) -> None:
    house.sleeps()
    with house.inject(fault):
        house.get([1, 2])

    told = compared(house.client)

    assert (told["compared"], told["views"]) == (0, {})


def test_what_the_first_source_did_not_serve_is_not_compared(house: House) -> None:
    house.store("primary").fail_with = StoreUnavailable("gone")
    house.get([1, 2])
    reads = house.store("second").reads

    assert compared(house.client)["compared"] == 0
    assert house.store("second").reads == reads


@pytest.mark.parametrize("away", ["primary", "second"])
def test_no_replica_is_read_while_a_gate_is_open(monkeypatch: pytest.MonkeyPatch, away: str) -> None:
    house = House(monkeypatch, policy=POLICY | {"breaker": {"open_s": 60}})
    for name in ("primary", "second", "standby"):
        house.has(name, {1: 1.0})
    house.get()
    assert house.client._serving.breaker is not None
    house.client._serving.breaker.gates[away]._become(State.OPEN, house.clock.monotonic())

    told = compared(house.client)

    assert house.store("second").reads == 0
    assert told["sources"]["second"]["skipped"] == 1
    assert [one["tier"] for one in told["views"]["v"]] == ["standby"]


def test_no_drained_replica_is_read(house: House) -> None:
    house.client.steer("second", "drain", reason="a disk is swapped")
    house.get()

    assert compared(house.client)["sources"]["second"]["skipped"] == 1
    assert house.store("second").reads == 0


def test_a_tier_that_fails_answers_nothing_and_costs_nobody(house: House) -> None:
    house.store("second").fail_with = StoreUnavailable("gone")
    for _ in range(3):
        assert house.get([1, 2]).to_dict()["f"] == [1.0, 2.0]

    told = compared(house.client)

    assert tier(told, "second")["answered"] == 0.0
    assert told["sources"]["second"]["failed"] == 3
    assert tier(told, "standby")["answered"] == 1.0
    assert house.store("second").reads == 3, "nothing is retried"
    gates = house.client.status()["sources"]["second"]
    assert gates["state"] == "closed"


def test_an_error_of_our_own_is_counted_and_logged_once(house: House, caplog: pytest.LogCaptureFixture) -> None:
    def broken(*_: Any) -> Any:
        raise ValueError("broken")

    shadow = house.client._serving.shadow
    assert shadow is not None
    shadow._fetch = broken
    for _ in range(3):
        house.get([1])

    assert compared(house.client)["failed"] == 3
    assert [record.message for record in caplog.records] == ["an answer could not be compared with the tiers behind it"]


def test_so_many_a_second_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    house = House(monkeypatch, policy=POLICY | {"shadow": {"share": 1.0, "max_per_s": 2}})
    house.has("primary", {1: 1.0})
    for _ in range(5):
        house.get()
    house.clock.advance(0.5)
    house.get()

    told = compared(house.client)

    assert (told["compared"], told["dropped"]) == (3, 3)


def test_what_waits_is_bounded(house: House) -> None:
    for _ in range(40):
        house.get([1, 2])
    assert compared(house.client)["dropped"] == 8

    many = list(range(1, 5)) * 2000
    for _ in range(2):
        house.get(many)

    told = compared(house.client)
    assert (told["compared"], told["dropped"]) == (33, 9)


def test_what_is_told_is_of_late(house: House) -> None:
    house.get([1])
    assert tier(compared(house.client), "second")["rows"] == 1

    house.clock.advance(1000)
    house.get([1, 2])

    assert tier(compared(house.client), "second")["rows"] == 3
    house.clock.advance(1000)
    assert tier(compared(house.client), "second")["rows"] == 2
    house.clock.advance(2000)
    assert compared(house.client)["views"] == {}
    assert _metric(house.client, "shadow_rows_total", source="second", outcome="same") == 3


def _metric(client: FeatureClient, name: str, **labels: str) -> float:
    (found,) = [one["value"] for one in client.stats()[name] if labels.items() <= one.items()]
    return float(found)


def test_metrics_count_rows_by_what_became_of_them(house: House) -> None:
    house.get([1, 2, 3, 4])
    compared(house.client)

    labels = {"view": "v", "source": "second", "origin": "REPLICA"}
    outcomes = ("same", "other", "lacking")
    found = [_metric(house.client, "shadow_rows_total", **labels, outcome=each) for each in outcomes]
    assert found == [2, 1, 1]
    assert house.client.stats()["shadow_behind_seconds"][0] == {**labels, "count": 3, "sum": 30.0}
    assert _metric(house.client, "shadow_requests_total", outcome="compared") == 1


def test_both_clients_find_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def filled(make: Any) -> Any:
        clock = ManualClock()
        config = {
            "project": "t",
            "sources": {name: {"type": "memory"} for name in ("primary", "second")}
            | {"standby": {"type": "memory", "role": "snapshot"}},
            "views": VIEWS,
            "policy": POLICY | {"last_known": {"keep_s": 900}},
        }
        return make.from_config(config, clock=clock)

    def stored(client: Any, store: Callable[[str], Any]) -> None:
        rows = {"primary": [1.0, 2.0, 3.0], "second": [1.0, 2.5], "standby": [7.0]}
        for name, values in rows.items():
            ages = {"primary": 0, "second": 30, "standby": 3000}
            at = np.datetime64(int((client.clock.wall() - 60 - ages[name]) * 1e6), "us")
            n = len(values)
            table = {"k": range(n), "f": values, "s": ["a"] * n, "event_timestamp": [at] * n}
            store(name).write(client._batch("v", table), client.clock.monotonic() + 5)

    requests = [[0, 1], [2, 1], [0, 0, 5]]
    threads = filled(FeatureClient)
    stored(threads, threads.store)
    for keys in requests:
        threads.get_online_features(["v:f", "v:s"], {"k": keys})
    wanted = compared(threads)

    async def read() -> Any:
        async with filled(AsyncFeatureClient) as client:
            stored(client, lambda name: getattr(client._world.stores[name], "store", None) or client._snapshots[name])
            for keys in requests:
                await client.get_online_features(["v:f", "v:s"], {"k": keys})
            while await client._compare() == 0.0:
                pass
            return client.status()["shadow"]

    found = asyncio.run(read())

    assert found == wanted
    assert [one["tier"] for one in found["views"]["v"]] == ["second", "standby", "last_known", "default"]
    assert found["compared"] == 3


def heard(client: Any) -> threading.Event:
    """Set once an answer has been compared."""
    event = threading.Event()
    client.on_shadow(lambda *_: event.set())
    return event


CONFIG = {
    "project": "t",
    "sources": {"primary": {"type": "memory"}},
    "views": VIEWS,
    "policy": POLICY,
}


def test_a_thread_compares_and_ends_with_the_client() -> None:
    with FeatureClient.from_config(CONFIG) as client:
        client.write_to_online_store("v", {"k": [1], "f": [3.0], "s": ["a"], "event_timestamp": [_now(client)]})
        done = heard(client)
        client.get_online_features(["v:f"], {"k": [1]})

        assert done.wait(10)
        assert "featurechaos-shadow" in {thread.name for thread in threading.enumerate()}
        assert tier(client.status()["shadow"], "default")["other"] == 1.0

    assert "featurechaos-shadow" not in {thread.name for thread in threading.enumerate()}


def test_a_task_compares_and_ends_with_the_client() -> None:
    async def read() -> Any:
        async with AsyncFeatureClient.from_config(CONFIG) as client:
            at = [_now(client)]
            await client.write_to_online_store("v", {"k": [1], "f": [3.0], "s": ["a"], "event_timestamp": at})
            done = heard(client)
            await client.get_online_features(["v:f"], {"k": [1]})
            assert await asyncio.to_thread(done.wait, 10)
            told = client.status()["shadow"]
        return told, {task.get_name() for task in asyncio.all_tasks()}

    told, tasks = asyncio.run(read())

    assert tier(told, "default")["other"] == 1.0
    assert "featurechaos-shadow" not in tasks


def _now(client: Any) -> Any:
    return np.datetime64(int((client.clock.wall() - 1) * 1e6), "us")


def test_a_forked_child_counts_for_itself(house: House) -> None:
    house.get([1, 2])
    house.get([1, 2])
    house.client._compare()

    pid = os.fork()
    if not pid:  # What waits in the parent is compared there, and not here.
        told = house.client.status()["shadow"]
        is_new = (told["compared"], told["views"], house.client._compare() in (0.1, None)) == (0, {}, True)
        house.get([1])
        is_new &= compared(house.client)["compared"] == 1
        os._exit(0 if is_new else 1)

    assert os.waitpid(pid, 0)[1] == 0
    assert compared(house.client)["compared"] == 2


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_values_of_every_dtype_differ_exactly(dtype: str) -> None:
    value, null, other = (_cells(dtype, each) for each in DTYPES[dtype])
    other = ~value if dtype == "bool" else other
    ours, theirs = np.concatenate([value, value, value, null]), np.concatenate([value, other, null, null])
    is_null = np.array([False, False, False, True])

    found = differs(ours, theirs, is_null, np.array([False, False, True, True]))

    assert found.tolist() == [False, True, True, False]


def _cells(dtype: str, value: Any) -> Any:
    if isinstance(value, (str, bytes)) or value is None or dtype.startswith("list"):
        cells = np.empty(1, object)
        cells[0] = value
        return cells
    return np.array([value], getattr(value, "dtype", None) or dtype.partition("[")[0])


def test_nan_in_a_vector_is_like_nan() -> None:
    none = np.zeros(3, bool)
    ours = np.array([[1, np.nan], [1, np.nan], [np.nan, 1]])

    assert differs(ours, np.array([[1, np.nan], [2, np.nan], [1, np.nan]]), none, none).tolist() == [False, True, True]


def test_nan_in_a_list_is_like_nan() -> None:
    ours, theirs = _cells("list", [1.0, float("nan")]), _cells("list", [1.0, float("nan")])

    assert differs(ours, theirs, np.zeros(1, bool), np.zeros(1, bool)).tolist() == [False]
