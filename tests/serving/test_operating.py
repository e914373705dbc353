"""A client in the hands of an operator: drained, held, looked at; ready as an orchestrator asks."""

from __future__ import annotations

import asyncio
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from featurechaos import AsyncFeatureClient, Cause, FeatureClient, Origin
from featurechaos.errors import RequestError, StoreUnavailable
from featurechaos.faults import Outage
from featurechaos.testing import ManualClock
from tests.faults.kit import House

POLICY = {"retry": None, "last_known": None, "breaker": {"min_calls": 3, "ramp_s": 0.0, "healthy_s": 0.0}}


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> House:
    """A primary, a replica and a snapshot, with a row each, ten times as high as the one before."""
    made = House(monkeypatch, policy=POLICY)
    for name, value in (("primary", 1.0), ("second", 10.0), ("standby", 100.0)):
        made.has(name, {1: value})
    return made


def served(house: House) -> tuple[Any, Origin, Cause]:
    response = house.get()
    truth = response.provenance("v")
    return response.to_dict()["f"][0], Origin(truth.origin[0]), Cause(truth.cause[0])


def test_a_drained_source_is_left_out_at_once_and_comes_back_at_once(house: House) -> None:
    assert served(house) == (1.0, Origin.PRIMARY, Cause.NONE)
    reads = house.store("primary").reads

    assert house.client.steer("primary", "drain", reason="a disk is swapped")["views"] == []

    assert served(house) == (10.0, Origin.REPLICA, Cause.BREAKER_OPEN)
    assert house.store("primary").reads == reads
    house.client.steer("primary", "auto", reason="done")
    assert served(house) == (1.0, Origin.PRIMARY, Cause.NONE)


def test_draining_the_last_online_source_says_what_is_left_without(house: House) -> None:
    house.client.steer("second", "drain", reason="x")

    assert house.client.steer("primary", "drain", reason="x")["views"] == ["v", "w"]
    assert served(house) == (100.0, Origin.SNAPSHOT, Cause.BREAKER_OPEN)


def test_a_held_source_is_asked_however_often_it_fails(house: House) -> None:
    house.client.steer("primary", "hold", reason="look first")
    house.store("primary").fail_with = StoreUnavailable("gone")
    for _ in range(20):
        assert served(house) == (10.0, Origin.REPLICA, Cause.REFUSED)

    house.client.steer("primary", "auto", reason="seen")

    for _ in range(3):
        served(house)
    assert served(house) == (10.0, Origin.REPLICA, Cause.BREAKER_OPEN)


@pytest.mark.parametrize(
    ("source", "order", "reason"),
    [
        ("standby", "drain", "x"),
        ("primary", "stop", "x"),
        ("primary", ["drain"], "x"),
        ("primary", "drain", " "),
        ("primary", "drain", 4711),
    ],
)
def test_what_is_no_order_is_refused(house: House, source: str, order: Any, reason: Any) -> None:
    with pytest.raises(RequestError, match=r"source wants one of primary, second|steer wants drain, hold or auto"):
        house.client.steer(source, order, reason=reason)


def test_orders_work_without_a_breaker(monkeypatch: pytest.MonkeyPatch) -> None:
    house = House(monkeypatch, policy=POLICY | {"breaker": None})
    house.has("second", {1: 10.0})

    for order in ("hold", "auto", "drain"):
        house.client.steer("primary", order, reason="x")

    assert served(house)[1] == Origin.REPLICA
    assert house.client.status()["sources"]["primary"]["state"] == "drained"


def test_the_status_of_a_quiet_service(house: House) -> None:
    served(house)

    told = house.client.status()

    assert told["views"]["v"] == {
        "order": ["primary", "second", "standby"],
        "serves": "primary",
        "rows": {"PRIMARY": 1},
        "replica_as_of": None,
        "replica_age_s": None,
    }
    assert told["sources"]["primary"] == {
        "type": "memory", "role": "primary", "state": "closed", "since": "2027-01-15T08:00:00.000Z", "why": "",
        "order": "auto", "is_empty": False, "incident": None,
    }  # fmt: skip
    assert told["sources"]["standby"] == {"type": "memory", "role": "snapshot"}
    assert (told["faults"], told["incidents"], told["degraded_requests"]) == ([], [], [])
    json.dumps(told, allow_nan=False)


def test_the_status_of_a_bad_day(house: House) -> None:
    house.store("primary").fail_with = StoreUnavailable("gone")
    for number in range(4):
        house.clock.advance(1)
        house.get(request_id=f"r{number}")
    house.store("second").fail_with = StoreUnavailable("gone too")
    house.clock.advance(1)
    house.get(request_id="bad")

    with house.inject(Outage("second"), reason="while we are at it"):
        told = house.client.status()

    primary = told["sources"]["primary"]
    assert (primary["state"], primary["why"]) == ("open", "gone")
    assert told["views"]["v"]["serves"] == "second"
    assert told["incidents"][0]["id"] == primary["incident"]
    assert told["incidents"][0]["began"] == "2027-01-15T08:00:03.000Z"
    assert [one["request_id"] for one in told["degraded_requests"]] == ["bad"]
    assert [(one["fault"], one["reason"]) for one in told["faults"]] == [("outage", "while we are at it")]
    assert house.client.stats()["degraded_requests"] == told["degraded_requests"]
    assert house.client.stats()["incidents"] == told["incidents"]


def test_a_drained_source_is_an_incident_with_its_reason(house: House) -> None:
    house.client.steer("primary", "drain", reason="a disk is swapped")

    told = house.client.status()

    primary = told["sources"]["primary"]
    assert (primary["state"], primary["order"], primary["why"]) == ("drained", "drain", "a disk is swapped")
    assert told["views"]["v"]["serves"] == "second"
    house.client.steer("primary", "auto", reason="done")
    (over,) = house.client.status()["incidents"]
    assert over["id"] == primary["incident"]
    assert over["ended"] is not None


def test_a_drained_source_makes_nobody_ready() -> None:
    config = {
        "project": "t",
        "sources": {"primary": {"type": "memory"}},
        "views": [{"name": "v", "join_keys": {"k": "int64"}, "features": {"f": {"dtype": "float32"}}}],
    }
    client = FeatureClient.from_config(config, clock=ManualClock())
    assert client.ready()

    client.steer("primary", "drain", reason="x")

    assert not client.ready()
    assert not client.ready(full=True)


# What an orchestrator asks.


CONFIG: dict[str, Any] = {
    "project": "t",
    "sources": {"primary": {"type": "memory"}},
    "views": [{"name": "v", "join_keys": {"k": "int64"}, "features": {"f": {"dtype": "float32"}}}],
    "metrics": {"port": 0},
}


def page(client: Any, path: str) -> tuple[int, Any]:
    port = client.observer._endpoint.port
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


@pytest.fixture
def client() -> Iterator[FeatureClient]:
    with FeatureClient.from_config(CONFIG) as made:
        made.ready()
        yield made


def test_readyz_is_ready_and_livez_is_life(client: FeatureClient) -> None:
    store: Any = client.store("primary")

    assert page(client, "/readyz") == (200, {"ready": True})
    store.fail_with = StoreUnavailable("gone")
    assert page(client, "/readyz") == (503, {"ready": False})
    assert page(client, "/livez") == (200, {"alive": True})


def test_the_status_page_names_no_request(client: FeatureClient) -> None:
    store: Any = client.store("primary")
    store.fail_with = StoreUnavailable("gone")
    client.get_online_features(["v:f"], {"k": [1]}, request_id="customer-4711")

    code, told = page(client, "/status")

    assert code == 200
    assert told["sources"]["primary"]["state"] == "closed"
    assert "customer-4711" not in json.dumps(told)
    assert "customer-4711" in json.dumps(client.status())


def test_metrics_are_where_they_were_and_nothing_can_be_ordered_there(client: FeatureClient) -> None:
    port = client.observer._endpoint.port  # type: ignore[union-attr]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        assert b"featurechaos_requests_total" in answer.read()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/sources/primary", b"{}", method="POST")
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(request, timeout=10)
    assert client.status()["sources"]["primary"]["order"] == "auto"


def test_readyz_of_an_async_client_is_asked_in_its_loop() -> None:
    async def day() -> list[Any]:
        async with AsyncFeatureClient.from_config(CONFIG) as client:
            assert await client.ready()
            first = await asyncio.to_thread(page, client, "/readyz")
            store: Any = client._world.stores["primary"]
            store.store.fail_with = StoreUnavailable("gone")
            second = await asyncio.to_thread(page, client, "/readyz")
            return [first, second, await asyncio.to_thread(page, client, "/livez")]

    assert asyncio.run(day()) == [(200, {"ready": True}), (503, {"ready": False}), (200, {"alive": True})]
    assert not [each for each in threading.enumerate() if each.name == "featurechaos-metrics"]
