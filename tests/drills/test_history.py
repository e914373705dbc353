"""The journal: what is written is what is read, a killed drill's last line is no harm, secrets stay out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurechaos.drills.history import (
    Calls,
    End,
    Fault,
    GuardState,
    HistoryWriter,
    Note,
    Pair,
    Phase,
    Record,
    Request,
    Sample,
    Start,
    from_line,
    read_history,
    redacted,
    to_line,
)
from featurechaos.errors import SpecError

RECORDS: list[Record] = [
    Start(t=0, script={"title": "x"}, seed=3, deadline_s=0.05),
    Phase(t=0, phase="before", state="begins"),
    Request(t=0.1, t_done=0.2, latency_s=0.1, request_id="a", rows=3, origins={"PRIMARY": 3}, max_age_s=4.5),
    Request(t=0.2, t_done=0.3, latency_s=0.1, request_id="b", ok=False, late=True, error="Exhausted"),
    Pair(t=0.1, request_id="a", origin="PRIMARY", rows=3, flips=1, sum_abs_delta=0.2, sum_delta=-0.1, served={"3": 3}),
    Fault(t=1, name="kill", fault="process_kill", state="applied", count=0),
    Sample(t=1, probe="ready", value=True, params={"full": True}),
    Sample(t=1, probe="active_faults", value=0),
    Calls(t=2, over_s=1, requests=10, calls={"primary": 11}),
    GuardState(t=2, guard="error_rate", value=1.5, tripped=True),
    Note(t=2, event="breaker.opened", source="primary", detail="ünïcode \n line"),
    End(t=3, reason="done", dropped=0),
]


@pytest.mark.parametrize("record", RECORDS, ids=[f"{at}-{one.kind}" for at, one in enumerate(RECORDS)])
def test_a_record_is_read_as_it_was_written(record: Record) -> None:
    line = to_line(record)

    assert line.endswith("\n")
    assert line.count("\n") == 1
    assert from_line(line) == record
    assert json.loads(line)["kind"] == record.kind


@given(st.floats(0, 1e9), st.text(), st.none() | st.integers(0))
def test_any_text_and_number_survives(t: float, detail: str, count: int | None) -> None:
    record = Fault(t=t, name="f", fault="outage", state="cleared", detail=detail.replace("://", ""), count=count)

    assert from_line(to_line(record)) == record


def test_a_half_written_last_line_is_left_out_and_told(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    with HistoryWriter(path) as writer:
        writer.add(*RECORDS)
    whole = path.read_text()

    path.write_text(whole[:-9])
    history = read_history(path)

    assert history.is_cut
    assert history.records == tuple(RECORDS[:-1])


def test_each_record_is_on_disk_once_added(tmp_path: Path) -> None:
    writer = HistoryWriter(tmp_path / "history.jsonl")

    writer.add(RECORDS[0])

    assert read_history(writer.path).records == (RECORDS[0],)
    writer.close()
    writer.add(RECORDS[1])
    assert len(read_history(writer.path).records) == 1


def test_a_full_journal_counts_what_it_leaves_out(tmp_path: Path) -> None:
    with HistoryWriter(tmp_path / "history.jsonl", most=3) as writer:
        for _ in range(4):
            writer.add(*RECORDS[2:5])
        writer.add(End(t=9, reason="done"))

    history = read_history(writer.path)

    assert len(history.of(Request)) + len(history.of(Pair)) == 3
    assert history.of(End)[0].dropped == 9


def test_a_journal_is_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "history.jsonl").write_text("precious\n")

    with pytest.raises(FileExistsError):
        HistoryWriter(tmp_path / "history.jsonl")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("nonsense", "line 2: Expecting value"),
        ('{"kind": "dance", "t": 1}', "line 2: it is not a record of start"),
        ('{"kind": "end", "t": 1}', "line 2: .*missing 1 required"),
        ('{"kind": "end", "t": 1, "reason": "done", "mood": 1}', "line 2: .*unexpected keyword argument 'mood'"),
        ('{"kind": "request", "t": 1, "t_done": 1, "latency_s": 0, "request_id": "a", "origins": {"MOON": 1}}', "MOON"),
        (to_line(RECORDS[4]).strip().replace("PRIMARY", "MOON"), "MOON"),
        (to_line(RECORDS[4]).strip().replace('{"3"', '{"64"'), "bins 0 to 63"),
    ],
)
def test_a_line_that_is_no_record_is_named(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text(to_line(RECORDS[0]) + line + "\n" + to_line(RECORDS[-1]))

    with pytest.raises(SpecError, match=said):
        read_history(path)


def test_passwords_never_reach_the_journal() -> None:
    config = {
        "sources": {"primary": {"url": "redis://app:hunter2@host/0", "password": "hunter2"}},
        "list": ["s3://k:hunter2@b"],
    }

    lines = [
        to_line(Start(t=0, script={}, config=redacted(config))),
        to_line(Note(t=0, event="source.failed", detail="cannot reach redis://app:hunter2@host/0")),
        to_line(Request(t=0, t_done=0, latency_s=0, request_id="a", ok=False, error="redis://:hunter2@host")),
    ]

    assert not [line for line in lines if "hunter2" in line]
    assert "redis://app:***@host/0" in lines[0]
