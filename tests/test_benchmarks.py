"""The benches run, judge what they measure by the numbers promised, and refuse answers from before."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import harness, readme
from benchmarks.__main__ import BENCHES
from benchmarks.bench_failover import (
    PACE_S,
    Answers,
    Seen,
    Times,
    back_after_s,
    duel_table,
    rounds_of,
    switches,
    with_omitted,
)
from benchmarks.goals import GOALS
from benchmarks.harness import Called, Options, Turn, WrongValue, alternate
from benchmarks.load import LOCAL, PRIMARY, REPLICA, WRONG
from benchmarks.results import Result, Table, complaints, goal_table
from tests.live.watchdog import Watchdog


@pytest.mark.live
@pytest.mark.slow
@pytest.mark.long
def test_every_bench_runs(root: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--json"], cwd=root, capture_output=True, check=False, text=True
    )

    assert ran.returncode == 0, ran.stderr
    results = json.loads(ran.stdout)["benches"]
    assert [one["bench"] for one in results] == list(BENCHES)
    for one in results:
        assert one["tables"], one["bench"]
        assert all(table["rows"] for table in one["tables"]), one["bench"]


def test_goals_are_numbers_of_benches_that_there_are() -> None:
    reached = {key: goal.limit for key, goal in GOALS.items()}

    assert complaints(reached) == []
    assert [row[-1] for row in goal_table(reached).rows] == ["reached"] * len(GOALS)


def test_two_numbers_may_be_missed_a_little() -> None:
    measured = {key: goal.limit for key, goal in GOALS.items()} | {"read_100x3": 1.25 * 1.29, "read_feast": 40 / 1.29}

    assert complaints(measured) == []
    assert len(complaints(measured | {"read_1x1": 1.01})) == 1
    assert complaints(measured | {"read_feast": 40 / 1.31}) != []


def test_a_number_that_should_be_none_is_missed_by_one() -> None:
    measured = {key: goal.limit for key, goal in GOALS.items()} | {"failed": 1}

    assert complaints(measured) == [f"missed by inf x, at most 1.3 x may be: {GOALS['failed'].what}"]


def test_a_number_that_was_not_measured_is_told() -> None:
    assert complaints({}) == [f"not measured: {goal.what}" for goal in GOALS.values()]


def test_an_answer_kept_from_before_is_refused() -> None:
    kept: list[int] = []

    def read(ask: int) -> int:
        kept.append(ask)
        return kept[0]

    honest = Called("honest", lambda ask: ask, seen=lambda got, ask: got, write=lambda ask: ask)
    draws = iter(range(100))
    alternate([honest], draw=lambda: next(draws), rounds=2, calls=2)
    lazy = Called("lazy", read, seen=lambda got, ask: got, write=lambda ask: ask)

    with pytest.raises(WrongValue, match="lazy gave 6 where 7"):
        alternate([lazy], draw=lambda: next(draws), rounds=2, calls=2)


class Scripted:
    """A contender that takes as long as it says."""

    every = 1

    def __init__(self, name: str, wall_us: list[list[int]], every: int = 1) -> None:
        self.name, self.every = name, every
        self._turns = iter([wall_us[0], *wall_us])  # the first is the round that does not count

    def write(self, ask: Any) -> None:
        return None

    def turn(self, asks: Any) -> Turn:
        wall_ns = [us * 1000 for us in next(self._turns)]
        return Turn(wall_ns, [ns // 2 for ns in wall_ns])


def test_a_ratio_is_taken_within_rounds_and_the_first_call_is_kept_apart() -> None:
    ours = Scripted("ours", [[90, 10, 12, 14], [90, 100, 120, 140], [90, 1, 2, 3]])
    peer = Scripted("peer", [[9, 6, 6, 6], [9, 60, 60, 60], [9, 1, 1, 1]])

    timings = alternate([ours, peer], rounds=3)

    assert timings["ours"].against(timings["peer"])[0] == 2.0
    assert timings["ours"].first_us == 90
    assert timings["ours"].cpu_best_us == 1.0
    assert timings["ours"].p50_us == 12


def test_what_is_slow_may_sit_rounds_out() -> None:
    ours = Scripted("ours", [[9, 2, 2]] * 6)
    slow = Scripted("slow", [[9, 4, 4]] * 2, every=3)

    timings = alternate([ours, slow], rounds=6)

    assert list(timings["slow"].wall_us) == [0, 3]
    assert timings["slow"].against(timings["ours"])[0] == 2.0


@pytest.mark.skipif(sys.platform != "linux", reason="Linux shares out by sessions")
def test_a_session_of_processes_is_as_any_other_while_it_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "idlest", min)
    session = tmp_path / "autogroup"
    session.write_text("/autogroup-7 nice -10\n")

    for place, during, after in ((session, "0", "-10"), (tmp_path / "none" / "autogroup", "", "")):
        monkeypatch.setattr(harness, "_SESSION", place)
        with harness.pinned():
            assert harness.session_niceness() == during
        assert harness.session_niceness() == after


def test_results_are_written_between_their_marks(tmp_path: Path) -> None:
    result = Result("read", "About it.", 7, False, tables=[Table("Threads", ["a", "b"], [["x", 1.2345]])])
    again = Result.load(result.save(tmp_path))

    text = readme.replaced(
        "before\n<!-- results:read -->\nold\n<!-- end:read -->\nafter", "read", readme.section(again)
    )

    assert text.startswith("before\n<!-- results:read -->\n\nAbout it.")
    assert "| x | 1.23 |" in text
    assert "old" not in text
    assert text.endswith("<!-- end:read -->\nafter")


def test_every_bench_has_its_place_in_the_page() -> None:
    text = readme.README.read_text(encoding="utf-8")

    for name in ("numbers", *BENCHES):
        assert readme.replaced(text, name, "x") != text


def test_a_bench_alone_prints_what_it_found(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench_x", "--quick", "--seed", "3"])
    monkeypatch.setattr(Result, "save", lambda self, folder: folder)

    harness.main(lambda options: Result("x", "About x.", options.seed, options.is_quick), "x")

    assert capsys.readouterr().out.startswith("## x\n\nAbout x.")


def told(*rows: tuple[float, float, str]) -> Answers:
    began, ended, who = zip(*sorted(rows, key=lambda row: row[1]), strict=True)
    return Answers(np.array(began), np.array(ended), np.array(who))


TIMES = Times(before_s=1.0, away_s=2.0, after_s=5.0)


def seen(answers: Answers, watchdog: Watchdog | None = None) -> Seen:
    """What callers noticed of a blow at 10 s, healed at 12 s."""
    return Seen.of(answers, TIMES, 10.0, 12.0, watchdog or Watchdog())


def test_a_request_under_way_when_the_blow_fell_counts_but_is_not_the_first_good_one() -> None:
    got = seen(told((9.99, 10.2, PRIMARY), (10.1, 10.5, "error TimeoutError"), (10.3, 10.35, REPLICA)))

    assert got.requests == 3
    assert got.failed == 1
    assert got.worst_ms == pytest.approx(400)
    assert got.first_good_s == pytest.approx(0.25)


def test_requests_that_were_not_made_while_one_waited_are_as_late_as_they_would_have_been() -> None:
    waited = with_omitted(np.array([0.001, 3.5 * PACE_S]))

    assert sorted(waited) == pytest.approx([0.001, 0.5 * PACE_S, 1.5 * PACE_S, 2.5 * PACE_S, 3.5 * PACE_S])
    quick = [(10.0 + at / 100, 10.001 + at / 100, PRIMARY) for at in range(100)]
    assert seen(told(*quick, (10.0, 10.0 + 3.5 * PACE_S, PRIMARY))).p99_ms > 2000 * PACE_S


def test_a_flap_is_met_in_several_phases() -> None:
    assert len({times.before_s for times in rounds_of("flap", Options())}) == 3
    assert len(rounds_of("kill", Options())) == 1


def test_answers_before_the_blow_do_not_count() -> None:
    assert seen(told((8.0, 9.9, "error TimeoutError"), (10.1, 10.11, PRIMARY))).failed == 0


def test_who_never_left_is_not_compared_by_how_it_came_back() -> None:
    """Waiting for a primary that is away is no way of being back at once."""
    waited = seen(told((10.1, 12.1, PRIMARY), (10.2, 10.5, REPLICA), (12.1, 12.2, REPLICA)))
    left = replace(seen(told((10.1, 10.11, REPLICA), (12.6, 12.61, PRIMARY))), back_s=3.0)
    slower = replace(left, back_s=9.0, switches=5)

    def compared(ours: Seen, peer: Seen) -> list[Any]:
        table = duel_table({"flap": {"featurechaos": ours, "MultiDBClient": peer}})
        return table.rows[0][-2:]

    assert (waited.has_left, left.has_left) == (False, True)
    assert compared(left, waited) == compared(waited, left) == [None, None]
    assert compared(left, slower) == ["ahead", "ahead"]
    assert compared(slower, left) == ["**behind**", "**behind**"]
    assert '"-" where one of the two never left' in duel_table({}).note


def test_of_several_rounds_the_worst_is_told() -> None:
    one = seen(told((10.1, 10.11, REPLICA), (12.6, 12.61, PRIMARY)))
    other = replace(one, worst_ms=400.0, back_s=3.0, failed=2, switches=4, in_time=0.0)

    both = Seen.worst([replace(one, back_s=1.0), other])

    assert (both.worst_ms, both.back_s, both.failed, both.switches, both.in_time) == (400.0, 3.0, 2, 4, 0.0)
    assert both.requests == one.requests + other.requests
    assert Seen.worst([one, replace(other, back_s=None)]).back_s is None
    assert not Seen.worst([one, replace(other, has_left=False)]).has_left


def test_what_is_kept_on_this_side_is_no_good_answer() -> None:
    got = seen(told((10.1, 10.11, LOCAL), (10.2, 10.21, WRONG)))

    assert (got.first_good_s, got.local, got.wrong, got.in_time) == (None, 1, 1, 0.0)


def test_a_late_answer_is_excused_only_beside_a_stall_as_long() -> None:
    answers = told((10.0, 10.1, PRIMARY), (11.0, 11.1, PRIMARY))

    got = seen(answers, Watchdog({0: [(10.02, 10.07)], 1: [(11.02, 11.03)]}))

    assert (got.late, got.excused) == (1, 1)


def test_a_ramp_is_one_switch() -> None:
    ramp = [(k / 10, k / 10 + 0.001, PRIMARY if k > 10 or k % 5 == 0 else REPLICA) for k in range(21)]

    assert switches(told(*ramp)) == 1


@pytest.mark.parametrize(("last_replica_s", "back_s"), [(0.0, 0.0), (1.1, 1.5), (4.9, None)])
def test_back_is_when_nine_of_ten_are_the_primarys_from_then_on(last_replica_s: float, back_s: float | None) -> None:
    since = np.arange(0.0, 5.0, 0.05)

    assert back_after_s(since, since >= last_replica_s, 5.0) == back_s
