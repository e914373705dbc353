"""The numbers of a bench, from imagined histories."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from featurechaos.bench import words
from featurechaos.bench.cold import Cold
from featurechaos.bench.figures import Figures
from featurechaos.bench.verdict import judge
from featurechaos.model import Origin
from tests.bench.stories import Story


def figures(story: Story) -> Figures:
    return Figures.of(story.record())


def test_each_phase_has_its_quantiles_and_its_origins() -> None:
    phases = figures(Story()).phases

    assert list(phases) == ["before", "during", "after"]
    assert [one.requests for one in phases.values()] == [500, 500, 500]
    assert phases["before"].spread.p50_s == pytest.approx(0.002)
    assert phases["during"].spread.p99_s == pytest.approx(0.012)
    assert phases["during"].spread.p999_s is None, "500 requests hold no p99.9"
    assert phases["during"].origins["SNAPSHOT"].share == pytest.approx(0.99)
    assert phases["during"].origins["SNAPSHOT"].requests == 500
    assert phases["during"].lost == pytest.approx(0.01)
    assert {name: one.rows for name, one in phases["after"].origins.items()} == {
        "PRIMARY": 35_000,
        "SNAPSHOT": 14_850,
        "DEFAULT": 150,
    }


def test_a_request_is_called_after_the_worse_of_two_origins_with_as_many_rows() -> None:
    """Two views, and one of them has lost its source: no dot of the picture may look as if all were well."""
    requests = figures(Story()).ledger.whole.requests
    counts = np.zeros((5, len(Origin)), np.int64)
    for row, (some, others) in enumerate(((1, 3), (1, 1), (3, 4), (1, 0), (5, 5))):
        counts[row, some] += 10
        counts[row, others] += 10

    told = replace(requests.where(np.arange(len(requests)) < 5), origins=counts).main_origin

    assert told.tolist() == [Origin.SNAPSHOT, Origin.PRIMARY, Origin.LAST_KNOWN, Origin.NONE, Origin.DEFAULT]


def test_rows_that_a_source_without_its_data_denies_are_lost_whoever_said_so() -> None:
    """A server that came back empty answers at once, and under `on_missing: accept` each row is the primary's."""
    accepted = figures(Story(broken={"PRIMARY": 90, "DEFAULT": 10}, denied={"NOT_FOUND": 60, "PRESENT": 40}))
    defaulted = figures(Story(broken={"PRIMARY": 40, "DEFAULT": 60}, denied={"NOT_FOUND": 60, "PRESENT": 40}))
    during = accepted.phases["during"]

    assert (during.missing, during.lost, accepted.phases["before"].lost) == (0.5, 0.6, 0.0)
    assert (defaulted.phases["during"].missing, defaulted.phases["during"].lost) == (0.0, 0.6)
    assert judge(accepted).exit_code == judge(defaulted).exit_code == 1
    assert "60 % of rows were without a stored value" in judge(accepted).sentence
    said = dict(words.said(accepted))
    assert (
        "90 % of rows came from the primary and 10 % from defaults, though 50 % of all rows were said not to exist."
        in said["While primary was frozen"]
    )
    assert "though 15 % of all rows were said not to exist; 99 of 100" in said["After"]
    assert "said not to exist" not in said["Before"]


def test_latency_counts_from_when_a_request_was_due() -> None:
    waited = figures(Story(waited=300)).phases["before"]

    assert waited.spread.p50_s == pytest.approx(0.042)
    assert waited.waited == 300


def test_recovery_is_from_the_faults_end_to_the_first_origin_for_good() -> None:
    assert figures(Story(back_s=3.0)).as_dict()["recovery_s"] == pytest.approx(3.25, abs=0.26)
    assert figures(Story(back_s=None)).as_dict()["recovery_s"] is None


def test_a_fault_is_told_in_two_where_the_breaker_opened() -> None:
    told = figures(Story(opened_s=4.0))

    assert told.gave_up_s == pytest.approx(4.0)
    assert told.onset is not None and told.settled is not None
    assert told.onset.spread.p90_s == pytest.approx(0.012)
    assert told.settled.spread.p90_s == pytest.approx(0.002)
    assert (
        "The client stopped waiting for primary after 4 s: 9 of 10 answers within 12 ms until then, within 2 ms "
        "from there on." in dict(words.said(told))["While primary was frozen"]
    )


def test_all_of_it_is_plain_json() -> None:
    for story in (
        Story(),
        Story(is_broken=False),
        Story(opened_s=1.0, failed=3),
        Story(ends_s=12.0),
        Story(ends_s=0.0),
    ):
        told = json.loads(json.dumps(figures(story).as_dict(), allow_nan=False))

        asked = int(story.ends_s * story.rate_per_s)
        assert sum(one["requests"] for one in told["phases"].values()) == asked
        assert sum(one["requests"] for one in told["timeline"]) == asked


WELL = Cold(first_s=0.8, good_s=0.8, good_origins={"PRIMARY": 1}, has_local=True, whole_s=1.5)
LATER = Cold(first_s=0.8, first_origins={"DEFAULT": 10}, good_s=2.0, good_origins={"SNAPSHOT": 10})
NEVER = Cold(first_s=0.8, first_origins={"DEFAULT": 10}, looked_s=30.0)


def test_how_a_new_process_fares_is_a_sentence() -> None:
    assert words.started(WELL) == (
        "first good answer 800 ms after it was started, from the primary; local copies whole after 1.5 s"
    )
    assert words.started(LATER) == (
        "first good answer 2 s after it was started, from a snapshot; "
        "before that, from 800 ms on, it answered with rows from defaults"
    )
    assert words.started(replace(LATER, first_origins={"NONE": 10})).endswith(
        "from 800 ms on, it answered without values"
    )
    assert words.started(NEVER) == "answers from 800 ms on, but no good one within 30 s: rows from defaults"
    assert words.started(Cold(why="no")) == "could not be measured: no"
