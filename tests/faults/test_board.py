"""Leases: who may inject, how much, until when."""

from __future__ import annotations

import os
import pickle  # noqa: TID251 - that a client may be pickled is the claim
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

from featurechaos import ChaosRefused, FeatureError
from featurechaos.errors import StoreUnavailable
from featurechaos.faults import Delay, Outage, Stale
from tests.faults.kit import House, values

OUTAGE = Outage(source="primary")


def told(house: House, *faults: Any, **more: Any) -> str:
    with pytest.raises(ChaosRefused) as caught:
        house.inject(*faults, **more)
    assert not house.client.chaos.active, "a refused injection leaves nothing on"
    return str(caught.value)


def test_without_the_config_nothing_may_be_injected(build: Callable[..., House]) -> None:
    house = build(chaos={"enabled": False})

    assert told(house, OUTAGE) == "config: chaos.enabled: wanted true to inject faults, got false"


def test_without_the_environment_nothing_may_be_injected(build: Callable[..., House]) -> None:
    house = build(armed=False)

    assert told(house, OUTAGE) == (
        "FEATURECHAOS_CHAOS: wanted 'armed' in the environment of the process that reads, got another or none"
    )


@pytest.mark.parametrize(
    ("faults", "more", "sentence"),
    [
        ((), {}, "inject wants at least one fault, got none"),
        ((OUTAGE,), {"share": 1.5}, "inject: share wants a number within 0..1, got 1.5"),
        ((OUTAGE,), {"share": -0.1}, "inject: share wants a number within 0..1, got -0.1"),
        ((OUTAGE,), {"share": float("nan")}, "inject: share wants a number within 0..1, got nan"),
        ((OUTAGE,), {"share": "all"}, "inject: share wants a number within 0..1, got 'all'"),
        ((OUTAGE,), {"lease_s": 0}, "inject: lease_s wants seconds above 0, and an end, got 0"),
        ((OUTAGE,), {"lease_s": float("nan")}, "inject: lease_s wants seconds above 0, and an end, got nan"),
        ((OUTAGE,), {"lease_s": float("inf")}, "inject: lease_s wants seconds above 0, and an end, got inf"),
        ((OUTAGE,), {"lease_s": None}, "inject: lease_s wants seconds above 0, and an end, got None"),
        ((OUTAGE,), {"seed": None}, "inject: seed wants a whole number, got None"),
        ((OUTAGE,), {"reason": "  "}, "inject: reason wants a few words on why, got '  '"),
        ((OUTAGE,), {"reason": None}, "inject: reason wants a few words on why, got None"),
        (
            (Outage("nowhere"),),
            {},
            "inject: outage:nowhere: source wants one of primary, second, standby, got 'nowhere'",
        ),
        ((Delay("x", 1.0),), {}, "inject: delay:x: source wants one of primary, second, standby, got 'x'"),
        ((Stale("x", 1.0),), {}, "inject: stale:x: view wants one of v, w, got 'x'"),
        (("outage",), {}, "inject wants faults of featurechaos.faults, got 'outage'"),
    ],
)
def test_a_wrong_injection_is_refused_in_one_sentence(
    house: House, faults: tuple[Any, ...], more: dict[str, Any], sentence: str
) -> None:
    assert told(house, *faults, **more) == sentence


@pytest.mark.parametrize(
    "make",
    [
        lambda: Delay("primary", -1.0),
        lambda: Delay("primary", 1.0, spread=-1.0),
        lambda: Delay("primary", float("nan")),
        lambda: Delay("primary", "abc"),  # type: ignore[arg-type]
        lambda: Stale("v", "1d"),  # type: ignore[arg-type]
        lambda: Stale("v", 0),
        lambda: Stale("v", -1.0),
        lambda: Stale("v", float("nan")),
        lambda: Outage("primary", mode="explode"),  # type: ignore[arg-type]
    ],
    ids=["delay", "spread", "delay nan", "delay text", "age text", "age 0", "age", "age nan", "mode"],
)
def test_an_impossible_fault_cannot_be_made(make: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match="wants"):
        make()


@pytest.mark.parametrize(("control", "most"), [(False, 0.05), (True, 0.025)])
def test_share_and_control_of_all_faults_stay_within_the_most(
    build: Callable[..., House], control: bool, most: float
) -> None:
    house = build(chaos={"enabled": True, "max_share": 0.05})

    assert "got 0.0" in told(house, OUTAGE, share=most * 1.02, control=control)
    assert "within 0.05" in told(house, OUTAGE, Delay("primary", 0.001), share=most * 0.6, control=control)
    first = house.inject(OUTAGE, share=most * 0.6, control=control)
    with pytest.raises(ChaosRefused, match=r"chaos\.max_share: wanted share and control groups of all active faults"):
        house.inject(Delay("primary", 0.001), share=most * 0.6, control=control)
    first.clear()

    house.inject(Delay("primary", 0.001), share=most, control=control)


def test_a_lease_that_ran_out_takes_up_no_share(build: Callable[..., House]) -> None:
    house = build(chaos={"enabled": True, "max_share": 0.05})
    house.inject(OUTAGE, share=0.05, lease_s=10)
    house.clock.advance(10)

    house.inject(OUTAGE, share=0.05)


def test_a_lease_ends_by_the_clock(house: House) -> None:
    house.has("primary", {1: 1.0})
    house.has("standby", {1: -1.0})
    house.inject(OUTAGE, lease_s=30)

    seen = []
    for _ in range(6):
        seen.append(values(house.get())[0])
        house.clock.advance(9.9)

    assert seen == [-1.0, -1.0, -1.0, -1.0, 1.0, 1.0]


def test_the_wall_clock_does_not_end_a_lease(house: House) -> None:
    house.has("primary", {1: 1.0})
    injection = house.inject(OUTAGE, lease_s=30)

    house.clock.jump(3600)
    house.get()

    assert injection.applied == 1


def test_leaving_the_block_ends_the_faults_even_by_an_error(house: House) -> None:
    house.has("primary", {1: 1.0})

    def breaks() -> None:
        with house.inject(OUTAGE):
            assert values(house.get()) == [None]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        breaks()

    assert values(house.get()) == [1.0]
    assert not house.client.chaos.active


def test_when_clear_returns_no_later_read_is_affected(house: House) -> None:
    house.has("primary", {1: 1.0})
    wrong: list[Any] = []
    cleared = threading.Event()

    def reads() -> None:
        for _ in range(200):
            is_over = cleared.is_set()
            got = values(house.get())
            if is_over and got != [1.0]:
                wrong.append(got)

    threads = [threading.Thread(target=reads) for _ in range(4)]
    injection = house.inject(OUTAGE)
    for thread in threads:
        thread.start()
    injection.clear()
    cleared.set()
    for thread in threads:
        thread.join()

    assert not wrong
    injection.clear()
    assert values(house.get()) == [1.0]


def test_clearing_one_leaves_the_others(house: House) -> None:
    house.has("primary", {1: 1.0})
    first, second = house.inject(Outage("second"), share=0.0), house.inject(OUTAGE)

    first.clear()
    assert values(house.get()) == [None]
    second.clear()

    assert values(house.get()) == [1.0]


def test_closing_the_client_ends_its_faults(house: House) -> None:
    house.inject(OUTAGE)
    house.client.close()

    assert not house.client.chaos.active


def test_faults_do_not_travel_with_a_pickled_client(house: House) -> None:
    house.inject(OUTAGE)

    with pickle.loads(pickle.dumps(house.client)) as copy:
        assert not copy.chaos.active


def test_a_lease_counts_from_when_its_rows_are_there(house: House) -> None:
    """Old rows may take a minute to fetch; the lease must not run out meanwhile."""
    board = house.client.chaos
    board._prepare = lambda fault: house.clock.advance(50)
    house.has("primary", {1: 1.0})

    house.inject(Stale("v", 10.0), lease_s=30)

    assert board.live()


def test_old_rows_that_cannot_be_had_are_not_applied_and_no_error(house: House) -> None:
    def fails(fault: Stale) -> str:
        raise StoreUnavailable("the bucket is gone")

    house.client.chaos._prepare = fails
    house.has("primary", {1: 1.0})

    with house.inject(Stale("v", 10.0)) as injection:
        response = house.get()

    assert values(response) == [1.0]
    assert (injection.applied, injection.not_applied) == (0, 1)


def test_a_killed_controller_ends_its_fault(house: House) -> None:
    """The faults are in its memory: another process never had them."""
    house.has("primary", {1: 1.0})
    heard, told_ = os.pipe()
    child = os.fork()
    if not child:
        house.inject(OUTAGE)
        os.write(told_, b"%d" % len(values(house.get())) if values(house.get()) == [None] else b"0")
        signal.pause()
    assert os.read(heard, 9) == b"1"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(heard)
    os.close(told_)

    assert values(house.get()) == [1.0]


def test_a_refusal_is_one_of_our_errors() -> None:
    assert issubclass(ChaosRefused, FeatureError)
