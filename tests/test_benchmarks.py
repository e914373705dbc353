"""The benches run, judge what they measure by the numbers promised, and refuse answers from before."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import harness, readme
from benchmarks.__main__ import BENCHES
from benchmarks.goals import GOALS
from benchmarks.harness import Called, Turn, WrongValue, alternate
from benchmarks.results import Result, Table, complaints, goal_table


@pytest.mark.live
@pytest.mark.slow
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
