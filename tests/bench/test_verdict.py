"""What a bench comes to: each outcome by the one thing that makes it so."""

from __future__ import annotations

from dataclasses import replace

import pytest

from featurechaos.bench.figures import Figures
from featurechaos.bench.verdict import Verdict, judge
from tests.bench.stories import Story


def told(story: Story) -> Verdict:
    return judge(Figures.of(story.record()))


def test_answers_in_time_with_stored_values_hold() -> None:
    verdict = told(Story())

    assert (verdict.outcome, verdict.exit_code) == ("held", 0)
    assert verdict.sentence == (
        "While primary was frozen, users got 99 of 100 answers within 12 ms (deadline 50 ms); "
        "99 % of rows came from a snapshot 3 h old and 1 % from defaults."
    )


@pytest.mark.parametrize(
    ("story", "said"),
    [
        (
            Story(late=2),
            "While primary was frozen, 2 of 500 (0.4 %) answers came more than 10 ms past the deadline of 50 ms",
        ),
        (Story(failed=1), "While primary was frozen, 1 of 500 (0.2 %) requests failed"),
        (Story(broken={"NONE": 4, "SNAPSHOT": 96}), "4 % of rows were without a stored value (--may-lose 1 %)"),
        (Story(broken={"DEFAULT": 100}), "100 % of rows were without a stored value"),
        (
            Story(late=100, stalls=((1.0, 3.0),)),
            "100 of 500 (20 %) answers came more than 10 ms past the deadline of 50 ms",
        ),
        (Story(waited=100, failed=1), "1 of 500 (0.2 %) requests failed"),
        (Story(back_s=None), "the primary did not serve again within 10 s"),
        (Story(lost_again_s=9.0), "the primary did not serve again within 10 s"),
        (Story(back_s=None, stalls=((1.0, 3.0),)), "the primary did not serve again within 10 s"),
    ],
)
def test_what_users_would_feel_is_a_weakness(story: Story, said: str) -> None:
    verdict = told(story)

    assert (verdict.outcome, verdict.exit_code) == ("weakness", 1)
    assert said in verdict.sentence


@pytest.mark.parametrize(
    ("story", "said"),
    [
        (Story(rate_per_s=9), "Only 90 requests before: wanted 100"),
        (Story(states=("armed", "failed")), "primary frozen did not come about: as told"),
        (Story(states=()), "Nothing was broken"),
        (Story(broken={"PRIMARY": 100}), "Source 'primary' went on serving 100 % of rows: is that its server?"),
        (Story(healthy={"SNAPSHOT": 100}), "No online source served before anything was broken"),
        (Story(healthy={"PRIMARY": 40, "NONE": 60}), "are the entities those of this store?"),
        (Story(waited=100), "One process could not ask 50 requests a second for 100 entities each: 20 % of them"),
        (Story(waited=100, late=50), "One process could not ask 50 requests a second"),
        (Story(unasked=100), "100 requests were due and never asked"),
        (Story(lost_again_s=9.0, stalls=((1.0, 3.0),)), "The machine was busy elsewhere for 6.67 % of the time"),
        (Story(late=2, stalls=((1.0, 3.0),)), "The machine was busy elsewhere for 6.67 % of the time"),
    ],
)
def test_what_proves_nothing_is_inconclusive(story: Story, said: str) -> None:
    verdict = told(story)

    assert (verdict.outcome, verdict.exit_code) == ("inconclusive", 6)
    assert said in verdict.sentence


def test_an_end_before_its_time_and_a_fault_that_may_still_be_on_come_first() -> None:
    assert told(Story(reason="interrupted", late=100)).exit_code == 4
    assert told(Story(reason="", late=100)).exit_code == 4
    assert told(Story(states=("armed", "applied", "undo_failed"), late=100)).exit_code == 5


def test_one_late_answer_in_a_thousand_is_forgiven_and_no_more() -> None:
    assert told(Story(late=1)).exit_code == 0
    assert told(Story(rate_per_s=250, late=2)).exit_code == 0
    assert told(Story(rate_per_s=250, late=3)).exit_code == 1


def test_an_answer_late_while_the_machine_was_busy_elsewhere_is_excused_and_told() -> None:
    away = Story(late=3, stalls=((10.01, 10.30),))

    verdict = told(away)

    assert verdict.exit_code == 0
    assert "(3 of them while the machine was busy elsewhere)" in dict(verdict.said)["While primary was frozen"]
    assert told(replace(away, stalls=((10.01, 10.05),))).exit_code == 1, "a stall too short to explain it"


def test_a_killed_server_that_does_not_come_back_is_no_weakness_of_the_client() -> None:
    dead = Story(fault="process_kill", back_s=None)

    assert told(dead).exit_code == 0
    assert "did not serve again within 10 s" in dict(told(dead).said)["After"]


def test_what_was_empty_in_good_health_was_not_lost_to_the_fault() -> None:
    assert told(Story(healthy={"PRIMARY": 95, "NONE": 5}, broken={"SNAPSHOT": 95, "NONE": 5})).exit_code == 0


def test_with_nothing_broken_only_time_is_judged() -> None:
    assert told(Story(is_broken=False)).sentence == (
        "With nothing broken, users got 99 of 100 answers within 2 ms (deadline 50 ms); "
        "every row came from the primary."
    )
    assert told(Story(is_broken=False, late=20)).exit_code == 1
