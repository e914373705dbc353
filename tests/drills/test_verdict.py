"""Verdicts: every exit code is reached by a history that deserves it, and the worst of several wins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from featurechaos.drills import History, HistoryWriter, Script, judge
from featurechaos.drills.checks import Outcome, compare
from featurechaos.drills.history import (
    Calls,
    End,
    Fault,
    GuardState,
    Note,
    Pair,
    Phase,
    Record,
    Request,
    Sample,
    read_history,
)
from featurechaos.drills.measures import Measure
from featurechaos.drills.probes import FlipRate
from featurechaos.drills.verdict import EXIT_CODES, invalid
from tests.drills.histories import Story, kill_script, plus, without

Change = Callable[[History], History]


def ended(reason: str) -> Change:
    return lambda history: plus(without(history, End), End(t=70, reason=reason, detail="SIGINT"))


def stuck(history: History) -> History:
    return plus(
        history, Fault(t=46, name="kill-primary", fault="process_kill", state="undo_failed", detail="pid 4711 stays")
    )


def tripped(history: History) -> History:
    return plus(history, GuardState(t=20, guard="error_rate", value=120, tripped=True, detail="4 % failed"))


def planted(history: History) -> History:
    """One failed request in the middle of the outage."""
    found = next(one for one in history.of(Request) if one.t > 30)
    return replace(history, records=tuple(replace(one, ok=False) if one is found else one for one in history.records))


def unsteady(history: History) -> History:
    """A failed request before anything was touched, with the method never played."""
    found = next(one for one in history.of(Request) if one.t > 3)
    kept = [one for one in history.records if one.t < 15 and not isinstance(one, (Fault, Calls))]
    failed = [
        replace(one, ok=False) if one is found else one
        for one in kept
        if not (isinstance(one, Phase) and one.phase != "before")
    ]
    return History((*failed, Phase(t=15, phase="before", state="ends"), End(t=15, reason="not_steady")))


def both(*changes: Change) -> Change:
    def changed(history: History) -> History:
        for change in changes:
            history = change(history)
        return history

    return changed


def as_told(history: History) -> History:
    return history


def lacking(kind: type[Record]) -> Change:
    return lambda history: without(history, kind)


def unapplied(history: History) -> History:
    return plus(history, Fault(t=20, name="old", fault="stale", state="not_applied", detail="no snapshot"))


def overflown(history: History) -> History:
    return plus(without(history, End), End(t=70, reason="done", dropped=4))


CODES = {
    Outcome.HELD: 0,
    Outcome.WEAKNESS: 1,
    Outcome.GUARD: 3,
    Outcome.INTERRUPTED: 4,
    Outcome.UNDO_FAILED: 5,
    Outcome.INCONCLUSIVE: 6,
}
CASES: list[tuple[str, Change, Outcome, str]] = [
    ("all is well", as_told, Outcome.HELD, "All 21 checks held"),
    ("one request failed", planted, Outcome.WEAKNESS, "During the fault, share of requests that failed: wanted none"),
    ("a guard tripped", tripped, Outcome.GUARD, "Stopped at 20.0 s by the guard error_rate: 4 % failed"),
    ("the runner was stopped by a guard", ended("guard"), Outcome.GUARD, "Stopped by a guard: SIGINT"),
    ("somebody pressed Ctrl-C", ended("interrupted"), Outcome.INTERRUPTED, "The drill was ended early: SIGINT"),
    ("the runner fell over", ended("error"), Outcome.INTERRUPTED, "The drill was ended early: SIGINT"),
    ("the journal breaks off", lacking(End), Outcome.INTERRUPTED, "The journal breaks off"),
    ("the undo failed", stuck, Outcome.UNDO_FAILED, "kill-primary could not be undone and may still be on: pid 4711"),
    ("no pairs", lacking(Pair), Outcome.INCONCLUSIVE, "Before the fault, share of decisions changed"),
    ("nothing was sampled", lacking(Sample), Outcome.INCONCLUSIVE, "Before the fault, each source"),
    ("not steady", unsteady, Outcome.INCONCLUSIVE, "It was not steady before anything was touched: share of requests"),
    ("the fault never came", lacking(Fault), Outcome.INCONCLUSIVE, "Recovery, time until"),
    ("the fault did not apply", unapplied, Outcome.INCONCLUSIVE, "old did not apply: no snapshot"),
    ("the journal was full", overflown, Outcome.INCONCLUSIVE, "The journal was full"),
    ("undo before interrupt", both(stuck, ended("interrupted")), Outcome.UNDO_FAILED, "kill-primary"),
    ("interrupt before guard", both(tripped, ended("interrupted")), Outcome.INTERRUPTED, "The drill was ended early"),
    ("guard before weakness", both(tripped, planted), Outcome.GUARD, "Stopped at 20.0 s"),
    ("weakness before doubt", both(planted, lacking(Pair)), Outcome.WEAKNESS, "During the fault"),
]


@pytest.mark.parametrize(("change", "outcome", "said"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_history_gets_the_verdict_it_deserves(
    held: History, script: Script, change: Change, outcome: Outcome, said: str
) -> None:
    verdict = judge(change(held), script)

    assert verdict.sentence.startswith(said)
    assert (verdict.outcome, verdict.exit_code) == (outcome, CODES[outcome])


def test_what_could_not_be_played_is_invalid(held: History) -> None:
    broken = replace(held, records=(replace(held.records[0], script={"title": "x"}), *held.records[1:]))  # type: ignore[call-arg]

    assert invalid("drill.yaml: title: is missing").exit_code == 2
    assert judge(History(())).exit_code == 2
    assert judge(broken).sentence == "journal: load: is missing"
    assert set(EXIT_CODES.values()) == set(range(7))


@pytest.mark.parametrize(
    ("story", "changes", "said"),
    [
        (Story(rate_per_s=50, has_snapshot=False), {}, "During the fault, share of rows from SNAPSHOT or LAST_KNOWN"),
        (Story(rate_per_s=50, flips=0.2), {}, "During the fault, share of decisions changed: wanted at most 10 %"),
        (Story(rate_per_s=50, errors=0.01), {}, "During the fault, share of requests that failed: wanted none"),
        (Story(rate_per_s=50, recovery_s=7), {}, "After recovery, share of rows from PRIMARY"),
        (Story(rate_per_s=50, recovery_s=5.5), {"expect": {"after": []}}, "Recovery, time until share of rows"),
        (Story(rate_per_s=50), {"method": [
            {"at_s": 0, "name": "kill-primary", "inject": {"fault": "process_kill", "source": "primary", "for_s": 30}},
            {"at_s": 10, "name": "mid", "probe": "flip_rate", "max": 0.01}]}, "At 10 s, share of decisions changed"),
    ],
    ids=["no snapshot", "flips", "errors", "slow recovery", "recovery alone", "mid-method"],
)  # fmt: skip
def test_a_planted_weakness_is_found(story: Story, changes: dict[str, object], said: str) -> None:
    verdict = judge(story.told(), kill_script(**changes))

    assert verdict.exit_code == 1
    assert verdict.sentence.startswith(said)


def test_too_few_requests_are_inconclusive() -> None:
    verdict = judge(Story(rate_per_s=4).told(), kill_script())

    assert verdict.exit_code == 6
    assert not [check for check in verdict.checks if check.outcome is Outcome.WEAKNESS]


def test_a_stored_journal_is_judged_as_the_drill_was(held: History, script: Script, tmp_path: Path) -> None:
    with HistoryWriter(tmp_path / "history.jsonl") as writer:
        writer.add(*held.records)

    again = judge(read_history(writer.path))

    assert again == judge(held, script)


def test_numbers_are_those_of_the_records(held: History, script: Script) -> None:
    during = [one for one in held.of(Request) if 15 <= one.t < 45]
    ids = {one.request_id for one in during}
    pairs = [one for one in held.of(Pair) if one.request_id in ids]

    numbers = judge(held, script).numbers

    assert numbers["requests"] == len(held.of(Request))
    assert numbers["rows"]["during"] == {"SNAPSHOT": sum(one.rows for one in during)}
    assert numbers["flip_rate"] == pytest.approx(
        sum(one.flips for one in pairs) / sum(one.rows for one in pairs), rel=0.01
    )
    assert numbers["psi"] < 0.01 < numbers["flip_rate"]
    assert 1.9 <= numbers["recovery_s"] <= 2.8


def test_recovery_is_when_it_holds_for_good_and_flaps_are_counted() -> None:
    story = Story(rate_per_s=50)
    lost = [
        replace(one, origins={"SNAPSHOT": one.rows})
        if isinstance(one, Request) and story.healed + 3.5 < one.t < story.healed + 4.25
        else one
        for one in story.told().records
    ]

    verdict = judge(
        History(tuple(lost)),
        kill_script(recovery={"within_s": 4, "probe": "origin_share", "origin": "PRIMARY", "min": 0.9, "no_flap": 0}),
    )

    times, flaps = (check for check in verdict.checks if check.phase == "recovery")
    assert times.outcome is flaps.outcome is Outcome.WEAKNESS
    assert times.value == pytest.approx(4.5, abs=0.3)
    assert flaps.value == 1


def test_what_the_fault_touched_is_the_faults_whenever_it_was_due(held: History, script: Script) -> None:
    straddler = Request(t=14.99, t_done=15.2, latency_s=0.21, request_id="straddler", ok=False)

    verdict = judge(plus(held, straddler), script)

    assert verdict.sentence.startswith("During the fault")
    assert all(check.outcome is Outcome.HELD for check in verdict.checks if check.phase == "before")


@pytest.mark.parametrize(
    ("value", "low", "high", "outcome"),
    [
        (0.06, 0.05, 0.07, Outcome.HELD),
        (0.06, 0.01, 0.119, Outcome.HELD),
        (0.06, 0.01, 0.13, Outcome.UNKNOWN),
        (0.11, 0.09, 0.13, Outcome.UNKNOWN),
        (0.11, 0.101, 0.118, Outcome.WEAKNESS),
        (0.2, 0.15, 0.25, Outcome.WEAKNESS),
    ],
)
def test_a_margin_asks_for_evidence(value: float, low: float, high: float, outcome: Outcome) -> None:
    asks = FlipRate(probe="flip_rate", max=0.10, margin=0.02)

    assert compare(asks, Measure(value, 1000, "pairs", low, high), "during").outcome is outcome


@pytest.mark.parametrize(("share", "outcome"), [(0.009, Outcome.HELD), (0.02, Outcome.INCONCLUSIVE)])
def test_arrivals_that_were_never_asked_make_doubt_past_one_percent(
    held: History, script: Script, share: float, outcome: Outcome
) -> None:
    count = int(share * len(held.of(Request)))
    note = Note(t=70, event="drill.unasked", detail=f"{count} requests were due and never asked", count=count)

    verdict = judge(plus(held, note), script)

    assert verdict.outcome is outcome
    assert ("never asked" in verdict.sentence) == (outcome is Outcome.INCONCLUSIVE)
