"""Reads meeting faults: whom they hit, what is served then, and what is counted."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any

import numpy as np
import pytest

from featurechaos import Cause, Origin, Status
from featurechaos.errors import StoreUnavailable
from featurechaos.faults import Delay, Outage, Stale
from featurechaos.testing import event_time_of
from tests.faults.kit import DAY_S, House, values

N = 4000


def truth(response: Any) -> Any:
    return response.provenance("v")


def notes(house: House) -> list[tuple[str, str, dict[str, Any]]]:
    heard: list[tuple[str, str, dict[str, Any]]] = []
    house.client.listen(lambda name, about, fields: heard.append((name, about, dict(fields))))
    return heard


# Outage and delay hit whole calls.


def test_an_outage_is_met_as_the_real_thing_and_marked(house: House) -> None:
    house.has("primary", {1: 1.0})
    house.has("standby", {1: 2.0})
    heard = notes(house)

    with house.inject(Outage("primary")) as injection:
        response = house.get()

    assert values(response) == [2.0]
    told = truth(response)
    assert (told.origin[0], told.cause[0], told.injected[0]) == (Origin.SNAPSHOT, Cause.REFUSED, True)
    assert house.store("primary").reads == 0
    assert (injection.applied, injection.not_applied) == (1, 0)
    assert [name for name, *_ in heard][:1] == ["fault.applied"]
    failed = next(fields for name, _, fields in heard if name == "source.failed")
    assert failed["injected"]


def test_a_hanging_source_takes_all_the_time_it_is_given(house: House) -> None:
    house.has("standby", {1: 2.0})
    slept = house.sleeps()

    with house.inject(Outage("primary", mode="hang")):
        response = house.get()

    assert slept == [pytest.approx(0.015)], "the attempt's timeout"
    assert (truth(response).cause[0], truth(response).injected[0]) == (Cause.TIMEOUT, True)


@pytest.mark.parametrize("mode", ["refuse", "hang"])
def test_a_source_that_a_fault_stood_in_for_was_not_called(house: House, mode: Any) -> None:
    house.has("standby", {1: 2.0})
    house.sleeps()
    heard = notes(house)

    with house.inject(Outage("primary", mode)):
        house.get()

    told = [(about, fields["outcome"]) for name, about, fields in heard if name == "source.answered"]
    assert told == [("primary", "injected")]
    assert house.client.stats()["source_calls_total"] == []


def test_a_retry_meets_the_same_outage(build: Callable[..., House]) -> None:
    house = build(policy={"breaker": None, "last_known": None, "retry": {"attempts": 2}, "order": ["primary"]})
    house.has("primary", {1: 1.0})
    slept, heard = house.sleeps(), notes(house)

    with house.inject(Outage("primary")) as injection:
        response = house.get([1, 2, 3])

    assert values(response) == [None] * 3
    assert len(slept) == 1, "it was asked twice"
    assert injection.applied == 1, "and is one call"
    assert [fields["rows"] for name, _, fields in heard if name == "fault.applied"] == [1]


def test_a_retry_in_the_control_group_is_one_call_too(build: Callable[..., House]) -> None:
    house = build(policy={"breaker": None, "last_known": None, "retry": {"attempts": 2}, "order": ["primary"]})
    house.store("primary").fail_with = StoreUnavailable("really gone")
    house.sleeps()

    with house.inject(Outage("primary"), share=0.5, control=True) as injection:
        hit = sum(house.get(request_id=str(number)).injected.any() for number in range(20))

    assert (injection.applied, injection.control) == (hit, 20 - hit)
    assert 0 < hit < 20


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3])
def test_calls_are_hit_for_their_share_with_a_control_group_beside(house: House, share: float) -> None:
    house.has("primary", {1: 1.0})

    with house.inject(Outage("primary"), share=share, control=True) as injection:
        hit = sum(house.get(request_id=str(number)).injected.any() for number in range(N))

    bound = 5 * sqrt(N * share * (1 - share))
    assert abs(hit - N * share) <= bound
    assert injection.applied == hit
    assert abs(injection.control - N * share) <= bound


def test_the_same_calls_are_hit_again(house: House) -> None:
    house.has("primary", {1: 1.0})

    def hit(seed: int) -> list[int]:
        with house.inject(Outage("primary"), share=0.1, seed=seed):
            return [number for number in range(500) if house.get(request_id=str(number)).injected.any()]

    assert hit(7) == hit(7)
    assert hit(7) != hit(8)


def test_a_delay_within_the_timeout_is_only_waited_for(house: House) -> None:
    house.has("primary", {1: 1.0})
    house.client._world.sleep = house.clock.advance
    begun = house.clock.monotonic()

    with house.inject(Delay("primary", 0.010)) as injection:
        response = house.get()

    assert house.clock.monotonic() - begun == pytest.approx(0.010)
    assert (values(response), response.any_degraded, response.injected.tolist()) == ([1.0], False, [True])
    assert injection.applied == 1


def test_a_delay_past_the_timeout_is_cut_there(house: House) -> None:
    house.has("primary", {1: 1.0})
    house.has("standby", {1: 2.0})
    house.client._world.sleep = house.clock.advance
    begun = house.clock.monotonic()

    with house.inject(Delay("primary", 10.0)):
        response = house.get()

    assert house.clock.monotonic() - begun == pytest.approx(0.015)
    assert values(response) == [2.0]
    assert (truth(response).cause[0], truth(response).injected[0]) == (Cause.TIMEOUT, True)
    assert house.store("primary").reads == 0


def test_a_spread_delay_is_drawn_for_each_call_and_replayable(house: House) -> None:
    house.has("primary", {1: 1.0})
    slept = house.sleeps()

    for _ in range(2):
        with house.inject(Delay("primary", 0.002, spread=1.0)):
            for number in range(200):
                house.get(request_id=str(number))

    assert slept[:200] == pytest.approx(slept[200:])
    assert len({round(each, 9) for each in slept}) > 100
    assert max(slept) == pytest.approx(0.015), "cut at the attempt's timeout"
    middle = float(np.median(slept))
    assert 0.0015 < middle < 0.0026


def test_a_slow_and_a_dead_source_together_are_slow_then_dead(house: House) -> None:
    house.client._world.sleep = house.clock.advance
    house.has("primary", {1: 1.0})
    begun = house.clock.monotonic()

    with house.inject(Delay("primary", 0.004), share=0.5), house.inject(Outage("primary"), share=0.5):
        responses = [house.get(request_id=str(number)) for number in range(40)]

    outcomes = {(values(each)[0], bool(each.injected[0])) for each in responses}
    assert outcomes == {(1.0, False), (1.0, True), (None, True)}
    assert house.clock.monotonic() > begun


def test_a_fault_of_a_local_source_is_met_too(house: House) -> None:
    house.has("standby", {1: 2.0})
    house.store("primary").fail_with = StoreUnavailable("really gone")

    with house.inject(Outage("standby")):
        response = house.get()

    assert values(response) == [None]
    assert (truth(response).cause[0], truth(response).injected.tolist()) == (Cause.REFUSED, [True])


def test_rows_that_a_local_source_was_not_asked_for_are_untouched_by_its_outage(house: House) -> None:
    house.has("primary", {1: 1.0})
    house.has("primary", {2: 2.0}, age_s=2 * DAY_S)

    with house.inject(Outage("standby")):
        response = house.get([1, 2])

    assert truth(response).injected.tolist() == [False, True], "2 has expired, and the standby was to say more"


# Stale hits rows.


def history(house: House) -> None:
    """A fresh row for each key, and what the snapshot knew of it one and two days ago."""
    house.has("standby", {1: 10.0, 2: 20.0, 3: 30.0}, age_s=2 * DAY_S + 60)
    house.has("standby", {1: 11.0, 2: 21.0}, age_s=DAY_S + 60)
    house.has("primary", {1: 1.0, 2: 2.0, 3: 3.0, 4: 4.0})


@pytest.mark.parametrize(("age_s", "wanted"), [(DAY_S, [11.0, 21.0, 30.0, 4.0]), (2 * DAY_S, [10.0, 20.0, 30.0, 4.0])])
def test_old_values_are_those_known_then(house: House, age_s: float, wanted: list[float]) -> None:
    history(house)

    with house.inject(Stale("v", age_s, visible=False)) as injection:
        response = house.get([1, 2, 3, 4])

    assert values(response) == wanted
    assert truth(response).injected.tolist() == [True, True, True, False]
    assert (injection.applied, injection.not_applied) == (3, 1), "4 was not known then"


def test_invisible_staleness_cannot_be_told_from_its_provenance(house: House) -> None:
    history(house)
    clean = house.get([1])

    with house.inject(Stale("v", DAY_S, visible=False)):
        response = house.get([1])

    for name in ("origin", "status", "cause", "age_s", "event_time"):
        assert getattr(truth(response), name).tolist() == getattr(truth(clean), name).tolist()
    assert not response.any_degraded
    assert (values(clean), values(response)) == ([1.0], [11.0])
    assert response.injected.tolist() == [True]


def test_visible_staleness_is_caught_by_the_ttl(house: House) -> None:
    history(house)

    with house.inject(Stale("v", DAY_S, visible=True)):
        response = house.get([1])

    told = truth(response)
    assert values(response) == [11.0]
    assert told.status.tolist() == [Status.EXPIRED]
    assert told.age_s[0] == pytest.approx(DAY_S + 60)
    assert response.any_degraded


def test_visible_staleness_within_the_ttl_is_served_as_fresh(house: House) -> None:
    house.has("standby", {1: 5.0}, age_s=7200)
    house.has("primary", {1: 1.0})

    with house.inject(Stale("v", 3600, visible=True)):
        response = house.get([1])

    assert (values(response), response.any_degraded) == ([5.0], False)
    assert truth(response).age_s[0] == pytest.approx(7200)


def test_rows_are_hit_by_key_whatever_the_request(house: House) -> None:
    keys = list(range(N))
    house.has("standby", dict.fromkeys(keys, -1.0), age_s=7200)
    house.has("primary", {key: float(key) for key in keys})

    with house.inject(Stale("v", 3600), share=0.1, control=True) as injection:
        whole = np.array(values(house.get(keys))) == -1
        again = np.array([values(house.get([key], request_id=str(key)))[0] == -1 for key in keys[:200]])

    assert whole[:200].tolist() == again.tolist()
    assert abs(whole.sum() - 400) <= 5 * sqrt(360)
    assert injection.applied == whole.sum() + again.sum()
    assert abs(injection.control - 1.05 * 400) <= 5 * sqrt(400)


def test_the_control_group_is_another_of_the_same_size(house: House) -> None:
    keys = list(range(N))
    house.has("standby", dict.fromkeys(keys, -1.0), age_s=7200)
    house.has("primary", {key: float(key) for key in keys})

    def hit(share: float) -> set[int]:
        with house.inject(Stale("v", 3600), share=share):
            return set(np.flatnonzero(np.array(values(house.get(keys))) == -1).tolist())

    with house.inject(Stale("v", 3600), share=0.1, control=True) as injection:
        house.get(keys)

    assert hit(0.1) < hit(0.2), "a larger share hits the same rows and more"
    assert injection.control == len(hit(0.2)) - len(hit(0.1)), "the control group is the next slice"


def test_the_control_group_counts_what_could_have_been_hit(house: House) -> None:
    """Rows that are missing or expired are never hit, so they are no control either."""
    keys = list(range(400))
    house.has("standby", dict.fromkeys(keys, -1.0), age_s=2 * DAY_S)
    house.has("primary", dict.fromkeys(keys[:100], 1.0))
    house.has("primary", dict.fromkeys(keys[100:200], 1.0), age_s=DAY_S + 60)

    with house.inject(Stale("v", 2 * DAY_S), share=0.5, control=True) as injection:
        house.get(keys)

    assert (injection.applied + injection.control, injection.not_applied) == (100, 0)


def test_share_zero_hits_nothing(house: House) -> None:
    history(house)

    with house.inject(Stale("v", DAY_S), Outage("primary"), Delay("primary", 0.001), share=0.0) as injection:
        responses = [house.get([1, 2, 3], request_id=str(number)) for number in range(100)]

    assert all(values(one) == [1.0, 2.0, 3.0] and not one.injected.any() for one in responses)
    assert (injection.applied, injection.not_applied, injection.control) == (0, 0, 0)


def test_without_a_history_nothing_is_applied_and_that_is_counted(build: Callable[..., House]) -> None:
    house = build(policy={"retry": None, "last_known": None, "breaker": None, "order": ["primary"]})
    house.has("primary", {1: 1.0, 2: 2.0})
    heard = notes(house)

    with house.inject(Stale("v", DAY_S)) as injection:
        response = house.get([1, 2])

    assert (values(response), bool(response.injected.any())) == ([1.0, 2.0], False)
    assert (injection.applied, injection.not_applied) == (0, 2)
    told = [(name, about, fields["rows"]) for name, about, fields in heard if name.startswith("fault.")]
    assert told == [("fault.not_applied", "stale:v", 2)]


def test_a_history_that_fails_is_not_applied(house: House) -> None:
    house.has("primary", {1: 1.0})
    house.store("standby").fail_with = StoreUnavailable("no replica")

    with house.inject(Stale("v", DAY_S)) as injection:
        response = house.get([1])

    assert (values(response), bool(response.injected.any())) == ([1.0], False)
    assert (injection.applied, injection.not_applied) == (0, 1)


def test_only_the_named_view_is_hit(house: House) -> None:
    history(house)
    house.has("primary", {1: 7.0}, view="w")
    house.has("standby", {1: -7.0}, view="w", age_s=2 * DAY_S)

    with house.inject(Stale("v", DAY_S, visible=False)):
        response = house.get([1], features=["v:f", "w:g"])

    assert (response.to_dict()["f"], response.to_dict()["g"]) == ([11.0], [7.0])
    assert response.provenance("w").injected.tolist() == [False]


def test_rows_that_are_not_there_are_not_made_up(house: House) -> None:
    house.has("standby", {1: 10.0}, age_s=2 * DAY_S)

    with house.inject(Stale("v", DAY_S)) as injection:
        response = house.get([1])

    assert truth(response).status.tolist() == [Status.NOT_FOUND]
    assert (injection.applied, injection.not_applied) == (0, 0)


def test_old_rows_are_not_remembered_as_last_known(build: Callable[..., House]) -> None:
    house = build(
        policy={"retry": None, "breaker": None, "last_known": {"keep_s": 900}, "order": ["primary", "standby"]}
    )
    history(house)
    with house.inject(Stale("v", DAY_S, visible=False)):
        house.get([1])
    house.get([2])
    house.store("standby").rows.clear()
    house.store("primary").fail_with = StoreUnavailable("gone")

    assert values(house.get([1, 2])) == [None, 2.0]


def test_an_error_while_deciding_means_no_fault(house: House, caplog: pytest.LogCaptureFixture) -> None:
    house.has("primary", {1: 1.0})
    with house.inject(Outage("primary")) as injection:
        injection.leases[0].share = "broken"

        response = house.get()

    assert (values(response), bool(response.injected.any())) == ([1.0], False)
    assert "deciding on faults failed; none is applied" in caplog.text


def test_stored_rows_are_never_changed(house: House) -> None:
    history(house)
    before = {
        name: {key: list(rows) for key, rows in house.store(name).rows.items()} for name in ("primary", "standby")
    }

    with house.inject(Stale("v", DAY_S, visible=False)):
        house.get([1, 2, 3])

    assert before == {name: house.store(name).rows for name in before}
    assert {event_time_of(rows[-1]) for rows in house.store("primary").rows.values()} == {
        int((house.clock.wall() - 1.0) * 1e6)
    }
