"""Each promise, broken by hand: the checker finds it, and finds nothing in what is true."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from featurechaos import Cause, Origin, Status
from tests.nemesis.checker import Judged, judge
from tests.nemesis.histories import START_US, Story, row, struck
from tests.nemesis.history import CANCELLED, EXHAUSTED, FAILED, IMAGE, RAISING, REFUSED, TOMBSTONE, WRONG, History, Sent
from tests.nemesis.schedule import FAULTS, RECOVER_S
from tests.nemesis.soak import VIOLATED, report
from tests.nemesis.stored import MARKER, MORTAL, QUICK, SCORE, STRICT, default_digest, null_digest
from tests.nemesis.times import is_noisy

KEY = 1
AWAY = {"origin": Origin.NONE, "status": Status.UNAVAILABLE, "cause": Cause.TIMEOUT, "degraded": True}


def test_a_run_tells_some_violations_of_a_kind_and_a_judgment_of_it_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judged = Judged(requests=9, rows=9, faults=9, excused=0, seed=7, violations={"a": ["late"] * 9})

    assert report(judged, tmp_path, most=8) == VIOLATED
    assert capsys.readouterr().err.splitlines()[:9] == ["violation (a) late"] * 8 + ["violation (a) and 1 more"]
    assert report(judged, tmp_path) == VIOLATED
    assert capsys.readouterr().err.splitlines()[:9] == ["violation (a) late"] * 9


def broken(history: History) -> list[str]:
    """The letters of the promises that were broken."""
    return list(judge(history).violations)


def test_a_true_history_breaks_nothing() -> None:
    story = Story()
    first, second = story.wrote(KEY, 1.0), story.wrote(KEY, 2.0)
    story.wrote(KEY, 1.5, kind=IMAGE)
    old = story.wrote(2, 1.0, view=STRICT)
    story.strikes = [struck("freeze", 10.0, 11.0, "both")]
    story.asked(1.5, [row(KEY, first)])
    story.asked(2.5, [row(KEY, second)])
    story.asked(2.5, [row(2, old, view=STRICT), row(MORTAL[0])])
    story.asked(5.0, [row(2, old, view=STRICT, status=Status.EXPIRED, degraded=True)])
    gone = {"status": Status.EXPIRED, "degraded": True, "cause": Cause.EXPIRED, "origin": Origin.NONE}
    story.asked(9.5, [row(2, view=STRICT, **gone)])
    story.asked(10.5, [row(KEY, second, origin=Origin.LAST_KNOWN, cause=Cause.TIMEOUT, degraded=True)])
    story.asked(10.6, [row(5, view=QUICK, **AWAY | {"origin": Origin.DEFAULT})])

    assert judge(story.history()).violations == {}


# (a) in time


def test_an_answer_past_its_deadline_is_late() -> None:
    story = Story()
    story.asked(1.0, [], took=0.1111)

    assert broken(story.history()) == ["a"]


def test_an_answer_within_the_grace_is_not() -> None:
    story = Story()
    story.asked(1.0, [], took=0.1099)

    assert broken(story.history()) == []


def test_a_cancelled_await_ends_at_once() -> None:
    story = Story()
    story.asked(1.0, [], took=0.004, gave_up=1.003, outcome=CANCELLED)
    story.asked(2.0, [], took=0.014, gave_up=2.003, outcome=CANCELLED)

    assert [text[:40] for text in judge(story.history()).violations["a"]] == [
        "threads request 10000000001 at 2.000: a "
    ]


def test_a_late_answer_beside_a_stall_of_the_machine_is_excused_and_counted() -> None:
    story = Story()
    for at in range(1000):
        story.asked(float(at), [])
    story.asked(2000.0, [], took=0.150)
    story.stalls = {0: [(2000.05, 2000.10)]}

    judged = judge(story.history())

    assert (judged.violations, judged.excused) == ({}, 1)


def test_a_stall_shorter_than_the_delay_excuses_nothing() -> None:
    story = Story()
    for at in range(1000):
        story.asked(float(at), [])
    story.asked(2000.0, [], took=0.150)
    story.stalls = {0: [(2000.05, 2000.06)]}

    assert broken(story.history()) == ["a"]


def test_a_run_is_noisy_where_the_machine_stood_still_or_had_more_to_do_than_cores() -> None:
    story = Story()
    story.asked(1.0, [])
    quiet = story.history()
    story.stalls = {0: [(2.0, 3.0)]}
    still = story.history()
    story.stalls = {0: [(2.0, 3.0), (5.0, 5.5)]}

    assert not is_noisy(quiet)
    assert not is_noisy(still)  # 1 s of 60
    assert is_noisy(story.history())
    assert not is_noisy(replace(quiet, queued_share=0.5))
    assert is_noisy(replace(quiet, queued_share=0.6))


def test_no_more_than_one_in_a_thousand_is_excused() -> None:
    story = Story()
    for at in range(998):
        story.asked(float(at), [])
    for late in (2000.0, 3000.0):
        story.asked(late, [], took=0.150)
        story.stalls.setdefault(0, []).append((late + 0.05, late + 0.10))

    judged = judge(story.history())

    assert (len(judged.violations["a"]), judged.excused) == (1, 1)


# (b) truly written


def test_a_row_that_nobody_wrote_is_found() -> None:
    story = Story()
    story.asked(2.0, [row(KEY, START_US)])

    assert broken(story.history()) == ["b"]


def test_the_row_of_another_entity_is_found() -> None:
    story = Story()
    one, other = story.wrote(KEY, 1.0), story.wrote(KEY + 1, 1.0)
    story.asked(2.0, [row(KEY, one, digest=row(KEY + 1, other)["digest"][0])])

    assert broken(story.history()) == ["b"]


def test_a_row_read_before_it_was_written_is_found() -> None:
    story = Story()
    when = story.wrote(KEY, 5.0)
    story.asked(2.0, [row(KEY, when, age_s=0.0)])

    assert broken(story.history()) == ["b"]


def test_an_image_has_only_what_was_published() -> None:
    story = Story()
    when = story.wrote(KEY, 1.0)
    story.asked(2.0, [row(KEY, when, origin=Origin.SNAPSHOT, cause=Cause.TIMEOUT, degraded=True)])

    assert broken(story.history()) == ["b"]


def test_a_value_where_there_is_none_is_found() -> None:
    story = Story()
    story.asked(2.0, [row(MORTAL[0], digest=77)])

    assert broken(story.history()) == ["b"]


def test_a_value_of_a_key_that_is_never_stored_is_found() -> None:
    story = Story()
    story.asked(2.0, [row(12, view=MARKER, stamp=1)])

    assert broken(story.history()) == ["b"]


def test_a_default_is_the_default() -> None:
    story = Story()
    story.strikes = [struck("freeze", 1.0, 3.0, "both")]
    story.asked(2.0, [row(5, view=QUICK, **AWAY | {"origin": Origin.DEFAULT, "digest": null_digest(QUICK, 1)})])

    assert null_digest(QUICK, 1) != default_digest(QUICK, 1)
    assert broken(story.history()) == ["b"]


# (c) never past the hard limit


def test_a_row_past_the_hard_limit_is_found() -> None:
    story = Story()
    when = story.wrote(KEY, 1.0, view=STRICT)
    story.asked(9.1, [row(KEY, when, view=STRICT, status=Status.EXPIRED, degraded=True)])

    assert broken(story.history()) == ["c"]


def test_a_call_may_tighten_the_limit() -> None:
    story = Story()
    when = story.wrote(KEY, 1.0)
    story.asked(4.0, [row(KEY, when)], max_age_s=2.0)
    story.asked(4.0, [row(KEY, when)], max_age_s=4.0)

    assert len(judge(story.history()).violations["c"]) == 1


# (d) origin, status, age true

LIES: dict[str, dict[str, Any]] = {
    "younger than it is": {"age_s": 0.5},
    "older than it is": {"age_s": 1.5},
    "expired without a ttl": {"status": Status.EXPIRED, "degraded": True},
    "not found though it has a value": {"status": Status.UNAVAILABLE, "degraded": True},
    "degraded though it is not": {"degraded": True},
    "injected": {"injected": True},
    "corrupt though nothing damages rows": {"cause": Cause.CORRUPT},
    "refused though nobody refuses": {"cause": Cause.REFUSED, "origin": Origin.REPLICA},
    "emptied though nobody took its rows": {"cause": Cause.EMPTY, "origin": Origin.REPLICA},
    "the primary's, for a reason": {"cause": Cause.TIMEOUT},
    "of no known origin": {"origin": 9, "degraded": True},
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_an_untrue_claim_is_found(lie: dict[str, Any]) -> None:
    story = Story()
    when = story.wrote(KEY, 1.0)
    story.asked(2.0, [row(KEY, when, **lie)])

    assert "d" in broken(story.history())


def test_present_past_its_ttl_is_found() -> None:
    story = Story()
    when = story.wrote(KEY, 1.0, view=STRICT)
    story.asked(4.1, [row(KEY, when, view=STRICT)])

    assert broken(story.history()) == ["d"]


def test_ages_are_by_the_clock_of_the_reader_when_that_jumps() -> None:
    story = Story()
    when = story.wrote(KEY, 1.0, view=STRICT)
    wall = START_US / 1e6 + 2.0
    ahead = {"wall_before": wall + 3, "wall_after": wall + 3.005}
    expired = {"status": Status.EXPIRED, "degraded": True, "age_s": 4.0}
    story.asked(2.0, [row(KEY, when, view=STRICT, **expired)], **ahead)
    story.asked(2.0, [row(KEY, when, view=STRICT, age_s=0.0)], wall_before=wall - 3, wall_after=wall - 2.995)
    # It jumped while the call ran: either is true.
    jumping = {"wall_before": wall, "wall_after": wall + 3.005}
    story.asked(2.0, [row(KEY, when, view=STRICT, age_s=1.0)], **jumping)
    story.asked(2.0, [row(KEY, when, view=STRICT, **expired)], **jumping)

    assert broken(story.history()) == []


@pytest.mark.parametrize("fault", ["kill", "freeze", "pause", "trickle", "reset", "empty"])
def test_nothing_is_the_primarys_while_it_says_nothing(fault: str) -> None:
    story = Story()
    when = story.wrote(KEY, 1.0)
    story.strikes = [struck(fault, 2.0, 4.0)]
    story.asked(3.0, [row(KEY, when)])

    assert broken(story.history()) == ["d"]


def test_a_row_of_the_primary_is_as_new_as_what_it_took() -> None:
    story = Story()
    first = story.wrote(KEY, 1.0)
    story.wrote(KEY, 2.0)
    story.asked(3.0, [row(KEY, first)])

    assert broken(story.history()) == ["d"]


def test_a_write_under_way_or_not_taken_may_be_seen_or_not() -> None:
    story = Story()
    first = story.wrote(KEY, 1.0)
    second = story.wrote(KEY, 2.0, took=2.0)
    third = story.wrote(KEY, 2.5, primary=False)
    for when in (first, second, third):
        story.asked(3.0, [row(KEY, when)])

    assert broken(story.history()) == []


def test_a_stored_row_is_found() -> None:
    story = Story()
    story.wrote(KEY, 1.0)
    story.asked(2.0, [row(KEY)])

    assert broken(story.history()) == ["d"]


def test_a_stored_row_may_be_gone_once_it_was_deleted_or_is_being_deleted() -> None:
    story = Story()
    story.wrote(KEY, 1.0)
    story.wrote(KEY, 2.0, kind=TOMBSTONE, took=1.0)
    story.asked(2.5, [row(KEY)])
    story.asked(4.0, [row(KEY)])

    assert broken(story.history()) == []


def test_a_deleted_row_does_not_come_back() -> None:
    story = Story()
    when = story.wrote(KEY, 1.0)
    story.wrote(KEY, 2.0, kind=TOMBSTONE)
    story.asked(3.0, [row(KEY, when)])

    assert broken(story.history()) == ["d"]


@pytest.mark.parametrize("loss", ["empty", "evict"])
def test_a_store_that_lost_its_rows_need_not_have_them_until_they_are_written_again(loss: str) -> None:
    story = Story()
    story.wrote(KEY, 1.0)
    story.strikes = [struck(loss, 2.0, 3.0)]
    story.asked(4.0, [row(KEY)])
    when = story.wrote(KEY, 5.0)
    story.asked(6.0, [row(KEY, when)])

    assert broken(story.history()) == []

    story.asked(7.0, [row(KEY)])
    assert broken(story.history()) == ["d"]


def test_rows_are_damaged_only_while_something_damages_them() -> None:
    story = Story()
    when = story.wrote(KEY, 1.0)
    claims = {"origin": Origin.REPLICA, "cause": Cause.CORRUPT}
    story.strikes = [struck("wrong_bytes", 2.0, 3.0)]
    story.asked(2.5, [row(KEY, when, **claims)])
    assert broken(story.history()) == []

    story.asked(5.0, [row(KEY, when, **claims)])
    assert broken(story.history()) == ["d"]


def test_a_row_that_every_image_has_is_always_served() -> None:
    story = Story()
    story.strikes = [struck("freeze", 1.0, 3.0, "both")]
    story.asked(2.0, [row(MORTAL[0], **AWAY)])
    story.asked(2.0, [row(KEY, **AWAY)])

    assert len(judge(story.history()).violations["d"]) == 1


def test_online_rows_need_time() -> None:
    story = Story()
    when = story.wrote(KEY, 1.0)
    story.asked(2.0, [row(KEY, when)], deadline_s=0.0)

    assert broken(story.history()) == ["d"]


# (e) no undocumented exception


def test_what_is_raised_is_what_the_documents_name() -> None:
    story = Story()
    story.asked(1.0, [], outcome=FAILED)
    story.asked(2.0, [], outcome=REFUSED)
    story.asked(3.0, [], outcome=EXHAUSTED)
    story.asked(4.0, [], kind=WRONG)
    story.asked(5.0, [], kind=WRONG, outcome=REFUSED)

    assert len(judge(story.history()).violations["e"]) == 5  # the third twice: nor is any row exhausted


def test_who_wants_to_be_told_of_exhausted_rows_is() -> None:
    story = Story()
    story.strikes = [struck("freeze", 1.0, 9.0, "both")]
    story.asked(2.0, [row(KEY, view=SCORE, **AWAY)], kind=RAISING, outcome=EXHAUSTED)
    assert broken(story.history()) == []

    story.asked(3.0, [row(KEY, view=SCORE, **AWAY)], kind=RAISING)
    assert broken(story.history()) == ["e"]


@pytest.mark.parametrize(
    "end", [{"name": "tasks", "code": 1}, {"name": "writers", "code": 0, "wrong": ["KeyError: 3"]}], ids=str
)
def test_every_process_ends_well(end: dict[str, object]) -> None:
    assert broken(Story(ends=[end]).history()) == ["e"]


def test_a_forked_child_ends_well() -> None:
    story = Story()
    story.notes.append({"what": "forked", "number": 1, "code": 1})

    assert broken(story.history()) == ["e"]


# (f) retries within their budget


def sent_again(story: Story, reads: int, *, cut: bool = False) -> None:
    for at in range(reads):
        number = story.asked(10.0 + at / 100, [])
        story.sent.append(Sent("primary", number, 10.0 + at / 100, is_sent=True))
        if cut:
            story.sent.append(Sent("primary", number, 10.001 + at / 100, is_sent=False))
        story.sent.append(Sent("primary", number, 10.002 + at / 100, is_sent=True))


def test_a_storm_of_retries_is_found() -> None:
    story = Story()
    sent_again(story, 12)

    assert broken(story.history()) == ["f"]


def test_a_few_retries_are_within_the_budget() -> None:
    story = Story()
    sent_again(story, 4)

    assert broken(story.history()) == []


def test_a_read_whose_connection_was_cut_may_be_sent_once_more_for_nothing() -> None:
    story = Story()
    sent_again(story, 12, cut=True)

    assert broken(story.history()) == []


# (g) the primary serves again in time


def recovering(origin: Origin, cause: Cause, *, at: float = RECOVER_S + 0.1) -> Story:
    story = Story()
    when = story.wrote(KEY, 1.0)
    story.strikes = [struck("freeze", 2.0, 3.0)]
    for number in range(40):
        story.asked(3.0 + at + number / 50, [row(KEY, when, origin=origin, cause=cause)])
    return story


def test_a_primary_that_stays_away_is_found() -> None:
    assert broken(recovering(Origin.REPLICA, Cause.BREAKER_OPEN).history()) == ["g"]


def test_what_a_hedge_has_won_says_nothing_of_the_primary() -> None:
    story = recovering(Origin.REPLICA, Cause.TIMEOUT)
    assert broken(story.history()) == ["g"]

    story.notes.append({"what": "opened", "hedges": True})
    assert broken(story.history()) == []


def test_a_primary_that_comes_back_is_not() -> None:
    assert broken(recovering(Origin.PRIMARY, Cause.NONE).history()) == []


def test_it_has_its_time_to_come_back() -> None:
    assert broken(recovering(Origin.REPLICA, Cause.BREAKER_OPEN, at=0.1).history()) == []


def test_a_machine_that_stands_still_does_not_excuse_a_primary_that_stays_away() -> None:
    story = recovering(Origin.REPLICA, Cause.BREAKER_OPEN)
    story.stalls = {0: [(3.0, 5.0)]}

    assert broken(story.history()) == ["g"]


# (h) nothing left behind

LEFT: dict[str, Callable[[Story], None]] = {
    "a thread": lambda story: story.notes.append({"what": "left", "threads": ["featurechaos-refresher"]}),
    "a task": lambda story: story.notes.append({"what": "left", "tasks": ["Task-9"]}),
    "a descriptor": lambda story: story.notes.append({"what": "left", "files": ["socket:[77]"]}),
    "a process": lambda story: story.notes.append({"what": "left", "children": ["4711"]}),
    "sockets in a child": lambda story: story.notes.append({"what": "left", "sockets": 3}),
    "a connection": lambda story: story.ends.append({"name": "proxy of primary", "open": 1}),
    "too many on the way": lambda story: story.notes.append(
        {"what": "sample", "at": 3.0, "threads": 400, "files": 9, "tasks": 9}
    ),
    "no word of it": lambda story: story.notes.clear(),
}


@pytest.mark.parametrize("leak", LEFT.values(), ids=LEFT)
def test_what_is_left_is_found(leak: Callable[[Story], None]) -> None:
    story = Story()
    leak(story)

    assert broken(story.history()) == ["h"]


# Whether it says enough


def test_a_run_that_saw_little_says_so() -> None:
    judged = judge(Story(unplayed=["evict: no answer"]).history())

    assert judged.violations == {}
    assert judged.uncovered[0] == "could not be played: evict: no answer"
    assert {text.split()[0] for text in judged.uncovered} >= {*FAULTS, "PRIMARY", "LAST_KNOWN", "DEFAULT"}


def test_a_fault_counts_only_when_it_took_effect() -> None:
    story = Story()
    story.strikes = [struck("kill", 1.0, 2.0), struck("cancel", 1.0, 2.0, "readers"), struck("freeze", 5.0, 6.0)]
    story.asked(1.5, [])

    assert judge(story.history()).faults == 1  # nobody was cancelled, and nobody read during the last


def test_the_last_line_counts() -> None:
    story = Story()
    story.strikes = [struck("wrong_bytes", 1.0, 2.0)]
    story.asked(1.5, [row(MORTAL[0]), row(MORTAL[1], digest=1)])

    assert judge(story.history()).line == "1 requests, 2 rows, 1 faults, 1 violations, 0 excused, seed 7"
