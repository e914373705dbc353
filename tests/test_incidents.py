"""Incidents: one id from the first trouble of a source to the end of its last, in every line of the log."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

import pytest

from featurechaos.incidents import MOST_OVER, MOST_REQUESTS, Incidents, iso
from featurechaos.testing import ManualClock

ID = re.compile(r"\d{8}T\d{6}Z-primary-[0-9a-f]{4}")


def heard(incidents: Incidents, clock: ManualClock, names: Sequence[str], source: str = "primary") -> None:
    for name in names:
        clock.advance(1)
        incidents.hear(name, source, {"reason": f"why {name}"})


def test_an_incident_is_one_id_from_open_to_closed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "featurechaos")
    clock = ManualClock()
    incidents = Incidents(clock.wall)

    heard(
        incidents, clock, ["breaker.opened", "breaker.ramping", "breaker.opened", "breaker.ramping", "breaker.closed"]
    )

    lines = [record.getMessage() for record in caplog.records]
    assert [line.partition(" (incident ")[0] for line in lines] == [
        "source primary: open: why breaker.opened",
        "source primary: ramping: why breaker.ramping",
        "source primary: open: why breaker.opened",
        "source primary: ramping: why breaker.ramping",
        "source primary: closed: why breaker.closed",
    ]
    assert len({*ID.findall("".join(lines))}) == 1
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 4 + ["INFO"]
    (told,) = incidents.told()
    assert (told["began"], told["ended"]) == (iso(clock.wall() - 4), iso(clock.wall()))
    assert incidents.open == {}


def test_another_incident_has_another_id() -> None:
    clock = ManualClock()
    incidents = Incidents(clock.wall)

    heard(incidents, clock, ["breaker.opened", "breaker.closed", "breaker.opened"])

    first, second = incidents.told()
    assert first["id"] != second["id"]
    assert (first["ended"], second["ended"] is None) == (None, False)


def test_a_source_with_two_troubles_is_well_when_both_are_over() -> None:
    clock = ManualClock()
    incidents = Incidents(clock.wall)

    heard(incidents, clock, ["source.drained", "breaker.opened", "source.released"])
    (open_,) = incidents.told()
    heard(incidents, clock, ["breaker.closed"])
    (over,) = incidents.told()

    assert open_["ended"] is None
    assert over["ended"] is not None
    assert over["id"] == open_["id"]


def test_sources_have_incidents_of_their_own() -> None:
    clock = ManualClock()
    incidents = Incidents(clock.wall)

    heard(incidents, clock, ["breaker.opened"])
    heard(incidents, clock, ["breaker.opened"], "second")
    heard(incidents, clock, ["breaker.closed"])

    assert set(incidents.open) == {"second"}


def test_a_failed_probe_is_no_line_and_no_news(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    incidents = Incidents(clock.wall)
    heard(incidents, clock, ["breaker.opened"])
    before = len(caplog.records)

    incidents.hear("breaker.opened", "primary", {"reason": "still", "again": True})
    incidents.hear("retry.scheduled", "primary", {"attempt": 1, "wait_s": 0.1})

    assert len(caplog.records) == before
    assert incidents.open["primary"].reason == "why breaker.opened"


def test_an_end_without_a_beginning_is_logged_and_is_no_incident(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "featurechaos")
    incidents = Incidents(ManualClock().wall)

    incidents.hear("source.released", "primary", {"reason": "x"})

    assert [record.getMessage() for record in caplog.records] == ["source primary: released: x"]
    assert incidents.told() == []


def test_what_is_kept_is_bounded() -> None:
    clock = ManualClock()
    incidents = Incidents(clock.wall)

    for number in range(MOST_REQUESTS + 5):
        incidents.degraded(f"r{number}", int(clock.wall() * 1e6))
        heard(incidents, clock, ["breaker.opened", "breaker.closed"])

    assert len(incidents.told()) == MOST_OVER
    assert [one["request_id"] for one in incidents.requests()] == [f"r{5 + k}" for k in range(MOST_REQUESTS)]
