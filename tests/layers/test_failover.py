"""Sources in order: only the rows still open go on, and views of different orders side by side."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from featurechaos.effects import All, Note, Read
from featurechaos.errors import (
    BreakerOpen,
    InjectedOutage,
    NoTime,
    StoreEmpty,
    StoreRefused,
    StoreTimeout,
    StoreUnavailable,
)
from featurechaos.layers.failover import Failover
from featurechaos.model import Cause, Origin, Verdict
from featurechaos.readings import Action, Part, Reading, Request, Rules, actions
from featurechaos.testing import ManualClock, MemoryStore, Told, play
from tests.layers.kit import add_rows, ask_of, bury, damage, fetch, request_of, rows_of, values_of, view_of

TTL = Rules(online=("primary", "second"), ttl_us=100_000_000, hard_us=1_000_000_000)


def played(clock: ManualClock, request: Request, **sources: Any) -> Told:
    return play(Failover()(request, fetch(clock)), sources, clock)


def asked(told: Told) -> list[tuple[str, list[bytes]]]:
    """Whom was asked, and for which keys."""
    return [(one.source, one.asks[0].keys.ids) for one in told.effects if isinstance(one, Read)]


def only(told: Told) -> Part:
    assert isinstance(told.result, Reading)
    return told.result.parts[0]


def test_a_healthy_primary_is_the_only_one_asked() -> None:
    clock = ManualClock()

    told = played(clock, request_of(clock, [1, 2]), primary=rows_of(clock, {1: 1.0, 2: 2.0}))

    assert (told.reads, told.notes) == (["primary"], [])
    assert only(told).is_fresh
    assert told.result.is_settled


CAUSES = [
    (StoreTimeout("late"), Cause.TIMEOUT),
    (StoreRefused("no"), Cause.REFUSED),
    (StoreUnavailable("gone"), Cause.REFUSED),
    (BreakerOpen("open"), Cause.BREAKER_OPEN),
    (NoTime("none"), Cause.NO_TIME),
    (StoreEmpty("empty"), Cause.EMPTY),
]


@pytest.mark.parametrize(("error", "cause"), CAUSES, ids=lambda each: getattr(each, "name", type(each).__name__))
def test_a_source_that_fails_moves_all_of_its_rows_on(error: Exception, cause: Cause) -> None:
    clock = ManualClock()

    told = played(clock, request_of(clock, [1, 2]), primary=error, second=rows_of(clock, {1: 1.0, 2: 2.0}))

    part = only(told)
    assert told.reads == ["primary", "second"]
    assert values_of(part) == [1.0, 2.0]
    assert part.origin.tolist() == [Origin.REPLICA] * 2  # type: ignore[union-attr]
    assert part.cause.tolist() == [cause] * 2  # type: ignore[union-attr]
    note = next(one for one in told.effects if isinstance(one, Note))
    assert (note.name, note.about, note.fields["cause"], note.fields["rows"]) == (
        "source.failed",
        "primary",
        cause,
        {"v": 2},
    )


def test_an_error_that_is_no_store_error_flies() -> None:
    clock = ManualClock()

    with pytest.raises(ZeroDivisionError):
        played(clock, request_of(clock), primary=ZeroDivisionError(), second=MemoryStore())


def test_only_the_rows_still_open_go_on() -> None:
    clock = ManualClock()
    primary = damage(rows_of(clock, {1: 1.0, 2: 2.0, 3: 3.0, 4: 4.0}), [2])
    add_rows(primary, clock, {5: 5.0}, age_s=500)
    second = rows_of(clock, {key: 10.0 * key for key in range(1, 7)})

    told = played(clock, request_of(clock, [1, 2, 3, 4, 5, 6], rules=TTL), primary=primary, second=second)

    part = only(told)
    assert asked(told) == [("primary", [b"1", b"2", b"3", b"4", b"5", b"6"]), ("second", [b"2", b"5"])]
    assert values_of(part) == [1.0, 20.0, 3.0, 4.0, 50.0, None], "6 is missing, and that is accepted"
    assert part.origin.tolist() == [1, 2, 1, 1, 2, 1]  # type: ignore[union-attr]
    assert part.cause.tolist() == [  # type: ignore[union-attr]
        Cause.NONE,
        Cause.CORRUPT,
        Cause.NONE,
        Cause.NONE,
        Cause.EXPIRED,
        Cause.NONE,
    ]
    assert not any(part.walk.open)  # type: ignore[union-attr]


def test_the_youngest_of_two_expired_rows_is_held() -> None:
    clock = ManualClock()
    primary = add_rows(rows_of(clock, {1: 1.0}, age_s=300), clock, {2: 2.0}, age_s=500)
    second = add_rows(rows_of(clock, {1: 10.0}, age_s=400), clock, {2: 20.0}, age_s=200)

    told = played(clock, request_of(clock, [1, 2], rules=TTL), primary=primary, second=second)

    part = only(told)
    assert values_of(part) == [1.0, 20.0]
    assert part.origin.tolist() == [Origin.PRIMARY, Origin.REPLICA]  # type: ignore[union-attr]
    assert part.walk is not None
    assert part.walk.open.tolist() == [True, True], "a snapshot may have younger ones"


@pytest.mark.parametrize(("on_missing", "reads"), [("accept", 1), ("default", 1), ("fallback", 2)])
def test_missing_is_final_or_not_as_the_policy_says(on_missing: str, reads: int) -> None:
    clock = ManualClock()
    rules = Rules(online=("primary", "second"), on_missing=on_missing)

    told = played(clock, request_of(clock, [1], rules=rules), primary=MemoryStore(), second=rows_of(clock, {1: 7.0}))

    assert len(told.reads) == reads
    assert values_of(only(told)) == [7.0 if on_missing == "fallback" else None]


def test_a_later_source_that_lacks_a_row_says_nothing_of_it() -> None:
    """Missing counts as a first verdict only; the damaged row stays open for the local tiers."""
    clock = ManualClock()

    told = played(clock, request_of(clock, [1]), primary=damage(MemoryStore(), [1]), second=MemoryStore())

    walk = only(told).walk
    assert walk is not None
    assert (walk.first.tolist(), walk.open.tolist()) == ([Verdict.CORRUPT], [True])


def test_after_a_source_that_gave_no_answer_missing_is_a_first_verdict() -> None:
    clock = ManualClock()

    told = played(clock, request_of(clock, [1]), primary=StoreTimeout("late"), second=MemoryStore())

    walk = only(told).walk
    assert walk is not None
    assert (walk.first.tolist(), walk.open.tolist()) == ([Verdict.MISSING], [False])
    assert only(told).cause.tolist() == [Cause.TIMEOUT]  # type: ignore[union-attr]


def test_a_tombstone_hides_what_is_older_in_later_sources() -> None:
    clock = ManualClock()
    rules = Rules(online=("primary", "second"), on_missing="fallback")
    primary = bury(MemoryStore(), clock, [1, 2], age_s=50)
    second = add_rows(rows_of(clock, {1: 1.0}, age_s=60), clock, {2: 2.0}, age_s=40)

    told = played(clock, request_of(clock, [1, 2], rules=rules), primary=primary, second=second)

    assert values_of(only(told)) == [None, 2.0]


def test_three_sources_are_asked_in_order_until_all_is_settled() -> None:
    clock = ManualClock()
    rules = Rules(online=("primary", "second", "third"))
    request = request_of(clock, [1, 2], rules=rules)

    told = played(
        clock,
        request,
        primary=StoreUnavailable("x"),
        second=damage(rows_of(clock, {1: 1.0}), [2]),
        third=rows_of(clock, {2: 2.0}),
    )

    assert asked(told) == [("primary", [b"1", b"2"]), ("second", [b"1", b"2"]), ("third", [b"2"])]
    assert values_of(only(told)) == [1.0, 2.0]
    assert only(told).cause.tolist() == [Cause.REFUSED] * 2  # type: ignore[union-attr]


def test_when_nobody_answers_every_row_is_open() -> None:
    clock = ManualClock()

    told = played(clock, request_of(clock, [1, 2]), primary=StoreTimeout("a"), second=StoreUnavailable("b"))

    walk = only(told).walk
    assert walk is not None
    assert walk.open.all()
    assert only(told).cause.tolist() == [Cause.TIMEOUT] * 2, "the first reason is told"  # type: ignore[union-attr]
    assert told.notes == ["source.failed", "source.failed"]


def test_an_injected_failure_marks_its_rows_and_owes_a_read() -> None:
    clock = ManualClock()

    told = played(clock, request_of(clock, [1]), primary=InjectedOutage("ours"), second=rows_of(clock, {1: 1.0}))

    part = only(told)
    assert part.injected.tolist() == [True]  # type: ignore[union-attr]
    assert part.unread is not None
    assert part.unread.tolist() == [True]


def two_views(clock: ManualClock, *orders: tuple[str, ...]) -> Request:
    views = [view_of("a"), view_of("b"), view_of("c")][: len(orders)]
    request = request_of(clock)
    return request.of([ask_of([1], view) for view in views], [Rules(online=order) for order in orders])


def test_views_of_one_order_are_one_round_trip() -> None:
    clock = ManualClock()
    store = add_rows(rows_of(clock, {1: 1.0}, view=view_of("a")), clock, {1: 2.0}, view=view_of("b"))
    known_only = two_views(clock, ("primary",), ("primary",))

    told = played(clock, known_only, primary=store)

    assert told.reads == ["primary"]
    assert [values_of(part) for part in told.result.parts] == [[1.0], [2.0]]


def test_views_of_different_orders_run_side_by_side_and_come_back_in_place() -> None:
    clock = ManualClock()
    views = [view_of("a"), view_of("b"), view_of("c")]
    stores = {
        "primary": add_rows(rows_of(clock, {1: 1.0}, view=views[0]), clock, {1: 3.0}, view=views[2]),
        "second": rows_of(clock, {1: 2.0}, view=views[1]),
    }
    request = two_views(clock, ("primary",), ("second",), ("primary",))

    told = played(clock, request, **stores)

    assert isinstance(told.effects[0], All)
    assert len(told.effects[0].plans) == 2
    assert [values_of(part) for part in told.result.parts] == [[1.0], [2.0], [3.0]]
    assert sorted(told.reads) == ["primary", "second"]


def test_a_view_without_online_sources_is_left_to_the_local_tiers() -> None:
    clock = ManualClock()

    told = played(clock, request_of(clock, rules=Rules(online=(), local=("standby",))))

    assert told.reads == []
    assert only(told).walk.open.tolist() == [True]  # type: ignore[union-attr]


def test_a_view_that_is_fresh_is_not_asked_for_again_because_of_another() -> None:
    clock = ManualClock()
    views = [view_of("a"), view_of("b")]
    primary = rows_of(clock, {1: 1.0}, view=views[0])
    primary.put(ask_of([1], views[1]), [b"?" * 56])
    second = add_rows(rows_of(clock, {1: 9.0}, view=views[0]), clock, {1: 2.0}, view=views[1])
    request = two_views(clock, ("primary", "second"), ("primary", "second"))

    told = played(clock, request, primary=primary, second=second)

    assert [[ask.view.name for ask in one.asks] for one in told.effects if isinstance(one, Read)] == [["a", "b"], ["b"]]
    assert [values_of(part) for part in told.result.parts] == [[1.0], [2.0]]


F, M, B, E, X, C, H = (
    Verdict.FRESH,
    Verdict.MISSING,
    Verdict.BURIED,
    Verdict.EXPIRED,
    Verdict.PAST,
    Verdict.CORRUPT,
    Verdict.PARTIAL,
)


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize(
    ("on_missing", "absent"), [("accept", Action.SERVE), ("fallback", None), ("default", Action.DEFAULT)]
)
@pytest.mark.parametrize(
    ("on_expired", "expired", "past"),
    [
        ("serve", Action.SERVE, Action.GO_ON),
        ("fallback", Action.HOLD, Action.GO_ON),
        ("default", Action.DEFAULT, Action.DEFAULT),
    ],
)
def test_what_an_answer_does_to_a_row_is_a_table(
    on_missing: str, absent: Action | None, on_expired: str, expired: Action, past: Action, is_first: bool
) -> None:
    told = actions(on_missing, on_expired)[int(is_first)]

    settled = absent if is_first and absent is not None else None
    assert {verdict: told[verdict] for verdict in (F, M, B, E, X, C, H)} == {
        F: Action.SERVE,
        M: Action.GO_ON if settled is None else settled,
        B: Action.HOLD if settled is None else settled,
        E: expired,
        X: past,
        C: Action.GO_ON,
        H: Action.HOLD,
    }


@pytest.mark.parametrize("age_s", [300, 500])
def test_an_expired_row_older_than_a_tombstone_is_not_the_answer(age_s: float) -> None:
    """Deleted on the primary, and a replica that lags: the tombstone hides its copy, even where old rows are served."""
    clock = ManualClock()
    rules = replace(TTL, online=("primary", "second", "third"), on_missing="fallback", on_expired="serve")
    lagging = rows_of(clock, {1: 1.0}, age_s=age_s)

    told = played(
        clock,
        request_of(clock, [1], rules=rules),
        primary=bury(MemoryStore(), clock, [1], age_s=300),
        second=lagging,
        third=rows_of(clock, {1: 3.0}),
    )

    assert told.reads == ["primary", "second", "third"]
    assert values_of(only(told)) == [3.0], "written anew after the delete"
