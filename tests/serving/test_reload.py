"""Another policy without a restart: the next read is under it wholly, reads under way are not, the rest goes on."""

from __future__ import annotations

import asyncio
import copy
import datetime as dt
import logging
import os
import pickle  # noqa: TID251 - that a client may be pickled is the claim
import re
import signal
import threading
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from featurechaos import AsyncFeatureClient, Cause, FeatureClient, Origin, RequestError, SpecError, Status
from featurechaos.errors import ChaosRefused, StoreUnavailable
from featurechaos.faults import Outage
from featurechaos.layers.breaker import State
from featurechaos.testing import ManualClock
from tests.serving.test_life import forked

CONFIG: dict[str, Any] = {
    "project": "t",
    "sources": {
        "primary": {"type": "memory", "role": "primary"},
        "second": {"type": "memory", "role": "replica"},
        "standby": {"type": "memory", "role": "snapshot"},
    },
    "views": [
        {"name": "v", "join_keys": {"k": "int64"}, "features": {"f": {"dtype": "float32", "default": -1.0}}},
        {"name": "w", "join_keys": {"k": "int64"}, "features": {"g": {"dtype": "float32", "default": -1.0}}},
    ],
    "chaos": {"enabled": True, "max_share": 1.0},
}
POLICY: dict[str, Any] = {
    "deadline_s": 0.5,
    "order": ["primary"],
    "retry": None,
    "last_known": None,
    "empty": None,
    "breaker": {"min_calls": 3, "open_s": 10.0, "healthy_s": 0.0, "ramp_s": 0.0},
}


def config_of(**policy: Any) -> dict[str, Any]:
    """The config with another policy."""
    return copy.deepcopy(CONFIG) | {"policy": {**POLICY, **policy}}


def client_of(**policy: Any) -> FeatureClient:
    client = FeatureClient.from_config(config_of(**policy), clock=ManualClock())
    for name, value in (("primary", 1.0), ("second", 10.0), ("standby", 100.0)):
        fill(client, client.store(name), value)
    return client


def fill(client: Any, store: Any, value: float) -> None:
    """Row 1 of both views, a second old; its key is `k`."""
    at = [dt.datetime.fromtimestamp(client.clock.wall() - 1, dt.UTC)]
    for view, feature in (("v", "f"), ("w", "g")):
        store.write(client._batch(view, {"k": [1], feature: [value], "event_timestamp": at}), 1e12)


def fact(response: Any, view: str = "v") -> tuple[Any, Origin, Status, Cause]:
    truth = response.provenance(view)
    feature = {"v": "f", "w": "g"}[view]
    value = response.to_dict()[feature][0]
    return value, Origin(truth.origin[0]), Status(truth.status[0]), Cause(truth.cause[0])


def read(client: FeatureClient, key: int = 1) -> tuple[Any, Origin, Status, Cause]:
    return fact(client.get_online_features(["v:f"], {"k": [key]}))


def down(client: FeatureClient, source: str = "primary") -> None:
    store: Any = client.store(source)
    store.fail_with = StoreUnavailable("gone")


def advance(client: FeatureClient, seconds: float) -> None:
    client.clock.advance(seconds)  # type: ignore[attr-defined]


def gate(client: FeatureClient, source: str = "primary") -> Any:
    breaker = client._serving.breaker
    assert breaker is not None
    return breaker.gates[source]


def opened(client: FeatureClient) -> None:
    """Let the breaker of the primary open."""
    down(client)
    for _ in range(4):
        read(client)
    assert gate(client).state is State.OPEN


NULL = (None, Origin.PRIMARY, Status.NOT_FOUND, Cause.NONE)
FILLED = (-1.0, Origin.DEFAULT, Status.NOT_FOUND, Cause.MISSING)


def test_the_next_read_is_under_the_new_policy() -> None:
    client = client_of()
    assert read(client, 9) == NULL
    before = client.status()["policy"]
    advance(client, 60)

    told = client.reload(config_of(on_missing="default", deadline_s=0.4))

    assert read(client, 9) == FILLED
    assert told["changed"] == ["policy.deadline_s: 0.5 -> 0.4", "policy.on_missing: accept -> default"]
    after = client.status()["policy"]
    assert after == {
        "version": told["version"], "loaded": "2027-01-15T08:01:00.000Z", "refused": None, "incident": None,
    }  # fmt: skip
    assert before["version"] != after["version"]
    assert client.settings.policy.on_missing == "default"
    assert client.observer.counters.gauges.read()["policy_loaded_timestamp_seconds"] == {(): client.clock.wall()}


def test_limits_of_a_view_are_its_policy_too() -> None:
    client = client_of()
    config = config_of(order=["primary", "second"])
    config["views"][0] |= {"max_age_s": 0.5, "policy": {"on_exhausted": "raise", "order": ["primary"]}}

    client.reload(config)

    with pytest.raises(Exception, match="no source could serve view 'v'"):
        read(client)
    assert fact(client.get_online_features(["w:g"], {"k": [1]}), "w")[:2] == (1.0, Origin.PRIMARY)


def test_an_order_may_name_other_sources_and_what_explains_it_follows() -> None:
    client = client_of()
    before = client.explain()["v"]

    client.reload(config_of(order=["second", "primary", "standby"], retry={"attempts": 3}))

    told = client.explain()["v"]
    assert read(client)[:2] == (10.0, Origin.REPLICA)
    assert (before["order"], told["order"]) == (["primary"], ["second", "primary", "standby"])
    assert (told["worst_case_calls"], told["load_factor"]) == (6, 1.1)
    down(client, "primary")
    assert client.ready()
    assert not client.ready(full=True)
    gauges = client.observer.counters.gauges.read()
    assert gauges["retry_budget_tokens"] == {(): 3.0}


REFUSED = {
    "policy.deadline_s: wanted a number more than 0, got 0": {"policy": {"deadline_s": 0}},
    "sources.second.timeout_s: 0.015 -> 0.02 wants a restart": {
        "sources": {**CONFIG["sources"], "second": {"type": "memory", "role": "replica", "timeout_s": 0.02}}
    },
    "metrics.port: null -> 0 wants a restart": {"metrics": {"port": 0}},
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_is_refused_changes_nothing_and_is_an_incident_until_one_is_taken(
    why: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "featurechaos")
    client = client_of(on_missing="default")
    serving, version = client._serving, client.status()["policy"]["version"]

    with pytest.raises(SpecError) as refused:
        client.reload(config_of(on_missing="accept") | REFUSED[why])

    assert str(refused.value) == f"config: {why}"
    assert client._serving is serving
    assert read(client, 9) == FILLED
    told = client.status()["policy"]
    assert (told["version"], told["refused"]) == (version, f"config: {why}")
    assert [one["id"] for one in client.status()["incidents"]] == [told["incident"]]
    assert client.observer.counters.gauges.read()["policy_refused"] == {(): 1.0}
    client.reload(config_of(on_missing="accept"))
    assert client.status()["policy"]["refused"] is None
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        f"policy:t: refused: config: {why} (incident {told['incident']})",
        (
            "policy:t: reloaded: policy.on_missing: default -> accept "
            f"(version {client.status()['policy']['version']}) (incident {told['incident']})"
        ),
    ]
    assert client.observer.counters.gauges.read()["policy_refused"] == {(): 0.0}


def test_a_file_is_read_anew_and_one_that_has_not_changed_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "featurechaos")
    path = tmp_path / "served.yaml"
    path.write_text(yaml.safe_dump(config_of()))
    monkeypatch.chdir(tmp_path)
    client = FeatureClient.from_config("served.yaml", clock=ManualClock())
    monkeypatch.chdir("/")

    same = client.reload()
    path.write_text(yaml.safe_dump(config_of(on_missing="default")))
    told = client.reload()
    path.write_text("project: [")

    with pytest.raises(SpecError, match=r"^served\.yaml: line 1"):
        client.reload()
    path.unlink()
    with pytest.raises(SpecError, match=r"^served\.yaml: cannot be read"):
        client.reload()
    assert same["changed"] == []
    assert told["changed"] == ["policy.on_missing: accept -> default"]
    assert f"policy:t: reloaded: nothing has changed (version {same['version']})" in caplog.messages
    assert read(client, 9) == FILLED


def test_a_mapping_is_no_file() -> None:
    with pytest.raises(RequestError, match="this client was made from a mapping"):
        client_of().reload()


def test_another_source_does_not_change_what_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "served.yaml"
    path.write_text(yaml.safe_dump(config_of()))
    client = FeatureClient.from_config(path, clock=ManualClock())

    client.reload(config_of(on_missing="default"))

    assert client.reload()["changed"] == ["policy.on_missing: default -> accept"]


# Reads under way.


class Meanwhile:
    """Something that happens once, in the middle of a read of a source."""

    def __init__(self, client: FeatureClient, what: Any, source: str = "primary") -> None:
        store: Any = client.store(source)
        self.what, self.read = what, store.read
        store.read = self

    def __call__(self, *given: Any, **more: Any) -> Any:
        what, self.what = self.what, None
        if what is not None:
            what()
        return self.read(*given, **more)


def test_a_read_under_way_ends_under_the_policy_it_began_with() -> None:
    client = client_of(order=["primary", "second"], on_missing="fallback")
    Meanwhile(client, lambda: client.reload(config_of(order=["standby"], on_missing="accept")))

    under_way, next_ = read(client, 9), read(client)

    assert under_way == (-1.0, Origin.DEFAULT, Status.NOT_FOUND, Cause.MISSING)
    assert next_[:2] == (100.0, Origin.SNAPSHOT)


def test_a_read_is_under_one_policy_from_its_first_look() -> None:
    client = client_of(breaker=None)
    down(client)

    class Id:
        def __str__(self) -> str:
            client.reload(config_of(breaker=None, retry={"attempts": 3, "wait_first_s": 0.0}))
            return "r"

    client.get_online_features(["v:f"], {"k": [1]}, request_id=Id())  # type: ignore[arg-type]

    assert client.store("primary").reads == 1  # type: ignore[attr-defined]
    read(client)
    assert client.store("primary").reads == 4  # type: ignore[attr-defined]


def test_a_read_under_way_has_the_last_known_rows_it_began_with() -> None:
    client = client_of(last_known={"keep_s": 900})
    read(client)
    down(client)
    Meanwhile(client, lambda: client.reload(config_of(last_known=None)))

    under_way, next_ = read(client), read(client)

    assert under_way[:2] == (1.0, Origin.LAST_KNOWN)
    assert next_[:2] == (-1.0, Origin.DEFAULT)


def test_what_a_read_under_way_brings_is_remembered_for_the_policy_that_follows() -> None:
    client = client_of(last_known={"keep_s": 900})
    read(client, 9)  # opens a generation
    read(client)
    Meanwhile(client, lambda: client.reload(config_of(last_known={"keep_s": 800})))
    at = [dt.datetime.fromtimestamp(client.clock.wall(), dt.UTC)]
    client.write_to_online_store("v", {"k": [1, 2], "f": [2.0, 3.0], "event_timestamp": at * 2})

    assert read(client, 2)[:2] == (3.0, Origin.PRIMARY)
    down(client)
    assert read(client, 2)[:2] == (3.0, Origin.LAST_KNOWN)


def test_a_row_deleted_meanwhile_does_not_come_back_with_a_read_under_way() -> None:
    client = client_of(last_known={"keep_s": 900})
    read(client)
    old_rows = client.store("primary").rows.copy()  # type: ignore[attr-defined]

    def delete() -> None:
        client.reload(config_of(last_known={"keep_s": 800}))
        client.delete("v", {"k": [1]})
        client.store("primary").rows = old_rows  # type: ignore[attr-defined]  # an answer from before

    Meanwhile(client, delete)
    advance(client, 200)  # so that it is written anew

    read(client)
    down(client)
    assert read(client)[1] is Origin.DEFAULT


def test_an_old_policy_is_let_go_with_its_last_read() -> None:
    policy: dict[str, Any] = {"last_known": {"keep_s": 900}, "shadow": {}, "hedge": {}, "order": ["primary", "second"]}
    client = client_of(**policy)
    read(client)
    before = weakref.ref(client._serving)

    client.reload(config_of(**policy | {"hedge": None}))

    assert before() is None, "and not with the next collection of garbage"


# What goes on.


def test_an_open_breaker_stays_open_and_goes_by_the_new_limits() -> None:
    client = client_of()
    opened(client)
    incident = client.status()["sources"]["primary"]["incident"]
    store: Any = client.store("primary")
    store.fail_with = None

    client.reload(config_of(breaker={**POLICY["breaker"], "open_s": 2.0}))

    assert read(client)[3] is Cause.BREAKER_OPEN
    assert client.status()["sources"]["primary"]["incident"] == incident
    advance(client, 2.5)
    assert read(client)[:2] == (1.0, Origin.PRIMARY)


def test_fewer_calls_may_open_a_breaker_that_has_counted_them() -> None:
    client = client_of(breaker={**POLICY["breaker"], "min_calls": 100})
    down(client)
    for _ in range(4):
        read(client)
    assert gate(client).state is State.CLOSED

    client.reload(config_of())
    read(client)

    assert gate(client).state is State.OPEN


def test_what_a_timeout_is_changes_with_the_policy() -> None:
    """A source may have no time of its own: then it has the deadline's."""
    client = client_of(shadow={"share": 1.0})
    before = client._serving

    client.reload(config_of(shadow={"share": 1.0}, deadline_s=0.25))

    now = client._serving
    assert now.breaker is before.breaker
    assert now.shadow is before.shadow
    for holder in (now.breaker, now.shadow):
        assert holder is not None
        assert holder._timeouts is now.timeouts is not before.timeouts


def test_a_breaker_that_is_switched_off_is_over_with_its_incident_and_gauge() -> None:
    client = client_of()
    opened(client)

    client.reload(config_of(breaker=None))

    assert client.status()["sources"]["primary"]["state"] == "closed"
    (incident,) = client.status()["incidents"]
    assert (incident["state"], incident["reason"], incident["ended"] is None) == ("closed", "the breaker is off", False)
    assert "breaker_state" not in client.observer.counters.gauges.read()
    for _ in range(9):
        assert read(client)[3] is Cause.REFUSED
    client.reload(config_of())
    assert gate(client).state is State.CLOSED
    assert client.observer.counters.gauges.read()["breaker_state"][("primary",)] == 0


def test_a_call_under_way_cannot_open_a_breaker_that_is_off() -> None:
    client = client_of()
    down(client)
    for _ in range(2):
        read(client)
    Meanwhile(client, lambda: client.reload(config_of(breaker=None)))

    read(client)

    assert client.status()["incidents"] == []


def test_orders_outlive_a_policy_and_hold_a_breaker_that_is_switched_on() -> None:
    client = client_of(order=["primary", "second"], breaker=None)
    client.steer("primary", "hold", reason="it flaps")
    client.steer("second", "drain", reason="a disk is swapped")

    client.reload(config_of(order=["primary", "second"]))

    assert client.status()["sources"]["second"]["state"] == "drained"
    down(client)
    for _ in range(9):
        assert read(client)[1:] == (Origin.DEFAULT, Status.UNAVAILABLE, Cause.REFUSED)
    client.steer("primary", "auto", reason="seen")
    for _ in range(4):
        read(client)
    assert gate(client).state is State.OPEN


def test_faults_stay_on_and_new_ones_keep_within_the_new_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATURECHAOS_CHAOS", "armed")
    client = client_of()
    with client.chaos.inject(Outage("primary"), share=1.0, lease_s=60, seed=7, reason="a test", control=False):
        client.reload(config_of(on_missing="default") | {"chaos": {"enabled": True, "max_share": 0.1}})

        response = client.get_online_features(["v:f"], {"k": [1]})
        assert response.provenance("v").injected[0]
    assert not client.get_online_features(["v:f"], {"k": [1]}).provenance("v").injected[0]
    with pytest.raises(ChaosRefused, match=r"within 0\.1, got 0\.2"):
        client.chaos.inject(Outage("primary"), share=0.2, lease_s=60, seed=7, reason="a test", control=False)


def test_last_known_rows_go_on_for_as_long_as_the_new_policy_keeps_them() -> None:
    client = client_of(last_known={"keep_s": 900})
    read(client)
    down(client)

    client.reload(config_of(last_known={"keep_s": 300}))

    assert read(client)[:2] == (1.0, Origin.LAST_KNOWN)
    advance(client, 301)
    assert read(client)[1] is Origin.DEFAULT


def test_a_source_without_its_data_is_not_believed_under_the_next_policy_either() -> None:
    policy = {"last_known": {"keep_s": 900}, "empty": {"min_rows": 4, "window_s": 60}}
    client = client_of(**policy)
    store: Any = client.store("primary")
    at = [dt.datetime.fromtimestamp(client.clock.wall(), dt.UTC)] * 40
    client.write_to_online_store("v", {"k": list(range(40)), "f": [1.0] * 40, "event_timestamp": at})
    everything = {"k": list(range(40))}
    client.get_online_features(["v:f"], everything)
    store.rows = {}
    client.get_online_features(["v:f"], everything)
    assert client.status()["sources"]["primary"]["is_empty"]

    client.reload(config_of(**{**policy, "on_missing": "default"}))

    assert client.status()["sources"]["primary"]["is_empty"]
    client.reload(config_of(last_known={"keep_s": 900}))
    assert not client.status()["sources"]["primary"]["is_empty"]
    incidents = [one for one in client.status()["incidents"] if one["source"] == "primary"]
    assert [one["ended"] is None for one in incidents] == [False]
    assert "source_empty" not in client.observer.counters.gauges.read()


def test_the_tokens_of_the_retries_are_what_was_left_of_them() -> None:
    client = client_of(retry={"attempts": 2, "wait_first_s": 0.0, "budget_burst": 3}, breaker=None)
    down(client)
    read(client)
    left = client._serving.budget.tokens  # type: ignore[union-attr]

    client.reload(config_of(retry={"attempts": 2, "budget_burst": 9}, breaker=None))

    assert client._serving.budget.tokens == left < 3  # type: ignore[union-attr]
    client.reload(config_of(retry={"attempts": 2, "budget_burst": 1}, breaker=None))
    assert client._serving.budget.tokens == 1  # type: ignore[union-attr]


def test_a_hedge_goes_on_with_what_it_has_measured_unless_it_is_another() -> None:
    client = client_of(order=["primary", "second"], hedge={"after_min_s": 0.002})
    for _ in range(40):
        read(client)
    assert client.explain()["v"]["hedge"]["after_s"] == 0.002

    client.reload(config_of(order=["primary", "second"], hedge={"after_min_s": 0.002}, on_missing="default"))
    assert client.explain()["v"]["hedge"]["after_s"] == 0.002
    client.reload(config_of(order=["primary", "second"], hedge={"after_min_s": 0.003}))
    assert client.explain()["v"]["hedge"]["after_s"] == 0.0075
    client.reload(config_of(order=["primary", "second"]))

    assert client.explain()["v"]["hedge"] is None
    assert "hedge_after_seconds" not in client.observer.counters.gauges.read()


def test_a_shadow_goes_on_with_what_it_has_counted_and_what_is_remembered_now() -> None:
    policy: dict[str, Any] = {"last_known": {"keep_s": 900}, "shadow": {"share": 1.0, "max_per_s": 9}}
    client = client_of(**policy)
    read(client)
    first = client._serving.shadow
    assert first is not None
    first.next()

    client.reload(config_of(**policy | {"shadow": {"share": 0.5, "max_per_s": 9}, "last_known": {"keep_s": 800}}))

    shadow = client._serving.shadow
    assert shadow is first
    assert (shadow.share, shadow._memory) == (0.5, client._serving.memory)
    assert client.status()["shadow"]["share"] == 0.5
    client.reload(config_of())
    assert client.status()["shadow"] is None
    assert "shadow_requests_total" not in client.observer.counters._shadow()


def test_counters_go_on() -> None:
    client = client_of()
    read(client)

    client.reload(config_of(on_missing="default"))
    read(client)

    assert client.observer.counters.rows()["v"] == {"PRIMARY": 2}


# Whose client it is.


def test_a_client_that_steps_aside_goes_on_doing_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATURECHAOS_BYPASS", "1")
    client = client_of(order=["primary", "second"])
    monkeypatch.delenv("FEATURECHAOS_BYPASS")

    told = client.reload(config_of(order=["primary", "second"], retry={"attempts": 3}, on_missing="default"))

    assert told["changed"] == ["policy.on_missing: accept -> default"]
    assert client.status()["bypass"]
    assert client._serving.budget is None
    down(client)
    assert read(client)[1] is Origin.DEFAULT


def test_a_pickle_is_of_the_config_in_force(tmp_path: Path) -> None:
    path = tmp_path / "served.yaml"
    path.write_text(yaml.safe_dump(config_of()))
    client = FeatureClient.from_config(path, clock=ManualClock())
    client.reload(config_of(on_missing="default"))

    copied = pickle.loads(pickle.dumps(client))

    assert copied.settings.policy.on_missing == "default"
    assert copied.reload()["changed"] == ["policy.on_missing: default -> accept"]


def test_a_child_has_the_policy_of_the_moment_it_was_forked() -> None:
    client = client_of()
    client.reload(config_of(on_missing="default"))

    def child() -> bool:
        was = read(client, 9)
        client.reload(config_of(on_missing="accept"))
        return was == FILLED and read(client, 9) == NULL

    assert forked(child)
    assert read(client, 9) == FILLED


def test_a_child_forked_in_the_middle_of_a_reload_is_under_one_policy_and_may_reload() -> None:
    client = client_of()
    entered, go = threading.Event(), threading.Event()

    class Held(dict[str, Any]):
        def items(self) -> Any:
            entered.set()
            go.wait(10)
            return super().items()

    reloading = threading.Thread(target=lambda: client.reload(Held(config_of(on_missing="default"))))
    reloading.start()
    assert entered.wait(10)

    def child() -> bool:
        was = read(client, 9)
        client.reload(config_of(on_missing="fallback"))
        return was == NULL and client.settings.policy.on_missing == "fallback"

    try:
        assert forked(child)
    finally:
        go.set()
        reloading.join()
    assert read(client, 9) == FILLED


# Several at once.

ONE = config_of(on_missing="default", retry={"attempts": 2}, last_known={"keep_s": 60})
OTHER = config_of(on_missing="accept", order=["primary", "second"], breaker=None, empty={})


def is_whole(response: Any) -> bool:
    """Whether an answer is under one of the two: both views lack their rows the same way."""
    return fact(response, "v") == fact(response, "w") and fact(response, "v") in (NULL, FILLED)


def test_every_read_of_eight_threads_is_under_one_of_two_policies() -> None:
    with FeatureClient.from_config(ONE) as client:
        fill(client, client.store("primary"), 1.0)
        wrong: list[Any] = []
        seen: set[Any] = set()
        stop = threading.Event()

        def work() -> None:
            try:
                while not stop.is_set():
                    response = client.get_online_features(["v:f", "w:g"], {"k": [9]}, deadline_s=5)
                    seen.add(fact(response))
                    if not is_whole(response):
                        wrong.append(fact(response))
            except Exception as error:  # noqa: BLE001 - told by the thread that waits
                wrong.append(error)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        try:
            for turn in range(10_000):
                client.reload((OTHER, ONE)[turn % 2])
                if turn >= 60 and len(seen) > 1:
                    break
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    assert wrong == []
    assert seen == {NULL, FILLED}


class Slow(Mapping[str, Any]):
    """A config that takes until it is let go to be read."""

    def __init__(self, of: Mapping[str, Any]) -> None:
        self.of, self.entered, self.go = of, threading.Event(), threading.Event()

    def __getitem__(self, key: str) -> Any:
        return self.of[key]

    def __len__(self) -> int:
        return len(self.of)

    def __iter__(self) -> Iterator[str]:
        self.entered.set()
        self.go.wait(10)
        return iter(self.of)


def test_of_two_reloads_at_once_the_later_one_is_in_force() -> None:
    client = client_of()
    slow = Slow(config_of(on_missing="default"))
    first = threading.Thread(target=client.reload, args=(slow,))
    second = threading.Thread(target=client.reload, args=(config_of(on_missing="fallback"),))
    first.start()
    assert slow.entered.wait(10)

    second.start()
    second.join(0.05)
    slow.go.set()
    first.join()
    second.join()

    assert client.settings.policy.on_missing == "fallback"


def test_an_async_client_reloads_beside_its_reads() -> None:
    async def day() -> list[Any]:
        async with AsyncFeatureClient.from_config(ONE) as client:

            async def reads() -> list[bool]:
                answers = [
                    await client.get_online_features(["v:f", "w:g"], {"k": [9]}, deadline_s=5) for _ in range(40)
                ]
                return [is_whole(answer) for answer in answers]

            async def reloads() -> list[str]:
                told = [await client.reload((OTHER, ONE)[turn % 2]) for turn in range(10)]
                return sorted({one["version"] for one in told})

            *whole, versions = await asyncio.gather(reads(), reads(), reads(), reloads())
            with pytest.raises(SpecError, match="wants a restart"):
                await client.reload(ONE | {"project": "u"})
            assert await client.ready()
            assert client.status()["policy"]["version"] in versions
            return [[each for one in whole for each in one], len(versions)]

    whole, versions = asyncio.run(day())

    assert whole == [True] * 120
    assert versions == 2


@pytest.fixture
def served(tmp_path: Path, root: Path) -> Iterator[tuple[FeatureClient, Path]]:
    """A client that SIGHUP reloads, by the lines of the handbook, and its file."""
    (lines,) = [
        block
        for block in re.findall(r"```python\n(.*?)```", (root / "docs" / "operations.md").read_text(), re.DOTALL)
        if "signal.signal(" in block
    ]
    path = tmp_path / "served.yaml"
    path.write_text(yaml.safe_dump(ONE))
    before = signal.getsignal(signal.SIGHUP)
    with FeatureClient.from_config(path) as client:
        exec(lines, {"client": client})
        try:
            yield client, path
        finally:
            signal.signal(signal.SIGHUP, before)


def test_a_signal_may_ask_for_it_whatever_the_main_thread_holds(served: tuple[FeatureClient, Path]) -> None:
    (client, path), done = served, threading.Event()
    client.listen(lambda name, *_: done.set() if name == "policy.reloaded" else None)
    path.write_text(yaml.safe_dump(OTHER))

    with client._serving.memory._lock:  # as if the signal came in the middle of a read
        signal.raise_signal(signal.SIGHUP)

    assert done.wait(10)
    assert read(client, 9) == NULL


def test_reads_of_the_main_thread_go_on_through_many_signals(served: tuple[FeatureClient, Path]) -> None:
    (client, path), count = served, threading.Semaphore(0)
    client.listen(lambda name, *_: count.release() if name == "policy.reloaded" else None)

    def signals() -> None:
        for turn in range(20):
            path.write_text(yaml.safe_dump((OTHER, ONE)[turn % 2]))
            os.kill(os.getpid(), signal.SIGHUP)
            count.acquire(timeout=10)
        over.set()

    over, whole = threading.Event(), []
    sender = threading.Thread(target=signals)
    sender.start()
    while not over.is_set():
        whole.append(is_whole(client.get_online_features(["v:f", "w:g"], {"k": [9]}, deadline_s=5)))
    sender.join()

    assert all(whole)
    assert client.settings.policy.on_missing == "default"
