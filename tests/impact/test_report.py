"""Reports: they add up, survive JSON and can be read by a person."""

from __future__ import annotations

import json

import numpy as np
import pytest

from featurechaos.errors import RequestError
from featurechaos.impact import Report
from featurechaos.impact.attribution import Blame, Group
from featurechaos.impact.detectors import Alarm
from featurechaos.impact.pairs import Pairs, Scored
from featurechaos.model import Cause, Origin

SNAPSHOT = (Blame("plane", Cause.TIMEOUT, Origin.SNAPSHOT),)


def report(seed: int, *, rows: int = 400, model: str = "delay") -> Report:
    rng = np.random.default_rng(seed)
    reference = rng.beta(1.2, 4.5, rows)
    served = rng.permutation(reference)
    both = Scored(served, reference, served >= 0.3, reference >= 0.3)
    pairs = Pairs.of(both, [Group(SNAPSHOT, None)], model=model)
    alarm = Alarm(0.02, 1e4, is_on=True, fired=1, first_at=seed, log_e=20.0)
    return Report(pairs + Pairs(predictions=2 * rows, sampled=rows + 5, dropped=3, failed=2), alarm, (model,))


def test_reports_add_up_and_come_apart_again() -> None:
    first, second = report(1), report(2)

    both = first + second

    assert both.pairs == first.pairs + second.pairs
    assert both.flips == first.flips + second.flips
    assert both.predictions == 1600
    assert (both.dropped, both.failed, both.waiting) == (6, 4, 0)
    assert both.alarm == Alarm(0.02, 1e4, is_on=True, fired=2, first_at=1, log_e=20.0)
    assert both.models == ("delay",)
    assert (both - first).flips == second.flips
    assert (both - first).by_view["plane"].psi == second.by_view["plane"].psi


def test_reports_of_two_models_keep_them_apart_by_key() -> None:
    both = report(1) + report(1, model="price")

    assert both.models == ("delay", "price")
    assert {key.model: block.pairs for key, block in both.counters.keyed.items()} == {
        "delay": 400,
        "price": 400,
    }


def test_a_report_without_alarm_adds_to_one_with() -> None:
    quiet = Report(Pairs())

    assert (quiet + report(1)).alarm == report(1).alarm
    assert (report(1) + quiet).alarm == report(1).alarm
    assert (quiet + quiet).alarm is None


def test_a_report_survives_json_with_its_measures_beside_it() -> None:
    told = json.loads(json.dumps(report(1).to_dict(), allow_nan=False))

    assert Report.from_dict(told) == report(1)
    assert told["flip_rate"] == report(1).flip_rate
    assert told["by_origin"]["SNAPSHOT"]["pairs"] == 400
    assert told["by_cause"]["TIMEOUT"]["flips"] == report(1).flips
    assert told["alarm"]["is_on"] is True


def test_an_empty_report_is_json_too() -> None:
    told = json.loads(json.dumps(Report(Pairs()).to_dict(), allow_nan=False))

    assert (told["flip_rate"], told["psi"], told["alarm"]) == (None, None, None)
    assert Report.from_dict(told) == Report(Pairs())


@pytest.mark.parametrize("told", [{}, {"alarm": {"x": 1}}, {"alarm": None, "counters": {}, "models": []}])
def test_a_report_is_not_read_from_anything_else(told: dict[str, object]) -> None:
    with pytest.raises(RequestError, match=r"its? to_dict|their to_dict"):
        Report.from_dict(told)


def test_a_report_reads_as_a_table() -> None:
    told = str(report(1))

    head, titles, *rows = told.splitlines()
    assert head == ("impact on delay: 800 predictions, 405 sampled, 400 paired, 0 unpaired, 3 dropped, 2 failed")
    assert titles.split("  ")[-1].strip() == "PSI"
    assert [row.split("  ")[0] or row.split("  ")[1] for row in rows[:4]] == [
        "all pairs",
        "origin SNAPSHOT",
        "cause TIMEOUT",
        "view plane",
    ]
    assert len({len(row) for row in rows[:4]} | {len(titles)}) == 1
    assert rows[4] == "flips over 2.0%: ALARM, fired 1, first after 1 pairs"
    assert rows[5] == "score drift (PSI): quiet"


def test_an_empty_report_reads_too() -> None:
    assert "no model: 0 predictions" in str(Report(Pairs()))
