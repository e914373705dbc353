"""A second attempt that has no time left to be made."""

from __future__ import annotations

from random import Random

import pytest

from featurechaos.effects import Plan, sleep
from featurechaos.errors import NoTime, StoreTimeout
from featurechaos.layers.retry import Budget, Retry
from featurechaos.readings import Reading, Request
from featurechaos.testing import ManualClock, play


def test_rows_keep_the_cause_of_the_attempt_that_was_made() -> None:
    clock = ManualClock()
    errors = iter([StoreTimeout("no answer in time"), NoTime("0.2 ms were left")])

    def inner(request: Request) -> Plan[Reading]:
        yield from sleep(0.015)
        raise next(errors)

    retry = Retry(clock, attempts=2, wait_first_s=0.002, budget=Budget(), rng=Random(7))
    request = Request([], [], until=clock.monotonic() + 0.05, wall_us=0, source="primary")

    told = play(retry(request, inner), {}, clock)

    assert told.notes == ["retry.scheduled"]
    assert isinstance(told.error, StoreTimeout), told.error
    assert told.slept_s == pytest.approx(0.030, abs=0.002)
