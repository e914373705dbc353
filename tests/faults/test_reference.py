"""The same request on clean features: exact for each fault, one read where one is owed, and nothing else touched."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from featurechaos import AsyncFeatureClient, Origin, Response, Status
from featurechaos.errors import StoreUnavailable
from featurechaos.faults import Delay, Outage, Stale
from tests.faults.kit import DAY_S, House, values

VIEW = {
    "name": "v",
    "join_keys": {"k": "int64"},
    "features": {"f": {"dtype": "float32", "default": -1.0}},
    "ttl_s": 100,
    "max_age_s": 1000,
}
PLAIN = {"retry": None, "last_known": None, "breaker": None}
HELD = {"fresh": 10.0, "expired": 500.0, "past": 5000.0}


def history(house: House) -> None:
    house.has("standby", {1: 11.0, 2: 21.0}, age_s=DAY_S + 60)
    house.has("primary", {1: 1.0, 2: 2.0, 3: 3.0})


@pytest.fixture
def house_of_fallback(build: Callable[..., House]) -> House:
    return build(policy={**PLAIN, "order": ["primary", "standby"], "on_missing": "fallback"})


def reads(house: House) -> list[int]:
    return [house.store(name).reads for name in ("primary", "second", "standby")]


def told(response: Response, view: str = "v") -> list[list[Any]]:
    truth = response.provenance(view)
    return [getattr(truth, name).tolist() for name in ("origin", "status", "cause", "event_time")]


def test_what_is_clean_is_its_own_reference(house: House) -> None:
    history(house)
    before = house.get([1, 2])
    count = reads(house)

    assert house.client.reference(before) is before
    assert reads(house) == count


def test_what_is_clean_stays_so_while_a_fault_hits_others(house: House) -> None:
    history(house)
    with house.inject(Outage("primary"), share=0.0):
        response = house.get([1])

        assert house.client.reference(response) is response


@pytest.mark.parametrize("visible", [True, False])
def test_the_reference_of_old_rows_is_the_rows_before(house: House, visible: bool) -> None:
    history(house)
    clean = house.get([1, 2, 3, 1])
    with house.inject(Stale("v", DAY_S, visible=visible)):
        served = house.get([1, 2, 3, 1])
        count = reads(house)
        reference = house.client.reference(served)

    assert values(served) == [11.0, 21.0, 3.0, 11.0]
    assert values(reference) == values(clean) == [1.0, 2.0, 3.0, 1.0]
    assert told(reference) == told(clean)
    assert not reference.any_degraded
    assert not reference.injected.any()
    assert reads(house) == count, "it was kept, not read again"
    assert values(served) == [11.0, 21.0, 3.0, 11.0], "the served one is as it was"


def test_it_is_the_rows_before_even_when_they_have_changed_since(house: House) -> None:
    history(house)
    with house.inject(Stale("v", DAY_S)):
        served = house.get([1])
        house.has("primary", {1: 99.0}, age_s=0)

    assert values(house.client.reference(served)) == [1.0]


def test_an_outage_owes_exactly_one_clean_read(house: House) -> None:
    history(house)
    clean = house.get([1, 2, 3])
    with house.inject(Outage("primary")):
        served = house.get([1, 2, 3])
        count = reads(house)
        reference = house.client.reference(served)

    assert values(served) == [11.0, 21.0, None]
    assert values(reference) == [1.0, 2.0, 3.0]
    assert told(reference) == told(clean)
    assert reads(house) == [count[0] + 1, *count[1:]]


def test_several_views_of_one_outage_are_one_read(house: House) -> None:
    history(house)
    house.has("primary", {1: 7.0}, view="w")
    with house.inject(Outage("primary")):
        served = house.get([1], features=["v:f", "w:g"])
        count = reads(house)
        reference = house.client.reference(served)

    assert (reference.to_dict()["f"], reference.to_dict()["g"]) == ([1.0], [7.0])
    assert reads(house)[0] == count[0] + 1


def test_an_outage_that_a_replica_covered_still_owes_the_primarys_rows(build: Callable[..., House]) -> None:
    """The replica answers, but may lag: without the fault the primary's rows would have been served."""
    house = build(policy={"retry": None, "last_known": None, "breaker": None, "order": ["primary", "second"]})
    house.has("primary", {1: 1.0, 2: 2.0})
    house.has("second", {1: 0.5, 2: 2.0}, age_s=60)
    clean = house.get([1, 2])

    with house.inject(Outage("primary")):
        served = house.get([1, 2])
        reference = house.client.reference(served)

    assert (values(served), served.any_degraded) == ([0.5, 2.0], False)
    assert values(reference) == [1.0, 2.0]
    assert told(reference) == told(clean)


def test_a_row_that_is_not_there_is_not_found_in_the_reference_too(house: House) -> None:
    history(house)
    with house.inject(Outage("primary")):
        served = house.get([9])
        reference = house.client.reference(served)

    assert served.provenance("v").status.tolist() == [Status.UNAVAILABLE]
    assert reference.provenance("v").status.tolist() == [Status.NOT_FOUND]
    assert reference.provenance("v").origin.tolist() == [Origin.PRIMARY]
    assert not reference.any_degraded


def test_rows_that_changed_since_the_request_are_no_reference(house: House) -> None:
    history(house)
    with house.inject(Outage("primary")):
        served = house.get([1, 2])
    house.clock.advance(5)
    house.has("primary", {1: 99.0}, age_s=1)

    reference = house.client.reference(served)

    assert reference.degraded.tolist() == [True, False], "1 has moved on, so there is no pair for it"
    assert values(reference)[1] == 2.0


def test_a_clean_read_that_fails_leaves_its_rows_without_reference(house: House) -> None:
    history(house)
    with house.inject(Outage("primary")):
        served = house.get([1])
    house.store("primary").fail_with = StoreUnavailable("really gone now")

    reference = house.client.reference(served)

    assert reference.degraded.tolist() == [True]


def test_a_real_outage_has_no_reference_without_a_witness(house: House) -> None:
    history(house)
    house.store("primary").fail_with = StoreUnavailable("gone")
    served = house.get([1])
    count = reads(house)

    assert house.client.reference(served).degraded.tolist() == [True]
    assert reads(house) == count


def holds(house: House, source: str, what: str) -> None:
    """Make a source hold the row k=1 of an age, a damaged or buried one, or none."""
    if what in HELD:
        house.has(source, {1: HELD[what]}, age_s=HELD[what])
    elif what == "corrupt":
        house.has(source, {1: 1.0})
        store = house.store(source)
        store.rows = {key: [blobs[-1][:40]] for key, blobs in store.rows.items()}
    elif what == "buried":
        batch = house.client._tombstones("v", {"k": [1]})
        house.store(source).put(batch.ask, batch.blobs)


@pytest.mark.parametrize("on_expired", ["serve", "fallback", "default"])
@pytest.mark.parametrize("on_missing", ["accept", "fallback", "default"])
@pytest.mark.parametrize("order", [["primary"], ["primary", "second"], ["primary", "standby"]], ids="-".join)
def test_a_reference_is_what_the_policy_gives_without_the_fault(
    build: Callable[..., House], order: list[str], on_missing: str, on_expired: str
) -> None:
    """Whatever the sources hold and whichever is out: a reference is the clean answer, or none."""
    policy = {**PLAIN, "order": order, "on_missing": on_missing, "on_expired": on_expired}
    states = [*HELD, "missing", "corrupt", "buried"]
    for first, other, out in itertools.product(states, states if len(order) > 1 else ["missing"], order):
        house = build(policy=policy, views=[VIEW])
        holds(house, "primary", first)
        holds(house, order[-1], other) if len(order) > 1 else None
        clean = house.get()
        with house.inject(Outage(out)):
            served = house.get()
            reference = house.client.reference(served)

        if not reference.any_degraded:
            case = f"{first}, {other}, {out} out"
            assert (values(reference), told(reference)) == (values(clean), told(clean)), case
        if first == "fresh" or len(order) == 1 or (first == "missing" and on_missing != "fallback"):
            assert reference.any_degraded == clean.any_degraded, "there is one where the primary settles the row"


def test_the_reference_of_a_missing_row_is_the_default_where_the_policy_says_so(build: Callable[..., House]) -> None:
    house = build(policy={**PLAIN, "order": ["primary"], "on_missing": "default"}, views=[VIEW])
    with house.inject(Outage("primary")):
        served = house.get([9])
        reference = house.client.reference(served)

    assert (values(reference), reference.any_degraded) == ([-1.0], False)
    assert told(reference)[:2] == [[Origin.DEFAULT], [Status.NOT_FOUND]]


def test_a_calls_own_limit_of_age_holds_for_its_reference(house: House) -> None:
    house.has("primary", {1: 1.0, 2: 2.0}, age_s=200)
    house.has("primary", {2: 2.0}, age_s=50)
    clean = house.get([1, 2], max_age_s=100)
    with house.inject(Outage("primary")):
        served = house.get([1, 2], max_age_s=100)
        reference = house.client.reference(served)

    assert values(clean) == values(reference) == [None, 2.0]
    assert reference.degraded.tolist() == clean.degraded.tolist() == [True, False]


def test_a_witness_is_asked_where_a_replica_was_out_and_the_primary_is_gone(build: Callable[..., House]) -> None:
    house = build(policy={**PLAIN, "order": ["primary", "second", "standby"]}, impact={"reference_source": "second"})
    history(house)
    house.has("second", {1: 1.0, 2: 2.0})
    house.store("primary").fail_with = StoreUnavailable("gone")
    with house.inject(Outage("second")):
        served = house.get([1, 2])

    reference = house.client.reference(served)

    assert (values(served), values(reference)) == ([11.0, 21.0], [1.0, 2.0])
    assert not reference.any_degraded


def test_a_witness_that_is_the_first_source_is_asked_for_all_in_one_read(build: Callable[..., House]) -> None:
    """One row is degraded by itself, another because the replica was kept from answering."""
    house = build(
        policy={**PLAIN, "order": ["primary", "second"], "on_expired": "serve"},
        impact={"reference_source": "primary"},
    )
    house.has("primary", {1: 1.0}, age_s=2 * DAY_S)
    damaged = house.client._tombstones("v", {"k": [2]}).ask
    house.store("primary").put(damaged, [b"damaged"])
    with house.inject(Outage("second")):
        served = house.get([1, 2])
    house.has("primary", {1: 10.0}, age_s=60)  # came late, but is what was true then
    house.store("primary").put(damaged, [None])
    house.has("primary", {2: 20.0}, age_s=60)
    count = reads(house)

    reference = house.client.reference(served)

    assert served.degraded.tolist() == [True, True]
    assert (values(reference), reference.any_degraded) == ([10.0, 20.0], False)
    assert reads(house) == [count[0] + 1, *count[1:]]


def test_a_row_whose_snapshot_was_out_has_no_reference_where_it_might_have_served(house_of_fallback: House) -> None:
    house = house_of_fallback
    house.has("standby", {1: 11.0})
    with house.inject(Outage("standby")):
        served = house.get([1])
        reference = house.client.reference(served)

    assert (served.any_degraded, served.injected.tolist()) == (False, [True]), "it was told to be missing"
    assert reference.any_degraded


def test_a_witness_is_read_where_the_store_itself_is_gone(build: Callable[..., House]) -> None:
    house = build(impact={"reference_source": "second"})
    history(house)
    house.has("second", {1: 1.0, 2: 2.0})
    house.store("primary").fail_with = StoreUnavailable("gone")
    served = house.get([1, 2])

    reference = house.client.reference(served)

    assert (values(served), values(reference)) == ([11.0, 21.0], [1.0, 2.0])
    assert reads(house)[1] == 1


@pytest.mark.parametrize("on_missing", ["accept", "default"])
def test_a_witness_that_nobody_fills_says_nothing_of_rows_that_are_stored(
    build: Callable[..., House], on_missing: str
) -> None:
    """Taken at its word, every row of an outage would be a pair with nothing: flips that nobody has felt."""
    house = build(
        policy={"order": ["primary", "standby"], "on_missing": on_missing}, impact={"reference_source": "second"}
    )
    history(house)
    house.store("primary").fail_with = StoreUnavailable("gone")
    served = house.get([1, 2, 9])

    reference = house.client.reference(served)

    assert values(served)[:2] == [11.0, 21.0]
    assert reference.degraded.tolist() == [True, True, False], "nobody ever stored 9, and the witness says so too"


def test_a_witness_is_believed_that_a_row_is_deleted(build: Callable[..., House]) -> None:
    house = build(policy={"order": ["primary", "standby"]}, impact={"reference_source": "second"})
    history(house)
    batch = house.client._tombstones("v", {"k": [1]})
    house.store("second").put(batch.ask, batch.blobs)
    house.store("primary").fail_with = StoreUnavailable("gone")
    served = house.get([1])

    reference = house.client.reference(served)

    assert (values(served), values(reference), reference.any_degraded) == ([11.0], [None], False)


def test_a_delayed_answer_is_its_own_reference_in_values(house: House) -> None:
    history(house)
    house.client._world.sleep = house.clock.advance
    with house.inject(Delay("primary", 0.005)):
        served = house.get([1])
        count = reads(house)
        reference = house.client.reference(served)

    assert values(reference) == values(served) == [1.0]
    assert reads(house) == count


def test_a_clean_read_feeds_no_breaker_budget_or_cache(build: Callable[..., House]) -> None:
    house = build(
        policy={
            "retry": {"budget_burst": 5},
            "last_known": {"keep_s": 900},
            "breaker": {"min_calls": 3},
            "order": ["primary", "standby"],
        }
    )
    history(house)
    serving = house.client._serving
    heard: list[str] = []
    with house.inject(Outage("primary")):
        house.client._world.sleep = house.clock.advance
        served = house.get([1])
        house.client.listen(lambda name, about, fields: heard.append(name))
        assert serving.breaker is not None
        gate = serving.breaker.gates["primary"]
        before = gate.state, [list(bucket) for bucket in gate._buckets], serving.memory.size("v")

        assert values(house.client.reference(served)) == [1.0]

    assert before == (gate.state, [list(bucket) for bucket in gate._buckets], serving.memory.size("v"))
    assert heard == []


def test_mutating_the_served_columns_leaves_the_reference_alone(house: House) -> None:
    history(house)
    for fault in (Stale("v", DAY_S), Outage("primary")):
        with house.inject(fault):
            served = house.get([1, 2])
            served.columns["f"][:] = -5
            served.nulls["f"][:] = True

            assert values(house.client.reference(served)) == [1.0, 2.0]


def test_the_reference_has_the_requests_shape(house: House) -> None:
    history(house)
    with house.inject(Stale("v", DAY_S)):
        served = house.client.get_online_features(["v:f"], {"k": [2, None, 1, 2]}, full_feature_names=True)
        reference = house.client.reference(served)

    assert reference.to_dict() == {"k": [2, None, 1, 2], "v__f": [2.0, None, 1.0, 2.0]}
    assert reference.request_id == served.request_id
    assert np.isnan(reference.provenance("v").age_s[1])


def test_the_async_client_gives_the_same_references(house: House) -> None:
    history(house)

    async def both() -> list[Any]:
        async with AsyncFeatureClient(house.client.settings, house.clock) as client:
            for name in ("primary", "second", "standby"):
                client._world.stores[name].store = house.store(name)  # type: ignore[attr-defined]
            got = []
            for fault in (Stale("v", DAY_S), Outage("primary")):
                with client.chaos.inject(fault, share=1.0, lease_s=9, seed=7, reason="a test", control=False):
                    served = await client.get_online_features(["v:f"], {"k": [1, 2]})
                    got.append((values(served), values(await client.reference(served))))
            return got

    assert asyncio.run(both()) == [([11.0, 21.0], [1.0, 2.0])] * 2
