"""The same request on clean features: exact for each fault, one read where one is owed, and nothing else touched."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from featurechaos import AsyncFeatureClient, Origin, Response, Status
from featurechaos.errors import StoreUnavailable
from featurechaos.faults import Delay, Outage, Stale
from tests.faults.kit import DAY_S, House, values


def history(house: House) -> None:
    house.has("standby", {1: 11.0, 2: 21.0}, age_s=DAY_S + 60)
    house.has("primary", {1: 1.0, 2: 2.0, 3: 3.0})


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


def test_a_witness_is_read_where_the_store_itself_is_gone(build: Callable[..., House]) -> None:
    house = build(impact={"reference_source": "second"})
    history(house)
    house.has("second", {1: 1.0, 2: 2.0})
    house.store("primary").fail_with = StoreUnavailable("gone")
    served = house.get([1, 2])

    reference = house.client.reference(served)

    assert (values(served), values(reference)) == ([11.0, 21.0], [1.0, 2.0])
    assert reads(house)[1] == 1


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
