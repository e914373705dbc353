"""The load: no arrival vanishes, whatever the client, the model or the maker of requests do."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from featurechaos.clock import SystemClock
from featurechaos.drills import History, HistoryWriter, Outcome, parse_script
from featurechaos.drills.history import End, Note, Request, read_history
from featurechaos.drills.load import Generator, workers_of
from featurechaos.drills.run import run_drill
from featurechaos.drills.script import Load
from featurechaos.drills.stage import Asked, Stage
from tests.drills.memory import SCRIPT, stage


def picky(response: Any) -> Any:
    """A model that takes no NaN, as many take none."""
    scores = response.columns["score"]
    if np.isnan(scores).any():
        msg = "input holds NaN"
        raise ValueError(msg)
    return scores.astype(float)


@contextmanager
def asking(played: Stage, path: Path, *, rate_per_s: float) -> Iterator[tuple[Generator, threading.Event]]:
    """A generator at work, and what is set once it has recorded something."""
    seen = threading.Event()
    with HistoryWriter(path) as writer:
        generator = Generator(
            played,
            Load(requests="tests.drills:none", rate_per_s=rate_per_s, arrivals="uniform"),
            seed=7,
            writer=writer,
            began=SystemClock().monotonic(),
            on_record=lambda record: seen.set(),
        )
        generator.start()
        try:
            yield generator, seen
        finally:
            generator.stop(0.05)
            writer.add(End(t=9, reason="done"))
            played.close()


def missed(history: History) -> list[Note]:
    return [note for note in history.of(Note) if note.event == "drill.unasked"]


def test_a_model_that_raises_in_an_outage_is_failed_requests_and_a_weakness(tmp_path: Path) -> None:
    verdict, _ = run_drill(parse_script(SCRIPT), directory=tmp_path, open_stage=lambda _: stage(picky))

    failed = [one for one in read_history(tmp_path / "history.jsonl").of(Request) if not one.ok]
    assert verdict.outcome is Outcome.WEAKNESS, verdict.sentence
    assert verdict.numbers["failed"] == len(failed) > 20, "more than there are threads to die"
    assert {one.error for one in failed} == {"ValueError: input holds NaN"}


def test_a_client_that_raises_what_it_should_not_is_a_failed_request(tmp_path: Path) -> None:
    played = stage()
    played.features = ["user:nope"]

    with asking(played, tmp_path / "h.jsonl", rate_per_s=500) as (_, seen):
        assert seen.wait(10)

    told = read_history(tmp_path / "h.jsonl").of(Request)
    assert not any(one.ok for one in told)
    assert all(str(one.error).startswith("RequestError: ") for one in told)


def test_a_request_without_an_answer_at_the_end_failed(tmp_path: Path) -> None:
    under_way, leave = threading.Event(), threading.Event()

    def stuck(response: Any) -> Any:
        under_way.set()
        leave.wait(10)
        return np.zeros(len(response))

    with asking(stage(stuck), tmp_path / "h.jsonl", rate_per_s=500) as (generator, _):
        assert under_way.wait(10)
        generator.stop(0.05)
        leave.set()

    told = read_history(tmp_path / "h.jsonl").of(Request)
    assert {(one.ok, one.error) for one in told} == {(False, "no answer by the end of the drill")}
    assert len({one.request_id for one in told}) == len(told)


def test_arrivals_that_no_thread_was_free_for_are_told(tmp_path: Path) -> None:
    leave = threading.Event()

    def stuck(response: Any) -> Any:
        leave.wait(10)
        return np.zeros(len(response))

    with asking(stage(stuck), tmp_path / "h.jsonl", rate_per_s=1000) as (generator, _):
        leave.wait(0.2)
        generator.stop(0.05)
        leave.set()

    (note,) = missed(read_history(tmp_path / "h.jsonl"))
    assert note.count is not None
    assert note.count > 100
    assert note.detail == f"{note.count} requests were due and never asked: the load fell behind"


def test_a_maker_of_requests_that_raises_ends_no_thread(tmp_path: Path) -> None:
    drawn: list[float] = []

    def draw(rng: Random, wall_s: float) -> Asked:
        drawn.append(wall_s)
        if len(drawn) <= 20:
            raise KeyError("tailnum")
        return Asked({"id": [1]})

    with asking(stage(draw=draw), tmp_path / "h.jsonl", rate_per_s=500) as (_, seen):
        assert seen.wait(10)

    history = read_history(tmp_path / "h.jsonl")
    assert all(one.ok for one in history.of(Request))
    assert [(note.count, note.detail.split(": ", 1)[1]) for note in missed(history)] == [
        (20, "a request could not be made: KeyError: 'tailnum'")
    ]


def test_there_are_threads_enough_for_answers_that_take_the_whole_deadline_and_no_more() -> None:
    assert [workers_of(rate, 0.1) for rate in (1, 40, 45, 1e6)] == [2, 4, 5, 32]
