"""What one row of one view becomes: the contract's table, one case a line, and the sentences around it."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import pytest

from featurechaos import Cause, Exhausted, FeatureClient, Origin, Status
from featurechaos.errors import StoreRefused, StoreTimeout, StoreUnavailable
from featurechaos.testing import ManualClock, MemoryStore

TTL_S, HARD_S = 100.0, 1000.0
FRESH, OLD, PAST = 10.0, 500.0, 5000.0
DEFAULT = -1.0

Case = tuple[Any, Any, dict[str, Any], Any, Origin, Status, bool, Cause]

P, L, S, D, N = Origin.PRIMARY, Origin.LAST_KNOWN, Origin.SNAPSHOT, Origin.DEFAULT, Origin.NONE
OK, NF, EX, CO, UN = Status.PRESENT, Status.NOT_FOUND, Status.EXPIRED, Status.CORRUPT, Status.UNAVAILABLE
EARLY = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)

# primary says, local (age or None), policy -> value (the age it was written with, DEFAULT or None), origin, status,
# degraded, cause
TABLE: list[Case] = [
    (FRESH, None, {}, FRESH, P, OK, False, Cause.NONE),
    (FRESH, 5.0, {"on_expired": "default"}, FRESH, P, OK, False, Cause.NONE),
    ("missing", FRESH, {}, None, P, NF, False, Cause.NONE),
    ("missing", FRESH, {"on_missing": "default"}, DEFAULT, D, NF, False, Cause.MISSING),
    ("missing", FRESH, {"on_missing": "fallback"}, FRESH, S, OK, True, Cause.MISSING),
    ("missing", OLD, {"on_missing": "fallback"}, OLD, S, EX, True, Cause.MISSING),
    (
        "missing",
        OLD,
        {"on_missing": "fallback", "on_expired": "default"},
        DEFAULT,
        D,
        NF,
        False,
        Cause.MISSING,
    ),
    ("missing", None, {"on_missing": "fallback"}, DEFAULT, D, NF, False, Cause.MISSING),
    (OLD, FRESH, {"on_expired": "serve"}, OLD, P, EX, True, Cause.NONE),
    (OLD, FRESH, {}, FRESH, S, OK, True, Cause.EXPIRED),
    (OLD, OLD + 50, {}, OLD, P, EX, True, Cause.NONE),
    (OLD, OLD - 50, {}, OLD - 50, S, EX, True, Cause.EXPIRED),
    (OLD, None, {}, OLD, P, EX, True, Cause.NONE),
    (OLD, FRESH, {"on_expired": "default"}, DEFAULT, D, EX, True, Cause.EXPIRED),
    (PAST, FRESH, {"on_expired": "default"}, DEFAULT, D, EX, True, Cause.EXPIRED),
    (PAST, FRESH, {"on_expired": "serve"}, FRESH, S, OK, True, Cause.EXPIRED),
    (PAST, OLD, {"on_expired": "serve"}, OLD, S, EX, True, Cause.EXPIRED),
    (PAST, FRESH, {}, FRESH, S, OK, True, Cause.EXPIRED),
    (PAST, OLD, {}, OLD, S, EX, True, Cause.EXPIRED),
    (PAST, None, {}, DEFAULT, D, EX, True, Cause.EXPIRED),
    (PAST, PAST, {"on_expired": "serve"}, DEFAULT, D, EX, True, Cause.EXPIRED),
    ("corrupt", FRESH, {"on_expired": "default"}, FRESH, S, OK, True, Cause.CORRUPT),
    ("corrupt", OLD, {}, OLD, S, EX, True, Cause.CORRUPT),
    ("corrupt", OLD, {"on_expired": "serve"}, OLD, S, EX, True, Cause.CORRUPT),
    ("corrupt", None, {}, DEFAULT, D, CO, True, Cause.CORRUPT),
    ("corrupt", OLD, {"on_expired": "default"}, DEFAULT, D, CO, True, Cause.CORRUPT),
    ("timeout", FRESH, {"on_expired": "default"}, FRESH, S, OK, True, Cause.TIMEOUT),
    ("timeout", OLD, {}, OLD, S, EX, True, Cause.TIMEOUT),
    ("refused", OLD, {"on_expired": "serve"}, OLD, S, EX, True, Cause.REFUSED),
    ("down", None, {}, DEFAULT, D, UN, True, Cause.REFUSED),
    ("down", PAST, {}, DEFAULT, D, EX, True, Cause.REFUSED),
    ("down", OLD, {"on_expired": "default"}, DEFAULT, D, EX, True, Cause.REFUSED),
    ("down", "corrupt", {}, DEFAULT, D, CO, True, Cause.REFUSED),
    ("down", "buried", {}, DEFAULT, D, UN, True, Cause.REFUSED),
    ("buried", FRESH, {"on_missing": "fallback"}, DEFAULT, D, NF, False, Cause.MISSING),
    ("buried", None, {}, None, P, NF, False, Cause.NONE),
]
FAILURES = {"timeout": StoreTimeout("late"), "refused": StoreRefused("no"), "down": StoreUnavailable("gone")}


class House:
    """A primary and a snapshot, both in memory, and a client over them whose clock stands still."""

    def __init__(self, clock: ManualClock, *, default: float | None = DEFAULT, **policy: Any) -> None:
        feature = {"dtype": "float32"} if default is None else {"dtype": "float32", "default": default}
        self.clock = clock
        self.client = FeatureClient.from_config(
            {
                "project": "t",
                "sources": {
                    "primary": {"type": "memory", "role": "primary"},
                    "standby": {"type": "memory", "role": "snapshot"},
                },
                "views": [
                    {
                        "name": "v",
                        "join_keys": {"k": "int64"},
                        "features": {"f": feature},
                        "ttl_s": TTL_S,
                        "max_age_s": HARD_S,
                    }
                ],
                "policy": {"retry": None, "last_known": None, **policy},
            },
            clock=clock,
        )

    def store(self, name: str) -> MemoryStore:
        store = self.client.store(name)
        assert isinstance(store, MemoryStore)
        return store

    def has(self, source: str, what: Any) -> None:
        """Make a source hold the row k=1 of an age, a damaged or buried one, none, or no answer at all."""
        store = self.store(source)
        if what in FAILURES:
            store.fail_with = FAILURES[what]
        elif what == "buried":
            batch = self.client._tombstones("v", {"k": [1]})
            store.put(batch.ask, batch.blobs)
        elif what not in (None, "missing"):
            age_s = FRESH if what == "corrupt" else what
            at = dt.datetime.fromtimestamp(self.clock.wall() - age_s, dt.UTC)
            batch = self.client._batch("v", {"k": [1], "f": [age_s], "event_timestamp": [at]})
            blob = batch.blobs[0]
            store.put(batch.ask, [blob[:-1] + bytes([blob[-1] ^ 1])] if what == "corrupt" else [blob])

    def get(self, **more: Any) -> Any:
        return self.client.get_online_features(["v:f"], {"k": [1]}, **more)


def told(response: Any) -> tuple[Any, Origin, Status, bool, Cause]:
    truth = response.provenance("v")
    return (
        response.to_dict()["f"][0],
        Origin(truth.origin[0]),
        Status(truth.status[0]),
        bool(response.degraded[0]),
        Cause(truth.cause[0]),
    )


@pytest.mark.parametrize("case", TABLE, ids=lambda case: f"{case[0]}-{case[1]}-{'-'.join(case[2].values()) or 'usual'}")
def test_a_row_becomes_what_the_contract_says(case: Case) -> None:
    primary, local, policy, value, origin, status, degraded, cause = case
    house = House(ManualClock(), **policy)
    house.has("primary", primary)
    house.has("standby", local)

    response = house.get()

    assert told(response) == (value, origin, status, degraded, cause)
    truth = response.provenance("v")
    served = value not in (None, DEFAULT)
    assert (truth.age_s[0] == value) if served else np.isnan(truth.age_s[0])


@pytest.mark.parametrize("case", [case for case in TABLE if case[4] is D], ids=lambda case: f"{case[0]}-{case[1]}")
def test_without_a_default_the_origin_is_none_and_the_value_null(case: Case) -> None:
    primary, local, policy, _, _, status, degraded, cause = case
    house = House(ManualClock(), default=None, **policy)
    house.has("primary", primary)
    house.has("standby", local)

    assert told(house.get()) == (None, N, status, degraded, cause)


@pytest.mark.parametrize(
    ("primary", "local", "policy", "raises"),
    [
        ("down", None, {}, True),
        ("down", PAST, {}, True),
        (PAST, None, {}, True),
        ("corrupt", None, {}, True),
        ("missing", None, {"on_missing": "fallback"}, False),
        ("missing", None, {"on_missing": "default"}, False),
        (OLD, None, {"on_expired": "default"}, False),
        ("missing", None, {}, False),
        (FRESH, None, {}, False),
        ("down", OLD, {}, False),
    ],
)
def test_only_exhausted_rows_raise(primary: Any, local: Any, policy: dict[str, Any], raises: bool) -> None:
    house = House(ManualClock(), **policy)
    house.has("primary", primary)
    house.has("standby", local)

    if not raises:
        house.get(on_exhausted="raise")
        return
    with pytest.raises(Exhausted, match="view 'v': 1 of 1 rows") as caught:
        house.get(on_exhausted="raise")

    value, origin, _, degraded, _ = told(caught.value.response)
    assert (value, origin, degraded) == (None, N, True)


def test_a_null_key_is_not_read_and_not_degraded() -> None:
    house = House(ManualClock())
    house.has("primary", FRESH)

    response = house.client.get_online_features(["v:f"], {"k": [None, 1, float("nan")]})

    truth = response.provenance("v")
    assert truth.origin.tolist() == [N, P, N]
    assert truth.status.tolist() == [NF, OK, NF]
    assert truth.cause.tolist() == [Cause.KEY_NULL, Cause.NONE, Cause.KEY_NULL]
    assert response.to_dict() == {"k": [None, 1, None], "f": [None, FRESH, None]}
    assert not response.any_degraded


@pytest.mark.parametrize("deadline_s", [0, -1])
@pytest.mark.parametrize(("local", "status"), [(FRESH, OK), (OLD, EX), (None, UN)])
def test_no_time_asks_local_tiers_only(deadline_s: float, local: Any, status: Status) -> None:
    house = House(ManualClock())
    house.has("primary", FRESH)
    house.has("standby", local)

    response = house.get(deadline_s=deadline_s)

    assert told(response)[2:] == (status, True, Cause.NO_TIME)
    assert house.store("primary").reads == 0


def test_a_call_may_only_tighten_the_hard_limit() -> None:
    house = House(ManualClock())
    house.has("primary", OLD)

    assert told(house.get())[0] == OLD
    assert told(house.get(max_age_s=OLD - 1))[:3] == (DEFAULT, D, EX)
    assert told(house.get(max_age_s=10 * HARD_S))[0] == OLD


def test_one_bad_row_never_costs_its_neighbours() -> None:
    clock = ManualClock()
    house = House(clock)
    at = [dt.datetime.fromtimestamp(clock.wall() - age, dt.UTC) for age in (1, 2, 3, 4)]
    batch = house.client._batch("v", {"k": [1, 2, 3, 4], "f": [1.0, 2, 3, 4], "event_timestamp": at})
    other = batch.blobs[0]
    house.store("primary").put(batch.ask, [batch.blobs[0], batch.blobs[1][:50], other, None])
    house.store("standby").put(batch.ask, batch.blobs)

    response = house.client.get_online_features(["v:f"], {"k": [1, 2, 3, 4, 2]})

    truth = response.provenance("v")
    assert truth.origin.tolist() == [P, S, S, P, S]
    assert truth.cause.tolist() == [Cause.NONE, Cause.CORRUPT, Cause.CORRUPT, Cause.NONE, Cause.CORRUPT]
    assert response.to_dict()["f"] == [1, 2, 3, None, 2]


def test_last_known_and_snapshot_compete_by_event_time() -> None:
    clock = ManualClock()
    house = House(clock, last_known={"keep_s": 60})
    house.has("primary", FRESH)
    house.get()
    house.has("standby", OLD)
    house.has("primary", "down")

    assert told(house.get())[:3] == (FRESH, L, OK)

    house.has("standby", 5.0)
    assert told(house.get())[:3] == (5.0, S, OK)

    house.has("standby", FRESH)
    assert told(house.get())[1] is S, "a tie goes to the lower origin"


def test_last_known_forgets_after_its_time_and_what_does_not_exist() -> None:
    clock = ManualClock()
    house = House(clock, last_known={"keep_s": 60})
    house.has("primary", FRESH)
    house.get()
    house.has("primary", "down")
    clock.advance(59)
    assert told(house.get())[1] is L
    clock.advance(2)
    assert told(house.get())[1] is D

    house.store("primary").fail_with = None
    house.get()
    house.store("primary").rows.clear()
    assert told(house.get())[2] is NF
    house.has("primary", "down")
    assert told(house.get())[1] is D, "an accepted NOT_FOUND drops the entry"


def test_a_deleted_row_is_gone_from_every_tier() -> None:
    house = House(ManualClock(), on_missing="fallback", last_known={"keep_s": 60})
    house.has("primary", FRESH)
    house.has("standby", FRESH)
    house.get()

    house.client.delete("v", {"k": [1]})

    assert told(house.get())[:3] == (DEFAULT, D, NF)


def test_a_row_from_the_future_is_present_and_of_age_zero() -> None:
    clock = ManualClock()
    house = House(clock)
    house.has("primary", -30.0)

    truth = house.get().provenance("v")

    assert (truth.status[0], truth.age_s[0]) == (OK, 0.0)


def test_a_row_dated_ahead_is_deleted_too() -> None:
    clock = ManualClock()
    house = House(clock)
    at = dt.datetime.fromtimestamp(clock.wall() + 50, dt.UTC)
    house.client.write_to_online_store("v", {"k": [1], "f": [1.0], "event_timestamp": [at]})

    house.client.delete("v", {"k": [1]})

    assert told(house.get())[:3] == (None, P, NF)


def test_an_answer_on_its_way_does_not_bring_a_deleted_row_back() -> None:
    house = House(ManualClock(), last_known={"keep_s": 60})
    house.has("primary", FRESH)
    batch = house.client._batch("v", {"k": [1], "f": [FRESH], "event_timestamp": [EARLY]})
    house.client.delete("v", {"k": [1]})

    house.client._serving.memory.keep(("v",), batch.ask.keys.ids, (batch.blobs,))
    house.has("primary", "down")

    assert told(house.get())[1] is D


def test_last_known_is_never_far_behind_what_was_last_seen() -> None:
    clock = ManualClock()
    house = House(clock, last_known={"keep_s": 5000})
    for age in (90.0, 60.0, 30.0, 1.0):
        house.store("primary").rows.clear()
        house.has("primary", age)
        house.get()
        clock.advance(TTL_S / 8)
    house.has("primary", "down")

    value, origin, status, _, _ = told(house.get())

    assert (value, origin, status) == (1.0, L, OK)


def test_an_alias_shares_what_is_remembered() -> None:
    clock = ManualClock()
    client = FeatureClient.from_config(
        {
            "project": "t",
            "sources": {"primary": {"type": "memory"}},
            "views": [
                {"name": "v", "join_keys": {"k": "int64"}, "features": {"f": {"dtype": "float32"}}},
                {"name": "other", "from": "v", "join_keys": {"x": "k"}},
            ],
        },
        clock=clock,
    )
    at = dt.datetime.fromtimestamp(clock.wall(), dt.UTC)
    client.write_to_online_store("v", {"k": [1], "f": [1.0], "event_timestamp": [at]})
    client.get_online_features(["v:f"], {"k": [1]})
    store = client.store("primary")
    assert isinstance(store, MemoryStore)
    store.fail_with = StoreUnavailable("gone")

    response = client.get_online_features(["other:f"], {"x": [1]})

    assert response.to_dict() == {"x": [1], "f": [1.0]}
    assert response.provenance("other").origin[0] == L
